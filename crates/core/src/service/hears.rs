//! What a service is told.

use super::Service;
use crate::instance::{Instance, Phase};
use crate::slot::{self, Stage};
use crate::{Action, Decision, Event, HookOutcome, Note, NoteKind, Reason};
use model::{Epoch, Health, HookKind, InstanceId, RunId, Timestamp};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// First wait after a failed follow hook; doubles up to [`FOLLOW_RETRY_MAX`].
const FOLLOW_RETRY: Duration = Duration::from_millis(500);
const FOLLOW_RETRY_MAX: Duration = Duration::from_secs(30);

/// A hook that ended.
struct HookEnd {
    hook: HookKind,
    epoch: Epoch,
    outcome: HookOutcome,
}

impl Service {
    /// Takes an event in. Returns true if the service must be looked at.
    pub(crate) fn absorb(&mut self, event: Event, now: Timestamp, out: &mut VecDeque<Decision>) -> bool {
        match event {
            Event::Started { instance, run } => {
                let start_timeout = self.declared.start_timeout.duration();
                let Some(instance) = self.current_run(&instance, run) else {
                    return false;
                };
                if !matches!(instance.phase, Phase::Starting { .. }) {
                    return false;
                }
                // Its time counts from here: that we were slow to start it is not its fault.
                let deadline = now + start_timeout;
                instance.phase = Phase::Starting {
                    started: true,
                    deadline,
                };
                // From here the settling time of a service without check counts.
                instance.since = now;
                true
            }
            Event::StartFailed {
                instance: id,
                run,
                error,
            } => {
                let Some(instance) = self.current_run(&id, run) else {
                    return false;
                };
                instance.last_failure = Some(error.clone());
                instance.last_end = Some(error.clone());
                instance.was_healthy = false;
                let because = Reason::StartFailed {
                    instance: id.clone(),
                    error,
                };
                out.push_back(Decision::note(
                    Note::about_instance(NoteKind::StartFailed, &id, &instance.node),
                    because.clone(),
                ));
                instance.set(Phase::Stopping, Health::Down, now, because);
                self.gone(&id, now, out)
            }
            Event::Prepared { instance: id, result } => {
                let Some(instance) = self.instances.get_mut(&id) else {
                    return false;
                };
                if !matches!(
                    instance.phase,
                    Phase::Preparing
                        | Phase::Prepared {
                            again: Timestamp::NEVER
                        }
                ) {
                    return false;
                }
                match result {
                    Ok(()) => {
                        // Looked over every half a minute: what was ready may have lost its disk or its program.
                        let again = now + Duration::from_secs(30);
                        instance.set(Phase::Prepared { again }, Health::Down, now, Reason::ColdStandby);
                    }
                    Err(error) => {
                        instance.last_failure = Some(error.clone());
                        let until = now + Duration::from_secs(5);
                        instance.set(
                            Phase::Waiting { until },
                            Health::Down,
                            now,
                            Reason::NotReady { what: error },
                        );
                    }
                }
                true
            }
            Event::Exited { instance: id, run, how } => {
                let Some(instance) = self.current_run(&id, run) else {
                    return false;
                };
                if !instance.is_alive() {
                    return false;
                }
                instance.was_healthy = instance.phase == Phase::Running;
                instance.last_failure = Some(how.clone());
                instance.last_end = Some(how.clone());
                let because = Reason::ProcessEnded {
                    instance: id.clone(),
                    how,
                };
                out.push_back(Decision {
                    action: Action::Stop {
                        instance: id.clone(),
                        run,
                        polite: false,
                    },
                    because: because.clone(),
                });
                out.push_back(Decision::note(
                    Note::about_instance(NoteKind::InstanceDied, &id, &instance.node),
                    because.clone(),
                ));
                instance.set(Phase::Stopping, Health::Down, now, because);
                instance.planned_stop = false;
                true
            }
            Event::Gone { instance, run } => {
                self.current_run(&instance, run).is_some() && self.gone(&instance, now, out)
            }
            Event::Probed {
                instance: id,
                run,
                standby: true,
                began,
                outcome,
            } => self.standby_probed(&id, run, began, outcome, now),
            Event::Probed {
                instance: id,
                run,
                standby: false,
                began,
                outcome,
            } => self.probed(&id, run, (began, outcome), now, out),
            Event::HookDone {
                instance,
                run,
                hook,
                epoch,
                outcome,
            } => self.hook_done(&instance, run, HookEnd { hook, epoch, outcome }, now, out),
            Event::Committed { slot, attempt, result } => self.committed(&slot, attempt, result, now, out),
            Event::Routed { revision, at, .. } => {
                if revision > self.route_revision {
                    // It follows a route that is not ours, of an agent we do not remember: ours must be above it.
                    self.route_known(revision);
                    self.route = None;
                    return true;
                }
                for slot in &mut self.slots {
                    if slot.awaits_route.is_some_and(|awaited| revision >= awaited) {
                        slot.awaits_route = None;
                        if let Some(takeover) = &mut slot.takeover {
                            takeover.routed.get_or_insert(at);
                        }
                    }
                }
                true
            }
            Event::ProxyReset { revision, .. } => {
                self.route_known(revision);
                self.route = None;
                self.draining.clear();
                true
            }
            Event::Parted { instance, shut } => self.parted(&instance, shut),
            Event::Drained { instance } => {
                self.draining.remove(&instance);
                self.drained(&instance);
                let left = self
                    .instances
                    .get(&instance)
                    .filter(|left| left.leaving && !self.is_mine(left));
                if let Some(node) = left.map(|left| left.node.clone()) {
                    let because = Reason::SwitchoverAsked;
                    let action = Action::TellLeft { instance, node };
                    out.push_back(Decision { action, because });
                }
                true
            }
            Event::FirstAnswer { instance, epoch, at } => {
                self.answered(&instance, epoch, at);
                true
            }
            Event::Suspected { instance: id } => {
                let Some(instance) = self.instances.get(&id) else {
                    return false;
                };
                if instance.is_alive() {
                    let because = Reason::Suspected { instance: id.clone() };
                    out.push_back(Decision {
                        action: Action::ProbeNow {
                            instance: id,
                            standby: false,
                        },
                        because,
                    });
                }
                false
            }
            Event::Armed {
                instance,
                epoch,
                result,
            } => self.armed(&instance, epoch, result, now, out),
            Event::Switchover { request, slot, to, .. } => match self.switchover(request, slot, to, now, out) {
                Ok(()) => true,
                Err(refusal) => {
                    out.push_back(Decision::answer(request, Err(refusal)));
                    false
                }
            },
            Event::Rebalance { asked, .. } => {
                let changed = self.rebalancing != asked;
                self.rebalancing = asked;
                self.rebalanced_again = now;
                self.moving = self.moving.take().filter(|_| asked);
                changed
            }
            Event::Retry { instance } => {
                // Who failed with what worked before is not meant to try the new version.
                let tried_last = self.giving_up.known.as_ref().map(|known| &known.instance);
                let found = self.instances.get(&instance);
                if tried_last == Some(&instance) || found.is_some_and(|found| found.current) {
                    self.try_again(Reason::RetryAsked);
                }
                let Some(instance) = self.instances.get_mut(&instance) else {
                    return self.is_given_up();
                };
                if let Phase::Failed { .. } | Phase::Waiting { .. } = instance.phase {
                    instance.failed_starts = 0;
                    instance.deaths.clear();
                    instance.set(Phase::Waiting { until: now }, Health::Down, now, Reason::RetryAsked);
                    self.replacements = 0;
                    self.roll_again();
                    for slot in &mut self.slots {
                        slot.claim_after = Timestamp(0);
                    }
                }
                true
            }
            // The others are about the cluster.
            _ => false,
        }
    }

    fn current_run(&mut self, instance: &InstanceId, run: RunId) -> Option<&mut Instance> {
        self.instances
            .get_mut(instance)
            .filter(|instance| instance.run == run && instance.has_process())
    }

    /// A standby without an active to follow must fail its standby check, and says nothing by it: whether it may take over
    /// was decided while the active lived.
    pub(crate) fn judges_standbys(&self) -> bool {
        let Some(leader) = self.leader().filter(|leader| leader.planned.is_none()) else {
            return false;
        };
        leader
            .serving()
            .and_then(|holder| self.instances.get(holder))
            .is_some_and(Instance::is_fit)
    }

    fn standby_probed(
        &mut self,
        id: &InstanceId,
        run: RunId,
        began: Timestamp,
        outcome: crate::ProbeOutcome,
        now: Timestamp,
    ) -> bool {
        let judges_standbys = self.judges_standbys();
        let Some(instance) = self.current_run(id, run) else {
            return false;
        };
        // Who is about to take over from a demoted one is asked whether it has everything, and has to say so.
        let proves = instance.proving.filter(|(_, since)| began >= *since);
        // Nor does one that is just being told whom to follow.
        if (!judges_standbys && proves.is_none()) || instance.hook.is_some() {
            return false;
        }
        instance.standby_checked_at = now;
        let first = instance.standby_unchecked && outcome != crate::ProbeOutcome::Unsure;
        instance.standby_unchecked &= !first;
        let result = match outcome {
            crate::ProbeOutcome::Pass => Ok(()),
            crate::ProbeOutcome::Fail(what) => Err(what),
            crate::ProbeOutcome::Unsure => return false,
        };
        if result.is_ok() {
            instance.stood_by = Some(began);
            instance.failing_since = None;
        } else {
            instance.failing_since.get_or_insert(began);
        }
        let changed = instance
            .standby_check
            .as_ref()
            .is_none_or(|before| before.is_ok() != result.is_ok());
        instance.standby_check = Some(result.clone());
        if let Some((number, _)) = proves {
            // What fails may pass in a moment: it is asked until it does, or until nobody waits any more.
            if result.is_ok() {
                instance.proving = None;
            }
            instance.proved = Some((number, result));
        }
        changed || first || proves.is_some()
    }

    fn probed(
        &mut self,
        id: &InstanceId,
        run: RunId,
        (began, outcome): (Timestamp, crate::ProbeOutcome),
        now: Timestamp,
        out: &mut VecDeque<Decision>,
    ) -> bool {
        let declared = Arc::clone(&self.declared);
        let is_proven = self.check_is_proven;
        // That one which ended does not answer any more says nothing, and must not hide how it ended.
        let Some(instance) = self.current_run(id, run).filter(|instance| instance.is_alive()) else {
            return false;
        };
        let Some(check) = &declared.check else {
            return false;
        };
        let first = instance.unchecked && outcome != crate::ProbeOutcome::Unsure;
        instance.unchecked &= !first;
        let was_untried = instance.check_untried;
        let Some(outcome) = instance.try_check(began, outcome, is_proven, check.fail_after, now) else {
            // Looked at when that many failed, so that it is told.
            return first || instance.fails == check.fail_after;
        };
        let passed = outcome == crate::ProbeOutcome::Pass;
        let tried = was_untried != instance.check_untried;
        let was = instance.health;
        let changed = instance.absorb_probe(outcome, check.fail_after, check.pass_after, now);
        let (node, health, because) = (instance.node.clone(), instance.health, instance.because.clone());
        let promoted = instance.promoted;
        if changed && health != was {
            let kind = if health == Health::Healthy {
                NoteKind::InstanceHealthy
            } else {
                NoteKind::InstanceUnhealthy
            };
            out.push_back(Decision::note(Note::about_instance(kind, id, &node), because));
        }
        if was == Health::Starting && health == Health::Healthy {
            self.replacements = 0;
        }
        self.check_is_proven |= passed;
        let answers = passed && promoted.is_some_and(|epoch| self.answered(id, epoch, now));
        changed || answers || tried || first
    }

    /// Notes the first answer of a new active. Returns true if it was the first.
    fn answered(&mut self, id: &InstanceId, epoch: Epoch, at: Timestamp) -> bool {
        let mut first = false;
        for slot in &mut self.slots {
            if slot.active() != Some((id, epoch)) {
                continue;
            }
            if let Some(takeover) = &mut slot.takeover
                && takeover.epoch == epoch
                && takeover.answered.is_none()
                && takeover.promoted.is_some_and(|promoted| promoted <= at)
            {
                takeover.answered = Some(at);
                first = true;
            }
        }
        first
    }

    fn hook_done(
        &mut self,
        id: &InstanceId,
        run: RunId,
        end: HookEnd,
        now: Timestamp,
        out: &mut VecDeque<Decision>,
    ) -> bool {
        let HookEnd { hook, epoch, outcome } = end;
        let Some(instance) = self.current_run(id, run) else {
            return false;
        };
        if instance
            .hook
            .as_ref()
            .is_none_or(|running| running.kind != hook || running.epoch != epoch)
        {
            return false;
        }
        instance.hook = None;
        let failure = match outcome {
            HookOutcome::Done => None,
            HookOutcome::Failed(error) => Some(Reason::HookFailed {
                instance: id.clone(),
                hook,
                error,
            }),
        };
        if let Some(because) = &failure {
            out.push_back(Decision::note(
                Note::about_instance(NoteKind::HookFailed, id, &instance.node),
                because.clone(),
            ));
            instance.last_failure = Some(because.to_string());
        }
        match (hook, failure) {
            (HookKind::Promote, None) => instance.promoted = Some(epoch),
            (HookKind::Promote, Some(because)) => self.kill(id, because, now, out),
            (HookKind::Follow, None) => {
                instance.followed = Some(epoch);
                instance.follow_failures = 0;
            }
            (HookKind::Follow, Some(_)) => {
                instance.follow_failures = instance.follow_failures.saturating_add(1);
                let factor = 1_u32.checked_shl(instance.follow_failures - 1).unwrap_or(u32::MAX);
                instance.follow_again = now + FOLLOW_RETRY.saturating_mul(factor).min(FOLLOW_RETRY_MAX);
            }
            (HookKind::Demote, None) => {
                instance.promoted = None;
                instance.acts = false;
                instance.started_at = None;
                self.demoted(id, now);
            }
            // What a failed demotion leaves behind may still act: it is ended.
            (HookKind::Demote, Some(because)) => {
                instance.promoted = None;
                self.kill(id, because, now, out);
                self.stopping_planned(id);
            }
        }
        true
    }

    /// Ends an instance at once, as a failure of its own.
    pub(crate) fn kill(&mut self, id: &InstanceId, because: Reason, now: Timestamp, out: &mut VecDeque<Decision>) {
        let Some(instance) = self.instances.get_mut(id).filter(|instance| instance.is_alive()) else {
            return;
        };
        instance.was_healthy = instance.phase == Phase::Running;
        instance.planned_stop = false;
        instance.last_end = Some(because.of_the_instance());
        out.push_back(Decision {
            action: Action::Stop {
                instance: id.clone(),
                run: instance.run,
                polite: false,
            },
            because: because.clone(),
        });
        instance.set(Phase::Stopping, Health::Down, now, because);
    }

    /// Ends an instance by our own wish; it may finish what it does.
    pub(crate) fn stop(&mut self, id: &InstanceId, because: Reason, now: Timestamp, out: &mut VecDeque<Decision>) {
        let Some(instance) = self.instances.get_mut(id).filter(|instance| instance.is_alive()) else {
            return;
        };
        instance.planned_stop = true;
        out.push_back(Decision {
            action: Action::Stop {
                instance: id.clone(),
                run: instance.run,
                polite: true,
            },
            because: because.clone(),
        });
        instance.set(Phase::Stopping, Health::Down, now, because);
    }

    /// Nothing of an instance runs any more.
    fn gone(&mut self, id: &InstanceId, now: Timestamp, out: &mut VecDeque<Decision>) -> bool {
        let (is_cold, goes_back) = (self.is_cold(), self.goes_back());
        let Some(instance) = self.instances.get_mut(id) else {
            return false;
        };
        if instance.phase != Phase::Stopping {
            // Ended without our having heard of its death first.
            instance.was_healthy = instance.phase == Phase::Running;
            instance.planned_stop = false;
            let because = Reason::ProcessEnded {
                instance: id.clone(),
                how: "it is gone".into(),
            };
            out.push_back(Decision::note(
                Note::about_instance(NoteKind::InstanceDied, id, &instance.node),
                because.clone(),
            ));
            instance.because = because;
        }
        instance.hook = None;
        instance.promoted = None;
        instance.acts = false;
        instance.demote = None;
        instance.ended(is_cold, goes_back);
        instance.health = Health::Down;
        self.draining.remove(id);
        // What follows (restart, replacement, slot) is the reconciler's to decide.
        instance.phase = Phase::Ended;
        instance.since = now;
        for slot in &mut self.slots {
            let holder = slot.last_holder() == Some(id);
            if !holder {
                continue;
            }
            if slot.phase == slot::Phase::Releasing {
                slot.confirm_dead(now);
                // What ended it says more than that it has.
                let gone = Reason::HolderGone { instance: id.clone() };
                let failed = slot.why_not_promoted();
                let because = failed.unwrap_or(gone);
                slot.set(slot::Phase::Vacant, now, because);
            } else if slot.serving() == Some(id)
                && let Some(planned) = &mut slot.planned
                && planned.stage == Stage::Stopping
            {
                planned.stage = Stage::Clear;
                let because = planned.because.clone();
                slot.confirm_dead(now);
                slot.set(slot::Phase::Vacant, now, because);
            }
        }
        true
    }
}
