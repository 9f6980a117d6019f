//! I4: whoever acts and is reached is covered by an acknowledged renewal that was sent less than D ago, by the clocks of its machine.

use super::{Invariant, Moment};
use crate::cluster::world::World;

#[derive(Debug)]
pub(crate) struct Covered;

impl Invariant for Covered {
    fn name(&self) -> &'static str {
        "I4"
    }

    fn observe(&mut self, world: &World, moment: &Moment<'_>) -> Result<(), String> {
        let only = match moment {
            Moment::Acts(id) => Some(*id),
            Moment::Look => None,
            _ => return Ok(()),
        };
        for (id, inst) in world
            .instances
            .iter()
            .filter(|(id, _)| only.is_none_or(|only| only == *id))
        {
            let Some(process) = inst.process.as_ref().filter(|process| process.from.exclusive) else {
                continue;
            };
            let node = world.node(inst.node);
            if process.acting.is_none() || node.paused || !world.gate_is_open(id, inst) {
                continue;
            }
            let age = node.acked.map(|acked| node.clocks.mark(world.now).held_for(acked));
            if age.is_none_or(|age| age >= world.timing.lease.duration()) {
                return Err(format!(
                    "{id} is reached, and its last acknowledged renewal was sent {age:?} ago"
                ));
            }
        }
        Ok(())
    }
}
