//! Single points of failure: named at the widest level that explains them, and what would remove them.

use super::advice::{Budget, affordable};
use crate::actions::{Action, candidates};
use crate::predict::{down_with, only_needed};
use crate::system::{System, Thing, logic};
use api::analysis::{Fix, Report, Spof};
use std::collections::{BTreeMap, BTreeSet};

/// Changes that are joined to remove one thing from all services it kills.
const ACTIONS_MAX: usize = 8;
/// Of the services that a thing takes down so many are looked at for what could be changed. What mends one at a time mends no more than
/// [`ACTIONS_MAX`] of them, and what mends all at once is found at any of them.
const SERVICES_MAX: usize = 2 * ACTIONS_MAX;
/// Of a thing's services so many are named in a sentence.
const NAMED_MAX: usize = 4;

pub(super) fn spofs(system: &System, singles: &BTreeMap<String, BTreeSet<Thing>>, budget: &Budget) -> Vec<Spof> {
    let mut kills: BTreeMap<&Thing, BTreeSet<&String>> = BTreeMap::new();
    for (service, things) in singles {
        for thing in things {
            kills.entry(thing).or_default().insert(service);
        }
    }
    // The widest first: what takes most services, and most with it.
    let mut all: Vec<Single<'_>> = kills
        .into_iter()
        .map(|(thing, services)| Single {
            behind: system.behind(thing),
            thing,
            services,
        })
        .collect();
    all.sort_by_cached_key(|single| {
        let width = (single.services.len(), single.behind.len());
        (std::cmp::Reverse(width), single.thing.clone())
    });
    let mut evaluations = affordable(budget.evaluations, system);
    all.iter()
        .map(|single| {
            let takes: Vec<String> = single.services.iter().map(|service| (*service).clone()).collect();
            // Those before it are at least as wide.
            let within = all
                .iter()
                .find(|other| other.contains(single))
                .map(|other| other.thing.to_string());
            Spof {
                kind: single.thing.kind().into(),
                thing: single.thing.to_string(),
                behind: single.behind.iter().map(ToString::to_string).collect(),
                text: sentence(system, single.thing, &takes, &single.behind),
                observed: system.is_seen_below(single.thing),
                within,
                fix: fix_within(system, single.thing, &mut evaluations),
                takes,
            }
        })
        .collect()
}

/// A single point of failure, the services it takes, and what goes with it.
struct Single<'a> {
    thing: &'a Thing,
    services: BTreeSet<&'a String>,
    behind: BTreeSet<Thing>,
}

impl Single<'_> {
    /// Whether another one is in this one, and takes no more services.
    fn contains(&self, other: &Self) -> bool {
        self.behind.contains(other.thing) && self.services.is_superset(&other.services)
    }
}

/// "zone dc1/rack1 takes web and db down: with it go node a, web-1, db-1".
fn sentence(system: &System, thing: &Thing, takes: &[String], behind: &BTreeSet<Thing>) -> String {
    let list = |names: &[String]| match names {
        [] => String::new(),
        [one] => one.clone(),
        names if names.len() <= NAMED_MAX => {
            let (last, first) = names.split_last().unwrap_or((&names[0], &[]));
            format!("{} and {last}", first.join(", "))
        }
        names => format!(
            "{} and {} more",
            names[..NAMED_MAX - 1].join(", "),
            names.len() - NAMED_MAX + 1
        ),
    };
    let instances: Vec<String> = behind
        .iter()
        .filter_map(|thing| match thing {
            Thing::Process(id) => Some(id.clone()),
            _ => None,
        })
        .filter(|id| {
            takes
                .iter()
                .any(|service| system.services[service].instances.iter().any(|i| i.id == *id))
        })
        .collect();
    let with_it = match instances.as_slice() {
        [] => String::new(),
        instances => format!(": with it goes {}", list(instances)),
    };
    let seen = match system.is_seen_below(thing) {
        true => " (nobody declared it: agents see it)",
        false => "",
    };
    format!("{thing} alone takes {} down{with_it}{seen}", list(takes))
}

/// The cheapest change found that makes a thing no single point of failure any more: of all services it takes down.
pub fn fix(system: &System, thing: &Thing, budget: &Budget) -> Option<Fix> {
    fix_within(system, thing, &mut budget.evaluations.clone())
}

/// A state of the search: what was done, what it costs, what the system would be, and whom the thing still takes down.
#[derive(Clone)]
struct State {
    actions: Vec<Action>,
    cost: f64,
    system: System,
    killed: BTreeSet<String>,
    missing: u64,
}

impl State {
    fn new(system: System, actions: Vec<Action>, thing: &Thing) -> Self {
        let logic = logic(&system);
        let mut failed = system.failed.clone();
        let before = down_with(&logic, &failed);
        failed.insert(thing.clone());
        let after = down_with(&logic, &failed);
        let down = after.iter().filter(|(name, down)| **down && !before[*name]);
        let killed: BTreeSet<String> = down.map(|(name, _)| name.clone()).collect();
        let gone: BTreeSet<Thing> = system.behind(thing);
        let missing = killed.iter().map(|name| missing(&system, name, &gone)).sum();
        Self {
            cost: actions.iter().map(Action::cost).sum(),
            actions,
            system,
            killed,
            missing,
        }
    }

    fn rank(&self) -> (u64, usize, u64) {
        (self.missing, self.killed.len(), (self.cost * 10.0) as u64)
    }
}

/// How many instances a service lacks once some things are gone, and one more for whatever else it lacks.
fn missing(system: &System, name: &str, gone: &BTreeSet<Thing>) -> u64 {
    let service = &system.services[name];
    let is_left = |id: &String| {
        let process = Thing::Process(id.clone());
        !gone.contains(&process) && !system.failed.contains(&process)
    };
    let left: u32 = service
        .instances
        .iter()
        .filter(|instance| is_left(&instance.id))
        .map(|instance| instance.weight)
        .sum();
    1 + u64::from(service.need.saturating_sub(left)) * 2
}

fn fix_within(system: &System, thing: &Thing, evaluations: &mut usize) -> Option<Fix> {
    const WIDTH: usize = 6;
    if *evaluations == 0 {
        return None;
    }
    let all = State::new(system.clone(), Vec::new(), thing);
    let start = State::new(only_needed(system, &all.killed), Vec::new(), thing);
    let mut beam = vec![start];
    let mut best: Option<State> = None;
    for _ in 0..ACTIONS_MAX {
        let mut next: Vec<State> = Vec::new();
        for state in &beam {
            if *evaluations == 0 {
                break;
            }
            let looked_at: BTreeSet<String> = state.killed.iter().take(SERVICES_MAX).cloned().collect();
            for action in candidates(&state.system, &looked_at) {
                if *evaluations == 0 {
                    break;
                }
                let cost = state.cost + action.cost();
                if best.as_ref().is_some_and(|best| cost >= best.cost) || !helps(&action) {
                    continue;
                }
                *evaluations -= 1;
                let mut actions = state.actions.clone();
                let system = action.applied(&state.system);
                actions.push(action);
                let new = State::new(system, actions, thing);
                if new.killed.is_empty() {
                    best = Some(new);
                } else if (new.missing, new.killed.len()) < (state.missing, state.killed.len()) {
                    next.push(new);
                }
            }
        }
        next.sort_by_key(State::rank);
        next.truncate(WIDTH);
        if next.is_empty() {
            break;
        }
        beam = next;
    }
    let best = best?;
    Some(Fix {
        actions: best.actions.iter().map(ToString::to_string).collect(),
        cost: best.cost,
        leaves: Vec::new(),
    })
}

/// Whether an action can do anything about a single point of failure at all.
fn helps(action: &Action) -> bool {
    !matches!(action, Action::Drill(_) | Action::Faster(_) | Action::Warm(_))
}

/// What a change makes worse: single points of failure that come with it, and distances that shrink. A line each.
pub fn risks(before: &Report, after: &Report) -> Vec<String> {
    let mut told = Vec::new();
    for spof in &after.spofs {
        let old = before.spofs.iter().find(|old| old.thing == spof.thing);
        // Of a new service everything is new; what alone takes it down is worth a word, though not for each level.
        let known = |service: &String| old.is_some_and(|old| old.takes.contains(service));
        let was_there = |service: &String| before.services.iter().any(|old| old.name == *service);
        let new: Vec<&str> = spof
            .takes
            .iter()
            .filter(|name| !known(name) && was_there(name))
            .map(String::as_str)
            .collect();
        if !new.is_empty() && spof.within.is_none() {
            told.push(format!(
                "{} becomes a single point of failure of {}",
                spof.thing,
                new.join(", ")
            ));
        }
    }
    for service in &after.services {
        let Some(old) = before.services.iter().find(|old| old.name == service.name) else {
            if let Some(1) = service.distance {
                told.push(format!("{} is new and one failure away from an outage", service.name));
            }
            continue;
        };
        let far = u32::MAX;
        let (was, is) = (old.distance.unwrap_or(far), service.distance.unwrap_or(far));
        if is < was {
            let was = if was == far {
                format!("more than {}", old.listed_to)
            } else {
                was.to_string()
            };
            told.push(format!(
                "the distance of {} to an outage falls from {was} to {is}",
                service.name
            ));
        }
    }
    told
}
