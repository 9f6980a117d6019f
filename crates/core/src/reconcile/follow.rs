//! Standbys follow the (new) active; old shared actives are demoted when their clients have gone.

use crate::instance::RunningHook;
use crate::service::Service;
use crate::{Action, Context, Decision, Reason, RouteTarget};
use model::{HookKind, InstanceId};

impl Service {
    /// Standbys follow the (new) active; old shared actives are demoted when their clients have gone.
    pub(super) fn follow(&mut self, cx: &mut Context<'_>) {
        let demoted: Vec<InstanceId> = self
            .instances
            .values()
            .filter(|instance| {
                self.is_mine(instance) && instance.demote.is_some() && instance.is_fit() && instance.hook.is_none()
            })
            .filter(|instance| !self.has_clients(&instance.id) && !self.bound.contains_key(&instance.id))
            .map(|instance| instance.id.clone())
            .collect();
        for id in demoted {
            let earlier = self
                .instances
                .get(&id)
                .and_then(|instance| self.earlier_hooks(instance));
            let Some(instance) = self.instances.get_mut(&id) else {
                continue;
            };
            let Some(epoch) = instance.demote.take() else {
                continue;
            };
            instance.hook = Some(RunningHook {
                kind: HookKind::Demote,
                epoch,
            });
            let run = instance.run;
            cx.decide(
                Action::RunHook {
                    instance: id,
                    run,
                    hook: HookKind::Demote,
                    epoch,
                    active: None,
                    earlier,
                },
                Reason::StandbyByRole,
            );
        }
        if self.declared.on_follow.is_none() || self.is_cold() {
            return;
        }
        let Some(leader) = self.leader().filter(|leader| leader.planned.is_none()) else {
            return;
        };
        let Some((active, epoch)) = leader.active().map(|(active, epoch)| (active.clone(), epoch)) else {
            return;
        };
        let unproven = self.unproven().cloned();
        let me = self.me.clone();
        let mine = |instance: &&mut crate::instance::Instance| me.as_ref().is_none_or(|me| *me == instance.node);
        for instance in self.instances.values_mut().filter(mine) {
            let free = instance.is_fit() && instance.hook.is_none() && instance.demote.is_none() && !instance.retiring;
            if !free
                || self.bound.contains_key(&instance.id)
                || instance.followed == Some(epoch)
                || cx.now < instance.follow_again
            {
                continue;
            }
            instance.hook = Some(RunningHook {
                kind: HookKind::Follow,
                epoch,
            });
            // Its last standby check was about the active before.
            instance.standby_check = None;
            instance.stood_by = None;
            instance.failing_since = None;
            let because = Reason::NewActive {
                instance: active.clone(),
                epoch,
            };
            let action = Action::RunHook {
                instance: instance.id.clone(),
                run: instance.run,
                hook: HookKind::Follow,
                epoch,
                active: Some(active.clone()),
                earlier: unproven.clone().filter(|_| !instance.current),
            };
            cx.out.push_back(Decision { action, because });
        }
    }

    /// Clients may still be connected to it.
    pub(super) fn has_clients(&self, id: &InstanceId) -> bool {
        let routed = |target: &RouteTarget| target.instance == *id;
        self.draining.contains_key(id) || self.route.iter().flatten().any(routed)
    }
}
