//! What every test here needs: a driver with a folder of its own, and nothing left running at the end.

use drivers::process::{Config, Driver, Launch, Process, TreeKind};
use model::{Millis, RunId, Stop, StopSignal};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Makes two tests of a function that takes a [`World`]: one with cgroups, one without.
macro_rules! both {
    ($($name:ident)+) => { $(
        mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn cgroup() {
                $crate::world::run(false, super::$name).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn process_group() {
                $crate::world::run(true, super::$name).await;
            }
        }
    )+ };
}
pub(crate) use both;

/// Runs a test in a world of its own. Without the right to make cgroups, both variants test the same thing.
pub(crate) async fn run(process_groups_only: bool, test: impl AsyncFnOnce(&World)) {
    let world = World::new(process_groups_only);
    test(&world).await;
    let strays = world.driver.sweep(&[].into()).await.unwrap();
    assert_eq!(strays, [], "a test leaves nothing running");
}

pub(crate) struct World {
    pub(crate) driver: Driver,
    pub(crate) cluster_id: String,
    pub(crate) dir: tempfile::TempDir,
}

impl World {
    pub(crate) fn new(process_groups_only: bool) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let cluster_id = format!("t{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::tempdir().unwrap();
        let driver = Driver::new(Config {
            process_groups_only,
            ..Config::new(cluster_id.as_str())
        })
        .unwrap();
        if process_groups_only {
            assert_eq!(driver.tree_kind().0, TreeKind::ProcessGroup);
        }
        Self {
            driver,
            cluster_id,
            dir,
        }
    }

    pub(crate) fn has_cgroups(&self) -> bool {
        self.driver.tree_kind().0 == TreeKind::Cgroup
    }

    pub(crate) fn launch(&self, command: &[&str]) -> Launch {
        launch(self.dir.path(), "web-1", command)
    }

    pub(crate) async fn start(&self, command: &[&str]) -> Process {
        self.driver.start(self.launch(command)).await.unwrap()
    }

    pub(crate) async fn sh(&self, script: &str) -> Process {
        self.start(&["sh", "-c", script]).await
    }

    /// What the instance has written, once that contains `text`.
    pub(crate) async fn log(&self, text: &str) -> String {
        let path = self.dir.path().join("web-1.log");
        eventually(text, || fs::read_to_string(&path).ok().filter(|log| log.contains(text))).await
    }
}

impl Drop for World {
    /// After a test that failed midway.
    fn drop(&mut self) {
        for pid in marked(&format!("{}/", self.cluster_id)) {
            let _ = rustix::process::kill_process(
                rustix::process::Pid::from_raw(pid as i32).unwrap(),
                rustix::process::Signal::KILL,
            );
        }
        if let (TreeKind::Cgroup, place) = self.driver.tree_kind() {
            let root = Path::new(place.trim_start_matches("cgroups below "));
            for run in fs::read_dir(root).into_iter().flatten().flatten() {
                let _ = fs::write(run.path().join("cgroup.kill"), "1");
                let gone = |_: &u32| fs::remove_dir(run.path()).is_ok() || !run.path().is_dir();
                (0..100)
                    .inspect(|_| std::thread::sleep(Duration::from_millis(1)))
                    .find(gone);
            }
        }
    }
}

pub(crate) fn launch(dir: &Path, instance: &str, command: &[&str]) -> Launch {
    Launch {
        instance: instance.parse().unwrap(),
        run: RunId(7),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        env: BTreeMap::new(),
        dir: dir.to_path_buf(),
        user: None,
        limits: model::Limits::default(),
        log: dir.join(format!("{instance}.log")),
        record: dir.join(format!("instances/{instance}.json")),
        memo: serde_json::json!({"for": instance}),
    }
}

pub(crate) fn policy(signal: StopSignal, timeout_ms: u64) -> Stop {
    Stop {
        signal,
        timeout: Millis(timeout_ms),
    }
}

/// Waits, with a bound, for something that no event tells us of.
pub(crate) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(15), "never came: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Processes with a marker that begins like this.
pub(crate) fn marked(prefix: &str) -> Vec<u32> {
    let marker = format!("UNDERSTUDY_INSTANCE={prefix}");
    let pids = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let has = |pid: &u32| {
        fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|env| env.split(|b| *b == 0).any(|e| e.starts_with(marker.as_bytes())))
    };
    pids.filter(has).collect()
}

/// Runs, and is not a zombie.
pub(crate) fn lives(pid: u32) -> bool {
    let state = |stat: String| stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(state)
        .is_some_and(|state| !"ZX".contains(state))
}
