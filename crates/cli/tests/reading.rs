//! The commands that read, against a fake agent.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{Fake, Reply, run_in, sample};
use serde_json::{Value, json};

#[test]
fn status_is_text_for_people_and_the_very_json_for_programs() {
    let fake = Fake::shop();
    let text = fake.run(&["status"]);
    for part in [
        "shop, revision 3",
        "● redundant",
        "127.0.0.1:6380",
        "db-2",
        "10 requests",
        "nodes",
    ] {
        assert!(text.ok().contains(part), "{part} is missing in\n{}", text.stdout);
    }
    assert!(!text.stdout.contains('\u{1b}'), "no colour without a terminal");
    assert!(
        fake.run(&["status", "--color", "always"])
            .ok()
            .contains("\u{1b}[32m● redundant")
    );

    let json = fake.run(&["status", "--json"]);
    let value: Value = serde_json::from_str(json.ok()).unwrap();
    assert_eq!(value, sample::status(), "fields of tomorrow included");
    let one: Value = serde_json::from_str(fake.run(&["status", "web", "--json"]).ok()).unwrap();
    assert_eq!(one["services"].as_array().unwrap().len(), 1);
    assert!(!fake.run(&["status", "web"]).ok().contains("db-1"));
}

#[test]
fn a_wrong_name_gets_the_right_one_on_every_command_that_takes_one() {
    let fake = Fake::shop();
    for (args, hint) in [
        (vec!["status", "wep"], "did you mean `web`?"),
        (vec!["explain", "db_1"], "did you mean `db-1`?"),
        (vec!["explain", "db/7"], "its only slot is `db/0`"),
        (vec!["logs", "db/0"], "`db/0` is a slot; it is held by `db-1`"),
        (vec!["events", "--service", "dbb"], "did you mean `db`?"),
        (vec!["logs", "web-"], "did you mean `web"),
        (vec!["switchover", "bd"], "did you mean `db`?"),
        (vec!["switchover", "db", "--to", "db2"], "did you mean `db-2`?"),
        (vec!["drain", "db"], "`db` is a service"),
        (vec!["undrain", "c"], "there are: a, b"),
        (vec!["retry", "db"], "its instances are db-1, db-2"),
        (vec!["drill", "node", "db-1", "--yes"], "`db-1` is an instance"),
        (vec!["drill", "instance", "db-11", "--yes"], "did you mean `db-1`?"),
    ] {
        let ran = fake.run(&args);
        assert!(
            ran.failed().contains(hint),
            "{args:?}: {hint} is missing in\n{}",
            ran.stderr
        );
        assert_eq!(ran.stdout, "", "{args:?} answered");
    }
    assert_eq!(fake.posts(), [], "nothing was changed");
}

#[test]
fn explain_tells_the_agents_reasons() {
    let fake = Fake::shop();
    let explanation = json!({"version": 1, "about": "db-1", "summary": "db-1 is the active of db/0", "facts": ["it is healthy"],
                             "if_it_dies": ["db-2 takes over"], "events": [sample::event(7, "db", true)]});
    fake.on("GET /v1/explain/db-1", Reply::Json(200, explanation.to_string()));
    let ran = fake.run(&["explain", "db-1"]);
    for part in [
        "db-1: db-1 is the active",
        "- it is healthy",
        "- db-2 takes over",
        "event 7",
        "first answer",
    ] {
        assert!(ran.ok().contains(part), "{part} is missing in\n{}", ran.stdout);
    }
    let json: Value = serde_json::from_str(fake.run(&["explain", "db-1", "--json"]).ok()).unwrap();
    assert_eq!(json, explanation);
    fake.on(
        "GET /v1/explain/b",
        Reply::Json(404, sample::refusal("b is unknown here", Some("look elsewhere"))),
    );
    let ran = fake.run(&["explain", "b"]);
    assert!(
        ran.failed().contains("error: b is unknown here") && ran.stderr.contains("hint: look elsewhere"),
        "{}",
        ran.stderr
    );
}

/// A fake that keeps these events.
fn keeps(fake: &Fake, events: &[Value]) {
    fake.on("GET /v1/events", Reply::Json(200, sample::page(&[])));
    fake.on(
        "GET /v1/events?after=0&limit=1000",
        Reply::Json(200, sample::page(events)),
    );
}

fn seqs(lines: &str) -> Vec<u64> {
    lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap())
        .collect()
}

#[test]
fn events_are_the_latest_that_were_asked_for() {
    let fake = Fake::shop();
    keeps(
        &fake,
        &[
            sample::event(5, "db", false),
            sample::event(6, "db", true),
            sample::event(7, "web", false),
        ],
    );
    let all = fake.run(&["events"]);
    for part in [
        "event 5 of db, because it was so",
        "failover of db/0: db-1 -> db-2, epoch 4, 8,000 µs",
        "75 %",
        "event 7",
    ] {
        assert!(all.ok().contains(part), "{part} is missing in\n{}", all.stdout);
    }
    let some = fake.run(&["events", "--failovers"]);
    assert!(
        some.ok().contains("event 6") && !some.stdout.contains("event 5") && !some.stdout.contains("event 7"),
        "{}",
        some.stdout
    );
    let last: Value = serde_json::from_str(fake.run(&["events", "--json", "-n", "2"]).ok()).unwrap();
    assert_eq!(
        (
            &last["events"][0]["seq"],
            &last["events"][1]["seq"],
            last["version"].as_u64()
        ),
        (&json!(6), &json!(7), Some(1))
    );

    fake.on(
        "GET /v1/events?after=0&limit=1000&service=web",
        Reply::Json(200, sample::page(&[sample::event(7, "web", false)])),
    );
    let web = fake.run(&["events", "--service", "web"]);
    assert!(
        web.ok().contains("event 7") && !web.stdout.contains("event 5"),
        "{}",
        web.stdout
    );
    // More than a page.
    fake.on(
        "GET /v1/events?after=7&limit=1000",
        Reply::Json(200, sample::page(&[sample::event(8, "web", false)])),
    );
    assert!(fake.run(&["events", "-n", "1"]).ok().contains("event 8"));
}

#[test]
fn followed_events_go_on_where_they_were_when_the_agent_comes_back() {
    let fake = Fake::shop();
    keeps(&fake, &[sample::event(5, "db", false)]);
    // The agent dies after event 6. Its successor knows 6, sends 7, dies too; the third one refuses, which ends the program.
    fake.on(
        "GET /v1/events/stream?after=5",
        Reply::CutStream(vec![sample::event(6, "db", false).to_string()]),
    );
    fake.on(
        "GET /v1/events?after=5&limit=1",
        Reply::Json(200, sample::page(&[sample::event(6, "db", false)])),
    );
    fake.on(
        "GET /v1/events/stream?after=6",
        Reply::CutStream(vec![sample::event(7, "db", true).to_string()]),
    );
    fake.on(
        "GET /v1/events?after=6&limit=1",
        Reply::Json(200, sample::page(&[sample::event(7, "db", false)])),
    );
    fake.on(
        "GET /v1/events/stream?after=7",
        Reply::Json(500, sample::refusal("the end", None)),
    );
    let ran = fake.run(&["events", "--follow", "--json"]);
    assert!(
        ran.failed().contains("lost the agent, waiting for it") && ran.stderr.contains("the end"),
        "{ran:?}"
    );
    assert_eq!(seqs(&ran.stdout), [5, 6, 7]);
    let ran = fake.run(&["events", "--follow", "--json", "-n", "0", "--failovers"]);
    assert_eq!(seqs(&ran.stdout), [7], "only new ones, only failovers");

    // An agent that lost its events numbers anew.
    fake.on("GET /v1/events?after=5&limit=1", Reply::Json(200, sample::page(&[])));
    fake.on(
        "GET /v1/events/stream?after=0",
        Reply::Json(500, sample::refusal("the very end", None)),
    );
    let ran = fake.run(&["events", "--follow", "--json"]);
    assert!(ran.failed().contains("the very end"), "{ran:?}");
    assert_eq!(seqs(&ran.stdout), [5, 6]);
}

#[test]
fn logs_of_an_instance_and_of_a_service() {
    let fake = Fake::shop();
    let lines = |instance: &str| json!([{"instance": instance, "line": format!("{instance} says\tone")}, {"instance": instance, "line": "two"}]);
    for instance in ["db-1", "db-2", "db-9"] {
        fake.on(
            &format!("GET /v1/logs/{instance}"),
            Reply::Json(200, lines(instance).to_string()),
        );
    }
    assert_eq!(fake.run(&["logs", "db-1", "-n", "2"]).ok(), "db-1 says\tone\ntwo\n");
    assert!(fake.calls().contains(&"GET /v1/logs/db-1?lines=2".to_owned()));
    assert_eq!(
        fake.run(&["logs", "db"]).ok(),
        "db-1 | db-1 says\tone\ndb-1 | two\ndb-2 | db-2 says\tone\ndb-2 | two\n"
    );
    assert!(
        fake.run(&["logs", "db-9"]).ok().contains("db-9 says"),
        "an instance that is gone may have left a log"
    );
    let json: Value = serde_json::from_str(fake.run(&["logs", "db", "--json"]).ok()).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 4);

    let line = json!({"instance": "db-1", "line": "streamed"}).to_string();
    fake.on(
        "GET /v1/logs/db-1/stream?lines=100",
        Reply::CutStream(vec![line.clone(), line]),
    );
    fake.on(
        "GET /v1/logs/db-1/stream?lines=0",
        Reply::Json(500, sample::refusal("the end", None)),
    );
    let ran = fake.run(&["logs", "db-1", "--follow"]);
    assert!(ran.failed().contains("the end"));
    assert_eq!(ran.stdout, "streamed\nstreamed\n");
}

#[test]
fn history_lists_and_shows_files() {
    let fake = Fake::shop();
    fake.on("GET /v1/history", Reply::Json(200, sample::history()));
    let list = fake.run(&["history"]);
    assert!(
        list.ok().contains("revision 2  2026-01-01 12:00:00 UTC  apply by ann") && list.stdout.contains("in force"),
        "{}",
        list.stdout
    );
    assert_eq!(fake.run(&["history", "--show", "2"]).ok(), "# file 2\n");
    assert!(
        fake.run(&["history", "--show", "9"])
            .failed()
            .contains("hint: it keeps revisions 1 to 3")
    );
    let json: Value = serde_json::from_str(fake.run(&["history", "--json"]).ok()).unwrap();
    assert_eq!(json, serde_json::from_str::<Value>(&sample::history()).unwrap());
}

#[test]
fn openapi_and_completions_are_printed() {
    let fake = Fake::shop();
    let document: Value = serde_json::from_str(fake.run(&["openapi"]).ok()).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["paths"]["/v1/status"]["get"].is_object(), "{document}");
    for shell in ["bash", "zsh", "fish"] {
        assert!(fake.run(&["completions", shell]).ok().contains("switchover"), "{shell}");
    }
}

#[test]
fn the_only_live_cluster_is_meant_and_of_two_one_must_be_named() {
    let fake = Fake::shop();
    std::fs::create_dir_all(fake.folder.path().join("old/run")).unwrap();
    let list = fake.run(&["clusters"]);
    assert!(
        list.ok().contains("old   ○ stopped") && list.stdout.contains("shop  ● running"),
        "{}",
        list.stdout
    );
    let json: Value = serde_json::from_str(fake.run(&["clusters", "--json"]).ok()).unwrap();
    assert_eq!(json[0]["state"], "stopped");
    assert_eq!(json[1]["cluster"], "shop");
    fake.run(&["status"]).ok();
    fake.beside("test");
    let ran = fake.run(&["status"]);
    assert!(
        ran.failed().contains("2 clusters run on this machine: shop, test") && ran.stderr.contains("--cluster shop"),
        "{}",
        ran.stderr
    );
    fake.run(&["status", "--cluster", "test"]).ok();
    assert!(
        fake.run(&["--cluster", "tset", "status"])
            .failed()
            .contains("did you mean `test`?")
    );
}

#[test]
fn without_an_agent_it_says_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    let ran = run_in(folder.path(), &["status"]);
    assert!(
        ran.failed().contains("no cluster runs") && ran.stderr.contains("`understudy up FILE` starts one"),
        "{}",
        ran.stderr
    );
    // Where the way here had to be typed, what to type next leads here too.
    let other = tempfile::tempdir().unwrap();
    let typed = other.path().to_str().unwrap();
    let ran = run_in(folder.path(), &["status", "--state-dir", typed]);
    assert!(
        ran.failed().contains("no cluster runs")
            && ran
                .stderr
                .contains(&format!("`understudy --state-dir {typed} up FILE` starts one")),
        "{}",
        ran.stderr
    );
    std::fs::create_dir_all(folder.path().join("shop/run")).unwrap();
    let ran = run_in(folder.path(), &["status", "--cluster", "shop"]);
    assert!(
        ran.failed().contains("cluster `shop` does not run") && ran.stderr.contains("because: No such file"),
        "{}",
        ran.stderr
    );
    // A socket that nobody listens on: the agent was killed.
    drop(std::os::unix::net::UnixListener::bind(folder.path().join("shop/run/api.sock")).unwrap());
    let ran = run_in(folder.path(), &["status", "--cluster", "shop"]);
    assert!(ran.failed().contains("because: Connection refused"), "{}", ran.stderr);
}

#[test]
fn an_agent_that_restarts_is_waited_for_and_one_that_does_not_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("shop/run");
    std::fs::create_dir_all(&run).unwrap();
    let guard = std::fs::File::create(run.with_file_name("guard.lock")).unwrap();
    rustix::fs::flock(&guard, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let ran = run_in(folder.path(), &["status"]);
    assert!(
        ran.failed().contains("the agent of cluster `shop` does not answer") && ran.stderr.contains("agent.log"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains(&format!("process {}", std::process::id())),
        "{}",
        ran.stderr
    );
    assert!(
        run_in(folder.path(), &["clusters"])
            .ok()
            .contains("shop  ◌ runs, does not answer")
    );

    let child = common::command(folder.path())
        .arg("status")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let fake = Fake::in_folder(folder, "shop");
    fake.on("GET /v1/status", Reply::Json(200, sample::status().to_string()));
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success() && String::from_utf8_lossy(&output.stdout).contains("shop, revision 3"),
        "{output:?}"
    );
}

#[test]
fn answers_that_are_not_understood_are_named() {
    let fake = Fake::shop();
    fake.on("GET /v1/status", Reply::Json(200, r#"{"version":2}"#.into()));
    let ran = fake.run(&["status"]);
    assert!(
        ran.failed()
            .contains("the agent speaks version 2 of the API, this program version 1"),
        "{}",
        ran.stderr
    );
    fake.on("GET /v1/status", Reply::Json(200, r#"{"version":1}"#.into()));
    assert!(
        fake.run(&["status"])
            .failed()
            .contains("because: missing field `cluster`")
    );
    fake.on("GET /v1/status", Reply::Json(502, "<html>".into()));
    assert!(
        fake.run(&["status"])
            .failed()
            .contains("status 502 Bad Gateway: <html>")
    );
    fake.on("GET /v1/status", Reply::HangUp);
    let ran = fake.run(&["status"]);
    assert!(
        ran.failed()
            .contains("lost the agent of cluster `shop` during `GET /v1/status`"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_watched_status_without_a_terminal_is_a_line_per_change() {
    let fake = Fake::shop();
    let mut changed = sample::status();
    changed["revision"] = 4.into();
    // The same again, with another time only: no change.
    let mut later = sample::status();
    later["at"] = "2026-01-01T12:03:13Z".into();
    fake.on(
        "GET /v1/status/stream",
        Reply::CutStream(vec![later.to_string(), changed.to_string()]),
    );
    let mut child = common::command(fake.folder.path())
        .args(["status", "--watch", "--json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let mut revision = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap()["revision"].clone();
    // The stream is cut after the second, and the next connection begins with the first again.
    assert_eq!([revision(), revision(), revision()], [json!(3), json!(4), json!(3)]);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn wrong_usage_is_exit_code_two_and_help_is_not() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        vec![],
        vec!["statsu"],
        vec!["status", "--jsn"],
        vec!["up", "--nodes", "0"],
        vec!["up", "--api", "0.0.0.0:1"],
        vec!["drill", "node", "a", "--for", "soon"],
        vec!["simulate", "--seed", "18446744073709551615", "--runs", "5"],
        vec!["load", "web", "--rate", "1e-300"],
        vec!["load", "web", "--rate", "inf"],
    ] {
        assert_eq!(run_in(folder.path(), &args).code, Some(2), "{args:?}");
    }
    assert!(
        run_in(folder.path(), &["statsu"]).stderr.contains("status"),
        "a similar command is named"
    );
    assert!(run_in(folder.path(), &["--help"]).ok().contains("Exit codes: 0 done"));
    assert!(run_in(folder.path(), &["--version"]).ok().starts_with("understudy "));
}

#[test]
fn a_fault_that_a_simulated_run_does_not_have_is_refused_with_the_last_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let run = |words: &str| run_in(folder.path(), &words.split(' ').collect::<Vec<_>>());
    for of in [
        "simulate --seed 7 --faults 12",
        "simulate --machines --seed 7 --faults 12",
    ] {
        let refused = run(&format!("{of} --only 0,4000"));
        assert_eq!(refused.code, Some(1), "{of}: {}", refused.stderr);
        assert!(
            refused.stderr.contains("the run of seed 7 has no fault 4000") && refused.stdout.is_empty(),
            "{}",
            refused.stderr
        );
        // The number that it names is the last one.
        let (_, rest) = refused.stderr.split_once("numbered 0 to ").unwrap();
        let last = rest.split_whitespace().next().unwrap().parse::<usize>().unwrap();
        assert!(
            run(&format!("{of} --only {last}"))
                .ok()
                .contains("no promise was broken")
        );
        assert_eq!(run(&format!("{of} --only {}", last + 1)).code, Some(1));
    }
    let none = run("simulate --machines --store-outage --seed 7 --only 0");
    assert!(
        none.code == Some(1) && none.stderr.contains("has no faults to choose from"),
        "{}",
        none.stderr
    );
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let fake = Fake::shop();
    let mut child = common::command(fake.folder.path())
        .args(["completions", "bash"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), String::from_utf8(output.stderr).unwrap()),
        (Some(0), String::new())
    );
}
