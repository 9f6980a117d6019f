//! Machines, their agents and guards, one store and the network between them, in virtual time.
//!
//! ```text
//!   node: processes, gates ◄── guard (marks of its own clock)      node …          node …
//!            ▲                   ▲ renewed, armed
//!            └── agent: core · session thread · mirror ──► network ──► store (one, linearizable)
//! ```
//! The invariants look at the truth alone, never at what a core believes.

use super::agent::Agent;
use super::clocks::Clocks;
use super::faults::Draw;
use super::guard::Guard;
use super::invariants::{Invariants, Moment};
use super::machine::{HookRun, Inst, Process};
use super::records::{Changes, Key, NodeIx, Value};
use super::sabotage::ClusterRule;
use super::store::Model;
use super::wire::{Net, Request};
use super::{ClusterFault, Tally};
use crate::Violation;
use crate::pace::Pace;
use decisions::RouteTarget;
use fastrand::Rng;
use model::{
    Cluster, Epoch, InstanceId, Mark, NodeName, Revision, RunId, Service, ServiceName, SlotId, Timestamp, Timing,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How often the truth is looked at beside what happens.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Revisions that the store keeps for watches.
const HISTORY: usize = 5_000;

/// Something to happen.
#[derive(Debug)]
pub(crate) enum Due {
    Inject(usize),
    /// A request reaches the store.
    Arrive(Request),
    /// To an agent that still lives by then.
    Agent {
        node: NodeIx,
        life: u32,
        task: super::agent::Task,
    },
    Guard {
        node: NodeIx,
        life: u32,
    },
    /// A freeze takes effect.
    Freezes {
        instance: InstanceId,
        run: RunId,
    },
    TreeEnds {
        instance: InstanceId,
        run: RunId,
        life: u32,
    },
    HookEnds(HookRun),
    Order {
        node: NodeIx,
        service: ServiceName,
        revision: u64,
        targets: Option<Vec<RouteTarget>>,
    },
    /// A change of the store reaches a node's watch.
    Watch {
        node: NodeIx,
        life: u32,
        stream: u32,
        upto: Revision,
    },
    /// A renewal reaches a node's watch of that session alone.
    Renewal {
        node: NodeIx,
        life: u32,
        of: NodeIx,
        stream: u32,
        told: Rc<Changes>,
    },
    Look,
    Undo(super::faults::Undo),
    /// Who ran on after a pause of the whole machine must have ended by now.
    Recheck,
    AgentStarts(NodeIx),
    GuardStarts(NodeIx),
}

struct Planned {
    at: Timestamp,
    order: u64,
    due: Due,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Planned {}
impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// A session of this boot, noted for the next agent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Noted {
    pub(crate) session: Revision,
    pub(crate) seq: u64,
    pub(crate) acked: Option<Mark>,
}

/// What a proxy sends clients by.
#[derive(Debug, Default)]
pub(crate) struct Route {
    pub(crate) revision: u64,
    pub(crate) targets: Vec<RouteTarget>,
}

/// A machine.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) place: decisions::Place,
    pub(crate) up: bool,
    /// Counts its boots.
    pub(crate) boot: u32,
    pub(crate) clocks: Clocks,
    /// The whole machine stands still.
    pub(crate) paused: bool,
    pub(crate) deferred: Vec<Due>,
    /// Its guard could not do its duty until then: user code may run on, traffic not.
    pub(crate) excused: Timestamp,
    pub(crate) guard: Guard,
    /// What a guard that stands still has yet to read.
    pub(crate) unread: Vec<super::session::ToGuard>,
    pub(crate) agents: u32,
    pub(crate) agent: Option<Box<Agent>>,
    /// On tmpfs.
    pub(crate) noted: Option<Noted>,
    pub(crate) routes: BTreeMap<ServiceName, Route>,
    /// Whose clients are asked to come back on new connections, and whether those are kept back. The agent keeps it up.
    pub(crate) parting: BTreeMap<InstanceId, bool>,
    /// Until when the kernel lets traffic through, on its own clock.
    pub(crate) gates: BTreeMap<InstanceId, u64>,
    pub(crate) disk_stalls_until: Timestamp,
    pub(crate) disk_full_until: Timestamp,
    /// When the last acknowledged renewal was sent, whatever the agent remembers.
    pub(crate) acked: Option<Mark>,
    /// Real time that its core worked, if that is measured.
    pub(crate) busy: Duration,
}

/// The store beside its contents.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) model: Model<Key, Value>,
    pub(crate) away_until: Timestamp,
    /// Requests that wait for a leader.
    pub(crate) waiting: Vec<Request>,
}

pub(crate) struct World {
    pub(crate) now: Timestamp,
    pub(crate) rng: Rng,
    pub(crate) pace: Pace,
    queue: BinaryHeap<Reverse<Planned>>,
    planned: u64,
    pub(crate) seed: u64,
    pub(crate) timing: Timing,
    pub(crate) cluster: Cluster,
    /// Counts the files that were put in force.
    pub(crate) file: u64,
    /// The last of which everybody knows that it worked.
    pub(crate) worked: Option<Cluster>,
    /// How often a rollout handed a slot to a version of which every promotion fails.
    pub(crate) tried: usize,
    /// Agents do not hear what was given up.
    pub(crate) forgets: bool,
    pub(crate) declared: BTreeMap<ServiceName, Arc<Service>>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) names: BTreeMap<NodeName, NodeIx>,
    pub(crate) server: Server,
    pub(crate) net: Net,
    pub(crate) instances: BTreeMap<InstanceId, Inst>,
    /// Writes acknowledged to clients.
    pub(crate) acknowledged: BTreeMap<ServiceName, u64>,
    pub(crate) schedule: Vec<Draw>,
    pub(crate) broken: Option<ClusterRule>,
    pub(crate) ailing: Vec<super::machine::Ailing>,
    pub(crate) invariants: Invariants,
    pub(crate) violation: Option<Violation>,
    pub(crate) transcript: Option<VecDeque<String>>,
    pub(crate) events: bool,
    /// Up to so many nodes every agent is told everything.
    pub(crate) whole_up_to: usize,
    /// A node with an agent of before, which does not tell that it is there.
    pub(crate) of_before: Option<NodeIx>,
    /// Which agents watch each session alone.
    pub(crate) told_apart: Vec<BTreeSet<NodeIx>>,
    /// Of very many nodes: who is told of which services.
    pub(crate) interest: Option<super::many::Interest>,
    /// Measure how long cores work.
    pub(crate) timed: bool,
    /// No processor is ever short: what is frozen is so within milliseconds.
    pub(crate) unloaded: bool,
    pub(crate) tally: Tally,
    /// Slots and epochs of which a guard has ended the holder.
    pub(crate) fired: BTreeSet<(SlotId, Epoch)>,
    /// Whose host an operator said to be off when it was not.
    pub(crate) lied_of: BTreeSet<InstanceId>,
    /// Everything that was wrong has been put right.
    pub(crate) healed: bool,
}

pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) cluster: Cluster,
    pub(crate) nodes: usize,
    /// Where they stand; if fewer are given, the others stand alone.
    pub(crate) places: Vec<decisions::Place>,
    pub(crate) timing: Timing,
    pub(crate) schedule: Vec<Draw>,
    pub(crate) broken: Option<ClusterRule>,
    pub(crate) transcript: bool,
    pub(crate) events: bool,
    pub(crate) drift: bool,
    /// Up to so many nodes every agent is told everything.
    pub(crate) whole_up_to: usize,
    /// A node with an agent of before.
    pub(crate) of_before: Option<NodeIx>,
}

pub(crate) fn node_name(ix: usize) -> Option<NodeName> {
    NodeName::new(format!("n{ix:04}")).ok()
}

impl World {
    pub(crate) fn new(setup: Setup) -> Self {
        let mut rng = Rng::with_seed(setup.seed ^ 0x5ee_d0f_c1d);
        let names: Vec<NodeName> = (0..setup.nodes).filter_map(node_name).collect();
        let declared = setup.cluster.services.iter();
        let declared = declared
            .map(|(name, service)| (name.clone(), Arc::new(service.clone())))
            .collect();
        let nodes = names.iter().map(|name| {
            let rate = if setup.drift {
                1.0 + (rng.f64() - 0.5) * 0.002
            } else {
                1.0
            };
            let ix = name
                .as_str()
                .trim_start_matches('n')
                .parse::<usize>()
                .unwrap_or(usize::MAX);
            Node {
                name: name.clone(),
                place: setup.places.get(ix).cloned().unwrap_or_default(),
                up: true,
                boot: 1,
                clocks: Clocks::boot(Timestamp(0), rate, 1_700_000_000_000_000_000),
                paused: false,
                deferred: Vec::new(),
                excused: Timestamp(0),
                guard: Guard::start(0),
                unread: Vec::new(),
                agents: 0,
                agent: None,
                noted: None,
                routes: BTreeMap::new(),
                parting: BTreeMap::new(),
                gates: BTreeMap::new(),
                disk_stalls_until: Timestamp(0),
                disk_full_until: Timestamp(0),
                acked: None,
                busy: Duration::ZERO,
            }
        });
        let nodes: Vec<Node> = nodes.collect();
        let count = nodes.len();
        let mut world = Self {
            now: Timestamp(0),
            pace: Pace::random(rng.u64(..)),
            net: Net::new(count, rng.u64(100..2_000)),
            rng,
            queue: BinaryHeap::new(),
            planned: 0,
            seed: setup.seed,
            timing: setup.timing,
            cluster: setup.cluster,
            file: 1,
            worked: None,
            tried: 0,
            forgets: false,
            declared,
            nodes,
            names: names.iter().cloned().zip(0..).collect(),
            server: Server {
                model: Model::new(HISTORY.max(count * 100)),
                away_until: Timestamp(0),
                waiting: Vec::new(),
            },
            instances: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            schedule: setup.schedule,
            broken: setup.broken,
            ailing: Vec::new(),
            invariants: Invariants::all(),
            violation: None,
            transcript: setup.transcript.then(VecDeque::new),
            events: setup.events,
            whole_up_to: setup.whole_up_to,
            of_before: setup.of_before,
            told_apart: vec![BTreeSet::new(); count],
            interest: None,
            timed: false,
            unloaded: false,
            tally: Tally::default(),
            fired: BTreeSet::new(),
            lied_of: BTreeSet::new(),
            healed: false,
        };
        for index in 0..world.schedule.len() {
            let at = world.schedule[index].at;
            world.plan_at(at, Due::Inject(index));
        }
        for ix in 0..count as NodeIx {
            let member = super::records::put(Key::Member(ix), Value::Member);
            let _ = world.server.model.txn(&super::records::Txn::new().then(member));
        }
        for ix in 0..count as NodeIx {
            let after = world.rng.u64(0..200_000);
            world.plan(Duration::from_micros(after), Due::AgentStarts(ix));
        }
        world.plan(LOOK_EVERY, Due::Look);
        world
    }

    pub(crate) fn plan(&mut self, after: Duration, due: Due) {
        self.plan_at(self.now + after, due);
    }

    pub(crate) fn plan_at(&mut self, at: Timestamp, due: Due) {
        self.planned += 1;
        let order = self.planned;
        self.queue.push(Reverse(Planned { at, order, due }));
    }

    pub(crate) fn run_until(&mut self, end: Timestamp) {
        while self.violation.is_none()
            && let Some(Reverse(next)) = self.queue.peek()
            && next.at <= end
        {
            let Some(Reverse(next)) = self.queue.pop() else { return };
            self.now = self.now.max(next.at);
            self.tally.steps += 1;
            self.happen(next.due);
        }
        if self.violation.is_none() {
            self.now = self.now.max(end);
        }
    }

    /// On which machine something happens, if on one.
    fn machine_of(&self, due: &Due) -> Option<NodeIx> {
        match due {
            Due::Agent { node, .. }
            | Due::Guard { node, .. }
            | Due::Order { node, .. }
            | Due::Watch { node, .. }
            | Due::Renewal { node, .. } => Some(*node),
            Due::Freezes { instance, .. } | Due::TreeEnds { instance, .. } => {
                self.instances.get(instance).map(|known| known.node)
            }
            Due::HookEnds(hook) => self.instances.get(&hook.instance).map(|known| known.node),
            Due::AgentStarts(node) | Due::GuardStarts(node) => Some(*node),
            Due::Inject(_) | Due::Arrive(_) | Due::Look | Due::Undo(_) | Due::Recheck => None,
        }
    }

    pub(crate) fn happen(&mut self, due: Due) {
        if let Some(ix) = self.machine_of(&due) {
            let node = &mut self.nodes[ix as usize];
            if !node.up {
                return;
            }
            if node.paused {
                node.deferred.push(due);
                return;
            }
        }
        match due {
            Due::Inject(index) => self.inject_drawn(index),
            Due::Arrive(request) => self.arrive(request),
            Due::Agent { node, life, task } => self.agent_task(node, life, task),
            Due::Guard { node, life } => self.guard_wakes(node, life),
            Due::Freezes { instance, run } => self.freeze_takes_effect(&instance, run),
            Due::TreeEnds { instance, run, life } => self.tree_ends(&instance, run, life),
            Due::HookEnds(hook) => self.hook_ends(&hook),
            Due::Order {
                node,
                service,
                revision,
                targets,
            } => self.order_arrives(node, &service, revision, targets),
            Due::Watch {
                node,
                life,
                stream,
                upto,
            } => self.watch_arrives(node, life, stream, upto),
            Due::Renewal {
                node,
                life,
                of,
                stream,
                told,
            } => self.renewal_arrives(node, life, of, stream, told),
            Due::Look => {
                self.observe(&Moment::Look);
                self.plan(LOOK_EVERY, Due::Look);
            }
            Due::Undo(undo) => self.undo(undo),
            Due::Recheck => self.observe(&Moment::Look),
            Due::AgentStarts(node) => self.agent_starts(node),
            Due::GuardStarts(node) => self.guard_starts(node),
        }
    }

    pub(crate) fn node(&self, ix: NodeIx) -> &Node {
        &self.nodes[ix as usize]
    }

    pub(crate) fn node_mut(&mut self, ix: NodeIx) -> &mut Node {
        &mut self.nodes[ix as usize]
    }

    pub(crate) fn ix(&self, name: &NodeName) -> NodeIx {
        self.names.get(name).copied().unwrap_or(NodeIx::MAX)
    }

    /// What both clocks of a machine say.
    pub(crate) fn mark(&self, ix: NodeIx) -> Mark {
        let clocks = &self.nodes[ix as usize].clocks;
        let mark = clocks.mark(self.now);
        if self.broken == Some(ClusterRule::WallClock) {
            let wall = mark
                .boot_ns
                .saturating_add_signed(clocks.wall_ns - 1_699_999_000_000_000_000);
            return Mark {
                boot_ns: wall,
                raw_ns: wall,
            };
        }
        mark
    }

    pub(crate) fn process(&self, id: &InstanceId) -> Option<&Process> {
        self.instances.get(id)?.process.as_ref()
    }

    pub(crate) fn process_mut(&mut self, id: &InstanceId, run: RunId) -> Option<&mut Process> {
        let process = self.instances.get_mut(id)?.process.as_mut()?;
        (process.run == run).then_some(process)
    }

    /// Instances of a service, by number.
    pub(crate) fn of<'a>(&'a self, service: &'a ServiceName) -> impl Iterator<Item = (&'a InstanceId, &'a Inst)> {
        let first = InstanceId::new(service.clone(), 0);
        self.instances
            .range(first..)
            .take_while(move |(id, _)| id.service() == service)
    }

    /// Whether user code of an instance may run an instruction now.
    pub(crate) fn executes(&self, inst: &Inst) -> bool {
        let node = &self.nodes[inst.node as usize];
        node.up && !node.paused && inst.process.as_ref().is_some_and(|process| !process.frozen)
    }

    /// Whether user code of an instance may run on though it should not: its machine stood still, or its guard did and the agent, which acts
    /// in its place, was not there either; or both died together and nobody told the next guard what to keep. Traffic may not even then.
    pub(crate) fn is_excused(&self, id: &InstanceId, inst: &Inst) -> bool {
        let node = &self.nodes[inst.node as usize];
        let Some(process) = &inst.process else { return true };
        if !node.guard.works() {
            let agent = node.agent.as_ref().filter(|agent| node.guard.runs && !agent.stopped);
            let keeper = agent.and_then(|agent| agent.keeper.as_ref());
            let stood_in_for = keeper.is_some_and(|keeper| keeper.keeps(id, process.run));
            return self.now <= node.excused || !stood_in_for;
        }
        let known = process.acting.is_some_and(|acting| {
            let slot = SlotId {
                service: id.service().clone(),
                slot: acting.slot,
            };
            node.guard.member(&slot).is_some()
        });
        self.now <= node.excused || !known
    }

    /// Whether traffic of an instance goes through.
    pub(crate) fn gate_is_open(&self, id: &InstanceId, inst: &Inst) -> bool {
        let node = &self.nodes[inst.node as usize];
        let Some(process) = inst.process.as_ref().filter(|_| node.up) else {
            return false;
        };
        if !process.from.exclusive {
            return true;
        }
        let open =
            |until: &u64| self.broken == Some(ClusterRule::NoGuard) || node.clocks.mark(self.now).raw_ns < *until;
        node.gates.get(id).is_some_and(open)
    }

    pub(crate) fn observe(&mut self, moment: &Moment<'_>) {
        if self.violation.is_some() {
            return;
        }
        let mut invariants = std::mem::take(&mut self.invariants);
        if let Err((invariant, what)) = invariants.observe(self, moment) {
            self.violate(invariant, what);
        }
        self.invariants = invariants;
    }

    pub(crate) fn violate(&mut self, invariant: &'static str, what: String) {
        let at = self.now;
        let what = self.attribute(what);
        self.violation.get_or_insert(Violation { invariant, at, what });
    }

    pub(crate) fn say(&mut self, line: impl FnOnce() -> String) {
        const LINES: usize = 40_000;
        let now = self.now;
        if let Some(transcript) = &mut self.transcript {
            if transcript.len() >= LINES {
                transcript.pop_front();
            }
            transcript.push_back(format!("{:>11.6}s  {}", now.0 as f64 / 1e6, line()));
        }
    }

    pub(crate) fn count(&mut self, fault: ClusterFault) {
        *self.tally.faults.entry(fault).or_default() += 1;
    }

    pub(crate) fn history(&self, from: Revision, upto: Revision) -> Option<Vec<Rc<Changes>>> {
        self.server.model.changes(from, upto)
    }
}
