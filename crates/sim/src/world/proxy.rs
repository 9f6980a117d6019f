//! The simulated proxy and its clients.

use decisions::RouteTarget;
use model::{Epoch, InstanceId, Millis, RunId, ServiceName, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// One client's request reaches each service that often.
const REQUEST_EVERY_US: u64 = 10_000;

/// The data path, in a process of its own.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) alive: bool,
    pub(crate) slow_until: Timestamp,
    pub(crate) routes: BTreeMap<ServiceName, Route>,
    /// Messages arrive in the order in which they were sent.
    pub(crate) last_arrival: Timestamp,
    pub(crate) clients: BTreeMap<ServiceName, Clients>,
}

/// Where a service's clients go.
#[derive(Debug, Default)]
pub(crate) struct Route {
    pub(crate) revision: u64,
    pub(crate) targets: Vec<RouteTarget>,
    highest: BTreeMap<u32, Epoch>,
    pub(crate) answered: BTreeSet<(InstanceId, Epoch)>,
}

/// What became of requests.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Clients {
    pub(crate) last: Timestamp,
    pub(crate) ok: u64,
    /// Waited for an active.
    pub(crate) held: u64,
    /// Reached nobody who answers.
    pub(crate) failed: u64,
}

/// A message of the agent.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) service: ServiceName,
    pub(crate) revision: u64,
    /// `None`: the address goes away.
    pub(crate) targets: Option<Vec<RouteTarget>>,
    /// The processes of the targets when it was sent: later ones may have the same addresses.
    pub(crate) runs: Vec<RunId>,
    pub(crate) leaving: Vec<(InstanceId, Millis)>,
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            alive: true,
            slow_until: Timestamp(0),
            routes: BTreeMap::new(),
            last_arrival: Timestamp(0),
            clients: BTreeMap::new(),
        }
    }
}

impl Proxy {
    /// Takes an order in; ignores an older one, and targets of an older epoch than one it has seen.
    pub(crate) fn obey(&mut self, order: &Order) {
        let Some(targets) = &order.targets else {
            self.routes.remove(&order.service);
            return;
        };
        let route = self.routes.entry(order.service.clone()).or_default();
        if order.revision <= route.revision {
            return;
        }
        route.revision = order.revision;
        route.targets.clear();
        for target in targets {
            let highest = route.highest.entry(target.slot).or_default();
            if target.epoch >= *highest {
                *highest = target.epoch;
                route.targets.push(target.clone());
            }
        }
    }

    pub(crate) fn die(&mut self) {
        self.alive = false;
        self.routes.clear();
    }

    pub(crate) fn reaches(&self, service: &ServiceName, id: &InstanceId) -> bool {
        self.alive
            && self
                .routes
                .get(service)
                .is_some_and(|route| route.targets.iter().any(|target| target.instance == *id))
    }
}

impl Clients {
    /// Counts the requests since the last time, all of which met the same.
    pub(crate) fn count(&mut self, now: Timestamp, what: Service) {
        let requests = now.0 / REQUEST_EVERY_US - self.last.0 / REQUEST_EVERY_US;
        self.last = now;
        match what {
            Service::Ok => self.ok += requests,
            Service::Held => self.held += requests,
            Service::Failed => self.failed += requests,
        }
    }
}

/// What a request meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Ok,
    Held,
    Failed,
}
