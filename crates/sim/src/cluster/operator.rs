//! What operators do by hand: park (T11), pause, rebalance, and take the slot of a node that is off by force (T12). They tell the truth, unless
//! that is the rule that is broken.

use super::ClusterFault;
use super::agent::Phase;
use super::faults::Undo;
use super::records::{self, Compare, Key, NodeIx, Op, Txn, Value};
use super::sabotage::ClusterRule;
use super::world::{Due, World};
use decisions::lease::{Forcing, NotForced, is_stated, may_force, statement};
use decisions::{Event, Parked, Paused, SlotKnown};
use fastrand::Rng;
use model::{InstanceId, Revision, ServiceName, SlotId, Timestamp};
use std::time::Duration;

/// An operator to whom it is not given tries again this often, this many times.
const AGAIN: Duration = Duration::from_millis(50);
const TRIES: u32 = 40;

/// A slot that an operator wants taken from a node that is off.
#[derive(Debug, Clone)]
pub(crate) struct Forced {
    slot: SlotId,
    node: NodeIx,
    boot: u32,
    tries: u32,
}

impl World {
    /// T11.
    pub(crate) fn park(&mut self, rng: &mut Rng, span: Duration) -> bool {
        let Some(slot) = self.some_slot(rng) else { return false };
        let key = Key::Park(slot.clone());
        if self.server.model.get(&key).is_some() {
            return false;
        }
        let txn = Txn::new()
            .when(Compare::Created(key.clone(), Revision(0)))
            .then(records::put(key, Value::Park));
        self.say(|| format!("OPERATOR  parks {slot}"));
        self.operator(&txn);
        // Some are left so until all else is well.
        if rng.u32(0..4) > 0 {
            self.plan(span, Due::Undo(Undo::Unpark(slot)));
        }
        true
    }

    pub(crate) fn unpark(&mut self, slot: &SlotId) {
        if self.healed {
            return;
        }
        self.say(|| format!("OPERATOR  unparks {slot}"));
        self.operator(&Txn::new().then(Op::Delete(Key::Park(slot.clone()))));
    }

    /// Unparks what is parked still. False: nothing was.
    pub(crate) fn unpark_all(&mut self) -> bool {
        let entries = self.server.model.entries();
        let parks = entries.filter(|entry| matches!(entry.key, Key::Park(_)));
        let parks: Vec<Key> = parks.map(|entry| entry.key.clone()).collect();
        for key in &parks {
            self.say(|| format!("OPERATOR  takes {key:?} back"));
            self.operator(&Txn::new().then(Op::Delete(key.clone())));
        }
        !parks.is_empty()
    }

    pub(crate) fn is_parked(&self, service: &ServiceName, slot: u32) -> bool {
        let service = service.clone();
        self.server.model.get(&Key::Park(SlotId { service, slot })).is_some()
    }

    /// Whether the agent of a node was told that a slot of a service is parked, and not since that it is not.
    pub(crate) fn told_parked(&self, ix: NodeIx, service: &ServiceName) -> bool {
        let parks = self.node(ix).agent.as_ref().map(|agent| &agent.clustered.parks);
        parks.is_some_and(|parks| parks.iter().any(|slot| slot.service == *service))
    }

    pub(crate) fn park_seen(&mut self, ix: NodeIx, slot: &SlotId, parked: bool) {
        let Some(agent) = self.agent(ix) else { return };
        if parked {
            agent.clustered.parks.insert(slot.clone());
        } else {
            agent.clustered.parks.remove(slot);
        }
        let parked = parked.then(|| Parked {
            since: Timestamp(0),
            by: "operator".into(),
            why: String::new(),
        });
        let slot = slot.clone();
        self.handle(ix, Event::Parked { slot, parked });
    }

    pub(crate) fn pause(&mut self, span: Duration) -> bool {
        if self.server.model.get(&Key::Paused).is_some() {
            return false;
        }
        self.operator(&Txn::new().then(records::put(Key::Paused, Value::Paused)));
        self.plan(span, Due::Undo(Undo::Unpause));
        true
    }

    pub(crate) fn unpause(&mut self) {
        if self.server.model.get(&Key::Paused).is_some() {
            self.say(|| "OPERATOR  lets automatic actions go on".into());
            self.operator(&Txn::new().then(Op::Delete(Key::Paused)));
        }
    }

    pub(crate) fn pause_seen(&mut self, ix: NodeIx, paused: bool) {
        if let Some(agent) = self.agent(ix) {
            agent.clustered.paused = paused;
        }
        let paused = paused.then(|| Paused {
            since: Timestamp(0),
            by: "operator".into(),
            why: String::new(),
        });
        self.handle(ix, Event::Paused(paused));
    }

    pub(crate) fn rebalance(&mut self, rng: &mut Rng) -> bool {
        let services: Vec<&ServiceName> = self.declared.keys().collect();
        let key = Key::Rebalance(services[rng.usize(0..services.len())].clone());
        self.tally.rebalanced = true;
        self.operator(&Txn::new().then(records::put(key, Value::Rebalance)));
        true
    }

    /// The node of a holder loses power for longer than its session lives, and an operator will say so. One who lies says it of a node that is
    /// only cut off.
    pub(crate) fn lose_one_to_be_forced(&mut self, rng: &mut Rng, span: Duration) -> bool {
        let exclusive = self.declared.iter().filter(|(_, declared)| declared.exclusive);
        let held: Vec<&SlotKnown> = exclusive.flat_map(|(name, _)| self.held(name)).collect();
        if held.is_empty() {
            return false;
        }
        let known = held[rng.usize(0..held.len())];
        let (slot, node) = (known.slot.clone(), self.ix(&known.node));
        let boot = self.node(node).boot;
        if !self.node(node).up || self.node(node).paused {
            return false;
        }
        let span = self.timing.observer_wait() + span;
        if self.broken == Some(ClusterRule::OperatorLies) {
            self.cut(node, span);
        } else {
            self.power_loss(node, span);
            self.count(ClusterFault::PowerLoss);
        }
        let patience = Duration::from_millis(3 * self.timing.renew.0).mul_f64(0.9 + rng.f64());
        let tries = 0;
        let forced = Forced {
            slot,
            node,
            boot,
            tries,
        };
        self.plan(patience, Due::Undo(Undo::Force(forced)));
        // It counts when it is done.
        false
    }

    /// T12, through the agent of any node that lives.
    pub(crate) fn force(&mut self, forced: Forced) {
        let node = self.node(forced.node);
        let is_off = !node.up && node.boot == forced.boot;
        let lies = self.broken == Some(ClusterRule::OperatorLies);
        // Whoever is honest has looked at the machine.
        if !is_off && !lies {
            return;
        }
        match self.try_to_force(&forced) {
            Ok(Some(txn)) => {
                self.say(|| format!("OPERATOR  takes {} by force from n{:04}", forced.slot, forced.node));
                if self.operator(&txn) {
                    self.count(ClusterFault::Force);
                    // Its session is that of all that it holds.
                    let there = self
                        .instances
                        .iter()
                        .filter(|(_, inst)| inst.node == forced.node && !is_off);
                    self.lied_of.extend(there.map(|(id, _)| id.clone()));
                }
            }
            Ok(None) | Err(NotForced::Alive { .. } | NotForced::NoStore) if forced.tries < TRIES => {
                let tries = forced.tries + 1;
                self.plan(AGAIN, Due::Undo(Undo::Force(Forced { tries, ..forced })));
            }
            Ok(None) | Err(_) => {}
        }
    }

    fn try_to_force(&self, forced: &Forced) -> Result<Option<Txn>, NotForced> {
        let asked = (0..self.nodes.len() as NodeIx).find(|ix| {
            let node = self.node(*ix);
            let agent = node.agent.as_ref().filter(|_| node.up && !node.paused);
            *ix != forced.node && agent.is_some_and(|agent| !agent.stopped && matches!(agent.phase, Phase::Up))
        });
        let Some((ix, agent)) = asked.and_then(|ix| Some((ix, self.node(ix).agent.as_ref()?))) else {
            return Ok(None);
        };
        let key = Key::Slot(forced.slot.clone());
        let Some(entry) = self.server.model.get(&key) else {
            return Ok(None);
        };
        let Value::Slot(known) = &*entry.value else {
            return Ok(None);
        };
        let node = self.node(forced.node).name.clone();
        let seen = agent.clustered.sessions.get(&forced.node);
        let forcing = Forcing {
            me: Some(self.node(ix).name.clone()),
            node: node.clone(),
            holder: known.held.then(|| (known.holder.clone(), known.node.clone())),
            sessions: (known.session.unwrap_or_default(), seen.map(|seen| seen.id)),
            silent: agent.clustered.observer.silent_for(&node, self.mark(ix)),
            unproven: false,
            store_answers: agent.watch.open.is_some() && self.now >= self.server.away_until,
        };
        may_force(&forcing, &self.timing)?;
        is_stated(&node, &statement(&node))?;
        let Some(seen) = seen else { return Ok(None) };
        let session = Key::Session(forced.node);
        let txn = Txn::new()
            .when(Compare::Modified(key, entry.modified))
            .when(Compare::Created(session.clone(), seen.id))
            .when(Compare::Modified(session.clone(), seen.modified))
            .then(Op::Delete(session))
            .then(records::put(Key::Grave(forced.node, seen.id), Value::Grave));
        Ok(Some(txn))
    }

    /// What is wrong follows from what an operator said, if it is about whom he said it of.
    pub(crate) fn attribute(&self, what: String) -> String {
        let is_part = |letter: char| letter.is_alphanumeric() || letter == '-';
        let of = |id: &&InstanceId| what.split(|letter| !is_part(letter)).any(|word| word == id.to_string());
        let Some(id) = self.lied_of.iter().find(of) else {
            return what;
        };
        let host = self.instances.get(id).map(|inst| &self.node(inst.node).name);
        match host {
            Some(host) => format!("{what}: an operator stated `{}`, and it was not", statement(host)),
            None => what,
        }
    }

    fn some_slot(&self, rng: &mut Rng) -> Option<SlotId> {
        let slots = self.declared.iter().flat_map(|(service, declared)| {
            (0..declared.active).map(|slot| SlotId {
                service: service.clone(),
                slot,
            })
        });
        let slots: Vec<SlotId> = slots.collect();
        (!slots.is_empty()).then(|| slots[rng.usize(0..slots.len())].clone())
    }
}
