//! One module, the modules below it being solved.

use super::bdd::Bdd;
use super::counts::Counts;
use super::order::{Local, Orders};
use super::table::{ONE, TooLarge, ZERO};
use super::zbdd::Zbdd;
use super::{Limits, truncated};
use crate::tree::{Gate, Ref, Tree};
use std::collections::BTreeMap;

/// What is known of a module.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// Its minimal sets of events, each in order, as far as they are listed.
    pub(super) sets: Vec<Vec<u32>>,
    /// All sets of at most so many events are listed.
    pub(super) complete_to: usize,
    /// How many sets there are of each size, if that is known.
    pub(super) counts: Option<Counts>,
    /// The smallest size of a set.
    pub(super) smallest: usize,
    /// Its probability is at least this …
    pub(super) low: f64,
    /// … and at most this.
    pub(super) high: f64,
    /// Whether both are the probability itself.
    pub(super) exact: bool,
    /// How much each variable matters to it.
    pub(super) birnbaum: Vec<(Ref, f64)>,
}

/// A variable of a module: an event, or a module below it.
pub(super) struct Variable<'a> {
    pub(super) what: Ref,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) part: Option<&'a Part>,
}

/// What is spent on each order is the limit divided by these, one after the other.
const SHARES: [usize; 3] = [64, 8, 1];

/// Solves a module.
pub(super) fn solve(tree: &Tree, top: u32, below: &BTreeMap<u32, Part>, coherent: bool, limits: &Limits) -> Part {
    let is_below = |gate: u32| below.contains_key(&gate);
    let mut orders = Orders::new(tree, top, &is_below);
    // One order may need a thousand times what another does, and nothing tells before: all are tried with little, then with more.
    for share in SHARES {
        let less = Limits {
            nodes: limits.nodes / share,
            steps: limits.steps / share as u64,
            ..*limits
        };
        let mut number = 0;
        while let Some(local) = orders.get(number) {
            // Its sets may all be had with more to spend, or in another order.
            let for_some_sets = (share == 1).then_some(limits);
            if let Ok(part) = exactly(tree, local, below, coherent, &less, for_some_sets) {
                return part;
            }
            number += 1;
        }
    }
    let local = &orders.first();
    let variables = variables(tree, local, below);
    truncated::solve(tree, local, &variables, coherent, limits)
}

pub(super) fn variables<'a>(tree: &Tree, local: &Local, below: &'a BTreeMap<u32, Part>) -> Vec<Variable<'a>> {
    let variable = |what: &Ref| match what {
        Ref::Gate(gate) => {
            let part = below.get(gate);
            Variable {
                what: *what,
                low: part.map_or(0.0, |part| part.low),
                high: part.map_or(1.0, |part| part.high),
                part,
            }
        }
        Ref::Event(event) => Variable {
            what: *what,
            low: tree.probability(*event),
            high: tree.probability(*event),
            part: None,
        },
        Ref::False | Ref::True => Variable {
            what: *what,
            low: 0.0,
            high: 1.0,
            part: None,
        },
    };
    local.variables.iter().map(variable).collect()
}

/// The whole of a module in one order; with `for_some_sets` also if only some of its sets can be had.
fn exactly(
    tree: &Tree,
    local: &Local,
    below: &BTreeMap<u32, Part>,
    coherent: bool,
    limits: &Limits,
    for_some_sets: Option<&Limits>,
) -> Result<Part, TooLarge> {
    let variables = variables(tree, local, below);
    let mut bdd = Bdd::new(limits.nodes, limits.steps);
    let root = diagram(tree, local, &mut bdd)?;
    let mut zbdd = Zbdd::new(limits.nodes, limits.steps.min(bdd.steps_left().saturating_mul(2)));
    let probability = |of: fn(&Variable<'_>) -> f64| variables.iter().map(of).collect::<Vec<f64>>();
    let (lows, highs) = (probability(|v| v.low), probability(|v| v.high));
    let is_exact = variables.iter().all(|v| v.part.is_none_or(|part| part.exact));
    let (low, high) = if is_exact {
        let p = bdd.probability(root, &highs);
        (p, p)
    } else {
        bdd.range(root, &lows, &highs)
    };
    let birnbaum = bdd.birnbaum(root, &highs);
    let birnbaum = variables
        .iter()
        .zip(birnbaum)
        .map(|(variable, value)| (variable.what, value));
    let birnbaum: Vec<(Ref, f64)> = birnbaum.collect();
    let mut part = Part {
        sets: Vec::new(),
        complete_to: 0,
        counts: None,
        smallest: 0,
        low,
        high,
        exact: is_exact,
        birnbaum,
    };
    match zbdd.minimal(&mut bdd, root, coherent) {
        Ok(family) => list(&mut part, &zbdd, family, &variables, limits),
        // The probability is known all the same; the sets only as far as they can be had in another way.
        Err(TooLarge) => {
            let limits = for_some_sets.ok_or(TooLarge)?;
            let other = truncated::solve(tree, local, &variables, coherent, limits);
            part.sets = other.sets;
            part.complete_to = other.complete_to;
            part.smallest = other.smallest;
        }
    }
    Ok(part)
}

/// The diagram of a module over the places of its variables.
fn diagram(tree: &Tree, local: &Local, bdd: &mut Bdd) -> Result<u32, TooLarge> {
    let mut made: BTreeMap<Ref, u32> = BTreeMap::from([(Ref::False, ZERO), (Ref::True, ONE)]);
    for (place, variable) in (0..).zip(&local.variables) {
        made.insert(*variable, bdd.variable(place)?);
    }
    let mut root = ZERO;
    for gate in &local.gates {
        let gate_inputs = tree.gate(*gate).inputs();
        let mut inputs: Vec<u32> = gate_inputs.iter().map(|input| made[input]).collect();
        // From the bottom up: what is asked last is joined first, and nothing is walked twice.
        inputs.sort_by_key(|at| std::cmp::Reverse(bdd.node(*at).variable));
        root = match tree.gate(*gate) {
            Gate::Or(_) => {
                let mut all = ZERO;
                for input in inputs {
                    all = bdd.or(input, all)?;
                }
                all
            }
            Gate::And(_) => {
                let mut all = ONE;
                for input in inputs {
                    all = bdd.and(input, all)?;
                }
                all
            }
            Gate::AtLeast(count, _) => bdd.at_least(*count, &inputs)?,
            Gate::Not(_) => bdd.not(inputs[0])?,
        };
        made.insert(Ref::Gate(*gate), root);
    }
    Ok(root)
}

/// Counts the sets of a family, and lists those that are small enough.
fn list(part: &mut Part, zbdd: &Zbdd, family: u32, variables: &[Variable<'_>], limits: &Limits) {
    let nodes = zbdd.nodes_of(family);
    let mut counts: BTreeMap<u32, Counts> = BTreeMap::from([(ZERO, Counts::default()), (ONE, Counts::one())]);
    let mut smallest: BTreeMap<u32, usize> = BTreeMap::from([(ZERO, usize::MAX), (ONE, 0)]);
    let mut known = true;
    let event = Counts::event();
    for at in &nodes {
        let node = zbdd.node(*at);
        let below = variables[node.variable as usize].part;
        let (of_variable, size) = match below {
            None => (Some(&event), 1),
            Some(part) => (part.counts.as_ref(), part.smallest),
        };
        let count = match of_variable {
            Some(of_variable) => counts[&node.high].times(of_variable).plus(&counts[&node.low]),
            None => {
                known = false;
                Counts::default()
            }
        };
        counts.insert(*at, count);
        let least = smallest[&node.low].min(smallest[&node.high].saturating_add(size));
        smallest.insert(*at, least);
    }
    part.smallest = smallest[&family];
    let below = variables.iter().filter_map(|variable| variable.part);
    let mut order = below.map(|part| part.complete_to).fold(limits.order, usize::min);
    if known {
        let counts = counts[&family].clone();
        let mut sum = 0_u64;
        for (size, count) in counts.0.iter().enumerate() {
            sum = sum.saturating_add(*count);
            if sum > limits.sets as u64 {
                order = order.min(size.saturating_sub(1));
                break;
            }
        }
        if counts.0.len() <= order.saturating_add(1) {
            order = usize::MAX;
        }
        part.counts = Some(counts);
    }
    loop {
        let mut listing = Listing {
            zbdd,
            variables,
            smallest: &smallest,
            order,
            most: limits.sets,
            sets: Vec::new(),
        };
        if listing.walk(family, &mut Vec::new(), 0).is_ok() {
            part.sets = listing.sets;
            part.complete_to = order;
            return;
        }
        order = order.min(16).saturating_sub(1);
    }
}

struct Listing<'a> {
    zbdd: &'a Zbdd,
    variables: &'a [Variable<'a>],
    smallest: &'a BTreeMap<u32, usize>,
    order: usize,
    most: usize,
    sets: Vec<Vec<u32>>,
}

impl Listing<'_> {
    /// Goes down the low sides in a loop: only as deep as sets are large.
    fn walk(&mut self, from: u32, path: &mut Vec<u32>, size: usize) -> Result<(), TooLarge> {
        let mut at = from;
        while at > ONE {
            if self.smallest[&at].saturating_add(size) > self.order {
                return Ok(());
            }
            let node = self.zbdd.node(at);
            let more = self.variables[node.variable as usize]
                .part
                .map_or(1, |part| part.smallest);
            if size + more <= self.order {
                path.push(node.variable);
                self.walk(node.high, path, size + more)?;
                path.pop();
            }
            at = node.low;
        }
        if at == ONE {
            self.expand(path)?;
        }
        Ok(())
    }

    /// Puts the sets of the modules in the place of their variables.
    fn expand(&mut self, path: &[u32]) -> Result<(), TooLarge> {
        let mut sets: Vec<Vec<u32>> = vec![Vec::new()];
        for variable in path {
            let variable = &self.variables[*variable as usize];
            match (variable.what, variable.part) {
                (Ref::Event(event), _) => sets.iter_mut().for_each(|set| set.push(event)),
                (_, Some(part)) => {
                    let mut product = Vec::new();
                    for set in &sets {
                        for more in part.sets.iter().filter(|more| set.len() + more.len() <= self.order) {
                            product.push([set.as_slice(), more.as_slice()].concat());
                        }
                        if product.len() + self.sets.len() > self.most {
                            return Err(TooLarge);
                        }
                    }
                    sets = product;
                }
                _ => {}
            }
        }
        for mut set in sets.into_iter().filter(|set| set.len() <= self.order) {
            set.sort_unstable();
            self.sets.push(set);
        }
        if self.sets.len() > self.most {
            return Err(TooLarge);
        }
        Ok(())
    }
}
