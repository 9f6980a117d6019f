//! Starts instances, is told of their end, stops their whole trees within bounds, adopts them after the agent's own end.
//!
//! ```text
//!            start                    main process ends (pidfd: an event)
//!  Launch ─────────► Process ── exited() ─────────────► reap_tree() ── nothing of it runs any more
//!                     ▲   └──── stop() / kill() ──────────────────────────────┘
//!            adopt    │
//!  record ────────────┘        sweep(): what runs and has no record is killed
//! ```
//!
//! A process is a session of its own, writes its output straight to its log file, and shares nothing with the agent: the agent
//! may be killed, hang or be replaced, and no service notices. Where we may make cgroups (as root, or in a delegated
//! one) each run has its own, and its tree is killed by one write. Elsewhere the tree is the session, whatever carries
//! the run's marker in its environment, and all their descendants; the agent is then a *child subreaper*. A program there
//! that wipes its environment *and* leaves both session and family (`env -i setsid …` from a parent that has ended)
//! cannot be told from any other program of its user, and is not found.

mod adopt;
mod handle;
mod reaper;
mod record;
mod scan;
mod start;
mod stir;
mod tree;
mod usage;

pub use adopt::{AdoptError, Adopted, Gone, GoneBecause, SweepError, Swept};
pub use handle::{Exit, ExitHow, Process, StopError, Stopped, StoppedHow};
pub use record::{ReadError, Record, keep_room};
pub use start::{Launch, StartError, open_log};
pub use stir::Stir;
pub use usage::Usage;

use crate::cgroup;
use model::{InstanceId, RunId, Timestamp};
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// SIGKILL acts within milliseconds, or within a second for many gigabytes; what takes longer than this hangs.
const KILL_BOUND: Duration = Duration::from_secs(5);
/// A cgroup's name has at most 255 bytes, and an instance's marker is searched for in every process.
const CLUSTER_ID_BYTES_MAX: usize = 64;

/// How a [`Driver`] works.
#[derive(Debug, Clone)]
pub struct Config {
    /// Tells this cluster's processes from those of others on the machine; letters, digits and `-`, at most 64.
    pub cluster_id: String,
    /// Do without cgroups even where they could be used.
    pub process_groups_only: bool,
    /// After how long a killed process that is still there is reported as [`StopError::Stuck`].
    pub kill_bound: Duration,
}

impl Config {
    /// The usual way for a cluster.
    pub fn new(cluster_id: impl Into<String>) -> Self {
        Self {
            cluster_id: cluster_id.into(),
            process_groups_only: false,
            kill_bound: KILL_BOUND,
        }
    }
}

/// How the processes of an instance are held together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreeKind {
    /// Each run has its own cgroup.
    Cgroup,
    /// Session, marker in the environment, descent.
    ProcessGroup,
}

/// Why there is no driver.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The id cannot be used as a name.
    #[error("the cluster id `{0}` must be 1 to 64 letters, digits and `-`")]
    ClusterId(String),
    /// Needs the runtime that the processes are watched by.
    #[error("a driver can only be made within a tokio runtime")]
    NoRuntime,
    /// Without it a pid says nothing after a reboot.
    #[error("cannot read the id of this boot from /proc: {0}")]
    BootId(io::Error),
    /// Orphans would get lost.
    #[error("failed to become the subreaper of orphaned processes: {0}")]
    Subreaper(io::Error),
    /// The thread that starts processes, or the signal that tells of orphans.
    #[error("failed to set up the start of processes: {0}")]
    SetUp(io::Error),
}

/// Starts and adopts instances. Clones are the same driver.
#[derive(Clone)]
pub struct Driver {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver")
            .field("cluster_id", &self.inner.cluster_id)
            .field("tree_kind", &self.tree_kind())
            .finish()
    }
}

struct Inner {
    cluster_id: String,
    boot_id: String,
    kill_bound: Duration,
    /// Where the cgroups are made, or why there are none.
    cgroups: Result<PathBuf, String>,
    scanner: scan::Scanner,
    starter: start::Starter,
    /// Works until it is dropped.
    _reaper: Option<reaper::Reaper>,
}

impl Driver {
    /// Finds out how trees can be held together here, and gets ready.
    pub fn new(config: Config) -> Result<Self, DriverError> {
        let Config {
            cluster_id,
            process_groups_only,
            kill_bound,
        } = config;
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if cluster_id.is_empty() || cluster_id.len() > CLUSTER_ID_BYTES_MAX || !cluster_id.chars().all(fits) {
            return Err(DriverError::ClusterId(cluster_id));
        }
        tokio::runtime::Handle::try_current().map_err(|_| DriverError::NoRuntime)?;
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(DriverError::BootId)?;
        let cgroups = if process_groups_only {
            Err("cgroups are switched off".to_owned())
        } else {
            cgroup::make_root(&format!("understudy-{cluster_id}"), start::try_to_join)
                .map_err(|error| error.to_string())
        };
        if cgroups.is_err() {
            // Any pid but none switches it on.
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
                .map_err(|error| DriverError::Subreaper(error.into()))?;
        }
        // The first process of a container gets all orphans as well.
        let gets_orphans = cgroups.is_err() || std::process::id() == 1;
        let inner = Inner {
            boot_id: boot_id.trim().to_owned(),
            kill_bound,
            cgroups,
            scanner: scan::Scanner::new(&cluster_id),
            starter: start::Starter::new().map_err(DriverError::SetUp)?,
            _reaper: gets_orphans
                .then(reaper::Reaper::new)
                .transpose()
                .map_err(DriverError::SetUp)?,
            cluster_id,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// How trees are held together, and why not better.
    pub fn tree_kind(&self) -> (TreeKind, String) {
        match &self.inner.cgroups {
            Ok(path) => (TreeKind::Cgroup, format!("cgroups below {}", path.display())),
            Err(why) => (TreeKind::ProcessGroup, why.clone()),
        }
    }

    /// Makes the cgroup of a start before that, so that a guard can hold it when the first instruction runs. In words why not.
    pub fn make_cgroup(&self, instance: &InstanceId, run: RunId) -> Result<PathBuf, String> {
        let root = self
            .inner
            .cgroups
            .as_ref()
            .map_err(|why| format!("there are no cgroups here: {why}"))?;
        let path = root.join(format!("{instance}.{run}"));
        crate::cgroup::make(&path).map_err(|error| format!("cannot make the cgroup `{}`: {error}", path.display()))?;
        Ok(path)
    }

    /// What an instance uses.
    pub async fn usage(&self, process: &Process) -> io::Result<Usage> {
        process.usage().await
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Ok(root) = &self.cgroups {
            // Refused while anything is in it, which is what it should be.
            let _ = std::fs::remove_dir(root);
        }
    }
}

/// Microseconds since boot.
fn now() -> Timestamp {
    let now = clock_gettime(ClockId::Boottime);
    Timestamp(now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1_000)
}
