//! Carrying out what the machine of deadlines asks for: descriptors opened before, nothing allocated, nothing logged until all
//! is done.

use super::cgroup::Cgroup;
use super::clock::mark;
use super::machine::Machine;
use super::protocol::{Armament, What};
use super::words::{Act, Effect, Key, State, Told};
use super::worker::Gate;
use model::Mark;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// What a slot is armed with.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) armament: Armament,
    /// None for a slot that is not fenced.
    pub(super) cgroup: Option<Cgroup>,
    pub(super) gate: Arc<Gate>,
    /// Killed, but not seen empty yet.
    pub(super) dying: bool,
    /// The kernel did not freeze or kill it.
    pub(super) failed: bool,
}

/// Something to tell the agent.
#[derive(Debug, Clone, Copy)]
pub(super) struct News {
    pub(super) key: Key,
    pub(super) what: What,
    /// How long after its deadline it was done.
    pub(super) late: Option<Duration>,
}

/// The machine and what it acts upon.
#[derive(Debug, Default)]
pub(super) struct Fire {
    pub(super) machine: Machine,
    /// By key.
    pub(super) targets: Vec<Option<Target>>,
    /// To be told once everything is done.
    news: VecDeque<News>,
    /// A gate or an address was told to change.
    gates_moved: bool,
}

impl Fire {
    /// Puts a target in its place; the machine has armed it.
    pub(super) fn aim(&mut self, key: Key, target: Target) {
        while self.targets.len() <= key {
            self.targets.push(None);
        }
        self.targets[key] = Some(target);
        self.news.reserve(16 * self.targets.len());
    }

    /// Carries out what is due at `now` and whatever else the machine asks for.
    pub(super) fn tick(&mut self, now: Mark) {
        for (key, slot) in self.targets.iter().enumerate() {
            let (Some(target), Some(State::Frozen)) = (slot, self.machine.slots().get(key).map(|slot| slot.state))
            else {
                continue;
            };
            let frozen = target
                .cgroup
                .as_ref()
                .is_some_and(|cgroup| cgroup.events().is_ok_and(|events| events.frozen));
            self.machine.observe(key, frozen);
        }
        self.machine.tick(now);
        self.carry_out();
        self.look_after_the_dying();
    }

    pub(super) fn carry_out(&mut self) {
        while let Some(Effect { key, act }) = self.machine.poll_effect() {
            let Some(Some(target)) = self.targets.get_mut(key) else {
                continue;
            };
            match act {
                Act::CloseGate => {
                    // Handed over before anything else, but not waited for: it needs a lock of the kernel that others hold for long.
                    target.gate.close();
                    self.gates_moved = true;
                }
                Act::OpenGate { renewed, hard } => {
                    target.gate.open(renewed, hard);
                    self.gates_moved = true;
                }
                Act::RemoveAddress => {
                    target.gate.remove_address();
                    self.gates_moved = true;
                }
                Act::Freeze | Act::Thaw | Act::Kill => {
                    if self.gates_moved {
                        self.gates_moved = false;
                        target.gate.wake();
                    }
                    if let Some(errno) = target.apply(act) {
                        self.news.push_back(News::of(key, What::Failed { errno }));
                    }
                }
                Act::Tell(told) => {
                    let renewed = self.machine.slots().get(key).map(|slot| slot.renewed);
                    self.news.push_back(News::told(key, told, renewed));
                }
            }
            if self.gates_moved && matches!(act, Act::RemoveAddress | Act::OpenGate { .. }) {
                self.gates_moved = false;
                target.gate.wake();
            }
        }
        if std::mem::take(&mut self.gates_moved)
            && let Some(target) = self.targets.iter().flatten().next()
        {
            target.gate.wake();
        }
    }

    /// Kills again what was killed and is not gone, and what could not be frozen is frozen again.
    fn look_after_the_dying(&mut self) {
        for (key, target) in self.targets.iter_mut().enumerate() {
            let Some(target) = target else { continue };
            let Some(cgroup) = &target.cgroup else { continue };
            let state = self.machine.slots().get(key).map(|slot| slot.state);
            if target.dying {
                if cgroup.events().is_ok_and(|events| !events.populated) {
                    target.dying = false;
                    target.failed = false;
                    self.news.push_back(News::of(key, What::Gone));
                } else {
                    target.failed = cgroup.kill().is_err();
                }
            } else if target.failed && state == Some(State::Frozen) {
                target.failed = cgroup.freeze().is_err();
            }
        }
    }

    /// What the agent has to be told, oldest first.
    pub(super) fn poll_news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    /// Whether every deadline was kept: whatever had to be frozen or killed was.
    pub(super) fn keeps_deadlines(&self) -> bool {
        self.targets.iter().flatten().all(|target| !target.failed)
    }

    pub(super) fn is_anything_armed(&self) -> bool {
        let lives = |state| matches!(state, State::Armed | State::Frozen);
        self.machine.slots().iter().any(|slot| lives(slot.state))
            || self.targets.iter().flatten().any(|target| target.dying)
    }
}

impl Target {
    /// Returns the error number if the kernel did not do it.
    fn apply(&mut self, act: Act) -> Option<i32> {
        let cgroup = self.cgroup.as_ref()?;
        let result = match act {
            Act::Freeze => cgroup.freeze(),
            Act::Thaw => cgroup.thaw(),
            _ => {
                self.dying = true;
                cgroup.kill()
            }
        };
        self.failed = result.is_err();
        result.err().map(rustix::io::Errno::raw_os_error)
    }
}

/// Goes through the whole fire path once, with files that do nothing, so that its code and its memory are there when it counts.
pub(super) fn rehearse(armament: Armament, cgroup: Cgroup, gate: Arc<Gate>) {
    use super::words::{Arm, Deadlines, Event};
    let now = mark();
    let mut fire = Fire::default();
    let span = std::time::Duration::from_millis;
    let deadlines = Deadlines {
        soft: span(1_000),
        hard: span(2_000),
    };
    let arm = Arm {
        slot: armament.slot.clone(),
        epoch: armament.epoch,
        policy: armament.policy,
        frozen_max: span(0),
        predecessor_gone: true,
        leaves: Vec::new(),
        is_empty: false,
    };
    let events = [
        Event::Register,
        Event::Deadlines(deadlines),
        Event::Session {
            session: 1,
            renewed: now,
        },
        Event::Arm(arm),
    ];
    for event in events {
        // Nothing of this can be refused, and nothing depends on it.
        let _ = fire.machine.handle(1, event, now);
    }
    fire.aim(
        0,
        Target {
            armament,
            cgroup: Some(cgroup),
            gate,
            dying: false,
            failed: false,
        },
    );
    for ms in [0, 1_100, 1_150, 2_100, 2_150] {
        fire.tick(now.later(span(ms)));
        std::hint::black_box(fire.machine.next_wakeup(now));
    }
    while std::hint::black_box(fire.poll_news()).is_some() {}
}

impl News {
    fn of(key: Key, what: What) -> Self {
        Self { key, what, late: None }
    }

    fn told(key: Key, told: Told, renewed: Option<Mark>) -> Self {
        let (what, due) = match told {
            Told::Quiesce => (What::Quiesce, None),
            Told::Resumed => (What::Resumed, None),
            Told::Frozen { due } => (What::Frozen, Some(due)),
            Told::Thawed { address_removed } => (What::Thawed { address_removed }, None),
            Told::Fired { due } => (What::Fired, due),
        };
        let late = due
            .zip(renewed)
            .map(|(due, renewed)| mark().held_for(renewed).saturating_sub(due));
        Self { key, what, late }
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::{Arm, Deadlines, Event, Policy};
    use super::super::worker::Worker;
    use super::*;
    use crate::fence::cgroup::Cgroup;
    use model::{Epoch, Millis, ServiceName, SlotId};
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;

    thread_local! {
        static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    }

    struct Counting;

    #[expect(unsafe_code, reason = "an allocator that counts is an allocator")]
    // SAFETY: everything is left to the system's allocator.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
            // SAFETY: the caller's promise is the system's.
            unsafe { System.alloc(layout) }
        }
        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            // SAFETY: the caller's promise is the system's.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    #[global_allocator]
    static COUNTING: Counting = Counting;

    #[test]
    fn freezing_and_killing_a_hundred_slots_allocates_nothing() {
        let worker = Worker::start("allocates-nothing".into()).expect("a worker");
        let span = Duration::from_millis;
        let now = mark();
        let mut fire = Fire::default();
        let deadlines = Deadlines {
            soft: span(1_000),
            hard: span(2_000),
        };
        let mut tell = |event| fire.machine.handle(1, event, now).expect("lawful");
        tell(Event::Register);
        tell(Event::Deadlines(deadlines));
        tell(Event::Session {
            session: 1,
            renewed: now,
        });
        for number in 0..100 {
            let slot = SlotId {
                service: ServiceName::new("db").expect("a name"),
                slot: number,
            };
            let armament = Armament {
                slot: slot.clone(),
                epoch: Epoch(1),
                policy: Policy::Freeze,
                frozen_max: Millis(0),
                cgroup: "/".into(),
                ports: Vec::new(),
                addresses: Vec::new(),
                floating: None,
                exchanged: None,
            };
            let arm = Arm {
                slot,
                epoch: Epoch(1),
                policy: Policy::Freeze,
                frozen_max: Duration::ZERO,
                predecessor_gone: true,
                leaves: Vec::new(),
                is_empty: false,
            };
            fire.machine.handle(1, Event::Arm(arm), now).expect("armed");
            let target = Target {
                armament,
                cgroup: Some(Cgroup::of_nothing().expect("/dev/null")),
                gate: worker.gate(),
                dying: false,
                failed: false,
            };
            fire.aim(number as Key, target);
            fire.carry_out();
        }
        let before = ALLOCATIONS.get();
        fire.tick(now.later(span(1_500)));
        fire.tick(now.later(span(2_500)));
        assert_eq!(ALLOCATIONS.get() - before, 0);
        let fired = std::iter::from_fn(|| fire.poll_news()).filter(|news| news.what == What::Fired);
        assert_eq!(fired.count(), 100);
        // It made its table, if it may.
        let _ = crate::gates::Gates::remove("allocates-nothing");
    }
}
