//! What the proxy serves and by which route: the part of it that talks to the agent. It never touches a client.

use crate::clock::now_us;
use crate::counters::{Counters, measured};
use crate::front::{NewRoute, Settings};
use crate::listener::adopt;
use crate::target::Shared;
use crate::worker::Command;
use api::proxy::{FromProxy, Front, Measured, PROTOCOL, Route, Target, ToProxy, Totals, Works};
use model::{Epoch, InstanceId, Millis, ServiceName};
use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Instant;
use tokio::sync::mpsc::UnboundedSender;

/// From a worker.
#[derive(Debug)]
pub(crate) enum Event {
    /// For the agent as it is.
    Say(FromProxy),
    /// A worker accepts at the address of a service, or cannot.
    Opened {
        service: ServiceName,
        error: Option<String>,
    },
    /// A worker goes by a route.
    Routed { service: ServiceName, revision: u64 },
    /// A worker has nothing under way to a leaving instance.
    Drained {
        worker: usize,
        service: ServiceName,
        instance: InstanceId,
        cut: u32,
    },
    /// A worker has ended.
    Finished,
}

/// See the module.
pub(crate) struct Control {
    services: BTreeMap<ServiceName, Service>,
    /// Unbounded: the agent, who causes what goes in, waits for the answers.
    workers: Vec<UnboundedSender<Command>>,
    outbox: Vec<FromProxy>,
    /// When traffic was looked at last, on CLOCK_BOOTTIME.
    looked_us: u64,
}

struct Service {
    listen: SocketAddr,
    listener: TcpListener,
    settings: Settings,
    counters: Vec<Arc<Counters>>,
    /// Since when they count, on CLOCK_BOOTTIME.
    begun_us: u64,
    holding: Arc<AtomicU32>,
    revision: u64,
    targets: Vec<(Target, Arc<Shared>)>,
    /// The highest epoch seen in each slot.
    epochs: BTreeMap<u32, Epoch>,
    /// What the agent heard last; `None` before it has heard anything.
    told: Option<Totals>,
    opening: Pending,
    /// Routes that not all workers go by yet.
    routing: BTreeMap<u64, usize>,
    /// Leaving instances and the workers that still have something under way to them.
    draining: BTreeMap<InstanceId, (BTreeSet<usize>, u32)>,
}

impl Service {
    fn measured(&self, looked_us: u64) -> Measured {
        let mut measured = measured(&self.counters, looked_us);
        measured.begun_us = self.begun_us;
        let now = Instant::now();
        let works = |(target, shared): &(Target, Arc<Shared>)| Works {
            instance: target.instance.clone(),
            epoch: target.epoch,
            requests: shared.area.done(),
            inflight_us: shared.area.sum_us(now),
        };
        measured.works = self.targets.iter().map(works).collect();
        measured
    }
}

#[derive(Default)]
struct Pending {
    workers: usize,
    error: Option<String>,
}

impl Control {
    pub(crate) fn new(workers: Vec<UnboundedSender<Command>>) -> Self {
        Self {
            services: BTreeMap::new(),
            workers,
            outbox: Vec::new(),
            looked_us: 0,
        }
    }

    /// Carries out what the agent says.
    pub(crate) fn handle(&mut self, message: ToProxy, fds: Vec<OwnedFd>) {
        match message {
            ToProxy::Hello { .. } => tracing::warn!("the agent greeted twice: ignored"),
            ToProxy::Serve {
                service,
                listen,
                protocol,
                hold_timeout,
                hold_max,
                parting,
            } => {
                let settings = Settings {
                    protocol,
                    hold_timeout: hold_timeout.duration(),
                    hold_max,
                    parting,
                };
                match self.serve(&service, listen, settings, fds) {
                    Ok(true) => self.served(service, None),
                    // Answered when all workers have it.
                    Ok(false) => {}
                    Err(error) => self.served(service, Some(error)),
                }
            }
            ToProxy::Route(route) => self.route(route),
            ToProxy::Remove { service, drain } => self.remove(&service, drain),
            ToProxy::Only { services } => {
                let others: Vec<_> = self
                    .services
                    .keys()
                    .filter(|service| !services.contains(service))
                    .cloned()
                    .collect();
                for service in others {
                    self.remove(&service, Millis(0));
                }
            }
            ToProxy::Ping => self.outbox.push(FromProxy::Pong),
            ToProxy::Shutdown { drain } => self.shutdown(drain),
        }
    }

    /// Takes in what a worker says.
    pub(crate) fn handle_event(&mut self, event: Event) {
        match event {
            Event::Say(message) => self.outbox.push(message),
            Event::Opened { service, error } => {
                let Some(known) = self.services.get_mut(&service) else {
                    return;
                };
                let opening = &mut known.opening;
                opening.workers = opening.workers.saturating_sub(1);
                opening.error = opening.error.take().or(error);
                if opening.workers == 0 {
                    let error = opening.error.take();
                    self.served(service, error);
                }
            }
            Event::Routed { service, revision } => {
                let Some(known) = self.services.get_mut(&service) else {
                    return;
                };
                let Some(left) = known.routing.get_mut(&revision) else {
                    return;
                };
                *left -= 1;
                if *left == 0 {
                    known.routing.remove(&revision);
                    self.routed(service, revision);
                }
            }
            Event::Drained {
                worker,
                service,
                instance,
                cut,
            } => {
                let Some(known) = self.services.get_mut(&service) else {
                    return;
                };
                let Some((workers, cut_in_all)) = known.draining.get_mut(&instance) else {
                    return;
                };
                workers.remove(&worker);
                *cut_in_all += cut;
                if workers.is_empty() {
                    let cut = *cut_in_all;
                    known.draining.remove(&instance);
                    self.outbox.push(FromProxy::Drained { service, instance, cut });
                }
            }
            Event::Finished => {}
        }
    }

    /// What the agent is to hear.
    pub(crate) fn take_messages(&mut self) -> Vec<FromProxy> {
        std::mem::take(&mut self.outbox)
    }

    /// Another agent listens: it has heard nothing yet.
    pub(crate) fn forget_told(&mut self) {
        for service in self.services.values_mut() {
            service.told = None;
        }
    }

    /// The greeting, and a copy of every listening socket.
    pub(crate) fn hello(&self) -> std::io::Result<(FromProxy, Vec<OwnedFd>)> {
        let mut fronts = Vec::new();
        let mut fds = Vec::new();
        for (name, service) in &self.services {
            fds.push(service.listener.try_clone()?.into());
            fronts.push(Front {
                service: name.clone(),
                listen: service.listen,
                revision: service.revision,
                targets: service.targets.iter().map(|(t, _)| t.clone()).collect(),
            });
        }
        let hello = FromProxy::Hello {
            protocol: PROTOCOL,
            pid: std::process::id(),
            fronts,
        };
        Ok((hello, fds))
    }

    /// Says the totals of the services that had traffic since the last time, or have some under way.
    pub(crate) fn tell_traffic(&mut self) {
        for (name, service) in &mut self.services {
            let mut totals = Totals::default();
            for counters in &service.counters {
                counters.add_to(&mut totals);
            }
            if service.told != Some(totals) || totals.open > 0 {
                service.told = Some(totals);
                self.outbox.push(FromProxy::Traffic {
                    service: name.clone(),
                    totals,
                    measured: Some(Box::new(service.measured(self.looked_us))),
                });
            }
        }
        self.looked_us = now_us();
    }

    /// Accepts nothing more; the workers finish when their clients have, or after `drain`.
    pub(crate) fn shutdown(&mut self, drain: Millis) {
        self.services.clear();
        self.tell_workers(|| Command::Shutdown {
            drain: drain.duration(),
        });
    }

    /// Whether it could be done at once.
    fn serve(
        &mut self,
        name: &ServiceName,
        listen: SocketAddr,
        settings: Settings,
        mut fds: Vec<OwnedFd>,
    ) -> Result<bool, String> {
        if fds.len() > 1 {
            return Err(format!("{} sockets came with it, one is expected", fds.len()));
        }
        if let Some(known) = self.services.get_mut(name)
            && known.listen == listen
        {
            known.settings = settings;
            // A socket that came along is closed: what waits in the one we have would be lost with it.
            self.tell_workers(|| Command::Settings {
                service: name.clone(),
                settings,
            });
            return Ok(true);
        }
        let fd = fds
            .pop()
            .ok_or("no socket came with it, and there is none from before")?;
        let listener = adopt(fd, listen).map_err(|error| error.to_string())?;
        let copies = self
            .workers
            .iter()
            .map(|_| listener.try_clone())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("failed to copy the socket: {error}"))?;
        let service = match self.services.entry(name.clone()) {
            Entry::Occupied(known) => {
                let known = known.into_mut();
                known.listen = listen;
                known.listener = listener;
                known.settings = settings;
                known
            }
            Entry::Vacant(vacant) => vacant.insert(Service {
                listen,
                listener,
                settings,
                counters: Counters::of_workers(copies.len()),
                holding: Arc::default(),
                revision: 0,
                targets: Vec::new(),
                epochs: BTreeMap::new(),
                begun_us: now_us(),
                told: None,
                opening: Pending::default(),
                routing: BTreeMap::new(),
                draining: BTreeMap::new(),
            }),
        };
        service.opening.workers += copies.len();
        for ((worker, listener), counters) in self.workers.iter().zip(copies).zip(&service.counters) {
            let _ = worker.send(Command::Serve {
                service: name.clone(),
                settings,
                listener,
                counters: Arc::clone(counters),
                holding: Arc::clone(&service.holding),
            });
        }
        Ok(false)
    }

    fn route(&mut self, route: Route) {
        let Some(service) = self.services.get_mut(&route.service) else {
            tracing::warn!(service = %route.service, "ignoring a route for a service that is not served");
            return;
        };
        if route.revision <= service.revision {
            tracing::warn!(
                service = %route.service, revision = route.revision, newest = service.revision,
                "ignoring an old route"
            );
            let revision = service.revision;
            self.routed(route.service, revision);
            return;
        }
        service.revision = route.revision;
        let before = std::mem::take(&mut service.targets);
        for target in route.targets {
            let newest = service.epochs.entry(target.slot).or_insert(target.epoch);
            if target.epoch < *newest {
                tracing::error!(
                    service = %route.service, instance = %target.instance, epoch = %target.epoch,
                    newest = %newest, "refusing to route to an old epoch"
                );
                continue;
            }
            *newest = target.epoch;
            let known = before.iter().find(|(known, _)| {
                known.instance == target.instance && known.epoch == target.epoch && known.address == target.address
            });
            let shared = known.map_or_else(Arc::default, |(_, shared)| Arc::clone(shared));
            service.targets.push((target, shared));
        }
        service.routing.insert(route.revision, self.workers.len());
        for leaving in &route.leaving {
            let (workers, _) = service.draining.entry(leaving.instance.clone()).or_default();
            workers.extend(0..self.workers.len());
        }
        let new = NewRoute {
            targets: service.targets.clone(),
            leaving: route.leaving,
        };
        self.tell_workers(|| Command::Route {
            service: route.service.clone(),
            revision: route.revision,
            route: new.clone(),
        });
    }

    fn remove(&mut self, service: &ServiceName, drain: Millis) {
        if self.services.remove(service).is_none() {
            tracing::warn!(%service, "asked to remove a service that is not served");
            return;
        }
        self.tell_workers(|| Command::Remove {
            service: service.clone(),
            drain: drain.duration(),
        });
    }

    fn served(&mut self, service: ServiceName, error: Option<String>) {
        if let Some(error) = &error {
            tracing::error!(%service, error, "cannot serve");
        }
        self.outbox.push(FromProxy::Served { service, error });
    }

    fn routed(&mut self, service: ServiceName, revision: u64) {
        self.outbox.push(FromProxy::Routed {
            service,
            revision,
            at_us: now_us(),
        });
    }

    fn tell_workers(&self, command: impl Fn() -> Command) {
        for worker in &self.workers {
            // A worker without a receiver has finished.
            let _ = worker.send(command());
        }
    }
}
