//! A node's agent: its core, its session thread, and how it asks the store.

use super::machine::Prober;
use super::records::{self, Ask, Changes, Compare, Entry, Key, NodeIx, Op, Outcome, Txn, Value};
use super::sabotage::ClusterRule;
use super::session::{Keeper, News, Order};
use super::wire::{Ask as Asked, Reply};
use super::world::{Due, World};
use decisions::lease::Observer;
use decisions::{Action, Commit, Core, Decision, Event, Presence, Report, Scoped, SlotKnown, SlotWrite};
use model::{Epoch, InstanceId, Mark, NodeName, Revision, Role, RunId, SlotId, Timestamp};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// From something that happens to the agent's hearing of it.
const TELL_US: u64 = 50;
const SPAWN_US: u64 = 2_000;
const ROUTE_US: u64 = 300;
/// Any call but those of the session.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// As in the agent: a write whose outcome is unknown is asked for again, this often.
const UNKNOWN_RETRY: Duration = Duration::from_millis(50);
const UNKNOWN_RETRIES: u32 = 40;
const PUBLISH_RETRY: Duration = Duration::from_millis(100);
pub(crate) const RELIST: Duration = Duration::from_millis(200);

/// Something for the agent to attend to.
#[derive(Debug)]
pub(crate) enum Task {
    Core(Box<Event>),
    Wake(Timestamp),
    /// Of the session thread.
    SessionWake(Timestamp),
    Order(Order),
    News(News),
    Health {
        ok: bool,
        at: Mark,
    },
    DiskProbe(Option<Mark>),
    Guard(super::session::Fenced),
    GuardSays(decisions::lease::GuardEvent),
    GuardLost,
    WatchWake(Timestamp),
    Beat,
    Answer(u64, Reply),
    NoAnswer(u64),
    Again(Box<Purpose>),
    WatchStalls(u32),
    /// Of those who watch: they look whose renewals are to be told.
    ScopeLook,
    RenewalsStall {
        of: NodeIx,
        stream: u32,
    },
    ReadRenewals {
        of: NodeIx,
        stream: u32,
    },
    List,
    Condemn(NodeIx),
    Publish,
    SessionWaitOver,
    Probe {
        instance: InstanceId,
        run: RunId,
        standby: bool,
        prober: Prober,
    },
    ProbeTimeout {
        instance: InstanceId,
        run: RunId,
        standby: bool,
        prober: Prober,
    },
    Spawn {
        instance: InstanceId,
        run: RunId,
        active_at: Option<(SlotId, Epoch)>,
        earlier: Option<std::sync::Arc<model::Service>>,
    },
    Prepare(InstanceId),
    Escalate {
        instance: InstanceId,
        run: RunId,
    },
}

/// What a call to the store is for.
#[derive(Debug)]
pub(crate) enum Purpose {
    Open {
        attempt: u64,
    },
    Renew {
        attempt: u64,
        session: Revision,
        sent: Mark,
    },
    Probe,
    Slot {
        write: Box<SlotWrite>,
        txn: Rc<Txn>,
        tries: u32,
    },
    /// That an instance shall exist, written until it is answered.
    Create {
        instance: InstanceId,
        txn: Rc<Txn>,
        tries: u32,
    },
    /// Written until it is answered.
    Until {
        txn: Rc<Txn>,
        tries: u32,
    },
    RetireRead {
        instance: InstanceId,
        node: NodeIx,
        terms: Txn,
    },
    ForgetRead {
        instance: InstanceId,
        theirs: bool,
        judged_by: Vec<(SlotId, Revision)>,
    },
    /// Nobody waits for it.
    Loose,
    Publish {
        session: Revision,
        told: Vec<(InstanceId, Report)>,
    },
    List {
        first: bool,
    },
    /// What a watch of one session begins with.
    Renewals {
        of: NodeIx,
        stream: u32,
    },
}

/// What the mirror of the store has.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pub(crate) open: Option<u32>,
    pub(crate) next: Revision,
    pub(crate) stalled: bool,
    pub(crate) last_at: Timestamp,
    /// Of one that leaves renewals out: what the store has sent, and has not arrived.
    pub(crate) sent: VecDeque<Rc<Changes>>,
    /// Of very many nodes: something is on its way.
    pub(crate) under_way: bool,
}

/// Where an agent that comes up stands.
#[derive(Debug)]
pub(crate) enum Phase {
    /// It waits for the store.
    Connecting,
    /// It has read everything, and waits whether an earlier session goes on.
    Waiting {
        entries: Rc<Vec<Entry>>,
        from: Revision,
        stash: Vec<Task>,
    },
    Up,
}

/// A session as it was seen last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) id: Revision,
    pub(crate) modified: Revision,
    pub(crate) record: records::Session,
}

/// The main loop's part that is about the others.
#[derive(Debug)]
pub(crate) struct Clustered {
    pub(crate) observer: Observer,
    /// Whose renewals are told, and of which controller that was judged.
    pub(crate) scoped: Scoped,
    pub(crate) scoped_for: (Option<NodeIx>, bool),
    /// As in the agent: whether all that have a session say so.
    pub(crate) presence: Presence,
    pub(crate) presence_written: Option<Timestamp>,
    /// As in the agent: renewals of sessions that are not said to be there yet.
    pub(crate) early: BTreeMap<NodeIx, Entry>,
    pub(crate) look_at: Option<Mark>,
    pub(crate) session: Option<Revision>,
    pub(crate) sessions: BTreeMap<NodeIx, Seen>,
    pub(crate) expired: BTreeSet<NodeIx>,
    pub(crate) members: BTreeSet<NodeIx>,
    pub(crate) drained: BTreeSet<NodeIx>,
    pub(crate) rebalancing: BTreeSet<model::ServiceName>,
    pub(crate) parks: BTreeSet<SlotId>,
    pub(crate) given_up: BTreeMap<(u64, model::ServiceName), Entry>,
    /// When an instance of a service came or went last.
    pub(crate) counted: BTreeMap<model::ServiceName, Revision>,
    pub(crate) paused: bool,
    pub(crate) lives: BTreeMap<InstanceId, Report>,
    pub(crate) assigned: BTreeMap<InstanceId, (NodeIx, bool)>,
    pub(crate) published: BTreeMap<InstanceId, Report>,
    pub(crate) controller: Option<(NodeIx, Revision, Revision)>,
    pub(crate) elect_at: Option<Timestamp>,
    /// As in the agent: by a record as old as this we are not the controller.
    pub(crate) elected_before: Revision,
    pub(crate) frozen: bool,
    pub(crate) taken: Option<Seen>,
    pub(crate) told_fast: Option<bool>,
    pub(crate) told_empty: Option<bool>,
    pub(crate) next_ask: u64,
    /// The publisher: under which session, what waits, and whether a write is under way.
    pub(crate) publish_session: Option<Revision>,
    pub(crate) waiting: BTreeMap<InstanceId, Report>,
    pub(crate) publishing: bool,
    /// When what we told was written last, as far as we know, and what the store was then seen to say of it.
    pub(crate) written_at: BTreeMap<InstanceId, Revision>,
    pub(crate) own: BTreeMap<InstanceId, (Revision, Report)>,
}

#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) life: u32,
    pub(crate) stopped: bool,
    pub(crate) deferred: Vec<Due>,
    pub(crate) core: Option<Core>,
    pub(crate) phase: Phase,
    pub(crate) keeper: Option<Keeper>,
    pub(crate) clustered: Clustered,
    /// Of everything, or of what comes before the sessions.
    pub(crate) watch: Watch,
    /// Of what comes after them, if renewals are told apart.
    pub(crate) second: Watch,
    pub(crate) streams: u32,
    /// By which change of the scope these were opened, or are about to be, and whether they leave renewals out.
    pub(crate) opened: u64,
    pub(crate) in_parts: bool,
    /// Those who watch are about to look at the scope.
    pub(crate) scope_looked_at: bool,
    pub(crate) renewals: BTreeMap<NodeIx, super::scope::Renewals>,
    pub(crate) calls: BTreeMap<u64, Purpose>,
    pub(crate) next_call: u64,
    pub(crate) last_told: Timestamp,
    wakes: Option<Timestamp>,
    /// It dies when it has carried out so many more decisions.
    pub(crate) dies_after: Option<u32>,
}

impl Agent {
    pub(crate) fn close_watches(&mut self) {
        for watch in [&mut self.watch, &mut self.second] {
            watch.open = None;
            watch.stalled = false;
            watch.sent.clear();
            watch.under_way = false;
        }
    }
}

impl World {
    pub(crate) fn agent_starts(&mut self, ix: NodeIx) {
        if self.node(ix).agent.is_some() {
            return;
        }
        let now = self.mark(ix);
        let node = self.node_mut(ix);
        node.agents += 1;
        let life = node.agents;
        let timing = self.timing;
        let clustered = Clustered {
            observer: Observer::new(timing),
            scoped: Scoped::default(),
            scoped_for: (None, true),
            presence: Presence::default(),
            presence_written: None,
            early: BTreeMap::new(),
            look_at: None,
            session: None,
            sessions: BTreeMap::new(),
            expired: BTreeSet::new(),
            members: BTreeSet::new(),
            drained: BTreeSet::new(),
            rebalancing: BTreeSet::new(),
            parks: BTreeSet::new(),
            given_up: BTreeMap::new(),
            counted: BTreeMap::new(),
            paused: false,
            lives: BTreeMap::new(),
            assigned: BTreeMap::new(),
            published: BTreeMap::new(),
            controller: None,
            elect_at: None,
            elected_before: Revision(0),
            frozen: false,
            taken: None,
            told_fast: None,
            told_empty: None,
            next_ask: now.boot_ns,
            publish_session: None,
            waiting: BTreeMap::new(),
            publishing: false,
            written_at: BTreeMap::new(),
            own: BTreeMap::new(),
        };
        self.node_mut(ix).agent = Some(Box::new(Agent {
            life,
            stopped: false,
            deferred: Vec::new(),
            core: None,
            phase: Phase::Connecting,
            keeper: None,
            clustered,
            watch: Watch::default(),
            second: Watch::default(),
            streams: 0,
            opened: 0,
            in_parts: false,
            scope_looked_at: false,
            renewals: BTreeMap::new(),
            calls: BTreeMap::new(),
            next_call: 0,
            last_told: Timestamp(0),
            wakes: None,
            dies_after: None,
        }));
        self.say(|| format!("n{ix:04}  its agent starts"));
        self.call(ix, Purpose::List { first: true }, Asked::List, CALL_TIMEOUT);
    }

    pub(crate) fn agent(&mut self, ix: NodeIx) -> Option<&mut Agent> {
        self.nodes[ix as usize].agent.as_deref_mut()
    }

    pub(crate) fn agent_task(&mut self, ix: NodeIx, life: u32, task: Task) {
        let Some(agent) = self.agent(ix) else { return };
        if agent.life != life {
            return;
        }
        if agent.stopped {
            agent.deferred.push(Due::Agent { node: ix, life, task });
            return;
        }
        self.attend(ix, task);
        self.settle(ix);
    }

    /// Lets a node's agent know, soon. What is told first arrives first.
    pub(crate) fn tell(&mut self, ix: NodeIx, event: Event) {
        let at = self.now + self.pace.span(TELL_US);
        let Some(agent) = self.agent(ix) else { return };
        let at = at.max(agent.last_told);
        agent.last_told = at;
        let life = agent.life;
        let task = Task::Core(Box::new(event));
        self.plan_at(at, Due::Agent { node: ix, life, task });
    }

    pub(crate) fn plan_task(&mut self, ix: NodeIx, after: Duration, task: Task) {
        let Some(life) = self.agent(ix).map(|agent| agent.life) else {
            return;
        };
        self.plan(after, Due::Agent { node: ix, life, task });
    }

    fn attend(&mut self, ix: NodeIx, task: Task) {
        // Until it is up, the main loop takes nothing in.
        let main = matches!(task, Task::Core(_) | Task::News(_) | Task::Wake(_) | Task::Condemn(_));
        if main
            && let Some(agent) = self.agent(ix)
            && let Phase::Waiting { stash, .. } = &mut agent.phase
        {
            let decides = match &task {
                Task::News(News::Renewed { session, .. }) => Some(Some(*session)),
                Task::News(News::Lost { .. }) => Some(None),
                _ => None,
            };
            stash.push(task);
            if let Some(session) = decides {
                self.comes_up(ix, session);
            }
            return;
        }
        match task {
            Task::Core(event) => self.deliver(ix, *event),
            Task::Wake(at) => {
                if self.agent(ix).is_some_and(|agent| agent.wakes == Some(at)) {
                    if let Some(agent) = self.agent(ix) {
                        agent.wakes = None;
                    }
                    self.main_tick(ix);
                }
            }
            Task::SessionWake(at) => self.session_wakes(ix, at),
            Task::Order(order) => self.session_order(ix, order),
            Task::News(news) => {
                self.hear_session(ix, news);
                // A write of ours that succeeded may be the evidence that was missing.
                self.look_at_sessions(ix);
            }
            Task::Health { ok, at } => self.session_health(ix, ok, at),
            Task::DiskProbe(began) => self.disk_probe(ix, began),
            Task::Guard(fenced) => self.hear_fence(ix, fenced),
            Task::GuardSays(event) => self.watch_tell(ix, event),
            Task::GuardLost => self.fence_lost(ix),
            Task::WatchWake(at) => self.watch_wakes(ix, at),
            Task::Beat => self.beat(ix),
            Task::Answer(call, reply) => {
                let purpose = self.agent(ix).and_then(|agent| agent.calls.remove(&call));
                if let Some(purpose) = purpose {
                    self.answered(ix, purpose, reply);
                }
            }
            Task::NoAnswer(call) => {
                let purpose = self.agent(ix).and_then(|agent| agent.calls.remove(&call));
                if let Some(purpose) = purpose {
                    self.unanswered(ix, purpose);
                }
            }
            Task::Again(purpose) => match *purpose {
                Purpose::Slot { write, txn, tries } => {
                    let ask = Asked::Txn(Rc::clone(&txn));
                    self.call(ix, Purpose::Slot { write, txn, tries }, ask, CALL_TIMEOUT);
                }
                Purpose::Create { instance, txn, tries } => {
                    let ask = Asked::Txn(Rc::clone(&txn));
                    self.call(ix, Purpose::Create { instance, txn, tries }, ask, CALL_TIMEOUT);
                }
                Purpose::Until { txn, tries } => {
                    let ask = Asked::Txn(Rc::clone(&txn));
                    self.call(ix, Purpose::Until { txn, tries }, ask, CALL_TIMEOUT);
                }
                _ => {}
            },
            Task::WatchStalls(stream) => {
                let cut = self.net.from_store[ix as usize] > 0;
                let stalls = |watch: &Watch| watch.open == Some(stream) && watch.stalled;
                if self
                    .agent(ix)
                    .is_some_and(|agent| stalls(&agent.watch) || stalls(&agent.second))
                {
                    if !cut && self.rng.bool() {
                        // What was kept comes after all.
                        let upto = self.server.model.revision();
                        let life = self.agent(ix).map_or(0, |agent| agent.life);
                        self.watch_arrives(ix, life, stream, upto);
                    } else {
                        self.watch_lost(ix, "nothing is heard of the store");
                    }
                }
            }
            Task::RenewalsStall { of, stream } => self.renewals_stall(ix, of, stream),
            Task::ReadRenewals { of, stream } => self.read_renewals(ix, of, stream),
            Task::List => self.list(ix),
            Task::ScopeLook => self.look_at_scope(ix),
            Task::Condemn(node) => self.condemn(ix, node),
            Task::Publish => self.publish(ix),
            Task::SessionWaitOver => {
                if self
                    .agent(ix)
                    .is_some_and(|agent| matches!(agent.phase, Phase::Waiting { .. }))
                {
                    self.comes_up(ix, None);
                }
            }
            Task::Probe {
                instance,
                run,
                standby,
                prober,
            } => self.probe(ix, instance, run, standby, prober),
            Task::ProbeTimeout {
                instance,
                run,
                standby,
                prober,
            } => self.probe_timeout(ix, instance, run, standby, prober),
            Task::Spawn {
                instance,
                run,
                active_at,
                earlier,
            } => self.spawn(ix, &instance, run, active_at, earlier),
            Task::Prepare(instance) => self.prepare(ix, instance),
            Task::Escalate { instance, run } => self.kill_tree(&instance, run),
        }
    }

    /// The core hears of something.
    pub(crate) fn deliver(&mut self, ix: NodeIx, event: Event) {
        if let Event::Started { instance, run } = &event {
            self.begin_probing(ix, instance, *run);
        }
        if let Event::Gone { instance, run } = &event {
            self.executor_gone(ix, instance, *run);
        }
        self.note_evidence(ix, &event);
        self.handle(ix, event);
    }

    pub(crate) fn handle(&mut self, ix: NodeIx, event: Event) {
        let now = self.node(ix).clocks.decisions(self.now);
        if self.events && !matches!(event, Event::Tick | Event::Probed { .. }) {
            self.say(|| format!("n{ix:04}    hears {event:?}"));
        }
        self.tally.events += 1;
        let began = self.timed.then(std::time::Instant::now);
        if let Some(core) = self.agent(ix).and_then(|agent| agent.core.as_mut()) {
            core.handle(event, now);
        }
        if let Some(began) = began {
            let took = began.elapsed();
            self.tally.busy += took;
            self.node_mut(ix).busy += took;
        }
    }

    /// After each input: what was decided is carried out, others are told, and the next wake-up is planned.
    pub(crate) fn settle(&mut self, ix: NodeIx) {
        if self.agent(ix).is_none_or(|agent| agent.core.is_none()) {
            return;
        }
        while let Some(decision) = self.agent(ix).and_then(|agent| agent.core.as_mut()?.poll_decision()) {
            self.tally.decisions += 1;
            self.observe(&super::invariants::Moment::Decided(ix, &decision));
            if self.transcript.is_some() && !matches!(decision.action, Action::ProbeNow { .. }) {
                self.say(|| format!("n{ix:04}  {:?}  because {}", decision.action, decision.because));
            }
            self.carry_out(ix, decision);
            if self.violation.is_some() {
                return;
            }
            let Some(agent) = self.agent(ix) else { return };
            if let Some(left) = &mut agent.dies_after {
                if *left == 0 {
                    self.agent_dies(ix);
                    return;
                }
                *left -= 1;
            }
        }
        self.tell_others(ix);
        self.tell_of_those_of_before(ix);
        self.rescope(ix);
        self.plan_wake(ix);
    }

    fn plan_wake(&mut self, ix: NodeIx) {
        let node = self.node(ix);
        let Some(agent) = node.agent.as_deref() else { return };
        let core = agent.core.as_ref().and_then(Core::next_wakeup);
        let until = |at| node.clocks.until_decisions(self.now, at);
        let decides = core.into_iter().chain(agent.clustered.elect_at).min().map(until);
        let mark = self.mark(ix);
        let looks = agent.clustered.look_at.map(|at| {
            let left_ns = at.boot_ns.saturating_sub(mark.boot_ns);
            node.clocks.really(Duration::from_nanos(left_ns)) + Duration::from_micros(2)
        });
        let Some(wait) = decides.into_iter().chain(looks).min() else {
            return;
        };
        // Timers count whole milliseconds.
        let wait = wait.max(Duration::from_micros(100));
        let at = self.now + wait;
        if agent.wakes.is_some_and(|planned| planned <= at) {
            return;
        }
        if let Some(agent) = self.agent(ix) {
            agent.wakes = Some(at);
        }
        self.plan_task(ix, wait, Task::Wake(at));
    }

    fn main_tick(&mut self, ix: NodeIx) {
        self.look_at_sessions(ix);
        self.consider_election(ix);
        self.stand_for_election(ix);
        self.handle(ix, Event::Tick);
    }

    pub(crate) fn watch_lost(&mut self, ix: NodeIx, why: &'static str) {
        let Some(agent) = self.agent(ix) else { return };
        agent.close_watches();
        agent.clustered.scoped.lost(&mut agent.clustered.observer);
        self.say(|| format!("n{ix:04}  lost its watch: {why}"));
        self.renewals_lost(ix);
        self.plan_task(ix, RELIST, Task::List);
    }

    fn listed(&mut self, ix: NodeIx, first: bool, entries: Rc<Vec<Entry>>, revision: Revision) {
        if !first {
            let opened = self.agent(ix).map_or(0, |agent| agent.opened);
            self.hear_all(ix, opened, &entries);
            self.open_watch(ix, revision);
            return;
        }
        self.session_starts(ix);
        let noted = self.node(ix).noted;
        let wait = (self.timing.soft_deadline.duration() * 2).max(Duration::from_secs(2));
        let Some(agent) = self.agent(ix) else { return };
        agent.phase = Phase::Waiting {
            entries,
            from: revision,
            stash: Vec::new(),
        };
        if noted.is_some() {
            self.plan_task(ix, wait, Task::SessionWaitOver);
        } else {
            self.comes_up(ix, None);
        }
    }

    fn open_watch(&mut self, ix: NodeIx, revision: Revision) {
        let upto = self.server.model.revision();
        if self.is_of_another_scope(ix) {
            // It changed since that was listed.
            return self.list(ix);
        }
        let Some(agent) = self.agent(ix) else { return };
        if agent.in_parts {
            return self.open_parts(ix, revision);
        }
        agent.streams += 1;
        agent.watch.next = Revision(revision.0 + 1);
        agent.watch.stalled = false;
        let stream = agent.streams;
        agent.watch.open = Some(stream);
        let life = agent.life;
        // What happened since the list.
        if upto > revision {
            let travel = self.travel(ix);
            let at = self.now + travel;
            if let Some(agent) = self.agent(ix) {
                agent.watch.last_at = at;
            }
            self.plan_at(
                at,
                Due::Watch {
                    node: ix,
                    life,
                    stream,
                    upto,
                },
            );
        }
    }

    /// It is clear whether an earlier session goes on: decisions begin.
    fn comes_up(&mut self, ix: NodeIx, session: Option<Revision>) {
        let Some(agent) = self.agent(ix) else { return };
        let Phase::Waiting { entries, from, stash } = std::mem::replace(&mut agent.phase, Phase::Up) else {
            return;
        };
        agent.clustered.session = session;
        let elected = entries.iter().find(|entry| entry.key == Key::Controller);
        agent.clustered.elected_before = elected.map_or(Revision(0), |entry| entry.modified);
        let life = agent.life;
        let recovered = self.recovered(ix, &entries);
        let wall_us = (self.mark(ix).boot_ns / 1_000).wrapping_add_signed(self.node(ix).clocks.wall_ns / 1_000);
        let machine = (u64::from(ix) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let attempt = wall_us.wrapping_mul(64) ^ machine;
        let me = self.node(ix).name.clone();
        let stagger = self.timing.rank_stagger.duration();
        let core = Core::clustered(self.seed, attempt, 0, me, stagger);
        if let Some(agent) = self.agent(ix) {
            agent.core = Some(core);
        }
        self.handle(ix, Event::Cluster(decisions::ClusterEvent::OwnSession(session)));
        for entry in entries.iter() {
            match &entry.key {
                Key::Drained(node) => {
                    let node = self.node(*node).name.clone();
                    self.handle(ix, Event::NodeDrained { node });
                }
                Key::Paused => self.pause_seen(ix, true),
                Key::Park(slot) => self.park_seen(ix, slot, true),
                Key::GivenUp(..) => self.given_up_seen(ix, entry),
                _ => {}
            }
        }
        let running = self.adopted_processes(ix);
        self.handle(ix, Event::Recovered(recovered));
        for (instance, run, main) in running {
            if main {
                self.begin_probing(ix, &instance, run);
            } else {
                let how = "it ended while no agent ran".into();
                self.tell(ix, Event::Exited { instance, run, how });
            }
        }
        let services: Vec<_> = self.cluster_for(ix).services.into_keys().collect();
        for service in services {
            let revision = self.node(ix).routes.get(&service).map_or(0, |route| route.revision);
            self.handle(ix, Event::ProxyReset { service, revision });
        }
        if let Some(agent) = self.agent(ix) {
            agent.clustered.publish_session = session;
        }
        self.hear_all(ix, Scoped::default().opened(), &entries);
        if let Some(core) = self.agent(ix).and_then(|agent| agent.core.as_mut()) {
            core.tell_all();
        }
        // What came first is taken in first: it must not come after what came since.
        for task in stash {
            if self.agent(ix).is_some_and(|agent| agent.life == life) {
                self.attend(ix, task);
            }
        }
        self.rescope(ix);
        self.open_watch(ix, from);
    }

    fn answered(&mut self, ix: NodeIx, purpose: Purpose, reply: Reply) {
        match (purpose, reply) {
            (Purpose::List { first }, Reply::List(entries, revision)) => self.listed(ix, first, entries, revision),
            (Purpose::Renewals { of, stream }, Reply::Txn(outcome)) => self.renewals_read(ix, of, stream, &outcome),
            (Purpose::Open { attempt }, Reply::Txn(outcome)) => self.session_opened(ix, attempt, &outcome),
            (Purpose::Renew { attempt, session, sent }, Reply::Txn(outcome)) => {
                self.session_renewed(ix, attempt, session, sent, &outcome);
            }
            (Purpose::Probe, _) => self.session_probed(ix, true),
            (Purpose::Slot { write, .. }, Reply::Txn(outcome)) => {
                let result = commit_of(&write, &outcome);
                let (slot, attempt) = (write.slot, write.attempt);
                self.tell(ix, Event::Committed { slot, attempt, result });
            }
            // It was there, and is gone for good.
            (Purpose::Create { instance, .. }, Reply::Txn(outcome))
                if !outcome.succeeded && matches!(outcome.reads.as_slice(), [None, Some(_)]) =>
            {
                self.tell(ix, Event::Cluster(decisions::ClusterEvent::Unassigned { instance }));
            }
            (Purpose::RetireRead { instance, node, terms }, Reply::Txn(outcome)) => {
                let Some(Some(entry)) = outcome.reads.into_iter().next() else {
                    return;
                };
                let Value::Instance { node: there, retiring } = &*entry.value else {
                    return;
                };
                if *there != node || *retiring {
                    return;
                }
                let counted = Key::Counted(instance.service().clone());
                let key = Key::Instance(instance);
                let value = Value::Instance { node, retiring: true };
                let txn = terms
                    .then(records::put(counted, Value::Counted))
                    .when(Compare::Modified(key.clone(), entry.modified))
                    .then(records::put(key, value));
                self.write_until(ix, txn);
            }
            (
                Purpose::ForgetRead {
                    instance,
                    theirs,
                    judged_by,
                },
                Reply::Txn(outcome),
            ) => {
                let known = outcome.reads.into_iter().flatten().next();
                let known = known.map_or(0, |entry| match &*entry.value {
                    Value::Number(number) => *number,
                    _ => 0,
                });
                let mut txn = Txn::new();
                if theirs {
                    txn = txn.when(Compare::Created(Key::Bind(instance.clone()), Revision(0)));
                }
                for (slot, written) in judged_by {
                    txn = txn.when(Compare::Modified(Key::Slot(slot), written));
                }
                txn = txn
                    .then(Op::Delete(Key::Instance(instance.clone())))
                    .then(Op::Delete(Key::Live(instance.clone())))
                    .then(records::put(Key::Gone(instance.clone()), Value::Gone))
                    .then(records::put(Key::Counted(instance.service().clone()), Value::Counted));
                if instance.number() > known {
                    let number = Value::Number(instance.number());
                    txn = txn.then(records::put(Key::Number(instance.service().clone()), number));
                }
                self.call(ix, Purpose::Loose, Asked::Txn(Rc::new(txn)), CALL_TIMEOUT);
            }
            (Purpose::Publish { session, told }, Reply::Txn(outcome)) => {
                let Some(agent) = self.agent(ix) else { return };
                let clustered = &mut agent.clustered;
                clustered.publishing = false;
                let ours = clustered.publish_session == Some(session);
                if outcome.succeeded {
                    let written = told.iter().map(|(id, _)| (id.clone(), outcome.revision));
                    clustered.written_at.extend(written);
                } else if ours {
                    // The session is another one by now; who renews it will say so, and then all is told again.
                    clustered.publish_session = None;
                }
                // What is told under another session since waits for its own write.
                for (id, report) in told.into_iter().filter(|_| ours) {
                    if clustered.waiting.get(&id) == Some(&report) {
                        clustered.waiting.remove(&id);
                    }
                }
                self.tell_again(ix);
                self.publish(ix);
            }
            _ => {}
        }
    }

    fn unanswered(&mut self, ix: NodeIx, purpose: Purpose) {
        match purpose {
            Purpose::List { first: true } => {
                self.call(ix, Purpose::List { first: true }, Asked::List, CALL_TIMEOUT);
            }
            Purpose::List { first: false } => self.plan_task(ix, RELIST, Task::List),
            Purpose::Renewals { of, stream } => self.plan_task(ix, RELIST, Task::ReadRenewals { of, stream }),
            Purpose::Open { attempt } => self.session_not_opened(ix, attempt),
            Purpose::Renew { attempt, .. } => self.session_not_renewed(ix, attempt),
            Purpose::Probe => self.session_probed(ix, false),
            Purpose::Slot { write, txn, tries } if tries < UNKNOWN_RETRIES => {
                let tries = tries + 1;
                let again = Task::Again(Box::new(Purpose::Slot { write, txn, tries }));
                self.plan_task(ix, UNKNOWN_RETRY, again);
            }
            Purpose::Slot { write, .. } => {
                let result = Commit::Failed("the store does not tell whether it was written".into());
                let (slot, attempt) = (write.slot, write.attempt);
                self.tell(ix, Event::Committed { slot, attempt, result });
            }
            Purpose::Create { instance, txn, tries } if tries < UNKNOWN_RETRIES => {
                let tries = tries + 1;
                let again = Task::Again(Box::new(Purpose::Create { instance, txn, tries }));
                self.plan_task(ix, UNKNOWN_RETRY * 4, again);
            }
            Purpose::Until { txn, tries } if tries < UNKNOWN_RETRIES => {
                let tries = tries + 1;
                let again = Task::Again(Box::new(Purpose::Until { txn, tries }));
                self.plan_task(ix, UNKNOWN_RETRY * 4, again);
            }
            Purpose::Publish { .. } => {
                if let Some(agent) = self.agent(ix) {
                    agent.clustered.publishing = false;
                }
                self.plan_task(ix, PUBLISH_RETRY, Task::Publish);
            }
            Purpose::Create { .. }
            | Purpose::Until { .. }
            | Purpose::RetireRead { .. }
            | Purpose::ForgetRead { .. }
            | Purpose::Loose => {}
        }
    }

    pub(crate) fn write_until(&mut self, ix: NodeIx, txn: Txn) {
        let txn = Rc::new(txn);
        let ask = Asked::Txn(Rc::clone(&txn));
        self.call(ix, Purpose::Until { txn, tries: 0 }, ask, CALL_TIMEOUT);
    }

    pub(crate) fn write_loose(&mut self, ix: NodeIx, txn: Txn) {
        self.call(ix, Purpose::Loose, Asked::Txn(Rc::new(txn)), CALL_TIMEOUT);
    }

    fn carry_out(&mut self, ix: NodeIx, decision: Decision) {
        match decision.action {
            Action::Create { instance, node } => {
                let node = self.ix(&node);
                let key = Key::Instance(instance.clone());
                let mut txn = Txn::new()
                    .when(Compare::Created(key.clone(), Revision(0)))
                    .otherwise(Op::Get(key.clone()));
                // One of ours that runs gets its record back.
                let runs = |inst: &super::machine::Inst| inst.node == ix && inst.process.is_some();
                if node != ix || !self.instances.get(&instance).is_some_and(runs) {
                    // Whoever is the controller knows all that earlier ones wrote: a late write of theirs is none of its own.
                    let Some(ours) = self.as_controller(ix, txn) else {
                        return;
                    };
                    txn = ours.when(Compare::Created(Key::Gone(instance.clone()), Revision(0)));
                }
                let txn = txn
                    .then(records::put(key, Value::Instance { node, retiring: false }))
                    .then(records::put(
                        Key::Number(instance.service().clone()),
                        Value::Number(instance.number()),
                    ))
                    .then(records::put(Key::Counted(instance.service().clone()), Value::Counted))
                    .otherwise(Op::Get(Key::Gone(instance.clone())));
                let txn = Rc::new(txn);
                let ask = Asked::Txn(Rc::clone(&txn));
                self.call(
                    ix,
                    Purpose::Create {
                        instance,
                        txn,
                        tries: 0,
                    },
                    ask,
                    CALL_TIMEOUT,
                );
            }
            Action::Forget {
                instance,
                theirs,
                judged_by,
            } => {
                let txn = Txn::new().then(Op::Get(Key::Number(instance.service().clone())));
                self.call(
                    ix,
                    Purpose::ForgetRead {
                        instance,
                        theirs,
                        judged_by,
                    },
                    Asked::Txn(Rc::new(txn)),
                    CALL_TIMEOUT,
                );
            }
            Action::Start {
                instance,
                run,
                role,
                epoch,
                earlier,
                ..
            } => {
                let active_at = epoch.filter(|_| role == Role::Active).map(|epoch| {
                    let slot = SlotId {
                        service: instance.service().clone(),
                        slot: self.slot_at(ix, &instance, epoch),
                    };
                    (slot, epoch)
                });
                self.starting(ix, &instance, run);
                let after = self.pace.span(SPAWN_US);
                self.plan_task(
                    ix,
                    after,
                    Task::Spawn {
                        instance,
                        run,
                        active_at,
                        earlier,
                    },
                );
            }
            Action::Prepare { instance, .. } => {
                let after = self.pace.span(SPAWN_US);
                self.plan_task(ix, after, Task::Prepare(instance));
            }
            Action::Stop { instance, run, polite } => {
                if self.broken == Some(ClusterRule::ReleaseBeforeDead) {
                    let instance = instance.clone();
                    self.tell(ix, Event::Gone { instance, run });
                }
                self.stop(ix, &instance, run, polite);
            }
            Action::RunHook {
                instance,
                run,
                hook,
                epoch,
                active,
                earlier: _,
            } => self.run_hook(ix, instance, run, hook, epoch, active),
            Action::ProbeNow { instance, standby } => self.probe_now(ix, instance, standby),
            Action::Arm {
                instance,
                run,
                slot,
                epoch,
                ..
            } => {
                let session = self.agent(ix).and_then(|agent| agent.clustered.session);
                self.plan_task(
                    ix,
                    Duration::from_micros(20),
                    Task::Order(Order::Arm {
                        instance,
                        run,
                        slot,
                        epoch,
                        session,
                    }),
                );
            }
            Action::Rebind { slot, epoch, .. } => {
                let session = self.agent(ix).and_then(|agent| agent.clustered.session);
                let order = Order::Rebind { slot, epoch, session };
                self.plan_task(ix, Duration::from_micros(20), Task::Order(order));
            }
            Action::Retire { instance, node } => {
                let node = self.ix(&node);
                let Some(mut terms) = self.as_controller(ix, Txn::new()) else {
                    return;
                };
                let service = instance.service().clone();
                if self.broken != Some(ClusterRule::CountNotCompared) {
                    let known = self.agent(ix).map(|agent| &agent.clustered.counted);
                    let known = known.and_then(|counted| counted.get(&service)).copied();
                    terms = terms.when(Compare::Modified(Key::Counted(service), known.unwrap_or_default()));
                }
                let txn = Txn::new().then(Op::Get(Key::Instance(instance.clone())));
                let purpose = Purpose::RetireRead { instance, node, terms };
                self.call(ix, purpose, Asked::Txn(Rc::new(txn)), CALL_TIMEOUT);
            }
            Action::AskRenew { instance, node } => self.ask(ix, &node, Ask::Renew { instance }),
            Action::TellLeft { instance, node } => {
                let by = self.node(ix).name.clone();
                self.ask(ix, &node, Ask::Left { instance, by });
            }
            Action::AskProof { instance, node, number } => self.ask(ix, &node, Ask::Prove { instance, number }),
            Action::AskMove { slot, node, to, drain } => self.ask(ix, &node, Ask::Move { slot, to, drain }),
            Action::Part { instance, shut } => {
                self.node_mut(ix).parting.insert(instance.clone(), shut);
                // Some of them stay, and it is never said.
                if self.rng.u32(0..8) > 0 {
                    let after = self.pace.between(Duration::from_millis(1), Duration::from_millis(300));
                    self.plan_task(ix, after, Task::Core(Box::new(Event::Parted { instance, shut })));
                }
            }
            Action::Rejoin { instance } => {
                self.node_mut(ix).parting.remove(&instance);
            }
            Action::Write(write) => {
                if write.claims && decision.because == decisions::Reason::RolloutNeeds {
                    self.note_trial(&write.holder);
                }
                self.write_slot(ix, write);
            }
            Action::Route {
                service,
                revision,
                targets,
                leaving,
            } => {
                for target in &targets {
                    self.note_serving(ix, &target.instance, target.epoch);
                }
                for (instance, _) in &leaving {
                    self.note_standing_by(ix, instance);
                }
                let after = self.pace.span(ROUTE_US);
                self.plan(
                    after,
                    Due::Order {
                        node: ix,
                        service,
                        revision,
                        targets: Some(targets),
                    },
                );
            }
            Action::Unroute { service } => {
                let after = self.pace.span(ROUTE_US);
                self.plan(
                    after,
                    Due::Order {
                        node: ix,
                        service,
                        revision: 0,
                        targets: None,
                    },
                );
            }
            Action::Report(takeover) => {
                if takeover.planned {
                    self.tally.switchovers += 1;
                } else {
                    self.tally.failovers += 1;
                    let end = takeover.routed.or(takeover.promoted).unwrap_or(takeover.detected);
                    self.tally.worst_failover = self.tally.worst_failover.max(end.since(takeover.detected));
                }
            }
            Action::GiveUp { service, given_up } => self.give_up(ix, service, given_up),
            Action::TryAgain { service } => self.may_try_again(ix, service),
            Action::Rebalanced { service } => {
                self.write_loose(ix, Txn::new().then(Op::Delete(Key::Rebalance(service))));
            }
            Action::Note(_) | Action::Answer { .. } | Action::AllStopped => {}
        }
    }

    /// Only as long as the node is the controller. None: it is not.
    pub(super) fn as_controller(&self, ix: NodeIx, txn: Txn) -> Option<Txn> {
        let clustered = &self.node(ix).agent.as_ref()?.clustered;
        let (node, session, elected) = clustered.controller?;
        (node == ix && elected > clustered.elected_before).then(|| {
            txn.when(Compare::Modified(Key::Controller, elected))
                .when(Compare::Created(Key::Session(ix), session))
        })
    }

    fn ask(&mut self, ix: NodeIx, node: &NodeName, ask: Ask) {
        let to = self.ix(node);
        let Some(agent) = self.agent(ix) else { return };
        agent.clustered.next_ask += 1;
        let number = agent.clustered.next_ask * 64 + u64::from(ix % 64);
        self.write_loose(ix, Txn::new().then(records::put(Key::Ask(to, number), Value::Ask(ask))));
    }

    /// Which slot an instance holds at an epoch, as the core of its node knows it.
    pub(crate) fn slot_at(&self, _ix: NodeIx, instance: &InstanceId, epoch: Epoch) -> u32 {
        let from = Key::Slot(SlotId {
            service: instance.service().clone(),
            slot: 0,
        });
        let slots = self
            .server
            .model
            .entries_from(&from)
            .map_while(|entry| match &*entry.value {
                Value::Slot(slot) if slot.slot.service == *instance.service() => Some(slot),
                _ => None,
            });
        // One that it released may have had the same epoch.
        slots
            .filter(|slot| slot.holder == *instance && slot.epoch == epoch)
            .max_by_key(|slot| slot.held)
            .map_or(0, |slot| slot.slot.slot)
    }

    /// T5 to T9, as the agent writes them.
    fn write_slot(&mut self, ix: NodeIx, mut write: SlotWrite) {
        let broken = self.broken;
        if broken == Some(ClusterRule::EpochNotRaised)
            && write.held
            && let Some(entry) = self.server.model.get(&Key::Slot(write.slot.clone()))
            && let Value::Slot(known) = &*entry.value
        {
            write.epoch = known.epoch;
        }
        let mut txn = Txn::new();
        if broken != Some(ClusterRule::SessionsNotCompared) {
            for (node, session) in &write.sessions {
                txn = txn.when(Compare::Created(Key::Session(self.ix(node)), *session));
            }
        }
        if let Some(condemn) = write
            .condemn
            .as_ref()
            .filter(|_| broken != Some(ClusterRule::TakeWithoutCondemn))
        {
            let node = self.ix(&condemn.node);
            let key = Key::Session(node);
            if broken != Some(ClusterRule::SessionsNotCompared) {
                txn = txn.when(Compare::Modified(key.clone(), condemn.modified));
            }
            txn = txn.then(Op::Delete(key));
            if self.of_before != Some(ix) {
                txn = txn.then(Op::Delete(Key::There(node)));
            }
            txn = txn.then(records::put(Key::Grave(node, condemn.session), Value::Grave));
        }
        let stays = write.held && write.previous.as_ref() == Some(&write.holder);
        if !stays {
            if let Some(previous) = &write.previous {
                txn = txn.then(Op::Delete(Key::Bind(previous.clone())));
            }
            if write.held {
                let key = Key::Bind(write.holder.clone());
                if broken != Some(ClusterRule::BindNotCompared) {
                    txn = txn.when(Compare::Created(key.clone(), Revision(0)));
                }
                txn = txn.then(records::put(key, Value::Bind));
            }
        }
        if let Some(placed) = write.placed {
            txn = txn.when(Compare::Created(Key::Instance(write.holder.clone()), placed));
        }
        if write.claims && broken != Some(ClusterRule::ParkNotCompared) {
            txn = txn.when(Compare::Created(Key::Park(write.slot.clone()), Revision(0)));
        }
        let key = Key::Slot(write.slot.clone());
        let slot = SlotKnown {
            slot: write.slot.clone(),
            held: write.held,
            holder: write.holder.clone(),
            epoch: write.epoch,
            revision: Revision(0),
            attempt: write.attempt,
            node: write.node.clone(),
            session: write.session,
            served: write.served,
            data: write.data.clone(),
            served_before: write.served_before,
            because: String::new(),
            begun: write.begun.clone(),
            since: model::Timestamp(0),
        };
        let expected = match write.expect {
            Revision(0) => Compare::Created(key.clone(), Revision(0)),
            revision => Compare::Modified(key.clone(), revision),
        };
        let txn = Rc::new(
            txn.when(expected)
                .then(records::put(key.clone(), Value::Slot(slot)))
                .otherwise(Op::Get(key)),
        );
        let ask = Asked::Txn(Rc::clone(&txn));
        let write = Box::new(write);
        self.call(ix, Purpose::Slot { write, txn, tries: 0 }, ask, CALL_TIMEOUT);
    }

    pub(crate) fn agent_dies(&mut self, ix: NodeIx) {
        if self.node_mut(ix).agent.take().is_none() {
            return;
        }
        // What it kept up ends by itself.
        self.node_mut(ix).parting.clear();
        self.say(|| format!("n{ix:04}  its agent dies"));
        let back = Duration::from_millis([5, 50, 300, 1_500, 6_000][self.rng.usize(0..5)]);
        self.plan(back, Due::AgentStarts(ix));
    }
}

pub(crate) fn known_slot(entry: &Entry) -> Option<SlotKnown> {
    match &*entry.value {
        Value::Slot(slot) => Some(SlotKnown {
            revision: entry.modified,
            ..slot.clone()
        }),
        _ => None,
    }
}

fn commit_of(write: &SlotWrite, outcome: &Outcome) -> Commit {
    if outcome.succeeded {
        return Commit::Done(outcome.revision);
    }
    let known = outcome.reads.iter().flatten().next().and_then(known_slot);
    match known {
        // Our own write, whose answer was lost.
        Some(known) if known.attempt == write.attempt => Commit::Done(known.revision),
        known => Commit::Conflict(known.map(Box::new)),
    }
}
