//! What follows when an instance ends, does not start, or is unhealthy.

use crate::instance::{Instance, Phase, SETTLE};
use crate::service::Service;
use crate::slot::Slot;
use crate::{Context, Decision, Note, NoteKind, Reason};
use model::{Check, Health, InstanceId, Millis, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// An unhealthy active that nobody can replace is restarted after this many times the span in which it was found unhealthy,
/// and not before [`RESTART_UNHEALTHY_MIN`]: slow is not dead.
const RESTART_UNHEALTHY_FACTOR: u32 = 3;
const RESTART_UNHEALTHY_MIN: Duration = Duration::from_secs(5);

/// The least time in which something is heard of an instance that is checked.
const HEAR_AGAIN: Duration = Duration::from_secs(1);

impl Service {
    /// What follows the end of an instance: another start, a replacement, or giving up.
    pub(super) fn after_end(&mut self, cx: &mut Context<'_>) {
        let ended: Vec<InstanceId> = self
            .instances
            .values()
            .filter(|instance| instance.phase == Phase::Ended && self.is_mine(instance))
            .map(|instance| instance.id.clone())
            .collect();
        for id in ended {
            let keeps_data = self.keeps_data(&id);
            let only_data = self.me.is_some() && self.data_only_with(&id);
            let Some(instance) = self.instances.get_mut(&id) else {
                continue;
            };
            // Who shall go away and has the only copy of the data comes back for those who need it.
            if instance.retiring && !only_data {
                let wanted = self.declared.wanted();
                self.forget(id, Reason::TooMany { wanted }, cx);
                continue;
            }
            if instance.planned_stop || cx.stopping || self.removed {
                let because = instance.because.clone();
                instance.set(Phase::Waiting { until: cx.now }, Health::Down, cx.now, because);
                continue;
            }
            let was_healthy = instance.was_healthy;
            let restart = &self.declared.restart;
            let flapped = instance.is_flapping(cx.now);
            let wait = instance.count_failure(was_healthy, restart, cx.seed, cx.now);
            if !flapped && instance.is_flapping(cx.now) {
                let because = instance.because.clone();
                cx.out.push_back(Decision::note(
                    Note::about_instance(NoteKind::Flapping, &id, &instance.node),
                    because,
                ));
            }
            let starts = instance.failed_starts;
            if starts < restart.replace_after {
                let because = match wait {
                    Duration::ZERO => instance.because.clone(),
                    wait => Reason::BackOff {
                        wait: Millis(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
                        failures: starts.max(u32::try_from(instance.recent_deaths(cx.now)).unwrap_or(u32::MAX)),
                    },
                };
                instance.set(Phase::Waiting { until: cx.now + wait }, Health::Down, cx.now, because);
                continue;
            }
            let because = Reason::NeverHealthy { starts };
            if !keeps_data && self.replacements < restart.give_up_after {
                self.replacements += 1;
                cx.out.push_back(Decision::note(
                    Note::about_instance(NoteKind::Replaced, &id, &instance.node),
                    because.clone(),
                ));
                self.forget(id, because, cx);
                continue;
            }
            let because = if keeps_data {
                because
            } else {
                Reason::ReplacementsFailed {
                    replacements: self.replacements,
                }
            };
            let retry = cx.now + restart.retry_after.duration();
            // One failed start at that time gives it up again, without five more.
            instance.failed_starts = restart.replace_after - 1;
            instance.set(Phase::Failed { retry }, Health::Down, cx.now, because.clone());
            cx.out.push_back(Decision::note(
                Note::about_instance(NoteKind::GivenUp, &id, &instance.node),
                because,
            ));
        }
    }

    /// A replacement begins with an empty folder, so whoever may have the only copy of the data is never replaced.
    fn keeps_data(&self, id: &InstanceId) -> bool {
        let last = |slot: &Slot| slot.held_last(id) || (slot.served_earlier(id) && slot.serving().is_none());
        (self.declared.exclusive || self.declared.on_follow.is_some() || self.declared.standby_check.is_some())
            && self.slots.iter().any(last)
    }

    /// Without a check, whoever lives long enough is well.
    pub(super) fn settle(&mut self, cx: &Context<'_>) {
        if self.declared.check.is_some() {
            return;
        }
        let me = self.me.clone();
        let mine = |instance: &&mut Instance| me.as_ref().is_none_or(|me| *me == instance.node);
        for instance in self.instances.values_mut().filter(mine) {
            if let Phase::Starting { started: true, .. } = instance.phase
                && cx.now >= instance.since + SETTLE.duration()
            {
                instance.became_healthy(cx.now);
                instance.because = Reason::LivesWithoutCheck { after: SETTLE };
                self.replacements = 0;
            }
        }
    }

    /// Time-outs of starts and of unhealthy instances.
    pub(super) fn watch(&mut self, cx: &mut Context<'_>) {
        let declared = Arc::clone(&self.declared);
        let check = declared.check.as_ref();
        let mine = self.instances.values().filter(|instance| self.is_mine(instance));
        let ids: Vec<InstanceId> = mine.map(|instance| instance.id.clone()).collect();
        for id in ids {
            let Some(instance) = self.instances.get_mut(&id) else {
                continue;
            };
            match instance.phase {
                Phase::Starting { started: true, .. } if self.declared.check.is_none() => {}
                // Nothing was heard of it for a while: we stood still ourselves, and it may be up long since.
                Phase::Starting { started, deadline }
                    if cx.now >= deadline && start_is_unjudged(instance, check, cx.now) =>
                {
                    instance.start_extended = true;
                    let deadline = cx.now + HEAR_AGAIN.max(check.map_or(Duration::ZERO, hear_within));
                    instance.phase = Phase::Starting { started, deadline };
                }
                Phase::Starting { deadline, .. } if cx.now >= deadline => {
                    let limit = self.declared.start_timeout;
                    let because = Reason::NotHealthyInTime {
                        instance: id.clone(),
                        limit,
                        last: instance.last_failure.clone(),
                    };
                    cx.out.push_back(Decision::note(
                        Note::about_instance(NoteKind::StartFailed, &id, &instance.node),
                        because.clone(),
                    ));
                    self.kill(&id, because, cx.now, cx.out);
                }
                Phase::Failed { retry } if cx.now >= retry => {
                    instance.set(Phase::Waiting { until: cx.now }, Health::Down, cx.now, Reason::RetryDue);
                }
                Phase::Running if instance.health == Health::Unhealthy => self.watch_unhealthy(&id, cx),
                _ => {}
            }
        }
    }

    fn watch_unhealthy(&mut self, id: &InstanceId, cx: &mut Context<'_>) {
        let Some(instance) = self.instances.get(id) else {
            return;
        };
        // It was unhealthy as the check was before: it is asked as the check is now, before anything is done to it.
        if instance.check_untried.is_some() {
            return;
        }
        // It passes again, or nothing was heard of it for a while, as we stood still ourselves: what was so then is no reason now.
        let failed_of_late = self
            .declared
            .check
            .as_ref()
            .is_none_or(|check| failed_of_late(instance, check, cx.now));
        if instance.passes > 0 || !failed_of_late {
            return;
        }
        let last = instance.last_failure.clone().unwrap_or_default();
        let because = Reason::HolderUnhealthy {
            instance: id.clone(),
            last,
        };
        let holds = self.bound.get(id).copied();
        if let Some(index) = holds {
            // Somebody else can take over: a hung active is as good as dead.
            if self.candidate(index, cx).is_some() {
                let detected = instance.unhealthy_since.unwrap_or(cx.now);
                self.slots[index].begin_takeover(false, because.clone(), detected);
                self.kill(id, because, cx.now, cx.out);
                return;
            }
        }
        let due = self.unhealthy_restart_at(id).is_some_and(|at| cx.now >= at);
        // One at a time, and never while what it needs is what fails: a restart would not help.
        let busy = self
            .instances
            .values()
            .any(|other| matches!(other.phase, Phase::Starting { .. } | Phase::Stopping | Phase::Ended));
        if due && !busy && cx.missing.is_none() {
            self.kill(id, because, cx.now, cx.out);
        }
    }

    pub(super) fn unhealthy_restart_at(&self, id: &InstanceId) -> Option<Timestamp> {
        let since = self.instances.get(id)?.unhealthy_since?;
        let check = self.declared.check.as_ref()?;
        let found_within = check.every.duration() * check.fail_after + check.timeout.duration();
        Some(since + unhealthy_restart_after(found_within))
    }
}

/// How long after it was found unhealthy an instance is started again that nobody can replace: slow is not dead.
pub fn unhealthy_restart_after(found_within: Duration) -> Duration {
    (found_within * RESTART_UNHEALTHY_FACTOR).max(RESTART_UNHEALTHY_MIN)
}

/// A start is judged by its checks: if none failed of late, it is given the time for some more, once.
fn start_is_unjudged(instance: &Instance, check: Option<&Check>, now: Timestamp) -> bool {
    let starts = matches!(instance.phase, Phase::Starting { started: false, .. });
    !instance.start_extended && (starts || check.is_some_and(|check| !failed_of_late(instance, check, now)))
}

fn failed_of_late(instance: &Instance, check: &Check, now: Timestamp) -> bool {
    let span = HEAR_AGAIN.max(hear_within(check));
    instance.last_fail.is_some_and(|at| now.since(at) <= span)
}

pub(super) fn hear_within(check: &Check) -> Duration {
    (check.every.duration() + check.timeout.duration()) * 2
}
