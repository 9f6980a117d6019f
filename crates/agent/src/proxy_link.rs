//! Keeps a proxy running and the connection to it: `queue` messages, and its news arrive as `Input`s.
//!
//! The agent holds a copy of every listening socket, and so does the proxy: whichever dies, no client finds the door closed.

use crate::input::Input;
use crate::journal::Inputs;
use crate::recover::make_folder;
use api::layout::Layout;
use api::proxy::{FromProxy, ToProxy};
use proxy::client::{ConnectError, ProxyClient};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// A started proxy answers within a few milliseconds; on a machine that swaps, within this.
const START_TIMEOUT: Duration = Duration::from_secs(10);
const START_POLL: Duration = Duration::from_millis(2);
/// A proxy that runs greets within this.
const GREETING: Duration = Duration::from_secs(2);
/// A proxy that leaves so many pings in a row unanswered hangs.
const PING_EVERY: Duration = Duration::from_millis(500);
const PINGS_UNANSWERED_MAX: u32 = 4;
/// A proxy that lived this long did not die of its start.
const YOUNG: Duration = Duration::from_millis(200);
/// A proxy that dies at once is started again after this, doubling to the maximum.
const RESTART_WAIT: Duration = Duration::from_millis(50);
const RESTART_WAIT_MAX: Duration = Duration::from_secs(5);

/// A message, with the socket that goes with it.
pub(crate) type Outgoing = (ToProxy, Option<Arc<TcpListener>>);

/// The way to the proxy. What is queued while there is none is lost: `Input::ProxyUp` asks for everything again.
#[derive(Clone)]
pub(crate) struct ProxyLink {
    outgoing: mpsc::UnboundedSender<Outgoing>,
}

impl ProxyLink {
    /// Connects to the proxy that runs, or starts one, and goes on doing so.
    pub(crate) fn start(layout: &Layout, exe: &Path, inputs: Inputs) -> Self {
        let (outgoing, queue) = mpsc::unbounded_channel();
        let keeper = Keeper {
            layout: layout.clone(),
            exe: exe.to_owned(),
            inputs,
        };
        tokio::spawn(keeper.run(queue));
        Self { outgoing }
    }

    pub(crate) fn queue(&self, message: ToProxy, socket: Option<Arc<TcpListener>>) {
        // The keeper ends only with the agent.
        let _ = self.outgoing.send((message, socket));
    }
}

/// Why there is no connection to a proxy any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProxyEnd {
    /// Its connection ended, or could not be written to.
    Died,
    /// It answered no ping, and was ended by us.
    Hung,
}

impl ProxyEnd {
    /// Its event: kind, text, and why.
    pub(crate) fn in_words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Died => (
                "proxy-died",
                "the proxy died; another one is being started on the same sockets",
                "its connection to the agent ended",
            ),
            Self::Hung => (
                "proxy-hung",
                "the proxy hung and was killed; another one is being started on the same sockets",
                "it answered nothing for two seconds",
            ),
        }
    }
}

struct Keeper {
    layout: Layout,
    exe: PathBuf,
    inputs: Inputs,
}

impl Keeper {
    async fn run(self, mut queue: mpsc::UnboundedReceiver<Outgoing>) {
        let mut wait = RESTART_WAIT;
        loop {
            let begun = Instant::now();
            match self.connect().await {
                Ok((client, pid, fronts)) => {
                    // What was queued for the proxy before is part of what ProxyUp asks for again.
                    while let Ok((message, _)) = queue.try_recv() {
                        if matches!(message, ToProxy::Shutdown { .. }) {
                            let mut client = client;
                            let _ = client.send(&message, None).await;
                            return;
                        }
                    }
                    if self.inputs.send(Input::ProxyUp { fronts, pid }).is_err() {
                        return;
                    }
                    let Some(end) = self.talk(client, pid, &mut queue).await else {
                        return;
                    };
                    let _ = self.inputs.send(Input::ProxyDown(end));
                }
                Err(problem) => tracing::error!(problem, "there is no proxy; clients wait"),
            }
            // One that had worked is replaced at once: clients wait at the door.
            if begun.elapsed() > YOUNG {
                wait = RESTART_WAIT;
                continue;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RESTART_WAIT_MAX);
        }
    }

    async fn connect(&self) -> Result<(ProxyClient, u32, Vec<(api::proxy::Front, TcpListener)>), String> {
        let socket = self.layout.proxy_socket();
        match tokio::time::timeout(GREETING, ProxyClient::connect(&socket)).await {
            Ok(Ok((client, hello))) => return Ok((client, hello.pid, hello.fronts)),
            Ok(Err(ConnectError::NotRunning { .. })) => {}
            // One of another version, or one that hangs: it would follow no route any more.
            Ok(Err(error)) => {
                tracing::warn!(error = %crate::executor::chain(&error), "cannot talk to the proxy that runs; replacing it");
                end_owner(&socket).await;
            }
            Err(_) => {
                tracing::warn!("the proxy that runs does not answer; replacing it");
                end_owner(&socket).await;
            }
        }
        let mut child = self
            .spawn()
            .map_err(|error| format!("the proxy cannot be started: {error}"))?;
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            match ProxyClient::connect(&socket).await {
                Ok((client, hello)) => {
                    // Reaps it when it dies; it is not killed with us.
                    tokio::spawn(async move {
                        if let Ok(status) = child.wait().await {
                            tracing::warn!(%status, "the proxy ended");
                        }
                    });
                    return Ok((client, hello.pid, hello.fronts));
                }
                Err(error) if Instant::now() > deadline => return Err(crate::executor::chain(&error)),
                Err(_) => {}
            }
            if let Ok(Some(status)) = child.try_wait() {
                let log = self.layout.own_log("proxy");
                return Err(format!(
                    "the proxy ended at once ({status}); `{}` says why",
                    log.display()
                ));
            }
            tokio::time::sleep(START_POLL).await;
        }
    }

    fn spawn(&self) -> std::io::Result<tokio::process::Child> {
        // Somebody may have emptied it a moment ago.
        make_folder(&self.layout.run()).map_err(std::io::Error::other)?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o640)
            .open(self.layout.own_log("proxy"))?;
        let mut command = std::process::Command::new(&self.exe);
        command
            .arg("proxy")
            .arg("--socket")
            .arg(self.layout.proxy_socket())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A group of its own: a Ctrl-C at the terminal is not meant for it.
            .process_group(0);
        tokio::process::Command::from(command).kill_on_drop(false).spawn()
    }

    /// Passes messages until the connection ends; `None` when the agent ends.
    async fn talk(
        &self,
        mut client: ProxyClient,
        pid: u32,
        queue: &mut mpsc::UnboundedReceiver<Outgoing>,
    ) -> Option<ProxyEnd> {
        let mut pings = tokio::time::interval(PING_EVERY);
        // After a stall of our own the proxy gets its time anew.
        pings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut unanswered = 0;
        loop {
            tokio::select! {
                _ = pings.tick() => {
                    unanswered += 1;
                    if unanswered > PINGS_UNANSWERED_MAX {
                        tracing::warn!(pid, "the proxy hangs; replacing it");
                        end(pid).await;
                        return Some(ProxyEnd::Hung);
                    }
                    if client.queue(&ToProxy::Ping, None).is_err() {
                        return Some(ProxyEnd::Died);
                    }
                }
                outgoing = queue.recv() => {
                    let (message, socket) = outgoing?;
                    let last = matches!(message, ToProxy::Shutdown { .. });
                    let socket = socket.as_ref().map(|socket| socket.as_fd());
                    if let Err(error) = client.send(&message, socket).await {
                        tracing::warn!(error = %crate::executor::chain(&error), "lost the proxy");
                        return Some(ProxyEnd::Died);
                    }
                    if last {
                        // It ends because we want it to: no other one is wanted.
                        return None;
                    }
                }
                received = client.receive() => match received {
                    Ok((FromProxy::Pong, _)) => unanswered = 0,
                    Ok((message, _)) => {
                        unanswered = 0;
                        if self.inputs.send(Input::Proxy(message)).is_err() {
                            return None;
                        }
                    }
                    Err(proxy::client::WireError::NotUnderstood { start, .. }) => {
                        tracing::warn!(start, "the proxy said something that was not understood");
                    }
                    Err(error) => {
                        tracing::warn!(error = %crate::executor::chain(&error), "lost the proxy");
                        return Some(ProxyEnd::Died);
                    }
                },
            }
        }
    }
}

/// Ends the process that holds a socket of ours, whatever state it is in.
async fn end_owner(socket: &Path) {
    let Ok(stream) = std::os::unix::net::UnixStream::connect(socket) else {
        return;
    };
    if let Ok(owner) = rustix::net::sockopt::socket_peercred(&stream) {
        end(owner.pid.as_raw_nonzero().get().unsigned_abs()).await;
    }
}

async fn end(pid: u32) {
    let Some(process) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else {
        return;
    };
    if rustix::process::kill_process(process, rustix::process::Signal::KILL).is_ok() {
        // Its sockets are free when it is gone.
        let _ = tokio::task::spawn_blocking(move || guard::watch::end_of(pid)).await;
    }
}
