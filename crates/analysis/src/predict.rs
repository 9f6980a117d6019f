//! How often a service is to be expected to be down: what its tree says, and what takeovers cost on top.

use crate::availability::Takeover;
use crate::solve::{Limits, Probability, Solution, solve};
use crate::system::{Assumed, Logic, Service, System, Thing, logic};
use crate::tree::Ref;
use model::Role;
use std::collections::{BTreeMap, BTreeSet};

/// A prediction for one service.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// Share of the time in which too much has failed at once.
    pub standing: Probability,
    /// Share of the time that takeovers take.
    pub switching: f64,
    /// Share of requests lost to takeovers if nobody repeats them.
    pub requests_lost: f64,
    /// Whether any of it rests on a rate that nobody gave.
    pub assumed: bool,
}

impl Prediction {
    /// Both together: what to count on.
    pub fn unavailability(&self) -> f64 {
        (self.standing.high() + self.switching).min(1.0)
    }
}

/// Predicts a service as designed: everything sound to begin with.
pub fn predict(system: &System, service: &str, limits: &Limits) -> Prediction {
    let logic = logic(system);
    let top = logic.services.get(service).copied().unwrap_or(Ref::False);
    let solution = solve(&logic.tree, top, limits);
    with(system, &logic, service, &solution)
}

/// The same, its tree being solved already.
pub(crate) fn with(system: &System, logic: &Logic, service: &str, solution: &Solution) -> Prediction {
    let (mut switching, mut assumed) = (0.0, false);
    for needed in all_needed(system, service) {
        if let Some(service) = system.services.get(&needed) {
            let (more, is_assumed) = interruption(system, service);
            switching += more;
            assumed |= is_assumed;
        }
    }
    let top = logic.services.get(service).copied().unwrap_or(Ref::False);
    let mut things = logic.tree.events_of(top).into_iter().map(|event| logic.thing(event));
    assumed |= things.any(|thing| system.rates.unavailability(thing).assumed);
    Prediction {
        standing: solution.probability,
        switching,
        requests_lost: system
            .services
            .get(service)
            .map_or(0.0, |service| lost(system, service)),
        assumed,
    }
}

/// The service and all it cannot do without, near and far.
pub(crate) fn all_needed(system: &System, service: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut waiting = vec![service.to_owned()];
    while let Some(next) = waiting.pop() {
        if let Some(service) = system.services.get(&next) {
            waiting.extend(service.needs.iter().filter(|need| !all.contains(*need)).cloned());
        }
        all.insert(next);
    }
    all
}

/// Share of the time that a service is down because an active failed and its successor does not serve yet.
fn interruption(system: &System, service: &Service) -> (f64, bool) {
    let actives = || {
        service
            .instances
            .iter()
            .filter(|instance| instance.role == Role::Active)
    };
    let serving: u32 = actives().map(|instance| instance.weight).sum();
    let all: u32 = service.instances.iter().map(|instance| instance.weight).sum();
    // Without a spare nobody takes over; with more actives than needed nobody has to at once.
    if all <= service.need || actives().all(|instance| serving - instance.weight >= service.need) {
        return (0.0, false);
    }
    if let Some(rate) = service.failover.rate {
        let takeover = takeover(system, service, service.failover.process_hours);
        return (rate * takeover.value.hours(), takeover.assumed);
    }
    let (mut sum, mut assumed) = (0.0, false);
    for instance in actives() {
        let (share, is_assumed) = per_active(system, service, &instance.id, &instance.node);
        sum += share;
        assumed |= is_assumed;
    }
    (sum, assumed)
}

struct Known {
    value: Takeover,
    assumed: bool,
}

fn takeover(system: &System, service: &Service, failover_hours: f64) -> Known {
    let all = system.rates.coverage();
    let coverage = match service.failover.coverage {
        Some(value) => Assumed { value, assumed: false },
        None => all,
    };
    let by_hand = system.rates.by_hand_hours();
    Known {
        value: Takeover {
            coverage: coverage.value,
            failover_hours,
            by_hand_hours: by_hand.value,
        },
        assumed: coverage.assumed || by_hand.assumed,
    }
}

/// Hours without this active for each hour: its process fails, or what is below it.
fn per_active(system: &System, service: &Service, id: &str, node: &str) -> (f64, bool) {
    let process = system.rates.failures_per_hour(&Thing::Process(id.to_owned()));
    let of_process = takeover(system, service, service.failover.process_hours);
    let mut share = process.value * of_process.value.hours();
    let mut assumed = process.assumed || of_process.assumed;
    let of_node = takeover(system, service, service.failover.node_hours);
    for thing in below(system, node) {
        let rate = system.rates.failures_per_hour(&thing);
        share += rate.value * of_node.value.hours();
        assumed |= rate.assumed;
    }
    (share, assumed)
}

/// What takes a node with it when it fails.
fn below(system: &System, node: &str) -> Vec<Thing> {
    let mut things = vec![Thing::Node(node.to_owned())];
    things.extend(system.below.get(&things[0]).into_iter().flatten().cloned());
    things.extend(system.zones_of(node).into_iter().map(Thing::Zone));
    if let Some(node) = system.nodes.get(node) {
        things.extend(node.machine.clone().map(Thing::Machine));
        if node.feeds.len() == 1 {
            things.extend(node.feeds.iter().cloned().map(Thing::Feed));
        }
        if node.switches.len() == 1 {
            things.extend(node.switches.iter().cloned().map(Thing::Switch));
        }
    }
    things
}

/// Of all requests, those that come to an active that failed before another one has its place: the same however many actives there are.
fn lost(system: &System, service: &Service) -> f64 {
    let actives: Vec<_> = service
        .instances
        .iter()
        .filter(|instance| instance.role == Role::Active)
        .collect();
    let sum: f64 = actives
        .iter()
        .map(|instance| per_active(system, service, &instance.id, &instance.node).0)
        .sum();
    sum / (actives.len().max(1) as f64)
}

/// How things stand once some have failed: which services are down.
pub(crate) fn down_with(logic: &Logic, failed: &BTreeSet<Thing>) -> BTreeMap<String, bool> {
    let numbers: BTreeSet<u32> = failed.iter().filter_map(|thing| logic.event(thing)).collect();
    let mut words = logic.tree.words_of_all();
    logic
        .tree
        .evaluate(&mut words, |event| if numbers.contains(&event) { u64::MAX } else { 0 });
    logic
        .services
        .iter()
        .map(|(name, top)| {
            let value = match top {
                Ref::True => true,
                Ref::False => false,
                Ref::Event(event) => numbers.contains(event),
                Ref::Gate(gate) => words.gate(*gate) & 1 == 1,
            };
            (name.clone(), value)
        })
        .collect()
}

/// The services that these hang on, and themselves: what else there is does not matter to them.
pub(crate) fn only_needed(system: &System, services: &BTreeSet<String>) -> System {
    let kept: BTreeSet<String> = services
        .iter()
        .flat_map(|name| {
            let mut all = all_needed(system, name);
            // Groups and what is only used are looked at too, though they interrupt nothing.
            let more: Vec<String> = all
                .iter()
                .filter_map(|name| system.services.get(name))
                .flat_map(|service| service.any_of.iter().flatten().chain(&service.uses).cloned())
                .collect();
            for name in more {
                all.extend(all_needed(system, &name));
            }
            all
        })
        .collect();
    let mut smaller = system.clone();
    smaller.services.retain(|name, _| kept.contains(name));
    smaller
}
