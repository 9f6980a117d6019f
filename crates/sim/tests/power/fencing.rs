//! What an agent does at the power of others: the product's jobs, carried out step by step.

use super::device::devices;
use super::view::{View, finish, settle_ms};
use super::world::{Broken, World};
use decisions::power::{Begin, Call, GiveBack, Job, Next, Situation, Step};
use model::{AfterFence, FenceRecord, FenceState, Mark, Millis, NodeName, Revision, WallTime, attempt_bound};
use std::collections::{BTreeMap, BTreeSet};
use store::Store;
use store::fence::{self, Intent};
use store::session::{self, Ground};

/// What came of an attempt is tried to be noted for this long.
const WRITE_FOR_MS: u64 = 10_000;

/// Something under way at the power of a node.
pub(crate) enum Task {
    Off(Box<Attempt>),
    /// What came of an attempt is being noted.
    Note(Box<Noting>),
    Back(Box<Giving>),
}

pub(crate) struct Attempt {
    record: FenceRecord,
    begun: Revision,
    job: Job,
    due_ms: u64,
    pending: Option<Pending>,
}

pub(crate) struct Noting {
    record: FenceRecord,
    begun: Revision,
    until_ms: u64,
}

pub(crate) struct Giving {
    record: FenceRecord,
    revision: Revision,
    job: GiveBack,
    due_ms: u64,
    pending: Option<Pending>,
}

enum Pending {
    Wait,
    Told(Result<(), String>),
    Status(Result<bool, String>),
}

/// An intent on its way to the store: it arrives, whatever becomes of who sent it.
pub(crate) struct Flight {
    at_ms: u64,
    by: usize,
    agent: u32,
    of: usize,
    intent: Intent,
    sent: Mark,
    by_hand: bool,
}

impl World {
    pub(crate) fn look_at_power(&mut self, ix: usize, now: Mark, view: &View, unproven: &BTreeMap<NodeName, Revision>) {
        for (node, (record, revision)) in &view.fences {
            let seen = match self.is_broken(Broken::DoesNotWait) {
                true => Mark::default(),
                false => now,
            };
            let fencer = &mut self.nodes[ix].fencer;
            if fencer.record(node).is_none_or(|(_, known)| known < *revision) {
                fencer.hear(node.clone(), record.clone(), *revision, seen);
            }
        }
        let observer = &self.nodes[ix].observer;
        let leaves = unproven.keys().filter_map(|node| {
            let leave = observer.may_condemn(node, now).ok()?;
            Some((node.clone(), leave))
        });
        let leaves = leaves.collect();
        let mut sessions = view.ids.clone();
        if self.is_broken(Broken::BrakeBlind) {
            // As if there were so many nodes that a few never are too many.
            let more = (0..30).map(|more| (NodeName::new(format!("z{more}")).unwrap(), Revision(1)));
            sessions.extend(more);
        }
        let bounds = self.bounds();
        let me = &self.nodes[ix].name;
        let rank = view.ids.keys().filter(|node| !unproven.contains_key(*node));
        let rank = rank.take_while(|node| *node != me).count();
        let situation = Situation {
            now,
            session: self.nodes[ix].session.as_ref().map(|session| session.id),
            sessions: &sessions,
            unproven,
            leaves: &leaves,
            bounds: &bounds,
            needed: &BTreeSet::new(),
            rank: u32::try_from(rank).unwrap(),
            stagger: self.timing.rank_stagger.duration(),
        };
        for step in self.nodes[ix].fencer.look(&situation) {
            match step {
                Step::Begin(begin) => self.send(ix, now, view, &begin, false),
                Step::GiveBack { node, record, revision } => self.go_on_with(ix, now, &node, record, revision),
                Step::GiveUp { node, record, revision } => {
                    let failed = FenceRecord {
                        state: FenceState::Failed("left behind".into()),
                        ..record
                    };
                    finish(fence::note(&self.store, &node, revision, &failed)).unwrap();
                    self.nodes[ix].fencer.ended(&node);
                }
            }
        }
    }

    /// An operator asks for it.
    pub(crate) fn by_hand(&mut self, ix: usize, of: usize) {
        if ix == of || self.nodes[ix].cut.is_some() || !self.nodes[ix].lives(self.now_ms) {
            return;
        }
        let Some(own) = self.nodes[ix].session.as_ref().map(|session| session.id) else {
            return;
        };
        let now = self.nodes[ix].mark(self.now_ms);
        let view = std::rc::Rc::clone(self.views.last().unwrap());
        let (none, bounds) = (BTreeMap::new(), self.bounds());
        let situation = Situation {
            now,
            session: Some(own),
            sessions: &view.ids,
            unproven: &none,
            leaves: &BTreeMap::new(),
            bounds: &bounds,
            needed: &BTreeSet::new(),
            rank: 0,
            stagger: self.timing.rank_stagger.duration(),
        };
        let name = self.nodes[of].name.clone();
        if let Ok(begin) = self.nodes[ix].fencer.by_hand(&name, &situation) {
            if begin.session == Revision(0) {
                self.nodes[ix].fencer.ended(&name);
                return;
            }
            self.send(ix, now, &view, &begin, true);
        }
    }

    fn bounds(&self) -> BTreeMap<NodeName, Millis> {
        let nodes = self.nodes.iter();
        nodes
            .map(|node| (node.name.clone(), attempt_bound(&devices(node.outlets.len()))))
            .collect()
    }

    fn send(&mut self, ix: usize, now: Mark, view: &View, begin: &Begin, by_hand: bool) {
        if self.step(ix) {
            return;
        }
        let open = view.ids.get(&begin.node) == Some(&begin.session);
        let record = FenceRecord {
            session: begin.session,
            state: FenceState::Powering,
            by: self.nodes[ix].name.clone(),
            under: self.nodes[ix].session.as_ref().unwrap().id,
            bound: begin.bound,
            tries: begin.tries,
            proven: begin.proven,
            because: String::new(),
            at: WallTime(0),
        };
        let modified = begin.modified.filter(|_| !self.is_broken(Broken::RenewalNotCompared));
        let late_ms = match self.rng.u32(0..4) {
            0 => self.rng.u64(0..2_500),
            _ => 0,
        };
        self.flights.push(Flight {
            at_ms: self.now_ms + late_ms,
            by: ix,
            agent: self.nodes[ix].agent,
            of: self.index(&begin.node),
            intent: Intent {
                node: begin.node.clone(),
                record,
                expect: begin.expect,
                modified,
                open,
                gone: begin.gone.clone(),
            },
            sent: now,
            by_hand,
        });
    }

    /// Intents arrive at the store; their answers do if their sender is there to hear them.
    pub(crate) fn arrive(&mut self) {
        let now_ms = self.now_ms;
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.flights)
            .into_iter()
            .partition(|flight| flight.at_ms <= now_ms);
        self.flights = later;
        for flight in due {
            let begun = finish(fence::begin(&self.store, &flight.intent)).unwrap();
            if begun.is_some() && !flight.by_hand {
                self.outcome.begun += 1;
                self.outcome.inherited += usize::from(flight.intent.gone.is_some());
                self.check_silent(&flight.intent.node);
            }
            let by = &mut self.nodes[flight.by];
            if by.agent != flight.agent {
                continue;
            }
            match begun.filter(|_| by.cut.is_none()) {
                Some(begun) => {
                    let record = flight.intent.record;
                    let of = devices(self.nodes[flight.of].outlets.len());
                    let attempt = Attempt {
                        job: Job::new(&of, record.bound, flight.sent),
                        record,
                        begun,
                        due_ms: now_ms,
                        pending: None,
                    };
                    if flight.by_hand {
                        self.by_hand.insert(begun);
                    }
                    self.nodes[flight.by]
                        .tasks
                        .insert(flight.of, Task::Off(Box::new(attempt)));
                }
                None => by.fencer.ended(&flight.intent.node),
            }
        }
    }

    fn go_on_with(&mut self, ix: usize, now: Mark, node: &NodeName, record: FenceRecord, from: Revision) {
        let record = FenceRecord {
            by: self.nodes[ix].name.clone(),
            under: self.nodes[ix].session.as_ref().unwrap().id,
            ..record
        };
        match finish(fence::resume(&self.store, node, from, &record)).unwrap() {
            Some(revision) => {
                let of = self.index(node);
                let task = self.giving(of, record, revision, now);
                self.outcome.resumed += 1;
                self.nodes[ix].tasks.insert(of, task);
            }
            None => self.nodes[ix].fencer.ended(node),
        }
    }

    fn giving(&self, of: usize, record: FenceRecord, revision: Revision, sent: Mark) -> Task {
        let told = match self.nodes[of].after {
            AfterFence::On => devices(self.nodes[of].outlets.len()),
            AfterFence::StayOff => Vec::new(),
        };
        Task::Back(Box::new(Giving {
            job: GiveBack::new(&told, record.bound, sent),
            record,
            revision,
            due_ms: self.now_ms,
            pending: None,
        }))
    }

    /// Tasks go on, also those of a node that is cut off from the store.
    pub(crate) fn go_on(&mut self, ix: usize, now: Mark) {
        for (of, task) in std::mem::take(&mut self.nodes[ix].tasks) {
            let agent = self.nodes[ix].agent;
            let left = match task {
                Task::Off(attempt) => self.attempt(ix, of, *attempt, now),
                Task::Note(noting) => self.note(ix, of, *noting, now),
                Task::Back(giving) => self.give_back(ix, of, *giving, now),
            };
            // Unless it died of it.
            if self.nodes[ix].agent == agent {
                match left {
                    Some(task) => drop(self.nodes[ix].tasks.insert(of, task)),
                    None => {
                        let name = self.nodes[of].name.clone();
                        self.nodes[ix].fencer.ended(&name);
                    }
                }
            }
        }
    }

    fn attempt(&mut self, ix: usize, of: usize, mut attempt: Attempt, now: Mark) -> Option<Task> {
        if self.now_ms < attempt.due_ms {
            return Some(Task::Off(Box::new(attempt)));
        }
        match attempt.pending.take() {
            Some(Pending::Told(result)) => attempt.job.off_done(result),
            Some(Pending::Status(off)) => attempt.job.read(off),
            Some(Pending::Wait) => attempt.job.waited(),
            None => {}
        }
        let ours = self.is_broken(Broken::SessionNotLookedAt)
            || self.nodes[ix].session.as_ref().map(|session| session.id) == Some(attempt.record.under)
                && self.nodes[ix].covered(now, self.timing.soft_deadline.duration());
        let mut next = attempt.job.next(now, ours);
        if self.is_broken(Broken::NotReadBack) && matches!(next, Next::Call(Call::Status(_))) {
            next = Next::Done;
        }
        if !matches!(next, Next::Wait(_)) && self.step(ix) {
            return Some(Task::Off(Box::new(attempt)));
        }
        let result = match next {
            Next::Wait(span) => {
                attempt.due_ms = self.now_ms + u64::try_from(span.as_millis()).unwrap();
                attempt.pending = Some(Pending::Wait);
                return Some(Task::Off(Box::new(attempt)));
            }
            Next::Call(Call::Off(outlet)) => {
                self.check_fencer(ix, of, attempt.begun);
                let (took_ms, result) = self.tell_off(of, outlet, attempt.begun, attempt.record.session);
                attempt.due_ms = self.now_ms + took_ms;
                attempt.pending = Some(Pending::Told(result));
                return Some(Task::Off(Box::new(attempt)));
            }
            Next::Call(Call::Status(outlet)) => {
                let (took_ms, off) = self.ask(of, outlet);
                attempt.due_ms = self.now_ms + took_ms;
                attempt.pending = Some(Pending::Status(off));
                return Some(Task::Off(Box::new(attempt)));
            }
            Next::Call(Call::On(_)) => panic!("it is to go off"),
            Next::Done => FenceRecord {
                state: FenceState::Off,
                proven: attempt.record.proven.max(attempt.record.session),
                ..attempt.record
            },
            Next::Fail(why) => FenceRecord {
                state: FenceState::Failed(why),
                ..attempt.record
            },
        };
        Some(Task::Note(Box::new(Noting {
            record: result,
            begun: attempt.begun,
            until_ms: self.now_ms + WRITE_FOR_MS,
        })))
    }

    fn note(&mut self, ix: usize, of: usize, noting: Noting, now: Mark) -> Option<Task> {
        if self.nodes[ix].cut.is_some() {
            let more = self.now_ms < noting.until_ms;
            return more.then(|| Task::Note(Box::new(noting)));
        }
        let (record, name) = (noting.record, self.nodes[of].name.clone());
        let revision = finish(fence::note(&self.store, &name, noting.begun, &record)).unwrap()?;
        if record.state != FenceState::Off {
            self.outcome.failed += 1;
            return None;
        }
        self.outcome.offs += 1;
        if !self.by_hand.contains(&noting.begun) {
            self.check_brake(of);
        }
        let back = self.giving(of, record.clone(), revision, now);
        if self.step(ix) {
            return Some(back);
        }
        if let Some(open) = finish(session::get(&self.store, &name)).unwrap()
            && open.id == record.session
        {
            let (key, confirmed) = (fence::key(&name), revision);
            finish(session::condemn(
                &self.store,
                &open,
                &Ground::Fenced { key, confirmed },
                "",
            ))
            .unwrap();
        }
        Some(back)
    }

    fn give_back(&mut self, ix: usize, of: usize, mut giving: Giving, now: Mark) -> Option<Task> {
        if self.now_ms < giving.due_ms {
            return Some(Task::Back(Box::new(giving)));
        }
        match giving.pending.take() {
            Some(Pending::Told(result)) => giving.job.on_done(result),
            Some(_) => giving.job.waited(),
            None => {}
        }
        let next = giving.job.next(now);
        if self.step(ix) {
            return Some(Task::Back(Box::new(giving)));
        }
        match next {
            Next::Wait(span) => {
                let mut wait_ms = u64::try_from(span.as_millis()).unwrap();
                if self.is_broken(Broken::NotSettled) && wait_ms == settle_ms() {
                    wait_ms = 0;
                }
                giving.due_ms = self.now_ms + wait_ms;
                giving.pending = Some(Pending::Wait);
            }
            Next::Call(Call::On(outlet)) => {
                let (took_ms, result) = self.tell_on(of, outlet, giving.revision);
                giving.due_ms = self.now_ms + took_ms;
                giving.pending = Some(Pending::Told(result));
            }
            Next::Call(_) => panic!("it is to go on"),
            Next::Done | Next::Fail(_) => {
                if self.nodes[ix].cut.is_none() {
                    let done = FenceRecord {
                        state: FenceState::Done,
                        ..giving.record
                    };
                    let name = self.nodes[of].name.clone();
                    finish(fence::note(&self.store, &name, giving.revision, &done)).unwrap();
                }
                return None;
            }
        }
        Some(Task::Back(Box::new(giving)))
    }

    /// Who is at the power of others.
    pub(crate) fn is_fencing(&self, ix: usize) -> bool {
        !self.nodes[ix].tasks.is_empty()
    }

    /// At whose power somebody is.
    pub(crate) fn is_fenced(&self, ix: usize) -> bool {
        let name = &self.nodes[ix].name;
        let store = finish(self.store.get(&fence::key(name))).unwrap();
        store.is_some_and(|entry| fence::read(&entry).unwrap().is_under_way())
    }
}
