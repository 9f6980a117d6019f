//! One of the N places for an active.

use crate::reconcile::Kept;
use crate::{Action, Begun, Decision, NotPromoted, Parked, Reason, Refusal, SlotKnown, Takeover};
use model::{Epoch, InstanceId, NodeName, Revision, RunId, SlotId, Timestamp};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

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
    Claiming { to: InstanceId, run: RunId, attempt: u64 },
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
    pub(crate) node: NodeName,
    pub(crate) session: Option<Revision>,
    pub(crate) served: bool,
    /// The process that it was given to, if that had served before.
    pub(crate) served_before: Option<RunId>,
    /// When it was written.
    pub(crate) since: Timestamp,
}

/// A planned change under way, before the slot is claimed by the next holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Who shall hold it; `None` if nobody shall.
    pub(crate) to: Option<InstanceId>,
    pub(crate) stage: Stage,
    pub(crate) because: Reason,
    /// No client of our own proxy is at the holder any more.
    pub(crate) drained: bool,
    /// Nor of these nodes' proxies.
    pub(crate) left: BTreeSet<NodeName>,
}

/// How far a planned change is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Clients of a floating address are parted from its node: what they have established would not move with it. Until then at most.
    /// At first new connections are served still, and all are asked to come back on another; then (`shut`) new ones are kept back.
    Parting { shut: bool, until: Timestamp, parted: bool },
    /// New requests wait in the proxy, those under way finish.
    Draining { deadline: Timestamp },
    /// The demote hook runs.
    Demoting,
    /// The old holder was demoted; whether the next one has all that it has is asked next.
    Demoted,
    /// The next holder was asked, by this number, for a standby check that began after the demotion. Without a pass until then the old
    /// one is promoted again.
    Proving {
        to: InstanceId,
        number: u64,
        until: Timestamp,
    },
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
    /// Who served last, and at which epoch: nobody has newer data. A holder that was never promoted does not count.
    pub(crate) data: Option<(InstanceId, Epoch)>,
    /// The same before somebody was given the slot who counts as having the newest data from that on, for its process served before; as long as
    /// it does not serve. It may have ended by then, unheard: then what is written here counts again.
    pub(crate) data_earlier: Option<(InstanceId, Epoch)>,
    /// On its holder's node: the epoch at which the process that was meant was seen to be there.
    pub(crate) let_through: Option<Epoch>,
    /// Claims for them were not answered clearly: one of them may hold the slot, and none may take another (I7).
    pub(crate) unclear: BTreeSet<InstanceId>,
    /// Epoch of the write under way.
    pub(crate) claiming: Epoch,
    /// And the revision of its record that it expects.
    pub(crate) claiming_on: Revision,
    /// Where the write under way puts it, under which session, whether its holder serves with it, and the process if that served before.
    pub(crate) claiming_at: Option<(NodeName, Option<Revision>, bool, Option<RunId>)>,
    /// Attempt of the write that says that the holder was promoted.
    pub(crate) marking: Option<u64>,
    /// In a cluster: why the record says it is so, and how the takeover began that it is of.
    pub(crate) told: Option<(String, Begun)>,
    /// Why it was claimed by us, at which epoch.
    pub(crate) taken: Option<(Epoch, Reason)>,
    /// Who held it until the record that we know: nobody, if it had been released.
    pub(crate) before: Option<InstanceId>,
    /// In a cluster: the epoch of the holder on our node that we decide for.
    pub(crate) driven: Option<Epoch>,
    /// In a cluster: an epoch at which a process of ours may have acted before our session was lost. No other process is promoted at it.
    pub(crate) spent: Option<Epoch>,
    /// In a cluster: the guard was asked to arm its holder at this epoch, and whether it has.
    pub(crate) armed: Option<(Epoch, bool)>,
    /// In a cluster: how often in a row the guard did not take an active that an earlier agent promoted, and when it is asked again.
    pub(crate) arm_again: (u32, Timestamp),
    /// In a cluster: who could claim it but is asked first has until then.
    pub(crate) turn_at: Option<Timestamp>,
    /// When the controller may ask the holder's node again to move it on.
    pub(crate) ask_again: Timestamp,
    /// Whom clients are sent to for this slot.
    pub(crate) routed: Option<(InstanceId, Epoch)>,
    pub(crate) planned: Option<Planned>,
    /// Whose node was asked to part with the clients of its floating address, until it is told that this is over.
    pub(crate) parting: Option<InstanceId>,
    /// A takeover not yet told.
    pub(crate) takeover: Option<Takeover>,
    /// The operator waits to hear how the takeover goes.
    pub(crate) request: Option<u64>,
    /// Route revision that carries the new holder.
    pub(crate) awaits_route: Option<u64>,
    pub(crate) report_at: Option<Timestamp>,
    /// Promotions in a row that failed, and when the next may be tried.
    pub(crate) failed_promotions: u32,
    /// Whose they were, here and on other nodes, and what became of the last of each, until one goes well.
    pub(crate) not_promoted: BTreeMap<InstanceId, NotPromoted>,
    pub(crate) claim_after: Timestamp,
    /// When the store may be tried again after a write that failed.
    pub(crate) write_after: Timestamp,
    /// Claims in a row that the store refused.
    pub(crate) conflicts: u32,
    pub(crate) told_held_back: bool,
    /// Somebody served in it since it is declared.
    pub(crate) was_held: bool,
    /// The operator wants nobody to hold it.
    pub(crate) parked: Option<Parked>,
    /// In a cluster: its holder stands still, frozen since before our session ended, and goes on under the next one if nobody took it.
    pub(crate) kept: Option<Kept>,
}

impl Slot {
    pub(crate) fn new(id: SlotId, now: Timestamp) -> Self {
        Self {
            id,
            phase: Phase::Vacant,
            since: now,
            because: Reason::Declared,
            record: None,
            data: None,
            data_earlier: None,
            let_through: None,
            unclear: BTreeSet::new(),
            claiming_on: Revision(0),
            claiming: Epoch::default(),
            claiming_at: None,
            marking: None,
            told: None,
            taken: None,
            before: None,
            driven: None,
            spent: None,
            armed: None,
            arm_again: (0, Timestamp(0)),
            turn_at: None,
            ask_again: Timestamp(0),
            routed: None,
            planned: None,
            parting: None,
            takeover: None,
            request: None,
            awaits_route: None,
            report_at: None,
            failed_promotions: 0,
            not_promoted: BTreeMap::new(),
            claim_after: Timestamp(0),
            write_after: Timestamp(0),
            conflicts: 0,
            told_held_back: false,
            was_held: false,
            parked: None,
            kept: None,
        }
    }

    /// Takes in what the store has.
    pub(crate) fn know(&mut self, known: SlotKnown) {
        self.data_earlier = None;
        // Of a slot that was declared once, and is again, the record is known already.
        let is_first = self.record.is_none();
        let was_served = known.session.is_none() || known.served || known.data.is_some();
        self.was_held |= is_first && was_served;
        // While this agent lives nobody else promotes: what it knows of the data stands, whatever an unclear write left behind.
        if known.session.is_some() {
            // In a cluster it is written who served last.
            let holder = (known.holder.clone(), known.epoch);
            let written = known.data.clone().or_else(|| self.data.take());
            // A proxy that heard of nothing for long still sends clients to the process that served before.
            (self.data, self.data_earlier) = match (known.served, known.served_before) {
                (true, _) => (Some(holder), None),
                (false, Some(_)) => (Some(holder), written),
                (false, None) => (written, None),
            };
        } else if self.data.is_none() {
            self.data = Some((known.holder.clone(), known.epoch));
        }
        self.record = Some(Record {
            held: known.held,
            holder: known.holder,
            epoch: known.epoch,
            revision: known.revision,
            node: known.node,
            session: known.session,
            served: known.served,
            served_before: known.served_before,
            since: known.since,
        });
    }

    /// Of a slot that was given to an instance of ours: `process` is the one that it has. Another than was meant, which was never seen with this
    /// slot, has what it had followed and no more: who served last has the newest data.
    pub(crate) fn compare_process(&mut self, process: Option<RunId>) {
        let Some(record) = self.record.as_ref().filter(|record| !record.served) else {
            return;
        };
        match record.served_before {
            None => {}
            meant if meant == process => self.let_through = Some(record.epoch),
            _ if self.let_through == Some(record.epoch) => {}
            _ => self.data = self.data_earlier.take().or_else(|| self.data.take()),
        }
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

    /// Number of the write under way that changes who holds it.
    pub(crate) fn attempt(&self) -> Option<u64> {
        match &self.phase {
            Phase::Claiming { attempt, .. } | Phase::Clearing { attempt } => Some(*attempt),
            _ => None,
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

    /// Why its holder took it, if that is known: what led to it, rather than that it holds it.
    pub(crate) fn taken_because(&self) -> Option<&Reason> {
        let ours = self.taken.as_ref().filter(|(epoch, _)| *epoch == self.epoch());
        let noticed = || self.takeover.as_ref().map(|takeover| &takeover.because);
        ours.map(|(_, because)| because).or_else(noticed)
    }

    pub(crate) fn last_holder(&self) -> Option<&InstanceId> {
        self.record.as_ref().map(|record| &record.holder)
    }

    pub(crate) fn state_name(&self) -> &'static str {
        match &self.phase {
            _ if self.is_parked() => "parked",
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
        let from = self.data.as_ref().map(|(holder, _)| holder.clone());
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

    /// Somebody was promoted, and serves.
    pub(crate) fn promotion_went_well(&mut self) {
        self.failed_promotions = 0;
        self.not_promoted.clear();
    }

    /// Why the last promotion failed, if none went well since.
    pub(crate) fn why_not_promoted(&self) -> Option<Reason> {
        let (instance, failed) = self.not_promoted.iter().max_by_key(|(_, failed)| failed.epoch)?;
        Some(Reason::NotPromoted {
            instance: instance.clone(),
            what: failed.what.clone(),
        })
    }

    /// When somebody is promoted again after promotions that failed, if that waits.
    pub(crate) fn promoted_again_at(&self, now: Timestamp) -> Option<Timestamp> {
        let waits = self.phase == Phase::Vacant && self.failed_promotions > 0 && self.claim_after > now;
        waits.then_some(self.claim_after)
    }

    /// A takeover is over, as far as it went: it is told, and the operator who waits for it hears. Where nobody served before there was
    /// nothing to take over: the service has come up, late.
    pub(crate) fn complete(&mut self, out: &mut VecDeque<Decision>) {
        self.report_at = None;
        self.awaits_route = None;
        let Some(takeover) = self.takeover.take() else {
            return;
        };
        if let Some(request) = self.request.take() {
            out.push_back(Decision::answer(request, Ok(takeover.clone())));
        }
        if takeover.from.is_none() && !takeover.planned {
            return;
        }
        let because = takeover.because.clone();
        out.push_back(Decision {
            action: Action::Report(takeover),
            because,
        });
    }

    /// A planned change is over before it was complete. The operator is told, if one waits.
    pub(crate) fn abort(&mut self, what: impl Into<String>, out: &mut VecDeque<Decision>) {
        self.planned = None;
        self.takeover = None;
        self.report_at = None;
        self.awaits_route = None;
        if let Some(request) = self.request.take() {
            out.push_back(Decision::answer(request, Err(Refusal::Failed { what: what.into() })));
        }
    }

    /// Whether a claim may be written now.
    pub(crate) fn may_write(&self, now: Timestamp) -> bool {
        now >= self.claim_after && now >= self.write_after
    }

    /// What the store says if it says that somebody holds the slot, or may say so after a claim that was not answered clearly.
    pub(crate) fn maybe_held(&self) -> Option<Record> {
        match (&self.record, self.unclear.first()) {
            (Some(record), unclear) => (record.held || unclear.is_some()).then(|| record.clone()),
            (None, Some(claimant)) => {
                let (node, session, ..) = self.claiming_at.clone()?;
                Some(Record {
                    held: false,
                    holder: claimant.clone(),
                    epoch: self.claiming,
                    revision: Revision(0),
                    node,
                    session,
                    served: false,
                    served_before: None,
                    since: self.since,
                })
            }
            (None, None) => None,
        }
    }

    /// Whether nobody is known to have newer data. Whoever holds the slot in the store, or will when a write is through, had all
    /// of them when it claimed it, and after a restart of the agent that is all that is known.
    pub(crate) fn held_last(&self, id: &InstanceId) -> bool {
        self.last_holder() == Some(id)
            || matches!(&self.phase, Phase::Claiming { to, .. } if to == id)
            || self.unclear.contains(id)
            || self.data.as_ref().is_some_and(|(holder, _)| holder == id)
    }

    /// Whether it served before somebody was given the slot who is not known to have the newest data.
    pub(crate) fn served_earlier(&self, id: &InstanceId) -> bool {
        self.data_earlier.as_ref().is_some_and(|(holder, _)| holder == id)
    }

    /// Whether an instance is or may be about to be its holder.
    pub(crate) fn concerns(&self, id: &InstanceId) -> bool {
        self.bound() == Some(id) || self.routed.as_ref().is_some_and(|(routed, _)| routed == id)
    }

    /// Whether nobody serves and nobody has newer data than this instance.
    pub(crate) fn waits_for_data_of(&self, id: &InstanceId) -> bool {
        self.phase == Phase::Vacant && self.data.as_ref().is_some_and(|(holder, _)| holder == id)
    }
}
