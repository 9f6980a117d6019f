//! A switchover that was told to have failed is not carried out when the store takes writes again.

#![expect(clippy::unwrap_used, reason = "a test that cannot do its part has failed")]

mod pair;

use decisions::{Action, ClusterEvent, Commit, Core, Event, HookOutcome, Refusal, SlotWrite};
use model::{Epoch, HookKind, Revision, RunId, ServiceName, Timestamp};
use pair::{holder_and_standby, id, node};
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

const ASKED: Timestamp = Timestamp(1_000_000);

/// What is written, and what the operator is told.
fn decided(core: &mut Core) -> (Option<SlotWrite>, Option<String>) {
    let (mut written, mut told) = (None, None);
    while let Some(decision) = core.poll_decision() {
        match decision.action {
            Action::Write(write) => written = Some(write),
            Action::Answer {
                answer: Err(Refusal::Failed { what }),
                ..
            } => told = Some(what),
            Action::Answer { answer, .. } => panic!("{answer:?}"),
            _ => {}
        }
    }
    (written, told)
}

/// A switchover whose old holder was demoted, and the claim for the next one.
fn claimed() -> (Core, SlotWrite) {
    let mut core = holder_and_standby(FILE, ASKED);
    core.handle(switchover(1), ASKED);
    core.handle(demoted(), ASKED);
    let write = decided(&mut core).0.unwrap();
    assert_eq!(write.holder, id("db-2"));
    (core, write)
}

fn answer(core: &mut Core, write: &SlotWrite, result: Commit, now: Timestamp) {
    let committed = Event::Committed {
        slot: write.slot.clone(),
        attempt: write.attempt,
        result,
    };
    core.handle(committed, now);
}

#[test]
fn a_store_that_takes_writes_again_finds_no_switchover_of_which_nobody_waits_to_hear() {
    let (mut core, mut write) = claimed();
    let mut now = ASKED;
    let told = loop {
        let full = Commit::Failed("the store has reached its quota".into());
        answer(&mut core, &write, full, now);
        now = core.next_wakeup().unwrap();
        core.handle(Event::Tick, now);
        let (written, told) = decided(&mut core);
        write = written.unwrap_or(write);
        if let Some(told) = told {
            break told;
        }
        assert_eq!(write.holder, id("db-2"), "as long as somebody waits for it");
        assert!(now.since(ASKED) < Duration::from_secs(40));
    };
    assert_eq!(now.since(ASKED), Duration::from_secs(30));
    assert!(told.contains("the store has reached its quota"), "{told}");
    assert!(told.contains("the switchover is withdrawn"), "{told}");
    assert!(told.contains("db-1 takes it again"), "{told}");
    // Later it is the old holder that the store is asked for, and it serves again.
    while write.holder != id("db-1") {
        answer(&mut core, &write, Commit::Failed("likewise".into()), now);
        now = now + Duration::from_secs(6);
        core.handle(Event::Tick, now);
        write = decided(&mut core).0.unwrap_or(write);
        assert!(now.since(ASKED) < Duration::from_secs(120), "{write:?}");
    }
    answer(
        &mut core,
        &write,
        Commit::Done(Revision(20)),
        now + Duration::from_secs(60),
    );
    let (written, told) = decided(&mut core);
    assert_eq!((written, told), (None, None));
}

#[test]
fn what_the_store_was_asked_for_and_did_not_answer_is_told_to_be_unknown() {
    let (mut core, write) = claimed();
    let late = ASKED + Duration::from_secs(30);
    core.handle(Event::Tick, late);
    let (written, told) = decided(&mut core);
    let told = told.unwrap();
    assert!(
        told.contains("was asked to give it to db-2 and has not said whether it did"),
        "{told}"
    );
    assert_eq!(written, None, "one write at a time");
    answer(&mut core, &write, Commit::Failed("no answer".into()), late);
    core.handle(Event::Tick, late + Duration::from_secs(6));
    assert_eq!(decided(&mut core).0.unwrap().holder, id("db-1"));
}

#[test]
fn a_demotion_that_may_take_longer_is_told_to_go_on_and_goes_on() {
    let mut core = holder_and_standby(FILE, ASKED);
    core.handle(switchover(1), ASKED);
    let late = ASKED + Duration::from_secs(30);
    core.handle(Event::Tick, late);
    let (written, told) = decided(&mut core);
    assert_eq!(written, None);
    assert!(
        told.unwrap()
            .contains("the switchover to db-2 has not ended and goes on")
    );
    core.handle(demoted(), late);
    assert_eq!(decided(&mut core).0.unwrap().holder, id("db-2"), "as it was said");
}

#[test]
fn why_nobody_took_a_slot_is_said_to_who_wants_it_moved() {
    let mut core = holder_and_standby(FILE, ASKED);
    let lost = ClusterEvent::Session {
        node: node("b"),
        session: None,
    };
    core.handle(Event::Cluster(lost), ASKED);
    let (instance, run) = (id("db-1"), RunId(1));
    let exited = Event::Exited {
        instance: instance.clone(),
        run,
        how: "exit code 1".into(),
    };
    core.handle(exited, ASKED);
    core.handle(Event::Gone { instance, run }, ASKED);
    while core.poll_decision().is_some() {}
    core.handle(switchover(2), ASKED);
    let told = std::iter::from_fn(|| core.poll_decision()).find_map(|decision| match decision.action {
        Action::Answer { request: 2, answer } => Some(answer.unwrap_err().to_string()),
        _ => None,
    });
    let told = told.unwrap();
    assert!(told.starts_with("the slot is vacant: "), "{told}");
    assert!(told.contains("; nobody can take it: db-1: "), "{told}");
}

fn switchover(request: u64) -> Event {
    Event::Switchover {
        request,
        service: ServiceName::new("db").unwrap(),
        slot: None,
        to: None,
    }
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
