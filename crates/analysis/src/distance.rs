//! How near each service is to an outage, and by what: cheap enough to be asked whenever something changes.

use crate::predict;
use crate::solve::{Limits, solve};
use crate::system::{Logic, System, Thing, logic};
use crate::tree::{Ref, Tree};
use std::collections::{BTreeMap, BTreeSet};

/// Failures are counted up to so many; what takes more is told as one more than that, or more.
pub const COUNTED_TO: u32 = 3;
/// With more events below a service its pairs are not tried one by one: that takes the square of them.
const PAIRS_OF_MAX: usize = 400;

/// What takes a service down soonest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nearest {
    /// How many further failures, at least; 0 is down. `None`: more than [`COUNTED_TO`].
    pub failures: Option<u32>,
    /// Which things' failures those are: the widest, where several do it.
    pub things: Vec<String>,
}

/// Of each service what would take it down soonest, given what has failed.
pub fn nearest(system: &System) -> BTreeMap<String, Nearest> {
    let logic = logic(system);
    let failed = failed(system, &logic);
    let of = |(name, top): (&String, &Ref)| {
        let (tree, top) = logic.tree.given(*top, &failed);
        let things = smallest(&logic, &tree, top);
        let found = Nearest {
            failures: things
                .as_ref()
                .map(|things| u32::try_from(things.len()).unwrap_or(u32::MAX)),
            things: things.unwrap_or_default().iter().map(ToString::to_string).collect(),
        };
        (name.clone(), found)
    };
    logic.services.iter().map(of).collect()
}

/// What is shown, on every page alike: instances that fail are known at once, all else a moment later.
///
/// `found` is what was reckoned last, if anything was; `of_instances` how many instances must fail, as it is known now.
pub fn shown(found: Option<&Nearest>, of_instances: u32) -> (u32, &[String]) {
    let Some(found) = found else { return (of_instances, &[]) };
    match found.failures {
        _ if of_instances == 0 => (0, &[]),
        // It serves: what was reckoned is of a moment ago.
        Some(0) => (1, &[]),
        Some(failures) if failures <= of_instances => (failures, &found.things),
        Some(_) => (of_instances, &[]),
        None => (of_instances.min(COUNTED_TO + 1), &[]),
    }
}

/// The share of the time that each service is to be expected down, all being sound to begin with.
pub fn expected(system: &System, limits: &Limits) -> BTreeMap<String, Expected> {
    let logic = logic(system);
    let limits = Limits { order: 1, ..*limits };
    let of = |(name, top): (&String, &Ref)| {
        let solution = solve(&logic.tree, *top, &limits);
        let prediction = predict::with(system, &logic, name, &solution);
        let expected = Expected {
            unavailability: prediction.unavailability(),
            assumed: prediction.assumed,
        };
        (name.clone(), expected)
    };
    logic.services.iter().map(of).collect()
}

/// What is to be expected of a service.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expected {
    /// Share of the time that it is down, 0 to 1; an upper bound where it cannot be exact.
    pub unavailability: f64,
    /// Whether that rests on a rate that nobody gave and nothing measured.
    pub assumed: bool,
}

fn failed(system: &System, logic: &Logic) -> BTreeMap<u32, bool> {
    let events = system.failed.iter().filter_map(|thing| logic.event(thing));
    events.map(|event| (event, true)).collect()
}

/// The smallest set of things that makes the top true: of several the one with the widest things. `None` if none of up to three does.
fn smallest<'a>(logic: &'a Logic, tree: &Tree, top: Ref) -> Option<Vec<&'a Thing>> {
    if top == Ref::True {
        return Some(Vec::new());
    }
    let things = |events: &[u32]| -> Vec<&'a Thing> {
        let things: BTreeSet<&Thing> = events.iter().map(|event| logic.thing(*event)).collect();
        things.into_iter().collect()
    };
    let singles = tree.singles(top);
    if !singles.is_empty() {
        return singles.iter().map(|event| things(&[*event])).min();
    }
    if tree.events_of(top).len() <= PAIRS_OF_MAX {
        let pairs = tree.pairs(top);
        if !pairs.is_empty() {
            return pairs.iter().map(|(one, other)| things(&[*one, *other])).min();
        }
    }
    // Gate by gate, without diagrams: only the smallest sets are wanted.
    let limits = Limits {
        order: COUNTED_TO as usize,
        nodes: 0,
        steps: 500_000,
        sets: 5_000,
    };
    let solution = solve(tree, top, &limits);
    let size = solution.distance()?;
    let smallest = solution.sets.iter().take_while(|set| set.events.len() == size);
    smallest.map(|set| things(&set.events)).min()
}

#[cfg(test)]
mod tests {
    use super::{Nearest, shown};

    #[test]
    fn what_is_known_at_once_counts_before_what_was_reckoned() {
        let found = |failures| Nearest {
            failures,
            things: vec!["this machine".into()],
        };
        assert_eq!(shown(None, 2), (2, &[][..]));
        assert_eq!(shown(Some(&found(Some(1))), 2), (1, &["this machine".to_owned()][..]));
        // Two of three died since.
        assert_eq!(shown(Some(&found(Some(2))), 1), (1, &[][..]));
        assert_eq!(shown(Some(&found(Some(2))), 0), (0, &[][..]));
        assert_eq!(shown(Some(&found(Some(0))), 2), (1, &[][..]));
        assert_eq!(shown(Some(&found(None)), 9), (4, &[][..]));
    }
}
