//! I1: at most one process acts for an exclusive slot.

use super::{Invariant, Moment};
use crate::world::truth::Truth;

#[derive(Debug)]
pub(crate) struct OneActive;

impl Invariant for OneActive {
    fn name(&self) -> &'static str {
        "I1"
    }

    fn observe(&mut self, truth: &Truth, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Acts { instance, slot, .. } = moment else {
            return Ok(());
        };
        if truth
            .declared
            .get(&slot.service)
            .is_none_or(|service| !service.exclusive)
        {
            return Ok(());
        }
        // Who was started while the service was shared may outlive that.
        let mut others = truth
            .acting(slot)
            .filter(|(id, process)| id != instance && process.from.exclusive);
        match others.next() {
            Some((other, _)) => Err(format!("{instance} begins to act for {slot} while {other} still acts")),
            None => Ok(()),
        }
    }
}
