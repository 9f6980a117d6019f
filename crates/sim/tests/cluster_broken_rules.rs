//! A rule of several machines that is broken on purpose is caught, by the promise that it breaks, and soon.

use sim::cluster::{ClusterMode, ClusterOptions, ClusterRule, ClusterSimulation, run_cluster, simulate_cluster};
use std::time::{Duration, Instant};

/// A rule whose breach takes longer to be seen is as good as not watched.
const WITHIN: Duration = Duration::from_secs(60);

fn is_caught(rule: ClusterRule) {
    let began = Instant::now();
    let mode = match rule {
        ClusterRule::NoHoldOff => ClusterMode::StoreOutage,
        _ => ClusterMode::Storm,
    };
    let whole_up_to = match rule {
        ClusterRule::ScopesNotNumbered | ClusterRule::NewcomersNotTold => 0,
        _ => ClusterOptions::default().whole_up_to,
    };
    let options = ClusterOptions {
        mode,
        broken: Some(rule),
        whole_up_to,
        of_before: rule == ClusterRule::NewcomersNotTold,
        ..ClusterOptions::default()
    };
    let mut seed = 0;
    while began.elapsed() < WITHIN {
        let violation = run_cluster(seed, &options).violation;
        if let Some(violation) = violation.filter(|violation| rule.caught_by().contains(&violation.invariant)) {
            println!("{rule}: seed {seed}, {violation}");
            let blames_the_operator = violation.what.contains("an operator stated `host n");
            assert_eq!(blames_the_operator, rule == ClusterRule::OperatorLies, "{violation}");
            return;
        }
        seed += 1;
    }
    panic!("nothing noticed within {seed} runs that {rule}");
}

macro_rules! rules {
    ($($test:ident: $rule:ident,)*) => {
        $(
            #[test]
            fn $test() {
                is_caught(ClusterRule::$rule);
            }
        )*

        #[test]
        fn every_rule_has_a_test() {
            assert_eq!([$(ClusterRule::$rule),*], ClusterRule::ALL);
        }
    };
}

rules! {
    a_missing_guard_is_caught: NoGuard,
    a_claim_that_comes_too_early_is_caught: ClaimTooEarly,
    a_lost_epoch_is_caught: EpochNotRaised,
    deadlines_by_wall_time_are_caught: WallClock,
    a_deadline_from_the_acknowledgement_is_caught: DeadlineFromAck,
    a_missing_hold_off_is_caught: NoHoldOff,
    a_claim_without_the_sessions_is_caught: SessionsNotCompared,
    a_take_that_condemns_nobody_is_caught: TakeWithoutCondemn,
    a_renewal_by_plain_put_is_caught: RenewPlainPut,
    a_release_before_the_end_is_caught: ReleaseBeforeDead,
    a_bind_that_is_not_compared_is_caught: BindNotCompared,
    an_own_deadline_that_is_not_checked_is_caught: DeadlineNotChecked,
    a_guard_that_hangs_unnoticed_is_caught: HungGuardNotNoticed,
    a_parked_slot_that_is_taken_is_caught: ParkNotCompared,
    an_end_that_is_judged_on_old_news_is_caught: CountNotCompared,
    a_scope_that_changes_back_unseen_is_caught: ScopesNotNumbered,
    a_newcomer_that_is_not_told_of_is_caught: NewcomersNotTold,
    a_false_statement_is_caught_and_told_as_the_cause: OperatorLies,
}

#[test]
fn a_failure_tells_the_command_that_replays_it_and_a_smaller_schedule_that_fails_too() {
    let options = ClusterOptions {
        broken: Some(ClusterRule::EpochNotRaised),
        ..ClusterOptions::default()
    };
    let simulation = ClusterSimulation {
        seeds: 0..60,
        options: options.clone(),
        threads: 1,
        within: Duration::ZERO,
    };
    let Some(failure) = simulate_cluster(&simulation, &|_| {}).failure else {
        panic!("the broken rule was not noticed");
    };
    let text = failure.to_string();
    let command = format!("understudy simulate --machines --seed {}", failure.seed);
    assert!(text.contains(&command), "{text}");
    assert!(
        failure.only.len() < options.faults / 2,
        "{} faults are left",
        failure.only.len()
    );
    assert!(failure.transcript.len() > 5, "{text}");
    let only = Some(failure.only.clone());
    let replayed = run_cluster(failure.seed, &ClusterOptions { only, ..options });
    assert_eq!(replayed.violation, Some(failure.violation));
}
