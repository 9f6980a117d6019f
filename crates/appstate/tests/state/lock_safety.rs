//! Two holders never act at once: the real agents' and the real lease's code under made-up clocks, pauses and delays.
//!
//! True time is the simulation's. Each machine has its own two clocks: CLOCK_MONOTONIC_RAW runs right within ρ, CLOCK_BOOTTIME
//! up to a tenth beside it. Requests and answers take their time or are lost, holders sleep at any moment, agents are restarted.
//! A holder acts whenever its lease says that it may, and writes with its token also when not.

use super::named;
use appstate::{AppState, Clock, Condition, Error, Limits, Wish};
use client::Lease;
use model::{Mark, Millis, Revision, ServiceName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use store::{Memory, Store};

const TTL: Millis = Millis(1_000);
const MS: u64 = 1_000_000;
/// How long one run goes.
const END: u64 = 120_000 * MS;
const HOLDERS: usize = 4;

/// What is done wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mistake {
    None,
    /// The holder counts from when the answer came.
    CountsFromTheAnswer,
    /// The holder counts renewals that nobody acknowledged.
    CountsWithoutAnswer,
    /// The clocks of agents run faster than ρ allows, so that they wait too short.
    AgentsAreFast,
    /// The holder takes the slower of its two clocks.
    HolderTakesTheSlowerClock,
}

/// Two clocks that depend on true time.
struct Drifting {
    now: Arc<AtomicU64>,
    offset: u64,
    raw_rate: f64,
    boot_rate: f64,
}

impl Clock for Drifting {
    fn now(&self) -> Mark {
        let now = self.now.load(Ordering::Relaxed) as f64;
        Mark {
            boot_ns: self.offset + (now * self.boot_rate) as u64,
            raw_ns: self.offset * 2 + (now * self.raw_rate) as u64,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The holder does what it would do next.
    Turn(usize),
    /// Its request reaches an agent.
    Arrives(u64),
    /// The answer reaches the holder.
    Answered(u64),
    /// An agent is started anew.
    Restart(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Acquire,
    Renew(Revision),
    Write(Revision),
}

struct Request {
    holder: usize,
    agent: usize,
    ask: Ask,
    sent: Mark,
    answer: Option<Result<Revision, Error>>,
}

struct Holder {
    clock: Drifting,
    asleep_until: u64,
    lease: Option<(Revision, Lease)>,
    /// The lock that it had before: it writes with it all the same.
    old: Option<Revision>,
    attempts: u64,
    waiting: bool,
}

struct World {
    random: fastrand::Rng,
    now: Arc<AtomicU64>,
    store: Arc<dyn Store>,
    agents: Vec<AppState>,
    holders: Vec<Holder>,
    requests: BTreeMap<u64, Request>,
    events: BTreeSet<(u64, Event)>,
    next: u64,
    mistake: Mistake,
    service: ServiceName,
    /// Tokens in the order of their acquisitions.
    tokens: Vec<Revision>,
    /// Tokens in the order of the writes that were accepted.
    writes: Vec<Revision>,
    refused_writes: usize,
    problems: Vec<String>,
}

impl World {
    fn new(seed: u64, mistake: Mistake) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let now = Arc::new(AtomicU64::new(0));
        let store: Arc<dyn Store> = Arc::new(Memory::default());
        let holders = (0..HOLDERS).map(|_| Holder {
            clock: drifting(&mut random, &now, 1.0, mistake == Mistake::HolderTakesTheSlowerClock),
            asleep_until: 0,
            lease: None,
            old: None,
            attempts: 0,
            waiting: false,
        });
        let holders = holders.collect();
        let mut world = Self {
            random,
            now,
            store,
            agents: Vec::new(),
            holders,
            requests: BTreeMap::new(),
            events: BTreeSet::new(),
            next: 0,
            mistake,
            service: named("db"),
            tokens: Vec::new(),
            writes: Vec::new(),
            refused_writes: 0,
            problems: Vec::new(),
        };
        for _ in 0..2 {
            let agent = world.agent();
            world.agents.push(agent);
        }
        for holder in 0..HOLDERS {
            world.events.insert((holder as u64 * MS, Event::Turn(holder)));
        }
        world.events.insert((5_000 * MS, Event::Restart(0)));
        world
    }

    fn agent(&mut self) -> AppState {
        let rate = if self.mistake == Mistake::AgentsAreFast {
            1.3
        } else {
            1.0
        };
        let clock = drifting(&mut self.random, &self.now, rate, false);
        AppState::with_clock(Arc::clone(&self.store), Limits::default(), Arc::new(clock))
    }

    async fn run(&mut self) {
        while let Some((at, event)) = self.events.pop_first() {
            if at > END || !self.problems.is_empty() {
                return;
            }
            self.now.store(at, Ordering::Relaxed);
            match event {
                Event::Turn(holder) if self.sleeps(holder, at, event) => {}
                Event::Turn(holder) => self.turn(holder, at),
                Event::Arrives(number) => self.arrives(number, at).await,
                Event::Answered(number) => {
                    let holder = self.requests[&number].holder;
                    if !self.sleeps(holder, at, event) {
                        self.answered(number, at);
                    }
                }
                Event::Restart(agent) => {
                    self.agents[agent] = self.agent();
                    let later = at + self.random.u64(2_000..15_000) * MS;
                    self.events.insert((later, Event::Restart(1 - agent)));
                }
            }
            self.look(at);
        }
    }

    /// What happens to somebody asleep happens when it wakes up.
    fn sleeps(&mut self, holder: usize, at: u64, event: Event) -> bool {
        let until = self.holders[holder].asleep_until;
        if at < until {
            self.events.insert((until, event));
        }
        at < until
    }

    fn turn(&mut self, number: usize, at: u64) {
        // Anybody may be paused at any moment, also for longer than the lock lives.
        if self.random.u8(..100) < 8 {
            let pause = self.random.u64(1..3_000) * MS;
            self.holders[number].asleep_until = at + pause;
            self.events.insert((at + pause, Event::Turn(number)));
            return;
        }
        let acts = self.acts(number);
        let holder = &mut self.holders[number];
        if !acts && let Some((token, _)) = holder.lease.take() {
            holder.old = Some(token);
        }
        let current = holder.lease.map(|(token, _)| token);
        if let Some(token) = current.or(holder.old)
            && self.random.u8(..100) < 50
        {
            self.send(number, Ask::Write(token), at);
        }
        match current {
            // A holder that died renews no more.
            Some(token) if self.random.u8(..100) < 97 => self.send(number, Ask::Renew(token), at),
            Some(_) => self.holders[number].asleep_until = at + 5_000 * MS,
            None if !self.holders[number].waiting => {
                self.holders[number].attempts += 1;
                self.holders[number].waiting = true;
                self.send(number, Ask::Acquire, at);
            }
            None => {}
        }
        let pause = self.random.u64(100..400) * MS;
        self.events.insert((at + pause, Event::Turn(number)));
    }

    fn send(&mut self, holder: usize, ask: Ask, at: u64) {
        let sent = self.holders[holder].clock.now();
        if self.mistake == Mistake::CountsWithoutAnswer
            && let Ask::Renew(token) = ask
        {
            self.count(holder, token, sent);
        }
        let request = Request {
            holder,
            agent: self.random.usize(..2),
            ask,
            sent,
            answer: None,
        };
        let number = self.next;
        self.next += 1;
        self.requests.insert(number, request);
        match self.delay() {
            Some(delay) => drop(self.events.insert((at + delay, Event::Arrives(number)))),
            None => self.give_up(holder, ask),
        }
    }

    /// How long a message takes; none if it is lost.
    fn delay(&mut self) -> Option<u64> {
        match self.random.u8(..100) {
            0..70 => Some(self.random.u64(1..20) * MS),
            70..85 => Some(self.random.u64(20..400) * MS),
            85..92 => Some(self.random.u64(400..2_500) * MS),
            _ => None,
        }
    }

    fn give_up(&mut self, holder: usize, ask: Ask) {
        if ask == Ask::Acquire {
            self.holders[holder].waiting = false;
        }
    }

    async fn arrives(&mut self, number: u64, at: u64) {
        let request = &self.requests[&number];
        let (holder, ask) = (request.holder, request.ask);
        let agent = &self.agents[request.agent];
        let service = &self.service;
        let answer = match ask {
            Ask::Acquire => {
                let wish = Wish {
                    owner: format!("holder-{holder}"),
                    ttl: TTL,
                    wait: Millis(0),
                    attempt: format!("{}", self.holders[holder].attempts),
                };
                agent.acquire(service, "leader", &wish).await.map(|held| held.token)
            }
            Ask::Renew(token) => agent.renew(service, "leader", token).await.map(|held| held.token),
            Ask::Write(token) => {
                let condition = Condition::Lock {
                    name: "leader".into(),
                    token,
                };
                agent
                    .put(service, "journal", token.to_string().into_bytes(), vec![condition])
                    .await
            }
        };
        match (&ask, &answer) {
            (Ask::Acquire, Ok(token)) if self.tokens.last() != Some(token) => self.tokens.push(*token),
            (Ask::Write(token), Ok(_)) => self.writes.push(*token),
            (Ask::Write(_), Err(Error::LockLost { .. })) => self.refused_writes += 1,
            _ => {}
        }
        if let Some(request) = self.requests.get_mut(&number) {
            request.answer = Some(answer);
        }
        match self.delay() {
            Some(delay) => drop(self.events.insert((at + delay, Event::Answered(number)))),
            None => self.give_up(holder, ask),
        }
    }

    fn answered(&mut self, number: u64, _at: u64) {
        let Some(request) = self.requests.remove(&number) else {
            return;
        };
        self.give_up(request.holder, request.ask);
        let now = self.holders[request.holder].clock.now();
        let sent = match self.mistake {
            Mistake::CountsFromTheAnswer => now,
            _ => request.sent,
        };
        match (request.ask, request.answer) {
            (Ask::Acquire, Some(Ok(token))) => {
                self.holders[request.holder].lease = Some((token, Lease::new(TTL.duration(), sent)));
            }
            (Ask::Renew(token), Some(Ok(_))) => self.count(request.holder, token, sent),
            (Ask::Renew(token), Some(Err(Error::LockLost { .. }))) => {
                let holder = &mut self.holders[request.holder];
                if holder.lease.is_some_and(|(held, _)| held == token) {
                    holder.lease = None;
                    holder.old = Some(token);
                }
            }
            _ => {}
        }
    }

    fn count(&mut self, number: usize, token: Revision, sent: Mark) {
        let holder = &mut self.holders[number];
        let now = holder.clock.now();
        if let Some((held, lease)) = &mut holder.lease
            && *held == token
        {
            lease.acknowledge(sent, now);
        }
    }

    fn acts(&self, number: usize) -> bool {
        let holder = &self.holders[number];
        holder
            .lease
            .is_some_and(|(_, lease)| !lease.remaining(holder.clock.now()).is_zero())
    }

    /// The truth: whoever may act by its own lease, asleep or not.
    fn look(&mut self, at: u64) {
        let acting: Vec<usize> = (0..HOLDERS).filter(|number| self.acts(*number)).collect();
        if acting.len() > 1 {
            self.problems.push(format!("at {} ms {acting:?} act at once", at / MS));
        }
        if !self.tokens.is_sorted_by(|earlier, later| earlier < later) {
            self.problems.push(format!("tokens do not rise: {:?}", self.tokens));
        }
        if !self.writes.is_sorted() {
            self.problems
                .push(format!("a write with an older token was accepted: {:?}", self.writes));
        }
    }
}

fn drifting(random: &mut fastrand::Rng, now: &Arc<AtomicU64>, rate: f64, slow: bool) -> Drifting {
    let raw_rate = rate * (1.0 + (random.f64() - 0.5) * 0.002);
    let boot = 1.0 + (random.f64() - 0.5) * 0.2;
    // A clock that never counts more makes the slower one count: as if the holder took the shorter span.
    let (raw_rate, boot_rate) = match slow {
        true => (raw_rate * 0.9, raw_rate * 0.9),
        false => (raw_rate, raw_rate * boot),
    };
    Drifting {
        now: Arc::clone(now),
        offset: random.u64(..1 << 40),
        raw_rate,
        boot_rate,
    }
}

async fn play(seed: u64, mistake: Mistake) -> World {
    let mut world = World::new(seed, mistake);
    world.run().await;
    world
}

#[tokio::test]
async fn two_holders_never_act_at_once_and_no_late_write_is_accepted() {
    let (mut acquisitions, mut refused) = (0, 0);
    for seed in 0..60 {
        let world = play(seed, Mistake::None).await;
        assert!(world.problems.is_empty(), "seed {seed}: {:?}", world.problems);
        // Whoever held it and died or slept was replaced, again and again.
        assert!(
            world.tokens.len() >= 10,
            "seed {seed}: only {} acquisitions",
            world.tokens.len()
        );
        acquisitions += world.tokens.len();
        refused += world.refused_writes;
    }
    assert!(
        refused > 100,
        "only {refused} late writes of {acquisitions} holders were tried"
    );
}

#[tokio::test]
async fn each_mistake_lets_two_act_at_once() {
    for mistake in [
        Mistake::CountsFromTheAnswer,
        Mistake::CountsWithoutAnswer,
        Mistake::AgentsAreFast,
        Mistake::HolderTakesTheSlowerClock,
    ] {
        let mut caught = None;
        for seed in 0..150 {
            let world = play(seed, mistake).await;
            if let Some(problem) = world.problems.first() {
                assert!(problem.contains("act at once"), "{mistake:?}: {problem}");
                caught = Some(seed);
                break;
            }
        }
        assert!(caught.is_some(), "{mistake:?} was not noticed");
    }
}

/// The safety of the test itself: clocks that stood still would hide everything.
#[test]
fn made_up_clocks_run_as_they_are_said_to() {
    let now = Arc::new(AtomicU64::new(0));
    let mut random = fastrand::Rng::with_seed(1);
    let clock = drifting(&mut random, &now, 1.0, false);
    let begun = clock.now();
    now.store(1_000 * MS, Ordering::Relaxed);
    let raw = Duration::from_nanos(clock.now().raw_ns - begun.raw_ns);
    assert!(
        raw.abs_diff(Duration::from_secs(1)) <= Duration::from_millis(1),
        "{raw:?}"
    );
}
