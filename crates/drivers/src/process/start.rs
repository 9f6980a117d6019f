//! Starts an instance.
//!
//! All starts go through one thread of the driver's own: opening logs and making cgroups never blocks the runtime, and a
//! burst of starts does not become a burst of threads.

use super::handle::{Noted, Process};
use super::record::{self, Record};
use super::scan::Proc;
use super::tree::{self, Tree};
use super::{Driver, Inner};
use crate::account::{Account, UnknownUser};
use crate::program::{self, DEFAULT_PATH};
use crate::{cgroup, sys};
use model::{InstanceId, Limits, RunId};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// An instance to start. Placeholders have been filled in.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The instance.
    pub instance: InstanceId,
    /// Which start of it: a number that was never used for it before.
    pub run: RunId,
    /// Program and arguments.
    pub command: Vec<String>,
    /// What it gets beyond `PATH`, `HOME`, `USER`, `LOGNAME` and `LANG`, which it may replace. Nothing else of the agent's
    /// own environment reaches it.
    pub env: BTreeMap<String, String>,
    /// Its working directory. A program given as a relative path is taken from here.
    pub dir: PathBuf,
    /// Whom to run as, by name or number; the agent's own user if `None`.
    pub user: Option<String>,
    /// Set as soft and hard limits.
    pub limits: Limits,
    /// Both its outputs are appended to this file.
    pub log: PathBuf,
    /// Where to note that it runs, for the next agent.
    pub record: PathBuf,
    /// What the agent wants to find again in the record.
    pub memo: serde_json::Value,
}

/// Why an instance could not be started. Nothing of it runs then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The program is not there, or the agent may not execute it.
    #[error(transparent)]
    Program(#[from] program::Error),
    /// The program's user may not execute it, or may not enter a folder above it.
    #[error("user `{user}` may not execute `{}`", path.display())]
    NotExecutable {
        /// The program.
        path: PathBuf,
        /// Its user.
        user: String,
    },
    /// It is for another machine, or a script without `#!`.
    #[error("`{}` is neither a program for this machine nor a script that begins with #!", path.display())]
    NotAProgram {
        /// The program.
        path: PathBuf,
    },
    /// The program is there, but not what its first line or its ELF header asks for.
    #[error("the interpreter that `{}` asks for does not exist", path.display())]
    NoInterpreter {
        /// The program.
        path: PathBuf,
    },
    /// The kernel takes no more than a few MiB.
    #[error("arguments and environment of `{}` are too long", path.display())]
    TooLong {
        /// The program.
        path: PathBuf,
    },
    /// Another failure of `execve`.
    #[error("failed to execute `{}`: {source}", path.display())]
    Exec {
        /// The program.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel's texts end at a NUL.
    #[error("{what} contains a NUL character")]
    Nul {
        /// Which: "argument 2", "the variable `X`".
        what: String,
    },
    /// A name with `=`, or an empty one.
    #[error("`{name}` cannot be the name of an environment variable")]
    VariableName {
        /// The name.
        name: String,
    },
    /// There is no such folder.
    #[error("the working directory `{}` does not exist", dir.display())]
    NoDir {
        /// The folder.
        dir: PathBuf,
    },
    /// It is not a folder, or its user may not enter it.
    #[error("user `{user}` cannot enter the working directory `{}`: {source}", dir.display())]
    Dir {
        /// The folder.
        dir: PathBuf,
        /// Who tried.
        user: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no such user.
    #[error(transparent)]
    User(#[from] UnknownUser),
    /// Only root may run a process as somebody else.
    #[error("cannot run as user `{user}`: the agent runs as `{agent}`, and only root may change the user")]
    NotRoot {
        /// Who was asked for.
        user: String,
        /// Who we are.
        agent: String,
    },
    /// The kernel refused the change of user.
    #[error("failed to become user `{user}`: {source}")]
    Identity {
        /// Who was asked for.
        user: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The log cannot be opened.
    #[error("cannot write the log `{}`: {source}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No room for the log or the record.
    #[error("the disk is full: no room for `{}`", path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
    },
    /// The agent's limit, or the machine's.
    #[error(
        "too many open files: the agent may have {limit}; raise its limit (LimitNOFILE of its systemd unit, or ulimit -n)"
    )]
    TooManyFiles {
        /// The agent's limit.
        limit: u64,
    },
    /// A limit above what the agent itself is allowed, most often.
    #[error("cannot set the limit `{name}` to {value}: {source}")]
    Limit {
        /// As in the operator's file.
        name: &'static str,
        /// The value.
        value: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The cgroup could not be made or joined.
    #[error("failed to {doing} the cgroup `{}`: {source}", path.display())]
    Cgroup {
        /// "make" or "join".
        doing: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel makes no more processes: a limit on their number, or no memory.
    #[error("failed to make a process: {source}")]
    Fork {
        /// What the kernel said.
        source: io::Error,
    },
    /// The record cannot be written, so a new agent could not adopt it.
    #[error("cannot write the record `{}`: {source}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The process cannot be watched.
    #[error("failed to watch the new process: {source}")]
    Watch {
        /// What the kernel said.
        source: io::Error,
    },
    /// The thread that starts processes has ended, which is a bug.
    #[error("the thread that starts processes has ended")]
    NoStarter,
}

impl Driver {
    /// Starts an instance. It runs and its record is written when this returns.
    ///
    /// Whoever drops the future before has changed their mind: what was started is killed.
    pub async fn start(&self, launch: Launch) -> Result<Process, StartError> {
        let (reply, answer) = oneshot::channel();
        let job = Job {
            driver: Arc::clone(&self.inner),
            runtime: Handle::current(),
            launch,
            reply,
        };
        self.inner.starter.jobs.send(job).map_err(|_| StartError::NoStarter)?;
        let mut started = answer.await.map_err(|_| StartError::NoStarter)??;
        started.process.take().ok_or(StartError::NoStarter)
    }
}

/// The thread that starts processes. It lives as long as its driver.
pub(super) struct Starter {
    jobs: mpsc::Sender<Job>,
}

struct Job {
    driver: Arc<Inner>,
    runtime: Handle,
    launch: Launch,
    reply: oneshot::Sender<Result<Started, StartError>>,
}

impl Starter {
    pub(super) fn new() -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let work = move || {
            for Job {
                driver,
                runtime,
                launch,
                reply,
            } in queue
            {
                let within = runtime.enter();
                let started = start(driver, launch).map(|process| Started {
                    process: Some(process),
                    runtime: runtime.clone(),
                });
                drop(within);
                // If nobody waits any more, dropping it kills what was started.
                let _ = reply.send(started);
            }
        };
        std::thread::Builder::new().name("starter".into()).spawn(work)?;
        Ok(Self { jobs })
    }
}

/// A started process on its way to the one who asked for it.
#[derive(Debug)]
struct Started {
    process: Option<Process>,
    runtime: Handle,
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            self.runtime.spawn(async move {
                if let Err(error) = process.kill().await {
                    tracing::warn!(%error, "failed to kill an instance that nobody waits for any more");
                }
            });
        }
    }
}

fn start(driver: Arc<Inner>, launch: Launch) -> Result<Process, StartError> {
    let account = launch.user.as_deref().map(Account::find).transpose()?;
    let switch = account.as_ref().filter(|account| !account.is_us());
    if let Some(account) = switch
        && !rustix::process::geteuid().is_root()
    {
        return Err(StartError::NotRoot {
            user: account.name.clone(),
            agent: agent_name(),
        });
    }
    let env = environment(&launch, account.as_ref());
    let path = env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let name = launch.command.first().map_or("", String::as_str);
    if !launch.dir.exists() {
        return Err(StartError::NoDir { dir: launch.dir });
    }
    let program = program::locate(name, Some(&launch.dir), path)?;
    let mut plan = sys::Plan {
        program: text(program.as_os_str().as_bytes(), || "the path of the program".into())?,
        args: arguments(&launch.command)?,
        env: entries(
            &env,
            &record::marker_entry(&driver.cluster_id, &launch.instance, launch.run),
        )?,
        dir: text(launch.dir.as_os_str().as_bytes(), || "the working directory".into())?,
        stdin: stdio(fs::File::open("/dev/null"), Path::new("/dev/null"))?,
        output: stdio(open_log(&launch.log), &launch.log)?,
        cgroup: None,
        limits: limits(&launch.limits),
        identity: switch.map(|account| sys::Identity {
            uid: account.uid,
            gid: account.gid,
            groups: account.groups.clone(),
        }),
    };
    let cgroup = driver
        .cgroups
        .as_ref()
        .ok()
        .map(|root| root.join(format!("{}.{}", launch.instance, launch.run)));
    if let Some(path) = &cgroup {
        let failed = |doing| move |source| cgroup_error(doing, path, source);
        cgroup::make(path).map_err(failed("make"))?;
        plan.cgroup = Some(cgroup::open(path).map_err(failed("open"))?);
    }
    let spawned = sys::spawn(&plan).map_err(|failure| {
        if let Some(path) = &cgroup {
            let _ = cgroup::remove(path);
        }
        explain(failure, &launch, &plan, &program, cgroup.as_deref())
    });
    let (pid, pidfd) = spawned?;
    watch(driver, launch, cgroup, pid, pidfd)
}

/// Writes the record of a process that has just been started, and begins to watch it.
fn watch(
    driver: Arc<Inner>,
    launch: Launch,
    cgroup: Option<PathBuf>,
    pid: u32,
    pidfd: OwnedFd,
) -> Result<Process, StartError> {
    let mut undo = Undo {
        pidfd: None,
        cgroup: cgroup.clone(),
        record: launch.record.clone(),
    };
    let watch_failed = |source| StartError::Watch { source };
    undo.pidfd = Some(pidfd.try_clone().map_err(watch_failed)?);
    let started = super::now();
    // Not reaped yet, so it is there even if it has ended.
    let start_ticks = Proc::read(pid).map_or(0, |process| process.start);
    let record = Record {
        pid,
        start_ticks,
        cgroup: cgroup.clone(),
        started,
        memo: launch.memo,
        ..Record::new(&driver.cluster_id, launch.instance, launch.run, &driver.boot_id)
    };
    let length = record
        .write(&launch.record)
        .map_err(|source| match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => StartError::DiskFull {
                path: launch.record.clone(),
            },
            Some(Errno::MFILE | Errno::NFILE) => too_many_files(),
            _ => StartError::Record {
                path: launch.record.clone(),
                source,
            },
        })?;
    let tree = cgroup.map_or_else(|| Tree::Group(record.root()), Tree::Cgroup);
    let noted = Noted {
        path: launch.record,
        record,
        length,
        removed: false,
    };
    let process = Process::watch(driver, tree, pidfd, noted, true).map_err(watch_failed)?;
    undo.pidfd = None;
    Ok(process)
}

/// Ends a process again that was started but cannot be watched.
struct Undo {
    /// `None` once all is well.
    pidfd: Option<OwnedFd>,
    cgroup: Option<PathBuf>,
    record: PathBuf,
}

impl Drop for Undo {
    fn drop(&mut self) {
        let Some(pidfd) = self.pidfd.take() else { return };
        let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
        if let Some(path) = &self.cgroup {
            let _ = cgroup::kill(path);
        }
        let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
        if let Some(path) = &self.cgroup {
            // What it started within these microseconds may still be ending; then the next sweep removes the cgroup.
            let _ = cgroup::remove(path);
        }
        let _ = super::record::remove(&self.record);
    }
}

/// Puts a process into a cgroup, to see whether that is allowed. No program runs: there is none of that name, so a start
/// that gets as far as looking for it has joined.
pub(super) fn try_to_join(cgroup: sys::Cgroup) -> io::Result<()> {
    let null = || above_stdio(&fs::OpenOptions::new().read(true).write(true).open("/dev/null")?);
    let plan = sys::Plan {
        program: c"/dev/null/none".to_owned(),
        args: Vec::new(),
        env: Vec::new(),
        dir: c"/".to_owned(),
        stdin: null()?,
        output: null()?,
        cgroup: Some(cgroup),
        limits: Vec::new(),
        identity: None,
    };
    match sys::spawn(&plan) {
        Err(sys::Failure {
            step: sys::Step::Exec, ..
        }) => Ok(()),
        Err(failure) => Err(failure.error),
        Ok((_, pidfd)) => {
            tree::reap(pidfd);
            Err(io::Error::other("a program was found where none can be"))
        }
    }
}

/// What a service finds in its environment.
fn environment(launch: &Launch, account: Option<&Account>) -> BTreeMap<String, String> {
    let ours = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let found = match account {
        Some(account) => Some(account.clone()),
        None => Account::find(&rustix::process::geteuid().as_raw().to_string()).ok(),
    };
    let (user, home) = found.map_or((agent_name(), "/".into()), |account| (account.name, account.home));
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), ours("PATH").unwrap_or_else(|| DEFAULT_PATH.into())),
        ("LANG".to_owned(), ours("LANG").unwrap_or_else(|| "C.UTF-8".into())),
        ("HOME".to_owned(), home),
        ("LOGNAME".to_owned(), user.clone()),
        ("USER".to_owned(), user),
    ]);
    env.extend(launch.env.clone());
    env
}

fn agent_name() -> String {
    let uid = rustix::process::geteuid().as_raw().to_string();
    Account::find(&uid).map_or(uid, |account| account.name)
}

fn text(bytes: &[u8], what: impl Fn() -> String) -> Result<CString, StartError> {
    CString::new(bytes).map_err(|_| StartError::Nul { what: what() })
}

fn arguments(command: &[String]) -> Result<Vec<CString>, StartError> {
    let argument = |(index, word): (usize, &String)| text(word.as_bytes(), || format!("argument {index}"));
    command.iter().enumerate().map(argument).collect()
}

fn entries(env: &BTreeMap<String, String>, marker: &str) -> Result<Vec<CString>, StartError> {
    // First, where it is found soonest.
    let mut entries = vec![text(marker.as_bytes(), || "the cluster id".into())?];
    for (name, value) in env {
        if name.is_empty() || name.contains('=') {
            return Err(StartError::VariableName { name: name.clone() });
        }
        if name != super::scan::MARKER {
            entries.push(text(format!("{name}={value}").as_bytes(), || {
                format!("the variable `{name}`")
            })?);
        }
    }
    Ok(entries)
}

/// Opens the log of an instance, and makes it if there is none.
pub fn open_log(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

fn stdio(opened: io::Result<fs::File>, path: &Path) -> Result<OwnedFd, StartError> {
    opened
        .and_then(|file| above_stdio(&file))
        .map_err(|source| log_error(path, source))
}

/// Stdio of the child is set up by number, so nothing it is made from may lie there already.
fn above_stdio(file: &fs::File) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(file.as_fd(), 3)?)
}

fn limits(limits: &Limits) -> Vec<(sys::Limit, u64)> {
    let Limits {
        open_files,
        processes,
        memory_bytes,
        core_bytes,
    } = limits;
    let all = [
        (sys::Limit::OpenFiles, open_files),
        (sys::Limit::Processes, processes),
        (sys::Limit::Memory, memory_bytes),
        (sys::Limit::Core, core_bytes),
    ];
    all.into_iter()
        .filter_map(|(limit, value)| Some((limit, (*value)?)))
        .collect()
}

fn log_error(path: &Path, source: io::Error) -> StartError {
    let path = path.to_path_buf();
    match Errno::from_io_error(&source) {
        Some(Errno::NOSPC | Errno::DQUOT) => StartError::DiskFull { path },
        Some(Errno::MFILE | Errno::NFILE) => too_many_files(),
        _ => StartError::Log { path, source },
    }
}

fn cgroup_error(doing: &'static str, path: &Path, source: io::Error) -> StartError {
    match Errno::from_io_error(&source) {
        Some(Errno::MFILE | Errno::NFILE) => too_many_files(),
        _ => StartError::Cgroup {
            doing,
            path: path.to_path_buf(),
            source,
        },
    }
}

fn too_many_files() -> StartError {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    StartError::TooManyFiles {
        limit: limit.unwrap_or(u64::MAX),
    }
}

/// Says what a failed step means.
fn explain(
    failure: sys::Failure,
    launch: &Launch,
    plan: &sys::Plan,
    program: &Path,
    cgroup: Option<&Path>,
) -> StartError {
    let sys::Failure {
        step,
        limit,
        error: source,
    } = failure;
    let user = || launch.user.clone().unwrap_or_else(agent_name);
    let path = program.to_path_buf();
    let errno = Errno::from_io_error(&source);
    match step {
        sys::Step::Fork if matches!(errno, Some(Errno::MFILE | Errno::NFILE)) => too_many_files(),
        sys::Step::Fork | sys::Step::Session | sys::Step::Stdio => StartError::Fork { source },
        sys::Step::Cgroup => cgroup_error("join", cgroup.unwrap_or(Path::new("")), source),
        sys::Step::Identity => StartError::Identity { user: user(), source },
        sys::Step::Dir => StartError::Dir {
            dir: launch.dir.clone(),
            user: user(),
            source,
        },
        sys::Step::Limits => {
            let (limit, value) = plan.limits.get(limit).copied().unwrap_or((sys::Limit::OpenFiles, 0));
            let name = match limit {
                sys::Limit::OpenFiles => "open_files",
                sys::Limit::Processes => "processes",
                sys::Limit::Memory => "memory",
                sys::Limit::Core => "core",
            };
            StartError::Limit { name, value, source }
        }
        sys::Step::Exec => match errno {
            Some(Errno::ACCESS | Errno::PERM) => StartError::NotExecutable { path, user: user() },
            Some(Errno::NOEXEC) => StartError::NotAProgram { path },
            Some(Errno::NOENT) if path.exists() => StartError::NoInterpreter { path },
            Some(Errno::TOOBIG) => StartError::TooLong { path },
            _ => StartError::Exec { path, source },
        },
    }
}
