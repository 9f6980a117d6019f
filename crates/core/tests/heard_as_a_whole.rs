//! In a cluster the store tells several things at once: they are judged together.

#![expect(clippy::unwrap_used, reason = "a test that cannot do its part has failed")]

use decisions::{Action, Adopted, ClusterEvent, Core, Event, Reason, Recovered, SlotKnown};
use model::{Epoch, InstanceId, NodeName, Revision, RunId, SlotId, Timestamp};
use std::time::Duration;

const FILE: &str = r#"
[service.db]
command = ["db"]
exclusive = true
active = 1
standby = 1
standby_mode = "warm"
on_promote = ["promote"]
"#;

const NOW: Timestamp = Timestamp(1_000_000);

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

fn assigned(name: &str, on: &str) -> ClusterEvent {
    ClusterEvent::Assigned {
        instance: id(name),
        node: node(on),
        retiring: false,
        placed: Revision(1),
    }
}

fn slot(revision: u64, holder: &str, epoch: u64, served: bool) -> SlotKnown {
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
        attempt: revision,
        node: node("a"),
        session: Some(Revision(1)),
        served,
        data: None,
        served_before: None,
        because: "it was told so".into(),
        begun: None,
    }
}

fn runs_here(name: &str, promoted: Option<u64>) -> Adopted {
    Adopted {
        since: None,
        instance: id(name),
        node: node("a"),
        run: RunId(1),
        running: true,
        current: true,
        promoted: promoted.map(Epoch),
        acts: promoted.map(Epoch),
        served: promoted.is_some(),
        followed: None,
        stands_by: None,
        healthy: true,
    }
}

/// An agent on `a`, with others on `b` and `c`, that finds what is given.
fn agent(slots: Vec<SlotKnown>, instances: Vec<Adopted>, elsewhere: Vec<ClusterEvent>) -> Core {
    let mut core = Core::clustered(1, 1_000, 0, node("a"), Duration::from_millis(80));
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
    let mut others = vec![session("b", 2), session("c", 3), member("a"), member("b"), member("c")];
    others.extend(elsewhere);
    let recovered = Recovered {
        worked: None,
        cluster: spec::parse(FILE, "shop.toml").unwrap().cluster,
        slots,
        instances,
        numbers: Vec::new(),
        routes: Vec::new(),
        elsewhere: others,
    };
    core.handle(Event::Recovered(recovered), NOW);
    core.handle(Event::Cluster(ClusterEvent::OwnSession(Some(Revision(1)))), NOW);
    core
}

fn decided(core: &mut Core) -> Vec<(Action, Reason)> {
    let decided = std::iter::from_fn(|| core.poll_decision());
    decided.map(|decision| (decision.action, decision.because)).collect()
}

/// b was emptied, c has the standby instead, and b's record is gone: told at once, or only the half of it.
fn ended_after_b_is_put_back(at_once: bool, looks_after: &[u64]) -> Vec<InstanceId> {
    let elsewhere = vec![assigned("db-1", "a"), assigned("db-2", "b"), assigned("db-3", "c")];
    let here = vec![runs_here("db-1", Some(1))];
    let mut core = agent(vec![slot(10, "db-1", 1, true)], here, elsewhere);
    core.handle(Event::NodeDrained { node: node("b") }, NOW);
    core.handle(Event::Cluster(ClusterEvent::Controller(true)), NOW);
    decided(&mut core);
    core.hear_on();
    let because = Reason::BackAsked;
    let (node, instance) = (node("b"), id("db-2"));
    core.handle(Event::NodeBack { node, because }, NOW);
    if at_once {
        core.handle(Event::Cluster(ClusterEvent::Unassigned { instance }), NOW);
    }
    let note = |(action, _): &(Action, Reason)| matches!(action, Action::Note(_));
    assert!(decided(&mut core).iter().all(note), "half of it was judged");
    core.all_heard(NOW);
    for after in looks_after {
        core.handle(Event::Tick, NOW + Duration::from_millis(*after));
    }
    let ended = |(action, _)| match action {
        Action::Retire { instance, .. } | Action::Stop { instance, .. } => Some(instance),
        _ => None,
    };
    decided(&mut core).into_iter().filter_map(ended).collect()
}

#[test]
fn who_stood_still_ends_nobody_by_what_it_knew_before() {
    assert_eq!(ended_after_b_is_put_back(false, &[5_000]), []);
    assert_eq!(ended_after_b_is_put_back(false, &[5_000, 6_000]), [id("db-3")]);
}

#[test]
fn nobody_is_surplus_by_half_of_what_is_told_at_once() {
    assert_eq!(
        ended_after_b_is_put_back(false, &[1_000]),
        [id("db-3")],
        "there is nothing to see here"
    );
    assert_eq!(ended_after_b_is_put_back(true, &[1_000]), []);
}

#[test]
fn who_runs_here_and_is_declared_no_more_ends_at_once() {
    let elsewhere = vec![assigned("db-1", "a"), assigned("db-2", "a"), assigned("db-3", "b")];
    let here = vec![runs_here("db-1", Some(1)), runs_here("db-2", None)];
    let mut core = agent(vec![slot(10, "db-1", 1, true)], here, elsewhere);
    decided(&mut core);
    let instance = id("db-2");
    core.handle(Event::Cluster(ClusterEvent::Unassigned { instance }), NOW);
    let stops =
        |(action, _): &(Action, Reason)| matches!(action, Action::Stop { instance, .. } if *instance == id("db-2"));
    assert!(decided(&mut core).iter().any(stops));
}
