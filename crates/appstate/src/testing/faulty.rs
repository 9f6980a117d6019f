//! A store that stands before another one and does to its answers what networks, pauses and bugs do.

use model::Revision;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use store::{BoxFuture, Entry, Error, Op, Store, Txn, TxnResult, Watch};

/// How often what happens, in percent of the calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Not carried out, and the caller is told so.
    pub refused: u8,
    /// Carried out, and the caller is not told.
    pub unknown_done: u8,
    /// Not carried out, and the caller is not told.
    pub unknown_not_done: u8,
    /// The caller is not told, and it is carried out some milliseconds later.
    pub unknown_late: u8,
    /// Takes some milliseconds, before or after it is carried out.
    pub slow: u8,
    /// Once in a while nothing is answered as it should be, for longer than anybody tries again.
    pub storms: bool,
    /// What a store before etcd 3.5.28 may do: plain reads, lists and transactions that only read show an old state.
    pub stale_reads: u8,
    /// What no store may do: a transaction that could write shows an old state.
    pub stale_transactions: u8,
    /// What no store may do: a write is acknowledged and was not made.
    pub lost_writes: u8,
}

impl Faults {
    /// All that a store may do that keeps its word.
    pub const ALLOWED: Faults = Faults {
        refused: 4,
        unknown_done: 6,
        unknown_not_done: 6,
        unknown_late: 6,
        slow: 20,
        storms: true,
        stale_reads: 30,
        stale_transactions: 0,
        lost_writes: 0,
    };
}

/// Any store, with faults.
pub struct Faulty {
    store: Arc<dyn Store>,
    faults: Faults,
    random: Mutex<fastrand::Rng>,
    /// What was seen under each key at some time, and in each list.
    seen: Mutex<BTreeMap<String, Option<Entry>>>,
    lists: Mutex<BTreeMap<String, (Vec<Entry>, Revision)>>,
    /// Transactions of a storm that are still to come.
    storm: Mutex<u32>,
}

/// What becomes of one transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Pass,
    Refused,
    Done,
    NotDone,
    Late(Duration),
    Lost,
}

impl Faulty {
    /// `store` with `faults`, drawn from `seed`.
    pub fn new(store: Arc<dyn Store>, faults: Faults, seed: u64) -> Self {
        Self {
            store,
            faults,
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            seen: Mutex::default(),
            lists: Mutex::default(),
            storm: Mutex::default(),
        }
    }

    fn happens(&self, percent: u8) -> bool {
        crate::locked(&self.random).u8(..100) < percent
    }

    fn some_millis(&self) -> Duration {
        Duration::from_micros(crate::locked(&self.random).u64(100..8_000))
    }

    async fn perhaps_slow(&self) {
        if self.happens(self.faults.slow) {
            tokio::time::sleep(self.some_millis()).await;
        }
    }

    fn fate(&self, writes: bool) -> Fate {
        let faults = &self.faults;
        let late = self.some_millis();
        if faults.storms {
            let mut storm = crate::locked(&self.storm);
            // Longer than all that an agent tries again, for one or two of the clients.
            if *storm == 0 && crate::locked(&self.random).u32(..300) == 0 {
                *storm = 12;
            }
            if *storm > 0 {
                *storm -= 1;
                return [Fate::Done, Fate::NotDone, Fate::Late(late)][crate::locked(&self.random).usize(..3)];
            }
        }
        if writes && self.happens(faults.lost_writes) {
            return Fate::Lost;
        }
        let mut drawn = crate::locked(&self.random).u8(..100);
        for (percent, fate) in [
            (faults.refused, Fate::Refused),
            (faults.unknown_done, Fate::Done),
            (faults.unknown_not_done, Fate::NotDone),
            (faults.unknown_late, Fate::Late(late)),
        ] {
            if drawn < percent {
                return fate;
            }
            drawn -= percent;
        }
        Fate::Pass
    }

    async fn carry_out(&self, txn: Txn) -> Result<TxnResult, Error> {
        let unknown = || Error::Unknown {
            reason: "injected".into(),
        };
        let unavailable = || Error::Unavailable {
            reason: "injected".into(),
        };
        self.perhaps_slow().await;
        // Whether it is meant to write: a read that goes the way of a write puts only what never comes to be.
        let is_write = |op: &Op| !matches!(op, Op::Get { .. });
        let could_write = txn.then.iter().chain(&txn.otherwise).any(is_write);
        let writes = txn.then.iter().any(|op| is_write(op) && !op.key().ends_with("/never"));
        let result = match self.fate(writes) {
            Fate::Pass => self.store.txn(txn.clone()).await?,
            Fate::Refused => return Err(unavailable()),
            Fate::NotDone => return Err(unknown()),
            Fate::Done => {
                self.store.txn(txn).await?;
                return Err(unknown());
            }
            Fate::Late(after) => {
                let store = Arc::clone(&self.store);
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    store.txn(txn).await
                });
                return Err(unknown());
            }
            Fate::Lost => TxnResult {
                succeeded: true,
                revision: Revision(self.store.revision().await?.0 + 1),
                reads: Vec::new(),
            },
        };
        self.perhaps_slow().await;
        let percent = match could_write {
            true => self.faults.stale_transactions,
            false => self.faults.stale_reads,
        };
        Ok(self.perhaps_stale(&txn, result, percent))
    }

    fn perhaps_stale(&self, txn: &Txn, mut result: TxnResult, percent: u8) -> TxnResult {
        let branch = if result.succeeded { &txn.then } else { &txn.otherwise };
        let keys = branch.iter().filter_map(|op| match op {
            Op::Get { key } => Some(key),
            _ => None,
        });
        let stale = self.happens(percent);
        for (key, read) in keys.zip(&mut result.reads) {
            let mut seen = crate::locked(&self.seen);
            match seen.get(key) {
                Some(old) if stale => read.clone_from(old),
                Some(_) if self.happens(70) => {}
                _ => {
                    seen.insert(key.clone(), read.clone());
                }
            }
        }
        result
    }
}

impl Store for Faulty {
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResult, Error>> {
        Box::pin(self.carry_out(txn))
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, Error>> {
        Box::pin(async move {
            let entry = self.store.get(key).await?;
            let read = Txn::new().otherwise(Op::get(key));
            let result = TxnResult {
                succeeded: false,
                revision: Revision(0),
                reads: vec![entry],
            };
            Ok(self
                .perhaps_stale(&read, result, self.faults.stale_reads)
                .reads
                .remove(0))
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<(Vec<Entry>, Revision), Error>> {
        Box::pin(async move {
            self.perhaps_slow().await;
            let listed = self.store.list(prefix).await?;
            let stale = self.happens(self.faults.stale_reads);
            let renewed = self.happens(30);
            let mut lists = crate::locked(&self.lists);
            match lists.get(prefix) {
                Some(old) if stale => Ok(old.clone()),
                Some(_) if !renewed => Ok(listed),
                _ => {
                    lists.insert(prefix.into(), listed.clone());
                    Ok(listed)
                }
            }
        })
    }

    fn watch<'a>(&'a self, prefix: &'a str, from: Revision) -> BoxFuture<'a, Result<Watch, Error>> {
        self.store.watch(prefix, from)
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision, Error>> {
        self.store.revision()
    }
}
