//! I9: whoever begins to act for an exclusive service with followers has every write that was acknowledged.

use super::{Invariant, Moment};
use crate::world::truth::Truth;

#[derive(Debug)]
pub(crate) struct NoWriteLost;

impl Invariant for NoWriteLost {
    fn name(&self) -> &'static str {
        "I9"
    }

    fn observe(&mut self, truth: &Truth, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Acts { instance, slot, .. } = moment else {
            return Ok(());
        };
        if truth
            .declared
            .get(&slot.service)
            .is_none_or(|service| !Truth::keeps_history(service))
        {
            return Ok(());
        }
        let acknowledged = truth.acknowledged.get(&slot.service).copied().unwrap_or_default();
        let has = truth.instances.get(*instance).map_or(0, |instance| instance.position);
        if has >= acknowledged {
            return Ok(());
        }
        Err(format!(
            "{instance} becomes active with {has} of {acknowledged} acknowledged writes"
        ))
    }
}
