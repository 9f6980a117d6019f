//! A running instance: its end as an event, its stop within bounds.

use super::record::Record;
use super::tree::{self, Tree};
use super::{Inner, Stir, Usage};
use crate::sys;
use model::{InstanceId, RunId, StopSignal, Timestamp};
use rustix::process::{Signal, WaitId, WaitIdOptions};
use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

/// Whoever inherited an adopted process takes its status at once, if it does at all; only then does the kernel tell us.
const WAIT_FOR_FOREIGN_STATUS: Duration = Duration::from_millis(20);

/// A running instance, or what is left of it. Clones are the same instance.
///
/// Dropping it stops nothing: services outlive the agent.
#[derive(Clone)]
pub struct Process {
    shared: Arc<Shared>,
}

struct Shared {
    driver: Arc<Inner>,
    tree: Tree,
    pidfd: Arc<AsyncFd<OwnedFd>>,
    exit: watch::Receiver<Option<Exit>>,
    /// A cgroup is no number that could be another's later. A session is: so a main process that is our child stays a
    /// zombie, which keeps the number, until the tree is gone.
    keep_zombie: bool,
    record: Mutex<Noted>,
}

/// The record and where it lies.
#[derive(Debug)]
pub(super) struct Noted {
    pub(super) path: PathBuf,
    pub(super) record: Record,
    /// Of the file, in bytes.
    pub(super) length: u64,
    /// Once the tree is gone the record is, and stays away.
    pub(super) removed: bool,
}

/// How and when a main process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// How.
    pub how: ExitHow,
    /// When we were told, in microseconds since boot.
    pub at: Timestamp,
}

/// How a main process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitHow {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It was adopted, and the kernel (before 6.15) tells only the parent.
    Unknown,
}

impl fmt::Display for ExitHow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitHow::Code(code) => write!(f, "exit code {code}"),
            ExitHow::Signal(signal) => write!(f, "killed by {}", crate::command::signal_name(*signal)),
            ExitHow::Unknown => f.write_str("ended, with a status that only its former parent was told"),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.how.fmt(f)
    }
}

/// A tree that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// What it took.
    pub how: StoppedHow,
    /// From the request until nothing of it ran any more.
    pub took: Duration,
}

/// What it took to stop an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoppedHow {
    /// Nothing of it ran any more.
    AlreadyGone,
    /// The main process ended in time after the polite signal. What it left behind, if anything, was killed.
    Polite,
    /// It was killed: because that was asked for, because the polite signal was not heeded in time, or because processes
    /// were left of a main process that had already ended.
    Killed,
}

/// Why a tree is not known to be gone.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// Killed processes hang in the kernel. [`Process::gone`] goes on waiting.
    #[error("{} of `{instance}` still there {}s after SIGKILL: hanging in the kernel, most often on a disk or a network file system", list(pids), waited.as_secs_f32())]
    Stuck {
        /// The instance.
        instance: InstanceId,
        /// Its processes that are left.
        pids: Vec<u32>,
        /// Since SIGKILL.
        waited: Duration,
    },
    /// The kernel refused to tell or to kill.
    #[error("failed to kill the processes of `{instance}`: {source}")]
    Kill {
        /// The instance.
        instance: InstanceId,
        /// What it said.
        source: io::Error,
    },
}

fn list(pids: &[u32]) -> String {
    match pids {
        [] => "something".into(),
        [pid] => format!("process {pid}"),
        _ => format!(
            "processes {}",
            pids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
        ),
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noted = self.noted();
        let Record { instance, run, pid, .. } = &noted.record;
        write!(
            f,
            "{instance} (run {run}, pid {pid}, {})",
            self.exit().map_or("running".into(), |exit| exit.to_string())
        )
    }
}

impl Process {
    /// Watches a process that runs. `is_child` tells whether its status comes to us.
    pub(super) fn watch(
        driver: Arc<Inner>,
        tree: Tree,
        pidfd: OwnedFd,
        noted: Noted,
        is_child: bool,
    ) -> io::Result<Self> {
        let pidfd = Arc::new(sys::watch(pidfd, Interest::READABLE)?);
        let (tell, exit) = watch::channel(None);
        let keep_zombie = is_child && matches!(tree, Tree::Group(_));
        let record = Mutex::new(noted);
        let shared = Arc::new(Shared {
            driver,
            tree,
            pidfd: Arc::clone(&pidfd),
            exit,
            keep_zombie,
            record,
        });
        let watcher = Watcher {
            pidfd,
            shared: Arc::downgrade(&shared),
            is_child,
            keep_zombie,
        };
        tokio::spawn(async move {
            let exit = watcher.exit().await;
            tell.send_replace(Some(exit));
            if watcher.shared.strong_count() == 0 {
                tree::reap(watcher.pidfd.get_ref());
            }
        });
        Ok(Self { shared })
    }

    /// The instance.
    pub fn instance(&self) -> InstanceId {
        self.noted().record.instance.clone()
    }

    /// Which start of it.
    pub fn run(&self) -> RunId {
        self.noted().record.run
    }

    /// Its main process, which is also the number of its session and process group.
    pub fn pid(&self) -> u32 {
        self.noted().record.pid
    }

    /// When it was started, in microseconds since boot.
    pub fn started(&self) -> Timestamp {
        self.noted().record.started
    }

    /// What the agent noted about it.
    pub fn memo(&self) -> serde_json::Value {
        self.noted().record.memo.clone()
    }

    /// Its cgroup, if it has one.
    pub fn cgroup(&self) -> Option<PathBuf> {
        self.noted().record.cgroup.clone()
    }

    /// Replaces what the agent noted about it, also in the record.
    pub fn set_memo(&self, memo: serde_json::Value) -> io::Result<()> {
        let mut noted = self.noted();
        noted.record.memo = memo;
        if noted.removed {
            return Ok(());
        }
        noted.length = noted.record.write(&noted.path)?;
        Ok(())
    }

    /// Writes the record anew if somebody removed or shortened it; says whether that was so. Whoever has no record when the agent
    /// comes back is taken for a stray.
    pub fn keep_record(&self) -> io::Result<bool> {
        let mut noted = self.noted();
        // Its length is looked at, not what is in it: this is done often, for many.
        let lies = std::fs::metadata(&noted.path).is_ok_and(|metadata| metadata.len() == noted.length);
        if noted.removed || lies {
            return Ok(false);
        }
        noted.length = noted.record.write(&noted.path)?;
        Ok(true)
    }

    /// Waits for the end of its main process. May be called often and by many, also after the end.
    pub fn exited(&self) -> impl Future<Output = Exit> + Send + use<> {
        let mut exit = self.shared.exit.clone();
        async move {
            if let Ok(exit) = exit.wait_for(Option::is_some).await
                && let Some(exit) = *exit
            {
                return exit;
            }
            // The watcher ends without a word only when the runtime shuts down, and so do we then.
            std::future::pending().await
        }
    }

    /// How its main process ended, if it has.
    pub fn exit(&self) -> Option<Exit> {
        *self.shared.exit.borrow()
    }

    /// Asks its main process to stop, and when that has ended or the time is up, kills what is left of the tree.
    ///
    /// The signal goes to the main process alone, which knows best how to stop its helpers; SIGCONT follows, since a halted
    /// process could not heed it. To fence an instance without it running another instruction, use [`Process::kill`].
    pub async fn stop(&self, policy: &model::Stop) -> Result<Stopped, StopError> {
        let begun = Instant::now();
        let ended_before = self.exit().is_some();
        let mut polite = false;
        if !ended_before && policy.signal != StopSignal::Kill {
            self.signal(policy.signal);
            let _ = rustix::process::pidfd_send_signal(self.shared.pidfd.get_ref(), Signal::CONT);
            polite = tokio::time::timeout(policy.timeout.duration(), self.exited())
                .await
                .is_ok();
        }
        let leftovers = self.end_tree().await?;
        let how = match (ended_before, polite, leftovers) {
            (true, _, false) => StoppedHow::AlreadyGone,
            (_, true, _) => StoppedHow::Polite,
            _ => StoppedHow::Killed,
        };
        Ok(Stopped {
            how,
            took: begun.elapsed(),
        })
    }

    /// Kills its whole tree at once and waits until it is gone.
    pub async fn kill(&self) -> Result<Stopped, StopError> {
        let begun = Instant::now();
        let ended_before = self.exit().is_some();
        let leftovers = self.end_tree().await?;
        let how = if ended_before && !leftovers {
            StoppedHow::AlreadyGone
        } else {
            StoppedHow::Killed
        };
        Ok(Stopped {
            how,
            took: begun.elapsed(),
        })
    }

    /// After its main process has ended: kills what that left behind and confirms that nothing of the instance runs any more.
    pub async fn reap_tree(&self) -> Result<Stopped, StopError> {
        self.kill().await
    }

    /// Kills what is left of its tree and waits for as long as it takes: for after [`StopError::Stuck`].
    pub async fn gone(&self) -> Result<(), StopError> {
        self.end().await.map(|_| ()).map_err(|source| StopError::Kill {
            instance: self.instance(),
            source,
        })
    }

    /// Sends a signal to its main process. Does nothing if that has ended.
    pub fn signal(&self, signal: StopSignal) {
        let signal = match signal {
            StopSignal::Term => Signal::TERM,
            StopSignal::Int => Signal::INT,
            StopSignal::Quit => Signal::QUIT,
            StopSignal::Hup => Signal::HUP,
            StopSignal::Usr1 => Signal::USR1,
            StopSignal::Usr2 => Signal::USR2,
            StopSignal::Kill => Signal::KILL,
        };
        match rustix::process::pidfd_send_signal(self.shared.pidfd.get_ref(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => tracing::warn!(instance = %self.instance(), ?signal, %error, "failed to signal an instance"),
        }
    }

    /// All its processes.
    pub async fn pids(&self) -> io::Result<Vec<u32>> {
        self.shared.tree.pids(&self.shared.driver.scanner).await
    }

    /// All its processes, as they were a second ago at most: cheap for many instances, also without cgroups.
    pub async fn recent_pids(&self) -> io::Result<Vec<u32>> {
        self.shared.tree.recent_pids(&self.shared.driver.scanner).await
    }

    /// Whether any of its threads runs. Of a process that was stopped, or hangs as a whole, none does.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub async fn stir(&self) -> io::Result<Stir> {
        super::stir::of(&self.shared.tree, &self.shared.driver.scanner).await
    }

    /// What it uses.
    pub async fn usage(&self) -> io::Result<Usage> {
        super::usage::of(&self.shared.tree, &self.shared.driver.scanner).await
    }

    async fn end_tree(&self) -> Result<bool, StopError> {
        let bound = self.shared.driver.kill_bound;
        let instance = || self.instance();
        match tokio::time::timeout(bound, self.end()).await {
            Ok(ended) => ended.map_err(|source| StopError::Kill {
                instance: instance(),
                source,
            }),
            Err(_) => {
                let pids = self.pids().await.unwrap_or_default();
                Err(StopError::Stuck {
                    instance: instance(),
                    pids,
                    waited: bound,
                })
            }
        }
    }

    /// Ends the tree, and then the record. Returns whether anything of the tree was left.
    async fn end(&self) -> io::Result<bool> {
        let shared = &self.shared;
        if matches!(shared.tree, Tree::Cgroup(_)) {
            // Also if somebody with the right to do so has moved it out of its cgroup.
            self.signal(StopSignal::Kill);
        }
        let leftovers = shared.tree.end(&shared.driver.scanner).await?;
        let _ = shared.pidfd.readable().await?;
        if shared.keep_zombie {
            self.exited().await;
            shared.release_number();
        }
        let mut noted = self.noted();
        if !noted.removed {
            noted.removed = true;
            match super::record::remove(&noted.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %noted.path.display(), %error, "failed to remove the record of a stopped instance");
                }
                _ => {}
            }
        }
        Ok(leftovers)
    }

    fn noted(&self) -> std::sync::MutexGuard<'_, Noted> {
        // A panic while it was held cannot have left it half changed: it is only ever assigned to.
        self.shared.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Reaps a main process that was left a zombie.
    fn release_number(&self) {
        if self.keep_zombie {
            tree::reap(self.pidfd.get_ref());
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.exit.borrow().is_some() {
            self.release_number();
        }
    }
}

/// Waits for the end of a main process, without keeping its [`Shared`] alive.
struct Watcher {
    pidfd: Arc<AsyncFd<OwnedFd>>,
    shared: Weak<Shared>,
    is_child: bool,
    keep_zombie: bool,
}

impl Watcher {
    async fn exit(&self) -> Exit {
        if let Err(error) = self.pidfd.readable().await {
            tracing::error!(%error, "the runtime no longer watches a process");
            return std::future::pending().await;
        }
        let at = super::now();
        let how = if self.is_child {
            self.status_of_child()
        } else {
            self.status_of_stranger().await
        };
        Exit { how, at }
    }

    fn status_of_child(&self) -> ExitHow {
        let keep = if self.keep_zombie {
            WaitIdOptions::NOWAIT
        } else {
            WaitIdOptions::empty()
        };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | keep;
        match rustix::process::waitid(WaitId::PidFd(self.pidfd.get_ref().as_fd()), options) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => ExitHow::Code(code),
                (_, Some(signal)) => ExitHow::Signal(signal),
                _ => ExitHow::Unknown,
            },
            Ok(None) | Err(_) => ExitHow::Unknown,
        }
    }

    async fn status_of_stranger(&self) -> ExitHow {
        let deadline = Instant::now() + WAIT_FOR_FOREIGN_STATUS;
        loop {
            if let Some(status) = sys::exit_status_of_stranger(self.pidfd.get_ref().as_fd()) {
                let signal = status & 0x7f;
                return if signal == 0 {
                    ExitHow::Code(status >> 8 & 0xff)
                } else {
                    ExitHow::Signal(signal)
                };
            }
            if Instant::now() >= deadline {
                return ExitHow::Unknown;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
