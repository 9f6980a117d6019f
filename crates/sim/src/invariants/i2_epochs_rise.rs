//! I2: epochs of a slot rise with each claim, and no (slot, epoch) reaches two processes.

use super::{Invariant, Moment};
use crate::world::truth::Truth;
use model::{Epoch, InstanceId, RunId, SlotId};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(crate) struct EpochsRise {
    highest: BTreeMap<SlotId, Epoch>,
    acted: BTreeMap<(SlotId, Epoch), (InstanceId, RunId)>,
}

impl Invariant for EpochsRise {
    fn name(&self) -> &'static str {
        "I2"
    }

    fn observe(&mut self, truth: &Truth, moment: &Moment<'_>) -> Result<(), String> {
        match moment {
            Moment::Committed { write } if write.held => {
                let highest = self.highest.entry(write.slot.clone()).or_default();
                if write.epoch <= *highest {
                    return Err(format!(
                        "{} was claimed at epoch {} after {highest}",
                        write.slot, write.epoch
                    ));
                }
                *highest = write.epoch;
                Ok(())
            }
            Moment::Acts {
                instance, slot, epoch, ..
            } => {
                let (Some(declared), Some(process)) = (truth.declared.get(&slot.service), truth.process(instance))
                else {
                    return Ok(());
                };
                // Where nothing tells it, a process does not know its epoch: another one may have it after the agent was away.
                let told = Truth::was_told(process, declared);
                let run = if told { process.run } else { RunId(0) };
                let who = ((*instance).clone(), run);
                let first = self
                    .acted
                    .entry(((*slot).clone(), *epoch))
                    .or_insert_with(|| who.clone());
                if first.0 == who.0 && (first.1 == run || run == RunId(0) || first.1 == RunId(0)) {
                    return Ok(());
                }
                Err(format!(
                    "epoch {epoch} of {slot} reached {} (start {}) and then {instance} (start {run})",
                    first.0, first.1
                ))
            }
            _ => Ok(()),
        }
    }
}
