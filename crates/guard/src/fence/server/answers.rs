//! What the fence does when it is asked, after everything that is due.

use super::{Agent, Server, Test, Waiting};
use crate::fence::cgroup::{Cgroup, mount_point};
use crate::fence::clock::mark;
use crate::fence::fire::{Fire, Target};
use crate::fence::protocol::{Armament, GATES_PER_SLOT_MAX, Reply, Request, SlotReport};
use crate::fence::selftest::Question;
use crate::fence::words::{Arm, Event, Key, Policy, Refused, State};
use crate::fence::worker::{Gate, Order};
use crate::gates::Member;
use crate::watch;
use model::{SlotId, Timing};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

impl Server {
    pub(super) fn do_deferred(&mut self) {
        let mut at = 0;
        while at < self.connections.len() {
            if let Some(request) = self.connections[at].deferred.take()
                && let Some(reply) = self.answer(at, request)
                && !self.connections[at].tell(&reply)
            {
                self.connections.swap_remove(at);
                continue;
            }
            at += 1;
        }
        self.fire.carry_out();
        self.tell_news();
    }

    fn answer(&mut self, at: usize, request: Request) -> Option<Reply> {
        let slot = match &request {
            Request::Arm(armament) => Some(armament.slot.clone()),
            Request::Rebind { slot, .. } | Request::Disarm { slot } => Some(slot.clone()),
            _ => None,
        };
        let done = |()| Some(Reply::Done { slot: slot.clone() });
        let result = match request {
            Request::Register { incarnation } => self.register(at, incarnation).map(Some),
            Request::Timing(timing) => self.timing(at, timing),
            Request::Session { session, mark } => self.handle(at, Event::Session { session, renewed: mark }).map(done),
            Request::Rebind { slot, epoch } => self.handle(at, Event::Rebind { slot, epoch }).map(done),
            Request::Disarm { slot } => self.disarm(at, slot).map(done),
            Request::Arm(armament) => self.arm(at, armament),
            Request::Leave => {
                if self.is_latest(at) {
                    self.silence.forget();
                    self.agent = None;
                }
                Ok(None)
            }
            Request::Clear => {
                if self.is_latest(at) && !self.fire.is_anything_armed() {
                    self.worker.order(Order::Clear);
                }
                Ok(None)
            }
            // Read before what is due.
            Request::Renewed { .. } | Request::Heartbeat => Ok(None),
        };
        result.unwrap_or_else(|why| Some(Reply::Refused { slot, why }))
    }

    fn handle(&mut self, at: usize, event: Event) -> Result<(), String> {
        let incarnation = self.connections[at]
            .incarnation
            .ok_or_else(|| Refused::NotRegistered.to_string())?;
        let result = self.fire.machine.handle(incarnation, event, mark());
        result.map_err(|refused| refused.to_string())
    }

    fn register(&mut self, at: usize, incarnation: u64) -> Result<Reply, String> {
        let pid = self.connections[at].pid;
        let same = self.fire.machine.latest() == Some(incarnation);
        if same && self.agent.as_ref().is_some_and(|agent| agent.pid != pid) {
            return Err(format!(
                "another process is agent incarnation {incarnation}; take a later one"
            ));
        }
        let machine = &mut self.fire.machine;
        machine
            .handle(incarnation, Event::Register, mark())
            .map_err(|refused| refused.to_string())?;
        self.connections[at].incarnation = Some(incarnation);
        if self.agent.as_ref().is_none_or(|agent| agent.pid != pid) {
            self.silence.forget();
            self.agent = watch::Process::open(pid)
                .ok()
                .flatten()
                .map(|process| Agent { pid, process });
        }
        let reports = machine.slots().iter().map(|slot| SlotReport {
            slot: slot.id.clone(),
            state: slot.state,
            epoch: slot.epoch,
            session: slot.session,
            renewed: slot.renewed,
        });
        Ok(Reply::Registered {
            guard: std::process::id(),
            session: machine.session(),
            slots: reports.collect(),
        })
    }

    fn timing(&mut self, at: usize, timing: Timing) -> Result<Option<Reply>, String> {
        self.handle(at, Event::Deadlines(timing.into()))?;
        let kill_budget = timing.kill_budget.duration();
        match &self.test {
            Test::Done(test) => {
                let mut test = test.clone();
                let slow = test
                    .kill_us
                    .map(Duration::from_micros)
                    .filter(|took| *took > kill_budget);
                if let Some(took) = slow
                    && test.ok
                {
                    test.ok = false;
                    test.why_not.push(format!(
                        "a kill took {}ms at the self-test, the budget is {}",
                        took.as_millis(),
                        timing.kill_budget
                    ));
                }
                Ok(Some(Reply::SelfTest(test)))
            }
            Test::Asked => Ok(None),
            Test::Unasked => {
                self.worker.order(Order::Test(Question {
                    kill_budget,
                    cgroup: self.config.cgroup.clone(),
                    lacks: self.lacks.clone(),
                }));
                self.test = Test::Asked;
                Ok(None)
            }
        }
    }

    fn arm(&mut self, at: usize, armament: Armament) -> Result<Option<Reply>, String> {
        let fenced = armament.policy != Policy::Ignore;
        if armament.ports.len() + armament.addresses.len() > GATES_PER_SLOT_MAX {
            return Err(format!("a slot has at most {GATES_PER_SLOT_MAX} ports and addresses"));
        }
        let cgroup = match fenced {
            true => Some(open_cgroup(&armament.cgroup)?),
            false => None,
        };
        let old = self.fire.machine.key(&armament.slot);
        let old_target = old.and_then(|key| self.fire.targets.get(key)).and_then(Option::as_ref);
        if let (Some(key), Some(target)) = (old, old_target) {
            let slot = &self.fire.machine.slots()[key];
            let live = matches!(slot.state, State::Armed | State::Frozen) && slot.epoch == armament.epoch;
            // What stands still under an earlier session goes on by `Rebind` alone: the machine refuses to arm it.
            let present = self.fire.machine.session().map(|(session, _)| session);
            let same = target.armament == armament;
            if live && same && present == Some(slot.session) {
                let (slot, epoch, state) = (armament.slot, armament.epoch, slot.state);
                return Ok(Some(Reply::Armed { slot, epoch, state }));
            }
            let runs = slot.state == State::Armed && present == Some(slot.session);
            if live && runs && armament.is_readdressed(&target.armament) {
                self.readdress(at, key, armament);
                return Ok(None);
            }
            if live && !same {
                return Err(format!(
                    "slot {} is armed at epoch {} with another cgroup, port or policy, or stands still; a change needs a new epoch",
                    armament.slot, armament.epoch
                ));
            }
        }
        let leaves = self.leaves(old, &armament);
        let left = leaves.iter().map(|key| self.fire.machine.slots()[*key].id.clone());
        let is_empty = |cgroup: &Cgroup| cgroup.events().is_ok_and(|events| !events.populated);
        let event = Event::Arm(Arm {
            slot: armament.slot.clone(),
            epoch: armament.epoch,
            policy: armament.policy,
            frozen_max: armament.frozen_max.duration(),
            predecessor_gone: self.is_gone(old, &armament.cgroup),
            leaves: left.collect(),
            is_empty: cgroup.as_ref().is_some_and(is_empty),
        });
        self.handle(at, event)?;
        for key in leaves {
            let left = &self.fire.machine.slots()[key].id;
            let _ = self.log.try_send(format!(
                "slot {left} is given up: what it was armed with is armed for slot {}",
                armament.slot
            ));
            self.let_go(key);
        }
        let Some(key) = self.fire.machine.key(&armament.slot) else {
            return Ok(None);
        };
        let gate = old_target_gate(&self.fire, key).unwrap_or_else(|| self.worker.gate());
        let take = take(key, gate.clone(), &armament);
        self.fire.aim(
            key,
            Target {
                armament,
                cgroup,
                gate,
                dying: false,
                failed: false,
            },
        );
        self.fire.carry_out();
        self.order(at, key, take);
        Ok(None)
    }

    /// What is armed goes on with other addresses.
    fn readdress(&mut self, at: usize, key: Key, armament: Armament) {
        let Some(Some(target)) = self.fire.targets.get_mut(key) else {
            return;
        };
        let take = take(key, target.gate.clone(), &armament);
        target.armament = armament;
        self.order(at, key, take);
    }

    /// Answered by `gated`.
    fn order(&mut self, at: usize, key: Key, take: Order) {
        self.worker.order(take);
        if let Some(incarnation) = self.connections[at].incarnation {
            self.waiting.push(Waiting { key, incarnation });
        }
    }

    /// Whether nothing runs of what a slot was armed with, or it is the very same cgroup and was never stopped.
    fn is_gone(&self, key: Option<Key>, cgroup: &Path) -> bool {
        let Some(key) = key else { return true };
        let Some(Some(target)) = self.fire.targets.get(key) else {
            return true;
        };
        let Some(old) = &target.cgroup else { return true };
        let state = self.fire.machine.slots().get(key).map(|slot| slot.state);
        let runs_on = matches!(state, Some(State::Armed | State::Idle)) && target.armament.cgroup == cgroup;
        runs_on || old.events().is_ok_and(|events| !events.populated)
    }

    /// The other slots that the same cgroup is armed for. An earlier agent may have done that, of which the present one knows nothing.
    fn leaves(&self, own: Option<Key>, armament: &Armament) -> Vec<Key> {
        let same = |target: &Target| target.cgroup.is_some() && target.armament.cgroup == armament.cgroup;
        let targets = self.fire.targets.iter().zip(self.fire.machine.slots()).enumerate();
        targets
            .filter(|(key, (target, slot))| {
                Some(*key) != own && slot.state != State::Idle && target.as_ref().is_some_and(same)
            })
            .filter(|_| armament.policy != Policy::Ignore)
            .map(|(key, _)| key)
            .collect()
    }

    fn disarm(&mut self, at: usize, slot: SlotId) -> Result<(), String> {
        let key = self.fire.machine.key(&slot);
        let gone = key
            .and_then(|key| self.fire.targets.get(key))
            .and_then(Option::as_ref)
            .and_then(|target| target.cgroup.as_ref())
            .is_none_or(|cgroup| cgroup.events().is_ok_and(|events| !events.populated));
        self.handle(at, Event::Disarm { slot, gone })?;
        if let Some(key) = key {
            self.let_go(key);
        }
        Ok(())
    }

    /// The machine keeps it no longer.
    fn let_go(&mut self, key: Key) {
        // It may live on, as a standby; but what was killed is looked after until it is gone.
        if let Some(target) = self.fire.targets.get_mut(key)
            && target.as_ref().is_some_and(|target| !target.dying)
        {
            *target = None;
        }
        self.worker.order(Order::Forget(key));
    }

    pub(super) fn gated(&mut self, key: Key, result: Result<(), String>) {
        let Some(at) = self.waiting.iter().position(|waiting| waiting.key == key) else {
            return;
        };
        let incarnation = self.waiting.swap_remove(at).incarnation;
        let slot = &self.fire.machine.slots()[key];
        let (id, epoch, state) = (slot.id.clone(), slot.epoch, slot.state);
        let reply = match result {
            Ok(()) => Reply::Armed { slot: id, epoch, state },
            Err(why) => Reply::Refused {
                slot: Some(id),
                why: format!("{why}; the deadline runs all the same"),
            },
        };
        for connection in &self.connections {
            if connection.incarnation == Some(incarnation) {
                let _ = connection.tell(&reply);
            }
        }
    }
}

fn take(key: Key, gate: Arc<Gate>, armament: &Armament) -> Order {
    // What has no deadline has no gate: it would close and never open again.
    let fenced = armament.policy != Policy::Ignore;
    let ports = armament.ports.iter().copied().map(Member::Port);
    let addresses = armament.addresses.iter().copied().map(Member::Address);
    let floating = armament.floating.into_iter().chain(armament.exchanged);
    Order::Take {
        key,
        gate,
        members: ports.chain(addresses).filter(|_| fenced).collect(),
        floating: floating.filter(|_| fenced).collect(),
    }
}

fn old_target_gate(fire: &Fire, key: Key) -> Option<Arc<Gate>> {
    fire.targets.get(key)?.as_ref().map(|target| target.gate.clone())
}

fn open_cgroup(path: &Path) -> Result<Cgroup, String> {
    mount_point().map_err(|error| error.to_string())?;
    Cgroup::open(path).map_err(|error| error.to_string())
}
