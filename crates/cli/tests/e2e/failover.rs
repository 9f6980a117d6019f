//! Actives die, hang and are moved under load.

use super::{HEAL, Shop, assert_no_failures, kill, text};
use bench::load::{self, Plan};
use bench::process;
use bench::rig;
use rustix::process::Signal;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn killed_web_servers_cost_no_request() {
    let shop = Shop::up();
    let load = shop.load(shop.web, "/");
    for _ in 0..10 {
        let (_, pid) = shop.holder("web");
        kill(pid);
        shop.until_redundant_without("web", &[pid]);
    }
    assert_no_failures(&load.finish().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_web_server_is_found_and_its_requests_are_answered_by_another() {
    let shop = Shop::up();
    let load = shop.load(shop.web, "/");
    let (instance, pid) = shop.holder("web");
    let stopped = Instant::now();
    process::signal(pid, Signal::STOP).unwrap();
    shop.rig
        .wait_for("another holder", HEAL, |status| {
            rig::holder(status, "web", 0).is_ok_and(|(now, _)| now != instance)
        })
        .unwrap();
    let found = stopped.elapsed();
    shop.until_redundant_without("web", &[pid]);
    let report = load.finish().await;
    // Two checks in a row, each 200 ms after the last and given up after 200 ms more; the rest is looking.
    assert!(found < Duration::from_secs(3), "found after {found:?}");
    assert_no_failures(&report);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_database_loses_no_acknowledged_write_and_its_epoch_rises() {
    let shop = Shop::up();
    let mut acknowledged: u64 = 0;
    for round in 0..3 {
        for _ in 0..50 {
            acknowledged = acknowledged.max(count(shop.db));
        }
        let (_, pid) = shop.holder("db");
        kill(pid);
        let after = count(shop.db);
        assert!(
            after > acknowledged,
            "round {round}: {acknowledged} was acknowledged, then {after}"
        );
        acknowledged = after;
        shop.until_redundant_without("db", &[pid]);
    }
    let failovers = shop.rig.failovers("db").unwrap();
    let epochs: Vec<u64> = failovers.iter().map(|failover| failover.epoch).collect();
    assert_eq!(epochs, [2, 3, 4], "{failovers:?}");
    shop.assert_never_two_actives();
}

/// Counts up by one and returns the answer: the write that was acknowledged. A request that was cut is sent again.
fn count(db: std::net::SocketAddr) -> u64 {
    let begun = Instant::now();
    loop {
        match counter(db, "POST") {
            Ok(value) => return value,
            Err(error) => assert!(begun.elapsed() < HEAL, "no answer in {HEAL:?}: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn switchovers_of_the_database_cost_no_request() {
    let shop = Shop::up();
    let load = shop.load(shop.db, "/counter");
    for _ in 0..5 {
        let before = shop.holder("db").0;
        let outcome = shop.rig.switchover("db").unwrap();
        assert!(outcome.done, "{outcome:?}");
        assert_ne!(shop.holder("db").0, before);
        shop.until_redundant_without("db", &[]);
    }
    assert_no_failures(&load.finish().await);
    shop.assert_never_two_actives();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_without_a_ready_standby_is_refused_and_changes_nothing() {
    let shop = Shop::up();
    let before = shop.holder("db");
    let refused = shop.rig.run(&["switchover", "db", "--to", &before.0]).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let unknown = shop.rig.run(&["switchover", "dbb"]).unwrap();
    assert!(
        super::text(&unknown.stderr).contains("`db`"),
        "{}",
        super::text(&unknown.stderr)
    );
    assert_eq!(shop.holder("db"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn posts_are_never_repeated() {
    let shop = Shop::up();
    let plan = Plan {
        duration: Duration::from_secs(4),
        ..Plan::post(shop.db, "/counter", 100.0)
    };
    let load = load::start(plan).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (_, pid) = shop.holder("db");
    kill(pid);
    shop.until_redundant_without("db", &[pid]);
    let report = load.finish().await;
    let counted = counter(shop.db, "GET").unwrap();
    // One that failed may have been counted or not; none was counted twice.
    assert!(counted >= report.succeeded, "{counted} counted, {report}");
    assert!(
        counted <= report.succeeded + report.failed(),
        "{counted} counted, {report}"
    );
}

/// One request of its own connection; the counter's value.
fn counter(db: std::net::SocketAddr, method: &str) -> std::io::Result<u64> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(db)?;
    stream.set_read_timeout(Some(HEAL))?;
    write!(
        stream,
        "{method} /counter HTTP/1.1\r\nHost: db\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let value = answer
        .split_once("\"counter\":")
        .and_then(|(_, rest)| rest.split(['}', ',']).next()?.trim().parse().ok());
    value.ok_or_else(|| std::io::Error::other(format!("not a counter: {answer}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_active_whose_only_standby_hangs_is_started_again_before_the_promotion_times_out() {
    let shop = Shop::up();
    let (active, pid) = shop.holder("db");
    let status = shop.rig.status().unwrap();
    let is_standby = |(id, _): &(&String, &u32)| id.starts_with("db-") && **id != active;
    let pids = rig::pids(&status);
    let (_, standby) = pids.iter().find(is_standby).unwrap();
    process::signal(*standby, Signal::STOP).unwrap();
    kill(pid);
    let begun = std::time::Instant::now();
    let serves =
        |status: &api::Status| rig::holder(status, "db", 0).is_ok_and(|(holder, now)| holder == active && now != pid);
    shop.rig.wait_for("the active again", HEAL, serves).unwrap();
    println!("served again after {:?}", begun.elapsed());
    let events = text(&shop.rig.run(&["events", "--json"]).unwrap().stdout);
    assert!(!events.contains("took longer than its timeout"), "{events}");
    shop.until_redundant_without("db", &[pid, *standby]);
    shop.assert_never_two_actives();
}
