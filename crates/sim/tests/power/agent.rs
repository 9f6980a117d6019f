//! What an agent does for its own node, and for the slots: T1, T2, T4 and T6 of the protocol.

use super::device::devices;
use super::view::{SLOTS, View, finish};
use super::world::{Broken, World};
use model::{Mark, NodeName, Revision, attempt_bound, timing::observer_wait};
use std::collections::BTreeMap;
use std::rc::Rc;
use store::session::{self, Ground, Opened, Record, Renewal};
use store::{Compare, Memory, Op, Store, Txn};

impl World {
    pub(crate) fn live(&mut self, ix: usize) {
        let now = self.nodes[ix].mark(self.now_ms);
        let hard = self.timing.hard_deadline.duration();
        let node = &mut self.nodes[ix];
        if !node.on() || node.hung {
            return;
        }
        // The guard, which needs no store.
        if !node.acts.is_empty() && !node.covered(now, hard) {
            node.kill(self.now_ms);
        }
        if !node.lives(self.now_ms) {
            return;
        }
        if node.cut.is_none() {
            self.keep_session(ix, now);
            if self.rng.bool() {
                self.look(ix, now);
            }
        }
        self.go_on(ix, now);
    }

    fn keep_session(&mut self, ix: usize, now: Mark) {
        let now_ms = self.now_ms;
        let Some(session) = self.nodes[ix].session.clone() else {
            return self.open(ix, now);
        };
        if now_ms < self.nodes[ix].renew_at {
            return;
        }
        let renewed = finish(session::renew(&self.store, &session, self.timing.lease)).unwrap();
        let node = &mut self.nodes[ix];
        node.renew_at = now_ms + self.timing.renew.0;
        match renewed {
            Renewal::Renewed(renewed) => {
                node.session = Some(renewed);
                node.acked = Some(now);
                node.observer.write_ok(now, now);
                self.renewed.insert(ix, now_ms);
            }
            Renewal::Fenced(_) => {
                (node.session, node.acked) = (None, None);
                for of in std::mem::take(&mut node.tasks).into_keys() {
                    let of = self.nodes[of].name.clone();
                    self.nodes[ix].fencer.ended(&of);
                }
                self.nodes[ix].kill(now_ms);
            }
        }
    }

    /// T1: everything is killed, and on the disks.
    fn open(&mut self, ix: usize, now: Mark) {
        let now_ms = self.now_ms;
        let takes_ms = self.rng.u64(0..2_000);
        let node = &mut self.nodes[ix];
        node.kill(now_ms);
        if !node.dirty.is_empty() && self.broken != Some(Broken::NotWrittenBack) {
            let at = *node.synced_at.get_or_insert(now_ms + takes_ms);
            if now_ms < at {
                return;
            }
            node.dirty.clear();
        }
        node.synced_at = None;
        let record = Record {
            machine: node.name.to_string(),
            boot: node.boots.to_string(),
            agent: node.agent.to_string(),
            lease_ms: self.timing.lease,
            kill_ms: self.timing.kill_budget,
            renew_ms: self.timing.renew,
            protocol: 1,
            seq: 0,
            wall: None,
        };
        let past = node.powering.filter(|(_, since)| {
            let bound = attempt_bound(&devices(node.outlets.len()));
            now.waited_for(*since) >= observer_wait(bound)
        });
        let past = past.map(|(revision, _)| revision);
        let opened = match self.broken {
            Some(Broken::OpensWhilePowering) => opens_anyway(&self.store, &node.name, &record),
            _ => finish(session::open_past(&self.store, &node.name, &record, past)),
        };
        match opened.unwrap() {
            Opened::Open(session) => {
                node.session = Some(session);
                node.powering = None;
                node.renew_at = now_ms;
                self.renewed.insert(ix, now_ms);
            }
            Opened::Powering { revision, .. } => {
                if node.powering.is_none_or(|(known, _)| known != revision) {
                    node.powering = Some((revision, now));
                }
            }
            Opened::Taken(old) => {
                let me = node.name.clone();
                node.observer.seen(&me, old.id, old.modified, old.record.lease_ms, now);
                let reboot = old.record.boot != node.boots.to_string();
                let leave = match reboot {
                    true => node.observer.may_condemn_rebooted(&me, now),
                    false => node.observer.may_condemn_own(&me, now),
                };
                if leave.is_ok_and(|leave| leave.modified == old.modified) {
                    let ground = if reboot { Ground::Rebooted } else { Ground::Expired };
                    finish(session::condemn(&self.store, &old, &ground, "itself")).unwrap();
                }
            }
        }
    }

    /// The agent looks at what it sees of the store, which may be old, and does what is to be done.
    fn look(&mut self, ix: usize, now: Mark) {
        let newest = self.views.len() - 1;
        let node = &mut self.nodes[ix];
        node.seen = node.seen.max(newest.saturating_sub(node.lag));
        let Some(own) = node.session.as_ref().map(|session| session.id) else {
            return;
        };
        let view = Rc::clone(&self.views[node.seen]);
        let me = node.name.clone();
        node.observer.own(&me);
        for (name, session) in view.sessions.iter().filter(|(name, _)| **name != me) {
            let lease = session.record.lease_ms;
            node.observer.seen(name, session.id, session.modified, lease, now);
        }
        for name in self.names.iter().filter(|name| !view.ids.contains_key(*name)) {
            node.observer.gone(name, now);
        }
        let mut silent = BTreeMap::new();
        for (name, session) in view.sessions.iter().filter(|(name, _)| **name != me) {
            if self.nodes[ix].observer.may_condemn(name, now).is_ok() {
                silent.insert(name.clone(), session.id);
                if self.rng.u32(0..8) == 0 {
                    // T4e: what leans on its lease does not wait.
                    finish(session::condemn(&self.store, session, &Ground::Expired, me.as_str())).unwrap();
                }
            }
        }
        let mut unproven = BTreeMap::new();
        for slot in 0..self.slots {
            if let Some((node, under)) = self.hold(ix, slot, own, &view, &silent, now) {
                let latest: &mut Revision = unproven.entry(node).or_default();
                *latest = under.max(*latest);
            }
        }
        self.look_at_power(ix, now, &view, &unproven);
    }

    /// Takes a slot if that is allowed; else, which lost node must be known to be off.
    fn hold(
        &mut self,
        ix: usize,
        slot: usize,
        own: Revision,
        view: &View,
        silent: &BTreeMap<NodeName, Revision>,
        now: Mark,
    ) -> Option<(NodeName, Revision)> {
        let (key, me) = (format!("{SLOTS}{slot}"), self.nodes[ix].name.clone());
        let held = view.slots.get(&slot);
        let mut txn = Txn::new().when(Compare::created(session::session_key(&me), own));
        txn = match held {
            Some(held) => txn.when(Compare::modified(&*key, held.modified)),
            None => txn.when(Compare::absent(&*key)),
        };
        if let Some(held) = held {
            if held.holder == me && held.under == own {
                if self.nodes[ix].covered(now, self.timing.soft_deadline.duration()) {
                    self.nodes[ix].acts.insert(slot);
                    self.outcome.acted = true;
                }
                return None;
            }
            let open = view.ids.get(&held.holder).copied();
            if held.holder != me {
                let is_silent = silent.get(&held.holder) == Some(&held.under);
                let lost = open.is_none() || (open == Some(held.under) && is_silent);
                let proven = view.proves(&held.holder, held.under)
                    || self.is_broken(Broken::NotBound)
                        && view
                            .fences
                            .get(&held.holder)
                            .is_some_and(|(record, _)| record.proven > Revision(0));
                if lost && !proven && !self.is_broken(Broken::NoProof) {
                    return Some((held.holder.clone(), held.under));
                }
                if open == Some(held.under) {
                    return None;
                }
                let key = session::session_key(&held.holder);
                txn = match open {
                    Some(open) => txn.when(Compare::created(key, open)),
                    None => txn.when(Compare::absent(key)),
                };
            }
        }
        // Whoever has little takes first.
        let has = view.slots.values().filter(|slot| slot.holder == me).count();
        if self.rng.usize(0..2 + 3 * has) > 0 {
            return None;
        }
        let value = format!("{me} {}", own.0);
        if finish(self.store.txn(txn.then(Op::put(&*key, value))))
            .unwrap()
            .succeeded
        {
            self.outcome.takes += 1;
            self.taken(ix, slot);
        }
        None
    }
}

/// As it would be without a look at who is at the power.
fn opens_anyway(store: &Memory, node: &NodeName, record: &Record) -> Result<Opened, session::SessionError> {
    let key = session::session_key(node);
    let value = serde_json::to_vec(record).unwrap();
    let txn = Txn::new().when(Compare::absent(&*key)).then(Op::put(&*key, value));
    let opens = finish(store.txn(txn)).unwrap().succeeded;
    let session = finish(session::get(store, node))?.unwrap();
    Ok(match opens {
        true => Opened::Open(session),
        false => Opened::Taken(session),
    })
}
