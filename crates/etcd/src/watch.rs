//! Watches that outlive the member that tells them.
//!
//! ```text
//! open at a member ─► told ─► told ─► broken, silent, leaderless ─► open at the next one, from the revision after
//!                                                                    the last that was told
//! ```
//! A watch is a task with a stream of its own: it ends when nobody listens, and with it what the member keeps for it.

use crate::Error;
use crate::client::wire::{ANSWER_BYTES_MAX, Wire};
use crate::client::{Cause, Client, Failure, Kind, Link, Reach, Shared};
use crate::convert::changes_of;
use crate::keys::Prefix;
use crate::pb::mvccpb::Event;
use crate::pb::watch_client::WatchClient;
use crate::pb::watch_request::RequestUnion;
use crate::pb::{WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse};
use futures_util::stream;
use model::Revision;
use std::sync::Arc;
use std::time::Duration;
use store::{BoxFuture, ChangeSource, Changes, Watch};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tonic::Streaming;

// A watch that had to leave the member on this machine looks so often whether it may go back.
const NEAR_AGAIN: Duration = Duration::from_secs(1);
// As many revisions wait for a slow listener here; beyond that they wait at the member.
const QUEUE: usize = 64;
const PAUSE_FIRST: Duration = Duration::from_millis(5);
// A member that reads a long history for us answers late, not never.
const MUTE_MAX: Duration = Duration::from_secs(10);

/// Starts telling changes of revision `from` and later.
pub(crate) fn start(client: &Client, keys: Prefix, range: (Vec<u8>, Vec<u8>), from: Revision) -> Watch {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let follower = Follower {
        shared: Arc::clone(client.shared()),
        keys,
        range,
        next: from.0,
        past: true,
        mute: client.shared().options.mute,
        sender,
    };
    Watch::new(Told {
        receiver,
        ended: None,
        task: tokio::spawn(follower.run()),
    })
}

/// The first revision whose changes are all kept, when the very first are not.
pub(crate) async fn oldest(client: &Client, range: (Vec<u8>, Vec<u8>)) -> Result<Revision, Error> {
    let shared = client.shared();
    let mut last = None;
    for index in shared.order() {
        let link = &shared.links[index];
        let asked = async {
            let mut open = Open::new(shared, link, &range, 1).await?;
            while let Some(message) = open.message(shared, link).await? {
                if message.compact_revision > 0 {
                    return Ok(u64::try_from(message.compact_revision).unwrap_or(0));
                }
            }
            Err(Failure::certain(
                &link.target.name,
                Cause::Lost("the watch ended".into()),
            ))
        };
        // A member looks for new watches of the past ten times a second.
        match timeout(shared.connect_limit(), asked).await {
            Ok(Ok(compacted)) => return Ok(after(compacted)),
            Ok(Err(failure)) => last = Some(failure),
            Err(_) => last = Some(Failure::certain(&link.target.name, Cause::TimedOut)),
        }
    }
    Err(last.map_or(
        Error::Unavailable {
            reason: "there is no member".into(),
        },
        Failure::into_error,
    ))
}

/// What was removed at the very revision of a compaction is told by some versions and not by others.
fn after(compacted: u64) -> Revision {
    Revision(compacted + 1)
}

/// The listener's end.
struct Told {
    receiver: mpsc::Receiver<Result<Changes, store::Error>>,
    ended: Option<store::Error>,
    task: tokio::task::JoinHandle<()>,
}

impl ChangeSource for Told {
    fn next(&mut self) -> BoxFuture<'_, Result<Changes, store::Error>> {
        Box::pin(async move {
            if let Some(error) = &self.ended {
                return Err(error.clone());
            }
            let told = self.receiver.recv().await.unwrap_or(Err(store::Error::Closed));
            if let Err(error) = &told {
                self.ended = Some(error.clone());
            }
            told
        })
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The task's end.
struct Follower {
    shared: Arc<Shared>,
    keys: Prefix,
    range: (Vec<u8>, Vec<u8>),
    /// All before this revision was told.
    next: u64,
    /// Whether the member may be past `next` already.
    past: bool,
    mute: Duration,
    sender: mpsc::Sender<Result<Changes, store::Error>>,
}

/// Why a stream ended.
enum End {
    /// Nobody listens any more.
    Unheard,
    /// Nothing can be told any more.
    Over(Error),
    /// Another member may go on at once.
    Again,
    /// Another member may go on.
    Broken(Failure),
}

impl Follower {
    async fn run(mut self) {
        let mut pause = PAUSE_FIRST;
        let mut denied = false;
        loop {
            let mut failures = Vec::new();
            for index in self.order() {
                let shared = Arc::clone(&self.shared);
                let link = &shared.links[index];
                let before = self.next;
                let leave = (shared.options.near && index != 0).then(|| Instant::now() + NEAR_AGAIN);
                let end = self.follow(link, leave).await;
                if self.next > before {
                    (pause, denied) = (PAUSE_FIRST, false);
                }
                let failure = match end {
                    End::Unheard => return,
                    End::Over(error) => return self.end(error).await,
                    End::Again => break,
                    End::Broken(failure) => failure,
                };
                tracing::debug!(endpoint = failure.endpoint, cause = %failure.cause, "a watch moves on");
                let is_denied = matches!(failure.cause, Cause::Server(store::ServerError::Denied { .. }));
                // 3.4 says the same of a token that has expired, so the first time is not the last.
                if is_denied && !denied {
                    denied = true;
                    self.shared.forget_login();
                } else if failure.cause.reach() == Reach::Cluster {
                    return self.end(failure.into_error()).await;
                }
                failures.push(failure);
            }
            self.shared.gone_back(&failures);
            if let Some(error) = self.shared.distrusted() {
                return self.end(error).await;
            }
            sleep(pause).await;
            pause = (pause * 2).min(self.shared.options.reconnect);
        }
    }

    async fn end(self, error: Error) {
        // Whoever does not listen need not know.
        let _ = self.sender.send(Err(error.into())).await;
    }

    /// Where to open it, best first: on this machine, if the member there answers.
    fn order(&self) -> Vec<usize> {
        let mut order = self.shared.order();
        if self.shared.options.near && self.shared.links.first().is_some_and(|near| near.standing().is_fine()) {
            order.sort_by_key(|index| *index != 0);
        }
        order
    }

    /// Follows at one member, until `leave` if there is a better one.
    async fn follow(&mut self, link: &Link, leave: Option<Instant>) -> End {
        let shared = Arc::clone(&self.shared);
        let limit = shared.options.read.attempt;
        // With the revision before, a member also tells what was removed at `next`, or says that it cannot.
        let start = match self.past {
            true => self.next.saturating_sub(1).max(1),
            false => self.next,
        };
        let opened = timeout(limit, Open::new(&shared, link, &self.range, start)).await;
        let mut open = match opened {
            Ok(Ok(open)) => open,
            Ok(Err(failure)) => return End::Broken(failure),
            Err(_) => {
                link.suspect();
                return End::Broken(Failure::certain(&link.target.name, Cause::TimedOut));
            }
        };
        let mut parts = Vec::new();
        loop {
            let better = |this: &Self| this.shared.links.first().is_some_and(|near| near.standing().is_fine());
            if leave.is_some_and(|leave| Instant::now() >= leave) && parts.is_empty() && better(self) {
                return End::Again;
            }
            match self.listen(&mut open, link).await {
                Ok(message) => {
                    if let Some(end) = self.hear(message, link, &mut parts).await {
                        return end;
                    }
                }
                Err(failure) => return End::Broken(failure),
            }
        }
    }

    /// The next message. A member that is silent is asked whether it is there.
    async fn listen(&mut self, open: &mut Open, link: &Link) -> Result<WatchResponse, Failure> {
        let shared = Arc::clone(&self.shared);
        let ended = || Failure::certain(&link.target.name, Cause::Lost("the member ended the watch".into()));
        if let Ok(message) = timeout(shared.options.silence, open.message(&shared, link)).await {
            return message?.ok_or_else(ended);
        }
        open.ask();
        match timeout(self.mute, open.message(&shared, link)).await {
            Ok(message) => {
                self.mute = shared.options.mute;
                message?.ok_or_else(ended)
            }
            Err(_) => {
                self.mute = (self.mute * 2).min(MUTE_MAX);
                link.suspect();
                shared.look();
                Err(Failure::certain(&link.target.name, Cause::TimedOut))
            }
        }
    }

    /// Takes in a message, and tells what is in it.
    async fn hear(&mut self, message: WatchResponse, link: &Link, parts: &mut Vec<Event>) -> Option<End> {
        let header = message.header.unwrap_or_default();
        let at = u64::try_from(header.revision).unwrap_or(0);
        if message.canceled {
            return Some(self.canceled(&message, link));
        }
        if message.created {
            // It is past what we took to be yet to come: ask for the revision before, too.
            let missed = !self.past && at >= self.next;
            self.past = true;
            return missed.then_some(End::Again);
        }
        let own = message.watch_id >= 0;
        let whole = !message.fragment;
        parts.extend(message.events);
        let silent = parts.is_empty();
        if !whole {
            return None;
        }
        for changes in changes_of(&self.keys, std::mem::take(parts), self.next) {
            let revision = changes.revision.0;
            if self.sender.send(Ok(changes)).await.is_err() {
                return Some(End::Unheard);
            }
            self.next = revision + 1;
        }
        // Only what a member says unasked of this watch comes after all events before it; an answer to a question may
        // overtake them (before 3.5.8).
        if own && silent {
            self.next = self.next.max(at + 1);
        }
        None
    }

    fn canceled(&self, message: &WatchResponse, link: &Link) -> End {
        if message.compact_revision > 0 {
            let compacted = u64::try_from(message.compact_revision).unwrap_or(0);
            return End::Over(Error::Compacted {
                oldest: after(compacted),
            });
        }
        let status = tonic::Status::new(code_of(&message.cancel_reason), message.cancel_reason.clone());
        End::Broken(self.shared.meaning(link, &status))
    }
}

fn code_of(reason: &str) -> tonic::Code {
    match reason.contains("permission denied") {
        true => tonic::Code::PermissionDenied,
        false => tonic::Code::Unavailable,
    }
}

/// A stream at a member.
struct Open {
    messages: Streaming<WatchResponse>,
    questions: mpsc::Sender<WatchRequest>,
    up: crate::client::Up,
}

impl Open {
    async fn new(shared: &Arc<Shared>, link: &Link, range: &(Vec<u8>, Vec<u8>), from: u64) -> Result<Self, Failure> {
        let deadline = Instant::now() + shared.options.read.attempt;
        let (up, _) = shared.ready(link, Kind::Write, deadline).await?;
        let wire: Wire = shared.wire_without_deadline(link, &up).await?;
        // One to begin with, and one question at a time.
        let (questions, asked) = mpsc::channel(2);
        let create = WatchCreateRequest {
            key: range.0.clone(),
            range_end: range.1.clone(),
            start_revision: i64::try_from(from).unwrap_or(i64::MAX),
            progress_notify: true,
            fragment: true,
        };
        // There is room for it.
        let _ = questions.try_send(request(RequestUnion::CreateRequest(create)));
        let asked = stream::unfold(asked, |mut asked| async {
            asked.recv().await.map(|message| (message, asked))
        });
        let messages = WatchClient::new(wire.channel())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
            .watch(wire.led(asked))
            .await
            .map_err(|status| shared.failure(link, &up, &status))?
            .into_inner();
        Ok(Self {
            messages,
            questions,
            up,
        })
    }

    async fn message(&mut self, shared: &Arc<Shared>, link: &Link) -> Result<Option<WatchResponse>, Failure> {
        let message = self
            .messages
            .message()
            .await
            .map_err(|status| shared.failure(link, &self.up, &status))?;
        if let Some(message) = &message {
            shared.believe(link, &self.up, Kind::Local, 0, message.header.as_ref())?;
        }
        Ok(message)
    }

    /// Asks for a sign of life.
    fn ask(&self) {
        // If a question is waiting already, the stream is stuck and will be given up.
        let _ = self
            .questions
            .try_send(request(RequestUnion::ProgressRequest(WatchProgressRequest {})));
    }
}

fn request(union: RequestUnion) -> WatchRequest {
    WatchRequest {
        request_union: Some(union),
    }
}
