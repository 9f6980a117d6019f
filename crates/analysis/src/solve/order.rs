//! In which order the variables of a module are asked: it decides whether its diagram stays small.

use crate::tree::{Ref, Tree};
use std::collections::BTreeMap;

/// How the inputs of a gate are walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Walk {
    /// As they were written: what belongs together stands together.
    AsWritten,
    /// Those with least below them first.
    SmallFirst,
    /// Gates before events, those that most others use first; a variable comes when all below it has come.
    SharedFirst,
}

const WALKS: [Walk; 3] = [Walk::AsWritten, Walk::SharedFirst, Walk::SmallFirst];
/// Gathering goes on so often at most; it comes to rest long before, as a rule.
const GATHERINGS_MAX: usize = 50;

/// The orders that are worth trying, the likeliest first, none twice; each is made when it is first asked for.
pub(super) struct Orders<'a> {
    tree: &'a Tree,
    top: u32,
    is_below: &'a dyn Fn(u32) -> bool,
    made: Vec<Local>,
    /// How many of all ways to make one were gone.
    tried: usize,
}

impl<'a> Orders<'a> {
    pub(super) fn new(tree: &'a Tree, top: u32, is_below: &'a dyn Fn(u32) -> bool) -> Self {
        Self {
            tree,
            top,
            is_below,
            made: Vec::new(),
            tried: 0,
        }
    }

    /// The order in which it was written.
    pub(super) fn first(&self) -> Local {
        local(self.tree, self.top, self.is_below, Walk::AsWritten)
    }

    /// The order of this number, from 0; `None` if there are no more.
    pub(super) fn get(&mut self, number: usize) -> Option<&Local> {
        while self.made.len() <= number && self.tried < 2 * WALKS.len() {
            let walked = local(self.tree, self.top, self.is_below, WALKS[self.tried % WALKS.len()]);
            let next = if self.tried < WALKS.len() {
                walked
            } else {
                gathered(self.tree, &walked)
            };
            self.tried += 1;
            if self.made.iter().all(|known| known.variables != next.variables) {
                self.made.push(next);
            }
        }
        self.made.get(number)
    }
}

/// The same module in an order in which what is looked at together stands closer: each thing moves to the middle of the gates that look at it,
/// and each gate to the middle of what it looks at, until no gate's inputs come closer (the heuristic FORCE of Aloul, Markov and Sakallah, 2003).
fn gathered(tree: &Tree, local: &Local) -> Local {
    let things: Vec<Ref> = local
        .variables
        .iter()
        .copied()
        .chain(local.gates.iter().map(|gate| Ref::Gate(*gate)))
        .collect();
    let number: BTreeMap<Ref, usize> = things.iter().copied().zip(0..).collect();
    let groups: Vec<Vec<usize>> = local
        .gates
        .iter()
        .map(|gate| {
            let inputs = tree.gate(*gate).inputs().iter().copied();
            let all = inputs.chain([Ref::Gate(*gate)]);
            all.filter_map(|input| number.get(&input).copied()).collect()
        })
        .collect();
    let mut place: Vec<f64> = (0..things.len()).map(|at| at as f64).collect();
    // Gates begin where their inputs are.
    for (gate, group) in local.gates.iter().zip(&groups) {
        let at = number[&Ref::Gate(*gate)];
        let inputs = group.iter().filter(|member| **member != at);
        place[at] = middle(inputs, &place);
    }
    let (mut best, mut best_span) = (local.variables.clone(), f64::INFINITY);
    for _ in 0..GATHERINGS_MAX {
        let order = ranks(&mut place);
        let span: f64 = groups.iter().map(|group| span(group, &place)).sum();
        if span >= best_span {
            break;
        }
        best_span = span;
        best = order
            .into_iter()
            .filter(|at| *at < local.variables.len())
            .map(|at| things[at])
            .collect();
        let mut sums = vec![(0.0, 0.0); things.len()];
        for group in &groups {
            let middle = middle(group.iter(), &place);
            for member in group {
                sums[*member].0 += middle;
                sums[*member].1 += 1.0;
            }
        }
        for (place, (sum, count)) in place.iter_mut().zip(sums) {
            if count > 0.0 {
                *place = sum / count;
            }
        }
    }
    Local {
        gates: local.gates.clone(),
        variables: best,
    }
}

/// Puts everything at a whole place, in the order in which it stands; that order.
fn ranks(place: &mut [f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..place.len()).collect();
    order.sort_by(|a, b| place[*a].total_cmp(&place[*b]));
    for (rank, at) in order.iter().enumerate() {
        place[*at] = rank as f64;
    }
    order
}

fn middle<'a>(members: impl Iterator<Item = &'a usize>, place: &[f64]) -> f64 {
    let (sum, count) = members.fold((0.0, 0.0), |(sum, count), member| (sum + place[*member], count + 1.0));
    sum / f64::max(count, 1.0)
}

fn span(group: &[usize], place: &[f64]) -> f64 {
    let places = group.iter().map(|member| place[*member]);
    let (low, high) = places.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), at| {
        (low.min(at), high.max(at))
    });
    (high - low).max(0.0)
}

/// A module: the gates that belong to it, and the variables they end in: events, and modules below.
pub(super) struct Local {
    /// In ascending order, the module's own gate last.
    pub(super) gates: Vec<u32>,
    /// In the order in which they are met.
    pub(super) variables: Vec<Ref>,
}

/// Walks a module depth first.
fn local(tree: &Tree, top: u32, is_below: &dyn Fn(u32) -> bool, walk: Walk) -> Local {
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
