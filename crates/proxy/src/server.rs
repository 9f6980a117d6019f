//! The process: `understudy proxy --socket PATH`. It ends only when it is told to, by the agent or by SIGTERM.

use crate::clock::now_us;
use crate::control::{Control, Event};
use crate::greet::greet;
use crate::wire::{self, Wire};
use crate::worker;
use api::proxy::ToProxy;
use model::Millis;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, channel, unbounded_channel};

/// More threads than this have not been measured to help.
const WORKERS_DEFAULT_MAX: usize = 4;

/// Connections to the control socket that may be greeting at once.
const GREETINGS_MAX: usize = 16;

/// How often it is looked whether the control socket is still there.
const LOOK_EVERY: Duration = Duration::from_millis(500);

const TRAFFIC_EVERY: Duration = Duration::from_secs(1);

/// How to run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to wait for the agent.
    pub socket: PathBuf,
    /// Threads that serve clients; 0 for one per core, at most 4.
    pub workers: usize,
    /// How long clients may finish after SIGTERM.
    pub drain: Duration,
}

/// Why the proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another proxy answers at the socket.
    #[error("a proxy is already running at {}: stop it first, or give another --socket", path.display())]
    AlreadyRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The socket could not be made.
    #[error("failed to listen at {}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Threads, signals or polling are not to be had.
    #[error("failed to start")]
    Start {
        /// What the system said.
        source: io::Error,
    },
}

/// Runs until told to end: `Shutdown` from the agent, or SIGTERM.
pub fn run(config: &Config) -> Result<(), Error> {
    raise_open_files();
    let start = |source| Error::Start { source };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(start)?;
    let (events, from_workers) = unbounded_channel();
    let workers = (0..worker_count(config.workers))
        .map(|index| worker::start(index, events.clone()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(start)?;
    runtime.block_on(async {
        let listener = listen(&config.socket).await?;
        // A terminal's interrupt reaches every process of its group; ending is the agent's to decide.
        for ignored in [SignalKind::interrupt(), SignalKind::hangup()] {
            drop(signal(ignored).map_err(start)?);
        }
        let mut terminate = signal(SignalKind::terminate()).map_err(start)?;
        let (greeted, agents) = channel(1);
        tokio::spawn(welcome_agents(listener, config.socket.clone(), greeted));
        tracing::info!(socket = %config.socket.display(), workers = workers.len(), "proxy is ready");
        Server {
            running: workers.len(),
            control: Control::new(workers),
            agent: None,
            agents,
            from_workers,
        }
        .run(
            async move {
                let _ = terminate.recv().await;
            },
            config.drain,
        )
        .await;
        Ok(())
    })?;
    tracing::info!("proxy has ended");
    Ok(())
}

struct Server {
    control: Control,
    agent: Option<Wire>,
    agents: Receiver<Wire>,
    from_workers: UnboundedReceiver<Event>,
    /// Workers that have not finished.
    running: usize,
}

impl Server {
    async fn run(mut self, terminated: impl Future<Output = ()>, drain: Duration) {
        let mut terminated = std::pin::pin!(terminated);
        let mut is_terminating = false;
        // In the middle of a second: a report that is a little early or late is still of that second.
        let second = Duration::from_micros(now_us() % 1_000_000);
        let first = tokio::time::Instant::now() + TRAFFIC_EVERY * 3 / 2 - second;
        let mut traffic = tokio::time::interval_at(first, TRAFFIC_EVERY);
        // One that is late must not move those that follow out of the middle.
        traffic.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        while self.running > 0 {
            tokio::select! {
                biased;
                Some(event) = self.from_workers.recv() => {
                    if matches!(event, Event::Finished) {
                        self.running -= 1;
                    }
                    self.control.handle_event(event);
                }
                () = &mut terminated, if !is_terminating => {
                    is_terminating = true;
                    tracing::info!("asked to end by SIGTERM");
                    let drain = u64::try_from(drain.as_millis()).unwrap_or(u64::MAX);
                    self.control.shutdown(Millis(drain));
                }
                Some(agent) = self.agents.recv() => self.take_agent(agent),
                said = hear(&mut self.agent) => self.hear(said),
                _ = traffic.tick() => self.control.tell_traffic(),
            }
            self.tell_agent();
        }
        if let Some(mut agent) = self.agent {
            let _ = tokio::time::timeout(Duration::from_secs(1), agent.flush()).await;
        }
    }

    fn take_agent(&mut self, mut agent: Wire) {
        if self.agent.is_some() {
            tracing::info!("another agent takes over");
        }
        // What was to be said to the one before is in the state the new one is greeted with, or of no use to it.
        self.control.take_messages();
        self.control.forget_told();
        let greeted = match self.control.hello() {
            Ok((hello, fds)) => agent.queue(&hello, fds).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match greeted {
            Ok(()) => self.agent = Some(agent),
            Err(error) => tracing::error!(error, "cannot hand the listening sockets to the agent"),
        }
    }

    fn hear(&mut self, said: Result<(ToProxy, Vec<std::os::fd::OwnedFd>), wire::Error>) {
        match said {
            Ok((message, fds)) => self.control.handle(message, fds),
            Err(wire::Error::Closed) => {
                tracing::info!("the agent is gone; serving on");
                self.agent = None;
            }
            Err(error) => {
                let goes_on = matches!(error, wire::Error::NotUnderstood { .. });
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "the agent was not understood");
                if !goes_on {
                    self.agent = None;
                }
            }
        }
    }

    fn tell_agent(&mut self) {
        let messages = self.control.take_messages();
        let Some(agent) = &mut self.agent else {
            return;
        };
        for message in messages {
            if let Err(error) = agent.queue(&message, Vec::new()) {
                tracing::error!(%error, "giving up the connection to the agent; it may come again");
                self.agent = None;
                return;
            }
        }
    }
}

async fn hear(agent: &mut Option<Wire>) -> Result<(ToProxy, Vec<std::os::fd::OwnedFd>), wire::Error> {
    match agent {
        Some(agent) => agent.receive().await,
        None => std::future::pending().await,
    }
}

/// Greets whoever connects and passes agents on.
async fn welcome_agents(mut listener: UnixListener, path: PathBuf, greeted: tokio::sync::mpsc::Sender<Wire>) {
    let greeting = Arc::new(Semaphore::new(GREETINGS_MAX));
    let mut file = which(&path);
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let Ok(permit) = Arc::clone(&greeting).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = looks.tick() => {
                if file.is_none() || which(&path) != file {
                    match listen_again(&path).await {
                        Ok(new) => {
                            listener = new;
                            file = which(&path);
                            tracing::warn!(socket = %path.display(), "the control socket was removed; made anew");
                        }
                        // Told when the agent misses us: it starts another one, and this one goes on until then.
                        Err(error) => tracing::debug!(%error, "the control socket cannot be made anew"),
                    }
                }
                continue;
            }
        };
        match accepted {
            Ok((stream, _)) => {
                let greeted = greeted.clone();
                tokio::spawn(async move {
                    if let Some(agent) = greet(Wire::new(stream)).await {
                        let _ = greeted.send(agent).await;
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::error!(%error, "cannot accept at the control socket");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// Somebody emptied the folder: without the socket the next agent would start a second proxy, for doors that this one holds.
async fn listen_again(path: &Path) -> Result<UnixListener, Error> {
    if let Some(folder) = path.parent() {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o711).create(folder);
        made.map_err(|source| Error::Listen {
            path: path.to_path_buf(),
            source,
        })?;
    }
    listen(path).await
}

/// Device and inode.
fn which(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Listens at the control socket, over the remains of a proxy that is no more.
async fn listen(path: &Path) -> Result<UnixListener, Error> {
    let failed = |source| Error::Listen {
        path: path.to_path_buf(),
        source,
    };
    if UnixStream::connect(path).await.is_ok() {
        return Err(Error::AlreadyRunning {
            path: path.to_path_buf(),
        });
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

fn worker_count(configured: usize) -> usize {
    match configured {
        0 => std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(WORKERS_DEFAULT_MAX),
        count => count,
    }
}

/// Two files for every connection: takes as many as the system lets it.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    ) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
