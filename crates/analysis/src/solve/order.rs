//! In which order the variables of a module are asked: it decides whether its diagram stays small.

use crate::tree::{Ref, Tree};
use std::collections::BTreeMap;

/// How the inputs of a gate are walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Walk {
    /// As they were written: what belongs together stands together.
    AsWritten,
    /// Those with least below them first.
    SmallFirst,
    /// Gates before events, those that most others use first; a variable comes when all below it has come.
    SharedFirst,
}

/// The orders that are tried, one after the other.
pub(super) const WALKS: [Walk; 3] = [Walk::AsWritten, Walk::SharedFirst, Walk::SmallFirst];

/// A module: the gates that belong to it, and the variables they end in: events, and modules below.
pub(super) struct Local {
    /// In ascending order, the module's own gate last.
    pub(super) gates: Vec<u32>,
    /// In the order in which they are met.
    pub(super) variables: Vec<Ref>,
}

/// Walks a module depth first.
pub(super) fn local(tree: &Tree, top: u32, is_below: &dyn Fn(u32) -> bool, walk: Walk) -> Local {
    let mut size: BTreeMap<u32, u64> = BTreeMap::new();
    if walk == Walk::SmallFirst {
        let all = local(tree, top, is_below, Walk::AsWritten).gates;
        for gate in all {
            let of = |input: &Ref| match input {
                Ref::Gate(input) => size.get(input).copied().unwrap_or(1),
                _ => 1,
            };
            let sum = tree.gate(gate).inputs().iter().map(of).fold(1, u64::saturating_add);
            size.insert(gate, sum);
        }
    }
    let weight = |input: &Ref| match input {
        Ref::Gate(gate) => size.get(gate).copied().unwrap_or(1),
        _ => 1,
    };
    let uses = if walk == Walk::SharedFirst {
        uses(tree, top, is_below)
    } else {
        BTreeMap::new()
    };
    let shared = |input: &Ref| {
        let is_variable = !matches!(input, Ref::Gate(gate) if !is_below(*gate));
        (
            is_variable,
            std::cmp::Reverse(uses.get(input).copied().unwrap_or_default()),
        )
    };
    let mut seen: BTreeMap<Ref, ()> = BTreeMap::new();
    let mut found = Local {
        gates: Vec::new(),
        variables: Vec::new(),
    };
    let mut stack: Vec<Ref> = vec![Ref::Gate(top)];
    while let Some(next) = stack.pop() {
        if seen.insert(next, ()).is_some() {
            continue;
        }
        match next {
            Ref::Gate(gate) if gate == top || !is_below(gate) => {
                found.gates.push(gate);
                let mut inputs = tree.gate(gate).inputs().to_vec();
                match walk {
                    Walk::AsWritten => {}
                    Walk::SmallFirst => inputs.sort_by_key(weight),
                    Walk::SharedFirst => inputs.sort_by_key(shared),
                }
                stack.extend(inputs.into_iter().rev());
            }
            Ref::Gate(_) | Ref::Event(_) => found.variables.push(next),
            Ref::False | Ref::True => {}
        }
    }
    found.gates.sort_unstable();
    found
}

/// How many gates of a module look at each of its gates and variables.
fn uses(tree: &Tree, top: u32, is_below: &dyn Fn(u32) -> bool) -> BTreeMap<Ref, u32> {
    let mut uses = BTreeMap::new();
    for gate in local(tree, top, is_below, Walk::AsWritten).gates {
        for input in tree.gate(gate).inputs() {
            *uses.entry(*input).or_default() += 1;
        }
    }
    uses
}
