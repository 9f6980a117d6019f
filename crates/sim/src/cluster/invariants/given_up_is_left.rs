//! A version that is written to be given up is moved on to by no controller that was elected since.

use super::{Invariant, Moment};
use crate::cluster::records::{Key, Value};
use crate::cluster::world::World;
use decisions::{Action, Decision, Reason};
use model::ServiceName;

#[derive(Debug)]
pub(crate) struct GivenUpIsLeft;

impl Invariant for GivenUpIsLeft {
    fn name(&self) -> &'static str {
        "given up is left"
    }

    fn observe(&mut self, world: &World, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Decided(ix, decision) = moment else {
            return Ok(());
        };
        let Some(service) = moved_on(decision) else {
            return Ok(());
        };
        let given_up = world.server.model.get(&Key::GivenUp(world.file, service.clone()));
        let Some((given_up, elected)) = given_up.zip(world.server.model.get(&Key::Controller)) else {
            return Ok(());
        };
        let decides = matches!(&*elected.value, Value::Controller { node, .. } if node == ix);
        if decides && elected.modified > given_up.create {
            return Err(format!(
                "n{ix:04} was elected after this version of {service} was given up, and tries it: {:?}",
                decision.action
            ));
        }
        Ok(())
    }
}

/// The service that a decision moves on to what is declared.
fn moved_on(decision: &Decision) -> Option<&ServiceName> {
    if decision.because != Reason::RolloutNeeds {
        return None;
    }
    match &decision.action {
        Action::AskRenew { instance, .. } | Action::Stop { instance, .. } => Some(instance.service()),
        Action::AskMove { slot, .. } => Some(&slot.service),
        _ => None,
    }
}
