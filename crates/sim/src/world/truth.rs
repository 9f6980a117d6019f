//! What is really so, whatever the core believes: the invariants are judged by this alone.

use super::proxy::Proxy;
use super::store::Records;
use crate::fault::{Ailment, HookTrouble, Patient, StoreTrouble};
use model::{Epoch, HookKind, InstanceId, NodeName, RunId, Service, ServiceName, SlotId, StandbyMode, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The simulated machine, store and proxy, and what operators asked for.
#[derive(Debug)]
pub(crate) struct Truth {
    pub(crate) now: Timestamp,
    /// The file in force.
    pub(crate) name: String,
    pub(crate) declared: BTreeMap<ServiceName, Arc<Service>>,
    pub(crate) nodes: BTreeMap<NodeName, Node>,
    pub(crate) instances: BTreeMap<InstanceId, Instance>,
    /// Highest instance number ever used.
    pub(crate) numbers: BTreeMap<ServiceName, u32>,
    pub(crate) store: Records,
    pub(crate) proxy: Proxy,
    /// Writes acknowledged to clients, by service: a position in one history.
    pub(crate) acknowledged: BTreeMap<ServiceName, u64>,
    pub(crate) ailing: Vec<(Patient, Ailment, Timestamp)>,
    pub(crate) store_trouble: Option<(StoreTrouble, Timestamp)>,
    pub(crate) hook_trouble: Vec<(ServiceName, Option<HookKind>, HookTrouble, Timestamp)>,
    /// Requests of operators that were not answered yet.
    pub(crate) switchovers: BTreeMap<u64, ServiceName>,
    pub(crate) paused: bool,
    pub(crate) shutdown: bool,
    /// The agent lives and is not stopped.
    pub(crate) agent_runs: bool,
    /// How often it was started.
    pub(crate) agent_starts: u32,
}

/// A (pretend) node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    Online,
    Drained,
    Lost,
}

/// An instance: its record, its disk, its process.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) node: NodeName,
    /// The agent keeps a record of it.
    pub(crate) recorded: bool,
    /// Its last start.
    pub(crate) run: RunId,
    /// A start that is under way.
    pub(crate) starting: Option<RunId>,
    pub(crate) process: Option<Process>,
    /// How far its data go.
    pub(crate) position: u64,
    /// What the agent noted beside the process, for the day it comes back.
    pub(crate) memo: Memo,
}

/// What the agent keeps of a running process.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memo {
    pub(crate) promoted: Option<Epoch>,
    pub(crate) acts: Option<Epoch>,
    /// It was active once since its start.
    pub(crate) served: bool,
    pub(crate) followed: Option<Epoch>,
    /// What its standby check said last.
    pub(crate) stands_by: Option<bool>,
    /// It was fit once since its start: a hook was run for it, or clients were sent to it.
    pub(crate) was_fit: bool,
}

impl Memo {
    pub(crate) fn promoted_at(&mut self, epoch: Epoch) {
        self.promoted = Some(epoch);
        self.served = true;
    }
}

/// A process tree.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) run: RunId,
    pub(crate) from: Arc<Service>,
    pub(crate) since: Timestamp,
    /// The main process lives.
    pub(crate) main: bool,
    /// It was told to end.
    pub(crate) dying: bool,
    /// Others of the tree outlive the main process.
    pub(crate) children: bool,
    /// SIGSTOPped, or accepts and never answers.
    pub(crate) hung: bool,
    pub(crate) answers_from: Timestamp,
    pub(crate) acting: Option<Acting>,
    /// The highest epoch from which it was demoted: a late route to that makes it no active again.
    pub(crate) demoted: Epoch,
    pub(crate) in_sync_with: Option<(InstanceId, RunId)>,
    pub(crate) evidence: Evidence,
    /// A prober of another generation has ended.
    pub(crate) probers: u32,
}

/// What the agent was told of a process, counted independently of the core.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    pub(crate) fails: u32,
    pub(crate) passes: u32,
    pub(crate) passed_once: bool,
    pub(crate) unhealthy: bool,
    pub(crate) hook_failed: bool,
}

/// A process may do what only the active of a slot may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Acting {
    pub(crate) slot: u32,
    pub(crate) epoch: Epoch,
}

impl Truth {
    pub(crate) fn new(name: String, declared: BTreeMap<ServiceName, Service>, nodes: Vec<NodeName>) -> Self {
        Self {
            now: Timestamp(0),
            name,
            declared: declared
                .into_iter()
                .map(|(name, service)| (name, Arc::new(service)))
                .collect(),
            nodes: nodes.into_iter().map(|node| (node, Node::Online)).collect(),
            instances: BTreeMap::new(),
            numbers: BTreeMap::new(),
            store: Records::default(),
            proxy: Proxy::default(),
            acknowledged: BTreeMap::new(),
            ailing: Vec::new(),
            store_trouble: None,
            hook_trouble: Vec::new(),
            switchovers: BTreeMap::new(),
            paused: false,
            shutdown: false,
            agent_runs: true,
            agent_starts: 0,
        }
    }

    pub(crate) fn cluster(&self) -> model::Cluster {
        let services = self
            .declared
            .iter()
            .map(|(name, service)| (name.clone(), (**service).clone()));
        model::Cluster {
            name: self.name.clone(),
            services: services.collect(),
            alerts: model::Alerts::default(),
            site: model::Site::default(),
        }
    }

    pub(crate) fn of<'a>(&'a self, service: &'a ServiceName) -> impl Iterator<Item = (&'a InstanceId, &'a Instance)> {
        let first = InstanceId::new(service.clone(), 0);
        self.instances
            .range(first..)
            .take_while(move |(id, _)| id.service() == service)
    }

    pub(crate) fn process(&self, id: &InstanceId) -> Option<&Process> {
        self.instances.get(id)?.process.as_ref()
    }

    pub(crate) fn process_mut(&mut self, id: &InstanceId, run: RunId) -> Option<&mut Process> {
        self.instances
            .get_mut(id)?
            .process
            .as_mut()
            .filter(|process| process.run == run)
    }

    /// Processes that act for a slot.
    pub(crate) fn acting<'a>(&'a self, slot: &'a SlotId) -> impl Iterator<Item = (&'a InstanceId, &'a Process)> {
        self.of(&slot.service).filter_map(|(id, instance)| {
            let process = instance.process.as_ref()?;
            (process.acting?.slot == slot.slot).then_some((id, process))
        })
    }

    pub(crate) fn ails(&self, id: &InstanceId, ailment: Ailment) -> bool {
        self.ailing.iter().any(|(patient, what, until)| {
            *what == ailment
                && self.now < *until
                && match patient {
                    Patient::Instance(instance) => instance == id,
                    Patient::Service(service) => service == id.service(),
                }
        })
    }

    pub(crate) fn hook_trouble(&self, service: &ServiceName, hook: HookKind) -> Option<HookTrouble> {
        self.hook_trouble
            .iter()
            .find(|(name, kind, _, until)| name == service && kind.is_none_or(|kind| kind == hook) && self.now < *until)
            .map(|(_, _, trouble, _)| *trouble)
    }

    pub(crate) fn store_trouble(&self) -> Option<StoreTrouble> {
        self.store_trouble
            .filter(|(_, until)| self.now < *until)
            .map(|(trouble, _)| trouble)
    }

    /// Whether a process answers its checks.
    pub(crate) fn answers(&self, id: &InstanceId) -> bool {
        self.process(id).is_some_and(|process| {
            process.main && !process.hung && process.answers_from <= self.now && !self.ails(id, Ailment::Sick)
        })
    }

    /// The same of a process, which may have been started from another declaration.
    pub(crate) fn was_told(process: &Process, declared: &Service) -> bool {
        Self::acts_by_itself(&process.from) && Self::acts_by_itself(declared)
    }

    /// Who begins to act by a hook, or by being started; the others act when clients reach them.
    pub(crate) fn acts_by_itself(service: &Service) -> bool {
        service.on_promote.is_some() || service.standby_mode == StandbyMode::Cold
    }

    /// Whether a process does what it must at that epoch. Where no hook tells it a new one, a shared active keeps its first.
    pub(crate) fn acts_for(service: &Service, acting: Acting, slot: u32, epoch: Epoch) -> bool {
        let is_told = service.exclusive || service.on_promote.is_some();
        !is_told || (acting.slot == slot && acting.epoch == epoch)
    }

    /// Whether a loss of acknowledged writes can be judged: one exclusive active and followers that have all it has.
    pub(crate) fn keeps_history(service: &Service) -> bool {
        service.exclusive && service.active == 1 && service.on_follow.is_some()
    }

    /// The active acknowledges one more write; so do those in step with it. Called before anything happens to a service,
    /// so that there is always a write that only those in step have.
    pub(crate) fn acknowledge(&mut self, service: &ServiceName) {
        let Some(declared) = self.declared.get(service) else {
            return;
        };
        if !Self::keeps_history(declared) {
            return;
        }
        let reached = |id: &InstanceId| declared.listen.is_none() || self.proxy.reaches(service, id);
        let writer = self.of(service).find_map(|(id, instance)| {
            let process = instance.process.as_ref()?;
            let acts = process.acting.is_some_and(|acting| acting.slot == 0);
            (acts && self.answers(id) && reached(id)).then(|| (id.clone(), process.run))
        });
        let Some(writer) = writer else {
            return;
        };
        let position = self.acknowledged.entry(service.clone()).or_default();
        *position += 1;
        let position = *position;
        for (id, instance) in self.instances.iter_mut().filter(|(id, _)| id.service() == service) {
            let in_sync = instance
                .process
                .as_ref()
                .and_then(|process| process.in_sync_with.as_ref());
            if *id == writer.0 || in_sync == Some(&writer) {
                instance.position = position;
            }
        }
    }

    /// Services that still have something: declared or not.
    pub(crate) fn known_services(&self) -> BTreeSet<ServiceName> {
        let of_instances = self.instances.keys().map(|id| id.service().clone());
        self.declared.keys().cloned().chain(of_instances).collect()
    }
}

impl Instance {
    pub(crate) fn new(node: NodeName) -> Self {
        Self {
            node,
            recorded: true,
            run: RunId(0),
            starting: None,
            process: None,
            position: 0,
            memo: Memo::default(),
        }
    }
}

impl Process {
    pub(crate) fn new(run: RunId, from: Arc<Service>, since: Timestamp, answers_from: Timestamp) -> Self {
        Self {
            run,
            from,
            since,
            main: true,
            dying: false,
            children: false,
            hung: false,
            answers_from,
            acting: None,
            demoted: Epoch::default(),
            in_sync_with: None,
            evidence: Evidence::default(),
            probers: 0,
        }
    }
}
