//! T10: an active that stood still while its node had no session goes on under the next one, if nobody had its slot meanwhile.

#![expect(clippy::unwrap_used, reason = "a test that cannot do its part has failed")]

mod pair;

use decisions::{Action, ClusterEvent, Commit, Core, Event, SlotPhase, SlotWrite};
use model::{Epoch, Revision, Timestamp};
use pair::{holder_and_standby, id, slot};

const FILE: &str = r#"
[service.db]
command = ["db"]
exclusive = true
active = 1
standby = 1
standby_mode = "warm"
listen = "127.0.0.1:5000"
on_promote = ["promote"]
on_follow = ["follow"]
"#;

const NOW: Timestamp = Timestamp(1_000_000);

fn decided(core: &mut Core) -> Vec<Action> {
    std::iter::from_fn(|| core.poll_decision())
        .map(|decision| decision.action)
        .collect()
}

fn killed(actions: &[Action]) -> bool {
    let db = id("db-1");
    let kill = |action: &Action| matches!(action, Action::Stop { instance, polite: false, .. } if *instance == db);
    actions.iter().any(kill)
}

fn write(actions: &[Action]) -> Option<SlotWrite> {
    actions.iter().find_map(|action| match action {
        Action::Write(write) => Some(write.clone()),
        _ => None,
    })
}

fn armed() -> Event {
    Event::Armed {
        instance: id("db-1"),
        epoch: Epoch(1),
        result: Ok(()),
    }
}

/// The active of `a` stands still, and `a` has no session.
fn kept() -> Core {
    let mut core = holder_and_standby(FILE, NOW);
    decided(&mut core);
    core.handle(armed(), NOW);
    decided(&mut core);
    core.handle(Event::Cluster(ClusterEvent::OwnSessionKept), NOW);
    let actions = decided(&mut core);
    assert!(!killed(&actions), "it stands still and is left alone: {actions:?}");
    assert_eq!(write(&actions), None);
    assert!(core.acting_exclusive().is_empty(), "so another session may be opened");
    core
}

fn next_session(core: &mut Core) -> Vec<Action> {
    core.handle(Event::Cluster(ClusterEvent::OwnSession(Some(Revision(30)))), NOW);
    decided(core)
}

fn committed(write: &SlotWrite, result: Commit) -> Event {
    Event::Committed {
        slot: write.slot.clone(),
        attempt: write.attempt,
        result,
    }
}

#[test]
fn its_slot_is_bound_to_the_next_session_at_the_same_epoch_and_only_then_it_goes_on() {
    let mut core = kept();
    let write = write(&next_session(&mut core)).expect("the slot is bound to the next session");
    assert!(write.held && !write.claims, "{write:?}");
    assert_eq!(
        (write.epoch, write.expect, write.session),
        (Epoch(1), Revision(10), Some(Revision(30)))
    );
    assert_eq!(write.sessions, vec![(pair::node("a"), Revision(30))]);
    core.handle(committed(&write, Commit::Done(Revision(31))), NOW);
    let actions = decided(&mut core);
    let rebound = |action: &Action| matches!(action, Action::Rebind { epoch: Epoch(1), .. });
    assert!(actions.iter().any(rebound), "{actions:?}");
    let routed = |action: &Action| matches!(action, Action::Route { targets, .. } if !targets.is_empty());
    assert!(
        !actions.iter().any(routed),
        "clients wait until the guard has let it go on"
    );
    assert_eq!(core.acting_exclusive(), vec![id("db-1")]);
    core.handle(armed(), NOW);
    let actions = decided(&mut core);
    assert!(actions.iter().any(routed), "{actions:?}");
    assert!(!killed(&actions));
    let view = core.service_view(id("db-1").service(), NOW).unwrap();
    assert_eq!(
        (view.slots[0].phase, view.slots[0].epoch),
        (SlotPhase::Serving, Epoch(1))
    );
}

#[test]
fn it_ends_when_somebody_took_its_slot_before_it_has_a_session_again() {
    let mut core = kept();
    core.handle(
        Event::Cluster(ClusterEvent::Slot(slot(20, 7, "db-2", "b", 2, false))),
        NOW,
    );
    assert!(killed(&decided(&mut core)));
    assert_eq!(write(&next_session(&mut core)), None);
}

#[test]
fn it_ends_when_the_slot_turns_out_to_be_anothers_or_nobody_can_tell() {
    for result in [
        Commit::Conflict(Some(Box::new(slot(20, 7, "db-2", "b", 2, false)))),
        Commit::Conflict(None),
        Commit::Failed("nobody knows".into()),
    ] {
        let mut core = kept();
        let write = write(&next_session(&mut core)).unwrap();
        core.handle(committed(&write, result.clone()), NOW);
        let actions = decided(&mut core);
        assert!(killed(&actions), "{result:?}: {actions:?}");
        assert!(!actions.iter().any(|action| matches!(action, Action::Rebind { .. })));
    }
}

#[test]
fn it_ends_when_the_next_session_is_lost_too() {
    let mut core = kept();
    let write = write(&next_session(&mut core)).unwrap();
    core.handle(Event::Cluster(ClusterEvent::OwnSession(None)), NOW);
    assert!(killed(&decided(&mut core)));
    core.handle(committed(&write, Commit::Done(Revision(31))), NOW);
    let actions = decided(&mut core);
    assert!(
        !actions.iter().any(|action| matches!(action, Action::Rebind { .. })),
        "{actions:?}"
    );
}
