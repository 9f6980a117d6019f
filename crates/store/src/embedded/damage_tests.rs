//! Files that are not what a store wrote: told, never touched, never a panic.

use super::ram::Ram;
use super::*;
use crate::Op;
use redb::{ReadableTable, TableDefinition};
use std::fs;

const OPTIONS: Options = Options {
    create: true,
    history: 1_000,
};

#[tokio::test]
async fn files_that_are_no_store_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let good = good_file(folder.path()).await;
    let mut cut: Vec<(String, Vec<u8>)> = Vec::new();
    for length in [
        1,
        8,
        9,
        100,
        511,
        4096,
        good.len() / 2,
        good.len() - 4096,
        good.len() - 1,
    ] {
        cut.push((format!("cut to {length}"), good[..length].to_vec()));
    }
    cut.push(("empty".into(), Vec::new()));
    cut.push(("zeros".into(), vec![0; 100_000]));
    cut.push(("text".into(), b"[service.db]\ncommand = [\"redis-server\"]\n".to_vec()));
    let mut random = fastrand::Rng::with_seed(1);
    cut.push(("noise".into(), (0..50_000).map(|_| random.u8(..)).collect()));
    let mut noise_after_magic = good.clone();
    noise_after_magic[9..].fill_with(|| random.u8(..));
    cut.push(("noise after the magic number".into(), noise_after_magic));
    for (what, content) in cut {
        let path = folder.path().join("damaged.redb");
        fs::write(&path, &content).unwrap();
        let error = Embedded::open(&path, &OPTIONS).expect_err(&what);
        assert!(matches!(error, FileError::Damaged { .. }), "{what}: {error}");
        assert!(error.hint().contains("backup"), "{what}");
        assert!(fs::read(&path).unwrap() == content, "{what}: the file was touched");
    }
}

/// Wherever a bit flips: either it is told, or it did not matter.
#[tokio::test]
async fn flipped_bits_are_told_or_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let good = good_file(folder.path()).await;
    let on = |content: &[u8]| {
        let ram = Ram::with_content(content.to_vec());
        (Embedded::on(Box::new(ram.clone()), &OPTIONS), ram)
    };
    let expected = on(&good).0.unwrap().list("").await.unwrap();
    let mut random = fastrand::Rng::with_seed(2);
    // Every byte of the header that redb reads first, then anywhere.
    let places: Vec<usize> = (0..320)
        .chain((0..400).map(|_| random.usize(320..good.len())))
        .collect();
    let mut told = 0;
    for at in places {
        let mut content = good.clone();
        content[at] ^= 1 << random.u32(..8);
        let (opened, ram) = on(&content);
        match opened {
            Ok(store) => assert!(
                store.list("").await.unwrap() == expected,
                "byte {at}: other content, and not told"
            ),
            Err(FileError::Damaged { .. }) => {
                told += 1;
                assert!(ram.lock().seen == content, "byte {at}: the file was touched");
            }
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
    assert!(told > 100, "{told} told");
}

/// A file that redb finds nothing wrong with.
#[tokio::test]
async fn content_that_contradicts_itself_is_told() {
    const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
    const ENTRIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("entries");
    const HISTORY: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("history");
    type Harm = fn(&redb::WriteTransaction);
    let harms: [(&str, &str, Harm); 8] = [
        ("a wrong byte in a value", "checksum", |txn| {
            let mut table = txn.open_table(ENTRIES).unwrap();
            let mut bytes = table.get("k/1").unwrap().unwrap().value().to_vec();
            *bytes.last_mut().unwrap() ^= 1;
            table.insert("k/1", bytes.as_slice()).unwrap();
        }),
        ("an entry under another key", "checksum", |txn| {
            let mut table = txn.open_table(ENTRIES).unwrap();
            let bytes = table.get("k/1").unwrap().unwrap().value().to_vec();
            table.insert("k/2", bytes.as_slice()).unwrap();
        }),
        ("a lost entry", "written last", |txn| {
            txn.open_table(ENTRIES).unwrap().remove("k/3").unwrap();
        }),
        ("a lost change", "gap", |txn| {
            txn.open_table(HISTORY).unwrap().remove((4, 0)).unwrap();
        }),
        ("a lost latest change", "written last", |txn| {
            let mut table = txn.open_table(HISTORY).unwrap();
            let last = table.last().unwrap().unwrap().0.value();
            table.remove(last).unwrap();
        }),
        ("a lost table", "history", |txn| {
            txn.delete_table(HISTORY).unwrap();
        }),
        ("no format", "format", |txn| {
            txn.open_table(META).unwrap().remove("format").unwrap();
        }),
        ("an unknown format", "format 0", |txn| {
            txn.open_table(META).unwrap().insert("format", 0).unwrap();
        }),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let good = good_file(folder.path()).await;
    for (what, expected, harm) in harms {
        fs::write(&path, &good).unwrap();
        change(&path, harm);
        match Embedded::open(&path, &OPTIONS) {
            Err(error @ FileError::Damaged { .. }) => assert!(error.to_string().contains(expected), "{what}: {error}"),
            other => panic!("{what}: {other:?}"),
        }
    }

    fs::write(&path, &good).unwrap();
    change(&path, |txn| {
        txn.open_table(META).unwrap().insert("format", 2).unwrap();
    });
    let newer = Embedded::open(&path, &OPTIONS).unwrap_err();
    assert!(
        matches!(newer, FileError::NewerFormat { found: 2, known: 1, .. }),
        "{newer}"
    );

    fs::remove_file(&path).unwrap();
    drop(redb::Database::create(&path).unwrap());
    let foreign = Embedded::open(&path, &OPTIONS).unwrap_err();
    assert!(matches!(foreign, FileError::Damaged { .. }), "{foreign}");
}

fn change(path: &Path, harm: fn(&redb::WriteTransaction)) {
    let database = redb::Database::open(path).unwrap();
    let txn = database.begin_write().unwrap();
    harm(&txn);
    txn.commit().unwrap();
}

/// Makes `store.redb` in the folder and returns its content.
async fn good_file(folder: &Path) -> Vec<u8> {
    let path = folder.join("store.redb");
    let store = Embedded::open(&path, &OPTIONS).unwrap();
    for n in 0..40 {
        let txn = Txn::new().then(Op::put(format!("k/{}", n % 12), vec![n; 40 * usize::from(n)]));
        store.txn(txn).await.unwrap();
    }
    drop(store);
    fs::read(&path).unwrap()
}
