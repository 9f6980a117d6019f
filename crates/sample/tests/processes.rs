//! Real processes, real signals: what survives when a `db` is killed, hangs, or changes its role under load.

#![expect(clippy::unwrap_used, reason = "helpers of tests, where a panic is the answer")]

use sample::client::{self, CallError};
use sample::witness;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn acknowledged_writes_survive_kill_9() {
    let rig = Rig::new();
    let mut acknowledged = Vec::new();
    for epoch in 1..=5 {
        let mut db = rig.start("a");
        promote(&db, epoch);
        let writers = Writers::start(db.address, epoch, 2);
        writers.wait_for(20);
        db.kill();
        acknowledged.extend(writers.stop());
    }
    let db = rig.start("a");
    promote(&db, 6);
    assert_eq!(missing(db.address, &acknowledged), Vec::<String>::new());
}

#[test]
fn a_follower_that_is_promoted_has_every_acknowledged_write() {
    let rig = Rig::new();
    let mut active = rig.start("a");
    let mut follower = rig.start("b");
    promote(&active, 1);
    let mut acknowledged = Vec::new();
    for epoch in 2..=6 {
        follow(&follower, &active);
        wait_until_ready(&follower);
        let writers = Writers::start(active.address, epoch, 4);
        writers.wait_for(50);
        active.kill();
        acknowledged.extend(writers.stop());
        promote(&follower, epoch);
        assert_eq!(missing(follower.address, &acknowledged), Vec::<String>::new());
        // The old one comes back with what it had, some of it perhaps never acknowledged, and becomes the follower.
        let name = active.name.clone();
        active = std::mem::replace(&mut follower, rig.start(&name));
    }
    assert_eq!(witness::overlaps(&rig.witness()).unwrap(), []);
    assert_eq!(witness::read(&rig.witness()).unwrap().len(), 6);
}

#[test]
fn a_switchover_under_load_loses_nothing_and_is_never_active_twice() {
    let rig = Rig::new();
    let (mut active, mut follower) = (rig.start("a"), rig.start("b"));
    promote(&active, 1);
    let mut acknowledged = Vec::new();
    for epoch in 2..=5 {
        follow(&follower, &active);
        wait_until_ready(&follower);
        let writers = Writers::start(active.address, epoch, 4);
        writers.wait_for(30);
        client::demote(active.address, PATIENCE).unwrap();
        // The follower knows that it has everything although nobody is active any more.
        wait_until_ready(&follower);
        promote(&follower, epoch);
        acknowledged.extend(writers.stop());
        assert_eq!(missing(follower.address, &acknowledged), Vec::<String>::new());
        std::mem::swap(&mut active, &mut follower);
    }
    assert_eq!(witness::overlaps(&rig.witness()).unwrap(), []);
}

#[test]
fn one_that_missed_much_catches_up_whatever_it_had_before() {
    let rig = Rig::new();
    let (mut active, follower) = (rig.start("a"), rig.start("b"));
    // A history of its own, which nobody may see again once it follows.
    promote(&follower, 1);
    put(follower.address, "only-here", "x").unwrap();
    client::demote(follower.address, PATIENCE).unwrap();

    promote(&active, 2);
    let value = "v".repeat(100 * 1024);
    for number in 0..20 {
        put(active.address, &format!("large-{number}"), &value).unwrap();
    }
    follow(&follower, &active);
    wait_until_ready(&follower);
    active.kill();
    promote(&follower, 3);
    assert_eq!(get(follower.address, "large-19"), Some(value));
    assert_eq!(get(follower.address, "only-here"), None);
}

#[test]
fn a_hanging_follower_costs_a_pause_and_is_not_ready_until_it_has_caught_up() {
    let rig = Rig::new();
    let (active, follower) = (rig.start("a"), rig.start("b"));
    promote(&active, 1);
    follow(&follower, &active);
    wait_until_ready(&follower);
    follower.signal("STOP");

    let begun = Instant::now();
    put(active.address, "k1", "1").unwrap();
    let pause = begun.elapsed();
    assert!(
        pause >= Duration::from_millis(150),
        "acknowledged after {pause:?}, without the follower"
    );
    assert!(pause < Duration::from_secs(2), "held up for {pause:?}");
    put(active.address, "k2", "2").unwrap();

    follower.signal("CONT");
    wait_until_ready(&follower);
    let role = role(follower.address);
    assert_eq!(role["position"], self::role(active.address)["position"], "{role}");
}

#[test]
fn a_standby_stays_ready_when_its_active_died_but_not_when_it_never_caught_up() {
    let rig = Rig::new();
    let (mut active, follower, stranger) = (rig.start("a"), rig.start("b"), rig.start("c"));
    promote(&active, 1);
    follow(&follower, &active);
    wait_until_ready(&follower);
    active.kill();
    wait_until_ready(&follower);
    follow(&stranger, &active);
    let error = client::ready(stranger.address, PATIENCE).unwrap_err();
    assert!(matches!(error, CallError::Refused { status: 503, .. }), "{error}");
}

#[test]
fn epochs_are_remembered_over_a_kill() {
    let rig = Rig::new();
    let (mut active, mut follower) = (rig.start("a"), rig.start("b"));
    promote(&active, 7);
    follow(&follower, &active);
    wait_until_ready(&follower);
    for db in [&mut active, &mut follower] {
        db.kill();
        let again = rig.start(&db.name);
        let error = client::promote(again.address, 7, PATIENCE).unwrap_err();
        assert!(error.to_string().contains("epoch 7 was already seen"), "{error}");
        promote(&again, 8);
    }
}

#[test]
fn an_old_active_that_does_not_know_it_cannot_be_followed() {
    let rig = Rig::new();
    let (old, newer) = (rig.start("a"), rig.start("b"));
    promote(&old, 1);
    promote(&newer, 2);
    put(newer.address, "k", "v").unwrap();
    client::demote(newer.address, PATIENCE).unwrap();
    follow(&newer, &old);
    let refused = wait_for("a refusal", || match client::ready(newer.address, PATIENCE) {
        Err(error) if error.to_string().contains("epoch 2") => Some(error.to_string()),
        _ => None,
    });
    assert!(refused.contains("409"), "{refused}");
    promote(&newer, 3);
    assert_eq!(get(newer.address, "k"), Some("v".into()));
}

#[test]
fn sigterm_ends_each_service_in_order() {
    let rig = Rig::new();
    let db = rig.start("a");
    promote(&db, 1);
    let web = Running::start("web", &["web", "0", &db.address.to_string()]);
    put(db.address, "k", "v").unwrap();
    for mut service in [web, db] {
        service.signal("TERM");
        assert_eq!(service.child.wait().unwrap().code(), Some(0), "{}", service.name);
    }
}

#[test]
fn a_service_that_cannot_start_says_why_and_exits_with_1() {
    let rig = Rig::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let folder = rig.dir.path().join("f");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("log"), "not a log").unwrap();
    std::fs::write(rig.dir.path().join("file"), "").unwrap();
    let path = |name: &str| rig.dir.path().join(name).display().to_string();
    for (arguments, expected) in [
        (vec!["web".into(), port.clone()], "failed to listen"),
        (vec!["web".into(), "0".into(), "nowhere".into()], "HOST:PORT"),
        (vec!["db".into(), port, path("g")], "failed to listen"),
        (vec!["db".into(), "0".into(), path("f")], "is not a log of a db"),
        (
            vec!["db".into(), "0".into(), path("file")],
            "failed to make the data folder",
        ),
        (vec!["db".into(), "0".into(), path("h"), path("no/witness")], "witness"),
    ] {
        let output = Command::new(PROGRAM).args(&arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn a_sleeper_is_small_and_ends_at_sigterm() {
    let mut child = Command::new(PROGRAM).arg("sleeper").spawn().unwrap();
    assert!(child.try_wait().unwrap().is_none());
    signal(child.id(), "TERM");
    let status = child.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15));
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_understudy-sample");

/// Folders for several dbs, and the witness that they share.
struct Rig {
    dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn witness(&self) -> PathBuf {
        self.dir.path().join("witness")
    }

    fn start(&self, name: &str) -> Running {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let (data, witness) = (path(&self.dir.path().join(name)), path(&self.witness()));
        Running::start(name, &["db", "0", &data, &witness])
    }
}

struct Running {
    name: String,
    child: Child,
    address: SocketAddr,
}

impl Running {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(arguments)
            .env("UNDERSTUDY_INSTANCE", name)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let address = line.split(' ').find_map(|word| word.trim().parse().ok());
        Self {
            name: name.to_owned(),
            address: address.unwrap_or_else(|| panic!("no address in `{line}`")),
            child,
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &pid.to_string()]).status();
    assert!(status.unwrap().success());
}

/// Threads that put entries one after the other, until the db is gone or they are told to stop.
struct Writers {
    acknowledged: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Writers {
    fn start(address: SocketAddr, round: u64, count: usize) -> Self {
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..count).map(|writer| {
            let (acknowledged, stop) = (Arc::clone(&acknowledged), Arc::clone(&stop));
            std::thread::spawn(move || {
                for number in 0.. {
                    let key = format!("{round}-{writer}-{number}");
                    if stop.load(Ordering::Relaxed) || put(address, &key, &key).is_err() {
                        return;
                    }
                    acknowledged.lock().unwrap().push(key);
                }
            })
        });
        Self {
            threads: threads.collect(),
            acknowledged,
            stop,
        }
    }

    fn wait_for(&self, writes: usize) {
        wait_for("acknowledged writes", || {
            (self.acknowledged.lock().unwrap().len() >= writes).then_some(())
        });
    }

    fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        std::mem::take(&mut self.acknowledged.lock().unwrap())
    }
}

fn promote(db: &Running, epoch: u64) {
    client::promote(db.address, epoch, PATIENCE).unwrap();
}

fn follow(follower: &Running, active: &Running) {
    client::follow(follower.address, &active.address.to_string(), PATIENCE).unwrap();
}

fn wait_until_ready(db: &Running) {
    wait_for("a ready standby", || client::ready(db.address, PATIENCE).ok());
}

fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited for {what} in vain");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn missing(address: SocketAddr, keys: &[String]) -> Vec<String> {
    let lost = keys.iter().filter(|key| get(address, key).as_ref() != Some(key));
    lost.cloned().collect()
}

fn role(address: SocketAddr) -> serde_json::Value {
    let (_, body) = ask(address, "GET", "/role", "").unwrap();
    serde_json::from_str(&body).unwrap()
}

fn put(address: SocketAddr, key: &str, value: &str) -> std::io::Result<()> {
    let (status, body) = ask(address, "PUT", &format!("/kv/{key}"), value)?;
    match status {
        200 | 201 => Ok(()),
        _ => Err(std::io::Error::other(body)),
    }
}

fn get(address: SocketAddr, key: &str) -> Option<String> {
    let (status, body) = ask(address, "GET", &format!("/kv/{key}"), "").unwrap();
    (status == 200).then_some(body)
}

fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: db\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    match (status, body) {
        (Some(status), Some(body)) => Ok((status, body)),
        _ => Err(std::io::Error::other("the answer broke off")),
    }
}
