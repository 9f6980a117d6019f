//! The agent: tells the core what happened and carries out what it decides.

use super::World;
use super::proxy::Order;
use super::queue::{Due, Spawn, Task};
use super::truth::{Instance, Node};
use crate::fault::{Ailment, StoreTrouble};
use crate::invariants::Moment;
use crate::sabotage::BrokenRule;
use decisions::{Action, Commit, Decision, Event, HookOutcome, RouteTarget, SlotWrite};
use model::{HookKind, InstanceId, NodeName, Revision, Role};
use std::sync::Arc;

/// From something that happens to the core's hearing of it.
const TELL_US: u64 = 50;
const SPAWN_US: u64 = 2_000;
const COMMIT_US: u64 = 1_000;
/// A core that asks to be woken at once this often, with nothing else happening, will do so for ever.
const WAKES_IN_PLACE_MAX: u32 = 100;

impl World {
    /// Lets the core know, soon. What is told first arrives first.
    pub(super) fn tell(&mut self, event: Event) {
        let at = (self.truth.now + self.pace.span(TELL_US)).max(self.agent.last_told);
        self.agent.last_told = at;
        let (life, task) = (self.agent.life, Task::Tell(Box::new(event)));
        self.queue.plan(at, Due::Agent { life, task });
    }

    pub(super) fn attend(&mut self, task: Task) {
        match task {
            Task::Tell(event) => self.deliver(*event),
            Task::Wake => self.wake(),
            Task::Probe {
                instance,
                run,
                standby,
                prober,
            } => self.probe(instance, run, standby, prober, false),
            Task::ProbeTimeout {
                instance,
                run,
                standby,
                prober,
            } => self.probe_timeout(instance, run, standby, prober, false),
            Task::Spawn(spawn) => {
                self.before(spawn.instance.service());
                self.spawn(spawn);
            }
            Task::Prepare(instance) => self.prepare(instance),
            Task::TellGivenUp(service) => {
                let given_up = self.truth.store.given_up.get(&service).cloned();
                self.deliver(Event::GivenUp { service, given_up });
            }
            Task::Commit(write) => {
                self.before(&write.slot.service);
                let result = self.commit(&write);
                let (slot, attempt) = (write.slot, write.attempt);
                self.tell(Event::Committed { slot, attempt, result });
            }
            Task::Escalate { instance, run } => self.kill_tree(instance, run),
        }
    }

    /// The core hears of something.
    pub(super) fn deliver(&mut self, mut event: Event) {
        self.note_evidence(&event);
        if let Some(broken) = self.broken {
            broken.bend_event(&mut event);
        }
        if let Event::Started { instance, run } = &event {
            self.begin_probing(instance, *run);
        }
        self.hand_over(event);
    }

    pub(super) fn hand_over(&mut self, event: Event) {
        self.transcript.told(self.truth.now, &event);
        let now = self.truth.now;
        if let Some(core) = &mut self.agent.core {
            // As the agent does: what a standby check said counts while there is an active to stand by for.
            if let Event::Probed {
                instance,
                standby: true,
                outcome,
                ..
            } = &event
                && let Some(passed) = outcome.verdict()
                && core.judges_standbys(instance.service())
                && let Some(known) = self.truth.instances.get_mut(instance)
            {
                known.memo.stands_by = Some(passed);
            }
            core.handle(event, now);
        }
        self.pump();
    }

    fn wake(&mut self) {
        let now = self.truth.now;
        if self.agent.wakes_at.is_none_or(|at| at > now) {
            return;
        }
        self.agent.wakes_at = None;
        self.hand_over(Event::Tick);
    }

    /// Carries out what was decided, and comes back when the core wants.
    fn pump(&mut self) {
        let mut idle = true;
        while let Some(decision) = self.agent.core.as_mut().and_then(decisions::Core::poll_decision) {
            idle = false;
            self.tally.decisions += 1;
            self.observe(&Moment::Decided(&decision));
            self.carry_out(&decision);
            self.transcript.decided(self.truth.now, decision);
            if self.violation.is_some() || self.dies_now() {
                return;
            }
        }
        let now = self.truth.now;
        let Some(wakes_at) = self.agent.core.as_ref().and_then(decisions::Core::next_wakeup) else {
            self.agent.wakes_at = None;
            return;
        };
        if wakes_at <= now && idle {
            self.agent.wakes_in_place += 1;
            if self.agent.wakes_in_place > WAKES_IN_PLACE_MAX {
                self.violate(
                    "bounded decisions",
                    format!("the core wants to be woken at {wakes_at:?} for ever"),
                );
                return;
            }
        } else {
            self.agent.wakes_in_place = 0;
        }
        if self.agent.wakes_at != Some(wakes_at) {
            self.agent.wakes_at = Some(wakes_at);
            self.plan_task(wakes_at.since(now), Task::Wake);
        }
    }

    fn carry_out(&mut self, decision: &Decision) {
        match &decision.action {
            Action::Create { instance, node } => self.create(instance, node),
            Action::Forget { instance, .. } => self.forget(instance),
            Action::Start {
                instance,
                run,
                role,
                epoch,
                earlier,
                ..
            } => {
                if let Some(known) = self.truth.instances.get_mut(instance) {
                    known.starting = Some(*run);
                    known.run = *run;
                }
                let after = self.pace.span(SPAWN_US);
                let spawn = Spawn {
                    instance: instance.clone(),
                    run: *run,
                    from: earlier
                        .clone()
                        .or_else(|| self.truth.declared.get(instance.service()).map(Arc::clone)),
                    active_at: epoch.filter(|_| *role == Role::Active),
                };
                self.plan_task(after, Task::Spawn(spawn));
            }
            Action::Prepare { instance, .. } => {
                let after = self.pace.span(SPAWN_US);
                self.plan_task(after, Task::Prepare(instance.clone()));
            }
            Action::Stop { instance, run, polite } => {
                self.stop(instance, *run, *polite);
                if self.broken == Some(BrokenRule::ClaimWhileOldTreeRuns) {
                    let (instance, run) = (instance.clone(), *run);
                    self.tell(Event::Gone { instance, run });
                }
            }
            Action::RunHook {
                instance,
                run,
                hook,
                epoch,
                active,
                ..
            } => {
                if let Some(known) = self.truth.instances.get_mut(instance) {
                    known.memo.was_fit = true;
                }
                let early = match self.broken {
                    Some(BrokenRule::RouteBeforePromoted) => *hook == HookKind::Promote,
                    Some(BrokenRule::FollowNotAwaited) => *hook == HookKind::Follow,
                    _ => false,
                };
                if early {
                    self.tell(Event::HookDone {
                        instance: instance.clone(),
                        run: *run,
                        hook: *hook,
                        epoch: *epoch,
                        outcome: HookOutcome::Done,
                    });
                    if *hook == HookKind::Follow {
                        return;
                    }
                }
                self.run_hook(instance, *run, *hook, *epoch, active.as_ref());
            }
            Action::ProbeNow { instance, standby } => self.probe_now(instance, *standby),
            Action::Write(write) => self.write(write),
            Action::Route {
                service,
                revision,
                targets,
                leaving,
            } => {
                // Noted, for the day the agent comes back: who serves, and who does no more.
                for target in targets {
                    if let Some(instance) = self.truth.instances.get_mut(&target.instance) {
                        instance.memo.promoted_at(target.epoch);
                        instance.memo.acts = Some(target.epoch);
                        instance.memo.was_fit = true;
                    }
                }
                for (id, _) in leaving {
                    let declared = self.truth.declared.get(id.service());
                    let tells_more = declared.is_some_and(|service| service.exclusive || service.on_demote.is_some());
                    if let Some(instance) = self.truth.instances.get_mut(id).filter(|_| !tells_more) {
                        instance.memo.promoted = None;
                        instance.memo.acts = None;
                    }
                }
                let run = |target: &RouteTarget| self.truth.process(&target.instance).map(|process| process.run);
                let order = Order {
                    service: service.clone(),
                    revision: *revision,
                    runs: targets.iter().map(|target| run(target).unwrap_or_default()).collect(),
                    targets: Some(targets.clone()),
                    leaving: leaving.clone(),
                };
                self.send_order(order);
            }
            Action::Unroute { service } => self.send_order(Order {
                service: service.clone(),
                revision: 0,
                targets: None,
                runs: Vec::new(),
                leaving: Vec::new(),
            }),
            Action::Note(_) => {}
            Action::Report(takeover) => {
                if takeover.planned {
                    self.tally.switchovers += 1;
                } else {
                    self.tally.failovers += 1;
                    let end = takeover.routed.or(takeover.promoted).unwrap_or(takeover.detected);
                    let took = end.since(takeover.detected);
                    self.tally.worst_failover = self.tally.worst_failover.max(took);
                }
            }
            Action::Answer { request, .. } => {
                if self.truth.switchovers.remove(request).is_none() {
                    self.violate("L5", format!("request {request} of the operator is answered twice"));
                }
            }
            Action::Rebalanced { .. } => {}
            Action::GiveUp { service, given_up } => {
                let kept = self.truth.store_trouble() != Some(StoreTrouble::Fails);
                if kept {
                    let known = self.truth.store.given_up.entry(service.clone());
                    known.or_insert_with(|| given_up.clone());
                    let after = self.pace.span(COMMIT_US);
                    self.plan_task(after, Task::TellGivenUp(service.clone()));
                }
            }
            Action::TryAgain { service } => {
                self.truth.store.given_up.remove(service);
                let after = self.pace.span(COMMIT_US);
                self.plan_task(after, Task::TellGivenUp(service.clone()));
            }
            Action::AllStopped => self.tally.all_stopped = true,
            // There is one machine in this world, so nobody else can be asked.
            Action::Arm { .. }
            | Action::Rebind { .. }
            | Action::Part { .. }
            | Action::Rejoin { .. }
            | Action::AskProof { .. }
            | Action::Retire { .. }
            | Action::TellLeft { .. }
            | Action::AskRenew { .. }
            | Action::AskMove { .. } => {
                self.violate("structure", "an agent of one machine asks another".into());
            }
        }
    }

    fn create(&mut self, id: &InstanceId, node: &NodeName) {
        let number = self.truth.numbers.entry(id.service().clone()).or_default();
        *number = (*number).max(id.number());
        self.truth.instances.insert(id.clone(), Instance::new(node.clone()));
    }

    fn forget(&mut self, id: &InstanceId) {
        let Some(instance) = self.truth.instances.get_mut(id) else {
            return;
        };
        instance.recorded = false;
        if instance.process.is_none() && instance.starting.is_none() {
            self.truth.instances.remove(id);
        }
    }

    fn prepare(&mut self, instance: InstanceId) {
        let node = self.truth.instances.get(&instance).map(|known| &known.node);
        let lost = node.is_none_or(|node| self.truth.nodes.get(node) == Some(&Node::Lost));
        let result = if lost {
            Err("its node is lost".into())
        } else if self.truth.ails(&instance, Ailment::PrepareFails) {
            Err("the data folder cannot be written".into())
        } else {
            Ok(())
        };
        self.tell(Event::Prepared { instance, result });
    }

    fn write(&mut self, write: &SlotWrite) {
        let mut write = write.clone();
        match self.broken {
            Some(BrokenRule::EpochNotRaised) => {
                let known = self.truth.store.slots.get(&write.slot);
                write.epoch = known.map_or(write.epoch, |known| known.epoch);
            }
            Some(BrokenRule::OneStandbyForTwoSlots) if write.held => {
                let other = self
                    .truth
                    .store
                    .of(&write.slot.service)
                    .find(|known| known.slot != write.slot);
                write.holder = other.map_or(write.holder, |other| other.holder.clone());
            }
            Some(BrokenRule::PromoteBeforeCommit) => {
                self.tell(Event::Committed {
                    slot: write.slot.clone(),
                    attempt: write.attempt,
                    result: Commit::Done(Revision(write.expect.0 + 1)),
                });
            }
            _ => {}
        }
        let slow = self.truth.store_trouble() == Some(StoreTrouble::Slow);
        let after = self.pace.span(if slow { COMMIT_US * 300 } else { COMMIT_US });
        self.plan_task(after, Task::Commit(Box::new(write)));
    }

    pub(super) fn commit(&mut self, write: &SlotWrite) -> Commit {
        let trouble = self.truth.store_trouble();
        if trouble == Some(StoreTrouble::Fails) {
            return Commit::Failed("no space left on device".into());
        }
        if trouble == Some(StoreTrouble::Conflicts) && self.pace.coin() {
            self.truth.store.touch(&write.slot);
        }
        let expected = self.truth.store.expects(write);
        let unclear = trouble == Some(StoreTrouble::Unclear);
        if expected && (!unclear || self.pace.coin()) {
            self.truth.store.put(write);
            self.observe(&Moment::Committed { write });
        }
        match (unclear, expected) {
            (true, _) => Commit::Failed("the answer did not come in time".into()),
            (false, true) => Commit::Done(self.truth.store.revision_of(&write.slot)),
            (false, false) if self.broken == Some(BrokenRule::ConflictIgnored) => Commit::Done(write.expect),
            (false, false) => self.truth.store.conflict(&write.slot),
        }
    }
}
