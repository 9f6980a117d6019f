//! L3: without a fault nothing is stopped, started or moved.

use super::{Invariant, Moment};
use crate::world::truth::Truth;
use decisions::Action;

#[derive(Debug)]
pub(crate) struct Quiet;

impl Invariant for Quiet {
    fn name(&self) -> &'static str {
        "L3"
    }

    fn observe(&mut self, _: &Truth, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Decided(decision) = moment else {
            return Ok(());
        };
        match &decision.action {
            // Cold standbys are looked over every now and then; a late answer may complete a report.
            Action::Prepare { .. } | Action::Report(_) | Action::Answer { .. } | Action::ProbeNow { .. } => Ok(()),
            action => Err(format!(
                "all was well, and yet: {action:?} because {}",
                decision.because
            )),
        }
    }
}
