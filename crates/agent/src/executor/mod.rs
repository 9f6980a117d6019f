//! Carries decisions out; what comes of each arrives as an `Input`.

mod arm;
mod check;
mod hooks;
mod start;
mod stop;

pub(crate) use arm::Readdressed;

use crate::addresses::Addresses;
use crate::clock;
use crate::cluster::session::SessionLink;
use crate::input::Input;
use crate::journal::Inputs;
use crate::measure::Watched;
use crate::memo::{Memo, note};
use crate::partings::Partings;
use crate::ports::Ports;
use crate::slots::{Controls, Ground, assign, forget, retire, write_shared_slot, write_slot};
use crate::words::Words;
use api::layout::Layout;
use api::record::{self, AddressTrouble};
use appstate::AppState;
use decisions::{Action, ClusterEvent, Event, Reason, SlotWrite};
use drivers::probe::ProberHandle;
use drivers::process::{Driver, Process};
use drivers::{environment, program};
use model::{Cluster, FenceBy, FloatingAddress, InstanceId, Millis, NodeName, Revision, RunId, ServiceName, SlotId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::Store;
use tokio::sync::Semaphore;

/// Starts under way at once: each costs a fork and a few files; more only make each slower.
const STARTS_AT_ONCE: usize = 8;
/// Our own logs are rotated past this size.
const OWN_LOG_BYTES_MAX: u64 = 8 << 20;

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
    floating: Option<FloatingAddress>,
    address_trouble: Option<AddressTrouble>,
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
    /// Whose address is being exchanged for another.
    exchanges: BTreeSet<InstanceId>,
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
            exchanges: BTreeSet::new(),
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
            floating: live.floating.clone(),
            address_trouble: live.address_trouble.clone(),
        };
        self.remote.insert(instance.clone(), remote);
    }

    /// On which interface of its node the floating address of an instance is that the file declares.
    pub(crate) fn floating_on(&self, instance: &InstanceId, declared: &FloatingAddress) -> Option<String> {
        match self.remote.get(instance) {
            Some(remote) => {
                // Agents of before do not say which.
                let is_it = remote.floating.as_ref().is_none_or(|address| address == declared);
                remote.floating_on.clone().filter(|_| is_it)
            }
            None => self.addresses.on(instance, declared),
        }
    }

    /// What is wrong with floating addresses, by whose they are or were to be, here and on other nodes.
    pub(crate) fn address_troubles(&self) -> BTreeMap<InstanceId, AddressTrouble> {
        let theirs = self.remote.iter();
        let theirs = theirs.filter_map(|(id, remote)| Some((id.clone(), remote.address_trouble.clone()?)));
        theirs.chain(self.addresses.trouble()).collect()
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
        let floating = memo.floating.iter().map(|(_, address)| address);
        for address in floating.chain(&memo.exchanged) {
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
                moves,
            } => self.arm(instance, run, slot, epoch, takes_over, moves),
            Action::Rebind { instance, slot, epoch } => self.rebind(instance, slot, epoch),
            Action::Part { instance, shut } => {
                let declared = self.cluster.services.get(instance.service());
                if let Some(address) = declared.and_then(|service| service.address.clone()) {
                    self.partings.part(&self.cluster.name, &instance, address, shut);
                }
            }
            Action::Rejoin { instance } => self.partings.rejoin(&instance),
            Action::Forget {
                instance,
                theirs,
                judged_by,
            } => self.forget(instance, theirs, judged_by),
            _ => {}
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

    fn write(&self, write: SlotWrite, because: String) {
        let (store, inputs, addresses) = (Arc::clone(&self.store), self.inputs.clone(), self.addresses.clone());
        // Who comes next finds on a shared disk all that was written here, and nothing is written over it later.
        let shares = self.cluster.services.get(&write.slot.service);
        let shares = shares.is_some_and(|service| service.fence == FenceBy::Power);
        let leaves = write.session.is_some() && !(write.held && self.live.contains_key(&write.holder));
        tokio::spawn(async move {
            let (slot, attempt) = (write.slot.clone(), write.attempt);
            if shares && leaves {
                crate::cluster::power::written_back().await;
            }
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

    fn forget(&mut self, instance: InstanceId, theirs: bool, judged_by: Vec<(SlotId, Revision)>) {
        self.remote.remove(&instance);
        self.ports.free(&instance);
        let store = Arc::clone(&self.store);
        tokio::spawn(async move {
            if let Err(error) = forget(store.as_ref(), &instance, theirs, &judged_by).await {
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
