//! What is left where a diagram grows too large: minimal sets up to an order, gate by gate, and bounds of the probability.
//!
//! Whatever is cut off is kept account of: each product that was dropped adds its probability to what the sets that are listed may lack, so
//! that the upper bound holds for the whole tree and not only for the sets that were found.

use super::module::{Part, Variable};
use super::order::Local;
use super::table::TooLarge;
use crate::tree::{Gate, Ref, Tree};
use std::collections::{BTreeMap, BTreeSet};

/// Sets of more variables are not looked for here.
const ORDER_MAX: usize = 6;
/// A gate with more sets is tried again with smaller ones.
const SETS_MAX: usize = 20_000;
/// Likewise one that takes so many products to find.
const PRODUCTS_MAX: usize = 2_000_000;
/// Of so many sets the pairs are looked at for the lower bound.
const PAIRED_MAX: usize = 1_500;

/// A set of variables, in order.
type Set = Vec<u32>;

/// Sets of a gate, and the probability of all that was dropped below it.
#[derive(Clone, Default)]
struct Found {
    sets: Vec<Set>,
    dropped: f64,
}

pub(super) fn solve(
    tree: &Tree,
    local: &Local,
    variables: &[Variable<'_>],
    coherent: bool,
    limits: &super::Limits,
) -> Part {
    let interval = interval(tree, local, variables);
    let mut part = Part {
        sets: Vec::new(),
        complete_to: 0,
        counts: None,
        smallest: 1,
        low: interval.0,
        high: interval.1,
        exact: false,
        birnbaum: Vec::new(),
    };
    if !coherent {
        return part;
    }
    for order in (1..=limits.order.clamp(1, ORDER_MAX)).rev() {
        let Ok(found) = upwards(tree, local, variables, order) else {
            continue;
        };
        let highs: Vec<f64> = variables.iter().map(|variable| variable.high).collect();
        let lows: Vec<f64> = variables.iter().map(|variable| variable.low).collect();
        part.high = part.high.min(upper(&found.sets, &highs) + found.dropped);
        part.low = part.low.max(lower(&found.sets, &lows)).min(part.high);
        part.birnbaum = estimate(&found.sets, variables, &highs);
        part.smallest = found
            .sets
            .iter()
            .map(|set| size(set, variables))
            .min()
            .unwrap_or(order + 1);
        let below = variables.iter().filter_map(|variable| variable.part);
        let complete = below.map(|part| part.complete_to).fold(order, usize::min);
        expand(&mut part, &found.sets, variables, complete, limits.sets);
        break;
    }
    part
}

/// The probability of each gate is within its own, whatever its inputs have in common.
fn interval(tree: &Tree, local: &Local, variables: &[Variable<'_>]) -> (f64, f64) {
    let mut known: BTreeMap<Ref, (f64, f64)> = BTreeMap::from([(Ref::False, (0.0, 0.0)), (Ref::True, (1.0, 1.0))]);
    known.extend(variables.iter().map(|v| (v.what, (v.low, v.high))));
    let mut last = (0.0, 1.0);
    for gate in &local.gates {
        let inputs: Vec<(f64, f64)> = tree.gate(*gate).inputs().iter().map(|input| known[input]).collect();
        let all = inputs.len() as f64;
        let sum = |side: fn(&(f64, f64)) -> f64| inputs.iter().map(side).sum::<f64>();
        let least = |side: fn(&(f64, f64)) -> f64| inputs.iter().map(side).fold(1.0, f64::min);
        let most = |side: fn(&(f64, f64)) -> f64| inputs.iter().map(side).fold(0.0, f64::max);
        last = match tree.gate(*gate) {
            Gate::Or(_) => (most(|i| i.0), sum(|i| i.1).min(1.0)),
            Gate::And(_) => ((sum(|i| i.0) - (all - 1.0)).max(0.0), least(|i| i.1)),
            // At least k of them: Markov's inequality on how many are, and on how many are not.
            Gate::AtLeast(count, _) => {
                let count = f64::from(*count);
                let low = (sum(|i| i.0) - (count - 1.0)) / (all - count + 1.0);
                (low.max(0.0), (sum(|i| i.1) / count).min(1.0))
            }
            Gate::Not(_) => (1.0 - inputs[0].1, 1.0 - inputs[0].0),
        };
        known.insert(Ref::Gate(*gate), last);
    }
    last
}

fn upwards(tree: &Tree, local: &Local, variables: &[Variable<'_>], order: usize) -> Result<Found, TooLarge> {
    let mut work = Work {
        order,
        highs: variables.iter().map(|variable| variable.high).collect(),
        products: 0,
    };
    let mut known: BTreeMap<Ref, Found> = BTreeMap::new();
    for (place, variable) in (0..).zip(variables) {
        let sets = vec![vec![place]];
        known.insert(variable.what, Found { sets, dropped: 0.0 });
    }
    let mut last = Found::default();
    for gate in &local.gates {
        let inputs: Vec<&Found> = tree
            .gate(*gate)
            .inputs()
            .iter()
            .filter_map(|input| known.get(input))
            .collect();
        last = match tree.gate(*gate) {
            Gate::Or(_) => work.or(&inputs)?,
            Gate::And(_) => work.at_least(inputs.len(), &inputs)?,
            Gate::AtLeast(count, _) => work.at_least(*count as usize, &inputs)?,
            Gate::Not(_) => return Err(TooLarge),
        };
        known.insert(Ref::Gate(*gate), last.clone());
    }
    Ok(last)
}

struct Work {
    order: usize,
    highs: Vec<f64>,
    products: usize,
}

impl Work {
    fn or(&self, inputs: &[&Found]) -> Result<Found, TooLarge> {
        let sets: Vec<Set> = inputs.iter().flat_map(|found| found.sets.iter().cloned()).collect();
        Ok(Found {
            sets: minimal(sets)?,
            dropped: inputs.iter().map(|found| found.dropped).sum(),
        })
    }

    /// Row by row: `rows[j]` has the sets that make at least `j` of the inputs so far true.
    fn at_least(&mut self, count: usize, inputs: &[&Found]) -> Result<Found, TooLarge> {
        let mut rows: Vec<Option<Vec<Set>>> = vec![None; count + 1];
        rows[0] = Some(vec![Vec::new()]);
        let mut dropped: f64 = inputs.iter().map(|found| found.dropped).sum();
        for (seen, input) in inputs.iter().enumerate() {
            for j in (1..=count.min(seen + 1)).rev() {
                let mut sets = rows[j].take().unwrap_or_default();
                for set in rows[j - 1].iter().flatten() {
                    for more in &input.sets {
                        self.products += 1;
                        if self.products > PRODUCTS_MAX {
                            return Err(TooLarge);
                        }
                        let joined = union(set, more);
                        if joined.len() <= self.order {
                            sets.push(joined);
                        } else {
                            dropped += joined.iter().map(|at| self.highs[*at as usize]).product::<f64>();
                        }
                    }
                }
                rows[j] = Some(minimal(sets)?);
            }
        }
        let sets = rows[count].take().unwrap_or_default();
        Ok(Found { sets, dropped })
    }
}

fn union(a: &[u32], b: &[u32]) -> Set {
    let mut all = [a, b].concat();
    all.sort_unstable();
    all.dedup();
    all
}

/// Those that contain no other: the subsets of a small set are few, and looked up.
fn minimal(mut sets: Vec<Set>) -> Result<Vec<Set>, TooLarge> {
    sets.sort_unstable_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    sets.dedup();
    if sets.len() > SETS_MAX * 8 {
        return Err(TooLarge);
    }
    let mut kept: BTreeSet<Set> = BTreeSet::new();
    for set in sets {
        let all = (1_u32 << set.len()) - 1;
        let is_covered = (0..all).any(|mask| {
            let part: Set = set
                .iter()
                .enumerate()
                .filter(|(at, _)| mask >> at & 1 == 1)
                .map(|(_, v)| *v)
                .collect();
            kept.contains(&part)
        });
        if !is_covered {
            kept.insert(set);
        }
    }
    if kept.len() > SETS_MAX {
        return Err(TooLarge);
    }
    Ok(kept.into_iter().collect())
}

fn size(set: &Set, variables: &[Variable<'_>]) -> usize {
    let of = |at: &u32| variables[*at as usize].part.map_or(1, |part| part.smallest);
    set.iter().map(of).sum()
}

/// An upper bound of the union of the sets: failures of the sets are never negatively correlated, so that the product holds too.
fn upper(sets: &[Set], q: &[f64]) -> f64 {
    let each = |set: &Set| set.iter().map(|at| q[*at as usize]).product::<f64>();
    let sum: f64 = sets.iter().map(each).sum();
    let none: f64 = sets.iter().map(|set| (-each(set)).ln_1p()).sum();
    sum.min(-none.exp_m1())
}

/// A lower bound: Bonferroni's, over as many of the likeliest sets as make it largest.
fn lower(sets: &[Set], q: &[f64]) -> f64 {
    let of = |set: &Set| set.iter().map(|at| q[*at as usize]).product::<f64>();
    let mut likeliest: Vec<(f64, &Set)> = sets.iter().map(|set| (of(set), set)).collect();
    likeliest.sort_by(|a, b| b.0.total_cmp(&a.0));
    likeliest.truncate(PAIRED_MAX);
    let (mut best, mut sum) = (0.0_f64, 0.0);
    for (at, (p, set)) in likeliest.iter().enumerate() {
        let both: f64 = likeliest[..at].iter().map(|(_, other)| of(&union(set, other))).sum();
        sum += p - both;
        best = best.max(sum);
    }
    best
}

/// Birnbaum's importance from the sets alone: of rare events, nearly right.
fn estimate(sets: &[Set], variables: &[Variable<'_>], q: &[f64]) -> Vec<(Ref, f64)> {
    let mut all = vec![0.0; variables.len()];
    for set in sets {
        for variable in set {
            let others = set.iter().filter(|other| *other != variable);
            all[*variable as usize] += others.map(|at| q[*at as usize]).product::<f64>();
        }
    }
    variables
        .iter()
        .zip(all)
        .map(|(variable, value)| (variable.what, value))
        .collect()
}

/// Puts the sets of the modules below in the place of their variables.
fn expand(part: &mut Part, found: &[Set], variables: &[Variable<'_>], complete: usize, most: usize) {
    let mut order = complete;
    while order > 0 {
        let mut sets: Vec<Vec<u32>> = Vec::new();
        for set in found {
            let mut products: Vec<Vec<u32>> = vec![Vec::new()];
            for at in set {
                let variable = &variables[*at as usize];
                let own: Vec<Vec<u32>> = match (variable.what, variable.part) {
                    (Ref::Event(event), _) => vec![vec![event]],
                    (_, Some(part)) => part.sets.clone(),
                    _ => Vec::new(),
                };
                products = products
                    .iter()
                    .flat_map(|set| own.iter().map(|more| [set.as_slice(), more.as_slice()].concat()))
                    .filter(|set| set.len() <= order)
                    .take(most + 1)
                    .collect();
            }
            sets.extend(products);
            if sets.len() > most {
                break;
            }
        }
        if sets.len() <= most {
            sets.iter_mut().for_each(|set| set.sort_unstable());
            part.sets = sets;
            break;
        }
        order -= 1;
    }
    part.complete_to = order;
}
