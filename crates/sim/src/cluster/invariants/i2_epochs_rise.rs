//! I2: epochs of successive holders of a slot strictly rise, and no epoch of a slot reaches two instances.

use super::{Invariant, Moment};
use crate::cluster::records::{Change, Value};
use crate::cluster::world::World;
use model::{Epoch, InstanceId, SlotId};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(crate) struct EpochsRise {
    last: BTreeMap<SlotId, (Epoch, InstanceId)>,
}

impl Invariant for EpochsRise {
    fn name(&self) -> &'static str {
        "I2"
    }

    fn observe(&mut self, _: &World, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Committed(Change::Put(entry)) = moment else {
            return Ok(());
        };
        let Value::Slot(slot) = &*entry.value else {
            return Ok(());
        };
        let now = (slot.epoch, slot.holder.clone());
        let before = self.last.insert(slot.slot.clone(), now.clone());
        let Some((epoch, holder)) = before.filter(|before| *before != now) else {
            return Ok(());
        };
        if slot.epoch > epoch {
            return Ok(());
        }
        Err(format!(
            "{} was held by {holder} at epoch {epoch}, and is written for {} at epoch {}",
            slot.slot, slot.holder, slot.epoch
        ))
    }
}
