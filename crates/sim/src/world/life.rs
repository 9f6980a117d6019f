//! The agent dies or is stopped, at any step.

use super::World;
use super::queue::{Due, Task};
use model::Timestamp;
use std::time::Duration;

impl World {
    /// The agent was to die after so many decisions.
    pub(super) fn dies_now(&mut self) -> bool {
        let Some((left, back)) = self.agent.dies else {
            return false;
        };
        if left > 0 {
            self.agent.dies = Some((left - 1, back));
            return false;
        }
        self.agent_dies(back);
        true
    }

    pub(super) fn agent_dies(&mut self, back: Option<Duration>) {
        self.agent.core = None;
        self.agent.stopped = false;
        self.agent.dies = None;
        self.agent.wakes_at = None;
        self.truth.agent_runs = false;
        self.truth.switchovers.clear();
        let life = self.agent.life;
        let half_done = self.queue.take(|due| match due {
            Due::Agent { .. } => true,
            Due::HookEnds(hook) => hook.life == life,
            _ => false,
        });
        let deferred = std::mem::take(&mut self.agent.deferred);
        let deferred = deferred.into_iter().map(|task| Due::Agent { life, task });
        // What was being done is done or not; in neither case anybody hears of it.
        for due in half_done.into_iter().chain(deferred) {
            if !self.pace.coin() {
                continue;
            }
            match due {
                Due::HookEnds(hook) => {
                    self.hook_takes_effect(&hook);
                }
                Due::Agent {
                    task: Task::Spawn(spawn),
                    ..
                } => self.spawn(spawn),
                Due::Agent {
                    task: Task::Commit(write),
                    ..
                } => {
                    self.commit(&write);
                }
                _ => {}
            }
        }
        for instance in self.truth.instances.values_mut() {
            instance.starting = None;
        }
        // Nobody is left to hear what the half-done things had to tell.
        self.agent.life += 1;
        self.agent.last_told = Timestamp(0);
        if let Some(back) = back {
            self.plan(back, Due::AgentReturns);
        }
    }

    pub(super) fn agent_stops(&mut self, span: Duration) {
        self.agent.stopped = true;
        self.truth.agent_runs = false;
        self.plan(span, Due::AgentContinues);
    }

    /// What came meanwhile comes at once; checks of that time say nothing.
    pub(super) fn agent_continues(&mut self) {
        if !self.agent.stopped {
            return;
        }
        self.agent.stopped = false;
        self.truth.agent_runs = true;
        let life = self.agent.life;
        for task in std::mem::take(&mut self.agent.deferred) {
            if self.violation.is_some() || self.agent.life != life {
                return;
            }
            match task {
                Task::Probe {
                    instance,
                    run,
                    standby,
                    prober,
                } => self.probe(instance, run, standby, prober, true),
                Task::ProbeTimeout {
                    instance,
                    run,
                    standby,
                    prober,
                } => self.probe_timeout(instance, run, standby, prober, true),
                task => self.attend(task),
            }
        }
    }
}
