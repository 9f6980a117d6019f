//! I5: once a session has ended, no renewal of it commits.

use super::{Invariant, Moment};
use crate::cluster::records::{Change, Key, Value};
use crate::cluster::world::World;

#[derive(Debug)]
pub(crate) struct NoRenewalAfterAGrave;

impl Invariant for NoRenewalAfterAGrave {
    fn name(&self) -> &'static str {
        "I5"
    }

    fn observe(&mut self, world: &World, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Committed(Change::Put(entry)) = moment else {
            return Ok(());
        };
        let (Key::Session(node), Value::Session(record)) = (&entry.key, &*entry.value) else {
            return Ok(());
        };
        if world.server.model.get(&Key::Grave(*node, entry.create)).is_some() {
            return Err(format!(
                "session {} of n{node:04} is renewed after its grave",
                entry.create.0
            ));
        }
        // Only opening a session makes one, and that is numbered 0.
        if entry.create == entry.modified && record.seq > 0 {
            return Err(format!(
                "renewal {} of n{node:04} makes a session of one that has ended",
                record.seq
            ));
        }
        Ok(())
    }
}
