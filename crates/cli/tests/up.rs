//! `up` and `down` with the real guard, agent and proxy, and a service that sleeps.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{Ran, command, run_in};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

const FILE: &str = r#"
name = "nap"

[service.nap]
command = ["{understudy}", "sample", "sleeper"]
active = 1
standby = 1
"#;

/// A state folder; whatever a failed test leaves running is stopped with it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        std::fs::write(folder.file(), FILE).unwrap();
        folder
    }

    fn file(&self) -> String {
        self.0.path().join("nap.toml").to_str().unwrap().to_owned()
    }

    fn run(&self, args: &[&str]) -> Ran {
        run_in(self.0.path(), args)
    }

    /// The processes of the service that run.
    fn pids(&self) -> Vec<u64> {
        let status: Value = serde_json::from_str(self.run(&["status", "--json"]).ok()).unwrap();
        let instances = status["services"][0]["instances"].as_array().unwrap();
        instances
            .iter()
            .filter_map(|instance| instance["pid"].as_u64())
            .collect()
    }

    /// Processes whose command line names this folder: guard, agent, proxy.
    fn daemons(&self) -> Vec<String> {
        let folder = self.0.path().to_str().unwrap();
        std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok())
            .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
            .filter(|line| line.contains(folder))
            .collect()
    }

    #[track_caller]
    fn is_empty(&self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !self.daemons().is_empty() {
            assert!(Instant::now() < deadline, "still there: {:?}", self.daemons());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.0.path().join("nap/run/api.sock").exists() {
            let _ = self.run(&["down", "--yes"]);
        }
    }
}

fn runs(pid: u64) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn up_detached_leaves_services_and_down_takes_them_away() {
    let folder = Folder::new();
    let up = folder.run(&["up", &folder.file(), "--detach", "--nodes", "2"]);
    assert!(up.ok().contains("nap is up: 1 service, all redundant"), "{up:?}");
    let pids = folder.pids();
    assert_eq!(pids.len(), 2);
    assert!(pids.iter().all(|pid| runs(*pid)));
    // Once more changes nothing.
    let again = folder.run(&["up", &folder.file(), "--detach"]);
    assert!(
        again.stderr.contains("already runs") && again.ok().contains("nap is up"),
        "{again:?}"
    );
    assert_eq!(folder.pids(), pids);

    // Nobody is there to say yes.
    assert!(folder.run(&["down"]).failed().contains("--yes"));
    assert_eq!(folder.pids(), pids);
    let down = folder.run(&["down", "--yes"]);
    assert!(
        down.stderr
            .contains("this stops cluster `nap`:\n  nap (2 instances running)"),
        "{down:?}"
    );
    down.ok();
    assert!(!pids.iter().any(|pid| runs(*pid)), "a service outlived `down`");
    folder.is_empty();
    assert!(folder.run(&["clusters"]).ok().contains("nap  ○ stopped"));
}

#[test]
fn up_without_a_terminal_stops_everything_when_told_to_end() {
    let folder = Folder::new();
    for signal in [Signal::TERM, Signal::INT] {
        let child = command(folder.0.path())
            .args(["up", &folder.file()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !folder.run(&["status"]).stdout.contains("redundant") {
            assert!(Instant::now() < deadline, "it did not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        let pids = folder.pids();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(
            !pids.is_empty() && !pids.iter().any(|pid| runs(*pid)),
            "a service outlived `up`"
        );
        folder.is_empty();
    }
}

#[test]
fn an_agent_that_cannot_start_says_why_and_leaves_nothing() {
    let folder = Folder::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let up = folder.run(&[
        "up",
        &folder.file(),
        "--detach",
        "--api",
        &taken.local_addr().unwrap().to_string(),
    ]);
    for part in [
        "the agent of cluster `nap` did not start",
        "Address already in use",
        "hint: ",
    ] {
        assert!(up.failed().contains(part), "{part} is missing in\n{}", up.stderr);
    }
    folder.is_empty();
    // The same folder serves the next try.
    assert!(
        folder
            .run(&["up", &folder.file(), "--detach"])
            .ok()
            .contains("nap is up")
    );
}

#[test]
fn what_could_not_run_here_is_not_started() {
    let folder = Folder::new();
    std::fs::write(folder.file(), FILE.replace("{understudy}", "/nowhere/program")).unwrap();
    let up = folder.run(&["up", &folder.file(), "--detach"]);
    assert!(
        up.failed().contains("/nowhere/program") && up.stderr.contains("nap.toml:5"),
        "{}",
        up.stderr
    );
    assert_eq!(folder.daemons(), Vec::<String>::new());
    assert!(!folder.0.path().join("nap").exists(), "nothing was made either");
}

#[test]
fn a_state_folder_that_cannot_be_made_is_named() {
    let folder = Folder::new();
    // A folder below a file.
    let state = folder.0.path().join("nap.toml/state");
    let up = run_in(&state, &["up", &folder.file(), "--detach"]);
    assert!(up.failed().contains("nap.toml/state"), "{}", up.stderr);
}
