//! Keeps a member running: starts or adopts it, restarts it when it dies, stops it when told to.
//!
//! ```text
//!   start ──► Running ──died──► Restarting ──back-off──► Running
//!                │                  │ cannot help
//!               stop                ▼
//!                ▼                Failed
//!             Stopped
//! ```
//!
//! Dropping a [`Server`] leaves etcd running: the next one, of the next agent, adopts it.

use super::binary::{self, Etcd};
use super::config::{Config, Initial, Invalid};
use super::diagnosis::{Cause, Diagnosis};
use super::lock::{self, LockError};
use super::process::{Exit, Process, SpawnError, StopError, Stopped};
use super::record::Record;
use drivers::logs::{Rotator, tail};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// Politely stopped, etcd hands its leadership over and closes its files: a fraction of a second, unless its disk is slow.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// The first restart comes soon: most often it helps, and a cluster of three has no member to spare meanwhile.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
/// Each further one waits twice as long, up to here: what does not help ten times needs people, who should not wait long after, and a second member
/// that is lost meanwhile stops the store for as long.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// One that ran for so long started well, and did not die of how it was started.
const WELL_AFTER: Duration = Duration::from_secs(5);
const LOOK_AT_LOG_EVERY: Duration = Duration::from_secs(10);
const LOG: Rotator = Rotator {
    max_bytes: 16 * 1024 * 1024,
    keep: 3,
};
/// Enough for a Go stack trace and what was said before it.
const LINES_FOR_DIAGNOSIS: usize = 400;
/// Divides the runs in the log.
const HEADING: &str = "understudy starts etcd";

/// A member that is kept running.
#[derive(Debug)]
pub struct Server {
    config: Arc<Config>,
    state: watch::Receiver<State>,
    asks: mpsc::Sender<Ask>,
}

/// What the member does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Its process runs.
    Running {
        /// Its number.
        pid: u32,
        /// Whether an earlier agent had started it.
        adopted: bool,
        /// How often it was started again by this server.
        restarts: u32,
    },
    /// It died and is started again soon.
    Restarting {
        /// Why it died.
        because: Diagnosis,
        /// How long that is after its death.
        after: Duration,
    },
    /// It died of something that starting it again cannot mend.
    Failed {
        /// Why it died.
        because: Diagnosis,
    },
    /// It was stopped.
    Stopped,
}

/// Why etcd could not be started or adopted.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] Invalid),
    /// The program.
    #[error(transparent)]
    Binary(#[from] binary::Error),
    /// Another etcd has the data.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// It belongs to a cluster, and what it kept is not there.
    #[error("there are no data of etcd in `{}`", dir.display())]
    NoData {
        /// Where they should be.
        dir: std::path::PathBuf,
    },
    /// The start itself.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// Without it the next agent would have to search.
    #[error("failed to note the process of etcd in `{}`: {source}", path.display())]
    Record {
        /// The record.
        path: std::path::PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl StartError {
    /// What can be done about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            StartError::Config(invalid) => invalid.hint().map(str::to_owned),
            StartError::Binary(error) => Some(error.hint()),
            StartError::Lock(LockError::Held { holder, .. }) => Some(match holder {
                Some(pid) => format!("see what it is with `ps -fp {pid}`, and end it if it is not ours"),
                None => "see who has it open with `fuser`, and end it if it is not ours".into(),
            }),
            StartError::NoData { .. } => {
                Some("a running agent gets them from the other members; alone, restore a backup: `understudy cluster restore FILE`".into())
            }
            StartError::Lock(LockError::Io { .. }) | StartError::Spawn(_) | StartError::Record { .. } => {
                Some("the folder must exist on a local disk with free space, and belong to this user".into())
            }
        }
    }
}

enum Ask {
    Stop {
        patience: Duration,
        done: oneshot::Sender<Result<Option<Stopped>, StopError>>,
    },
    Restart {
        patience: Duration,
        done: oneshot::Sender<Result<Option<Stopped>, StopError>>,
    },
}

impl Server {
    /// Adopts the etcd that runs on these data, or starts one. It returns at once, while etcd
    /// still reads its data.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::start_with(config, &[]).await
    }

    /// The same with further flags, for this start only.
    pub(super) async fn start_with(config: Config, more: &'static [&'static str]) -> Result<Self, StartError> {
        config.check()?;
        let config = Arc::new(config);
        let (process, adopted) = off_the_runtime(&config, more).await?;
        let running = State::Running {
            pid: process.identity.pid,
            adopted,
            restarts: 0,
        };
        let (tell, state) = watch::channel(running);
        let (asks, heard) = mpsc::channel(4);
        let keeper = Keeper {
            config: Arc::clone(&config),
            tell,
            heard,
            back_off: BackOff::default(),
            restarts: 0,
        };
        tokio::spawn(keeper.run(process));
        Ok(Self { config, state, asks })
    }

    /// What it is to be.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What it does now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// To wait for changes of it.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Flags that the running etcd has not, though the configuration says so: it was started by an agent that knew another
    /// one. A restart brings them in force. How it once came to the cluster does not matter any more.
    pub fn outdated(&self) -> Vec<String> {
        let Some(record) = Record::read(&self.config.record) else {
            return Vec::new();
        };
        let wanted = self.config.arguments().into_iter();
        wanted
            .filter(|flag| !flag.starts_with("--initial-cluster") && !record.arguments.contains(flag))
            .collect()
    }

    /// Stops it politely and starts it again. A server that had failed is given another try.
    pub async fn restart(&self, patience: Duration) -> Result<(), StopError> {
        self.ask(|done| Ask::Restart { patience, done }).await.map(drop)
    }

    /// Stops it: politely, so that it hands over its leadership, and after `patience` by force. `None` if it did not run.
    pub async fn stop(self, patience: Duration) -> Result<Option<Stopped>, StopError> {
        self.ask(|done| Ask::Stop { patience, done }).await
    }

    async fn ask(
        &self,
        ask: impl FnOnce(oneshot::Sender<Result<Option<Stopped>, StopError>>) -> Ask,
    ) -> Result<Option<Stopped>, StopError> {
        let (done, answer) = oneshot::channel();
        if self.asks.send(ask(done)).await.is_err() {
            return Ok(None);
        }
        answer.await.unwrap_or(Ok(None))
    }
}

/// Starting takes some milliseconds of the disk's time.
async fn off_the_runtime(config: &Arc<Config>, more: &'static [&'static str]) -> Result<(Process, bool), StartError> {
    let config = Arc::clone(config);
    // The pidfd is registered with the runtime of the thread that starts it.
    match tokio::task::spawn_blocking(move || start_or_adopt(&config, more)).await {
        Ok(done) => done,
        Err(broken) => Err(StartError::Spawn(SpawnError::Execute {
            path: "etcd".into(),
            source: io::Error::other(broken),
        })),
    }
}

fn start_or_adopt(config: &Config, more: &[&str]) -> Result<(Process, bool), StartError> {
    let (process, adopted) = match Process::adopt(config) {
        Some(process) => (process, true),
        None => (start(config, more)?, false),
    };
    let record = Record::new(process.identity.clone(), &config.data_dir, process.arguments.clone());
    match record.write(&config.record) {
        Ok(()) => Ok((process, adopted)),
        // It runs and votes, and its lock leads to it: that is worth more than its record.
        Err(source) => {
            let error = StartError::Record {
                path: config.record.clone(),
                source,
            };
            tracing::warn!(%error, "the next agent will find etcd by its lock");
            Ok((process, adopted))
        }
    }
}

fn start(config: &Config, more: &[&str]) -> Result<Process, StartError> {
    if config.initial == Initial::Present && !config.has_data() {
        return Err(StartError::NoData {
            dir: config.data_dir.clone(),
        });
    }
    let etcd = Etcd::find(config.program.as_deref())?;
    let lock = lock::take(&config.lock(), &config.data_dir)?;
    head(config, &etcd);
    let process = Process::spawn(&etcd.path, config, more, lock)?;
    tracing::info!(pid = process.identity.pid, version = %etcd.version, name = config.name, "started etcd");
    Ok(process)
}

/// Divides this run's lines from the last one's. A log that cannot be written is told by the start itself.
fn head(config: &Config, etcd: &Etcd) {
    let heading = serde_json::json!({ "level": "info", "msg": HEADING, "version": etcd.version.to_string() });
    let opened = OpenOptions::new().append(true).create(true).open(&config.log);
    if let Ok(mut log) = opened {
        let _ = writeln!(log, "{heading}");
    }
}

/// The task behind a [`Server`].
struct Keeper {
    config: Arc<Config>,
    tell: watch::Sender<State>,
    heard: mpsc::Receiver<Ask>,
    back_off: BackOff,
    restarts: u32,
}

/// What follows in the life of the task.
enum Next {
    Run(Process),
    Wait(Diagnosis),
    /// Nobody wants it any more; etcd goes on if it runs.
    Leave,
}

impl Keeper {
    async fn run(mut self, process: Process) {
        let mut next = Next::Run(process);
        loop {
            next = match next {
                Next::Run(process) => self.keep(process).await,
                Next::Wait(because) => self.wait(because).await,
                Next::Leave => return,
            };
        }
    }

    async fn keep(&mut self, process: Process) -> Next {
        let since = Instant::now();
        let mut look_at_log = tokio::time::interval(LOOK_AT_LOG_EVERY);
        loop {
            tokio::select! {
                exit = process.exited() => {
                    if since.elapsed() >= WELL_AFTER {
                        self.back_off = BackOff::default();
                    }
                    let because = self.diagnose(exit).await;
                    tracing::warn!(pid = process.identity.pid, %because, "etcd has died");
                    return Next::Wait(because);
                }
                ask = self.heard.recv() => match ask {
                    None => return Next::Leave,
                    Some(Ask::Stop { patience, done }) => {
                        let stopped = process.stop(patience).await;
                        let still_there = stopped.is_err();
                        if !still_there {
                            self.forget();
                        }
                        let _ = done.send(stopped.map(Some));
                        if !still_there {
                            return Next::Leave;
                        }
                    }
                    Some(Ask::Restart { patience, done }) => {
                        let stopped = process.stop(patience).await;
                        let still_there = stopped.is_err();
                        if still_there {
                            let _ = done.send(stopped.map(Some));
                        } else {
                            let next = self.again().await;
                            let _ = done.send(stopped.map(Some));
                            return next;
                        }
                    }
                },
                _ = look_at_log.tick() => self.rotate().await,
            }
        }
    }

    async fn wait(&mut self, because: Diagnosis) -> Next {
        let after = (!because.is_final()).then(|| self.back_off.next());
        self.tell.send_replace(match after {
            Some(after) => State::Restarting { because, after },
            None => State::Failed { because },
        });
        let due = async {
            match after {
                Some(after) => tokio::time::sleep(after).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => self.again().await,
            ask = self.heard.recv() => match ask {
                None => Next::Leave,
                Some(Ask::Stop { done, .. }) => {
                    self.forget();
                    let _ = done.send(Ok(None));
                    Next::Leave
                }
                Some(Ask::Restart { done, .. }) => {
                    let next = self.again().await;
                    let _ = done.send(Ok(None));
                    next
                }
            },
        }
    }

    async fn again(&mut self) -> Next {
        match off_the_runtime(&self.config, &[]).await {
            Ok((process, adopted)) => {
                self.restarts += 1;
                self.tell.send_replace(State::Running {
                    pid: process.identity.pid,
                    adopted,
                    restarts: self.restarts,
                });
                Next::Run(process)
            }
            Err(error) => {
                tracing::warn!(%error, "etcd could not be started again");
                let gone = matches!(error, StartError::NoData { .. });
                Next::Wait(Diagnosis {
                    cause: if gone { Cause::Damaged } else { Cause::Other },
                    exit: None,
                    said: Some(error.to_string()),
                })
            }
        }
    }

    fn forget(&self) {
        let _ = std::fs::remove_file(&self.config.record);
        self.tell.send_replace(State::Stopped);
    }

    async fn diagnose(&self, exit: Exit) -> Diagnosis {
        let log = self.config.log.clone();
        let lines = tokio::task::spawn_blocking(move || tail(&log, 1, LINES_FOR_DIAGNOSIS)).await;
        let lines = lines.ok().and_then(Result::ok).unwrap_or_default();
        let this_run = lines.rsplit(|line| line.contains(HEADING)).next().unwrap_or_default();
        Diagnosis::of(exit, this_run)
    }

    async fn rotate(&self) {
        let log = self.config.log.clone();
        let rotated = tokio::task::spawn_blocking(move || LOG.check(&log)).await;
        if let Ok(Err(error)) = rotated {
            tracing::warn!(%error, "failed to rotate etcd's log");
        }
    }
}

/// How long to wait before the next start: bounded at both ends, see the constants.
#[derive(Debug, Default)]
struct BackOff {
    in_a_row: u32,
}

impl BackOff {
    fn next(&mut self) -> Duration {
        let doubled = BACK_OFF_MIN.saturating_mul(1 << self.in_a_row.min(16));
        self.in_a_row += 1;
        doubled.min(BACK_OFF_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_come_soon_at_first_and_every_ten_seconds_at_last() {
        let mut back_off = BackOff::default();
        let waits: Vec<u128> = (0..12).map(|_| back_off.next().as_millis()).collect();
        assert_eq!(
            waits,
            [
                100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000, 10_000, 10_000, 10_000
            ]
        );
    }
}
