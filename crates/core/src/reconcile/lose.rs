//! Slots whose holder does not run any more.

use crate::instance::{Instance, Phase};
use crate::service::Service;
use crate::slot::{self, Slot, Stage};
use crate::{Context, Decision, NotPromoted, Note, NoteKind, Reason};
use model::{Millis, Timestamp};
use std::time::Duration;

/// So many promotions in a row may fail before the next one waits.
const PROMOTIONS_FREE: u32 = 2;
const PROMOTION_WAIT: Duration = Duration::from_secs(1);
/// A sign of life is seen so much later than it was given, at most.
const SIGN_OF_LIFE_LATE: Duration = Duration::from_millis(100);
/// What a verdict about a standby may be late on a busy machine.
const VERDICT_SLACK: Duration = Duration::from_millis(500);
const PROMOTION_WAIT_MAX: Duration = Duration::from_secs(60);

impl Service {
    /// Vacates slots whose holder ended or is being ended; an exclusive one is fenced first.
    pub(super) fn lose_slots(&mut self, cx: &mut Context<'_>) {
        for index in 0..self.slots.len() {
            self.stop_sending(index);
            self.lose_slot(index, cx);
        }
        self.refresh_bound();
    }

    /// Clients are sent to nobody who is not what he was when that began.
    fn stop_sending(&mut self, index: usize) {
        let Some((id, epoch)) = &self.slots[index].routed else {
            return;
        };
        let acts = |instance: &Instance| instance.is_alive() && instance.promoted == Some(*epoch);
        if !self.instances.get(id).is_some_and(acts) {
            self.slots[index].routed = None;
        }
    }

    fn lose_slot(&mut self, index: usize, cx: &mut Context<'_>) {
        let (holder, was_promoting) = match &self.slots[index].phase {
            slot::Phase::Serving { holder } => (holder.clone(), false),
            slot::Phase::Promoting { holder } => (holder.clone(), true),
            _ => return,
        };
        if !self.is_driven(&self.slots[index]) {
            return;
        }
        let slot = &mut self.slots[index];
        let instance = self.instances.get(&holder);
        let prepared = instance.is_some_and(|instance| matches!(instance.phase, Phase::Prepared { .. }));
        let cold_start_due = was_promoting && self.declared.standby_mode == model::StandbyMode::Cold && prepared;
        if cold_start_due || instance.is_some_and(Instance::is_alive) {
            return;
        }
        let stopping = slot
            .planned
            .as_ref()
            .is_some_and(|planned| planned.stage == Stage::Stopping);
        if stopping && instance.is_some_and(|instance| instance.phase == Phase::Stopping) {
            return;
        }
        if index == 0 && !was_promoting {
            self.age_standby_checks(cx.now);
        }
        let slot = &mut self.slots[index];
        let instance = self.instances.get(&holder);
        let because = match instance {
            Some(instance) => instance.because.clone(),
            None => Reason::HolderGone {
                instance: holder.clone(),
            },
        };
        let still_there = instance.is_some_and(Instance::has_process);
        // Died before it answered anybody: the promotion itself may be what kills.
        let takeover = slot.takeover.as_ref();
        let unproven = was_promoting || takeover.is_some_and(|takeover| takeover.promoted.is_some());
        let detected = instance.and_then(|instance| instance.unhealthy_since).unwrap_or(cx.now);
        slot.begin_takeover(false, because.clone(), detected);
        if let Some(takeover) = &mut slot.takeover {
            (takeover.claimed, takeover.promoted, takeover.routed, takeover.answered) = (None, None, None, None);
        }
        slot.report_at = None;
        slot.awaits_route = None;
        if let Some(planned) = &mut slot.planned {
            planned.stage = Stage::Clear;
            // Who was wanted and did not get through is not asked again before whoever served last.
            let last = slot.data.as_ref().map(|(last, _)| last.clone());
            if was_promoting && planned.to.as_ref() == Some(&holder) {
                planned.to = last.filter(|last| *last != holder);
                // And if that one does not get through either, it is the turn of whoever is ready.
                if planned.to.is_none() {
                    slot.planned = None;
                }
            }
        }
        let because = match unproven {
            true => Reason::NotPromoted {
                instance: holder.clone(),
                what: instance
                    .and_then(Instance::went_wrong)
                    .unwrap_or_else(|| because.to_string()),
            },
            false => because,
        };
        if let Reason::NotPromoted { instance, what } = &because {
            let failed = NotPromoted {
                slot: slot.id.slot,
                epoch: slot.epoch(),
                what: what.clone(),
            };
            slot.not_promoted.insert(instance.clone(), failed);
            count_failed_promotion(slot, cx);
        }
        if self.declared.exclusive && still_there {
            slot.set(slot::Phase::Releasing, cx.now, because);
        } else {
            slot.confirm_dead(cx.now);
            slot.set(slot::Phase::Vacant, cx.now, because);
        }
    }
}

impl Service {
    /// The active is lost, with its node of which no sign of life was seen since then. A standby that had everything until then has
    /// everything: that it fails its check since is because of the loss.
    pub(super) fn judge_as_of(&mut self, since: Timestamp) {
        let Some(check) = &self.declared.standby_check else {
            return;
        };
        let fresh = (check.every.duration() + check.timeout.duration()) * 2 + VERDICT_SLACK;
        let me = self.me.clone();
        let mine = |instance: &&mut Instance| me.as_ref().is_none_or(|me| *me == instance.node);
        for instance in self.instances.values_mut().filter(mine) {
            let stood_by = instance.stood_by.is_some_and(|at| since.since(at) <= fresh);
            let failed_by_it = instance.failing_since.is_some_and(|at| at + SIGN_OF_LIFE_LATE >= since);
            if stood_by && failed_by_it && matches!(instance.standby_check, Some(Err(_))) {
                instance.standby_check = Some(Ok(()));
                instance.standby_checked_at = since;
            }
        }
        self.age_standby_checks(since);
    }

    /// The active is lost. A standby that was last checked long before may have fallen behind since: it is held back.
    fn age_standby_checks(&mut self, now: Timestamp) {
        let Some(check) = &self.declared.standby_check else {
            return;
        };
        let fresh = (check.every.duration() + check.timeout.duration()) * 2 + VERDICT_SLACK;
        let me = self.me.clone();
        let mine = |instance: &&mut Instance| me.as_ref().is_none_or(|me| *me == instance.node);
        for instance in self.instances.values_mut().filter(mine) {
            let age = now.since(instance.standby_checked_at);
            if instance.standby_check == Some(Ok(())) && age > fresh {
                let age_ms = Millis(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
                instance.standby_check = Some(Err(format!("it was last checked {age_ms} before the active was lost")));
            }
        }
    }
}

fn count_failed_promotion(slot: &mut Slot, cx: &mut Context<'_>) {
    slot.failed_promotions = slot.failed_promotions.saturating_add(1);
    let over = slot.failed_promotions.saturating_sub(PROMOTIONS_FREE);
    if over == 0 {
        return;
    }
    let factor = 1_u32.checked_shl(over - 1).unwrap_or(u32::MAX);
    let wait = PROMOTION_WAIT.saturating_mul(factor).min(PROMOTION_WAIT_MAX);
    slot.claim_after = cx.now + wait;
    let because = Reason::PromotionsFailed {
        times: slot.failed_promotions,
        wait: Millis(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
    };
    let note = Note::about_service(NoteKind::PromotionsFail, slot.id.service.clone());
    cx.out.push_back(Decision::note(note, because));
}
