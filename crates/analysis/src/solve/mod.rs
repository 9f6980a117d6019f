//! Minimal cut sets, probability and importance of a tree: exact where that can be, else bounded and said so.
//!
//! ```text
//! tree ── modules ──► each alone: binary decision diagram ──► probability, minimal sets (a diagram too), importance
//!                          │ too large, in every order tried
//!                          └──► sets up to an order, gate by gate, with the probability of what was cut off: bounds
//! ```
//! Work and memory are bounded by [`Limits`], counted in nodes and steps and not in time, so that the same tree has the same answer everywhere.

mod bdd;
mod counts;
mod hull;
mod module;
mod order;
mod table;
mod truncated;
mod zbdd;

use crate::tree::{Ref, Tree, modules};
use counts::Counts;
use module::Part;
use std::collections::BTreeMap;

/// How much is computed and listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sets of at most so many events are listed.
    pub order: usize,
    /// At most so many sets are listed; if there are more, those of the largest orders are left out.
    pub sets: usize,
    /// Nodes of decision diagrams, for each module; a node takes about 40 bytes.
    pub nodes: usize,
    /// Steps of work for each module and each order of variables that is tried; a million takes about 0.1 s.
    pub steps: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            order: 3,
            sets: 100_000,
            nodes: 1_000_000,
            steps: 20_000_000,
        }
    }
}

/// The probability of the top.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Probability {
    /// Exactly, up to rounding.
    Exact(f64),
    /// Somewhere between the two, both included.
    Bounds(f64, f64),
}

impl Probability {
    /// At least this.
    pub fn low(self) -> f64 {
        match self {
            Probability::Exact(p) | Probability::Bounds(p, _) => p,
        }
    }

    /// At most this: what to count on.
    pub fn high(self) -> f64 {
        match self {
            Probability::Exact(p) | Probability::Bounds(_, p) => p,
        }
    }
}

/// A minimal cut set: events whose joint failure makes the top true, while no part of them does.
#[derive(Debug, Clone, PartialEq)]
pub struct CutSet {
    /// The events, in order. Empty if the top is true without any.
    pub events: Vec<u32>,
    /// That all of them fail.
    pub probability: f64,
}

/// What is known of a top.
#[derive(Debug, Clone, PartialEq)]
pub struct Solution {
    /// Minimal cut sets, smallest first, as far as they are listed.
    pub sets: Vec<CutSet>,
    /// Every minimal cut set of at most so many events is in `sets`.
    pub listed_to: usize,
    /// How many minimal cut sets of 1, 2, … events there are, if all are known.
    pub by_order: Option<Vec<u64>>,
    /// How many there are in all, if that is known. `u64::MAX` stands for that many or more.
    pub total: Option<u64>,
    /// That the top is true.
    pub probability: Probability,
    /// Birnbaum's importance of each event that matters: P(top | failed) − P(top | sound). Of bounded tops an estimate.
    pub birnbaum: BTreeMap<u32, f64>,
}

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Importance {
    /// P(top | failed) − P(top | sound).
    pub birnbaum: f64,
    /// The share of the top's probability that goes with the event: birnbaum · q / P.
    pub criticality: f64,
    /// Risk achievement worth: by what factor the top is likelier once the event has failed.
    pub achievement: f64,
    /// Risk reduction worth: by what factor the top is less likely if the event never fails.
    pub reduction: f64,
}

impl Solution {
    /// How few failures make the top true; 0 if it is, `None` if no number of them does, or if none was found up to `listed_to`.
    pub fn distance(&self) -> Option<usize> {
        self.sets.first().map(|set| set.events.len())
    }

    /// The importance of an event of a coherent top.
    pub fn importance(&self, tree: &Tree, event: u32) -> Importance {
        let birnbaum = self.birnbaum.get(&event).copied().unwrap_or_default();
        let q = tree.probability(event);
        let top = self.probability.high();
        // P is linear in q: P = P(sound) + I·q.
        let (sound, failed) = ((top - birnbaum * q).max(0.0), top + birnbaum * (1.0 - q));
        Importance {
            birnbaum,
            criticality: if top > 0.0 { birnbaum * q / top } else { 0.0 },
            achievement: if top > 0.0 { failed / top } else { 1.0 },
            reduction: if sound > 0.0 { top / sound } else { f64::INFINITY },
        }
    }
}

impl Solution {
    /// What two ways to solve the same top know together.
    fn or_better(self, other: Self) -> Self {
        use Probability::{Bounds, Exact};
        let known = |of: &Self| (of.total.is_some(), of.listed_to, of.sets.len());
        let width = |of: &Self| of.probability.high() - of.probability.low();
        let probability = match (self.probability, other.probability) {
            (exact @ Exact(_), _) | (_, exact @ Exact(_)) => exact,
            (Bounds(low, high), Bounds(other_low, other_high)) => {
                let low = low.max(other_low);
                Bounds(low, high.min(other_high).max(low))
            }
        };
        let (mut best, other) = if known(&self) >= known(&other) {
            (self, other)
        } else {
            (other, self)
        };
        if width(&other) < width(&best) {
            best.birnbaum = other.birnbaum;
        }
        Self { probability, ..best }
    }
}

/// Solves a top. Takes as long as there is below it, however much there is beside it.
pub fn solve(tree: &Tree, top: Ref, limits: &Limits) -> Solution {
    let part = tree.part(top);
    let (simple, simple_top) = part.tree.simplified(part.top);
    let mut solution = solve_part(&simple, simple_top, limits);
    if solution.total.is_none() {
        // Joined gates are wide, and now and then what was written is the easier one.
        solution = solution.or_better(solve_part(&part.tree, part.top, limits));
    }
    let whole = |event: &u32| part.events[*event as usize];
    for set in &mut solution.sets {
        set.events = set.events.iter().map(whole).collect();
    }
    let birnbaum = std::mem::take(&mut solution.birnbaum);
    solution.birnbaum = birnbaum.iter().map(|(event, worth)| (whole(event), *worth)).collect();
    solution
}

fn solve_part(tree: &Tree, top: Ref, limits: &Limits) -> Solution {
    /// A diagram may be as deep as it has variables, and is walked by recursion.
    const DEEP: usize = 300;
    const STACK_BYTES: usize = 256 << 20;
    if tree.events() < DEEP {
        return solve_here(tree, top, limits);
    }
    std::thread::scope(|scope| {
        let deep = std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || solve_here(tree, top, limits));
        let solution = deep.ok().and_then(|thread| thread.join().ok());
        // Without a thread of that size nothing deep is tried.
        solution.unwrap_or_else(|| solve_here(tree, top, &Limits { nodes: 0, ..*limits }))
    })
}

fn solve_here(tree: &Tree, top: Ref, limits: &Limits) -> Solution {
    let (constant, event) = match top {
        Ref::False => (Some(false), None),
        Ref::True => (Some(true), None),
        Ref::Event(event) => (None, Some(event)),
        Ref::Gate(_) => (None, None),
    };
    if let Some(is_true) = constant {
        return trivial(is_true.then(CutSet::nothing), f64::from(u8::from(is_true)));
    }
    if let Some(event) = event {
        let q = tree.probability(event);
        let set = CutSet {
            events: vec![event],
            probability: q,
        };
        let mut solution = trivial(Some(set), q);
        solution.birnbaum.insert(event, 1.0);
        return solution;
    }
    let Ref::Gate(top) = top else {
        return trivial(None, 0.0);
    };
    let reachable = tree.reachable(Ref::Gate(top));
    let coherent = coherent_gates(tree, top);
    let is_module = modules(tree, Ref::Gate(top));
    let mut parts: BTreeMap<u32, Part> = BTreeMap::new();
    for gate in 0..=top {
        // What negates something hides which of its events make it true, so only the top may.
        let alone = is_module[gate as usize] && coherent[gate as usize];
        if reachable[gate as usize] && (alone || gate == top) {
            let part = module::solve(tree, gate, &parts, coherent[gate as usize], limits);
            parts.insert(gate, part);
        }
    }
    let solution = collect(tree, top, &parts);
    match solution.probability {
        // The probability is known, and the sets are too many for a diagram of their own.
        Probability::Exact(_) if !coherent[top as usize] && solution.total.is_none() => {
            let between = hull::solve(tree, Ref::Gate(top), limits);
            Solution {
                probability: solution.probability,
                birnbaum: solution.birnbaum,
                ..between
            }
        }
        Probability::Bounds(low, high) if !coherent[top as usize] => {
            let between = hull::solve(tree, Ref::Gate(top), limits);
            let low = low.max(between.probability.low());
            Solution {
                probability: Probability::Bounds(low, high.min(between.probability.high()).max(low)),
                ..between
            }
        }
        _ => solution,
    }
}

impl CutSet {
    fn nothing() -> Self {
        Self {
            events: Vec::new(),
            probability: 1.0,
        }
    }
}

fn trivial(set: Option<CutSet>, probability: f64) -> Solution {
    let mut counts = Counts::default();
    if let Some(set) = &set {
        counts = if set.events.is_empty() {
            Counts::one()
        } else {
            Counts::event()
        };
    }
    Solution {
        sets: set.into_iter().collect(),
        listed_to: usize::MAX,
        by_order: Some(counts.by_order()),
        total: Some(counts.total()),
        probability: Probability::Exact(probability),
        birnbaum: BTreeMap::new(),
    }
}

fn coherent_gates(tree: &Tree, top: u32) -> Vec<bool> {
    let mut coherent: Vec<bool> = Vec::with_capacity(top as usize + 1);
    for gate in 0..=top {
        let gate = tree.gate(gate);
        let is = !matches!(gate, crate::tree::Gate::Not(_))
            && gate.inputs().iter().all(|input| match input {
                Ref::Gate(input) => coherent[*input as usize],
                _ => true,
            });
        coherent.push(is);
    }
    coherent
}

fn collect(tree: &Tree, top: u32, parts: &BTreeMap<u32, Part>) -> Solution {
    let mut birnbaum: BTreeMap<u32, f64> = BTreeMap::new();
    let mut reach: BTreeMap<u32, f64> = BTreeMap::from([(top, 1.0)]);
    for (gate, part) in parts.iter().rev() {
        let Some(weight) = reach.get(gate).copied() else {
            continue;
        };
        for (variable, local) in &part.birnbaum {
            match variable {
                Ref::Event(event) => *birnbaum.entry(*event).or_default() += weight * local,
                Ref::Gate(below) => *reach.entry(*below).or_default() += weight * local,
                Ref::False | Ref::True => {}
            }
        }
    }
    let Some(part) = parts.get(&top) else {
        return trivial(None, 0.0);
    };
    let mut sets: Vec<CutSet> = part
        .sets
        .iter()
        .map(|events| CutSet {
            events: events.clone(),
            probability: events.iter().map(|event| tree.probability(*event)).product(),
        })
        .collect();
    sets.sort_by(|a, b| (a.events.len(), &a.events).cmp(&(b.events.len(), &b.events)));
    let exact = part.low == part.high || part.exact;
    Solution {
        sets,
        listed_to: part.complete_to,
        by_order: part.counts.as_ref().map(Counts::by_order),
        total: part.counts.as_ref().map(Counts::total),
        probability: if exact {
            Probability::Exact(part.high)
        } else {
            Probability::Bounds(part.low, part.high)
        },
        birnbaum,
    }
}
