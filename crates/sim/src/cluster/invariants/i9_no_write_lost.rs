//! I9: whoever begins to act for an exclusive service with followers has every write that was acknowledged.

use super::{Invariant, Moment};
use crate::cluster::machine::keeps_history;
use crate::cluster::world::World;
use decisions::SlotKnown;
use model::InstanceId;

#[derive(Debug)]
pub(crate) struct NoWriteLost;

impl Invariant for NoWriteLost {
    fn name(&self) -> &'static str {
        "I9"
    }

    fn observe(&mut self, world: &World, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Acts(id) = moment else { return Ok(()) };
        if world
            .declared
            .get(id.service())
            .is_none_or(|declared| !keeps_history(declared))
        {
            return Ok(());
        }
        let acknowledged = world.acknowledged.get(id.service()).copied().unwrap_or_default();
        let has = world.instances.get(*id).map_or(0, |inst| inst.position);
        let dying = world.process(id).is_none_or(|process| process.dying);
        if has >= acknowledged || dying || is_over(world, id) {
            return Ok(());
        }
        Err(format!(
            "{id} becomes active with {has} of {acknowledged} acknowledged writes"
        ))
    }
}

/// Whether it acts at an epoch that is over, and no client reaches it: its machine stood still while it was promoted. How long it may go on so
/// is what I1 judges.
fn is_over(world: &World, id: &InstanceId) -> bool {
    let Some(inst) = world.instances.get(id) else {
        return false;
    };
    let Some(acting) = inst.process.as_ref().and_then(|process| process.acting) else {
        return false;
    };
    let later = |known: &&SlotKnown| known.slot.slot == acting.slot && known.epoch > acting.epoch;
    world.held(id.service()).iter().any(later) && !world.gate_is_open(id, inst)
}
