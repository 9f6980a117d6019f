//! Fencing of ourselves: exclusive actives end when their node's session is not renewed, whatever the agent does.
//!
//! ```text
//!   agent ── renewed(mark of send) ──► fence thread ── at A: gate, freeze · at G: gate, kill, address ──► cgroups
//!     ▲                                  │  │ SCHED_FIFO, descriptors open, nothing allocated
//!     └── frozen, thawed, fired ─────────┘  └─ what is wanted of the gates ──► gates thread ──► nf_tables, rtnetlink
//! ```
//! The safety argument is the takeover protocol's, sections 3 and 5. [`machine`] decides; the rest carries out. The kernel
//! closes the gates by itself if nobody is scheduled in time.
//!
//! An agent uses [`crate::client::Client`]. If its guard is gone, it freezes by itself: [`freeze_now`]. If neither of them acts, the kernel
//! kills what runs past G: [`KernelDeadline`], which the agent sets with each renewal.

pub mod cgroup;
pub mod clock;
mod fire;
mod kernel;
pub mod machine;
pub mod protocol;
mod realtime;
mod selftest;
mod server;
pub(crate) mod socket;
pub mod watchdog;
pub mod words;
mod worker;

pub use cgroup::{Cgroup, freeze_now, kill_now};
pub use clock::mark;
pub use kernel::{Error as KernelError, KernelDeadline, Pins};

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// How long an agent may say nothing, once it has sent a heartbeat.
pub const AGENT_TIMEOUT: Duration = Duration::from_secs(5);

/// How a guard fences.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens: `run/guard.sock`.
    pub socket: PathBuf,
    /// The cluster; the table of gates bears its name.
    pub cluster: String,
    /// An agent that is silent for this long is killed, and started again.
    pub agent_timeout: Duration,
    /// A cgroup in which the self-test may make another. None: the guard's own.
    pub cgroup: Option<PathBuf>,
    /// Off unless there is one.
    pub watchdog: Option<watchdog::Config>,
    /// Whether to be scheduled in real time. Off only to measure what it is good for; the self-test then fails.
    pub realtime: bool,
}

impl Config {
    /// The defaults.
    pub fn new(socket: PathBuf, cluster: impl Into<String>) -> Self {
        Self {
            socket,
            cluster: cluster.into(),
            agent_timeout: AGENT_TIMEOUT,
            cgroup: None,
            watchdog: None,
            realtime: true,
        }
    }
}

/// Why a guard cannot fence.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its socket.
    #[error("failed to listen at `{}`: {source}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A timer, a thread or an event counter.
    #[error("failed to set up the fence: {0}")]
    Setup(#[from] io::Error),
    /// It is configured, so it has to be there.
    #[error(transparent)]
    Watchdog(#[from] watchdog::Error),
}

/// A fence that runs, in threads of its own.
#[derive(Debug)]
pub struct Fence(server::Ender);

impl Fence {
    /// Starts it. The caller holds the guard's lock.
    pub fn start(config: Config) -> Result<Self, Error> {
        server::start(config).map(Self)
    }

    /// Whether something exclusive is armed, frozen, or being ended: then somebody must keep its deadlines.
    pub fn is_anything_armed(&self) -> bool {
        self.0.is_anything_armed()
    }

    /// The guard ends in order. Stops the watchdog if nothing is armed.
    pub fn end(self) {
        self.0.end();
    }
}
