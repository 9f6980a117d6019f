//! The machine of deadlines under any order of events: nothing runs or lives longer than its renewals allow.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use guard::fence::machine::Machine;
use guard::fence::words::{Act, Arm, Deadlines, Event, Policy, Refused, State, Told};
use model::{Epoch, Mark, ServiceName, SlotId};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

const SOFT: u64 = 100;
const HARD: u64 = 160;
const FROZEN_MAX: u64 = 700;
const SLOTS: u32 = 2;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn slot(number: u32) -> SlotId {
    SlotId {
        service: ServiceName::new("db").unwrap(),
        slot: number,
    }
}

/// What may happen, in any order.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Time passes, unequally on the two clocks, and the guard looks.
    Pass {
        boot_ms: u64,
        raw_ms: u64,
    },
    /// Time passes, and the guard does not look.
    Stall {
        ms: u64,
    },
    Register,
    /// A renewal sent so long ago is acknowledged. By which of the agents, in which of the sessions.
    Renewed {
        age_ms: u64,
        agent: u64,
        session: u64,
    },
    Session {
        agent: u64,
        session: u64,
        age_ms: u64,
    },
    Arm {
        agent: u64,
        slot: u32,
        epoch: u64,
        policy: Policy,
        frozen_max: bool,
    },
    Rebind {
        agent: u64,
        slot: u32,
        epoch: u64,
    },
    Disarm {
        agent: u64,
        slot: u32,
    },
    /// Somebody thaws a cgroup by hand.
    Meddle {
        slot: u32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (agent, session, number) = (0..4_u64, 1..4_u64, 0..SLOTS);
    let policy = prop_oneof![3 => Just(Policy::Freeze), 2 => Just(Policy::Kill), 1 => Just(Policy::Ignore)];
    prop_oneof![
        8 => (0..60_u64, 0..60_u64).prop_map(|(boot_ms, raw_ms)| Step::Pass { boot_ms, raw_ms }),
        1 => (0..300_u64).prop_map(|ms| Step::Stall { ms }),
        1 => Just(Step::Register),
        6 => (0..260_u64, agent.clone(), session.clone())
            .prop_map(|(age_ms, agent, session)| Step::Renewed { age_ms, agent, session }),
        1 => (agent.clone(), session, 0..120_u64)
            .prop_map(|(agent, session, age_ms)| Step::Session { agent, session, age_ms }),
        3 => (agent.clone(), number.clone(), 1..12_u64, policy, any::<bool>())
            .prop_map(|(agent, slot, epoch, policy, frozen_max)| Step::Arm { agent, slot, epoch, policy, frozen_max }),
        1 => (agent.clone(), number.clone(), 1..12_u64).prop_map(|(agent, slot, epoch)| Step::Rebind { agent, slot, epoch }),
        1 => (agent, number.clone()).prop_map(|(agent, slot)| Step::Disarm { agent, slot }),
        1 => number.prop_map(|slot| Step::Meddle { slot }),
    ]
}

/// The truth about a slot, kept apart from the machine.
#[derive(Debug, Clone, Copy, Default)]
struct Truth {
    lives: bool,
    frozen: bool,
    gate: bool,
    guarded: bool,
    policy: Option<Policy>,
    frozen_max: u64,
    epoch: u64,
    session: u64,
    /// Send of the newest acknowledged renewal of its session, told by the agent that counts.
    renewed: Mark,
    frozen_at: Mark,
    fired: bool,
}

#[derive(Debug, Default)]
struct World {
    machine: Machine,
    now: Mark,
    latest: u64,
    sessions: BTreeMap<u64, Mark>,
    current: Option<u64>,
    slots: [Truth; SLOTS as usize],
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            now: Mark::default().later(ms(10_000)),
            latest: 2,
            ..Self::default()
        };
        world.tell(2, Event::Register).unwrap();
        let (soft, hard) = (ms(SOFT), ms(HARD));
        world.tell(2, Event::Deadlines(Deadlines { soft, hard })).unwrap();
        world
    }

    fn tell(&mut self, agent: u64, event: Event) -> Result<(), Refused> {
        let result = self.machine.handle(agent, event, self.now);
        self.carry_out();
        result
    }

    fn ago(&self, age_ms: u64) -> Mark {
        let ns = age_ms * 1_000_000;
        Mark {
            boot_ns: self.now.boot_ns - ns,
            raw_ns: self.now.raw_ns - ns,
        }
    }

    fn carry_out(&mut self) {
        while let Some(effect) = self.machine.poll_effect() {
            let number = self.machine.slots()[effect.key].id.slot as usize;
            let truth = &mut self.slots[number];
            match effect.act {
                Act::CloseGate => truth.gate = false,
                Act::OpenGate { renewed, .. } => {
                    assert_eq!(renewed, truth.renewed, "the gate is open for another renewal's time");
                    truth.gate = true;
                }
                Act::Freeze => {
                    truth.frozen = true;
                    truth.frozen_at = self.now;
                }
                Act::Thaw => {
                    let age = self.now.held_for(truth.renewed);
                    let may = truth.policy == Some(Policy::Ignore) || age < ms(SOFT);
                    assert!(may, "thawed by a renewal that is {age:?} old");
                    truth.frozen = false;
                }
                Act::Kill => {
                    truth.lives = false;
                    truth.fired = true;
                }
                Act::Tell(Told::Thawed { .. } | Told::Resumed) => assert!(!truth.fired, "revived"),
                Act::RemoveAddress | Act::Tell(_) => {}
            }
        }
    }

    fn look(&mut self) {
        for (number, truth) in self.slots.iter().enumerate() {
            if let Some(key) = self.machine.key(&slot(number as u32)) {
                self.machine.observe(key, truth.frozen);
            }
        }
        self.machine.tick(self.now);
        self.carry_out();
    }

    fn play(&mut self, step: Step) {
        match step {
            Step::Pass { boot_ms, raw_ms } => {
                self.now.boot_ns += boot_ms * 1_000_000;
                self.now.raw_ns += raw_ms * 1_000_000;
                self.look();
                self.judge();
            }
            Step::Stall { ms: span } => self.now = self.now.later(ms(span)),
            Step::Register => {
                self.latest = (self.latest + 1).min(3);
                self.tell(self.latest, Event::Register).unwrap();
                assert!(self.tell(self.latest - 1, Event::Register).is_err());
            }
            Step::Renewed { age_ms, agent, session } => {
                let mark = self.ago(age_ms);
                // The truth first: effects are judged by it.
                if agent == self.latest && self.current == Some(session) {
                    self.raise(session, mark);
                }
                let _ = self.tell(agent, Event::Renewed { session, mark });
            }
            Step::Session { agent, session, age_ms } => {
                let renewed = self.ago(age_ms);
                if agent == self.latest {
                    if self.current == Some(session) {
                        self.raise(session, renewed);
                    } else {
                        self.current = Some(session);
                        self.sessions.insert(session, renewed);
                    }
                }
                let _ = self.tell(agent, Event::Session { session, renewed });
            }
            Step::Arm {
                agent,
                slot: number,
                epoch,
                policy,
                frozen_max,
            } => self.arm(agent, number, epoch, policy, frozen_max),
            Step::Rebind {
                agent,
                slot: number,
                epoch,
            } => self.rebind(agent, number, epoch),
            Step::Disarm { agent, slot: number } => {
                let gone = !self.slots[number as usize].lives;
                if self
                    .tell(
                        agent,
                        Event::Disarm {
                            slot: slot(number),
                            gone,
                        },
                    )
                    .is_ok()
                {
                    assert_eq!(agent, self.latest);
                    let truth = &mut self.slots[number as usize];
                    assert!(!truth.frozen || gone, "what is frozen was given up alive");
                    truth.guarded = false;
                }
            }
            Step::Meddle { slot } => self.slots[slot as usize].frozen = false,
        }
    }

    /// The newest of what is later on both clocks.
    fn raise(&mut self, session: u64, mark: Mark) {
        let known = self.sessions.get_mut(&session).unwrap();
        if mark.boot_ns > known.boot_ns && mark.raw_ns > known.raw_ns {
            *known = mark;
            for truth in &mut self.slots {
                if truth.session == session && truth.guarded && !truth.fired {
                    truth.renewed = mark;
                }
            }
        }
    }

    fn arm(&mut self, agent: u64, number: u32, epoch: u64, policy: Policy, frozen_max: bool) {
        let before = self.slots[number as usize];
        let frozen_max = if frozen_max { FROZEN_MAX } else { 0 };
        let predecessor_gone = !before.lives || !before.frozen;
        let session = self.current.unwrap_or(0);
        let newer = epoch > before.epoch;
        if agent == self.latest && self.current.is_some() && newer && predecessor_gone {
            let renewed = self.sessions[&session];
            if policy == Policy::Ignore || self.now.held_for(renewed) < ms(SOFT) {
                self.slots[number as usize] = Truth {
                    lives: true,
                    frozen: before.frozen && before.lives,
                    guarded: true,
                    policy: Some(policy),
                    frozen_max,
                    epoch,
                    session,
                    renewed,
                    ..Truth::default()
                };
            }
        }
        let arm = Arm {
            slot: slot(number),
            epoch: Epoch(epoch),
            policy,
            frozen_max: ms(frozen_max),
            predecessor_gone,
            leaves: Vec::new(),
            is_empty: false,
        };
        let result = self.tell(agent, Event::Arm(arm));
        let now = self.slots[number as usize];
        if result.is_err() {
            assert_eq!(now.epoch, before.epoch, "refused although it may: {result:?}");
        } else {
            assert_eq!(agent, self.latest, "an agent of earlier has armed");
            assert_eq!(now.epoch, epoch);
            assert!(!now.fired, "armed what has fired at the same epoch");
        }
    }

    fn rebind(&mut self, agent: u64, number: u32, epoch: u64) {
        let before = self.slots[number as usize];
        let key = self.machine.key(&slot(number));
        let is_frozen = key.is_some_and(|key| self.machine.slots()[key].state == State::Frozen);
        if let Some(session) = self.current
            && agent == self.latest
            && is_frozen
            && epoch == before.epoch
        {
            let truth = &mut self.slots[number as usize];
            let renewed = self.sessions[&session];
            truth.session = session;
            if renewed.boot_ns > truth.renewed.boot_ns && renewed.raw_ns > truth.renewed.raw_ns {
                truth.renewed = renewed;
            }
        }
        let event = Event::Rebind {
            slot: slot(number),
            epoch: Epoch(epoch),
        };
        if self.tell(agent, event).is_ok() {
            assert!(agent == self.latest && is_frozen && epoch == before.epoch);
        }
    }

    /// The promise, right after the guard has looked.
    fn judge(&self) {
        for truth in self.slots.iter().filter(|truth| truth.guarded && truth.lives) {
            let age = self.now.held_for(truth.renewed);
            match truth.policy {
                Some(Policy::Freeze) => {
                    assert!(
                        age < ms(SOFT) || truth.frozen || age < ms(HARD),
                        "meddled with, and alive: {truth:?}"
                    );
                    let may_live = truth.frozen && self.now.held_for(truth.frozen_at) < ms(truth.frozen_max);
                    assert!(age < ms(HARD) || may_live, "lives at {age:?}: {truth:?}");
                }
                Some(Policy::Kill) => assert!(age < ms(HARD), "lives at {age:?}: {truth:?}"),
                _ => continue,
            }
            assert!(age < ms(SOFT) || !truth.gate, "the gate is open at {age:?}: {truth:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_outlives_its_renewals(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in steps {
            world.play(step);
        }
    }

    #[test]
    fn without_meddling_nothing_runs_past_the_soft_deadline(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in steps {
            if matches!(step, Step::Meddle { .. }) {
                continue;
            }
            let looks = matches!(step, Step::Pass { .. });
            world.play(step);
            for truth in world.slots.iter().filter(|truth| looks && truth.guarded && truth.lives) {
                let age = world.now.held_for(truth.renewed);
                let freezes = truth.policy == Some(Policy::Freeze);
                prop_assert!(!freezes || truth.frozen || age < ms(SOFT), "runs at {age:?}: {truth:?}");
            }
        }
    }
}

/// An armed slot in session 1, renewed at the start.
fn armed(policy: Policy, frozen_max: u64) -> World {
    let mut world = World::new();
    let renewed = world.now;
    world.play(Step::Session {
        agent: 2,
        session: 1,
        age_ms: 0,
    });
    world.arm(2, 0, 1, policy, frozen_max > 0);
    assert_eq!(world.slots[0].renewed, renewed);
    world
}

fn state(world: &World) -> State {
    world.machine.slots()[0].state
}

fn pass(world: &mut World, span: u64) {
    world.play(Step::Pass {
        boot_ms: span,
        raw_ms: span,
    });
}

#[test]
fn wakeups_are_the_deadlines() {
    let mut world = armed(Policy::Freeze, FROZEN_MAX);
    assert_eq!(world.machine.next_wakeup(world.now), Some(ms(SOFT)));
    pass(&mut world, SOFT);
    assert_eq!(world.machine.next_wakeup(world.now), Some(ms(HARD - SOFT)));
    pass(&mut world, HARD - SOFT);
    assert_eq!(state(&world), State::Frozen);
    assert_eq!(
        world.machine.next_wakeup(world.now),
        Some(ms(FROZEN_MAX - (HARD - SOFT)))
    );
    pass(&mut world, FROZEN_MAX - (HARD - SOFT));
    assert_eq!(
        (state(&world), world.machine.next_wakeup(world.now)),
        (State::Fired, None)
    );
}

#[test]
fn the_faster_of_the_two_clocks_decides() {
    for (boot_ms, raw_ms) in [(SOFT, 0), (0, SOFT)] {
        let mut world = armed(Policy::Freeze, 0);
        world.play(Step::Pass { boot_ms, raw_ms });
        assert_eq!(state(&world), State::Frozen);
    }
}

#[test]
fn a_renewal_read_after_a_stall_but_before_the_look_keeps_it_running() {
    let mut world = armed(Policy::Freeze, 0);
    world.play(Step::Stall { ms: 10 * HARD });
    world.play(Step::Renewed {
        age_ms: 10,
        agent: 2,
        session: 1,
    });
    pass(&mut world, 1);
    assert_eq!(state(&world), State::Armed);
}

#[test]
fn a_frozen_slot_of_an_earlier_session_thaws_only_once_it_is_rebound() {
    let mut world = armed(Policy::Freeze, FROZEN_MAX);
    pass(&mut world, SOFT);
    world.play(Step::Session {
        agent: 2,
        session: 2,
        age_ms: 0,
    });
    world.play(Step::Renewed {
        age_ms: 0,
        agent: 2,
        session: 2,
    });
    pass(&mut world, 1);
    assert_eq!(state(&world), State::Frozen);
    world.rebind(2, 0, 1);
    assert_eq!(state(&world), State::Armed);
    assert!(!world.slots[0].frozen && world.slots[0].gate);
}

#[test]
fn a_mark_that_lies_ahead_is_refused() {
    let mut world = armed(Policy::Freeze, 0);
    let mark = world.now.later(ms(1));
    let event = Event::Renewed { session: 1, mark };
    assert_eq!(world.tell(2, event), Err(Refused::AheadOfTime));
}

#[test]
fn a_longer_lease_counts_from_the_renewal_that_told_the_store_of_it() {
    let mut world = armed(Policy::Freeze, 0);
    let (soft, hard) = (ms(10 * SOFT), ms(10 * HARD));
    world.tell(2, Event::Deadlines(Deadlines { soft, hard })).unwrap();
    assert_eq!(world.machine.next_wakeup(world.now), Some(ms(SOFT)));
    world.now = world.now.later(ms(10));
    world.play(Step::Renewed {
        age_ms: 5,
        agent: 2,
        session: 1,
    });
    assert_eq!(world.machine.next_wakeup(world.now), Some(ms(10 * SOFT - 5)));
}

/// Arms another slot with what `armed` has armed the first one with.
fn arm_another(world: &mut World, is_empty: bool) -> Result<(), Refused> {
    let arm = Arm {
        slot: slot(1),
        epoch: Epoch(1),
        policy: Policy::Freeze,
        frozen_max: ms(FROZEN_MAX),
        predecessor_gone: true,
        leaves: vec![slot(0)],
        is_empty,
    };
    world.machine.handle(2, Event::Arm(arm), world.now)
}

#[test]
fn what_is_armed_for_another_slot_leaves_the_one_before() {
    let mut world = armed(Policy::Freeze, FROZEN_MAX);
    assert_eq!(arm_another(&mut world, false), Ok(()));
    let states = |world: &World| world.machine.slots().iter().map(|slot| slot.state).collect::<Vec<_>>();
    assert_eq!(states(&world), [State::Idle, State::Armed]);
    world.machine.tick(world.now.later(ms(HARD)));
    assert_eq!(states(&world), [State::Idle, State::Fired]);
}

#[test]
fn what_stands_still_leaves_its_slot_only_once_nothing_of_it_runs() {
    for is_empty in [false, true] {
        let mut world = armed(Policy::Freeze, FROZEN_MAX);
        pass(&mut world, SOFT);
        let next = Event::Session {
            session: 2,
            renewed: world.now,
        };
        world.tell(2, next).unwrap();
        let result = arm_another(&mut world, is_empty);
        if is_empty {
            assert_eq!((result, state(&world)), (Ok(()), State::Idle));
        } else {
            let refused = Refused::StillRuns { slot: slot(0) };
            assert_eq!((result, state(&world)), (Err(refused), State::Frozen));
            assert_eq!(world.machine.poll_effect(), None, "it was thawed");
        }
    }
}
