//! What all open pages are told. One look at everything serves them all, and nobody looks while none is open.

use crate::http::Door;
use crate::input::{Overview, Request};
use api::{Beat, Event, Snapshot, Status};
use model::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

/// Looks at everything are at least this far apart: a page that is told ten times a second looks alive, and a thousand instances cost
/// the main loop little.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Events in the first message.
pub(super) const EVENTS: usize = 200;
/// Events in a later one: more than ever happen within a tenth of a second.
const EVENTS_AT_ONCE: usize = 2_000;
/// Messages that a slow page may lag behind; past that it begins anew.
const LAG: usize = 256;
/// Pages that are open at once: many screens on many walls, and no more memory than that whoever asks.
const PAGES_MAX: usize = 256;
/// Pages that wait for their first message.
const JOINING: usize = 64;

/// A message as it is sent: its name and its JSON.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) name: &'static str,
    pub(crate) seq: u64,
    pub(crate) json: Arc<str>,
}

/// A page's part: the first message, and those that follow.
pub(crate) type Subscription = (Message, broadcast::Receiver<Message>);

/// Where pages come to be told.
#[derive(Clone)]
pub(crate) struct Feed {
    joining: mpsc::Sender<oneshot::Sender<Subscription>>,
}

impl Feed {
    /// Begins to wait for pages. `door` is the way to the main loop.
    pub(crate) fn new() -> (Self, Waiting) {
        let (joining, joins) = mpsc::channel(JOINING);
        (Self { joining }, Waiting { joins })
    }

    /// One more page; nothing if there are too many, or the agent is ending.
    pub(crate) async fn join(&self) -> Option<Subscription> {
        let (told, first) = oneshot::channel();
        self.joining.send(told).await.ok()?;
        first.await.ok()
    }
}

/// A feed that has not begun.
pub(crate) struct Waiting {
    joins: mpsc::Receiver<oneshot::Sender<Subscription>>,
}

impl Waiting {
    /// Looks and tells for as long as the agent lives.
    pub(crate) fn start(self, door: Door) {
        let (sender, _) = broadcast::channel(LAG);
        let teller = Teller {
            door,
            sender,
            seq: 0,
            last: None,
            event: 0,
        };
        tokio::spawn(teller.run(self.joins));
    }
}

struct Teller {
    door: Door,
    sender: broadcast::Sender<Message>,
    seq: u64,
    /// What pages know, and when it was seen.
    last: Option<(Arc<Status>, Timestamp)>,
    /// The newest event that they know.
    event: u64,
}

impl Teller {
    async fn run(mut self, mut joins: mpsc::Receiver<oneshot::Sender<Subscription>>) {
        // Who measures looks at everything once a second: the same look tells pages that all is still so.
        let mut glances = self.door.measures.glances();
        let mut changed = self.door.changed.clone();
        let mut news = self.door.news.clone();
        let mut not_before = Instant::now();
        loop {
            let anyone = self.sender.receiver_count() > 0;
            if !anyone {
                self.last = None;
            }
            tokio::select! {
                biased;
                joining = joins.recv() => match joining {
                    Some(told) => { if self.welcome(told).await.is_none() { return } }
                    None => return,
                },
                glance = glances.changed(), if anyone => {
                    if glance.is_err() { return }
                    let glance = glances.borrow_and_update().clone();
                    let Some(glance) = glance else { continue };
                    if self.tell(&glance.overview, true).await.is_none() { return }
                    not_before = Instant::now() + LOOK_EVERY;
                }
                heard = async {
                    tokio::select! { heard = changed.changed() => heard, heard = news.changed() => heard }
                }, if anyone => {
                    if heard.is_err() { return }
                    sleep_until(not_before).await;
                    changed.mark_unchanged();
                    news.mark_unchanged();
                    if self.look().await.is_none() { return }
                    not_before = Instant::now() + LOOK_EVERY;
                }
            }
        }
    }

    /// Tells a new page everything, at the same moment at which the others know it.
    async fn welcome(&mut self, told: oneshot::Sender<Subscription>) -> Option<()> {
        if self.sender.receiver_count() >= PAGES_MAX {
            return Some(());
        }
        self.door.settle().await;
        let look = self.look().await?;
        let events = self.events(self.event.saturating_sub(EVENTS as u64), EVENTS).await?;
        self.event = events.last().map_or(self.event, |event| event.seq).max(self.event);
        self.seq += 1;
        let snapshot = look.snapshot(self.seq, events);
        // The others need the number too, or they would miss it.
        let others = Beat {
            seq: self.seq,
            at: look.status.at.clone(),
            ages: snapshot.ages.clone(),
            distances_at: look.status.distances_at.clone(),
            traffic: traffic(&look.status),
        };
        self.send("beat", &others);
        self.last = Some((Arc::clone(&look.status), look.seen));
        let first = message("snapshot", self.seq, &snapshot)?;
        let _ = told.send((first, self.sender.subscribe()));
        Some(())
    }

    /// Looks at everything, and tells what is different.
    async fn look(&mut self) -> Option<Overview> {
        let look = self.door.ask(Request::Overview).await.ok()?;
        self.tell(&look, false).await?;
        Some(look)
    }

    /// Tells what is different in a look, and if it is time for that, that all is still so.
    async fn tell(&mut self, look: &Overview, beat: bool) -> Option<()> {
        let Some((last, seen)) = self.last.take() else {
            // Nobody listens yet: where the events end is all that matters.
            self.event = self.door.news.borrow().saturating_sub(1);
            return Some(());
        };
        // What was seen for somebody else may be from before the last look.
        let (status, seen) = match look.seen < seen {
            true => (Arc::clone(&last), seen),
            false => (Arc::clone(&look.status), look.seen),
        };
        let events = self.events(self.event, EVENTS_AT_ONCE).await?;
        self.event = events.last().map_or(self.event, |event| event.seq);
        if let Some(delta) = dashboard::live::delta(&last, &status, self.seq + 1, events) {
            self.seq += 1;
            self.send("change", &delta);
        }
        if beat {
            self.seq += 1;
            let beat = Beat {
                seq: self.seq,
                at: status.at.clone(),
                ages: look.ages.clone(),
                distances_at: status.distances_at.clone(),
                traffic: traffic(&status),
            };
            self.send("beat", &beat);
        }
        self.last = Some((status, seen));
        Some(())
    }

    async fn events(&self, after: u64, limit: usize) -> Option<Vec<Event>> {
        let ask = |answer| Request::Events {
            after,
            limit,
            service: None,
            answer,
        };
        Some(self.door.ask(ask).await.ok()?.events)
    }

    fn send(&self, name: &'static str, value: &impl serde::Serialize) {
        if let Some(message) = message(name, self.seq, value) {
            let _ = self.sender.send(message);
        }
    }
}

impl Overview {
    /// The first message of a page.
    pub(super) fn snapshot(&self, seq: u64, events: Vec<Event>) -> Snapshot {
        Snapshot {
            version: api::VERSION,
            seq,
            node: self.node.clone(),
            stale_after_ms: self.stale_after_ms,
            status: (*self.status).clone(),
            events,
            ages: self.ages.clone(),
            peers: self.peers.clone(),
        }
    }
}

fn traffic(status: &Status) -> BTreeMap<String, api::Traffic> {
    let services = status.services.iter();
    services
        .filter_map(|service| Some((service.name.clone(), service.traffic.clone()?)))
        .collect()
}

fn message(name: &'static str, seq: u64, value: &impl serde::Serialize) -> Option<Message> {
    match serde_json::to_string(value) {
        Ok(json) => Some(Message {
            name,
            seq,
            json: json.into(),
        }),
        Err(error) => {
            tracing::error!(%error, name, "cannot be written as JSON");
            None
        }
    }
}
