//! Processes: how they start, end, and what hooks do to them.

use super::World;
use super::queue::{Due, HookRun, Spawn, Task};
use super::truth::{Acting, Memo, Node, Process, Truth};
use crate::fault::{Ailment, HookTrouble};
use crate::invariants::Moment;
use decisions::{Event, HookOutcome};
use model::{Epoch, HookKind, InstanceId, Millis, RunId, SlotId, Timestamp};
use std::time::Duration;

/// From the spawn of a process to its first answer.
const BOOT_US: u64 = 20_000;
const POLITE_END_US: u64 = 10_000;
const KILL_US: u64 = 500;
const HOOK_US: u64 = 5_000;

impl World {
    pub(super) fn spawn(&mut self, spawn: Spawn) {
        let (id, run, now) = (&spawn.instance, spawn.run, self.truth.now);
        let boot = self.pace.span(BOOT_US);
        let lives = self.pace.between(Duration::from_millis(300), Duration::from_secs(1));
        let ails = |ailment| self.truth.ails(id, ailment);
        let (fails, exits, crashes) = (
            ails(Ailment::StartFails),
            ails(Ailment::ExitsAtOnce),
            ails(Ailment::Crashes),
        );
        let answers_from = match (ails(Ailment::NeverHealthy), ails(Ailment::SlowStart)) {
            (true, _) => Timestamp::NEVER,
            (false, true) => now + boot * 40,
            (false, false) => now + boot,
        };
        let slot = self.truth.store.held_by(id).next().map(|known| known.slot.slot);
        let Some(instance) = self
            .truth
            .instances
            .get_mut(id)
            .filter(|instance| instance.starting == Some(run))
        else {
            return;
        };
        instance.starting = None;
        let online = self
            .truth
            .nodes
            .get(&instance.node)
            .is_some_and(|node| *node != Node::Lost);
        let Some(from) = spawn.from.filter(|_| online && !fails) else {
            let (instance, error) = (spawn.instance, "command not found".into());
            self.tell(Event::StartFailed { instance, run, error });
            return;
        };
        if instance.process.is_some() {
            self.violate("one process per instance", format!("{id} was started while it runs"));
            return;
        }
        // Noted before the process runs: it acts from its first instruction.
        instance.memo = Memo {
            promoted: spawn.active_at,
            acts: spawn.active_at,
            served: spawn.active_at.is_some(),
            followed: None,
            stands_by: None,
            was_fit: false,
        };
        instance.process = Some(Process::new(run, from, now, answers_from));
        if let Some((epoch, slot)) = spawn.active_at.zip(slot) {
            self.begin_to_act(id, slot, epoch);
        }
        let (instance, how) = (spawn.instance.clone(), "exit code 1");
        if exits {
            self.plan(Duration::from_millis(1), Due::Ends { instance, run, how });
        } else if crashes {
            self.plan(lives, Due::Ends { instance, run, how });
        }
        let instance = spawn.instance;
        self.tell(Event::Started { instance, run });
    }

    /// A process may do from now on what only the active of a slot may.
    pub(super) fn begin_to_act(&mut self, id: &InstanceId, slot: u32, epoch: Epoch) {
        let acting = Acting { slot, epoch };
        let Some(process) = self
            .truth
            .instances
            .get_mut(id)
            .and_then(|instance| instance.process.as_mut())
        else {
            return;
        };
        if process.acting == Some(acting) {
            return;
        }
        let before = process.acting.replace(acting);
        process.in_sync_with = None;
        let slot = SlotId {
            service: id.service().clone(),
            slot,
        };
        self.observe(&Moment::Acts {
            instance: id,
            slot: &slot,
            epoch,
            before,
        });
    }

    /// The main process ends by itself.
    pub(super) fn main_ends(&mut self, id: &InstanceId, run: RunId, how: &'static str) {
        let Some(process) = self.truth.process_mut(id, run).filter(|process| process.main) else {
            return;
        };
        process.main = false;
        if !process.children {
            self.forget_process(id);
        }
        self.tell(Event::Exited {
            instance: id.clone(),
            run,
            how: how.into(),
        });
    }

    /// All of a tree has ended because the agent of that life wanted it to.
    pub(super) fn tree_ends(&mut self, id: &InstanceId, run: RunId, life: u32) {
        let main = self.truth.process_mut(id, run).map(|process| process.main);
        if main.is_some() {
            self.forget_process(id);
        }
        let instance = id.clone();
        if life == self.agent.life {
            self.tell(Event::Gone { instance, run });
        } else if main == Some(true) {
            let how = "killed by SIGTERM".into();
            self.tell(Event::Exited { instance, run, how });
        }
    }

    pub(super) fn forget_process(&mut self, id: &InstanceId) {
        let Some(instance) = self.truth.instances.get_mut(id) else {
            return;
        };
        instance.process = None;
        if !instance.recorded {
            self.truth.instances.remove(id);
        }
    }

    pub(super) fn stop(&mut self, id: &InstanceId, run: RunId, polite: bool) {
        let deaf = self.truth.ails(id, Ailment::IgnoresStop);
        let service = self.truth.declared.get(id.service());
        let patience = service.map_or(Millis(1_000), |service| service.stop.timeout);
        let instance = self.truth.instances.get_mut(id);
        let Some(instance) = instance else {
            let instance = id.clone();
            self.tell(Event::Gone { instance, run });
            return;
        };
        if instance.starting == Some(run) {
            instance.starting = None;
        }
        let hung = match &instance.process {
            Some(process) if process.run == run => process.hung,
            _ => {
                let instance = id.clone();
                self.tell(Event::Gone { instance, run });
                return;
            }
        };
        let instance = id.clone();
        if polite && (deaf || hung) {
            self.plan_task(patience.duration(), Task::Escalate { instance, run });
        } else if polite {
            self.end_tree_after(POLITE_END_US, instance, run);
        } else {
            self.kill_tree(instance, run);
        }
    }

    pub(super) fn kill_tree(&mut self, id: InstanceId, run: RunId) {
        let slow = self.truth.ails(&id, Ailment::SlowKill);
        self.end_tree_after(if slow { KILL_US * 1_000 } else { KILL_US }, id, run);
    }

    fn end_tree_after(&mut self, usual_us: u64, instance: InstanceId, run: RunId) {
        if let Some(process) = self.truth.process_mut(&instance, run) {
            process.dying = true;
        }
        let life = self.agent.life;
        let after = self.pace.span(usual_us);
        self.plan(after, Due::TreeEnds { instance, run, life });
    }

    pub(super) fn run_hook(
        &mut self,
        id: &InstanceId,
        run: RunId,
        hook: HookKind,
        epoch: Epoch,
        active: Option<&InstanceId>,
    ) {
        let service = self.truth.declared.get(id.service());
        let declared = service.and_then(|service| match hook {
            HookKind::Promote => service.on_promote.as_ref(),
            HookKind::Demote => service.on_demote.as_ref(),
            HookKind::Follow => service.on_follow.as_ref(),
        });
        let timeout = declared.map_or(Duration::from_secs(1), |hook| hook.timeout.duration());
        let trouble = self.truth.hook_trouble(id.service(), hook);
        let hung = self.truth.process(id).is_some_and(|process| process.hung);
        if let Some(instance) = self.truth.instances.get_mut(id) {
            match hook {
                HookKind::Promote => instance.memo.acts = Some(epoch),
                HookKind::Demote => instance.memo.promoted = None,
                HookKind::Follow => {}
            }
        }
        let usual = self.pace.span(HOOK_US);
        let (after, error) = match trouble {
            _ if hung => (timeout, Some("took longer than its timeout")),
            Some(HookTrouble::Hangs) => (timeout, Some("took longer than its timeout")),
            Some(HookTrouble::Fails) => (usual, Some("exit code 1")),
            Some(HookTrouble::Slow) => ((usual * 40).min(timeout), None),
            None if usual >= timeout => (timeout, Some("took longer than its timeout")),
            None => (usual, None),
        };
        let takes_effect = error.is_none() || self.pace.coin();
        let held = self.truth.store.held_by(id).find(|known| known.epoch == epoch);
        let hook = HookRun {
            slot: held.map_or(0, |known| known.slot.slot),
            instance: id.clone(),
            run,
            hook,
            epoch,
            active: active.cloned(),
            life: self.agent.life,
            error,
            takes_effect,
        };
        self.plan(after, Due::HookEnds(hook));
    }

    pub(super) fn hook_ends(&mut self, hook: &HookRun) {
        let caught_up = self.hook_takes_effect(hook);
        let error = match (hook.error, caught_up) {
            (Some(error), _) => Some(error),
            (None, false) => Some("exit code 2"),
            (None, true) => None,
        };
        self.tell(Event::HookDone {
            instance: hook.instance.clone(),
            run: hook.run,
            hook: hook.hook,
            epoch: hook.epoch,
            outcome: error.map_or(HookOutcome::Done, |error| HookOutcome::Failed(error.into())),
        });
    }

    /// Does to the process what the hook is there for. Returns false if that could not be done.
    pub(super) fn hook_takes_effect(&mut self, hook: &HookRun) -> bool {
        let id = &hook.instance;
        let running = self
            .truth
            .process(id)
            .is_some_and(|process| process.run == hook.run && process.main);
        if !hook.takes_effect || !running {
            return running;
        }
        match hook.hook {
            HookKind::Promote => {
                self.begin_to_act(id, hook.slot, hook.epoch);
            }
            HookKind::Demote => {
                if let Some(process) = self.truth.process_mut(id, hook.run) {
                    process.demoted = process.demoted.max(hook.epoch);
                    process.acting = None;
                }
            }
            HookKind::Follow => return self.follow(hook),
        }
        true
    }

    fn follow(&mut self, hook: &HookRun) -> bool {
        let Some(active) = &hook.active else {
            return false;
        };
        let leader = self.truth.instances.get(active);
        let Some((run, position)) = leader.and_then(|leader| {
            let process = leader
                .process
                .as_ref()
                .filter(|process| process.main && !process.hung)?;
            let acts = process.acting.is_some() || !Truth::acts_by_itself(&process.from);
            acts.then_some((process.run, leader.position))
        }) else {
            return false;
        };
        if let Some(follower) = self.truth.instances.get_mut(&hook.instance) {
            follower.position = position;
        }
        if let Some(process) = self.truth.process_mut(&hook.instance, hook.run) {
            process.in_sync_with = Some((active.clone(), run));
            process.acting = None;
        }
        true
    }
}
