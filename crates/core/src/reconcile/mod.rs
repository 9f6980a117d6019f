//! The reconciler: looks at a whole service and decides what is to be done next. Safe to run twice.

mod claim;
mod count;
mod ends;
mod follow;
mod lose;
mod mirror;
mod promote;
mod prove;
mod rebind;
mod rollout;
mod route;
mod start;
mod why;
mod wind_down;
mod worked;

pub use ends::unhealthy_restart_after;
pub(crate) use rebind::Kept;
pub(crate) use rollout::InVain;

use crate::instance::{Instance, Phase, SETTLE};
use crate::peers::LOST_GRACE;
use crate::service::{Service, Stood};
use crate::slot::{self, Slot, Stage};
use crate::{Context, Decision, NodeState, Note, NoteKind, Reason};
use model::{Health, ServiceState, Timestamp};
use route::ANSWER_WITHIN;
use std::time::Duration;

/// What a late step of a pass begins, an early one of the next carries on: a rollout's next change, and its claim. More is to come
/// only from outside.
const PASSES_MAX: u32 = 4;

impl Service {
    pub(crate) fn reconcile(&mut self, cx: &mut Context<'_>) {
        for _ in 0..PASSES_MAX {
            self.look_again = false;
            self.pass(cx);
            if !self.look_again {
                break;
            }
        }
    }

    fn pass(&mut self, cx: &mut Context<'_>) {
        for slot in &mut self.slots {
            slot.park_as(cx.parks);
        }
        self.others_know_the_file = self.declared_until().is_none_or(|at| cx.now >= at);
        self.refresh_bound();
        self.mirror(cx);
        self.rebind(cx);
        self.lose_slots(cx);
        self.after_end(cx);
        let winding_down = self.removed || (cx.stopping && !cx.needed);
        if winding_down {
            self.wind_down(cx);
        } else {
            self.settle(cx);
            if cx.paused {
                self.finish(cx);
            } else {
                self.act(cx);
            }
            self.send_route(cx);
        }
        self.rejoin(cx.out);
        self.report(cx);
        self.note_held();
        self.judge(cx);
        self.note_who_serves();
        self.note_worked(cx);
        self.write_given_up(cx);
        self.wakeup = self.next_wakeup(winding_down, cx);
    }

    fn note_who_serves(&mut self) {
        for (holder, epoch) in self.slots.iter().filter_map(|slot| slot.active()) {
            // Of another node's it may be its next process that we were told of already.
            let serves = |instance: &&mut Instance| instance.promoted == Some(epoch);
            if let Some(instance) = self.instances.get_mut(holder).filter(serves) {
                instance.served_as = Some(instance.run);
            }
        }
    }

    fn act(&mut self, cx: &mut Context<'_>) {
        self.watch(cx);
        self.lose_slots(cx);
        self.count(cx);
        self.planned(cx);
        self.claim(cx);
        self.promote(cx);
        self.follow(cx);
        if !cx.stopping {
            self.cool_down(cx);
            self.move_on(cx);
            self.go_back(cx);
            self.start(cx);
        }
    }

    /// While automatic actions are paused nothing is begun, but a slot that was changing hands does not stay in between.
    fn finish(&mut self, cx: &mut Context<'_>) {
        self.planned(cx);
        self.claim(cx);
        self.promote(cx);
    }

    /// Whether it is redundant, degraded or down.
    fn judge(&mut self, cx: &mut Context<'_>) {
        let (serving, ready) = (self.serving(), self.ready_standbys());
        let declared = &self.declared;
        // Clients of a proxy wait for as long as a planned move may take and none is turned away: no outage.
        let moves = self.moves_as_planned(cx.now);
        let state = if serving < self.need() && moves.is_none() {
            ServiceState::Down
        } else if serving >= declared.active && ready >= declared.standby {
            ServiceState::Redundant
        } else {
            ServiceState::Degraded
        };
        let because = match &cx.missing {
            Some(need) if state == ServiceState::Down => Reason::WaitsForNeed { need: need.clone() },
            _ if state != ServiceState::Redundant && self.parked_slot().is_some() => {
                self.parked_slot().unwrap_or(Reason::Declared)
            }
            _ => match moves {
                Some((because, _)) if serving < self.need() => because,
                _ => match self.slots.iter().find_map(Slot::why_not_promoted) {
                    Some(failed) if state == ServiceState::Down => failed,
                    _ => self.counted(serving, ready),
                },
            },
        };
        // That all is there was seen by an earlier agent: it is not claimed before it was looked at again.
        let unchecked = match state {
            ServiceState::Redundant => self.unchecked(),
            ServiceState::Degraded | ServiceState::Down => 0,
        };
        let rests = |stood: &Stood| {
            let worse = state == ServiceState::Degraded && stood.state == ServiceState::Redundant;
            !worse || cx.now >= stood.until
        };
        if unchecked > 0 || !self.stood.as_ref().is_none_or(rests) {
            if self.state != ServiceState::Degraded {
                self.state = ServiceState::Degraded;
                self.state_since = cx.now;
            }
            self.state_because = match unchecked {
                0 => because,
                instances => Reason::NotCheckedYet { instances },
            };
            return;
        }
        let stood = self
            .stood
            .take()
            .filter(|stood| stood.state == state && !self.told_state);
        if let Some(stood) = stood {
            // As before: no news.
            self.state = state;
            // Where others went on without this agent, the slots say if something happened meanwhile.
            let moved = self.slots.iter().map(|slot| slot.since).max();
            let moved = moved.filter(|_| self.me.is_some());
            self.state_since = moved.map_or(stood.since, |moved| moved.max(stood.since));
            self.told_state = true;
        } else if state != self.state || !self.told_state {
            // Coming up is not news of an outage.
            let news = self.told_state || !self.is_new || state != ServiceState::Down;
            self.state = state;
            self.state_since = cx.now;
            if news {
                self.told_state = true;
                cx.out.push_back(Decision::note(
                    Note::about_service(NoteKind::ServiceState(state), self.name.clone()),
                    because.clone(),
                ));
            }
        }
        self.state_because = because;
    }

    /// When this service wants to be looked at again, at the latest.
    fn next_wakeup(&self, winding_down: bool, cx: &Context<'_>) -> Option<Timestamp> {
        let slots = self.slots.iter();
        if winding_down {
            let release = |slot: &Slot| slot.phase == slot::Phase::Vacant && slot.write_after > cx.now;
            return slots.filter(|slot| release(slot)).map(|slot| slot.write_after).min();
        }
        let of_slots = slots.filter_map(|slot| slot_wakeup(slot, cx));
        let of_instances = self
            .instances
            .values()
            .filter(|instance| self.is_mine(instance))
            .filter_map(|instance| self.instance_wakeup(instance, cx));
        let stuck = self.rolling_wakeup();
        of_slots
            .chain(of_instances)
            .chain(stuck)
            .chain(self.replacement_due(cx))
            .chain(self.asked_for.values().map(|asked| asked.again))
            // Another node that was asked for something may not have been ready to do it: it is asked again.
            .chain(self.slots.iter().map(|slot| slot.ask_again))
            .chain(self.instances.values().map(|instance| instance.ask_again))
            .chain(self.rebalancing.then_some(self.rebalanced_again))
            .chain(self.write_again_at(cx))
            .chain(self.surplus_due(cx))
            .chain(self.stood.map(|stood| stood.until))
            .chain(self.moves_as_planned(cx.now).map(|(_, until)| until))
            .chain(self.declared_until())
            .chain(self.given_up_wakeup(cx.now))
            .chain(
                self.instances
                    .values()
                    .filter_map(|instance| Some(instance.unfenced.as_ref()?.1)),
            )
            .filter(|at| *at > cx.now)
            .min()
    }

    fn instance_wakeup(&self, instance: &Instance, cx: &Context<'_>) -> Option<Timestamp> {
        match instance.phase {
            Phase::Starting { started: true, .. } if self.declared.check.is_none() => {
                Some(instance.since + SETTLE.duration())
            }
            _ if cx.paused => None,
            Phase::Waiting { until } if cx.missing.is_none() && cx.online(&instance.node) => Some(until),
            Phase::Prepared { again } if !self.bound.contains_key(&instance.id) => Some(again),
            Phase::Starting { deadline, .. } => Some(deadline),
            Phase::Failed { retry } => Some(retry),
            // One that is due and could not be restarted is looked at again.
            Phase::Running if instance.health == Health::Unhealthy => {
                self.unhealthy_restart_at(&instance.id).map(|at| {
                    if at > cx.now {
                        at
                    } else {
                        cx.now + Duration::from_secs(1)
                    }
                })
            }
            Phase::Running => Some(instance.follow_again),
            _ => None,
        }
    }
}

impl Service {
    /// When the controller may replace what was on a lost node.
    fn replacement_due(&self, cx: &Context<'_>) -> Option<Timestamp> {
        if !cx.is_controller() || cx.peers.is_none() {
            return None;
        }
        let due = |instance: &Instance| {
            let node = cx.nodes.get(&instance.node)?;
            (node.state == NodeState::Offline).then(|| node.since + LOST_GRACE)
        };
        self.instances.values().filter_map(due).filter(|at| *at > cx.now).min()
    }
}

fn slot_wakeup(slot: &Slot, cx: &Context<'_>) -> Option<Timestamp> {
    let draining = slot.planned.as_ref().and_then(|planned| match planned.stage {
        Stage::Parting { until, .. } => Some(until),
        Stage::Draining { deadline } => Some(deadline),
        Stage::Proving { until, .. } => Some(until),
        _ => None,
    });
    let answer = slot
        .request
        .and(slot.takeover.as_ref())
        .map(|takeover| takeover.detected + ANSWER_WITHIN);
    let times = [
        slot.report_at,
        draining,
        answer,
        Some(slot.write_after),
        Some(slot.claim_after),
        Some(slot.arm_again.1),
        slot.turn_at,
    ];
    times.into_iter().flatten().filter(|at| *at > cx.now).min()
}
