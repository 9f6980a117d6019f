//! Hooks: what is run before a slot is taken, after it, and before it is left.

use super::start::{give_token, make_data};
use super::{Declaration, Executor, chain, located};
use crate::clock;
use crate::input::Input;
use crate::memo::note;
use crate::words::Words;
use decisions::{Event, HookOutcome};
use drivers::hook::{self, HookCommand};
use drivers::preflight::{self, PreflightEnv};
use drivers::process::{keep_room, open_log};
use model::{Epoch, HookKind, InstanceId, NodeName, Role, RunId};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

impl Executor {
    pub(super) fn prepare(&self, instance: InstanceId, node: NodeName) {
        let Some(service) = self.cluster.services.get(instance.service()).cloned() else {
            return;
        };
        let (cluster, layout, exe, folder) = (
            Arc::clone(&self.cluster),
            self.layout.clone(),
            self.exe.clone(),
            self.folder.clone(),
        );
        let inputs = self.inputs.clone();
        let host = self.host;
        let (record, log) = (self.record_path(&instance), self.layout.log(&instance));
        let (state, token) = (self.state.clone(), self.layout.state_token(&instance));
        let (data, user) = (self.layout.data(&instance), service.user.clone());
        let of = instance.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let instance = of;
            let words = Words {
                cluster: &cluster,
                layout: &layout,
                exe: &exe,
                instance: &instance,
                node: &node,
                host,
                // Any number does: nothing is bound to it.
                port: Some(1),
                role: Some(Role::Active),
                epoch: Some(Epoch(1)),
                active: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 1))),
            };
            let env = PreflightEnv {
                base: folder.as_deref(),
                data: &layout.data(&instance),
                skip_listen: &BTreeSet::new(),
                expand: &|word| words.fill(word),
            };
            preflight::cold_ready(&service, env).map_err(|finding| finding.problem)
        });
        tokio::spawn(async move {
            let result = looked.await.unwrap_or_else(|_| Err("nobody could look".into()));
            // Whatever its start needs is there before: a takeover neither waits for it nor fails for want of it, on a full disk say.
            let result = match result {
                Ok(()) => make_data(&data, user.as_deref()),
                refused => refused,
            };
            if result.is_ok() {
                if let Some(state) = state {
                    give_token(&state, &instance, &token, user.as_deref()).await;
                }
                if let Err(error) = keep_room(&record).and_then(|()| open_log(&log).map(drop)) {
                    tracing::warn!(%instance, %error, "its record and its log will need room when it is started");
                }
            }
            let _ = inputs.send(Input::Event(Event::Prepared { instance, result }, clock::now()));
        });
    }

    pub(super) fn run_hook(
        &mut self,
        instance: InstanceId,
        run: RunId,
        kind: HookKind,
        epoch: Epoch,
        active: Option<InstanceId>,
        earlier: Option<Arc<model::Service>>,
    ) {
        let active = active.and_then(|active| self.address(&active));
        let from = self.declaration(&instance, earlier);
        let command = from.and_then(|from| self.hook_command(&instance, kind, epoch, active, &from));
        let declared = self.cluster.services.get(instance.service());
        let exclusive = declared.is_some_and(|service| service.exclusive);
        let instance_of_hook = instance.clone();
        let Some(live) = self.live.get_mut(&instance).filter(|live| live.run == run) else {
            return;
        };
        let Some(process) = live.process.clone() else { return };
        // Hooks are run for those that are fit.
        live.memo.healthy = true;
        // From the moment a demotion begins nobody may believe that the instance was promoted; and who is being promoted
        // follows nobody any more.
        match kind {
            HookKind::Demote => {
                live.memo.promoted = None;
                live.memo.floating = None;
            }
            HookKind::Promote => {
                live.memo.followed = None;
                live.memo.acts = Some(epoch);
                live.standby_checks = None;
            }
            HookKind::Follow => {
                live.memo.followed = None;
                live.memo.stands_by = None;
                // A verdict about the active before must not count for this one.
                live.standby_checks = None;
            }
        }
        let before = live.memo.clone();
        match kind {
            HookKind::Promote => {
                live.memo.promoted_at(epoch);
                live.memo.since = Some(clock::wall_now());
            }
            HookKind::Follow => live.memo.followed = Some(epoch),
            HookKind::Demote => {
                live.memo.acts = None;
                live.memo.since = Some(clock::wall_now());
            }
        }
        let after = live.memo.clone();
        if kind == HookKind::Promote {
            // Counts only when the hook is through; see `hook_done`.
            live.memo.promoted = None;
            live.memo.served = before.served;
        }
        if kind == HookKind::Follow {
            live.memo.followed = None;
        }
        if kind == HookKind::Demote {
            // And until this one is through it may act.
            live.memo.acts = before.acts;
        }
        let (inputs, addresses) = (self.inputs.clone(), self.addresses.clone());
        let early = (kind == HookKind::Promote)
            .then(|| self.partings.promotes(&instance))
            .flatten();
        let task = tokio::spawn(async move {
            let ran = async {
                let command = command?;
                // Should this agent die within the hook, the next one must know that it was begun.
                let noted = match kind {
                    HookKind::Follow => Ok(()),
                    HookKind::Promote | HookKind::Demote => note(&process, &before),
                };
                match noted {
                    Err(error) if kind == HookKind::Promote && !exclusive => {
                        tracing::warn!(error, "a promotion begins and that cannot be written down");
                    }
                    noted => noted?,
                }
                let result = hook::run(command).await.map_err(|error| chain(&error));
                // Those who came meanwhile are let in.
                drop(early);
                result?;
                if kind == HookKind::Demote {
                    addresses.release(&instance).await;
                }
                // Without the note it is only done once more if the agent restarts; on a full disk, say.
                if let Err(error) = note(&process, &after) {
                    tracing::warn!(%kind, error, "a hook went through and that cannot be written down");
                }
                Ok(())
            };
            let outcome = match ran.await {
                Ok(()) => HookOutcome::Done,
                Err(error) => HookOutcome::Failed(error),
            };
            let event = Event::HookDone {
                instance,
                run,
                hook: kind,
                epoch,
                outcome,
            };
            let _ = inputs.send(Input::HookDone {
                event,
                at: clock::now(),
            });
        });
        if let Some(live) = self.live.get_mut(&instance_of_hook) {
            live.hook = Some(task);
        }
    }

    fn hook_command(
        &self,
        instance: &InstanceId,
        kind: HookKind,
        epoch: Epoch,
        active: Option<SocketAddr>,
        (service, folder): &Declaration,
    ) -> Result<HookCommand, String> {
        let hook = match kind {
            HookKind::Promote => &service.on_promote,
            HookKind::Demote => &service.on_demote,
            HookKind::Follow => &service.on_follow,
        };
        let hook = hook
            .as_ref()
            .ok_or_else(|| format!("{kind} is not declared any more"))?;
        let live = self.live.get(instance).ok_or("it does not run any more")?;
        let role = if kind == HookKind::Promote {
            Role::Active
        } else {
            Role::Standby
        };
        let words = self.words(instance, &live.node, live.memo.port);
        let words = Words {
            role: Some(role),
            epoch: Some(epoch),
            active,
            ..words
        };
        let mut env = words.env(&service.env)?;
        if let Some(active) = active {
            env.insert("UNDERSTUDY_ACTIVE".into(), active.to_string());
        }
        env.insert("UNDERSTUDY_INSTANCE".into(), self.marker_of_helpers(instance));
        let argv = located(words.argv(&hook.command)?, &env, folder.as_deref())?;
        Ok(HookCommand {
            argv,
            env,
            dir: Some(self.layout.data(instance)),
            user: service.user.clone(),
            timeout: hook.timeout.duration(),
        })
    }

    /// A hook is through: what it changed is remembered from now on.
    pub(crate) fn hook_done(&mut self, event: &Event) {
        let Event::HookDone {
            instance,
            run,
            hook,
            epoch,
            outcome: HookOutcome::Done,
        } = event
        else {
            return;
        };
        let Some(live) = self.live.get_mut(instance).filter(|live| live.run == *run) else {
            return;
        };
        match hook {
            HookKind::Promote => live.memo.promoted_at(*epoch),
            HookKind::Demote => {
                live.memo.promoted = None;
                live.memo.acts = None;
            }
            HookKind::Follow => live.memo.followed = Some(*epoch),
        }
        live.hook = None;
        live.keep_memo(instance);
        if *hook == HookKind::Demote {
            self.disarm(instance);
        }
        let Some(live) = self.live.get_mut(instance) else {
            return;
        };
        let stands_by = *hook != HookKind::Promote && live.standby_checks.is_none();
        if stands_by {
            let id = instance.clone();
            let check = self
                .cluster
                .services
                .get(id.service())
                .and_then(|service| service.standby_check.clone());
            let prober = check.and_then(|check| self.prober(&id, &check, true));
            if let Some(live) = self.live.get_mut(&id) {
                live.standby_checks = prober;
            }
        } else if let Some(checks) = &live.standby_checks {
            checks.probe_now();
        }
    }

    /// An instance serves without a promote hook: remembered, so that an agent that comes back knows.
    pub(crate) fn serves(&mut self, instance: &InstanceId, epoch: Epoch) {
        let Some(live) = self
            .live
            .get_mut(instance)
            .filter(|live| live.memo.promoted != Some(epoch))
        else {
            return;
        };
        live.memo.promoted_at(epoch);
        live.memo.acts = Some(epoch);
        live.memo.since = Some(clock::wall_now());
        live.memo.healthy = true;
        live.standby_checks = None;
        live.keep_memo(instance);
    }
}
