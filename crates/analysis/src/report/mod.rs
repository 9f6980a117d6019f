//! From a system to what people and programs are shown.

mod advice;
mod checks;
mod picture;
mod spofs;
mod svg;

pub use advice::{Budget, advise};
pub use spofs::{fix, risks};
pub use svg::svg;

use crate::predict::{self, Prediction};
use crate::solve::{Limits, Probability, Solution, solve};
use crate::system::{Logic, System, Thing, logic};
use crate::tree::Ref;
use api::analysis::{Availability, CutSet, Importance, ObservedThing, Report, ServiceReport, Survives};
use std::collections::{BTreeMap, BTreeSet};

/// Things that matter most, for each service.
const IMPORTANT_MAX: usize = 10;
/// Cut sets that are told, for each service.
const CUT_SETS_MAX: usize = 1_000;

/// How much is looked into.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Options {
    /// For the cut sets.
    pub limits: Limits,
    /// For fixes and advice.
    pub budget: Budget,
}

/// All about a system. `of` is `running` or `declared`.
pub fn report(system: &System, of: &str, options: &Options) -> Report {
    let logic = logic(system);
    let failed: BTreeMap<u32, bool> = system
        .failed
        .iter()
        .filter_map(|thing| Some((logic.event(thing)?, true)))
        .collect();
    let now: BTreeMap<&str, Solution> = logic
        .services
        .iter()
        .map(|(name, top)| {
            let (tree, top) = logic.tree.given(*top, &failed);
            (name.as_str(), solve(&tree, top, &options.limits))
        })
        .collect();
    let designed: BTreeMap<&str, Solution> = logic
        .services
        .iter()
        .map(|(name, top)| {
            let solution = match failed.is_empty() {
                true => now[name.as_str()].clone(),
                false => solve(&logic.tree, *top, &options.limits),
            };
            (name.as_str(), solution)
        })
        .collect();
    let predictions: BTreeMap<&str, Prediction> = designed
        .iter()
        .map(|(name, solution)| (*name, predict::with(system, &logic, name, solution)))
        .collect();
    let range = ranges(system, &logic, &options.limits);
    let services = system
        .services
        .iter()
        .map(|(name, service)| {
            let solution = &now[name.as_str()];
            ServiceReport {
                name: name.clone(),
                need: service.need,
                instances: u32::try_from(service.instances.len()).unwrap_or(u32::MAX),
                distance: solution.distance().and_then(|distance| u32::try_from(distance).ok()),
                distance_target: service.distance_min,
                survives: survives(system, &logic, name, solution),
                cut_sets: cut_sets(&logic, solution),
                listed_to: u32::try_from(solution.listed_to).unwrap_or(u32::MAX),
                by_order: solution.by_order.clone(),
                impaired_by: service.uses.iter().cloned().collect(),
                availability: availability(
                    &predictions[name.as_str()],
                    &range[name.as_str()],
                    service.unavailable_max,
                ),
                importance: importance(&logic, &designed[name.as_str()]),
            }
        })
        .collect();
    let singles: BTreeMap<String, BTreeSet<Thing>> = now
        .iter()
        .map(|(name, solution)| {
            let of_one = solution.sets.iter().filter(|set| set.events.len() == 1);
            let things = of_one.map(|set| logic.thing(set.events[0]).clone());
            ((*name).to_owned(), things.collect())
        })
        .collect();
    let mut report = Report {
        version: api::VERSION,
        cluster: system.name.clone(),
        of: of.into(),
        at: None,
        order: u32::try_from(options.limits.order).unwrap_or(u32::MAX),
        services,
        zones: picture::zones(system, &logic, &singles, &failed),
        spofs: spofs::spofs(system, &singles, &options.budget),
        findings: Vec::new(),
        advice: advise(system, options),
        assumed: system.rates.assumptions(&logic.things),
        observed: observed(system),
        measured: system.rates.measurements(&logic.things),
    };
    if predictions
        .values()
        .any(|prediction| prediction.assumed && prediction.switching > 0.0)
    {
        let (coverage, by_hand) = (system.rates.coverage(), system.rates.by_hand_hours());
        if coverage.assumed {
            report.assumed.push(format!(
                "takeovers that work by themselves: {}%",
                coverage.value * 100.0
            ));
        }
        if by_hand.assumed {
            report.assumed.push(format!(
                "repair by hand where one does not: {} min",
                by_hand.value * 60.0
            ));
        }
    }
    report.findings = checks::checks(system, &logic, &report);
    report
}

/// What lies below several and nobody declared, with what fails with it.
fn observed(system: &System) -> Vec<ObservedThing> {
    let mut above: BTreeMap<&Thing, Vec<String>> = BTreeMap::new();
    for (thing, below) in &system.below {
        for one in below {
            above.entry(one).or_default().push(thing.to_string());
        }
    }
    let told = above.into_iter().map(|(thing, below)| ObservedThing {
        kind: thing.kind().into(),
        thing: thing.to_string(),
        below,
    });
    told.collect()
}

fn cut_sets(logic: &Logic, solution: &Solution) -> Vec<CutSet> {
    let sets = solution.sets.iter().take(CUT_SETS_MAX);
    sets.map(|set| CutSet {
        things: set.events.iter().map(|event| logic.thing(*event).to_string()).collect(),
        probability: set.probability,
    })
    .collect()
}

/// For each kind of thing that has to do with the service, whether any one of them may fail.
fn survives(system: &System, logic: &Logic, service: &str, solution: &Solution) -> Vec<Survives> {
    let top = logic.services.get(service).copied().unwrap_or(Ref::False);
    let singles: BTreeSet<u32> = solution
        .sets
        .iter()
        .filter(|set| set.events.len() == 1)
        .map(|set| set.events[0])
        .collect();
    let is_down = solution.distance() == Some(0);
    let mut kinds: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for event in logic.tree.events_of(top) {
        let thing = logic.thing(event);
        if system.failed.contains(thing) {
            continue;
        }
        let not = kinds.entry(thing.kind()).or_default();
        if is_down || singles.contains(&event) {
            not.push(thing.name().to_owned());
        }
    }
    let told = kinds.into_iter().map(|(kind, not)| Survives {
        kind: kind.into(),
        any: not.is_empty(),
        not,
    });
    told.collect()
}

fn importance(logic: &Logic, solution: &Solution) -> Vec<Importance> {
    let mut all: Vec<Importance> = solution
        .birnbaum
        .keys()
        .map(|event| {
            let found = solution.importance(&logic.tree, *event);
            Importance {
                thing: logic.thing(*event).to_string(),
                unavailability: logic.tree.probability(*event),
                birnbaum: found.birnbaum,
                criticality: found.criticality,
                achievement: found.achievement,
                reduction: found.reduction.is_finite().then_some(found.reduction),
            }
        })
        .collect();
    all.sort_by(|a, b| {
        b.criticality
            .total_cmp(&a.criticality)
            .then_with(|| a.thing.cmp(&b.thing))
    });
    all.truncate(IMPORTANT_MAX);
    all
}

/// Each service with everything that was assumed three times better, and three times worse.
fn ranges<'a>(system: &System, logic: &'a Logic, limits: &Limits) -> BTreeMap<&'a str, (f64, f64)> {
    let with_doubt = |doubt: f64| {
        let mut system = system.clone();
        system.rates.doubt = doubt;
        let mut logic = logic.clone();
        for (event, thing) in (0..).zip(&logic.things) {
            logic
                .tree
                .set_probability(event, system.rates.unavailability(thing).value);
        }
        let of = |(name, top): (&String, &Ref)| {
            // Only the probability is wanted.
            let limits = Limits { order: 1, ..*limits };
            let solution = solve(&logic.tree, *top, &limits);
            predict::with(&system, &logic, name, &solution).unavailability()
        };
        logic.services.iter().map(of).collect::<Vec<f64>>()
    };
    let (best, worst) = (with_doubt(1.0 / 3.0), with_doubt(3.0));
    let both = best.into_iter().zip(worst);
    logic.services.keys().map(String::as_str).zip(both).collect()
}

fn availability(prediction: &Prediction, range: &(f64, f64), target: Option<f64>) -> Availability {
    let unavailability = prediction.unavailability();
    let (exact, bounds) = match prediction.standing {
        Probability::Exact(_) => (true, None),
        Probability::Bounds(low, high) => (false, Some([low, high])),
    };
    Availability {
        unavailability_static: prediction.standing.high(),
        unavailability_failover: prediction.switching,
        unavailability,
        nines: finite(crate::availability::nines(unavailability)),
        minutes_per_year: crate::availability::minutes_per_year(unavailability),
        unavailability_best: range.0.min(unavailability),
        unavailability_worst: range.1.max(unavailability),
        assumed: prediction.assumed,
        exact,
        bounds,
        target,
        meets_target: target.map(|target| unavailability <= target),
        requests_lost: prediction.requests_lost,
    }
}

/// JSON has no infinity: what can never fail has as many nines as a double can tell.
fn finite(nines: f64) -> f64 {
    nines.min(300.0)
}
