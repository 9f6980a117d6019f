//! Answers of the store.

use super::Service;
use crate::slot;
use crate::{Commit, Decision, Note, NoteKind, Reason};
use model::{SlotId, Timestamp};
use std::collections::VecDeque;
use std::time::Duration;

/// First wait after a failed write of a slot; doubles up to [`WRITE_RETRY_MAX`].
const WRITE_RETRY: Duration = Duration::from_millis(100);
/// After a conflict in a cluster what changed is on its way to us.
const CONFLICT_RETRY: Duration = Duration::from_millis(5);
const WRITE_RETRY_MAX: Duration = Duration::from_secs(5);
/// So many writes in a row may fail, within 0.3 s and the writes' own time, before somebody has to look: most such troubles end by
/// themselves.
const FAILURES_PUT_UP_WITH: u32 = 2;

impl Service {
    /// A write was answered. Returns true if the service must be looked at.
    pub(super) fn committed(
        &mut self,
        slot: &SlotId,
        attempt: u64,
        result: Commit,
        now: Timestamp,
        out: &mut VecDeque<Decision>,
    ) -> bool {
        let index = slot.slot as usize;
        if self.slots.get(index).is_some_and(|slot| slot.is_rebound_by(attempt)) {
            self.rebound(index, result, now, out);
            return true;
        }
        let Some(slot) = self.slots.get_mut(index) else {
            return false;
        };
        if slot.marking == Some(attempt) {
            slot.marking = None;
            match result {
                Commit::Done(revision) => {
                    // What the store has by now may be somebody else's.
                    if let Some(record) = slot.record.as_mut().filter(|record| record.revision <= revision) {
                        record.revision = revision;
                        record.served = true;
                        slot.data = Some((record.holder.clone(), record.epoch));
                    }
                }
                Commit::Conflict(Some(known)) => {
                    self.epoch = self.epoch.max(known.epoch);
                    slot.know(*known);
                }
                Commit::Conflict(None) => slot.record = None,
                Commit::Failed(_) => slot.write_after = now + WRITE_RETRY,
            }
            return true;
        }
        let claimed = match slot.phase.clone() {
            slot::Phase::Claiming { to, run, attempt: ours } if ours == attempt => Some((to, run)),
            slot::Phase::Clearing { attempt: ours } if ours == attempt => None,
            _ => return false,
        };
        let because = match result {
            Commit::Done(revision) => {
                self.write_failures = 0;
                let before = slot.maybe_held();
                slot.conflicts = 0;
                slot.unclear.clear();
                if slot.record.as_ref().is_some_and(|record| record.revision > revision) {
                    // It was written, and again by another node since: we heard of that first.
                    slot.set(slot::Phase::Vacant, now, Reason::Released);
                    return true;
                }
                let Some((to, run)) = claimed else {
                    slot.record = before.map(|record| slot::Record {
                        held: false,
                        revision,
                        ..record
                    });
                    slot.set(slot::Phase::Vacant, now, Reason::Released);
                    return true;
                };
                let epoch = slot.claiming;
                let is_newer = |record: &slot::Record| record.revision > revision;
                if self.me.is_some() && slot.record.as_ref().is_some_and(is_newer) {
                    // Whoever we gave it to has written since, and the store told us of that before it answered us.
                    if let Some(takeover) = &mut slot.takeover {
                        takeover.claimed.get_or_insert(now);
                    }
                    slot.set(slot::Phase::Vacant, now, Reason::Claimed { epoch });
                    return true;
                }
                let Some((node, session, served, served_before)) = slot.claiming_at.clone() else {
                    return false;
                };
                let mine = self.me.as_ref().is_none_or(|me| *me == node);
                slot.driven = (self.me.is_some() && mine).then_some(epoch);
                let held = slot.record.as_ref().filter(|record| record.held);
                slot.before = held.map(|record| record.holder.clone());
                let served_last = self.me.is_some() && slot.data.as_ref().is_some_and(|(holder, _)| *holder == to);
                // Of our own we know whether that process is there still; of others their node says it.
                let process = self.instances.get(&to).map(|instance| instance.run);
                let let_through = served_before.is_some() && (!mine || served_before == process);
                slot.data_earlier = slot.data.clone().filter(|_| let_through);
                slot.let_through = (let_through && mine).then_some(epoch);
                if served || served_last || let_through {
                    slot.data = Some((to.clone(), epoch));
                }
                slot.record = Some(slot::Record {
                    held: true,
                    holder: to.clone(),
                    epoch,
                    revision,
                    node,
                    session,
                    served,
                    served_before,
                    since: now,
                });
                let because = slot.taken_because().map(ToString::to_string).unwrap_or_default();
                slot.told = Some((
                    because,
                    slot.takeover
                        .as_ref()
                        .map(|takeover| takeover.begun(now))
                        .unwrap_or_default(),
                ));
                if let Some(takeover) = &mut slot.takeover {
                    takeover.claimed.get_or_insert(now);
                }
                // Another process than the one that was found fit: what it has and can is not known.
                let restarted = self.instances.get(&to).is_none_or(|instance| instance.run != run);
                let phase = if restarted {
                    slot::Phase::Vacant
                } else {
                    slot::Phase::Promoting { holder: to }
                };
                slot.set(phase, now, Reason::Claimed { epoch });
                return true;
            }
            Commit::Conflict(known) => {
                let because = match &known {
                    Some(known) => Reason::SlotTakenByOther {
                        instance: known.holder.clone(),
                        epoch: known.epoch,
                        held: known.held,
                    },
                    None => Reason::SlotUnwritten,
                };
                // Now it is clear what the store has.
                slot.unclear.clear();
                let clustered = self.me.is_some();
                match known {
                    Some(known) => {
                        self.epoch = self.epoch.max(known.epoch);
                        let older = |record: &slot::Record| record.revision < known.revision;
                        if slot.record.as_ref().is_none_or(older) {
                            slot.told = Some((known.because.clone(), known.begun.clone().unwrap_or_default()));
                            slot.know(*known);
                        }
                    }
                    None => slot.record = None,
                }
                if clustered {
                    // Another node was quicker, or a session changed under us: the store will tell.
                    slot.set(slot::Phase::Vacant, now, because);
                    // What a store told late refuses once, it may refuse for as long: each time longer is waited, up to 160 ms.
                    slot.write_after = now + CONFLICT_RETRY * (1 << slot.conflicts.min(5));
                    slot.conflicts += 1;
                    return true;
                }
                // By what is known now it is written again: nothing failed.
                slot.set(slot::Phase::Vacant, now, because.clone());
                let note = Note::about_service(NoteKind::SlotReread, self.name.clone());
                out.push_back(Decision::note(note, because));
                return true;
            }
            Commit::Failed(error) => {
                // What another node wrote since was heard before this: then ours can not be written any more.
                let over = slot.record.as_ref();
                let over = over.is_some_and(|record| record.revision > slot.claiming_on);
                slot.unclear.extend(claimed.map(|(to, _)| to).filter(|_| !over));
                let factor = 1_u32.checked_shl(self.write_failures).unwrap_or(u32::MAX);
                slot.write_after = now + WRITE_RETRY.saturating_mul(factor).min(WRITE_RETRY_MAX);
                self.write_failures = self.write_failures.saturating_add(1).min(30);
                Reason::StoreFailed { error }
            }
        };
        slot.set(slot::Phase::Vacant, now, because.clone());
        let kind = if self.write_failures > FAILURES_PUT_UP_WITH {
            NoteKind::StoreFailed
        } else {
            NoteKind::StoreFails
        };
        let note = Note::about_service(kind, self.name.clone());
        out.push_back(Decision::note(note, because));
        true
    }
}
