//! Key-value.

use crate::transport::{Answer, escaped};
use crate::{Client, Error};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Method};
use serde::{Deserialize, Serialize};

/// A value and its past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Its key.
    pub key: String,
    /// Any bytes.
    pub value: Bytes,
    /// The revision that wrote it.
    pub revision: u64,
    /// The revision at which the key came to be.
    pub created: u64,
    /// How often the key was written since, from 1.
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
        is: u64,
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
    /// A lock is held with this token.
    Lock {
        /// The lock.
        name: String,
        /// The token.
        token: u64,
    },
}

/// What a transaction does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Writes a value.
    Put {
        /// The key.
        key: String,
        /// Any bytes.
        value: Bytes,
    },
    /// Removes a key.
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

/// If all conditions hold, `then`; else the keys of `otherwise` are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// All must hold; at most 32.
    pub conditions: Vec<Condition>,
    /// In order; at most 32, no key written twice.
    pub then: Vec<Operation>,
    /// Keys; at most 32.
    pub otherwise: Vec<String>,
}

/// What came of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionDone {
    /// Whether all conditions held.
    pub succeeded: bool,
    /// The revision that it made; if it wrote nothing, one at which what it read was so.
    pub revision: u64,
    /// What was read, in order.
    pub reads: Vec<Option<Value>>,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// By key.
    pub values: Vec<Value>,
    /// The revision at which this was so: watch from the one after it to miss nothing.
    pub revision: u64,
    /// If more follow: ask again with this as `after`.
    pub next: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct WireEntry {
    key: String,
    value: Option<String>,
    base64: Option<String>,
    revision: u64,
    created: u64,
    version: u64,
}

#[derive(Deserialize)]
struct WirePage {
    entries: Vec<WireEntry>,
    revision: u64,
    next: Option<String>,
}

#[derive(Deserialize)]
struct Written {
    revision: u64,
    deleted: Option<bool>,
}

#[derive(Serialize)]
struct WireTransaction<'a> {
    #[serde(rename = "if")]
    conditions: Vec<serde_json::Value>,
    then: Vec<serde_json::Value>,
    #[serde(rename = "else")]
    otherwise: &'a [String],
}

#[derive(Deserialize)]
struct WireDone {
    succeeded: bool,
    revision: u64,
    reads: Vec<Option<WireEntry>>,
}

impl Client {
    /// The value of a key as it is now.
    pub async fn get(&self, key: &str) -> Result<Option<Value>, Error> {
        match self.call(&self.request(Method::GET, path(key))).await {
            Ok(answer) => read(key, answer).map(Some),
            Err(Error::Refused { code, .. }) if code == "not_found" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a value and returns its revision.
    pub async fn put(&self, key: &str, value: impl Into<Bytes>) -> Result<u64, Error> {
        self.put_if(key, value, &[]).await
    }

    /// Writes a value if there is none yet. [`Error::Mismatch`] if there is.
    pub async fn create(&self, key: &str, value: impl Into<Bytes>) -> Result<u64, Error> {
        self.put_if(key, value, &[Condition::Absent { key: key.into() }]).await
    }

    /// Writes a value in the place of the one of revision `was`. [`Error::Mismatch`] if there is another one by now.
    pub async fn cas(&self, key: &str, value: impl Into<Bytes>, was: u64) -> Result<u64, Error> {
        let condition = Condition::Revision {
            key: key.into(),
            is: was,
        };
        self.put_if(key, value, &[condition]).await
    }

    /// Writes a value if all conditions hold: about this key, or about locks. Else [`Error::Mismatch`] or [`Error::Lost`].
    pub async fn put_if(&self, key: &str, value: impl Into<Bytes>, conditions: &[Condition]) -> Result<u64, Error> {
        let mut call = self.request(Method::PUT, path(key));
        call.body = value.into();
        call.headers = headers(key, conditions)?;
        Ok(self.ask::<Written>(&call).await?.revision)
    }

    /// Removes a key. Returns whether it was there.
    pub async fn delete(&self, key: &str) -> Result<bool, Error> {
        self.delete_if(key, &[]).await
    }

    /// Removes a key if all conditions hold: about this key, or about locks.
    pub async fn delete_if(&self, key: &str, conditions: &[Condition]) -> Result<bool, Error> {
        let mut call = self.request(Method::DELETE, path(key));
        call.headers = headers(key, conditions)?;
        Ok(self.ask::<Written>(&call).await?.deleted.unwrap_or(false))
    }

    /// The values whose keys begin with `prefix`, after the key `after`: at most `limit`, 1 to 1000, and about a megabyte.
    pub async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, Error> {
        let mut query = format!("/v1/state/kv?limit={limit}&prefix={}", escaped(prefix, false));
        if let Some(after) = after {
            query.push_str(&format!("&after={}", escaped(after, false)));
        }
        let page: WirePage = self.ask(&self.request(Method::GET, query)).await?;
        Ok(Page {
            values: page
                .entries
                .into_iter()
                .map(Value::try_from)
                .collect::<Result<_, _>>()?,
            revision: page.revision,
            next: page.next,
        })
    }

    /// Several operations at once, all or none.
    pub async fn transact(&self, transaction: &Transaction) -> Result<TransactionDone, Error> {
        let wire = WireTransaction {
            conditions: transaction.conditions.iter().map(wire_condition).collect(),
            then: transaction.then.iter().map(wire_operation).collect(),
            otherwise: &transaction.otherwise,
        };
        let mut call = self.request(Method::POST, "/v1/state/txn".into());
        call.body = encode(&wire)?;
        // What writes nothing may be asked as often as one likes.
        call.repeatable = transaction.then.iter().all(|op| matches!(op, Operation::Get { .. }));
        let done: WireDone = self.ask(&call).await?;
        let reads = done.reads.into_iter().map(|read| read.map(Value::try_from).transpose());
        Ok(TransactionDone {
            succeeded: done.succeeded,
            revision: done.revision,
            reads: reads.collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<WireEntry> for Value {
    type Error = Error;

    fn try_from(entry: WireEntry) -> Result<Self, Error> {
        let value = match (entry.value, entry.base64) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(base64)) => STANDARD.decode(base64).map_err(|error| Error::Unexpected {
                problem: format!("the value of `{}`: {error}", entry.key),
            })?,
            _ => {
                return Err(Error::Unexpected {
                    problem: format!("the value of `{}` is not there", entry.key),
                });
            }
        };
        Ok(Self {
            key: entry.key,
            value: value.into(),
            revision: entry.revision,
            created: entry.created,
            version: entry.version,
        })
    }
}

pub(crate) fn encode(value: &impl Serialize) -> Result<Bytes, Error> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| Error::Unexpected {
            problem: error.to_string(),
        })
}

fn path(key: &str) -> String {
    format!("/v1/state/kv/{}", escaped(key, true))
}

fn read(key: &str, answer: Answer) -> Result<Value, Error> {
    Ok(Value {
        key: key.into(),
        revision: number(&answer.headers, "revision")?,
        created: number(&answer.headers, "created")?,
        version: number(&answer.headers, "version")?,
        value: answer.body,
    })
}

fn number(headers: &HeaderMap, name: &str) -> Result<u64, Error> {
    let value = headers.get(name).and_then(|value| value.to_str().ok()?.parse().ok());
    value.ok_or_else(|| Error::Unexpected {
        problem: format!("the header `{name}` is not there"),
    })
}

/// The conditions of a single write as headers, which can only speak of the key that is written.
fn headers(key: &str, conditions: &[Condition]) -> Result<Vec<(&'static str, String)>, Error> {
    let header = |condition: &Condition| match condition {
        Condition::Revision { key: of, is } if of == key => Some(("if-match", is.to_string())),
        Condition::Absent { key: of } if of == key => Some(("if-none-match", "*".into())),
        Condition::Exists { key: of } if of == key => Some(("if-match", "*".into())),
        Condition::Lock { name, token } => Some(("if-lock", format!("{name}:{token}"))),
        _ => None,
    };
    let headers: Option<Vec<_>> = conditions.iter().map(header).collect();
    headers.ok_or_else(|| Error::NotConfigured {
        problem: "a single write can have conditions on its own key and on locks only: use `transact`".into(),
    })
}

fn wire_condition(condition: &Condition) -> serde_json::Value {
    match condition {
        Condition::Revision { key, is } => serde_json::json!({"key": key, "revision": is}),
        Condition::Absent { key } => serde_json::json!({"key": key, "absent": true}),
        Condition::Exists { key } => serde_json::json!({"key": key, "exists": true}),
        Condition::Lock { name, token } => serde_json::json!({"lock": name, "token": token}),
    }
}

fn wire_operation(operation: &Operation) -> serde_json::Value {
    match operation {
        Operation::Put { key, value } => serde_json::json!({"put": key, "base64": STANDARD.encode(value)}),
        Operation::Delete { key } => serde_json::json!({"delete": key}),
        Operation::Get { key } => serde_json::json!({"get": key}),
    }
}
