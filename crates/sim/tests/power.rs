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
use world::{Broken, FATES, Outcome, World};

/// Storms of the default run; `UNDERSTUDY_STORMS` is another number.
const STORMS: u64 = 60;
/// A broken rule is found in one of so many.
const BROKEN_STORMS: u64 = 200;

/// Plays all seeds, on as many threads as there are, and returns what came of each.
fn play(seeds: Range<u64>, one: impl Fn(u64) -> Outcome + Sync) -> Vec<(u64, Outcome)> {
    let halves = [seeds.clone(), seeds].map(|seeds| seeds.collect::<Vec<_>>());
    let one = &one;
    std::thread::scope(|scope| {
        let threads: Vec<_> = halves
            .into_iter()
            .enumerate()
            .map(|(half, seeds)| {
                let seeds = seeds.into_iter().skip(half).step_by(2);
                scope.spawn(move || seeds.map(|seed| (seed, one(seed))).collect::<Vec<_>>())
            })
            .collect();
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
                World::play_step(step, device, usize::try_from(step).unwrap(), fate)
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

fn is_caught(broken: Broken, by: &str) {
    for seed in 0..BROKEN_STORMS {
        let outcome = World::new(seed, Some(broken)).play();
        if outcome.wrong.iter().any(|wrong| wrong.contains(by)) {
            println!("{broken:?}: seed {seed}");
            return;
        }
    }
    panic!("{broken:?} is not found");
}

#[test]
fn taken_before_off_is_read_back() {
    is_caught(Broken::NotReadBack, "two write");
}

#[test]
fn confirmation_not_bound_to_its_session() {
    is_caught(Broken::NotBound, "two write");
}

#[test]
fn a_session_is_opened_while_somebody_is_at_the_power() {
    is_caught(Broken::OpensWhilePowering, "later incarnation");
}

#[test]
fn taken_without_any_proof() {
    is_caught(Broken::NoProof, "two write");
}

#[test]
fn another_goes_on_without_waiting_for_what_was_begun() {
    is_caught(Broken::DoesNotWait, "two at the power");
}

#[test]
fn power_is_given_back_before_what_was_told_has_settled() {
    is_caught(Broken::NotSettled, "later incarnation");
}

#[test]
fn a_session_is_opened_before_everything_is_written_back() {
    is_caught(Broken::NotWrittenBack, "two write");
}

#[test]
fn a_fencer_does_not_look_at_its_own_session() {
    is_caught(Broken::SessionNotLookedAt, "without the majority");
}

#[test]
fn an_intent_does_not_compare_the_renewal_that_was_seen() {
    is_caught(Broken::RenewalNotCompared, "a node that renews is fenced");
}

#[test]
fn the_brake_does_not_see_all_who_are_lost() {
    for seed in 0..BROKEN_STORMS {
        let outcome = World::play_rack(seed, Some(Broken::BrakeSeesOne));
        if outcome.wrong.iter().any(|wrong| wrong.contains("a storm of fencing")) {
            return;
        }
    }
    panic!("it is not found");
}
