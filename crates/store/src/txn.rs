//! What is asked of a store and what it answers, and the bounds of both.

use model::Revision;

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 512;
/// Longest value in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Most compares, and most operations in either branch, of one transaction: etcd's default.
pub const OPS_MAX: usize = 128;
/// Most bytes of keys and values in one transaction: etcd takes requests of 1.5 MiB by default, envelope included.
pub const TXN_BYTES_MAX: usize = 1400 << 10;

/// A key, its value and its past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value: any bytes.
    pub value: Vec<u8>,
    /// The revision at which the key came to be; another one after it was deleted and written again.
    pub create: Revision,
    /// The revision that wrote the value.
    pub modified: Revision,
    /// How often the key was written since it came to be, from 1.
    pub version: u64,
}

/// A condition on one key, exact. An absent key has create and modified revision 0, and no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key's create revision is this one.
    Create {
        /// The key.
        key: String,
        /// The revision.
        is: Revision,
    },
    /// The key's modified revision is this one.
    Modified {
        /// The key.
        key: String,
        /// The revision.
        is: Revision,
    },
    /// The key exists and its value is this one.
    Value {
        /// The key.
        key: String,
        /// The value.
        is: Vec<u8>,
    },
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes a value.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
    },
    /// Removes a key; nothing happens if it is absent.
    Delete {
        /// The key.
        key: String,
    },
    /// Reads a key, as the operations before it left it.
    Get {
        /// The key.
        key: String,
    },
}

/// If all `compares` hold, `then`; else `otherwise`. No key is written twice in one branch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub compares: Vec<Compare>,
    /// Carried out, in order, if they do.
    pub then: Vec<Op>,
    /// Carried out, in order, if one does not.
    pub otherwise: Vec<Op>,
}

/// What came of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnResult {
    /// Whether all compares held.
    pub succeeded: bool,
    /// The revision of the store after it: its own if it changed anything.
    pub revision: Revision,
    /// What each `Get` of the branch taken found, in order.
    pub reads: Vec<Option<Entry>>,
}

/// What happened to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was written.
    Put(Entry),
    /// It was removed.
    Delete {
        /// The key.
        key: String,
    },
}

/// What one revision changed, or those of its changes that were asked for; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The revision.
    pub revision: Revision,
    /// Its changes, in the order of the transaction.
    pub changes: Vec<Change>,
}

/// A request that no store would take: a mistake of the caller's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A key is empty.
    #[error("a key is empty")]
    EmptyKey,
    /// A key is too long.
    #[error("the key `{start}...` has {bytes} bytes, at most {KEY_BYTES_MAX} are allowed")]
    KeyTooLong {
        /// How the key begins.
        start: String,
        /// Its length.
        bytes: usize,
    },
    /// A value is too long.
    #[error("the value of `{key}` has {bytes} bytes, at most {VALUE_BYTES_MAX} are allowed")]
    ValueTooLong {
        /// Its key.
        key: String,
        /// Its length.
        bytes: usize,
    },
    /// Too many compares or operations.
    #[error("a transaction has {count} {what}, at most {OPS_MAX} are allowed: split it")]
    TooMany {
        /// `compares` or `operations`.
        what: &'static str,
        /// How many.
        count: usize,
    },
    /// Too much in one transaction.
    #[error("a transaction has {bytes} bytes, at most {TXN_BYTES_MAX} are allowed: split it")]
    TooLarge {
        /// How much.
        bytes: usize,
    },
    /// One branch writes a key twice.
    #[error("a transaction writes the key `{key}` twice")]
    WrittenTwice {
        /// The key.
        key: String,
    },
}

impl Compare {
    /// The key does not exist.
    pub fn absent(key: impl Into<String>) -> Self {
        Self::created(key, Revision(0))
    }

    /// The key is the one that came to be at `is`: it was not removed since.
    pub fn created(key: impl Into<String>, is: Revision) -> Self {
        Compare::Create { key: key.into(), is }
    }

    /// The key was last written at `is`.
    pub fn modified(key: impl Into<String>, is: Revision) -> Self {
        Compare::Modified { key: key.into(), is }
    }

    /// The key has this value.
    pub fn value(key: impl Into<String>, is: impl Into<Vec<u8>>) -> Self {
        Compare::Value {
            key: key.into(),
            is: is.into(),
        }
    }

    /// The key it is about.
    pub fn key(&self) -> &str {
        match self {
            Compare::Create { key, .. } | Compare::Modified { key, .. } | Compare::Value { key, .. } => key,
        }
    }

    /// Whether it holds for what stands under the key.
    pub(crate) fn holds(&self, entry: Option<&Entry>) -> bool {
        match self {
            Compare::Create { is, .. } => entry.map_or(Revision(0), |entry| entry.create) == *is,
            Compare::Modified { is, .. } => entry.map_or(Revision(0), |entry| entry.modified) == *is,
            Compare::Value { is, .. } => entry.is_some_and(|entry| entry.value == *is),
        }
    }
}

impl Op {
    /// Writes a value.
    pub fn put(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Op::Put {
            key: key.into(),
            value: value.into(),
        }
    }

    /// Removes a key.
    pub fn delete(key: impl Into<String>) -> Self {
        Op::Delete { key: key.into() }
    }

    /// Reads a key.
    pub fn get(key: impl Into<String>) -> Self {
        Op::Get { key: key.into() }
    }

    /// The key it is about.
    pub fn key(&self) -> &str {
        match self {
            Op::Put { key, .. } | Op::Delete { key } | Op::Get { key } => key,
        }
    }
}

impl Txn {
    /// One without conditions that does nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    /// Adds an operation for when all conditions hold.
    #[must_use]
    pub fn then(mut self, op: Op) -> Self {
        self.then.push(op);
        self
    }

    /// Adds an operation for when one does not.
    #[must_use]
    pub fn otherwise(mut self, op: Op) -> Self {
        self.otherwise.push(op);
        self
    }

    /// Refuses what is out of bounds. Every implementation asks this first.
    pub fn validate(&self) -> Result<(), Invalid> {
        at_most(self.compares.len(), "compares")?;
        let mut bytes = 0;
        for compare in &self.compares {
            check_key(compare.key())?;
            bytes += compare.key().len();
            if let Compare::Value { key, is } = compare {
                check_value(key, is)?;
                bytes += is.len();
            }
        }
        for branch in [&self.then, &self.otherwise] {
            at_most(branch.len(), "operations")?;
            bytes += check_branch(branch)?;
        }
        if bytes > TXN_BYTES_MAX {
            return Err(Invalid::TooLarge { bytes });
        }
        Ok(())
    }
}

fn at_most(count: usize, what: &'static str) -> Result<(), Invalid> {
    if count > OPS_MAX {
        return Err(Invalid::TooMany { what, count });
    }
    Ok(())
}

/// Returns how many bytes the branch has.
fn check_branch(branch: &[Op]) -> Result<usize, Invalid> {
    let mut put = std::collections::BTreeSet::new();
    let mut bytes = 0;
    for op in branch {
        check_key(op.key())?;
        bytes += op.key().len();
        if let Op::Put { key, value } = op {
            check_value(key, value)?;
            bytes += value.len();
            if !put.insert(key) {
                return Err(Invalid::WrittenTwice { key: key.clone() });
            }
        }
    }
    // As in etcd, two deletes of one key are harmless, a put and a delete are not: their order would matter.
    for op in branch {
        if let Op::Delete { key } = op
            && put.contains(key)
        {
            return Err(Invalid::WrittenTwice { key: key.clone() });
        }
    }
    Ok(bytes)
}

/// Refuses keys that no store takes. Every implementation asks this first.
pub fn check_key(key: &str) -> Result<(), Invalid> {
    if key.is_empty() {
        return Err(Invalid::EmptyKey);
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(Invalid::KeyTooLong {
            start: key.chars().take(32).collect(),
            bytes: key.len(),
        });
    }
    Ok(())
}

fn check_value(key: &str, value: &[u8]) -> Result<(), Invalid> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(Invalid::ValueTooLong {
            key: key.into(),
            bytes: value.len(),
        });
    }
    Ok(())
}
