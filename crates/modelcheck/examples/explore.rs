//! Explores scenarios by name, or all, and says how large each is: `explore [NAME]`.

use modelcheck::{check, scenarios};

fn main() {
    let more: [scenarios::Scenario; 4] = [
        ("both lose messages", scenarios::both),
        ("frozen holder goes on, seeing late", scenarios::rebind),
        ("old session dies twice", scenarios::reopened),
        ("taker reopens", scenarios::taker_reopens),
    ];
    let wanted = std::env::args().nth(1);
    for (name, config) in scenarios::ALL.into_iter().chain(more) {
        if wanted.as_deref().is_some_and(|wanted| wanted != name) {
            continue;
        }
        let found = check(config());
        println!(
            "{name}: {} states, depth {}, {:.1?}, {:?} {:?}",
            found.states, found.depth, found.took, found.taken, found.broken
        );
    }
}
