//! Parting with the clients of a floating address before it moves: a connection ends with the host that has the address, so none should be left.
//!
//! ```text
//!   Part ──► the proxy asks clients to come back on new connections ──── those of before are gone ──► Parted
//!             (not where clients are connected to the service itself)
//!   Part, shut ──► new connections are kept back, and who asks for one is noted ── none is left ──► Parted
//!                     │  hold, demote, release, claim: another host has the address
//!                     ▼
//!   Rejoin ──► new connections are let in; who was noted is passed on to the new holder, or let in here if the address stays
//! ```
//! Where no proxy is in between, the node to which the address comes keeps new connections back too, until its instance is promoted.
//!
//! A task per address does it. Whether a client is left is asked of the kernel: it knows also those that the proxy has not accepted yet, and
//! those that have not received all of their answer. The gate is renewed as long as the task lives and times out by itself if it does not.

use crate::addresses::{Addresses, News};
use crate::executor::chain;
use crate::input::Input;
use crate::journal::Inputs;
use api::Severity;
use decisions::Event;
use drivers::address::{Connection, Heard, Latecomers, Mac, connections, room};
use guard::gates::{Admission, Error as GateError};
use model::{FloatingAddress, InstanceId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The kernel is asked so often for connections: a request takes longer, as a rule. A first packet that was let in just before the gate was shut
/// has become a connection by then.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Where that has not come about after so long, processors are busy or answers slow: then less often, for who looks takes time from who answers.
const LOOK_OFTEN_FOR: Duration = Duration::from_millis(50);
const LOOK_THEN_EVERY: Duration = Duration::from_millis(20);
/// Where it takes longer, for there are very many connections on this host, it is asked for no more than about half of the time.
const LOOK_PAUSE_MAX: Duration = Duration::from_millis(50);
/// Whether the address came back to this node is looked at so often.
const LOOK_HERE_EVERY: Duration = Duration::from_millis(5);
/// Nobody is kept back for longer than this after an agent that died.
const SHUT_FOR: Duration = Duration::from_secs(2);
const RENEW_EVERY: Duration = Duration::from_millis(500);
/// New connections are kept back for so long before requests that are still under way are waited for as behind any address: a client asks again
/// for a connection after a second. It counts from when they are kept back, which takes a busy machine its time.
const SHUT_WITHIN: Duration = Duration::from_millis(500);
/// Where clients are connected to the service itself nobody asks them to come back: those who wait for no answer are not waited for longer,
const IDLE_WITHIN: Duration = Duration::from_millis(100);
/// and those who do have no other time than this.
const ANSWER_WITHIN: Duration = Duration::from_millis(1_500);
/// What is never told to end ends by itself: no planned change takes so long.
const SHUT_FOR_MAX: Duration = Duration::from_secs(60);
/// So long after the end of it the address may still come to somebody, as after a new holder that failed.
const AWAIT_HOLDER: Duration = Duration::from_secs(5);
/// Who comes before an instance is promoted waits for that no longer than this: a promotion may take its time.
const ARRIVE_WITHIN: Duration = Duration::from_secs(3);
/// Who waited is let in so often, as many as the service has room for, within this; then all are.
const LET_IN_EVERY: Duration = Duration::from_millis(20);
const LET_IN_WITHIN: Duration = Duration::from_secs(1);
/// Whoever was let in is one of those whom the service has to take in, as its system says, after so long at the latest.
const UNDER_WAY_FOR: Duration = Duration::from_millis(100);
/// Routers and hosts that have not taken notice of the new holder send here for so long.
const PASS_ON_FOR: Duration = Duration::from_secs(3);

/// Parting with clients of this node's floating addresses.
pub(crate) struct Partings {
    inputs: Inputs,
    addresses: Addresses,
    gate: Gate,
    /// By whom has the address. One that has ended stays until its instance parts again.
    all: BTreeMap<InstanceId, mpsc::UnboundedSender<Order>>,
    /// By whose promotion is awaited, which is over when this is dropped.
    arrivals: BTreeMap<InstanceId, oneshot::Sender<()>>,
}

enum Order {
    Shut,
    Rejoin,
}

impl Partings {
    pub(crate) fn new(inputs: Inputs, addresses: Addresses) -> Self {
        Self {
            inputs,
            addresses,
            gate: Gate::default(),
            all: BTreeMap::new(),
            arrivals: BTreeMap::new(),
        }
    }

    /// Keeps those back who come to an address that is about to be here, until its instance is promoted. Answered when they are; not if they
    /// cannot be.
    pub(crate) fn receive(
        &mut self,
        cluster: &str,
        instance: &InstanceId,
        address: FloatingAddress,
    ) -> oneshot::Receiver<()> {
        let (kept_back, answer) = oneshot::channel();
        let (promoted, over) = oneshot::channel();
        self.arrivals.insert(instance.clone(), promoted);
        let arrival = Arrival {
            gate: self.gate.clone(),
            cluster: cluster.to_owned(),
            instance: instance.clone(),
            address,
        };
        tokio::spawn(arrival.run(kept_back, over));
        answer
    }

    /// What is to be dropped when the promotion of an instance is over, however it went.
    pub(crate) fn promotes(&mut self, instance: &InstanceId) -> Option<oneshot::Sender<()>> {
        self.arrivals.remove(instance)
    }

    /// Lets in whom an earlier agent of this cluster kept back.
    pub(crate) async fn forget_earlier(&self, cluster: &str) {
        let cluster = cluster.to_owned();
        let forgotten = self.gate.with(move |_| Admission::remove(&cluster)).await;
        if let Err(error) = forgotten {
            tracing::debug!(error = %chain(&error), "no gate of an earlier agent to be opened");
        }
    }

    /// Begins to part, or goes on with keeping new connections back. Answered by `Parted`, once for each, if it comes about.
    pub(crate) fn part(&mut self, cluster: &str, instance: &InstanceId, address: FloatingAddress, shut: bool) {
        if shut
            && let Some(orders) = self.all.get(instance)
            && orders.send(Order::Shut).is_ok()
        {
            return;
        }
        let (orders, queue) = mpsc::unbounded_channel();
        let parting = Parting {
            inputs: self.inputs.clone(),
            began_with: self.addresses.holding(instance.service()),
            addresses: self.addresses.clone(),
            gate: self.gate.clone(),
            cluster: cluster.to_owned(),
            instance: instance.clone(),
            address,
            orders: queue,
            is_direct: shut,
        };
        self.all.insert(instance.clone(), orders);
        tokio::spawn(parting.run());
    }

    /// It is over, however it went.
    pub(crate) fn rejoin(&mut self, instance: &InstanceId) {
        if let Some(orders) = self.all.remove(instance) {
            let _ = orders.send(Order::Rejoin);
        }
    }
}

struct Parting {
    inputs: Inputs,
    addresses: Addresses,
    /// The claim under which the address was here when it began.
    began_with: Option<u64>,
    gate: Gate,
    cluster: String,
    instance: InstanceId,
    address: FloatingAddress,
    orders: mpsc::UnboundedReceiver<Order>,
    /// Clients are connected to the service itself: nobody is seen off, and having the address says nothing of being served.
    is_direct: bool,
}

/// How keeping new connections back ended.
enum Ended {
    /// The decisions said so, or nobody is there who could.
    Told,
    /// The address is here anew: whoever comes is served.
    Here,
}

impl Parting {
    async fn run(mut self) {
        // While clients are served still: both cost the kernel milliseconds.
        let gate = self.gate.open(&self.cluster).await;
        let latecomers = Latecomers::open(&self.address).await;
        let latecomers = latecomers
            .inspect_err(|error| tracing::warn!(instance = %self.instance, error = %chain(error), "who comes while its address moves has to ask again"))
            .ok();
        if !self.is_direct && !self.see_off().await {
            return;
        }
        // Who is let in after this is noted too, and asks twice, which does no harm: that nobody is let in and not noted counts.
        let mut noted = Noted::new(latecomers);
        if let Err(error) = gate.and(self.gate.keep_back(self.address.ip).await) {
            return self.cannot_keep_back(&error);
        }
        let ended = self.keep_back(&mut noted).await;
        self.gate.admit(self.address.ip).await;
        self.pass_on(noted, ended).await;
    }

    /// Waits until those who were connected when it began are gone, and then for the order to keep new ones back. False if that does not come.
    async fn see_off(&mut self) -> bool {
        let mut before = look(self.address.ip)
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)));
        let mut looks = Looks::new();
        let mut told = false;
        loop {
            if let (Ok(left), false) = (&before, told)
                && left.is_empty()
            {
                told = true;
                self.tell(false);
            }
            tokio::select! {
                biased;
                order = self.orders.recv() => return matches!(order, Some(Order::Shut)),
                now = looks.next(self.address.ip), if !told => before = match (before, now) {
                    (Ok(mut before), Ok(now)) => {
                        before.retain(|connection, _| now.contains_key(connection));
                        Ok(before)
                    }
                    (_, now) => now,
                },
            }
        }
    }

    async fn keep_back(&mut self, noted: &mut Noted) -> Ended {
        let began = Instant::now();
        let by = began + if self.is_direct { ANSWER_WITHIN } else { SHUT_WITHIN };
        let mut renew_at = began + RENEW_EVERY;
        let mut looks = Looks::new();
        let mut told = false;
        let mut here = tokio::time::interval(LOOK_HERE_EVERY);
        while began.elapsed() < SHUT_FOR_MAX {
            if !self.is_direct && self.is_here_anew() {
                return Ended::Here;
            }
            tokio::select! {
                biased;
                // Rejoin, or an agent that ends.
                order = self.orders.recv() => match order {
                    Some(Order::Shut) => {}
                    Some(Order::Rejoin) | None => break,
                },
                () = tokio::time::sleep_until(renew_at) => {
                    renew_at = Instant::now() + RENEW_EVERY;
                    if let Err(error) = self.gate.keep_back(self.address.ip).await {
                        tracing::warn!(instance = %self.instance, error = %chain(&error), "new connections may come while its address moves");
                    }
                }
                _ = here.tick() => {}
                heard = noted.hear() => self.heard(noted, heard),
                left = looks.next(self.address.ip), if !told => {
                    if left.is_ok_and(|left| self.is_parted(&left, began.elapsed())) {
                        told = true;
                        self.tell(true);
                    }
                }
                // A host with very many connections takes its time to list them.
                () = tokio::time::sleep_until(by), if !told => {
                    told = true;
                    self.tell(true);
                }
            }
        }
        Ended::Told
    }

    /// Whether nobody is left to be waited for, so long after new connections were kept back.
    fn is_parted(&self, left: &Connections, since: Duration) -> bool {
        let waits = left.values().any(|waits| *waits);
        left.is_empty() || (self.is_direct && !waits && since >= IDLE_WITHIN)
    }

    /// Those who were noted go where the address is; and so do all who come here by mistake, for a while.
    async fn pass_on(&mut self, mut noted: Noted, ended: Ended) {
        let ended_at = Instant::now();
        let mut until = ended_at + AWAIT_HOLDER;
        let mut look = tokio::time::interval(LOOK_HERE_EVERY);
        loop {
            let is_here = match ended {
                Ended::Here => true,
                Ended::Told => self.addresses.holding(self.instance.service()).is_some(),
            };
            if is_here {
                return noted.let_in(&self.instance, self.address.ip, false).await;
            }
            if noted.passed_on {
                until = until.min(ended_at + PASS_ON_FOR);
            }
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                _ = look.tick() => {}
                heard = noted.hear() => self.heard(&mut noted, heard),
            }
        }
    }

    fn heard(&self, noted: &mut Noted, heard: io::Result<Heard>) {
        match heard {
            Ok(Heard::Asker) => {}
            // As long as we have it nobody else does, whatever he says: that is a conflict, and told as one.
            Ok(Heard::Holder(_)) if self.addresses.holding(self.instance.service()).is_some() => {}
            Ok(Heard::Holder(mac)) => noted.hand_to(mac, &self.instance),
            Err(error) => noted.give_up(&error, &self.instance),
        }
    }

    fn is_here_anew(&self) -> bool {
        let now = self.addresses.holding(self.instance.service());
        now.is_some() && now != self.began_with
    }

    fn tell(&self, shut: bool) {
        let instance = self.instance.clone();
        let _ = self
            .inputs
            .send(Input::Event(Event::Parted { instance, shut }, crate::clock::now()));
    }

    /// Then it moves as it would without: requests that begin in that moment are broken.
    fn cannot_keep_back(&self, error: &GateError) {
        let news = News {
            instance: self.instance.clone(),
            severity: Severity::Warning,
            kind: "address-unguarded",
            text: format!(
                "new connections to {} of {} cannot be kept back while it moves: some requests may fail",
                self.address, self.instance
            ),
            because: chain(error),
        };
        let _ = self.inputs.send(Input::Address(Box::new(news)));
        self.tell(true);
    }
}

/// An address that comes here before its instance can serve.
struct Arrival {
    gate: Gate,
    cluster: String,
    instance: InstanceId,
    address: FloatingAddress,
}

impl Arrival {
    async fn run(self, kept_back: oneshot::Sender<()>, mut promoted: oneshot::Receiver<()>) {
        let (gate, latecomers) = tokio::join!(self.gate.open(&self.cluster), Latecomers::open(&self.address));
        // Whoever could not be let in afterwards had to ask again, after a second: then it is better to be refused.
        let latecomers = match latecomers {
            Ok(latecomers) => latecomers,
            Err(error) => {
                return tracing::debug!(instance = %self.instance, error = %chain(&error), "who comes early is not kept back");
            }
        };
        let mut noted = Noted::new(Some(latecomers));
        if let Err(error) = gate.and(self.gate.keep_back(self.address.ip).await) {
            return tracing::debug!(instance = %self.instance, error = %chain(&error), "who comes early is not kept back");
        }
        let _ = kept_back.send(());
        let until = Instant::now() + ARRIVE_WITHIN;
        let mut renew_at = Instant::now() + RENEW_EVERY;
        loop {
            tokio::select! {
                biased;
                _ = &mut promoted => break,
                () = tokio::time::sleep_until(until) => break,
                () = tokio::time::sleep_until(renew_at) => {
                    renew_at = Instant::now() + RENEW_EVERY;
                    // Who is not kept back is refused, which is told by nobody but him.
                    let _ = self.gate.keep_back(self.address.ip).await;
                }
                heard = noted.hear() => match heard {
                    Ok(_) => {}
                    Err(error) => noted.give_up(&error, &self.instance),
                },
            }
        }
        noted.let_in(&self.instance, self.address.ip, true).await;
        // Those who came since have waited for no longer than that.
        self.gate.admit(self.address.ip).await;
        noted.note(&self.instance);
        noted.let_all_in(&self.instance);
    }
}

/// Clients who asked for a connection that was kept back; nobody is noted where that cannot be done.
struct Noted {
    latecomers: Option<Latecomers>,
    passed_on: bool,
}

impl Noted {
    /// Of those who come from now on: who came before was let in.
    fn new(mut latecomers: Option<Latecomers>) -> Self {
        if let Some(latecomers) = &mut latecomers {
            // If it fails now it fails again, and is told then.
            let _ = latecomers.forget();
        }
        Self {
            latecomers,
            passed_on: false,
        }
    }

    async fn hear(&mut self) -> io::Result<Heard> {
        match &mut self.latecomers {
            Some(latecomers) => latecomers.hear().await,
            None => std::future::pending().await,
        }
    }

    fn hand_to(&mut self, mac: Mac, instance: &InstanceId) {
        let Some(latecomers) = &mut self.latecomers else { return };
        self.passed_on = true;
        match latecomers.hand_to(mac) {
            Ok(0) => {}
            Ok(count) => {
                tracing::info!(%instance, %mac, count, "clients that came meanwhile are passed on to the new holder");
            }
            Err(error) => self.give_up(&error, instance),
        }
    }

    /// As many at a time as the service has room for: whom it has none for its system drops, and he asks again only after a second.
    /// While the gate is `shut` those who come wait behind them.
    async fn let_in(&mut self, instance: &InstanceId, ip: IpAddr, shut: bool) {
        let by = Instant::now() + LET_IN_WITHIN;
        let mut under_way: VecDeque<(Instant, BTreeMap<u16, usize>)> = VecDeque::new();
        while Instant::now() < by {
            if shut {
                self.note(instance);
            }
            let Some(latecomers) = &mut self.latecomers else { return };
            let ports = latecomers.asked();
            let mut left = tokio::task::spawn_blocking(move || rooms(ip, ports))
                .await
                .unwrap_or_default();
            under_way.retain(|(at, _)| at.elapsed() < UNDER_WAY_FOR);
            for (port, left) in &mut left {
                let earlier = under_way.iter().filter_map(|(_, let_in)| let_in.get(port));
                *left = left.saturating_sub(earlier.sum());
            }
            let before = left.clone();
            match latecomers.let_in(&mut left) {
                Ok(0) => {}
                Ok(count) => {
                    let came = before.iter().map(|(port, before)| (*port, before - left[port]));
                    under_way.push_back((Instant::now(), came.collect()));
                    tracing::info!(%instance, count, "clients that came meanwhile are let in");
                }
                Err(error) => return self.give_up(&error, instance),
            }
            if latecomers.asked().is_empty() {
                return;
            }
            tokio::time::sleep(LET_IN_EVERY).await;
        }
        self.let_all_in(instance);
    }

    /// Those who came meanwhile too.
    fn note(&mut self, instance: &InstanceId) {
        if let Some(latecomers) = &mut self.latecomers
            && let Err(error) = latecomers.note()
        {
            self.give_up(&error, instance);
        }
    }

    fn let_all_in(&mut self, instance: &InstanceId) {
        let Some(latecomers) = &mut self.latecomers else { return };
        match latecomers.let_in(&mut BTreeMap::new()) {
            Ok(0) => {}
            Ok(count) => tracing::info!(%instance, count, "clients that came meanwhile are let in"),
            Err(error) => self.give_up(&error, instance),
        }
    }

    fn give_up(&mut self, error: &io::Error, instance: &InstanceId) {
        tracing::warn!(%instance, %error, "who comes while its address moves has to ask again");
        self.latecomers = None;
    }
}

/// For how many there is room at each port where anybody listens.
fn rooms(ip: IpAddr, ports: BTreeSet<u16>) -> BTreeMap<u16, usize> {
    let room = |port| Some((port, room(ip, port).ok().flatten()?));
    ports.into_iter().filter_map(room).collect()
}

/// Those that there are, and whether the client of each waits for something.
type Connections = BTreeMap<Connection, bool>;

/// Questions to the kernel for connections, one after the other.
struct Looks {
    since: Instant,
    at: Instant,
    began: Instant,
    under_way: Option<JoinHandle<io::Result<Connections>>>,
}

impl Looks {
    fn new() -> Self {
        let began = Instant::now();
        Self {
            since: began,
            at: began + LOOK_EVERY,
            began,
            under_way: None,
        }
    }

    /// The connections of an address, when it is time to look again. May be given up at any time: the next call goes on with the question that
    /// is under way, or clients who come all the time would keep it from ever being answered.
    async fn next(&mut self, ip: IpAddr) -> io::Result<Connections> {
        if self.under_way.is_none() {
            tokio::time::sleep_until(self.at).await;
            self.began = Instant::now();
        }
        let under_way = self.under_way.get_or_insert_with(|| look(ip));
        let found = under_way.await;
        self.under_way = None;
        let now = Instant::now();
        let pause = match now - self.since < LOOK_OFTEN_FOR {
            true => LOOK_EVERY,
            false => LOOK_THEN_EVERY,
        };
        self.at = now + (now - self.began).clamp(pause, LOOK_PAUSE_MAX);
        found.map_err(io::Error::other)?
    }
}

fn look(ip: IpAddr) -> JoinHandle<io::Result<Connections>> {
    tokio::task::spawn_blocking(move || connections(ip))
}

/// The gate of this cluster, made when it is first needed. Clones are the same.
#[derive(Clone, Default)]
struct Gate(Arc<Mutex<Option<Admission>>>);

impl Gate {
    async fn open(&self, cluster: &str) -> Result<(), GateError> {
        let cluster = cluster.to_owned();
        self.with(move |gate| {
            if gate.is_none() {
                *gate = Some(Admission::open(&cluster)?);
            }
            Ok(())
        })
        .await
    }

    async fn keep_back(&self, ip: IpAddr) -> Result<(), GateError> {
        self.with(move |gate| match gate {
            Some(gate) => gate.keep_back(ip, SHUT_FOR),
            None => Ok(()),
        })
        .await
    }

    async fn admit(&self, ip: IpAddr) {
        let admitted = self.with(move |gate| match gate {
            Some(gate) => gate.admit(ip),
            None => Ok(()),
        });
        if let Err(error) = admitted.await {
            tracing::warn!(%ip, error = %chain(&error), "new connections are let in later, when the time of the gate is over");
        }
    }

    /// Apart from the threads that everything else runs on: the kernel may take its time.
    async fn with(
        &self,
        act: impl FnOnce(&mut Option<Admission>) -> Result<(), GateError> + Send + 'static,
    ) -> Result<(), GateError> {
        let gate = Arc::clone(&self.0);
        let acted = tokio::task::spawn_blocking(move || {
            // Nothing that is done under it can be left half-done.
            act(&mut gate.lock().unwrap_or_else(PoisonError::into_inner))
        });
        // Only the end of the agent keeps it from coming back.
        acted.await.unwrap_or(Ok(()))
    }
}
