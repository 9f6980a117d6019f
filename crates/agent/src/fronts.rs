//! The clients' side of each service: its listening socket, what the proxy was told of it, what the proxy counted.

use crate::executor::Executor;
use crate::proxy_link::ProxyLink;
use api::proxy::{Front, Leaving, Route, Target, ToProxy, Totals};
use decisions::RouteTarget;
use model::{Cluster, InstanceId, Millis, ServiceName};
use proxy::listener::{BindError, bind};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

/// Sockets, routes and counters by service.
#[derive(Default)]
pub(crate) struct Fronts {
    sockets: BTreeMap<SocketAddr, Arc<TcpListener>>,
    /// What the proxy serves, as it was told.
    served: BTreeMap<ServiceName, SocketAddr>,
    /// Where the proxy has a socket already.
    proxy_has: BTreeSet<(ServiceName, SocketAddr)>,
    totals: BTreeMap<ServiceName, Totals>,
    /// How long clients of a service may finish when it goes away.
    drains: BTreeMap<ServiceName, Millis>,
    /// Services whose clients are asked to come back on new connections.
    parting: BTreeSet<ServiceName>,
    /// Services whose clients cannot come, and why.
    trouble: BTreeMap<ServiceName, String>,
}

impl Fronts {
    /// Addresses that are ours already.
    pub(crate) fn addresses(&self) -> BTreeSet<SocketAddr> {
        self.sockets.keys().copied().collect()
    }

    pub(crate) fn totals(&self, service: &ServiceName) -> Option<Totals> {
        self.totals.get(service).copied()
    }

    pub(crate) fn count(&mut self, service: ServiceName, totals: Totals) {
        self.totals.insert(service, totals);
    }

    /// The sockets that a proxy had when we came.
    pub(crate) fn adopt(&mut self, fronts: Vec<(Front, TcpListener)>) {
        self.proxy_has.clear();
        for (front, socket) in fronts {
            self.proxy_has.insert((front.service.clone(), front.listen));
            self.served.insert(front.service, front.listen);
            self.sockets.entry(front.listen).or_insert_with(|| Arc::new(socket));
        }
    }

    /// Opens the sockets of a file that are not open yet; on an error nothing changes.
    pub(crate) fn open(&mut self, cluster: &Cluster) -> Result<(), Vec<(ServiceName, BindError)>> {
        let mut opened = BTreeMap::new();
        let mut failed = Vec::new();
        for (name, service) in &cluster.services {
            let Some(listen) = service.listen.filter(|listen| !self.sockets.contains_key(listen)) else {
                continue;
            };
            match bind(listen, service.listens_on_floating()) {
                Ok(socket) => {
                    opened.insert(listen, Arc::new(socket));
                }
                Err(error) => failed.push((name.clone(), error)),
            }
        }
        if failed.is_empty() {
            self.sockets.extend(opened);
            Ok(())
        } else {
            Err(failed)
        }
    }

    /// Closes the sockets that a file does not name any more.
    pub(crate) fn keep(&mut self, cluster: &Cluster) {
        let wanted: BTreeSet<SocketAddr> = cluster.services.values().filter_map(|service| service.listen).collect();
        self.sockets.retain(|listen, _| wanted.contains(listen));
    }

    /// Tells the proxy what to serve.
    pub(crate) fn serve(&mut self, cluster: &Cluster, link: &ProxyLink) {
        for (name, service) in &cluster.services {
            let Some(listen) = service.listen else { continue };
            let old = self.served.get(name).copied().filter(|old| *old != listen);
            if old.is_some() {
                link.queue(
                    ToProxy::Remove {
                        service: name.clone(),
                        drain: service.drain_timeout,
                    },
                    None,
                );
            }
            let has = old.is_none() && self.proxy_has.contains(&(name.clone(), listen));
            let socket = self.sockets.get(&listen).filter(|_| !has).cloned();
            let message = ToProxy::Serve {
                service: name.clone(),
                listen,
                protocol: service.protocol,
                hold_timeout: service.hold_timeout,
                hold_max: service.hold_max,
                parting: self.parting.contains(name),
            };
            link.queue(message, socket);
            self.proxy_has.insert((name.clone(), listen));
            self.served.insert(name.clone(), listen);
            self.drains.insert(name.clone(), service.drain_timeout);
        }
    }

    /// Has the clients of a service asked to come back on new connections, or no more.
    pub(crate) fn part(&mut self, cluster: &Cluster, service: &ServiceName, parts: bool, link: &ProxyLink) {
        let changed = match parts {
            true => self.parting.insert(service.clone()),
            false => self.parting.remove(service),
        };
        if changed && self.served.contains_key(service) {
            self.serve(&only(cluster, service), link);
        }
    }

    /// What the proxy said of a service that it was to serve.
    pub(crate) fn told(&mut self, service: ServiceName, error: Option<String>) {
        match error {
            Some(error) => self.trouble.insert(service, error),
            None => self.trouble.remove(&service),
        };
    }

    /// Services whose clients cannot come, and why.
    pub(crate) fn trouble(&self) -> &BTreeMap<ServiceName, String> {
        &self.trouble
    }

    /// Tries once more what could not be opened or served.
    pub(crate) fn mend(&mut self, cluster: &Cluster, link: &ProxyLink) {
        let lacks = |service: &model::Service| service.listen.is_some_and(|listen| !self.sockets.contains_key(&listen));
        if self.trouble.is_empty() && !cluster.services.values().any(lacks) {
            return;
        }
        for name in cluster.services.keys() {
            let one = only(cluster, name);
            match self.open(&one) {
                Ok(()) if self.trouble.contains_key(name) => {
                    if let Some(listen) = one.services[name].listen {
                        self.proxy_has.remove(&(name.clone(), listen));
                    }
                    self.serve(&one, link);
                }
                Ok(()) => {}
                Err(failed) => {
                    for (service, error) in failed {
                        self.trouble.insert(service, crate::executor::chain(&error));
                    }
                }
            }
        }
    }

    /// Tells the proxy that nothing else is to be served.
    pub(crate) fn only(&self, cluster: &Cluster, link: &ProxyLink) {
        let services = cluster
            .services
            .iter()
            .filter(|(_, s)| s.listen.is_some())
            .map(|(name, _)| name.clone())
            .collect();
        link.queue(ToProxy::Only { services }, None);
    }

    /// The service's clients are not served any more.
    pub(crate) fn remove(&mut self, service: &ServiceName, link: &ProxyLink) {
        self.served.remove(service);
        self.trouble.remove(service);
        let drain = self.drains.remove(service).unwrap_or(Millis(0));
        self.proxy_has.retain(|(name, _)| name != service);
        self.totals.remove(service);
        link.queue(
            ToProxy::Remove {
                service: service.clone(),
                drain,
            },
            None,
        );
    }

    /// Tells the proxy where to send clients.
    pub(crate) fn route(
        link: &ProxyLink,
        executor: &Executor,
        service: ServiceName,
        revision: u64,
        targets: &[RouteTarget],
        leaving: Vec<(InstanceId, Millis)>,
    ) {
        let target = |target: &RouteTarget| {
            let address = executor.address(&target.instance)?;
            Some(Target {
                slot: target.slot,
                instance: target.instance.clone(),
                epoch: target.epoch,
                address,
            })
        };
        let route = Route {
            service,
            revision,
            targets: targets.iter().filter_map(target).collect(),
            leaving: leaving
                .into_iter()
                .map(|(instance, drain)| Leaving { instance, drain })
                .collect(),
        };
        link.queue(ToProxy::Route(route), None);
    }
}

/// A cluster with one of its services.
fn only(cluster: &Cluster, service: &ServiceName) -> Cluster {
    let declared = cluster.services.get_key_value(service);
    Cluster {
        name: cluster.name.clone(),
        services: declared
            .map(|(name, declared)| (name.clone(), declared.clone()))
            .into_iter()
            .collect(),
        alerts: model::Alerts::default(),
        site: model::Site::default(),
    }
}
