//! A running etcd: started so that it outlives us, or adopted; watched and ended through its pidfd.

use super::config::Config;
use super::lock;
use super::record::{Identity, Record};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A member that waits for the processor or the disk behind other programs misses heartbeats, and the cluster holds elections.
pub(super) const NICE: i32 = -10;
/// The kernel is to end almost anything else first when memory runs out.
const OOM_SCORE: &str = "-500";
/// After SIGKILL a process ends when the kernel lets it: with a disk that hangs, not at all.
const KILL_BOUND: Duration = Duration::from_secs(10);

/// A running etcd.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) identity: Identity,
    pub(super) arguments: Vec<String>,
    pidfd: AsyncFd<OwnedFd>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It was no child of ours, so we cannot know.
    Unknown,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "it ended with code {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal} ended it"),
            Exit::Unknown => f.write_str("it ended"),
        }
    }
}

/// How a stop went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It ended when asked to: its leadership, if it had it, was handed over.
    Asked(Exit),
    /// It had to be killed.
    Killed(Exit),
}

/// Why etcd could not be started. It does not run then.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A folder or a file that it needs.
    #[error("failed to make `{}`: {source}", path.display())]
    File {
        /// The folder or file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The program itself.
    #[error("failed to execute `{}`: {source}", path.display())]
    Execute {
        /// The program.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It cannot be watched, so it was killed at once.
    #[error("failed to watch process {pid}: {source}")]
    Watch {
        /// Its number.
        pid: u32,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Why it may still run.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// The kernel does not let us.
    #[error("failed to send {signal} to etcd, process {pid}: {source}")]
    Signal {
        /// "SIGTERM", "SIGKILL".
        signal: &'static str,
        /// Its number.
        pid: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// It hangs in the kernel, most often because of its disk.
    #[error("etcd, process {pid}, is still there {}s after SIGKILL", KILL_BOUND.as_secs())]
    Stuck {
        /// Its number.
        pid: u32,
    },
}

impl StopError {
    /// What can be done about it.
    pub fn hint(&self) -> &'static str {
        match self {
            StopError::Signal { .. } => "run as the user that started etcd, or as root",
            StopError::Stuck { .. } => {
                "its disk hangs: look into the kernel's messages (dmesg); it ends when the disk answers"
            }
        }
    }
}

impl Process {
    /// Starts etcd in a session of its own, with the lock as its standard input and its output at the end of the log.
    pub(super) fn spawn(program: &Path, config: &Config, more: &[&str], lock: File) -> Result<Self, SpawnError> {
        make_private(&config.data_dir)?;
        let output = open_log(&config.log)?;
        let mut arguments = config.arguments();
        arguments.extend(more.iter().map(ToString::to_string));
        let mut command = Command::new(program);
        command
            .args(&arguments)
            // etcd takes any flag from a variable `ETCD_…`, too: none of ours may reach it.
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .current_dir("/")
            .stdin(Stdio::from(lock))
            .stdout(output.stdout)
            .stderr(output.stderr);
        in_its_own_session(&mut command);
        let child = command.spawn().map_err(|source| SpawnError::Execute {
            path: program.into(),
            source,
        })?;
        let pid = child.id();
        // Not waited for through `child`: an adopted one has none, and both are watched alike.
        let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), OOM_SCORE);
        // Where the kernel shares processors out by session first, priority counts among those of one session only.
        let _ = fs::write(format!("/proc/{pid}/autogroup"), NICE.to_string());
        let identity = Identity::of(pid);
        let watched = watch(pid);
        match (identity, watched) {
            (Some(identity), Ok(pidfd)) => Ok(Self {
                identity,
                arguments,
                pidfd,
            }),
            (identity, watched) => {
                let source = watched.err().unwrap_or_else(|| io::Error::other("it ended at once"));
                end_unwatched(child, identity.is_some());
                Err(SpawnError::Watch { pid, source })
            }
        }
    }

    /// Finds the etcd that an earlier agent started: by its record, or by the lock that it holds.
    pub(super) fn adopt(config: &Config) -> Option<Self> {
        let by_record = Record::read(&config.record)
            .filter(|record| record.data_dir == config.data_dir && record.identity.lives())
            .map(|record| (record.identity, record.arguments));
        let (identity, arguments) = by_record.or_else(|| lock::etcd_behind(&config.lock()))?;
        let pidfd = watch(identity.pid).ok()?;
        // Between the look and the pidfd its number may have become another's.
        identity.lives().then_some(Self {
            identity,
            arguments,
            pidfd,
        })
    }

    /// Waits for its end. To be dropped without harm.
    pub(super) async fn exited(&self) -> Exit {
        // The descriptor is readable from its end on. An error can only mean that the runtime ends, and us with it.
        if self.pidfd.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.reap()
    }

    /// Takes its status, if it is a child of ours; else whoever adopted it does.
    fn reap(&self) -> Exit {
        let status = waitid(
            WaitId::PidFd(self.pidfd.get_ref().as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        );
        match status {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => Exit::Unknown,
            },
            _ => Exit::Unknown,
        }
    }

    /// Asks it to end, and kills it if it has not after `patience`.
    pub(super) async fn stop(&self, patience: Duration) -> Result<Stopped, StopError> {
        self.signal(Signal::TERM, "SIGTERM")?;
        if let Ok(exit) = tokio::time::timeout(patience, self.exited()).await {
            return Ok(Stopped::Asked(exit));
        }
        self.signal(Signal::KILL, "SIGKILL")?;
        match tokio::time::timeout(KILL_BOUND, self.exited()).await {
            Ok(exit) => Ok(Stopped::Killed(exit)),
            Err(_) => Err(StopError::Stuck { pid: self.identity.pid }),
        }
    }

    fn signal(&self, signal: Signal, name: &'static str) -> Result<(), StopError> {
        match pidfd_send_signal(self.pidfd.get_ref(), signal) {
            // It has ended already.
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(StopError::Signal {
                signal: name,
                pid: self.identity.pid,
                source: error.into(),
            }),
        }
    }
}

fn watch(pid: u32) -> io::Result<AsyncFd<OwnedFd>> {
    let number = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    register(pidfd_open(number, PidfdFlags::empty())?)
}

/// Lets the runtime wait for a descriptor.
#[expect(unsafe_code, reason = "the runtime's watch over a descriptor has no safe wrapper")]
fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open for as long as it exists, and its number never changes.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}

/// It was our child a moment ago and nobody has reaped it, so its number is still its own.
fn end_unwatched(mut child: std::process::Child, lives: bool) {
    if lives {
        let _ = child.kill();
    }
    let _ = child.wait();
}

/// etcd refuses folders that others can read, from 3.5 on.
fn make_private(dir: &Path) -> Result<(), SpawnError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| SpawnError::File {
            path: dir.into(),
            source,
        })
}

struct Output {
    stdout: Stdio,
    stderr: Stdio,
}

fn open_log(path: &Path) -> Result<Output, SpawnError> {
    let open = || -> io::Result<Output> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
        Ok(Output {
            stdout: file.try_clone()?.into(),
            stderr: file.into(),
        })
    };
    open().map_err(|source| SpawnError::File {
        path: path.into(),
        source,
    })
}

/// Gives the child a session of its own, so that no terminal's or agent's end reaches it, and priority where that is allowed.
#[expect(unsafe_code, reason = "what is to happen between fork and exec has no safe wrapper")]
fn in_its_own_session(command: &mut Command) {
    // `IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 0)`: the first among ordinary programs.
    const FIRST_OF_BEST_EFFORT: libc::c_int = 2 << 13;
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    let before_exec = || {
        rustix::process::setsid()?;
        // That these are not allowed is no failure.
        let _ = rustix::process::setpriority_process(None, NICE);
        // SAFETY: a call of the kernel on the calling process, with numbers only.
        unsafe {
            libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, FIRST_OF_BEST_EFFORT);
        }
        Ok(())
    };
    // SAFETY: the closure makes three calls of the kernel and touches no memory but its own.
    unsafe {
        command.pre_exec(before_exec);
    }
}
