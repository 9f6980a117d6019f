//! A process that was active before and takes a slot again: a proxy that heard of nothing meanwhile still sends clients to it. From its
//! claim on it counts as the one with the newest data, whatever becomes of its promotion.

#![expect(clippy::unwrap_used, reason = "a test that cannot do its part has failed")]

mod pair;

use decisions::{
    Action, Adopted, ClusterEvent, Commit, Core, Event, HookOutcome, InstancePhase, ProbeOutcome, Recovered, Report,
    SlotKnown, SlotWrite,
};
use model::{Epoch, HookKind, InstanceId, Revision, RunId, SlotId, Timestamp};
use pair::{holder, holder_and_standby, id, node, says, slot};
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

#[test]
fn who_served_before_has_the_newest_data_from_its_claim_on() {
    let mut core = holder_and_standby(FILE, NOW);
    decided(&mut core);
    hear(&mut core, ClusterEvent::Slot(slot(20, 7, "db-2", "b", 2, true)));
    core.handle(says(Some(2)), NOW);
    let demoted = decided(&mut core);
    assert!(
        demoted.iter().any(|action| matches!(
            action,
            Action::RunHook {
                hook: HookKind::Demote,
                ..
            }
        )),
        "{demoted:?}"
    );
    core.handle(
        Event::HookDone {
            instance: id("db-1"),
            run: RunId(1),
            hook: HookKind::Demote,
            epoch: Epoch(1),
            outcome: HookOutcome::Done,
        },
        NOW,
    );
    decided(&mut core);
    let claim = claim_when_b_is_lost(&mut core);
    assert_eq!(claim.served_before, Some(RunId(1)));
    assert_eq!(
        claim.data,
        Some((id("db-2"), Epoch(2))),
        "who served last stays written down: the process may be gone by then"
    );
}

#[test]
fn an_agent_that_came_back_knows_who_served_before() {
    let mut core = back(true);
    let claim = claim_when_b_is_lost(&mut core);
    assert_eq!(claim.served_before, Some(RunId(7)));
}

#[test]
fn who_never_served_has_no_newer_data_for_having_claimed() {
    let mut core = back(false);
    let claim = claim_when_b_is_lost(&mut core);
    assert_eq!(claim.served_before, None);
}

/// The holder's node gives the slot to an instance of another node, which alone knows what that did in earlier epochs.
#[test]
fn other_nodes_are_told_who_served_before() {
    for served in [true, false] {
        let mut core = holder_and_standby(FILE, NOW);
        let Event::Cluster(ClusterEvent::Reported(report)) = says(None) else {
            unreachable!("b says something")
        };
        hear(&mut core, ClusterEvent::Reported(Report { served, ..report }));
        decided(&mut core);
        ends(&mut core, "db-1");
        let claim = claim_of(&decided(&mut core), 0).expect("its standby takes over");
        assert_eq!((claim.holder, claim.served_before.is_some()), (id("db-2"), served));
    }
}

/// Who is given the slot counts as having the newest data from then on, but may have ended by then, unheard.
#[test]
fn who_served_last_is_replaced_only_if_who_took_over_from_it_serves() {
    let serves_at_once = FILE.replace("on_promote = [\"promote\"]\n", "");
    for (file, serves) in [(FILE, false), (&serves_at_once, true)] {
        assert_eq!(is_replaced(file), serves);
    }
}

/// Whether `db-1`, whose slot went to `db-2`, is replaced after its starts failed.
fn is_replaced(file: &str) -> bool {
    let mut core = holder_and_standby(file, NOW);
    let Event::Cluster(ClusterEvent::Reported(report)) = says(None) else {
        unreachable!("b says something")
    };
    let served = true;
    hear(&mut core, ClusterEvent::Reported(Report { served, ..report }));
    decided(&mut core);
    ends(&mut core, "db-1");
    let mut actions = decided(&mut core);
    let claim = claim_of(&actions, 0).expect("its standby takes over");
    assert!(claim.served_before.is_some());
    let done = Event::Committed {
        slot: claim.slot,
        attempt: claim.attempt,
        result: Commit::Done(Revision(30)),
    };
    core.handle(done, NOW);
    let mut failed = 0;
    for second in 1..100 {
        for action in &actions {
            let Action::Start { instance, run, .. } = action else {
                continue;
            };
            assert_eq!(*instance, id("db-1"));
            failed += 1;
            let (instance, run, error) = (instance.clone(), *run, "no space left on device".into());
            core.handle(Event::StartFailed { instance, run, error }, NOW);
        }
        core.handle(Event::Tick, NOW + Duration::from_secs(second));
        actions = decided(&mut core);
        if actions.iter().any(|action| matches!(action, Action::Forget { .. })) {
            assert!(failed >= 3, "{failed} starts failed");
            return true;
        }
    }
    let phase = core.report_of(&id("db-1"), NOW).unwrap().phase;
    assert!(failed >= 3, "{failed} starts failed");
    assert_eq!(phase, InstancePhase::Failed);
    false
}

/// The promotion that follows fails: what it was told meanwhile is known to be there.
#[test]
fn who_served_before_has_the_newest_data_also_if_its_promotion_fails() {
    let mut core = back(true);
    let claim = claim_when_b_is_lost(&mut core);
    let (run, epoch) = (RunId(7), claim.epoch);
    let done = Event::Committed {
        slot: claim.slot,
        attempt: claim.attempt,
        result: Commit::Done(Revision(30)),
    };
    core.handle(done, NOW);
    let armed = Event::Armed {
        instance: id("db-1"),
        epoch,
        result: Ok(()),
    };
    core.handle(armed, NOW);
    core.handle(
        Event::HookDone {
            instance: id("db-1"),
            run,
            hook: HookKind::Promote,
            epoch,
            outcome: HookOutcome::Failed("exit code 1".into()),
        },
        NOW,
    );
    decided(&mut core);
    ends(&mut core, "db-1");
    started(&mut core, "db-1");
    core.handle(Event::Tick, NOW + Duration::from_secs(10));
    let again = claim_of(&decided(&mut core), 0).expect("its next process takes the slot");
    assert_eq!(
        (again.holder, again.data.map(|(holder, _)| holder)),
        (id("db-1"), Some(id("db-1")))
    );
}

/// Who gives it the slot has not heard that its process ended.
#[test]
fn the_next_process_of_who_served_before_is_not_taken_for_it() {
    let file = format!("{FILE}on_follow = [\"follow\"]\n");
    let told = SlotKnown {
        data: Some((id("db-2"), Epoch(2))),
        served_before: Some(RunId(7)),
        ..slot(30, 9, "db-1", "a", 3, false)
    };
    let arms = |core: &mut Core| decided(core).iter().any(|action| matches!(action, Action::Arm { .. }));

    let mut core = back_with(&file, true);
    hear(&mut core, ClusterEvent::Slot(told.clone()));
    assert!(arms(&mut core), "the process that follows is promoted");

    let mut core = back_with(&file, true);
    ends(&mut core, "db-1");
    assert!(started(&mut core, "db-1"));
    core.handle(Event::Tick, NOW + Duration::from_secs(1));
    decided(&mut core);
    hear(&mut core, ClusterEvent::Slot(told));
    let actions = decided(&mut core);
    let arms = |action: &Action| matches!(action, Action::Arm { .. });
    assert!(
        !actions.iter().any(arms),
        "nobody knows what the next one has: {actions:?}"
    );
    let back = claim_of(&actions, 0).expect("it is given back");
    assert_eq!(back.holder, id("db-2"));
}

/// Its node lost its power before it heard of the slot: the process that was meant had ended before, or after.
#[test]
fn a_node_that_comes_back_with_another_process_does_not_take_the_slot_for_it() {
    let file = format!("{FILE}on_follow = [\"follow\"]\n");
    let given = SlotKnown {
        data: Some((id("db-2"), Epoch(2))),
        served_before: Some(RunId(6)),
        ..slot(30, 9, "db-1", "a", 3, false)
    };
    let anew = Adopted {
        followed: None,
        ..of_a(false)
    };
    let mut core = recovered(&file, vec![given], anew, &["db-2"]);
    core.handle(says(None), NOW);
    let mut actions = decided(&mut core);
    let stops = |action: &Action| matches!(action, Action::Stop { instance, .. } if *instance == id("db-1"));
    assert!(
        actions.iter().any(stops),
        "nothing of its holder runs when it is given on: {actions:?}"
    );
    ends(&mut core, "db-1");
    core.handle(Event::Tick, NOW + Duration::from_secs(1));
    actions.extend(decided(&mut core));
    let writes: Vec<&SlotWrite> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Write(write) => Some(write),
            _ => None,
        })
        .collect();
    assert!(!writes.is_empty(), "{actions:?}");
    for write in writes {
        assert!(!write.held || write.holder == id("db-2"), "{write:?}");
        assert_eq!(write.data.as_ref().map(|(holder, _)| holder), Some(&id("db-2")));
    }
}

/// Nobody could take it at once: the others hear all the same who has the newest data, and do not end it.
#[test]
fn a_slot_that_was_given_to_a_process_that_is_gone_is_given_up_with_who_served_last() {
    let file = format!("{FILE}on_follow = [\"follow\"]\n");
    let mut core = back_with(&file, true);
    ends(&mut core, "db-1");
    assert!(started(&mut core, "db-1"));
    core.handle(Event::Tick, NOW + Duration::from_secs(1));
    let gone = ClusterEvent::Session {
        node: node("b"),
        session: None,
    };
    hear(&mut core, gone);
    decided(&mut core);
    hear(
        &mut core,
        ClusterEvent::Slot(SlotKnown {
            data: Some((id("db-2"), Epoch(2))),
            served_before: Some(RunId(7)),
            ..slot(30, 9, "db-1", "a", 3, false)
        }),
    );
    let written: Vec<SlotWrite> = decided(&mut core)
        .into_iter()
        .filter_map(|action| match action {
            Action::Write(write) => Some(write),
            _ => None,
        })
        .collect();
    let [release] = written.as_slice() else {
        panic!("one write: {written:?}")
    };
    assert!(!release.held);
    assert_eq!(release.data, Some((id("db-2"), Epoch(2))));
}

#[test]
fn what_is_told_of_an_instance_says_whether_its_process_served() {
    let mut core = back(true);
    let told = |core: &Core| core.report_of(&id("db-1"), NOW).unwrap();
    assert!(told(&core).served);
    ends(&mut core, "db-1");
    assert!(started(&mut core, "db-1"));
    assert!(!told(&core).served, "the next process has not");
}

/// A claim for another one is not answered, and is tried again when the last holder has another slot.
#[test]
fn who_takes_a_slot_does_not_end_its_last_holder_which_has_another_one() {
    let mut core = with_two_slots();
    decided(&mut core);
    ends(&mut core, "db-1");
    let first = claim_of(&decided(&mut core), 0).expect("a standby takes slot 0");
    assert_eq!(first.holder, id("db-3"));
    started(&mut core, "db-1");
    let run = RunId(2);
    probed(&mut core, "db-1", run);

    // Meanwhile b gives slot 1 to who held slot 0, and is a standby by now.
    let given = slot(30, 8, "db-1", "a", 5, false);
    hear(&mut core, ClusterEvent::Slot(of_slot_1(given)));
    let armed = Event::Armed {
        instance: id("db-1"),
        epoch: Epoch(5),
        result: Ok(()),
    };
    core.handle(armed, NOW);
    let hook = |action: &Action| matches!(action, Action::RunHook { instance, .. } if *instance == id("db-1"));
    assert!(decided(&mut core).iter().any(hook), "it is promoted for slot 1");
    core.handle(
        Event::HookDone {
            instance: id("db-1"),
            run,
            hook: HookKind::Promote,
            epoch: Epoch(5),
            outcome: HookOutcome::Done,
        },
        NOW,
    );
    decided(&mut core);

    core.handle(
        Event::Committed {
            slot: first.slot,
            attempt: first.attempt,
            result: Commit::Failed("nobody knows".into()),
        },
        NOW,
    );
    let mut actions = decided(&mut core);
    core.handle(Event::Tick, NOW + Duration::from_secs(10));
    actions.extend(decided(&mut core));
    let again = claim_of(&actions, 0).expect("the claim is tried again");
    assert_eq!(again.holder, id("db-3"));
    let stop = |action: &Action| matches!(action, Action::Stop { .. });
    assert!(!actions.iter().any(stop), "{actions:?}");
}

/// An agent on `a` that finds a standby of which it was noted whether it served before; the active is on `b`.
fn back(served: bool) -> Core {
    back_with(FILE, served)
}

fn back_with(file: &str, served: bool) -> Core {
    let mut core = recovered(file, vec![slot(20, 7, "db-2", "b", 2, true)], of_a(served), &["db-2"]);
    core.handle(says(Some(2)), NOW);
    decided(&mut core);
    core
}

/// A standby that the agent on `a` finds.
fn of_a(served: bool) -> Adopted {
    Adopted {
        since: None,
        instance: id("db-1"),
        node: node("a"),
        run: RunId(7),
        running: true,
        current: true,
        promoted: None,
        acts: None,
        served,
        followed: Some(Epoch(2)),
        stands_by: None,
        healthy: true,
    }
}

/// `db-1` on `a` has slot 0, `db-2` on `b` slot 1, and `db-3` on `b` stands by.
fn with_two_slots() -> Core {
    let file = FILE
        .replace("active = 1", "active = 2")
        .replace("[service.db]", "[service.db]\nport = true\ncheck = { tcp = true }");
    let slots = vec![
        slot(10, 1, "db-1", "a", 1, true),
        of_slot_1(slot(11, 2, "db-2", "b", 2, true)),
    ];
    let mut core = recovered(&file, slots, holder(), &["db-2", "db-3"]);
    core.handle(says(Some(2)), NOW);
    let Event::Cluster(ClusterEvent::Reported(report)) = says(None) else {
        unreachable!("b says something")
    };
    let instance = id("db-3");
    hear(&mut core, ClusterEvent::Reported(Report { instance, ..report }));
    let armed = Event::Armed {
        instance: id("db-1"),
        epoch: Epoch(1),
        result: Ok(()),
    };
    core.handle(armed, NOW);
    core
}

fn recovered(file: &str, slots: Vec<SlotKnown>, adopted: Adopted, on_b: &[&str]) -> Core {
    let mut core = Core::clustered(1, 1_000, 0, node("a"), Duration::from_millis(80));
    let member = |name| ClusterEvent::Member {
        node: node(name),
        runs_services: true,
        member: true,
        place: decisions::Place::default(),
    };
    let assigned = |name: &str, on| ClusterEvent::Assigned {
        instance: id(name),
        node: node(on),
        retiring: false,
        placed: Revision(1),
    };
    let mut elsewhere = vec![
        ClusterEvent::OwnSession(Some(Revision(1))),
        ClusterEvent::Session {
            node: node("b"),
            session: Some(Revision(2)),
        },
        member("a"),
        member("b"),
        assigned("db-1", "a"),
    ];
    elsewhere.extend(on_b.iter().map(|name| assigned(name, "b")));
    core.handle(Event::Cluster(ClusterEvent::OwnSession(Some(Revision(1)))), NOW);
    let recovered = Recovered {
        worked: None,
        cluster: spec::parse(file, "shop.toml").unwrap().cluster,
        slots,
        instances: vec![adopted],
        numbers: Vec::new(),
        routes: Vec::new(),
        elsewhere,
    };
    core.handle(Event::Recovered(recovered), NOW);
    core.handle(Event::Cluster(ClusterEvent::OwnSession(Some(Revision(1)))), NOW);
    core
}

fn claim_when_b_is_lost(core: &mut Core) -> SlotWrite {
    hear(
        core,
        ClusterEvent::Session {
            node: node("b"),
            session: None,
        },
    );
    let claim = claim_of(&decided(core), 0).expect("the slot is claimed");
    assert_eq!(claim.holder, id("db-1"));
    claim
}

fn of_slot_1(known: SlotKnown) -> SlotKnown {
    let service = known.slot.service.clone();
    SlotKnown {
        slot: SlotId { service, slot: 1 },
        ..known
    }
}

/// The process of an instance dies with all that belongs to it.
fn ends(core: &mut Core, name: &str) {
    let (instance, run) = (id(name), core.report_of(&id(name), NOW).unwrap().run);
    let how = "killed by SIGKILL".into();
    core.handle(
        Event::Exited {
            instance: instance.clone(),
            run,
            how,
        },
        NOW,
    );
    core.handle(Event::Gone { instance, run }, NOW);
}

/// Whether it is started again; then it runs.
fn started(core: &mut Core, name: &str) -> bool {
    let instance: InstanceId = id(name);
    let run = core.report_of(&instance, NOW).unwrap().run;
    let start = |action: &Action| matches!(action, Action::Start { instance, .. } if *instance == id(name));
    let starts = decided(core).iter().any(start);
    core.handle(Event::Started { instance, run }, NOW);
    starts
}

fn probed(core: &mut Core, name: &str, run: RunId) {
    let probed = Event::Probed {
        instance: id(name),
        run,
        standby: false,
        began: NOW,
        outcome: ProbeOutcome::Pass,
    };
    core.handle(probed, NOW);
}

fn hear(core: &mut Core, event: ClusterEvent) {
    core.handle(Event::Cluster(event), NOW);
}

fn decided(core: &mut Core) -> Vec<Action> {
    std::iter::from_fn(|| core.poll_decision())
        .map(|decision| decision.action)
        .collect()
}

fn claim_of(actions: &[Action], slot: u32) -> Option<SlotWrite> {
    actions.iter().find_map(|action| match action {
        Action::Write(write) if write.slot.slot == slot && write.claims => Some(write.clone()),
        _ => None,
    })
}
