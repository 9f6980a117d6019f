//! I8: the guard is armed for an exclusive active before its promote hook runs its first instruction.

use super::{Invariant, Moment};
use crate::cluster::world::World;

#[derive(Debug)]
pub(crate) struct ArmedThenPromoted;

impl Invariant for ArmedThenPromoted {
    fn name(&self) -> &'static str {
        "I8"
    }

    fn observe(&mut self, world: &World, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Promotes(ix, id, epoch) = moment else {
            return Ok(());
        };
        if world
            .declared
            .get(id.service())
            .is_none_or(|declared| !declared.exclusive)
        {
            return Ok(());
        }
        let guard = &world.node(*ix).guard;
        // One that has fired meanwhile did so because it was armed.
        let fired = world
            .fired
            .iter()
            .any(|(slot, fired)| slot.service == *id.service() && fired == epoch);
        if guard.keeps(id, *epoch) || fired || !guard.works() {
            return Ok(());
        }
        Err(format!("{id} is promoted at epoch {epoch}, and its guard is not armed"))
    }
}
