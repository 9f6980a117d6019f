//! Carries decisions out; what comes of each arrives as an `Input`.

use crate::addresses::Addresses;
use crate::clock;
use crate::cluster::fence::Gate;
use crate::cluster::session::{Order, SessionLink};
use crate::input::{Input, StartFailure};
use crate::journal::Inputs;
use crate::measure::Watched;
use crate::memo::{Memo, launch_digest, note};
use crate::partings::Partings;
use crate::ports::Ports;
use crate::slots::{Controls, Ground, assign, forget, keep_record, retire, write_shared_slot, write_slot};
use crate::words::Words;
use api::layout::Layout;
use api::record;
use appstate::AppState;
use decisions::{Action, ClusterEvent, Event, HookOutcome, ProbeOutcome, Reason, SlotWrite};
use drivers::hook::{self, HookCommand};
use drivers::preflight::{self, PreflightEnv};
use drivers::probe::{ExecEnv, ProbeResult, Prober, ProberHandle};
use drivers::process::{Driver, Launch, Process};
use drivers::{address, environment, program};
use guard::fence::protocol::Floating;
use model::{
    Addressing, Check, CheckKind, Cluster, Epoch, FloatingAddress, HookKind, InstanceId, Millis, NodeName, Revision,
    Role, RunId, ServiceName, Timestamp,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use tokio::sync::Semaphore;

/// Starts under way at once: each costs a fork and a few files; more only make each slower.
const STARTS_AT_ONCE: usize = 8;
/// Our own logs are rotated past this size.
const OWN_LOG_BYTES_MAX: u64 = 8 << 20;
/// What a standby check says is written down at each change, and this often: it is of use only while it is fresh.
const VERDICT_NOTED_EVERY: Duration = Duration::from_secs(1);
/// A process that hangs in the kernel is looked for again after this long.
const STUCK_RETRY: Duration = Duration::from_secs(1);

/// Where a service reaches what it keeps with us, and the file of the token that it shows there.
const STATE_URL: &str = "UNDERSTUDY_STATE_URL";
const STATE_TOKEN_FILE: &str = "UNDERSTUDY_STATE_TOKEN_FILE";

/// Of each service so many earlier declarations are remembered.
const EARLIER_KEPT: usize = 32;

/// What a service is declared as, and the folder from which its relative programs are taken.
type Declaration = (model::Service, Option<PathBuf>);

/// An instance with a process, or on its way to one.
struct Live {
    run: RunId,
    node: NodeName,
    process: Option<Arc<Process>>,
    memo: Memo,
    /// A stop was decided before the start came back.
    stop_when_started: Option<bool>,
    checks: Option<ProberHandle>,
    standby_checks: Option<ProberHandle>,
    /// The hook that runs for it. It must not outlive the process: the next one may have the same port.
    hook: Option<tokio::task::JoinHandle<()>>,
}

impl Live {
    fn hook_is_done(&self) -> bool {
        self.hook.as_ref().is_none_or(tokio::task::JoinHandle::is_finished)
    }

    /// Writes down what is remembered. A hook that runs writes it itself, when it is through.
    fn keep_memo(&self, instance: &InstanceId) {
        if let Some(process) = &self.process
            && self.hook_is_done()
            && let Err(error) = note(process, &self.memo)
        {
            tracing::warn!(%instance, error, "cannot write what is known of it; some of it is done again if the agent restarts");
        }
    }
}

/// What is told of an instance of another node.
struct Remote {
    address: Option<SocketAddr>,
    pid: Option<u32>,
    floating_on: Option<String>,
}

/// Carries decisions out.
pub(crate) struct Executor {
    layout: Layout,
    exe: PathBuf,
    cluster_id: String,
    cluster: Arc<Cluster>,
    /// The folder of the operator's file: relative programs are taken from it.
    folder: Option<PathBuf>,
    /// What services were declared as before, and the folders of those files: oldest first.
    earlier: BTreeMap<ServiceName, Vec<Declaration>>,
    store: Arc<dyn Store>,
    driver: Arc<Driver>,
    inputs: Inputs,
    live: BTreeMap<InstanceId, Live>,
    ports: Ports,
    starts: Arc<Semaphore>,
    /// Issues what services use to keep state of theirs with us.
    state: Option<AppState>,
    /// Where instances of this node are reached.
    host: IpAddr,
    /// Floating addresses of the actives here.
    pub(crate) addresses: Addresses,
    /// Whose clients are parted with, since it is about to move.
    partings: Partings,
    /// In a cluster: who arms the guard.
    session: Option<SessionLink>,
    /// Of each service: on what its last one that shall go was judged, and when that was written.
    retired: Arc<tokio::sync::Mutex<BTreeMap<ServiceName, (Revision, Revision)>>>,
    /// In a cluster: instances of other nodes.
    remote: BTreeMap<InstanceId, Remote>,
}

impl Executor {
    pub(crate) fn new(
        layout: Layout,
        exe: PathBuf,
        cluster_id: String,
        store: Arc<dyn Store>,
        driver: Arc<Driver>,
        inputs: Inputs,
    ) -> Self {
        let cluster = Cluster {
            name: String::new(),
            services: BTreeMap::new(),
            alerts: model::Alerts::default(),
            site: model::Site::default(),
        };
        let addresses = Addresses::new(inputs.clone());
        Self {
            partings: Partings::new(inputs.clone(), addresses.clone()),
            addresses,
            layout,
            exe,
            cluster_id,
            cluster: Arc::new(cluster),
            folder: None,
            earlier: BTreeMap::new(),
            store,
            driver,
            inputs,
            live: BTreeMap::new(),
            ports: Ports::default(),
            starts: Arc::new(Semaphore::new(STARTS_AT_ONCE)),
            state: None,
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            session: None,
            retired: Arc::default(),
            remote: BTreeMap::new(),
        }
    }

    /// From now on instances get a token with which their service keeps state of its own.
    pub(crate) fn give_state(&mut self, state: AppState) {
        self.state = Some(state);
    }

    /// From now on it works for one node of several, whose instances are reached at `host`.
    pub(crate) fn join(&mut self, host: IpAddr, session: SessionLink, hard_deadline: Millis) {
        self.host = host;
        self.addresses.lease(session.renewals.clone(), hard_deadline);
        self.session = Some(session);
    }

    /// Where an instance of another node is reached, and its process there.
    pub(crate) fn know_remote(&mut self, instance: &InstanceId, live: &record::Live) {
        let remote = Remote {
            address: live.address,
            pid: live.pid,
            floating_on: live.floating_on.clone(),
        };
        self.remote.insert(instance.clone(), remote);
    }

    /// On which interface of its node the floating address of an instance is.
    pub(crate) fn floating_on(&self, instance: &InstanceId) -> Option<String> {
        match self.remote.get(instance) {
            Some(remote) => remote.floating_on.clone(),
            None => self.addresses.of(instance),
        }
    }

    pub(crate) fn forget_remote(&mut self, instance: &InstanceId) {
        self.remote.remove(instance);
    }

    /// The cgroup of a running instance, which the guard ends should our session run out.
    pub(crate) fn cgroup(&self, instance: &InstanceId) -> Option<PathBuf> {
        self.live.get(instance)?.process.as_ref()?.cgroup()
    }

    /// From now on instances are started, checked and promoted as this file says.
    pub(crate) fn declare(&mut self, cluster: Arc<Cluster>, folder: Option<PathBuf>) {
        let before = std::mem::replace(&mut self.cluster, cluster);
        let earlier_folder = std::mem::replace(&mut self.folder, folder);
        self.know_earlier(&before, earlier_folder.as_deref());
        let changed = |id: &InstanceId| {
            let of = |cluster: &Cluster| {
                cluster
                    .services
                    .get(id.service())
                    .map(|s| (s.check.clone(), s.standby_check.clone()))
            };
            of(&before) != of(&self.cluster)
        };
        let again: Vec<InstanceId> = self.live.keys().filter(|id| changed(id)).cloned().collect();
        for id in again {
            self.check(&id);
        }
    }

    /// The port that an instance had before: it is kept while it stays free.
    pub(crate) fn know_port(&mut self, instance: &InstanceId, port: u16) {
        self.ports.keep(instance, port);
    }

    /// An instance that runs already.
    pub(crate) fn adopt(&mut self, instance: &InstanceId, node: NodeName, run: RunId, process: Process, memo: Memo) {
        if let Some(port) = memo.port {
            self.ports.keep(instance, port);
        }
        if let Some((_, address)) = &memo.floating {
            self.addresses.left(instance, address.clone());
        }
        let process = Arc::new(process);
        self.watch(instance, run, &process);
        let live = Live {
            run,
            node,
            process: Some(process),
            memo,
            stop_when_started: None,
            checks: None,
            standby_checks: None,
            hook: None,
        };
        self.live.insert(instance.clone(), live);
    }

    /// Takes floating addresses off this node that an earlier agent left, and that nobody who was adopted has.
    pub(crate) async fn sweep_addresses(&self) {
        self.partings.forget_earlier(&self.cluster.name).await;
        let declared = self
            .cluster
            .services
            .iter()
            .filter_map(|(name, service)| Some((name, service.address.as_ref()?)));
        let left: Vec<IpAddr> = declared
            .filter(|(name, _)| self.addresses.others(name, None).is_empty())
            .map(|(_, address)| address.ip)
            .collect();
        if left.is_empty() {
            return;
        }
        let leftovers = address::Leftovers {
            named: &left,
            marked: false,
        };
        if let Err(error) = address::sweep(leftovers).await {
            tracing::error!(error = %chain(&error), "a floating address of an earlier agent may still be here");
        }
    }

    /// Begins to check what was adopted.
    pub(crate) fn check_all(&mut self) {
        let ids: Vec<InstanceId> = self.live.keys().cloned().collect();
        for id in ids {
            self.check(&id);
        }
    }

    /// Where an instance listens.
    pub(crate) fn address(&self, instance: &InstanceId) -> Option<SocketAddr> {
        if let Some(remote) = self.remote.get(instance) {
            return remote.address;
        }
        let port = self
            .live
            .get(instance)
            .and_then(|live| live.memo.port)
            .or_else(|| self.ports.of(instance))?;
        Some(SocketAddr::from((self.host, port)))
    }

    /// Its main process.
    pub(crate) fn pid(&self, instance: &InstanceId) -> Option<u32> {
        if let Some(remote) = self.remote.get(instance) {
            return remote.pid;
        }
        self.live.get(instance)?.process.as_ref().map(|process| process.pid())
    }

    /// Instances whose process runs.
    pub(crate) fn watched(&self) -> Vec<Watched> {
        let running = |(id, live): (&InstanceId, &Live)| {
            Some(Watched {
                instance: id.clone(),
                node: live.node.clone(),
                process: live.process.clone()?,
            })
        };
        self.live.iter().filter_map(running).collect()
    }

    /// Instances with a process, and where their output goes.
    pub(crate) fn running(&self) -> impl Iterator<Item = (&InstanceId, &NodeName)> {
        self.live.iter().map(|(id, live)| (id, &live.node))
    }

    /// Ends everything on a node at once, as the loss of the node would.
    pub(crate) fn lose_node(&self, node: &NodeName) {
        for live in self.live.values().filter(|live| live.node == *node) {
            if let Some(process) = live.process.clone() {
                // Its death is noticed as any other's.
                tokio::spawn(async move { process.kill().await });
            }
        }
    }

    /// Kills the main process of an instance, as a crash would: what follows is noticed, not told.
    pub(crate) fn kill_main(&self, instance: &InstanceId) {
        if let Some(process) = self.live.get(instance).and_then(|live| live.process.as_ref()) {
            process.signal(model::StopSignal::Kill);
        }
    }

    /// Carries out a decision about processes, hooks, checks or slots. Others are not its business.
    pub(crate) fn carry_out(&mut self, action: Action, because: &Reason) {
        match action {
            Action::Start {
                instance,
                run,
                node,
                role,
                epoch,
                earlier,
            } => self.start(instance, run, node, role, epoch, earlier),
            Action::Prepare { instance, node } => self.prepare(instance, node),
            Action::Stop { instance, run, polite } => self.stop(&instance, run, polite),
            Action::RunHook {
                instance,
                run,
                hook,
                epoch,
                active,
                earlier,
            } => self.run_hook(instance, run, hook, epoch, active, earlier),
            Action::ProbeNow { instance, standby } => {
                let live = self.live.get(&instance);
                let checks = live.and_then(|live| match standby {
                    true => live.standby_checks.as_ref(),
                    false => live.checks.as_ref(),
                });
                if let Some(checks) = checks {
                    checks.probe_now();
                }
            }
            Action::Write(write) => self.write(write, because.to_string()),
            Action::Arm {
                instance,
                run,
                slot,
                epoch,
                takes_over,
            } => self.arm(instance, run, slot, epoch, takes_over),
            Action::Rebind { instance, slot, epoch } => self.rebind(instance, slot, epoch),
            Action::Part { instance, shut } => {
                let declared = self.cluster.services.get(instance.service());
                if let Some(address) = declared.and_then(|service| service.address.clone()) {
                    self.partings.part(&self.cluster.name, &instance, address, shut);
                }
            }
            Action::Rejoin { instance } => self.partings.rejoin(&instance),
            Action::Forget { instance, theirs } => self.forget(instance, theirs),
            _ => {}
        }
    }

    /// Has the guard end an instance should our session run out, gives it its floating address, and tells the decisions whether it
    /// may act.
    fn arm(&mut self, instance: InstanceId, run: RunId, slot: model::SlotId, epoch: Epoch, takes_over: bool) {
        let address = self.floating(&instance, epoch);
        let fenced = self
            .session
            .clone()
            .map(|session| (session, self.cgroup_for(&instance, run)));
        let service = self.cluster.services.get(instance.service());
        let port = match self.live.get(&instance) {
            Some(live) => live.memo.port,
            // About to be started, with this one.
            None if service.is_some_and(|service| service.addressing == Addressing::Port) => {
                self.ports.give(&instance).ok()
            }
            None => None,
        };
        let claim = address.map(|address| self.addresses.begin(&instance, address));
        let inputs = self.inputs.clone();
        let under = self.session.as_ref().map(SessionLink::session).unwrap_or_default();
        tokio::spawn(async move {
            let armed = async {
                if let Some((session, cgroup)) = &fenced {
                    let mut gates: Vec<Gate> = port.map(Gate::Port).into_iter().collect();
                    if let Some(claim) = &claim {
                        let spot = claim.locate().await?;
                        gates.push(Gate::Address(Floating {
                            address: claim.address().ip,
                            prefix: spot.prefix,
                            interface: spot.index,
                        }));
                    }
                    let (answer, armed) = tokio::sync::oneshot::channel();
                    session.order(Order::Arm {
                        instance: instance.clone(),
                        slot,
                        epoch,
                        cgroup: cgroup.clone()?,
                        gates,
                        session: under,
                        answer,
                    });
                    armed.await.unwrap_or_else(|_| Err("the agent is ending".into()))?;
                }
                match claim {
                    // Only what can be taken away is taken.
                    Some(claim) => claim.acquire(takes_over).await.inspect_err(|_| {
                        if let Some((session, _)) = &fenced {
                            session.order(Order::Disarm(instance.clone()));
                        }
                    }),
                    None => Ok(()),
                }
            };
            let result = armed.await;
            let event = Event::Armed {
                instance,
                epoch,
                result,
            };
            let _ = inputs.send(Input::Event(event, clock::now()));
        });
    }

    /// Has the guard let an instance go on that stood still while this node had no session, and tells the decisions whether it did.
    fn rebind(&self, instance: InstanceId, slot: model::SlotId, epoch: Epoch) {
        let Some(session) = self.session.clone() else { return };
        let inputs = self.inputs.clone();
        let under = session.session();
        let (answer, bound) = tokio::sync::oneshot::channel();
        session.order(Order::Rebind {
            slot,
            epoch,
            session: under,
            answer,
        });
        tokio::spawn(async move {
            let result = bound.await.unwrap_or_else(|_| Err("the agent is ending".into()));
            let event = Event::Armed {
                instance,
                epoch,
                result,
            };
            let _ = inputs.send(Input::Event(event, clock::now()));
        });
    }

    /// The floating address that an instance is to have at an epoch: one that it was given at it before stays as it was.
    fn floating(&mut self, instance: &InstanceId, epoch: Epoch) -> Option<FloatingAddress> {
        let declared = self
            .cluster
            .services
            .get(instance.service())
            .and_then(|service| service.address.clone());
        let Some(live) = self.live.get_mut(instance) else {
            return declared;
        };
        let given = live.memo.floating.take().filter(|(at, _)| *at == epoch);
        let address = given.map_or(declared, |(_, address)| Some(address));
        live.memo.floating = address.clone().map(|address| (epoch, address));
        live.keep_memo(instance);
        address
    }

    /// The cgroup of an instance; that of one that is about to be started is made here, for it must not run an instruction before the
    /// guard knows of it.
    fn cgroup_for(&self, instance: &InstanceId, run: RunId) -> Result<PathBuf, String> {
        self.cgroup(instance)
            .map_or_else(|| self.driver.make_cgroup(instance, run), Ok)
    }

    fn disarm(&self, instance: &InstanceId) {
        if let Some(session) = &self.session {
            session.order(Order::Disarm(instance.clone()));
        }
    }

    /// Writes down that an instance shall exist, and on which node: nothing else makes that node start it.
    pub(crate) fn assign(&self, instance: InstanceId, node: NodeName, controls: Option<Controls>) {
        let store = Arc::clone(&self.store);
        let runs = self.live.get(&instance).is_some_and(|live| live.process.is_some());
        let ground = match (runs, controls) {
            (true, _) => Ground::Runs,
            (false, Some(controls)) => Ground::Controls(controls),
            // Another agent is the controller by now, and does it.
            (false, None) => return,
        };
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            match assign(store.as_ref(), &instance, &node, &ground).await {
                Ok(true) => {}
                Ok(false) => {
                    let event = Event::Cluster(ClusterEvent::Unassigned { instance });
                    let _ = inputs.send(Input::Event(event, clock::now()));
                }
                Err(error) => tracing::error!(%instance, error, "that it shall exist cannot be written down"),
            }
        });
    }

    /// Writes down that an instance shall go away, unless one of its service came or went since `counted`.
    pub(crate) fn retire(&self, instance: InstanceId, node: NodeName, controls: Controls, counted: Revision) {
        let (store, retired) = (Arc::clone(&self.store), Arc::clone(&self.retired));
        tokio::spawn(async move {
            // One after the other: of several that are too many each is written on top of the one before, of which was decided together.
            let mut retired = retired.lock().await;
            let service = instance.service().clone();
            let ours = retired.get(&service).filter(|(basis, _)| *basis == counted);
            let on = ours.map_or(counted, |(_, written)| *written);
            match retire(store.as_ref(), &instance, &node, &controls, on).await {
                Ok(Some(written)) => drop(retired.insert(service, (counted, written))),
                Ok(None) => tracing::debug!(%instance, "it is not told to go: something has changed since"),
                Err(error) => tracing::error!(%instance, error, "that it shall go away cannot be written down"),
            }
        });
    }

    fn words<'a>(&'a self, instance: &'a InstanceId, node: &'a NodeName, port: Option<u16>) -> Words<'a> {
        Words {
            cluster: &self.cluster,
            layout: &self.layout,
            exe: &self.exe,
            instance,
            node,
            host: self.host,
            port,
            role: None,
            epoch: None,
            active: None,
        }
    }

    fn start(
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

    fn launch(
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
    fn marker_of_helpers(&self, instance: &InstanceId) -> String {
        format!("{}/{instance}/0", self.cluster_id)
    }

    /// What an instance is started from, and the folder from which its relative programs are taken.
    fn declaration(&self, instance: &InstanceId, earlier: Option<Arc<model::Service>>) -> Result<Declaration, String> {
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

    /// Writes those records anew that somebody took away; says of which instances.
    pub(crate) fn keep_records(&self) -> Vec<String> {
        let processes = self
            .live
            .iter()
            .filter_map(|(id, live)| Some((id, live.process.as_ref()?)));
        processes
            .filter_map(|(instance, process)| match process.keep_record() {
                Ok(written) => written.then(|| instance.to_string()),
                Err(error) => {
                    tracing::warn!(%instance, %error, "its record is gone and cannot be written anew");
                    None
                }
            })
            .collect()
    }

    /// Where the record of a running instance lies.
    pub(crate) fn record_path(&self, instance: &InstanceId) -> PathBuf {
        self.layout.instances().join(format!("{instance}.json"))
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

    fn watch(&self, instance: &InstanceId, run: RunId, process: &Arc<Process>) {
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

    /// (Re)starts the checks of an instance as its service declares them now.
    fn check(&mut self, instance: &InstanceId) {
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

    fn prober(&self, instance: &InstanceId, check: &Check, standby: bool) -> Option<ProberHandle> {
        let live = self.live.get(instance)?;
        let process = live.process.as_ref()?;
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
        Some(Prober::spawn(check, target, exec, seed, sink))
    }

    fn stop(&mut self, instance: &InstanceId, run: RunId, polite: bool) {
        let service = self.cluster.services.get(instance.service());
        // A service that is not declared any more has no stop signal of its own: the usual one.
        let usual = model::Stop {
            signal: model::StopSignal::Term,
            timeout: model::Millis(10_000),
        };
        let policy = service.map_or(usual, |service| service.stop.clone());
        let (addresses, inputs) = (self.addresses.clone(), self.inputs.clone());
        let Some(live) = self.live.get_mut(instance).filter(|live| live.run == run) else {
            let instance = instance.clone();
            tokio::spawn(async move {
                addresses.release(&instance).await;
                let _ = inputs.send(Input::Event(Event::Gone { instance, run }, clock::now()));
            });
            return;
        };
        live.checks = None;
        live.standby_checks = None;
        let Some(process) = live.process.clone() else {
            live.stop_when_started = Some(polite);
            return;
        };
        let hook = live.hook.take();
        let instance = instance.clone();
        tokio::spawn(async move {
            if let Some(hook) = hook {
                // Dropped with its task, its whole group is killed; only then may anybody else be promoted.
                hook.abort();
                let _ = hook.await;
            }
            let mut stopped = if polite {
                process.stop(&policy).await
            } else {
                process.kill().await
            };
            // Nothing may take over before nothing of it runs: however long that takes.
            while let Err(error) = stopped {
                tracing::error!(%instance, error = %chain(&error), "an instance is not known to be gone; its slot waits");
                tokio::time::sleep(STUCK_RETRY).await;
                stopped = process.kill().await;
            }
            addresses.release(&instance).await;
            let _ = inputs.send(Input::Event(Event::Gone { instance, run }, clock::now()));
        });
    }

    /// How long a check of an instance may be under way.
    pub(crate) fn check_timeout(&self, instance: &InstanceId) -> Duration {
        let service = self.cluster.services.get(instance.service());
        let check = service.and_then(|service| service.check.as_ref());
        check.map_or(Duration::ZERO, |check| check.timeout.duration())
    }

    /// Nothing of an instance runs any more.
    pub(crate) fn gone(&mut self, instance: &InstanceId, run: RunId) {
        if self.live.get(instance).is_some_and(|live| live.run == run) {
            self.live.remove(instance);
            self.disarm(instance);
            self.change_port(instance);
        }
    }

    /// A proxy that is cut off goes by what it was told last. The next process of an exclusive service must not be where the one before was, or
    /// clients of that proxy come to it while it is being promoted, and what they write is lost if that fails.
    fn change_port(&mut self, instance: &InstanceId) {
        let service = self.cluster.services.get(instance.service());
        let behind_proxies = service.is_some_and(|service| service.exclusive && service.listen.is_some());
        if self.session.is_some() && behind_proxies {
            self.ports.doubt(instance);
        }
    }

    fn prepare(&self, instance: InstanceId, node: NodeName) {
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
        tokio::task::spawn_blocking(move || {
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
            let result = preflight::cold_ready(&service, env).map_err(|finding| finding.problem);
            let _ = inputs.send(Input::Event(Event::Prepared { instance, result }, clock::now()));
        });
    }

    fn run_hook(
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
                hook::run(command).await.map_err(|error| chain(&error))?;
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

    fn write(&self, write: SlotWrite, because: String) {
        let (store, inputs, addresses) = (Arc::clone(&self.store), self.inputs.clone(), self.addresses.clone());
        tokio::spawn(async move {
            let (slot, attempt) = (write.slot.clone(), write.attempt);
            // Whatever came before: nobody else is written down as its holder while this node still has its address.
            let but = write.held.then_some(&write.holder);
            for other in addresses.others(&slot.service, but) {
                addresses.release(&other).await;
            }
            let result = match write.session {
                None => write_slot(store.as_ref(), write, because).await,
                Some(_) => write_shared_slot(store.as_ref(), write, because).await,
            };
            let _ = inputs.send(Input::Event(Event::Committed { slot, attempt, result }, clock::now()));
        });
    }

    fn forget(&mut self, instance: InstanceId, theirs: bool) {
        self.remote.remove(&instance);
        self.ports.free(&instance);
        let store = Arc::clone(&self.store);
        tokio::spawn(async move {
            if let Err(error) = forget(store.as_ref(), &instance, theirs).await {
                tracing::warn!(%instance, error = %chain(&error), "the record of a removed instance stays in the store");
            }
        });
    }

    /// The logs to be kept bounded: where, how large, how many old ones.
    pub(crate) fn rotations(&self) -> Vec<(PathBuf, u64, u32)> {
        let of = |id: &InstanceId| {
            let logs = &self.cluster.services.get(id.service())?.logs;
            Some((self.layout.log(id), logs.max_bytes, logs.keep))
        };
        let ours = ["agent", "guard", "proxy"].map(|process| (self.layout.own_log(process), OWN_LOG_BYTES_MAX, 1));
        self.live.keys().filter_map(of).chain(ours).collect()
    }
}

/// The command with the path of its program: relative ones are taken from the folder of the operator's file.
fn located(
    mut argv: Vec<String>,
    env: &BTreeMap<String, String>,
    folder: Option<&Path>,
) -> Result<Vec<String>, String> {
    let name = argv.first_mut().ok_or("its command is empty")?;
    let path = env.get("PATH").map_or(environment::search_path(), String::as_str);
    let program = program::locate(name, folder, path).map_err(|error| error.to_string())?;
    *name = program.display().to_string();
    Ok(argv)
}

/// A token once given is good for the life of the instance: the write is spared at its further starts, and at a takeover.
async fn give_token(state: &AppState, instance: &InstanceId, path: &Path, user: Option<&str>) {
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

fn make_data(data: &Path, user: Option<&str>) -> Result<(), String> {
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

/// An error with all its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}
