//! Tells receivers of alerts, if it is this node's turn.
//!
//! On one machine it always is. Of several the controller tells. While the store has no majority there is no controller: then the first by name of the
//! nodes that still hear each other does. What was told is kept in the store, so that the next one does not tell it anew.

use super::deliver::deliver;
use super::{ClusterLook, Measures, Seen, moment};
use crate::executor::chain;
use api::record;
use futures_util::future::join_all;
use model::NodeName;
use monitor::alert::{Change, Kept, Receiver, Sent, Silence, plan};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use store::{Op, Store, Txn};

const EVERY: Duration = Duration::from_secs(1);
/// Silences that were made on another node are seen after this long at most.
const SILENCES_EVERY: Duration = Duration::from_secs(3);
/// A store that takes longer does not hold up what is to be told.
const STORE: Duration = Duration::from_secs(2);
/// Whoever begins to tell has seen by then what is wrong: until then nothing is told as over.
const SETTLED_AFTER: Duration = Duration::from_secs(15);
/// A node that is asked each second in vain for so long is not heard of.
const UNHEARD_AFTER_S: u64 = 5;

/// What is kept in the store of alerts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Record {
    firing: Vec<Kept>,
    sent: Sent,
}

/// What the teller knows, for whoever asks.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) tells: bool,
    pub(crate) silences: BTreeMap<String, Silence>,
    /// Why the last try failed, by receiver.
    pub(crate) failing: BTreeMap<String, String>,
    /// Deliveries since this agent began, by kind of receiver and whether they went well.
    pub(crate) deliveries: BTreeMap<(&'static str, bool), u64>,
}

pub(crate) type Shared = Arc<Mutex<Told>>;

pub(super) struct Teller {
    measures: Measures,
    store: Arc<dyn Store>,
    /// What was read from the store, or written to it last; `None` while it is not our turn.
    record: Option<Record>,
    /// When that was.
    began: Instant,
    silences_read: Option<Instant>,
    heard: BTreeMap<NodeName, Instant>,
    /// Fired and resolved alerts, for the log.
    changes: tokio::sync::mpsc::UnboundedReceiver<Change>,
}

impl Teller {
    pub(super) fn new(
        measures: Measures,
        store: Arc<dyn Store>,
        changes: tokio::sync::mpsc::UnboundedReceiver<Change>,
    ) -> Self {
        Self {
            measures,
            store,
            record: None,
            began: Instant::now(),
            silences_read: None,
            heard: BTreeMap::new(),
            changes,
        }
    }

    /// Goes on for as long as the agent lives.
    pub(super) async fn run(mut self) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let seen = match &self.measures.state().look {
                Some((seen, _)) => seen.clone(),
                None => continue,
            };
            self.read_silences().await;
            self.ask_others(&seen).await;
            let tells = self.is_our_turn(seen.cluster.as_ref(), &seen.me);
            self.told(|told| told.tells = tells);
            self.measures
                .state()
                .alerting
                .ledgers
                .tell(tells, seen.cluster.is_some());
            if !tells {
                self.record = None;
            }
            self.log(tells);
            if tells {
                self.tell(&seen).await;
            }
        }
    }

    fn is_our_turn(&self, cluster: Option<&ClusterLook>, me: &str) -> bool {
        let Some(cluster) = cluster else { return true };
        if cluster.store_lost_since.is_none() {
            return cluster.leads;
        }
        let alive = |node: &&NodeName| {
            self.heard
                .get(*node)
                .is_some_and(|at| at.elapsed() < Duration::from_secs(UNHEARD_AFTER_S))
        };
        cluster.others.keys().filter(alive).all(|node| node.as_str() > me)
    }

    /// The node that tells has to know what all counted; without a store all have to know who is there.
    async fn ask_others(&mut self, seen: &Seen) {
        let Some(cluster) = &seen.cluster else { return };
        if !cluster.leads && cluster.store_lost_since.is_none() {
            self.heard.clear();
            let mut state = self.measures.state();
            state.alerting.unheard.clear();
            state.alerting.others.clear();
            return;
        }
        let asks = |node: &NodeName| {
            let after = self.measures.state().alerting.ledgers.heard_of(node);
            format!("/v1/counts?after={after}")
        };
        let paths: BTreeMap<NodeName, String> = cluster.others.keys().map(|node| (node.clone(), asks(node))).collect();
        let (answers, silent) = self.measures.peers.ask_each(cluster, &paths).await;
        for (node, _) in &answers {
            self.heard.insert(node.clone(), Instant::now());
        }
        let started = Instant::now();
        for node in cluster.others.keys() {
            // One that was never heard is unheard since we began to ask.
            self.heard.entry(node.clone()).or_insert(started);
        }
        let unheard = silent.iter().filter_map(|silent| {
            let at = self.heard.get(&NodeName::new(&silent.node).ok()?)?;
            let online = seen.status.nodes.iter().any(|node| node.name == silent.node);
            (online && at.elapsed().as_secs() >= UNHEARD_AFTER_S).then(|| (silent.node.clone(), at.elapsed().as_secs()))
        });
        let unheard: Vec<(String, u64)> = unheard.collect();
        let now = moment();
        let mut state = self.measures.state();
        let alerting = &mut state.alerting;
        alerting.unheard = unheard;
        for (node, counts) in answers {
            alerting.ledgers.hear(&node, &counts, now);
            alerting.others.insert(node.to_string(), counts.news);
        }
        let stays = |node: &String| NodeName::new(node).is_ok_and(|node| cluster.others.contains_key(&node));
        alerting.others.retain(|node, _| stays(node));
    }

    async fn read_silences(&mut self) {
        if self.silences_read.is_some_and(|at| at.elapsed() < SILENCES_EVERY) {
            return;
        }
        let read = tokio::time::timeout(STORE, self.store.list(record::SILENCES)).await;
        let Ok(Ok((entries, _))) = read else { return };
        self.silences_read = Some(Instant::now());
        let now = moment().wall_ms;
        let mut silences = BTreeMap::new();
        let mut over = Txn::new();
        let mut any = false;
        for entry in entries {
            let Some(id) = entry.key.strip_prefix(record::SILENCES) else {
                continue;
            };
            match serde_json::from_slice::<Silence>(&entry.value) {
                Ok(silence) if silence.until_ms > now => drop(silences.insert(id.to_owned(), silence)),
                _ => {
                    any = true;
                    over = over.then(Op::delete(entry.key.as_str()));
                }
            }
        }
        let tells = self.told(|told| {
            told.silences = silences;
            told.tells
        });
        if any && tells {
            // Those that have ended are in nobody's way; the next try does as well.
            let _ = tokio::time::timeout(STORE, self.store.txn(over)).await;
        }
    }

    fn log(&mut self, tells: bool) {
        while let Ok(change) = self.changes.try_recv() {
            match change {
                Change::Fired(one) => {
                    tracing::warn!(
                        code = one.wrong.code.name(),
                        about = one.wrong.about,
                        text = one.wrong.text,
                        tells,
                        "alert fires"
                    );
                }
                Change::Resolved(one) => {
                    tracing::info!(
                        code = one.wrong.code.name(),
                        about = one.wrong.about,
                        tells,
                        "alert is over"
                    );
                }
            }
        }
    }

    async fn tell(&mut self, seen: &Seen) {
        if self.record.is_none() {
            let read = tokio::time::timeout(STORE, self.store.get(record::ALERTS_SENT)).await;
            let lost = seen
                .cluster
                .as_ref()
                .is_some_and(|cluster| cluster.store_lost_since.is_some());
            let record = match read {
                Ok(Ok(entry)) => entry
                    .and_then(|entry| serde_json::from_slice::<Record>(&entry.value).ok())
                    .unwrap_or_default(),
                // Without a store it cannot be known what was told: better twice than never.
                _ if lost => Record::default(),
                _ => return,
            };
            self.measures.state().alerting.book.go_on(record.firing.iter().cloned());
            self.record = Some(record);
            self.began = Instant::now();
        }
        let Some(record) = &mut self.record else { return };
        let config = &seen.declared.alerts;
        let now = moment();
        let silences: Vec<Silence> = self.measures.told().silences.values().cloned().collect();
        let (firing, kept) = {
            let state = self.measures.state();
            (
                state.alerting.book.firing(&silences, now.wall_ms),
                state.alerting.book.kept(),
            )
        };
        record.sent.retain(config);
        // Who has just begun may not have seen yet what goes on.
        let settled = self.began.elapsed() >= SETTLED_AFTER;
        let mut keep = settled && record.firing != kept;
        if settled {
            record.firing = kept;
            self.measures.state().alerting.book.settle();
        }
        let dues = plan(&seen.declared.name, config, &firing, &record.sent, settled, now.wall_ms);
        let outcomes = join_all(dues.iter().map(|due| deliver(&seen.declared.name, config, due))).await;
        for (due, outcome) in dues.iter().zip(outcomes) {
            let (key, kind) = (due.receiver.key(), due.receiver.kind());
            let mut told = self.measures.told();
            *told.deliveries.entry((kind, outcome.is_ok())).or_default() += 1;
            match outcome {
                Ok(()) => {
                    record.sent.done(due, now.wall_ms);
                    keep |= due.keep;
                    told.failing.remove(&key);
                }
                Err(error) => {
                    let tries = record.sent.failed(&due.receiver, now.wall_ms);
                    let error = chain(&error);
                    tracing::warn!(to = key, tries, error, "alerts could not be delivered; trying again");
                    told.failing.insert(key, error);
                }
            }
        }
        let known: Vec<String> = Receiver::all(config).iter().map(Receiver::key).collect();
        self.measures.told().failing.retain(|key, _| known.contains(key));
        if keep && let Ok(value) = serde_json::to_vec(&record) {
            let write = self.store.txn(Txn::new().then(Op::put(record::ALERTS_SENT, value)));
            if !matches!(tokio::time::timeout(STORE, write).await, Ok(Ok(_))) {
                tracing::warn!("what was told of alerts is not in the store: another node might tell it once more");
            }
        }
    }

    fn told<T>(&self, with: impl FnOnce(&mut Told) -> T) -> T {
        with(&mut self.measures.told.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
