//! The keeper of the agent: starts it again when it dies, and reaps what it leaves.
//!
//! ```text
//!   start ──► agent runs ── died ──► wait (0, then 100 ms … 1 s while it dies young) ──► start
//!                  └─ ended in order (0; 78, refused, and nothing is armed) ──► the guard ends too, with the same code
//! ```
//! A tiny process without a runtime: there is little in it that could die. If it dies all the same the agent
//! starts another one, which then *watches* the agent that runs until it may start one of its own. Ending the guard (SIGTERM)
//! therefore ends nothing else, and not for long.
//!
//! An agent that hangs is replaced, too. On one machine that is all ([`run`], [`heartbeat`]): there is no deadline to keep. With sessions over
//! several machines it also *fences* ([`run_fencing`]): exclusive actives are gated, frozen and killed by deadline. See [`fence`].

pub mod client;
pub mod fence;
pub mod gates;
pub mod heartbeat;
mod lock;
mod netlink;
mod silence;
pub mod watch;

pub use lock::{LockError, is_free, lock, locked_by, write_lock};

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{WaitOptions, set_child_subreaper, setsid};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What the agent's lock file says when it ended in order: nobody shall start it again.
pub const ENDED: &str = "ended";
/// Exit code of an agent that must not be started again before something is mended (EX_CONFIG of sysexits.h).
pub const EXIT_REFUSED: i32 = 78;

/// An agent that lived this long died of something else than its start.
const YOUNG: Duration = Duration::from_secs(10);
const WAIT_FIRST: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(1);
/// As that of etcd: what it serves is worth nothing while it waits.
const SESSION_NICE: &str = "-10";

/// What a guard keeps.
#[derive(Debug, Clone)]
pub struct Config {
    /// Held while it runs; contains its process id.
    pub lock: PathBuf,
    /// The agent's lock: says whether an agent that is not our child ended in order.
    pub agent_lock: PathBuf,
    /// Where the agent says on one machine that it goes on.
    pub heartbeat: PathBuf,
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
    /// The program, or the log for its output, cannot be opened.
    #[error("failed to start the agent: `{}`: {source}", path.display())]
    Start {
        /// Which of them.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// There is no way to keep deadlines.
    #[error(transparent)]
    Fence(#[from] fence::Error),
    /// The kernel does not tell of children.
    #[error("failed to wait for the agent: {0}")]
    Wait(io::Error),
}

/// Runs until the agent ends in order; returns the exit code.
pub fn run(config: &Config) -> i32 {
    exit_code(keep(config, None))
}

/// As [`run`], and fences.
pub fn run_fencing(config: &Config, fence: fence::Config) -> i32 {
    exit_code(keep(config, Some(fence)))
}

fn exit_code(result: Result<i32, Error>) -> i32 {
    match result {
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
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?);
    // It makes a session of its own first thing, so that no terminal's end is its own. A process group made for it here
    // would keep it from that: the leader of a group cannot leave it.
    Ok(command.spawn()?.id())
}

fn keep(config: &Config, fence: Option<fence::Config>) -> Result<i32, Error> {
    if config.agent.is_empty() {
        return Err(Error::NoAgent);
    }
    // Fails only for the leader of a group: one started by hand from a shell, which keeps its terminal.
    if setsid().is_ok() {
        prefer_session();
    }
    let _lock = lock(&config.lock)?;
    set_child_subreaper(Some(rustix::process::getpid())).map_err(|error| Error::Subreaper(error.into()))?;
    stay_in_memory();
    // A fence that is killed leaves only what the kernel does by itself.
    let oom_score = spare_from_oom(if fence.is_some() { "-1000" } else { "-900" });
    let fence = fence.map(fence::Fence::start).transpose()?;
    if fence.is_none() {
        heartbeat::watch(&config.heartbeat, &config.agent_lock);
    }
    let armed = || fence.as_ref().is_some_and(fence::Fence::is_anything_armed);
    let code = keep_agent(config, oom_score.as_deref(), &armed)?;
    if let Some(fence) = fence {
        fence.end();
    }
    Ok(code)
}

fn keep_agent(config: &Config, oom_score: Option<&str>, armed: &dyn Fn() -> bool) -> Result<i32, Error> {
    if let Some(pid) = config.watch {
        watch_holder(pid, &config.agent_lock)?;
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
            if let Some(score) = oom_score {
                // The agent and all services would inherit what spares us. Written before the agent can start any.
                let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), score);
            }
            tracing::info!(pid, "started the agent");
            reap_until(pid)
        });
        match how {
            // Without us nobody would keep the deadlines of what acts; and what keeps the agent from working may be mended by then.
            Ok(End::Code(EXIT_REFUSED)) if armed() => {
                tracing::error!(
                    "the agent cannot work while exclusive actives run; their deadlines are kept, and it is tried again"
                );
            }
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

/// Waits for the end of process `pid` if it is the agent, which then holds its lock: of an agent that is gone already
/// the number may be another process's by now.
fn watch_holder(pid: u32, agent_lock: &Path) -> Result<(), Error> {
    // Opened before asking about the lock, so that whoever it is held by cannot change in between.
    let process = watch::Process::open(pid).map_err(Error::Wait)?;
    let holds = !is_free(agent_lock) && locked_by(agent_lock).is_some_and(|holder| holder == pid.to_string());
    match process {
        Some(process) if holds => {
            tracing::info!(pid, "watching an agent that runs already");
            process.end().map_err(Error::Wait)
        }
        _ => Ok(()),
    }
}

/// Keeps what we use out of swap, so that a machine short of memory does not slow us down. Where it is not allowed we
/// are as slow as everybody else.
fn stay_in_memory() {
    // Without the right, locking ahead would make later allocations fail.
    if rustix::process::geteuid().is_root() {
        // Only pages that were touched: the program that we are part of is large.
        let _ = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT);
    }
}

/// Puts our session, with agent and proxy, ahead of others where the kernel shares processors out by session first (`autogroup`): there
/// each program that was started by hand gets as much as all of ours together, and whoever decides comes late on a busy machine. Services
/// have sessions of their own. That it is not allowed, or not there, is no failure.
fn prefer_session() {
    let _ = std::fs::write("/proc/self/autogroup", SESSION_NICE);
}

/// Makes us an unlikely victim when memory runs out, where that is allowed; returns how likely we were before.
fn spare_from_oom(score: &str) -> Option<String> {
    const SCORE: &str = "/proc/self/oom_score_adj";
    let before = std::fs::read_to_string(SCORE).ok()?;
    std::fs::write(SCORE, score).ok()?;
    Some(before)
}

fn start(config: &Config) -> Result<u32, Error> {
    let (program, args) = config.agent.split_first().ok_or(Error::NoAgent)?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Start { path, source }
    };
    // Somebody may have emptied the folder: the agent makes it anew, and must be started for that.
    if let Some(folder) = config.agent_log.parent() {
        let mut builder = std::fs::DirBuilder::new();
        let made = std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o711)
            .recursive(true)
            .create(folder);
        made.map_err(failed(folder))?;
    }
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(&config.agent_log)
        .and_then(|log| Ok((log.try_clone()?, log)));
    let (stdout, stderr) = log.map_err(failed(&config.agent_log))?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    // The child is reaped with all others, by its number: see `reap_until`.
    Ok(command.spawn().map_err(failed(Path::new(program)))?.id())
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
