//! What a run of the model may contain: how many of which faults, and which rule is broken on purpose.

/// A rule of the protocol left out. Each must be found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// W = D: clocks may drift apart.
    WaitIsLease,
    /// The lease runs from the answer to a renewal instead of its send.
    LeaseFromAnswer,
    /// The observer's timer runs from when it looked before a renewal was there.
    TimerBeforeSight,
    /// T6c does not compare the revision of the session.
    TakeWithoutRevision,
    /// T6c leaves the session that it takes from alive.
    TakeWithoutCondemning,
    /// T2 compares nothing.
    RenewalAsPlainPut,
    /// T5 before the cgroup is empty.
    ReleaseBeforeEmpty,
    /// What was taken is started without another look at one's own deadline.
    NoDeadlineCheck,
    /// What was taken is started under whatever session the node has by then.
    AnySessionCovers,
    /// T6 does not compare the taker's own session.
    OwnSessionNotCompared,
    /// T6 does not compare the taker's instance.
    InstanceNotCompared,
    /// T10 does not compare the slot.
    RebindWithoutSlot,
    /// T6c accepts a session of that revision, or that the session is gone.
    RevisionOrGone,
    /// An announcement does not compare the instance's own record.
    AnnounceBlindly,
    /// An instance is announced as free although its node's slot is still its own.
    AnnounceWhileHolding,
    /// What was handed over is started although it was given up meanwhile.
    StartAfterRelease,
    /// A take does not compare that its slot is not parked.
    TakeParked,
    /// The operator's word is false: the host of which it is said that it is off is not. No rule of ours; what rests on it alone must show.
    ForcedAlive,
    /// Liveness: condemn at once when the store is back.
    NoHoldOff,
    /// Liveness: renew without an answered probe after missed answers.
    RenewWithoutProbe,
}

/// How the world begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Start {
    /// Node 0 holds slot 0 and runs it; the others are standbys, and all have sessions just renewed.
    Held,
    /// All slots are released, all nodes standbys.
    Released,
}

/// How often something may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Budget {
    /// Requests about a node's own session that reach the store, per node.
    pub session: [u8; 3],
    /// Transactions about slots and others' sessions that a node attempts, per node.
    pub steps: [u8; 3],
    /// An older request that is overtaken and commits late, in all.
    pub delayed: u8,
    /// Ticks in which a node's clock stands still.
    pub slow: u8,
    /// Ticks in which a node's clock makes two.
    pub fast: u8,
    /// Instances that die by themselves or are stopped for their health.
    pub ends: u8,
    /// Agents that crash; they start again some time.
    pub crashes: u8,
    /// Agents that stop and go on.
    pub pauses: u8,
    /// Whole machines that stop and go on.
    pub stalls: u8,
    /// Machines that boot.
    pub reboots: u8,
    /// Handovers.
    pub handovers: u8,
    /// Edits of a line.
    pub edits: u8,
    /// Announcements.
    pub announcements: u8,
    /// Sessions closed.
    pub closes: u8,
    /// Machines that lose their power; they boot some time.
    pub offs: u8,
    /// Slots parked.
    pub parks: u8,
    /// And let be held again.
    pub unparks: u8,
    /// Sessions ended at an operator's word.
    pub forces: u8,
}

/// A run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// Nodes, 1 to 3, each with one instance of the service.
    pub nodes: u8,
    /// Slots.
    pub slots: u8,
    /// Where it begins.
    pub start: Start,
    /// How much may happen.
    pub budget: Budget,
    /// Nodes whose requests about their own session are carried out and answered at once, and without a trace in the
    /// store: nobody else's business, as long as nobody condemns them.
    pub steady: [bool; 3],
    /// T4e apart from T6c.
    pub condemn: bool,
    /// The observers' hold-off counts real renewals; else their writes always succeed, which allows more.
    pub real_hold_off: bool,
    /// Nodes whose watch is never behind.
    pub sharp: [bool; 3],
    /// Requests about sessions may take any time, but are answered as soon as they take effect.
    pub quick: bool,
    /// Whatever can reach its goal does so before the next tick: for liveness.
    pub prompt: bool,
    /// The store is away from the start for any while.
    pub outage: bool,
    /// No answer reaches this node.
    pub deaf: Option<u8>,
    /// Nothing is looked at beyond this tick.
    pub ticks: Option<u64>,
    /// The rule that is left out.
    pub mutation: Option<Mutation>,
}

impl Config {
    /// A run without any fault, slot transaction or mutation.
    pub fn new(nodes: u8, start: Start) -> Self {
        Self {
            nodes,
            slots: 1,
            start,
            budget: Budget::default(),
            steady: [false; 3],
            condemn: false,
            real_hold_off: false,
            sharp: [false; 3],
            quick: false,
            prompt: false,
            outage: false,
            deaf: None,
            ticks: None,
            mutation: None,
        }
    }

    /// The same with a rule left out.
    #[must_use]
    pub fn without(mut self, mutation: Mutation) -> Self {
        self.mutation = Some(mutation);
        self
    }

    pub(crate) fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }
}
