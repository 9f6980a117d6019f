//! I7: an instance holds at most one slot.

use super::{Invariant, Moment};
use crate::cluster::records::{Change, Key, Value};
use crate::cluster::world::World;
use model::SlotId;

#[derive(Debug)]
pub(crate) struct OneSlotEach;

impl Invariant for OneSlotEach {
    fn name(&self) -> &'static str {
        "I7"
    }

    fn observe(&mut self, world: &World, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Committed(Change::Put(entry)) = moment else {
            return Ok(());
        };
        let Value::Slot(slot) = &*entry.value else {
            return Ok(());
        };
        if !slot.held {
            return Ok(());
        }
        let service = &slot.slot.service;
        let first = Key::Slot(SlotId {
            service: service.clone(),
            slot: 0,
        });
        for entry in world.server.model.entries_from(&first) {
            let Value::Slot(other) = &*entry.value else { break };
            if other.slot.service != *service {
                break;
            }
            if other.held && other.slot != slot.slot && other.holder == slot.holder {
                return Err(format!("{} holds both {} and {}", slot.holder, other.slot, slot.slot));
            }
        }
        Ok(())
    }
}
