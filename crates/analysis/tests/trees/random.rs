//! Thousands of random trees, each solved in every way there is.

use super::brute;
use analysis::solve::{Limits, Probability, solve};
use analysis::tree::{Ref, Tree};
use fastrand::Rng;
use std::collections::BTreeMap;

fn grow(rng: &mut Rng, negates: bool) -> (Tree, Ref) {
    let mut tree = Tree::new();
    let events = rng.usize(2..=9);
    let mut known: Vec<Ref> = (0..events).map(|_| tree.event(rng.f64() * 0.4)).collect();
    for _ in 0..rng.usize(1..=12) {
        let count = rng.usize(2..=4);
        // Late gates are chosen more often, so that trees are deep.
        let mut pick = || {
            let back = rng.usize(0..known.len().min(6));
            if rng.bool() {
                known[known.len() - 1 - back]
            } else {
                known[rng.usize(0..known.len())]
            }
        };
        let inputs: Vec<Ref> = (0..count).map(|_| pick()).collect();
        let gate = match rng.u32(0..if negates { 6 } else { 4 }) {
            0 | 1 => tree.or(inputs),
            2 => tree.and(inputs),
            3 => tree.at_least(rng.u32(1..=count as u32), inputs),
            4 => tree.not(inputs[0]),
            _ => tree.xor(inputs),
        };
        known.push(gate);
    }
    (tree, known[known.len() - 1])
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-12 + 1e-9 * b.abs()
}

fn listed(tree: &Tree, top: Ref, limits: &Limits) -> Vec<Vec<u32>> {
    solve(tree, top, limits)
        .sets
        .into_iter()
        .map(|set| set.events)
        .collect()
}

#[test]
fn random_trees_agree_with_every_situation_tried() {
    let all = Limits {
        order: 20,
        ..Limits::default()
    };
    for seed in 0..4_000 {
        let mut rng = Rng::with_seed(seed);
        let (tree, top) = grow(&mut rng, seed % 3 == 0);
        let truth = brute::cut_sets(&tree, top);
        let solution = solve(&tree, top, &all);
        let found: Vec<Vec<u32>> = solution.sets.iter().map(|set| set.events.clone()).collect();
        assert_eq!(found, truth, "seed {seed}: {tree:?} {top:?}");
        assert_eq!(solution.total, Some(truth.len() as u64), "seed {seed}");
        let by_order = solution.by_order.clone().unwrap();
        for (size, count) in (1..).zip(&by_order) {
            assert_eq!(
                *count,
                truth.iter().filter(|set| set.len() == size).count() as u64,
                "seed {seed}"
            );
        }
        let p = brute::probability(&tree, top);
        assert!(
            matches!(solution.probability, Probability::Exact(found) if close(found, p)),
            "seed {seed}: {:?} {p}",
            solution.probability
        );
        for event in tree.events_of(top) {
            let with = |failed| {
                let (tree, top) = tree.given(top, &BTreeMap::from([(event, failed)]));
                brute::probability(&tree, top)
            };
            let found = solution.birnbaum.get(&event).copied().unwrap_or_default();
            assert!(
                close(found, with(true) - with(false)),
                "seed {seed}, event {event}: {found}"
            );
        }
    }
}

#[test]
fn the_second_method_finds_the_same_singles_and_pairs() {
    for seed in 10_000..13_000 {
        let mut rng = Rng::with_seed(seed);
        let (tree, top) = grow(&mut rng, false);
        let sets = listed(&tree, top, &Limits::default());
        if sets == [Vec::<u32>::new()] {
            continue;
        }
        let of_size = |size: usize| sets.iter().filter(move |set| set.len() == size);
        let singles: Vec<u32> = of_size(1).map(|set| set[0]).collect();
        assert_eq!(tree.singles(top), singles, "seed {seed}");
        let mut pairs = tree.pairs(top);
        pairs.sort_unstable();
        assert_eq!(
            pairs,
            of_size(2).map(|set| (set[0], set[1])).collect::<Vec<_>>(),
            "seed {seed}"
        );
    }
}

#[test]
fn without_room_for_diagrams_the_sets_are_the_same_and_the_bounds_hold() {
    let mut bounded = 0;
    for seed in 20_000..22_000 {
        let mut rng = Rng::with_seed(seed);
        let (tree, top) = grow(&mut rng, false);
        for order in 1..=4 {
            let cramped = Limits {
                order,
                nodes: 3,
                ..Limits::default()
            };
            let solution = solve(&tree, top, &cramped);
            let truth: Vec<Vec<u32>> = brute::cut_sets(&tree, top)
                .into_iter()
                .filter(|set| set.len() <= order)
                .collect();
            let listed: Vec<Vec<u32>> = solution
                .sets
                .iter()
                .map(|set| set.events.clone())
                .filter(|set| set.len() <= order)
                .collect();
            assert_eq!(listed, truth, "seed {seed}, order {order}");
            assert!(solution.listed_to >= order, "seed {seed}");
            let p = brute::probability(&tree, top);
            let (low, high) = (solution.probability.low(), solution.probability.high());
            assert!(low <= p + 1e-12 && p <= high + 1e-12, "seed {seed}: {low} {p} {high}");
            bounded += usize::from(matches!(solution.probability, Probability::Bounds(..)));
        }
    }
    assert!(bounded > 3_000, "only {bounded} were bounded");
}

#[test]
fn where_failures_are_negated_the_bounds_hold_too() {
    for seed in 30_000..31_000 {
        let mut rng = Rng::with_seed(seed);
        let (tree, top) = grow(&mut rng, true);
        let cramped = Limits {
            nodes: 4,
            ..Limits::default()
        };
        let (found, p) = (solve(&tree, top, &cramped).probability, brute::probability(&tree, top));
        assert!(
            found.low() <= p + 1e-12 && p <= found.high() + 1e-12,
            "seed {seed}: {found:?} {p}"
        );
    }
}
