//! Watches: everything, in order, once.

use super::{carry_out, delete, entry, put};
use crate::{Change, Changes, Error, Op, Store, Txn, Watch};
use model::Revision;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// Far longer than any store needs, so that a lost change fails the suite rather than hangs it.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn tell_the_past(store: Arc<dyn Store>) {
    let first = put(&store, "a", "1").await.revision;
    let txn = Txn::new()
        .then(Op::put("b", "1"))
        .then(Op::put("c", "1"))
        .then(Op::delete("a"));
    let second = carry_out(&store, txn).await.revision;
    let third = delete(&store, "b").await.revision;

    let mut watch = watch(&store, "", first).await;
    let told = next(&mut watch).await;
    assert_eq!((told.revision, summary(&told)), (first, vec!["a=1".into()]));
    let told = next(&mut watch).await;
    assert_eq!(
        (told.revision, summary(&told)),
        (second, vec!["b=1".into(), "c=1".into(), "a gone".into()]),
        "a transaction is told as one"
    );
    let told = next(&mut watch).await;
    assert_eq!((told.revision, summary(&told)), (third, vec!["b gone".into()]));

    let mut later = self::watch(&store, "", third).await;
    assert_eq!(next(&mut later).await.revision, third);
    assert_eq!(
        next(&mut self::watch(&store, "", Revision(0)).await).await.revision,
        first
    );
}

pub(super) async fn tell_each_revision_once_while_many_write(store: Arc<dyn Store>) {
    // In all no more than every store keeps.
    const EACH: usize = super::HISTORY_MIN / 8;
    let from = Revision(store.revision().await.expect("the revision is told").0 + 1);
    let mut early = watch(&store, "n/", from).await;
    let mut tasks = Vec::new();
    for writer in 0..8 {
        let store = Arc::clone(&store);
        tasks.push(tokio::spawn(async move {
            let mut revisions = Vec::new();
            for n in 0..EACH {
                let key = format!("n/{writer}");
                revisions.push((put(&store, &key, n.to_string()).await.revision, format!("{key}={n}")));
            }
            revisions
        }));
    }
    // Set while they write: it still has to tell all from the beginning.
    let mut late = watch(&store, "n/", from).await;
    let mut seen = Vec::new();
    for _ in 0..8 * EACH {
        let told = next(&mut early).await;
        seen.push((told.revision, summary(&told).concat()));
    }
    let mut written = Vec::new();
    for task in tasks {
        written.extend(task.await.expect("a task that writes ends well"));
    }
    written.sort();
    assert_eq!(seen, written, "in the order of revisions, none lost, none twice");
    for expected in &written {
        let told = next(&mut late).await;
        assert_eq!((told.revision, summary(&told).concat()), *expected);
    }
}

pub(super) async fn tell_only_their_prefix(store: Arc<dyn Store>) {
    let from = put(&store, "slot/a", "1").await.revision;
    put(&store, "slou", "1").await;
    let txn = Txn::new().then(Op::put("slot/b", "1")).then(Op::put("inst/b", "1"));
    let mixed = carry_out(&store, txn).await.revision;
    put(&store, "slot", "1").await;
    let last = delete(&store, "slot/a").await.revision;

    let mut watch = watch(&store, "slot/", from).await;
    let told = [next(&mut watch).await, next(&mut watch).await, next(&mut watch).await];
    assert_eq!(told.each_ref().map(|told| told.revision), [from, mixed, last]);
    assert_eq!(
        told.each_ref().map(|told| summary(told).concat()),
        ["slot/a=1", "slot/b=1", "slot/a gone"]
    );
}

pub(super) async fn tell_only_their_range(store: Arc<dyn Store>) {
    let from = put(&store, "rest", "1").await.revision;
    put(&store, "session/a", "1").await;
    let txn = Txn::new()
        .then(Op::put("session/b", "1"))
        .then(Op::put("slot/b", "1"))
        .then(Op::put("inst/b", "1"));
    let mixed = carry_out(&store, txn).await.revision;
    put(&store, "session/a", "2").await;
    put(&store, "session/aa", "1").await;
    let last = delete(&store, "slot/b").await.revision;

    let told = |first: &'static str, end: &'static str, revisions: Vec<Revision>| {
        let store = Arc::clone(&store);
        async move {
            let watch = store.watch_range(first, end, from).await;
            let mut watch = watch.expect("the past is kept");
            let mut all = Vec::new();
            for revision in revisions {
                let told = next(&mut watch).await;
                assert_eq!(told.revision, revision, "{first} to {end}");
                all.push(summary(&told).concat());
            }
            all
        }
    };
    assert_eq!(told("", "session/", vec![from, mixed]).await, ["rest=1", "inst/b=1"]);
    assert_eq!(
        told("session0", "", vec![mixed, last]).await,
        ["slot/b=1", "slot/b gone"]
    );
    let renewals = vec![Revision(from.0 + 1), Revision(mixed.0 + 1)];
    let one = told("session/a", "session/a\0", renewals).await;
    assert_eq!(one, ["session/a=1", "session/a=2"], "one key alone");
}

pub(super) async fn may_be_dropped_half_way(store: Arc<dyn Store>) {
    let from = put(&store, "a", "0").await.revision;
    let mut watch = watch(&store, "a", Revision(from.0 + 1)).await;
    for n in 1..20 {
        // Polled once, then dropped: nothing may be lost with it.
        let mut waiting = Box::pin(watch.next());
        let polled =
            std::future::poll_fn(|context| std::task::Poll::Ready(waiting.as_mut().poll(context).is_pending()));
        assert!(polled.await, "there is nothing to tell yet");
        drop(waiting);
        put(&store, "a", n.to_string()).await;
        assert_eq!(summary(&next(&mut watch).await), [format!("a={n}")]);
    }
}

pub(super) async fn may_be_set_on_the_future(store: Arc<dyn Store>) {
    let now = put(&store, "a", "0").await.revision;
    let mut watch = watch(&store, "", Revision(now.0 + 3)).await;
    for n in 1..=3 {
        put(&store, "a", n.to_string()).await;
    }
    assert_eq!(summary(&next(&mut watch).await), ["a=3"]);
}

pub(super) async fn say_when_history_is_gone(store: Arc<dyn Store>, history: usize, forget: &super::Forget) {
    let first = put(&store, "a", "0").await.revision;
    let mut slow = watch(&store, "a", first).await;
    for n in 1..history * 3 {
        put(&store, "a", n.to_string()).await;
    }
    let last = store.revision().await.expect("the revision is told");
    forget(Revision(last.0 + 1 - history as u64)).await;

    let refused = store.watch("a", first).await;
    let Err(Error::Compacted { oldest }) = refused else {
        panic!("a watch from the past was not refused: {refused:?}");
    };
    assert!(
        last.0 - oldest.0 + 1 >= history as u64,
        "{} revisions are kept",
        last.0 - oldest.0 + 1
    );
    tells_all_or_says_that_it_cannot(&mut slow, first, last).await;
    assert_eq!(next(&mut watch(&store, "a", oldest).await).await.revision, oldest);
    assert_eq!(
        entry(&store, "a").await.expect("it was written").create,
        first,
        "entries do not age"
    );
}

/// A store on the other side of a network has sent a slow watch some of what is gone since; a gap it may not leave.
async fn tells_all_or_says_that_it_cannot(slow: &mut Watch, first: Revision, last: Revision) {
    for expected in first.0..=last.0 {
        let told = tokio::time::timeout(PATIENCE, slow.next())
            .await
            .expect("a change is told in time");
        match told {
            Ok(told) => assert_eq!(
                told.revision.0, expected,
                "a slow watch lost something and did not say so"
            ),
            Err(Error::Compacted { .. }) => {
                let again = slow.next().await;
                return assert!(
                    matches!(again, Err(Error::Compacted { .. })),
                    "it cannot go on: {again:?}"
                );
            }
            Err(error) => panic!("a slow watch ended otherwise: {error}"),
        }
    }
}

async fn watch(store: &Arc<dyn Store>, prefix: &str, from: Revision) -> Watch {
    store.watch(prefix, from).await.expect("the past is kept")
}

async fn next(watch: &mut Watch) -> Changes {
    tokio::time::timeout(PATIENCE, watch.next())
        .await
        .expect("a change is told in time")
        .expect("the watch goes on")
}

fn summary(told: &Changes) -> Vec<String> {
    told.changes
        .iter()
        .map(|change| match change {
            Change::Put(entry) => {
                assert_eq!(entry.modified, told.revision);
                format!("{}={}", entry.key, String::from_utf8_lossy(&entry.value))
            }
            Change::Delete { key } => format!("{key} gone"),
        })
        .collect()
}
