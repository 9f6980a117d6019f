//! Answers from textbooks, to the digit.

use analysis::solve::{Limits, Probability, Solution, solve};
use analysis::tree::{Ref, Tree};

fn exact(solution: &Solution) -> f64 {
    match solution.probability {
        Probability::Exact(p) => p,
        Probability::Bounds(..) => panic!("not exact: {solution:?}"),
    }
}

fn is(solution: &Solution, by_order: &[u64], probability: f64) {
    assert_eq!(solution.by_order.as_deref(), Some(by_order));
    let found = exact(solution);
    assert!(
        (found / probability - 1.0).abs() < 1e-6,
        "{found:e} is not {probability:e}"
    );
}

fn events(tree: &mut Tree, count: usize, q: f64) -> Vec<Ref> {
    (0..count).map(|_| tree.event(q)).collect()
}

fn all(tree: &Tree, top: Ref) -> Solution {
    let limits = Limits {
        order: 20,
        ..Limits::default()
    };
    solve(tree, top, &limits)
}

#[test]
fn the_bridge() {
    let mut tree = Tree::new();
    let [a, b, c, d, e] = [0; 5].map(|_| tree.event(0.1));
    let sets = [vec![a, b], vec![d, e], vec![a, c, e], vec![b, c, d]];
    let sets = sets.map(|set| tree.and(set));
    let top = tree.or(sets);
    is(&all(&tree, top), &[0, 2, 2], 0.02152);
}

#[test]
fn so_many_of_so_many() {
    for (need, of, q, by_order, probability) in [
        (2, 3, 0.1, vec![0, 3], 0.028),
        (3, 5, 0.01, vec![0, 0, 10], 9.850600e-6),
        (4, 6, 0.01, vec![0, 0, 20], 1.955359e-5),
        (8, 12, 0.01, vec![0, 0, 0, 0, 792], 7.469708e-8),
        (10, 12, 0.001, vec![0, 0, 220], 2.185197e-7),
    ] {
        let mut tree = Tree::new();
        let events = events(&mut tree, of, q);
        let top = tree.at_least((of - need + 1) as u32, events);
        is(&all(&tree, top), &by_order, probability);
    }
}

#[test]
fn two_instances_on_one_rack_and_on_two() {
    let instances = |racks: [usize; 2]| {
        let mut tree = Tree::new();
        let (nodes, zones) = (events(&mut tree, 2, 5e-4), events(&mut tree, 2, 1e-4));
        let each = [0, 1].map(|at| tree.or([nodes[at], zones[racks[at]]]));
        let top = tree.and(each);
        all(&tree, top)
    };
    is(&instances([0, 0]), &[1, 1], 1.00249975e-4);
    is(&instances([0, 1]), &[0, 4], 3.599400025e-7);
}

#[test]
fn importances_of_a_small_tree() {
    let mut tree = Tree::new();
    let [a, b, c, d] = [1e-3, 1e-2, 2e-2, 3e-2].map(|q| tree.event(q));
    let (bc, bd) = (tree.and([b, c]), tree.and([b, d]));
    let top = tree.or([a, bc, bd]);
    let solution = all(&tree, top);
    is(&solution, &[1, 2], 1.493506e-3);
    for (event, birnbaum, criticality, achievement, reduction) in [
        (0, 0.999506, 0.669235, 669.565, 3.023291),
        (1, 0.0493506, 0.330435, 33.7130, 1.493506),
        (2, 0.0096903, 0.129766, 7.3585, 1.149116),
        (3, 0.0097902, 0.196655, 7.3585, 1.244796),
    ] {
        let found = solution.importance(&tree, event);
        for (found, known) in [
            (found.birnbaum, birnbaum),
            (found.criticality, criticality),
            (found.achievement, achievement),
            (found.reduction, reduction),
        ] {
            assert!(
                (found / known - 1.0).abs() < 2e-5,
                "event {event}: {found} is not {known}"
            );
        }
    }
}

#[test]
fn bounds_of_the_same_tree_when_there_is_no_room() {
    let mut tree = Tree::new();
    let [a, b, c, d] = [1e-3, 1e-2, 2e-2, 3e-2].map(|q| tree.event(q));
    let (bc, bd) = (tree.and([b, c]), tree.and([b, d]));
    let top = tree.or([a, bc, bd]);
    let limits = Limits {
        nodes: 3,
        ..Limits::default()
    };
    let solution = solve(&tree, top, &limits);
    let Probability::Bounds(low, high) = solution.probability else {
        panic!("{solution:?}");
    };
    assert!(
        (high - 1.49944006e-3).abs() < 1e-11 && (low - 1.4935e-3).abs() < 1e-11,
        "{low} {high}"
    );
}

#[test]
fn three_trains_of_valve_and_pump_with_a_common_cause() {
    // Beta factor 0.2: each member's q is 0.8 · 0.1 of its own, and 0.02 shared by its group.
    let mut tree = Tree::new();
    let (valves, pumps) = (events(&mut tree, 3, 0.08), events(&mut tree, 3, 0.08));
    let (all_valves, all_pumps) = (tree.event(0.02), tree.event(0.02));
    let trains: Vec<Ref> = (0..3)
        .map(|at| tree.or([valves[at], all_valves, pumps[at], all_pumps]))
        .collect();
    let top = tree.and(trains);
    is(&all(&tree, top), &[2, 0, 8], 0.0430804);
}

#[test]
fn a_probability_far_below_the_precision_of_one_keeps_its_digits() {
    let mut tree = Tree::new();
    let events = events(&mut tree, 3, 1.25992104989e-7);
    let top = tree.and(events);
    assert!((exact(&all(&tree, top)) / 2e-21 - 1.0).abs() < 1e-9);
}

#[test]
fn what_always_and_what_never_fails() {
    let mut tree = Tree::new();
    let event = tree.event(0.1);
    let always = all(&tree, Ref::True);
    assert_eq!((always.distance(), exact(&always)), (Some(0), 1.0));
    let never = all(&tree, Ref::False);
    assert_eq!((never.distance(), exact(&never)), (None, 0.0));
    assert_eq!(all(&tree, event).distance(), Some(1));
    let not = tree.not(event);
    let hull = all(&tree, not);
    assert_eq!(
        (hull.distance(), exact(&hull), hull.by_order.clone()),
        (Some(0), 0.9, Some(vec![]))
    );
}
