//! L3, L4, L8: while nothing is wrong that concerns them, no slot changes hands and no process is started, stopped or fenced.

use super::{Invariant, Moment};
use crate::cluster::records::{Change, Value};
use crate::cluster::world::World;
use decisions::Action;

#[derive(Debug)]
pub(crate) struct Quiet {
    pub(crate) promise: &'static str,
}

impl Invariant for Quiet {
    fn name(&self) -> &'static str {
        self.promise
    }

    fn observe(&mut self, _: &World, moment: &Moment<'_>) -> Result<(), String> {
        match moment {
            Moment::Decided(ix, decision) => match &decision.action {
                Action::Create { .. }
                | Action::Forget { .. }
                | Action::Start { .. }
                | Action::Stop { .. }
                | Action::RunHook { .. }
                | Action::Retire { .. }
                | Action::AskMove { .. }
                | Action::AskRenew { .. }
                | Action::Write(_) => Err(format!(
                    "all is well, and n{ix:04} decides {:?} because {}",
                    decision.action, decision.because
                )),
                _ => Ok(()),
            },
            Moment::Committed(Change::Put(entry)) => match &*entry.value {
                Value::Slot(slot) => Err(format!("all is well, and {} is written for {}", slot.slot, slot.holder)),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}
