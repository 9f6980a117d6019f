//! What others and the session thread are told of us; who is the controller: as the agent does it.

use super::agent::{CALL_TIMEOUT, Purpose, Task};
use super::records::{self, Compare, Key, NodeIx, Txn, Value};
use super::session::Order;
use super::wire::Ask as Asked;
use super::world::World;
use decisions::{ClusterEvent, Event, Report};
use model::{InstanceId, Timestamp};
use std::rc::Rc;
use std::time::Duration;

/// As in the agent.
const ELECTION_STAGGER: Duration = Duration::from_millis(100);
const PUBLISH_AT_ONCE: usize = 100;

impl World {
    pub(crate) fn tell_others(&mut self, ix: NodeIx) {
        let mark = self.mark(ix);
        let now = self.node(ix).clocks.decisions(self.now);
        let Some(agent) = self.agent(ix) else { return };
        let Some(core) = agent.core.as_mut() else { return };
        let (instances, _) = core.take_touched();
        let mut news = false;
        for id in instances {
            let Some(report) = core.report_of(&id, now) else {
                continue;
            };
            let report = Report {
                since: Timestamp(0),
                ..report
            };
            if agent.clustered.published.get(&id) == Some(&report) {
                continue;
            }
            agent.clustered.published.insert(id.clone(), report.clone());
            agent.clustered.waiting.insert(id, report);
            news = true;
        }
        let silent = agent.clustered.observer.is_anyone_silent(mark);
        let (fast, empty) = (core.holds_slots() || silent, core.acting_exclusive().is_empty());
        let mut orders = Vec::new();
        if agent.clustered.told_fast != Some(fast) {
            agent.clustered.told_fast = Some(fast);
            orders.push(Order::Fast(fast));
        }
        if agent.clustered.told_empty != Some(empty) {
            agent.clustered.told_empty = Some(empty);
            orders.push(Order::Empty(empty));
        }
        for order in orders {
            self.plan_task(ix, Duration::from_micros(20), Task::Order(order));
        }
        if news {
            self.publish(ix);
        }
    }

    /// Writes what waits to be told, unless a write is under way.
    pub(crate) fn publish(&mut self, ix: NodeIx) {
        let Some(agent) = self.agent(ix) else { return };
        let clustered = &mut agent.clustered;
        let Some(session) = clustered.publish_session.filter(|_| !clustered.publishing) else {
            return;
        };
        let told: Vec<(InstanceId, Report)> = clustered
            .waiting
            .iter()
            .take(PUBLISH_AT_ONCE)
            .map(|(id, report)| (id.clone(), report.clone()))
            .collect();
        if told.is_empty() {
            return;
        }
        clustered.publishing = true;
        let mut txn = Txn::new().when(Compare::Created(Key::Session(ix), session));
        for (id, report) in &told {
            let report = Report {
                session,
                ..report.clone()
            };
            txn = txn.then(records::put(Key::Live(id.clone()), Value::Live(Box::new(report))));
        }
        self.call(
            ix,
            Purpose::Publish { session, told },
            Asked::Txn(Rc::new(txn)),
            CALL_TIMEOUT,
        );
    }

    /// Whoever has a session and finds no controller with one becomes it, the first by name at once.
    pub(crate) fn consider_election(&mut self, ix: NodeIx) {
        let now = self.node(ix).clocks.decisions(self.now);
        let Some(agent) = self.agent(ix) else { return };
        let clustered = &mut agent.clustered;
        let there = clustered.controller.is_some_and(|(node, session, elected)| {
            if node == ix {
                clustered.session == Some(session) && elected > clustered.elected_before
            } else {
                clustered.sessions.get(&node).is_some_and(|known| known.id == session)
            }
        });
        let ours = there && clustered.controller.is_some_and(|(node, ..)| node == ix);
        if there || clustered.session.is_none() {
            clustered.elect_at = None;
        } else if clustered.elect_at.is_none() {
            let rank = clustered.sessions.keys().take_while(|node| **node != ix).count();
            let rank = u32::try_from(rank).unwrap_or(0);
            clustered.elect_at = Some(now + ELECTION_STAGGER * rank);
        }
        if agent.core.as_ref().is_some_and(|core| core.is_controller() != ours) {
            if !ours && let Some((.., elected)) = clustered.controller {
                clustered.elected_before = elected;
            }
            self.handle(ix, Event::Cluster(ClusterEvent::Controller(ours)));
        }
    }

    pub(crate) fn stand_for_election(&mut self, ix: NodeIx) {
        let now = self.node(ix).clocks.decisions(self.now);
        let Some(agent) = self.agent(ix) else { return };
        let clustered = &mut agent.clustered;
        if clustered.elect_at.is_none_or(|at| now < at) {
            return;
        }
        // Tried again after this, should nothing come of it.
        clustered.elect_at = Some(now + Duration::from_secs(1));
        let Some(session) = clustered.session else { return };
        let mut txn = Txn::new().when(Compare::Created(Key::Session(ix), session));
        txn = match clustered.controller {
            None => txn.when(Compare::Created(Key::Controller, model::Revision(0))),
            Some((old, old_session, revision)) => {
                let txn = txn.when(Compare::Modified(Key::Controller, revision));
                let present = clustered.sessions.get(&old).map(|session| session.id);
                match present {
                    _ if old == ix => txn,
                    Some(present) if present == old_session => return,
                    present => txn.when(Compare::Created(Key::Session(old), present.unwrap_or_default())),
                }
            }
        };
        let value = Value::Controller { node: ix, session };
        self.write_loose(ix, txn.then(records::put(Key::Controller, value)));
    }
}
