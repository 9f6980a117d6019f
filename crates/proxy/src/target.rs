//! One active as a worker sees it: what is under way to it, its idle connections, and how it is left.
//!
//! ```text
//!   target ──route without it──► leaving ──nothing under way──► drained
//!                                   └──────drain is over──► cut ──────┘
//! ```

use crate::area::Area;
use crate::clock::now_us;
use crate::flag::{Flag, Watch};
use crate::front::Front;
use crate::http::backend::{Http1Sender, Http2Sender};
use model::{Epoch, InstanceId};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// A target that failed is the last choice for this long: a dead one has the fewest connections of all.
const AVOID_FOR: Duration = Duration::from_millis(500);

/// `Suspect` is sent at most this often per target.
const SUSPECT_EVERY_US: u64 = 100_000;

/// Idle connections kept per target and worker; as many as there may well be requests at once.
const IDLE_MAX: usize = 1024;

/// An idle connection is closed after this, before most servers would.
const IDLE_FOR: Duration = Duration::from_secs(4);

/// What the workers share of a target.
#[derive(Default)]
pub(crate) struct Shared {
    /// Requests or connections under way, on all workers: what "least" is measured by.
    in_flight: AtomicU32,
    /// Requests that it works on, summed over time.
    pub(crate) area: Area,
    /// Whether `FirstAnswer` was said.
    answered: AtomicBool,
    suspected_us: AtomicU64,
}

/// See the module.
pub(crate) struct Target {
    pub(crate) instance: InstanceId,
    pub(crate) epoch: Epoch,
    pub(crate) address: SocketAddr,
    pub(crate) idle: Idle<TcpStream>,
    pub(crate) idle_http1: Idle<Http1Sender>,
    pub(crate) http2: RefCell<Option<Http2Sender>>,
    /// Whether it speaks HTTP/2 without being asked; `None` until it was tried.
    pub(crate) speaks_http2: Cell<Option<bool>>,
    shared: std::sync::Arc<Shared>,
    front: Weak<Front>,
    in_flight: Cell<u32>,
    leaving: Cell<bool>,
    /// When a leaving one is cut.
    cut_at: Cell<Option<Instant>>,
    cut: Rc<Flag>,
    were_cut: Cell<u32>,
    avoid_until: Cell<Option<Instant>>,
}

impl Target {
    pub(crate) fn new(target: &api::proxy::Target, shared: std::sync::Arc<Shared>, front: Weak<Front>) -> Self {
        Self {
            instance: target.instance.clone(),
            epoch: target.epoch,
            address: target.address,
            idle: Idle::default(),
            idle_http1: Idle::default(),
            http2: RefCell::default(),
            speaks_http2: Cell::new(None),
            shared,
            front,
            in_flight: Cell::new(0),
            leaving: Cell::new(false),
            cut_at: Cell::new(None),
            cut: Rc::default(),
            were_cut: Cell::new(0),
            avoid_until: Cell::new(None),
        }
    }

    /// Whether both are the same instance at the same epoch and address.
    pub(crate) fn is(&self, shared: &std::sync::Arc<Shared>) -> bool {
        std::sync::Arc::ptr_eq(&self.shared, shared)
    }

    /// Where the requests that it works on are summed up.
    pub(crate) fn area(&self) -> &Area {
        &self.shared.area
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.shared.in_flight.load(Relaxed)
    }

    /// Requests and connections of this worker alone.
    pub(crate) fn in_flight_here(&self) -> u32 {
        self.in_flight.get()
    }

    pub(crate) fn is_avoided(&self) -> bool {
        match self.avoid_until.get() {
            None => false,
            Some(until) if Instant::now() < until => true,
            Some(_) => {
                self.avoid_until.set(None);
                false
            }
        }
    }

    /// Starts a request or connection.
    pub(crate) fn begin(self: &Rc<Self>, is_request: bool) -> InFlight {
        if is_request {
            self.shared.area.enter(Instant::now());
        }
        self.shared.in_flight.fetch_add(1, Relaxed);
        self.in_flight.set(self.in_flight.get() + 1);
        InFlight {
            cut: self.cut.watch(),
            target: Rc::clone(self),
            is_request,
        }
    }

    /// Its first byte came: says `FirstAnswer` once.
    pub(crate) fn answered(&self) {
        if !self.shared.answered.load(Relaxed)
            && !self.shared.answered.swap(true, Relaxed)
            && let Some(front) = self.front.upgrade()
        {
            front.say(api::proxy::FromProxy::FirstAnswer {
                service: front.service.clone(),
                instance: self.instance.clone(),
                epoch: self.epoch,
                at_us: now_us(),
            });
        }
    }

    /// It could not be reached or died under a request: others are preferred for a while, and the agent hears of it.
    pub(crate) fn suspect(&self, what: &dyn std::fmt::Display) {
        self.avoid_until.set(Some(Instant::now() + AVOID_FOR));
        self.forget_idle();
        let now = now_us();
        let last = self.shared.suspected_us.load(Relaxed);
        if !self.leaving.get()
            && now.saturating_sub(last) >= SUSPECT_EVERY_US
            && self
                .shared
                .suspected_us
                .compare_exchange(last, now, Relaxed, Relaxed)
                .is_ok()
            && let Some(front) = self.front.upgrade()
        {
            front.say(api::proxy::FromProxy::Suspect {
                service: front.service.clone(),
                instance: self.instance.clone(),
                what: what.to_string(),
            });
        }
    }

    /// Closes what is idle and lets the rest finish until `cut_at`, or the time set before if that is sooner.
    pub(crate) fn leave(self: &Rc<Self>, cut_at: Instant) {
        self.leaving.set(true);
        self.forget_idle();
        if self.in_flight.get() == 0 || self.cut_at.get().is_some_and(|at| at <= cut_at) {
            return;
        }
        self.cut_at.set(Some(cut_at));
        if cut_at <= Instant::now() {
            self.cut_now();
            return;
        }
        let target = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            tokio::time::sleep_until(cut_at.into()).await;
            if let Some(target) = target.upgrade() {
                target.cut_now();
            }
        });
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.get()
    }

    /// How many were cut.
    pub(crate) fn were_cut(&self) -> u32 {
        self.were_cut.get()
    }

    /// Watches for the end of its time.
    pub(crate) fn watch_cut(&self) -> Watch {
        self.cut.watch()
    }

    /// Closes connections that were idle for too long.
    pub(crate) fn sweep(&self) {
        self.idle.sweep();
        self.idle_http1.sweep();
    }

    pub(crate) fn forget_idle(&self) {
        self.idle.clear();
        self.idle_http1.clear();
        self.http2.take();
    }

    fn cut_now(&self) {
        if !self.cut.is_raised() {
            self.were_cut.set(self.in_flight.get());
            self.cut.raise();
        }
    }
}

/// A request or connection under way to a target.
pub(crate) struct InFlight {
    pub(crate) target: Rc<Target>,
    cut: Watch,
    is_request: bool,
}

impl InFlight {
    /// Ready when its target's time is up.
    pub(crate) fn poll_cut(&mut self, cx: &Context<'_>) -> Poll<()> {
        self.cut.poll(cx)
    }

    /// Completes when its target's time is up.
    pub(crate) async fn cut(&mut self) {
        self.cut.raised().await;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let target = &self.target;
        if self.is_request {
            target.shared.area.leave(Instant::now());
        }
        target.shared.in_flight.fetch_sub(1, Relaxed);
        target.in_flight.set(target.in_flight.get() - 1);
        if target.leaving.get()
            && target.in_flight.get() == 0
            && let Some(front) = target.front.upgrade()
        {
            front.drained(target);
        }
    }
}

/// Idle connections, the last used first.
pub(crate) struct Idle<C>(RefCell<Vec<(C, Instant)>>);

impl<C> Default for Idle<C> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<C> Idle<C> {
    /// The one used last, and when that was.
    pub(crate) fn take(&self) -> Option<(C, Instant)> {
        self.0.borrow_mut().pop()
    }

    pub(crate) fn put(&self, connection: C, now: Instant) {
        let mut idle = self.0.borrow_mut();
        if idle.len() < IDLE_MAX {
            idle.push((connection, now));
        }
    }

    pub(crate) fn clear(&self) {
        let gone = self.0.take();
        drop(gone);
    }

    fn sweep(&self) {
        let Some(old) = Instant::now().checked_sub(IDLE_FOR) else {
            return;
        };
        let mut idle = self.0.borrow_mut();
        let fresh = idle.partition_point(|(_, since)| *since < old);
        let gone: Vec<_> = idle.drain(..fresh).collect();
        drop(idle);
        drop(gone);
    }
}
