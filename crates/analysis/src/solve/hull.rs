//! Trees that negate something and are too large to be solved as they are: held between two that negate nothing.
//!
//! Negations are pushed down to the events. With every negated event taken to be sound where that makes the top truer, the tree is true at least
//! as often as the real one: its probability is an upper bound, and its cut sets are those of the real one wherever each of them makes the
//! real one true. With them taken the other way it is true at most as often.

use super::{CutSet, Limits, Probability, Solution, solve_here};
use crate::tree::{Gate, Ref, Tree};
use std::collections::BTreeMap;

pub(super) fn solve(tree: &Tree, top: Ref, limits: &Limits) -> Solution {
    let (above_tree, above_top) = without_negations(tree, top, true);
    let (below_tree, below_top) = without_negations(tree, top, false);
    let above = solve_here(&above_tree, above_top, limits);
    let below = solve_here(&below_tree, below_top, &Limits { order: 1, ..*limits });
    let (sets, wrong): (Vec<CutSet>, Vec<CutSet>) =
        above.sets.into_iter().partition(|set| is_cut(tree, top, &set.events));
    // What a wrong one hid is larger than it.
    let listed_to = wrong
        .iter()
        .map(|set| set.events.len())
        .min()
        .map_or(above.listed_to, |size| size.min(above.listed_to));
    let all_right = wrong.is_empty() && above.total == Some(sets.len() as u64);
    Solution {
        sets,
        listed_to,
        by_order: above.by_order.filter(|_| all_right),
        total: above.total.filter(|_| all_right),
        probability: Probability::Bounds(below.probability.low(), above.probability.high()),
        birnbaum: above.birnbaum,
    }
}

/// Whether the top is true when these have failed and nothing else has.
fn is_cut(tree: &Tree, top: Ref, failed: &[u32]) -> bool {
    let mut words = tree.words(top);
    tree.evaluate(&mut words, |event| if failed.contains(&event) { u64::MAX } else { 0 }) & 1 == 1
}

/// The tree with every negated event taken as `assumed`.
fn without_negations(tree: &Tree, top: Ref, assumed: bool) -> (Tree, Ref) {
    let mut new = Tree::new();
    for event in 0..tree.events() {
        new.event(tree.probability(u32::try_from(event).unwrap_or(u32::MAX)));
    }
    let mut made: BTreeMap<(u32, bool), Ref> = BTreeMap::new();
    let reachable = tree.reachable(top);
    for gate in (0..tree.gates()).filter(|gate| reachable[*gate]) {
        let number = u32::try_from(gate).unwrap_or(u32::MAX);
        for negated in [false, true] {
            let gate = tree.gate(number);
            let of = |input: &Ref, negated: bool| match input {
                Ref::Event(_) if negated => constant(assumed),
                Ref::Event(_) => *input,
                Ref::Gate(gate) => made[&(*gate, negated)],
                Ref::True => constant(!negated),
                Ref::False => constant(negated),
            };
            let inputs: Vec<Ref> = match gate {
                Gate::Not(input) => vec![of(input, !negated)],
                gate => gate.inputs().iter().map(|input| of(input, negated)).collect(),
            };
            let count = u32::try_from(inputs.len()).unwrap_or(u32::MAX);
            let result = match (gate, negated) {
                (Gate::Not(_), _) => inputs[0],
                (Gate::Or(_), false) | (Gate::And(_), true) => new.or(inputs),
                (Gate::And(_), false) | (Gate::Or(_), true) => new.and(inputs),
                (Gate::AtLeast(least, _), false) => new.at_least(*least, inputs),
                (Gate::AtLeast(least, _), true) => new.at_least(count + 1 - least, inputs),
            };
            made.insert((number, negated), result);
        }
    }
    let top = match top {
        Ref::Gate(gate) => made[&(gate, false)],
        other => other,
    };
    (new, top)
}

fn constant(value: bool) -> Ref {
    if value { Ref::True } else { Ref::False }
}
