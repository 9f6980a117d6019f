//! The node's own session: opened, renewed, frozen, fenced.

mod advance;
#[cfg(test)]
mod tests;

use model::{Mark, Millis, Revision, Timing};
use std::collections::VecDeque;
use std::time::Duration;

/// What may differ between nodes apart from the timing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HolderOptions {
    /// R while the node holds nothing exclusive and nobody wants it fast; not shorter than R.
    pub idle_renew: Millis,
    /// D as it is written meanwhile; not shorter than D. The node's own deadline stays that of the timing, so changing
    /// between the two is always safe.
    pub idle_lease: Millis,
    /// A wake-up later than this is worth a [`HolderAction::Late`].
    pub late_after: Duration,
}

impl HolderOptions {
    /// Idle nodes renew a fifth as often, under a lease longer by two of those intervals.
    pub fn of(timing: &Timing) -> Self {
        let idle_renew = Millis(5 * timing.renew.0);
        Self {
            idle_renew,
            idle_lease: Millis(timing.lease.0 + 2 * idle_renew.0),
            late_after: timing.soft_deadline.duration() / 4,
        }
    }
}

/// Something that happened to the node's own session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HolderEvent {
    /// The moment asked for by [`Holder::next_wakeup`] has come.
    Tick,
    /// The session was created, or found as this agent wrote it. No lease runs yet: it may have been created by an
    /// earlier request that was thought lost, so the first renewal starts the lease.
    Opened {
        /// Of the [`HolderAction::Open`].
        attempt: u64,
        /// σ, the revision that created it.
        id: Revision,
        /// Its last renewal's number.
        seq: u64,
    },
    /// The node has a session that is not this agent's. It is tried again every R; ending it is the observer's affair.
    OpenTaken {
        /// Of the [`HolderAction::Open`].
        attempt: u64,
    },
    /// The store did not answer, or not in time.
    OpenFailed {
        /// Of the [`HolderAction::Open`].
        attempt: u64,
    },
    /// A renewal is acknowledged, be it late or by the hedge.
    Renewed {
        /// Of the [`HolderAction::Renew`].
        attempt: u64,
        /// The mark of that action: when the *first* request of the attempt was about to be sent.
        sent: Mark,
    },
    /// A renewal got no answer in time, or an error that leaves its outcome open.
    RenewalFailed {
        /// Of the [`HolderAction::Renew`].
        attempt: u64,
    },
    /// A renewal was refused because the session is not there any more.
    RenewalFenced {
        /// Of the [`HolderAction::Renew`].
        attempt: u64,
    },
    /// The read probe was answered.
    ProbeAnswered,
    /// It was not.
    ProbeFailed,
    /// The guard is registered with this agent and armed for what runs, or is not.
    GuardReady(bool),
    /// The guard has fired: what it guarded is gated and killed, and stays so.
    GuardFired,
    /// The disk of the node took a write and fsync begun at `at`, or did not.
    NodeHealth {
        /// Whether it worked.
        ok: bool,
        /// When that probe began.
        at: Mark,
    },
    /// Whether the cgroup of every exclusive instance is empty, or frozen and gated since before the last session ended
    /// and waiting to be bound to the next (T10). Reported when it changes, and anew after each [`HolderAction::Fenced`].
    AllExclusiveEmpty(bool),
    /// The node holds a slot that has standbys, or is about to take one.
    FastWanted(bool),
    /// The agent has closed the session (T3); none is opened again.
    Closed,
}

/// Something to do for the node's own session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HolderAction {
    /// T1: create the session.
    Open {
        /// Names the request in its answer.
        attempt: u64,
    },
    /// T2: renew it.
    Renew {
        /// Names the request in its answer.
        attempt: u64,
        /// The session, compared in the transaction.
        session: Revision,
        /// The renewal's number.
        seq: u64,
        /// D to be written.
        lease: Millis,
        /// To be given back with the answer.
        sent: Mark,
    },
    /// Send the identical renewal to a second member of the store: half of T went by.
    Hedge {
        /// Of the [`HolderAction::Renew`].
        attempt: u64,
    },
    /// Ask the store for a read, to learn whether its answers reach this node.
    Probe,
    /// All deadlines of the guard run from here: the send of an acknowledged renewal.
    TellGuard {
        /// That moment.
        mark: Mark,
    },
    /// Gate and kill everything exclusive, then report [`HolderEvent::AllExclusiveEmpty`].
    Fenced {
        /// What was lost.
        why: Lost,
        /// Everything exclusive was frozen and gated before: it may stay so, to be bound to the next session (T10).
        was_frozen: bool,
    },
    /// Gate and freeze everything exclusive (or run the quiesce hook, by policy).
    Frozen {
        /// Why.
        why: Still,
    },
    /// The session is covered again: the guard thaws and opens the gates.
    Thawed,
    /// This agent itself woke up late: the observer condemns nobody on what it knew before.
    Late {
        /// By how much.
        by: Duration,
    },
}

/// Why everything exclusive must go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lost {
    /// The session has ended in the store.
    Session(Revision),
    /// The guard has fired; the session itself may live on.
    GuardFired,
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Lost::Session(id) => write!(f, "session {id} of this node has been ended"),
            Lost::GuardFired => f.write_str("the guard has fired: no renewal was acknowledged in time"),
        }
    }
}

/// Why everything exclusive stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Still {
    /// No renewal was acknowledged for A.
    NoRenewal,
    /// There is no guard.
    NoGuard,
}

impl std::fmt::Display for Still {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Still::NoRenewal => "the store has acknowledged no renewal within the soft deadline",
            Still::NoGuard => "the guard of this node is not there",
        })
    }
}

/// Whether the node may act on its session, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Covered {
    /// An acknowledged renewal was sent less than A ago.
    Yes,
    /// It has no session.
    NoSession,
    /// No renewal of this session is acknowledged yet.
    NotYet,
    /// The last one was sent A ago or more.
    TooOld,
    /// There is no guard.
    NoGuard,
    /// The guard has fired, and what it killed is not known to be gone.
    Fired,
}

/// One node's own session.
#[derive(Debug, Clone)]
pub struct Holder {
    pub(super) timing: Timing,
    pub(super) options: HolderOptions,
    pub(super) state: State,
    pub(super) guard_ready: bool,
    pub(super) fired: bool,
    pub(super) empty: bool,
    pub(super) fast: bool,
    /// When the last good probe of the disk began.
    pub(super) healthy: Option<Mark>,
    pub(super) attempts: u64,
    pub(super) last_open: Option<Mark>,
    pub(super) actions: VecDeque<HolderAction>,
    /// When the next wake-up was asked for, and how far ahead.
    pub(super) asked: Option<(Mark, Duration)>,
}

#[derive(Debug, Clone)]
pub(super) enum State {
    Absent,
    Opening { attempt: u64, sent: Mark },
    Open(Lease),
    Emptying,
    Closed,
}

#[derive(Debug, Clone)]
pub(super) struct Lease {
    pub(super) id: Revision,
    pub(super) seq: u64,
    /// Answers to earlier attempts belong to an earlier session.
    pub(super) first_attempt: u64,
    /// When the last acknowledged renewal was sent.
    pub(super) acked: Option<Mark>,
    pub(super) outstanding: Option<Outstanding>,
    pub(super) last_renew: Option<Mark>,
    /// Renew without waiting for R.
    pub(super) hurry: bool,
    /// A renewal was missed, so only an answered probe allows the next.
    pub(super) doubt: bool,
    pub(super) probe: Probe,
    pub(super) last_probe: Option<Mark>,
    pub(super) frozen: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Outstanding {
    pub(super) attempt: u64,
    pub(super) sent: Mark,
    pub(super) hedged: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    None,
    Sent(Mark),
    Answered,
}

impl Holder {
    /// A node without a session, guard or known disk. `attempts` is where the numbers of requests begin.
    pub fn new(timing: Timing, options: HolderOptions, attempts: u64) -> Self {
        Self {
            timing,
            options,
            state: State::Absent,
            guard_ready: false,
            fired: false,
            empty: false,
            fast: false,
            healthy: None,
            attempts,
            last_open: None,
            actions: VecDeque::new(),
            asked: None,
        }
    }

    /// Goes on with session `id` of an earlier agent of this boot, whose last renewal was `seq` and whose last
    /// acknowledged one was sent at `acked`. It is renewed at once; if it has ended meanwhile, it is fenced.
    pub fn adopt(
        timing: Timing,
        options: HolderOptions,
        attempts: u64,
        id: Revision,
        seq: u64,
        acked: Option<Mark>,
    ) -> Self {
        let mut holder = Self::new(timing, options, attempts);
        holder.state = State::Open(Lease {
            acked,
            ..Lease::new(id, seq, attempts)
        });
        holder
    }

    /// Takes in one event.
    pub fn handle(&mut self, event: HolderEvent, now: Mark) {
        self.notice_lateness(now);
        match event {
            HolderEvent::Tick => {}
            HolderEvent::Opened { attempt, id, seq } => self.opened(attempt, id, seq),
            HolderEvent::OpenTaken { attempt } | HolderEvent::OpenFailed { attempt } => self.not_opened(attempt),
            HolderEvent::Renewed { attempt, sent } => self.renewed(attempt, sent, now),
            HolderEvent::RenewalFailed { attempt } => {
                if let State::Open(lease) = &mut self.state {
                    lease.missed(|outstanding| outstanding.attempt == attempt);
                }
            }
            HolderEvent::RenewalFenced { attempt } => self.fenced(attempt),
            HolderEvent::ProbeAnswered => self.probed(true),
            HolderEvent::ProbeFailed => self.probed(false),
            HolderEvent::GuardReady(ready) => self.guard_ready = ready,
            HolderEvent::GuardFired => self.guard_fired(),
            HolderEvent::NodeHealth { ok, at } => self.healthy = ok.then_some(at),
            HolderEvent::AllExclusiveEmpty(empty) => self.empty = empty,
            HolderEvent::FastWanted(fast) => self.want_fast(fast),
            HolderEvent::Closed => self.state = State::Closed,
        }
        self.advance(now);
        self.asked = self.wait(now).map(|wait| (now, wait));
    }

    /// The next thing to do, if any.
    pub fn poll(&mut self) -> Option<HolderAction> {
        self.actions.pop_front()
    }

    /// When to come back with [`HolderEvent::Tick`]: as soon as *either* clock gets there.
    pub fn next_wakeup(&self) -> Option<Mark> {
        self.asked.map(|(from, wait)| from.later(wait))
    }

    /// Whether the node may act on its session at `now`.
    pub fn covers(&self, now: Mark) -> bool {
        self.covered(now) == Covered::Yes
    }

    /// Whether what was taken under `session` may be started at `now`. A take is bound to the session it was made with:
    /// under a later one the slot is anybody's. Asked with the clock read after the answer.
    pub fn covers_take(&self, session: Revision, now: Mark) -> bool {
        self.session() == Some(session) && self.covers(now)
    }

    /// Whether the node may act on its session at `now`, and why not.
    pub fn covered(&self, now: Mark) -> Covered {
        let State::Open(lease) = &self.state else {
            return Covered::NoSession;
        };
        match lease.acked {
            _ if self.fired => Covered::Fired,
            _ if !self.guard_ready => Covered::NoGuard,
            None => Covered::NotYet,
            Some(acked) if now.held_for(acked) >= self.timing.soft_deadline.duration() => Covered::TooOld,
            Some(_) => Covered::Yes,
        }
    }

    /// σ of the session that is renewed.
    pub fn session(&self) -> Option<Revision> {
        match &self.state {
            State::Open(lease) => Some(lease.id),
            _ => None,
        }
    }

    /// When the last acknowledged renewal of the session was sent.
    pub fn acked(&self) -> Option<Mark> {
        match &self.state {
            State::Open(lease) => lease.acked,
            _ => None,
        }
    }

    /// Whether everything exclusive stands still until the next acknowledged renewal.
    pub fn is_frozen(&self) -> bool {
        matches!(&self.state, State::Open(lease) if lease.frozen)
    }

    fn opened(&mut self, attempt: u64, id: Revision, seq: u64) {
        if matches!(self.state, State::Opening { attempt: ours, .. } if ours == attempt) {
            self.state = State::Open(Lease::new(id, seq, self.attempts));
        }
    }

    fn not_opened(&mut self, attempt: u64) {
        if matches!(self.state, State::Opening { attempt: ours, .. } if ours == attempt) {
            self.state = State::Absent;
        }
    }

    fn renewed(&mut self, attempt: u64, sent: Mark, now: Mark) {
        let soft_deadline = self.timing.soft_deadline.duration();
        let State::Open(lease) = &mut self.state else { return };
        if attempt <= lease.first_attempt {
            return;
        }
        if lease
            .outstanding
            .is_some_and(|outstanding| outstanding.attempt == attempt)
        {
            lease.outstanding = None;
        }
        // Answers may overtake each other: the deadline never moves back.
        if lease.acked.is_some_and(|acked| acked.boot_ns >= sent.boot_ns) {
            return;
        }
        lease.acked = Some(sent);
        // One that took too long covers nothing, so it dispels no doubt either.
        if now.held_for(sent) < soft_deadline && lease.outstanding.is_none() {
            lease.doubt = false;
            lease.probe = Probe::None;
        }
        self.actions.push_back(HolderAction::TellGuard { mark: sent });
    }

    fn fenced(&mut self, attempt: u64) {
        let State::Open(lease) = &self.state else { return };
        if attempt <= lease.first_attempt {
            return;
        }
        self.actions.push_back(HolderAction::Fenced {
            why: Lost::Session(lease.id),
            was_frozen: lease.frozen && !self.fired,
        });
        self.state = State::Emptying;
        self.empty = false;
    }

    fn guard_fired(&mut self) {
        self.fired = true;
        self.guard_ready = false;
        self.empty = false;
        self.actions.push_back(HolderAction::Fenced {
            why: Lost::GuardFired,
            was_frozen: false,
        });
    }

    fn probed(&mut self, answered: bool) {
        let State::Open(lease) = &mut self.state else { return };
        if matches!(lease.probe, Probe::Sent(_)) {
            lease.probe = if answered { Probe::Answered } else { Probe::None };
        }
    }

    fn want_fast(&mut self, fast: bool) {
        if fast
            && !self.fast
            && let State::Open(lease) = &mut self.state
        {
            lease.hurry = true;
        }
        self.fast = fast;
    }
}

impl Lease {
    fn new(id: Revision, seq: u64, first_attempt: u64) -> Self {
        Self {
            id,
            seq,
            first_attempt,
            acked: None,
            outstanding: None,
            last_renew: None,
            hurry: true,
            doubt: false,
            probe: Probe::None,
            last_probe: None,
            frozen: false,
        }
    }

    /// Whoever misses one answer renews again only after a probe is answered: else a holder whose answers are lost would
    /// renew for ever, and nobody could replace it.
    fn missed(&mut self, which: impl FnOnce(&Outstanding) -> bool) {
        if self.outstanding.as_ref().is_some_and(which) {
            self.outstanding = None;
            self.doubt = true;
        }
    }
}
