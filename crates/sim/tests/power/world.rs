//! Nodes, devices, and a store: the last is the product's own.

use decisions::lease::{Condemn, Observer};
use decisions::power::{Begin, Call, Fencer, Job, Next, Situation, Step};
use model::{
    FenceDevice, FenceRecord, FenceState, Mark, Millis, NodeName, Profile, Revision, Timing, WallTime, attempt_bound,
    timing::observer_wait,
};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use store::fence::{self, FENCES, Intent};
use store::session::{self, Cause, Grave, Ground, Opened, Record, Renewal, SESSIONS, Session};
use store::{Compare, Memory, Op, Store, Txn};

const TICK_MS: u64 = 50;
const STORM_MS: u64 = 240_000;
const HEAL_MS: u64 = 300_000;
const TIMEOUT: Millis = Millis(10_000);
const SLOT: &str = "slot";

/// A rule that is left out on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    NotReadBack,
    NotBound,
    OpensWhilePowering,
    NoProof,
    DoesNotWait,
}

/// What happened.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) wrong: Vec<String>,
    pub(crate) takes: usize,
    pub(crate) offs: usize,
    pub(crate) failed: usize,
    pub(crate) inherited: usize,
    pub(crate) withdrawn: usize,
}

pub(crate) struct World {
    rng: fastrand::Rng,
    broken: Option<Broken>,
    now_ms: u64,
    timing: Timing,
    store: Memory,
    nodes: Vec<Node>,
    effects: Vec<Effect>,
    outcome: Outcome,
}

struct Node {
    name: NodeName,
    /// Whether each of its power supplies has current.
    outlets: Vec<bool>,
    device: Mode,
    /// Its agent runs, from then on.
    agent_at: Option<u64>,
    hung: bool,
    cut: bool,
    session: Option<Session>,
    acked: Option<Mark>,
    /// Its process writes.
    acts: bool,
    observer: Observer,
    fencer: Fencer,
    tasks: BTreeMap<usize, Task>,
    powering: Option<(Revision, Mark)>,
    boots: u32,
}

/// How the device of a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Good,
    /// Takes most of what it is given.
    Slow,
    /// Says that it is done before it is.
    Late,
    Dead,
    /// Does it, and says that it did not.
    Gloomy,
}

/// An outlet is switched off at a time to come.
struct Effect {
    at_ms: u64,
    node: usize,
    outlet: usize,
    by: usize,
    meant: Revision,
}

enum Task {
    Off(Box<Attempt>),
    Back {
        record: FenceRecord,
        revision: Revision,
        due_ms: u64,
    },
}

struct Attempt {
    record: FenceRecord,
    begun: Revision,
    sent: Mark,
    job: Job,
    due_ms: u64,
    pending: Option<Pending>,
}

enum Pending {
    Off(Result<(), String>),
    Status(Result<bool, String>),
    Wait,
}

impl World {
    pub(crate) fn new(seed: u64, broken: Option<Broken>) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let count = rng.usize(3..=5);
        let timing = Profile::Lan.timing();
        let nodes = (0..count).map(|ix| Node::new(ix, rng.usize(1..=2), timing)).collect();
        Self {
            rng,
            broken,
            now_ms: 0,
            timing,
            store: Memory::default(),
            nodes,
            effects: Vec::new(),
            outcome: Outcome::default(),
        }
    }

    /// A storm, then everything is mended: somebody must act in the end.
    pub(crate) fn play(mut self) -> Outcome {
        while self.now_ms < STORM_MS + HEAL_MS && self.outcome.wrong.is_empty() {
            self.now_ms += TICK_MS;
            match self.now_ms {
                now if now < STORM_MS => self.trouble(),
                now if now < STORM_MS + TICK_MS => self.mend(),
                _ => {}
            }
            self.happen();
            for ix in 0..self.nodes.len() {
                self.live(ix);
            }
            let writing = self.nodes.iter().filter(|node| node.on() && node.acts).count();
            if writing > 1 {
                self.wrong("two write");
            }
        }
        if self.outcome.wrong.is_empty() && !self.nodes.iter().any(|node| node.on() && node.acts) {
            self.wrong("nobody acts, with everything mended");
        }
        self.outcome
    }

    fn wrong(&mut self, what: &str) {
        self.outcome.wrong.push(format!("{what} at {} ms", self.now_ms));
    }

    fn mark(&self) -> Mark {
        let ns = self.now_ms * 1_000_000;
        Mark {
            boot_ns: ns,
            raw_ns: ns,
        }
    }

    fn trouble(&mut self) {
        if self.rng.u32(0..160) != 0 {
            return;
        }
        let ix = self.rng.usize(0..self.nodes.len());
        let active = self.nodes.iter().position(|node| node.acts);
        let fencing = self.nodes.iter().position(|node| !node.tasks.is_empty());
        let now_ms = self.now_ms;
        match self.rng.u32(0..12) {
            0..=2 => self.nodes[active.unwrap_or(ix)].hung = true,
            3 => self.nodes[fencing.unwrap_or(ix)].hung = true,
            4 => self.lose_power(ix),
            5 => self.lose_power(fencing.unwrap_or(ix)),
            6 => self.nodes[fencing.unwrap_or(ix)].crash(now_ms),
            7 => self.nodes[active.unwrap_or(ix)].cut = true,
            8 => {
                let modes = [Mode::Good, Mode::Slow, Mode::Late, Mode::Late, Mode::Dead, Mode::Gloomy];
                self.nodes[ix].device = modes[self.rng.usize(0..modes.len())];
            }
            9 => self.nodes[ix].cut = false,
            10 => self.nodes.iter_mut().for_each(|node| node.hung = false),
            _ => {
                let off = (0..self.nodes.len()).find(|ix| !self.nodes[*ix].on());
                if let Some(off) = off {
                    self.give_power(off);
                }
            }
        }
    }

    fn mend(&mut self) {
        for ix in 0..self.nodes.len() {
            let node = &mut self.nodes[ix];
            (node.hung, node.cut, node.device) = (false, false, Mode::Good);
            if !node.on() {
                self.give_power(ix);
            }
        }
    }

    fn lose_power(&mut self, ix: usize) {
        self.nodes[ix].outlets.fill(false);
        self.nodes[ix].dies();
    }

    fn give_power(&mut self, ix: usize) {
        let was_on = self.nodes[ix].on();
        self.nodes[ix].outlets.fill(true);
        if !was_on {
            let boots = self.nodes[ix].boots + 1;
            let fresh = Node::new(ix, self.nodes[ix].outlets.len(), self.timing);
            self.nodes[ix] = Node {
                boots,
                device: self.nodes[ix].device,
                cut: self.nodes[ix].cut,
                agent_at: Some(self.now_ms + 3_000),
                ..fresh
            };
        }
    }

    /// What devices were told comes about.
    fn happen(&mut self) {
        let now_ms = self.now_ms;
        let (due, later) = std::mem::take(&mut self.effects)
            .into_iter()
            .partition::<Vec<_>, _>(|effect| effect.at_ms <= now_ms);
        self.effects = later;
        for effect in due {
            let node = &mut self.nodes[effect.node];
            let session = node.session.as_ref().map(|session| session.id);
            let later = node.on() && session.is_some_and(|session| session > effect.meant);
            let was_on = node.on();
            node.outlets[effect.outlet] = false;
            if was_on && !node.on() {
                node.dies();
            }
            if later {
                self.wrong("a later incarnation is hit");
            }
        }
    }

    fn live(&mut self, ix: usize) {
        let now = self.mark();
        let node = &mut self.nodes[ix];
        if !node.on() || node.hung {
            return;
        }
        // The guard, which needs no store.
        if node.acts && !node.covered(now, self.timing.hard_deadline.duration()) {
            node.acts = false;
        }
        if node.agent_at.is_none_or(|at| self.now_ms < at) {
            return;
        }
        if !node.cut {
            self.renew(ix, now);
            self.look(ix, now);
        }
        self.go_on(ix, now);
    }

    fn renew(&mut self, ix: usize, now: Mark) {
        let store = &self.store;
        let node = &mut self.nodes[ix];
        if let Some(session) = node.session.clone() {
            match finish(session::renew(store, &session, self.timing.lease)).unwrap() {
                Renewal::Renewed(renewed) => {
                    node.session = Some(renewed);
                    node.acked = Some(now);
                    node.observer.write_ok(now, now);
                }
                Renewal::Fenced(_) => {
                    (node.session, node.acked, node.acts) = (None, None, false);
                    node.tasks.clear();
                }
            }
            return;
        }
        node.acts = false;
        let record = Record {
            machine: node.name.to_string(),
            boot: node.boots.to_string(),
            agent: String::new(),
            lease_ms: self.timing.lease,
            kill_ms: self.timing.kill_budget,
            renew_ms: self.timing.renew,
            protocol: 1,
            seq: 0,
        };
        let past = node.powering.filter(|(_, since)| {
            let bound = attempt_bound(&devices(node.outlets.len()));
            now.waited_for(*since) >= observer_wait(bound)
        });
        let opened = match self.broken {
            Some(Broken::OpensWhilePowering) => opens_anyway(store, &node.name, &record),
            _ => finish(session::open_past(
                store,
                &node.name,
                &record,
                past.map(|(revision, _)| revision),
            )),
        };
        match opened.unwrap() {
            Opened::Open(session) => {
                node.session = Some(session);
                node.powering = None;
            }
            Opened::Powering { revision, .. } => {
                if node.powering.is_none_or(|(known, _)| known != revision) {
                    node.powering = Some((revision, now));
                }
            }
            Opened::Taken(old) => {
                let me = node.name.clone();
                node.observer.seen(&me, old.id, old.modified, old.record.lease_ms, now);
                let reboot = old.record.boot != node.boots.to_string();
                let leave = match reboot {
                    true => node.observer.may_condemn_rebooted(&me, now),
                    false => node.observer.may_condemn_own(&me, now),
                };
                if leave.is_ok_and(|leave| leave.modified == old.modified) {
                    let ground = if reboot { Ground::Rebooted } else { Ground::Expired };
                    finish(session::condemn(store, &old, &ground, "itself")).unwrap();
                }
            }
        }
    }

    /// The agent looks at the store and does what is to be done.
    fn look(&mut self, ix: usize, now: Mark) {
        let Some(own) = self.nodes[ix].session.as_ref().map(|session| session.id) else {
            return;
        };
        let me = self.nodes[ix].name.clone();
        self.nodes[ix].observer.own(&me);
        let mut sessions = BTreeMap::new();
        let mut open = BTreeMap::new();
        for entry in finish(self.store.list(SESSIONS)).unwrap().0 {
            let name = NodeName::new(entry.key.strip_prefix(SESSIONS).unwrap()).unwrap();
            let session = finish(session::get(&self.store, &name)).unwrap().unwrap();
            if name != me {
                let lease = session.record.lease_ms;
                self.nodes[ix]
                    .observer
                    .seen(&name, session.id, session.modified, lease, now);
            }
            sessions.insert(name.clone(), session.id);
            open.insert(name, session);
        }
        let gone: Vec<NodeName> = self.nodes.iter().map(|node| node.name.clone()).collect();
        for name in gone.iter().filter(|name| !sessions.contains_key(*name)) {
            self.nodes[ix].observer.gone(name, now);
        }
        let mut proven = BTreeMap::new();
        for entry in finish(self.store.list(FENCES)).unwrap().0 {
            let name = NodeName::new(entry.key.strip_prefix(FENCES).unwrap()).unwrap();
            let record = fence::read(&entry).unwrap();
            let seen = match self.broken {
                Some(Broken::DoesNotWait) => Mark { boot_ns: 0, raw_ns: 0 },
                _ => now,
            };
            proven.insert(name.clone(), record.proven);
            self.nodes[ix].fencer.hear(name, record, entry.modified, seen);
        }
        let mut leaves: BTreeMap<NodeName, Condemn> = BTreeMap::new();
        for (name, session) in &open {
            if *name != me
                && let Ok(leave) = self.nodes[ix].observer.may_condemn(name, now)
            {
                leaves.insert(name.clone(), leave);
                if self.rng.bool() {
                    // T4e: what leans on its lease does not wait.
                    finish(session::condemn(&self.store, session, &Ground::Expired, me.as_str())).unwrap();
                }
            }
        }
        let unproven = self.hold(ix, own, &sessions, &leaves, &proven, now);
        self.fence(ix, own, now, &sessions, &unproven, &leaves);
    }

    /// Takes the slot if that is allowed; else, which lost node must be known to be off.
    fn hold(
        &mut self,
        ix: usize,
        own: Revision,
        sessions: &BTreeMap<NodeName, Revision>,
        leaves: &BTreeMap<NodeName, Condemn>,
        proven: &BTreeMap<NodeName, Revision>,
        now: Mark,
    ) -> BTreeMap<NodeName, Revision> {
        let me = self.nodes[ix].name.clone();
        let entry = finish(self.store.get(SLOT)).unwrap();
        let held = entry.as_ref().map(|entry| {
            let text = String::from_utf8(entry.value.clone()).unwrap();
            let (node, session) = text.split_once(' ').unwrap();
            (NodeName::new(node).unwrap(), Revision(session.parse().unwrap()))
        });
        let mut txn = Txn::new().when(Compare::created(session::session_key(&me), own));
        txn = match &entry {
            Some(entry) => txn.when(Compare::modified(SLOT, entry.modified)),
            None => txn.when(Compare::absent(SLOT)),
        };
        if let Some((holder, under)) = &held {
            if *holder == me && *under == own {
                self.nodes[ix].acts |= self.nodes[ix].covered(now, self.timing.soft_deadline.duration());
                return BTreeMap::new();
            }
            self.nodes[ix].acts = false;
            let open = sessions.get(holder).copied();
            let proof = self.is_proven(holder, *under, proven);
            let lost = open.is_none() || (open == Some(*under) && leaves.contains_key(holder));
            let is_back = open.is_some_and(|open| open != *under);
            if *holder != me {
                if lost && !proof && self.broken != Some(Broken::NoProof) {
                    return BTreeMap::from([(holder.clone(), *under)]);
                }
                if open == Some(*under) || !(lost || is_back) {
                    return BTreeMap::new();
                }
                txn = txn.when(Compare::created(session::session_key(holder), open.unwrap_or_default()));
            }
        }
        let value = format!("{me} {}", own.0);
        let result = finish(self.store.txn(txn.then(Op::put(SLOT, value)))).unwrap();
        if result.succeeded {
            self.outcome.takes += 1;
        }
        BTreeMap::new()
    }

    fn is_proven(&self, node: &NodeName, session: Revision, proven: &BTreeMap<NodeName, Revision>) -> bool {
        let known = proven.get(node).copied().unwrap_or_default();
        if self.broken == Some(Broken::NotBound) && known > Revision(0) {
            return true;
        }
        let grave = finish(self.store.get(&session::grave_key(node, session))).unwrap();
        let cause = grave.map(|entry| serde_json::from_slice::<Grave>(&entry.value).unwrap().cause);
        session <= known
            || matches!(
                cause,
                Some(Cause::Closed | Cause::Rebooted | Cause::Fenced | Cause::Stated)
            )
    }

    fn fence(
        &mut self,
        ix: usize,
        own: Revision,
        now: Mark,
        sessions: &BTreeMap<NodeName, Revision>,
        unproven: &BTreeMap<NodeName, Revision>,
        leaves: &BTreeMap<NodeName, Condemn>,
    ) {
        let bounds: BTreeMap<NodeName, Millis> = self
            .nodes
            .iter()
            .map(|node| (node.name.clone(), attempt_bound(&devices(node.outlets.len()))))
            .collect();
        let rank = sessions
            .keys()
            .filter(|node| !unproven.contains_key(*node))
            .take_while(|node| **node != self.nodes[ix].name)
            .count();
        let situation = Situation {
            now,
            session: Some(own),
            sessions,
            unproven,
            leaves,
            bounds: &bounds,
            needed: &BTreeSet::new(),
            rank: u32::try_from(rank).unwrap(),
            stagger: self.timing.rank_stagger.duration(),
        };
        for step in self.nodes[ix].fencer.look(&situation) {
            match step {
                Step::Begin(begin) => self.begin(ix, own, now, sessions, &begin),
                Step::GiveBack { node, record, revision } => {
                    let due_ms = self.now_ms + 500;
                    let task = Task::Back {
                        record,
                        revision,
                        due_ms,
                    };
                    let of = self.index(&node);
                    self.nodes[ix].tasks.insert(of, task);
                }
            }
        }
    }

    fn begin(&mut self, ix: usize, own: Revision, now: Mark, sessions: &BTreeMap<NodeName, Revision>, begin: &Begin) {
        let record = FenceRecord {
            session: begin.session,
            state: FenceState::Powering,
            by: self.nodes[ix].name.clone(),
            under: own,
            bound: begin.bound,
            tries: begin.tries,
            proven: begin.proven,
            because: String::new(),
            at: WallTime(0),
        };
        let intent = Intent {
            node: begin.node.clone(),
            record: record.clone(),
            expect: begin.expect,
            modified: begin.modified,
            open: sessions.get(&begin.node) == Some(&begin.session),
            gone: begin.gone.clone(),
        };
        let of = self.index(&begin.node);
        match finish(fence::begin(&self.store, &intent)).unwrap() {
            Some(begun) => {
                self.outcome.inherited += usize::from(begin.gone.is_some());
                let attempt = Attempt {
                    record,
                    begun,
                    sent: now,
                    job: Job::new(self.nodes[of].outlets.len()),
                    due_ms: self.now_ms,
                    pending: None,
                };
                self.nodes[ix].tasks.insert(of, Task::Off(Box::new(attempt)));
            }
            None => self.nodes[ix].fencer.ended(&begin.node),
        }
    }

    /// Tasks go on, also those of a node that is cut off from the store.
    fn go_on(&mut self, ix: usize, now: Mark) {
        for (of, task) in std::mem::take(&mut self.nodes[ix].tasks) {
            let left = match task {
                Task::Off(attempt) => self.attempt(ix, of, *attempt, now),
                Task::Back {
                    record,
                    revision,
                    due_ms,
                } => self.back(ix, of, record, revision, due_ms),
            };
            match left {
                Some(task) => drop(self.nodes[ix].tasks.insert(of, task)),
                None => {
                    let name = self.nodes[of].name.clone();
                    self.nodes[ix].fencer.ended(&name);
                }
            }
        }
    }

    fn attempt(&mut self, ix: usize, of: usize, mut attempt: Attempt, now: Mark) -> Option<Task> {
        if self.now_ms < attempt.due_ms {
            return Some(Task::Off(Box::new(attempt)));
        }
        match attempt.pending.take() {
            Some(Pending::Off(result)) => attempt.job.off_done(result),
            Some(Pending::Status(off)) => attempt.job.read(off),
            Some(Pending::Wait) => attempt.job.waited(),
            None => {}
        }
        let mut next = attempt.job.next();
        if self.broken == Some(Broken::NotReadBack) && matches!(next, Next::Call(Call::Status(_))) {
            next = Next::Confirm;
        }
        match next {
            Next::Wait(span) => {
                attempt.due_ms = self.now_ms + u64::try_from(span.as_millis()).unwrap();
                attempt.pending = Some(Pending::Wait);
            }
            Next::Call(Call::Off(outlet)) => {
                let in_time = now.held_for(attempt.sent) + TIMEOUT.duration() <= attempt.record.bound.duration();
                let ours = self.nodes[ix].covered(now, self.timing.soft_deadline.duration());
                if !in_time || !ours {
                    return self.fail(ix, of, &attempt, "not ours, or too late".into());
                }
                let (took_ms, result) = self.switch(ix, of, outlet, attempt.record.session);
                attempt.due_ms = self.now_ms + took_ms;
                attempt.pending = Some(Pending::Off(result));
            }
            Next::Call(Call::Status(outlet)) => {
                attempt.due_ms = self.now_ms + self.rng.u64(50..400);
                let off = match self.nodes[of].device {
                    Mode::Dead => Err("no answer".into()),
                    _ => Ok(!self.nodes[of].outlets[outlet]),
                };
                attempt.pending = Some(Pending::Status(off));
            }
            Next::Fail(why) => return self.fail(ix, of, &attempt, why),
            Next::Confirm => {
                if self.nodes[ix].cut {
                    return None;
                }
                let record = FenceRecord {
                    state: FenceState::Off,
                    proven: attempt.record.proven.max(attempt.record.session),
                    ..attempt.record.clone()
                };
                let name = self.nodes[of].name.clone();
                let revision = finish(fence::note(&self.store, &name, attempt.begun, &record)).unwrap()?;
                self.outcome.offs += 1;
                if let Some(open) = finish(session::get(&self.store, &name)).unwrap()
                    && open.id == record.session
                {
                    let key = fence::key(&name);
                    let confirmed = revision;
                    let ground = Ground::Fenced { key, confirmed };
                    finish(session::condemn(&self.store, &open, &ground, "")).unwrap();
                }
                let due_ms = self.now_ms + 500;
                return Some(Task::Back {
                    record,
                    revision,
                    due_ms,
                });
            }
        }
        Some(Task::Off(Box::new(attempt)))
    }

    fn fail(&mut self, ix: usize, of: usize, attempt: &Attempt, why: String) -> Option<Task> {
        self.outcome.failed += 1;
        if !self.nodes[ix].cut {
            let record = FenceRecord {
                state: FenceState::Failed(why),
                ..attempt.record.clone()
            };
            let name = self.nodes[of].name.clone();
            if finish(fence::note(&self.store, &name, attempt.begun, &record))
                .unwrap()
                .is_none()
            {
                self.outcome.withdrawn += 1;
            }
        }
        None
    }

    /// A device is told to switch an outlet off: how long that takes, and what it says.
    fn switch(&mut self, by: usize, of: usize, outlet: usize, meant: Revision) -> (u64, Result<(), String>) {
        if self.effects.iter().any(|effect| effect.node == of && effect.by != by) {
            self.wrong("two at the power of one node");
        }
        let quick = self.rng.u64(100..1_500);
        let (effect_ms, took_ms, result) = match self.nodes[of].device {
            Mode::Good => (Some(quick / 2), quick, Ok(())),
            Mode::Slow => (Some(quick + 7_000), quick + 7_500, Ok(())),
            Mode::Late => (Some(quick + self.rng.u64(500..3_000)), quick, Ok(())),
            Mode::Dead => (None, TIMEOUT.0, Err("no answer".into())),
            Mode::Gloomy => (Some(self.rng.u64(100..9_900)), TIMEOUT.0, Err("no answer".into())),
        };
        if let Some(after_ms) = effect_ms {
            self.effects.push(Effect {
                at_ms: self.now_ms + after_ms,
                node: of,
                outlet,
                by,
                meant,
            });
        }
        (took_ms, result)
    }

    fn back(&mut self, ix: usize, of: usize, record: FenceRecord, revision: Revision, due_ms: u64) -> Option<Task> {
        if self.now_ms < due_ms {
            return Some(Task::Back {
                record,
                revision,
                due_ms,
            });
        }
        if !self.nodes[ix].cut {
            let done = FenceRecord {
                state: FenceState::Done,
                ..record
            };
            let name = self.nodes[of].name.clone();
            self.give_power(of);
            finish(fence::note(&self.store, &name, revision, &done)).unwrap();
        }
        None
    }

    fn index(&self, name: &NodeName) -> usize {
        self.nodes.iter().position(|node| node.name == *name).unwrap()
    }
}

impl Node {
    fn new(ix: usize, outlets: usize, timing: Timing) -> Self {
        let name = NodeName::new(["a", "b", "c", "d", "e"][ix]).unwrap();
        Self {
            outlets: vec![true; outlets],
            device: Mode::Good,
            agent_at: Some(0),
            hung: false,
            cut: false,
            session: None,
            acked: None,
            acts: false,
            observer: Observer::new(timing),
            fencer: Fencer::new(name.clone()),
            tasks: BTreeMap::new(),
            powering: None,
            boots: 0,
            name,
        }
    }

    fn on(&self) -> bool {
        self.outlets.contains(&true)
    }

    /// Whether its lease runs, by its own clock.
    fn covered(&self, now: Mark, for_: Duration) -> bool {
        self.acked.is_some_and(|acked| now.held_for(acked) < for_)
    }

    /// No power: what it had under way at devices of others goes its way.
    fn dies(&mut self) {
        (self.acts, self.hung, self.agent_at) = (false, false, None);
        (self.session, self.acked) = (None, None);
        self.tasks.clear();
    }

    /// The agent dies, and is started again; the guard and the process live.
    fn crash(&mut self, now_ms: u64) {
        self.agent_at = self.agent_at.map(|at| at.max(now_ms + 1_000));
        self.tasks.clear();
        self.fencer = Fencer::new(self.name.clone());
    }
}

fn devices(count: usize) -> Vec<FenceDevice> {
    let device = FenceDevice {
        agent: "fence_made_up".into(),
        parameters: BTreeMap::new(),
        secrets: BTreeMap::new(),
        timeout: TIMEOUT,
        feeds: BTreeSet::new(),
    };
    vec![device; count]
}

/// As it would be without a look at who is at the power.
fn opens_anyway(store: &Memory, node: &NodeName, record: &Record) -> Result<Opened, session::SessionError> {
    let key = session::session_key(node);
    let value = serde_json::to_vec(record).unwrap();
    let txn = Txn::new().when(Compare::absent(&*key)).then(Op::put(&*key, value));
    let opens = finish(store.txn(txn)).unwrap().succeeded;
    let session = finish(session::get(store, node))?.unwrap();
    Ok(match opens {
        true => Opened::Open(session),
        false => Opened::Taken(session),
    })
}

/// Everything here answers at once.
fn finish<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..100 {
        if let Poll::Ready(answer) = future.as_mut().poll(&mut context) {
            return answer;
        }
    }
    panic!("the store in memory does not answer");
}
