//! Power fencing (T4f) under faults: the product's fencer, its order of calls, its observer and its transactions, on nodes and devices that are made up.
//!
//! A node may hang with its process writing on, lose its power, be cut off from the store, and lose its agent in the middle of anything. Devices are
//! slow, late, dead, or switch off and say that they failed; what they say when asked is true.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "power/world.rs"]
mod world;

use world::{Broken, Outcome, World};

const SEEDS: u64 = 150;

fn many(broken: Option<Broken>) -> Vec<(u64, Outcome)> {
    (0..SEEDS).map(|seed| (seed, World::new(seed, broken).play())).collect()
}

#[test]
fn a_host_that_still_writes_never_has_a_successor_and_no_later_incarnation_is_hit() {
    let mut all = Outcome::default();
    for (seed, outcome) in many(None) {
        assert_eq!(outcome.wrong, Vec::<String>::new(), "seed {seed}");
        all.takes += outcome.takes;
        all.offs += outcome.offs;
        all.failed += outcome.failed;
        all.inherited += outcome.inherited;
        all.withdrawn += outcome.withdrawn;
    }
    println!("{all:?}");
    // Nothing was shown if it did not happen.
    assert!(all.takes > 300 && all.offs > 100 && all.failed > 20, "{all:?}");
    assert!(all.inherited > 0 && all.withdrawn > 0, "{all:?}");
}

fn is_caught(broken: Broken, by: &str) {
    let found = many(Some(broken));
    let wrong = found.iter().flat_map(|(_, outcome)| &outcome.wrong);
    assert!(
        wrong.clone().any(|one| one.contains(by)),
        "{broken:?}: {:?}",
        wrong.collect::<Vec<_>>()
    );
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
