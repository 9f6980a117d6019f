//! The client for applications: what a service keeps with Understudy so that its instances act as one.
//!
//! ```no_run
//! # async fn work() -> Result<(), understudy_client::Error> {
//! use understudy_client::{Client, LockOptions};
//! use std::time::Duration;
//!
//! let client = Client::from_env()?;
//! let lock = client.acquire("leader", &LockOptions::new("db-1", Duration::from_secs(5))).await?;
//! while lock.still_mine() {
//!     // Refused if somebody else has the lock by now, whatever this process believes.
//!     client.put_if("progress", "42", &[lock.held()]).await?;
//! }
//! # Ok(())
//! # }
//! ```
//! *Answers.* Reads and writes are linearizable. Whatever may safely be sent again is sent again, to the next agent if need
//! be. A write whose answer was lost is not: it is [`Error::Unknown`], and may have been carried out, or may be yet.
//!
//! *Locks.* A [`Lock`] is renewed in the background. Its time runs from when the renewal that was acknowledged last was
//! *sent*; when it is up the holder must have stopped. [`Lock::still_mine`] says so exactly, [`Lock::lost`] waits for it.

mod clock;
mod endpoint;
mod error;
mod kv;
mod lease;
mod lock;
mod transport;
mod watch;

pub use endpoint::{Endpoint, InvalidEndpoint};
pub use error::Error;
pub use kv::{Condition, Operation, Page, Transaction, TransactionDone, Value};
pub use lease::Lease;
pub use lock::{Held, Lock, LockOptions};
pub use watch::{Change, Changes, Watch};

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

/// Names the agents: one or more endpoints, divided by commas.
pub const URL_VARIABLE: &str = "UNDERSTUDY_STATE_URL";
/// Names the file that has the token.
pub const TOKEN_FILE_VARIABLE: &str = "UNDERSTUDY_STATE_TOKEN_FILE";

/// How long a client tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// One request at one agent. A wait for a lock comes on top.
    pub each: Duration,
    /// All tries of one call.
    pub total: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            each: Duration::from_secs(3),
            total: Duration::from_secs(10),
        }
    }
}

/// Speaks with the agents for one service. Clones are the same client.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    endpoints: Vec<Endpoint>,
    token: String,
    patience: Patience,
    /// The endpoint that answered last.
    preferred: AtomicUsize,
}

impl Client {
    /// As the environment says that an agent gives its instances: [`URL_VARIABLE`], [`TOKEN_FILE_VARIABLE`].
    pub fn from_env() -> Result<Self, Error> {
        let variable = |name: &'static str| {
            std::env::var(name).map_err(|_| Error::NotConfigured {
                problem: format!(
                    "the variable {name} is not set: this process was not started by an agent that gives state"
                ),
            })
        };
        let urls = variable(URL_VARIABLE)?;
        let file = variable(TOKEN_FILE_VARIABLE)?;
        let token = std::fs::read_to_string(Path::new(&file)).map_err(|error| Error::NotConfigured {
            problem: format!("failed to read the token file `{file}`: {error}"),
        })?;
        Self::new(urls.split(','), token.trim())
    }

    /// For the agents at `endpoints`, with the token of a service.
    pub fn new<'a>(endpoints: impl IntoIterator<Item = &'a str>, token: &str) -> Result<Self, Error> {
        let endpoints: Result<Vec<Endpoint>, _> = endpoints.into_iter().map(str::trim).map(str::parse).collect();
        let endpoints = endpoints.map_err(|error: InvalidEndpoint| Error::NotConfigured {
            problem: error.to_string(),
        })?;
        if endpoints.is_empty() {
            return Err(Error::NotConfigured {
                problem: "no agent is named".into(),
            });
        }
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::NotConfigured {
                problem: "the token is empty or has characters that no token has".into(),
            });
        }
        Ok(Self {
            inner: Arc::new(Inner {
                endpoints,
                token: token.into(),
                patience: Patience::default(),
                preferred: AtomicUsize::new(0),
            }),
        })
    }

    /// The same client with another patience.
    #[must_use]
    pub fn with_patience(&self, patience: Patience) -> Self {
        Self {
            inner: Arc::new(Inner {
                endpoints: self.inner.endpoints.clone(),
                token: self.inner.token.clone(),
                patience,
                preferred: AtomicUsize::new(0),
            }),
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token stays out of logs.
        f.debug_struct("Client")
            .field("endpoints", &self.inner.endpoints)
            .finish_non_exhaustive()
    }
}
