//! Power fencing (T4f) under faults: the product's fencer, its order of calls, its observer and its transactions, on nodes and devices that are made up.
//!
//! A node may hang with its processes writing on, lose its power, be cut off from the store, see what is there late, and lose its agent in the middle
//! of anything; what its processes wrote reaches the shared disk after they are dead. Devices are slow, late, dead, do nothing, or switch off and say
//! that they failed; what they say when asked is true.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "power/agent.rs"]
mod agent;
#[path = "power/device.rs"]
mod device;
#[path = "power/fencing.rs"]
mod fencing;
#[path = "power/node.rs"]
mod node;
#[path = "power/view.rs"]
mod view;
#[path = "power/world.rs"]
mod world;

use device::Mode;
use std::ops::Range;
use world::{Broken, FATES, Fate, Outcome, World};

/// Storms of the default run; `UNDERSTUDY_STORMS` is another number.
const STORMS: u64 = 100;
/// A broken rule is found in one of so many.
const BROKEN_STORMS: u64 = 100;

/// Plays all seeds, on two threads, and returns what came of each.
fn play(seeds: Range<u64>, one: impl Fn(u64) -> Outcome + Sync) -> Vec<(u64, Outcome)> {
    let one = &one;
    std::thread::scope(|scope| {
        let threads = [0, 1].map(|half| {
            let seeds = seeds.clone().skip(half).step_by(2);
            scope.spawn(move || seeds.map(|seed| (seed, one(seed))).collect::<Vec<_>>())
        });
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn a_host_that_still_writes_never_has_a_successor_and_no_later_incarnation_is_hit() {
    let storms = std::env::var("UNDERSTUDY_STORMS").map_or(STORMS, |number| number.parse().unwrap());
    let mut all = Outcome::default();
    for (seed, outcome) in play(0..storms, |seed| World::new(seed, None).play()) {
        assert_eq!(outcome.wrong, Vec::<String>::new(), "seed {seed}");
        all.add(&outcome);
    }
    println!("{all:?}");
    // Nothing was shown if it did not happen.
    assert!(all.takes > 300 && all.offs > 100 && all.failed > 20, "{all:?}");
    assert!(all.inherited > 0 && all.resumed > 0 && all.withdrawn > 0, "{all:?}");
}

#[test]
fn a_fencer_that_goes_at_any_step_is_followed_by_another() {
    for device in [Mode::Good, Mode::Late, Mode::Gloomy, Mode::Stuck] {
        for fate in FATES {
            for (step, outcome) in play(0..12, |step| {
                World::play_step(step, device, usize::try_from(step).unwrap(), fate, None)
            }) {
                assert_eq!(
                    outcome.wrong,
                    Vec::<String>::new(),
                    "{device:?}, {fate:?} at step {step}"
                );
                assert!(outcome.steps > 0, "nobody was at its power");
            }
        }
    }
}

#[test]
fn half_of_all_nodes_at_once_are_not_fenced() {
    let mut held = 0;
    for (seed, outcome) in play(0..20, |seed| World::play_rack(seed, None)) {
        assert_eq!(outcome.wrong, Vec::<String>::new(), "seed {seed}");
        held += usize::from(outcome.begun < 3);
    }
    assert!(held > 10, "{held}");
}

#[test]
fn a_node_that_was_dark_before_is_given_its_power_back_and_one_that_goes_on_is_left_alone() {
    for (seed, outcome) in play(0..40, |seed| World::play_dark(seed, None)) {
        assert_eq!(outcome.wrong, Vec::<String>::new(), "seed {seed}");
    }
    for (seed, outcome) in play(0..40, |seed| World::play_goes_on(seed, None)) {
        assert_eq!(outcome.wrong, Vec::<String>::new(), "seed {seed}");
    }
}

fn is_caught(by: &str, one: impl Fn(u64) -> Outcome) {
    let caught = |seed: &u64| one(*seed).wrong.iter().any(|wrong| wrong.contains(by));
    assert!((0..BROKEN_STORMS).any(|seed| caught(&seed)), "it is not found");
}

fn is_caught_in_a_storm(broken: Broken, by: &str) {
    is_caught(by, |seed| World::new(seed, Some(broken)).play());
}

#[test]
fn taken_before_off_is_read_back() {
    is_caught_in_a_storm(Broken::NotReadBack, "two write");
}

#[test]
fn confirmation_not_bound_to_its_session() {
    is_caught_in_a_storm(Broken::NotBound, "two write");
}

#[test]
fn a_session_is_opened_while_somebody_is_at_the_power() {
    is_caught_in_a_storm(Broken::OpensWhilePowering, "later incarnation");
}

#[test]
fn taken_without_any_proof() {
    is_caught_in_a_storm(Broken::NoProof, "two write");
}

#[test]
fn another_goes_on_without_waiting_for_what_was_begun() {
    is_caught_in_a_storm(Broken::DoesNotWait, "two at the power");
}

#[test]
fn a_session_is_opened_before_everything_is_written_back() {
    is_caught_in_a_storm(Broken::NotWrittenBack, "two write");
}

#[test]
fn power_is_given_back_before_what_was_told_has_settled() {
    is_caught("later incarnation", |seed| {
        World::play_dark(seed, Some(Broken::NotSettled))
    });
}

#[test]
fn a_fencer_does_not_look_at_its_own_session() {
    is_caught("without the majority", |seed| {
        World::play_step(seed, Mode::Slow, 1, Fate::IsCutOff, Some(Broken::SessionNotLookedAt))
    });
}

#[test]
fn an_intent_does_not_compare_the_renewal_that_was_seen() {
    is_caught("a node that renews is fenced", |seed| {
        World::play_goes_on(seed, Some(Broken::RenewalNotCompared))
    });
}

#[test]
fn nothing_brakes() {
    is_caught("a storm of fencing", |seed| {
        World::play_rack(seed, Some(Broken::BrakeBlind))
    });
}
