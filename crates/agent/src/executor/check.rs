//! Health checks of the instances that run here.

use super::{Executor, located};
use crate::clock;
use crate::input::Input;
use decisions::{Event, ProbeOutcome};
use drivers::probe::{ExecEnv, ProbeResult, Prober, ProberHandle};
use model::{Check, CheckKind, InstanceId, RunId, Timestamp};
use std::net::SocketAddr;
use std::time::Duration;

/// What a standby check says is written down at each change, and this often: it is of use only while it is fresh.
const VERDICT_NOTED_EVERY: Duration = Duration::from_secs(1);

impl Executor {
    /// Begins to check what was adopted.
    pub(crate) fn check_all(&mut self) {
        let ids: Vec<InstanceId> = self.live.keys().cloned().collect();
        for id in ids {
            self.check(&id);
        }
    }

    /// (Re)starts the checks of an instance as its service declares them now.
    pub(super) fn check(&mut self, instance: &InstanceId) {
        let Some(service) = self.cluster.services.get(instance.service()).cloned() else {
            return;
        };
        let active = self.live.get(instance).is_some_and(|live| live.memo.promoted.is_some());
        let checks = service
            .check
            .as_ref()
            .and_then(|check| self.prober(instance, check, false));
        let standby = match &service.standby_check {
            // An active has nothing to stand by for.
            Some(check) if !active => self.prober(instance, check, true),
            _ => None,
        };
        if let Some(live) = self.live.get_mut(instance) {
            live.checks = checks;
            live.standby_checks = standby;
        }
    }

    pub(super) fn prober(&self, instance: &InstanceId, check: &Check, standby: bool) -> Option<ProberHandle> {
        let live = self.live.get(instance)?;
        let process = drivers::process::Process::clone(live.process.as_ref()?);
        let service = self.cluster.services.get(instance.service())?;
        let words = self.words(instance, &live.node, live.memo.port);
        let filled = || {
            let mut env = words.env(&service.env)?;
            env.insert("UNDERSTUDY_INSTANCE".into(), self.marker_of_helpers(instance));
            let kind = match words.check(&check.kind)? {
                CheckKind::Exec { command } => CheckKind::Exec {
                    command: located(command, &env, self.folder.as_deref())?,
                },
                kind => kind,
            };
            Ok::<_, String>((kind, env))
        };
        let (kind, env) = match filled() {
            Ok(filled) => filled,
            Err(problem) => {
                tracing::error!(%instance, problem, "a check cannot be carried out; the instance is judged by its process alone");
                return None;
            }
        };
        let exec = ExecEnv {
            env,
            dir: Some(self.layout.data(instance)),
            user: service.user.clone(),
        };
        let target = live.memo.port.map(|port| SocketAddr::from((self.host, port)));
        let check = Check { kind, ..check.clone() };
        let (inputs, id, run) = (self.inputs.clone(), instance.clone(), live.run);
        let sink = move |result: ProbeResult| {
            let (outcome, took) = match result {
                ProbeResult::Pass { took } => (ProbeOutcome::Pass, took),
                ProbeResult::Fail { what, took } => (ProbeOutcome::Fail(what), took),
                ProbeResult::Unsure { .. } => (ProbeOutcome::Unsure, Duration::ZERO),
            };
            let now = clock::now();
            let event = Event::Probed {
                instance: id.clone(),
                run,
                standby,
                began: now - took,
                outcome,
            };
            let _ = inputs.send(Input::Event(event, now));
        };
        let seed = u64::from(process.pid()) ^ (u64::from(instance.number()) << 32);
        Some(Prober::spawn(check, target, exec, Some(process), seed, sink))
    }

    /// How long a check of an instance may be under way.
    pub(crate) fn check_timeout(&self, instance: &InstanceId) -> Duration {
        let service = self.cluster.services.get(instance.service());
        let check = service.and_then(|service| service.check.as_ref());
        check.map_or(Duration::ZERO, |check| check.timeout.duration())
    }

    /// What a standby check said is remembered when it changes: should agent and active die together, the next agent must know
    /// whether the standby had everything.
    pub(crate) fn standby_checked(&mut self, instance: &InstanceId, run: RunId, passed: bool, at: Timestamp) {
        let Some(live) = self
            .live
            .get_mut(instance)
            .filter(|live| live.run == run && live.hook_is_done())
        else {
            return;
        };
        let is_news = match live.memo.stands_by {
            Some((before, since)) => before != passed || at.since(since) >= VERDICT_NOTED_EVERY,
            None => true,
        };
        if is_news {
            live.memo.stands_by = Some((passed, at));
            live.keep_memo(instance);
        }
    }

    /// An instance passed a check: should the agent die, the next one need not wait for that.
    pub(crate) fn passed(&mut self, instance: &InstanceId, run: RunId) {
        if let Some(live) = self
            .live
            .get_mut(instance)
            .filter(|live| live.run == run && !live.memo.healthy)
        {
            live.memo.healthy = true;
            live.memo.since = Some(clock::wall_now());
            live.keep_memo(instance);
        }
    }

    /// An instance serves no more: it stands by, and is checked as a standby.
    pub(crate) fn stands_by(&mut self, instance: &InstanceId) {
        let service = self.cluster.services.get(instance.service());
        // Until its demote hook runs, the next agent must know that it is due; and an exclusive one may act until it is dead, wherever
        // clients are sent.
        if service.is_some_and(|service| service.exclusive || service.on_demote.is_some()) {
            return;
        }
        let live = self.live.get_mut(instance);
        if let Some(live) = live.filter(|live| live.memo.promoted.is_some()) {
            live.memo.promoted = None;
            live.memo.acts = None;
            live.memo.since = Some(clock::wall_now());
            self.check(instance);
        }
    }
}
