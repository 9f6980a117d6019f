//! One loss at a time: a slot changes hands within the bound of the takeover protocol, and only if it has to.

use model::Profile;
use sim::cluster::{Loss, measure};
use std::time::Duration;

const SEEDS: u64 = 40;

/// The longest time in which the slot was held by another one, over all seeds.
fn worst(loss: Loss, profile: Profile) -> Option<Duration> {
    let mut worst = None;
    for seed in 0..SEEDS {
        let measured = measure(loss, profile, seed);
        if let Some(violation) = measured.violation {
            panic!("{loss:?}, {profile}, seed {seed}: {violation}");
        }
        match (loss.bound(profile), measured.taken) {
            (Some(bound), None) => {
                panic!("{loss:?}, {profile}, seed {seed}: nobody takes over, the bound is {bound:?}")
            }
            (Some(bound), Some(taken)) if taken > bound => {
                panic!("{loss:?}, {profile}, seed {seed}: taken after {taken:?}, the bound is {bound:?}")
            }
            (None, Some(taken)) => panic!("{loss:?}, {profile}, seed {seed}: taken after {taken:?} without need"),
            (_, taken) => worst = worst.max(taken),
        }
    }
    worst
}

#[test]
fn a_lost_node_is_replaced_within_the_bound_and_nothing_less_moves_a_slot() {
    for profile in [Profile::Fast, Profile::Lan, Profile::Stock] {
        for loss in Loss::ALL {
            let worst = worst(loss, profile);
            println!("{profile:<6} {loss:<40} {worst:?}, bound {:?}", loss.bound(profile));
        }
    }
}
