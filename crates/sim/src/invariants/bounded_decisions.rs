//! The core does not run in circles: decisions in a second are bounded by the size of the cluster.

use super::{Invariant, Moment};
use crate::world::truth::Truth;

/// Room for what does not depend on the size: operators, routes, notes.
const FREE: u64 = 300;
/// An instance may die, be stopped, waited for, started, promoted and followed a few times in a second.
const PER_INSTANCE: u64 = 120;

#[derive(Debug, Default)]
pub(crate) struct BoundedDecisions {
    this_second: u64,
}

impl Invariant for BoundedDecisions {
    fn name(&self) -> &'static str {
        "bounded decisions"
    }

    fn observe(&mut self, truth: &Truth, moment: &Moment<'_>) -> Result<(), String> {
        match moment {
            Moment::Decided(_) => self.this_second += 1,
            Moment::Second => self.this_second = 0,
            _ => {}
        }
        let bound = FREE + PER_INSTANCE * truth.instances.len() as u64;
        if self.this_second <= bound {
            return Ok(());
        }
        Err(format!(
            "{} decisions within a second for {} instances",
            self.this_second,
            truth.instances.len()
        ))
    }
}
