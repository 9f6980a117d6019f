//! The examples on real programs: Redis and nginx as the distribution has them.

use super::{HEAL, PROGRAM, assert_no_failures, kill, text};
use bench::load::{self, Plan};
use bench::rig::{self, Rig};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// An example of the repository, on another address than the one it declares.
fn example(name: &str, declared: &str, address: SocketAddr) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name);
    let file = std::fs::read_to_string(path).unwrap();
    assert!(file.contains(declared), "{name} declares another address");
    file.replace(declared, &address.to_string())
}

fn redis(port: u16, words: &[&str]) -> String {
    let output = Command::new("redis-cli")
        .args(["-h", "127.0.0.1", "-p", &port.to_string()])
        .args(words)
        .output();
    let output = output.expect("redis-cli is missing: apt-get install redis-tools");
    text(&output.stdout).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_replica_is_promoted_under_load_and_the_old_active_comes_back_as_replica() {
    let address = rig::free_address().unwrap();
    let rig = Rig::up(
        Path::new(PROGRAM),
        "redis",
        &example("redis.toml", "127.0.0.1:6379", address),
    )
    .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let (mut acknowledged, mut refused) = (0_u32, 0_u32);
            while !stop.load(Ordering::Relaxed) {
                match redis(address.port(), &["incr", "writes"]).parse::<u32>() {
                    Ok(_) => acknowledged += 1,
                    Err(_) => refused += 1,
                }
            }
            (acknowledged, refused)
        }
    });
    std::thread::sleep(Duration::from_millis(500));
    let (instance, pid) = rig::holder(&rig.status().unwrap(), "redis", 0).unwrap();
    kill(pid);
    rig.wait_for("redundancy", HEAL, |status| {
        rig::redundant_without(status, "redis", &[pid])
    })
    .unwrap();
    let before = redis(address.port(), &["get", "writes"]).parse::<u32>().unwrap();
    let begun = Instant::now();
    while redis(address.port(), &["get", "writes"]).parse::<u32>().unwrap() <= before {
        assert!(begun.elapsed() < HEAL, "no write is accepted after the promotion");
    }
    stop.store(true, Ordering::Relaxed);
    let (acknowledged, _) = writer.join().unwrap();
    assert!(acknowledged > 0);
    let (now, _) = rig::holder(&rig.status().unwrap(), "redis", 0).unwrap();
    assert_ne!(now, instance, "the replica was promoted");
    let status = rig.status().unwrap();
    let old = rig::service(&status, "redis")
        .unwrap()
        .instances
        .iter()
        .find(|other| other.id == instance)
        .unwrap()
        .clone();
    let port = old.address.unwrap().parse::<SocketAddr>().unwrap().port();
    assert!(
        redis(port, &["info", "replication"]).contains("role:slave"),
        "the old active is no replica"
    );
    // A planned move loses nothing: the new active has every write.
    let written = redis(address.port(), &["get", "writes"]);
    assert!(rig.switchover("redis").unwrap().done);
    assert_eq!(redis(address.port(), &["get", "writes"]), written);
}

/// The kernel accepts connections in place of a process that stands still: it is found by that nobody takes them.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_stands_still_is_found_by_a_check_that_only_connects() {
    let address = rig::free_address().unwrap();
    let file = format!(
        r#"
        name = "redis"
        [service.redis]
        command = ["redis-server", "--port", "{{port}}", "--dir", "{{data}}"]
        exclusive = true
        standby = 1
        listen = "{address}"
        check = {{ tcp = true, every = "200ms", timeout = "200ms", fail_after = 2 }}
        "#
    );
    let rig = Rig::up(Path::new(PROGRAM), "redis", &file).unwrap();
    assert_eq!(redis(address.port(), &["ping"]), "PONG");
    let (instance, pid) = rig::holder(&rig.status().unwrap(), "redis", 0).unwrap();
    let begun = Instant::now();
    bench::process::signal(pid, rustix::process::Signal::STOP).unwrap();
    let elsewhere = |status: &api::Status| rig::holder(status, "redis", 0).is_ok_and(|(now, _)| now != instance);
    rig.wait_for("another holder", HEAL, elsewhere).unwrap();
    let found = begun.elapsed();
    assert_eq!(redis(address.port(), &["ping"]), "PONG");
    assert!(found < Duration::from_secs(3), "found after {found:?}");
    let events = text(&rig.run(&["events", "--json"]).unwrap().stdout);
    let why = "connection not taken within 200ms, and nothing of it ran meanwhile";
    assert!(events.contains(why), "{events}");
    let is_redundant =
        |status: &api::Status| rig::service(status, "redis").is_ok_and(|redis| redis.state == "redundant");
    rig.wait_for("redundancy", HEAL, is_redundant).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_nginx_costs_no_request() {
    let address = rig::free_address().unwrap();
    let rig = Rig::up(
        Path::new(PROGRAM),
        "nginx",
        &example("nginx.toml", "127.0.0.1:8081", address),
    )
    .unwrap();
    let load = load::start(Plan::get(address, "/", 200.0)).unwrap();
    for _ in 0..3 {
        let (_, pid) = rig::holder(&rig.status().unwrap(), "nginx", 0).unwrap();
        kill(pid);
        rig.wait_for("redundancy", HEAL, |status| {
            rig::redundant_without(status, "nginx", &[pid])
        })
        .unwrap();
    }
    assert_no_failures(&load.finish().await);
}

#[test]
fn the_shop_example_is_right() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop.toml");
    let output = Command::new(PROGRAM).args(["check"]).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}
