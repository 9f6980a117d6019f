//! Floating addresses of this node's actives: taken before an active acts, kept as long as its session lasts, gone before anybody else
//! may have its slot.
//!
//! ```text
//!   core: Arm ──► begin ──► guard armed ──► acquire ──► kept: refreshed with each renewal ──► release ──► Gone, HookDone(demote)
//!                   │                          │                    │
//!                   └── released meanwhile ────┴── session lost ────┴──► taken off at once, and seen to be gone
//! ```
//! A task per address does it. Whoever wants an instance's address gone waits for [`Addresses::release`], at whatever point the task is.
//! While one is exchanged for another that the file declares now, an instance has two of them.

use crate::cluster::session::Renewed;
use crate::input::Input;
use crate::journal::Inputs;
use api::Severity;
use api::record::AddressTrouble;
use drivers::address::{self, AcquireError, Event, Held, Options, RefreshError, Spot};
use model::{FloatingAddress, InstanceId, Millis, Revision, ServiceName, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Where nobody is known to have had the address before, neighbours are asked for so long whether anyone has it.
const ASK_FOR: Duration = Duration::from_millis(50);
/// An address that the kernel does not give up is tried again after this long.
const RELEASE_RETRY: Duration = Duration::from_millis(200);
/// One that could not be put back while its active goes on, likewise.
const AGAIN: Duration = Duration::from_millis(500);
/// A stranger who still has one of ours says so each time he is asked, once a minute.
const CONFLICT_FOR: Duration = Duration::from_secs(150);
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
struct Trouble {
    told: AddressTrouble,
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
    /// By a number of their own.
    holdings: BTreeMap<u64, Holding>,
    trouble: BTreeMap<InstanceId, Trouble>,
    /// Of which services others have to be told.
    news: BTreeSet<ServiceName>,
    number: u64,
}

struct Holding {
    instance: InstanceId,
    address: FloatingAddress,
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
        self.shared.all().add(instance, address, None);
    }

    /// An instance is about to get an address. From here on [`Addresses::release`] finds it.
    pub(crate) fn begin(&self, instance: &InstanceId, address: FloatingAddress) -> Claim {
        let (orders, queue) = mpsc::unbounded_channel();
        let mut all = self.shared.all();
        // The same one, taken before: its task ends, and leaves the address for this one.
        all.holdings
            .retain(|_, holding| holding.instance != *instance || holding.address.ip != address.ip);
        let number = all.add(instance, address.clone(), Some(orders));
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
        self.shared.release(instance, None).await;
    }

    /// What an instance has here, or is about to: two while one is exchanged for another.
    pub(crate) fn of(&self, instance: &InstanceId) -> Vec<FloatingAddress> {
        let all = self.shared.all();
        all.of(instance).map(|(_, holding)| holding.address.clone()).collect()
    }

    /// Instances of a service, but for one, that have or may have an address here.
    pub(crate) fn others(&self, service: &ServiceName, but: Option<&InstanceId>) -> Vec<InstanceId> {
        let all = self.shared.all();
        let ids: BTreeSet<&InstanceId> = all.holdings.values().map(|holding| &holding.instance).collect();
        let ids = ids.into_iter().filter(|id| id.service() == service);
        ids.filter(|id| Some(*id) != but).cloned().collect()
    }

    /// The guard took it away while its instance was frozen, which goes on now.
    pub(crate) fn put_back(&self, instance: &InstanceId) {
        let all = self.shared.all();
        for orders in all.of(instance).filter_map(|(_, holding)| holding.orders.as_ref()) {
            let _ = orders.send(Order::PutBack);
        }
    }

    /// The interface on which this node has an address for an instance.
    pub(crate) fn on(&self, instance: &InstanceId, address: &FloatingAddress) -> Option<String> {
        let all = self.shared.all();
        let mut has = all.of(instance).filter(|(_, holding)| holding.address == *address);
        has.find_map(|(_, holding)| holding.on.clone())
    }

    /// The number of the claim under which this node has the address of a service; `None` if it has it not.
    pub(crate) fn holding(&self, service: &ServiceName) -> Option<u64> {
        let all = self.shared.all();
        let mut holdings = all
            .holdings
            .iter()
            .filter(|(_, holding)| holding.instance.service() == service);
        holdings.find_map(|(number, holding)| holding.on.as_ref().map(|_| *number))
    }

    /// Of which services there is news since this was last asked: who has an address, or what is wrong with it.
    pub(crate) fn news(&self) -> BTreeSet<ServiceName> {
        let now = crate::clock::now();
        let mut all = self.shared.all();
        let is_over = |trouble: &Trouble| trouble.until.is_some_and(|until| until <= now);
        let over = all.trouble.extract_if(.., |_, trouble| is_over(trouble));
        let over: Vec<ServiceName> = over.map(|(id, _)| id.service().clone()).collect();
        all.news.extend(over);
        std::mem::take(&mut all.news)
    }

    /// What an instance has here, and on which interface: what is exchanged for another as long as it is there.
    pub(crate) fn has(&self, instance: &InstanceId) -> Option<(FloatingAddress, String)> {
        let all = self.shared.all();
        let mut has = all
            .of(instance)
            .filter_map(|(_, holding)| Some((holding.address.clone(), holding.on.clone()?)));
        has.next()
    }

    /// What is wrong, by whose it is or was to be.
    pub(crate) fn trouble(&self) -> BTreeMap<InstanceId, AddressTrouble> {
        let all = self.shared.all();
        let told = all
            .trouble
            .iter()
            .map(|(id, trouble)| (id.clone(), trouble.told.clone()));
        told.collect()
    }
}

impl All {
    fn add(
        &mut self,
        instance: &InstanceId,
        address: FloatingAddress,
        orders: Option<mpsc::UnboundedSender<Order>>,
    ) -> u64 {
        self.number += 1;
        let holding = Holding {
            instance: instance.clone(),
            address,
            orders,
            on: None,
        };
        self.holdings.insert(self.number, holding);
        self.number
    }

    fn of(&self, instance: &InstanceId) -> impl Iterator<Item = (u64, &Holding)> {
        let holdings = self.holdings.iter().map(|(number, holding)| (*number, holding));
        holdings.filter(move |(_, holding)| holding.instance == *instance)
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

/// An address that is here, and how long it may be.
struct Taken {
    held: Held,
    events: mpsc::Receiver<Event>,
    lease: Lease,
}

enum NotTaken {
    /// Nobody waits for it any more.
    Released,
    /// In words why.
    Refused(String),
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

    /// Takes it, announces it, and keeps it from then on; what else the instance has here goes. In words why not.
    pub(crate) async fn acquire(self, takes_over: bool) -> Result<(), String> {
        self.acquire_or(takes_over, None).await
    }

    /// The same; should it not be had, the very address stays as it was here `before`: elsewhere, or with another prefix.
    pub(crate) async fn acquire_or(mut self, takes_over: bool, before: Option<FloatingAddress>) -> Result<(), String> {
        let refused = match self.take(takes_over).await {
            Ok(taken) => {
                self.shared.no_trouble(&self.instance);
                let (shared, instance, number) = (Arc::clone(&self.shared), self.instance.clone(), self.number);
                tokio::spawn(self.keep(taken));
                shared.release(&instance, Some(number)).await;
                return Ok(());
            }
            Err(NotTaken::Released) => return Err("it lost its slot meanwhile".into()),
            Err(NotTaken::Refused(why)) => why,
        };
        self.stay(before).await;
        Err(refused)
    }

    /// It is not taken; the very address stays as it was here `before`.
    pub(crate) async fn stay(mut self, before: Option<FloatingAddress>) {
        let Some(before) = before else {
            return self.shared.forget(self.number);
        };
        self.shared.is_of(self.number, &before);
        self.address = before;
        match self.take(true).await {
            Ok(taken) => drop(tokio::spawn(self.keep(taken))),
            Err(NotTaken::Released) => {}
            Err(NotTaken::Refused(_)) => self.shared.forget(self.number),
        }
    }

    async fn take(&mut self, takes_over: bool) -> Result<Taken, NotTaken> {
        if let Some(other) = self.shared.neighbour(&self.instance, &self.address) {
            let why = format!("{} is still on this node for {other}", self.address.ip);
            let hint = "it is taken when that one has given it up".into();
            return Err(NotTaken::Refused(self.refuse(why, hint)));
        }
        let renewals = lock(&self.shared.renewals).clone();
        let lease = Lease::of(renewals);
        let options = Options {
            ask_for: (!takes_over).then_some(ASK_FOR),
            until: lease.until().map_err(NotTaken::Refused)?,
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
                    self.shared.forget(self.number);
                    let _ = answer.send(());
                }
                Err(NotTaken::Released)
            }
            Ok(Err(error)) => Err(NotTaken::Refused(self.refused(&error))),
            Ok(Ok((held, events))) => {
                self.shared.is_on(self.number, Some(held.interface()));
                tracing::info!(instance = %self.instance, ip = %held.ip(), interface = held.interface(), "has its floating address");
                Ok(Taken { held, events, lease })
            }
        }
    }

    async fn keep(mut self, taken: Taken) {
        let Taken {
            mut held,
            mut events,
            mut lease,
        } = taken;
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
                        self.shared.forget(self.number);
                        let _ = answer.send(());
                        return;
                    }
                },
                () = lease.changed() => {
                    let Ok(until) = lease.until() else {
                        take_off(&self.address, Some(&held)).await;
                        self.shared.is_on(self.number, None);
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
                                self.shared.is_on(self.number, Some(held.interface()));
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
                self.shared.forget(self.number);
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
                &self.instance,
                format!("{} of {}: {event}", self.address, self.instance),
                hint,
                matches!(event, Event::Conflict { .. }).then(|| crate::clock::now() + CONFLICT_FOR),
            ),
            (Event::PutBack | Event::LinkUp, None) => self.shared.no_trouble(&self.instance),
            _ => {}
        }
        let on = match event {
            Event::LeaseEnded => None,
            _ => self
                .shared
                .all()
                .holdings
                .get(&self.number)
                .and_then(|holding| holding.on.clone()),
        };
        self.shared.is_on(self.number, on.as_deref());
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
        let hint = error.hint().unwrap_or_else(|| "it is tried again by itself".into());
        self.refuse(crate::executor::chain(error), hint)
    }

    fn refuse(&self, why: String, hint: String) -> String {
        let text = format!("{} cannot have its floating address here: {why}", self.instance);
        let until = crate::clock::now() + REPEATED_WITHIN;
        self.shared.trouble(&self.instance, text, hint, Some(until));
        why
    }
}

impl Shared {
    fn all(&self) -> MutexGuard<'_, All> {
        lock(&self.all)
    }

    /// Comes back when nothing is left here of what an instance has, but for one claim.
    async fn release(&self, instance: &InstanceId, but: Option<u64>) {
        let mut asked = Vec::new();
        {
            let all = self.all();
            for (number, holding) in all.of(instance).filter(|(number, _)| Some(*number) != but) {
                let gone = holding.orders.as_ref().map(|orders| {
                    let (answer, gone) = oneshot::channel();
                    // One that is not heard any more has let go by itself.
                    let _ = orders.send(Order::Release(answer));
                    gone
                });
                asked.push((number, holding.address.clone(), gone));
            }
        }
        for (number, address, gone) in asked {
            match gone {
                Some(gone) => drop(gone.await),
                None => take_off(&address, None).await,
            }
            self.forget(number);
        }
    }

    fn forget(&self, number: u64) {
        let mut all = self.all();
        if let Some(Holding { instance, .. }) = all.holdings.remove(&number) {
            all.news.insert(instance.service().clone());
            // What was wrong with what we had is not wrong any more.
            let is_over = |trouble: &Trouble| trouble.until.is_none();
            if all.trouble.get(&instance).is_some_and(is_over) {
                all.trouble.remove(&instance);
            }
        }
    }

    fn is_on(&self, number: u64, on: Option<&str>) {
        let mut all = self.all();
        let Some(holding) = all.holdings.get_mut(&number) else {
            return;
        };
        holding.on = on.map(str::to_owned);
        let service = holding.instance.service().clone();
        all.news.insert(service);
    }

    fn no_trouble(&self, instance: &InstanceId) {
        let mut all = self.all();
        if all.trouble.remove(instance).is_some() {
            all.news.insert(instance.service().clone());
        }
    }

    fn is_of(&self, number: u64, address: &FloatingAddress) {
        if let Some(holding) = self.all().holdings.get_mut(&number) {
            holding.address = address.clone();
        }
    }

    /// Who else on this node has the address: what one service gives up another may have been given.
    fn neighbour(&self, instance: &InstanceId, address: &FloatingAddress) -> Option<InstanceId> {
        let all = self.all();
        let mut holdings = all.holdings.values();
        let has =
            |holding: &&Holding| holding.address.ip == address.ip && holding.instance.service() != instance.service();
        holdings.find(has).map(|holding| holding.instance.clone())
    }

    fn trouble(&self, instance: &InstanceId, text: String, hint: String, until: Option<Timestamp>) {
        let mut all = self.all();
        let same = all.trouble.get(instance).filter(|known| known.told.text == text);
        let since = same.map_or_else(crate::clock::wall_now, |known| known.told.since);
        let told = AddressTrouble { text, hint, since };
        all.trouble.insert(instance.clone(), Trouble { told, until });
        all.news.insert(instance.service().clone());
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
