//! This node's own session: a thread of its own renews it, so that nothing else the agent does can make a renewal late.
//!
//! ```text
//!  main loop ── Order ──► thread: lease::Holder ── T1, T2, probes ──► store (connections of its own)
//!      ▲                      │        ▲
//!      └────── News ──────────┘        └── fence (guard): armed, fired
//! ```
//! All deadlines count from the moment before a renewal is sent. What the guard is told comes from here and from nowhere else.

use super::clock::mark;
use super::fence::{Fence, Fenced};
use super::silence::Missing;
use crate::input::Input;
use crate::journal::Inputs;
use decisions::lease::{Covered, Holder, HolderAction, HolderEvent, HolderOptions, Lost, Still};
use guard::fence::protocol::Floating;
use model::timing::observer_wait;
use model::{Epoch, InstanceId, Mark, Millis, NodeName, Revision, SlotId, Timing};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use store::Store;
use store::session::{self, Opened, Record, Renewal, Session};
use tokio::sync::{mpsc, oneshot, watch};

/// Version of the takeover protocol that we speak.
pub(crate) const PROTOCOL: u32 = 3;
/// From this version on a session that is opened or ended is also told apart (`there/NODE`): while an older agent has one, nobody relies on that.
pub(crate) const TELLS_WHO_IS_THERE: u32 = 2;
/// From this version on agents wait for proof where a service shares storage, and open no session while somebody is at their power.
pub(crate) const FENCES_BY_POWER: u32 = 3;

/// Something for the thread to do.
pub(crate) enum Order {
    /// Whether a slot is held or about to be: renew often, so that others notice our end soon.
    Fast(bool),
    /// Whether nothing exclusive of ours runs.
    Empty(bool),
    /// Arm the guard for an instance, if the session covers it now.
    Arm {
        instance: InstanceId,
        slot: SlotId,
        epoch: Epoch,
        cgroup: PathBuf,
        gates: Vec<super::fence::Gate>,
        /// The session under which the slot was taken: another one that is open by now covers nothing of it.
        session: Revision,
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// What is armed goes on with another address, and for now with that of before too if it `keeps` it.
    Readdress {
        instance: InstanceId,
        epoch: Epoch,
        to: Option<Floating>,
        keeps: bool,
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// What stood still under an earlier session goes on under this one, which its slot is bound to now.
    Rebind {
        slot: SlotId,
        epoch: Epoch,
        session: Revision,
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// It does not act any more.
    Disarm(InstanceId),
    /// The main loop goes round: an agent that does not is replaced by the guard.
    Beat,
    /// End the session (T3), for nothing exclusive runs and nothing shall.
    Close(oneshot::Sender<()>),
}

/// What the main loop hears of it.
#[derive(Debug)]
pub(crate) enum News {
    /// A renewal was acknowledged under this session, so long after its send.
    Renewed {
        session: Revision,
        sent: Mark,
        took: Duration,
    },
    /// A write was not answered, or refused.
    Failed(Missing),
    /// After that, what came of something that only reads.
    Probed(Result<(), Missing>),
    /// The session is lost: nothing exclusive may act.
    Lost { why: Lost, kept: bool },
    /// Everything exclusive stands still, or goes on.
    Frozen(Option<Still>),
    /// This agent woke up late.
    Late(Duration),
    /// The node has another session that is not ours.
    Taken(Box<Session>),
    /// What the guard says of itself: it can fence, or why not.
    Fencing(Result<String, String>),
    /// The guard ended an instance.
    Ended(InstanceId),
    /// The guard took the floating address of an instance away that goes on.
    AddressLost(InstanceId),
}

/// What the thread starts from.
pub(crate) struct Setup {
    pub(crate) node: NodeName,
    pub(crate) timing: Timing,
    pub(crate) record: Record,
    /// Where the session is noted, for the next agent of this boot.
    pub(crate) noted: PathBuf,
    /// A folder on the disk that the services use.
    pub(crate) disk: PathBuf,
    pub(crate) inputs: Inputs,
}

/// A session, for the next agent of this boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Noted {
    pub(crate) boot: String,
    pub(crate) session: Revision,
    pub(crate) seq: u64,
    /// When the last acknowledged renewal was sent.
    pub(crate) acked: Option<Mark>,
}

impl Noted {
    /// That of this boot, if there is one. Damaged or of another boot is none: nothing is lost but the session.
    pub(crate) fn read(path: &Path, boot: &str) -> Option<Self> {
        let noted: Self = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        (noted.boot == boot).then_some(noted)
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(self).map_err(io::Error::other)?)?;
        std::fs::rename(new, path)
    }
}

/// Our session, and when its newest acknowledged renewal was sent; `None` without one.
pub(crate) type Renewed = Option<(Revision, Mark)>;

/// Talks to the thread.
#[derive(Clone)]
pub(crate) struct SessionLink {
    orders: mpsc::UnboundedSender<Order>,
    /// What deadlines beside the guard's count from.
    pub(crate) renewals: watch::Receiver<Renewed>,
    /// The session that the main loop decides under; 0 for none.
    known: Arc<AtomicU64>,
}

impl SessionLink {
    /// Starts the thread. `store` has connections that nobody else uses.
    pub(crate) fn start(setup: Setup, fence: Fence, store: Arc<dyn Store>) -> io::Result<Self> {
        let (orders, queue) = mpsc::unbounded_channel();
        let noted = Noted::read(&setup.noted, &setup.record.boot);
        let renewed = noted.and_then(|noted| Some((noted.session, noted.acked?)));
        let (tell, renewals) = watch::channel(renewed);
        std::thread::Builder::new().name("session".into()).spawn(move || {
            prefer_us();
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    tracing::error!(%error, "the session's thread cannot work");
                    return;
                }
            };
            runtime.block_on(Keeper::new(setup, fence, store, tell).run(queue));
        })?;
        Ok(Self {
            orders,
            renewals,
            known: Arc::default(),
        })
    }

    /// From now on the main loop decides under this session.
    pub(crate) fn decides_under(&self, session: Option<Revision>) {
        self.known.store(session.unwrap_or_default().0, Ordering::Relaxed);
    }

    /// The session that the main loop decides under.
    pub(crate) fn session(&self) -> Revision {
        Revision(self.known.load(Ordering::Relaxed))
    }

    /// The thread lives as long as the agent.
    pub(crate) fn order(&self, order: Order) {
        let _ = self.orders.send(order);
    }
}

/// A little ahead of services and of our own other threads, where that is allowed.
fn prefer_us() {
    let _ = rustix::process::setpriority_process(None, -10);
}

enum Answer {
    Opened {
        attempt: u64,
        result: Result<Opened, session::SessionError>,
    },
    Renewed {
        attempt: u64,
        sent: Mark,
        result: Result<Renewal, session::SessionError>,
    },
    Probed(Result<(), Missing>),
    Health {
        ok: bool,
        at: Mark,
    },
}

struct Keeper {
    setup: Setup,
    fence: Fence,
    store: Arc<dyn Store>,
    holder: Holder,
    /// The session as it was opened or last renewed.
    session: Option<Session>,
    told: Option<Revision>,
    seq: u64,
    answers: mpsc::UnboundedSender<Answer>,
    heard: Option<mpsc::UnboundedReceiver<Answer>>,
    last_noted: Option<Noted>,
    renewals: watch::Sender<Renewed>,
    /// Somebody is at our power by this record, seen since then.
    powering: Option<(Revision, Mark)>,
    /// And had all the time that he may take.
    past_fencer: Option<Revision>,
}

impl Keeper {
    fn new(setup: Setup, fence: Fence, store: Arc<dyn Store>, renewals: watch::Sender<Renewed>) -> Self {
        let options = HolderOptions::of(&setup.timing);
        // Above those of every earlier agent of this boot.
        let attempts = mark().boot_ns;
        let noted = Noted::read(&setup.noted, &setup.record.boot);
        let (holder, session, seq) = match &noted {
            Some(noted) => {
                let holder = Holder::adopt(setup.timing, options, attempts, noted.session, noted.seq, noted.acked);
                let session = Session {
                    node: setup.node.clone(),
                    id: noted.session,
                    modified: noted.session,
                    record: Record {
                        seq: noted.seq,
                        ..setup.record.clone()
                    },
                };
                (holder, Some(session), noted.seq)
            }
            None => (Holder::new(setup.timing, options, attempts), None, 0),
        };
        let (answers, heard) = mpsc::unbounded_channel();
        Self {
            setup,
            fence,
            store,
            holder,
            session,
            told: None,
            seq,
            answers,
            heard: Some(heard),
            last_noted: noted,
            renewals,
            powering: None,
            past_fencer: None,
        }
    }

    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        self.watch_disk();
        let Some(mut heard) = self.heard.take() else { return };
        loop {
            self.carry_out();
            let wait = self.holder.next_wakeup().map(|at| {
                // As soon as either clock gets there.
                let now = mark();
                let boot = at.boot_ns.saturating_sub(now.boot_ns);
                let raw = at.raw_ns.saturating_sub(now.raw_ns);
                Duration::from_nanos(boot.min(raw))
            });
            let event = tokio::select! {
                biased;
                fenced = self.fence.next() => Heard::Fence(fenced),
                answer = heard.recv() => match answer {
                    Some(answer) => Heard::Answer(answer),
                    None => return,
                },
                order = orders.recv() => match order {
                    Some(order) => Heard::Order(order),
                    None => return,
                },
                () = wait_for(wait) => Heard::Time,
            };
            match event {
                Heard::Time => self.tell(HolderEvent::Tick),
                Heard::Fence(fenced) => self.hear_fence(fenced),
                Heard::Answer(answer) => self.hear(answer),
                Heard::Order(Order::Close(done)) => {
                    self.close().await;
                    let _ = done.send(());
                    return;
                }
                Heard::Order(order) => self.take(order),
            }
        }
    }

    fn tell(&mut self, event: HolderEvent) {
        self.holder.handle(event, mark());
    }

    fn news(&self, news: News) {
        let _ = self.setup.inputs.send(Input::Session(news));
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Fast(fast) => self.tell(HolderEvent::FastWanted(fast)),
            Order::Empty(empty) => {
                self.fence.empty(empty);
                self.tell(HolderEvent::AllExclusiveEmpty(empty));
            }
            Order::Arm {
                instance,
                slot,
                epoch,
                cgroup,
                gates,
                session,
                answer,
            } => {
                // From here on something exclusive may run: the deadline matters.
                self.tell(HolderEvent::AllExclusiveEmpty(false));
                match self.holder.covered(mark()) {
                    Covered::Yes if self.holder.session() != Some(session) => {
                        let _ = answer.send(Err("the session under which the slot was taken is over".into()));
                    }
                    Covered::Yes => self.fence.arm(&instance, &slot, epoch, &cgroup, &gates, answer),
                    other => {
                        let _ = answer.send(Err(not_covered(other).to_owned()));
                    }
                }
            }
            Order::Readdress {
                instance,
                epoch,
                to,
                keeps,
                answer,
            } => self.fence.readdress(&instance, epoch, (to, keeps), answer),
            Order::Rebind {
                slot,
                epoch,
                session,
                answer,
            } => {
                self.tell(HolderEvent::AllExclusiveEmpty(false));
                match self.holder.covered(mark()) {
                    Covered::Yes if self.holder.session() == Some(session) => self.fence.rebind(&slot, epoch, answer),
                    Covered::Yes => {
                        let _ = answer.send(Err("the session that its slot was bound to is over".into()));
                    }
                    other => {
                        let _ = answer.send(Err(not_covered(other).to_owned()));
                    }
                }
            }
            Order::Disarm(instance) => self.fence.disarm(&instance),
            Order::Beat => self.fence.heartbeat(),
            Order::Close(_) => {}
        }
    }

    fn hear_fence(&mut self, fenced: Fenced) {
        match fenced {
            Fenced::Ready(what) => {
                self.tell(HolderEvent::GuardReady(true));
                self.news(News::Fencing(Ok(what)));
            }
            Fenced::NotReady(why) => {
                self.tell(HolderEvent::GuardReady(false));
                self.news(News::Fencing(Err(why)));
            }
            Fenced::AddressLost(instance) => self.news(News::AddressLost(instance)),
            Fenced::Fired(instance) => {
                self.tell(HolderEvent::GuardFired);
                self.news(News::Ended(instance));
            }
        }
    }

    fn hear(&mut self, answer: Answer) {
        match answer {
            Answer::Opened { attempt, result } => match result {
                Ok(Opened::Open(session)) => {
                    let event = HolderEvent::Opened {
                        attempt,
                        id: session.id,
                        seq: session.record.seq,
                    };
                    self.seq = session.record.seq;
                    self.session = Some(session);
                    self.tell(event);
                }
                Ok(Opened::Powering { record, revision }) => {
                    let now = mark();
                    if self.powering.is_none_or(|(known, _)| known != revision) {
                        tracing::warn!(by = %record.by, because = record.because, "somebody takes this node's power away; no session before that is over");
                        self.powering = Some((revision, now));
                    }
                    let (_, since) = self.powering.unwrap_or((revision, now));
                    let over = now.waited_for(since) >= observer_wait(record.bound);
                    self.past_fencer = over.then_some(revision);
                    self.tell(HolderEvent::OpenFailed { attempt });
                }
                Ok(Opened::Taken(session)) => {
                    self.news(News::Taken(Box::new(session)));
                    self.tell(HolderEvent::OpenTaken { attempt });
                }
                Err(error) => {
                    tracing::debug!(%error, "no session yet");
                    self.news(News::Failed(Missing::of(&error)));
                    self.tell(HolderEvent::OpenFailed { attempt });
                }
            },
            Answer::Renewed { attempt, sent, result } => match result {
                Ok(Renewal::Renewed(session)) => {
                    let id = session.id;
                    if self.session.as_ref().is_some_and(|ours| ours.id == id) {
                        self.session = Some(session);
                    }
                    self.tell(HolderEvent::Renewed { attempt, sent });
                    let took = mark().held_for(sent);
                    self.news(News::Renewed {
                        session: id,
                        sent,
                        took,
                    });
                    self.note();
                }
                Ok(Renewal::Fenced(grave)) => {
                    tracing::warn!(?grave, "the session was ended by others");
                    self.tell(HolderEvent::RenewalFenced { attempt });
                }
                Err(error) => {
                    tracing::debug!(%error, "a renewal was not acknowledged");
                    self.news(News::Failed(Missing::of(&error)));
                    self.tell(HolderEvent::RenewalFailed { attempt });
                }
            },
            Answer::Probed(result) => {
                // One that is refused says no more of the next renewal than one that is not answered.
                self.tell(match &result {
                    Ok(()) => HolderEvent::ProbeAnswered,
                    Err(_) => HolderEvent::ProbeFailed,
                });
                self.news(News::Probed(result));
            }
            Answer::Health { ok, at } => self.tell(HolderEvent::NodeHealth { ok, at }),
        }
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.holder.poll() {
            match action {
                HolderAction::Open { attempt } => self.open(attempt),
                HolderAction::Renew {
                    attempt,
                    session,
                    seq,
                    lease,
                    sent,
                } => self.renew(attempt, session, seq, lease, sent),
                // The store's renewal handle hedges by itself.
                HolderAction::Hedge { .. } => {}
                HolderAction::Probe => self.probe(),
                HolderAction::TellGuard { mark } => {
                    if let Some(session) = self.holder.session() {
                        self.fence.renewed(session, mark);
                        self.renewals.send_replace(Some((session, mark)));
                    }
                }
                HolderAction::Fenced { why, was_frozen } => {
                    tracing::warn!(%why, "fenced");
                    if let Lost::Session(_) = why {
                        self.told = None;
                        let _ = std::fs::remove_file(&self.setup.noted);
                        self.last_noted = None;
                    }
                    let kept = was_frozen && matches!(why, Lost::Session(_)) && self.fence.keep();
                    if !kept {
                        self.fence.kill_all();
                    }
                    self.renewals.send_replace(None);
                    self.news(News::Lost { why, kept });
                }
                HolderAction::Frozen { why } => {
                    if why == Still::NoGuard {
                        self.fence.freeze_all();
                    } else {
                        self.fence.expect_still();
                    }
                    self.news(News::Frozen(Some(why)));
                }
                HolderAction::Thawed => {
                    self.fence.may_go_on();
                    self.news(News::Frozen(None));
                }
                HolderAction::Late { by } => self.news(News::Late(by)),
            }
        }
    }

    fn open(&self, attempt: u64) {
        let (store, node) = (Arc::clone(&self.store), self.setup.node.clone());
        // An answer that was lost is found by the record: it is the same for each attempt of this agent.
        let record = self.setup.record.clone();
        let (answers, timeout) = (self.answers.clone(), self.setup.timing.request_timeout.duration());
        let past = self.past_fencer;
        tokio::spawn(async move {
            let open = session::open_past(store.as_ref(), &node, &record, past);
            let result = tokio::time::timeout(timeout, open).await;
            let result = result.unwrap_or_else(|_| Err(timed_out()));
            let _ = answers.send(Answer::Opened { attempt, result });
        });
    }

    fn renew(&mut self, attempt: u64, id: Revision, seq: u64, lease: Millis, sent: Mark) {
        self.seq = seq;
        let record = Record {
            seq: seq.saturating_sub(1),
            wall: Some(crate::clock::wall_now()),
            ..self.setup.record.clone()
        };
        let session = Session {
            node: self.setup.node.clone(),
            id,
            modified: id,
            record,
        };
        let (store, answers) = (Arc::clone(&self.store), self.answers.clone());
        let timeout = self.setup.timing.request_timeout.duration();
        tokio::spawn(async move {
            let result = tokio::time::timeout(timeout, session::renew(store.as_ref(), &session, lease)).await;
            let result = result.unwrap_or_else(|_| Err(timed_out()));
            let _ = answers.send(Answer::Renewed { attempt, sent, result });
        });
    }

    fn probe(&self) {
        let (store, answers) = (Arc::clone(&self.store), self.answers.clone());
        let key = session::session_key(&self.setup.node);
        let timeout = self.setup.timing.request_timeout.duration();
        tokio::spawn(async move {
            let result = match tokio::time::timeout(timeout, store.get(&key)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(Missing::of(&error.into())),
                Err(_) => Err(Missing::Answer),
            };
            let _ = answers.send(Answer::Probed(result));
        });
    }

    /// Notes the session for the next agent: at each change, and once for each tenth of A.
    fn note(&mut self) {
        let Some(session) = self.holder.session() else { return };
        let noted = Noted {
            boot: self.setup.record.boot.clone(),
            session,
            seq: self.seq,
            acked: self.holder.acked(),
        };
        let every = self.setup.timing.soft_deadline.duration() / 10;
        let fresh = |last: &Noted| {
            last.session == noted.session
                && last
                    .acked
                    .zip(noted.acked)
                    .is_some_and(|(last, now)| now.held_for(last) < every)
        };
        if self.last_noted.as_ref().is_some_and(fresh) {
            return;
        }
        if let Err(error) = noted.write(&self.setup.noted) {
            tracing::warn!(%error, "the session cannot be noted; the next agent will open another one");
        }
        self.last_noted = Some(noted);
    }

    async fn close(&mut self) {
        if let Some(session) = self.session.take() {
            let closing = session::close(self.store.as_ref(), &session, "its agent, in order");
            let _ = tokio::time::timeout(self.setup.timing.request_timeout.duration() * 4, closing).await;
            let _ = std::fs::remove_file(&self.setup.noted);
        }
        self.fence.leave();
        self.tell(HolderEvent::Closed);
    }

    /// A node whose disk takes no writes may have left its services' data behind: its session must not go on.
    fn watch_disk(&self) {
        let (answers, folder) = (self.answers.clone(), self.setup.disk.clone());
        let every = (self.setup.timing.soft_deadline.duration() / 4).min(Duration::from_secs(2));
        let thread = std::thread::Builder::new().name("disk".into()).spawn(move || {
            let path = folder.join(".disk-probe");
            loop {
                let at = mark();
                let ok = match write_and_sync(&path) {
                    Ok(()) => true,
                    // A full disk writes no byte more, and harms no byte that is there: what it means is for the checks to say.
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => true,
                    Err(error) => {
                        tracing::error!(%error, path = %path.display(), "the disk takes no writes");
                        false
                    }
                };
                if answers.send(Answer::Health { ok, at }).is_err() {
                    return;
                }
                std::thread::sleep(every);
            }
        });
        if let Err(error) = thread {
            tracing::error!(%error, "the disk cannot be watched");
        }
    }
}

enum Heard {
    Time,
    Fence(Fenced),
    Answer(Answer),
    Order(Order),
}

fn write_and_sync(path: &Path) -> io::Result<()> {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open(path)?;
    file.write_all(&mark().boot_ns.to_le_bytes())?;
    file.sync_data()
}

async fn wait_for(wait: Option<Duration>) {
    match wait {
        // Timers count whole milliseconds, and wake one later.
        Some(wait) => tokio::time::sleep(wait.saturating_sub(Duration::from_micros(500))).await,
        None => std::future::pending().await,
    }
}

fn timed_out() -> session::SessionError {
    store::Error::Unknown {
        reason: "no answer in time".into(),
    }
    .into()
}

fn not_covered(covered: Covered) -> &'static str {
    match covered {
        Covered::Yes => "it is covered",
        Covered::NoSession => "this node has no session",
        Covered::NotYet => "no renewal of this node's session was acknowledged yet",
        Covered::TooOld => "no renewal of this node's session was acknowledged in time",
        Covered::NoGuard => "this node has no guard",
        Covered::Fired => "the guard has fired, and what it killed is not known to be gone",
    }
}
