//! No healthy process is stopped that nobody asked to stop: each stop is justified by what really happened.

use super::{Invariant, Moment};
use crate::cluster::machine::Process;
use crate::cluster::records::{Key, NodeIx, Value};
use crate::cluster::world::World;
use decisions::{Action, Decision, Reason};
use model::{InstanceId, StandbyMode};
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct NoUnaskedRestart;

impl Invariant for NoUnaskedRestart {
    fn name(&self) -> &'static str {
        "no unasked restart"
    }

    fn observe(&mut self, world: &World, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Decided(ix, decision) = moment else {
            return Ok(());
        };
        let Action::Stop { instance, run, .. } = &decision.action else {
            return Ok(());
        };
        let process = world
            .process(instance)
            .filter(|process| process.run == *run && process.main && !process.dying);
        // Who is dead already may be stopped for any reason: nothing is lost.
        let Some(process) = process else { return Ok(()) };
        if justified(world, *ix, decision, instance, process) {
            return Ok(());
        }
        Err(format!(
            "{instance} is stopped because {}, and that is not so",
            decision.because
        ))
    }
}

fn justified(world: &World, ix: NodeIx, decision: &Decision, id: &InstanceId, process: &Process) -> bool {
    let Some(declared) = world.declared.get(id.service()) else {
        return true;
    };
    let evidence = &process.evidence;
    match &decision.because {
        Reason::HolderUnhealthy { .. } | Reason::ChecksFailed { .. } => evidence.unhealthy,
        // An agent that comes back does not know how far the promotion of a holder was, and prefers one that has all data for sure. Who
        // serves is not ended for that.
        Reason::CannotGoOn { .. } => !world
            .held(id.service())
            .iter()
            .any(|slot| slot.holder == *id && slot.served),
        Reason::NotHealthyInTime { .. } => {
            let limit = declared.start_timeout.duration().mul_f64(0.85);
            !evidence.passed_once && world.now.since(process.since) + Duration::from_millis(500) >= limit
        }
        Reason::HookFailed { .. } => evidence.hook_failed,
        Reason::NotFenced { .. } => evidence.not_fenced,
        // The store has another session of the node than its agent acts under, or the guard has fired.
        Reason::OwnSessionLost => true,
        // An active that is moved for the sake of balance is asked to leave its node as if that were emptied.
        Reason::DrainAsked => {
            let asked = world.tally.drained || world.tally.rebalanced;
            asked || world.server.model.get(&Key::Drained(ix)).is_some()
        }
        Reason::RebalanceAsked => world.tally.rebalanced,
        Reason::RolloutNeeds => process.from.launch() != declared.launch(),
        Reason::GoesBack => {
            let given_up = Key::GivenUp(world.file, id.service().clone());
            let serves = world
                .held(id.service())
                .iter()
                .any(|slot| slot.holder == *id && slot.served);
            process.from.launch() == declared.launch() && !serves && world.server.model.get(&given_up).is_some()
        }
        Reason::Parked { .. } => world.told_parked(ix, id.service()),
        Reason::ColdStandby => declared.standby_mode == StandbyMode::Cold,
        Reason::TooMany { .. } if evidence.unassigned => true,
        Reason::TooMany { .. } => match world
            .server
            .model
            .get(&Key::Instance(id.clone()))
            .map(|entry| &*entry.value)
        {
            Some(Value::Instance { retiring, .. }) => {
                *retiring || world.assigned(id.service()) > declared.wanted() as usize
            }
            // Replaced while its node was away.
            _ => true,
        },
        _ => false,
    }
}
