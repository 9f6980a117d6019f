//! What the proxy and people are told.

use crate::instance::Instance;
use crate::service::Service;
use crate::{Action, Context, Decision, Reason, Refusal, RouteTarget};
use model::{InstanceId, Millis};
use std::time::Duration;

/// The operator hears after this long that a switchover is not complete yet; it goes on all the same.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(30);

impl Service {
    /// Tells the proxy where clients go, if that changed.
    pub(super) fn send_route(&mut self, cx: &mut Context<'_>) {
        if self.declared.listen.is_none() {
            if self.fronted {
                self.unroute(Reason::NotDeclared, cx);
            }
            return;
        }
        self.unrouted = false;
        self.fronted = true;
        let alive = |id: &InstanceId| self.instances.get(id).is_some_and(Instance::is_alive);
        let fit = |id: &InstanceId| self.instances.get(id).is_some_and(Instance::is_fit);
        let any_fit = self
            .slots
            .iter()
            .filter_map(|slot| slot.routed.as_ref())
            .any(|(id, _)| fit(id));
        let targets: Vec<RouteTarget> = self
            .slots
            .iter()
            .filter_map(|slot| Some((slot.id.slot, slot.routed.as_ref()?)))
            // A sick active gets no clients while a fit one can take them.
            .filter(|(_, (id, _))| if any_fit { fit(id) } else { alive(id) })
            .map(|(slot, (instance, epoch))| RouteTarget {
                slot,
                run: self
                    .instances
                    .get(instance)
                    .map(|instance| instance.run)
                    .unwrap_or_default(),
                instance: instance.clone(),
                epoch: *epoch,
            })
            .collect();
        if self.route.as_ref() == Some(&targets) {
            return;
        }
        let drain = self.drain();
        for old in self.route.iter().flatten() {
            if targets.iter().all(|target| target.instance != old.instance) {
                let goes_on = fit(&old.instance);
                self.draining
                    .insert(old.instance.clone(), if goes_on { drain } else { Millis(0) });
            }
        }
        self.draining
            .retain(|id, _| targets.iter().all(|target| target.instance != *id));
        self.route_revision += 1;
        for slot in &mut self.slots {
            let carried = slot
                .routed
                .as_ref()
                .is_some_and(|(id, _)| targets.iter().any(|target| target.instance == *id));
            if carried
                && slot
                    .takeover
                    .as_ref()
                    .is_some_and(|takeover| takeover.promoted.is_some() && takeover.routed.is_none())
            {
                slot.awaits_route.get_or_insert(self.route_revision);
            }
        }
        let because = Reason::Serving {
            serving: u32::try_from(targets.len()).unwrap_or(u32::MAX),
            active: self.declared.active,
            ready: self.ready_standbys(),
            standby: self.declared.standby,
        };
        let leaving = self.draining.iter().map(|(id, drain)| (id.clone(), *drain)).collect();
        self.route = Some(targets.clone());
        cx.decide(
            Action::Route {
                service: self.name.clone(),
                revision: self.route_revision,
                targets,
                leaving,
            },
            because,
        );
    }

    /// Tells takeovers that are complete.
    pub(super) fn report(&mut self, cx: &mut Context<'_>) {
        let has_route = self.declared.listen.is_some();
        let has_answer = has_route || self.declared.check.is_some();
        for slot in &mut self.slots {
            let Some(takeover) = &slot.takeover else {
                continue;
            };
            if slot.serving().is_none() || takeover.promoted.is_none() {
                if cx.now >= takeover.detected + ANSWER_WITHIN
                    && let Some(request) = slot.request.take()
                {
                    let what = format!("the slot is still {}: {}", slot.state_name(), slot.because);
                    cx.out
                        .push_back(Decision::answer(request, Err(Refusal::Failed { what })));
                }
                continue;
            }
            let complete = (takeover.routed.is_some() || !has_route) && (takeover.answered.is_some() || !has_answer);
            if !complete && slot.report_at.is_none_or(|at| cx.now < at) {
                continue;
            }
            self.look_again = true;
            slot.promotion_went_well();
            slot.complete(cx.out);
        }
    }

    /// The clients' address goes away.
    pub(super) fn unroute(&mut self, because: Reason, cx: &mut Context<'_>) {
        self.fronted = false;
        self.route = None;
        self.draining.clear();
        let service = self.name.clone();
        cx.decide(Action::Unroute { service }, because);
    }
}
