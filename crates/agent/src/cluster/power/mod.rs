//! Power fencing: carries out what [`decisions::power`] decides, and looks after the devices.
//!
//! ```text
//!   look_at_power ── Fencer ──► Begin ──► task: intent ─ off … status ─ confirmed ─ T4f ─ power back ──► Later::Power
//!                     ▲                                                                                     │
//!                     └────────────────────── records of the store, graves ◄────────────────────────────────┘
//! ```
//! A task ends with our session: what it started is killed then, and the kernel's alarm ends it should this agent hang.

mod attempt;
mod by_hand;
mod cache;
mod devices;
mod words;

pub(super) use attempt::stated;
pub(crate) use cache::written_back;

use super::{Clustered, Later, clock as marks};
use crate::agent::Agent;
use crate::clock;
use crate::executor::chain;
use crate::input::{Input, done, refused};
use crate::journal::Inputs;
use api::record::DeviceCheck;
use api::{Outcome, Severity};
use attempt::{Attempt, Off, give_back, note};
use cache::Cache;
use decisions::power::{Begin, Fencer, Situation, Step};
use decisions::{ClusterEvent, Event, lease};
use model::{AfterFence, FenceBy, FenceRecord, FenceState, Mark, Millis, NodeName, Revision, Timestamp, attempt_bound};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use store::Entry;
use store::Store;
use store::fence::{self, Intent};
use store::session::{self, Cause, Grave};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use words::in_words;

/// Records older than this are no news.
const NEWS_FOR_MS: i64 = 60_000;

/// What an agent knows of power fencing.
pub(crate) struct Power {
    pub(crate) fencer: Fencer,
    /// Tasks of ours, by whose power they are at.
    tasks: BTreeMap<NodeName, AbortHandle>,
    /// Operators who wait for what comes of it.
    waiting: BTreeMap<NodeName, oneshot::Sender<Result<Outcome, Outcome>>>,
    /// Ends of sessions that were looked up.
    asked: BTreeSet<(NodeName, Revision)>,
    /// And found, or found not to be there.
    found: BTreeSet<(NodeName, Revision)>,
    /// Whether what ran here may still be in the page cache.
    cache: Cache,
    /// How often it was written back.
    flushes: u64,
    /// What the checks of devices said last.
    pub(crate) checks: BTreeMap<NodeName, DeviceCheck>,
    /// When each is due, as far as that is for us to do.
    check_at: BTreeMap<NodeName, Timestamp>,
    /// When to look again.
    look_at: Option<Mark>,
    /// Since when each node with an agent that knows nothing of it is seen.
    of_before: BTreeMap<NodeName, Timestamp>,
    /// Since when each lost node is not known to be off.
    pub(crate) unproven: BTreeMap<NodeName, (Revision, Timestamp)>,
}

/// What comes of it.
#[derive(Debug)]
pub(crate) enum PowerNews {
    /// Everything is on the disks that was in the page cache when this began.
    Clean(u64),
    /// An attempt at a node's power is over, but for `more`: it gets its power back.
    Over {
        node: NodeName,
        result: Result<String, String>,
        more: bool,
    },
    /// A node whose power was taken away has it again, or not.
    Back { node: NodeName, result: Result<(), String> },
    /// How a session ended, as its grave says; nothing if there is none.
    Grave {
        node: NodeName,
        session: Revision,
        cause: Option<Cause>,
    },
    /// That could not be looked up.
    NoAnswer { node: NodeName, session: Revision },
    /// A device was asked.
    Checked { node: NodeName, trouble: Option<String> },
}

impl Power {
    pub(crate) fn new(me: NodeName) -> Self {
        Self {
            fencer: Fencer::new(me),
            tasks: BTreeMap::new(),
            waiting: BTreeMap::new(),
            asked: BTreeSet::new(),
            found: BTreeSet::new(),
            cache: Cache::default(),
            flushes: 0,
            checks: BTreeMap::new(),
            check_at: BTreeMap::new(),
            look_at: None,
            of_before: BTreeMap::new(),
            unproven: BTreeMap::new(),
        }
    }

    /// Our session is gone: whatever we are at is somebody else's from now on.
    pub(crate) fn session_lost(&mut self) {
        for (node, task) in std::mem::take(&mut self.tasks) {
            task.abort();
            self.fencer.ended(&node);
            if let Some(waiting) = self.waiting.remove(&node) {
                let text = format!("this node lost its session while it was at the power of node {node}");
                let _ = waiting.send(Err(refused(text, Some("ask the agent of another node".into()))));
            }
        }
    }

    pub(crate) fn wakeup(&self) -> Option<Timestamp> {
        let look = self.look_at.map(|at| Timestamp(at.boot_ns / 1_000 + 1));
        look.into_iter().chain(self.check_at.values().copied()).min()
    }
}

impl Agent {
    /// Looks whether somebody's power has to be taken away. Harmless at any time.
    pub(crate) fn look_at_power(&mut self, now: Timestamp) {
        let unproven = self.core.unproven_nodes();
        let Some(cluster) = &mut self.clustered else { return };
        let of_before: BTreeSet<NodeName> = of_before(cluster).cloned().collect();
        let power = &mut cluster.power;
        power.of_before.retain(|node, _| of_before.contains(node));
        for node in of_before {
            power.of_before.entry(node).or_insert(now);
        }
        power.unproven.retain(|node, _| unproven.contains_key(node));
        for looked_up in [&mut power.asked, &mut power.found] {
            looked_up.retain(|(node, session)| unproven.get(node) == Some(session));
        }
        for (node, session) in &unproven {
            let known = power.unproven.entry(node.clone()).or_insert((*session, now));
            known.0 = *session;
        }
        let lookups: Vec<(NodeName, Revision)> = unproven
            .iter()
            .filter(|(node, session)| cluster.sessions.get(*node).map(|open| open.id) != Some(**session))
            .map(|(node, session)| (node.clone(), *session))
            .filter(|lookup| power.asked.insert(lookup.clone()))
            .collect();
        for (node, session) in lookups {
            look_up(Arc::clone(&self.store), self.inputs.clone(), node, session);
        }
        self.check_devices(now);
        let Some(cluster) = &mut self.clustered else { return };
        let idle = unproven.is_empty() && cluster.power.fencer.next_wakeup(marks::mark()).is_none();
        if idle || cluster.paused || self.core.is_paused() {
            cluster.power.look_at = None;
            return;
        }
        // One that left in order, or has just booted again, is not fenced before its grave was read.
        let mut known = unproven;
        let has = |node: &NodeName, session| cluster.sessions.get(node).map(|open| open.id) == Some(session);
        known.retain(|node, session| has(node, *session) || cluster.power.found.contains(&(node.clone(), *session)));
        let facts = Facts::of(cluster, &self.cluster, known);
        let steps = cluster.power.fencer.look(&facts.situation(cluster));
        cluster.power.look_at = cluster.power.fencer.next_wakeup(facts.now);
        for step in steps {
            match step {
                Step::Begin(begin) => {
                    let services: Vec<String> = self
                        .core
                        .fenced_by_power_at(&begin.node)
                        .iter()
                        .map(ToString::to_string)
                        .collect();
                    let because = format!(
                        "node {} is lost, and may still write what {} shares",
                        begin.node,
                        services.join(", ")
                    );
                    self.fence(begin, because);
                }
                Step::GiveBack { node, record, revision } => self.give_back(node, record, revision),
                Step::GiveUp { node, record, revision } => self.let_go_of(node, record, revision),
            }
        }
    }

    /// Begins an attempt.
    fn fence(&mut self, begin: Begin, because: String) {
        let Some(cluster) = &mut self.clustered else { return };
        let Some(under) = cluster.session else {
            cluster.power.fencer.ended(&begin.node);
            return;
        };
        let place = self.cluster.site.nodes.get(&begin.node);
        let node = begin.node.clone();
        let record = FenceRecord {
            session: begin.session,
            state: FenceState::Powering,
            by: cluster.me.clone(),
            under,
            bound: begin.bound,
            tries: begin.tries,
            proven: begin.proven,
            because,
            at: clock::wall_now(),
        };
        let open = cluster.sessions.get(&node).is_some_and(|open| open.id == begin.session);
        let attempt = Attempt {
            store: Arc::clone(&self.store),
            devices: place.map(|place| place.fence.clone()).unwrap_or_default(),
            after: place.map(|place| place.after_fence).unwrap_or_default(),
            renewals: cluster.link.renewals.clone(),
            lease: cluster.timing.soft_deadline.duration(),
            intent: Intent {
                node: node.clone(),
                record,
                expect: begin.expect,
                modified: begin.modified,
                open,
                gone: begin.gone,
            },
        };
        let inputs = self.inputs.clone();
        let task = tokio::spawn(async move {
            let node = attempt.intent.node.clone();
            let off = attempt.run().await;
            let (result, back) = match off {
                Ok((told, off)) => (Ok(told), Some(off)),
                Err(why) => (Err(why), None),
            };
            let over = PowerNews::Over {
                node: node.clone(),
                result,
                more: back.is_some(),
            };
            let _ = inputs.send(Input::Later(Later::Power(over)));
            if let Some(off) = back {
                let result = give_back(attempt.store.as_ref(), &node, attempt.told_on(), off).await;
                let _ = inputs.send(Input::Later(Later::Power(PowerNews::Back { node, result })));
            }
        });
        cluster.power.tasks.insert(node, task.abort_handle());
    }

    /// Goes on with giving a node its power back, whose fencer is gone.
    fn give_back(&mut self, node: NodeName, record: FenceRecord, from: Revision) {
        let Some(cluster) = &mut self.clustered else { return };
        let Some(under) = cluster.session else {
            cluster.power.fencer.ended(&node);
            return;
        };
        let place = self.cluster.site.nodes.get(&node);
        let place = place.filter(|place| place.after_fence == AfterFence::On);
        let devices = place.map(|place| place.fence.clone()).unwrap_or_default();
        let record = FenceRecord {
            by: cluster.me.clone(),
            under,
            at: clock::wall_now(),
            ..record
        };
        let (store, inputs, of) = (Arc::clone(&self.store), self.inputs.clone(), node.clone());
        let task = tokio::spawn(async move {
            let sent = marks::mark();
            let result = match fence::resume(store.as_ref(), &of, from, &record).await {
                Ok(Some(revision)) => {
                    let off = Off { record, revision, sent };
                    give_back(store.as_ref(), &of, &devices, off).await
                }
                // Somebody else does.
                Ok(None) => Ok(()),
                Err(error) => {
                    tracing::debug!(node = %of, error = %chain(&error), "its power is given back later");
                    Ok(())
                }
            };
            let _ = inputs.send(Input::Later(Later::Power(PowerNews::Back { node: of, result })));
        });
        cluster.power.tasks.insert(node, task.abort_handle());
    }

    /// Notes that an attempt of this node has failed, which another agent of it did not end.
    fn let_go_of(&mut self, node: NodeName, record: FenceRecord, from: Revision) {
        let failed = FenceRecord {
            state: FenceState::Failed("the agent that did it was started anew meanwhile".into()),
            at: clock::wall_now(),
            ..record
        };
        let (store, inputs) = (Arc::clone(&self.store), self.inputs.clone());
        tokio::spawn(async move {
            let result = note(store.as_ref(), &node, from, &failed).await;
            let over = PowerNews::Over {
                node,
                result: result.map(|_| String::new()),
                more: false,
            };
            let _ = inputs.send(Input::Later(Later::Power(over)));
        });
    }

    /// What a task of ours, or a look at the store, brought.
    pub(crate) fn hear_power(&mut self, news: PowerNews, now: Timestamp) {
        let Some(cluster) = &mut self.clustered else { return };
        match news {
            PowerNews::Over { node, result, more } => {
                if !more {
                    cluster.power.tasks.remove(&node);
                    cluster.power.fencer.ended(&node);
                }
                if let Err(why) = &result {
                    tracing::warn!(%node, why, "the power of a node was not taken away");
                }
                if let Some(waiting) = cluster.power.waiting.remove(&node) {
                    let hint = || Some("`understudy fence --test NODE` asks its devices".into());
                    let _ = waiting.send(result.map(done).map_err(|why| refused(why, hint())));
                }
            }
            PowerNews::Back { node, result } => {
                cluster.power.tasks.remove(&node);
                cluster.power.fencer.ended(&node);
                if let Err(why) = result {
                    let text = format!("node {node} was fenced, and does not get its power back: give it back by hand");
                    self.journal.tell(Severity::Error, "stays-off", text, why);
                }
            }
            PowerNews::Clean(time) => {
                if cluster.power.cache == Cache::WrittenBack(time) {
                    cluster.power.cache = Cache::Clean;
                }
            }
            PowerNews::NoAnswer { node, session } => {
                cluster.power.asked.remove(&(node, session));
            }
            PowerNews::Grave { node, session, cause } => {
                cluster.power.found.insert((node.clone(), session));
                let proves = matches!(
                    cause,
                    Some(Cause::Closed | Cause::Rebooted | Cause::Fenced | Cause::Stated)
                );
                if proves {
                    self.core
                        .handle(Event::Cluster(ClusterEvent::Proven { node, session }), now);
                }
            }
            PowerNews::Checked { node, trouble } => self.device_checked(&node, trouble, now),
        }
    }

    /// The record of a node's fencing, as the store has it now.
    pub(crate) fn fence_seen(&mut self, node: NodeName, entry: &Entry, now: Timestamp) {
        let Some(cluster) = &mut self.clustered else { return };
        let record = match fence::read(entry) {
            Ok(record) => record,
            Err(error) => {
                tracing::error!(%node, %error, "how far its fencing is cannot be read");
                return;
            }
        };
        let known = cluster.power.fencer.record(&node).map(|(_, revision)| revision);
        cluster
            .power
            .fencer
            .hear(node.clone(), record.clone(), entry.modified, marks::mark());
        let fresh = known.is_none_or(|known| known < entry.modified);
        if fresh && clock::wall_now().0 - record.at.0 < NEWS_FOR_MS {
            let (severity, kind, text) = in_words(&node, &record);
            self.journal.tell(severity, kind, text, record.because.clone());
        }
        let session = record.proven;
        if session > Revision(0) {
            self.core
                .handle(Event::Cluster(ClusterEvent::Proven { node, session }), now);
        }
    }

    /// A session has ended, and how.
    pub(crate) fn grave_seen(&mut self, key: &str, entry: &Entry, now: Timestamp) {
        let Some((node, session)) = session_of_grave(key) else {
            return;
        };
        let cause = serde_json::from_slice::<Grave>(&entry.value)
            .ok()
            .map(|grave| grave.cause);
        self.hear_power(PowerNews::Grave { node, session, cause }, now);
    }
}

/// Whose grave it is, and of which session.
pub(crate) fn session_of_grave(key: &str) -> Option<(NodeName, Revision)> {
    let (node, session) = key.split_once('/')?;
    let session: u64 = session.parse().ok()?;
    Some((NodeName::new(node).ok()?, Revision(session)))
}

/// Nodes whose agents are of a version that knows nothing of power fencing.
fn of_before(cluster: &Clustered) -> impl Iterator<Item = &NodeName> {
    let of_before = |session: &session::Session| session.record.protocol < super::session::FENCES_BY_POWER;
    let sessions = cluster.sessions.iter().filter(move |(_, session)| of_before(session));
    sessions.map(|(node, _)| node)
}

/// Why a file with services that share storage cannot be put in force yet.
pub(crate) fn not_everybody_fences(cluster: &Clustered, file: &model::Cluster) -> Option<Outcome> {
    let mut services = file
        .services
        .iter()
        .filter(|(_, service)| service.fence == FenceBy::Power);
    let (service, _) = services.next()?;
    let nodes: Vec<&str> = of_before(cluster).map(NodeName::as_str).collect();
    (!nodes.is_empty()).then(|| {
        refused(
            format!(
                "service `{service}` has `fence = \"power\"`, and the agents of {} are of a version that knows nothing of it: they would take its slots from a lost node that still writes",
                nodes.join(", ")
            ),
            Some("install this version on each node first; nothing was changed".into()),
        )
    })
}

/// What the fencer looks at, gathered.
struct Facts {
    now: Mark,
    sessions: BTreeMap<NodeName, Revision>,
    unproven: BTreeMap<NodeName, Revision>,
    leaves: BTreeMap<NodeName, lease::Condemn>,
    bounds: BTreeMap<NodeName, Millis>,
    needed: BTreeSet<NodeName>,
    rank: u32,
}

impl Facts {
    fn of(cluster: &Clustered, declared: &model::Cluster, unproven: BTreeMap<NodeName, Revision>) -> Self {
        let now = marks::mark();
        let leaves = unproven.keys().filter_map(|node| {
            let leave = cluster.observer.may_condemn(node, now).ok()?;
            Some((node.clone(), leave))
        });
        let with_devices = declared.site.nodes.iter().filter(|(_, place)| !place.fence.is_empty());
        let living = cluster
            .sessions
            .keys()
            .filter(|node| !cluster.expired.contains(*node) && !unproven.contains_key(*node));
        let rank = living.take_while(|node| **node != cluster.me).count();
        Self {
            now,
            sessions: cluster
                .sessions
                .iter()
                .map(|(node, session)| (node.clone(), session.id))
                .collect(),
            leaves: leaves.collect(),
            needed: unproven
                .keys()
                .filter(|node| is_needed(cluster, node))
                .cloned()
                .collect(),
            bounds: with_devices
                .map(|(node, place)| (node.clone(), attempt_bound(&place.fence)))
                .collect(),
            rank: u32::try_from(rank).unwrap_or(u32::MAX),
            unproven,
        }
    }

    fn situation(&self, cluster: &Clustered) -> Situation<'_> {
        Situation {
            now: self.now,
            session: cluster.session,
            sessions: &self.sessions,
            unproven: &self.unproven,
            leaves: &self.leaves,
            bounds: &self.bounds,
            needed: &self.needed,
            rank: self.rank,
            stagger: cluster.timing.rank_stagger.duration(),
        }
    }
}

/// Whether the store would have no majority of members on living nodes without this one.
fn is_needed(cluster: &Clustered, node: &NodeName) -> bool {
    let voters: Vec<&NodeName> = cluster
        .members
        .iter()
        .filter(|(_, member)| member.votes)
        .map(|(voter, _)| voter)
        .collect();
    let lives = |voter: &&&NodeName| {
        **voter != node && cluster.sessions.contains_key(**voter) && !cluster.expired.contains(**voter)
    };
    voters.contains(&node) && voters.iter().filter(lives).count() < voters.len() / 2 + 1
}

/// How a session ended that is gone without our having seen it.
fn look_up(store: Arc<dyn Store>, inputs: Inputs, node: NodeName, id: Revision) {
    tokio::spawn(async move {
        let key = session::grave_key(&node, id);
        let news = match store.get(&key).await {
            Ok(entry) => {
                let grave = entry.and_then(|entry| serde_json::from_slice::<Grave>(&entry.value).ok());
                PowerNews::Grave {
                    node,
                    session: id,
                    cause: grave.map(|grave| grave.cause),
                }
            }
            Err(_) => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                PowerNews::NoAnswer { node, session: id }
            }
        };
        let _ = inputs.send(Input::Later(Later::Power(news)));
    });
}
