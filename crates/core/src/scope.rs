//! Whose renewals an agent is told.
//!
//! All that a store has changes seldom, but for sessions: each is renewed several times a second. Told to everybody, n nodes make n² changes a
//! second. A renewal is evidence of one thing, that its node lives, and only those need it who would end that session:
//!
//! ```text
//! few nodes                      every renewal
//! the controller of many         every renewal                          whatever node is lost, somebody sees it
//! others of many                 those of nodes that hold slots of      whoever may succeed sees it himself
//!                                services of which we have instances
//!                                that of the controller's node          whoever may become it sees it himself
//! ```
//! That a session was opened, or has ended, all are told all the same (`there/NODE` in the store). Who is told fewer renewals decides by nothing
//! else: a claim names the renewal that was seen for all of W, so that of a node of which nothing is heard nothing can be taken.

mod presence;
mod scoped;

pub use presence::Presence;
pub use scoped::Scoped;

use crate::service::Service;
use crate::{ClusterEvent, Core, Event};
use model::{NodeName, ServiceName};
use std::collections::{BTreeMap, BTreeSet};

/// Up to so many nodes every agent is told everything: some 12,000 changes a second in all.
pub const WHOLE_UP_TO: usize = 50;

/// Whose renewals an agent is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everybody's, as everybody else is: there are few nodes.
    Whole,
    /// Everybody's, of many nodes: nobody else is told all.
    Controller,
    /// Those of these nodes.
    Of(BTreeSet<NodeName>),
}

impl Scope {
    /// Whether renewals of a node are told.
    pub fn has(&self, node: &NodeName) -> bool {
        match self {
            Scope::Whole | Scope::Controller => true,
            Scope::Of(nodes) => nodes.contains(node),
        }
    }

    /// Whether those of all nodes are.
    pub fn has_all(&self) -> bool {
        !matches!(self, Scope::Of(_))
    }

    /// How many others go before one who would end a session that has run out without a claim: whoever alone sees all of them is the first.
    /// `before` are the living nodes before it by name.
    pub fn rank(&self, before: usize) -> u32 {
        let rank = match self {
            Scope::Whole => before,
            Scope::Controller => 0,
            Scope::Of(_) => before + 1,
        };
        u32::try_from(rank).unwrap_or(u32::MAX)
    }
}

/// Whether what is heard may change whose renewals we need, beside what it changes of services. A session that was opened or has ended does not:
/// who is in sight for having run out goes out of it with the next change.
pub(crate) fn may_change(event: &Event) -> bool {
    let Event::Cluster(event) = event else { return false };
    matches!(
        event,
        ClusterEvent::OwnSession(_)
            | ClusterEvent::OwnSessionKept
            | ClusterEvent::Controller(_)
            | ClusterEvent::Member { .. }
            | ClusterEvent::Expired { .. }
            | ClusterEvent::Renewed { .. }
    )
}

/// What whose renewals we need is made up of, kept up to date service by service.
#[derive(Debug, Clone, Default)]
pub(crate) struct Holders {
    /// Services that were looked at since.
    pub(crate) touched: BTreeSet<ServiceName>,
    /// Something else has changed.
    pub(crate) other: bool,
    /// Nodes that hold slots of services of which we have instances.
    of: BTreeMap<ServiceName, BTreeSet<NodeName>>,
}

impl Core {
    /// Whether whose renewals we need may be other than when this was last asked.
    pub fn may_have_other_scope(&mut self) -> bool {
        let Some(peers) = &self.peers else { return false };
        let mut changed = std::mem::take(&mut self.holders.other);
        for name in std::mem::take(&mut self.holders.touched) {
            let ours = |service: &&Service| service.instances.values().any(|instance| instance.node == peers.me);
            let service = self.services.get(&name).filter(ours);
            changed |= match service.map(holders_of) {
                Some(nodes) if self.holders.of.get(&name) == Some(&nodes) => false,
                Some(nodes) => {
                    self.holders.of.insert(name, nodes);
                    true
                }
                None => self.holders.of.remove(&name).is_some(),
            };
        }
        changed
    }

    /// Whose renewals we need, of a cluster in which up to `whole_up_to` nodes are told everything; as of when it was last asked whether that
    /// may be other. `controller` is its node, as far as known.
    pub fn scope(&self, controller: Option<&NodeName>, whole_up_to: usize) -> Scope {
        let Some(peers) = &self.peers else {
            return Scope::Whole;
        };
        if peers.others.len() < whole_up_to {
            return Scope::Whole;
        }
        if peers.controller {
            return Scope::Controller;
        }
        let mut nodes: BTreeSet<NodeName> = controller.cloned().into_iter().collect();
        nodes.extend(self.holders.of.values().flatten().cloned());
        // Who was seen to have run out is believed to be dead until he is seen to live.
        let expired = peers.others.iter().filter(|(_, peer)| peer.expired.is_some());
        nodes.extend(expired.map(|(node, _)| node.clone()));
        nodes.remove(&peers.me);
        if peers.session.is_none() {
            // An earlier one of ours may have to run out first.
            nodes.insert(peers.me.clone());
        }
        Scope::Of(nodes)
    }
}

/// Nodes that hold its slots.
fn holders_of(service: &Service) -> BTreeSet<NodeName> {
    let records = service.slots.iter().filter_map(|slot| slot.record.as_ref());
    records
        .filter(|record| record.held)
        .map(|record| record.node.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::{Adopted, ClusterEvent, Core, Event, Place, Recovered, Scope, SlotKnown};
    use model::{Epoch, InstanceId, NodeName, Revision, RunId, ServiceName, SlotId, Timestamp};
    use std::time::Duration;

    #[test]
    fn few_nodes_are_told_everything_and_many_what_they_may_have_to_act_on() {
        let mut core = core();
        assert_eq!(scope(&mut core, None, 5), Scope::Whole);
        assert_eq!(scope(&mut core, None, 4), of(&["b"]));
        assert_eq!(scope(&mut core, Some(&node("e")), 4), of(&["b", "e"]));
        assert_eq!(scope(&mut core, Some(&node("a")), 4), of(&["b"]), "not our own");
    }

    #[test]
    fn the_controller_is_told_everything() {
        let mut core = core();
        core.handle(Event::Cluster(ClusterEvent::Controller(true)), Timestamp(2));
        assert_eq!(scope(&mut core, Some(&node("a")), 0), Scope::Controller);
        assert_eq!(scope(&mut core, Some(&node("a")), 5), Scope::Whole);
        core.handle(Event::Cluster(ClusterEvent::Controller(false)), Timestamp(3));
        assert_eq!(scope(&mut core, None, 0), of(&["b"]));
    }

    #[test]
    fn who_may_have_to_end_its_own_earlier_session_is_told_of_it() {
        let mut core = core();
        core.handle(Event::Cluster(ClusterEvent::OwnSession(None)), Timestamp(2));
        assert_eq!(scope(&mut core, None, 0), of(&["a", "b"]));
    }

    #[test]
    fn who_has_run_out_is_not_lost_from_sight() {
        let mut core = core();
        let expired = ClusterEvent::Expired {
            node: node("d"),
            session: Revision(13),
            modified: Revision(20),
        };
        core.handle(Event::Cluster(expired), Timestamp(2));
        assert_eq!(scope(&mut core, None, 0), of(&["b", "d"]));
        core.handle(Event::Cluster(ClusterEvent::Renewed { node: node("d") }), Timestamp(3));
        assert_eq!(scope(&mut core, None, 0), of(&["b"]));
    }

    #[test]
    fn another_holder_is_another_session_to_be_told_of() {
        let mut core = core();
        scope(&mut core, None, 0);
        assert!(!core.may_have_other_scope());
        core.handle(
            Event::Cluster(ClusterEvent::Slot(held("web", 2, "d", 30))),
            Timestamp(2),
        );
        assert!(!core.may_have_other_scope(), "that is none of our business");
        core.handle(Event::Cluster(ClusterEvent::Slot(held("db", 2, "c", 31))), Timestamp(2));
        assert!(core.may_have_other_scope());
        assert_eq!(scope(&mut core, None, 0), of(&["c"]));
        core.handle(Event::Cluster(ClusterEvent::Slot(held("db", 3, "a", 32))), Timestamp(3));
        assert_eq!(scope(&mut core, None, 0), of(&[]));
    }

    #[test]
    fn who_sees_all_ends_a_session_first() {
        assert_eq!(Scope::Controller.rank(7), 0);
        assert_eq!(Scope::Whole.rank(7), 7);
        assert_eq!(of(&[]).rank(0), 1);
    }

    fn scope(core: &mut Core, controller: Option<&NodeName>, whole_up_to: usize) -> Scope {
        core.may_have_other_scope();
        core.scope(controller, whole_up_to)
    }

    fn node(name: &str) -> NodeName {
        NodeName::new(name).expect("a name")
    }

    fn of(nodes: &[&str]) -> Scope {
        Scope::Of(nodes.iter().map(|name| node(name)).collect())
    }

    fn held(service: &str, number: u32, at: &str, revision: u64) -> SlotKnown {
        let service = ServiceName::new(service).expect("a name");
        SlotKnown {
            slot: SlotId {
                service: service.clone(),
                slot: 0,
            },
            held: true,
            holder: InstanceId::new(service, number),
            epoch: Epoch(revision),
            revision: Revision(revision),
            attempt: revision,
            node: node(at),
            session: Some(Revision(u64::from(at.as_bytes()[0] - b'a') + 10)),
            served: true,
            data: None,
            served_before: None,
            because: String::new(),
            begun: None,
            since: Timestamp(0),
        }
    }

    /// Node a of five, with standbys of `db`, whose slot is held at b; `web` at c and d is none of its business.
    fn core() -> Core {
        let service = |name: &str| {
            format!(
                "[service.{name}]\ncommand = [\"{name}\"]\nexclusive = true\nstandby = 2\n\
                 on_promote = [\"promote\"]\non_demote = [\"demote\"]\n"
            )
        };
        let file = service("db") + &service("web");
        let cluster = spec::parse(&file, "five.toml").expect("a file").cluster;
        let mut elsewhere = Vec::new();
        for (number, name) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
            elsewhere.push(ClusterEvent::Member {
                node: node(name),
                runs_services: true,
                member: true,
                place: Place::default(),
            });
            let session = Some(Revision(number as u64 + 10));
            elsewhere.push(ClusterEvent::Session {
                node: node(name),
                session,
            });
        }
        for (name, at) in [("db", ["b", "a", "c"]), ("web", ["c", "d", "d"])] {
            let service = ServiceName::new(name).expect("a name");
            for (number, at) in (1..).zip(at) {
                elsewhere.push(ClusterEvent::Assigned {
                    instance: InstanceId::new(service.clone(), number),
                    node: node(at),
                    retiring: false,
                    placed: Revision(1),
                });
            }
            elsewhere.push(ClusterEvent::Slot(held(name, 1, at[0], 20)));
        }
        let ours = Adopted {
            instance: InstanceId::new(ServiceName::new("db").expect("a name"), 2),
            node: node("a"),
            run: RunId(1),
            running: true,
            current: true,
            promoted: None,
            acts: None,
            served: false,
            followed: None,
            stands_by: None,
            healthy: true,
            since: None,
        };
        let mut core = Core::clustered(1, 1, 0, node("a"), Duration::from_millis(80));
        let session = ClusterEvent::OwnSession(Some(Revision(10)));
        core.handle(Event::Cluster(session), Timestamp(1));
        core.handle(
            Event::Recovered(Recovered {
                worked: None,
                cluster,
                slots: Vec::new(),
                instances: vec![ours],
                numbers: Vec::new(),
                routes: Vec::new(),
                elsewhere,
            }),
            Timestamp(1),
        );
        core
    }
}
