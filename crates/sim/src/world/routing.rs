//! What the proxy does, and what its clients meet.

use super::World;
use super::proxy::{self, Order};
use super::queue::Due;
use super::truth::Truth;
use decisions::{Event, RouteTarget};
use model::{Epoch, InstanceId, ServiceName};
use std::sync::Arc;
use std::time::Duration;

impl World {
    pub(super) fn send_order(&mut self, order: Order) {
        let slow = if self.truth.now < self.truth.proxy.slow_until {
            500
        } else {
            1
        };
        let span = self.pace.span(200 * slow);
        let at = (self.truth.now + span).max(self.truth.proxy.last_arrival);
        self.truth.proxy.last_arrival = at;
        self.queue.plan(at, Due::Order(order));
    }

    pub(super) fn order_arrives(&mut self, order: &Order) {
        if !self.truth.proxy.alive {
            return;
        }
        self.truth.proxy.obey(order);
        let Some(route) = self.truth.proxy.routes.get(&order.service) else {
            return;
        };
        let targets: Vec<RouteTarget> = route.targets.clone();
        self.tell(Event::Routed {
            service: order.service.clone(),
            revision: order.revision,
            at: self.truth.now,
        });
        self.those_reached_act(order, &targets);
        for (instance, drain) in &order.leaving {
            let most = drain.duration().max(Duration::from_micros(100));
            let after = self.pace.between(most / 8, most);
            let (service, instance) = (order.service.clone(), instance.clone());
            self.plan(after, Due::Drains { service, instance });
        }
        for target in targets {
            let after = self.pace.span(1_000);
            let (service, instance, epoch) = (order.service.clone(), target.instance, target.epoch);
            self.plan(
                after,
                Due::Answers {
                    service,
                    instance,
                    epoch,
                },
            );
        }
    }

    /// Where no hook makes an active of a standby, clients do; and it is none any more when they are gone.
    fn those_reached_act(&mut self, order: &Order, targets: &[RouteTarget]) {
        let service = &order.service;
        let Some(declared) = self.truth.declared.get(service).map(Arc::clone) else {
            return;
        };
        if Truth::acts_by_itself(&declared) {
            return;
        }
        for (target, run) in order.targets.iter().flatten().zip(&order.runs) {
            let process = self.truth.process(&target.instance);
            // A route that is late sends clients to whoever has the address by then; that makes nobody an active.
            let is_the_same =
                process.is_some_and(|process| process.main && process.run == *run && target.epoch > process.demoted);
            if is_the_same && targets.contains(target) {
                self.begin_to_act(&target.instance, target.slot, target.epoch);
            }
        }
        if declared.exclusive {
            return;
        }
        let store = &self.truth.store;
        for (id, instance) in self
            .truth
            .instances
            .iter_mut()
            .filter(|(id, _)| id.service() == service)
        {
            // A sick one gets no clients for a while and is an active all the same.
            if targets.iter().all(|target| target.instance != *id)
                && store.held_by(id).next().is_none()
                && let Some(process) = &mut instance.process
            {
                process.acting = None;
            }
        }
    }

    pub(super) fn drains(&mut self, service: &ServiceName, instance: &InstanceId) {
        if self.truth.proxy.alive && !self.truth.proxy.reaches(service, instance) {
            let instance = instance.clone();
            self.tell(Event::Drained { instance });
        }
    }

    pub(super) fn answers(&mut self, service: &ServiceName, instance: &InstanceId, epoch: Epoch) {
        if !self.truth.answers(instance) || !self.truth.proxy.reaches(service, instance) {
            return;
        }
        let route = self.truth.proxy.routes.get_mut(service);
        if route.is_some_and(|route| route.answered.insert((instance.clone(), epoch))) {
            let (instance, at) = (instance.clone(), self.truth.now);
            self.tell(Event::FirstAnswer { instance, epoch, at });
        }
    }

    pub(super) fn proxy_returns(&mut self) {
        if self.truth.proxy.alive {
            return;
        }
        self.before_all();
        self.truth.proxy.alive = true;
        let with_address = self
            .truth
            .declared
            .iter()
            .filter(|(_, service)| service.listen.is_some());
        let services: Vec<ServiceName> = with_address.map(|(name, _)| name.clone()).collect();
        for service in services {
            // Another process, which knows no route.
            self.tell(Event::ProxyReset { service, revision: 0 });
        }
    }
}

impl Truth {
    /// Counts the requests since the last time.
    pub(crate) fn count_clients(&mut self, service: &ServiceName) {
        if self
            .declared
            .get(service)
            .is_none_or(|declared| declared.listen.is_none())
        {
            return;
        }
        let what = self.meets(service);
        let now = self.now;
        self.proxy.clients.entry(service.clone()).or_default().count(now, what);
    }

    /// What a request to a service meets now.
    fn meets(&self, service: &ServiceName) -> proxy::Service {
        // The agent keeps the listening socket: while the proxy is started anew, clients wait in its queue.
        let Some(route) = self.proxy.routes.get(service) else {
            return proxy::Service::Held;
        };
        let mut hangs = false;
        for target in &route.targets {
            if self.answers(&target.instance) {
                return proxy::Service::Ok;
            }
            hangs |= self
                .process(&target.instance)
                .is_some_and(|process| process.main && process.hung);
        }
        if hangs {
            proxy::Service::Failed
        } else {
            proxy::Service::Held
        }
    }
}
