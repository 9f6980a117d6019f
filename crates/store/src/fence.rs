//! Power fencing in the store: one record per node, written by compare-and-swap (T4f and 7.6 of the takeover protocol).
//!
//! Whoever writes an intent compares the record, his own session and that of the node, so there is one fencer at most, it has the majority of
//! the store, and it means a session that was not renewed meanwhile. Whoever opens a session for the node compares the record too
//! ([`session::open`](crate::session::open)), so no later incarnation is hit.

use crate::session::{SessionError, decode, encode, session_key};
use crate::{Compare, Entry, Op, Store, Txn};
use model::{FenceRecord, FenceState, NodeName, Revision};

/// Prefix of the records, one per node.
pub const FENCES: &str = "fence/";

/// The key of a node's record.
pub fn key(node: &NodeName) -> String {
    format!("{FENCES}{node}")
}

/// An intent to take a node's power away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// Whose.
    pub node: NodeName,
    /// The record to write: powering, by us, under our session.
    pub record: FenceRecord,
    /// The record there is must be of this revision; 0: there is none.
    pub expect: Revision,
    /// The node's session must have been renewed last by this revision; nothing: it must be the one that is meant, or none.
    pub modified: Option<Revision>,
    /// Whether the node has the session that is meant, as far as is known.
    pub open: bool,
    /// The fencer of before, and the session that he has by now (0: none): other than the one he wrote.
    pub gone: Option<(NodeName, Revision)>,
}

/// Writes an intent; nothing if somebody else was first, or the node has renewed its session, opened another, or lost it.
pub async fn begin(store: &dyn Store, intent: &Intent) -> Result<Option<Revision>, SessionError> {
    let (fence, session) = (key(&intent.node), session_key(&intent.node));
    let record = &intent.record;
    let mut txn = Txn::new()
        .when(compare(&fence, intent.expect))
        .when(Compare::created(session_key(&record.by), record.under));
    txn = match (intent.modified, intent.open) {
        (Some(modified), _) => txn
            .when(Compare::created(&session, record.session))
            .when(Compare::modified(&session, modified)),
        (None, true) => txn.when(Compare::created(&session, record.session)),
        (None, false) => txn.when(Compare::absent(&session)),
    };
    if let Some((fencer, now)) = &intent.gone {
        // Our own of before is compared above.
        let other = *fencer != record.by;
        if other {
            txn = txn.when(Compare::created(session_key(fencer), *now));
        }
    }
    write(store, &fence, record, txn).await
}

/// Writes what came of it, if the record is still of the revision `from`.
pub async fn note(
    store: &dyn Store,
    node: &NodeName,
    from: Revision,
    record: &FenceRecord,
) -> Result<Option<Revision>, SessionError> {
    let fence = key(node);
    let txn = Txn::new().when(compare(&fence, from));
    write(store, &fence, record, txn).await
}

/// What a node that opens a session writes in place of an intent; nothing if there is none to take back.
pub(crate) fn withdrawn(record: &FenceRecord) -> Option<FenceRecord> {
    let intent = matches!(record.state, FenceState::Powering | FenceState::Failed(_));
    intent.then(|| FenceRecord {
        state: FenceState::Withdrawn,
        proven: record.proven.max(record.session),
        ..record.clone()
    })
}

/// A record as it was read.
pub fn read(entry: &Entry) -> Result<FenceRecord, SessionError> {
    decode(entry)
}

async fn write(
    store: &dyn Store,
    fence: &str,
    record: &FenceRecord,
    txn: Txn,
) -> Result<Option<Revision>, SessionError> {
    let value = encode(fence, record)?;
    let txn = txn.then(Op::put(fence, value.clone())).otherwise(Op::get(fence));
    let result = store.txn(txn).await?;
    if result.succeeded {
        return Ok(Some(result.revision));
    }
    // Our own write, whose answer was lost.
    let found = result.reads.into_iter().flatten().next();
    Ok(found.filter(|entry| entry.value == value).map(|entry| entry.modified))
}

fn compare(key: &str, revision: Revision) -> Compare {
    match revision {
        Revision(0) => Compare::absent(key),
        revision => Compare::modified(key, revision),
    }
}
