//! When exclusive actives are gated, frozen, killed and thawed: decisions alone, without a clock and without I/O.
//!
//! ```text
//!            arm                 age ≥ A, policy freeze             age ≥ G and not surely frozen, or frozen too long
//!   Idle ───────────► Armed ───────────────────────────► Frozen ──────────────────────────────────────► Fired
//!    ▲                 │  ▲                                │ │                                            │
//!    │     disarm      │  └── renewal younger than A ──────┘ │             age ≥ G, any policy             │
//!    ├─────────────────┴─────────────────────────────────────┴── disarm (nothing runs)                    │
//!    └──────────────────────────── disarm; only a higher epoch can be armed again ◄───────────────────────┘
//! ```
//! What is armed for another slot while this one is armed, or while nothing of it runs, leaves this one: it is idle from then on.
//!
//! *Age* is the longer of the two spans since the newest acknowledged renewal of the slot's session was **sent**
//! ([`Mark::held_for`]). A is the soft deadline, G the hard one.
//!
//! A frozen slot outlives G only if the kernel has confirmed the freeze, so that no instruction of it can run, and then for
//! [`Arm::frozen_max`] at most: an outage of the store is no reason to kill what can neither act nor be replaced. With
//! `frozen_max` zero it is killed at G like all others.

use super::words::{Act, Arm, Deadlines, Effect, Event, Key, Policy, Refused, SLOTS_MAX, State, Told};
use model::{Epoch, Mark, SlotId};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// One slot can ask for this many effects between two looks at them.
const EFFECTS_PER_SLOT: usize = 12;

/// A slot as the guard knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Which.
    pub id: SlotId,
    /// Where it stands.
    pub state: State,
    /// The highest epoch it was armed at.
    pub epoch: Epoch,
    /// The session it is held in.
    pub session: u64,
    /// When the renewal that its deadline rests on was sent.
    pub renewed: Mark,
    policy: Policy,
    deadlines: Deadlines,
    frozen_max: Duration,
    frozen_since: Mark,
    /// The kernel says that no process of it runs.
    surely_frozen: bool,
    quiescing: bool,
    address_removed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Session {
    id: u64,
    renewed: Mark,
    deadlines: Deadlines,
}

/// All slots of one guard.
#[derive(Debug, Default)]
pub struct Machine {
    latest: Option<u64>,
    deadlines: Option<Deadlines>,
    session: Option<Session>,
    keys: BTreeMap<SlotId, Key>,
    slots: Vec<Slot>,
    effects: VecDeque<Effect>,
}

impl Machine {
    /// Takes in one event of the agent with this incarnation. Acknowledged renewals that wait should be handed in before
    /// [`Machine::tick`]: they prove that the session lived, however late we look.
    pub fn handle(&mut self, incarnation: u64, event: Event, now: Mark) -> Result<(), Refused> {
        if matches!(event, Event::Register) {
            return self.register(incarnation);
        }
        let latest = self.latest.ok_or(Refused::NotRegistered)?;
        if incarnation != latest {
            return Err(Refused::Superseded { incarnation, latest });
        }
        match event {
            Event::Register => Ok(()),
            Event::Deadlines(deadlines) => {
                self.deadlines = Some(deadlines);
                Ok(())
            }
            Event::Session { session, renewed } => self.open(session, renewed, now),
            Event::Arm(arm) => self.arm(arm, now),
            Event::Rebind { slot, epoch } => self.rebind(&slot, epoch, now),
            Event::Disarm { slot, gone } => self.disarm(&slot, gone),
            Event::Renewed { session, mark } => self.renewed(session, mark, now),
        }
    }

    /// What the kernel says of a frozen slot. Told before each [`Machine::tick`]; somebody may have thawed it by hand.
    pub fn observe(&mut self, key: Key, surely_frozen: bool) {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.surely_frozen = surely_frozen && slot.state == State::Frozen;
        }
    }

    /// Carries out what is due. Allocates nothing.
    pub fn tick(&mut self, now: Mark) {
        for key in 0..self.slots.len() {
            let slot = &mut self.slots[key];
            if slot.policy == Policy::Ignore {
                continue;
            }
            let age = now.held_for(slot.renewed);
            let Deadlines { soft, hard } = slot.deadlines;
            let mut push = |act| self.effects.push_back(Effect { key, act });
            match slot.state {
                State::Idle | State::Fired => {}
                State::Armed if age >= hard => fire(slot, Some(hard), push),
                State::Armed if age >= soft && slot.policy == Policy::Freeze => {
                    slot.state = State::Frozen;
                    slot.frozen_since = now;
                    slot.surely_frozen = false;
                    push(Act::CloseGate);
                    push(Act::Freeze);
                    push(Act::Tell(Told::Frozen { due: soft }));
                }
                State::Armed if age >= soft && !slot.quiescing => {
                    slot.quiescing = true;
                    push(Act::CloseGate);
                    push(Act::Tell(Told::Quiesce));
                }
                State::Armed => {}
                State::Frozen => {
                    let too_long = now.held_for(slot.frozen_since) >= slot.frozen_max;
                    if age >= hard && (too_long || !slot.surely_frozen) {
                        let was_due = !too_long || slot.frozen_max.is_zero();
                        fire(slot, was_due.then_some(hard), push);
                    } else if age >= hard && !slot.address_removed {
                        slot.address_removed = true;
                        push(Act::RemoveAddress);
                    }
                }
            }
        }
    }

    /// The next thing to do, if any.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// How long after `now` the next deadline passes, if any is running. Zero: one has passed.
    pub fn next_wakeup(&self, now: Mark) -> Option<Duration> {
        self.slots.iter().filter_map(|slot| slot.next_deadline(now)).min()
    }

    /// The slots that were ever armed; the index is the key.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The key of a slot that was armed before.
    pub fn key(&self, slot: &SlotId) -> Option<Key> {
        self.keys.get(slot).copied()
    }

    /// The agent that counts.
    pub fn latest(&self) -> Option<u64> {
        self.latest
    }

    /// The present session and when its newest acknowledged renewal was sent.
    pub fn session(&self) -> Option<(u64, Mark)> {
        self.session.map(|session| (session.id, session.renewed))
    }

    fn register(&mut self, incarnation: u64) -> Result<(), Refused> {
        match self.latest {
            Some(latest) if incarnation < latest => Err(Refused::Superseded { incarnation, latest }),
            _ => {
                self.latest = Some(incarnation);
                Ok(())
            }
        }
    }

    fn open(&mut self, id: u64, renewed: Mark, now: Mark) -> Result<(), Refused> {
        if let Some(session) = self.session
            && session.id == id
        {
            return self.renewed(id, renewed, now);
        }
        let deadlines = self.deadlines.ok_or(Refused::NoTiming)?;
        if is_ahead(renewed, now) {
            return Err(Refused::AheadOfTime);
        }
        self.session = Some(Session { id, renewed, deadlines });
        Ok(())
    }

    fn arm(&mut self, arm: Arm, now: Mark) -> Result<(), Refused> {
        let session = self.session.ok_or(Refused::NoSession)?;
        let known = self.key(&arm.slot);
        if let Some(slot) = known.map(|key| &self.slots[key]) {
            let (known, epoch) = (slot.epoch, arm.epoch);
            let live = matches!(slot.state, State::Armed | State::Frozen);
            if epoch == known && live && slot.session == session.id {
                return Ok(());
            }
            if epoch <= known {
                let slot = arm.slot;
                return Err(Refused::OldEpoch { slot, known, epoch });
            }
            if !arm.predecessor_gone {
                return Err(Refused::StillRuns { slot: arm.slot });
            }
        }
        let stopped = |left: &&SlotId| matches!(self.find(left).1, State::Frozen | State::Fired);
        if let Some(left) = arm.leaves.iter().find(stopped).filter(|_| !arm.is_empty) {
            return Err(Refused::StillRuns { slot: left.clone() });
        }
        let age = now.held_for(session.renewed);
        let soft = session.deadlines.soft;
        if age >= soft && arm.policy != Policy::Ignore {
            return Err(Refused::DeadlinePassed { age, soft });
        }
        let slot = Slot {
            id: arm.slot.clone(),
            state: State::Armed,
            epoch: arm.epoch,
            session: session.id,
            renewed: session.renewed,
            policy: arm.policy,
            deadlines: session.deadlines,
            frozen_max: arm.frozen_max,
            frozen_since: now,
            surely_frozen: false,
            quiescing: false,
            address_removed: false,
        };
        let key = match known {
            Some(key) => {
                self.slots[key] = slot;
                key
            }
            None if self.slots.len() == SLOTS_MAX => return Err(Refused::TooMany),
            None => {
                self.slots.push(slot);
                self.keys.insert(arm.slot, self.slots.len() - 1);
                self.slots.len() - 1
            }
        };
        // Their deadlines would stop or end it for a slot that is not its own any more.
        for left in arm.leaves {
            if let (Some(left), _) = self.find(&left)
                && left != key
            {
                self.slots[left].state = State::Idle;
            }
        }
        // So that nothing needs memory when a deadline passes.
        self.effects.reserve(EFFECTS_PER_SLOT * self.slots.len());
        self.open_gate(key);
        // An agent that lost its guard has frozen it; from now on we are there.
        self.push(key, Act::Thaw);
        Ok(())
    }

    fn rebind(&mut self, slot: &SlotId, epoch: Epoch, now: Mark) -> Result<(), Refused> {
        let session = self.session.ok_or(Refused::NoSession)?;
        let (key, state) = self.find(slot);
        let (Some(key), State::Frozen) = (key, state) else {
            return Err(Refused::WrongState {
                slot: slot.clone(),
                state,
                wanted: "only a frozen slot is taken into a new session",
            });
        };
        let known = self.slots[key].epoch;
        if epoch != known {
            let slot = slot.clone();
            return Err(Refused::OldEpoch { slot, known, epoch });
        }
        self.slots[key].session = session.id;
        self.raise(key, session, now);
        Ok(())
    }

    fn disarm(&mut self, slot: &SlotId, gone: bool) -> Result<(), Refused> {
        let (key, state) = self.find(slot);
        let Some(key) = key else { return Ok(()) };
        if state == State::Frozen && !gone {
            // It would be thawed by nobody, or by somebody who must not.
            return Err(Refused::WrongState {
                slot: slot.clone(),
                state,
                wanted: "kill what is frozen before giving it up",
            });
        }
        self.slots[key].state = State::Idle;
        Ok(())
    }

    fn renewed(&mut self, id: u64, mark: Mark, now: Mark) -> Result<(), Refused> {
        if is_ahead(mark, now) {
            return Err(Refused::AheadOfTime);
        }
        let Some(session) = &mut self.session else {
            return Err(Refused::NoSession);
        };
        // Late news, of an earlier renewal or an earlier session, moves nothing.
        if session.id != id || !is_later(mark, session.renewed) {
            return Ok(());
        }
        session.renewed = mark;
        if let Some(deadlines) = self.deadlines {
            session.deadlines = deadlines;
        }
        let session = *session;
        for key in 0..self.slots.len() {
            if self.slots[key].session == id {
                self.raise(key, session, now);
            }
        }
        Ok(())
    }

    /// Moves the deadline of a slot to that of its session, and brings it back if that lies ahead.
    fn raise(&mut self, key: Key, session: Session, now: Mark) {
        let slot = &mut self.slots[key];
        if slot.policy == Policy::Ignore || matches!(slot.state, State::Idle | State::Fired) {
            return;
        }
        if !is_later(session.renewed, slot.renewed) {
            return;
        }
        slot.renewed = session.renewed;
        slot.deadlines = session.deadlines;
        if now.held_for(slot.renewed) >= slot.deadlines.soft {
            return;
        }
        let told = match slot.state {
            State::Frozen => {
                slot.state = State::Armed;
                Some(Told::Thawed {
                    address_removed: std::mem::take(&mut slot.address_removed),
                })
            }
            _ => std::mem::take(&mut slot.quiescing).then_some(Told::Resumed),
        };
        self.open_gate(key);
        if matches!(told, Some(Told::Thawed { .. })) {
            self.push(key, Act::Thaw);
        }
        if let Some(told) = told {
            self.push(key, Act::Tell(told));
        }
    }

    fn open_gate(&mut self, key: Key) {
        let slot = &self.slots[key];
        let (renewed, hard) = (slot.renewed, slot.deadlines.hard);
        self.push(key, Act::OpenGate { renewed, hard });
    }

    fn find(&self, slot: &SlotId) -> (Option<Key>, State) {
        let key = self.key(slot);
        (key, key.map_or(State::Idle, |key| self.slots[key].state))
    }

    fn push(&mut self, key: Key, act: Act) {
        self.effects.push_back(Effect { key, act });
    }
}

impl Slot {
    fn next_deadline(&self, now: Mark) -> Option<Duration> {
        if self.policy == Policy::Ignore {
            return None;
        }
        let age = now.held_for(self.renewed);
        let Deadlines { soft, hard } = self.deadlines;
        match self.state {
            State::Idle | State::Fired => None,
            State::Armed if self.quiescing => Some(hard.saturating_sub(age)),
            State::Armed => Some(soft.saturating_sub(age)),
            State::Frozen if age < hard => Some(hard - age),
            State::Frozen => Some(self.frozen_max.saturating_sub(now.held_for(self.frozen_since))),
        }
    }
}

fn fire(slot: &mut Slot, due: Option<Duration>, mut push: impl FnMut(Act)) {
    slot.state = State::Fired;
    slot.surely_frozen = false;
    push(Act::CloseGate);
    // An agent that was as late as we are may start something in it the moment after: that runs no instruction.
    push(Act::Freeze);
    push(Act::Kill);
    push(Act::RemoveAddress);
    push(Act::Tell(Told::Fired { due }));
}

/// Later on both clocks: a deadline never moves back on either.
fn is_later(mark: Mark, than: Mark) -> bool {
    mark.boot_ns > than.boot_ns && mark.raw_ns > than.raw_ns
}

fn is_ahead(mark: Mark, now: Mark) -> bool {
    mark.boot_ns > now.boot_ns || mark.raw_ns > now.raw_ns
}
