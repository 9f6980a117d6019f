//! I10: what an agent decides by never goes back: the revision that it expects of a slot, and the epoch that it claims it at.

use super::{Invariant, Moment};
use crate::cluster::records::NodeIx;
use crate::cluster::world::World;
use decisions::Action;
use model::{Epoch, Revision, SlotId};
use std::collections::BTreeMap;

/// By agent and slot.
#[derive(Debug, Default)]
pub(crate) struct NothingDecreases {
    last: BTreeMap<(NodeIx, SlotId), (u32, Revision, Epoch)>,
}

impl Invariant for NothingDecreases {
    fn name(&self) -> &'static str {
        "I10"
    }

    fn observe(&mut self, world: &World, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Decided(ix, decision) = moment else {
            return Ok(());
        };
        let Action::Write(write) = &decision.action else {
            return Ok(());
        };
        let life = world.node(*ix).agents;
        let claims = write.held && write.previous.as_ref() != Some(&write.holder);
        let entry = self.last.entry((*ix, write.slot.clone())).or_default();
        if entry.0 != life {
            *entry = (life, Revision(0), Epoch::default());
        }
        let (_, revision, epoch) = *entry;
        if write.expect < revision {
            return Err(format!(
                "n{ix:04} expects revision {} of {} after {}",
                write.expect.0, write.slot, revision.0
            ));
        }
        if claims && write.epoch <= epoch {
            return Err(format!(
                "n{ix:04} claims {} at epoch {} after {epoch}",
                write.slot, write.epoch
            ));
        }
        entry.1 = write.expect;
        if claims {
            entry.2 = write.epoch;
        }
        Ok(())
    }
}
