//! No healthy process is stopped that nobody asked to stop: each stop is justified by what really happened.

use super::{Invariant, Moment};
use crate::world::truth::{Node, Process, Truth};
use decisions::{Action, Decision, Reason};
use model::{InstanceId, ServiceName, StandbyMode, Timestamp};
use std::collections::BTreeSet;
use std::time::Duration;

#[derive(Debug, Default)]
pub(crate) struct NoUnaskedRestart {
    /// Processes that were told to stop because there are too many: whose, since when they run, and how often the agent that
    /// told them had been started.
    surplus: BTreeSet<(InstanceId, Timestamp, u32)>,
    /// Services whose slots somebody moves: the holder may have to stop a little later.
    moving: BTreeSet<ServiceName>,
}

impl Invariant for NoUnaskedRestart {
    fn name(&self) -> &'static str {
        "no unasked restart"
    }

    fn observe(&mut self, truth: &Truth, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Decided(decision) = moment else {
            return Ok(());
        };
        self.moving.extend(truth.switchovers.values().cloned());
        let Action::Stop { instance, run, .. } = &decision.action else {
            return Ok(());
        };
        let process = truth
            .process(instance)
            .filter(|process| process.run == *run && process.main);
        // Who is dead already may be stopped for any reason: nothing is lost.
        let Some(process) = process else {
            return Ok(());
        };
        if self.justified(truth, decision, instance, process) {
            return Ok(());
        }
        Err(format!(
            "{instance} is stopped because {}, and that is not so",
            decision.because
        ))
    }
}

impl NoUnaskedRestart {
    fn justified(&mut self, truth: &Truth, decision: &Decision, id: &InstanceId, process: &Process) -> bool {
        let Some(declared) = truth.declared.get(id.service()) else {
            return true;
        };
        let evidence = &process.evidence;
        let node = truth
            .instances
            .get(id)
            .and_then(|instance| truth.nodes.get(&instance.node));
        match &decision.because {
            Reason::HolderUnhealthy { .. } | Reason::ChecksFailed { .. } => evidence.unhealthy,
            Reason::NotHealthyInTime { .. } => {
                let limit = declared
                    .start_timeout
                    .duration()
                    .min(process.from.start_timeout.duration());
                !evidence.passed_once && truth.now.since(process.since) + Duration::from_millis(500) >= limit
            }
            Reason::HookFailed { .. } => evidence.hook_failed,
            Reason::TooMany { .. } => self.too_many(truth, id, process),
            Reason::RolloutNeeds => process.from.launch() != declared.launch(),
            Reason::GoesBack => {
                let is_given_up = truth.store.given_up.contains_key(id.service());
                is_given_up && process.from.launch() == declared.launch() && process.acting.is_none()
            }
            Reason::SwitchoverAsked => self.moving.contains(id.service()),
            Reason::DrainAsked => node.is_none_or(|node| *node == Node::Drained),
            Reason::NodeLost { .. } => node.is_none_or(|node| *node == Node::Lost),
            Reason::ColdStandby => declared.standby_mode == StandbyMode::Cold,
            Reason::DownAsked => truth.shutdown,
            _ => false,
        }
    }

    fn too_many(&mut self, truth: &Truth, id: &InstanceId, process: &Process) -> bool {
        let Some(declared) = truth.declared.get(id.service()) else {
            return true;
        };
        let recorded = truth.of(id.service()).filter(|(other, instance)| {
            let since = instance
                .process
                .as_ref()
                .map(|process| process.since)
                .unwrap_or_default();
            instance.recorded && !self.surplus.contains(&((*other).clone(), since, truth.agent_starts))
        });
        let too_many = recorded.count() > declared.wanted() as usize;
        let surplus_slot = process.acting.is_some_and(|acting| acting.slot >= declared.active)
            || truth.store.held_by(id).any(|known| known.slot.slot >= declared.active);
        // The holder of a slot too many may go on as a standby.
        if !surplus_slot {
            self.surplus.insert((id.clone(), process.since, truth.agent_starts));
        }
        too_many || surplus_slot
    }
}
