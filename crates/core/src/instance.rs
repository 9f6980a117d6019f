//! What is known of one instance, and how its failures are counted.

use crate::view::InstancePhase;
use crate::{Adopted, ProbeOutcome, Reason, Report, jitter};
use model::{Epoch, Health, HookKind, InstanceId, Millis, NodeName, Revision, RunId, Timestamp};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// A process without a check counts as healthy when it lived this long: one that exits at once must not be promoted.
pub(crate) const SETTLE: Millis = Millis(100);
/// Deaths of healthy processes are counted over this long, for back-off and for the failover order.
const DEATHS_WINDOW: Duration = Duration::from_secs(60);
/// An instance that died this often within the window flaps: it is last in the failover order.
const DEATHS_FLAPPING: usize = 3;
/// Deaths within this long make the next start wait.
const BACKOFF_WINDOW: Duration = Duration::from_secs(10);
/// So many deaths within that time are answered by a restart at once.
const DEATHS_FREE: usize = 2;

/// What the process of an instance does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing runs; may start from then on.
    Waiting { until: Timestamp },
    /// A cold standby that could be started; looked over again at that time, or just now if that never comes.
    Prepared { again: Timestamp },
    /// A cold standby being looked over.
    Preparing,
    /// Being started, not yet healthy.
    Starting { started: bool, deadline: Timestamp },
    /// Was healthy since its start.
    Running,
    /// Its tree is being ended.
    Stopping,
    /// Nothing of it runs any more; what follows is not decided yet.
    Ended,
    /// Given up; tried again then.
    Failed { retry: Timestamp },
}

/// What a process is started from.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) declared: Arc<model::Service>,
    /// Not what is declared now, but what worked last.
    pub(crate) is_earlier: bool,
}

impl Source {
    /// For whoever carries the start out.
    pub(crate) fn earlier(&self) -> Option<Arc<model::Service>> {
        self.is_earlier.then(|| Arc::clone(&self.declared))
    }
}

/// The agent was asked for something and will answer; the answer must match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunningHook {
    pub(crate) kind: HookKind,
    pub(crate) epoch: Epoch,
}

#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    pub(crate) node: NodeName,
    pub(crate) run: RunId,
    pub(crate) phase: Phase,
    pub(crate) health: Health,
    /// Since when phase, health and role are as they are, and why.
    pub(crate) since: Timestamp,
    pub(crate) because: Reason,
    /// When a check last failed, and whether its start was already given more time because none did of late.
    pub(crate) last_fail: Option<Timestamp>,
    /// The process that served a slot: a proxy that heard of nothing since still sends clients to it.
    pub(crate) served_as: Option<RunId>,
    pub(crate) start_extended: bool,
    /// Checks failed and passed in a row.
    pub(crate) fails: u32,
    pub(crate) passes: u32,
    pub(crate) last_failure: Option<String>,
    /// How the last of its processes ended that did so without our wish, or why we ended it.
    pub(crate) last_end: Option<String>,
    /// Its check was changed then, while it ran, and has not passed since: nobody knows whether the check is right.
    pub(crate) check_untried: Option<Timestamp>,
    /// What the `standby_check` says; `None` before its first answer.
    pub(crate) standby_check: Option<Result<(), String>>,
    pub(crate) standby_checked_at: Timestamp,
    /// When the check began that passed last, and the first of those that failed since.
    pub(crate) stood_by: Option<Timestamp>,
    pub(crate) failing_since: Option<Timestamp>,
    /// A standby check that begins after this moment answers the question of this number.
    pub(crate) proving: Option<(u64, Timestamp)>,
    /// What it said, the question answered last.
    pub(crate) proved: Option<(u64, Result<(), String>)>,
    /// It was found running when the agent came back, and its check (its standby check) has not answered since: that it is well is what
    /// an earlier agent saw.
    pub(crate) unchecked: bool,
    pub(crate) standby_unchecked: bool,
    /// Unhealthy since, for the restart of one that does not recover.
    pub(crate) unhealthy_since: Option<Timestamp>,
    pub(crate) hook: Option<RunningHook>,
    pub(crate) promoted: Option<Epoch>,
    /// It may act as an active: its promote hook was begun, it serves, or it was started as one; and it was not demoted since.
    pub(crate) acts: bool,
    /// It was told when it was started that it is active at this epoch, and needs no hook.
    pub(crate) started_at: Option<Epoch>,
    pub(crate) followed: Option<Epoch>,
    pub(crate) follow_failures: u32,
    pub(crate) follow_again: Timestamp,
    /// Runs from what is declared now; a start that is due takes the newest declaration by itself.
    pub(crate) current: bool,
    /// It is being stopped to be started from what is declared now.
    pub(crate) renewing: bool,
    /// Its last process ran from an earlier declaration and was not renewed: while the present one has not worked, so does the next.
    pub(crate) ran_earlier: bool,
    /// Goes away when it is stopped.
    pub(crate) retiring: bool,
    /// Stopped by our own wish: no failure is counted.
    pub(crate) planned_stop: bool,
    /// The run that is ending had been healthy.
    pub(crate) was_healthy: bool,
    /// What it was started from, if this agent started it.
    pub(crate) launched_from: Option<Arc<model::Service>>,
    /// It lost its slot to a planned change at this epoch: its demote hook runs when its clients have gone.
    pub(crate) demote: Option<Epoch>,
    /// Starts in a row that never became healthy.
    pub(crate) failed_starts: u32,
    pub(crate) deaths: VecDeque<Timestamp>,
    pub(crate) restarts: u32,
    /// The agent keeps a record of it; in a cluster: the store was seen to have one.
    pub(crate) created: bool,
    /// In a cluster: the revision at which that came to be.
    pub(crate) placed: Revision,
    /// In a cluster: its record was seen to say that it shall go away.
    pub(crate) retiring_seen: bool,
    /// In a cluster: when the controller writes again what it wrote about it, if the store does not say so by then.
    pub(crate) write_again: Timestamp,
    /// On another node: how often it died of late, as told.
    pub(crate) told_deaths: usize,
    /// Its node could not arm it (no guard, no floating address), so it may not act; until when that counts.
    pub(crate) unfenced: Option<(String, Timestamp)>,
    /// On another node: what that says of it.
    pub(crate) told: Option<Box<Report>>,
    /// On another node: it is down because that is lost.
    pub(crate) lost_with_node: bool,
    /// Of another node: it is about to hand its slot over.
    pub(crate) leaving: bool,
    /// When the controller may ask its node again to start it anew.
    pub(crate) ask_again: Timestamp,
}

impl Instance {
    pub(crate) fn new(id: InstanceId, node: NodeName, now: Timestamp, because: Reason) -> Self {
        Self {
            id,
            node,
            run: RunId(0),
            phase: Phase::Waiting { until: now },
            health: Health::Down,
            since: now,
            because,
            last_fail: None,
            served_as: None,
            start_extended: false,
            fails: 0,
            passes: 0,
            last_failure: None,
            last_end: None,
            check_untried: None,
            standby_check: None,
            standby_checked_at: now,
            stood_by: None,
            failing_since: None,
            proving: None,
            proved: None,
            unchecked: false,
            standby_unchecked: false,
            unhealthy_since: None,
            hook: None,
            promoted: None,
            acts: false,
            started_at: None,
            followed: None,
            follow_failures: 0,
            follow_again: Timestamp(0),
            current: true,
            renewing: false,
            ran_earlier: false,
            retiring: false,
            planned_stop: false,
            was_healthy: false,
            launched_from: None,
            demote: None,
            failed_starts: 0,
            deaths: VecDeque::new(),
            restarts: 0,
            created: false,
            placed: Revision(0),
            retiring_seen: false,
            write_again: now,
            told_deaths: 0,
            told: None,
            unfenced: None,
            lost_with_node: false,
            leaving: false,
            ask_again: Timestamp(0),
        }
    }

    pub(crate) fn adopted(adopted: Adopted, now: Timestamp) -> Self {
        let because = if adopted.running {
            Reason::Adopted
        } else {
            Reason::FoundStopped
        };
        let mut instance = Self::new(adopted.instance, adopted.node, now, because);
        instance.run = adopted.run;
        instance.created = true;
        instance.current = adopted.current;
        instance.ran_earlier = !adopted.current && !adopted.running;
        if adopted.running {
            instance.phase = Phase::Running;
            instance.health = Health::Healthy;
            instance.since = adopted.since.map_or(now, |since| since.min(now));
            instance.promoted = adopted.promoted;
            instance.served_as = (adopted.served || adopted.promoted.is_some()).then_some(adopted.run);
            instance.followed = adopted.followed;
            instance.standby_check = adopted.stands_by.map(|stands_by| match stands_by {
                true => Ok(()),
                false => Err("it failed when the agent was last there".into()),
            });
        }
        instance
    }

    /// A process of it may run.
    pub(crate) fn has_process(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. } | Phase::Running | Phase::Stopping)
    }

    /// Its process runs and is not being ended.
    pub(crate) fn is_alive(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. } | Phase::Running)
    }

    /// The process that it has served a slot before, or does.
    pub(crate) fn has_served(&self) -> bool {
        self.served_as == Some(self.run)
    }

    /// Its process runs, was healthy and passes its checks.
    pub(crate) fn is_fit(&self) -> bool {
        self.phase == Phase::Running && self.health == Health::Healthy
    }

    /// What its process does, as it is told.
    pub(crate) fn shown_phase(&self) -> InstancePhase {
        match self.phase {
            Phase::Waiting { .. } | Phase::Preparing | Phase::Ended => InstancePhase::Waiting,
            Phase::Prepared { .. } => InstancePhase::Prepared,
            Phase::Starting { .. } => InstancePhase::Starting,
            Phase::Running => InstancePhase::Running,
            Phase::Stopping => InstancePhase::Stopping,
            Phase::Failed { .. } => InstancePhase::Failed,
        }
    }

    pub(crate) fn set(&mut self, phase: Phase, health: Health, now: Timestamp, because: Reason) {
        if phase != Phase::Running {
            // Of another process, or of none, nothing is left to be looked at.
            self.unchecked = false;
            self.standby_unchecked = false;
        }
        self.phase = phase;
        self.health = health;
        self.since = now;
        self.because = because;
    }

    /// What went wrong with it last. That a process does not answer checks says less than that it ended.
    pub(crate) fn went_wrong(&self) -> Option<String> {
        self.last_end.clone().or_else(|| self.last_failure.clone())
    }

    /// It was given up before this agent came, and waits for another try until then; that one counts as the last of its tries.
    pub(crate) fn fail_until(&mut self, retry: Timestamp, tries: u32, now: Timestamp, why: &str) {
        self.failed_starts = tries.saturating_sub(1);
        let what = why.to_owned();
        self.set(Phase::Failed { retry }, Health::Down, now, Reason::Told { what });
    }

    /// A process starts: what was known of the one before is forgotten.
    pub(crate) fn begin_run(&mut self, from: &Source, now: Timestamp, because: Reason) {
        let deadline = now + from.declared.start_timeout.duration();
        self.launched_from = Some(Arc::clone(&from.declared));
        self.was_healthy = false;
        self.demote = None;
        self.run = RunId(self.run.0 + 1);
        self.restarts += u32::from(self.run.0 > 1);
        self.last_fail = None;
        self.start_extended = false;
        self.fails = 0;
        self.passes = 0;
        self.last_failure = None;
        self.check_untried = None;
        self.standby_check = None;
        self.stood_by = None;
        self.failing_since = None;
        self.proving = None;
        self.proved = None;
        self.unhealthy_since = None;
        self.hook = None;
        self.promoted = None;
        self.acts = false;
        self.started_at = None;
        self.followed = None;
        self.follow_failures = 0;
        self.follow_again = now;
        self.planned_stop = false;
        self.current = !from.is_earlier;
        self.renewing = false;
        self.set(
            Phase::Starting {
                started: false,
                deadline,
            },
            Health::Starting,
            now,
            because,
        );
    }

    /// It lost its slot and is a standby: at once, or when its demote hook for that epoch is through.
    pub(crate) fn stands_by(&mut self, demote: Option<Epoch>) {
        self.demote = demote;
        if demote.is_none() {
            self.acts = false;
            self.promoted = None;
        }
    }

    /// Takes a check's answer in. Returns true if that may change a decision.
    pub(crate) fn absorb_probe(
        &mut self,
        outcome: ProbeOutcome,
        fail_after: u32,
        pass_after: u32,
        now: Timestamp,
    ) -> bool {
        match outcome {
            ProbeOutcome::Unsure => false,
            ProbeOutcome::Pass => {
                self.fails = 0;
                self.passes = self.passes.saturating_add(1);
                match (&self.phase, self.health) {
                    (Phase::Starting { started: true, .. }, _) => self.became_healthy(now),
                    (Phase::Running, Health::Unhealthy) if self.passes >= pass_after => self.became_healthy(now),
                    _ => return false,
                }
                true
            }
            ProbeOutcome::Fail(what) => {
                self.last_fail = Some(now);
                self.passes = 0;
                self.fails = self.fails.saturating_add(1);
                let last = what.clone();
                self.last_failure = Some(what);
                if self.phase != Phase::Running {
                    return false;
                }
                if self.health == Health::Unhealthy {
                    // It is ended for what is so now: it may have passed meanwhile, or nothing was heard of it.
                    return true;
                }
                if self.fails < fail_after {
                    return false;
                }
                self.health = Health::Unhealthy;
                self.unhealthy_since = Some(now);
                self.since = now;
                self.because = Reason::ChecksFailed {
                    instance: self.id.clone(),
                    times: self.fails,
                    last,
                };
                true
            }
        }
    }

    /// Takes in the answer of a check that was changed while the process ran. One that it never passed does not make it unhealthy: a
    /// mistake in a check must not end what works. Returns what is left to be judged as usual.
    pub(crate) fn try_check(
        &mut self,
        began: Timestamp,
        outcome: ProbeOutcome,
        is_proven: bool,
        fail_after: u32,
        now: Timestamp,
    ) -> Option<ProbeOutcome> {
        let Some(since) = self.check_untried else {
            return Some(outcome);
        };
        // It was asked as the check was before.
        if began < since {
            return None;
        }
        let was_well = self.phase == Phase::Running && self.health == Health::Healthy;
        match outcome {
            ProbeOutcome::Fail(what) if was_well && !is_proven => {
                self.last_fail = Some(now);
                self.fails = self.fails.saturating_add(1);
                self.passes = 0;
                self.last_failure = Some(what);
                None
            }
            ProbeOutcome::Unsure => None,
            // It passes, another one did, or this one was not well before: it counts.
            outcome => {
                if outcome == ProbeOutcome::Pass || self.fails + 1 >= fail_after {
                    self.check_untried = None;
                }
                Some(outcome)
            }
        }
    }

    pub(crate) fn became_healthy(&mut self, now: Timestamp) {
        self.failed_starts = 0;
        self.ran_earlier &= !self.current;
        self.unhealthy_since = None;
        let because = Reason::ChecksPass {
            instance: self.id.clone(),
        };
        self.set(Phase::Running, Health::Healthy, now, because);
    }

    /// Its process is gone without our wish. Returns how long to wait until the next start.
    pub(crate) fn count_failure(
        &mut self,
        was_healthy: bool,
        restart: &model::Restart,
        seed: u64,
        now: Timestamp,
    ) -> Duration {
        if was_healthy {
            self.deaths.push_back(now);
            self.forget_old_deaths(now);
            let recent = self
                .deaths
                .iter()
                .filter(|at| now.since(**at) <= BACKOFF_WINDOW)
                .count();
            let doublings = recent.saturating_sub(DEATHS_FREE);
            self.backoff(doublings, restart, seed)
        } else {
            self.failed_starts = self.failed_starts.saturating_add(1);
            self.backoff(self.failed_starts as usize - 1, restart, seed)
        }
    }

    /// The first restart is at once; each further one waits twice as long, with up to a quarter of jitter.
    fn backoff(&self, doublings: usize, restart: &model::Restart, seed: u64) -> Duration {
        if doublings == 0 {
            return Duration::ZERO;
        }
        let factor = 1_u64
            .checked_shl(u32::try_from(doublings - 1).unwrap_or(u32::MAX))
            .unwrap_or(u64::MAX);
        let wait_ms = restart.backoff.0.saturating_mul(factor).min(restart.backoff_max.0);
        Duration::from_millis(wait_ms + jitter(seed, &self.id, self.run.0, wait_ms / 4 + 1))
    }

    pub(crate) fn is_flapping(&self, now: Timestamp) -> bool {
        self.recent_deaths(now) >= DEATHS_FLAPPING
    }

    pub(crate) fn recent_deaths(&self, now: Timestamp) -> usize {
        let own = self.deaths.iter().filter(|at| now.since(**at) <= DEATHS_WINDOW).count();
        own + self.told_deaths
    }

    fn forget_old_deaths(&mut self, now: Timestamp) {
        while self.deaths.front().is_some_and(|at| now.since(*at) > DEATHS_WINDOW) {
            self.deaths.pop_front();
        }
    }
}

/// Instances by id.
pub(crate) type Instances = BTreeMap<InstanceId, Instance>;
