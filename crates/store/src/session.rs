//! Sessions: a node's lease in the store, as transactions T1 to T4 and T12 of the takeover protocol.
//!
//! ```text
//!            open (T1)              renew (T2)
//!   absent ───────────► session σ ─────────────► session σ, seq + 1
//!      ▲                    │ close (T3), condemn (T4, T12)
//!      └────────────────────┴──► grave σ
//! ```
//! A session's id σ is the revision that created its key, so a session that was ended and opened again is another one,
//! and whatever compares σ cannot succeed for the old one any more. No clock is read here: whoever calls [`condemn`]
//! knows that the time is up.
//!
//! Beside the session, which changes with each renewal, `there/NODE` is written when it is opened and goes when it ends: whoever only wants to know
//! which sessions there are watches that. It proves nothing, and nothing compares it.
//!
//! Every call may be repeated as it is after [`Error::Unknown`]: it then finds what it did itself.

use crate::{Compare, Entry, Error, Op, Store, Txn, TxnResult, fence};
use model::{FenceRecord, Millis, NodeName, Revision, WallTime};
use serde::{Deserialize, Serialize};

/// Prefix of the sessions, one per node.
pub const SESSIONS: &str = "session/";
/// Prefix of what says that a session is open, one per session: the record as it was when it was opened, written by the revision σ.
pub const THERE: &str = "there/";
/// Prefix of the graves, one per ended session.
pub const GRAVES: &str = "grave/";

/// What a node writes about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Machine identity: stays over reboots.
    pub machine: String,
    /// Another one after each boot.
    pub boot: String,
    /// Another one for each process of the agent.
    pub agent: String,
    /// D: this long after the last acknowledged renewal was sent, all effects of the node have ended.
    pub lease_ms: Millis,
    /// K: how long the guard may take to kill.
    pub kill_ms: Millis,
    /// R: time between renewals.
    pub renew_ms: Millis,
    /// Version of the protocol that the node speaks.
    pub protocol: u32,
    /// Counts the renewals.
    pub seq: u64,
    /// What the clock of the node showed when this was sent, for people; not of an opening, nor by versions of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall: Option<WallTime>,
}

/// A session that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Whose.
    pub node: NodeName,
    /// σ: the revision that created it.
    pub id: Revision,
    /// The revision of its last renewal.
    pub modified: Revision,
    /// What the node wrote.
    pub record: Record,
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// Its node closed it.
    Closed,
    /// It was not renewed in time.
    Expired,
    /// Its node booted again.
    Rebooted,
    /// Its node was confirmed to be off.
    Fenced,
    /// An operator stated that its node is off.
    Stated,
}

/// What is left of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grave {
    /// Why it ended.
    pub cause: Cause,
    /// Who ended it.
    pub by: String,
    /// The revision of its last renewal.
    pub renewed_at: Revision,
}

/// What came of [`open`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// The session is ours.
    Open(Session),
    /// The node has another session already: another agent's, or one that must end first.
    Taken(Session),
    /// Somebody is at the node's power: it waits until that is over, see [`open_past`].
    Powering {
        /// What he wrote.
        record: FenceRecord,
        /// And when.
        revision: Revision,
    },
}

/// What came of [`renew`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewal {
    /// The lease runs from when the renewal was sent.
    Renewed(Session),
    /// The session has ended: stop everything exclusive, then open another. No grave if it was removed by now.
    Fenced(Option<Grave>),
}

/// What came of [`close`] and [`condemn`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It ended with this revision.
    Ended(Revision),
    /// It had ended before, as the grave says if it is still there.
    AlreadyEnded(Option<Grave>),
    /// It lives: it was renewed, the fencing is not confirmed, or the slot is not as it was shown.
    Lives(Session),
}

/// On what ground a session may be ended by others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ground {
    /// T4e: no renewal was seen for the observer's whole wait.
    Expired,
    /// T4r: the node itself, after a reboot.
    Rebooted,
    /// T4f: the record under this key, unchanged since this revision, confirms that the node is off.
    Fenced {
        /// Key of the record.
        key: String,
        /// Its revision when it was read.
        confirmed: Revision,
    },
    /// T12: an operator states that the node is off, having seen a slot that it holds. Nothing was renewed since.
    Stated {
        /// Key of the slot.
        slot: String,
        /// Its revision when it was shown.
        held: Revision,
        /// Key and value of a record of who stated what: written with it.
        deed: (String, Vec<u8>),
    },
}

/// A record in the store that is not what was expected there.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SessionError {
    /// The store did not answer as it should.
    #[error(transparent)]
    Store(#[from] Error),
    /// A newer version wrote it, or not one of us.
    #[error("the record `{key}` cannot be read")]
    Unreadable {
        /// Its key.
        key: String,
        /// What is wrong with it.
        source: std::sync::Arc<serde_json::Error>,
    },
}

/// T1: opens a session for `node`, which has none.
///
/// Only when the guard is armed and nothing exclusive runs, or what runs is frozen.
pub async fn open(store: &dyn Store, node: &NodeName, record: &Record) -> Result<Opened, SessionError> {
    open_past(store, node, record, None).await
}

/// The same, past a fencer who is at this node's power by the record of that revision: it was seen for as long as an attempt may take. If his
/// session is gone, nobody is at it any more.
///
/// A node that is on and opens a session has ended what ran under all before, so nobody needs its power any more: the intent is taken back.
pub async fn open_past(
    store: &dyn Store,
    node: &NodeName,
    record: &Record,
    past: Option<Revision>,
) -> Result<Opened, SessionError> {
    let (key, fence_key) = (session_key(node), fence::key(node));
    let value = encode(&key, record)?;
    let opens = |txn: Txn| {
        txn.when(Compare::absent(&key))
            .then(Op::put(&key, value.clone()))
            .then(Op::put(there_key(node), value.clone()))
            .then(Op::get(&key))
            .otherwise(Op::get(&key))
            .otherwise(Op::get(&fence_key))
    };
    let mut result = store.txn(opens(Txn::new().when(Compare::absent(&fence_key)))).await?;
    let found = result.reads.get(1).and_then(Option::as_ref);
    if let Some(entry) = found.filter(|_| !result.succeeded && result.reads.first().is_some_and(Option::is_none)) {
        let known: FenceRecord = decode(entry)?;
        let mut txn = Txn::new().when(Compare::modified(&fence_key, entry.modified));
        if known.is_under_way() {
            let fencer = session_key(&known.by);
            let now = store.get(&fencer).await?.map(|entry| entry.create).unwrap_or_default();
            if past != Some(entry.modified) || now == known.under {
                let revision = entry.modified;
                return Ok(Opened::Powering {
                    record: known,
                    revision,
                });
            }
            txn = txn.when(Compare::created(fencer, now));
        }
        if let Some(withdrawn) = fence::withdrawn(&known) {
            txn = txn.then(Op::put(&fence_key, encode(&fence_key, &withdrawn)?));
        }
        // What is read is found behind what is written.
        result = store.txn(opens(txn)).await?;
    }
    let session = read_session(node, &result, 0)?;
    match session {
        Some(session) if result.succeeded || session.record == *record => Ok(Opened::Open(session)),
        Some(session) => Ok(Opened::Taken(session)),
        // A fencer came in between, or the store breaks its word.
        None => Err(Error::Unknown {
            reason: format!("`{key}` is absent right after it was to be written"),
        }
        .into()),
    }
}

/// T2: renews `session` with the next sequence number, and `lease_ms` from now on.
///
/// Take the mark from which the lease runs before calling; have one renewal under way at a time.
pub async fn renew(store: &dyn Store, session: &Session, lease_ms: Millis) -> Result<Renewal, SessionError> {
    let key = session_key(&session.node);
    let record = Record {
        lease_ms,
        seq: session.record.seq + 1,
        ..session.record.clone()
    };
    let result = store
        .txn(
            Txn::new()
                .when(Compare::created(&key, session.id))
                .then(Op::put(&key, encode(&key, &record)?))
                .otherwise(Op::get(grave_key(&session.node, session.id))),
        )
        .await?;
    if result.succeeded {
        return Ok(Renewal::Renewed(Session {
            modified: result.revision,
            record,
            ..session.clone()
        }));
    }
    Ok(Renewal::Fenced(read_grave(&result, 0)?))
}

/// T3: ends our own session. Only when nothing exclusive runs.
pub async fn close(store: &dyn Store, session: &Session, by: &str) -> Result<Ending, SessionError> {
    let key = session_key(&session.node);
    let compares = vec![Compare::created(&key, session.id)];
    end(store, session, Cause::Closed, by, compares, None).await
}

/// T4, T12: ends the session of a node that is gone, as it was seen: `session.modified` is the renewal that was seen last.
///
/// The caller has waited as long as the protocol says for this ground.
pub async fn condemn(store: &dyn Store, session: &Session, ground: &Ground, by: &str) -> Result<Ending, SessionError> {
    let key = session_key(&session.node);
    let mut also = None;
    let (cause, compares) = match ground {
        // The modified revision alone says which session it is: revisions are not used twice.
        Ground::Expired => (Cause::Expired, vec![Compare::modified(&key, session.modified)]),
        Ground::Rebooted => (
            Cause::Rebooted,
            vec![
                Compare::created(&key, session.id),
                Compare::modified(&key, session.modified),
            ],
        ),
        Ground::Fenced { key: fence, confirmed } => (
            Cause::Fenced,
            vec![Compare::created(&key, session.id), Compare::modified(fence, *confirmed)],
        ),
        Ground::Stated { slot, held, deed } => {
            also = Some(Op::put(&deed.0, deed.1.clone()));
            let compares = vec![
                Compare::created(&key, session.id),
                Compare::modified(&key, session.modified),
                Compare::modified(slot, *held),
            ];
            (Cause::Stated, compares)
        }
    };
    end(store, session, cause, by, compares, also).await
}

/// The session of `node`, if it has one.
pub async fn get(store: &dyn Store, node: &NodeName) -> Result<Option<Session>, SessionError> {
    store
        .get(&session_key(node))
        .await?
        .map(|entry| session_of(node, &entry))
        .transpose()
}

/// Removes the grave of a session that nobody can ask about any more: a day after its end.
pub async fn forget(store: &dyn Store, node: &NodeName, id: Revision) -> Result<(), SessionError> {
    store.txn(Txn::new().then(Op::delete(grave_key(node, id)))).await?;
    Ok(())
}

/// The key of a node's session.
pub fn session_key(node: &NodeName) -> String {
    format!("{SESSIONS}{node}")
}

/// The key of what says that a node has a session.
pub fn there_key(node: &NodeName) -> String {
    format!("{THERE}{node}")
}

/// The key of the grave of session `id`; sorts by age.
pub fn grave_key(node: &NodeName, id: Revision) -> String {
    format!("{GRAVES}{node}/{:020}", id.0)
}

async fn end(
    store: &dyn Store,
    session: &Session,
    cause: Cause,
    by: &str,
    compares: Vec<Compare>,
    also: Option<Op>,
) -> Result<Ending, SessionError> {
    let key = session_key(&session.node);
    let grave_key = grave_key(&session.node, session.id);
    let grave = Grave {
        cause,
        by: by.into(),
        renewed_at: session.modified,
    };
    let mut then = vec![
        Op::delete(&key),
        Op::delete(there_key(&session.node)),
        Op::put(&grave_key, encode(&grave_key, &grave)?),
    ];
    then.extend(also);
    let txn = Txn {
        compares,
        then,
        otherwise: vec![Op::get(&key), Op::get(&grave_key)],
    };
    let result = store.txn(txn).await?;
    if result.succeeded {
        return Ok(Ending::Ended(result.revision));
    }
    match read_session(&session.node, &result, 0)? {
        Some(found) if found.id == session.id => Ok(Ending::Lives(found)),
        _ => Ok(Ending::AlreadyEnded(read_grave(&result, 1)?)),
    }
}

fn read_session(node: &NodeName, result: &TxnResult, read: usize) -> Result<Option<Session>, SessionError> {
    result
        .reads
        .get(read)
        .and_then(Option::as_ref)
        .map(|entry| session_of(node, entry))
        .transpose()
}

fn session_of(node: &NodeName, entry: &Entry) -> Result<Session, SessionError> {
    Ok(Session {
        node: node.clone(),
        id: entry.create,
        modified: entry.modified,
        record: decode(entry)?,
    })
}

fn read_grave(result: &TxnResult, read: usize) -> Result<Option<Grave>, SessionError> {
    result.reads.get(read).and_then(Option::as_ref).map(decode).transpose()
}

pub(crate) fn encode(key: &str, record: &impl Serialize) -> Result<Vec<u8>, SessionError> {
    serde_json::to_vec(record).map_err(|error| unreadable(key, error))
}

pub(crate) fn decode<T: serde::de::DeserializeOwned>(entry: &Entry) -> Result<T, SessionError> {
    serde_json::from_slice(&entry.value).map_err(|error| unreadable(&entry.key, error))
}

fn unreadable(key: &str, error: serde_json::Error) -> SessionError {
    SessionError::Unreadable {
        key: key.into(),
        source: std::sync::Arc::new(error),
    }
}
