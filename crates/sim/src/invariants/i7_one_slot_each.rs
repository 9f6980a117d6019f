//! I7: an instance holds at most one slot, in the store and in what it does.

use super::{Invariant, Moment};
use crate::world::truth::{Acting, Truth};
use model::InstanceId;

#[derive(Debug)]
pub(crate) struct OneSlotEach;

impl Invariant for OneSlotEach {
    fn name(&self) -> &'static str {
        "I7"
    }

    fn observe(&mut self, truth: &Truth, moment: &Moment<'_>) -> Result<(), String> {
        match moment {
            Moment::Committed { write } if write.held => {
                let other = truth
                    .store
                    .held_by(&write.holder)
                    .find(|known| known.slot != write.slot);
                match other {
                    Some(other) => Err(format!(
                        "{} holds {} and now {} too",
                        write.holder, other.slot, write.slot
                    )),
                    None => Ok(()),
                }
            }
            Moment::Acts {
                instance,
                slot,
                before: Some(before),
                ..
            } if before.slot != slot.slot && still_holds(truth, instance, *before) => Err(format!(
                "{instance} acts for slot {} and now for {slot} too",
                before.slot
            )),
            _ => Ok(()),
        }
    }
}

/// A shared active without a demote hook is a standby as soon as it lost its slot.
fn still_holds(truth: &Truth, instance: &InstanceId, before: Acting) -> bool {
    truth
        .store
        .held_by(instance)
        .any(|known| known.slot.slot == before.slot && known.epoch == before.epoch)
}
