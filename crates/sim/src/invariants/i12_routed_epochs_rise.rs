//! I12: the epoch to which a slot's clients are sent never goes down.

use super::{Invariant, Moment};
use crate::world::truth::Truth;
use decisions::Action;
use model::{Epoch, SlotId};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(crate) struct RoutedEpochsRise {
    highest: BTreeMap<SlotId, Epoch>,
}

impl Invariant for RoutedEpochsRise {
    fn name(&self) -> &'static str {
        "I12"
    }

    fn observe(&mut self, _: &Truth, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Decided(decision) = moment else {
            return Ok(());
        };
        let Action::Route { service, targets, .. } = &decision.action else {
            return Ok(());
        };
        for target in targets {
            let slot = SlotId {
                service: service.clone(),
                slot: target.slot,
            };
            let highest = self.highest.entry(slot.clone()).or_default();
            if target.epoch < *highest {
                return Err(format!(
                    "clients of {slot} are sent to epoch {} after {highest}",
                    target.epoch
                ));
            }
            *highest = target.epoch;
        }
        Ok(())
    }
}
