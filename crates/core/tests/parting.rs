//! Before a floating address moves in order, its node parts with the clients whose connections would not move with it.

#![expect(clippy::unwrap_used, reason = "a test that cannot do its part has failed")]

mod pair;

use decisions::{Action, ClusterEvent, Commit, Core, Event, HookOutcome};
use model::{HookKind, Revision, RunId, ServiceName, Timestamp};
use pair::{holder_and_standby, id, node, says, slot};
use std::time::Duration;

const FILE: &str = r#"
[service.db]
command = ["db"]
exclusive = true
active = 1
standby = 1
standby_mode = "warm"
listen = "10.0.0.100:5000"
address = "10.0.0.100/24"
drain_timeout = "2s"
on_promote = ["promote"]
on_demote = ["demote"]
"#;

/// What is done to clients, and when the holder stops to act, in order.
fn decided(core: &mut Core) -> Vec<String> {
    let in_words = |action| match action {
        Action::Part { instance, shut: false } => Some(format!("ask clients of {instance} to come back")),
        Action::Part { instance, shut: true } => Some(format!("keep new clients of {instance} back")),
        Action::Rejoin { instance } => Some(format!("let clients of {instance} in")),
        Action::Route { targets, .. } if targets.is_empty() => Some("hold".to_string()),
        Action::Route { targets, .. } => Some(format!("route to {}", targets[0].instance)),
        Action::RunHook {
            hook: HookKind::Demote,
            instance,
            ..
        } => Some(format!("demote {instance}")),
        Action::Write(write) => Some(format!("claim for {}", write.holder)),
        _ => None,
    };
    let decided = std::iter::from_fn(|| core.poll_decision());
    decided.filter_map(|decision| in_words(decision.action)).collect()
}

fn parted(shut: bool) -> Event {
    let instance = id("db-1");
    Event::Parted { instance, shut }
}

/// A switchover that was just asked for.
fn asked(now: Timestamp) -> Core {
    let mut core = holder_and_standby(FILE, now);
    decided(&mut core);
    let switchover = Event::Switchover {
        request: 1,
        service: ServiceName::new("db").unwrap(),
        slot: None,
        to: None,
    };
    core.handle(switchover, now);
    assert_eq!(decided(&mut core), ["ask clients of db-1 to come back"]);
    core
}

#[test]
fn clients_are_asked_then_kept_back_then_held_and_let_in_when_it_has_moved() {
    let now = Timestamp(1_000_000);
    let mut core = asked(now);
    // An answer of an earlier time says nothing.
    core.handle(parted(true), now);
    assert!(decided(&mut core).is_empty());
    core.handle(parted(false), now);
    assert_eq!(decided(&mut core), ["keep new clients of db-1 back"]);
    core.handle(parted(false), now);
    assert!(decided(&mut core).is_empty());
    core.handle(parted(true), now);
    assert_eq!(decided(&mut core), ["hold"]);
    core.handle(Event::Drained { instance: id("db-1") }, now);
    let left = ClusterEvent::Left {
        instance: id("db-1"),
        by: node("b"),
    };
    core.handle(Event::Cluster(left), now);
    assert_eq!(decided(&mut core), ["demote db-1"]);
    let done = Event::HookDone {
        instance: id("db-1"),
        run: RunId(1),
        hook: HookKind::Demote,
        epoch: model::Epoch(1),
        outcome: HookOutcome::Done,
    };
    core.handle(done, now);
    let mut write = None;
    while let Some(decision) = core.poll_decision() {
        match decision.action {
            Action::Write(asked) => write = Some(asked),
            Action::Rejoin { .. } => panic!("the address is on no host yet"),
            _ => {}
        }
    }
    let write = write.expect("the slot is handed over");
    let committed = Event::Committed {
        slot: write.slot.clone(),
        attempt: write.attempt,
        result: Commit::Done(Revision(20)),
    };
    core.handle(committed, now);
    let told = slot(21, 77, "db-2", "b", write.epoch.0, true);
    core.handle(Event::Cluster(ClusterEvent::Slot(told)), now);
    core.handle(says(Some(write.epoch.0)), now);
    let decided = decided(&mut core);
    let times = |wanted: &str| decided.iter().filter(|decided| *decided == wanted).count();
    assert_eq!(
        (times("let clients of db-1 in"), times("route to db-2")),
        (1, 1),
        "{decided:?}"
    );
}

#[test]
fn clients_that_stay_hold_a_switchover_up_for_a_bounded_time() {
    let mut now = Timestamp(1_000_000);
    let mut core = asked(now);
    let mut seen = Vec::new();
    while seen.last().is_none_or(|(_, last)| last != "demote db-1") {
        let at = core.next_wakeup().expect("it goes on by itself");
        assert!(at > now);
        now = at;
        core.handle(Event::Tick, now);
        let ms = now.since(Timestamp(1_000_000)).as_millis();
        seen.extend(decided(&mut core).into_iter().map(|decided| (ms, decided)));
    }
    let seen: Vec<(u128, &str)> = seen.iter().map(|(ms, decided)| (*ms, decided.as_str())).collect();
    // Requests under way have their `drain_timeout`, and a second for the proxy to say so.
    let expected = [
        (1_000, "keep new clients of db-1 back"),
        (4_000, "hold"),
        (7_000, "demote db-1"),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn clients_are_let_in_at_once_when_nobody_can_take_over_any_more() {
    let mut now = Timestamp(1_000_000);
    for parts in [vec![], vec![false], vec![false, true]] {
        let mut core = asked(now);
        for shut in parts {
            core.handle(parted(shut), now);
        }
        decided(&mut core);
        now = now + Duration::from_millis(1);
        let lost = ClusterEvent::Session {
            node: node("b"),
            session: None,
        };
        core.handle(Event::Cluster(lost), now);
        let decided = decided(&mut core);
        assert_eq!(
            decided
                .iter()
                .filter(|decided| *decided == "let clients of db-1 in")
                .count(),
            1,
            "{decided:?}"
        );
        assert!(!decided.contains(&"demote db-1".to_string()));
    }
}

/// Who answers at its address by itself has no proxy that would tell clients to come back: new ones are kept back at once, until its node says
/// that nobody is waited for. A node that never does holds nothing up for long.
#[test]
fn where_there_is_no_proxy_new_clients_are_kept_back_at_once() {
    let now = Timestamp(1_000_000);
    let file = FILE.replace("listen = \"10.0.0.100:5000\"\n", "");
    let mut core = holder_and_standby(&file, now);
    decided(&mut core);
    core.handle(
        Event::Switchover {
            request: 1,
            service: ServiceName::new("db").unwrap(),
            slot: None,
            to: None,
        },
        now,
    );
    assert_eq!(decided(&mut core), ["keep new clients of db-1 back"]);
    core.handle(Event::Tick, now + Duration::from_millis(2_999));
    assert!(decided(&mut core).is_empty(), "somebody is connected still");
    core.handle(Event::Tick, now + Duration::from_millis(3_000));
    assert_eq!(decided(&mut core), ["demote db-1"]);
}
