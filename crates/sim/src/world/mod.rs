//! A machine, a store, a proxy, clients and one agent with its core, in virtual time.
//!
//! ```text
//!            ┌──────── queue: what happens when ────────┐
//!            ▼                                          │ plan
//!  World::step ──▶ truth (processes, slots, routes) ────┤
//!            │                                          │
//!            └──▶ agent ── Event ──▶ core ── Decision ──┘
//! ```
//! The invariants look at the truth alone, never at what the core believes.

mod agent;
mod evidence;
mod inject;
mod life;
mod machine;
mod probing;
pub(crate) mod proxy;
mod queue;
mod recovery;
mod routing;
pub(crate) mod store;
pub(crate) mod truth;

use crate::fault::Fault;
use crate::invariants::{Invariants, Moment};
use crate::pace::Pace;
use crate::sabotage::BrokenRule;
use crate::schedule::Draw;
use crate::transcript::Transcript;
use crate::{FaultKind, Violation};
use decisions::{Core, View};
use model::{Cluster, NodeName, ServiceName, Timestamp};
use queue::{Due, Queue, Task};
use std::collections::BTreeMap;
use std::time::Duration;
use truth::Truth;

/// The whole simulation.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) truth: Truth,
    agent: Agent,
    queue: Queue,
    pace: Pace,
    seed: u64,
    schedule: Vec<Draw>,
    broken: Option<BrokenRule>,
    invariants: Invariants,
    pub(crate) violation: Option<Violation>,
    pub(crate) transcript: Transcript,
    pub(crate) tally: Tally,
    next_second: Timestamp,
    requests: u64,
}

/// The agent's process.
#[derive(Debug)]
struct Agent {
    /// Counts its starts: what an earlier one began is nobody's any more.
    life: u32,
    core: Option<Core>,
    stopped: bool,
    /// What waits until it runs on.
    deferred: Vec<Task>,
    /// It dies when it has carried out so many more decisions, and comes back after that time.
    dies: Option<(u32, Option<Duration>)>,
    last_told: Timestamp,
    wakes_at: Option<Timestamp>,
    wakes_in_place: u32,
}

/// What happened, in numbers.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    pub(crate) steps: u64,
    pub(crate) decisions: u64,
    pub(crate) faults: BTreeMap<FaultKind, u64>,
    pub(crate) failovers: u64,
    pub(crate) switchovers: u64,
    pub(crate) worst_failover: Duration,
    pub(crate) all_stopped: bool,
}

/// How a world is made.
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) cluster: Cluster,
    pub(crate) nodes: Vec<NodeName>,
    pub(crate) pace: Pace,
    pub(crate) schedule: Vec<Draw>,
    pub(crate) broken: Option<BrokenRule>,
    pub(crate) transcript: Transcript,
}

impl World {
    /// A fresh machine on which the agent has just begun to run the file.
    pub(crate) fn new(setup: Setup) -> Self {
        let truth = Truth::new(setup.cluster.name.clone(), setup.cluster.services.clone(), setup.nodes);
        let mut queue = Queue::default();
        for (index, draw) in setup.schedule.iter().enumerate() {
            queue.plan(draw.at, Due::Inject(index));
        }
        let mut world = Self {
            truth,
            agent: Agent {
                life: 0,
                core: None,
                stopped: false,
                deferred: Vec::new(),
                dies: None,
                last_told: Timestamp(0),
                wakes_at: None,
                wakes_in_place: 0,
            },
            queue,
            pace: setup.pace,
            seed: setup.seed,
            schedule: setup.schedule,
            broken: setup.broken,
            invariants: Invariants::all(),
            violation: None,
            transcript: setup.transcript,
            tally: Tally::default(),
            next_second: Timestamp(1_000_000),
            requests: 0,
        };
        world.agent_comes_up();
        world
    }

    /// Runs until that moment, or until an invariant is violated.
    pub(crate) fn run_until(&mut self, end: Timestamp) {
        while self.violation.is_none() && self.queue.next_at().is_some_and(|at| at <= end) {
            self.step();
        }
        if self.violation.is_none() {
            self.pass_time(end);
        }
    }

    /// What the core says, if the agent lives.
    pub(crate) fn view(&self) -> Option<View> {
        Some(self.agent.core.as_ref()?.view(self.truth.now))
    }

    /// From now on nothing may need doing any more.
    pub(crate) fn expect_quiet(&mut self) {
        self.invariants.expect_quiet();
    }

    fn step(&mut self) {
        let Some((at, due)) = self.queue.pop() else {
            return;
        };
        self.pass_time(at);
        self.tally.steps += 1;
        if let Due::Agent { life, task } = due {
            if life != self.agent.life || self.agent.core.is_none() {
                return;
            }
            if self.agent.stopped {
                self.agent.deferred.push(task);
                return;
            }
            self.attend(task);
        } else {
            self.happen(due);
        }
    }

    /// Whole seconds that pass on the way are looked at by the invariants that count per second.
    fn pass_time(&mut self, to: Timestamp) {
        while self.next_second <= to && self.violation.is_none() {
            self.truth.now = self.next_second;
            self.observe(&Moment::Second);
            self.next_second = self.next_second + Duration::from_secs(1);
        }
        self.truth.now = self.truth.now.max(to);
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Inject(index) => self.inject_drawn(index),
            Due::Ends { instance, run, how } => {
                self.before(instance.service());
                self.main_ends(&instance, run, how);
            }
            Due::TreeEnds { instance, run, life } => {
                self.before(instance.service());
                self.tree_ends(&instance, run, life);
            }
            Due::HookEnds(hook) => {
                self.before(hook.instance.service());
                self.hook_ends(&hook);
            }
            Due::Order(order) => {
                self.before(&order.service);
                self.order_arrives(&order);
            }
            Due::Drains { service, instance } => self.drains(&service, &instance),
            Due::Answers {
                service,
                instance,
                epoch,
            } => self.answers(&service, &instance, epoch),
            Due::ProxyReturns => self.proxy_returns(),
            Due::AgentReturns => self.agent_comes_up(),
            Due::AgentContinues => self.agent_continues(),
            Due::NodeReturns(node) => {
                self.inject(Fault::NodeBack { node });
            }
            Due::Resumes => {
                self.inject(Fault::Resume);
            }
            Due::Agent { .. } => {}
        }
    }

    /// Clients are served until this moment as they were.
    fn before(&mut self, service: &ServiceName) {
        self.truth.acknowledge(service);
        self.truth.count_clients(service);
    }

    fn before_all(&mut self) {
        let services: Vec<ServiceName> = self.truth.declared.keys().cloned().collect();
        for service in services {
            self.before(&service);
        }
    }

    /// Shows the invariants a moment.
    fn observe(&mut self, moment: &Moment<'_>) {
        if self.violation.is_some() {
            return;
        }
        if let Err((invariant, what)) = self.invariants.observe(&self.truth, moment) {
            self.violate(invariant, what);
        }
    }

    pub(crate) fn violate(&mut self, invariant: &'static str, what: String) {
        let at = self.truth.now;
        self.violation.get_or_insert(Violation { invariant, at, what });
    }

    fn plan(&mut self, after: Duration, due: Due) {
        let at = self.truth.now + after;
        self.queue.plan(at, due);
    }

    fn plan_task(&mut self, after: Duration, task: Task) {
        let life = self.agent.life;
        self.plan(after, Due::Agent { life, task });
    }
}
