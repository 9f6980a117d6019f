//! Nobody decides without end: so many decisions, writes and wake-ups in a second are a loop.

use super::{Invariant, Moment};
use crate::cluster::world::World;

/// Between two looks, four times a second, by all nodes together.
const DECISIONS_MAX: u64 = 2_000;
const STEPS_MAX: u64 = 40_000;

#[derive(Debug, Default)]
pub(crate) struct BoundedDecisions {
    decisions: u64,
    steps: u64,
}

impl Invariant for BoundedDecisions {
    fn name(&self) -> &'static str {
        "bounded decisions"
    }

    fn observe(&mut self, world: &World, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Look = moment else { return Ok(()) };
        let decided = world.tally.decisions - std::mem::replace(&mut self.decisions, world.tally.decisions);
        let stepped = world.tally.steps - std::mem::replace(&mut self.steps, world.tally.steps);
        let nodes = world.nodes.len().div_ceil(5) as u64;
        if decided > DECISIONS_MAX * nodes || stepped > STEPS_MAX * nodes {
            return Err(format!(
                "{decided} decisions and {stepped} steps in a quarter of a second"
            ));
        }
        Ok(())
    }
}
