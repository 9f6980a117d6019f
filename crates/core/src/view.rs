//! What the core knows, for those who show it.

use crate::instance::Phase;
use crate::place::{Loads, Sites};
use crate::service::Service;
use crate::{Core, NodeState, Parked, Paused, Reason};
use model::{Epoch, Health, InstanceId, NodeName, Role, RunId, ServiceName, ServiceState, Timestamp};
use std::sync::Arc;

/// Everything at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// By name.
    pub services: Vec<ServiceView>,
    /// By name.
    pub nodes: Vec<NodeView>,
    /// Automatic actions are paused.
    pub paused: Option<Paused>,
    /// Everything is being stopped.
    pub stopping: bool,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Its name.
    pub name: NodeName,
    /// Where it stands; its name if nobody said so.
    pub zone: String,
    /// Whether it runs instances.
    pub state: NodeState,
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub because: Reason,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceView {
    /// Its name.
    pub name: ServiceName,
    /// As declared.
    pub declared: Arc<model::Service>,
    /// How it stands.
    pub state: ServiceState,
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub because: Reason,
    /// How many actives must serve now: as declared, but while it grows, as many as it had to have before and of those added who were there
    /// once.
    pub need: u32,
    /// Failures of instances until it is down.
    pub distance: u32,
    /// Its slots.
    pub slots: Vec<SlotView>,
    /// Its instances, by number.
    pub instances: Vec<InstanceView>,
    /// Who takes over, best first.
    pub failover_order: Vec<InstanceId>,
    /// No longer declared.
    pub removed: bool,
    /// Some processes run from an earlier declaration: how it goes with their replacement.
    pub rollout: Option<RolloutView>,
    /// Why instances are missing that the file declares: no node may have them.
    pub unplaced: Option<String>,
    /// Its instances are being moved to where they would be put today.
    pub rebalancing: bool,
}

/// How a rollout goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutView {
    /// Whether it goes on.
    pub state: RolloutState,
    /// Since when; not known on a node that does not roll it out itself.
    pub since: Option<Timestamp>,
    /// What it waits for, or why it was given up.
    pub because: Option<Reason>,
    /// As it is written that it was given up.
    pub given_up: Option<crate::GivenUp>,
}

/// Whether a rollout goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RolloutState {
    /// It does.
    UnderWay,
    /// Nothing moved for half a minute; it goes on when it can.
    Stuck,
    /// It does not before another file is applied, or another try is asked for or due.
    GivenUp,
}

/// What a slot does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotPhase {
    /// Nobody may act.
    Vacant,
    /// Nobody may act, as the operator wants it.
    Parked,
    /// The old holder is being ended.
    Releasing,
    /// Being written.
    Claiming,
    /// The new holder is being promoted.
    Promoting,
    /// Clients are served.
    Serving,
}

/// A slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotView {
    /// Its number.
    pub slot: u32,
    /// What it does.
    pub phase: SlotPhase,
    /// Who holds it or is about to.
    pub instance: Option<InstanceId>,
    /// Who held it last, if nobody does.
    pub last_holder: Option<InstanceId>,
    /// Its epoch.
    pub epoch: Epoch,
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub because: Reason,
    /// The operator wants nobody to hold it: told also while its holder is still giving it up.
    pub parked: Option<Parked>,
    /// When somebody is promoted again after promotions that failed, if that waits: as far as this node decides it.
    pub next_try: Option<Timestamp>,
}

/// What an instance's process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstancePhase {
    /// Nothing runs.
    Waiting,
    /// Cold, could be started.
    Prepared,
    /// Being started.
    Starting,
    /// Runs.
    Running,
    /// Being ended.
    Stopping,
    /// Given up for now.
    Failed,
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceView {
    /// Its name.
    pub id: InstanceId,
    /// Where.
    pub node: NodeName,
    /// Its start.
    pub run: RunId,
    /// Its role.
    pub role: Role,
    /// What its process does.
    pub phase: InstancePhase,
    /// Its health.
    pub health: Health,
    /// Could take over now; if not, why.
    pub ready: Result<(), String>,
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub because: Reason,
    /// How often it was started again.
    pub restarts: u32,
    /// What its last failed check said.
    pub last_failure: Option<String>,
    /// When it is tried again, if it waits.
    pub next_try: Option<Timestamp>,
    /// Runs from the present declaration.
    pub current: bool,
    /// Its last promotion failed, and none went well since: why.
    pub not_promoted: Option<String>,
    /// What its process was started from, as far as this node knows; nothing if there is none.
    pub runs_from: Option<Arc<model::Service>>,
}

impl Core {
    /// What is known, at a moment.
    pub fn view(&self, now: Timestamp) -> View {
        let loads = self.loads();
        let sites = self.sites(&loads);
        let node = |(name, node): (&NodeName, &crate::Node)| NodeView {
            name: name.clone(),
            zone: sites.zone(name).to_owned(),
            state: node.state,
            since: node.since,
            because: node.because.clone(),
        };
        View {
            services: self.services.values().map(|service| service.view(sites, now)).collect(),
            nodes: self.nodes.iter().map(node).collect(),
            paused: self.paused.clone(),
            stopping: self.shutdown.is_some(),
        }
    }

    /// Whether standby checks of a service mean something now: it has a fit active to stand by for.
    pub fn judges_standbys(&self, name: &ServiceName) -> bool {
        self.services.get(name).is_some_and(Service::judges_standbys)
    }

    /// What is known of one service.
    pub fn service_view(&self, name: &ServiceName, now: Timestamp) -> Option<ServiceView> {
        let loads = self.loads();
        let sites = self.sites(&loads);
        self.services.get(name).map(|service| service.view(sites, now))
    }

    fn sites<'s>(&'s self, loads: &'s Loads) -> Sites<'s> {
        Sites {
            nodes: &self.nodes,
            peers: self.peers.as_ref(),
            loads,
        }
    }
}

impl Service {
    fn view(&self, sites: Sites<'_>, now: Timestamp) -> ServiceView {
        let order = self.failover_order(None, now);
        let slot = |slot: &crate::slot::Slot| SlotView {
            slot: slot.id.slot,
            phase: match slot.phase {
                _ if slot.is_parked() => SlotPhase::Parked,
                crate::slot::Phase::Vacant | crate::slot::Phase::Clearing { .. } => SlotPhase::Vacant,
                crate::slot::Phase::Releasing => SlotPhase::Releasing,
                crate::slot::Phase::Claiming { .. } => SlotPhase::Claiming,
                crate::slot::Phase::Promoting { .. } => SlotPhase::Promoting,
                crate::slot::Phase::Serving { .. } => SlotPhase::Serving,
            },
            instance: slot.bound().cloned(),
            last_holder: slot.last_holder().cloned(),
            epoch: slot.epoch(),
            since: match &slot.parked {
                Some(parked) if slot.is_parked() => parked.since,
                _ => slot.since,
            },
            because: match &slot.parked {
                Some(parked) if slot.is_parked() => parked.reason(),
                _ => slot.because.clone(),
            },
            parked: slot.parked.clone(),
            next_try: slot.promoted_again_at(now),
        };
        let mut instances: Vec<_> = self.instances.values().collect();
        instances.sort_by_key(|instance| instance.id.number());
        let instance = |instance: &crate::instance::Instance| InstanceView {
            id: instance.id.clone(),
            node: instance.node.clone(),
            run: instance.run,
            role: self.role(&instance.id),
            phase: instance.shown_phase(),
            health: instance.health,
            ready: self.readiness(instance),
            since: instance.since,
            because: instance.because.clone(),
            restarts: instance.restarts,
            last_failure: instance.last_failure.clone(),
            next_try: match instance.phase {
                Phase::Waiting { until } => Some(until),
                Phase::Failed { retry } => Some(retry),
                _ => None,
            },
            current: instance.current,
            not_promoted: self.not_promoted(&instance.id).map(|failed| failed.what),
            runs_from: self.runs_from(instance),
        };
        ServiceView {
            name: self.name.clone(),
            declared: Arc::clone(&self.declared),
            state: self.state,
            since: self.state_since,
            because: self.state_because.clone(),
            need: self.need(),
            distance: self.distance(),
            slots: self.slots.iter().map(slot).collect(),
            instances: instances.into_iter().map(instance).collect(),
            failover_order: order,
            removed: self.removed,
            rollout: self.rollout(),
            unplaced: self.unplaced(sites),
            rebalancing: self.rebalancing,
        }
    }
}
