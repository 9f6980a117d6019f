//! The fence's loop: renewals first, then what is due, then everything else.

mod answers;

use super::cgroup::{Cgroup, mount_point};
use super::clock::{Timer, mark};
use super::fire::{Fire, News, rehearse};
use super::protocol::{Armament, PACKET_BYTES_MAX, Reply, Request, SelfTest};
use super::socket::{CONNECTIONS_MAX, Connection, Received, accept, listen_at, which};
use super::watchdog::Watchdog;
use super::words::{Event, Key, Policy};
use super::worker::{Report, Worker, drain};
use super::{Config, Error, realtime};
use crate::silence::Silence;
use crate::watch;
use model::{Epoch, Mark, Millis, SlotId};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// How often it looks while something is armed; the deadline itself is waited for exactly.
const TICK: Duration = Duration::from_millis(20);
/// While there is nothing to keep but the agent.
const IDLE_TICK: Duration = Duration::from_millis(100);
/// Renewals and heartbeats read from one connection before looking at the deadlines again: more have gathered only in a stall,
/// and the newest renewal of a stall of ten seconds is within so many.
const HOT_MAX: usize = 256;
/// How often it is looked whether the socket is still there.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Lines for the log that are kept while the disk does not take them. More are dropped.
const LOG_LINES: usize = 256;

/// Ends the loop.
#[derive(Debug)]
pub(super) struct Ender {
    ending: Arc<AtomicBool>,
    armed: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Ender {
    pub(super) fn is_anything_armed(&self) -> bool {
        self.armed.load(SeqCst)
    }

    pub(super) fn end(self) {
        self.ending.store(true, SeqCst);
        // It looks within one tick.
        let _ = self.thread.join();
    }
}

/// Starts the threads; returns when the socket can be connected to.
pub(super) fn start(config: Config) -> Result<Ender, Error> {
    let (listener, file) = listen_at(&config.socket).map_err(|source| Error::Listen {
        path: config.socket.clone(),
        source,
    })?;
    let watchdog = config.watchdog.as_ref().map(Watchdog::open).transpose()?;
    let timer = Timer::new()?;
    let worker = Worker::start(config.cluster.clone())?;
    let log = start_log()?;
    let ending = Arc::new(AtomicBool::new(false));
    let ending_too = ending.clone();
    let armed = Arc::new(AtomicBool::new(false));
    let armed_too = armed.clone();
    let doors = keep_socket(config.socket.clone(), file, ending.clone())?;
    let thread = std::thread::Builder::new().name("fence".into()).spawn(move || {
        // A guard without a fence must not look alive: the agent sees it go, freezes, and starts another.
        let _abort = AbortOnPanic;
        let lacks = get_ready(&config, &worker);
        let server = Server {
            config,
            listener,
            doors,
            timer,
            worker,
            log,
            watchdog,
            petted: None,
            lacks,
            test: Test::Unasked,
            fire: Fire::default(),
            connections: Vec::with_capacity(CONNECTIONS_MAX),
            buffer: vec![0; PACKET_BYTES_MAX],
            waiting: Vec::new(),
            agent: None,
            silence: Silence::default(),
            ending: ending_too,
            armed: armed_too,
        };
        server.serve();
    })?;
    Ok(Ender { ending, armed, thread })
}

/// A thread that makes the socket anew when somebody empties its folder: the next agent must find us. Not done by the fence itself, whose deadlines
/// wait for no disk.
fn keep_socket(path: PathBuf, mut file: Option<(u64, u64)>, ending: Arc<AtomicBool>) -> io::Result<Receiver<OwnedFd>> {
    let (tell, doors) = sync_channel(1);
    std::thread::Builder::new()
        .name("door".into())
        .stack_size(128 * 1024)
        .spawn(move || {
            while !ending.load(SeqCst) {
                std::thread::sleep(LOOK_EVERY);
                if file.is_some() && which(&path) == file {
                    continue;
                }
                match listen_again(&path) {
                    Ok((door, new)) => {
                        tracing::warn!(socket = %path.display(), "the guard's socket was removed; made anew");
                        file = new;
                        if tell.send(door).is_err() {
                            return;
                        }
                    }
                    Err(error) => tracing::debug!(%error, "the guard's socket cannot be made anew"),
                }
            }
        })?;
    Ok(doors)
}

fn listen_again(path: &Path) -> io::Result<(OwnedFd, Option<(u64, u64)>)> {
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o711).create(folder)?;
    }
    listen_at(path)
}

struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// A thread that writes the log: the disk it lies on may hang.
fn start_log() -> io::Result<SyncSender<String>> {
    let (lines, received) = sync_channel::<String>(LOG_LINES);
    std::thread::Builder::new()
        .name("log".into())
        .stack_size(128 * 1024)
        .spawn(move || {
            for line in received {
                tracing::warn!("{line}");
            }
        })?;
    Ok(lines)
}

/// Makes the calling thread what it has to be; returns what could not be had.
fn get_ready(config: &Config, worker: &Worker) -> Vec<String> {
    let mut lacks = Vec::new();
    if !config.realtime {
        lacks.push("real-time scheduling is switched off".into());
    } else if let Err(error) = realtime::become_realtime(realtime::FENCE_PRIORITY) {
        lacks.push(format!(
            "real-time scheduling is not allowed: {error}; run as root, or with LimitRTPRIO={} and CAP_SYS_NICE",
            realtime::FENCE_PRIORITY
        ));
    }
    if let Err(error) = realtime::stay_in_memory() {
        lacks.push(format!(
            "memory cannot be locked: {error}; run as root, or with LimitMEMLOCK=infinity"
        ));
    }
    if let Err(error) = mount_point() {
        lacks.push(error.to_string());
    }
    realtime::touch_stack();
    if let Ok(cgroup) = Cgroup::of_nothing() {
        rehearse(nothing(), cgroup, worker.gate());
    }
    lacks
}

/// A slot for the rehearsal.
fn nothing() -> Armament {
    let name = |text: &str| model::ServiceName::new(text).unwrap_or_else(|_| unreachable!("a lawful name"));
    Armament {
        slot: SlotId {
            service: name("rehearsal"),
            slot: 0,
        },
        epoch: Epoch(1),
        policy: Policy::Freeze,
        frozen_max: Millis(0),
        cgroup: "/".into(),
        ports: Vec::new(),
        addresses: Vec::new(),
        floating: None,
        exchanged: None,
    }
}

enum Test {
    Unasked,
    Asked,
    Done(SelfTest),
}

/// An armed slot whose gate is being opened, and by whom.
struct Waiting {
    key: Key,
    incarnation: u64,
}

struct Agent {
    pid: u32,
    process: watch::Process,
}

struct Server {
    config: Config,
    listener: OwnedFd,
    /// Other ones, after somebody took the socket away.
    doors: Receiver<OwnedFd>,
    timer: Timer,
    worker: Worker,
    log: SyncSender<String>,
    watchdog: Option<Watchdog>,
    petted: Option<Mark>,
    lacks: Vec<String>,
    test: Test,
    fire: Fire,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
    waiting: Vec<Waiting>,
    agent: Option<Agent>,
    silence: Silence,
    ending: Arc<AtomicBool>,
    armed: Arc<AtomicBool>,
}

impl Server {
    fn serve(mut self) {
        while !self.ending.load(SeqCst) {
            if let Err(error) = self.wait() {
                // Without a way to wait there is no fence.
                let _ = self.log.try_send(format!("the fence cannot wait: {error}"));
                std::thread::sleep(TICK);
                std::process::abort();
            }
            self.read_renewals();
            let now = mark();
            self.fire.tick(now);
            self.armed.store(self.fire.is_anything_armed(), SeqCst);
            self.tell_news();
            self.pet(now);
            self.do_deferred();
            self.take_reports();
            if let Ok(door) = self.doors.try_recv() {
                self.listener = door;
            }
            while let Some(connection) = accept(&self.listener) {
                if self.connections.len() < CONNECTIONS_MAX {
                    self.connections.push(connection);
                }
            }
            self.judge_silence(now);
        }
        if let Some(watchdog) = self.watchdog.take()
            && !self.fire.is_anything_armed()
        {
            let _ = watchdog.close();
        }
    }

    fn wait(&mut self) -> io::Result<()> {
        let now = mark();
        // What is connected already and was deferred is looked at at once.
        let more = self.connections.iter().any(|connection| connection.deferred.is_some());
        let tick = if self.fire.is_anything_armed() { TICK } else { IDLE_TICK };
        let next = self.fire.machine.next_wakeup(now).map_or(tick, |next| next.min(tick));
        self.timer.set(now, if more { Duration::ZERO } else { next })?;
        let reported = self.worker.reported.clone();
        let mut fds = [const { None }; CONNECTIONS_MAX + 3];
        fds[0] = Some(PollFd::new(&self.timer, PollFlags::IN));
        fds[1] = Some(PollFd::new(&self.listener, PollFlags::IN));
        fds[2] = Some(PollFd::new(&*reported, PollFlags::IN));
        for (at, connection) in self.connections.iter().enumerate() {
            fds[3 + at] = Some(PollFd::new(&connection.socket, PollFlags::IN));
        }
        let mut fds: [PollFd<'_>; CONNECTIONS_MAX + 3] =
            fds.map(|fd| fd.unwrap_or_else(|| PollFd::new(&self.timer, PollFlags::empty())));
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes in renewals and heartbeats; the first other message of a connection has to wait until what is due is done.
    fn read_renewals(&mut self) {
        let mut at = 0;
        while at < self.connections.len() {
            let mut alive = true;
            for _ in 0..HOT_MAX {
                if self.connections[at].deferred.is_some() {
                    break;
                }
                match self.connections[at].receive(&mut self.buffer) {
                    Received::Request(Request::Renewed { session, mark }) => self.renewed(at, session, mark),
                    Received::Request(Request::Heartbeat) => alive = self.heard(at),
                    Received::Request(request) => self.connections[at].deferred = Some(request),
                    Received::Nonsense(why) => {
                        alive = self.connections[at].tell(&Reply::Refused { slot: None, why });
                    }
                    Received::Nothing => break,
                    Received::End => alive = false,
                }
                if !alive {
                    break;
                }
            }
            if alive {
                at += 1;
            } else {
                self.connections.swap_remove(at);
            }
        }
    }

    fn renewed(&mut self, at: usize, session: u64, renewed: Mark) {
        let Some(incarnation) = self.connections[at].incarnation else {
            return;
        };
        let event = Event::Renewed { session, mark: renewed };
        if let Err(refused) = self.fire.machine.handle(incarnation, event, mark()) {
            let why = refused.to_string();
            let _ = self.connections[at].tell(&Reply::Refused { slot: None, why });
        }
        self.fire.carry_out();
    }

    /// False if it does not read the answer.
    fn heard(&mut self, at: usize) -> bool {
        if self.connections[at].incarnation.is_none() {
            return true;
        }
        if self.is_latest(at) {
            self.silence.heard(mark());
        }
        self.connections[at].tell(&Reply::Alive)
    }

    fn is_latest(&self, at: usize) -> bool {
        let incarnation = self.connections[at].incarnation;
        incarnation.is_some() && incarnation == self.fire.machine.latest()
    }

    fn take_reports(&mut self) {
        drain(&self.worker.reported);
        while let Ok(report) = self.worker.reports.try_recv() {
            match report {
                Report::Tested(test) => {
                    self.tell_latest(&Reply::SelfTest(test.clone()));
                    self.test = Test::Done(test);
                }
                Report::Gated(key, result) => self.gated(key, result),
                Report::Trouble(trouble) => {
                    let _ = self.log.try_send(trouble);
                }
            }
        }
    }

    fn tell_news(&mut self) {
        while let Some(News { key, what, late }) = self.fire.poll_news() {
            let slot = &self.fire.machine.slots()[key];
            let (slot, epoch) = (slot.id.clone(), slot.epoch);
            let _ = self
                .log
                .try_send(format!("slot {slot} at epoch {epoch}: {what:?}{}", Late(late)));
            let late_us = late.and_then(|late| u64::try_from(late.as_micros()).ok());
            self.tell_latest(&Reply::Event {
                slot,
                epoch,
                what,
                late_us,
            });
        }
    }

    fn tell_latest(&mut self, reply: &Reply) {
        let latest = self.fire.machine.latest();
        self.connections.retain(|connection| {
            connection.incarnation.is_none() || connection.incarnation != latest || connection.tell(reply)
        });
    }

    fn judge_silence(&mut self, now: Mark) {
        if !self.silence.is_watched() || !self.silence.look(now, self.config.agent_timeout) {
            return;
        }
        self.silence.forget();
        let Some(agent) = self.agent.take() else { return };
        let what = match agent.process.kill() {
            Ok(()) => "killed it".to_owned(),
            Err(error) => format!("failed to kill it: {error}"),
        };
        let _ = self.log.try_send(format!(
            "agent {} said nothing for {}ms: {what}",
            agent.pid,
            self.config.agent_timeout.as_millis()
        ));
    }

    /// Only while every deadline is kept.
    fn pet(&mut self, now: Mark) {
        let Some(watchdog) = &self.watchdog else { return };
        let due = self
            .petted
            .is_none_or(|petted| now.held_for(petted) >= watchdog.timeout() / 4);
        if due && self.fire.keeps_deadlines() && watchdog.pet().is_ok() {
            self.petted = Some(now);
        }
    }
}

/// For the log.
struct Late(Option<Duration>);

impl std::fmt::Display for Late {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(late) => write!(f, ", {}us after its deadline", late.as_micros()),
            None => Ok(()),
        }
    }
}
