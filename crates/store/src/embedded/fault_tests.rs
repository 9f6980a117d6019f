//! A disk that fails: at every single operation, for good, or for lack of room.

use super::ram::{Fault, Ram};
use super::*;
use crate::Op;
use std::collections::BTreeSet;

const KEYS: u32 = 4;

/// Whatever operation fails once, no acknowledged write is lost, none that was refused is there, and the store goes on.
#[tokio::test]
async fn any_single_failure_is_survived() {
    let mut refused = 0;
    for at in 0..operations_of_the_workload().await {
        let ram = Ram::with_store();
        ram.lock().fault = Some(Fault::Once(at));
        ram.lock().operations = 0;
        let Ok(store) = Embedded::on(Box::new(ram.clone()), &Options::default()) else {
            // It failed while it was opened. It can be opened again.
            Embedded::on(Box::new(ram), &Options::default()).unwrap();
            continue;
        };
        let mut acknowledged = BTreeSet::new();
        for key in 0..KEYS {
            match store.txn(write(key)).await {
                Ok(_) => {
                    acknowledged.insert(format!("k/{key}"));
                }
                Err(Error::File(FileError::Io { .. })) => refused += 1,
                Err(error) => panic!("operation {at}, write {key}: {error}"),
            }
        }
        assert!(
            acknowledged.len() as u32 >= KEYS - 1,
            "operation {at}: one failure, one refusal at most"
        );
        assert_eq!(keys(&store).await, acknowledged, "operation {at}");
        drop(store);
        let store = Embedded::on(Box::new(ram.after_power_cut()), &Options::default())
            .unwrap_or_else(|error| panic!("operation {at}: {error}"));
        assert_eq!(keys(&store).await, acknowledged, "operation {at}, after a power cut");
    }
    assert!(refused > 0, "no fault was hit");
}

/// When the disk fails for good, nobody is told what may not be so; when it is back, the store is.
#[tokio::test]
async fn a_disk_that_fails_for_good_leaves_nobody_guessing() {
    let (mut unknown, mut refused) = (0, 0);
    for at in 0..operations_of_the_workload().await {
        let ram = Ram::with_store();
        ram.lock().operations = 0;
        ram.lock().fault = Some(Fault::From(at));
        let Ok(store) = Embedded::on(Box::new(ram.clone()), &Options::default()) else {
            continue;
        };
        let mut acknowledged = BTreeSet::new();
        let mut maybe = BTreeSet::new();
        for key in 0..KEYS {
            match store.txn(write(key)).await {
                Ok(_) => {
                    acknowledged.insert(format!("k/{key}"));
                }
                Err(Error::Unknown { .. }) => {
                    unknown += 1;
                    maybe.insert(format!("k/{key}"));
                    assert!(
                        matches!(store.get("k/0").await, Err(Error::Unsettled { .. })),
                        "a guess was told"
                    );
                }
                Err(Error::File(_) | Error::Unsettled { .. }) => refused += 1,
                Err(error) => panic!("operation {at}, write {key}: {error}"),
            }
        }
        ram.lock().fault = None;
        let told = keys(&store).await;
        assert!(
            acknowledged.is_subset(&told),
            "operation {at}: {acknowledged:?} but {told:?}"
        );
        assert!(told.is_subset(&(&acknowledged | &maybe)), "operation {at}: {told:?}");
        store.txn(Txn::new().then(Op::put("k/later", ""))).await.unwrap();
        let told = keys(&store).await;
        drop(store);
        let store = Embedded::on(Box::new(ram.after_power_cut()), &Options::default()).unwrap();
        assert_eq!(keys(&store).await, told, "operation {at}, after a power cut");
    }
    assert!(unknown > 0 && refused > 0, "{unknown} unknown, {refused} refused");
}

#[tokio::test]
async fn a_full_disk_refuses_what_is_too_large_and_nothing_else() {
    let ram = Ram::with_store();
    let store = Embedded::on(Box::new(ram.clone()), &Options::default()).unwrap();
    for key in 0..KEYS {
        store.txn(write(key)).await.unwrap();
    }
    {
        let mut inner = ram.lock();
        inner.room = Some(inner.seen.len() as u64);
    }

    // Together in one commit: the large one fails, its neighbours do not.
    let (before, large, after) = tokio::join!(
        store.txn(Txn::new().then(Op::put("before", ""))),
        store.txn(Txn::new().then(Op::put("large", vec![1; 1 << 20]))),
        store.txn(Txn::new().then(Op::put("after", ""))),
    );
    before.unwrap();
    after.unwrap();
    let error = large.unwrap_err();
    assert!(matches!(error, Error::File(FileError::DiskFull { .. })), "{error}");
    assert!(error.hint().unwrap().contains("make room"));
    assert_eq!(keys(&store).await.len(), KEYS as usize + 2);

    ram.lock().room = None;
    store
        .txn(Txn::new().then(Op::put("large", vec![1; 1 << 20])))
        .await
        .unwrap();
    drop(store);
    let store = Embedded::on(Box::new(ram.after_power_cut()), &Options::default()).unwrap();
    assert_eq!(store.get("large").await.unwrap().unwrap().value.len(), 1 << 20);
}

async fn operations_of_the_workload() -> u32 {
    let ram = Ram::with_store();
    ram.lock().operations = 0;
    let store = Embedded::on(Box::new(ram.clone()), &Options::default()).unwrap();
    for key in 0..KEYS {
        store.txn(write(key)).await.unwrap();
    }
    drop(store);
    ram.lock().operations
}

fn write(key: u32) -> Txn {
    // Large enough that the file has to grow.
    Txn::new().then(Op::put(format!("k/{key}"), vec![key as u8; 9_000]))
}

async fn keys(store: &Embedded) -> BTreeSet<String> {
    let (entries, _) = store.list("").await.unwrap();
    entries.into_iter().map(|entry| entry.key).collect()
}
