//! The keeper of the agent: starts it again when it dies, and reaps what it leaves.
//!
//! ```text
//!   start ──► agent runs ── died ──► wait (0, then 100 ms … 5 s while it dies young) ──► start
//!                  └─ ended in order (0, or 78: refused) ──► the guard ends too, with the same code
//! ```
//! A tiny process without threads or runtime: there is little in it that could die. If it dies all the same the agent
//! starts another one, which then *watches* the agent that runs until it may start one of its own. Ending the guard (SIGTERM)
//! therefore ends nothing else, and not for long.
//!
//! Deliberately absent: everything about services. On one machine there is no deadline to keep; fencing by deadline comes
//! with sessions over several machines.

mod lock;
pub mod watch;

pub use lock::{LockError, is_free, lock, locked_by, write_lock};

use rustix::process::{WaitOptions, set_child_subreaper, setsid};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What the agent's lock file says when it ended in order: nobody shall start it again.
pub const ENDED: &str = "ended";
/// Exit code of an agent that must not be started again before something is mended (EX_CONFIG of sysexits.h).
pub const EXIT_REFUSED: i32 = 78;

/// An agent that lived this long died of something else than its start.
const YOUNG: Duration = Duration::from_secs(10);
const WAIT_FIRST: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(5);

/// What a guard keeps.
#[derive(Debug, Clone)]
pub struct Config {
    /// Held while it runs; contains its process id.
    pub lock: PathBuf,
    /// The agent's lock: says whether an agent that is not our child ended in order.
    pub agent_lock: PathBuf,
    /// Where the agent's output goes.
    pub agent_log: PathBuf,
    /// Program and arguments of the agent. The program is looked up anew at each start, so replacing the file is an upgrade.
    pub agent: Vec<OsString>,
    /// An agent that runs already.
    pub watch: Option<u32>,
}

/// Why a guard cannot work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is another one, or none can be.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Orphans would not come to us.
    #[error("failed to become the subreaper of orphaned processes: {0}")]
    Subreaper(io::Error),
    /// There is nothing to keep.
    #[error("no agent to start was named")]
    NoAgent,
    /// The kernel does not tell of children.
    #[error("failed to wait for the agent: {0}")]
    Wait(io::Error),
}

/// Runs until the agent ends in order; returns the exit code.
pub fn run(config: &Config) -> i32 {
    match keep(config) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: the guard cannot work: {error}");
            1
        }
    }
}

/// Starts a guard as a process that outlives this one.
pub fn spawn_detached(guard: &[OsString], log: &File) -> io::Result<u32> {
    let (program, args) = guard.split_first().ok_or_else(|| io::Error::other("no program"))?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
    // It makes a session of its own; until then a Ctrl-C at our terminal must not reach it.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    Ok(command.spawn()?.id())
}

fn keep(config: &Config) -> Result<i32, Error> {
    let _lock = lock(&config.lock)?;
    // Fails only for the leader of a group: then we are away from any terminal's group already.
    let _ = setsid();
    set_child_subreaper(Some(rustix::process::getpid())).map_err(|error| Error::Subreaper(error.into()))?;
    // Only root may; without it the guard is as likely a victim as any other small process.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-900");
    if let Some(pid) = config.watch {
        tracing::info!(pid, "watching an agent that runs already");
        watch::end_of(pid).map_err(Error::Wait)?;
        if locked_by(&config.agent_lock).as_deref() == Some(ENDED) {
            tracing::info!(pid, "the agent ended in order");
            return Ok(0);
        }
        tracing::warn!(pid, "the agent died");
    }
    let mut wait = Duration::ZERO;
    loop {
        let begun = Instant::now();
        let how = start(config).and_then(|pid| {
            tracing::info!(pid, "started the agent");
            reap_until(pid)
        });
        match how {
            Ok(End::Code(code @ (0 | EXIT_REFUSED))) => {
                tracing::info!(code, "the agent ended in order");
                return Ok(code);
            }
            Ok(end) => tracing::warn!(?end, "the agent died"),
            Err(error) => tracing::error!(%error, "the agent cannot be started"),
        }
        if begun.elapsed() >= YOUNG {
            wait = Duration::ZERO;
        }
        std::thread::sleep(wait);
        wait = (wait * 2).clamp(WAIT_FIRST, WAIT_MAX);
    }
}

fn start(config: &Config) -> Result<u32, Error> {
    let (program, args) = config.agent.split_first().ok_or(Error::NoAgent)?;
    let log = OpenOptions::new().create(true).append(true).open(&config.agent_log).map_err(Error::Wait)?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(log.try_clone().map_err(Error::Wait)?).stderr(log);
    // The child is reaped with all others, by its number: see `reap_until`.
    Ok(command.spawn().map_err(Error::Wait)?.id())
}

/// How an agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Code(i32),
    Signal(i32),
}

/// Reaps whatever ends, until it is the agent: services whose agent died are children of ours.
fn reap_until(agent: u32) -> Result<End, Error> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get().unsigned_abs() == agent => {
                return Ok(match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => End::Code(code),
                    (None, signal) => End::Signal(signal.unwrap_or(0)),
                });
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::Wait(error.into())),
        }
    }
}
