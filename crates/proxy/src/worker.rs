//! A worker: a thread with a runtime of its own. What it needs for a request belongs to it alone.

use crate::callers::Asker;
use crate::control::Event;
use crate::counters::Counters;
use crate::front::{Front, NewRoute, Settings};
use crate::{http, tcp};
use model::{Protocol, ServiceName};
use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;

/// How long cut connections may take to end before the worker ends without them.
const CUT_PATIENCE: Duration = Duration::from_millis(500);

/// Also the reason that a connect costs no wake-up of the timer: its deadline lies behind this one.
const SWEEP_EVERY: Duration = Duration::from_millis(150);

/// What bulk data moves through, one per worker.
const SCRATCH_BYTES: usize = 64 * 1024;

/// Buffers kept for the next request.
const BUFFERS_KEPT: usize = 256;

/// A buffer that grew past this for one request is not kept.
const BUFFER_KEPT_BYTES_MAX: usize = 96 * 1024;

/// From control.
pub(crate) enum Command {
    /// Serve a service, or serve it at another address.
    Serve {
        service: ServiceName,
        settings: Settings,
        listener: std::net::TcpListener,
        counters: Arc<Counters>,
        holding: Arc<AtomicU32>,
    },
    Settings {
        service: ServiceName,
        settings: Settings,
    },
    Route {
        service: ServiceName,
        revision: u64,
        route: NewRoute,
    },
    Remove {
        service: ServiceName,
        drain: Duration,
    },
    Shutdown {
        drain: Duration,
    },
}

/// Starts one.
pub(crate) fn start(index: usize, events: UnboundedSender<Event>) -> io::Result<UnboundedSender<Command>> {
    let (commands, receiver) = unbounded_channel();
    let runtime = move || {
        Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
    };
    // Tried here once: a worker that cannot start is an error of the process, not of a thread nobody watches.
    drop(runtime()?);
    std::thread::Builder::new()
        .name(format!("proxy-worker-{index}"))
        .spawn(move || {
            match runtime() {
                Ok(runtime) => runtime.block_on(Worker::new(index, events.clone()).run(receiver)),
                Err(error) => tracing::error!(%error, "a worker could not start"),
            }
            let _ = events.send(Event::Finished);
        })?;
    Ok(commands)
}

struct Worker {
    index: usize,
    events: UnboundedSender<Event>,
    fronts: BTreeMap<ServiceName, Serving>,
    buffers: Rc<Buffers>,
    asker: Rc<Asker>,
}

struct Serving {
    front: Rc<Front>,
    accepting: AbortHandle,
}

impl Worker {
    fn new(index: usize, events: UnboundedSender<Event>) -> Self {
        Self {
            index,
            events,
            fronts: BTreeMap::new(),
            buffers: Rc::default(),
            asker: Rc::default(),
        }
    }

    async fn run(mut self, mut commands: UnboundedReceiver<Command>) {
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let command = tokio::select! {
                command = commands.recv() => command,
                _ = sweep.tick() => {
                    for serving in self.fronts.values() {
                        serving.front.sweep();
                    }
                    continue;
                }
            };
            match command {
                Some(Command::Shutdown { drain }) => return self.shutdown(drain).await,
                Some(command) => self.carry_out(command),
                None => return,
            }
        }
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Serve {
                service,
                settings,
                listener,
                counters,
                holding,
            } => {
                let front = match self.fronts.get(&service) {
                    Some(serving) => Rc::clone(&serving.front),
                    None => Rc::new(Front::new(
                        service.clone(),
                        settings,
                        counters,
                        holding,
                        self.index,
                        self.events.clone(),
                    )),
                };
                front.set(settings);
                let error = self.open(front, listener).err().map(|error| error.to_string());
                let _ = self.events.send(Event::Opened { service, error });
            }
            Command::Settings { service, settings } => {
                if let Some(serving) = self.fronts.get(&service) {
                    serving.front.set(settings);
                }
            }
            Command::Route {
                service,
                revision,
                route,
            } => {
                if let Some(serving) = self.fronts.get(&service) {
                    serving.front.reroute(&route);
                }
                let _ = self.events.send(Event::Routed { service, revision });
            }
            Command::Remove { service, drain } => {
                if let Some(serving) = self.fronts.remove(&service) {
                    tokio::task::spawn_local(close(serving, drain));
                }
            }
            Command::Shutdown { .. } => unreachable!("ends the loop"),
        }
    }

    fn open(&mut self, front: Rc<Front>, listener: std::net::TcpListener) -> io::Result<()> {
        let listener = TcpListener::from_std(listener)?;
        let service = front.service.clone();
        let accept = accept(
            Rc::clone(&front),
            Rc::clone(&self.buffers),
            Rc::clone(&self.asker),
            listener,
        );
        let accepting = tokio::task::spawn_local(accept).abort_handle();
        if let Some(before) = self.fronts.insert(service, Serving { front, accepting }) {
            before.accepting.abort();
        }
        Ok(())
    }

    async fn shutdown(self, drain: Duration) {
        let closing: Vec<_> = self
            .fronts
            .into_values()
            .map(|serving| tokio::task::spawn_local(close(serving, drain)))
            .collect();
        for closed in closing {
            let _ = closed.await;
        }
    }
}

/// Ends a service: nothing new at once, what is under way within `drain`.
async fn close(serving: Serving, drain: Duration) {
    serving.accepting.abort();
    let front = serving.front;
    front.close();
    if tokio::time::timeout(drain, front.emptied()).await.is_err() {
        front.cut();
        let _ = tokio::time::timeout(CUT_PATIENCE, front.emptied()).await;
    }
}

/// Accepts until aborted.
async fn accept(front: Rc<Front>, buffers: Rc<Buffers>, asker: Rc<Asker>, listener: TcpListener) {
    const PAUSE_MIN: Duration = Duration::from_millis(5);
    const PAUSE_MAX: Duration = Duration::from_millis(200);
    let mut pause = PAUSE_MIN;
    let mut logged: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((client, peer)) => {
                pause = PAUSE_MIN;
                welcome(&front, &buffers, &asker, client, peer);
            }
            Err(error) => {
                front.counters.failed.add(1);
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                ) {
                    continue;
                }
                if logged.is_none_or(|at| at.elapsed() > Duration::from_secs(1)) {
                    logged = Some(Instant::now());
                    tracing::error!(service = %front.service, %error, "cannot accept a connection");
                }
                // Without files to open there is nothing to do but wait until some are closed.
                front.sweep();
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

fn welcome(front: &Rc<Front>, buffers: &Rc<Buffers>, asker: &Asker, client: TcpStream, peer: SocketAddr) {
    let front = Rc::clone(front);
    let buffers = Rc::clone(buffers);
    let caller = asker.area(&client, peer, &front.counters.callers);
    let open = front.opened(caller);
    match front.settings().protocol {
        Protocol::Tcp => tokio::task::spawn_local(async move {
            tcp::serve(front, buffers, client, &open).await;
        }),
        Protocol::Http => tokio::task::spawn_local(async move {
            http::serve(front, buffers, client, peer, open).await;
        }),
    };
}

/// Memory that requests take turns at.
pub(crate) struct Buffers {
    scratch: RefCell<Box<[u8]>>,
    kept: RefCell<Vec<Vec<u8>>>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self {
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into()),
            kept: RefCell::default(),
        }
    }
}

impl Buffers {
    /// For use within one poll.
    pub(crate) fn scratch(&self) -> RefMut<'_, Box<[u8]>> {
        self.scratch.borrow_mut()
    }

    /// A buffer of at least `bytes`, with anything in it.
    pub(crate) fn take(&self, bytes: usize) -> Vec<u8> {
        let mut buffer = self.kept.borrow_mut().pop().unwrap_or_default();
        if buffer.len() < bytes {
            buffer.resize(bytes, 0);
        }
        buffer
    }

    /// Gives it back.
    pub(crate) fn give(&self, buffer: Vec<u8>) {
        let mut kept = self.kept.borrow_mut();
        if kept.len() < BUFFERS_KEPT && buffer.len() <= BUFFER_KEPT_BYTES_MAX {
            kept.push(buffer);
        }
    }
}
