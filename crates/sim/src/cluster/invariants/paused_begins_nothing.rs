//! While an operator pauses automatic actions, no node that was told so places, replaces or starts a standby. What changes hands already, or is
//! asked for by hand, goes on.

use super::{Invariant, Moment};
use crate::cluster::world::World;
use decisions::Action;
use model::Role;

#[derive(Debug)]
pub(crate) struct PausedBeginsNothing;

impl Invariant for PausedBeginsNothing {
    fn name(&self) -> &'static str {
        "paused"
    }

    fn observe(&mut self, world: &World, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Decided(ix, decision) = moment else {
            return Ok(());
        };
        let agent = world.node(*ix).agent.as_ref();
        if !agent.is_some_and(|agent| agent.clustered.paused) {
            return Ok(());
        }
        let begins = match &decision.action {
            Action::Create { .. } | Action::Retire { .. } => true,
            Action::Start { role, .. } => *role == Role::Standby,
            _ => false,
        };
        match begins {
            true => Err(format!(
                "automatic actions are paused, and n{ix:04} decides {:?} because {}",
                decision.action, decision.because
            )),
            false => Ok(()),
        }
    }
}
