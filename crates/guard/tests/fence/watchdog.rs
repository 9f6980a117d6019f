//! The watchdog, played by a FIFO that is read as the device would count.

use crate::world::{Fenced, Group, armament, timing};
use guard::fence::protocol::What;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The reading end of a FIFO, without waiting for who writes.
fn device(path: &Path) -> std::fs::File {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    let nonblock = 0o4000;
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(nonblock)
        .open(path)
        .unwrap()
}

fn read(device: &mut std::fs::File) -> String {
    let mut bytes = [0; 4096];
    let length = device.read(&mut bytes).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

#[test]
fn it_is_petted_with_and_without_slots_and_stops_with_a_guard_that_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("watchdog");
    let mut device = device(&path);
    let fenced = Fenced::new(&["--watchdog", path.to_str().unwrap()]);
    let mut petted = || {
        read(&mut device);
        std::thread::sleep(Duration::from_millis(1_600));
        read(&mut device).len()
    };
    // A timeout of two seconds is petted twice a second.
    assert!((2..=5).contains(&petted()), "nothing is armed");
    let mut group = Group::new();
    group.run("sleep 600 & wait");
    let (mut agent, _) = fenced.agent_with(timing(300, 500));
    agent.arm(armament(0, 1, &group));
    assert_eq!(
        [agent.event(), agent.event(), agent.event()],
        [What::Frozen, What::Fired, What::Gone]
    );
    assert!((2..=5).contains(&petted()), "the deadline was kept");
    crate::world::stop(fenced.guard.id());
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(petted(), 0, "the guard is stopped");
    crate::bench::kill("CONT", fenced.guard.id());
}

#[test]
fn a_guard_that_ends_in_order_stops_it_and_one_that_is_killed_does_not() {
    for (agent, stops) in [
        ("echo $$ >> starts; sleep 0.3; exit 0", true),
        (crate::world::BYSTANDER, false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("watchdog");
        let mut device = device(&path);
        let mut fenced = Fenced::with_agent(agent, &["--watchdog", path.to_str().unwrap()]);
        fenced.bench.starts(1);
        let mut text = String::new();
        let begun = std::time::Instant::now();
        while text.is_empty() && begun.elapsed() < Duration::from_secs(10) {
            text = read(&mut device);
        }
        if !stops {
            fenced.guard.kill().unwrap();
        }
        let _ = fenced.guard.wait();
        text.push_str(&read(&mut device));
        assert_eq!(text.ends_with('V'), stops, "{text}");
        assert!(text.starts_with('.'), "{text}");
    }
}

#[test]
fn a_watchdog_that_is_not_there_is_an_error_that_says_so() {
    let bench = crate::bench::Bench::new(crate::world::BYSTANDER);
    let mut guard = bench.guard(&["--fence", "none", "--watchdog", "/nonexistent/watchdog"]);
    assert_eq!(guard.wait().unwrap().code(), Some(1));
    assert!(
        bench.guard_log().contains("failed to open watchdog"),
        "{}",
        bench.guard_log()
    );
    assert!(!bench.path("starts").exists());
}
