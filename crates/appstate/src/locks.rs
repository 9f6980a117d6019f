//! Locks whose token only rises, and which end by observation.
//!
//! ```text
//!            acquire                  renew
//!    free ────────────► held, token τ ───────► held, token τ
//!     ▲                     │ release, or not renewed for W as a waiter saw it
//!     └─────────────────────┘
//! ```
//! The token is the revision that created the lock's record, so it is larger than that of every holder before, over all
//! locks of the cluster. A write with the condition *lock held with this token* is compared by the store in the same
//! transaction, which is how a holder that slept through the end of its time is refused.
//!
//! A holder counts its time from when it *sent* the last request that was acknowledged: an acquisition or a renewal. It
//! must have stopped when its time is up, whether or not anybody waits.

use crate::namespace::Step;
use crate::observer::Verdict;
use crate::{AppState, Error, keys};
use model::{Millis, Revision, ServiceName};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use store::{Compare, Entry, Op, Txn};
use tokio::time::Instant;

/// Shortest time to live: some renewals must fit into it.
pub const TTL_MIN: Millis = Millis(200);
/// Longest time to live.
pub const TTL_MAX: Millis = Millis(3_600_000);
/// Longest wait for a lock that one request may ask for.
pub const WAIT_MAX: Millis = Millis(60_000);
/// A waiter looks at least this often, should its watch be silent: three quarters of the shortest wait would be busier
/// than any lock is worth.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What a lock's record holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    owner: String,
    ttl_ms: Millis,
    /// Whose request it was: the same request sent again finds itself.
    attempt: String,
    /// Counts the renewals.
    seq: u64,
}

/// A lock that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its name.
    pub name: String,
    /// Who holds it, in its own words.
    pub owner: String,
    /// Larger than that of every holder before.
    pub token: Revision,
    /// The holder stops this long after it sent what was acknowledged last.
    pub ttl: Millis,
    /// The revision of the last renewal.
    pub renewed: Revision,
}

/// A wish for a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Who asks: shown to the others.
    pub owner: String,
    /// Time to live, [`TTL_MIN`] to [`TTL_MAX`].
    pub ttl: Millis,
    /// How long to wait for it, up to [`WAIT_MAX`].
    pub wait: Millis,
    /// Another one for each wish. The same wish sent again, after an answer that was lost, does not wait for itself.
    pub attempt: String,
}

/// What one try for a lock came to.
#[derive(Debug)]
pub(crate) enum Tried {
    Acquired(Held),
    /// Somebody's time was up and the lock is free: try again.
    Freed,
    Taken {
        by: Held,
        /// Until it is known to be free, unless it is renewed.
        left: Duration,
    },
}

impl AppState {
    /// Acquires a lock, waiting for it if asked to.
    pub async fn acquire(&self, service: &ServiceName, name: &str, wish: &Wish) -> Result<Held, Error> {
        check(name, wish)?;
        let until = Instant::now() + wish.wait.duration();
        loop {
            match self.try_acquire(service, name, wish).await? {
                Tried::Acquired(held) => return Ok(held),
                Tried::Freed => {}
                Tried::Taken { by, left } => {
                    if Instant::now() >= until {
                        return Err(Error::LockHeld {
                            name: by.name,
                            owner: by.owner,
                            token: by.token,
                        });
                    }
                    let again = (Instant::now() + left.min(LOOK_EVERY)).min(until);
                    self.changed(service, name, by.renewed, again).await;
                }
            }
        }
    }

    /// Looks once, and takes the lock if it is free or its holder's time is up.
    pub(crate) async fn try_acquire(&self, service: &ServiceName, name: &str, wish: &Wish) -> Result<Tried, Error> {
        let key = keys::lock(service, name);
        self.write(service, std::slice::from_ref(&key), |snapshot| {
            let Some(entry) = snapshot.entry(&key) else {
                self.observer().forget(service, name);
                return self.take(service, name, wish, &snapshot.usage);
            };
            let record = decode(entry)?;
            if record.attempt == wish.attempt && record.owner == wish.owner {
                return Ok(again(name, entry, &record, snapshot.usage.clone()));
            }
            let verdict = self
                .observer()
                .see(service, name, entry.modified, record.ttl_ms, self.clock().now());
            match verdict {
                Verdict::Wait(left) => Ok(Step::Answer(Tried::Taken {
                    by: held(name, entry, record),
                    left,
                })),
                Verdict::Expired => {
                    tracing::info!(%service, lock = name, owner = record.owner, "removing a lock that was not renewed");
                    let mut usage = snapshot.usage.clone();
                    usage.locks = usage.locks.saturating_sub(1);
                    Ok(Step::Write {
                        usage,
                        compares: vec![Compare::modified(&key, entry.modified)],
                        ops: vec![Op::delete(&key)],
                        answer: Box::new(|_| Tried::Freed),
                    })
                }
            }
        })
        .await
    }

    fn take(
        &self,
        service: &ServiceName,
        name: &str,
        wish: &Wish,
        before: &crate::usage::Usage,
    ) -> Result<Step<Tried>, Error> {
        let mut usage = before.clone();
        usage.locks += 1;
        self.check_quota(service, before, &usage)?;
        let key = keys::lock(service, name);
        let record = Record {
            owner: wish.owner.clone(),
            ttl_ms: wish.ttl,
            attempt: wish.attempt.clone(),
            seq: 1,
        };
        let ops = vec![Op::put(&key, encode(&record))];
        let name = name.to_owned();
        Ok(Step::Write {
            usage,
            compares: vec![Compare::absent(&key)],
            ops,
            answer: Box::new(move |revision| {
                Tried::Acquired(Held {
                    name,
                    owner: record.owner,
                    token: revision,
                    ttl: record.ttl_ms,
                    renewed: revision,
                })
            }),
        })
    }

    /// Renews a lock. The holder's time runs from when it sent this, once it is answered.
    pub async fn renew(&self, service: &ServiceName, name: &str, token: Revision) -> Result<Held, Error> {
        keys::check_name("lock", name)?;
        let key = keys::lock(service, name);
        let lost = || Error::LockLost {
            name: name.into(),
            token,
        };
        let snapshot = self.snapshot(service, std::slice::from_ref(&key)).await?;
        let entry = snapshot
            .entry(&key)
            .filter(|entry| entry.create == token)
            .ok_or_else(lost)?;
        let mut record = decode(entry)?;
        record.seq += 1;
        let renewal = Txn::new()
            .when(Compare::created(&key, token))
            .then(Op::put(&key, encode(&record)));
        // Carried out twice it is as good as once: the same holder, renewed.
        let result = self.repeatable(renewal).await?;
        if !result.succeeded {
            return Err(lost());
        }
        Ok(Held {
            renewed: result.revision,
            ..held(name, entry, record)
        })
    }

    /// Gives a lock back. Returns whether it was held with this token until now.
    pub async fn release(&self, service: &ServiceName, name: &str, token: Revision) -> Result<bool, Error> {
        keys::check_name("lock", name)?;
        let key = keys::lock(service, name);
        self.write(service, std::slice::from_ref(&key), |snapshot| {
            if snapshot.entry(&key).is_none_or(|entry| entry.create != token) {
                return Ok(Step::Answer(false));
            }
            let mut usage = snapshot.usage.clone();
            usage.locks = usage.locks.saturating_sub(1);
            Ok(Step::Write {
                usage,
                compares: vec![Compare::created(&key, token)],
                ops: vec![Op::delete(&key)],
                answer: Box::new(|_| true),
            })
        })
        .await
    }

    /// Who holds a lock now. That its holder may still act is not said: its time may be up.
    pub async fn lock(&self, service: &ServiceName, name: &str) -> Result<Option<Held>, Error> {
        keys::check_name("lock", name)?;
        let key = keys::lock(service, name);
        let snapshot = self.snapshot(service, std::slice::from_ref(&key)).await?;
        let Some(entry) = snapshot.entry(&key) else {
            return Ok(None);
        };
        Ok(Some(held(name, entry, decode(entry)?)))
    }

    /// All locks that are held, by name: for people to look at, it may be a moment old.
    pub async fn locks_held(&self, service: &ServiceName) -> Result<Vec<Held>, Error> {
        let start = keys::locks(service);
        let (entries, _) = self.store().list(&start).await.map_err(Error::reading)?;
        entries
            .iter()
            .filter_map(|entry| Some((entry.key.strip_prefix(&start)?, entry)))
            .map(|(name, entry)| Ok(held(name, entry, decode(entry)?)))
            .collect()
    }

    /// Returns when the lock may have changed since `renewed`, at the latest at `until`. Being wrong costs a look.
    async fn changed(&self, service: &ServiceName, name: &str, renewed: Revision, until: Instant) {
        let key = keys::lock(service, name);
        let news = async {
            let Ok(mut watch) = self.store().watch(&key, Revision(renewed.0 + 1)).await else {
                return std::future::pending().await;
            };
            loop {
                match watch.next().await {
                    // Locks whose names begin like this one's are told as well.
                    Ok(changes) if changes.changes.iter().all(|change| change_key(change) != key) => {}
                    Ok(_) => return,
                    Err(_) => return std::future::pending().await,
                }
            }
        };
        // Late or not, the caller looks for itself.
        let _ = tokio::time::timeout_at(until, news).await;
    }
}

/// The same wish again: it is renewed, so that whoever sent it may count from its last sending.
fn again(name: &str, entry: &Entry, record: &Record, usage: crate::usage::Usage) -> Step<Tried> {
    let record = Record {
        seq: record.seq + 1,
        ..record.clone()
    };
    let mut held = held(name, entry, record.clone());
    Step::Write {
        usage,
        compares: vec![Compare::created(&entry.key, entry.create)],
        ops: vec![Op::put(&entry.key, encode(&record))],
        answer: Box::new(move |revision| {
            held.renewed = revision;
            Tried::Acquired(held)
        }),
    }
}

fn check(name: &str, wish: &Wish) -> Result<(), Error> {
    keys::check_name("lock", name)?;
    keys::check_name("owner", &wish.owner)?;
    keys::check_name("attempt", &wish.attempt)?;
    if wish.ttl < TTL_MIN || wish.ttl > TTL_MAX {
        return Err(Error::InvalidRequest(format!(
            "`ttl_ms` is {}, it must be from {} to {}",
            wish.ttl.0, TTL_MIN.0, TTL_MAX.0
        )));
    }
    if wish.wait > WAIT_MAX {
        return Err(Error::InvalidRequest(format!(
            "`wait_ms` is {}, it must be at most {}: ask again instead",
            wish.wait.0, WAIT_MAX.0
        )));
    }
    Ok(())
}

fn held(name: &str, entry: &Entry, record: Record) -> Held {
    Held {
        name: name.into(),
        owner: record.owner,
        token: entry.create,
        ttl: record.ttl_ms,
        renewed: entry.modified,
    }
}

fn encode(record: &Record) -> Vec<u8> {
    // Strings and numbers in a struct: this cannot fail, and an empty record would be told as damaged.
    serde_json::to_vec(record).unwrap_or_default()
}

fn decode(entry: &Entry) -> Result<Record, Error> {
    serde_json::from_slice(&entry.value).map_err(|error| Error::Damaged {
        key: entry.key.clone(),
        problem: error.to_string(),
    })
}

fn change_key(change: &store::Change) -> &str {
    match change {
        store::Change::Put(entry) => &entry.key,
        store::Change::Delete { key } => key,
    }
}
