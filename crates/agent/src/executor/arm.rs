//! Arms the guard for an exclusive active before it acts, and disarms it after.

use super::{Executor, chain};
use crate::clock;
use crate::cluster::fence::Gate;
use crate::cluster::session::{Order, SessionLink};
use crate::input::Input;
use decisions::Event;
use drivers::address;
use guard::fence::protocol::Floating;
use model::{Addressing, Epoch, FloatingAddress, InstanceId, RunId};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A move waits no longer until those who come early are kept back.
const RECEIVED_WITHIN: Duration = Duration::from_millis(200);

impl Executor {
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

    /// Has the guard end an instance should our session run out, gives it its floating address, and tells the decisions whether it
    /// may act.
    pub(super) fn arm(
        &mut self,
        instance: InstanceId,
        run: RunId,
        slot: model::SlotId,
        epoch: Epoch,
        takes_over: bool,
        moves: bool,
    ) {
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
        // Who comes before it is promoted would be refused by it. After a failure nobody waits for that to be seen to.
        let comes_early =
            moves && service.is_some_and(|service| service.answers_on_floating() && service.on_promote.is_some());
        let received = address
            .clone()
            .filter(|_| comes_early)
            .map(|address| self.partings.receive(&self.cluster.name, &instance, address));
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
                if let Some(received) = received {
                    // Begun before the guard was asked: as a rule it has been long since.
                    let _ = tokio::time::timeout(RECEIVED_WITHIN, received).await;
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
    pub(super) fn rebind(&self, instance: InstanceId, slot: model::SlotId, epoch: Epoch) {
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
    pub(super) fn floating(&mut self, instance: &InstanceId, epoch: Epoch) -> Option<FloatingAddress> {
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
    pub(super) fn cgroup_for(&self, instance: &InstanceId, run: RunId) -> Result<PathBuf, String> {
        self.cgroup(instance)
            .map_or_else(|| self.driver.make_cgroup(instance, run), Ok)
    }

    pub(super) fn disarm(&self, instance: &InstanceId) {
        if let Some(session) = &self.session {
            session.order(Order::Disarm(instance.clone()));
        }
    }
}
