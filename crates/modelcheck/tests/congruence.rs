//! "Visited completely" rests on states that count as one behaving as one.

use modelcheck::{congruent, scenarios};

#[test]
fn worlds_that_count_as_one_behave_as_one() {
    compare(3_000);
}

#[test]
#[ignore = "ten minutes: cargo test -p understudy-modelcheck --test congruence -- --ignored --nocapture"]
fn all_worlds_that_count_as_one_behave_as_one() {
    compare(600_000);
}

fn compare(limit: usize) {
    for (name, config) in scenarios::ALL {
        match congruent(&config(), limit) {
            Ok(pairs) => {
                println!("{name}: {pairs} pairs behave alike");
                assert!(pairs > 100, "{name}: nothing was compared");
            }
            Err(found) => panic!(
                "{name}: {:?} differs between\n{:#?}\nand\n{:#?}",
                found.action, found.one, found.other
            ),
        }
    }
}
