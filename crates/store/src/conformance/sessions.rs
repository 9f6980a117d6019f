//! Sessions: T1 to T4 on top of the store.

use super::{entry, put};
use crate::session::{
    self, Cause, Ending, Grave, Ground, Opened, Record, Renewal, Session, grave_key, session_key, there_key,
};
use crate::{Change, Store};
use model::{Millis, NodeName, Revision};
use std::sync::Arc;

pub(super) async fn are_opened_renewed_and_closed(store: Arc<dyn Store>) {
    let first = open(&store, "one").await;
    assert_eq!(first.id, first.modified);
    let there = entry(&store, &there_key(&node()))
        .await
        .expect("it is said to be there");
    assert_eq!((there.create, there.modified), (first.id, first.id));

    // Another agent of the node is kept out; the same one, asking again after a lost answer, finds itself.
    let taken = session::open(&*store, &node(), &record("two"))
        .await
        .expect("the store answers");
    assert_eq!(taken, Opened::Taken(first.clone()));
    assert_eq!(open(&store, "one").await, first);

    let renewed = renew(&store, &first, Millis(3000)).await.expect("it is ours");
    assert_eq!((renewed.id, renewed.record.seq), (first.id, first.record.seq + 1));
    assert!(renewed.modified > first.modified);
    assert_eq!(
        entry(&store, &there_key(&node())).await,
        Some(there),
        "renewals do not touch it"
    );
    let longer = renew(&store, &renewed, Millis(9000)).await.expect("it is ours");
    assert_eq!(longer.record.lease_ms, Millis(9000));
    assert_eq!(
        session::get(&*store, &node()).await.expect("the store answers"),
        Some(longer.clone())
    );

    let ending = session::close(&*store, &longer, "one")
        .await
        .expect("the store answers");
    let Ending::Ended(at) = ending else {
        panic!("not closed: {ending:?}")
    };
    assert_eq!(entry(&store, &session_key(&node())).await, None);
    assert_eq!(entry(&store, &there_key(&node())).await, None);
    let grave = entry(&store, &grave_key(&node(), first.id))
        .await
        .expect("there is a grave");
    assert_eq!(grave.create, at, "session and grave change in one revision");

    let expected = Grave {
        cause: Cause::Closed,
        by: "one".into(),
        renewed_at: longer.modified,
    };
    assert_eq!(renew(&store, &longer, Millis(3000)).await, Err(Some(expected.clone())));
    let again = session::close(&*store, &longer, "one")
        .await
        .expect("the store answers");
    assert_eq!(again, Ending::AlreadyEnded(Some(expected)));

    // The next session is another one, whatever the old one tries.
    let second = open(&store, "two").await;
    assert_ne!(second.id, first.id);
    let there = entry(&store, &there_key(&node())).await.map(|there| there.modified);
    assert_eq!(there, Some(second.id));
    assert!(renew(&store, &longer, Millis(3000)).await.is_err());
    assert!(matches!(
        session::close(&*store, &longer, "one")
            .await
            .expect("the store answers"),
        Ending::AlreadyEnded(Some(_))
    ));
    assert_eq!(
        session::get(&*store, &node()).await.expect("the store answers"),
        Some(second)
    );

    session::forget(&*store, &node(), first.id)
        .await
        .expect("the store answers");
    assert_eq!(renew(&store, &longer, Millis(3000)).await, Err(None));
}

pub(super) async fn end_only_on_their_ground(store: Arc<dyn Store>) {
    let seen = open(&store, "one").await;
    let renewed = renew(&store, &seen, Millis(3000)).await.expect("it is ours");
    let confirmed = put(&store, "proof/a", "off").await.revision;
    let fenced = |confirmed| Ground::Fenced {
        key: "proof/a".into(),
        confirmed,
    };

    for ground in [
        Ground::Expired,
        Ground::Rebooted,
        fenced(Revision(0)),
        fenced(Revision(confirmed.0 - 1)),
    ] {
        let ending = condemn(&store, &seen, &ground).await;
        assert_eq!(ending, Ending::Lives(renewed.clone()), "{ground:?}");
    }
    assert!(matches!(
        condemn(&store, &renewed, &Ground::Expired).await,
        Ending::Ended(_)
    ));
    let Ending::AlreadyEnded(Some(grave)) = condemn(&store, &renewed, &Ground::Expired).await else {
        panic!("a session ends once");
    };
    assert_eq!((grave.cause, grave.renewed_at), (Cause::Expired, renewed.modified));

    let second = open(&store, "two").await;
    // Proof about an earlier session does not end a later one.
    assert!(matches!(
        condemn(&store, &renewed, &fenced(confirmed)).await,
        Ending::AlreadyEnded(_)
    ));
    assert!(matches!(
        condemn(&store, &second, &fenced(confirmed)).await,
        Ending::Ended(_)
    ));
    let third = open(&store, "three").await;
    assert!(matches!(
        condemn(&store, &third, &Ground::Rebooted).await,
        Ending::Ended(_)
    ));
    assert_eq!(session::get(&*store, &node()).await.expect("the store answers"), None);
}

/// T12: at an operator's word, and not if it was renewed or the slot is another by then.
pub(super) async fn end_at_an_operators_word(store: Arc<dyn Store>) {
    let seen = open(&store, "one").await;
    let held = put(&store, "slot/db/0", "held by db-1").await.revision;
    let stated = |held| Ground::Stated {
        slot: "slot/db/0".into(),
        held,
        deed: ("audit/1-b".into(), b"host a is off".to_vec()),
    };
    let renewed = renew(&store, &seen, Millis(3000)).await.expect("it is ours");
    assert_eq!(
        condemn(&store, &seen, &stated(held)).await,
        Ending::Lives(renewed.clone()),
        "it was renewed since"
    );
    let moved = put(&store, "slot/db/0", "held by db-2").await.revision;
    assert_eq!(
        condemn(&store, &renewed, &stated(held)).await,
        Ending::Lives(renewed.clone()),
        "somebody else holds the slot"
    );
    assert_eq!(
        entry(&store, "audit/1-b").await,
        None,
        "what was refused is not noted as done"
    );
    let Ending::Ended(at) = condemn(&store, &renewed, &stated(moved)).await else {
        panic!("it is as it was seen");
    };
    let deed = entry(&store, "audit/1-b").await.expect("who said so is written");
    assert_eq!(deed.create, at, "with the end itself");
    let grave = renew(&store, &renewed, Millis(3000)).await.expect_err("it has ended");
    assert_eq!(grave.map(|grave| grave.cause), Some(Cause::Stated));
    assert!(matches!(
        condemn(&store, &renewed, &stated(moved)).await,
        Ending::AlreadyEnded(Some(_))
    ));
}

/// I5: after a grave for σ no renewal of σ commits, whoever runs against whom.
pub(super) async fn no_renewal_commits_after_a_grave(store: Arc<dyn Store>) {
    const ROUNDS: usize = 12;
    let mut fenced = 0;
    for round in 0..ROUNDS {
        let opened = open(&store, &format!("agent-{round}")).await;
        let mut watch = store.watch("", opened.id).await.expect("the past is kept");
        let holder = tokio::spawn(renew_until_fenced(Arc::clone(&store), opened.clone()));
        let observer = tokio::spawn(condemn_as_seen(Arc::clone(&store), opened.clone()));
        observer.await.expect("the observer ends well");
        fenced += usize::from(holder.await.expect("the holder ends well"));

        let mut grave_at = None;
        let end = store.revision().await.expect("the revision is told");
        let mut at = Revision(0);
        while at < end {
            let told = watch.next().await.expect("the past is kept");
            at = told.revision;
            for change in told.changes {
                let Change::Put(entry) = change else { continue };
                if entry.key == grave_key(&node(), opened.id) {
                    assert_eq!(grave_at.replace(at), None, "a session is buried once");
                } else if entry.key == session_key(&node()) && entry.create == opened.id {
                    assert_eq!(grave_at, None, "a renewal committed at {at}, after the grave");
                }
            }
        }
        assert!(grave_at.is_some(), "the session was buried");
    }
    assert_eq!(fenced, ROUNDS, "every holder learned that it is fenced");
}

async fn renew_until_fenced(store: Arc<dyn Store>, mut session: Session) -> bool {
    // The observer needs two dozen renewals at most to end it.
    for _ in 0..100_000 {
        match renew(&store, &session, Millis(3000)).await {
            Ok(renewed) => session = renewed,
            Err(grave) => return grave.is_some(),
        }
        tokio::task::yield_now().await;
    }
    false
}

/// Condemns as an observer does that believes the last renewal it saw to be old; then with proof that holds anyway.
async fn condemn_as_seen(store: Arc<dyn Store>, opened: Session) {
    let mut seen = opened;
    for _ in 0..20 {
        match condemn(&store, &seen, &Ground::Expired).await {
            Ending::Lives(session) => seen = session,
            Ending::Ended(_) => return,
            ended @ Ending::AlreadyEnded(_) => panic!("somebody else ended it: {ended:?}"),
        }
    }
    let confirmed = put(&store, "proof/a", "off").await.revision;
    let ground = Ground::Fenced {
        key: "proof/a".into(),
        confirmed,
    };
    assert!(matches!(condemn(&store, &seen, &ground).await, Ending::Ended(_)));
}

async fn open(store: &Arc<dyn Store>, agent: &str) -> Session {
    match session::open(&**store, &node(), &record(agent))
        .await
        .expect("the store answers")
    {
        Opened::Open(session) => session,
        other => panic!("the session is not ours: {other:?}"),
    }
}

async fn renew(store: &Arc<dyn Store>, session: &Session, lease: Millis) -> Result<Session, Option<Grave>> {
    match session::renew(&**store, session, lease)
        .await
        .expect("the store answers")
    {
        Renewal::Renewed(session) => Ok(session),
        Renewal::Fenced(grave) => Err(grave),
    }
}

async fn condemn(store: &Arc<dyn Store>, session: &Session, ground: &Ground) -> Ending {
    session::condemn(&**store, session, ground, "observer")
        .await
        .expect("the store answers")
}

fn node() -> NodeName {
    NodeName::new("a").expect("a good name")
}

fn record(agent: &str) -> Record {
    Record {
        machine: "m-1".into(),
        boot: "b-1".into(),
        agent: agent.into(),
        lease_ms: Millis(3000),
        kill_ms: Millis(300),
        renew_ms: Millis(200),
        protocol: 1,
        wall: None,
        seq: 1,
    }
}
