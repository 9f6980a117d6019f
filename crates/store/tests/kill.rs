//! kill -9 at any moment: what was acknowledged is there, nothing is half there.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use store::{Embedded, Options, Store};

const KILLS: u32 = 40;

#[tokio::test]
async fn a_killed_store_has_all_that_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let mut random = fastrand::Rng::with_seed(40);
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    let mut revision = 0;
    for kill in 0..KILLS {
        let told = count_until_killed(&path, Duration::from_micros(random.u64(0..25_000)));
        assert!(!told.is_empty(), "kill {kill}: it never got to write");
        acknowledged.extend(told);

        let store = Embedded::open(
            &path,
            &Options {
                create: false,
                history: 200,
            },
        )
        .unwrap_or_else(|error| panic!("kill {kill}: {error}"));
        for (writer, at_least) in &mut acknowledged {
            let left = number(&store, &format!("left/{writer}")).await;
            let right = number(&store, &format!("right/{writer}")).await;
            assert_eq!(left, right, "kill {kill}: half a transaction of writer {writer}");
            // One more may have been written than it lived to tell; the next run continues above it.
            assert!(
                (*at_least..=*at_least + 1).contains(&left),
                "kill {kill}: told {at_least}, found {left}"
            );
            *at_least = left;
        }
        let now = store.revision().await.unwrap().0;
        assert!(now > revision, "kill {kill}: from revision {revision} to {now}");
        revision = now;
    }
    assert!(revision > u64::from(KILLS) * 3, "{revision} revisions");
}

/// Lets the counter run until it told its first number and `longer`, kills it, and returns the last number of each
/// writer that it told.
fn count_until_killed(path: &Path, longer: Duration) -> BTreeMap<String, u64> {
    let mut child = Command::new(counter())
        .arg(path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next();
    std::thread::sleep(longer);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9),
        "it ended by itself: {status}"
    );
    first
        .into_iter()
        .chain(lines)
        .map(|line| told(&line.unwrap()))
        .collect()
}

fn told(line: &str) -> (String, u64) {
    let (writer, number) = line.split_once(' ').unwrap();
    (writer.into(), number.parse().unwrap())
}

async fn number(store: &Embedded, key: &str) -> u64 {
    let entry = store.get(key).await.unwrap().unwrap_or_else(|| panic!("{key} is gone"));
    String::from_utf8(entry.value).unwrap().trim().parse().unwrap()
}

/// The example beside this test's own program.
fn counter() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.ancestors().nth(2).unwrap().join("examples/commit_counter");
    assert!(
        path.exists(),
        "`{}` is missing: cargo build --examples makes it",
        path.display()
    );
    path
}
