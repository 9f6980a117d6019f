//! The embedded store as its users see it.

use super::*;
use crate::{Compare, Op, conformance};
use std::sync::atomic::{AtomicU32, Ordering};

#[tokio::test]
async fn conforms() {
    let folder = tempfile::tempdir().unwrap();
    let count = AtomicU32::new(0);
    let path = folder.path().to_owned();
    let options = Options {
        history: 200,
        ..Options::default()
    };
    conformance::check(conformance::Subject::new(200, move || {
        let name = format!("{}.redb", count.fetch_add(1, Ordering::Relaxed));
        Arc::new(Embedded::open(&path.join(name), &options).unwrap())
    }))
    .await;
}

#[tokio::test]
async fn everything_is_there_again_after_closing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let options = Options {
        history: 30,
        ..Options::default()
    };
    let mut before = None;
    // Beyond the history, so that trimmed and untrimmed stores are opened again.
    for round in 0..5u32 {
        let store = Embedded::open(&path, &options).unwrap();
        if let Some((entries, revision, oldest)) = before.take() {
            assert_eq!(store.list("").await.unwrap(), (entries, revision));
            let mut watch = store.watch("", oldest).await.unwrap();
            for at in oldest.0.max(2)..=revision.0 {
                assert_eq!(watch.next().await.unwrap().revision, Revision(at));
            }
            if oldest.0 > 0 {
                let too_early = Revision(oldest.0 - 1);
                assert!(matches!(store.watch("", too_early).await, Err(Error::Compacted { .. })));
            }
        }
        for n in 0..12 {
            let txn = Txn::new()
                .then(Op::put(format!("k/{}", n % 5), format!("{round} {n}")))
                .then(Op::delete(format!("k/{}", (n + 1) % 5)));
            store.txn(txn).await.unwrap();
        }
        let (entries, revision) = store.list("").await.unwrap();
        before = Some((entries, revision, store.shared.read().state.oldest()));
    }
}

#[tokio::test]
async fn a_hundred_claims_at_once_share_their_fsyncs() {
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open(&folder.path().join("store.redb"), &Options::default()).unwrap();
    let mut waiting = Vec::new();
    for claimant in 0..100 {
        let txn = Txn::new()
            .when(Compare::absent("slot"))
            .then(Op::put("slot", claimant.to_string()));
        let txn = if claimant % 2 == 0 {
            txn
        } else {
            Txn::new().then(Op::put(claimant.to_string(), ""))
        };
        let (reply, answer) = oneshot::channel();
        store.queue.as_ref().unwrap().try_send(Request { txn, reply }).unwrap();
        waiting.push(answer);
    }
    let mut succeeded = 0;
    for answer in waiting {
        succeeded += u32::from(answer.await.unwrap().unwrap().succeeded);
    }
    assert_eq!(succeeded, 51, "one claim and all that claim nothing");
    // One while the first is alone in the queue, one for all that came meanwhile; a slow machine may split those.
    assert!((1..=5).contains(&store.commits()), "{} commits", store.commits());
}

#[test]
fn a_second_one_is_refused_and_told_by_whom() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = Embedded::open(&path, &Options::default()).unwrap();
    let error = Embedded::open(&path, &Options::default()).unwrap_err();
    assert!(
        matches!(error, FileError::InUse { pid: Some(pid), .. } if pid == std::process::id()),
        "{error}"
    );
    drop(store);
    Embedded::open(&path, &Options::default()).unwrap();
}

#[test]
fn it_is_its_owners_alone_also_where_a_version_of_before_made_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    drop(Embedded::open(&path, &Options::default()).unwrap());
    assert_eq!(mode(), 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    drop(Embedded::open(&path, &Options::default()).unwrap());
    assert_eq!(mode(), 0o600);
}

#[test]
fn what_is_not_there_is_made_only_if_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let options = Options {
        create: false,
        ..Options::default()
    };
    assert!(matches!(
        Embedded::open(&path, &options),
        Err(FileError::Missing { .. })
    ));
    assert!(!path.exists());
    drop(Embedded::open(&path, &Options::default()).unwrap());
    Embedded::open(&path, &options).unwrap();
    let nowhere = folder.path().join("no/store.redb");
    assert!(matches!(Embedded::open(&nowhere, &options), Err(FileError::Io { .. })));
}

#[tokio::test]
async fn a_backup_is_one_moment_and_opens_as_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Embedded::open(&folder.path().join("store.redb"), &Options::default()).unwrap());
    store
        .txn(Txn::new().then(Op::put("a", "0")).then(Op::put("b", "0")))
        .await
        .unwrap();
    let writer = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            for n in 1..200 {
                let txn = Txn::new()
                    .then(Op::put("a", n.to_string()))
                    .then(Op::put("b", n.to_string()));
                store.txn(txn).await.unwrap();
            }
        }
    });
    tokio::task::yield_now().await;
    for n in 0..5 {
        let to = folder.path().join(format!("backup-{n}.redb"));
        let revision = tokio::task::spawn_blocking({
            let (store, to) = (Arc::clone(&store), to.clone());
            move || store.backup(&to).unwrap()
        })
        .await
        .unwrap();
        assert!(matches!(store.backup(&to), Err(FileError::Exists { .. })));
        let copy = Embedded::open(
            &to,
            &Options {
                create: false,
                ..Options::default()
            },
        )
        .unwrap();
        assert_eq!(copy.revision().await.unwrap(), revision);
        let (entries, _) = copy.list("").await.unwrap();
        assert_eq!(entries[0].value, entries[1].value, "half a transaction");
        copy.watch("", Revision(0)).await.unwrap();
    }
    writer.await.unwrap();
}

#[tokio::test]
async fn watches_end_when_the_store_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open(&folder.path().join("store.redb"), &Options::default()).unwrap();
    let mut watch = store.watch("", Revision(0)).await.unwrap();
    store.txn(Txn::new().then(Op::put("a", "0"))).await.unwrap();
    drop(store);
    assert_eq!(watch.next().await.unwrap().revision, Revision(2));
    assert!(matches!(watch.next().await, Err(Error::Closed)));
}
