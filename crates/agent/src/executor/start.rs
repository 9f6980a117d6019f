//! Starts an instance: its declaration, its data, its token, its process, and the watch over it.

use super::{Declaration, Executor, Live, chain, located};
use crate::clock;
use crate::input::{Input, StartFailure};
use crate::memo::{Memo, launch_digest};
use crate::slots::keep_record;
use crate::words::Words;
use api::record;
use appstate::AppState;
use decisions::Event;
use drivers::process::{Launch, Process};
use model::{Addressing, Cluster, Epoch, InstanceId, NodeName, Role, RunId};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a service reaches what it keeps with us, and the file of the token that it shows there.
const STATE_URL: &str = "UNDERSTUDY_STATE_URL";
const STATE_TOKEN_FILE: &str = "UNDERSTUDY_STATE_TOKEN_FILE";

/// Of each service so many earlier declarations are remembered.
const EARLIER_KEPT: usize = 32;

impl Executor {
    pub(super) fn start(
        &mut self,
        instance: InstanceId,
        run: RunId,
        node: NodeName,
        role: Role,
        epoch: Option<Epoch>,
        earlier: Option<Arc<model::Service>>,
    ) {
        let service = self.declaration(&instance, earlier);
        let user = service.as_ref().ok().and_then(|(service, _)| service.user.clone());
        let launch = service.and_then(|from| self.launch(&instance, run, &node, (role, epoch), from));
        let memo = launch.as_ref().map(|(_, memo)| memo.clone()).unwrap_or_default();
        let live = Live {
            run,
            node: node.clone(),
            process: None,
            memo: memo.clone(),
            stop_when_started: None,
            checks: None,
            standby_checks: None,
            hook: None,
        };
        self.live.insert(instance.clone(), live);
        let (starts, driver, store, inputs) = (
            Arc::clone(&self.starts),
            Arc::clone(&self.driver),
            Arc::clone(&self.store),
            self.inputs.clone(),
        );
        let data = self.layout.data(&instance);
        let alone = self.session.is_none();
        let (state, token) = (self.state.clone(), self.layout.state_token(&instance));
        let addresses = self.addresses.clone();
        tokio::spawn(async move {
            let begun = async {
                let (launch, memo) = launch.map_err(StartFailure::Prepare)?;
                // Permits are never closed.
                let _permit = starts.acquire().await;
                make_data(&data, user.as_deref()).map_err(StartFailure::Prepare)?;
                if let Some(state) = state {
                    give_token(&state, &instance, &token, user.as_deref()).await;
                }
                // Of several machines the controller writes that it exists, and its port is told with everything else.
                if alone {
                    let record = record::Instance {
                        node,
                        port: memo.port.unwrap_or(0),
                        retiring: false,
                    };
                    keep_record(store.as_ref(), &instance, &record)
                        .await
                        .map_err(StartFailure::Prepare)?;
                }
                Ok(Arc::new(driver.start(launch).await?))
            };
            let result = begun.await;
            if result.is_err() {
                addresses.release(&instance).await;
            }
            let _ = inputs.send(Input::StartDone { instance, run, result });
        });
    }

    pub(super) fn launch(
        &mut self,
        instance: &InstanceId,
        run: RunId,
        node: &NodeName,
        (role, epoch): (Role, Option<Epoch>),
        (service, folder): Declaration,
    ) -> Result<(Launch, Memo), String> {
        let port = match service.addressing {
            Addressing::Port => Some(self.ports.give(instance)?),
            Addressing::None => None,
        };
        let words = Words {
            role: Some(role),
            epoch,
            ..self.words(instance, node, port)
        };
        let argv = words.argv(&service.command)?;
        let mut env = words.env(&service.env)?;
        if self.state.is_some() {
            let socket = self.layout.state_socket().display().to_string();
            env.insert(STATE_URL.into(), format!("unix:{socket}"));
            let token = self.layout.state_token(instance).display().to_string();
            env.insert(STATE_TOKEN_FILE.into(), token);
        }
        let command = located(argv, &env, folder.as_deref())?;
        let dir = match &service.dir {
            Some(dir) => PathBuf::from(words.fill(dir)?),
            None => self.layout.data(instance),
        };
        let memo = Memo {
            port,
            launch: launch_digest(&service),
            started_active: role == Role::Active,
            promoted: epoch.filter(|_| role == Role::Active),
            served: epoch.is_some() && role == Role::Active,
            acts: epoch.filter(|_| role == Role::Active),
            since: Some(clock::wall_now()),
            floating: epoch.zip(service.address.clone()).filter(|_| role == Role::Active),
            ..Memo::default()
        };
        let launch = Launch {
            instance: instance.clone(),
            run,
            command,
            env,
            dir,
            user: service.user.clone(),
            limits: service.limits.clone(),
            log: self.layout.log(instance),
            record: self.record_path(instance),
            memo: serde_json::to_value(&memo).map_err(|error| error.to_string())?,
        };
        Ok((launch, memo))
    }

    /// By this a hook or check that outlived its agent is found and ended by the next one. No process of a service has run 0.
    pub(super) fn marker_of_helpers(&self, instance: &InstanceId) -> String {
        format!("{}/{instance}/0", self.cluster_id)
    }

    /// What an instance is started from, and the folder from which its relative programs are taken.
    pub(super) fn declaration(
        &self,
        instance: &InstanceId,
        earlier: Option<Arc<model::Service>>,
    ) -> Result<Declaration, String> {
        if let Some(earlier) = earlier {
            let known = self.earlier.get(instance.service()).into_iter().flatten();
            let folder = known.rev().find(|(service, _)| *service == *earlier);
            let folder = folder.map_or_else(|| self.folder.clone(), |(_, folder)| folder.clone());
            return Ok((Arc::unwrap_or_clone(earlier), folder));
        }
        let declared = self.cluster.services.get(instance.service()).cloned();
        let declared = declared.ok_or("its service is not declared any more")?;
        Ok((declared, self.folder.clone()))
    }

    /// Keeps where the programs of a file lie that is not in force any more, or was not when this agent came up.
    pub(crate) fn know_earlier(&mut self, cluster: &Cluster, folder: Option<&Path>) {
        for (name, service) in &cluster.services {
            let known = self.earlier.entry(name.clone()).or_default();
            known.retain(|(other, _)| other != service);
            known.push((service.clone(), folder.map(Path::to_path_buf)));
            // Only the last that worked is ever asked for; many files that do not may follow it.
            if known.len() > EARLIER_KEPT {
                known.remove(0);
            }
        }
    }

    /// A start came back. Returns the event for the decisions.
    pub(crate) fn started(
        &mut self,
        instance: InstanceId,
        run: RunId,
        result: Result<Arc<Process>, StartFailure>,
    ) -> Event {
        let Some(live) = self.live.get_mut(&instance).filter(|live| live.run == run) else {
            // Of an earlier run that nobody waits for: it must not stay.
            if let Ok(process) = result {
                tokio::spawn(async move { process.kill().await });
            }
            return Event::Tick;
        };
        let process = match result {
            Ok(process) => process,
            Err(failure) => {
                self.live.remove(&instance);
                self.ports.doubt(&instance);
                return Event::StartFailed {
                    instance,
                    run,
                    error: chain(&failure),
                };
            }
        };
        live.process = Some(Arc::clone(&process));
        let stop = live.stop_when_started.take();
        self.watch(&instance, run, &process);
        match stop {
            Some(polite) => self.stop(&instance, run, polite),
            None => self.check(&instance),
        }
        Event::Started { instance, run }
    }

    pub(super) fn watch(&self, instance: &InstanceId, run: RunId, process: &Arc<Process>) {
        let (inputs, instance, exited) = (self.inputs.clone(), instance.clone(), process.exited());
        tokio::spawn(async move {
            let exit = exited.await;
            let _ = inputs.send(Input::Event(
                Event::Exited {
                    instance,
                    run,
                    how: exit.to_string(),
                },
                exit.at,
            ));
        });
    }

    /// A proxy that is cut off goes by what it was told last. The next process of an exclusive service must not be where the one before was, or
    /// clients of that proxy come to it while it is being promoted, and what they write is lost if that fails.
    pub(super) fn change_port(&mut self, instance: &InstanceId) {
        let service = self.cluster.services.get(instance.service());
        let behind_proxies = service.is_some_and(|service| service.exclusive && service.listen.is_some());
        if self.session.is_some() && behind_proxies {
            self.ports.doubt(instance);
        }
    }
}

/// A token once given is good for the life of the instance: the write is spared at its further starts, and at a takeover.
pub(super) async fn give_token(state: &AppState, instance: &InstanceId, path: &Path, user: Option<&str>) {
    if path.exists() {
        return;
    }
    let given = async {
        let owner = match user {
            Some(user) => {
                let account = drivers::account::Account::find(user).map_err(|error| error.to_string())?;
                Some((account.uid, account.gid))
            }
            None => None,
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        }
        let token = state
            .issue(instance.service(), &instance.to_string())
            .await
            .map_err(|error| chain(&error))?;
        token.save(path, owner).map_err(|error| error.to_string())
    };
    if let Err(error) = given.await {
        tracing::warn!(%instance, error, "it gets no token for keeping state; it is started without");
    }
}

pub(super) fn make_data(data: &Path, user: Option<&str>) -> Result<(), String> {
    let fail = |what: &str, error: &dyn std::fmt::Display| {
        format!("cannot {what} its data folder `{}`: {error}", data.display())
    };
    if data.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(data).map_err(|error| fail("make", &error))?;
    if let Some(user) = user {
        let account = drivers::account::Account::find(user).map_err(|error| error.to_string())?;
        let owned = std::os::unix::fs::chown(data, Some(account.uid), Some(account.gid));
        owned.map_err(|error| fail("give away", &error))?;
    }
    Ok(())
}
