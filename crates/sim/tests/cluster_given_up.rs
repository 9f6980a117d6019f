//! A version that does not work is given up once, for all controllers to come: whenever the one that finds out dies.

use sim::cluster::{Broken, BrokenVersion, broken_version};

/// After so many decisions the agent of the controller dies, or never.
fn deaths() -> impl Iterator<Item = Option<u32>> {
    [None].into_iter().chain((0..40).map(Some))
}

fn found(broken: Broken, seed: u64, dies_after: Option<u32>, forgets: bool) -> BrokenVersion {
    broken_version(broken, seed, dies_after, forgets)
        .unwrap_or_else(|| panic!("seed {seed}, death after {dies_after:?}: it did not come up"))
}

fn is_left_alone(broken: Broken) {
    for (seed, dies_after) in deaths().enumerate() {
        let found = found(broken, seed as u64, dies_after, false);
        let at = format!("seed {seed}, death after {dies_after:?}: {found:?}");
        assert_eq!(found.violation, None, "{at}");
        assert!(found.why.is_some(), "it is not written: {at}");
        assert!(
            broken == Broken::Start || found.tried_before > 0,
            "it was not tried: {at}"
        );
        assert_eq!(found.tried_after, 0, "it was tried again: {at}");
        assert_eq!(found.told_by, 3, "some nodes do not tell it: {at}");
        assert!(found.serves, "what ran before does not serve: {at}");
        assert!(found.went_back, "who tried it does not stand by again: {at}");
    }
}

#[test]
fn a_version_that_cannot_be_promoted_is_tried_by_no_later_controller() {
    is_left_alone(Broken::Promotion);
}

#[test]
fn a_version_that_never_becomes_healthy_is_rolled_out_by_no_later_controller() {
    is_left_alone(Broken::Start);
}

#[test]
fn agents_that_do_not_heed_what_is_written_try_it_again_and_that_is_noticed() {
    let found = (0..20).map(|seed| found(Broken::Promotion, seed, None, true));
    let noticed = found.filter(|found| {
        found
            .violation
            .as_ref()
            .is_some_and(|broken| broken.invariant == "given up is left")
    });
    assert!(noticed.count() > 10);
}
