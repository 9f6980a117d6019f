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

/// Goes on with what somebody left behind, if the record is still of the revision `from` and our own session, which is in the new one, is open.
pub async fn resume(
    store: &dyn Store,
    node: &NodeName,
    from: Revision,
    record: &FenceRecord,
) -> Result<Option<Revision>, SessionError> {
    let fence = key(node);
    let txn = Txn::new()
        .when(compare(&fence, from))
        .when(Compare::created(session_key(&record.by), record.under));
    write(store, &fence, record, txn).await
}

/// What a node that opens a session writes in place of an intent; nothing if there is none to take back.
pub(crate) fn withdrawn(record: &FenceRecord) -> Option<FenceRecord> {
    let intent = record.is_under_way() || matches!(record.state, FenceState::Failed(_));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Memory;
    use crate::session::{self, Ending, Ground, Opened, Record, Session};
    use model::{Millis, WallTime};

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    async fn open(store: &Memory, name: &str) -> Opened {
        open_past(store, name, None).await
    }

    async fn open_past(store: &Memory, name: &str, past: Option<Revision>) -> Opened {
        let record = Record {
            machine: name.into(),
            boot: "1".into(),
            agent: "1".into(),
            lease_ms: Millis(3_000),
            kill_ms: Millis(100),
            renew_ms: Millis(200),
            protocol: 1,
            seq: 0,
            wall: None,
        };
        session::open_past(store, &node(name), &record, past).await.unwrap()
    }

    async fn opened(store: &Memory, name: &str) -> Session {
        match open(store, name).await {
            Opened::Open(session) => session,
            other => panic!("{other:?}"),
        }
    }

    fn intent(of: &Session, by: &Session) -> Intent {
        Intent {
            node: of.node.clone(),
            record: FenceRecord {
                session: of.id,
                state: FenceState::Powering,
                by: by.node.clone(),
                under: by.id,
                bound: Millis(1_000),
                tries: 1,
                proven: Revision(0),
                because: String::new(),
                at: WallTime(0),
            },
            expect: Revision(0),
            modified: Some(of.modified),
            open: true,
            gone: None,
        }
    }

    async fn end(store: &Memory, session: &Session) {
        let ending = session::condemn(store, session, &Ground::Expired, "b").await.unwrap();
        assert!(matches!(ending, Ending::Ended(_)));
    }

    #[tokio::test]
    async fn one_fencer_and_only_for_the_renewal_that_was_seen() {
        let store = Memory::default();
        let (a, b, c) = (
            opened(&store, "a").await,
            opened(&store, "b").await,
            opened(&store, "c").await,
        );
        session::renew(&store, &a, Millis(3_000)).await.unwrap();
        assert_eq!(
            begin(&store, &intent(&a, &b)).await.unwrap(),
            None,
            "it was renewed since"
        );
        let a = session::get(&store, &node("a")).await.unwrap().unwrap();
        assert!(begin(&store, &intent(&a, &b)).await.unwrap().is_some());
        assert_eq!(begin(&store, &intent(&a, &c)).await.unwrap(), None, "somebody is at it");
        // Nor does who has lost his own session begin anything.
        let store = Memory::default();
        let (a, b) = (opened(&store, "a").await, opened(&store, "b").await);
        end(&store, &b).await;
        assert_eq!(begin(&store, &intent(&a, &b)).await.unwrap(), None);
    }

    #[tokio::test]
    async fn who_comes_back_opens_no_session_under_somebodys_hands_and_takes_the_intent_back() {
        let store = Memory::default();
        let (a, b) = (opened(&store, "a").await, opened(&store, "b").await);
        let begun = begin(&store, &intent(&a, &b)).await.unwrap().unwrap();
        end(&store, &a).await;
        let Opened::Powering { revision, .. } = open(&store, "a").await else {
            panic!("it is being switched off");
        };
        assert_eq!(revision, begun);
        // Its time is over, but the fencer lives.
        assert!(matches!(
            open_past(&store, "a", Some(begun)).await,
            Opened::Powering { .. }
        ));
        end(&store, &b).await;
        // He is gone, but what he began may not be over.
        assert!(matches!(open(&store, "a").await, Opened::Powering { .. }));
        assert!(matches!(open_past(&store, "a", Some(begun)).await, Opened::Open(_)));
        let record = read(&store.get(&key(&node("a"))).await.unwrap().unwrap()).unwrap();
        assert_eq!((record.state, record.proven), (FenceState::Withdrawn, a.id));
        let late = FenceRecord {
            state: FenceState::Off,
            ..intent(&a, &b).record
        };
        assert_eq!(
            note(&store, &node("a"), begun, &late).await.unwrap(),
            None,
            "a late result says nothing"
        );
    }

    #[tokio::test]
    async fn a_node_opens_no_session_while_it_is_given_its_power_back() {
        let store = Memory::default();
        let (a, b) = (opened(&store, "a").await, opened(&store, "b").await);
        let intent = intent(&a, &b);
        let begun = begin(&store, &intent).await.unwrap().unwrap();
        let state = |state| FenceRecord {
            state,
            ..intent.record.clone()
        };
        let off = note(&store, &a.node, begun, &state(FenceState::Off))
            .await
            .unwrap()
            .unwrap();
        end(&store, &a).await;
        assert!(
            matches!(open(&store, "a").await, Opened::Powering { .. }),
            "what was told may not have settled"
        );
        // Another goes on with it, if he has a session himself.
        let c = opened(&store, "c").await;
        let by_c = FenceRecord {
            by: c.node.clone(),
            under: c.id,
            ..state(FenceState::Off)
        };
        let none = FenceRecord {
            under: Revision(1),
            ..by_c.clone()
        };
        assert_eq!(resume(&store, &a.node, off, &none).await.unwrap(), None);
        let resumed = resume(&store, &a.node, off, &by_c).await.unwrap().unwrap();
        assert_eq!(
            note(&store, &a.node, off, &state(FenceState::Done)).await.unwrap(),
            None,
            "the first is late"
        );
        note(&store, &a.node, resumed, &state(FenceState::Done))
            .await
            .unwrap()
            .unwrap();
        assert!(matches!(open(&store, "a").await, Opened::Open(_)));
    }

    #[tokio::test]
    async fn after_a_failed_attempt_and_after_a_good_one_the_node_may_come_back() {
        for (state, after) in [
            (FenceState::Failed("no route".into()), FenceState::Withdrawn),
            (FenceState::Done, FenceState::Done),
        ] {
            let store = Memory::default();
            let (a, b) = (opened(&store, "a").await, opened(&store, "b").await);
            let intent = intent(&a, &b);
            let begun = begin(&store, &intent).await.unwrap().unwrap();
            let record = FenceRecord {
                state,
                ..intent.record.clone()
            };
            let noted = note(&store, &a.node, begun, &record).await.unwrap();
            assert!(noted.is_some());
            assert_eq!(
                note(&store, &a.node, begun, &record).await.unwrap(),
                noted,
                "asked again, it finds itself"
            );
            end(&store, &a).await;
            assert!(matches!(open(&store, "a").await, Opened::Open(_)));
            let record = read(&store.get(&key(&a.node)).await.unwrap().unwrap()).unwrap();
            assert_eq!(record.state, after);
        }
    }
}
