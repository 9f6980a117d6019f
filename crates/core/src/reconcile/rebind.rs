//! T10: an active that stands still, frozen and gated by the guard since before its node's session ended, goes on under the next session of
//! that node. Its slot must not have been touched meanwhile: whoever has written it may have given it to somebody else.
//!
//! ```text
//!   serving ── session lost, all frozen ──▶ kept ── next session, slot as it was: written ──▶ serving (the guard thaws)
//!                                            └── slot touched, or not wanted any more ──▶ killed
//! ```

use super::claim::Terms;
use crate::instance::{Instance, Phase};
use crate::peers::Hold;
use crate::service::Service;
use crate::slot::{self, Slot};
use crate::{Action, Commit, Context, Decision, Reason, SlotWrite};
use model::{Epoch, InstanceId, Revision, RunId, Timestamp};
use std::collections::VecDeque;

/// An active that stands still until its slot is bound to the next session, or taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) instance: InstanceId,
    run: RunId,
    epoch: Epoch,
    /// Of the slot, when the session was lost.
    revision: Revision,
    /// The write under way, and for which session.
    writing: Option<(u64, Option<Revision>)>,
}

impl Slot {
    /// Whether a write that binds it to the next session has this number.
    pub(crate) fn is_rebound_by(&self, attempt: u64) -> bool {
        let kept = self.kept.as_ref().and_then(|kept| kept.writing);
        kept.is_some_and(|(ours, _)| ours == attempt)
    }

    fn keep(&self, of: impl Fn(&InstanceId) -> Option<Instance>) -> Option<Kept> {
        let record = self.record.as_ref().filter(|record| record.held && record.served)?;
        let settled = self.planned.is_none() && self.marking.is_none() && self.attempt().is_none();
        let epoch = record.epoch;
        let armed = self.armed == Some((epoch, true)) && self.driven == Some(epoch);
        let holder = self.serving().filter(|holder| **holder == record.holder)?;
        let instance = of(holder)?;
        let quiet = instance.phase == Phase::Running && instance.hook.is_none() && instance.demote.is_none();
        let acts = instance.acts && instance.promoted == Some(epoch);
        (settled && armed && quiet && acts).then(|| Kept {
            instance: holder.clone(),
            run: instance.run,
            epoch,
            revision: record.revision,
            writing: None,
        })
    }
}

impl Service {
    /// Our session is lost, and all that acts here stands still: who served waits for the next one, all others end.
    pub(crate) fn keep(&mut self, now: Timestamp, out: &mut VecDeque<Decision>) {
        if !self.declared.exclusive || self.removed {
            self.fence(now, out);
            return;
        }
        let instances = &self.instances;
        let me = self.me.clone();
        let mine = |instance: &&Instance| me.as_ref() == Some(&instance.node);
        let kept: Vec<Option<Kept>> = self
            .slots
            .iter()
            .map(|slot| slot.keep(|id| instances.get(id).filter(mine).cloned()))
            .collect();
        self.fence_but(
            &kept.iter().flatten().map(|kept| kept.instance.clone()).collect(),
            now,
            out,
        );
        for (slot, kept) in self.slots.iter_mut().zip(kept) {
            slot.kept = kept;
        }
    }

    /// Whether it stands still and waits for the next session.
    pub(crate) fn is_kept(&self, id: &InstanceId) -> bool {
        let of_it = |slot: &Slot| slot.kept.as_ref().is_some_and(|kept| kept.instance == *id);
        self.slots.iter().any(of_it)
    }

    /// Binds slots whose actives were kept to the session that we have now, and ends those that cannot go on.
    pub(super) fn rebind(&mut self, cx: &mut Context<'_>) {
        for index in 0..self.slots.len() {
            let Some(kept) = self.slots[index].kept.clone() else {
                continue;
            };
            let runs = |instance: &Instance| instance.run == kept.run && instance.phase == Phase::Running;
            if !self.instances.get(&kept.instance).is_some_and(runs) {
                self.slots[index].kept = None;
                continue;
            }
            if kept.writing.is_some() {
                continue;
            }
            let record = self.slots[index].record.as_ref();
            let untouched = record.is_some_and(|record| record.held && record.revision == kept.revision);
            let unwanted = self.removed || cx.stopping || self.emptied(index).is_some();
            if !untouched || unwanted {
                self.give_up(index, cx.now, cx.out);
                continue;
            }
            if cx.peers.is_some_and(|peers| peers.session.is_some()) && self.slots[index].may_write(cx.now) {
                self.write_rebind(index, cx);
            }
        }
    }

    fn write_rebind(&mut self, index: usize, cx: &mut Context<'_>) {
        let Some(record) = self.slots[index].record.clone() else {
            return;
        };
        let terms = Terms::of(cx.peers, &record.node, &Hold::Ours, Some(&record));
        let attempt = cx.next_attempt();
        let slot = &mut self.slots[index];
        if let Some(kept) = &mut slot.kept {
            kept.writing = Some((attempt, terms.session));
        }
        let write = SlotWrite {
            slot: slot.id.clone(),
            attempt,
            expect: record.revision,
            held: true,
            holder: record.holder.clone(),
            placed: None,
            node: record.node,
            epoch: record.epoch,
            served: true,
            data: slot.data.clone(),
            served_before: None,
            previous: Some(record.holder),
            claims: false,
            session: terms.session,
            sessions: terms.sessions,
            condemn: None,
            begun: None,
        };
        cx.decide(Action::Write(write), Reason::StoodStill);
    }

    /// The write was answered.
    pub(crate) fn rebound(&mut self, index: usize, result: Commit, now: Timestamp, out: &mut VecDeque<Decision>) {
        let slot = &mut self.slots[index];
        let Some(kept) = slot.kept.clone() else { return };
        let newer = |record: &slot::Record, revision| record.revision > revision;
        match result {
            Commit::Done(revision) if !slot.record.as_ref().is_some_and(|record| newer(record, revision)) => {
                if let Some(record) = &mut slot.record {
                    record.revision = revision;
                    record.session = kept.writing.and_then(|(_, session)| session);
                }
                slot.kept = None;
                slot.driven = Some(kept.epoch);
                slot.spent = None;
                slot.takeover = None;
                slot.armed = Some((kept.epoch, false));
                let holder = kept.instance.clone();
                slot.set(slot::Phase::Serving { holder }, now, Reason::StoodStill);
                let action = Action::Rebind {
                    instance: kept.instance,
                    slot: slot.id.clone(),
                    epoch: kept.epoch,
                };
                let because = Reason::StoodStill;
                out.push_back(Decision { action, because });
            }
            Commit::Done(_) | Commit::Failed(_) | Commit::Conflict(None) => self.give_up(index, now, out),
            Commit::Conflict(Some(known)) => {
                self.epoch = self.epoch.max(known.epoch);
                let older = |record: &slot::Record| record.revision < known.revision;
                if slot.record.as_ref().is_none_or(older) {
                    slot.know(*known);
                }
                self.give_up(index, now, out);
            }
        }
        self.refresh_bound();
    }

    /// It cannot go on: its slot may be somebody else's, or nobody wants it any more.
    fn give_up(&mut self, index: usize, now: Timestamp, out: &mut VecDeque<Decision>) {
        if let Some(kept) = self.slots[index].kept.take() {
            self.kill(&kept.instance, Reason::OwnSessionLost, now, out);
        }
    }
}
