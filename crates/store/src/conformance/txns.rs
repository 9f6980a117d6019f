//! Keys, revisions, transactions.

use super::{carry_out, delete, entry, keys, put};
use crate::{Compare, Error, Invalid, KEY_BYTES_MAX, OPS_MAX, Op, Store, Txn, VALUE_BYTES_MAX};
use model::Revision;
use std::sync::Arc;

pub(super) async fn create_and_modified_revisions(store: Arc<dyn Store>) {
    let first = put(&store, "a", "1").await.revision;
    let found = entry(&store, "a").await.expect("it was written");
    assert_eq!((found.create, found.modified, found.version), (first, first, 1));

    let second = put(&store, "a", "2").await.revision;
    assert_eq!(second, Revision(first.0 + 1), "revisions have no gaps");
    let found = entry(&store, "a").await.expect("it was written");
    assert_eq!((found.create, found.modified, found.version), (first, second, 2));
    assert_eq!(found.value, b"2");
    assert_eq!(store.revision().await.expect("the revision is told"), second);
    assert_eq!(entry(&store, "b").await, None);
}

pub(super) async fn every_compare_is_exact(store: Arc<dyn Store>) {
    let create = put(&store, "a", "1").await.revision;
    let modified = put(&store, "a", "2").await.revision;
    let next = Revision(modified.0 + 1);
    for (compare, holds) in [
        (Compare::created("a", create), true),
        (Compare::created("a", modified), false),
        (Compare::absent("a"), false),
        (Compare::modified("a", modified), true),
        (Compare::modified("a", create), false),
        (Compare::modified("a", next), false),
        (Compare::modified("a", Revision(0)), false),
        (Compare::value("a", "2"), true),
        (Compare::value("a", "1"), false),
        (Compare::value("a", ""), false),
        (Compare::absent("b"), true),
        (Compare::modified("b", Revision(0)), true),
        (Compare::created("b", create), false),
        (Compare::value("b", ""), false),
    ] {
        let result = carry_out(&store, Txn::new().when(compare.clone())).await;
        assert_eq!(result.succeeded, holds, "{compare:?}");
        assert_eq!(result.revision, modified, "asking changes nothing");
    }
}

pub(super) async fn all_compares_must_hold(store: Arc<dyn Store>) {
    put(&store, "a", "1").await;
    let both = |b: Compare| {
        Txn::new()
            .when(Compare::value("a", "1"))
            .when(b)
            .then(Op::put("c", "x"))
    };
    assert!(!carry_out(&store, both(Compare::value("b", "1"))).await.succeeded);
    assert_eq!(entry(&store, "c").await, None);
    assert!(carry_out(&store, both(Compare::absent("b"))).await.succeeded);
    assert!(entry(&store, "c").await.is_some());
}

pub(super) async fn a_transaction_is_one_revision(store: Arc<dyn Store>) {
    let before = put(&store, "a", "1").await.revision;
    let txn = Txn::new()
        .then(Op::put("b", "1"))
        .then(Op::delete("a"))
        .then(Op::put("c", "1"));
    let result = carry_out(&store, txn).await;
    assert_eq!(result.revision, Revision(before.0 + 1));
    for key in ["b", "c"] {
        assert_eq!(
            entry(&store, key).await.expect("it was written").create,
            result.revision
        );
    }
    assert_eq!(entry(&store, "a").await, None);
}

pub(super) async fn either_branch_reads_as_it_goes(store: Arc<dyn Store>) {
    put(&store, "a", "old").await;
    let txn = |holds: bool| {
        Txn::new()
            .when(Compare::value("a", if holds { "old" } else { "other" }))
            .then(Op::get("a"))
            .then(Op::put("a", "new"))
            .then(Op::get("a"))
            .then(Op::get("b"))
            .otherwise(Op::get("b"))
            .otherwise(Op::get("a"))
    };
    let result = carry_out(&store, txn(false)).await;
    assert!(!result.succeeded);
    let values = |reads: Vec<Option<crate::Entry>>| -> Vec<Option<Vec<u8>>> {
        reads.into_iter().map(|read| read.map(|entry| entry.value)).collect()
    };
    assert_eq!(values(result.reads), [None, Some(b"old".to_vec())]);

    let result = carry_out(&store, txn(true)).await;
    assert!(result.succeeded);
    let written = result.reads[1].clone().expect("it was just written");
    assert_eq!(written.modified, result.revision);
    assert_eq!(
        values(result.reads),
        [Some(b"old".to_vec()), Some(b"new".to_vec()), None]
    );
}

pub(super) async fn what_changes_nothing_has_no_revision(store: Arc<dyn Store>) {
    let before = put(&store, "a", "1").await.revision;
    assert_eq!(delete(&store, "b").await.revision, before);
    assert_eq!(carry_out(&store, Txn::new().then(Op::get("a"))).await.revision, before);
    let twice = Txn::new().then(Op::delete("a")).then(Op::delete("a"));
    assert_eq!(carry_out(&store, twice).await.revision, Revision(before.0 + 1));
    // Writing the value that is there already is a change.
    put(&store, "c", "1").await;
    assert_eq!(put(&store, "c", "1").await.revision, Revision(before.0 + 3));
}

pub(super) async fn a_key_written_again_is_a_new_one(store: Arc<dyn Store>) {
    let first = put(&store, "a", "1").await.revision;
    delete(&store, "a").await;
    let again = put(&store, "a", "1").await.revision;
    let found = entry(&store, "a").await.expect("it was written");
    assert_eq!((found.create, found.modified, found.version), (again, again, 1));
    assert!(
        !carry_out(&store, Txn::new().when(Compare::created("a", first)))
            .await
            .succeeded
    );
}

pub(super) async fn values_are_bytes(store: Arc<dyn Store>) {
    let all: Vec<u8> = (0..=255).collect();
    for value in [Vec::new(), all, vec![0; 5], vec![b'x'; 100_000]] {
        put(&store, "a", value.clone()).await;
        assert_eq!(entry(&store, "a").await.expect("it was written").value, value);
        assert!(
            carry_out(&store, Txn::new().when(Compare::value("a", value)))
                .await
                .succeeded
        );
    }
}

pub(super) async fn bounds_are_kept(store: Arc<dyn Store>) {
    let before = store.revision().await.expect("the revision is told");
    let long = "k".repeat(KEY_BYTES_MAX + 1);
    let big = vec![0; VALUE_BYTES_MAX + 1];
    let many = |count: usize| -> Vec<Op> { (0..count).map(|n| Op::put(format!("k{n}"), "")).collect() };
    let half = vec![0; VALUE_BYTES_MAX];
    type Expected = fn(&Invalid) -> bool;
    let refused: [(Txn, Expected); 10] = [
        (Txn::new().then(Op::put("", "")), |e| matches!(e, Invalid::EmptyKey)),
        (Txn::new().when(Compare::absent(&long)), |e| {
            matches!(e, Invalid::KeyTooLong { .. })
        }),
        (Txn::new().otherwise(Op::get(&long)), |e| {
            matches!(e, Invalid::KeyTooLong { .. })
        }),
        (Txn::new().then(Op::put("a", big)), |e| {
            matches!(e, Invalid::ValueTooLong { .. })
        }),
        (
            Txn {
                then: many(OPS_MAX + 1),
                ..Txn::new()
            },
            |e| matches!(e, Invalid::TooMany { .. }),
        ),
        (
            Txn {
                compares: vec![Compare::absent("a"); OPS_MAX + 1],
                ..Txn::new()
            },
            |e| matches!(e, Invalid::TooMany { .. }),
        ),
        (
            Txn::new()
                .then(Op::put("a", half.clone()))
                .then(Op::put("b", half.clone())),
            |e| matches!(e, Invalid::TooLarge { .. }),
        ),
        (Txn::new().then(Op::put("a", "1")).then(Op::put("a", "2")), |e| {
            matches!(e, Invalid::WrittenTwice { .. })
        }),
        (Txn::new().then(Op::delete("a")).then(Op::put("a", "2")), |e| {
            matches!(e, Invalid::WrittenTwice { .. })
        }),
        (
            Txn::new().otherwise(Op::put("a", "1")).otherwise(Op::delete("a")),
            |e| matches!(e, Invalid::WrittenTwice { .. }),
        ),
    ];
    for (number, (txn, expected)) in refused.into_iter().enumerate() {
        match store.txn(txn).await {
            Err(Error::Invalid(invalid)) => assert!(expected(&invalid), "case {number}: {invalid}"),
            other => panic!("case {number} was not refused: {other:?}"),
        }
    }
    assert!(matches!(store.get("").await, Err(Error::Invalid(_))));
    assert_eq!(store.revision().await.expect("the revision is told"), before);

    let longest = "k".repeat(KEY_BYTES_MAX);
    put(&store, &longest, half).await;
    assert_eq!(
        entry(&store, &longest).await.expect("it was written").value.len(),
        VALUE_BYTES_MAX
    );
    carry_out(
        &store,
        Txn {
            then: many(OPS_MAX),
            ..Txn::new()
        },
    )
    .await;
    assert_eq!(keys(&store, "k").await.len(), OPS_MAX + 1);
}

pub(super) async fn prefixes_are_listed_in_order(store: Arc<dyn Store>) {
    for key in ["slot/b", "slot/a/1", "slot", "slot/a", "slou", "slot/é", "a", "slot0"] {
        put(&store, key, key).await;
    }
    assert_eq!(keys(&store, "slot/").await, ["slot/a", "slot/a/1", "slot/b", "slot/é"]);
    assert_eq!(keys(&store, "slot").await.len(), 6);
    assert_eq!(keys(&store, "nothing").await, [""; 0]);
    assert_eq!(keys(&store, "").await.len(), 8);
    let (entries, revision) = store.list("a").await.expect("a prefix is listed");
    assert_eq!(entries[0].value, b"a");
    assert_eq!(revision, store.revision().await.expect("the revision is told"));
}

/// A thousand increments by twenty tasks, each by compare-and-swap and by nothing else.
pub(super) async fn no_increment_is_lost(store: Arc<dyn Store>) {
    let before = put(&store, "count", "0").await.revision;
    let mut tasks = Vec::new();
    for _ in 0..20 {
        let store = Arc::clone(&store);
        tasks.push(tokio::spawn(async move {
            for _ in 0..50 {
                increment(&store).await;
            }
        }));
    }
    for task in tasks {
        task.await.expect("a task that increments ends well");
    }
    let count = entry(&store, "count").await.expect("it was written");
    assert_eq!(count.value, b"1000");
    assert_eq!(count.version, 1001);
    assert_eq!(
        count.modified,
        Revision(before.0 + 1000),
        "each increment is one revision"
    );
}

async fn increment(store: &Arc<dyn Store>) {
    let mut seen = entry(store, "count").await.expect("it was written");
    // Of those who try at once one succeeds, so twenty tasks need at most a thousand rounds.
    for _ in 0..10_000 {
        let count: u32 = String::from_utf8_lossy(&seen.value).parse().expect("it is a number");
        let txn = Txn::new()
            .when(Compare::modified("count", seen.modified))
            .then(Op::put("count", (count + 1).to_string()))
            .otherwise(Op::get("count"));
        let mut result = carry_out(store, txn).await;
        if result.succeeded {
            return;
        }
        seen = result.reads.remove(0).expect("it was written");
    }
    panic!("an increment was beaten ten thousand times");
}

pub(super) async fn only_one_of_many_claims_succeeds(store: Arc<dyn Store>) {
    let mut tasks = Vec::new();
    for claimant in 0..100 {
        let store = Arc::clone(&store);
        tasks.push(tokio::spawn(async move {
            let txn = Txn::new()
                .when(Compare::absent("slot"))
                .then(Op::put("slot", claimant.to_string()))
                .otherwise(Op::get("slot"));
            (claimant.to_string(), carry_out(&store, txn).await)
        }));
    }
    let mut winners = Vec::new();
    for task in tasks {
        let (claimant, result) = task.await.expect("a task that claims ends well");
        match result.succeeded {
            true => winners.push(claimant),
            false => assert!(result.reads[0].is_some(), "who loses sees who won"),
        }
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert_eq!(
        entry(&store, "slot").await.expect("it was claimed").value,
        winners[0].as_bytes()
    );
}
