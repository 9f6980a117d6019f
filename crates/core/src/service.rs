//! One service: its slots, its instances, and what it hears.

use crate::instance::{Instance, Instances, Phase};
use crate::slot::{self, Planned, Slot, Stage};
use crate::{
    Action, Adopted, Commit, Decision, Event, HookOutcome, Note, NoteKind, Reason, Refusal, RouteTarget, SlotKnown,
};
use model::{
    Epoch, Health, HookKind, InstanceId, Millis, Role, RunId, ServiceName, ServiceState, SlotId, StandbyMode, Timestamp,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// First wait after a failed write of a slot; doubles up to [`WRITE_RETRY_MAX`].
const WRITE_RETRY: Duration = Duration::from_millis(100);
const WRITE_RETRY_MAX: Duration = Duration::from_secs(5);
/// First wait after a failed follow hook; doubles up to [`FOLLOW_RETRY_MAX`].
const FOLLOW_RETRY: Duration = Duration::from_millis(500);
const FOLLOW_RETRY_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) name: ServiceName,
    pub(crate) declared: Arc<model::Service>,
    pub(crate) removed: bool,
    pub(crate) slots: Vec<Slot>,
    pub(crate) instances: Instances,
    /// Who is bound to which slot (I7: at most one).
    pub(crate) bound: BTreeMap<InstanceId, usize>,
    pub(crate) numbers: u32,
    /// An instance more than declared, for a rollout of a service without standbys.
    pub(crate) surge: bool,
    /// Replacements in a row that never became healthy.
    pub(crate) replacements: u32,
    pub(crate) route_revision: u64,
    /// What the proxy was told last; `None`: tell it again.
    pub(crate) route: Option<Vec<RouteTarget>>,
    pub(crate) unrouted: bool,
    /// Who is no target any more and may have clients left, and for how long they may go on.
    pub(crate) draining: BTreeMap<InstanceId, Millis>,
    pub(crate) write_failures: u32,
    pub(crate) state: ServiceState,
    pub(crate) state_since: Timestamp,
    pub(crate) state_because: Reason,
    pub(crate) told_state: bool,
    pub(crate) told_unplaced: bool,
    pub(crate) was_rolling: bool,
    pub(crate) wakeup: Option<Timestamp>,
}

impl Service {
    pub(crate) fn new(name: ServiceName, declared: model::Service, now: Timestamp) -> Self {
        Self {
            name,
            declared: Arc::new(declared),
            removed: false,
            slots: Vec::new(),
            instances: Instances::new(),
            bound: BTreeMap::new(),
            numbers: 0,
            surge: false,
            replacements: 0,
            route_revision: 0,
            route: None,
            unrouted: false,
            draining: BTreeMap::new(),
            write_failures: 0,
            state: ServiceState::Down,
            state_since: now,
            state_because: Reason::Declared,
            told_state: false,
            told_unplaced: false,
            was_rolling: false,
            wakeup: None,
        }
    }

    pub(crate) fn redeclare(&mut self, declared: model::Service, now: Timestamp) {
        self.removed = false;
        if *self.declared == declared {
            return;
        }
        // Another address or protocol: the front is made anew.
        if self.declared.listen != declared.listen || self.declared.protocol != declared.protocol {
            self.route = None;
        }
        self.declared = Arc::new(declared);
        for instance in self.instances.values_mut() {
            instance.current = match &instance.launched_from {
                _ if !instance.has_process() => true,
                Some(from) => from.launch() == self.declared.launch(),
                None => instance.current,
            };
            // Who was given up under the old declaration deserves a try under the new one.
            if let Phase::Failed { .. } | Phase::Waiting { .. } = instance.phase {
                instance.failed_starts = 0;
                instance.set(Phase::Waiting { until: now }, Health::Down, now, Reason::Declared);
            }
        }
        self.replacements = 0;
    }

    pub(crate) fn remove(&mut self) {
        self.removed = true;
    }

    pub(crate) fn recover_slot(&mut self, known: SlotKnown, now: Timestamp) {
        let index = known.slot.slot as usize;
        while self.slots.len() <= index {
            let id = SlotId {
                service: self.name.clone(),
                slot: u32::try_from(self.slots.len()).unwrap_or(u32::MAX),
            };
            self.slots.push(Slot::new(id, now));
        }
        self.slots[index].know(known);
    }

    pub(crate) fn numbers_used(&mut self, number: u32) {
        self.numbers = self.numbers.max(number);
    }

    pub(crate) fn route_known(&mut self, revision: u64) {
        self.route_revision = self.route_revision.max(revision);
    }

    pub(crate) fn recover_instance(&mut self, adopted: Adopted, now: Timestamp) {
        self.numbers_used(adopted.instance.number());
        let id = adopted.instance.clone();
        let running = adopted.running;
        let promoted = adopted.promoted;
        let mut instance = Instance::adopted(adopted, now);
        if running && instance.current {
            instance.launched_from = Some(Arc::clone(&self.declared));
        }
        self.instances.insert(id.clone(), instance);
        for slot in &mut self.slots {
            let Some(record) = slot.record.clone().filter(|record| record.held && record.holder == id) else {
                continue;
            };
            if !running {
                slot.begin_takeover(false, Reason::HolderGone { instance: id.clone() }, now);
                slot.confirm_dead(now);
            } else if promoted == Some(record.epoch) {
                slot.routed = Some((id.clone(), record.epoch));
                slot.set(slot::Phase::Serving { holder: id.clone() }, now, Reason::Adopted);
            } else {
                slot.set(slot::Phase::Promoting { holder: id.clone() }, now, Reason::Adopted);
            }
        }
    }

    /// Takes an event in. Returns true if the service must be looked at.
    pub(crate) fn absorb(&mut self, event: Event, now: Timestamp, out: &mut VecDeque<Decision>) -> bool {
        match event {
            Event::Started { instance, run } => {
                let Some(instance) = self.current_run(&instance, run) else {
                    return false;
                };
                let Phase::Starting { started, .. } = &mut instance.phase else {
                    return false;
                };
                *started = true;
                // From here the settling time of a service without check counts.
                instance.since = now;
                true
            }
            Event::StartFailed {
                instance: id,
                run,
                error,
            } => {
                let Some(instance) = self.current_run(&id, run) else {
                    return false;
                };
                instance.last_failure = Some(error.clone());
                instance.was_healthy = false;
                let because = Reason::StartFailed {
                    instance: id.clone(),
                    error,
                };
                out.push_back(Decision::note(
                    Note::about_instance(NoteKind::StartFailed, &id, &instance.node),
                    because.clone(),
                ));
                instance.set(Phase::Stopping, Health::Down, now, because);
                self.gone(&id, now, out)
            }
            Event::Prepared { instance: id, result } => {
                let Some(instance) = self.instances.get_mut(&id) else {
                    return false;
                };
                if instance.phase != Phase::Preparing {
                    return false;
                }
                match result {
                    Ok(()) => {
                        // Looked over every half a minute: what was ready may have lost its disk or its program.
                        let again = now + Duration::from_secs(30);
                        instance.set(Phase::Prepared { again }, Health::Down, now, Reason::ColdStandby);
                        instance.failed_starts = 0;
                    }
                    Err(error) => {
                        instance.last_failure = Some(error.clone());
                        let until = now + Duration::from_secs(5);
                        instance.set(
                            Phase::Waiting { until },
                            Health::Down,
                            now,
                            Reason::NotReady { what: error },
                        );
                    }
                }
                true
            }
            Event::Exited { instance: id, run, how } => {
                let Some(instance) = self.current_run(&id, run) else {
                    return false;
                };
                if !instance.is_alive() {
                    return false;
                }
                instance.was_healthy = instance.phase == Phase::Running;
                let because = Reason::ProcessEnded {
                    instance: id.clone(),
                    how,
                };
                out.push_back(Decision {
                    action: Action::Stop {
                        instance: id.clone(),
                        run,
                        polite: false,
                    },
                    because: because.clone(),
                });
                out.push_back(Decision::note(
                    Note::about_instance(NoteKind::InstanceDied, &id, &instance.node),
                    because.clone(),
                ));
                instance.set(Phase::Stopping, Health::Down, now, because);
                instance.planned_stop = false;
                true
            }
            Event::Gone { instance, run } => {
                self.current_run(&instance, run).is_some() && self.gone(&instance, now, out)
            }
            Event::Probed {
                instance: id,
                run,
                standby,
                outcome,
            } => self.probed(&id, run, standby, outcome, now, out),
            Event::HookDone {
                instance,
                run,
                hook,
                epoch,
                outcome,
            } => self.hook_done(&instance, run, hook, epoch, outcome, now, out),
            Event::Committed { slot, attempt, result } => self.committed(&slot, attempt, result, now, out),
            Event::Routed { revision, at, .. } => {
                for slot in &mut self.slots {
                    if slot.awaits_route.is_some_and(|awaited| revision >= awaited) {
                        slot.awaits_route = None;
                        if let Some(takeover) = &mut slot.takeover {
                            takeover.routed.get_or_insert(at);
                        }
                    }
                }
                true
            }
            Event::ProxyReset { .. } => {
                self.route = None;
                self.draining.clear();
                true
            }
            Event::Drained { instance } => {
                self.draining.remove(&instance);
                self.drained(&instance, now);
                true
            }
            Event::FirstAnswer { instance, epoch, at } => {
                self.answered(&instance, epoch, at);
                true
            }
            Event::Suspected { instance: id } => {
                let Some(instance) = self.instances.get(&id) else {
                    return false;
                };
                if instance.is_alive() {
                    let because = Reason::Suspected { instance: id.clone() };
                    out.push_back(Decision {
                        action: Action::ProbeNow { instance: id },
                        because,
                    });
                }
                false
            }
            Event::Switchover { request, slot, to, .. } => match self.switchover(request, slot, to, now) {
                Ok(()) => true,
                Err(refusal) => {
                    out.push_back(Decision::answer(request, Err(refusal)));
                    false
                }
            },
            Event::Retry { instance } => {
                let Some(instance) = self.instances.get_mut(&instance) else {
                    return false;
                };
                if let Phase::Failed { .. } | Phase::Waiting { .. } = instance.phase {
                    instance.failed_starts = 0;
                    instance.deaths.clear();
                    instance.set(Phase::Waiting { until: now }, Health::Down, now, Reason::RetryAsked);
                    self.replacements = 0;
                    for slot in &mut self.slots {
                        slot.claim_after = Timestamp(0);
                    }
                }
                true
            }
            // The others are about the cluster.
            _ => false,
        }
    }

    fn current_run(&mut self, instance: &InstanceId, run: RunId) -> Option<&mut Instance> {
        self.instances
            .get_mut(instance)
            .filter(|instance| instance.run == run && instance.has_process())
    }

    fn probed(
        &mut self,
        id: &InstanceId,
        run: RunId,
        standby: bool,
        outcome: crate::ProbeOutcome,
        now: Timestamp,
        out: &mut VecDeque<Decision>,
    ) -> bool {
        let declared = Arc::clone(&self.declared);
        let Some(instance) = self.current_run(id, run) else {
            return false;
        };
        if standby {
            let result = match outcome {
                crate::ProbeOutcome::Pass => Ok(()),
                crate::ProbeOutcome::Fail(what) => Err(what),
                crate::ProbeOutcome::Unsure => return false,
            };
            let changed = instance
                .standby_check
                .as_ref()
                .is_none_or(|before| before.is_ok() != result.is_ok());
            instance.standby_check = Some(result);
            return changed;
        }
        let Some(check) = &declared.check else {
            return false;
        };
        let passed = outcome == crate::ProbeOutcome::Pass;
        let was = instance.health;
        let changed = instance.absorb_probe(outcome, check.fail_after, check.pass_after, now);
        let (node, health, because) = (instance.node.clone(), instance.health, instance.because.clone());
        let promoted = instance.promoted;
        if changed && health != was {
            let kind = if health == Health::Healthy {
                NoteKind::InstanceHealthy
            } else {
                NoteKind::InstanceUnhealthy
            };
            out.push_back(Decision::note(Note::about_instance(kind, id, &node), because));
        }
        if health == Health::Healthy {
            self.replacements = 0;
        }
        let answers = passed && promoted.is_some_and(|epoch| self.answered(id, epoch, now));
        changed || answers
    }

    /// Notes the first answer of a new active. Returns true if it was the first.
    fn answered(&mut self, id: &InstanceId, epoch: Epoch, at: Timestamp) -> bool {
        let mut first = false;
        for slot in &mut self.slots {
            if slot.active() != Some((id, epoch)) {
                continue;
            }
            if let Some(takeover) = &mut slot.takeover
                && takeover.epoch == epoch
                && takeover.answered.is_none()
                && takeover.promoted.is_some_and(|promoted| promoted <= at)
            {
                takeover.answered = Some(at);
                first = true;
            }
        }
        first
    }

    fn hook_done(
        &mut self,
        id: &InstanceId,
        run: RunId,
        hook: HookKind,
        epoch: Epoch,
        outcome: HookOutcome,
        now: Timestamp,
        out: &mut VecDeque<Decision>,
    ) -> bool {
        let Some(instance) = self.current_run(id, run) else {
            return false;
        };
        if instance
            .hook
            .as_ref()
            .is_none_or(|running| running.kind != hook || running.epoch != epoch)
        {
            return false;
        }
        instance.hook = None;
        let failure = match outcome {
            HookOutcome::Done => None,
            HookOutcome::Failed(error) => Some(Reason::HookFailed {
                instance: id.clone(),
                hook,
                error,
            }),
        };
        if let Some(because) = &failure {
            out.push_back(Decision::note(
                Note::about_instance(NoteKind::HookFailed, id, &instance.node),
                because.clone(),
            ));
            instance.last_failure = Some(because.to_string());
        }
        match (hook, failure) {
            (HookKind::Promote, None) => instance.promoted = Some(epoch),
            (HookKind::Promote, Some(because)) => self.kill(id, because, now, out),
            (HookKind::Follow, None) => {
                instance.followed = Some(epoch);
                instance.follow_failures = 0;
            }
            (HookKind::Follow, Some(_)) => {
                instance.follow_failures = instance.follow_failures.saturating_add(1);
                let factor = 1_u32.checked_shl(instance.follow_failures - 1).unwrap_or(u32::MAX);
                instance.follow_again = now + FOLLOW_RETRY.saturating_mul(factor).min(FOLLOW_RETRY_MAX);
            }
            (HookKind::Demote, None) => {
                instance.promoted = None;
                self.demoted(id, now);
            }
            // What a failed demotion leaves behind may still act: it is ended.
            (HookKind::Demote, Some(because)) => {
                instance.promoted = None;
                self.kill(id, because, now, out);
                self.stopping_planned(id);
            }
        }
        true
    }

    fn committed(
        &mut self,
        slot: &SlotId,
        attempt: u64,
        result: Commit,
        now: Timestamp,
        out: &mut VecDeque<Decision>,
    ) -> bool {
        let retry = WRITE_RETRY
            .saturating_mul(1_u32.checked_shl(self.write_failures).unwrap_or(u32::MAX))
            .min(WRITE_RETRY_MAX);
        let Some(slot) = self.slots.get_mut(slot.slot as usize) else {
            return false;
        };
        let (to, clearing) = match &slot.phase {
            slot::Phase::Claiming { to, attempt: ours } if *ours == attempt => (to.clone(), false),
            slot::Phase::Clearing { attempt: ours } if *ours == attempt => {
                let Some(holder) = slot.last_holder().cloned() else {
                    return false;
                };
                (holder, true)
            }
            _ => return false,
        };
        match result {
            Commit::Done(revision) if clearing => {
                self.write_failures = 0;
                if let Some(record) = &mut slot.record {
                    record.held = false;
                    record.revision = revision;
                }
                slot.set(slot::Phase::Vacant, now, Reason::HolderGone { instance: to });
            }
            Commit::Done(revision) => {
                self.write_failures = 0;
                let epoch = slot.claiming;
                slot.record = Some(slot::Record {
                    held: true,
                    holder: to.clone(),
                    epoch,
                    revision,
                });
                if let Some(takeover) = &mut slot.takeover {
                    takeover.claimed.get_or_insert(now);
                }
                slot.set(slot::Phase::Promoting { holder: to }, now, Reason::Claimed { epoch });
            }
            Commit::Conflict(known) => {
                let because = match &known {
                    Some(known) => Reason::SlotTakenByOther {
                        instance: known.holder.clone(),
                        epoch: known.epoch,
                    },
                    None => Reason::StoreFailed {
                        error: "the slot's record is missing".into(),
                    },
                };
                match known {
                    Some(known) => slot.know(known),
                    None => slot.record = None,
                }
                slot.set(slot::Phase::Vacant, now, because.clone());
                out.push_back(Decision::note(
                    Note::about_service(NoteKind::StoreFailed, self.name.clone()),
                    because,
                ));
            }
            Commit::Failed(error) => {
                let because = Reason::StoreFailed { error };
                slot.claim_after = now + retry;
                slot.set(slot::Phase::Vacant, now, because.clone());
                self.write_failures = self.write_failures.saturating_add(1).min(30);
                out.push_back(Decision::note(
                    Note::about_service(NoteKind::StoreFailed, self.name.clone()),
                    because,
                ));
            }
        }
        true
    }

    fn switchover(
        &mut self,
        request: u64,
        slot: Option<u32>,
        to: Option<InstanceId>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let index = slot.unwrap_or(0) as usize;
        if index >= self.slots.len() || index >= self.declared.active as usize {
            return Err(Refusal::UnknownSlot {
                slots: self.declared.active,
            });
        }
        self.refresh_bound();
        if let Some(to) = &to {
            let instance = self
                .instances
                .get(to)
                .ok_or_else(|| Refusal::UnknownInstance { instance: to.clone() })?;
            if self.bound.contains_key(to) {
                return Err(Refusal::AlreadyActive { instance: to.clone() });
            }
            if let Err(why) = self.readiness(instance) {
                return Err(Refusal::NobodyReady {
                    why: vec![format!("{to}: {why}")],
                });
            }
        }
        let slot = &self.slots[index];
        if slot.serving().is_none() || slot.planned.is_some() {
            let state = if slot.planned.is_some() {
                "changing hands already"
            } else {
                slot.state_name()
            };
            return Err(Refusal::SlotNotServing { state: state.into() });
        }
        let Some(to) = to.or_else(|| self.failover_order(now).into_iter().next()) else {
            return Err(Refusal::NobodyReady {
                why: self.unready_standbys(),
            });
        };
        self.begin_planned(index, Some(to), Some(request), Reason::SwitchoverAsked, now);
        Ok(())
    }

    /// Begins to move a slot on. Clients are kept away from an exclusive holder first; a shared one serves until the next does.
    pub(crate) fn begin_planned(
        &mut self,
        index: usize,
        to: Option<InstanceId>,
        request: Option<u64>,
        because: Reason,
        now: Timestamp,
    ) {
        let deadline = now + self.drain().duration() + Duration::from_secs(1);
        let has_clients = self.declared.listen.is_some();
        let waits = self.declared.exclusive || to.is_none();
        let slot = &mut self.slots[index];
        slot.begin_takeover(true, because.clone(), now);
        slot.takeover_request = request;
        let stage = if waits {
            Stage::Draining {
                deadline: if has_clients { deadline } else { now },
            }
        } else {
            Stage::Clear
        };
        if waits {
            slot.routed = None;
        }
        slot.planned = Some(Planned {
            to,
            stage,
            request,
            because,
            since: now,
        });
    }

    /// Requests under way may finish for this long when clients are kept away: less than the proxy holds new ones.
    pub(crate) fn drain(&self) -> Millis {
        if self.declared.exclusive {
            Millis(self.declared.drain_timeout.0.min(self.declared.hold_timeout.0 / 2))
        } else {
            self.declared.drain_timeout
        }
    }

    fn drained(&mut self, id: &InstanceId, now: Timestamp) {
        for slot in &mut self.slots {
            if slot.serving() == Some(id)
                && let Some(planned) = &mut slot.planned
                && let Stage::Draining { deadline } = &mut planned.stage
            {
                *deadline = now;
            }
        }
    }

    /// The holder of a planned change cannot act any more.
    fn demoted(&mut self, id: &InstanceId, now: Timestamp) {
        for slot in &mut self.slots {
            if slot.serving() == Some(id)
                && let Some(planned) = &mut slot.planned
                && planned.stage == Stage::Demoting
            {
                planned.stage = Stage::Clear;
                let because = planned.because.clone();
                slot.confirm_dead(now);
                slot.set(slot::Phase::Vacant, now, because);
            }
        }
    }

    fn stopping_planned(&mut self, id: &InstanceId) {
        for slot in &mut self.slots {
            if slot.serving() == Some(id)
                && let Some(planned) = &mut slot.planned
                && planned.stage == Stage::Demoting
            {
                planned.stage = Stage::Stopping;
            }
        }
    }

    /// Ends an instance at once, as a failure of its own.
    pub(crate) fn kill(&mut self, id: &InstanceId, because: Reason, now: Timestamp, out: &mut VecDeque<Decision>) {
        let Some(instance) = self.instances.get_mut(id).filter(|instance| instance.is_alive()) else {
            return;
        };
        instance.was_healthy = instance.phase == Phase::Running;
        instance.planned_stop = false;
        out.push_back(Decision {
            action: Action::Stop {
                instance: id.clone(),
                run: instance.run,
                polite: false,
            },
            because: because.clone(),
        });
        instance.set(Phase::Stopping, Health::Down, now, because);
    }

    /// Ends an instance by our own wish; it may finish what it does.
    pub(crate) fn stop(&mut self, id: &InstanceId, because: Reason, now: Timestamp, out: &mut VecDeque<Decision>) {
        let Some(instance) = self.instances.get_mut(id).filter(|instance| instance.is_alive()) else {
            return;
        };
        instance.planned_stop = true;
        out.push_back(Decision {
            action: Action::Stop {
                instance: id.clone(),
                run: instance.run,
                polite: true,
            },
            because: because.clone(),
        });
        instance.set(Phase::Stopping, Health::Down, now, because);
    }

    /// Nothing of an instance runs any more.
    fn gone(&mut self, id: &InstanceId, now: Timestamp, out: &mut VecDeque<Decision>) -> bool {
        let Some(instance) = self.instances.get_mut(id) else {
            return false;
        };
        if instance.phase != Phase::Stopping {
            // Ended without our having heard of its death first.
            instance.was_healthy = instance.phase == Phase::Running;
            instance.planned_stop = false;
            let because = Reason::ProcessEnded {
                instance: id.clone(),
                how: "it is gone".into(),
            };
            out.push_back(Decision::note(
                Note::about_instance(NoteKind::InstanceDied, id, &instance.node),
                because.clone(),
            ));
            instance.because = because;
        }
        instance.hook = None;
        instance.promoted = None;
        instance.demote = None;
        instance.health = Health::Down;
        self.draining.remove(id);
        // What follows (restart, replacement, slot) is the reconciler's to decide.
        instance.phase = Phase::Ended;
        instance.since = now;
        for slot in &mut self.slots {
            let holder = slot.last_holder() == Some(id);
            if !holder {
                continue;
            }
            if slot.phase == slot::Phase::Releasing {
                slot.confirm_dead(now);
                slot.set(slot::Phase::Vacant, now, Reason::HolderGone { instance: id.clone() });
            } else if slot.serving() == Some(id)
                && let Some(planned) = &mut slot.planned
                && planned.stage == Stage::Stopping
            {
                planned.stage = Stage::Clear;
                let because = planned.because.clone();
                slot.confirm_dead(now);
                slot.set(slot::Phase::Vacant, now, because);
            }
        }
        true
    }

    pub(crate) fn refresh_bound(&mut self) {
        self.bound.clear();
        for (index, slot) in self.slots.iter().enumerate() {
            // During a shared slot's handover the old holder still serves: it is bound until the new one does.
            let holders = slot.routed.iter().map(|(holder, _)| holder).chain(slot.bound());
            self.bound.extend(holders.map(|holder| (holder.clone(), index)));
        }
    }

    pub(crate) fn is_cold(&self) -> bool {
        self.declared.standby_mode == StandbyMode::Cold
    }

    pub(crate) fn role(&self, id: &InstanceId) -> Role {
        let holds = |slot: &Slot| match &slot.phase {
            slot::Phase::Promoting { holder } | slot::Phase::Serving { holder } => holder == id,
            _ => false,
        };
        match self.bound.get(id).and_then(|ix| self.slots.get(*ix)) {
            Some(slot) if holds(slot) => Role::Active,
            _ => Role::Standby,
        }
    }

    /// Whether an instance that is not active could take over now; if not, why.
    pub(crate) fn readiness(&self, instance: &Instance) -> Result<(), String> {
        if instance.retiring {
            return Err("it is being removed".into());
        }
        if self.is_cold() {
            return match &instance.phase {
                Phase::Prepared { .. } => Ok(()),
                Phase::Running if self.bound.contains_key(&instance.id) => Ok(()),
                _ => Err(instance.because.to_string()),
            };
        }
        if !instance.is_fit() {
            return Err(match instance.health {
                Health::Unhealthy => instance.because.to_string(),
                _ => format!("{}: {}", instance.health, instance.because),
            });
        }
        if self.bound.contains_key(&instance.id) {
            return Ok(());
        }
        if self
            .slots
            .iter()
            .any(|slot| slot.last_holder() == Some(&instance.id) && slot.phase == slot::Phase::Vacant)
        {
            // It was active last: its data are the newest there are.
            return Ok(());
        }
        if self.declared.on_follow.is_some()
            && let Some(leader) = self.leader()
            && instance.followed != Some(leader.epoch())
        {
            return Err(match leader.last_holder() {
                Some(holder) => format!("it does not follow {holder} yet"),
                None => "it does not follow the active yet".into(),
            });
        }
        // Before there was ever an active there is nothing to stand by for.
        if self.declared.standby_check.is_some() && self.leader().is_some() {
            return match &instance.standby_check {
                Some(Ok(())) => Ok(()),
                Some(Err(what)) => Err(format!("its standby check fails: {what}")),
                None => Err("its standby check has not answered yet".into()),
            };
        }
        Ok(())
    }

    /// The slot whose holder the standbys follow.
    pub(crate) fn leader(&self) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.record.is_some())
    }

    /// Instances that could take over now, best first.
    pub(crate) fn failover_order(&self, now: Timestamp) -> Vec<InstanceId> {
        let mut busy: BTreeMap<&model::NodeName, u32> = BTreeMap::new();
        for id in self.bound.keys() {
            if let Some(instance) = self.instances.get(id) {
                *busy.entry(&instance.node).or_default() += 1;
            }
        }
        let mut ready: Vec<&Instance> = self
            .instances
            .values()
            .filter(|instance| !self.bound.contains_key(&instance.id) && self.readiness(instance).is_ok())
            .collect();
        ready.sort_by_key(|instance| {
            (
                instance.is_flapping(now),
                !instance.current,
                busy.get(&instance.node).copied().unwrap_or(0),
                instance.recent_deaths(now),
                instance.id.number(),
            )
        });
        ready.into_iter().map(|instance| instance.id.clone()).collect()
    }

    pub(crate) fn unready_standbys(&self) -> Vec<String> {
        self.instances
            .values()
            .filter(|instance| !self.bound.contains_key(&instance.id))
            .filter_map(|instance| Some(format!("{}: {}", instance.id, self.readiness(instance).err()?)))
            .collect()
    }

    /// Slots whose holder serves and passes its checks.
    pub(crate) fn serving(&self) -> u32 {
        let fit = |slot: &&Slot| {
            slot.routed.is_some()
                && slot
                    .serving()
                    .and_then(|holder| self.instances.get(holder))
                    .is_some_and(Instance::is_fit)
        };
        u32::try_from(self.slots.iter().filter(fit).count()).unwrap_or(u32::MAX)
    }

    pub(crate) fn ready_standbys(&self) -> u32 {
        let ready = |instance: &&Instance| !self.bound.contains_key(&instance.id) && self.readiness(instance).is_ok();
        u32::try_from(self.instances.values().filter(ready).count()).unwrap_or(u32::MAX)
    }

    pub(crate) fn is_up(&self) -> bool {
        self.state != ServiceState::Down
    }

    /// Smallest number of instances whose failure takes it down, given what has failed already.
    pub(crate) fn distance(&self) -> u32 {
        let serving = self.serving();
        if serving < self.declared.need {
            return 0;
        }
        serving + self.ready_standbys() - self.declared.need + 1
    }

    /// No process of it runs.
    pub(crate) fn is_empty(&self) -> bool {
        !self.instances.values().any(Instance::has_process)
    }

    /// No process of it runs and nothing is being written.
    pub(crate) fn is_stopped(&self) -> bool {
        let settled =
            |slot: &Slot| slot.phase == slot::Phase::Vacant && slot.record.as_ref().is_none_or(|record| !record.held);
        self.is_empty() && self.slots.iter().all(settled)
    }

    /// Removed from the file, and nothing of it is left.
    pub(crate) fn is_finished(&self) -> bool {
        self.removed && self.instances.is_empty() && self.is_stopped()
    }
}
