//! T11: nobody takes a slot that an operator parked, nor starts anew in it, before it is unparked: each of that has a higher epoch.

use super::{Invariant, Moment};
use crate::cluster::records::{Change, Key, Value};
use crate::cluster::world::World;
use model::{Epoch, SlotId};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(crate) struct ParkedIsNotTaken {
    epochs: BTreeMap<SlotId, Epoch>,
}

impl Invariant for ParkedIsNotTaken {
    fn name(&self) -> &'static str {
        "T11"
    }

    fn observe(&mut self, world: &World, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Committed(Change::Put(entry)) = moment else {
            return Ok(());
        };
        let Value::Slot(slot) = &*entry.value else {
            return Ok(());
        };
        let before = self.epochs.insert(slot.slot.clone(), slot.epoch);
        let taken = slot.held && before.is_none_or(|before| slot.epoch > before);
        if taken && world.server.model.get(&Key::Park(slot.slot.clone())).is_some() {
            return Err(format!(
                "{} takes {} at epoch {}, which is parked",
                slot.holder, slot.slot, slot.epoch
            ));
        }
        Ok(())
    }
}
