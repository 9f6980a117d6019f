//! I6: when an exclusive slot is released, or claimed by another, nothing of an older holder acts for it any more.

use super::{Invariant, Moment};
use crate::world::truth::Truth;

#[derive(Debug)]
pub(crate) struct VacantMeansSilent;

impl Invariant for VacantMeansSilent {
    fn name(&self) -> &'static str {
        "I6"
    }

    fn observe(&mut self, truth: &Truth, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Committed { write } = moment else {
            return Ok(());
        };
        if truth
            .declared
            .get(&write.slot.service)
            .is_none_or(|service| !service.exclusive)
        {
            return Ok(());
        }
        let what = if write.held { "claimed" } else { "released" };
        // Who was started while the service was shared may outlive that.
        let mut others = truth.acting(&write.slot).filter(|(_, process)| process.from.exclusive);
        match others.find(|(id, _)| !write.held || **id != write.holder) {
            Some((other, _)) => Err(format!("{} was {what} while {other} still acts for it", write.slot)),
            None => Ok(()),
        }
    }
}
