//! A folder and addresses of a test's own, and nothing left running at its end.

use etcd::server::binary::{Etcd as Program, Tool};
use etcd::server::cluster::{Cluster, Progress, bootstrap};
use etcd::server::{Config, Server, State};
use etcd::{Etcd, Options};
use model::Profile;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};
use store::{Op, Store, Txn};
use tempfile::TempDir;

/// Far longer than anything takes here, so that what does not happen fails the test rather than hangs it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(25);

static WORLDS: AtomicU8 = AtomicU8::new(0);

/// Where members of a test live.
pub(crate) struct World {
    pub(crate) folder: TempDir,
    port: u16,
}

impl World {
    pub(crate) fn new() -> Self {
        for missing in [Program::find(None).map(drop), Tool::find().map(drop)] {
            if let Err(error) = missing {
                panic!("{error}: {}", error.hint());
            }
        }
        let folder = tempfile::tempdir().expect("a folder");
        clear_up_after_us(folder.path());
        Self {
            folder,
            port: 2379 + 100 * u16::from(WORLDS.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// A member on a port and in a folder of its own. `n` tells it from the others.
    pub(crate) fn config(&self, name: &str, n: u16) -> Config {
        let port = self.port + 2 * n;
        let mut config = Config::new(name, &self.folder.path().join(format!("{name}-{n}")), port, port + 1);
        config.address = address();
        config.profile = Profile::Lan;
        config
    }

    pub(crate) async fn first(&self) -> Server {
        bootstrap(self.config("a", 0)).await.expect("it starts")
    }

    /// A cluster of `a` and `b`.
    pub(crate) async fn two(&self) -> (Server, Server, Cluster) {
        let a = self.first().await;
        let mut cluster = cluster(&a);
        let b = cluster
            .join(self.config("b", 1), PATIENCE, &mut tell)
            .await
            .expect("it joins");
        (a, b, cluster)
    }
}

/// etcd outlives whoever started it: also a test that is killed, which drops nothing.
fn clear_up_after_us(folder: &Path) {
    let script = r#"
        while kill -0 "$1"; do sleep 0.5; done
        for process in /proc/[0-9]*; do
            if tr '\0' ' ' < "$process/cmdline" | grep -qF -- "--data-dir=$2/"; then kill -9 "${process#/proc/}"; fi
        done
        rm -rf -- "$2"
    "#;
    let us = std::process::id().to_string();
    Command::new("setsid")
        .args(["--fork", "sh", "-c", script, "sh", &us])
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("setsid is missing: apt-get install util-linux");
}

impl Drop for World {
    fn drop(&mut self) {
        for (pid, _) in etcds(self.folder.path()) {
            signal(pid, "KILL");
        }
    }
}

pub(crate) fn cluster(server: &Server) -> Cluster {
    Cluster::new(server.config().client_options().expect("options")).expect("a cluster")
}

#[expect(clippy::needless_pass_by_value, reason = "a join gives it away")]
pub(crate) fn tell(progress: Progress) {
    eprintln!("  {progress}");
}

pub(crate) fn options(server: &Server) -> Options {
    let options = server.config().client_options().expect("options");
    options.deadlines(Duration::from_millis(500), Duration::from_secs(10))
}

pub(crate) fn store(server: &Server) -> Etcd {
    Etcd::new(options(server)).expect("good options")
}

pub(crate) async fn put(server: &Server, key: &str, value: &str) {
    let written = store(server).txn(Txn::new().then(Op::put(key, value))).await;
    written.expect("it writes");
}

pub(crate) async fn get(server: &Server, key: &str) -> Option<String> {
    let entry = store(server).get(key).await.expect("it reads")?;
    Some(String::from_utf8(entry.value).expect("text"))
}

pub(crate) fn pid(server: &Server) -> u32 {
    match server.state() {
        State::Running { pid, .. } => pid,
        other => panic!("it does not run: {other:?}"),
    }
}

/// The etcds on data under a folder, and their arguments.
pub(crate) fn etcds(folder: &Path) -> Vec<(u32, String)> {
    let flag = format!("--data-dir={}", folder.display());
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let ours = processes.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(&flag).then_some((pid, line))
    });
    ours.collect()
}

pub(crate) fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .status();
    // It may have ended by itself.
    sent.expect("kill is there");
}

/// An address of this process alone: the loopback network has sixteen million.
pub(crate) fn address() -> IpAddr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    IpAddr::from([127, 128 | (high & 63), middle, low])
}

/// Waits until `holds`.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    start.elapsed()
}

pub(crate) fn measured(what: &str, took: Duration) {
    eprintln!("measured: {what} {:.0} ms", took.as_secs_f64() * 1_000.0);
}
