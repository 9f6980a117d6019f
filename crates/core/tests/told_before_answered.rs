//! In a cluster the store tells of later writes before it answers an earlier one.

#![expect(clippy::unwrap_used, reason = "a test that cannot do its part has failed")]

use decisions::{
    Action, Adopted, ClusterEvent, Commit, Core, Event, InstancePhase, Recovered, Report, SlotKnown, SlotWrite,
};
use model::{Epoch, Health, InstanceId, NodeName, Revision, RunId, SlotId, Timestamp};
use std::time::Duration;

const FILE: &str = r#"
[service.db]
command = ["db"]
exclusive = true
active = 1
standby = 1
standby_mode = "warm"
listen = "127.0.0.1:5000"
on_promote = ["promote"]
"#;

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

fn slot(revision: u64, attempt: u64, holder: &str, on: &str, epoch: u64, served: bool) -> SlotKnown {
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
        because: "it was told so".into(),
        detected_ago: None,
    }
}

/// What `b` says of its instance.
fn says(promoted: Option<u64>) -> Event {
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
        followed: None,
        stands_by: None,
        unfenced: None,
        busy: false,
        leaving: false,
        current: true,
        deaths: 0,
        restarts: 0,
        since: Timestamp(0),
        because: "it passes its checks".into(),
        last_failure: None,
    }))
}

/// An agent on `a` whose active holds the slot at epoch 1, with a standby on `b`.
fn holder_and_standby(now: Timestamp) -> Core {
    let mut core = Core::clustered(1, 1_000, 0, node("a"), Duration::from_millis(80));
    let cluster = spec::parse(FILE, "shop.toml").unwrap().cluster;
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
    };
    core.handle(
        Event::Recovered(Recovered {
            cluster,
            slots: vec![slot(10, 1, "db-1", "a", 1, true)],
            instances: vec![Adopted {
                since: None,
                instance: id("db-1"),
                node: node("a"),
                run: RunId(1),
                running: true,
                current: true,
                promoted: Some(Epoch(1)),
                followed: None,
                stands_by: None,
                healthy: true,
            }],
            numbers: Vec::new(),
            routes: Vec::new(),
            elsewhere: vec![
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

fn writes(core: &mut Core) -> Vec<SlotWrite> {
    let decided = std::iter::from_fn(|| core.poll_decision());
    decided
        .filter_map(|decision| match decision.action {
            Action::Write(write) => Some(write),
            _ => None,
        })
        .collect()
}

#[test]
fn a_slot_that_was_handed_over_and_promoted_before_the_answer_came_is_followed() {
    let now = Timestamp(1_000_000);
    let mut core = holder_and_standby(now);
    writes(&mut core);
    let (instance, run) = (id("db-1"), RunId(1));
    let how = "killed by SIGKILL".into();
    core.handle(
        Event::Exited {
            instance: instance.clone(),
            run,
            how,
        },
        now,
    );
    core.handle(Event::Gone { instance, run }, now);
    let write = writes(&mut core).pop().expect("the slot is handed over");
    assert_eq!((&write.holder, &write.node), (&id("db-2"), &node("b")));
    let (epoch, attempt) = (write.epoch, write.attempt);
    // b hears of it, promotes, and writes so, all before our own write is answered.
    let told = slot(20, attempt, "db-2", "b", epoch.0, false);
    core.handle(Event::Cluster(ClusterEvent::Slot(told)), now);
    let told = slot(21, 77, "db-2", "b", epoch.0, true);
    core.handle(Event::Cluster(ClusterEvent::Slot(told)), now);
    core.handle(says(Some(epoch.0)), now);
    let committed = Event::Committed {
        slot: write.slot.clone(),
        attempt,
        result: Commit::Done(Revision(20)),
    };
    core.handle(committed, now);
    let routed = std::iter::from_fn(|| core.poll_decision()).filter_map(|decision| match decision.action {
        Action::Route { targets, .. } => Some(targets),
        _ => None,
    });
    let last = routed.last().expect("clients are sent somewhere");
    assert_eq!(last.len(), 1);
    assert_eq!((&last[0].instance, last[0].epoch), (&id("db-2"), epoch));
}
