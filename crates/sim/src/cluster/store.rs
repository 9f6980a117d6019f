//! A linearizable store with etcd's semantics of revisions, over any keys and values, driven by hand.
//!
//! It is compared with the real thing's in-memory twin in `tests/cluster_store.rs`.

use model::Revision;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// A key's value and its past.
#[derive(Debug)]
pub struct Entry<K, V> {
    /// The key.
    pub key: K,
    /// The value.
    pub value: Rc<V>,
    /// The revision at which the key came to be.
    pub create: Revision,
    /// The revision that wrote the value.
    pub modified: Revision,
}

impl<K: Clone, V> Clone for Entry<K, V> {
    fn clone(&self) -> Self {
        Self {
            key: self.key.clone(),
            value: Rc::clone(&self.value),
            create: self.create,
            modified: self.modified,
        }
    }
}

/// A condition on one key, exact. An absent key has revision 0.
#[derive(Debug, Clone)]
pub enum Compare<K> {
    /// Its create revision.
    Created(K, Revision),
    /// Its modified revision.
    Modified(K, Revision),
}

/// One operation.
#[derive(Debug)]
pub enum Op<K, V> {
    /// Writes a value.
    Put(K, Rc<V>),
    /// Removes a key.
    Delete(K),
    /// Reads a key.
    Get(K),
}

impl<K: Clone, V> Clone for Op<K, V> {
    fn clone(&self) -> Self {
        match self {
            Op::Put(key, value) => Op::Put(key.clone(), Rc::clone(value)),
            Op::Delete(key) => Op::Delete(key.clone()),
            Op::Get(key) => Op::Get(key.clone()),
        }
    }
}

/// If all compares hold, `then`; else `otherwise`.
#[derive(Debug)]
pub struct Txn<K, V> {
    /// All must hold.
    pub compares: Vec<Compare<K>>,
    /// Done if they do.
    pub then: Vec<Op<K, V>>,
    /// Done if one does not.
    pub otherwise: Vec<Op<K, V>>,
}

impl<K: Clone, V> Clone for Txn<K, V> {
    fn clone(&self) -> Self {
        Self {
            compares: self.compares.clone(),
            then: self.then.clone(),
            otherwise: self.otherwise.clone(),
        }
    }
}

impl<K, V> Default for Txn<K, V> {
    fn default() -> Self {
        Self {
            compares: Vec::new(),
            then: Vec::new(),
            otherwise: Vec::new(),
        }
    }
}

impl<K, V> Txn<K, V> {
    /// A transaction that does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more condition.
    #[must_use]
    pub fn when(mut self, compare: Compare<K>) -> Self {
        self.compares.push(compare);
        self
    }

    /// One more operation if all hold.
    #[must_use]
    pub fn then(mut self, op: Op<K, V>) -> Self {
        self.then.push(op);
        self
    }

    /// One more operation if one does not.
    #[must_use]
    pub fn otherwise(mut self, op: Op<K, V>) -> Self {
        self.otherwise.push(op);
        self
    }
}

/// What came of a transaction.
#[derive(Debug, Clone)]
pub struct Outcome<K: Clone, V> {
    /// Whether all compares held.
    pub succeeded: bool,
    /// The revision of the store after it.
    pub revision: Revision,
    /// What each `Get` of the branch taken found.
    pub reads: Vec<Option<Entry<K, V>>>,
}

/// What happened to one key.
#[derive(Debug)]
pub enum Change<K, V> {
    /// It was written.
    Put(Entry<K, V>),
    /// It was removed.
    Delete(K),
}

/// All that one revision changed.
#[derive(Debug)]
pub struct Changes<K, V> {
    /// Which.
    pub revision: Revision,
    /// In the order of the transaction.
    pub changes: Vec<Change<K, V>>,
}

/// The store.
#[derive(Debug)]
pub struct Model<K, V> {
    entries: BTreeMap<K, Entry<K, V>>,
    revision: Revision,
    history: VecDeque<Rc<Changes<K, V>>>,
    keep: usize,
}

impl<K: Ord + Clone, V> Model<K, V> {
    /// An empty store, which keeps this many revisions for watches.
    pub fn new(keep: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            revision: Revision(1),
            history: VecDeque::new(),
            keep,
        }
    }

    /// Carries a transaction out. Returns what it changed, too, if anything.
    pub fn txn(&mut self, txn: &Txn<K, V>) -> (Outcome<K, V>, Option<Rc<Changes<K, V>>>) {
        let holds = |compare: &Compare<K>| match compare {
            Compare::Created(key, is) => self.get(key).map_or(Revision(0), |entry| entry.create) == *is,
            Compare::Modified(key, is) => self.get(key).map_or(Revision(0), |entry| entry.modified) == *is,
        };
        let succeeded = txn.compares.iter().all(holds);
        let next = Revision(self.revision.0 + 1);
        let mut changes = Vec::new();
        let mut reads = Vec::new();
        for op in if succeeded { &txn.then } else { &txn.otherwise } {
            match op {
                Op::Get(key) => reads.push(self.get(key).cloned()),
                Op::Put(key, value) => {
                    let entry = Entry {
                        key: key.clone(),
                        value: Rc::clone(value),
                        create: self.get(key).map_or(next, |before| before.create),
                        modified: next,
                    };
                    self.entries.insert(key.clone(), entry.clone());
                    changes.push(Change::Put(entry));
                }
                Op::Delete(key) => {
                    if self.entries.remove(key).is_some() {
                        changes.push(Change::Delete(key.clone()));
                    }
                }
            }
        }
        let changes = (!changes.is_empty()).then(|| {
            self.revision = next;
            let changes = Rc::new(Changes {
                revision: next,
                changes,
            });
            self.history.push_back(Rc::clone(&changes));
            if self.history.len() > self.keep {
                self.history.pop_front();
            }
            changes
        });
        let outcome = Outcome {
            succeeded,
            revision: self.revision,
            reads,
        };
        (outcome, changes)
    }

    /// The entry of a key.
    pub fn get(&self, key: &K) -> Option<&Entry<K, V>> {
        self.entries.get(key)
    }

    /// All entries, by key.
    pub fn entries(&self) -> impl Iterator<Item = &Entry<K, V>> {
        self.entries.values()
    }

    /// Entries from a key on, by key.
    pub fn entries_from(&self, key: &K) -> impl Iterator<Item = &Entry<K, V>> {
        self.entries.range(key..).map(|(_, entry)| entry)
    }

    /// Of the latest change.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Forgets the past: who watches from earlier revisions has to list again.
    pub fn compact(&mut self) {
        self.history.clear();
    }

    /// What was changed from a revision on and up to another one; nothing if that is not kept any more.
    pub fn changes(&self, from: Revision, upto: Revision) -> Option<Vec<Rc<Changes<K, V>>>> {
        if from > upto {
            return Some(Vec::new());
        }
        let first = self.history.front()?.revision;
        let skip = usize::try_from(from.0.checked_sub(first.0)?).ok()?;
        let wanted = self.history.iter().skip(skip);
        Some(wanted.take_while(|step| step.revision <= upto).cloned().collect())
    }
}
