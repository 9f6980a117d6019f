//! Floating addresses of this node's actives: taken before an active acts, kept as long as its session lasts, gone before anybody else
//! may have its slot.
//!
//! ```text
//!   core: Arm ──► begin ──► guard armed ──► acquire ──► kept: refreshed with each renewal ──► release ──► Gone, HookDone(demote)
//!                   │                          │                    │
//!                   └── released meanwhile ────┴── session lost ────┴──► taken off at once, and seen to be gone
//! ```
//! A task per address does it. Whoever wants an instance's address gone waits for [`Addresses::release`], at whatever point the task is.

use crate::cluster::session::Renewed;
use crate::input::Input;
use crate::journal::Inputs;
use api::Severity;
use drivers::address::{self, AcquireError, Event, Held, Options, RefreshError, Spot};
use model::{FloatingAddress, InstanceId, Millis, Revision, ServiceName, Timestamp};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Where nobody is known to have had the address before, neighbours are asked for so long whether anyone has it.
const ASK_FOR: Duration = Duration::from_millis(50);
/// An address that the kernel does not give up is tried again after this long.
const RELEASE_RETRY: Duration = Duration::from_millis(200);
/// One that could not be put back while its active goes on, likewise.
const AGAIN: Duration = Duration::from_millis(500);
/// An attempt to take one that failed is repeated before this.
const REPEATED_WITHIN: Duration = Duration::from_secs(15);

/// News of an address, for people.
#[derive(Debug)]
pub(crate) struct News {
    pub(crate) instance: InstanceId,
    pub(crate) severity: Severity,
    /// Name in the catalogue.
    pub(crate) kind: &'static str,
    pub(crate) text: String,
    pub(crate) because: String,
}

/// Why an address is not where it should be, and what to do.
#[derive(Debug, Clone)]
pub(crate) struct Trouble {
    pub(crate) text: String,
    pub(crate) hint: String,
    pub(crate) since: Timestamp,
    /// Of an attempt that failed: it is repeated, or another node has made it by then.
    until: Option<Timestamp>,
}

/// The floating addresses of this node. Clones are the same.
#[derive(Clone)]
pub(crate) struct Addresses {
    shared: Arc<Shared>,
}

struct Shared {
    inputs: Inputs,
    /// In a cluster: the newest renewal of our session, and how long after it an address may be kept.
    renewals: Mutex<Option<(watch::Receiver<Renewed>, Millis)>>,
    all: Mutex<All>,
}

#[derive(Default)]
struct All {
    holdings: BTreeMap<InstanceId, Holding>,
    trouble: BTreeMap<ServiceName, Trouble>,
    number: u64,
}

struct Holding {
    address: FloatingAddress,
    /// Tells it from an earlier one of the same instance.
    number: u64,
    /// Its task; `None` for one that an earlier agent took, until it is taken over.
    orders: Option<mpsc::UnboundedSender<Order>>,
    /// The interface that it is on.
    on: Option<String>,
}

enum Order {
    Release(oneshot::Sender<()>),
    PutBack,
}

impl Addresses {
    pub(crate) fn new(inputs: Inputs) -> Self {
        let shared = Shared {
            inputs,
            renewals: Mutex::new(None),
            all: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// From now on an address may be kept for `hard` after the newest acknowledged renewal was sent, and no longer.
    pub(crate) fn lease(&self, renewals: watch::Receiver<Renewed>, hard: Millis) {
        *lock(&self.shared.renewals) = Some((renewals, hard));
    }

    /// An earlier agent took it for an instance that runs on.
    pub(crate) fn left(&self, instance: &InstanceId, address: FloatingAddress) {
        let mut all = self.shared.all();
        all.number += 1;
        let holding = Holding {
            address,
            number: all.number,
            orders: None,
            on: None,
        };
        all.holdings.insert(instance.clone(), holding);
    }

    /// An instance is about to get an address. From here on [`Addresses::release`] finds it.
    pub(crate) fn begin(&self, instance: &InstanceId, address: FloatingAddress) -> Claim {
        let (orders, queue) = mpsc::unbounded_channel();
        let mut all = self.shared.all();
        all.number += 1;
        let number = all.number;
        let holding = Holding {
            address: address.clone(),
            number,
            orders: Some(orders),
            on: None,
        };
        // Of the same instance at an earlier epoch: its task ends, and leaves the address for this one.
        all.holdings.insert(instance.clone(), holding);
        drop(all);
        Claim {
            shared: Arc::clone(&self.shared),
            instance: instance.clone(),
            number,
            address,
            orders: queue,
        }
    }

    /// Comes back when this node does not have the address of an instance, which may never have had one.
    pub(crate) async fn release(&self, instance: &InstanceId) {
        let asked = {
            let all = self.shared.all();
            let Some(holding) = all.holdings.get(instance) else {
                return;
            };
            match &holding.orders {
                Some(orders) => {
                    let (answer, gone) = oneshot::channel();
                    // One that is not heard any more has let go by itself.
                    let _ = orders.send(Order::Release(answer));
                    Ok((gone, holding.number))
                }
                None => Err((holding.address.clone(), holding.number)),
            }
        };
        let number = match asked {
            Ok((gone, number)) => {
                let _ = gone.await;
                number
            }
            Err((address, number)) => {
                take_off(&address, None).await;
                number
            }
        };
        self.shared.forget(instance, number);
    }

    /// Instances of a service, but for one, that have or may have an address here.
    pub(crate) fn others(&self, service: &ServiceName, but: Option<&InstanceId>) -> Vec<InstanceId> {
        let all = self.shared.all();
        let ids = all.holdings.keys().filter(|id| id.service() == service);
        ids.filter(|id| Some(*id) != but).cloned().collect()
    }

    /// The guard took it away while its instance was frozen, which goes on now.
    pub(crate) fn put_back(&self, instance: &InstanceId) {
        let all = self.shared.all();
        if let Some(orders) = all.holdings.get(instance).and_then(|holding| holding.orders.as_ref()) {
            let _ = orders.send(Order::PutBack);
        }
    }

    /// The interface on which this node has the address for an instance.
    pub(crate) fn of(&self, instance: &InstanceId) -> Option<String> {
        self.shared.all().holdings.get(instance)?.on.clone()
    }

    /// The number of the claim under which this node has the address of a service; `None` if it has it not.
    pub(crate) fn holding(&self, service: &ServiceName) -> Option<u64> {
        let all = self.shared.all();
        let mut holdings = all.holdings.iter().filter(|(id, _)| id.service() == service);
        holdings.find_map(|(_, holding)| holding.on.as_ref().map(|_| holding.number))
    }

    /// What is wrong, by service.
    pub(crate) fn trouble(&self) -> BTreeMap<ServiceName, Trouble> {
        let now = crate::clock::now();
        let mut all = self.shared.all();
        all.trouble
            .retain(|_, trouble| trouble.until.is_none_or(|until| now < until));
        all.trouble.clone()
    }
}

/// The right to take an address, until it is released.
pub(crate) struct Claim {
    shared: Arc<Shared>,
    instance: InstanceId,
    number: u64,
    address: FloatingAddress,
    orders: mpsc::UnboundedReceiver<Order>,
}

impl Claim {
    /// Where it is going to be: what the guard has to know.
    pub(crate) async fn locate(&self) -> Result<Spot, String> {
        address::locate(&self.address)
            .await
            .map_err(|error| self.refused(&error))
    }

    /// Its address.
    pub(crate) fn address(&self) -> &FloatingAddress {
        &self.address
    }

    /// Takes it, announces it, and keeps it from then on. In words why not.
    pub(crate) async fn acquire(mut self, takes_over: bool) -> Result<(), String> {
        let renewals = lock(&self.shared.renewals).clone();
        let lease = Lease::of(renewals);
        let options = Options {
            ask_for: (!takes_over).then_some(ASK_FOR),
            until: lease.until()?,
        };
        let taken = {
            let acquiring = address::acquire(&self.address, options);
            tokio::select! {
                biased;
                order = released(&mut self.orders) => Err(order),
                acquired = acquiring => Ok(acquired),
            }
        };
        match taken {
            // Released, or replaced: nobody waits for it any more.
            Err(order) => {
                if let Some(answer) = order {
                    take_off(&self.address, None).await;
                    self.shared.forget(&self.instance, self.number);
                    let _ = answer.send(());
                }
                Err("it lost its slot meanwhile".into())
            }
            Ok(Err(error)) => {
                let why = self.refused(&error);
                self.shared.forget(&self.instance, self.number);
                Err(why)
            }
            Ok(Ok((held, events))) => {
                self.shared.is_on(&self.instance, self.number, Some(held.interface()));
                self.shared.all().trouble.remove(self.instance.service());
                tracing::info!(instance = %self.instance, ip = %held.ip(), interface = held.interface(), "has its floating address");
                tokio::spawn(self.keep(held, events, lease));
                Ok(())
            }
        }
    }

    async fn keep(mut self, mut held: Held, mut events: mpsc::Receiver<Event>, mut lease: Lease) {
        let mut again: Option<tokio::time::Instant> = None;
        loop {
            let due = again.unwrap_or_else(|| tokio::time::Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                biased;
                order = self.orders.recv() => match order {
                    // Another claim of the same instance has it from here on.
                    None => return,
                    Some(Order::PutBack) => again = Some(tokio::time::Instant::now()),
                    Some(Order::Release(answer)) => {
                        take_off(&self.address, Some(&held)).await;
                        self.shared.forget(&self.instance, self.number);
                        let _ = answer.send(());
                        return;
                    }
                },
                () = lease.changed() => {
                    let Ok(until) = lease.until() else {
                        take_off(&self.address, Some(&held)).await;
                        self.shared.is_on(&self.instance, self.number, None);
                        self.tell(Severity::Error, "address-released", "taken off this node", "this node's session ran out".into());
                        self.wait_for_release().await;
                        return;
                    };
                    match held.refresh(until).await {
                        Ok(()) => {}
                        // It stood still for too long, and goes on: nobody else had the slot meanwhile.
                        Err(RefreshError::LeaseEnded { .. } | RefreshError::Released { .. }) => again = Some(tokio::time::Instant::now()),
                        Err(error) => tracing::warn!(instance = %self.instance, error = %crate::executor::chain(&error), "its floating address keeps its earlier lease"),
                    }
                },
                () = tokio::time::sleep_until(due), if again.is_some() => {
                    again = None;
                    let until = lease.until().ok().flatten();
                    if held.refresh(until).await.is_err() {
                        match address::acquire(&self.address, Options { ask_for: None, until }).await {
                            Ok((anew, news)) => {
                                (held, events) = (anew, news);
                                self.shared.is_on(&self.instance, self.number, Some(held.interface()));
                                self.tell(Severity::Warning, "address-back", "is on this node again", "its active goes on".into());
                            }
                            Err(error) => {
                                let _ = self.refused(&error);
                                again = Some(tokio::time::Instant::now() + AGAIN);
                            }
                        }
                    }
                }
                event = events.recv() => match event {
                    Some(event) => self.heard(&event),
                    // Its task ended by itself; a renewal or a release will tell.
                    None => events = mpsc::channel(1).1,
                },
            }
        }
    }

    /// It is off already; who asks for that is told.
    async fn wait_for_release(&mut self) {
        while let Some(order) = self.orders.recv().await {
            if let Order::Release(answer) = order {
                self.shared.forget(&self.instance, self.number);
                let _ = answer.send(());
                return;
            }
        }
    }

    fn heard(&self, event: &Event) {
        let (severity, kind) = match event {
            Event::Removed => (Severity::Warning, "address-removed"),
            Event::PutBack => (Severity::Info, "address-back"),
            Event::NotPutBack { .. } => (Severity::Error, "address-lost"),
            Event::LinkDown | Event::InterfaceGone => (Severity::Error, "link-down"),
            Event::LinkUp => (Severity::Info, "link-up"),
            Event::Conflict { .. } => (Severity::Error, "address-conflict"),
            Event::LeaseEnded => (Severity::Warning, "address-expired"),
        };
        let hint = match event {
            Event::Conflict { mac, .. } => Some(format!(
                "find the host with {mac} (`ip neighbour`, the table of the switch) and take {} from it",
                self.address.ip
            )),
            Event::LinkDown | Event::InterfaceGone => {
                Some("look whether the cable is in, and the interface up (`ip link`)".into())
            }
            Event::NotPutBack { .. } => {
                Some("look for what takes it away: the network configuration of this host".into())
            }
            Event::Removed | Event::PutBack | Event::LinkUp | Event::LeaseEnded => None,
        };
        match (event, hint) {
            (_, Some(hint)) => self.shared.trouble(
                self.instance.service(),
                format!("{} of {}: {event}", self.address, self.instance),
                hint,
                None,
            ),
            (Event::PutBack | Event::LinkUp, None) => drop(self.shared.all().trouble.remove(self.instance.service())),
            _ => {}
        }
        let on = match event {
            Event::LeaseEnded => None,
            _ => self
                .shared
                .all()
                .holdings
                .get(&self.instance)
                .and_then(|holding| holding.on.clone()),
        };
        self.shared.is_on(&self.instance, self.number, on.as_deref());
        self.tell(severity, kind, "", event.to_string());
    }

    fn tell(&self, severity: Severity, kind: &'static str, what: &str, because: String) {
        let text = match what.is_empty() {
            true => format!("floating address {} of {}", self.address, self.instance),
            false => format!("floating address {} of {} {what}", self.address, self.instance),
        };
        let news = News {
            instance: self.instance.clone(),
            severity,
            kind,
            text,
            because,
        };
        let _ = self.shared.inputs.send(Input::Address(Box::new(news)));
    }

    /// Notes why it is not to be had.
    fn refused(&self, error: &AcquireError) -> String {
        let why = crate::executor::chain(error);
        let hint = error.hint().unwrap_or_else(|| "it is tried again by itself".into());
        let text = format!("{} cannot have its floating address here: {why}", self.instance);
        let until = crate::clock::now() + REPEATED_WITHIN;
        self.shared.trouble(self.instance.service(), text, hint, Some(until));
        why
    }
}

impl Shared {
    fn all(&self) -> MutexGuard<'_, All> {
        lock(&self.all)
    }

    fn forget(&self, instance: &InstanceId, number: u64) {
        let mut all = self.all();
        if all
            .holdings
            .get(instance)
            .is_some_and(|holding| holding.number == number)
        {
            all.holdings.remove(instance);
            // What was wrong with what we had is not wrong any more.
            let is_over = |trouble: &Trouble| trouble.until.is_none();
            if all.trouble.get(instance.service()).is_some_and(is_over) {
                all.trouble.remove(instance.service());
            }
        }
    }

    fn is_on(&self, instance: &InstanceId, number: u64, on: Option<&str>) {
        let mut all = self.all();
        if let Some(holding) = all
            .holdings
            .get_mut(instance)
            .filter(|holding| holding.number == number)
        {
            holding.on = on.map(str::to_owned);
        }
    }

    fn trouble(&self, service: &ServiceName, text: String, hint: String, until: Option<Timestamp>) {
        let mut all = self.all();
        let same = all.trouble.get(service).filter(|known| known.text == text);
        let since = same.map_or_else(crate::clock::now, |known| known.since);
        all.trouble.insert(
            service.clone(),
            Trouble {
                text,
                hint,
                since,
                until,
            },
        );
    }
}

/// How long an address may be kept: bound to the session that it was taken under.
struct Lease {
    renewals: Option<(watch::Receiver<Renewed>, Millis)>,
    session: Option<Revision>,
}

impl Lease {
    fn of(mut renewals: Option<(watch::Receiver<Renewed>, Millis)>) -> Self {
        let session = renewals
            .as_mut()
            .and_then(|(renewals, _)| renewals.borrow_and_update().map(|(session, _)| session));
        Self { renewals, session }
    }

    /// Until when, without a session for ever.
    fn until(&self) -> Result<Option<model::Mark>, String> {
        let Some((renewals, hard)) = &self.renewals else {
            return Ok(None);
        };
        match *renewals.borrow() {
            Some((session, sent)) if Some(session) == self.session => Ok(Some(sent.later(hard.duration()))),
            _ => Err("this node's session ran out".into()),
        }
    }

    async fn changed(&mut self) {
        if let Some((renewals, _)) = &mut self.renewals
            && renewals.changed().await.is_ok()
        {
            return;
        }
        // No session at all, or no thread that renews it: the lease ends by itself.
        std::future::pending::<()>().await;
    }
}

/// The next order to release it; `None` if another claim took its place.
async fn released(orders: &mut mpsc::UnboundedReceiver<Order>) -> Option<oneshot::Sender<()>> {
    loop {
        match orders.recv().await {
            Some(Order::Release(answer)) => return Some(answer),
            Some(Order::PutBack) => {}
            None => return None,
        }
    }
}

/// Takes an address off this node, however often that must be tried: nobody else may have it before.
async fn take_off(address: &FloatingAddress, held: Option<&Held>) {
    loop {
        let released = match held {
            Some(held) => held.release().await,
            None => address::release(address.ip).await,
        };
        let Err(error) = released else { return };
        tracing::error!(%address, error = %crate::executor::chain(&error), hint = error.hint(), "a floating address is not known to be gone; its slot waits");
        tokio::time::sleep(RELEASE_RETRY).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is done under it can be left half-done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
