//! A state of the world.

use crate::config::{Budget, Config};
use crate::store::{Slot, Store};
use crate::{NodeId, SlotId, Step};
use decisions::lease::{Holder, Observer};
use model::{Mark, Millis, NodeName, Profile, Revision, Timing};
use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::sync::OnceLock;
use std::time::Duration;

/// One tick.
pub(crate) const TICK: Duration = Duration::from_millis(3);
/// A, in ticks.
pub(crate) const SOFT: u64 = 2;
/// D, in ticks.
pub(crate) const LEASE: u64 = 3;
/// W, in ticks: beyond this all spans are alike to an observer.
const WAIT: u64 = 5;
/// Attempts: more than one session has in any bound.
const LONG_AGO: u64 = 8;

/// The timing of the model: see the table in the crate's documentation.
pub(crate) fn timing() -> Timing {
    let ticks = |ticks: u64| Millis(ticks * 3);
    Timing {
        renew: ticks(1),
        request_timeout: ticks(1),
        soft_deadline: ticks(SOFT),
        hard_deadline: ticks(SOFT),
        kill_budget: ticks(1),
        guard_jitter: Millis(0),
        lease: ticks(LEASE),
        rank_stagger: Millis(0),
        ..Profile::Fast.timing()
    }
}

/// All there is. Two worlds that differ only in the time of day are the same.
#[derive(Debug, Clone)]
pub struct World {
    pub(crate) tick: u64,
    /// It is being set up.
    pub(crate) beginning: bool,
    /// The tick counts: see [`Config::ticks`].
    pub(crate) timed: bool,
    /// The store is away.
    pub(crate) outage: bool,
    /// The store.
    pub store: Store,
    pub(crate) nodes: Vec<Node>,
    pub(crate) left: Budget,
    /// Slot and epoch that were started, and by whom.
    pub(crate) started: BTreeSet<(SlotId, u8)>,
    /// Slot and epoch that were killed by the guard.
    pub(crate) killed: BTreeSet<(SlotId, u8)>,
    /// What went wrong in a single event.
    pub(crate) broken: BTreeSet<Broken>,
}

/// Something that must not happen, seen at the moment it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Broken {
    /// I2: an epoch did not rise, or was started twice.
    Epoch,
    /// I5: something was committed in the name of a session that has ended.
    DeadSession,
    /// Behind I1: a session was ended by others while its lease ran on its holder's clock.
    CondemnedAlive,
    /// L4: a node that could renew was condemned after an outage.
    Replaced,
    /// L1: renewals of a node that hears no answer go on.
    Unheard,
    /// A parked slot got a holder, or its holder another epoch.
    ParkedTaken,
}

/// A machine with its agent, guard and one instance.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// Its clock, in ticks.
    pub(crate) clock: u64,
    pub(crate) agent: Agent,
    /// Counts the boots.
    pub(crate) boot: u8,
    /// Counts the agent's processes.
    pub(crate) incarnation: u8,
    /// On tmpfs: session and when its last acknowledged renewal was sent.
    pub(crate) saved: Option<(Revision, Option<u64>)>,
    /// The guard is armed from this send of an acknowledged renewal.
    pub(crate) guard: Option<u64>,
    /// The guard fired while the agent did not listen.
    pub(crate) unheard_fire: bool,
    pub(crate) instance: Instance,
    /// The whole machine stands still.
    pub(crate) stalled: bool,
    /// The last request about its session; it may reach the store at any time until the next is made.
    pub(crate) request: Option<Request>,
    /// An older one that is still on its way.
    pub(crate) delayed: Option<Request>,
    /// Transactions on their way.
    pub(crate) flights: Vec<Flight>,
    /// Answers on their way.
    pub(crate) answers: Vec<Answer>,
    /// What is true of its lease, whatever its agent thinks: session, and the send of its last acknowledged renewal.
    pub(crate) truth: Option<(Revision, u64)>,
    /// Renewals that took effect since the last answer.
    pub(crate) unheard: u8,
}

#[derive(Debug, Clone)]
pub(crate) enum Agent {
    Up(Box<Brain>),
    Paused(Box<Brain>),
    Down,
}

/// What an agent knows.
#[derive(Debug, Clone)]
pub(crate) struct Brain {
    pub(crate) holder: Holder,
    pub(crate) observer: Observer,
    /// The store as it was last seen.
    pub(crate) view: Store,
    /// When, on the node's clock.
    pub(crate) looked: u64,
    pub(crate) probing: bool,
    pub(crate) told_empty: Option<bool>,
    /// Transactions whose outcome is not known.
    pub(crate) pending: Vec<Flight>,
    pub(crate) attempts: u8,
    /// Epoch that was started by this process, or was there when it started.
    pub(crate) last_epoch: Vec<u8>,
}

/// An instance and its cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Instance {
    /// Nothing runs.
    None,
    /// Acts.
    Running(Held),
    /// Acts, and is being killed.
    Dying(Held),
    /// Frozen and gated.
    Frozen(Held),
    /// Demoted and gated, to be handed over.
    Gated(Held),
    /// Runs after its whole machine stood still, but no packet reaches it or leaves it; being killed.
    Stalled(Held),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Held {
    pub(crate) slot: SlotId,
    pub(crate) epoch: u8,
    pub(crate) session: Revision,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) step: Step,
    pub(crate) attempt: u64,
    /// On the node's clock.
    pub(crate) sent: u64,
    /// Which process of the agent asked; its answer reaches no other.
    pub(crate) agent: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Flight {
    pub(crate) step: Step,
    pub(crate) attempt: u8,
    pub(crate) agent: u8,
    /// Of the instance, when it was sent.
    pub(crate) epoch: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Session {
        request: Request,
        ok: bool,
        /// The session found: σ and the process that opened it.
        found: Option<(Revision, u8)>,
    },
    Step {
        flight: Flight,
        ok: bool,
        /// The slot as it is after the transaction.
        slot: Option<Slot>,
    },
}

impl World {
    pub(crate) fn node(&self, node: NodeId) -> &Node {
        &self.nodes[usize::from(node)]
    }

    pub(crate) fn node_mut(&mut self, node: NodeId) -> &mut Node {
        &mut self.nodes[usize::from(node)]
    }

    /// What went wrong on the way here.
    pub fn has(&self, broken: Broken) -> bool {
        self.broken.contains(&broken)
    }
}

impl Node {
    pub(crate) fn brain(&self) -> Option<&Brain> {
        match &self.agent {
            Agent::Up(brain) if !self.stalled => Some(brain),
            _ => None,
        }
    }

    pub(crate) fn brain_mut(&mut self) -> Option<&mut Brain> {
        match &mut self.agent {
            Agent::Up(brain) if !self.stalled => Some(brain),
            _ => None,
        }
    }

    pub(crate) fn now(&self) -> Mark {
        mark(self.clock)
    }

    /// It has no power: nothing of it runs, and nothing of its lease is left.
    pub(crate) fn is_off(&self) -> bool {
        matches!(self.agent, Agent::Down) && self.instance == Instance::None && self.truth.is_none()
    }

    /// Ticks since the guard's base.
    pub(crate) fn age(&self) -> Option<u64> {
        self.guard.map(|base| self.clock - base)
    }

    /// What acts right now, gates open.
    pub(crate) fn acting(&self) -> Option<Held> {
        match self.instance {
            Instance::Running(held) | Instance::Dying(held) if !self.stalled => Some(held),
            _ => None,
        }
    }

    /// What may run instructions right now, gated or not; true if only because the whole machine stood still.
    pub(crate) fn executing(&self) -> Option<(Held, bool)> {
        match self.instance {
            Instance::Stalled(held) if !self.stalled => Some((held, true)),
            _ => self.acting().map(|held| (held, false)),
        }
    }
}

impl Instance {
    pub(crate) fn held(self) -> Option<Held> {
        match self {
            Instance::None => None,
            Instance::Running(held)
            | Instance::Dying(held)
            | Instance::Frozen(held)
            | Instance::Gated(held)
            | Instance::Stalled(held) => Some(held),
        }
    }
}

/// A moment on a node's clock.
pub(crate) fn mark(ticks: u64) -> Mark {
    let ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
    Mark::default().later(TICK * ticks)
}

/// The other way round.
pub(crate) fn ticks(mark: Mark) -> u64 {
    mark.boot_ns / u64::try_from(TICK.as_nanos()).unwrap_or(u64::MAX)
}

/// The name of a node.
pub(crate) fn name(node: NodeId) -> &'static NodeName {
    static NAMES: OnceLock<Vec<NodeName>> = OnceLock::new();
    let names = || {
        ["a", "b", "c"]
            .into_iter()
            .filter_map(|name| NodeName::new(name).ok())
            .collect()
    };
    &NAMES.get_or_init(names)[usize::from(node)]
}

impl Hash for World {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let Self {
            tick,
            beginning: _,
            timed,
            outage,
            store,
            nodes,
            left,
            started,
            killed,
            broken,
        } = self;
        timed.then_some(tick).hash(hasher);
        (outage, store, left, started, killed, broken).hash(hasher);
        for node in nodes {
            node.outline(hasher);
        }
    }
}

impl Node {
    /// All its future depends on, relative to its clock and counters.
    fn outline(&self, hasher: &mut impl Hasher) {
        let Self {
            clock,
            agent,
            boot,
            incarnation,
            saved,
            guard,
            unheard_fire,
            instance,
            stalled,
            request,
            delayed,
            flights,
            answers,
            truth,
            unheard,
        } = self;
        let age = |then: u64| clock.saturating_sub(then).min(LEASE);
        let attempts = match agent {
            Agent::Up(brain) | Agent::Paused(brain) => brain.holder.attempts(),
            Agent::Down => 0,
        };
        // An answer from long ago belongs to no session that is open: there are fewer requests per session.
        let request_of = |request: &Request| {
            let current = request.agent == *incarnation;
            (
                request.step,
                current.then(|| attempts.saturating_sub(request.attempt).min(LONG_AGO)),
                age(request.sent),
            )
        };
        saved.map(|(session, acked)| (session, acked.map(age))).hash(hasher);
        guard.map(age).hash(hasher);
        truth.map(|(session, sent)| (session, age(sent))).hash(hasher);
        (boot, incarnation, unheard_fire, instance, stalled, flights, unheard).hash(hasher);
        request.as_ref().map(request_of).hash(hasher);
        delayed.as_ref().map(request_of).hash(hasher);
        answers.len().hash(hasher);
        for answer in answers {
            match answer {
                Answer::Session { request, ok, found } => (0u8, request_of(request), ok, found).hash(hasher),
                Answer::Step { flight, ok, slot } => (1u8, flight, ok, slot).hash(hasher),
            }
        }
        match agent {
            Agent::Up(brain) => (0u8, brain.outline(*clock, hasher)).0.hash(hasher),
            Agent::Paused(brain) => (1u8, brain.outline(*clock, hasher)).0.hash(hasher),
            Agent::Down => 2u8.hash(hasher),
        }
    }
}

impl Brain {
    fn outline(&self, clock: u64, hasher: &mut impl Hasher) {
        let Self {
            holder,
            observer,
            view,
            looked,
            probing,
            told_empty,
            pending,
            attempts,
            last_epoch,
        } = self;
        let spans = |ticks: u64| TICK * u32::try_from(ticks).unwrap_or(u32::MAX);
        holder.outline(mark(clock), spans(LEASE), hasher);
        observer.outline(mark(clock), spans(WAIT), hasher);
        let looked = clock.saturating_sub(*looked).min(WAIT);
        (view, looked, probing, told_empty, pending, attempts, last_epoch).hash(hasher);
    }
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        let hash = |world: &Self| {
            let mut hasher = std::hash::DefaultHasher::new();
            world.hash(&mut hasher);
            hasher.finish()
        };
        hash(self) == hash(other)
    }
}

impl Eq for World {}

impl Config {
    pub(crate) fn node_ids(&self) -> std::ops::Range<NodeId> {
        0..self.nodes
    }
}
