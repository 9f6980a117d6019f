//! Logs under a service that writes as fast as it can.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use drivers::logs::{Follower, Rotator, tail};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const LINES: usize = 60_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_line_is_lost_or_doubled_while_the_writer_writes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web-1.log");
    let rotator = Rotator {
        max_bytes: 100_000,
        keep: 1000,
    };
    let mut follower = Follower::new(&path, rotator.keep, 10).unwrap();
    let following = tokio::spawn(async move {
        for n in 0..LINES {
            let line = tokio::time::timeout(Duration::from_secs(15), follower.next())
                .await
                .unwrap()
                .unwrap();
            assert_eq!(line, numbered(n));
        }
    });
    let mut writer = writer(&path);
    let (mut rotations, mut lossless) = (0, true);
    while writer.try_wait().unwrap().is_none() {
        if let Some(rotated) = rotator.check(&path).unwrap() {
            rotations += 1;
            assert!(rotated.kept);
            lossless &= rotated.lossless;
        }
        tokio::task::yield_now().await;
    }
    assert!(rotations >= 5, "{rotations} rotations");
    assert!(fs::metadata(&path).unwrap().len() <= 100_000 + 4096 || rotator.check(&path).unwrap().is_some());
    if !lossless {
        eprintln!("this file system cannot cut off the front of a file: a few lines may be lost");
        following.abort();
        return;
    }
    let lines = tail(&path, rotator.keep, LINES * 2).unwrap();
    assert_eq!(lines.len(), LINES);
    assert!(lines.into_iter().enumerate().all(|(n, line)| line == numbered(n)));
    following.await.unwrap();
}

#[test]
fn only_so_many_files_are_kept_and_the_live_one_stays_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web-1.log");
    let mut live = OpenOptions::new().append(true).create(true).open(&path).unwrap();
    let rotator = Rotator {
        max_bytes: 20_000,
        keep: 2,
    };
    let mut n = 0;
    for _ in 0..5 {
        assert_eq!(rotator.check(&path).unwrap(), None, "small enough");
        while live.metadata().unwrap().len() <= 20_000 {
            writeln!(live, "{}", numbered(n)).unwrap();
            n += 1;
        }
        let rotated = rotator.check(&path).unwrap().unwrap();
        assert!(rotated.kept && rotated.bytes > 15_000, "{rotated:?}");
        assert!(live.metadata().unwrap().len() < 5000);
    }
    assert_eq!(
        files(dir.path()),
        [".web-1.log.cut", "web-1.log", "web-1.log.1", "web-1.log.2"]
    );
    writeln!(live, "last").unwrap();
    let lines = tail(&path, 2, 3).unwrap();
    assert_eq!(lines, [numbered(n - 2), numbered(n - 1), "last".into()]);
    let all = tail(&path, 2, usize::MAX).unwrap();
    assert!(all.len() > 600 && all.len() < n, "{} of {n}", all.len());
    let newest = n - (all.len() - 2);
    assert!(
        all[1..all.len() - 1]
            .iter()
            .enumerate()
            .all(|(i, line)| *line == numbered(newest + i)),
        "one after the other"
    );

    // Fewer from now on.
    (0..2000).for_each(|n| writeln!(live, "{}", numbered(n)).unwrap());
    let rotated = Rotator { keep: 1, ..rotator }.check(&path).unwrap().unwrap();
    assert!(rotated.kept);
    assert_eq!(files(dir.path()), [".web-1.log.cut", "web-1.log", "web-1.log.1"]);
    (0..2000).for_each(|n| writeln!(live, "{}", numbered(n)).unwrap());
    let rotated = Rotator { keep: 0, ..rotator }.check(&path).unwrap().unwrap();
    assert!(!rotated.kept && live.metadata().unwrap().len() == 0);
}

#[test]
fn a_file_system_that_cannot_cut_is_served_by_a_copy() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("web-1.log");
    let rotator = Rotator {
        max_bytes: 10_000,
        keep: 3,
    };
    for round in 0..3 {
        let mut live = OpenOptions::new().append(true).create(true).open(&path).unwrap();
        (0..1000).for_each(|n| writeln!(live, "{}", numbered(round * 1000 + n)).unwrap());
        let rotated = rotator.check(&path).unwrap().unwrap();
        assert!(rotated.kept && !rotated.lossless, "{rotated:?}");
        assert_eq!((rotated.bytes, live.metadata().unwrap().len()), (24_000, 0));
    }
    let lines = tail(&path, 3, usize::MAX).unwrap();
    assert!(lines.len() == 3000 && lines.into_iter().enumerate().all(|(n, line)| line == numbered(n)));
}

#[test]
fn a_full_disk_costs_old_lines_and_not_the_bound() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "none"])
        .arg(dir.path())
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: not allowed to mount");
        return;
    }
    let path = dir.path().join("web-1.log");
    fs::write(&path, "x".repeat(40_000)).unwrap();
    let rotated = Rotator {
        max_bytes: 10_000,
        keep: 3,
    }
    .check(&path);
    let (size, names) = (fs::metadata(&path).unwrap().len(), files(dir.path()));
    assert!(Command::new("umount").arg(dir.path()).status().unwrap().success());
    assert!(!rotated.unwrap().unwrap().kept);
    assert_eq!(
        (size, names),
        (0, vec![".web-1.log.cut".to_owned(), "web-1.log".to_owned()])
    );
}

#[test]
fn what_cannot_be_rotated_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let rotator = Rotator { max_bytes: 10, keep: 1 };
    assert_eq!(rotator.check(&dir.path().join("none.log")).unwrap(), None);
    let error = rotator.check(dir.path()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "failed to open `{}`: Is a directory (os error 21)",
            dir.path().display()
        )
    );
}

#[tokio::test]
async fn a_follower_begins_with_the_last_lines_and_waits_for_whole_ones() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web-1.log");
    let mut early = Follower::new(&path, 2, 5).unwrap();
    let mut live = OpenOptions::new().append(true).create(true).open(&path).unwrap();
    live.write_all(b"one\ntwo\nthree\nfo").unwrap();
    let mut follower = Follower::new(&path, 2, 3).unwrap();
    assert_eq!([next(&mut follower).await, next(&mut follower).await], ["two", "three"]);
    let waiting = tokio::time::timeout(Duration::from_millis(150), follower.next()).await;
    assert!(waiting.is_err(), "half a line is none yet");
    live.write_all(b"ur\nfi\xffve\n").unwrap();
    assert_eq!(
        [next(&mut follower).await, next(&mut follower).await],
        ["four", "fi\u{fffd}ve"]
    );
    assert_eq!([next(&mut early).await, next(&mut early).await], ["one", "two"]);
    live.write_all(&[&[b'x'; 50_000], &b"\nafter\n"[..]].concat()).unwrap();
    let long = next(&mut follower).await;
    assert!(long.ends_with("cut at 16 KiB]") && long.len() < 17_000);
    assert_eq!(next(&mut follower).await, "after");
}

#[tokio::test]
async fn a_follower_that_comes_too_late_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web-1.log");
    let mut live = OpenOptions::new().append(true).create(true).open(&path).unwrap();
    let rotator = Rotator {
        max_bytes: 10_000,
        keep: 1,
    };
    let mut fill = |from: usize| {
        (from..from + 1000).for_each(|n| writeln!(live, "{}", numbered(n)).unwrap());
        rotator.check(&path).unwrap().unwrap();
    };
    fill(0);
    let mut follower = Follower::new(&path, 1, 1).unwrap();
    assert_eq!(next(&mut follower).await, numbered(999));
    fill(1000);
    assert_eq!(next(&mut follower).await, numbered(1000), "one rotation loses nothing");
    fill(2000);
    fill(3000);
    // What it had taken in by then, and no more.
    let mut expected = 1001;
    let mut line = next(&mut follower).await;
    while line == numbered(expected) {
        expected += 1;
        line = next(&mut follower).await;
    }
    assert!(
        expected < 3000 && line.contains("rotated away"),
        "{line} after {expected}"
    );
    let mut last = String::new();
    while last != numbered(3999) {
        last = next(&mut follower).await;
    }
}

async fn next(follower: &mut Follower) -> String {
    tokio::time::timeout(Duration::from_secs(10), follower.next())
        .await
        .unwrap()
        .unwrap()
}

/// 24 bytes with its newline.
fn numbered(n: usize) -> String {
    format!("line {n:018}")
}

/// A service that writes [`LINES`] lines, each by a call of its own.
fn writer(path: &Path) -> Child {
    let log = OpenOptions::new().append(true).create(true).open(path).unwrap();
    let script = format!("import os\nfor n in range({LINES}): os.write(1, b'line %018d\\n' % n)");
    Command::new("python3")
        .args(["-c", &script])
        .stdin(Stdio::null())
        .stdout(log)
        .spawn()
        .unwrap()
}

fn files(dir: &Path) -> Vec<String> {
    let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| name(entry.unwrap().path()))
        .collect();
    names.sort();
    names
}
