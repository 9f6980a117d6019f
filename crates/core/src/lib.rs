//! Decisions, pure: `(state, event, time) → (state, decisions)`.
//!
//! No clock, no I/O, no randomness of its own: the agent and the simulator run the same code. Three verbs serve it:
//! [`Core::handle`] takes an event in, [`Core::poll_decision`] gives what is to be done, [`Core::next_wakeup`] says when
//! to come back with [`Event::Tick`].
//!
//! ```text
//! instance   waiting ──▶ starting ──▶ running ──▶ stopping ──▶ waiting (back-off) … failed (given up, tried again later)
//!               │ cold: prepared ──▶ starting as active
//! slot       vacant ──▶ claiming ──▶ promoting ──▶ serving ──▶ releasing (old holder being fenced) ──▶ vacant
//! ```
//!
//! A reconciler looks at a whole service after each event and is safe to run twice; nothing is decided from the
//! event alone. Safety rules are those of the takeover protocol, section 7.1: an exclusive slot is claimed only when
//! nothing of its last holder runs, the claim with its new epoch is on disk before the promote hook runs, and the proxy
//! sends clients only after that.

mod action;
mod cluster;
mod event;
mod given_up;
mod instance;
mod park;
mod peers;
mod place;
mod reason;
mod reconcile;
mod scope;
mod service;
mod slot;
mod surplus;
mod view;

pub mod lease;
pub mod power;

pub use action::{Action, Begun, Decision, Note, NoteKind, Refusal, RouteTarget, SlotWrite, Takeover};
pub use event::{Adopted, Commit, Event, HookOutcome, ProbeOutcome, Recovered, SlotKnown};
pub use given_up::{GivenUp, Trial};
pub use park::{Parked, Paused};
pub use peers::{ClusterEvent, Condemn, NotPromoted, Report};
pub use place::Place;
pub use reason::Reason;
pub use reconcile::unhealthy_restart_after;
pub use scope::{Presence, Scope, Scoped, WHOLE_UP_TO};
pub use surplus::{Spare, first_to_go};
pub use view::{
    InstancePhase, InstanceView, NodeView, RolloutState, RolloutView, ServiceView, SlotPhase, SlotView, View,
};

use model::{Cluster, Epoch, InstanceId, NodeName, ServiceName, ServiceState, SlotId, Timestamp};
use service::{Service, Stood};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// What one agent decides for the nodes it stands for.
#[derive(Debug, Clone)]
pub struct Core {
    seed: u64,
    generation: u32,
    nodes: BTreeMap<NodeName, Node>,
    services: BTreeMap<ServiceName, Service>,
    /// What is known of services that are gone, for the day they come back.
    former: BTreeMap<ServiceName, Former>,
    /// How services stood when an earlier agent was last there.
    stood: BTreeMap<ServiceName, (ServiceState, Timestamp)>,
    timers: BTreeSet<(Timestamp, ServiceName)>,
    decisions: VecDeque<Decision>,
    attempts: u64,
    paused: Option<Paused>,
    /// Slots that the operator wants nobody to hold.
    parks: BTreeMap<SlotId, Parked>,
    /// Versions that were told as given up before the file that declares them.
    given_up_before: BTreeMap<ServiceName, GivenUp>,
    shutdown: Option<Timestamp>,
    shutdown_told: bool,
    /// In a cluster: us, and the others.
    peers: Option<peers::Peers>,
    /// News is taken in as a whole before anything is decided.
    held: Option<Held>,
    /// In a cluster: services whose instances may be other than what was told.
    touched: BTreeSet<ServiceName>,
    /// In a cluster: by what it is judged whose renewals we need.
    holders: scope::Holders,
}

/// What waits until all of the news is taken in.
#[derive(Debug, Clone, Default)]
struct Held {
    /// Services to be looked at.
    services: BTreeSet<ServiceName>,
    /// What others ask of us: that can be judged only when all else is known.
    asks: Vec<ClusterEvent>,
}

/// Numbers that only rise, also over the absence of a service.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Former {
    pub(crate) number: u32,
    pub(crate) epoch: Epoch,
    pub(crate) route_revision: u64,
}

/// A node this agent stands for.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) state: NodeState,
    pub(crate) since: Timestamp,
    pub(crate) because: Reason,
    /// In a cluster: the operator wants nothing to run there.
    pub(crate) drained: bool,
    pub(crate) place: Place,
}

/// Whether a node may run anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// Runs instances.
    Online,
    /// Runs none by the operator's wish.
    Drained,
    /// Lost.
    Offline,
}

/// What the reconciler of one service needs to know of the rest, and where its decisions go.
pub(crate) struct Context<'a> {
    pub(crate) now: Timestamp,
    pub(crate) seed: u64,
    pub(crate) generation: u32,
    pub(crate) nodes: &'a BTreeMap<NodeName, Node>,
    /// Instances on each node, of all services: for placement. Counted only when it is asked for, for that takes a look at all of them.
    pub(crate) load: Option<place::Loads>,
    pub(crate) attempts: &'a mut u64,
    pub(crate) out: &'a mut VecDeque<Decision>,
    pub(crate) paused: bool,
    pub(crate) parks: &'a BTreeMap<SlotId, Parked>,
    pub(crate) stopping: bool,
    /// Services that it needs and that are not up.
    pub(crate) missing: Option<ServiceName>,
    /// While everything stops: services that need this one still run.
    pub(crate) needed: bool,
    /// In a cluster: us, and the others.
    pub(crate) peers: Option<&'a peers::Peers>,
}

impl Context<'_> {
    pub(crate) fn decide(&mut self, action: Action, because: Reason) {
        self.out.push_back(Decision { action, because });
    }

    pub(crate) fn online(&self, node: &NodeName) -> bool {
        self.nodes.get(node).is_some_and(|node| node.state == NodeState::Online)
    }

    /// Whether we decide what exists where, and what is moved on.
    pub(crate) fn is_controller(&self) -> bool {
        self.peers
            .is_none_or(|peers| peers.controller && peers.session.is_some())
    }

    /// Whether we place and replace now: not while the store does not answer us, for what we know is old.
    pub(crate) fn places(&self) -> bool {
        self.is_controller() && self.peers.is_none_or(|peers| !peers.still)
    }

    /// Whether an instance there counts as one that is there: one on a lost node does for a while, for it may come back.
    pub(crate) fn counts(&self, node: &NodeName) -> bool {
        let comes_back = |node: &Node| {
            self.peers.is_some()
                && !node.drained
                && node.state == NodeState::Offline
                && self.now.since(node.since) < peers::LOST_GRACE
        };
        self.online(node) || self.nodes.get(node).is_some_and(comes_back)
    }

    /// Whether a node could take a slot now.
    pub(crate) fn can_act(&self, node: &NodeName) -> bool {
        self.online(node) && self.peers.is_none_or(|peers| peers.lives(node))
    }

    pub(crate) fn sites<'s>(&'s self, loads: &'s place::Loads) -> place::Sites<'s> {
        place::Sites {
            nodes: self.nodes,
            peers: self.peers,
            loads,
        }
    }

    pub(crate) fn next_attempt(&mut self) -> u64 {
        *self.attempts += 1;
        *self.attempts
    }
}

impl Core {
    /// A core that knows nothing yet. `seed` feeds the jitter of back-offs; `attempt` must be above every attempt number
    /// that an earlier life of this agent used (a start time in microseconds will do).
    pub fn new(seed: u64, attempt: u64, generation: u32, nodes: impl IntoIterator<Item = NodeName>) -> Self {
        let node = |name| {
            let fresh = Node {
                state: NodeState::Online,
                since: Timestamp(0),
                because: Reason::AgentStarted,
                drained: false,
                place: Place::default(),
            };
            (name, fresh)
        };
        Self {
            seed,
            generation,
            nodes: nodes.into_iter().map(node).collect(),
            services: BTreeMap::new(),
            former: BTreeMap::new(),
            stood: BTreeMap::new(),
            timers: BTreeSet::new(),
            decisions: VecDeque::new(),
            attempts: attempt,
            paused: None,
            parks: BTreeMap::new(),
            given_up_before: BTreeMap::new(),
            shutdown: None,
            shutdown_told: false,
            peers: None,
            held: None,
            touched: BTreeSet::new(),
            holders: scope::Holders::default(),
        }
    }

    /// Takes in one event.
    pub fn handle(&mut self, event: Event, now: Timestamp) {
        self.holders.other |= scope::may_change(&event);
        match event {
            Event::Tick => self.tick(now),
            Event::Recovered(recovered) => self.recover(recovered, now),
            Event::Applied(cluster) => self.apply(cluster, now),
            Event::Paused(paused) => {
                self.paused = paused;
                self.reconcile_all(now);
            }
            Event::Parked { slot, parked } => self.park(slot, parked, now),
            Event::GivenUp { service, given_up } => self.hear_given_up(&service, given_up, now),
            Event::Works => {
                for service in self.services.values_mut() {
                    service.worked = Some(Arc::clone(&service.declared));
                }
                self.reconcile_all(now);
            }
            Event::Shutdown => {
                self.shutdown.get_or_insert(now);
                self.paused = None;
                self.reconcile_all(now);
            }
            Event::Cluster(event) => self.hear_of_cluster(event, now),
            Event::NodeLost { node, because } => self.node(&node, NodeState::Offline, because, now),
            Event::NodeDrained { node } => self.node(&node, NodeState::Drained, Reason::DrainAsked, now),
            Event::NodeBack { node, because } => self.node(&node, NodeState::Online, because, now),
            Event::Probed {
                instance,
                outcome: ProbeOutcome::Fail(_),
                ..
            } if self.stands_still(&instance) => {}
            event => {
                let Some(name) = event.service().cloned() else {
                    return;
                };
                let Some(service) = self.services.get_mut(&name) else {
                    if let Event::Switchover { request, service, .. } = event {
                        let refusal = Refusal::UnknownService { service };
                        self.decisions.push_back(Decision::answer(request, Err(refusal)));
                    }
                    return;
                };
                if self.peers.is_some() {
                    self.touched.insert(name.clone());
                }
                let event = match service.aim(event, &self.nodes, now) {
                    Ok(event) => event,
                    Err((request, refusal)) => {
                        self.decisions.push_back(Decision::answer(request, Err(refusal)));
                        return;
                    }
                };
                if service.absorb(event, now, &mut self.decisions) {
                    self.reconcile(&name, now);
                }
            }
        }
        self.tell_shutdown();
    }

    /// What is handled from now on is one piece of news: nothing is decided before [`Core::all_heard`]. Half of what a store tells at
    /// once may never have been so: an instance gone, and the node of its replacement not yet drained.
    pub fn hear_on(&mut self) {
        self.held.get_or_insert_default();
    }

    /// All of it was handled: now it is judged.
    pub fn all_heard(&mut self, now: Timestamp) {
        let Some(held) = self.held.take() else { return };
        for name in held.services {
            self.reconcile(&name, now);
        }
        for ask in held.asks {
            self.hear_of_cluster(ask, now);
        }
        self.tell_shutdown();
    }

    /// Returns the next decision to carry out, if any.
    pub fn poll_decision(&mut self) -> Option<Decision> {
        self.decisions.pop_front()
    }

    /// Returns when to call `handle(Event::Tick, ..)` next.
    pub fn next_wakeup(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Whether everything runs as the file in force says and passes its checks.
    pub fn works(&self) -> bool {
        self.held.is_none() && self.services.values().all(|service| service.works)
    }

    fn tick(&mut self, now: Timestamp) {
        // Each service at most once per tick, so that a timer that stays due cannot keep us here.
        let due: BTreeSet<ServiceName> = self
            .timers
            .iter()
            .take_while(|(at, _)| *at <= now)
            .map(|(_, name)| name.clone())
            .collect();
        for name in due {
            self.reconcile(&name, now);
        }
    }

    fn apply(&mut self, cluster: Cluster, now: Timestamp) {
        for (name, service) in self.services.iter_mut() {
            let declared = cluster.services.get(name);
            service.other_file(declared.is_some_and(|declared| *declared == *service.declared));
            if declared.is_none() {
                service.remove();
            }
        }
        for (name, declared) in cluster.services {
            match self.services.get_mut(&name) {
                Some(service) => service.redeclare(declared, now),
                None => {
                    let me = self.peers.as_ref().map(|peers| peers.me.clone());
                    let mut service = Service::new(name.clone(), declared, now).seen_from(me);
                    service.go_on_from(self.former.remove(&name).unwrap_or_default());
                    self.services.insert(name, service);
                }
            }
        }
        self.reconcile_all(now);
    }

    /// Takes in how services stood when an earlier agent was last there, and since when: what is the same when all was looked at again is
    /// no news. To be told before [`Event::Recovered`].
    pub fn stood(&mut self, states: BTreeMap<ServiceName, (ServiceState, Timestamp)>) {
        self.stood = states;
    }

    /// Whether all that an earlier agent left running was looked at since.
    pub fn is_sure(&self) -> bool {
        self.services
            .values()
            .all(|service| service.stood.is_none() && service.unchecked() == 0)
    }

    fn recover(&mut self, recovered: Recovered, now: Timestamp) {
        for node in self
            .nodes
            .values_mut()
            .filter(|node| node.because == Reason::AgentStarted)
        {
            node.since = now;
        }
        let me = self.peers.as_ref().map(|peers| peers.me.clone());
        let mut worked = recovered.worked.map(|worked| worked.services).unwrap_or_default();
        for (name, declared) in recovered.cluster.services {
            let mut service = Service::new(name.clone(), declared, now).seen_from(me.clone());
            service.worked = worked.remove(&name).map(Arc::new);
            let stood = self.stood.remove(&name);
            service.stood = stood.map(|(state, since)| Stood::before(state, since, now));
            self.services.insert(name, service);
        }
        let of_slots = recovered
            .slots
            .iter()
            .filter(|slot| slot.held)
            .map(|slot| &slot.slot.service);
        let of_instances = recovered.instances.iter().map(|adopted| adopted.instance.service());
        let of_routes = recovered.routes.iter().map(|(name, _)| name);
        for name in of_slots.chain(of_instances).chain(of_routes) {
            let left_over = || Service::left_over(name.clone(), now).seen_from(me.clone());
            self.services.entry(name.clone()).or_insert_with(left_over);
        }
        for slot in recovered.slots {
            match self.services.get_mut(&slot.slot.service) {
                Some(service) => service.recover_slot(slot, now),
                None => {
                    let former = self.former.entry(slot.slot.service).or_default();
                    former.epoch = former.epoch.max(slot.epoch);
                }
            }
        }
        for (name, number) in recovered.numbers {
            match self.services.get_mut(&name) {
                Some(service) => service.numbers_used(number),
                None => self.former.entry(name).or_default().number = number,
            }
        }
        for adopted in recovered.instances {
            if let Some(service) = self.services.get_mut(adopted.instance.service()) {
                service.recover_instance(adopted, now);
            }
        }
        for (name, revision) in recovered.routes {
            if let Some(service) = self.services.get_mut(&name) {
                service.route_known(revision);
            }
        }
        for (name, given_up) in std::mem::take(&mut self.given_up_before) {
            if let Some(service) = self.services.get_mut(&name) {
                service.recover_given_up(given_up, now);
            }
        }
        self.hear_on();
        for event in recovered.elsewhere {
            self.hear_of_cluster(event, now);
        }
        let asks = self.held.take().map(|held| held.asks).unwrap_or_default();
        if self.peers.as_ref().is_some_and(|peers| peers.session.is_none()) {
            // Whatever acted under an earlier session may be replaced elsewhere by now.
            for service in self.services.values_mut() {
                service.fence(now, &mut self.decisions);
            }
        }
        for service in self.services.values_mut() {
            service.end_strays(now, &mut self.decisions);
        }
        self.reconcile_all(now);
        for ask in asks {
            self.hear_of_cluster(ask, now);
        }
    }

    fn node(&mut self, name: &NodeName, state: NodeState, because: Reason, now: Timestamp) {
        let Some(node) = self.nodes.get_mut(name) else {
            return;
        };
        if self.peers.is_some() {
            node.drained = state == NodeState::Drained;
            self.judge_node(name, because, now);
            self.reconcile_all(now);
            return;
        }
        if node.state == state {
            return;
        }
        node.state = state;
        node.since = now;
        node.because = because.clone();
        let kind = match state {
            NodeState::Online => NoteKind::NodeBack,
            NodeState::Drained => NoteKind::NodeDrained,
            NodeState::Offline => NoteKind::NodeLost,
        };
        self.decisions
            .push_back(Decision::note(Note::about_node(kind, name.clone()), because));
        self.reconcile_all(now);
    }

    fn reconcile_all(&mut self, now: Timestamp) {
        let names: Vec<ServiceName> = self.services.keys().cloned().collect();
        for name in names {
            self.reconcile(&name, now);
        }
    }

    /// Looks at what the life of a node matters for: all that is there, or is being handed over. The controller looks at everything, for it
    /// places what is missing.
    fn reconcile_of(&mut self, node: &NodeName, now: Timestamp) {
        if self.peers.as_ref().is_none_or(|peers| peers.controller) {
            return self.reconcile_all(now);
        }
        let concerned = self.services.values().filter(|service| service.concerns(node));
        let names: Vec<ServiceName> = concerned.map(|service| service.name.clone()).collect();
        for name in names {
            self.reconcile(&name, now);
        }
    }

    /// Reconciles a service, and those that depend on it if that changed whether it is up (or gone).
    fn reconcile(&mut self, name: &ServiceName, now: Timestamp) {
        if let Some(held) = &mut self.held {
            if self.services.contains_key(name) {
                held.services.insert(name.clone());
            }
            return;
        }
        let mut todo = VecDeque::from([name.clone()]);
        // Needs form no cycle, so each change of "up" travels down the graph at most once per service and edge.
        let mut wants_load = false;
        let mut bound = (self.services.len() + 1).saturating_mul(self.services.len() + 1);
        while let Some(name) = todo.pop_front() {
            if self.peers.is_some() {
                self.touched.insert(name.clone());
                self.holders.touched.insert(name.clone());
            }
            bound = match bound.checked_sub(1) {
                Some(left) => left,
                None => return,
            };
            let missing = self.missing_need(&name);
            // Who needs it matters only while everything stops.
            let needed = self.shutdown.is_some() && self.is_needed(&name);
            let wants = std::mem::take(&mut wants_load);
            let load = (self.peers.is_none() || wants).then(|| self.loads());
            let Some(service) = self.services.get_mut(&name) else {
                continue;
            };
            let before = (service.is_up(), service.told_empty);
            let old_timer = service.wakeup;
            let mut context = Context {
                now,
                seed: self.seed,
                generation: self.generation,
                nodes: &self.nodes,
                load,
                attempts: &mut self.attempts,
                out: &mut self.decisions,
                paused: self.paused.is_some(),
                parks: &self.parks,
                stopping: self.shutdown.is_some(),
                missing,
                needed,
                peers: self.peers.as_ref(),
            };
            service.withdraw(now, context.out);
            service.reconcile(&mut context);
            if std::mem::take(&mut service.wants_load) {
                wants_load = true;
                todo.push_front(name.clone());
            }
            let after = (service.is_up(), service.is_empty());
            service.told_empty = after.1;
            let timer = service.wakeup;
            let needs: Vec<ServiceName> = service.declared.needs.iter().cloned().collect();
            let finished = service.is_finished();
            if let Some(old) = old_timer {
                self.timers.remove(&(old, name.clone()));
            }
            if finished {
                if let Some(service) = self.services.remove(&name) {
                    self.former.insert(name.clone(), service.former());
                }
                self.decisions.push_back(Decision::note(
                    Note::about_service(NoteKind::ServiceRemoved, name.clone()),
                    Reason::NotDeclared,
                ));
            } else if let Some(timer) = timer {
                self.timers.insert((timer, name.clone()));
            }
            if before.0 != after.0 {
                todo.extend(
                    self.services
                        .iter()
                        .filter(|(_, s)| s.declared.needs.contains(&name))
                        .map(|(n, _)| n.clone()),
                );
            }
            if before.1 != after.1 && self.shutdown.is_some() {
                todo.extend(needs);
            }
        }
    }

    fn missing_need(&self, name: &ServiceName) -> Option<ServiceName> {
        let service = self.services.get(name)?;
        service
            .declared
            .needs
            .iter()
            .find(|need| self.services.get(*need).is_some_and(|s| !s.is_up()))
            .cloned()
    }

    fn is_needed(&self, name: &ServiceName) -> bool {
        self.services
            .values()
            .any(|other| other.name != *name && other.declared.needs.contains(name) && !other.is_empty())
    }

    fn tell_shutdown(&mut self) {
        if self.shutdown.is_some() && !self.shutdown_told && self.services.values().all(Service::is_stopped) {
            self.shutdown_told = true;
            self.decisions.push_back(Decision {
                action: Action::AllStopped,
                because: Reason::DownAsked,
            });
        }
    }
}

/// The epoch that follows the last one in this generation of the store.
pub(crate) fn epoch_after(last: Epoch, generation: u32) -> Epoch {
    last.max(Epoch::first_of(generation)).next()
}

/// A number in 0..bound that depends only on its inputs: jitter that a replay repeats.
pub(crate) fn jitter(seed: u64, instance: &InstanceId, salt: u64, bound: u64) -> u64 {
    if bound == 0 {
        return 0;
    }
    let mut hash = seed ^ 0x9e37_79b9_7f4a_7c15;
    let parts = instance
        .service()
        .as_str()
        .bytes()
        .map(u64::from)
        .chain([u64::from(instance.number()), salt]);
    for part in parts {
        // splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
        hash = hash.wrapping_add(part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^= hash >> 31;
    }
    hash % bound
}
