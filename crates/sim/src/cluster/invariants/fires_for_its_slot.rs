//! A guard ends nobody for a slot that he left: who acts for another one by then is that one's.

use super::{Invariant, Moment};
use crate::cluster::world::World;

#[derive(Debug)]
pub(crate) struct FiresForItsSlot;

impl Invariant for FiresForItsSlot {
    fn name(&self) -> &'static str {
        "a guard fires for its slot"
    }

    fn observe(&mut self, world: &World, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Fires(slot, id, run) = moment else {
            return Ok(());
        };
        let process = world
            .process(id)
            .filter(|process| process.run == *run && !process.dying);
        let acting = process.and_then(|process| process.acting);
        match acting.filter(|acting| acting.slot != slot.slot) {
            Some(acting) => Err(format!("{id} acts for slot {} and is ended for {slot}", acting.slot)),
            None => Ok(()),
        }
    }
}
