//! "What buys the next nine": changes, alone and together, each reckoned with the system as it would be.
//!
//! One at a time is not enough: two moves that are worth nothing each can be worth half a nine together. So the best of each length are kept and
//! made longer, whether or not they were worth anything yet.

use super::Options;
use crate::actions::{Action, candidates};
use crate::predict::{self, Prediction, all_needed, only_needed, predict};
use crate::solve::{Limits, solve};
use crate::system::{System, logic};
use crate::tree::Ref;
use api::analysis::Advice;
use std::collections::BTreeSet;

/// How much is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Changed systems that are looked at, for fixes, and again for the advice to all services.
    pub evaluations: usize,
    /// Changes that are joined.
    pub depth: usize,
    /// Combinations of each length that are made longer.
    pub beam: usize,
    /// Pieces of advice for a service.
    pub told: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            evaluations: 4_000,
            depth: 3,
            beam: 20,
            told: 4,
        }
    }
}

/// Less than this is not worth a line.
const NINES_MIN: f64 = 0.01;

#[derive(Clone)]
struct Choice {
    actions: Vec<Action>,
    cost: f64,
    nines: f64,
    after: f64,
}

impl Choice {
    /// What the system would be. Made anew each time: hundreds of large systems would take too much memory.
    fn system(&self, base: &System) -> System {
        let (first, others) = match self.actions.split_first() {
            Some((first, others)) => (first.applied(base), others),
            None => return base.clone(),
        };
        others.iter().fold(first, |system, action| action.applied(&system))
    }
}

/// Advice for the services that miss their target; if none has one, for the three that are worst off.
pub fn advise(system: &System, options: &Options) -> Vec<Advice> {
    const WORST: usize = 3;
    let evaluations = options.budget.evaluations;
    if evaluations == 0 || system.services.is_empty() {
        return Vec::new();
    }
    let whole = logic(system);
    let limits = only_probability(&options.limits);
    let mut all: Vec<(f64, bool, &String)> = system
        .services
        .iter()
        .map(|(name, service)| {
            let top = whole.services.get(name).copied().unwrap_or(Ref::False);
            let now = predict::with(system, &whole, name, &solve(&whole.tree, top, &limits)).unavailability();
            (now, service.unavailable_max.is_some_and(|max| now > max), name)
        })
        .collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let missed: Vec<&String> = all
        .iter()
        .filter(|(_, misses, _)| *misses)
        .map(|(_, _, name)| *name)
        .collect();
    let chosen: Vec<&String> = match missed.is_empty() {
        true => all.iter().map(|(_, _, name)| *name).take(WORST).collect(),
        false => missed,
    };
    let each = (evaluations / chosen.len().max(1)).max(1);
    chosen
        .into_iter()
        .flat_map(|name| for_service(system, name, options, each))
        .collect()
}

/// A larger system costs more to look at: of one of a hundred things all that are asked for, of ten times as many a tenth.
pub(super) fn affordable(evaluations: usize, system: &System) -> usize {
    const THINGS: usize = 100;
    let instances: usize = system.services.values().map(|service| service.instances.len()).sum();
    let things = instances + system.nodes.len();
    (evaluations * THINGS / things.max(THINGS)).max(evaluations.min(20))
}

fn only_probability(limits: &Limits) -> Limits {
    Limits {
        order: 1,
        nodes: limits.nodes.min(100_000),
        steps: limits.steps.min(1_000_000),
        ..*limits
    }
}

/// The best changes for one service.
fn for_service(system: &System, service: &str, options: &Options, mut evaluations: usize) -> Vec<Advice> {
    let limits = only_probability(&options.limits);
    // Failures of the day are mended anyway; advice is for the design.
    let sound = System {
        failed: BTreeSet::new(),
        ..only_needed(system, &BTreeSet::from([service.to_owned()]))
    };
    evaluations = affordable(evaluations, &sound);
    let before = predict(&sound, service, &limits);
    let mut beam = vec![Choice {
        actions: Vec::new(),
        cost: 0.0,
        nines: 0.0,
        after: before.unavailability(),
    }];
    let mut found: Vec<Choice> = Vec::new();
    for _ in 0..options.budget.depth {
        let mut next: Vec<Choice> = Vec::new();
        for option in &beam {
            if evaluations == 0 {
                break;
            }
            let base = option.system(&sound);
            let services = all_needed(&base, service);
            for action in candidates(&base, &services) {
                if evaluations == 0 {
                    break;
                }
                if option.actions.contains(&action)
                    || next.iter().any(|other| same(&other.actions, &option.actions, &action))
                {
                    continue;
                }
                evaluations -= 1;
                let system = action.applied(&base);
                let after = predict(&system, service, &limits).unavailability();
                let mut actions = option.actions.clone();
                let cost = option.cost + action.cost();
                actions.push(action);
                let nines = gained(&before, after);
                next.push(Choice {
                    actions,
                    cost,
                    nines,
                    after,
                });
            }
        }
        found.extend(next.iter().filter(|option| option.nines >= NINES_MIN).cloned());
        beam = keep(next, options.budget.beam);
    }
    best(found, options.budget.told)
        .into_iter()
        .map(|option| Advice {
            service: service.to_owned(),
            spofs_left: singles(&option.system(&sound), service),
            actions: option.actions.iter().map(ToString::to_string).collect(),
            cost: option.cost,
            before: before.unavailability(),
            after: option.after,
            nines: option.nines,
        })
        .collect()
}

/// The best by gain for what they cost, and the best by gain alone, and of what is worth nothing yet the cheapest: it may be half of something.
fn keep(mut all: Vec<Choice>, beam: usize) -> Vec<Choice> {
    all.sort_by(|a, b| {
        (b.nines / b.cost)
            .total_cmp(&(a.nines / a.cost))
            .then(a.cost.total_cmp(&b.cost))
    });
    let mut kept: Vec<Choice> = all.iter().take(beam / 2).cloned().collect();
    let rest = all.split_off(all.len().min(beam / 2));
    let mut by_gain = rest;
    by_gain.sort_by(|a, b| b.nines.total_cmp(&a.nines).then(a.cost.total_cmp(&b.cost)));
    kept.extend(by_gain.iter().take(beam / 4).cloned());
    let mut half_done: Vec<Choice> = by_gain.into_iter().skip(beam / 4).collect();
    half_done.sort_by(|a, b| is_of_half(b).cmp(&is_of_half(a)).then(a.cost.total_cmp(&b.cost)));
    kept.extend(half_done.into_iter().take(beam.div_ceil(4)));
    kept
}

/// Whether it changes where something is: of that, more often than of others, both halves are needed.
fn is_of_half(option: &Choice) -> bool {
    option.actions.iter().any(|action| {
        matches!(
            action,
            Action::Move { .. } | Action::Add { .. } | Action::NewNode { .. } | Action::MoveVote { .. }
        )
    })
}

/// The same changes in another order.
fn same(other: &[Action], actions: &[Action], last: &Action) -> bool {
    other.len() == actions.len() + 1 && other.contains(last) && actions.iter().all(|action| other.contains(action))
}

fn gained(before: &Prediction, after: f64) -> f64 {
    match after > 0.0 {
        true => (before.unavailability() / after).log10(),
        false => 0.0,
    }
}

/// Those that no other one beats in both cost and gain, best value first.
fn best(mut found: Vec<Choice>, told: usize) -> Vec<Choice> {
    found.sort_by(|a, b| a.cost.total_cmp(&b.cost).then(b.nines.total_cmp(&a.nines)));
    let mut front: Vec<Choice> = Vec::new();
    for option in found {
        if front.last().is_none_or(|last| option.nines > last.nines + NINES_MIN) {
            front.push(option);
        }
    }
    front.sort_by(|a, b| b.nines.total_cmp(&a.nines));
    front.truncate(told);
    front
}

fn singles(system: &System, service: &str) -> Vec<String> {
    let logic = logic(system);
    let top = logic.services.get(service).copied().unwrap_or(Ref::False);
    let singles = logic.tree.singles(top);
    singles
        .into_iter()
        .map(|event| logic.thing(event).to_string())
        .collect()
}
