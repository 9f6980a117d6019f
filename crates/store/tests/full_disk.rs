//! Real file systems that are full or read-only. Mounts small ones, so it needs root.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::process::Command;
use store::{Embedded, Error, FileError, Op, Options, Store, Txn};

#[tokio::test]
async fn a_full_disk_is_told_and_survived() {
    let disk = Mounted::new("size=1m");
    let path = disk.path().join("store.redb");
    let store = Embedded::open(&path, &Options::default()).unwrap();
    put(&store, "before", 10).await.unwrap();
    let ballast = disk.path().join("ballast");
    // To the last byte: what `write` could take it has written when it fails.
    std::fs::write(&ballast, vec![1; 2 << 20]).unwrap_err();

    let mut refused = 0;
    for n in 0..20 {
        match put(&store, &format!("k/{n}"), 20_000).await {
            Ok(()) => {}
            Err(Error::File(FileError::DiskFull { .. })) => refused += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(refused > 0, "the disk was not full");
    assert_eq!(
        store.get("before").await.unwrap().unwrap().value.len(),
        10,
        "it can still be read"
    );
    let told = store.list("").await.unwrap();
    drop(store);

    // Opened while full: it can be read.
    let store = Embedded::open(&path, &Options::default()).unwrap();
    assert_eq!(store.list("").await.unwrap(), told);
    std::fs::remove_file(&ballast).unwrap();
    put(&store, "after", 20_000).await.unwrap();
    drop(store);
    let store = Embedded::open(&path, &Options::default()).unwrap();
    assert_eq!(store.list("").await.unwrap().0.len(), told.0.len() + 1);
}

#[test]
fn no_room_for_a_new_store_is_told() {
    let disk = Mounted::new("size=64k");
    std::fs::write(disk.path().join("ballast"), vec![1; 1 << 20]).unwrap_err();
    let path = disk.path().join("store.redb");
    let error = Embedded::open(&path, &Options::default()).unwrap_err();
    assert!(matches!(error, FileError::DiskFull { .. }), "{error:?}");
    assert!(!path.exists(), "half a store was left behind");
}

#[test]
fn a_read_only_disk_is_told() {
    let disk = Mounted::new("size=1m");
    let path = disk.path().join("store.redb");
    drop(Embedded::open(&path, &Options::default()).unwrap());
    run("mount", &["-o", "remount,ro", disk.path().to_str().unwrap()]);
    let error = Embedded::open(&path, &Options::default()).unwrap_err();
    assert!(matches!(error, FileError::ReadOnly { .. }), "{error:?}");
}

async fn put(store: &Embedded, key: &str, bytes: usize) -> Result<(), Error> {
    store.txn(Txn::new().then(Op::put(key, vec![7; bytes]))).await.map(drop)
}

/// A small file system in memory.
struct Mounted {
    folder: tempfile::TempDir,
}

impl Mounted {
    fn new(options: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().to_str().unwrap();
        run("mount", &["-t", "tmpfs", "-o", options, "understudy-test", target]);
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a failed test may still have files open.
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "this test mounts a file system, which needs root: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
