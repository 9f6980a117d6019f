//! Arms the guard for an exclusive active before it acts, and disarms it after.

use super::{Executor, chain};
use crate::addresses::{Addresses, Claim};
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

/// An exchange that failed is tried again after this long.
const EXCHANGE_RETRY: Duration = Duration::from_secs(1);
/// A guard that is being replaced forgets the address of before so often later, and then not before its slot is armed anew.
const FORGET_TRIES: u32 = 50;
const FORGET_RETRY: Duration = Duration::from_millis(200);
/// A move waits no longer until those who come early are kept back, however busy the machine is: they would be refused.
const RECEIVED_WITHIN: Duration = Duration::from_secs(1);

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
                        gates.push(Gate::Address(spot(claim).await?));
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

    /// Gives an active that acts at an epoch the address that the file declares now, and takes from it what it had. What comes of it is heard as
    /// [`Input::Readdressed`].
    pub(crate) fn readdress(&mut self, instance: &InstanceId, epoch: Epoch) {
        let service = self.cluster.services.get(instance.service());
        let declared = service.and_then(|service| service.address.clone());
        let has = self.addresses.of(instance);
        if has.iter().eq(&declared) || self.exchanges.contains(instance) {
            return;
        }
        let Some(live) = self.live.get_mut(instance) else {
            return;
        };
        // Should this agent die on the way, the next one knows of both.
        live.memo.exchanged.clone_from(&declared);
        live.keep_memo(instance);
        self.exchanges.insert(instance.clone());
        let exchange = Exchange {
            instance: instance.clone(),
            epoch,
            // From here on whoever takes its slot away takes this address too.
            claim: declared.clone().map(|address| self.addresses.begin(instance, address)),
            before: has
                .iter()
                .find(|has| declared.as_ref().is_some_and(|to| to.ip == has.ip))
                .cloned(),
            addresses: self.addresses.clone(),
            session: self.session.clone(),
        };
        let (inputs, instance) = (self.inputs.clone(), instance.clone());
        tokio::spawn(async move {
            let result = exchange.run().await;
            if result.is_err() {
                tokio::time::sleep(EXCHANGE_RETRY).await;
            }
            let readdressed = Readdressed {
                instance,
                epoch,
                from: has,
                to: declared,
                result,
            };
            let _ = inputs.send(Input::Readdressed(Box::new(readdressed)));
        });
    }

    /// What an exchange came to. True if the address is another one now.
    pub(crate) fn readdressed(&mut self, readdressed: &Readdressed) -> bool {
        let Readdressed {
            instance,
            epoch,
            to,
            result,
            ..
        } = readdressed;
        self.exchanges.remove(instance);
        let acts = |live: &&mut super::Live| live.memo.acts == Some(*epoch) || live.memo.promoted == Some(*epoch);
        let Some(live) = self.live.get_mut(instance).filter(acts) else {
            return false;
        };
        live.memo.exchanged = None;
        if result.is_ok() {
            live.memo.floating = to.clone().map(|address| (*epoch, address));
        }
        live.keep_memo(instance);
        result.is_ok()
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
        // What is declared since it acts is exchanged for what it has when it is armed: see `readdress`.
        let acts = live.memo.acts == Some(epoch) || live.memo.promoted == Some(epoch);
        let address = match given {
            Some((_, address)) => Some(address),
            None => declared.filter(|_| !acts),
        };
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

/// The address of an active that acts, for another one: that is here first, and the guard can take both away as long as there are two.
struct Exchange {
    instance: InstanceId,
    epoch: Epoch,
    /// The right to the new one; `None` if it shall have none.
    claim: Option<Claim>,
    /// The very address, if it only moves on this node.
    before: Option<FloatingAddress>,
    addresses: Addresses,
    session: Option<SessionLink>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Readdressed {
    pub(crate) instance: InstanceId,
    pub(crate) epoch: Epoch,
    pub(crate) from: Vec<FloatingAddress>,
    pub(crate) to: Option<FloatingAddress>,
    pub(crate) result: Result<(), String>,
}

impl std::fmt::Display for Readdressed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { instance, from, to, .. } = self;
        match (from.first(), to) {
            (Some(from), Some(to)) => write!(f, "{instance} has floating address {to} in place of {from}"),
            (None, Some(to)) => write!(f, "{instance} has floating address {to}"),
            (from, None) => {
                let from = from.map(ToString::to_string).unwrap_or_default();
                write!(f, "{instance} has no floating address any more, {from} was taken off")
            }
        }
    }
}

impl Exchange {
    async fn run(mut self) -> Result<(), String> {
        let to = match self.claim.take() {
            Some(claim) => {
                let guarded = async {
                    let to = spot(&claim).await?;
                    self.guard(Some(to), true).await.map(|()| to)
                };
                let to = match guarded.await {
                    Ok(to) => to,
                    Err(why) => {
                        claim.stay(self.before.take()).await;
                        return Err(why);
                    }
                };
                if let Err(why) = claim.acquire_or(false, self.before.take()).await {
                    // That it is gated here does no harm but to whoever speaks to that address from this node.
                    self.forget(None, true).await;
                    return Err(why);
                }
                Some(to)
            }
            None => {
                self.addresses.release(&self.instance).await;
                None
            }
        };
        self.forget(to, false).await;
        Ok(())
    }

    async fn guard(&self, to: Option<Floating>, keeps: bool) -> Result<(), String> {
        let Some(session) = &self.session else { return Ok(()) };
        let (answer, changed) = tokio::sync::oneshot::channel();
        session.order(Order::Readdress {
            instance: self.instance.clone(),
            epoch: self.epoch,
            to,
            keeps,
            answer,
        });
        changed.await.unwrap_or_else(|_| Err("the agent is ending".into()))
    }

    /// What is not here any more need not be taken away.
    async fn forget(&self, to: Option<Floating>, keeps: bool) {
        for _ in 0..FORGET_TRIES {
            let Err(error) = self.guard(to, keeps).await else {
                return;
            };
            tracing::debug!(instance = %self.instance, error, "the guard keeps an address that is gone");
            tokio::time::sleep(FORGET_RETRY).await;
        }
    }
}

async fn spot(claim: &Claim) -> Result<Floating, String> {
    let spot = claim.locate().await?;
    Ok(Floating {
        address: claim.address().ip,
        prefix: spot.prefix,
        interface: spot.index,
    })
}
