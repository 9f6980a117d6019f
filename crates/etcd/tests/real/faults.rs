//! Members die, hang and forget while the store is in use.

use crate::relay::Relay;
use crate::rig::{Cluster, PATIENCE, Recipe, until};
use etcd::{Etcd, Options};
use model::Revision;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::{Change, Compare, Error, Op, Store, Txn, Watch};

#[tokio::test]
async fn writes_and_watches_go_on_when_the_leader_is_killed() {
    let mut cluster = Recipe::members(3).start();
    let store = cluster.store("p/").await;
    let leader = cluster.leader(store.client()).await;
    let writer = Writer::start(&store).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    cluster.kill(leader);
    let killed = Instant::now();
    writer.until_written_after(killed).await;
    let gap = writer.longest_gap();
    assert!(
        gap < Duration::from_secs(4),
        "an election takes one second, not {gap:?}"
    );
    cluster.start(leader);
    tokio::time::sleep(Duration::from_millis(300)).await;
    writer.judge().await;
}

#[tokio::test]
async fn writes_and_watches_go_on_when_the_leader_hangs_and_wakes() {
    let cluster = Recipe::members(3).start();
    let store = cluster.store("p/").await;
    let leader = cluster.leader(store.client()).await;
    let writer = Writer::start(&store).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    cluster.stop(leader);
    let stopped = Instant::now();
    writer.until_written_after(stopped).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.resume(leader);
    let resumed = Instant::now();
    writer.until_written_after(resumed).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let gap = writer.longest_gap();
    assert!(
        gap < Duration::from_secs(5),
        "an election takes one second, not {gap:?}"
    );
    writer.judge().await;
}

#[tokio::test]
async fn a_member_that_hangs_has_few_connections_to_go_through_when_it_goes_on() {
    let cluster = Recipe::members(1).start();
    let options = cluster
        .options()
        .deadlines(Duration::from_millis(200), Duration::from_millis(400));
    let store = Etcd::new(options).unwrap();
    until("it runs", async || store.txn(put("k", 0)).await.is_ok()).await;
    cluster.stop(0);
    let stopped = Instant::now();
    let mut asked = 0;
    while stopped.elapsed() < Duration::from_secs(5) {
        store.txn(put("k", 1)).await.unwrap_err();
        asked += 1;
    }
    let waiting = backlog(cluster.members[0].client.port());
    assert!(asked > 5, "{asked} answers in {:?}", stopped.elapsed());
    assert!(waiting <= 2, "{waiting} connections wait after {asked} tries");
    cluster.resume(0);
    let resumed = Instant::now();
    while store.txn(put("k", 2)).await.is_err() {
        assert!(resumed.elapsed() < PATIENCE);
    }
    assert!(resumed.elapsed() < Duration::from_secs(3), "{:?}", resumed.elapsed());
}

#[tokio::test]
async fn no_write_fails_when_a_follower_dies() {
    let mut cluster = Recipe::members(3).start();
    let store = cluster.store("p/").await;
    let leader = cluster.leader(store.client()).await;
    // The keeper finds out who leads within a moment.
    until("the leader is known", async || {
        store.revision().await.expect("all members run");
        store.client().endpoints()[leader].leads
    })
    .await;
    cluster.kill((leader + 1) % 3);
    for n in 0..200 {
        store.txn(put("a", n)).await.expect("a majority runs");
    }
    // That a connection ended is noticed without asking anything over it.
    until("the dead one is named", async || {
        store.client().endpoints()[(leader + 1) % 3].problem.is_some()
    })
    .await;
}

#[tokio::test]
async fn a_watch_that_slept_through_a_compaction_says_so() {
    let mut cluster = Recipe::members(3).start();
    let store = cluster.store("p/").await;
    let leader = cluster.leader(store.client()).await;
    let quiet = put_revision(&store, "quiet/a").await;
    let mut watch = store.watch("quiet/", quiet).await.expect("the past is kept");
    assert_eq!(next(&mut watch).await.0, quiet);

    for n in 0..50 {
        store.txn(put("loud", n)).await.expect("all members run");
    }
    let now = store.revision().await.expect("all members run");
    store.client().admin().compact(now, true).await.expect("it compacts");
    cluster.kill(leader);
    let told = tokio::time::timeout(PATIENCE, watch.next()).await.expect("it is told");
    assert!(
        matches!(told, Err(Error::Compacted { oldest }) if oldest == now),
        "{told:?}"
    );

    // List, and watch from there, as the hint says.
    until("there is a leader again", async || store.list("quiet/").await.is_ok()).await;
    let (entries, at) = store.list("quiet/").await.expect("a majority runs");
    assert_eq!(entries.len(), 1);
    let mut watch = store
        .watch("quiet/", Revision(at.0 + 1))
        .await
        .expect("the future is kept");
    let last = put_revision(&store, "quiet/b").await;
    assert_eq!(next(&mut watch).await.0, last);
}

#[tokio::test]
async fn a_quiet_watch_outlives_compactions_where_members_tell_how_far_they_are() {
    let flags = ["--experimental-watch-progress-notify-interval", "300ms"];
    let mut cluster = Recipe::members(3).flags(&flags).start();
    let store = cluster.store("p/").await;
    let leader = cluster.leader(store.client()).await;
    let quiet = put_revision(&store, "quiet/a").await;
    let mut watch = store.watch("quiet/", quiet).await.expect("the past is kept");
    assert_eq!(next(&mut watch).await.0, quiet);
    for n in 0..50 {
        store.txn(put("loud", n)).await.expect("all members run");
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let now = store.revision().await.expect("all members run");
    store.client().admin().compact(now, true).await.expect("it compacts");
    cluster.kill(leader);
    let mut later = None;
    until("there is a leader again", async || {
        later = store.txn(Txn::new().then(Op::put("quiet/b", "x"))).await.ok();
        later.is_some()
    })
    .await;
    let later = later.expect("it was written").revision;
    let mut told = next(&mut watch).await.0;
    while told < later {
        // A write of which the outcome was unknown.
        told = next(&mut watch).await.0;
    }
    assert_eq!(told, later);
}

#[tokio::test]
async fn without_a_majority_nothing_is_written_and_members_still_tell_how_they_are() {
    let mut cluster = Recipe::members(3).start();
    let store = cluster.store("p/").await;
    store.txn(put("a", 1)).await.expect("all members run");
    let [dead, other] = [1, 2];
    cluster.kill(dead);
    cluster.kill(other);
    let short = store.with_deadlines(short(), short());
    until("the last one knows that it is alone", async || {
        match short.txn(put("a", 2)).await {
            Err(Error::Unknown { .. }) => false,
            Err(Error::Unavailable { reason }) => {
                // Each member is named, with what is wrong with it.
                cluster
                    .endpoints()
                    .iter()
                    .all(|endpoint| reason.contains(endpoint.as_str()))
                    && reason.contains("no leader")
            }
            other => panic!("written without a majority: {other:?}"),
        }
    })
    .await;
    let status = store
        .client()
        .admin()
        .status(&cluster.endpoint(0))
        .await
        .expect("it runs");
    assert_eq!(status.leader, None);
    assert_eq!(store.client().admin().members(true).await.expect("it runs").len(), 3);
    cluster.start(dead);
    until("there is a majority again", async || {
        short.txn(put("a", 3)).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn long_lists_come_in_pages_of_one_revision() {
    let cluster = Recipe::members(1).start();
    let (store, neighbour) = (cluster.store("p/").await, cluster.store("p0").await);
    neighbour.txn(put("not ours", 1)).await.expect("it runs");
    for hundred in 0..6 {
        let puts = (0..100)
            .map(|n| Op::put(format!("k/{hundred}{n:02}"), vec![b'x'; 2000]))
            .collect();
        let txn = Txn {
            then: puts,
            ..Txn::new()
        };
        store.txn(txn).await.expect("it runs");
    }
    let (entries, at) = store.list("k/").await.expect("it runs");
    assert_eq!(entries.len(), 600);
    assert!(entries.windows(2).all(|pair| pair[0].key < pair[1].key));
    assert_eq!(at, store.revision().await.expect("it runs"));
    assert_eq!(
        store.list("").await.expect("it runs").0.len(),
        600,
        "the neighbour's are not ours"
    );
}

#[tokio::test]
async fn a_watch_leaves_a_member_that_is_silent() {
    let cluster = Recipe::members(3).start();
    let relay = Relay::new(4000, cluster.members[0].client).await;
    cluster.store("p/").await;
    let plain = cluster.store("p/").await;
    let leader = cluster.leader(plain.client()).await;
    // Through the relay to the member that is asked first, by others to the rest.
    plain
        .client()
        .admin()
        .move_leader(member_id(&plain, &cluster, 0).await)
        .await
        .or_else(|error| if leader == 0 { Ok(()) } else { Err(error) })
        .expect("the leadership moves");
    let endpoints = [relay.endpoint(), cluster.endpoint(1), cluster.endpoint(2)];
    let store = Etcd::connect(
        Options::new(endpoints)
            .prefix("p/")
            .deadlines(Duration::from_millis(200), Duration::from_secs(10)),
    )
    .await
    .expect("it answers");
    until("the member behind the relay is asked first", async || {
        store.revision().await.expect("it answers");
        store.client().endpoints()[0].leads
    })
    .await;
    let now = store.revision().await.expect("it answers");
    let mut watch = store.watch("", Revision(now.0 + 1)).await.expect("it is kept");
    let first = put_revision(&plain, "a").await;
    assert_eq!(next(&mut watch).await.0, first);

    relay.hold_answers(true);
    let held = Instant::now();
    let second = put_revision(&plain, "a").await;
    assert_eq!(next(&mut watch).await.0, second);
    let waited = held.elapsed();
    assert!(
        waited < Duration::from_secs(4),
        "five deadlines of 200 ms, not {waited:?}"
    );

    // What the member sent meanwhile is not told a second time.
    relay.hold_answers(false);
    let third = put_revision(&plain, "a").await;
    assert_eq!(next(&mut watch).await.0, third);
}

#[tokio::test]
async fn a_watch_that_is_dropped_is_gone_at_the_member() {
    let cluster = Recipe::members(1).start();
    let store = cluster.store("").await;
    let watchers = async || metric(&cluster, "etcd_debugging_mvcc_watcher_total").await;
    let mut watches = Vec::new();
    for _ in 0..5 {
        watches.push(store.watch("", Revision(0)).await.expect("the past is kept"));
    }
    until("five watches", async || watchers().await == 5.0).await;
    drop(watches);
    until("no watch", async || watchers().await == 0.0).await;
}

#[tokio::test]
async fn an_outcome_that_is_unknown_is_told_and_can_be_found_out() {
    let cluster = Recipe::members(1).start();
    let relay = Relay::new(4000, cluster.members[0].client).await;
    cluster.store("").await;
    let store = Etcd::connect(Options::new([relay.endpoint()]))
        .await
        .expect("it answers");
    let claim = |attempt: &str| {
        Txn::new()
            .when(Compare::absent("slot"))
            .then(Op::put("slot", attempt))
            .otherwise(Op::get("slot"))
    };
    store.txn(put("warm", 0)).await.expect("it answers");

    // The request arrives, the answer does not.
    relay.hold_answers(true);
    let unknown = store.txn(claim("attempt-1")).await;
    assert!(matches!(unknown, Err(Error::Unknown { .. })), "{unknown:?}");
    relay.hold_answers(false);
    let again = store.txn(claim("attempt-1")).await.expect("it answers");
    assert!(!again.succeeded);
    assert_eq!(again.reads[0].as_ref().expect("it was written").value, b"attempt-1");

    // The connection is there, and the request never arrives: as far as we can know, it may have.
    relay.hold_requests(true);
    let unknown = store.txn(put("other", 1)).await;
    assert!(matches!(unknown, Err(Error::Unknown { .. })), "{unknown:?}");
    // A new connection is not answered at all: nothing was sent.
    relay.hold_requests(false);
    assert!(store.get("slot").await.expect("it answers").is_some());
}

#[tokio::test]
async fn what_was_not_sent_is_no_unknown_outcome() {
    let mut cluster = Recipe::members(1).start();
    let store = cluster.store("").await;
    let short = store.with_deadlines(short(), short());
    short.txn(put("a", 1)).await.expect("it runs");
    cluster.kill(0);
    // The connection is known to have ended before anything is sent over it.
    tokio::time::sleep(Duration::from_millis(50)).await;
    for _ in 0..5 {
        let refused = short.txn(put("a", 2)).await;
        assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    }
    cluster.start(0);
    until("it is back", async || short.txn(put("a", 3)).await.is_ok()).await;
}

#[tokio::test]
async fn renewals_go_on_past_a_member_that_hangs_and_a_runtime_that_is_stuck() {
    let cluster = Recipe::members(3).start();
    let plain = cluster.store("p/").await;
    let leader = cluster.leader(plain.client()).await;
    let relay = Relay::new(4000, cluster.members[leader].client).await;
    let mut endpoints = cluster.endpoints();
    endpoints[leader] = relay.endpoint();
    let store = Etcd::connect(Options::new(endpoints).prefix("p/"))
        .await
        .expect("it answers");
    let renewals = Arc::new(store.renewal_handle().expect("a thread"));
    until("the leader is asked first, and the others are there too", async || {
        renewals.revision().await.expect("it answers");
        let states = renewals.client().endpoints();
        states[leader].leads
            && states
                .iter()
                .all(|state| state.member.is_some() && state.problem.is_none())
    })
    .await;

    // The one that is asked first gets nothing any more; another one does what was asked, half a deadline later.
    relay.hold_requests(true);
    let mut took = Vec::new();
    for n in 0..20 {
        let sent = Instant::now();
        renewals.txn(put("session/a", n)).await.expect("two members answer");
        took.push(sent.elapsed());
    }
    let half = Duration::from_millis(125);
    assert!(
        took[0] >= half && took[0] < half * 2,
        "half of 250 ms and a commit, not {:?}",
        took[0]
    );
    let slow = took.iter().filter(|took| **took >= half).count();
    assert!(slow < 5, "it is asked first again and again: {took:?}");
    relay.hold_requests(false);

    // This runtime has one thread, and it is blocked here; the renewals are not.
    let thread = std::thread::spawn({
        let renewals = Arc::clone(&renewals);
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .expect("a runtime");
            (0..20)
                .filter(|&n| runtime.block_on(renewals.txn(put("session/b", n))).is_ok())
                .count()
        }
    });
    assert_eq!(thread.join().expect("it ends well"), 20);
    assert!(threads().contains(&"renewals".to_owned()), "{:?}", threads());
    drop(renewals);
    assert_eq!(
        plain
            .get("session/b")
            .await
            .expect("it answers")
            .expect("it was written")
            .value,
        b"19"
    );
    until("its thread has ended", async || {
        !threads().contains(&"renewals".to_owned())
    })
    .await;
}

/// Increments a counter by compare-and-swap, one after the other, and watches it.
struct Writer {
    store: Etcd,
    begun: Revision,
    task: tokio::task::JoinHandle<(u64, u64)>,
    watch: Watch,
    log: Arc<std::sync::Mutex<Vec<Instant>>>,
    stop: Arc<std::sync::atomic::AtomicBool>,
}

impl Writer {
    async fn start(store: &Etcd) -> Self {
        let begun = store.txn(put("count", 0)).await.expect("all members run").revision;
        let log = Arc::new(std::sync::Mutex::new(vec![Instant::now()]));
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let task = tokio::spawn(write(store.clone(), Arc::clone(&log), Arc::clone(&stop)));
        Self {
            watch: store.watch("count", begun).await.expect("the past is kept"),
            store: store.clone(),
            begun,
            task,
            log,
            stop,
        }
    }

    async fn until_written_after(&self, at: Instant) {
        until("something is written", async || {
            self.log
                .lock()
                .expect("nobody panics with it")
                .last()
                .is_some_and(|last| *last > at)
        })
        .await;
    }

    fn longest_gap(&self) -> Duration {
        let log = self.log.lock().expect("nobody panics with it");
        log.windows(2)
            .map(|pair| pair[1] - pair[0])
            .max()
            .expect("something was written")
    }

    /// Every write that was acknowledged, or found out to have been done, is there once; the watch has told each.
    async fn judge(mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::Release);
        let (written, unknown) = self.task.await.expect("the writer ends well");
        let entry = self.store.get("count").await.expect("it runs").expect("it was written");
        let value: u64 = String::from_utf8_lossy(&entry.value)
            .split(' ')
            .next()
            .expect("a number")
            .parse()
            .expect("a number");
        assert_eq!(value, written, "{unknown} outcomes were unknown");
        let mut expected = 0;
        let mut at = Revision(self.begun.0 - 1);
        while at < entry.modified {
            let (revision, value) = next(&mut self.watch).await;
            assert!(revision > at, "{revision} was told after {at}");
            let number: u64 = value.split(' ').next().expect("a number").parse().expect("a number");
            assert_eq!(number, expected, "each write is told once, in order");
            (at, expected) = (revision, expected + 1);
        }
        assert_eq!(expected, written + 1);
    }
}

/// Returns how many writes there were, and of how many the outcome was unknown at first.
async fn write(
    store: Etcd,
    log: Arc<std::sync::Mutex<Vec<Instant>>>,
    stop: Arc<std::sync::atomic::AtomicBool>,
) -> (u64, u64) {
    let mut unknown = 0;
    for number in 1.. {
        if stop.load(std::sync::atomic::Ordering::Acquire) {
            return (number - 1, unknown);
        }
        let before = format!("{}{}", number - 1, if number == 1 { "" } else { " by the writer" });
        let mine = format!("{number} by the writer");
        let txn = Txn::new()
            .when(Compare::value("count", before))
            .then(Op::put("count", mine.clone()))
            .otherwise(Op::get("count"));
        loop {
            match store.txn(txn.clone()).await {
                Ok(done) if done.succeeded => break,
                // It was done, and only its answer was lost.
                Ok(other) => {
                    let found = other.reads[0].clone().expect("it was written");
                    assert_eq!(found.value, mine.as_bytes(), "nobody else writes");
                    break;
                }
                Err(Error::Unknown { .. }) => unknown += 1,
                Err(Error::Unavailable { .. }) => {}
                Err(error) => panic!("write {number}: {error}"),
            }
        }
        log.lock().expect("nobody panics with it").push(Instant::now());
    }
    unreachable!("numbers do not end")
}

async fn next(watch: &mut Watch) -> (Revision, String) {
    let told = tokio::time::timeout(PATIENCE, watch.next())
        .await
        .expect("a change is told in time")
        .expect("the watch goes on");
    let Change::Put(entry) = &told.changes[0] else {
        panic!("nothing is removed here: {told:?}")
    };
    (told.revision, String::from_utf8_lossy(&entry.value).into_owned())
}

fn put(key: &str, n: u64) -> Txn {
    Txn::new().then(Op::put(key, n.to_string()))
}

async fn put_revision(store: &Etcd, key: &str) -> Revision {
    let done = store.txn(Txn::new().then(Op::put(key, "x"))).await;
    done.expect("a majority runs").revision
}

async fn member_id(store: &Etcd, cluster: &Cluster, index: usize) -> u64 {
    let status = store.client().admin().status(&cluster.endpoint(index)).await;
    status.expect("it runs").member
}

fn short() -> etcd::Class {
    etcd::Class {
        attempt: Duration::from_millis(200),
        total: Duration::from_millis(100),
        hedge: false,
    }
}

/// How many connections the kernel has made that the listener at `port` has not taken.
fn backlog(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("every Linux has it");
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let listens = |fields: &Vec<&str>| fields.get(3) == Some(&"0A") && fields[1].ends_with(&format!(":{port:04X}"));
    let line = lines.into_iter().find(listens).expect("somebody listens");
    let (_, waiting) = line[4].split_once(':').expect("two numbers");
    usize::from_str_radix(waiting, 16).expect("a number")
}

/// The names of this process's threads.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("proc is there");
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}

/// What a member says of itself.
async fn metric(cluster: &Cluster, name: &str) -> f64 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(cluster.members[0].client)
        .await
        .expect("it runs");
    let request = "GET /metrics HTTP/1.0\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("it listens");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("it answers");
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        .expect("the metric is there")
}
