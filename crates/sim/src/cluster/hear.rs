//! What the store and the session say, for the decisions: as the agent does it.

use super::agent::{Seen, Task, known_slot};
use super::records;
use super::records::{Ask, Change, Changes, Compare, Entry, Key, NodeIx, Op, Part, Txn, Value};
use super::sabotage::ClusterRule;
use super::session::News;
use super::world::World;
use decisions::lease::Condemn;
use decisions::{ClusterEvent, Event, Report, Scope};
use model::{InstanceId, Millis, Revision};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// As in the agent.
const CLAIM_FIRST: Duration = Duration::from_millis(50);
const LATE_PART: u32 = 4;

/// Whether a change comes by a watch of everything, or by one of a part. What says that a session is there is for those who do not see the
/// session itself.
pub(super) fn is_told(change: &Change, part: Option<Part>) -> bool {
    let (Change::Put(Entry { key, .. }) | Change::Delete(key)) = change;
    match part {
        Some(part) => key.part() == part,
        None => !matches!(key, Key::There(_)),
    }
}

impl World {
    #[expect(clippy::needless_pass_by_value, reason = "what was told is handed over")]
    pub(crate) fn hear_session(&mut self, ix: NodeIx, news: News) {
        let now = self.mark(ix);
        let Some(agent) = self.agent(ix) else { return };
        let clustered = &mut agent.clustered;
        match news {
            News::Renewed { session, sent } => {
                clustered.observer.write_ok(sent, now);
                clustered.taken = None;
                if clustered.session != Some(session) {
                    self.own_session(ix, Some(session), ClusterEvent::OwnSession(Some(session)));
                }
            }
            News::Failed => clustered.observer.write_failed(),
            News::Late => clustered.observer.late(),
            News::Lost { kept: false } => self.own_session(ix, None, ClusterEvent::OwnSession(None)),
            News::Lost { kept: true } => self.own_session(ix, None, ClusterEvent::OwnSessionKept),
            News::Frozen(why) => {
                clustered.frozen = why.is_some();
                self.handle(ix, Event::Cluster(ClusterEvent::Still(why.is_some())));
            }
            News::Taken(seen) => clustered.taken = Some(seen),
        }
    }

    fn own_session(&mut self, ix: NodeIx, session: Option<Revision>, event: ClusterEvent) {
        let Some(agent) = self.agent(ix) else { return };
        let clustered = &mut agent.clustered;
        clustered.session = session;
        if let Some((_, _, elected)) = clustered
            .controller
            .filter(|(node, ..)| *node == ix && session.is_none())
        {
            // The same session may go on: what was asked for before is forgotten, and must not be done under it.
            clustered.elected_before = clustered.elected_before.max(elected);
        }
        clustered.told_empty = None;
        clustered.frozen = false;
        clustered.published.clear();
        if clustered.publish_session != session {
            clustered.waiting.clear();
        }
        clustered.publish_session = session;
        if session.is_some() {
            // The watch may tell of it before: its silence would count as that of another.
            let me = self.node(ix).name.clone();
            if let Some(agent) = self.agent(ix) {
                agent.clustered.observer.own(&me);
            }
        }
        self.handle(ix, Event::Cluster(event));
        if session.is_some()
            && let Some(core) = self.agent(ix).and_then(|agent| agent.core.as_mut())
        {
            core.tell_all();
        }
    }

    pub(crate) fn hear_all(&mut self, ix: NodeIx, opened: u64, entries: &Rc<Vec<Entry>>) {
        let there: BTreeSet<&Key> = entries.iter().map(|entry| &entry.key).collect();
        let Some(agent) = self.agent(ix) else { return };
        let clustered = &agent.clustered;
        let mut gone: Vec<Key> = Vec::new();
        gone.extend(clustered.sessions.keys().map(|node| Key::Session(*node)));
        gone.extend(clustered.members.iter().map(|node| Key::Member(*node)));
        gone.extend(clustered.drained.iter().map(|node| Key::Drained(*node)));
        gone.extend(
            clustered
                .rebalancing
                .iter()
                .map(|service| Key::Rebalance(service.clone())),
        );
        gone.extend(clustered.parks.iter().map(|slot| Key::Park(slot.clone())));
        gone.extend(
            clustered
                .given_up
                .keys()
                .map(|(revision, service)| Key::GivenUp(*revision, service.clone())),
        );
        gone.extend(clustered.paused.then_some(Key::Paused));
        gone.extend(clustered.lives.keys().map(|id| Key::Live(id.clone())));
        gone.extend(clustered.assigned.keys().map(|id| Key::Instance(id.clone())));
        gone.extend(clustered.controller.iter().map(|_| Key::Controller));
        gone.extend(clustered.presence.is_told().then_some(Key::Whole));
        gone.retain(|key| !there.contains(key));
        self.hear_on(ix);
        for key in gone {
            self.hear_delete(ix, &key);
        }
        for entry in entries.iter().filter(|entry| !matches!(entry.key, Key::There(_))) {
            self.hear_put(ix, entry);
        }
        self.all_heard(ix);
        let now = self.mark(ix);
        let by_what_it_is = self.broken == Some(ClusterRule::ScopesNotNumbered);
        if let Some(agent) = self.agent(ix) {
            let scoped = &agent.clustered.scoped;
            let opened = if by_what_it_is { scoped.opened() } else { opened };
            scoped.listed(opened, &mut agent.clustered.observer, now);
            if opened == scoped.opened() {
                agent.clustered.presence.listed();
            }
        }
        self.look_at_sessions(ix);
    }

    /// Of a watch that leaves renewals out, only its own part.
    pub(crate) fn hear_changes(&mut self, ix: NodeIx, steps: &[Rc<Changes>], part: Option<Part>) {
        self.hear_on(ix);
        for step in steps {
            for change in step.changes.iter().filter(|change| is_told(change, part)) {
                match change {
                    Change::Put(entry) => self.hear_put(ix, entry),
                    Change::Delete(key) => self.hear_delete(ix, key),
                }
            }
        }
        self.all_heard(ix);
        self.look_at_sessions(ix);
        self.settle(ix);
    }

    /// What the store tells at once is judged as a whole.
    fn hear_on(&mut self, ix: NodeIx) {
        if let Some(core) = self.agent(ix).and_then(|agent| agent.core.as_mut()) {
            core.hear_on();
        }
    }

    fn all_heard(&mut self, ix: NodeIx) {
        let now = self.node(ix).clocks.decisions(self.now);
        if let Some(core) = self.agent(ix).and_then(|agent| agent.core.as_mut()) {
            core.all_heard(now);
        }
    }

    fn hear_put(&mut self, ix: NodeIx, entry: &Entry) {
        match (&entry.key, &*entry.value) {
            (Key::Session(node), Value::Session(record)) => self.session_seen(ix, *node, entry, *record, false),
            (Key::There(node), Value::Session(record)) if !self.has_all(ix) => {
                // Written by the revision that opened it.
                let opened = Entry {
                    create: entry.modified,
                    ..entry.clone()
                };
                self.session_seen(ix, *node, &opened, *record, false);
                let early = self.agent(ix).and_then(|agent| agent.clustered.early.remove(node));
                if let Some(early) = early.filter(|early| early.create == opened.create)
                    && let Value::Session(record) = &*early.value
                {
                    self.session_seen(ix, *node, &early, *record, true);
                }
            }
            (Key::Slot(_), Value::Slot(_)) => {
                if let Some(known) = known_slot(entry) {
                    self.handle(ix, Event::Cluster(ClusterEvent::Slot(known)));
                }
            }
            (Key::Live(id), Value::Live(report)) => self.live_seen(ix, id, entry.modified, report),
            (Key::Instance(id), Value::Instance { node, retiring }) => {
                self.assigned_seen(ix, id, *node, (*retiring, entry.create));
            }
            (Key::Member(node), _) => {
                if let Some(agent) = self.agent(ix) {
                    agent.clustered.members.insert(*node);
                }
                let place = self.node(*node).place.clone();
                let node = self.node(*node).name.clone();
                self.handle(
                    ix,
                    Event::Cluster(ClusterEvent::Member {
                        node,
                        runs_services: true,
                        member: true,
                        place,
                    }),
                );
            }
            (Key::Drained(node), _) => {
                if let Some(agent) = self.agent(ix) {
                    agent.clustered.drained.insert(*node);
                }
                let node = self.node(*node).name.clone();
                self.handle(ix, Event::NodeDrained { node });
            }
            (Key::Rebalance(service), _) => {
                if let Some(agent) = self.agent(ix) {
                    agent.clustered.rebalancing.insert(service.clone());
                }
                let (service, asked) = (service.clone(), true);
                self.handle(ix, Event::Rebalance { service, asked });
            }
            (Key::Counted(service), _) => {
                if let Some(agent) = self.agent(ix) {
                    agent.clustered.counted.insert(service.clone(), entry.modified);
                }
            }
            (Key::Whole, _) => self.whole_told(ix, true),
            (Key::Paused, _) => self.pause_seen(ix, true),
            (Key::Park(slot), _) => self.park_seen(ix, slot, true),
            (Key::GivenUp(..), _) => self.given_up_seen(ix, entry),
            (Key::Ask(node, _), Value::Ask(ask)) if *node == ix => self.asked(ix, &entry.key, ask.clone()),
            (Key::Controller, Value::Controller { node, session }) => {
                if let Some(agent) = self.agent(ix) {
                    let clustered = &mut agent.clustered;
                    let known = clustered.sessions.get(node).map(|known| known.id);
                    if clustered.controller.is_none_or(|(.., known)| known < entry.modified) {
                        let is_known = *node == ix || known == Some(*session);
                        clustered.presence.controller(is_known);
                    }
                    clustered.controller = Some((*node, *session, entry.modified));
                }
                self.consider_election(ix);
            }
            _ => {}
        }
    }

    fn whole_told(&mut self, ix: NodeIx, is_there: bool) {
        if let Some(agent) = self.agent(ix) {
            agent.clustered.presence.told(is_there);
        }
    }

    fn hear_delete(&mut self, ix: NodeIx, key: &Key) {
        let now = self.mark(ix);
        let Some(agent) = self.agent(ix) else { return };
        let clustered = &mut agent.clustered;
        match key {
            Key::There(_) if clustered.scoped.scope().has_all() => {}
            Key::Session(node) | Key::There(node) => {
                let ended = clustered.sessions.remove(node);
                let name = self.node(*node).name.clone();
                if let Some(ended) = ended.filter(|_| *node != ix) {
                    self.tell_silence(ix, *node, ended.id);
                }
                if let Some(agent) = self.agent(ix) {
                    agent.clustered.observer.gone(&name, now);
                    agent.clustered.expired.remove(node);
                }
                if *node != ix {
                    let event = ClusterEvent::Session {
                        node: name,
                        session: None,
                    };
                    self.handle(ix, Event::Cluster(event));
                }
                self.consider_election(ix);
            }
            Key::Live(id) => {
                clustered.lives.remove(id);
            }
            Key::Instance(id) => {
                clustered.assigned.remove(id);
                clustered.published.remove(id);
                let instance = id.clone();
                self.note_unassigned(ix, &instance);
                self.handle(ix, Event::Cluster(ClusterEvent::Unassigned { instance }));
            }
            Key::Drained(node) => {
                clustered.drained.remove(node);
                let node = self.node(*node).name.clone();
                let because = decisions::Reason::BackAsked;
                self.handle(ix, Event::NodeBack { node, because });
            }
            Key::Rebalance(service) => {
                clustered.rebalancing.remove(service);
                let (service, asked) = (service.clone(), false);
                self.handle(ix, Event::Rebalance { service, asked });
            }
            Key::Whole => self.whole_told(ix, false),
            Key::Paused => self.pause_seen(ix, false),
            Key::Park(slot) => self.park_seen(ix, slot, false),
            Key::GivenUp(revision, service) => self.given_up_gone(ix, *revision, service),
            Key::Controller => {
                clustered.controller = None;
                self.consider_election(ix);
            }
            _ => {}
        }
    }

    /// As in the agent: `apart` if by the watch of that session alone.
    pub(super) fn session_seen(
        &mut self,
        ix: NodeIx,
        node: NodeIx,
        entry: &Entry,
        record: records::Session,
        apart: bool,
    ) {
        let now = self.mark(ix);
        let name = self.node(node).name.clone();
        let lease = match self.broken {
            Some(ClusterRule::ClaimTooEarly) => Millis(record.lease.0 / 2),
            _ => record.lease,
        };
        let Some(agent) = self.agent(ix) else { return };
        let clustered = &mut agent.clustered;
        let scope = clustered.scoped.scope();
        let watched = scope.has_all() || (apart && scope.has(&name));
        if clustered
            .sessions
            .get(&node)
            .is_some_and(|known| known.modified >= entry.modified)
        {
            if watched {
                clustered.observer.seen(&name, entry.create, entry.modified, lease, now);
            }
            return;
        }
        let seen = Seen {
            id: entry.create,
            modified: entry.modified,
            record,
        };
        let before = clustered.sessions.insert(node, seen);
        if node == ix && clustered.session == Some(entry.create) {
            clustered.taken = None;
            return;
        }
        if watched {
            clustered.observer.seen(&name, entry.create, entry.modified, lease, now);
        }
        if node == ix {
            return;
        }
        let fresh = before.is_none_or(|before| before.id != entry.create);
        let was_expired = clustered.expired.remove(&node);
        if fresh {
            let event = ClusterEvent::Session {
                node: name,
                session: Some(entry.create),
            };
            self.handle(ix, Event::Cluster(event));
        } else if was_expired {
            self.handle(ix, Event::Cluster(ClusterEvent::Renewed { node: name }));
        }
    }

    /// A write of ours that was given up and done late may have overwritten what we told since: it is told again.
    pub(crate) fn tell_again(&mut self, ix: NodeIx) {
        let Some(agent) = self.agent(ix) else { return };
        let clustered = &mut agent.clustered;
        if clustered.publishing {
            return;
        }
        let session = clustered.publish_session;
        let mut again = Vec::new();
        let late = |id: &InstanceId, at: Revision| clustered.written_at.get(id).is_none_or(|written| at > *written);
        for (id, (_, seen)) in clustered.own.iter().filter(|(id, (at, _))| late(id, *at)) {
            let Some(told) = clustered.published.get(id) else {
                continue;
            };
            let ours = Report {
                session: session.unwrap_or_default(),
                ..told.clone()
            };
            if *seen != ours {
                again.push((id.clone(), told.clone()));
            }
        }
        if !again.is_empty() {
            clustered.waiting.extend(again);
            self.publish(ix);
        }
    }

    fn live_seen(&mut self, ix: NodeIx, id: &InstanceId, modified: Revision, report: &Report) {
        if self.ix(&report.node) == ix {
            if let Some(agent) = self.agent(ix) {
                agent.clustered.own.insert(id.clone(), (modified, report.clone()));
            }
            self.tell_again(ix);
            return;
        }
        let since = self.node(ix).clocks.decisions(self.now);
        let report = Report {
            since,
            ..report.clone()
        };
        let Some(agent) = self.agent(ix) else { return };
        agent.clustered.lives.insert(id.clone(), report.clone());
        self.handle(ix, Event::Cluster(ClusterEvent::Reported(report)));
    }

    fn assigned_seen(&mut self, ix: NodeIx, id: &InstanceId, node: NodeIx, (retiring, placed): (bool, Revision)) {
        let name = self.node(node).name.clone();
        let Some(agent) = self.agent(ix) else { return };
        agent.clustered.assigned.insert(id.clone(), (node, retiring));
        let told = agent.clustered.lives.get(id).cloned();
        let event = ClusterEvent::Assigned {
            instance: id.clone(),
            node: name,
            retiring,
            placed,
        };
        self.handle(ix, Event::Cluster(event));
        if let Some(report) = told {
            self.handle(ix, Event::Cluster(ClusterEvent::Reported(report)));
        }
    }

    fn asked(&mut self, ix: NodeIx, key: &Key, ask: Ask) {
        self.write_loose(ix, Txn::new().then(Op::Delete(key.clone())));
        let event = match ask {
            Ask::Renew { instance } => ClusterEvent::RenewAsked { instance },
            Ask::Prove { instance, number } => ClusterEvent::ProofAsked { instance, number },
            Ask::Left { instance, by } => ClusterEvent::Left { instance, by },
            Ask::Move { slot, to, drain } => ClusterEvent::MoveAsked {
                service: slot.service,
                slot: slot.slot,
                to,
                drain,
            },
        };
        self.handle(ix, Event::Cluster(event));
    }

    fn leave(&self, ix: NodeIx, node: NodeIx) -> Option<Condemn> {
        let at = self.mark(ix);
        let clustered = &self.node(ix).agent.as_ref()?.clustered;
        let name = &self.node(node).name;
        use decisions::lease::Why;
        match clustered.observer.may_condemn(name, at) {
            Ok(condemn) => Some(condemn),
            Err(wait) => {
                let held_off = matches!(wait.why, Why::HoldOff { .. } | Why::NoWrites);
                let seen = clustered.sessions.get(&node)?;
                (held_off && self.broken == Some(ClusterRule::NoHoldOff)).then_some(Condemn {
                    session: seen.id,
                    modified: seen.modified,
                })
            }
        }
    }

    pub(crate) fn look_at_sessions(&mut self, ix: NodeIx) {
        let late = self.timing.soft_deadline.duration() / LATE_PART;
        let at = self.mark(ix);
        let boot = self.node(ix).boot;
        let Some(agent) = self.agent(ix) else { return };
        let clustered = &mut agent.clustered;
        if clustered
            .look_at
            .take()
            .is_some_and(|asked| at.waited_for(asked) > late)
        {
            clustered.observer.late();
        }
        let scope = clustered.scoped.scope().clone();
        let nodes: Vec<NodeIx> = match &scope {
            Scope::Whole | Scope::Controller => clustered.sessions.keys().copied().collect(),
            Scope::Of(nodes) => nodes.iter().map(|node| self.ix(node)).collect(),
        };
        let mut events = Vec::new();
        let mut own = None;
        for node in nodes {
            let Some(clustered) = self.node(ix).agent.as_ref().map(|agent| &agent.clustered) else {
                return;
            };
            if node == ix {
                own = clustered.taken.as_ref().and_then(|taken| {
                    let name = &self.node(node).name;
                    let rebooted = taken.record.boot != boot;
                    let leave = if rebooted {
                        clustered.observer.may_condemn_rebooted(name, at)
                    } else {
                        clustered.observer.may_condemn_own(name, at)
                    };
                    let session = *clustered.sessions.get(&node)?;
                    (leave.ok()?.modified == session.modified).then_some((session, rebooted))
                });
                continue;
            }
            if clustered.expired.contains(&node) {
                continue;
            }
            if let Some(condemn) = self.leave(ix, node) {
                events.push((node, condemn));
            }
        }
        let stagger = self.timing.rank_stagger.duration();
        let Some(agent) = self.agent(ix) else { return };
        let clustered = &mut agent.clustered;
        clustered.look_at = clustered.observer.next_wakeup(at);
        if let Some((session, rebooted)) = own {
            clustered.taken = None;
            self.end_session(ix, ix, session, rebooted);
        }
        if events.is_empty() {
            return;
        }
        let Some(agent) = self.agent(ix) else { return };
        let expired = &agent.clustered.expired;
        let living = agent.clustered.sessions.keys().filter(|node| !expired.contains(*node));
        let rank = scope.rank(living.take_while(|node| **node != ix).count());
        let wait = CLAIM_FIRST + stagger * rank;
        for (node, condemn) in events {
            if let Some(agent) = self.agent(ix) {
                agent.clustered.expired.insert(node);
            }
            self.plan_task(ix, wait, Task::Condemn(node));
            self.tell_silence(ix, node, condemn.session);
            let event = ClusterEvent::Expired {
                node: self.node(node).name.clone(),
                session: condemn.session,
                modified: condemn.modified,
            };
            self.say(|| format!("n{ix:04}  sees that the session of n{node:04} has run out"));
            self.handle(ix, Event::Cluster(event));
        }
    }

    /// When the last renewal was seen of a session that is lost, or about to be.
    fn tell_silence(&mut self, ix: NodeIx, node: NodeIx, session: Revision) {
        let at = self.mark(ix);
        let name = self.node(node).name.clone();
        let Some(agent) = self.node(ix).agent.as_ref() else {
            return;
        };
        let Some(silent) = agent.clustered.observer.silent_for(&name, at) else {
            return;
        };
        let since = self.node(ix).clocks.decisions(self.now) - silent;
        let event = ClusterEvent::Silent {
            node: name,
            session,
            since,
        };
        self.handle(ix, Event::Cluster(event));
    }

    /// T4e: ends a session that has run out, unless a claim did so by now.
    pub(crate) fn condemn(&mut self, ix: NodeIx, node: NodeIx) {
        let Some(leave) = self.leave(ix, node) else { return };
        let Some(agent) = self.agent(ix) else { return };
        if !agent.clustered.expired.contains(&node) {
            return;
        }
        let session = agent.clustered.sessions.get(&node).copied();
        if let Some(session) = session.filter(|session| session.modified == leave.modified) {
            if self.broken == Some(ClusterRule::TakeWithoutCondemn) {
                return;
            }
            self.end_session(ix, node, session, false);
        }
    }

    fn end_session(&mut self, ix: NodeIx, node: NodeIx, session: Seen, rebooted: bool) {
        let key = Key::Session(node);
        let mut txn = Txn::new().when(Compare::Modified(key.clone(), session.modified));
        if rebooted {
            txn = txn.when(Compare::Created(key.clone(), session.id));
        }
        txn = txn.then(Op::Delete(key.clone()));
        if self.of_before != Some(ix) {
            txn = txn.then(Op::Delete(Key::There(node)));
        }
        let txn = txn
            .then(records::put(Key::Grave(node, session.id), Value::Grave))
            .otherwise(Op::Get(key));
        self.write_loose(ix, txn);
    }
}
