//! An agent that dies within a hook cannot know how far that came: the next one takes nobody for a standby who may act.

#![expect(clippy::unwrap_used, reason = "a test that cannot do its part has failed")]

use decisions::{Action, Adopted, ClusterEvent, Core, Event, Recovered, SlotKnown};
use model::{Epoch, InstanceId, NodeName, Revision, RunId, SlotId, Timestamp};
use std::time::Duration;

const NOW: Timestamp = Timestamp(1_000_000);

fn file(with_demote: bool) -> String {
    let demote = if with_demote { "on_demote = [\"demote\"]" } else { "" };
    format!(
        r#"
[service.db]
command = ["db"]
exclusive = true
active = 1
standby = 1
standby_mode = "warm"
on_promote = ["promote"]
{demote}
"#
    )
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

/// What the store says: db-2 serves on `b`.
fn taken_by_b() -> SlotKnown {
    SlotKnown {
        since: Timestamp(0),
        slot: SlotId {
            service: id("db-2").service().clone(),
            slot: 0,
        },
        held: true,
        holder: id("db-2"),
        epoch: Epoch(2),
        revision: Revision(10),
        attempt: 1,
        node: node("b"),
        session: Some(Revision(2)),
        served: true,
        data: None,
        served_before: None,
        because: "it was told so".into(),
        begun: None,
    }
}

/// The agent of `a` died within the promote hook of db-1, for epoch 1. Its session ran out, and `b` has the slot at epoch 2.
fn agent_that_comes_back(with_demote: bool, session: Option<Revision>, acts: Option<Epoch>) -> Core {
    comes_back(&file(with_demote), session, taken_by_b(), found(None, acts))
}

/// db-1, running.
fn found(promoted: Option<Epoch>, acts: Option<Epoch>) -> Adopted {
    Adopted {
        since: None,
        instance: id("db-1"),
        node: node("a"),
        run: RunId(7),
        running: true,
        current: true,
        promoted,
        acts,
        served: acts.is_some(),
        followed: None,
        stands_by: None,
        healthy: true,
    }
}

fn comes_back(file: &str, session: Option<Revision>, slot: SlotKnown, found: Adopted) -> Core {
    let mut core = Core::clustered(1, 1_000, 0, node("a"), Duration::from_millis(80));
    let member = |name| ClusterEvent::Member {
        node: node(name),
        runs_services: true,
        member: true,
        place: decisions::Place::default(),
    };
    let assigned = |name, on| ClusterEvent::Assigned {
        instance: id(name),
        node: node(on),
        retiring: false,
        placed: Revision(1),
    };
    core.handle(Event::Cluster(ClusterEvent::OwnSession(session)), NOW);
    let recovered = Recovered {
        worked: None,
        cluster: spec::parse(file, "shop.toml").unwrap().cluster,
        slots: vec![slot],
        instances: vec![found],
        numbers: Vec::new(),
        routes: Vec::new(),
        elsewhere: vec![
            ClusterEvent::Session {
                node: node("b"),
                session: Some(Revision(2)),
            },
            member("a"),
            member("b"),
            assigned("db-1", "a"),
            assigned("db-2", "b"),
        ],
    };
    core.handle(Event::Recovered(recovered), NOW);
    core
}

/// What is done to the process of db-1.
fn decided(core: &mut Core) -> Vec<String> {
    let in_words = |action| match action {
        Action::RunHook {
            instance, hook, epoch, ..
        } => Some(format!("{hook} {instance} at {epoch}")),
        Action::Stop { instance, run, .. } => Some(format!("stop {instance} run {run}")),
        Action::Start { instance, .. } => Some(format!("start {instance}")),
        Action::Arm { instance, epoch, .. } => Some(format!("arm {instance} at {epoch}")),
        _ => None,
    };
    std::iter::from_fn(|| core.poll_decision())
        .filter_map(|decision| in_words(decision.action))
        .collect()
}

#[test]
fn who_was_being_promoted_and_lost_its_slot_is_ended_before_it_stands_by() {
    for with_demote in [false, true] {
        let mut core = agent_that_comes_back(with_demote, None, Some(Epoch(1)));
        let done = decided(&mut core);
        // Without a session it is not asked politely.
        assert_eq!(done, ["stop db-1 run 7"], "with a demote hook: {with_demote}");
        let (instance, run) = (id("db-1"), RunId(7));
        core.handle(Event::Gone { instance, run }, NOW);
        assert_eq!(decided(&mut core), ["start db-1"]);
    }
}

#[test]
fn with_a_session_it_is_demoted_by_its_hook_and_ended_without_one() {
    let session = Some(Revision(9));
    let mut core = agent_that_comes_back(true, session, Some(Epoch(1)));
    assert_eq!(decided(&mut core), ["on_demote db-1 at 1"]);
    let mut core = agent_that_comes_back(false, session, Some(Epoch(1)));
    assert_eq!(decided(&mut core), ["stop db-1 run 7"]);
}

#[test]
fn who_only_stood_by_goes_on() {
    for session in [None, Some(Revision(9))] {
        let mut core = agent_that_comes_back(true, session, None);
        assert_eq!(decided(&mut core), [""; 0]);
    }
}

#[test]
fn who_is_told_its_epoch_by_its_start_alone_is_started_anew_for_the_next_one() {
    let file = r#"
[service.db]
command = ["db"]
exclusive = true
active = 1
standby = 1
standby_mode = "cold"
"#;
    // It stood still when its session ran out, and nobody has taken its slot; then its agent died.
    let held = SlotKnown {
        holder: id("db-1"),
        node: node("a"),
        session: Some(Revision(1)),
        ..taken_by_b()
    };
    let found = found(Some(Epoch(2)), Some(Epoch(2)));
    let mut core = comes_back(file, Some(Revision(9)), held, found);
    assert_eq!(decided(&mut core), ["stop db-1 run 7"]);
    let (instance, run) = (id("db-1"), RunId(7));
    core.handle(Event::Gone { instance, run }, NOW);
    let instance = id("db-1");
    core.handle(
        Event::Prepared {
            instance,
            result: Ok(()),
        },
        NOW,
    );
    let claims = std::iter::from_fn(|| core.poll_decision());
    let claim = claims.filter_map(|decision| match decision.action {
        Action::Write(write) => Some(write),
        _ => None,
    });
    let claimed: Vec<_> = claim.map(|write| (write.holder, write.epoch)).collect();
    assert_eq!(claimed, [(id("db-1"), Epoch(3))]);
}
