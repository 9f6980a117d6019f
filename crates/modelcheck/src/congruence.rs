//! Whether states that count as one behave as one: what makes "visited completely" true.

use crate::actions::Action;
use crate::config::Config;
use crate::world::World;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Two worlds that count as one and differ in what may happen next.
#[derive(Debug)]
pub struct Difference {
    /// One of them.
    pub one: Box<World>,
    /// The other.
    pub other: Box<World>,
    /// What happens differently.
    pub action: Action,
}

/// Visits up to `limit` states, takes each other way to a known state too, and compares all that may happen next.
/// Returns how many pairs were compared.
pub fn congruent(config: &Config, limit: usize) -> Result<usize, Box<Difference>> {
    let first = World::begin_with(config);
    let mut known: BTreeMap<u64, u64> = BTreeMap::new();
    let mut kept: BTreeMap<u64, World> = BTreeMap::new();
    let mut open = VecDeque::from([first]);
    let mut compared = 0;
    while let Some(world) = open.pop_front() {
        let next = successors(&world, config);
        let hash = digest(&world);
        let what = digest(
            &next
                .iter()
                .map(|(action, next)| (*action, digest(next)))
                .collect::<Vec<_>>(),
        );
        match known.get(&hash) {
            None if known.len() < limit => {
                known.insert(hash, what);
                kept.insert(hash, world);
                open.extend(next.into_iter().map(|(_, next)| next));
            }
            None => {}
            Some(before) => {
                compared += 1;
                if *before != what {
                    return Err(Box::new(difference(&kept[&hash], world, config)));
                }
            }
        }
    }
    Ok(compared)
}

fn successors(world: &World, config: &Config) -> Vec<(Action, World)> {
    if config.ticks.is_some_and(|ticks| world.tick > ticks) {
        return Vec::new();
    }
    let mut actions = Vec::new();
    world.possible(config, &mut actions);
    let after = |action| {
        let mut next = world.clone();
        next.act(action, config);
        (action, next)
    };
    actions.into_iter().map(after).collect()
}

fn difference(one: &World, other: World, config: &Config) -> Difference {
    let (left, right) = (successors(one, config), successors(&other, config));
    let differs =
        (left.iter().zip(&right)).find(|((a, after_a), (b, after_b))| a != b || digest(after_a) != digest(after_b));
    let extra = left.iter().chain(&right).nth(2 * left.len().min(right.len()));
    let action = differs
        .map(|(pair, _)| pair)
        .or(extra)
        .map_or(Action::StoreReturns, |(action, _)| *action);
    Difference {
        one: Box::new(one.clone()),
        other: Box::new(other),
        action,
    }
}

fn digest(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
