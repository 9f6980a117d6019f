//! What the proxy tells, and what it is told when it comes.

use super::Agent;
use api::Severity;
use api::proxy::FromProxy;
use decisions::Event;
use model::{ServiceName, Timestamp};
use std::collections::BTreeMap;

impl Agent {
    pub(super) fn hear_proxy(&mut self, message: FromProxy, now: Timestamp) {
        match message {
            FromProxy::Routed {
                service,
                revision,
                at_us,
            } => {
                self.core.handle(
                    Event::Routed {
                        service,
                        revision,
                        at: Timestamp(at_us),
                    },
                    now,
                );
            }
            FromProxy::Drained { instance, .. } => self.core.handle(Event::Drained { instance }, now),
            FromProxy::FirstAnswer {
                instance, epoch, at_us, ..
            } => {
                self.core.handle(
                    Event::FirstAnswer {
                        instance,
                        epoch,
                        at: Timestamp(at_us),
                    },
                    now,
                );
            }
            FromProxy::Suspect { instance, .. } => self.core.handle(Event::Suspected { instance }, now),
            FromProxy::Traffic {
                service,
                totals,
                measured,
            } => {
                if let Some(measured) = measured {
                    self.measures.report(service.clone(), totals, measured);
                }
                self.fronts.count(service, totals);
            }
            FromProxy::Served {
                service,
                error: Some(error),
            } => {
                let text = format!("the proxy cannot serve {service}");
                self.journal.tell(Severity::Error, "not-served", text, error.clone());
                self.fronts.told(service, Some(error));
            }
            FromProxy::Served { service, error: None } => self.fronts.told(service, None),
            FromProxy::Hello { .. } | FromProxy::Pong => {}
        }
    }

    pub(super) fn greet_proxy(
        &mut self,
        fronts: Vec<(api::proxy::Front, std::net::TcpListener)>,
        pid: u32,
        now: Timestamp,
    ) {
        tracing::info!(pid, fronts = fronts.len(), "connected to the proxy");
        self.proxy_is_up = true;
        let follows: BTreeMap<ServiceName, u64> = fronts
            .iter()
            .map(|(front, _)| (front.service.clone(), front.revision))
            .collect();
        self.fronts.adopt(fronts);
        self.fronts.serve(&self.cluster, &self.link);
        self.fronts.only(&self.cluster, &self.link);
        let services: Vec<ServiceName> = self.cluster.services.keys().cloned().collect();
        for service in services {
            let revision = follows.get(&service).copied().unwrap_or(0);
            self.core.handle(Event::ProxyReset { service, revision }, now);
        }
    }
}
