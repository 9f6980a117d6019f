//! Solves one Open-PSA file and tells how long it took.

use analysis::openpsa::{Source, read};
use analysis::solve::{Limits, solve};
fn main() {
    let sources: Vec<Source> = std::env::args()
        .skip(1)
        .map(|path| Source {
            text: std::fs::read_to_string(&path).unwrap(),
            path,
        })
        .collect();
    let model = match read(
        &sources,
        &mut |f| std::fs::read_to_string(f).map_err(|e| e.to_string()),
        None,
    ) {
        Ok(model) => model,
        Err(error) => {
            println!("{error} {:?}", error.help);
            return;
        }
    };
    let start = std::time::Instant::now();
    let s = solve(
        &model.tree,
        model.top,
        &Limits {
            order: usize::MAX,
            sets: 1_000_000,
            nodes: std::env::var("N").map_or(1_000_000, |n| n.parse().unwrap()),
            steps: std::env::var("S").map_or(20_000_000, |n| n.parse().unwrap()),
            ..Limits::default()
        },
    );
    println!(
        "{} {:?} {:?} {:?} listed {} to {} in {:?} {:?} {:?}",
        model.top_name,
        s.total,
        s.by_order,
        s.probability,
        s.sets.len(),
        s.listed_to,
        start.elapsed(),
        model.without_probability.len(),
        model.notes
    );
}
