//! Watching.

use crate::kv::WireEntry;
use crate::transport::{decode, ended, escaped};
use crate::{Client, Error, Value};
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use std::time::Duration;

/// An agent says at least every five seconds that it is there; after three of them it is not.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// No line comes near it: one revision's changes.
const LINE_BYTES_MAX: usize = 16 << 20;

/// What happened to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was written.
    Put(Value),
    /// It was removed.
    Deleted {
        /// The key.
        key: String,
    },
}

/// What one revision changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The revision.
    pub revision: u64,
    /// In order; never empty.
    pub changes: Vec<Change>,
}

/// Every change to keys that begin with a prefix, in order and none lost, whichever agent tells them.
pub struct Watch {
    client: Client,
    prefix: String,
    /// The first revision that was not told yet; none before the first agent has said where it begins.
    from: Option<u64>,
    open: Option<Open>,
}

struct Open {
    body: Incoming,
    /// What has come of the next line.
    buffer: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Open { from: u64 },
    Change { revision: u64, changes: Vec<WireChange> },
    Heartbeat {},
    End(serde_json::Value),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WireChange {
    Put(WireEntry),
    Deleted { key: String },
}

impl Client {
    /// Watches keys that begin with `prefix`: changes of revision `from` and later, or those to come. Returns when an
    /// agent watches.
    pub async fn watch(&self, prefix: &str, from: Option<u64>) -> Result<Watch, Error> {
        let mut watch = Watch {
            client: self.clone(),
            prefix: prefix.into(),
            from,
            open: None,
        };
        watch.reopen().await?;
        Ok(watch)
    }
}

impl Watch {
    /// The next revision's changes. Goes on at another agent if one is lost. A call that is dropped half-way loses nothing.
    ///
    /// [`Error::Compacted`] if changes were missed that are no longer kept: list, then watch anew.
    pub async fn next(&mut self) -> Result<Changes, Error> {
        loop {
            match self.line().await? {
                Some(Line::Change { revision, changes }) => {
                    let changes = changes.into_iter().map(Change::try_from).collect::<Result<_, _>>()?;
                    self.from = Some(revision + 1);
                    return Ok(Changes { revision, changes });
                }
                Some(Line::Open { from }) => self.from = Some(from),
                Some(Line::Heartbeat {}) => {}
                Some(Line::End(error)) => {
                    self.open = None;
                    match ended(error.to_string().as_bytes()) {
                        // This agent cannot go on, another one may.
                        Error::Refused { code, .. } if code == "store_unavailable" => {}
                        error => return Err(error),
                    }
                }
                None => self.open = None,
            }
            if self.open.is_none() {
                self.reopen().await?;
            }
        }
    }

    async fn reopen(&mut self) -> Result<(), Error> {
        let mut path = format!("/v1/state/watch?prefix={}", escaped(&self.prefix, false));
        if let Some(from) = self.from {
            path.push_str(&format!("&from={from}"));
        }
        let mut call = self.client.request(Method::GET, path);
        call.headers = vec![("accept", "application/x-ndjson".into())];
        let body = self.client.stream(&call).await?.into_body();
        self.open = Some(Open {
            body,
            buffer: Vec::new(),
        });
        // A watch from now on begins where the first agent says, or what came before the second would be missed.
        if self.from.is_none()
            && let Some(Line::Open { from }) = self.line().await?
        {
            self.from = Some(from);
        }
        Ok(())
    }

    /// The next line, or nothing if the agent is lost.
    async fn line(&mut self) -> Result<Option<Line>, Error> {
        let Some(open) = &mut self.open else { return Ok(None) };
        loop {
            if let Some(end) = open.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = open.buffer.drain(..=end).collect();
                return decode(&line).map(Some);
            }
            if open.buffer.len() > LINE_BYTES_MAX {
                return Err(Error::Unexpected {
                    problem: "a line that does not end".into(),
                });
            }
            match tokio::time::timeout(SILENCE_MAX, open.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        open.buffer.extend_from_slice(data);
                    }
                }
                Ok(Some(Err(_)) | None) | Err(_) => return Ok(None),
            }
        }
    }
}

impl TryFrom<WireChange> for Change {
    type Error = Error;

    fn try_from(change: WireChange) -> Result<Self, Error> {
        Ok(match change {
            WireChange::Put(entry) => Change::Put(entry.try_into()?),
            WireChange::Deleted { key } => Change::Deleted { key },
        })
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("prefix", &self.prefix)
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}
