//! An active on one node, its standby on another.

use decisions::{Adopted, ClusterEvent, Core, Event, InstancePhase, Recovered, Report, SlotKnown};
use model::{Epoch, Health, InstanceId, NodeName, Revision, RunId, SlotId, Timestamp};
use std::time::Duration;

pub(crate) fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

pub(crate) fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

pub(crate) fn slot(revision: u64, attempt: u64, holder: &str, on: &str, epoch: u64, served: bool) -> SlotKnown {
    SlotKnown {
        since: Timestamp(0),
        slot: SlotId {
            service: id(holder).service().clone(),
            slot: 0,
        },
        held: true,
        holder: id(holder),
        epoch: Epoch(epoch),
        revision: Revision(revision),
        attempt,
        node: node(on),
        session: Some(Revision(if on == "a" { 1 } else { 2 })),
        served,
        data: None,
        served_before: None,
        because: "it was told so".into(),
        begun: None,
    }
}

/// What `b` says of its instance.
pub(crate) fn says(promoted: Option<u64>) -> Event {
    Event::Cluster(ClusterEvent::Reported(Report {
        proved: None,
        instance: id("db-2"),
        node: node("b"),
        session: Revision(2),
        run: RunId(1),
        phase: InstancePhase::Running,
        health: Health::Healthy,
        acts: promoted.is_some(),
        promoted: promoted.map(Epoch),
        served: promoted.is_some(),
        followed: None,
        stands_by: None,
        unfenced: None,
        busy: false,
        leaving: false,
        check_untried: false,
        current: true,
        deaths: 0,
        restarts: 0,
        since: Timestamp(0),
        because: "it passes its checks".into(),
        last_failure: None,
        last_end: None,
        not_promoted: None,
    }))
}

/// An agent on `a` whose active holds the slot at epoch 1, with a standby on `b`.
pub(crate) fn holder_and_standby(file: &str, now: Timestamp) -> Core {
    let mut core = Core::clustered(1, 1_000, 0, node("a"), Duration::from_millis(80));
    let cluster = spec::parse(file, "shop.toml").unwrap().cluster;
    let member = |name| ClusterEvent::Member {
        node: node(name),
        runs_services: true,
        member: true,
        place: decisions::Place::default(),
    };
    let session = |name, number| ClusterEvent::Session {
        node: node(name),
        session: Some(Revision(number)),
    };
    let assigned = |name, on| ClusterEvent::Assigned {
        instance: id(name),
        node: node(on),
        retiring: false,
        placed: Revision(1),
    };
    core.handle(
        Event::Recovered(Recovered {
            worked: None,
            cluster,
            slots: vec![slot(10, 1, "db-1", "a", 1, true)],
            instances: vec![holder()],
            numbers: Vec::new(),
            routes: Vec::new(),
            elsewhere: vec![
                ClusterEvent::OwnSession(Some(Revision(1))),
                session("b", 2),
                member("a"),
                member("b"),
                assigned("db-1", "a"),
                assigned("db-2", "b"),
            ],
        }),
        now,
    );
    core.handle(Event::Cluster(ClusterEvent::OwnSession(Some(Revision(1)))), now);
    core.handle(says(None), now);
    core
}

/// `db-1` as the agent on `a` finds it: active at epoch 1.
pub(crate) fn holder() -> Adopted {
    Adopted {
        since: None,
        instance: id("db-1"),
        node: node("a"),
        run: RunId(1),
        running: true,
        current: true,
        promoted: Some(Epoch(1)),
        acts: Some(Epoch(1)),
        served: true,
        followed: None,
        stands_by: None,
        healthy: true,
    }
}
