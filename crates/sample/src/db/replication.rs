//! How a standby copies the active's log: one connection, begun by the standby as an HTTP upgrade of `GET /log`.
//!
//! ```text
//! standby                                        active
//!   │ GET /log?position=P&chain=C&epoch=E&follower=A│
//!   │──────────────────────────────────────────────►│ is (P, C) in my log?
//!   │◄─── S, records…, E  (no: all of it, anew) ────│
//!   │◄─── records…        (yes: the rest) ──────────│
//!   │──── position on my disk ─────────────────────►│ level with me?
//!   │◄─── I  (in sync: no write without you) ───────│
//!   │◄─── records, one batch at a time ─────────────│ a client writes
//!   │──── position on my disk ─────────────────────►│ now it is acknowledged
//! ```
//! A standby that was in sync when the link broke still has everything if the active is dead or demoted, and may be
//! behind if the active goes on alone. It does not guess: it is ready again once the active's address refuses it. That a
//! closed door is a dead active holds on one machine and in one network; where a link can be cut silently, only the
//! store can say who is in sync.

use super::engine::{Answer, Attached, Command, FollowStart, Place, Received, Refused, Shared};
use super::followers::{Membership, PATIENCE, Standing};
use super::log;
use crate::witness::boottime_us;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Collected, Empty, Limited};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};

/// The protocol of the upgrade.
pub(crate) const PROTOCOL: &str = "understudy-sample-log";

/// From the active to the standby: kind, length (u32), payload.
mod kind {
    pub(super) const SNAPSHOT_BEGIN: u8 = b'S';
    pub(super) const RECORDS: u8 = b'R';
    pub(super) const SNAPSHOT_END: u8 = b'E';
    pub(super) const IN_SYNC: u8 = b'I';
    pub(super) const DROPPED: u8 = b'D';
    pub(super) const COMPLETE: u8 = b'C';
}

/// What is read from the log and sent at once while a standby catches up.
const CHUNK_BYTES: u64 = 256 * 1024;
/// A frame is a chunk or a reason.
const FRAME_BYTES_MAX: u32 = 1024 * 1024;
/// For the answer to the upgrade. An active answers between two writes, each of which may wait for a hanging follower.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two tries to reach the active: short, since a new active appears within milliseconds.
const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_LAST: Duration = Duration::from_millis(200);

/// Asks the engine and waits for its answer.
pub(crate) async fn ask<T>(
    engine: &mpsc::Sender<Command>,
    command: impl FnOnce(Answer<T>) -> Command,
) -> Result<T, Refused> {
    let (answer, result) = oneshot::channel();
    let sent = engine.send(command(answer)).await;
    sent.map_err(|_| Refused::Ending)?;
    result.await.unwrap_or(Err(Refused::Ending))
}

// ---- the active's side

/// Sends a follower what it lacks, and then each record as it is made.
pub(crate) async fn feed(upgrade: OnUpgrade, attached: Attached, shared: Arc<Shared>) {
    let id = attached.membership.id;
    if let Ok(upgraded) = upgrade.await {
        let (incoming, outgoing) = tokio::io::split(TokioIo::new(upgraded));
        // Either side ending ends both; a follower that goes away is seen by the one that reads.
        tokio::select! {
            _ = confirmations(incoming, id, &shared) => {}
            _ = send(outgoing, attached) => {}
        }
    }
    shared.followers.leave(id);
}

async fn confirmations(mut incoming: ReadHalf<TokioIo<Upgraded>>, id: u64, shared: &Shared) -> io::Result<()> {
    loop {
        let position = incoming.read_u64_le().await?;
        shared.followers.confirm(id, position);
    }
}

async fn send(outgoing: WriteHalf<TokioIo<Upgraded>>, attached: Attached) -> io::Result<()> {
    let Attached { membership, file, from } = attached;
    let Membership {
        mut end, mut standing, ..
    } = membership;
    let mut out = Outgoing {
        outgoing,
        standing: standing.clone(),
    };
    let mut at = from.unwrap_or(log::FIRST);
    if from.is_none() {
        out.frame(kind::SNAPSHOT_BEGIN, &[]).await?;
    }
    let mut first = true;
    loop {
        let until = *end.borrow_and_update();
        while at < until {
            let mut chunk = vec![0; (until - at).min(CHUNK_BYTES) as usize];
            // What was just written is in memory, so this does not wait for the disk but when a follower is far behind.
            file.read_exact_at(&mut chunk, at)?;
            out.frame(kind::RECORDS, &chunk).await?;
            at += chunk.len() as u64;
        }
        if std::mem::take(&mut first) {
            match from {
                None => out.frame(kind::SNAPSHOT_END, &[]).await?,
                // Something to confirm, also for one that lacks nothing.
                Some(_) => out.frame(kind::RECORDS, &[]).await?,
            }
        }
        tokio::select! {
            changed = end.changed() => changed.map_err(io::Error::other)?,
            changed = standing.changed() => changed.map_err(io::Error::other)?,
        }
        let now = standing.borrow_and_update().clone();
        match now {
            Standing::CatchingUp => {}
            Standing::InSync => out.in_sync().await?,
            Standing::Dropped(why) => return out.last(kind::DROPPED, why).await,
            Standing::Complete => return out.last(kind::COMPLETE, "").await,
        }
    }
}

struct Outgoing {
    outgoing: WriteHalf<TokioIo<Upgraded>>,
    standing: watch::Receiver<Standing>,
}

impl Outgoing {
    /// Sends a frame, unless the follower is dropped meanwhile: one that reads nothing would hold this up for ever.
    async fn frame(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let frame = frame(kind, payload);
        let dropped = |standing: &Standing| matches!(standing, Standing::Dropped(_));
        tokio::select! {
            written = self.outgoing.write_all(&frame) => written,
            _ = self.standing.wait_for(dropped) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    async fn in_sync(&mut self) -> io::Result<()> {
        self.frame(kind::IN_SYNC, &[]).await
    }

    /// Says goodbye, and waits until it is on its way; not longer than a follower that reads would need.
    async fn last(&mut self, kind: u8, why: &str) -> io::Result<()> {
        let frame = frame(kind, why.as_bytes());
        let written = async {
            self.outgoing.write_all(&frame).await?;
            self.outgoing.shutdown().await
        };
        tokio::time::timeout(ATTACH_TIMEOUT, written).await?
    }
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(5 + payload.len());
    frame.push(kind);
    frame.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    frame.extend_from_slice(payload);
    frame
}

// ---- the standby's side

/// How far a standby is with following.
#[derive(Debug, Clone, Default)]
pub(crate) struct Following {
    /// HOST:PORT of the active; `None` if nobody said whom to follow.
    pub(crate) active: Option<String>,
    pub(crate) link: Link,
    pulse: Pulse,
}

/// When this process was last seen running. One that was stopped and thawed finds everything as it left it, while the
/// active may long have gone on without it: what it knows counts again only after it has asked.
#[derive(Debug, Clone, Copy)]
struct Pulse {
    at_us: u64,
}

/// Between two beats.
const PULSE: Duration = Duration::from_millis(50);
/// Less than the patience of the active, so that one that was dropped for standing still knows it.
const LATE: Duration = PATIENCE.saturating_sub(PULSE);
const STOOD_STILL: &str = "this process stood still, and asks the active what it missed";

impl Pulse {
    fn now() -> Self {
        Self { at_us: boottime_us() }
    }

    fn is_late(self) -> bool {
        boottime_us().saturating_sub(self.at_us) > LATE.as_micros() as u64
    }
}

impl Default for Pulse {
    fn default() -> Self {
        Self::now()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Link {
    /// Not connected. Complete: it has all that the active acknowledged before it went.
    Away {
        complete: bool,
        problem: String,
    },
    CatchingUp,
    InSync,
}

impl Default for Link {
    fn default() -> Self {
        Self::Away {
            complete: false,
            problem: "not yet connected".into(),
        }
    }
}

impl Following {
    /// Begins to follow.
    pub(crate) fn of(active: String) -> Self {
        Self {
            active: Some(active),
            ..Self::default()
        }
    }

    /// Whether this standby could take over without losing an acknowledged write; if not, why.
    pub(crate) fn ready(&self) -> Result<(), String> {
        let Some(active) = &self.active else {
            return Err("follows nobody".into());
        };
        if self.pulse.is_late() {
            return Err(STOOD_STILL.into());
        }
        match &self.link {
            Link::InSync | Link::Away { complete: true, .. } => Ok(()),
            Link::CatchingUp => Err(format!("catches up with the active at {active}")),
            Link::Away {
                complete: false,
                problem,
            } => Err(format!("has no link to the active at {active}: {problem}")),
        }
    }
}

/// Follows `active` until told otherwise; `own` is the address by which the active shows this follower.
pub(crate) async fn follow(
    own: SocketAddr,
    active: String,
    engine: mpsc::Sender<Command>,
    following: Arc<Mutex<Following>>,
) {
    let follower = Follower {
        own,
        active,
        engine,
        following,
    };
    // In sync when the link broke, and not known that the active went on alone.
    let mut level = false;
    loop {
        tokio::select! {
            () = follower.keep_on(&mut level) => return,
            () = follower.standstill() => {}
        }
        level &= follower.stood_still();
    }
}

struct Follower {
    own: SocketAddr,
    active: String,
    engine: mpsc::Sender<Command>,
    following: Arc<Mutex<Following>>,
}

impl Follower {
    async fn keep_on(&self, level: &mut bool) {
        let mut pause = RETRY_FIRST;
        loop {
            let ended = self.session().await;
            let complete = match &ended {
                Ended::Told => return,
                Ended::Complete => true,
                Ended::NoActive(_) => *level,
                _ => false,
            };
            *level = match &ended {
                Ended::LinkLost { in_sync, .. } => *in_sync,
                Ended::Broke(_) => *level,
                _ => complete,
            };
            if matches!(ended, Ended::LinkLost { .. } | Ended::Complete) {
                pause = RETRY_FIRST;
            }
            self.show(Link::Away {
                complete,
                problem: ended.to_string(),
            });
            // What became of the active is asked at once when the answer decides whether this standby is ready.
            if !matches!(ended, Ended::LinkLost { in_sync: true, .. }) {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_LAST);
            }
        }
    }

    /// Ends when this process was not run for so long that the active may have gone on without it.
    async fn standstill(&self) {
        loop {
            tokio::time::sleep(PULSE).await;
            let mut following = self.lock();
            if following.pulse.is_late() {
                return;
            }
            following.pulse = Pulse::now();
        }
    }

    /// Takes back what was true before the standstill. Whether what is known of an active that is gone still holds.
    fn stood_still(&self) -> bool {
        let mut following = self.lock();
        let was_away = matches!(following.link, Link::Away { complete: true, .. });
        following.link = Link::Away {
            complete: false,
            problem: STOOD_STILL.into(),
        };
        following.pulse = Pulse::now();
        was_away
    }

    fn show(&self, link: Link) {
        self.lock().link = link;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Following> {
        self.following.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a session with the active ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("told otherwise")]
    Told,
    #[error("the active stepped down")]
    Complete,
    #[error("the active dropped this follower: {0}")]
    Dropped(String),
    #[error("no active there: {0}")]
    NoActive(String),
    #[error("the link broke: {problem}")]
    LinkLost { in_sync: bool, problem: String },
    /// A process that dies closes its connections before its door, and who comes in between gets no answer.
    #[error("broke off before it answered: {0}")]
    Broke(String),
    #[error("{0}")]
    Unclear(String),
}

impl Follower {
    async fn session(&self) -> Ended {
        let FollowStart { follow, place } = match ask(&self.engine, Command::Follow).await {
            Ok(start) => start,
            Err(_) => return Ended::Told,
        };
        let attaching = attach(self.own, &self.active, place);
        let link = match tokio::time::timeout(ATTACH_TIMEOUT, attaching).await {
            Ok(Ok(link)) => link,
            Ok(Err(ended)) => return ended,
            Err(_) => return Ended::Unclear(format!("no answer within {ATTACH_TIMEOUT:?}")),
        };
        self.show(Link::CatchingUp);
        let mut copy = Copy {
            link,
            follower: self,
            follow,
            pending: Vec::new(),
            in_snapshot: false,
            in_sync: false,
        };
        match copy.run().await {
            Ok(ended) => ended,
            Err(error) => Ended::LinkLost {
                in_sync: copy.in_sync,
                problem: error.to_string(),
            },
        }
    }
}

/// Reasons of a refusal are a line; more than this is not read.
const REASON_BYTES_MAX: usize = 16 * 1024;

async fn attach(own: SocketAddr, active: &str, place: Place) -> Result<TokioIo<Upgraded>, Ended> {
    let broke = |error: &dyn std::fmt::Display| Ended::Broke(error.to_string());
    let stream = TcpStream::connect(active).await.map_err(|error| match error.kind() {
        // Refused by the system: no process listens there, so none acknowledges anything.
        io::ErrorKind::ConnectionRefused => Ended::NoActive(error.to_string()),
        io::ErrorKind::ConnectionReset => broke(&error),
        _ => Ended::Unclear(error.to_string()),
    })?;
    stream.set_nodelay(true).map_err(|error| broke(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broke(&error))?;
    tokio::spawn(connection.with_upgrades());
    let Place { position, chain, epoch } = place;
    let path = format!("/log?position={position}&chain={chain}&epoch={epoch}&follower={own}");
    let request = Request::get(path)
        .header(header::HOST, active)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, PROTOCOL)
        .body(Empty::<Bytes>::new())
        .map_err(|error| broke(&error))?;
    let answer = sender.send_request(request).await;
    let answer = answer.map_err(|error| broke(&error))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(answer).await);
    }
    let upgraded = hyper::upgrade::on(answer).await;
    upgraded.map(TokioIo::new).map_err(|error| broke(&error))
}

async fn refusal(answer: Response<Incoming>) -> Ended {
    let status = answer.status();
    let body = Limited::new(answer.into_body(), REASON_BYTES_MAX).collect().await;
    let body = body.map(Collected::to_bytes).unwrap_or_default();
    let said: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let reason = said["error"].as_str().unwrap_or("no reason given").to_owned();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        Ended::NoActive(reason)
    } else {
        Ended::Unclear(format!("refused ({}): {reason}", status.as_u16()))
    }
}

/// What is copied over one link.
struct Copy<'a> {
    link: TokioIo<Upgraded>,
    follower: &'a Follower,
    follow: u64,
    /// The beginning of a record whose rest has not come yet.
    pending: Vec<u8>,
    in_snapshot: bool,
    in_sync: bool,
}

impl Copy<'_> {
    async fn run(&mut self) -> io::Result<Ended> {
        loop {
            let kind = self.link.read_u8().await?;
            let length = self.link.read_u32_le().await?;
            if length > FRAME_BYTES_MAX {
                return Ok(Ended::Unclear(format!("a frame of {length} bytes is too long")));
            }
            let mut payload = vec![0; length as usize];
            self.link.read_exact(&mut payload).await?;
            let received = match kind {
                kind::RECORDS => self.records(&payload).await?,
                kind::SNAPSHOT_BEGIN => {
                    self.in_snapshot = true;
                    self.receive(Received::SnapshotBegin).await.map(drop)
                }
                kind::SNAPSHOT_END => {
                    self.in_snapshot = false;
                    self.receive_and_confirm(Received::SnapshotEnd).await?
                }
                kind::IN_SYNC => {
                    self.in_sync = true;
                    self.follower.show(Link::InSync);
                    Ok(())
                }
                kind::COMPLETE => return Ok(Ended::Complete),
                kind::DROPPED => {
                    let why = String::from_utf8_lossy(&payload).into_owned();
                    return Ok(Ended::Dropped(why));
                }
                other => return Ok(Ended::Unclear(format!("unknown frame {other}"))),
            };
            match received {
                Ok(()) => {}
                Err(Refused::Overtaken | Refused::Ending) => return Ok(Ended::Told),
                Err(refused) => return Ok(Ended::Unclear(refused.to_string())),
            }
        }
    }

    async fn records(&mut self, payload: &[u8]) -> io::Result<Result<(), Refused>> {
        self.pending.extend_from_slice(payload);
        let Some(whole) = log::whole_records(&self.pending) else {
            return Ok(Err(Refused::DoesNotFit));
        };
        let rest = self.pending.split_off(whole);
        let records = Received::Records(std::mem::replace(&mut self.pending, rest));
        if self.in_snapshot {
            return Ok(self.receive(records).await.map(drop));
        }
        self.receive_and_confirm(records).await
    }

    async fn receive_and_confirm(&mut self, what: Received) -> io::Result<Result<(), Refused>> {
        match self.receive(what).await {
            Ok(position) => {
                self.link.write_u64_le(position).await?;
                Ok(Ok(()))
            }
            Err(refused) => Ok(Err(refused)),
        }
    }

    async fn receive(&mut self, what: Received) -> Result<u64, Refused> {
        let follow = self.follow;
        ask(&self.follower.engine, |answer| Command::Receive {
            follow,
            what,
            answer,
        })
        .await
    }
}
