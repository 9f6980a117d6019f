//! A rule broken on purpose is caught, by the promise that it breaks.

use sim::{BrokenRule, Options, Simulation, run, simulate};

/// A rule whose breach takes more runs than this to be seen is as good as not watched.
const SEEDS: u64 = 60;

#[test]
fn every_broken_rule_is_caught_by_its_promise() {
    for rule in BrokenRule::ALL {
        let options = Options {
            broken: Some(rule),
            ..Options::default()
        };
        let caught = (0..SEEDS).find_map(|seed| {
            let violation = run(seed, &options).violation?;
            rule.caught_by().contains(&violation.invariant).then_some(violation)
        });
        match caught {
            Some(violation) => println!("{rule}: {violation}"),
            None => panic!("nothing noticed within {SEEDS} runs that {rule}"),
        }
    }
}

#[test]
fn a_failure_tells_the_command_that_replays_it_and_a_smaller_schedule_that_fails_too() {
    let options = Options {
        broken: Some(BrokenRule::FollowNotAwaited),
        ..Options::default()
    };
    let simulation = Simulation {
        seeds: 0..SEEDS,
        options: options.clone(),
        threads: 1,
    };
    let Some(failure) = simulate(&simulation, &|_| {}).failure else {
        panic!("the broken rule was not noticed");
    };
    let text = failure.to_string();
    assert!(
        text.contains(&format!("understudy simulate --seed {}", failure.seed)),
        "{text}"
    );
    assert!(text.contains(failure.violation.invariant), "{text}");
    assert!(failure.transcript.len() > 5, "{text}");
    assert!(
        failure.only.len() < options.faults / 2,
        "{} faults are left",
        failure.only.len()
    );
    let replayed = run(
        failure.seed,
        &Options {
            only: Some(failure.only.clone()),
            ..options
        },
    );
    assert_eq!(replayed.violation, Some(failure.violation));
}
