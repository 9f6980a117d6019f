//! I6: when a slot is released, its holder has no effect any more; and nobody acts for a slot that is not its own.

use super::{Invariant, Moment};
use crate::cluster::machine::acts_by_itself;
use crate::cluster::records::{Change, Key, Value};
use crate::cluster::world::World;
use model::SlotId;

#[derive(Debug)]
pub(crate) struct ReleasedMeansSilent;

impl Invariant for ReleasedMeansSilent {
    fn name(&self) -> &'static str {
        "I6"
    }

    fn observe(&mut self, world: &World, moment: &Moment<'_>) -> Result<(), String> {
        match moment {
            Moment::Committed(Change::Put(entry)) => {
                let Value::Slot(slot) = &*entry.value else {
                    return Ok(());
                };
                // Released, or given to another one: whoever held it until now must be silent already.
                let others = world
                    .of(&slot.slot.service)
                    .filter(|(id, _)| !slot.held || **id != slot.holder);
                for (id, inst) in others {
                    let Some(process) = inst.process.as_ref().filter(|process| process.from.exclusive) else {
                        continue;
                    };
                    if process.acting.is_none_or(|acting| acting.slot != slot.slot.slot) {
                        continue;
                    }
                    let node = world.node(inst.node);
                    let runs = world.executes(inst) && acts_by_itself(&process.from) && !world.is_excused(id, inst);
                    if runs || (!node.paused && world.gate_is_open(id, inst)) {
                        return Err(format!(
                            "{} is taken from {id}, which still acts for it ({})",
                            slot.slot,
                            if runs { "it runs" } else { "its gate is open" }
                        ));
                    }
                }
                Ok(())
            }
            Moment::Acts(id) => {
                let Some(inst) = world.instances.get(*id) else {
                    return Ok(());
                };
                let Some(process) = inst.process.as_ref().filter(|process| process.from.exclusive) else {
                    return Ok(());
                };
                let Some(acting) = process.acting else { return Ok(()) };
                let runs = world.executes(inst) && !world.is_excused(id, inst);
                if process.dying || !(runs || world.gate_is_open(id, inst)) {
                    return Ok(());
                }
                let slot = SlotId {
                    service: id.service().clone(),
                    slot: acting.slot,
                };
                let entry = world.server.model.get(&Key::Slot(slot.clone()));
                if let Some(Value::Slot(known)) = entry.map(|entry| &*entry.value)
                    && known.held
                    && known.holder == **id
                    // Its own node claims it anew, in place.
                    && known.epoch >= acting.epoch
                {
                    return Ok(());
                }
                Err(format!(
                    "{id} acts for {slot} at epoch {}, and does not hold it",
                    acting.epoch
                ))
            }
            _ => Ok(()),
        }
    }
}
