//! Starts what waits and may start; ends what a cold standby must not be.

use crate::instance::{Instance, Phase};
use crate::service::Service;
use crate::{Action, Context, Decision, Reason};
use model::{InstanceId, Role, Timestamp};

impl Service {
    /// Starts what waits and may start.
    pub(super) fn start(&mut self, cx: &mut Context<'_>) {
        if cx.stopping {
            return;
        }
        let cold = self.is_cold();
        let me = self.me.clone();
        // Who shall go away is not started again, unless others still need its data.
        let needed: Vec<InstanceId> = match me {
            Some(_) => {
                let going = self.instances.values().filter(|instance| instance.retiring);
                let needed = going.filter(|instance| self.data_only_with(&instance.id));
                needed.map(|instance| instance.id.clone()).collect()
            }
            None => Vec::new(),
        };
        let mine = |instance: &&Instance| me.as_ref().is_none_or(|me| *me == instance.node);
        let ids: Vec<InstanceId> = self.instances.values().filter(mine).map(|i| i.id.clone()).collect();
        for id in ids {
            let Some(instance) = self.instances.get(&id) else {
                continue;
            };
            let waits = self.awaits_the_new(instance);
            let source = self.source(instance, cx.now);
            let Some(instance) = self.instances.get_mut(&id) else {
                continue;
            };
            let due = match instance.phase {
                Phase::Waiting { until } => cx.now >= until,
                Phase::Prepared { again } => cold && cx.now >= again && !self.bound.contains_key(&instance.id),
                _ => false,
            };
            let goes = instance.retiring && !needed.contains(&instance.id);
            if !due || goes || waits || !cx.online(&instance.node) {
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
            let node = instance.node.clone();
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
            instance.begin_run(&source, cx.now, because.clone());
            let (run, earlier) = (instance.run, source.earlier());
            let action = Action::Start {
                instance: id,
                run,
                node,
                role: Role::Standby,
                epoch: None,
                earlier,
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
