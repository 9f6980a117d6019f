//! Starts what waits and may start; ends what a cold standby must not be.

use crate::instance::{Instance, Phase};
use crate::service::Service;
use crate::{Action, Context, Decision, Reason};
use model::{InstanceId, Role, Timestamp};
use std::sync::Arc;

impl Service {
    /// Starts what waits and may start.
    pub(super) fn start(&mut self, cx: &mut Context<'_>) {
        if cx.stopping {
            return;
        }
        let declared = Arc::clone(&self.declared);
        let cold = self.is_cold();
        let me = self.me.clone();
        let mine = |instance: &&mut Instance| me.as_ref().is_none_or(|me| *me == instance.node);
        for instance in self.instances.values_mut().filter(mine) {
            let due = match instance.phase {
                Phase::Waiting { until } => cx.now >= until,
                Phase::Prepared { again } => cold && cx.now >= again && !self.bound.contains_key(&instance.id),
                _ => false,
            };
            if !due || instance.retiring || !cx.online(&instance.node) {
                continue;
            }
            // Another controller may have given its number to an instance elsewhere: the one whose record is written exists.
            if cx.peers.is_some() && !instance.created {
                continue;
            }
            if let Some(need) = &cx.missing {
                instance.because = Reason::WaitsForNeed { need: need.clone() };
                continue;
            }
            let (id, node) = (instance.id.clone(), instance.node.clone());
            if cold {
                // Who is looked over again could be started until we hear otherwise.
                instance.phase = match instance.phase {
                    Phase::Prepared { .. } => Phase::Prepared {
                        again: Timestamp::NEVER,
                    },
                    _ => Phase::Preparing,
                };
                cx.out.push_back(Decision {
                    action: Action::Prepare { instance: id, node },
                    because: Reason::ColdStandby,
                });
                continue;
            }
            let because = match &instance.because {
                Reason::WaitsForNeed { .. } => Reason::NeedsAreUp,
                because => because.clone(),
            };
            instance.begin_run(&declared, cx.now, because.clone());
            let run = instance.run;
            let action = Action::Start {
                instance: id,
                run,
                node,
                role: Role::Standby,
                epoch: None,
            };
            cx.out.push_back(Decision { action, because });
        }
    }

    /// A cold standby does not run: who lost its slot, or was warm until now, is stopped when its clients have gone.
    pub(super) fn cool_down(&mut self, cx: &mut Context<'_>) {
        if !self.is_cold() {
            return;
        }
        let idle = |instance: &&Instance| {
            instance.is_alive()
                && self.is_mine(instance)
                && !instance.acts
                && instance.hook.is_none()
                && !self.bound.contains_key(&instance.id)
                && !self.has_clients(&instance.id)
        };
        let idle: Vec<InstanceId> = self
            .instances
            .values()
            .filter(idle)
            .map(|instance| instance.id.clone())
            .collect();
        for id in idle {
            self.stop(&id, Reason::ColdStandby, cx.now, cx.out);
        }
    }
}
