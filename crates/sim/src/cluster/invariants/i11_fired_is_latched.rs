//! I11: what a guard has fired at runs no instruction for that epoch any more.

use super::{Invariant, Moment};
use crate::cluster::world::World;
use model::SlotId;

#[derive(Debug)]
pub(crate) struct FiredIsLatched;

impl Invariant for FiredIsLatched {
    fn name(&self) -> &'static str {
        "I11"
    }

    fn observe(&mut self, world: &World, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Acts(id) = moment else { return Ok(()) };
        let Some(process) = world.process(id).filter(|process| !process.dying) else {
            return Ok(());
        };
        let Some(acting) = process.acting else { return Ok(()) };
        let slot = SlotId {
            service: id.service().clone(),
            slot: acting.slot,
        };
        if world.fired.contains(&(slot.clone(), acting.epoch)) {
            return Err(format!(
                "{id} acts for {slot} at epoch {} after a guard has fired",
                acting.epoch
            ));
        }
        Ok(())
    }
}
