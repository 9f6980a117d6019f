//! Processes of the machines: how they start, end, freeze, are checked, and what hooks do to them.

use super::agent::Task;
use super::given_up::{Broken, is_broken};
use super::invariants::Moment;
use super::records::{Entry, Key, NodeIx, Value};
use super::session::Order;
use super::world::{Due, World};
use decisions::{Adopted, ClusterEvent, Event, HookOutcome, ProbeOutcome, Recovered, RouteTarget};
use model::{Check, Epoch, HookKind, InstanceId, RunId, Service, ServiceName, SlotId, StandbyMode, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// From the spawn of a process to its first answer.
const BOOT_US: u64 = 20_000;
const POLITE_END_US: u64 = 10_000;
const HOOK_US: u64 = 5_000;
const STARTING_EVERY: Duration = Duration::from_millis(50);

/// An instance: its disk, its process, what its agent noted.
#[derive(Debug)]
pub(crate) struct Inst {
    pub(crate) node: NodeIx,
    pub(crate) run: RunId,
    starting: Option<RunId>,
    /// Its cgroup was frozen while nothing was in it, for this run.
    pub(crate) frozen: Option<RunId>,
    pub(crate) process: Option<Process>,
    /// How far its data go.
    pub(crate) position: u64,
    memo: Memo,
    /// What it was started from last.
    last_from: Option<Arc<Service>>,
}

impl Inst {
    /// Nothing of it is left but its disk.
    pub(crate) fn lose_power(&mut self) {
        self.process = None;
        self.starting = None;
    }
}

/// What the agent keeps of a running process.
#[derive(Debug, Clone, Copy, Default)]
struct Memo {
    promoted: Option<Epoch>,
    acts: Option<Epoch>,
    served: bool,
    followed: Option<Epoch>,
    stands_by: Option<bool>,
    was_fit: bool,
}

impl Memo {
    fn promoted_at(&mut self, epoch: Epoch) {
        self.promoted = Some(epoch);
        self.served = true;
    }
}

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) run: RunId,
    pub(crate) from: Arc<Service>,
    pub(crate) since: Timestamp,
    /// The main process lives; others of its tree may outlive it.
    pub(crate) main: bool,
    pub(crate) children: bool,
    pub(crate) hung: bool,
    pub(crate) frozen: bool,
    /// Somebody wants it frozen: it is soon.
    freezing: bool,
    pub(crate) dying: bool,
    answers_from: Timestamp,
    pub(crate) acting: Option<Acting>,
    pub(crate) in_sync_with: Option<(InstanceId, RunId)>,
    pub(crate) evidence: Evidence,
}

/// What the agent was told of a process, counted independently of the core.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    pub(crate) fails: u32,
    pub(crate) passed_once: bool,
    pub(crate) unhealthy: bool,
    pub(crate) hook_failed: bool,
    pub(crate) not_fenced: bool,
    /// Its record was gone from the store, as its node heard.
    pub(crate) unassigned: bool,
    probers: u32,
}

/// A process may do what only the active of a slot may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Acting {
    pub(crate) slot: u32,
    pub(crate) epoch: Epoch,
}

/// Which prober probes, or that it is an extra probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prober {
    Regular(u32),
    Extra,
}

/// A hook that runs.
#[derive(Debug, Clone)]
pub(crate) struct HookRun {
    pub(crate) instance: InstanceId,
    /// Of the agent that ran it.
    life: u32,
    run: RunId,
    hook: HookKind,
    epoch: Epoch,
    active: Option<InstanceId>,
    slot: u32,
    error: Option<&'static str>,
    takes_effect: bool,
}

/// What is wrong with an instance or a service for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ailment {
    Sick,
    StartFails,
    HookFails,
    HookSlow,
    SlowKill,
    StandbyCheckFails,
}

#[derive(Debug, Clone)]
pub(crate) struct Ailing {
    pub(crate) service: ServiceName,
    pub(crate) instance: Option<InstanceId>,
    pub(crate) what: Ailment,
    pub(crate) until: Timestamp,
}

/// Who begins to act by a hook, or by being started; the others act when clients reach them.
pub(crate) fn acts_by_itself(service: &Service) -> bool {
    service.on_promote.is_some() || service.standby_mode == StandbyMode::Cold
}

/// Whether a loss of acknowledged writes can be judged.
pub(crate) fn keeps_history(service: &Service) -> bool {
    service.exclusive && service.active == 1 && service.on_follow.is_some()
}

impl World {
    pub(crate) fn ails(&self, id: &InstanceId, what: Ailment) -> bool {
        self.ailing.iter().any(|ailing| {
            ailing.what == what
                && self.now < ailing.until
                && ailing.service == *id.service()
                && ailing.instance.as_ref().is_none_or(|instance| instance == id)
        })
    }

    /// Clients are served until this moment as they were.
    pub(crate) fn before(&mut self, service: &ServiceName) {
        let Some(declared) = self
            .declared
            .get(service)
            .filter(|declared| keeps_history(declared))
            .map(Arc::clone)
        else {
            return;
        };
        let writer = self.of(service).find_map(|(id, inst)| {
            let process = inst.process.as_ref()?;
            let acts = process.acting.is_some() && self.executes(inst) && self.gate_is_open(id, inst);
            let routed = declared.listen.is_none() || self.is_reached(service, id, process.run, inst.node);
            (acts && routed && self.answers(id)).then(|| (id.clone(), process.run, inst.node))
        });
        let Some((id, run, node)) = writer else { return };
        let writer = (id, run);
        let followers: Vec<(InstanceId, NodeIx, bool)> = self
            .of(service)
            .filter_map(|(id, inst)| {
                let process = inst.process.as_ref()?;
                (process.in_sync_with.as_ref() == Some(&writer)).then(|| (id.clone(), inst.node, self.executes(inst)))
            })
            .collect();
        // Replication is synchronous: what a follower does not get is not acknowledged.
        let reached = |(_, at, runs): &(InstanceId, NodeIx, bool)| *runs && self.net.joins(node, *at);
        if !followers.iter().all(reached) {
            return;
        }
        let position = self.acknowledged.entry(service.clone()).or_default();
        *position += 1;
        let position = *position;
        for id in followers.into_iter().map(|(id, ..)| id).chain([writer.0]) {
            if let Some(inst) = self.instances.get_mut(&id) {
                inst.position = position;
            }
        }
    }

    /// Whether some proxy sends clients to that process of an instance, and reaches it: each has an address of its own.
    fn is_reached(&self, service: &ServiceName, id: &InstanceId, run: RunId, node: NodeIx) -> bool {
        let leads_there = |target: &RouteTarget| target.instance == *id && target.run == run;
        self.nodes.iter().zip(0..).any(|(at, ix)| {
            at.up
                && self.net.joins(ix, node)
                && at
                    .routes
                    .get(service)
                    .is_some_and(|route| route.targets.iter().any(leads_there))
        })
    }

    pub(crate) fn answers(&self, id: &InstanceId) -> bool {
        let Some(inst) = self.instances.get(id) else {
            return false;
        };
        let runs = self.executes(inst);
        inst.process.as_ref().is_some_and(|process| {
            runs && process.main
                && !process.hung
                && !is_broken(&process.from, Broken::Start)
                && process.answers_from <= self.now
                && !self.ails(id, Ailment::Sick)
        })
    }

    pub(crate) fn starting(&mut self, ix: NodeIx, id: &InstanceId, run: RunId) {
        // Its number was given again, elsewhere: another instance, with another disk.
        let moved = self.instances.get(id).is_some_and(|inst| inst.node != ix);
        if moved && self.process(id).is_some() {
            self.violate(
                "one process per instance",
                format!("{id} is started on n{ix:04} while it runs elsewhere"),
            );
            return;
        }
        if moved {
            self.instances.remove(id);
        }
        let inst = self.instances.entry(id.clone()).or_insert_with(|| Inst {
            node: ix,
            run,
            starting: None,
            process: None,
            frozen: None,
            position: 0,
            memo: Memo::default(),
            last_from: None,
        });
        inst.starting = Some(run);
        inst.run = run;
    }

    pub(crate) fn spawn(
        &mut self,
        ix: NodeIx,
        id: &InstanceId,
        run: RunId,
        active_at: Option<(SlotId, Epoch)>,
        earlier: Option<Arc<Service>>,
    ) {
        self.before(id.service());
        let fails = self.ails(id, Ailment::StartFails);
        let boot = self.pace.span(BOOT_US);
        let from = earlier.or_else(|| self.declared.get(id.service()).map(Arc::clone));
        let (now, stalls) = (self.now, self.nodes[ix as usize].disk_stalls_until);
        let full = self.nodes[ix as usize].disk_full_until > now;
        // It may have heard so after it decided the start.
        let agent = self.nodes[ix as usize].agent.as_ref();
        let unassigned = agent.is_some_and(|agent| !agent.clustered.assigned.contains_key(id));
        let Some(inst) = self.instances.get_mut(id).filter(|inst| inst.starting == Some(run)) else {
            return;
        };
        inst.starting = None;
        let Some(from) = from.filter(|_| !fails && !full) else {
            let (instance, error) = (id.clone(), "no space left on device".into());
            self.tell(ix, Event::StartFailed { instance, run, error });
            return;
        };
        if inst.process.is_some() {
            self.violate("one process per instance", format!("{id} was started while it runs"));
            return;
        }
        inst.memo = Memo {
            promoted: active_at.as_ref().map(|(_, epoch)| *epoch),
            acts: active_at.as_ref().map(|(_, epoch)| *epoch),
            served: active_at.is_some(),
            ..Memo::default()
        };
        inst.last_from = Some(Arc::clone(&from));
        let born_frozen = inst.frozen == Some(run);
        inst.process = Some(Process {
            run,
            from,
            since: now,
            main: true,
            children: false,
            hung: false,
            frozen: born_frozen,
            freezing: born_frozen,
            dying: false,
            answers_from: now.max(stalls) + boot,
            acting: None,
            in_sync_with: None,
            evidence: Evidence {
                unassigned,
                ..Evidence::default()
            },
        });
        match active_at {
            // It runs no instruction until it is thawed, which is looked at then.
            Some((slot, epoch)) if born_frozen => {
                if let Some(process) = self.process_mut(id, run) {
                    let slot = slot.slot;
                    process.acting = Some(Acting { slot, epoch });
                }
            }
            Some((slot, epoch)) => self.begin_to_act(id, run, slot.slot, epoch),
            None => {}
        }
        let instance = id.clone();
        self.tell(ix, Event::Started { instance, run });
    }

    pub(crate) fn begin_to_act(&mut self, id: &InstanceId, run: RunId, slot: u32, epoch: Epoch) {
        let acting = Acting { slot, epoch };
        let Some(process) = self.process_mut(id, run) else {
            return;
        };
        if process.acting == Some(acting) {
            return;
        }
        process.acting = Some(acting);
        process.in_sync_with = None;
        self.say(|| format!("       {id} begins to act, epoch {epoch}"));
        self.observe(&Moment::Acts(id));
    }

    /// Traffic reaches an instance: where no hook tells it, that makes it an active.
    pub(crate) fn gate_opens(&mut self, id: &InstanceId, run: RunId, slot: &SlotId, epoch: Epoch) {
        let Some(process) = self.process(id).filter(|process| process.run == run) else {
            return;
        };
        if !acts_by_itself(&process.from) && process.from.exclusive {
            self.begin_to_act(id, run, slot.slot, epoch);
        } else if process.acting.is_some() {
            self.observe(&Moment::Acts(id));
        }
    }

    pub(crate) fn freeze(&mut self, instance: InstanceId, run: RunId) {
        let us = match self.rng.u32(0..20) {
            0 if !self.unloaded => self.rng.u64(500..138_000),
            _ => self.rng.u64(500..6_000),
        };
        let Some(process) = self.process_mut(&instance, run) else {
            // Nothing is in the cgroup: what is started in it stands still from its first moment.
            if let Some(inst) = self.instances.get_mut(&instance) {
                inst.frozen = Some(run);
            }
            return;
        };
        process.freezing = true;
        self.plan(Duration::from_micros(us), Due::Freezes { instance, run });
    }

    pub(crate) fn freeze_takes_effect(&mut self, id: &InstanceId, run: RunId) {
        self.before(id.service());
        if let Some(process) = self.process_mut(id, run) {
            // It may have been thawed before it was frozen.
            process.frozen = process.freezing;
        }
    }

    pub(crate) fn thaw(&mut self, id: &InstanceId, run: RunId) {
        if let Some(inst) = self.instances.get_mut(id) {
            inst.frozen = inst.frozen.filter(|of| *of != run);
        }
        let Some(process) = self.process_mut(id, run) else {
            return;
        };
        process.freezing = false;
        let was = std::mem::take(&mut process.frozen);
        if was && process.acting.is_some() {
            self.observe(&Moment::Acts(id));
        }
    }

    /// The main process ends by itself.
    pub(crate) fn main_ends(&mut self, id: &InstanceId, run: RunId, how: &'static str) {
        self.before(id.service());
        let Some(node) = self.instances.get(id).map(|inst| inst.node) else {
            return;
        };
        let Some(process) = self.process_mut(id, run).filter(|process| process.main) else {
            return;
        };
        process.main = false;
        if !process.children {
            self.forget_process(id);
        }
        let (instance, how) = (id.clone(), how.into());
        self.tell(node, Event::Exited { instance, run, how });
    }

    /// All of a tree has ended: because the agent of that life wanted it to, or the guard (0).
    pub(crate) fn tree_ends(&mut self, id: &InstanceId, run: RunId, life: u32) {
        self.before(id.service());
        let Some(node) = self.instances.get(id).map(|inst| inst.node) else {
            return;
        };
        let main = self.process_mut(id, run).map(|process| process.main);
        if main.is_some() {
            self.forget_process(id);
        }
        let instance = id.clone();
        if life > 0 && self.node(node).agent.as_ref().is_some_and(|agent| agent.life == life) {
            self.tell(node, Event::Gone { instance, run });
        } else if main == Some(true) {
            let how = "killed by SIGKILL".into();
            self.tell(node, Event::Exited { instance, run, how });
        }
    }

    fn forget_process(&mut self, id: &InstanceId) {
        if let Some(inst) = self.instances.get_mut(id) {
            inst.process = None;
        }
    }

    pub(crate) fn stop(&mut self, ix: NodeIx, id: &InstanceId, run: RunId, polite: bool) {
        let patience = self
            .declared
            .get(id.service())
            .map_or(Duration::from_secs(1), |service| service.stop.timeout.duration());
        let inst = self.instances.get_mut(id).filter(|inst| inst.node == ix);
        let Some(inst) = inst else {
            let instance = id.clone();
            self.tell(ix, Event::Gone { instance, run });
            return;
        };
        if inst.starting == Some(run) {
            inst.starting = None;
        }
        let deaf = match &inst.process {
            Some(process) if process.run == run => process.hung || process.frozen,
            _ => {
                let instance = id.clone();
                self.tell(ix, Event::Gone { instance, run });
                return;
            }
        };
        let instance = id.clone();
        if polite && deaf {
            self.plan_task(ix, patience, Task::Escalate { instance, run });
        } else if polite {
            let after = self.pace.span(POLITE_END_US);
            self.end_tree(id, run, after);
        } else {
            self.kill_tree(&instance, run);
        }
    }

    pub(crate) fn kill_tree(&mut self, id: &InstanceId, run: RunId) {
        let after = match self.ails(id, Ailment::SlowKill) {
            true => Duration::from_micros(self.rng.u64(100_000..600_000)),
            false => self.pace.span(500),
        };
        self.end_tree(id, run, after);
    }

    fn end_tree(&mut self, id: &InstanceId, run: RunId, after: Duration) {
        let Some(node) = self.instances.get(id).map(|inst| inst.node) else {
            return;
        };
        let life = self.node(node).agent.as_ref().map_or(0, |agent| agent.life);
        if let Some(process) = self.process_mut(id, run) {
            process.dying = true;
        }
        let instance = id.clone();
        self.plan(after, Due::TreeEnds { instance, run, life });
    }

    /// By cgroup, within the kill budget: of the guard, or of an agent that lost its session.
    pub(crate) fn kill_at_once(&mut self, id: &InstanceId, run: RunId) {
        let budget = self.timing.kill_budget.0.saturating_sub(self.timing.guard_jitter.0) * 1_000;
        let us = match self.rng.u32(0..10) {
            0 => self.rng.u64(400..budget.max(401)),
            _ => self.rng.u64(400..5_000),
        };
        if let Some(process) = self.process_mut(id, run) {
            process.dying = true;
        }
        let instance = id.clone();
        let life = 0;
        self.plan(Duration::from_micros(us), Due::TreeEnds { instance, run, life });
    }

    pub(crate) fn prepare(&mut self, ix: NodeIx, instance: InstanceId) {
        let full = self.node(ix).disk_full_until > self.now;
        let result = if full { Err("the disk is full".into()) } else { Ok(()) };
        self.tell(ix, Event::Prepared { instance, result });
    }

    pub(crate) fn run_hook(
        &mut self,
        ix: NodeIx,
        instance: InstanceId,
        run: RunId,
        hook: HookKind,
        epoch: Epoch,
        active: Option<InstanceId>,
    ) {
        self.before(instance.service());
        let service = self.declared.get(instance.service());
        let declared = service.and_then(|service| match hook {
            HookKind::Promote => service.on_promote.as_ref(),
            HookKind::Demote => service.on_demote.as_ref(),
            HookKind::Follow => service.on_follow.as_ref(),
        });
        let timeout = declared.map_or(Duration::from_secs(1), |hook| hook.timeout.duration());
        let usual = self.pace.span(HOOK_US);
        let (fails, slow) = (
            self.ails(&instance, Ailment::HookFails),
            self.ails(&instance, Ailment::HookSlow),
        );
        let from = self.process(&instance).map(|process| Arc::clone(&process.from));
        let is_broken = hook == HookKind::Promote && from.is_some_and(|from| is_broken(&from, Broken::Promotion));
        let Some(inst) = self.instances.get_mut(&instance) else {
            return;
        };
        inst.memo.was_fit = true;
        match hook {
            HookKind::Promote => inst.memo.acts = Some(epoch),
            HookKind::Demote => inst.memo.promoted = None,
            HookKind::Follow => {}
        }
        let stuck = inst
            .process
            .as_ref()
            .is_none_or(|process| process.hung || process.frozen);
        let (after, error) = match () {
            () if stuck => (timeout, Some("took longer than its timeout")),
            () if fails || is_broken => (usual, Some("exit code 1")),
            () if slow => ((usual * 40).min(timeout / 2), None),
            () if usual >= timeout => (timeout, Some("took longer than its timeout")),
            () => (usual, None),
        };
        let slot = self.slot_at(ix, &instance, epoch);
        let life = self.node(ix).agents;
        let takes_effect = error.is_none() || self.rng.bool();
        if hook == HookKind::Promote {
            // From its first instruction on it may do what an active does.
            self.observe(&Moment::Promotes(ix, &instance, epoch));
            if takes_effect && !stuck {
                self.begin_to_act(&instance, run, slot, epoch);
            }
        }
        self.plan(
            after,
            Due::HookEnds(HookRun {
                instance,
                life,
                run,
                hook,
                epoch,
                active,
                slot,
                error,
                takes_effect,
            }),
        );
    }

    pub(crate) fn hook_ends(&mut self, hook: &HookRun) {
        let id = &hook.instance;
        self.before(id.service());
        let Some(node) = self.instances.get(id).map(|inst| inst.node) else {
            return;
        };
        // It outlives its agent, until the next one comes up and ends what was left running.
        let agent = self.node(node).agent.as_ref();
        let heard = agent.is_some_and(|agent| agent.life == hook.life);
        if !heard && agent.is_some_and(|agent| agent.core.is_some()) {
            return;
        }
        let running = self.process_mut(id, hook.run).is_some_and(|process| process.main);
        let frozen = self.process_mut(id, hook.run).is_some_and(|process| process.frozen);
        let mut error = hook.error;
        if !running {
            error = error.or(Some("exit code 2"));
        } else if frozen {
            error = error.or(Some("took longer than its timeout"));
        } else if hook.takes_effect {
            match hook.hook {
                HookKind::Promote => self.begin_to_act(id, hook.run, hook.slot, hook.epoch),
                HookKind::Demote => {
                    if let Some(process) = self.process_mut(id, hook.run) {
                        process.acting = None;
                    }
                }
                HookKind::Follow if !self.follow(hook, node) => error = error.or(Some("the active is not reached")),
                HookKind::Follow => {}
            }
        }
        if !heard {
            return;
        }
        let done = error.is_none();
        let now_runs = |inst: &&mut Inst| inst.process.as_ref().is_some_and(|process| process.run == hook.run);
        if let Some(inst) = self.instances.get_mut(id).filter(now_runs) {
            match hook.hook {
                HookKind::Promote if done => inst.memo.promoted_at(hook.epoch),
                HookKind::Demote if done => inst.memo.acts = None,
                HookKind::Follow if done => inst.memo.followed = Some(hook.epoch),
                _ => {}
            }
            if let Some(process) = &mut inst.process {
                process.evidence.hook_failed |= !done;
            }
            // What was started since is kept for a slot of its own.
            if done && hook.hook == HookKind::Demote {
                self.disarm(node, id);
            }
        }
        self.tell(
            node,
            Event::HookDone {
                instance: id.clone(),
                run: hook.run,
                hook: hook.hook,
                epoch: hook.epoch,
                outcome: error.map_or(HookOutcome::Done, |error| HookOutcome::Failed(error.into())),
            },
        );
    }

    fn follow(&mut self, hook: &HookRun, node: NodeIx) -> bool {
        let Some(active) = &hook.active else { return false };
        let Some(leader) = self.instances.get(active) else {
            return false;
        };
        let reached = self.net.joins(node, leader.node) && self.answers(active) && self.gate_is_open(active, leader);
        let Some(process) = leader
            .process
            .as_ref()
            .filter(|process| reached && process.acting.is_some())
        else {
            return false;
        };
        let (run, position) = (process.run, leader.position);
        if let Some(follower) = self.instances.get_mut(&hook.instance) {
            follower.position = position;
            if let Some(process) = &mut follower.process {
                process.in_sync_with = Some((active.clone(), run));
                process.acting = None;
            }
        }
        true
    }

    pub(crate) fn disarm(&mut self, ix: NodeIx, id: &InstanceId) {
        self.plan_task(ix, Duration::from_micros(20), Task::Order(Order::Disarm(id.clone())));
    }

    pub(crate) fn executor_gone(&mut self, ix: NodeIx, id: &InstanceId, _run: RunId) {
        self.disarm(ix, id);
    }

    pub(crate) fn note_serving(&mut self, ix: NodeIx, id: &InstanceId, epoch: Epoch) {
        if let Some(inst) = self.instances.get_mut(id).filter(|inst| inst.node == ix) {
            inst.memo.promoted_at(epoch);
            inst.memo.acts = Some(epoch);
            inst.memo.was_fit = true;
        }
    }

    pub(crate) fn note_standing_by(&mut self, ix: NodeIx, id: &InstanceId) {
        // As in the agent: an exclusive one may act until its demote hook is through or it is dead, wherever clients are sent; and a demote
        // hook is due until it was run.
        let over = self
            .declared
            .get(id.service())
            .is_some_and(|declared| !declared.exclusive && declared.on_demote.is_none());
        if let Some(inst) = self.instances.get_mut(id).filter(|inst| inst.node == ix && over) {
            inst.memo.promoted = None;
            inst.memo.acts = None;
        }
    }

    /// What is heard of a process, for the judge of restarts.
    pub(crate) fn note_evidence(&mut self, ix: NodeIx, event: &Event) {
        let fail_after = |world: &Self, id: &InstanceId| {
            let declared = world.declared.get(id.service());
            declared
                .and_then(|declared| declared.check.as_ref())
                .map_or(u32::MAX, |check| check.fail_after)
        };
        match event {
            Event::Probed {
                instance,
                run,
                standby: false,
                outcome,
                ..
            } => {
                let limit = fail_after(self, instance);
                let Some(process) = self.process_mut(instance, *run) else {
                    return;
                };
                match outcome {
                    ProbeOutcome::Pass => {
                        process.evidence.fails = 0;
                        process.evidence.passed_once = true;
                        process.evidence.unhealthy = false;
                    }
                    ProbeOutcome::Fail(_) => {
                        process.evidence.fails += 1;
                        process.evidence.unhealthy |= process.evidence.fails >= limit;
                    }
                    ProbeOutcome::Unsure => {}
                }
            }
            Event::Probed {
                instance,
                run,
                standby: true,
                outcome,
                ..
            } => {
                let judges = self.node(ix).agent.as_ref().and_then(|agent| agent.core.as_ref());
                let judges = judges.is_some_and(|core| core.judges_standbys(instance.service()));
                if let Some(passed) = outcome.verdict()
                    && judges
                    && let Some(inst) = self.instances.get_mut(instance).filter(|inst| inst.run == *run)
                {
                    inst.memo.stands_by = Some(passed);
                }
            }
            Event::Armed { instance, result, .. } if result.is_err() => {
                if let Some(process) = self.instances.get_mut(instance).and_then(|inst| inst.process.as_mut()) {
                    process.evidence.not_fenced = true;
                }
            }
            _ => {}
        }
    }

    pub(crate) fn note_unassigned(&mut self, ix: NodeIx, id: &InstanceId) {
        let inst = self.instances.get_mut(id).filter(|inst| inst.node == ix);
        if let Some(process) = inst.and_then(|inst| inst.process.as_mut()) {
            process.evidence.unassigned = true;
        }
    }

    pub(crate) fn begin_probing(&mut self, ix: NodeIx, id: &InstanceId, run: RunId) {
        let Some(process) = self.process_mut(id, run) else {
            return;
        };
        process.evidence.probers += 1;
        let prober = Prober::Regular(process.evidence.probers);
        for standby in [false, true] {
            if self.check_of(id, standby).is_some() {
                let after = self.pace.between(Duration::from_millis(1), Duration::from_millis(100));
                let instance = id.clone();
                self.plan_task(
                    ix,
                    after,
                    Task::Probe {
                        instance,
                        run,
                        standby,
                        prober,
                    },
                );
            }
        }
    }

    pub(crate) fn probe_now(&mut self, ix: NodeIx, instance: InstanceId, standby: bool) {
        let Some(run) = self.process(&instance).map(|process| process.run) else {
            return;
        };
        let prober = Prober::Extra;
        self.plan_task(
            ix,
            Duration::ZERO,
            Task::Probe {
                instance,
                run,
                standby,
                prober,
            },
        );
    }

    pub(crate) fn probe(&mut self, ix: NodeIx, id: InstanceId, run: RunId, standby: bool, prober: Prober) {
        let Some(check) = self.check_of(&id, standby).cloned() else {
            return;
        };
        let passes = self.answers(&id);
        let replicates = !standby || self.replicates(&id);
        let ails = standby && self.ails(&id, Ailment::StandbyCheckFails);
        let began = self.node(ix).clocks.decisions(self.now);
        let now = self.now;
        let Some(process) = self.process_mut(&id, run).filter(|process| process.main) else {
            return;
        };
        if prober != Prober::Extra && prober != Prober::Regular(process.evidence.probers) {
            return;
        }
        let hangs = (process.hung || process.frozen) && process.answers_from <= now;
        let holds = process.acting.is_some();
        let starts = !process.evidence.passed_once;
        if hangs {
            self.plan_task(
                ix,
                check.timeout.duration(),
                Task::ProbeTimeout {
                    instance: id,
                    run,
                    standby,
                    prober,
                },
            );
            return;
        }
        let outcome = match passes && replicates && !ails {
            true => ProbeOutcome::Pass,
            false => ProbeOutcome::Fail("connection refused".into()),
        };
        // An active has nobody to follow.
        if !(standby && holds) {
            let instance = id.clone();
            self.tell(
                ix,
                Event::Probed {
                    instance,
                    run,
                    standby,
                    began,
                    outcome,
                },
            );
        }
        let wait = match starts && !passes {
            true => check.every.duration().min(STARTING_EVERY),
            false => check.every.duration(),
        };
        self.probe_again(ix, id, run, standby, prober, wait);
    }

    pub(crate) fn probe_timeout(&mut self, ix: NodeIx, id: InstanceId, run: RunId, standby: bool, prober: Prober) {
        let Some(check) = self.check_of(&id, standby).cloned() else {
            return;
        };
        let rest = check.every.duration().saturating_sub(check.timeout.duration());
        let outcome = ProbeOutcome::Fail(format!("no answer within {}", check.timeout));
        let instance = id.clone();
        self.tell(
            ix,
            Event::Probed {
                instance,
                run,
                standby,
                began: self.node(ix).clocks.decisions(self.now) - check.timeout.duration(),
                outcome,
            },
        );
        self.probe_again(ix, id, run, standby, prober, rest);
    }

    fn probe_again(
        &mut self,
        ix: NodeIx,
        instance: InstanceId,
        run: RunId,
        standby: bool,
        prober: Prober,
        wait: Duration,
    ) {
        if prober == Prober::Extra {
            return;
        }
        let wait = wait.max(Duration::from_millis(1));
        self.plan_task(
            ix,
            wait,
            Task::Probe {
                instance,
                run,
                standby,
                prober,
            },
        );
    }

    fn check_of(&self, id: &InstanceId, standby: bool) -> Option<&Check> {
        let declared = self.declared.get(id.service())?;
        match standby {
            true => declared.standby_check.as_ref(),
            false => declared.check.as_ref(),
        }
    }

    /// Whether a follower has its leader, which lives.
    fn replicates(&self, id: &InstanceId) -> bool {
        let Some(inst) = self.instances.get(id) else {
            return false;
        };
        let leader = inst.process.as_ref().and_then(|process| process.in_sync_with.as_ref());
        let Some((leader, run)) = leader else {
            return self
                .declared
                .get(id.service())
                .is_none_or(|service| service.on_follow.is_none());
        };
        self.instances.get(leader).is_some_and(|known| {
            known.run == *run
                && known.process.is_some()
                && self.net.joins(known.node, inst.node)
                && self.answers(leader)
        })
    }

    pub(crate) fn order_arrives(
        &mut self,
        ix: NodeIx,
        service: &ServiceName,
        revision: u64,
        targets: Option<Vec<RouteTarget>>,
    ) {
        self.before(service);
        let Some(targets) = targets else {
            self.node_mut(ix).routes.remove(service);
            return;
        };
        let route = self.node_mut(ix).routes.entry(service.clone()).or_default();
        if revision <= route.revision && route.revision > 0 {
            return;
        }
        route.revision = revision;
        let old = std::mem::replace(&mut route.targets, targets.clone());
        self.observe(&Moment::Routed(ix, service));
        let at = self.node(ix).clocks.decisions(self.now);
        let service = service.clone();
        self.tell(ix, Event::Routed { service, revision, at });
        for target in &targets {
            if self.answers(&target.instance) && !old.contains(target) {
                let (instance, epoch) = (target.instance.clone(), target.epoch);
                self.tell(ix, Event::FirstAnswer { instance, epoch, at });
            }
        }
        for target in old
            .into_iter()
            .filter(|old| targets.iter().all(|new| new.instance != old.instance))
        {
            let instance = target.instance;
            self.tell(ix, Event::Drained { instance });
        }
    }

    /// Whether what runs of an instance, or ran last, was started from what is declared.
    fn is_current(&self, id: &InstanceId) -> bool {
        let from = self.instances.get(id).and_then(|inst| inst.last_from.as_ref());
        let declared = self.declared.get(id.service());
        from.zip(declared)
            .is_none_or(|(from, declared)| from.launch() == declared.launch())
    }

    /// Processes that run on a machine when its agent comes up: which, and whether the main one lives.
    pub(crate) fn adopted_processes(&mut self, ix: NodeIx) -> Vec<(InstanceId, RunId, bool)> {
        let mut found = Vec::new();
        for (id, inst) in self.instances.iter_mut().filter(|(_, inst)| inst.node == ix) {
            inst.starting = None;
            if let Some(process) = &mut inst.process {
                let evidence = &mut process.evidence;
                (evidence.fails, evidence.unhealthy) = (0, false);
                found.push((id.clone(), process.run, process.main));
            }
        }
        found
    }

    /// What an agent finds when it comes up.
    pub(crate) fn recovered(&mut self, ix: NodeIx, entries: &[Entry]) -> Recovered {
        let mut instances = std::collections::BTreeMap::new();
        let mut recovered = Recovered {
            worked: self.worked.clone().map(Box::new),
            cluster: self.cluster_for(ix),
            slots: Vec::new(),
            instances: Vec::new(),
            numbers: Vec::new(),
            routes: Vec::new(),
            elsewhere: Vec::new(),
        };
        let (mut first, mut then, mut lives) = (Vec::new(), Vec::new(), Vec::new());
        let base =
            RunId((self.mark(ix).boot_ns / 1_000_000).saturating_add_signed(self.node(ix).clocks.wall_ns / 1_000_000));
        for entry in entries {
            match (&entry.key, &*entry.value) {
                (Key::Session(node), _) if *node != ix => first.push(ClusterEvent::Session {
                    node: self.node(*node).name.clone(),
                    session: Some(entry.create),
                }),
                (Key::Member(node), _) => first.push(ClusterEvent::Member {
                    node: self.node(*node).name.clone(),
                    runs_services: true,
                    member: true,
                    place: self.node(*node).place.clone(),
                }),
                (Key::Number(service), Value::Number(number)) => recovered.numbers.push((service.clone(), *number)),
                (Key::Instance(id), Value::Instance { node, retiring }) => {
                    then.push(ClusterEvent::Assigned {
                        instance: id.clone(),
                        node: self.node(*node).name.clone(),
                        retiring: *retiring,
                        placed: entry.create,
                    });
                    if *node == ix {
                        instances.insert(
                            id.clone(),
                            Adopted {
                                instance: id.clone(),
                                node: self.node(ix).name.clone(),
                                run: base,
                                running: false,
                                current: self.is_current(id),
                                promoted: None,
                                acts: None,
                                served: false,
                                followed: None,
                                stands_by: None,
                                healthy: true,
                                since: None,
                            },
                        );
                    }
                }
                (Key::Slot(_), _) => {
                    if let Some(known) = super::agent::known_slot(entry) {
                        then.push(ClusterEvent::Slot(known.clone()));
                        recovered.slots.push(known);
                    }
                }
                (Key::Live(_), Value::Live(report)) if self.ix(&report.node) != ix => {
                    lives.push(ClusterEvent::Reported((**report).clone()));
                }
                _ => {}
            }
        }
        let mut strays = Vec::new();
        for (id, inst) in self.instances.iter().filter(|(_, inst)| inst.node == ix) {
            let Some(process) = &inst.process else { continue };
            let Some(adopted) = instances.get_mut(id) else {
                // It was replaced elsewhere while no agent was here.
                strays.push((id.clone(), process.run));
                continue;
            };
            let unchecked = process.from.check.is_none();
            adopted.run = process.run;
            adopted.running = true;
            adopted.current = self.is_current(id);
            adopted.promoted = inst.memo.promoted;
            adopted.acts = inst.memo.acts;
            adopted.served = inst.memo.served;
            adopted.followed = inst.memo.followed;
            adopted.stands_by = inst.memo.stands_by;
            adopted.healthy = unchecked || process.evidence.passed_once || inst.memo.was_fit;
        }
        for (id, run) in strays {
            self.before(id.service());
            if self.process_mut(&id, run).is_some() {
                self.forget_process(&id);
            }
        }
        recovered.instances = instances.into_values().collect();
        recovered.routes = self
            .node(ix)
            .routes
            .iter()
            .map(|(service, route)| (service.clone(), route.revision))
            .collect();
        recovered.elsewhere = first.into_iter().chain(then).chain(lives).collect();
        recovered
    }
}
