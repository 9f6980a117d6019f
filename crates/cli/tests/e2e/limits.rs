//! `load`: finds what limits a chain of real services, and harms nobody.

use super::{PROGRAM, text};
use bench::rig::{self, Rig};
use std::path::Path;
use std::time::Duration;

/// web → app, `app` with a limit of its own.
fn chain(limit: &str, check: &str) -> Rig {
    let (web, app) = (rig::free_address().unwrap(), rig::free_address().unwrap());
    let file = format!(
        "name = \"chain\"\n\
         [service.app]\ncommand = [\"{PROGRAM}\", \"sample\", \"tier\", \"--port\", \"{{port}}\", {limit}]\nlisten = \"{app}\"\n\
         protocol = \"http\"\nactive = 1\nstandby = 0\n{check}\n\
         [service.web]\ncommand = [\"{PROGRAM}\", \"sample\", \"tier\", \"--port\", \"{{port}}\", \"--next\", \"{{service.app.address}}\"]\n\
         listen = \"{web}\"\nprotocol = \"http\"\nactive = 1\nstandby = 0\ncheck = {{ http = \"/healthz\", every = \"1s\" }}\nneeds = [\"app\"]\n\
         [service.quiet]\ncommand = [\"sleep\", \"1000\"]\n"
    );
    Rig::up(Path::new(PROGRAM), "chain", &file).unwrap()
}

const CHECK: &str = "check = { http = \"/healthz\", every = \"1s\" }";

#[test]
fn a_lock_in_the_callee_is_found_and_the_caller_is_not_blamed() {
    let rig = chain("\"--limit\", \"lock:20ms\"", CHECK);
    let page = rig.folder().join("report.html");
    // 50 a second are what the lock lets through, whatever else the machine does.
    let words = [
        "load",
        "web",
        "--rate",
        "90",
        "--for",
        "9s",
        "--json",
        "--objective",
        "p99 < 500ms",
        "--report",
    ];
    let output = rig.run(&[&words[..], &[page.to_str().unwrap()]].concat()).unwrap();
    let outcome: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let said = text(&output.stderr);
    assert_eq!(
        outcome["bottleneck"]["suspects"][0]["service"], "app",
        "{outcome:#}\n{said}"
    );
    assert_eq!(outcome["bottleneck"]["suspects"][0]["kind"], "lock", "{outcome:#}");
    assert!(
        outcome["bottleneck"]["suspects"][0]["share"].as_f64() > Some(0.8),
        "{outcome:#}"
    );
    let steps = outcome["steps"].as_array().unwrap();
    assert_eq!(
        (steps[0]["met"].as_bool(), steps[1]["met"].as_bool()),
        (Some(true), Some(false)),
        "{outcome:#}"
    );
    // Near the truth, which it was not told.
    let goodput = steps[1]["goodput"].as_f64().unwrap();
    assert!((35.0..=55.0).contains(&goodput), "{goodput}");
    assert_eq!(outcome["one_more"]["service"], "app");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("<svg") && !page.contains("<script") && page.contains("app is held up by a lock"));
}

#[test]
fn a_test_against_nothing_is_refused() {
    let rig = chain("\"--work\", \"1ms\"", CHECK);
    for (words, says) in [
        (&["load", "nobody"][..], "nobody"),
        (&["load", "quiet"], "no `listen`"),
        (&["load", "web", "--path", "no-slash"], "begins with a slash"),
        (&["load", "web", "--for", "1s"], "tells nothing"),
    ] {
        let output = rig.run(words).unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words:?}\n{said}");
        assert!(said.contains(says), "`{says}` is missing for {words:?} in:\n{said}");
    }
    let output = rig.run(&["load", "web", "--rate", "0"]).unwrap();
    assert_eq!(output.status.code(), Some(2));
    rig.run(&["pause"]).unwrap();
    let output = rig.run(&["load", "web", "--rate", "5", "--for", "3s"]).unwrap();
    assert!(text(&output.stderr).contains("paused"), "{}", text(&output.stderr));
}

#[test]
fn a_test_ends_when_the_service_begins_to_fail_its_checks() {
    // Its check goes where its clients go, and fails under load.
    let check = "check = { http = \"/\", every = \"500ms\", timeout = \"500ms\", fail_after = 2 }";
    let rig = chain("\"--limit\", \"lock:50ms\"", check);
    let output = rig
        .run(&["load", "app", "--rate", "100", "--for", "60s", "--json"])
        .unwrap();
    let outcome: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert_eq!(
        outcome["ended"]["how"],
        "aborted",
        "{outcome:#}\n{}",
        text(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(1));
    // It was not waited for the end of the step.
    assert!(outcome["took_s"].as_f64() < Some(115.0), "{outcome:#}");
    // And nothing more is sent: all is well again by itself.
    let well = |status: &api::Status| status.services.iter().all(|service| service.state == "redundant");
    rig.wait_for("all is well again", Duration::from_secs(30), well)
        .unwrap();
}

#[test]
fn from_live_traffic_the_same_is_seen_and_a_quiet_system_is_not_talked_about() {
    let rig = chain("\"--limit\", \"lock:20ms\"", CHECK);
    let blamed = || -> bool {
        let output = rig.run(&["explain", "app", "--json"]).unwrap();
        text(&output.stdout).contains("app is held up by a lock")
    };
    // What is usual is learned from more than half a minute of little load.
    rig.run(&["load", "web", "--rate", "10", "--for", "50s", "--json"])
        .unwrap();
    assert!(!blamed());
    rig.run(&["load", "web", "--rate", "80", "--for", "12s", "--json"])
        .unwrap();
    assert!(blamed());
}
