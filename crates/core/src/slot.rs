//! One of the N places for an active.

use crate::{Reason, Refusal, SlotKnown, Takeover};
use model::{Epoch, InstanceId, Revision, SlotId, Timestamp};

/// After this long a takeover is told even if nobody asked the new active anything yet.
pub(crate) const REPORT_AFTER: std::time::Duration = std::time::Duration::from_secs(2);

/// What happens to a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nobody may act.
    Vacant,
    /// An exclusive holder is being ended; nobody may take over before nothing of it runs.
    Releasing,
    /// A write of the slot is under way.
    Claiming { to: InstanceId, attempt: u64 },
    /// Held in the store; the promote hook (or a cold start) is under way.
    Promoting { holder: InstanceId },
    /// Held, promoted, clients are sent to it.
    Serving { holder: InstanceId },
    /// The slot is being written as released.
    Clearing { attempt: u64 },
}

/// What the store has, as far as we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) held: bool,
    pub(crate) holder: InstanceId,
    pub(crate) epoch: Epoch,
    pub(crate) revision: Revision,
}

/// A planned change under way, before the slot is claimed by the next holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Who shall hold it; `None` if nobody shall.
    pub(crate) to: Option<InstanceId>,
    pub(crate) stage: Stage,
    pub(crate) request: Option<u64>,
    pub(crate) because: Reason,
    pub(crate) since: Timestamp,
}

/// How far a planned change is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    /// New requests wait in the proxy, those under way finish.
    Draining { deadline: Timestamp },
    /// The demote hook runs.
    Demoting,
    /// The old holder is being stopped.
    Stopping,
    /// The old holder cannot act any more: the slot may be claimed.
    Clear,
}

#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) id: SlotId,
    pub(crate) phase: Phase,
    pub(crate) since: Timestamp,
    pub(crate) because: Reason,
    pub(crate) record: Option<Record>,
    /// Epoch of the write under way.
    pub(crate) claiming: Epoch,
    /// Whom clients are sent to for this slot.
    pub(crate) routed: Option<(InstanceId, Epoch)>,
    pub(crate) planned: Option<Planned>,
    /// A takeover not yet told.
    pub(crate) takeover: Option<Takeover>,
    pub(crate) takeover_request: Option<u64>,
    /// Route revision that carries the new holder.
    pub(crate) awaits_route: Option<u64>,
    pub(crate) report_at: Option<Timestamp>,
    /// Promotions in a row that failed, and when the next may be tried.
    pub(crate) failed_promotions: u32,
    pub(crate) claim_after: Timestamp,
    /// The last write was not answered clearly; the slot was read anew since.
    pub(crate) told_held_back: bool,
}

impl Slot {
    pub(crate) fn new(id: SlotId, now: Timestamp) -> Self {
        Self {
            id,
            phase: Phase::Vacant,
            since: now,
            because: Reason::Declared,
            record: None,
            claiming: Epoch::default(),
            routed: None,
            planned: None,
            takeover: None,
            takeover_request: None,
            awaits_route: None,
            report_at: None,
            failed_promotions: 0,
            claim_after: Timestamp(0),
            told_held_back: false,
        }
    }

    pub(crate) fn know(&mut self, known: SlotKnown) {
        self.record = Some(Record {
            held: known.held,
            holder: known.holder,
            epoch: known.epoch,
            revision: known.revision,
        });
    }

    pub(crate) fn set(&mut self, phase: Phase, now: Timestamp, because: Reason) {
        self.phase = phase;
        self.since = now;
        self.because = because;
    }

    /// Who is bound to it: no one of them can take another slot (I7).
    pub(crate) fn bound(&self) -> Option<&InstanceId> {
        match &self.phase {
            Phase::Claiming { to, .. } => Some(to),
            Phase::Promoting { holder } | Phase::Serving { holder } => Some(holder),
            Phase::Releasing => self.record.as_ref().map(|record| &record.holder),
            Phase::Vacant | Phase::Clearing { .. } => None,
        }
    }

    pub(crate) fn serving(&self) -> Option<&InstanceId> {
        match &self.phase {
            Phase::Serving { holder } => Some(holder),
            _ => None,
        }
    }

    /// Who holds it at which epoch, if it was promoted.
    pub(crate) fn active(&self) -> Option<(&InstanceId, Epoch)> {
        let holder = self.serving()?;
        Some((holder, self.record.as_ref()?.epoch))
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.record.as_ref().map(|record| record.epoch).unwrap_or_default()
    }

    pub(crate) fn last_holder(&self) -> Option<&InstanceId> {
        self.record.as_ref().map(|record| &record.holder)
    }

    pub(crate) fn state_name(&self) -> &'static str {
        match &self.phase {
            Phase::Vacant | Phase::Clearing { .. } => "vacant",
            Phase::Releasing => "releasing",
            Phase::Claiming { .. } => "claiming",
            Phase::Promoting { .. } => "promoting",
            Phase::Serving { .. } => "serving",
        }
    }

    /// Begins to note a takeover, unless one is being noted.
    pub(crate) fn begin_takeover(&mut self, planned: bool, because: Reason, now: Timestamp) {
        if self.takeover.is_some() {
            return;
        }
        let from = self.bound().cloned().or_else(|| self.last_holder().cloned());
        self.takeover = Some(Takeover {
            slot: self.id.clone(),
            to: from
                .clone()
                .unwrap_or_else(|| InstanceId::new(self.id.service.clone(), 0)),
            from,
            epoch: Epoch::default(),
            planned,
            because,
            detected: now,
            confirmed: None,
            claimed: None,
            promoted: None,
            routed: None,
            answered: None,
        });
        self.report_at = None;
    }

    pub(crate) fn confirm_dead(&mut self, now: Timestamp) {
        if let Some(takeover) = &mut self.takeover {
            takeover.confirmed.get_or_insert(now);
        }
    }

    /// A planned change cannot be carried out.
    pub(crate) fn abort_planned(&mut self) -> Option<(u64, Option<InstanceId>)> {
        let planned = self.planned.take()?;
        Some((planned.request?, planned.to))
    }
}

pub(crate) fn failed(what: impl Into<String>) -> Refusal {
    Refusal::Failed { what: what.into() }
}
