//! Reading and writing what one service keeps.
//!
//! ```text
//! read      one transaction that goes the way of a write and changes nothing
//! write     read usage and keys ─► decide (pure) ─► IF usage unchanged [and lock held] THEN usage', puts, deletes
//!               ▲                                       │ changed meanwhile
//!               └───────────────────────────────────────┘
//! ```
//! *Reads.* What a store promises even where its plain reads may be stale (takeover protocol, section 6, rule 1) is that
//! transactions which may write are linearizable. So a read is one: its condition can never hold, the write behind it is
//! never made, and its else-branch reads. It takes no revision and nobody who watches sees it.
//!
//! *Writes* decide on such a read, and the transaction that follows compares the revision of the usage record, which
//! every write of the service changes. So what was read is still true when it is written, for any number of keys.

use crate::usage::{Attempt, Fate, Usage};
use crate::{AppState, Error, keys};
use model::{Revision, ServiceName};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use store::{Compare, Entry, Op, Txn, TxnResult};

/// How often a write is decided anew because others wrote in between: with backing off that is more than a second.
const CONFLICTS_MAX: u32 = 40;
/// How often a transaction whose answer was lost is sent again before its sender is told so.
const RESENDS_MAX: u32 = 4;
/// How often a read is tried.
const READS_MAX: u32 = 4;
/// The wait before something is tried again doubles up to this.
const BACKOFF_MAX: Duration = Duration::from_millis(50);
/// No key is ever at this revision: the first change of any store makes revision 2.
const NEVER: Revision = Revision(1);

/// What a read found, all at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) usage: Usage,
    /// When the usage record was written; 0 if never.
    pub(crate) modified: Revision,
    /// The revision of the store at that moment, or an earlier one at which all this was so already.
    pub(crate) revision: Revision,
    entries: BTreeMap<String, Entry>,
}

impl Snapshot {
    /// What stands under a key of the store that was read.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }
}

/// What a write is decided to be.
pub(crate) enum Step<T> {
    /// Nothing is to be written.
    Answer(T),
    /// This is.
    Write {
        /// The amounts after it.
        usage: Usage,
        /// What must hold beside the usage record being unchanged. Must be such that it never holds again once it did not.
        compares: Vec<Compare>,
        /// What is written.
        ops: Vec<Op>,
        /// Makes the answer of the revision.
        answer: Box<dyn FnOnce(Revision) -> T + Send>,
    },
}

/// Lets one write of a service through at a time: they would only disturb each other at the usage record.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    turn: tokio::sync::Mutex<()>,
    waiting: AtomicUsize,
}

/// Leaves the queue of a lane, also when the request is given up.
struct Queued<'a>(&'a AtomicUsize);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AppState {
    /// Reads keys of the store, and the usage record, as they are now.
    pub(crate) async fn snapshot(&self, service: &ServiceName, read: &[String]) -> Result<Snapshot, Error> {
        let usage_key = keys::usage(service);
        let mut txn = Txn::new()
            .when(Compare::modified(keys::never(service), NEVER))
            .then(Op::put(keys::never(service), ""))
            .otherwise(Op::get(&usage_key));
        for key in read {
            txn = txn.otherwise(Op::get(key));
        }
        let result = self.read(txn).await?;
        if result.succeeded || result.reads.len() != read.len() + 1 {
            return Err(Error::Damaged {
                key: keys::never(service),
                problem: "the store says that it is at a revision that there never was".into(),
            });
        }
        let mut reads = result.reads.into_iter();
        let (usage, modified) = match reads.next().flatten() {
            Some(entry) => (Usage::decode(&usage_key, &entry.value)?, entry.modified),
            None => (Usage::default(), Revision(0)),
        };
        Ok(Snapshot {
            usage,
            modified,
            revision: result.revision,
            entries: reads.flatten().map(|entry| (entry.key.clone(), entry)).collect(),
        })
    }

    /// A transaction that changes nothing may be sent as often as one likes.
    async fn read(&self, txn: Txn) -> Result<TxnResult, Error> {
        let mut tried = 0;
        loop {
            tried += 1;
            match self.store().txn(txn.clone()).await {
                Ok(result) => return Ok(result),
                Err(source) if tried >= READS_MAX => return Err(Error::Unavailable { source }),
                Err(store::Error::Invalid(invalid)) => return Err(Error::InvalidRequest(invalid.to_string())),
                Err(_) => backoff(tried).await,
            }
        }
    }

    /// Writes what `decide` makes of the keys `read`; it is asked again whenever others wrote in between.
    pub(crate) async fn write<T>(
        &self,
        service: &ServiceName,
        read: &[String],
        mut decide: impl FnMut(&Snapshot) -> Result<Step<T>, Error> + Send,
    ) -> Result<T, Error> {
        let lane = self.lane(service);
        let max = self.limits().writes_waiting_max;
        let queued = Queued(&lane.waiting);
        if lane.waiting.fetch_add(1, Ordering::Relaxed) >= max {
            return Err(Error::Busy {
                service: service.clone(),
                what: "writes",
                max,
            });
        }
        let _turn = lane.turn.lock().await;
        for conflicts in 1..=CONFLICTS_MAX {
            let snapshot = self.snapshot(service, read).await?;
            let (usage, compares, ops, answer) = match decide(&snapshot)? {
                Step::Answer(answer) => return Ok(answer),
                Step::Write {
                    usage,
                    compares,
                    ops,
                    answer,
                } => (usage, compares, ops, answer),
            };
            if let Some(revision) = self.commit(service, &snapshot, &usage, compares, ops).await? {
                return Ok(answer(revision));
            }
            backoff(conflicts).await;
        }
        drop(queued);
        Err(Error::Contended {
            service: service.clone(),
        })
    }

    /// Returns the revision of the write, or nothing if something had changed since the snapshot.
    async fn commit(
        &self,
        service: &ServiceName,
        snapshot: &Snapshot,
        usage: &Usage,
        compares: Vec<Compare>,
        ops: Vec<Op>,
    ) -> Result<Option<Revision>, Error> {
        let key = keys::usage(service);
        let (usage, attempt) = usage.next(random()?, snapshot.modified);
        let mut txn = Txn::new()
            .when(Compare::modified(&key, snapshot.modified))
            .then(Op::put(&key, usage.encode()))
            .otherwise(Op::get(&key));
        txn.compares.extend(compares);
        txn.then.extend(ops);
        let mut unclear = None;
        for sent in 1..=RESENDS_MAX {
            match self.store().txn(txn.clone()).await {
                Ok(result) if result.succeeded => return Ok(Some(result.revision)),
                Ok(result) => return settle(&key, &result, &attempt, unclear),
                Err(store::Error::Invalid(invalid)) => return Err(Error::InvalidRequest(invalid.to_string())),
                Err(error) if may_be_done(&error) => unclear = Some(error),
                Err(source) if unclear.is_none() => return Err(Error::Unavailable { source }),
                // An earlier one may have been carried out.
                Err(_) => {}
            }
            backoff(sent).await;
        }
        match unclear {
            Some(source) => Err(Error::OutcomeUnknown { source }),
            None => Ok(None),
        }
    }

    /// Carries out a transaction that may be repeated without harm, and says whether its conditions held.
    pub(crate) async fn repeatable(&self, txn: Txn) -> Result<TxnResult, Error> {
        let mut unclear = None;
        for sent in 1..=RESENDS_MAX {
            match self.store().txn(txn.clone()).await {
                Ok(result) => return Ok(result),
                Err(store::Error::Invalid(invalid)) => return Err(Error::InvalidRequest(invalid.to_string())),
                Err(error) if may_be_done(&error) => unclear = Some(error),
                Err(source) if unclear.is_none() => return Err(Error::Unavailable { source }),
                Err(_) => {}
            }
            backoff(sent).await;
        }
        Err(match unclear {
            Some(source) => Error::OutcomeUnknown { source },
            None => Error::Unavailable {
                source: store::Error::Closed,
            },
        })
    }

    fn lane(&self, service: &ServiceName) -> Arc<Lane> {
        Arc::clone(self.lanes().entry(service.clone()).or_default())
    }
}

/// What the usage record says about an attempt whose transaction found a condition broken.
fn settle(
    key: &str,
    result: &TxnResult,
    attempt: &Attempt,
    unclear: Option<store::Error>,
) -> Result<Option<Revision>, Error> {
    let fate = match result.reads.first() {
        Some(Some(entry)) => Usage::decode(key, &entry.value)?.fate(attempt, entry.modified),
        // Nobody has written yet, so neither have we.
        _ => Fate::NotDone,
    };
    match (fate, unclear) {
        (Fate::Done(revision), _) => Ok(Some(revision)),
        (Fate::NotDone, _) | (Fate::Forgotten, None) => Ok(None),
        (Fate::Forgotten, Some(source)) => Err(Error::OutcomeUnknown { source }),
    }
}

/// Whether a transaction that was answered like this may have been carried out.
fn may_be_done(error: &store::Error) -> bool {
    match error {
        store::Error::Unavailable { .. }
        | store::Error::File(_)
        | store::Error::Invalid(_)
        | store::Error::Compacted { .. }
        | store::Error::Unsettled { .. } => false,
        // It said no, each time before it wrote.
        store::Error::Server(_) => false,
        store::Error::Unknown { .. } | store::Error::Closed => true,
    }
}

/// Waits a little, longer the more often it was tried, and not as long as others do.
pub(crate) async fn backoff(tried: u32) {
    let longest = Duration::from_millis(1 << tried.min(6)).min(BACKOFF_MAX);
    let part = random().unwrap_or(0) % 1_000;
    tokio::time::sleep(longest.mul_f64(0.5 + part as f64 / 2_000.0)).await;
}

/// A number that nobody else has.
pub(crate) fn random() -> Result<u64, Error> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| Error::Unavailable {
        source: store::Error::Unavailable {
            reason: format!("the kernel gives no random numbers: {error}"),
        },
    })?;
    Ok(u64::from_le_bytes(bytes))
}
