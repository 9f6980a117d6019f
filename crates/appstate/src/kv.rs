//! Key-value: get, put, delete, list, transactions.

use crate::namespace::{Snapshot, Step, backoff};
use crate::usage::Usage;
use crate::{AppState, Error, keys};
use model::{Revision, ServiceName};
use std::collections::BTreeMap;
use store::{Compare, Op};

/// Most conditions, and most operations in either branch, of one transaction.
pub const OPERATIONS_MAX: usize = 32;
/// Most bytes of values in one transaction or one page of a list.
pub const BATCH_BYTES_MAX: usize = 1 << 20;
/// Most entries of one page of a list.
pub const PAGE_MAX: usize = 1_000;
/// How often a list that is older than it may be is asked for again.
const LISTS_MAX: u32 = 6;

/// A value and its past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Its key.
    pub key: String,
    /// Any bytes.
    pub value: Vec<u8>,
    /// The revision that wrote it.
    pub revision: Revision,
    /// The revision at which the key came to be; another one after it was deleted and written again.
    pub created: Revision,
    /// How often the key was written since it came to be, from 1.
    pub version: u64,
}

/// What must hold for a write to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The key was last written at this revision.
    Revision {
        /// The key.
        key: String,
        /// The revision.
        is: Revision,
    },
    /// The key does not exist.
    Absent {
        /// The key.
        key: String,
    },
    /// The key exists.
    Exists {
        /// The key.
        key: String,
    },
    /// The lock is held with this token.
    Lock {
        /// The lock.
        name: String,
        /// The token of its holder.
        token: Revision,
    },
}

/// What is done if all conditions hold, or if one does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Writes a value.
    Put {
        /// The key.
        key: String,
        /// Any bytes.
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

/// If all conditions hold, `then`; else `otherwise`, which only reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// Carried out, in order, if they do; no key is written twice.
    pub then: Vec<Operation>,
    /// Keys that are read if one does not.
    pub otherwise: Vec<String>,
}

/// What came of a transaction.
#[derive(Debug, Clone)]
pub struct Done {
    /// Whether all conditions held.
    pub succeeded: bool,
    /// The revision that made the writes; if nothing was written, one at which what was read was so.
    pub revision: Revision,
    /// What was read, in order.
    pub reads: Vec<Option<Value>>,
    /// How many keys were removed.
    pub deleted: usize,
    /// The first condition that did not hold, told as the error that a single write answers with.
    pub broken: Option<Error>,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// In the order of their keys.
    pub values: Vec<Value>,
    /// The revision at which this was so: watch from the one after it to miss nothing.
    pub revision: Revision,
    /// Whether more follow: ask again, after the last key of this page.
    pub more: bool,
}

/// What a service keeps, and what it may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amounts {
    /// Values.
    pub keys: u64,
    /// Bytes of their keys and of themselves.
    pub bytes: u64,
    /// Locks that are held.
    pub locks: u64,
}

impl AppState {
    /// The value of a key as it is now.
    pub async fn get(&self, service: &ServiceName, key: &str) -> Result<Option<Value>, Error> {
        keys::check_key(key)?;
        let full = keys::value(service, key);
        let snapshot = self.snapshot(service, std::slice::from_ref(&full)).await?;
        Ok(read(&snapshot, service, key))
    }

    /// How much the service keeps now.
    pub async fn amounts(&self, service: &ServiceName) -> Result<Amounts, Error> {
        let usage = self.snapshot(service, &[]).await?.usage;
        Ok(Amounts {
            keys: usage.keys,
            bytes: usage.bytes,
            locks: usage.locks,
        })
    }

    /// Writes a value if all conditions hold, and returns its revision.
    pub async fn put(
        &self,
        service: &ServiceName,
        key: &str,
        value: Vec<u8>,
        conditions: Vec<Condition>,
    ) -> Result<Revision, Error> {
        let put = Operation::Put { key: key.into(), value };
        self.single(service, put, conditions).await.map(|done| done.revision)
    }

    /// Removes a key if all conditions hold. Returns whether it was there, and the revision of the change or of the look.
    pub async fn delete(
        &self,
        service: &ServiceName,
        key: &str,
        conditions: Vec<Condition>,
    ) -> Result<(bool, Revision), Error> {
        let delete = Operation::Delete { key: key.into() };
        let done = self.single(service, delete, conditions).await?;
        Ok((done.deleted > 0, done.revision))
    }

    async fn single(
        &self,
        service: &ServiceName,
        operation: Operation,
        conditions: Vec<Condition>,
    ) -> Result<Done, Error> {
        let transaction = Transaction {
            conditions,
            then: vec![operation],
            otherwise: Vec::new(),
        };
        let mut done = self.transact(service, transaction).await?;
        done.broken.take().map_or(Ok(done), Err)
    }

    /// Carries out a transaction on several keys at once.
    pub async fn transact(&self, service: &ServiceName, transaction: Transaction) -> Result<Done, Error> {
        self.check(&transaction)?;
        let read = transaction.touched(service);
        let writes = transaction
            .then
            .iter()
            .any(|operation| !matches!(operation, Operation::Get { .. }));
        if !writes {
            let snapshot = self.snapshot(service, &read).await?;
            return Ok(match broken(&snapshot, service, &transaction.conditions) {
                Some(error) => failed(&snapshot, service, &transaction, error),
                None => carry_out(&snapshot, service, &transaction).done(snapshot.revision),
            });
        }
        self.write(service, &read, |snapshot| {
            if let Some(error) = broken(snapshot, service, &transaction.conditions) {
                return Ok(Step::Answer(failed(snapshot, service, &transaction, error)));
            }
            let effect = carry_out(snapshot, service, &transaction);
            if effect.ops.is_empty() {
                return Ok(Step::Answer(effect.done(snapshot.revision)));
            }
            self.check_quota(service, &snapshot.usage, &effect.usage)?;
            Ok(Step::Write {
                usage: effect.usage.clone(),
                compares: locks_compared(service, &transaction.conditions),
                ops: effect.ops.clone(),
                answer: Box::new(move |revision| effect.done(revision)),
            })
        })
        .await
    }

    /// The values whose keys begin with `prefix` and come after the key `after`, at most `limit` and about a megabyte.
    pub async fn list(
        &self,
        service: &ServiceName,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, Error> {
        keys::check_prefix(prefix)?;
        let limit = limit.clamp(1, PAGE_MAX);
        // Whatever was written before now changed the usage record, so a list that is not older than it has all of it.
        let needed = self.snapshot(service, &[]).await?.modified;
        let start = keys::values(service);
        let mut asked = 0;
        let (entries, revision) = loop {
            asked += 1;
            let listed = self.store().list(&keys::value(service, prefix)).await;
            match listed {
                Ok((entries, revision)) if revision >= needed => break (entries, revision),
                Ok((_, seen)) if asked >= LISTS_MAX => return Err(Error::Stale { seen, needed }),
                Err(error) if asked >= LISTS_MAX => return Err(Error::reading(error)),
                _ => backoff(asked + 2).await,
            }
        };
        let mut page = Page {
            values: Vec::new(),
            revision,
            more: false,
        };
        let mut bytes = 0;
        for entry in entries {
            let Some(key) = entry.key.strip_prefix(&start) else {
                continue;
            };
            if after.is_some_and(|after| key <= after) {
                continue;
            }
            bytes += entry.value.len();
            if page.values.len() >= limit || (bytes > BATCH_BYTES_MAX && !page.values.is_empty()) {
                page.more = true;
                break;
            }
            page.values.push(Value::from_entry(key, &entry));
        }
        Ok(page)
    }

    fn check(&self, transaction: &Transaction) -> Result<(), Error> {
        let counts = [
            ("conditions", transaction.conditions.len()),
            ("operations", transaction.then.len()),
            ("reads", transaction.otherwise.len()),
        ];
        if let Some((what, count)) = counts.into_iter().find(|(_, count)| *count > OPERATIONS_MAX) {
            return Err(Error::InvalidRequest(format!(
                "a transaction has {count} {what}, at most {OPERATIONS_MAX} are allowed"
            )));
        }
        for condition in &transaction.conditions {
            match condition {
                Condition::Revision { key, .. } | Condition::Absent { key } | Condition::Exists { key } => {
                    keys::check_key(key)?;
                }
                Condition::Lock { name, .. } => keys::check_name("lock", name)?,
            }
        }
        transaction.otherwise.iter().try_for_each(|key| keys::check_key(key))?;
        let mut written = std::collections::BTreeSet::new();
        let mut bytes = 0;
        for operation in &transaction.then {
            keys::check_key(operation.key())?;
            if !matches!(operation, Operation::Get { .. }) && !written.insert(operation.key()) {
                return Err(Error::InvalidRequest(format!(
                    "a transaction writes the key `{}` twice",
                    operation.key()
                )));
            }
            if let Operation::Put { value, .. } = operation {
                let max = self.limits().value_bytes_max;
                if value.len() > max {
                    return Err(Error::ValueTooLarge { max });
                }
                bytes += value.len();
            }
        }
        if bytes > BATCH_BYTES_MAX {
            return Err(Error::ValueTooLarge { max: BATCH_BYTES_MAX });
        }
        Ok(())
    }

    /// Refuses to keep more than allowed. Less than before is always allowed, also above the bound.
    pub(crate) fn check_quota(&self, service: &ServiceName, before: &Usage, after: &Usage) -> Result<(), Error> {
        let limits = self.limits();
        let amounts = [
            ("keys", before.keys, after.keys, limits.keys_max),
            ("bytes", before.bytes, after.bytes, limits.bytes_max),
            ("locks", before.locks, after.locks, limits.locks_max),
        ];
        match amounts
            .into_iter()
            .find(|(_, before, after, max)| after > max && after > before)
        {
            None => Ok(()),
            Some((what, _, wanted, max)) => Err(Error::QuotaExceeded {
                service: service.clone(),
                what,
                max,
                wanted,
            }),
        }
    }
}

impl Value {
    pub(crate) fn from_entry(key: &str, entry: &store::Entry) -> Self {
        Self {
            key: key.into(),
            value: entry.value.clone(),
            revision: entry.modified,
            created: entry.create,
            version: entry.version,
        }
    }
}

impl Operation {
    /// The key it is about.
    pub fn key(&self) -> &str {
        match self {
            Operation::Put { key, .. } | Operation::Delete { key } | Operation::Get { key } => key,
        }
    }
}

impl Transaction {
    /// Every key of the store that it looks at.
    fn touched(&self, service: &ServiceName) -> Vec<String> {
        let of_conditions = self.conditions.iter().map(|condition| match condition {
            Condition::Revision { key, .. } | Condition::Absent { key } | Condition::Exists { key } => {
                keys::value(service, key)
            }
            Condition::Lock { name, .. } => keys::lock(service, name),
        });
        let of_operations = self.then.iter().map(|operation| keys::value(service, operation.key()));
        let of_reads = self.otherwise.iter().map(|key| keys::value(service, key));
        let mut touched: Vec<String> = of_conditions.chain(of_operations).chain(of_reads).collect();
        touched.sort();
        touched.dedup();
        touched
    }
}

fn read(snapshot: &Snapshot, service: &ServiceName, key: &str) -> Option<Value> {
    snapshot
        .entry(&keys::value(service, key))
        .map(|entry| Value::from_entry(key, entry))
}

/// The first condition that does not hold.
fn broken(snapshot: &Snapshot, service: &ServiceName, conditions: &[Condition]) -> Option<Error> {
    let at = |key: &str| read(snapshot, service, key).map_or(Revision(0), |value| value.revision);
    let mismatch = |key: &str, expected: Option<Revision>| {
        Some(Error::RevisionMismatch {
            key: key.into(),
            expected,
            found: at(key),
        })
    };
    conditions.iter().find_map(|condition| match condition {
        Condition::Revision { key, is } if at(key) != *is => mismatch(key, Some(*is)),
        Condition::Absent { key } if at(key) != Revision(0) => mismatch(key, Some(Revision(0))),
        Condition::Exists { key } if at(key) == Revision(0) => mismatch(key, None),
        Condition::Lock { name, token }
            if snapshot
                .entry(&keys::lock(service, name))
                .is_none_or(|entry| entry.create != *token) =>
        {
            Some(Error::LockLost {
                name: name.clone(),
                token: *token,
            })
        }
        _ => None,
    })
}

/// Conditions on values hold as long as the usage record is unchanged. Locks are renewed without it, and end with it; the
/// store compares them itself all the same.
fn locks_compared(service: &ServiceName, conditions: &[Condition]) -> Vec<Compare> {
    conditions
        .iter()
        .filter_map(|condition| match condition {
            Condition::Lock { name, token } => Some(Compare::created(keys::lock(service, name), *token)),
            _ => None,
        })
        .collect()
}

fn failed(snapshot: &Snapshot, service: &ServiceName, transaction: &Transaction, error: Error) -> Done {
    Done {
        succeeded: false,
        revision: snapshot.revision,
        reads: transaction
            .otherwise
            .iter()
            .map(|key| read(snapshot, service, key))
            .collect(),
        deleted: 0,
        broken: Some(error),
    }
}

/// What a transaction comes to whose conditions hold.
#[derive(Debug, Clone)]
struct Effect {
    usage: Usage,
    ops: Vec<Op>,
    deleted: usize,
    /// What was read, and whether it was written by this very transaction.
    reads: Vec<(Option<Value>, bool)>,
}

impl Effect {
    fn done(self, revision: Revision) -> Done {
        let reads = self.reads.into_iter().map(|(value, own)| {
            let mut value = value?;
            if own {
                value.revision = revision;
                if value.version == 1 {
                    value.created = revision;
                }
            }
            Some(value)
        });
        Done {
            succeeded: true,
            revision,
            reads: reads.collect(),
            deleted: self.deleted,
            broken: None,
        }
    }
}

fn carry_out(snapshot: &Snapshot, service: &ServiceName, transaction: &Transaction) -> Effect {
    let mut effect = Effect {
        usage: snapshot.usage.clone(),
        ops: Vec::new(),
        deleted: 0,
        reads: Vec::new(),
    };
    let mut changed: BTreeMap<&str, Option<Value>> = BTreeMap::new();
    let usage = &mut effect.usage;
    for operation in &transaction.then {
        let key = operation.key();
        let full = keys::value(service, key);
        let before = read(snapshot, service, key);
        let size = |value: &Value| (key.len() + value.value.len()) as u64;
        match operation {
            Operation::Get { .. } => {
                let own = changed.get(key);
                effect.reads.push((own.cloned().unwrap_or(before), own.is_some()));
            }
            Operation::Put { value, .. } => {
                let after = Value {
                    key: key.into(),
                    value: value.clone(),
                    revision: Revision(0),
                    created: before.as_ref().map_or(Revision(0), |before| before.created),
                    version: before.as_ref().map_or(1, |before| before.version + 1),
                };
                usage.keys += u64::from(before.is_none());
                usage.bytes = usage.bytes.saturating_sub(before.as_ref().map_or(0, size)) + size(&after);
                effect.ops.push(Op::put(full, value.clone()));
                changed.insert(key, Some(after));
            }
            Operation::Delete { .. } => {
                if let Some(before) = before {
                    usage.keys = usage.keys.saturating_sub(1);
                    usage.bytes = usage.bytes.saturating_sub(size(&before));
                    effect.ops.push(Op::delete(full));
                    effect.deleted += 1;
                }
                changed.insert(key, None);
            }
        }
    }
    effect
}
