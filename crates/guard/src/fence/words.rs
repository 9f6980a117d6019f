//! What the machine of deadlines is told, what it asks for, and why it refuses.

use model::{Epoch, Mark, SlotId, Timing};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Slots that one guard takes: as many as instances that a node of the largest size runs, and a bound for its memory.
pub const SLOTS_MAX: usize = 512;
/// How long a frozen slot is kept for a store that comes back: ten minutes of outage, and what a store takes after it to elect a leader and to answer.
pub const FROZEN_MAX: Duration = Duration::from_secs(900);
/// What happens to a slot without renewals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Gated and frozen at the soft deadline.
    Freeze,
    /// Gated at the soft deadline, and the agent told to let it finish; killed at the hard one.
    Kill,
    /// Nothing: for services that are not exclusive.
    Ignore,
}

/// Where a slot stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// No deadline runs.
    Idle,
    /// Runs, until its deadline.
    Armed,
    /// Gated and frozen; a renewal brings it back.
    Frozen,
    /// Killed; nothing brings it back.
    Fired,
}

/// The two spans that a renewal gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// A.
    pub soft: Duration,
    /// G.
    pub hard: Duration,
}

impl From<Timing> for Deadlines {
    fn from(timing: Timing) -> Self {
        Self {
            soft: timing.soft_deadline.duration(),
            hard: timing.hard_deadline.duration(),
        }
    }
}

/// A slot to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arm {
    /// Which.
    pub slot: SlotId,
    /// The epoch it is held at.
    pub epoch: Epoch,
    /// What happens without renewals.
    pub policy: Policy,
    /// How long it may stay frozen; zero: it is killed at the hard deadline, frozen or not.
    pub frozen_max: Duration,
    /// Whether nothing runs any more of what the slot was armed with before. Whoever arms has looked.
    pub predecessor_gone: bool,
    /// Other slots that the very same processes were armed for. They act for one slot at most, so they leave these.
    pub leaves: Vec<SlotId>,
    /// Whether none of these processes runs yet. What was stopped for another slot must not go on for this one.
    pub is_empty: bool,
}

/// What a machine is told. All but [`Event::Register`] count only if they come from the latest incarnation of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An agent is there; earlier ones count no longer.
    Register,
    /// The spans that the next renewal gives.
    Deadlines(Deadlines),
    /// A session was opened by a request sent at `renewed`. Slots of an earlier session keep their deadline, which nothing
    /// moves any more until they are rebound.
    Session {
        /// Its id.
        session: u64,
        /// When the request that opened it was sent.
        renewed: Mark,
    },
    /// A slot is held: its deadline runs.
    Arm(Arm),
    /// A frozen slot belongs to the present session from now on (T10).
    Rebind {
        /// Which.
        slot: SlotId,
        /// The epoch it is armed at.
        epoch: Epoch,
    },
    /// A slot is held no longer.
    Disarm {
        /// Which.
        slot: SlotId,
        /// Whether nothing of it runs.
        gone: bool,
    },
    /// A renewal that was sent at `mark` was acknowledged.
    Renewed {
        /// Of which session.
        session: u64,
        /// When it was *sent*.
        mark: Mark,
    },
}

/// Number of a slot within one machine, from 0; it is never given to another slot.
pub type Key = usize;

/// Something to do. Order matters; nothing of it needs memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effect {
    /// To which slot.
    pub key: Key,
    /// What.
    pub act: Act,
}

/// What to do to a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Stop its traffic.
    CloseGate,
    /// Let its traffic through until this age of the renewal; also told when the deadline moves.
    OpenGate {
        /// Sent then.
        renewed: Mark,
        /// And good for this long.
        hard: Duration,
    },
    /// Stop its processes.
    Freeze,
    /// Let its processes go on.
    Thaw,
    /// End its processes.
    Kill,
    /// Take its floating address away.
    RemoveAddress,
    /// Tell the agent.
    Tell(Told),
}

/// What the agent is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It is gated; let it finish what it does (policy `kill`).
    Quiesce,
    /// The gate is open again (policy `kill`).
    Resumed,
    /// It is gated and frozen.
    Frozen {
        /// The age of the renewal at which that was due.
        due: Duration,
    },
    /// It runs again. With `address_removed` its floating address has to be added anew.
    Thawed {
        /// The hard deadline passed while it was frozen.
        address_removed: bool,
    },
    /// It is killed, for good.
    Fired {
        /// The age of the renewal at which that was due; none if it was frozen for too long, or not frozen any more.
        due: Option<Duration>,
    },
}

/// Why the guard does not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nobody has registered.
    #[error("no agent has registered; register first")]
    NotRegistered,
    /// It comes from an agent that was replaced.
    #[error("agent incarnation {incarnation} was replaced by {latest}; it decides nothing any more")]
    Superseded {
        /// Whose request it was.
        incarnation: u64,
        /// Who counts.
        latest: u64,
    },
    /// A deadline cannot be computed.
    #[error("the guard was not told the timing; send it before the session")]
    NoTiming,
    /// There is nothing that could be renewed.
    #[error("the guard was not told of a session; open one before arming slots")]
    NoSession,
    /// It would have to be frozen at once.
    #[error("the newest acknowledged renewal is {}ms old, the soft deadline is {}ms: renew the session first", age.as_millis(), soft.as_millis())]
    DeadlinePassed {
        /// How old.
        age: Duration,
        /// A.
        soft: Duration,
    },
    /// A slot that fired, or was given up, needs a new claim.
    #[error("slot {slot} was at epoch {known} already; only a higher one can be armed, not {epoch}")]
    OldEpoch {
        /// Which.
        slot: SlotId,
        /// The highest so far.
        known: Epoch,
        /// The one asked for.
        epoch: Epoch,
    },
    /// Two processes would be active.
    #[error("what slot {slot} was armed with before still runs; kill it first")]
    StillRuns {
        /// Which.
        slot: SlotId,
    },
    /// There is no such slot in a state to do that.
    #[error("slot {slot} is {}; {wanted}", name(*state))]
    WrongState {
        /// Which.
        slot: SlotId,
        /// Its state.
        state: State,
        /// What would be right.
        wanted: &'static str,
    },
    /// A bug of the caller, or marks of another machine.
    #[error("the renewal's mark lies ahead of the guard's clocks; marks must be taken on this machine, before sending")]
    AheadOfTime,
    /// Too many.
    #[error("a guard keeps at most {SLOTS_MAX} slots")]
    TooMany,
}

fn name(state: State) -> &'static str {
    match state {
        State::Idle => "not armed",
        State::Armed => "armed",
        State::Frozen => "frozen",
        State::Fired => "fired",
    }
}
