//! The JSON of the HTTP form. A field may be added, never renamed.

use crate::{Changed, Condition, Done, Error, Held, News, Operation, Page, Transaction, Value};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use model::{Millis, Revision};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A "no".
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// What happened, for people.
    pub(crate) error: String,
    /// What happened, for programs: `revision_mismatch`.
    pub(crate) code: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
    /// `not_done`: nothing was changed. `unknown`: it may have been carried out, or may be yet.
    pub(crate) outcome: String,
    /// With `revision_mismatch`: the revision that the key has, 0 if it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) revision: Option<u64>,
    /// With `compacted`: the first revision whose changes are still kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) oldest: Option<u64>,
}

/// A value and its past. It has either `value` or, if that is not text, `base64`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Entry {
    /// The key.
    pub(crate) key: String,
    /// The value, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<String>,
    /// The value as base64, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) base64: Option<String>,
    /// The revision that wrote it.
    pub(crate) revision: u64,
    /// The revision at which the key came to be.
    pub(crate) created: u64,
    /// How often it was written since, from 1.
    pub(crate) version: u64,
}

/// A part of a list.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct EntryPage {
    /// By key.
    pub(crate) entries: Vec<Entry>,
    /// At which this was so: watch from the one after it.
    pub(crate) revision: u64,
    /// If more follow: ask again with this as `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<String>,
}

/// What a write came to.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Written {
    /// The revision that it made; of a deletion that found nothing, one at which there was nothing.
    pub(crate) revision: u64,
    /// Of a deletion: whether there was anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deleted: Option<bool>,
}

/// What must hold. Give `key` with `revision`, `absent` or `exists`; or `lock` with `token`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConditionBody {
    /// A key.
    key: Option<String>,
    /// The key was last written at this revision.
    revision: Option<u64>,
    /// `true`: the key does not exist.
    absent: Option<bool>,
    /// `true`: the key exists.
    exists: Option<bool>,
    /// A lock.
    lock: Option<String>,
    /// The lock is held with this token.
    token: Option<u64>,
}

/// What is done: one of `put` (with `value` or `base64`), `delete`, `get`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OperationBody {
    /// Writes this key.
    put: Option<String>,
    /// As text.
    value: Option<String>,
    /// As base64.
    base64: Option<String>,
    /// Removes this key.
    delete: Option<String>,
    /// Reads this key, as the operations before left it.
    get: Option<String>,
}

/// If all of `if` hold, `then`; else the keys of `else` are read.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TransactionBody {
    /// All must hold; at most 32.
    #[serde(default, rename = "if")]
    conditions: Vec<ConditionBody>,
    /// In order; at most 32, no key twice.
    #[serde(default)]
    then: Vec<OperationBody>,
    /// Keys that are read if a condition does not hold; at most 32.
    #[serde(default, rename = "else")]
    otherwise: Vec<String>,
}

/// What came of a transaction.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct TransactionDone {
    /// Whether all conditions held.
    pub(crate) succeeded: bool,
    /// The revision that it made; if it wrote nothing, one at which what it read was so.
    pub(crate) revision: u64,
    /// What was read, in order; `null` for an absent key.
    pub(crate) reads: Vec<Option<Entry>>,
    /// Which condition did not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) because: Option<String>,
}

/// One revision's changes to what is watched.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct ChangeBody {
    /// The revision.
    pub(crate) revision: u64,
    /// In order.
    pub(crate) changes: Vec<KeyChange>,
}

/// What happened to a key.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum KeyChange {
    /// It was written.
    Put(Entry),
    /// It was removed.
    Deleted {
        /// The key.
        key: String,
        /// `true`.
        deleted: bool,
    },
}

/// A wish for a lock.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AcquireBody {
    /// Who asks, for the others to see.
    pub(crate) owner: String,
    /// How long after it sent what was acknowledged last the holder may go on, 200 to 3600000.
    pub(crate) ttl_ms: u64,
    /// How long to wait, up to 60000; 0 if not given.
    #[serde(default)]
    pub(crate) wait_ms: u64,
    /// Another one for each wish: the same wish sent again finds itself. Without it an answer that was lost blocks the lock
    /// for one time to live.
    pub(crate) attempt: Option<String>,
}

/// Shows the token of a lock that is held.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LockTokenBody {
    /// The token of the acquisition.
    pub(crate) token: u64,
}

/// A lock.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct LockBody {
    /// Its name.
    pub(crate) name: String,
    /// Who holds it.
    pub(crate) owner: String,
    /// Larger than that of every holder before.
    pub(crate) token: u64,
    /// Time to live.
    pub(crate) ttl_ms: u64,
    /// The revision of the last renewal.
    pub(crate) renewed: u64,
}

/// What giving a lock back came to.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Released {
    /// Whether it was held with this token until now.
    pub(crate) released: bool,
}

/// What a service keeps and may keep.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct UsageBody {
    /// Whose.
    pub(crate) service: String,
    /// Values.
    pub(crate) keys: u64,
    /// At most.
    pub(crate) keys_max: u64,
    /// Bytes of keys and values.
    pub(crate) bytes: u64,
    /// At most.
    pub(crate) bytes_max: u64,
    /// Locks that are held.
    pub(crate) locks: u64,
    /// At most.
    pub(crate) locks_max: u64,
}

/// A token that was issued.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct TokenBody {
    /// It is not shown again.
    pub(crate) token: String,
}

impl ErrorBody {
    pub(crate) fn new(error: &Error) -> Self {
        let mut body = Self {
            error: error.to_string(),
            code: error.code().into(),
            hint: error.hint().map(Into::into),
            outcome: if error.is_unknown() { "unknown" } else { "not_done" }.into(),
            revision: None,
            oldest: None,
        };
        match error {
            Error::RevisionMismatch { found, .. } => body.revision = Some(found.0),
            Error::Compacted { oldest } => body.oldest = Some(oldest.0),
            _ => {}
        }
        body
    }
}

impl From<Value> for Entry {
    fn from(value: Value) -> Self {
        let (text, base64) = match String::from_utf8(value.value) {
            Ok(text) => (Some(text), None),
            Err(bytes) => (None, Some(STANDARD.encode(bytes.as_bytes()))),
        };
        Self {
            key: value.key,
            value: text,
            base64,
            revision: value.revision.0,
            created: value.created.0,
            version: value.version,
        }
    }
}

impl From<Page> for EntryPage {
    fn from(page: Page) -> Self {
        let next = page.values.last().filter(|_| page.more).map(|value| value.key.clone());
        Self {
            entries: page.values.into_iter().map(Entry::from).collect(),
            revision: page.revision.0,
            next,
        }
    }
}

impl From<Done> for TransactionDone {
    fn from(done: Done) -> Self {
        Self {
            succeeded: done.succeeded,
            revision: done.revision.0,
            reads: done.reads.into_iter().map(|read| read.map(Entry::from)).collect(),
            because: done.broken.map(|error| error.to_string()),
        }
    }
}

impl From<News> for ChangeBody {
    fn from(news: News) -> Self {
        let changes = news.changes.into_iter().map(|change| match change {
            Changed::Put(value) => KeyChange::Put(value.into()),
            Changed::Deleted { key } => KeyChange::Deleted { key, deleted: true },
        });
        Self {
            revision: news.revision.0,
            changes: changes.collect(),
        }
    }
}

impl From<Held> for LockBody {
    fn from(held: Held) -> Self {
        let Millis(ttl_ms) = held.ttl;
        Self {
            name: held.name,
            owner: held.owner,
            token: held.token.0,
            ttl_ms,
            renewed: held.renewed.0,
        }
    }
}

impl TryFrom<TransactionBody> for Transaction {
    type Error = Error;

    fn try_from(body: TransactionBody) -> Result<Self, Error> {
        Ok(Self {
            conditions: body
                .conditions
                .into_iter()
                .map(Condition::try_from)
                .collect::<Result<_, _>>()?,
            then: body
                .then
                .into_iter()
                .map(Operation::try_from)
                .collect::<Result<_, _>>()?,
            otherwise: body.otherwise,
        })
    }
}

impl TryFrom<ConditionBody> for Condition {
    type Error = Error;

    fn try_from(body: ConditionBody) -> Result<Self, Error> {
        match body {
            ConditionBody {
                key: Some(key),
                revision: Some(revision),
                absent: None,
                exists: None,
                lock: None,
                token: None,
            } => Ok(Condition::Revision {
                key,
                is: Revision(revision),
            }),
            ConditionBody {
                key: Some(key),
                revision: None,
                absent: Some(true),
                exists: None,
                lock: None,
                token: None,
            } => Ok(Condition::Absent { key }),
            ConditionBody {
                key: Some(key),
                revision: None,
                absent: None,
                exists: Some(true),
                lock: None,
                token: None,
            } => Ok(Condition::Exists { key }),
            ConditionBody {
                key: None,
                revision: None,
                absent: None,
                exists: None,
                lock: Some(name),
                token: Some(token),
            } => Ok(Condition::Lock {
                name,
                token: Revision(token),
            }),
            _ => Err(Error::InvalidRequest(
                "a condition is `key` with one of `revision`, `absent: true`, `exists: true`; or `lock` with `token`"
                    .into(),
            )),
        }
    }
}

impl TryFrom<OperationBody> for Operation {
    type Error = Error;

    fn try_from(body: OperationBody) -> Result<Self, Error> {
        match body {
            OperationBody {
                put: Some(key),
                value: Some(value),
                base64: None,
                delete: None,
                get: None,
            } => Ok(Operation::Put {
                key,
                value: value.into_bytes(),
            }),
            OperationBody {
                put: Some(key),
                value: None,
                base64: Some(base64),
                delete: None,
                get: None,
            } => {
                let value = STANDARD.decode(base64).map_err(|error| {
                    Error::InvalidRequest(format!("`base64` of the key `{key}` is not base64: {error}"))
                })?;
                Ok(Operation::Put { key, value })
            }
            OperationBody {
                put: None,
                value: None,
                base64: None,
                delete: Some(key),
                get: None,
            } => Ok(Operation::Delete { key }),
            OperationBody {
                put: None,
                value: None,
                base64: None,
                delete: None,
                get: Some(key),
            } => Ok(Operation::Get { key }),
            _ => Err(Error::InvalidRequest(
                "an operation is `put` with `value` or `base64`; or `delete`; or `get`".into(),
            )),
        }
    }
}
