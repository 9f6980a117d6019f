//! State for applications: what the services themselves use to act as one.
//!
//! ```text
//!  application ── HTTP ──► http ── AppState ──► store::Store: redb on one machine, etcd on many
//!                           │        ├── kv        get, put, delete, list, transactions
//!                           │        ├── locks     with tokens that only rise
//!                           │        ├── watches   every change, in order
//!                           └────────┴── tokens    whose namespace it is
//! ```
//! [`AppState`] works over any [`store::Store`] and keeps nothing that could not be lost: several agents may serve the
//! same services at once, and any of them may die. [`routes`] and [`serve`] put it behind HTTP.
//!
//! Everything that answers a decision goes through a transaction that may write: see `namespace`.

mod clock;
mod error;
mod http;
mod keys;
mod kv;
mod locks;
mod namespace;
mod observer;
#[cfg(feature = "testing")]
pub mod testing;
mod tokens;
mod usage;
mod watches;

pub use clock::{Clock, SystemClock};
pub use error::Error;
pub use http::{admin_routes, openapi, routes, serve};
pub use keys::{KEY_BYTES_MAX, NAME_BYTES_MAX};
pub use kv::{
    Amounts, BATCH_BYTES_MAX, Condition, Done, OPERATIONS_MAX, Operation, PAGE_MAX, Page, Transaction, Value,
};
pub use locks::{Held, TTL_MAX, TTL_MIN, WAIT_MAX, Wish};
pub use tokens::{HOLDERS_MAX, Token};
pub use watches::{Changed, News, Watching};

use model::ServiceName;
use namespace::Lane;
use observer::Observer;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::Store;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a service may keep and use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Values.
    pub keys_max: u64,
    /// Bytes of keys and values together.
    pub bytes_max: u64,
    /// Bytes of one value; at most half a megabyte, so that two versions fit one transaction of any store.
    pub value_bytes_max: usize,
    /// Locks that are held at once.
    pub locks_max: u64,
    /// Watches that are open at one agent.
    pub watches_max: usize,
    /// Writes that wait at one agent: one is under way at a time, and this many take about a second.
    pub writes_waiting_max: usize,
    /// A watch that has nothing to tell says so this often.
    pub heartbeat: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            keys_max: 1_000,
            bytes_max: 1 << 20,
            value_bytes_max: 256 << 10,
            locks_max: 100,
            watches_max: 100,
            writes_waiting_max: 256,
            heartbeat: Duration::from_secs(5),
        }
    }
}

/// The state of all services. Clones are the same one; each agent has its own over the store they share.
#[derive(Clone)]
pub struct AppState {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    limits: Limits,
    clock: Arc<dyn Clock>,
    lanes: Mutex<BTreeMap<ServiceName, Arc<Lane>>>,
    observer: Mutex<Observer>,
    watches: Mutex<BTreeMap<ServiceName, Arc<Semaphore>>>,
}

impl AppState {
    /// Over `store`, with the same limits for each service.
    pub fn new(store: Arc<dyn Store>, limits: Limits) -> Self {
        Self::with_clock(store, limits, Arc::new(SystemClock))
    }

    /// As [`AppState::new`], with a clock of the caller's.
    pub fn with_clock(store: Arc<dyn Store>, limits: Limits, clock: Arc<dyn Clock>) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                limits,
                clock,
                lanes: Mutex::default(),
                observer: Mutex::default(),
                watches: Mutex::default(),
            }),
        }
    }

    /// What each service may keep and use.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    fn store(&self) -> &dyn Store {
        &*self.inner.store
    }

    fn clock(&self) -> &dyn Clock {
        &*self.inner.clock
    }

    fn lanes(&self) -> MutexGuard<'_, BTreeMap<ServiceName, Arc<Lane>>> {
        locked(&self.inner.lanes)
    }

    fn observer(&self) -> MutexGuard<'_, Observer> {
        locked(&self.inner.observer)
    }

    fn watch_permit(&self, service: &ServiceName) -> Result<OwnedSemaphorePermit, Error> {
        let max = self.limits().watches_max;
        let semaphore = Arc::clone(
            locked(&self.inner.watches)
                .entry(service.clone())
                .or_insert_with(|| Arc::new(Semaphore::new(max))),
        );
        semaphore.try_acquire_owned().map_err(|_| Error::Busy {
            service: service.clone(),
            what: "watches",
            max,
        })
    }
}

impl std::fmt::Debug for AppState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppState")
            .field("limits", self.limits())
            .finish_non_exhaustive()
    }
}

/// Maps are never left half-changed, so what a panic left behind is as good as before.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
