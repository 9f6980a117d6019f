//! A version that is given up is so for every agent of a cluster, whoever found out.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot do its part has failed"
)]

mod pair;

use decisions::{
    Action, ClusterEvent, Core, Event, GivenUp, InstancePhase, NoteKind, Reason, Report, RolloutState, Trial,
};
use model::{Health, InstanceId, ServiceName, Timestamp};
use pair::{holder_and_standby, id, node, says};
use std::time::Duration;

const NOW: Timestamp = Timestamp(10_000_000);

const WORKS: &str = "
name = \"shop\"
[service.db]
command = [\"db\"]
exclusive = true
standby_mode = \"warm\"
on_promote = [\"promote\"]
";

fn broken() -> String {
    format!("{WORKS}env = {{ VERSION = \"two\" }}\n")
}

fn apply(core: &mut Core, file: &str) {
    core.handle(Event::Applied(spec::parse(file, "shop.toml").unwrap().cluster), NOW);
}

/// What `b` says of its standby, which runs from the file of before.
fn runs_earlier() -> Event {
    let Event::Cluster(ClusterEvent::Reported(report)) = says(None) else {
        panic!("it reports");
    };
    let current = false;
    Event::Cluster(ClusterEvent::Reported(Report { current, ..report }))
}

fn given_up() -> GivenUp {
    GivenUp {
        since: Timestamp(5_000_000),
        why: "db-2 took a slot with the new version and did not keep it, 2 times: on_promote failed: exit code 1"
            .into(),
        tries: 2,
        by: Some(node("b")),
        instance: id("db-2"),
        trial: Trial::Slot,
    }
}

fn hear(core: &mut Core, given_up: Option<GivenUp>) {
    let service = ServiceName::new("db").unwrap();
    core.handle(Event::GivenUp { service, given_up }, NOW);
}

fn decisions(core: &mut Core) -> Vec<Action> {
    std::iter::from_fn(|| core.poll_decision())
        .map(|decision| decision.action)
        .collect()
}

fn tries(actions: &[Action]) -> bool {
    let renews = |action: &Action| matches!(action, Action::AskRenew { .. } | Action::AskMove { drain: false, .. });
    actions.iter().any(renews)
}

/// An agent on `a` that is not the controller, after a version was put in force that `b` has not tried.
fn another_version() -> Core {
    let mut core = holder_and_standby(WORKS, NOW);
    apply(&mut core, &broken());
    core.handle(runs_earlier(), NOW);
    decisions(&mut core);
    core
}

fn elected(core: &mut Core) -> Vec<Action> {
    core.handle(
        Event::Cluster(ClusterEvent::Controller(true)),
        NOW + Duration::from_secs(10),
    );
    decisions(core)
}

#[test]
fn who_is_elected_tries_a_new_version_but_for_one_that_is_given_up() {
    assert!(tries(&elected(&mut another_version())), "nothing is known against it");
    let mut core = another_version();
    hear(&mut core, Some(given_up()));
    let told = decisions(&mut core);
    let is_told = |action: &Action| matches!(action, Action::Note(note) if note.kind == NoteKind::RolloutGivenUp);
    assert!(told.iter().any(is_told), "{told:?}");
    assert!(!tries(&elected(&mut core)));
    // Somebody asked for another try.
    hear(&mut core, None);
    assert!(tries(&decisions(&mut core)));
}

/// Whom the controller asks to go back to what worked.
fn sent_back(core: &mut Core) -> Vec<InstanceId> {
    let asked = std::iter::from_fn(|| core.poll_decision()).filter_map(|decision| match decision.action {
        Action::AskRenew { instance, .. } if decision.because == Reason::GoesBack => Some(instance),
        _ => None,
    });
    asked.collect()
}

#[test]
fn who_took_a_slot_in_vain_goes_back_to_what_worked_and_who_never_started_does_so_by_itself() {
    for (trial, back) in [(Trial::Slot, vec![id("db-2")]), (Trial::Start, Vec::new())] {
        let mut core = another_version();
        core.handle(says(None), NOW);
        let trial = GivenUp { trial, ..given_up() };
        hear(&mut core, Some(trial));
        core.handle(
            Event::Cluster(ClusterEvent::Controller(true)),
            NOW + Duration::from_secs(10),
        );
        assert_eq!(sent_back(&mut core), back);
        core.handle(runs_earlier(), NOW + Duration::from_secs(11));
        assert!(sent_back(&mut core).is_empty(), "it has gone back");
    }
}

#[test]
fn every_node_tells_that_it_is_given_up_and_why() {
    let mut core = another_version();
    hear(&mut core, Some(given_up()));
    let view = core.service_view(&ServiceName::new("db").unwrap(), NOW).unwrap();
    let rollout = view.rollout.unwrap();
    assert_eq!(rollout.state, RolloutState::GivenUp);
    assert_eq!(rollout.since, Some(given_up().since));
    assert_eq!(rollout.because.unwrap().to_string(), given_up().why);
    assert_eq!(rollout.given_up, Some(given_up()));
}

#[test]
fn what_an_earlier_controller_asked_for_comes_too_late() {
    let moves = |core: &mut Core| {
        let asked = ClusterEvent::MoveAsked {
            service: ServiceName::new("db").unwrap(),
            slot: 0,
            to: Some(id("db-2")),
            drain: false,
        };
        core.handle(Event::Cluster(asked), NOW);
        decisions(core).iter().any(|action| !matches!(action, Action::Note(_)))
    };
    assert!(moves(&mut another_version()));
    let mut core = another_version();
    hear(&mut core, Some(given_up()));
    decisions(&mut core);
    assert!(!moves(&mut core));
}

#[test]
fn another_file_that_declares_the_same_keeps_it_and_one_that_does_not_forgets_it() {
    let mut core = another_version();
    hear(&mut core, Some(given_up()));
    elected(&mut core);
    apply(&mut core, &format!("{}[service.web]\ncommand = [\"web\"]\n", broken()));
    let kept = decisions(&mut core);
    let writes = |action: &Action| matches!(action, Action::GiveUp { given_up: again, .. } if *again == given_up());
    assert!(kept.iter().any(writes), "it is written for the new file too: {kept:?}");
    assert!(!tries(&kept));
    apply(&mut core, &broken().replace("two", "three"));
    core.handle(runs_earlier(), NOW);
    let told = decisions(&mut core);
    assert!(tries(&told), "{told:?}");
}

#[test]
fn it_is_written_again_until_the_store_says_so_and_by_the_controller_alone() {
    let mut core = another_version();
    hear(&mut core, Some(given_up()));
    let same = format!("{}[service.web]\ncommand = [\"web\"]\n", broken());
    apply(&mut core, &same);
    let writes = |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::GiveUp { .. }));
    assert!(!writes(&decisions(&mut core)), "another one is the controller");
    assert!(writes(&elected(&mut core)));
    let later = |core: &mut Core, seconds: u64| {
        core.handle(Event::Tick, NOW + Duration::from_secs(seconds));
        decisions(core)
    };
    assert!(!writes(&later(&mut core, 12)));
    assert!(core.next_wakeup().is_some_and(|at| at <= NOW + Duration::from_secs(15)));
    assert!(writes(&later(&mut core, 16)));
    hear(&mut core, Some(given_up()));
    decisions(&mut core);
    assert!(!writes(&later(&mut core, 40)));
}

#[test]
fn a_version_that_did_not_start_is_tried_again_in_time_though_who_tried_it_is_gone_unless_all_went_back() {
    let since = NOW;
    let version = GivenUp {
        since,
        trial: Trial::Start,
        instance: id("db-7"),
        ..given_up()
    };
    let retry_after = spec::parse(&broken(), "shop.toml").unwrap().cluster.services[&ServiceName::new("db").unwrap()]
        .restart
        .retry_after
        .duration();
    let again = |core: &mut Core, at: Timestamp| {
        core.handle(Event::Tick, at);
        decisions(core)
            .iter()
            .any(|action| matches!(action, Action::TryAgain { .. }))
    };
    let mut core = another_version();
    hear(&mut core, Some(version.clone()));
    elected(&mut core);
    assert!(
        !again(&mut core, since + retry_after),
        "all run what worked, and nothing is tried by itself"
    );

    // A cold one is nobody's place: nobody goes back.
    let cold = |file: &str| file.replace("warm", "cold");
    let mut core = holder_and_standby(&cold(WORKS), NOW);
    apply(&mut core, &cold(&broken()));
    hear(&mut core, Some(version));
    elected(&mut core);
    assert!(!again(&mut core, since + retry_after - Duration::from_secs(1)));
    assert!(core.next_wakeup().is_some_and(|at| at <= since + retry_after));
    assert!(again(&mut core, since + retry_after));
}

#[test]
fn who_failed_with_the_version_before_says_nothing_of_the_one_that_mends_it() {
    let gave_up = |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::GiveUp { .. }));
    let Event::Cluster(ClusterEvent::Reported(report)) = says(None) else {
        panic!("it reports");
    };
    let failed = Event::Cluster(ClusterEvent::Reported(Report {
        phase: InstancePhase::Failed,
        health: Health::Down,
        deaths: 5,
        ..report
    }));
    let mut core = another_version();
    elected(&mut core);
    let at = NOW + Duration::from_secs(11);
    core.handle(failed.clone(), at);
    assert!(gave_up(&decisions(&mut core)), "b tried it in vain");
    let given_up = GivenUp {
        trial: Trial::Start,
        ..given_up()
    };
    hear(&mut core, Some(given_up));
    let mended = spec::parse(&broken().replace("two", "three"), "shop.toml").unwrap();
    core.handle(Event::Applied(mended.cluster), at);
    assert!(!gave_up(&decisions(&mut core)), "b has not heard of it yet");
    let view = core.service_view(&ServiceName::new("db").unwrap(), at).unwrap();
    assert_ne!(view.rollout.map(|rollout| rollout.state), Some(RolloutState::GivenUp));
    core.handle(Event::Tick, at + Duration::from_secs(1));
    assert!(!gave_up(&decisions(&mut core)));
    // And if it says so of this one as well:
    core.handle(failed, at + Duration::from_secs(4));
    assert!(gave_up(&decisions(&mut core)));
}
