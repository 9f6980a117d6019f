//! A slot that the operator wants nobody to hold, of several machines.

#![expect(clippy::unwrap_used, reason = "a test that cannot do its part has failed")]

mod pair;

use decisions::{Action, ClusterEvent, Commit, Core, Event, HookOutcome, Parked, SlotPhase, SlotView, SlotWrite};
use model::{Epoch, HookKind, Revision, RunId, SlotId, Timestamp};
use pair::{holder_and_standby, id, node, says, slot};
use std::time::Duration;

const FILE: &str = r#"
[service.db]
command = ["db"]
exclusive = true
active = 1
standby = 1
standby_mode = "warm"
on_promote = ["promote"]
on_demote = ["demote"]
"#;

const NOW: Timestamp = Timestamp(1_000_000);

fn decided(core: &mut Core) -> Vec<Action> {
    std::iter::from_fn(|| core.poll_decision())
        .map(|decision| decision.action)
        .collect()
}

fn writes(core: &mut Core) -> Vec<SlotWrite> {
    let only = |action| match action {
        Action::Write(write) => Some(write),
        _ => None,
    };
    decided(core).into_iter().filter_map(only).collect()
}

fn parked(parked: bool) -> Event {
    Event::Parked {
        slot: SlotId {
            service: id("db-1").service().clone(),
            slot: 0,
        },
        parked: parked.then(|| Parked {
            since: NOW,
            by: "ann".into(),
            why: "the disk is swapped".into(),
        }),
    }
}

fn shown(core: &Core) -> SlotView {
    let view = core.service_view(id("db-1").service(), NOW).unwrap();
    view.slots.into_iter().next().unwrap()
}

fn demoted() -> Event {
    Event::HookDone {
        instance: id("db-1"),
        run: RunId(1),
        hook: HookKind::Demote,
        epoch: Epoch(1),
        outcome: HookOutcome::Done,
    }
}

#[test]
fn its_holder_is_demoted_and_releases_it_and_nobody_claims_it_before_it_is_unparked() {
    let mut core = holder_and_standby(FILE, NOW);
    decided(&mut core);
    core.handle(parked(true), NOW);
    let hook = |action: &Action| {
        matches!(
            action,
            Action::RunHook {
                hook: HookKind::Demote,
                ..
            }
        )
    };
    assert!(decided(&mut core).iter().any(hook), "the holder is demoted");
    assert_eq!(shown(&core).phase, SlotPhase::Serving, "it still holds it");
    assert!(shown(&core).parked.is_some(), "and that it will not is told at once");

    core.handle(demoted(), NOW);
    let write = writes(&mut core).pop().expect("the slot is released");
    assert!(!write.held && !write.claims, "{write:?}");
    let committed = |revision| Event::Committed {
        slot: write.slot.clone(),
        attempt: write.attempt,
        result: Commit::Done(Revision(revision)),
    };
    core.handle(committed(20), NOW);
    assert!(writes(&mut core).is_empty(), "nobody claims it");
    let slot = shown(&core);
    assert_eq!((slot.phase, slot.instance.clone()), (SlotPhase::Parked, None));
    assert_eq!(slot.because.to_string(), "ann parked it: the disk is swapped");
    let view = core.service_view(id("db-1").service(), NOW).unwrap();
    assert_eq!(view.because.to_string(), "ann parked slot 0: the disk is swapped");
    core.handle(Event::Tick, NOW + Duration::from_secs(60));
    assert!(writes(&mut core).is_empty(), "nor later");

    core.handle(parked(false), NOW);
    let write = writes(&mut core).pop().expect("it is claimed again");
    assert!(write.held && write.claims, "{write:?}");
}

#[test]
fn a_holder_lost_with_its_node_is_not_replaced_where_the_slot_is_parked() {
    let mut core = holder_and_standby(FILE, NOW);
    decided(&mut core);
    // The slot went to b meanwhile.
    core.handle(
        Event::Cluster(ClusterEvent::Slot(slot(20, 7, "db-2", "b", 2, true))),
        NOW,
    );
    core.handle(says(Some(2)), NOW);
    core.handle(Event::Cluster(ClusterEvent::Controller(true)), NOW);
    writes(&mut core);
    core.handle(parked(true), NOW);
    assert!(writes(&mut core).is_empty(), "its holder gives it up, nobody else");
    let gone = ClusterEvent::Session {
        node: node("b"),
        session: None,
    };
    core.handle(Event::Cluster(gone), NOW);
    core.handle(Event::Tick, NOW + Duration::from_secs(1));
    let written = writes(&mut core);
    assert!(written.iter().all(|write| !write.held), "nobody takes it: {written:?}");
    assert_eq!(written.len(), 1, "that nobody holds it is written");
}

#[test]
fn an_agent_that_comes_up_knows_it_before_it_claims_anything() {
    let mut core = Core::new(1, 1_000, 0, [node("a")]);
    core.handle(parked(true), NOW);
    let cluster = spec::parse(FILE, "shop.toml").unwrap().cluster;
    core.handle(
        Event::Recovered(decisions::Recovered {
            worked: None,
            cluster,
            slots: Vec::new(),
            instances: Vec::new(),
            numbers: Vec::new(),
            routes: Vec::new(),
            elsewhere: Vec::new(),
        }),
        NOW,
    );
    let mut now = NOW;
    for _ in 0..20 {
        for action in decided(&mut core) {
            match action {
                Action::Start { instance, run, .. } => core.handle(Event::Started { instance, run }, now),
                Action::Write(write) => panic!("it is claimed: {write:?}"),
                _ => {}
            }
        }
        now = now + Duration::from_secs(1);
        core.handle(Event::Tick, now);
    }
    assert_eq!(shown(&core).phase, SlotPhase::Parked);
    core.handle(parked(false), now);
    assert!(writes(&mut core).iter().any(|write| write.held), "now it is");
}
