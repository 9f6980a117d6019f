//! Agent and guard watch each other: the guard starts the agent again, and here the agent starts the guard again.

use crate::input::Input;
use crate::journal::Inputs;
use crate::recover::make_folder;
use api::layout::Layout;
use guard::heartbeat::Heart;
use model::Timestamp;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// A guard that was just started holds its lock within milliseconds.
const GUARD_START: Duration = Duration::from_secs(2);
const GUARD_LOOK: Duration = Duration::from_millis(5);
/// Well within what the guard waits for.
const BEAT_EVERY: Duration = Duration::from_millis(500);
/// A guard that cannot be started is tried again after this.
const GUARD_RETRY: Duration = Duration::from_secs(5);

/// Knows how to start a guard.
#[derive(Clone)]
pub(crate) struct Keeper {
    pub(crate) exe: PathBuf,
    pub(crate) base: PathBuf,
    pub(crate) cluster: String,
    pub(crate) nodes: u32,
    pub(crate) api: Option<std::net::SocketAddr>,
    pub(crate) dashboard: crate::DashboardPlace,
    pub(crate) layout: Layout,
    /// Whether there was a guard when we came: an agent run by hand or by another supervisor needs none.
    pub(crate) guarded: bool,
}

/// Tells the guard now and then that the main loop goes round.
pub(crate) struct Pulse {
    heart: Heart,
    next: Timestamp,
}

impl Pulse {
    pub(crate) fn new(path: PathBuf) -> Option<Self> {
        match Heart::new(path) {
            Ok(heart) => Some(Self {
                heart,
                next: Timestamp(0),
            }),
            Err(error) => {
                tracing::warn!(%error, "the guard will not see whether this agent hangs");
                None
            }
        }
    }

    /// Another round; returns when the next is due.
    pub(crate) fn go_on(&mut self, now: Timestamp) -> Timestamp {
        if now >= self.next {
            self.heart.beat();
            self.next = now + BEAT_EVERY;
        }
        self.next
    }
}

impl Keeper {
    /// Watches the guard that runs; its end arrives as `Input::GuardGone`.
    pub(crate) fn watch(&self, inputs: &Inputs) {
        if !self.guarded {
            return;
        }
        let (lock, inputs) = (self.layout.guard_lock(), inputs.clone());
        tokio::spawn(async move {
            if let Some(pid) = guard_pid(&lock)
                && ended(pid).await.is_err()
            {
                tokio::time::sleep(GUARD_RETRY).await;
            }
            let _ = inputs.send(Input::GuardGone);
        });
    }

    /// Starts a guard that watches this agent, and watches it.
    pub(crate) fn start_guard(&self, inputs: &Inputs) {
        let (keeper, inputs) = (self.clone(), inputs.clone());
        tokio::spawn(async move {
            if let Err(error) = keeper.spawn().await {
                tracing::error!(%error, "cannot start a guard; trying again");
                tokio::time::sleep(GUARD_RETRY).await;
                let _ = inputs.send(Input::GuardGone);
                return;
            }
            keeper.watch(&inputs);
        });
    }

    async fn spawn(&self) -> std::io::Result<()> {
        // Somebody may have emptied it a moment ago.
        make_folder(&self.layout.run()).map_err(std::io::Error::other)?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o640)
            .open(self.layout.own_log("guard"))?;
        let mut command = std::process::Command::new(&self.exe);
        command
            .arg("--state-dir")
            .arg(&self.base)
            .args(["--cluster", &self.cluster, "guard", "--nodes"]);
        command.arg(self.nodes.to_string());
        if let Some(api) = self.api {
            command.arg("--api").arg(api.to_string());
        }
        command.arg("--dashboard").arg(self.dashboard.to_string());
        command.arg("--watch").arg(std::process::id().to_string());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = tokio::process::Command::from(command).kill_on_drop(false).spawn()?;
        let pid = child.id();
        tokio::spawn(async move { child.wait().await });
        let deadline = tokio::time::Instant::now() + GUARD_START;
        while guard_pid(&self.layout.guard_lock()) != pid {
            if tokio::time::Instant::now() > deadline {
                let log = self.layout.own_log("guard");
                return Err(std::io::Error::other(format!(
                    "it did not take its lock; `{}` says why",
                    log.display()
                )));
            }
            tokio::time::sleep(GUARD_LOOK).await;
        }
        Ok(())
    }
}

/// The process that holds the guard's lock, as its file says.
pub(crate) fn guard_pid(lock: &Path) -> Option<u32> {
    guard::locked_by(lock)?.parse().ok()
}

/// Waits for the end of a process, in a thread of its own: there is one guard.
async fn ended(pid: u32) -> std::io::Result<()> {
    let (told, end) = tokio::sync::oneshot::channel();
    let waits = move || told.send(guard::watch::end_of(pid));
    std::thread::Builder::new()
        .name("guard-watch".into())
        .stack_size(64 * 1024)
        .spawn(waits)?;
    end.await.map_err(std::io::Error::other)?
}
