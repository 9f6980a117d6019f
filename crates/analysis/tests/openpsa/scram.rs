//! SCRAM, another tool, on files that we write: the same cut sets and the same probability. Debian has it in the package `scram`.

use analysis::openpsa::{Source, read, write_tree};
use analysis::solve::{Limits, Probability, solve};
use analysis::tree::{Ref, Tree};
use fastrand::Rng;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

/// What SCRAM says: its products, and the probability.
fn scram(text: &str, name: &str, options: &[&str]) -> (BTreeSet<BTreeSet<String>>, f64) {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join(format!("{name}-{}.xml", std::process::id()));
    std::fs::write(&path, text).unwrap();
    let out = Command::new("scram")
        .args(["--bdd", "--probability", "true", "-l", "60"])
        .args(options)
        .arg(&path)
        .output()
        .expect("scram is needed: apt-get install scram");
    std::fs::remove_file(&path).unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let document = roxmltree::Document::parse(&text).unwrap();
    let sums = document
        .descendants()
        .find(|node| node.has_tag_name("sum-of-products"))
        .unwrap();
    let products = sums.children().filter(|node| node.has_tag_name("product"));
    let names = |product: roxmltree::Node<'_, '_>| {
        let events = product.children().filter(|node| node.has_tag_name("basic-event"));
        events
            .map(|event| event.attribute("name").unwrap().to_owned())
            .collect()
    };
    (
        products.map(names).collect(),
        sums.attribute("probability").unwrap().parse().unwrap(),
    )
}

/// Gates over earlier ones, as many as events: deep, and with events that repeat.
fn grow(rng: &mut Rng, events: usize, negates: bool) -> (Tree, Ref) {
    let mut tree = Tree::new();
    let mut known: Vec<Ref> = (0..events).map(|_| tree.event(0.001 + rng.f64() * 0.1)).collect();
    let mut unused: Vec<Ref> = known.clone();
    while unused.len() > 1 {
        let count = rng.usize(2..=4).min(unused.len());
        let mut inputs: Vec<Ref> = (0..count)
            .map(|_| unused.swap_remove(rng.usize(0..unused.len())))
            .collect();
        if rng.u32(0..3) == 0 {
            inputs.push(known[rng.usize(0..known.len())]);
        }
        let all = inputs.len() as u32;
        let gate = match rng.u32(0..if negates { 8 } else { 7 }) {
            0..=2 => tree.or(inputs),
            3..=5 => tree.and(inputs),
            6 => tree.at_least(rng.u32(1..=all), inputs),
            _ => tree.not(inputs[0]),
        };
        if matches!(gate, Ref::Gate(_)) {
            known.push(gate);
            unused.push(gate);
        }
    }
    (tree, unused.pop().unwrap_or(known[0]))
}

#[test]
fn the_same_cut_sets_and_probabilities_as_scram() {
    let mut compared = 0;
    for seed in 0..40 {
        let mut rng = Rng::with_seed(seed);
        let events = rng.usize(5..=60);
        let (tree, top) = grow(&mut rng, events, false);
        let limits = Limits {
            order: 60,
            ..Limits::default()
        };
        let solution = solve(&tree, top, &limits);
        if !(1..2_000).contains(&solution.total.unwrap()) {
            continue;
        }
        let text = write_tree(&tree, top);
        let (products, probability) = scram(&text, &format!("coherent-{seed}"), &[]);
        let ours: BTreeSet<BTreeSet<String>> = solution
            .sets
            .iter()
            .map(|set| set.events.iter().map(|event| format!("e{event}")).collect())
            .collect();
        assert_eq!(ours, products, "seed {seed}");
        let Probability::Exact(p) = solution.probability else {
            panic!("seed {seed}")
        };
        assert!(
            (p / probability - 1.0).abs() < 1e-5,
            "seed {seed}: {p} is not {probability}"
        );
        // What we wrote we read as the same.
        let source = Source {
            path: "own.xml".into(),
            text,
        };
        let again = read(&[source], &mut |_| Err("nothing".into()), None).unwrap();
        assert_eq!(
            solve(&again.tree, again.top, &limits).total,
            solution.total,
            "seed {seed}"
        );
        compared += 1;
    }
    assert!(compared > 25, "only {compared} were compared");
}

#[test]
fn the_same_probability_as_scram_where_failures_are_negated() {
    for seed in 100..115 {
        let mut rng = Rng::with_seed(seed);
        let (tree, top) = grow(&mut rng, 15, true);
        if !matches!(top, Ref::Gate(_)) || tree.events_of(top).is_empty() {
            continue;
        }
        let (_, probability) = scram(
            &write_tree(&tree, top),
            &format!("negated-{seed}"),
            &["--prime-implicants"],
        );
        let Probability::Exact(p) = solve(&tree, top, &Limits::default()).probability else {
            panic!("seed {seed}");
        };
        assert!(
            (p - probability).abs() < 1e-5 * probability.max(1e-9),
            "seed {seed}: {p} is not {probability}"
        );
    }
}
