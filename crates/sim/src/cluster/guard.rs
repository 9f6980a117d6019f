//! A node's guard: the real machine of deadlines, and what of it outlives the process.

use guard::fence::machine::Machine;
use guard::fence::words::{Act, Arm, Deadlines, Effect, Event, Key, Policy, Refused, State};
use model::{Epoch, InstanceId, Mark, Revision, RunId, SlotId, Timing};
use std::time::Duration;

/// What is frozen for sure waits for the store this long.
pub(crate) const FROZEN_MAX: Duration = guard::fence::words::FROZEN_MAX;

#[derive(Debug, Default)]
pub(crate) struct Guard {
    machine: Machine,
    /// Counts its processes.
    pub(crate) life: u32,
    pub(crate) runs: bool,
    pub(crate) stopped: bool,
    /// The cgroup of each key.
    members: Vec<(InstanceId, RunId)>,
    /// Whose gate moves with each key: that of the instance of its cgroup, until another key takes it.
    gated: Vec<bool>,
    incarnation: u64,
    /// The wake-up that is planned, in the world's time.
    pub(crate) wakes: Option<model::Timestamp>,
}

impl Guard {
    /// A guard that is started, after `earlier` others.
    pub(crate) fn start(earlier: u32) -> Self {
        Self {
            life: earlier + 1,
            runs: true,
            ..Self::default()
        }
    }

    /// Whether it does anything at all.
    pub(crate) fn works(&self) -> bool {
        self.runs && !self.stopped
    }

    /// An agent registers, and says by what timing it lives. Returns the session that an earlier one told.
    pub(crate) fn register(&mut self, timing: &Timing, now: Mark) -> Option<Revision> {
        self.incarnation += 1;
        let _ = self.machine.handle(self.incarnation, Event::Register, now);
        let deadlines = Event::Deadlines(Deadlines::from(*timing));
        let _ = self.machine.handle(self.incarnation, deadlines, now);
        self.machine.session().map(|(session, _)| Revision(session))
    }

    pub(crate) fn session(&mut self, session: Revision, renewed: Mark, now: Mark) {
        let event = Event::Session {
            session: session.0,
            renewed,
        };
        let _ = self.machine.handle(self.incarnation, event, now);
    }

    pub(crate) fn renewed(&mut self, session: Revision, mark: Mark, now: Mark) {
        let event = Event::Renewed {
            session: session.0,
            mark,
        };
        let _ = self.machine.handle(self.incarnation, event, now);
    }

    /// Keeps a slot. `is_empty` says of a cgroup whether nothing runs in it.
    pub(crate) fn arm(
        &mut self,
        slot: &SlotId,
        member: (InstanceId, RunId),
        epoch: Epoch,
        now: Mark,
        is_empty: impl Fn(&(InstanceId, RunId)) -> bool,
    ) -> Result<(), Refused> {
        let old = self
            .machine
            .key(slot)
            .map(|key| (&self.machine.slots()[key], &self.members[key]));
        // Whoever was disarmed was demoted, or is gone.
        let predecessor_gone =
            old.is_none_or(|(slot, old)| slot.state == State::Idle || *old == member || is_empty(old));
        let own = self.machine.key(slot);
        // It acts for one slot at most.
        let others = self.machine.slots().iter().zip(&self.members).enumerate();
        let others = others.filter(|(key, (slot, _))| Some(*key) != own && slot.state != State::Idle);
        let leaves = others.filter(|(_, (_, other))| **other == member);
        let arm = Arm {
            slot: slot.clone(),
            epoch,
            policy: Policy::Freeze,
            frozen_max: FROZEN_MAX,
            predecessor_gone,
            leaves: leaves.map(|(_, (slot, _))| slot.id.clone()).collect(),
            is_empty: is_empty(&member),
        };
        self.machine.handle(self.incarnation, Event::Arm(arm), now)?;
        if let Some(key) = self.machine.key(slot) {
            for (gated, (other, _)) in self.gated.iter_mut().zip(&self.members) {
                *gated &= *other != member.0;
            }
            if key == self.members.len() {
                self.members.push(member);
                self.gated.push(true);
            } else {
                self.members[key] = member;
                self.gated[key] = true;
            }
        }
        Ok(())
    }

    pub(crate) fn disarm(&mut self, slot: &SlotId, now: Mark, is_empty: impl Fn(&(InstanceId, RunId)) -> bool) {
        let Some(key) = self.machine.key(slot) else { return };
        let gone = is_empty(&self.members[key]);
        let slot = slot.clone();
        let _ = self.machine.handle(self.incarnation, Event::Disarm { slot, gone }, now);
    }

    /// What stood still under an earlier session belongs to the present one.
    pub(crate) fn rebind(&mut self, slot: &SlotId, epoch: Epoch, now: Mark) -> Result<(), Refused> {
        let slot = slot.clone();
        self.machine
            .handle(self.incarnation, Event::Rebind { slot, epoch }, now)
    }

    /// What was ever armed.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &SlotId> {
        self.machine.slots().iter().map(|slot| &slot.id)
    }

    /// What it has frozen, and neither let go on nor ended since.
    pub(crate) fn frozen(&self) -> impl Iterator<Item = &SlotId> {
        let frozen = self.machine.slots().iter().filter(|slot| slot.state == State::Frozen);
        frozen.map(|slot| &slot.id)
    }

    /// Whether an instance is kept at that epoch, and would be stopped in time.
    pub(crate) fn keeps(&self, instance: &InstanceId, epoch: Epoch) -> bool {
        self.machine.slots().iter().enumerate().any(|(key, slot)| {
            self.members[key].0 == *instance
                && slot.epoch == epoch
                && matches!(slot.state, State::Armed | State::Frozen)
        })
    }

    /// Does what is due. `frozen` says of each cgroup whether the kernel has frozen all of it.
    pub(crate) fn tick(&mut self, now: Mark, frozen: impl Fn(&(InstanceId, RunId)) -> bool) {
        for key in 0..self.members.len() {
            self.machine.observe(key, frozen(&self.members[key]));
        }
        self.machine.tick(now);
    }

    /// The next thing for the kernel, or for the agent, and to whom.
    pub(crate) fn poll(&mut self) -> Option<(SlotId, Epoch, (InstanceId, RunId), Act)> {
        let gated = &self.gated;
        let is_anothers =
            |effect: &Effect| matches!(effect.act, Act::OpenGate { .. } | Act::CloseGate) && !gated[effect.key];
        let mut effects = std::iter::from_fn(|| self.machine.poll_effect());
        let effect = effects.find(|effect| !is_anothers(effect))?;
        let key: Key = effect.key;
        let slot = self.machine.slots().get(key)?;
        Some((slot.id.clone(), slot.epoch, self.members.get(key)?.clone(), effect.act))
    }

    /// Whose gate is that of a slot.
    pub(crate) fn gated(&self, slot: &SlotId) -> Option<InstanceId> {
        let key = self.machine.key(slot).filter(|key| self.gated[*key])?;
        Some(self.members.get(key)?.0.clone())
    }

    /// What a slot was armed with.
    pub(crate) fn member(&self, slot: &SlotId) -> Option<(InstanceId, RunId)> {
        self.members.get(self.machine.key(slot)?).cloned()
    }

    pub(crate) fn next_wakeup(&self, now: Mark) -> Option<Mark> {
        self.machine.next_wakeup(now).map(|wait| now.later(wait))
    }
}
