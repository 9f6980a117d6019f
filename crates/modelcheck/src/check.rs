//! The world as a Stateright model, and a run of it.

use crate::actions::Action;
use crate::config::Config;
use crate::properties::ALWAYS;
use crate::world::World;
use decisions::lease::txn::Transition;
use stateright::{Checker, Model, Property};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The model.
#[derive(Debug)]
pub struct Takeover {
    /// What it may contain.
    pub config: Config,
    /// Transitions that took effect on some path: kept beside the states, or each would come in as many kinds.
    taken: AtomicU32,
}

/// What a run has found.
#[derive(Debug)]
pub struct Found {
    /// Different states.
    pub states: usize,
    /// Steps of the longest shortest path.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// Transitions that took effect.
    pub taken: Vec<Transition>,
    /// The property that does not hold, and how it came to that.
    pub broken: Option<(&'static str, Vec<Action>)>,
}

/// Every transition that the model knows.
const TRANSITIONS: [Transition; 16] = [
    Transition::T1,
    Transition::T2,
    Transition::T3,
    Transition::T4e,
    Transition::T4r,
    Transition::T5,
    Transition::T6a,
    Transition::T6b,
    Transition::T6c,
    Transition::T7,
    Transition::T8,
    Transition::T9,
    Transition::T10,
    Transition::T11,
    Transition::T12,
    Transition::Announce,
];

impl Takeover {
    /// A model that has not run.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            taken: AtomicU32::new(0),
        }
    }

    fn has_taken(&self, transition: Transition) -> bool {
        self.taken.load(Ordering::Relaxed) & bit(transition) != 0
    }
}

fn bit(transition: Transition) -> u32 {
    let at = TRANSITIONS.iter().position(|known| *known == transition);
    at.map_or(0, |at| 1 << at)
}

impl Model for Takeover {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::begin_with(&self.config)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.possible(&self.config, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        if let Some(transition) = next.act(action, &self.config) {
            self.taken.fetch_or(bit(transition), Ordering::Relaxed);
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        ALWAYS.iter().map(|(name, _)| always(name)).chain(sometimes()).collect()
    }

    fn within_boundary(&self, world: &World) -> bool {
        self.config.ticks.is_none_or(|ticks| world.tick <= ticks)
    }
}

/// Stateright takes plain functions, so each property names its place in the list.
fn always(name: &'static str) -> Property<Takeover> {
    macro_rules! nth {
        ($($n:literal)*) => {
            [$((|_, world| (ALWAYS[$n].1)(world)) as fn(&Takeover, &World) -> bool),*]
        };
    }
    let conditions = nth!(0 1 2 3 4 5 6 7 8 9 10 11 12 13);
    let at = ALWAYS.iter().position(|(known, _)| *known == name).unwrap_or(0);
    Property::always(name, conditions[at])
}

fn sometimes() -> Vec<Property<Takeover>> {
    macro_rules! reached {
        ($($transition:ident)*) => {
            vec![$(Property::sometimes(
                stringify!($transition),
                |model: &Takeover, _: &World| model.has_taken(Transition::$transition),
            )),*]
        };
    }
    reached!(T1 T2 T3 T4e T4r T5 T6a T6b T6c T7 T8 T9 T10 T11 T12)
}

/// Visits every state, or stops at the first that breaks a property.
pub fn check(config: Config) -> Found {
    let began = Instant::now();
    // One thread finds the same shortest counterexample each time.
    let threads = if config.mutation.is_some() { 1 } else { 2 };
    let always: Vec<_> = ALWAYS.iter().map(|(name, _)| *name).collect();
    let checker = Takeover::new(config)
        .checker()
        .threads(threads)
        .finish_when(stateright::HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let mut discoveries = checker.discoveries();
    // Of several that one state breaks, the first in the list.
    let broken = (always.iter()).find_map(|name| discoveries.remove_entry(name));
    let broken = broken.map(|(name, path)| (name, path.into_actions()));
    Found {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        took: began.elapsed(),
        taken: (TRANSITIONS
            .into_iter()
            .filter(|taken| checker.model().has_taken(*taken)))
        .collect(),
        broken,
    }
}
