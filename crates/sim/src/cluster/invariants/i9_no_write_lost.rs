//! I9: whoever begins to act for an exclusive service with followers has every write that was acknowledged.

use super::{Invariant, Moment};
use crate::cluster::machine::keeps_history;
use crate::cluster::world::World;

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
        if has >= acknowledged || dying {
            return Ok(());
        }
        Err(format!(
            "{id} becomes active with {has} of {acknowledged} acknowledged writes"
        ))
    }
}
