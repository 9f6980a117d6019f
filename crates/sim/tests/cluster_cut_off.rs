//! An active whose node was cut off for longer than its session lives goes on as the same process, if nobody had its slot meanwhile (T10).

use model::Profile;
use sim::cluster::cut_off;
use std::time::Duration;

const SEEDS: u64 = 40;

#[test]
fn the_only_copy_goes_on_as_the_same_process_at_the_same_epoch() {
    for (profile, span) in [(Profile::Lan, 8), (Profile::Stock, 12), (Profile::Lan, 120)] {
        let mut worst = Duration::ZERO;
        for seed in 0..SEEDS {
            let Some(found) = cut_off(profile, Duration::from_secs(span), seed) else {
                panic!("{profile}, seed {seed}: it did not come up");
            };
            assert_eq!(found.violation, None, "{profile}, seed {seed}");
            assert!(
                found.condemned,
                "{profile}, seed {seed}: its session was not ended, so this shows nothing"
            );
            assert_eq!(
                found.after,
                Some(found.before),
                "{profile}, {span} s, seed {seed}: another process, or another epoch"
            );
            let Some(back) = found.back else {
                panic!("{profile}, seed {seed}: it never went on");
            };
            worst = worst.max(back);
        }
        println!("{profile}, cut off for {span} s: back within {worst:?}");
    }
}
