//! The programs that the others start: `agent`, `guard`, `proxy`, `sample`. Thin: each is a crate of its own.

use super::Session;
use crate::args::{self, SampleWhat};
use crate::place;
use agent::DashboardPlace;
use api::layout::Layout;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::error::Error;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// An agent that is told to end closes its store and goes; one that does not is killed, which harms nothing.
const END_PATIENCE: Duration = Duration::from_secs(3);
/// A machine whose guard does not pet it for this long is reset; its unit is the second, and the lease is long over by then.
const WATCHDOG_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a daemon looks whether its log is still there.
const LOG_LOOK: Duration = Duration::from_secs(1);
/// How often it is looked whether it is gone.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// `agent`
pub(super) fn agent(session: &Session, args: &args::Agent) -> i32 {
    log_to_stderr(args.log);
    let Some(cluster) = named(session) else { return 2 };
    agent::run(agent::Config {
        base: session.place.base.clone(),
        cluster,
        nodes: args.nodes,
        api: args.api,
        dashboard: args.dashboard,
    })
}

/// `guard`
pub(super) fn guard(session: &Session, args: &args::Guard) -> i32 {
    log_to_stderr(args.log);
    let Some(cluster) = named(session) else { return 2 };
    let agent = match own_command(session, &cluster, "agent", args.nodes, args.api, args.dashboard) {
        Ok(agent) => agent,
        Err(error) => return exit_code(Err(error)),
    };
    let layout = session.place.layout(&cluster);
    let config = guard::Config {
        lock: layout.guard_lock(),
        agent_lock: layout.agent_lock(),
        heartbeat: layout.heartbeat(),
        agent_log: layout.own_log("agent"),
        agent,
        watch: args.watch,
    };
    // Of several machines it also keeps the deadlines of what is exclusive.
    match api::node::Node::read(&layout.node()) {
        Ok(Some(node)) => {
            let mut fence = guard::fence::Config::new(layout.guard_socket(), node.cluster.clone());
            fence.watchdog = node.watchdog.map(|path| guard::fence::watchdog::Config {
                path,
                timeout: WATCHDOG_TIMEOUT,
            });
            guard::run_fencing(&config, fence)
        }
        Ok(None) => guard::run(&config),
        Err(error) => exit_code(Err(error)),
    }
}

/// A guard that was started by this program.
#[derive(Debug)]
pub(super) struct Guard {
    pid: u32,
}

impl Guard {
    /// Starts a guard that outlives this program; it starts the agent.
    pub(super) fn start(
        session: &Session,
        cluster: &str,
        nodes: u32,
        api: Option<SocketAddr>,
        dashboard: DashboardPlace,
    ) -> io::Result<Self> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o640)
            .open(session.place.layout(cluster).own_log("guard"))?;
        let pid = guard::spawn_detached(&own_command(session, cluster, "guard", nodes, api, dashboard)?, &log)?;
        Ok(Self { pid })
    }

    /// Whether it has ended. It ends with an agent that must not be started again.
    pub(super) fn has_ended(&self) -> bool {
        let Some(pid) = process_id(self.pid) else { return true };
        // `None` is "still runs"; an error is "not ours any more", which only its end explains.
        !matches!(waitpid(Some(pid), WaitOptions::NOHANG), Ok(None))
    }
}

/// Ends a guard and its agent, whatever state they are in, and waits until they are gone. Services are left alone.
pub(super) async fn end(layout: &Layout) {
    // The guard first: it would start another agent, as the agent would start another guard.
    for lock in [layout.guard_lock(), layout.agent_lock()] {
        for signal in [Signal::TERM, Signal::KILL] {
            let deadline = Instant::now() + END_PATIENCE;
            while let Some(pid) = place::holder(&lock) {
                if Instant::now() >= deadline {
                    break;
                }
                if let Some(pid) = process_id(pid) {
                    // It may be gone by now, which is what is wanted.
                    let _ = kill_process(pid, signal);
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }
}

/// This program as a daemon of a cluster.
fn own_command(
    session: &Session,
    cluster: &str,
    daemon: &str,
    nodes: u32,
    api: Option<SocketAddr>,
    dashboard: DashboardPlace,
) -> io::Result<Vec<OsString>> {
    let exe = std::env::current_exe()?;
    // After an upgrade the same path leads to the new program.
    let exe = match exe.to_string_lossy().strip_suffix(" (deleted)") {
        Some(path) => OsString::from(path),
        None => exe.into_os_string(),
    };
    let mut command = vec![exe, "--state-dir".into(), session.place.base.clone().into_os_string()];
    command.extend(["--cluster", cluster, daemon, "--nodes"].map(OsString::from));
    command.push(nodes.to_string().into());
    if let Some(api) = api {
        command.extend(["--api".into(), api.to_string().into()]);
    }
    command.extend(["--dashboard".into(), dashboard.to_string().into()]);
    Ok(command)
}

fn process_id(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// `proxy`
pub(super) fn proxy(args: &args::Proxy) -> i32 {
    log_to_stderr(args.log);
    let config = proxy::server::Config {
        socket: args.socket.clone(),
        workers: args.workers as usize,
        drain: args.drain,
    };
    exit_code(proxy::server::run(&config))
}

/// `sample`
pub(super) fn sample(args: &args::Sample) -> i32 {
    let local = |port: u16| SocketAddr::from((args.host, port));
    let identity = sample::Identity::from_env;
    match &args.what {
        SampleWhat::Web {
            port,
            db,
            start_delay,
            answer_delay,
        } => serve(sample::web(sample::WebConfig {
            listen: local(*port),
            db: db.clone(),
            start_delay: start_delay.unwrap_or(Duration::ZERO),
            answer_delay: answer_delay.unwrap_or(Duration::ZERO),
            identity: identity(),
        })),
        SampleWhat::Db { port, data, witness } => serve(sample::db(sample::DbConfig {
            listen: local(*port),
            data: data.clone(),
            witness: witness.clone(),
            identity: identity(),
        })),
        SampleWhat::Tier {
            port,
            next,
            work,
            limit,
            data,
        } => exit_code(sample::tier(&sample::TierConfig {
            listen: local(*port),
            next: next.clone(),
            work: *work,
            limit: *limit,
            data: data.clone(),
        })),
        SampleWhat::Sleeper => sample::sleeper(),
        SampleWhat::Promote { port, epoch, timeout } => said(sample::client::promote(local(*port), *epoch, *timeout)),
        SampleWhat::Demote { port, timeout } => said(sample::client::demote(local(*port), *timeout)),
        SampleWhat::Follow { port, active, timeout } => said(sample::client::follow(local(*port), active, *timeout)),
        SampleWhat::Ready { port, timeout } => said(sample::client::ready(local(*port), *timeout)),
        SampleWhat::Witness { file } => match sample::witness::overlaps(file) {
            Ok(overlaps) if overlaps.is_empty() => {
                println!("no two were active at once, and epochs only rose");
                0
            }
            Ok(overlaps) => {
                for overlap in overlaps {
                    println!(
                        "active at once, or at an epoch that is not higher: {:?} and {:?}",
                        overlap.earlier, overlap.later
                    );
                }
                1
            }
            Err(error) => exit_code(Err(error)),
        },
    }
}

/// A daemon never guesses whose it is.
fn named(session: &Session) -> Option<String> {
    match &session.place.asked {
        Some(name) => Some(name.clone()),
        None => {
            session.output.say("error: say which cluster: --cluster NAME");
            None
        }
    }
}

/// Logs go to stderr, which whoever started the daemon keeps in a file.
fn log_to_stderr(log: args::Log) {
    // A log on a full disk must not end a daemon: by default a line that cannot be written is told on stderr, which panics.
    let lines = tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_max_level(log.level)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    match log.format {
        args::LogFormat::Text => lines.init(),
        args::LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    keep_log();
}

/// Our own log is a file that whoever started us opened. One that somebody removed is opened anew, or nobody could read on.
fn keep_log() {
    let Ok(path) = std::fs::read_link("/proc/self/fd/2") else {
        return;
    };
    let is_file = std::fs::metadata(&path).is_ok_and(|metadata| metadata.is_file());
    if !is_file {
        return;
    }
    let looks = move || {
        loop {
            std::thread::sleep(LOG_LOOK);
            let removed = rustix::fs::fstat(rustix::stdio::stderr()).is_ok_and(|stat| stat.st_nlink == 0);
            if removed && let Err(error) = open_log(&path) {
                tracing::debug!(%error, "the log was removed and cannot be opened anew");
            }
        }
    };
    let thread = std::thread::Builder::new()
        .name("own-log".into())
        .stack_size(128 * 1024);
    if let Err(error) = thread.spawn(looks) {
        tracing::warn!(%error, "a log that is removed will not be opened anew");
    }
}

fn open_log(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o711).create(folder)?;
    }
    let log = OpenOptions::new().create(true).append(true).mode(0o640).open(path)?;
    rustix::stdio::dup2_stdout(&log)?;
    rustix::stdio::dup2_stderr(&log)?;
    tracing::warn!(log = %path.display(), "the log was removed; this is another one");
    Ok(())
}

fn serve<E: Error>(service: impl Future<Output = Result<(), E>>) -> i32 {
    match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(2)
        .build()
    {
        Ok(runtime) => exit_code(runtime.block_on(service)),
        Err(error) => exit_code(Err(error)),
    }
}

fn said<E: Error>(result: Result<String, E>) -> i32 {
    exit_code(result.map(|answer| println!("{}", answer.trim_end())))
}

/// These print for a log, without colours or hints.
fn exit_code<E: Error>(result: Result<(), E>) -> i32 {
    let Err(error) = result else { return 0 };
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(&format!(": {source}"));
        cause = source.source();
    }
    eprintln!("error: {text}");
    1
}
