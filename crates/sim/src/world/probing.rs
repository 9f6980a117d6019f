//! Checks, as the agent's probers make them: at their times, with their time-outs, and unsure after a stall.

use super::World;
use super::queue::{Prober, Task};
use crate::fault::Ailment;
use decisions::{Event, ProbeOutcome};
use model::{Check, InstanceId, RunId};
use std::time::Duration;

/// Until the first pass the pace is quicker.
const STARTING_EVERY: Duration = Duration::from_millis(20);

impl World {
    /// Begins to check a process, with what is declared now.
    pub(super) fn begin_probing(&mut self, id: &InstanceId, run: RunId) {
        let Some(process) = self.truth.process_mut(id, run) else {
            return;
        };
        process.probers += 1;
        let prober = Prober::Regular(process.probers);
        for standby in [false, true] {
            let instance = id.clone();
            self.plan_task(
                Duration::ZERO,
                Task::Probe {
                    instance,
                    run,
                    standby,
                    prober,
                },
            );
        }
    }

    /// Checks once more, now.
    pub(super) fn probe_now(&mut self, id: &InstanceId, standby: bool) {
        let Some(run) = self.truth.process(id).map(|process| process.run) else {
            return;
        };
        let instance = id.clone();
        let task = Task::Probe {
            instance,
            run,
            standby,
            prober: Prober::Extra,
        };
        self.plan_task(Duration::ZERO, task);
    }

    pub(super) fn probe(&mut self, id: InstanceId, run: RunId, standby: bool, prober: Prober, late: bool) {
        let Some(check) = self.check_of(&id, standby) else {
            return;
        };
        let (every, timeout) = (check.every.duration(), check.timeout.duration());
        let passes = self.truth.answers(&id) && !(standby && self.truth.ails(&id, Ailment::StandbyCheckFails));
        let refused = self.truth.now;
        let held = self.truth.store.held_by(&id).next().is_some();
        let Some(process) = self.truth.process_mut(&id, run).filter(|process| process.main) else {
            return;
        };
        if prober != Prober::Extra && prober != Prober::Regular(process.probers) {
            return;
        }
        let holds = held && process.acting.is_some();
        let hung = process.hung && process.answers_from <= refused;
        let starting = !process.evidence.passed_once;
        let task = |instance| Task::ProbeTimeout {
            instance,
            run,
            standby,
            prober,
        };
        if hung && !late {
            self.plan_task(timeout, task(id));
            return;
        }
        let outcome = match () {
            () if late => ProbeOutcome::Unsure,
            () if passes => ProbeOutcome::Pass,
            () => ProbeOutcome::Fail("connection refused".into()),
        };
        // An active has nobody to follow.
        if !(standby && holds) {
            let instance = id.clone();
            self.tell(Event::Probed {
                instance,
                run,
                standby,
                began: refused,
                outcome,
            });
        }
        let wait = if starting && !passes {
            every.min(STARTING_EVERY)
        } else {
            every
        };
        self.probe_again(id, run, standby, prober, wait);
    }

    /// A check was not answered in time; or the agent was stopped meanwhile and cannot tell.
    pub(super) fn probe_timeout(&mut self, id: InstanceId, run: RunId, standby: bool, prober: Prober, late: bool) {
        let Some(check) = self.check_of(&id, standby) else {
            return;
        };
        let rest = check.every.duration().saturating_sub(check.timeout.duration());
        let outcome = if late {
            ProbeOutcome::Unsure
        } else {
            ProbeOutcome::Fail(format!("no answer within {}", check.timeout))
        };
        let instance = id.clone();
        self.tell(Event::Probed {
            instance,
            run,
            standby,
            began: self.truth.now - check.timeout.duration(),
            outcome,
        });
        self.probe_again(id, run, standby, prober, rest);
    }

    fn probe_again(&mut self, instance: InstanceId, run: RunId, standby: bool, prober: Prober, wait: Duration) {
        if prober == Prober::Extra {
            return;
        }
        let wait = wait.max(Duration::from_millis(1));
        self.plan_task(
            wait,
            Task::Probe {
                instance,
                run,
                standby,
                prober,
            },
        );
    }

    fn check_of(&self, id: &InstanceId, standby: bool) -> Option<Check> {
        let declared = self.truth.declared.get(id.service())?;
        if standby {
            declared.standby_check.clone()
        } else {
            declared.check.clone()
        }
    }
}
