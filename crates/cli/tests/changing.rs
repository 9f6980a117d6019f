//! The commands that change something, against a fake agent: what is sent, what is said, what is asked first.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{Fake, Reply, sample};
use serde_json::{Value, json};

fn body(fake: &Fake, call: &str) -> Value {
    let posts = fake.posts();
    let (_, body) = posts
        .iter()
        .rev()
        .find(|(post, _)| post == call)
        .unwrap_or_else(|| panic!("{call} was not sent, but {posts:?}"));
    serde_json::from_str(body).unwrap()
}

#[test]
fn each_change_is_one_request_and_its_outcome_is_told() {
    let fake = Fake::shop();
    for (args, call) in [
        (vec!["drain", "a"], "POST /v1/drain/a"),
        (vec!["undrain", "a"], "POST /v1/undrain/a"),
        (vec!["pause"], "POST /v1/pause"),
        (vec!["resume"], "POST /v1/resume"),
        (vec!["retry", "db-2"], "POST /v1/retry/db-2"),
    ] {
        fake.on(call, Reply::Json(200, sample::done(&format!("{} done", args[0]))));
        assert_eq!(fake.run(&args).ok(), format!("{} done\n", args[0]));
        assert_eq!(fake.posts().last().unwrap().0, call);
        let with_json: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        let json: Value = serde_json::from_str(fake.run(&with_json).ok()).unwrap();
        assert_eq!(json["done"], true);

        fake.on(call, Reply::Json(409, sample::refusal("it cannot be", Some("do this"))));
        let refused = fake.run(&args);
        assert_eq!(refused.failed(), "error: it cannot be\n  hint: do this\n");
        assert_eq!(refused.stdout, "");
        let json = fake.run(&with_json);
        assert_eq!(
            (
                json.code,
                serde_json::from_str::<Value>(&json.stdout).unwrap()["text"].as_str()
            ),
            (Some(1), Some("it cannot be"))
        );
    }
}

#[test]
fn what_is_typed_wrongly_is_told_in_words_and_without_what_the_environment_says() {
    let folder = tempfile::tempdir().unwrap();
    for (args, says) in [
        (
            vec!["rollback", "abc"],
            "a revision is a number, as `understudy history` lists them",
        ),
        (vec!["pause", "--because", " "], "say why, or leave `--because` out"),
        (vec!["park", "db", "--because", ""], "say why, or leave `--because` out"),
        (
            vec!["silence", "--because", "work", "--for", "30d"],
            "`30d` is not between 1ms and 24h",
        ),
        (vec!["drain"], "Usage: understudy drain <NODE>"),
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_understudy"))
            .args(&args)
            .env("UNDERSTUDY_STATE_DIR", folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(says) && !said.contains("--state-dir"), "{args:?}: {said}");
    }
}

#[test]
fn a_drill_while_everything_is_paused_is_refused_before_anything_is_asked() {
    let fake = Fake::shop();
    let mut status = sample::status();
    status["paused"] = "2026-01-01T12:00:00Z".into();
    fake.on("GET /v1/status", Reply::Json(200, status.to_string()));
    let ran = fake.run(&["drill", "instance", "db-1", "--yes"]);
    assert!(
        ran.failed().contains("nobody would take over") && ran.stderr.contains("`understudy resume`"),
        "{}",
        ran.stderr
    );
    assert!(fake.posts().is_empty(), "{:?}", fake.posts());
}

#[test]
fn an_outcome_that_is_not_done_fails_whatever_the_status_code() {
    let fake = Fake::shop();
    fake.on("POST /v1/pause", Reply::Json(200, sample::refusal("not now", None)));
    assert_eq!(fake.run(&["pause"]).failed(), "error: not now\n");
}

#[test]
fn switchover_sends_what_was_typed_and_draws_the_takeover() {
    let fake = Fake::shop();
    fake.on(
        "POST /v1/switchover",
        Reply::Json(200, sample::done_with_failover("db-2 is the active of db/0")),
    );
    let ran = fake.run(&["switchover", "db", "--to", "db-2", "--slot", "0"]);
    assert!(
        ran.ok().starts_with("db-2 is the active of db/0\n") && ran.stdout.contains("8,000 µs in all"),
        "{}",
        ran.stdout
    );
    assert_eq!(
        body(&fake, "POST /v1/switchover"),
        json!({"service": "db", "slot": 0, "to": "db-2"})
    );
    fake.run(&["switchover", "db"]).ok();
    assert_eq!(
        body(&fake, "POST /v1/switchover"),
        json!({"service": "db", "slot": null, "to": null})
    );
}

#[test]
fn an_heir_of_another_service_is_none() {
    let fake = Fake::shop();
    let ran = fake.run(&["switchover", "db", "--to", "web-1"]);
    assert_eq!(
        ran.failed(),
        "error: `web-1` is no instance of `db`\n  hint: its instances are db-1, db-2\n"
    );
    assert!(fake.posts().is_empty());
}

#[test]
fn that_nothing_changes_is_said_once() {
    let fake = Fake::shop();
    let file = fake.file("shop.toml", sample::FILE);
    fake.on("POST /v1/plan", Reply::Json(200, sample::plan(3, false)));
    let text = "nothing to do: revision 3 already says the same";
    fake.on("POST /v1/apply", Reply::Json(200, sample::done(text)));
    let ran = fake.run(&["apply", file.to_str().unwrap()]);
    assert_eq!(ran.ok(), format!("{text}\n"));
    assert!(!ran.stderr.contains("nothing to do"), "{}", ran.stderr);
}

#[test]
fn a_plan_is_shown_and_nothing_is_applied() {
    let fake = Fake::shop();
    let file = fake.file("shop.toml", sample::FILE);
    fake.on("POST /v1/plan", Reply::Json(200, sample::plan(3, true)));
    let ran = fake.run(&["plan", file.to_str().unwrap()]);
    assert!(
        ran.ok()
            .contains("~   web: changed without touching a running process, starts 1")
            && ran.stdout.contains("active: 1 -> 2"),
        "{}",
        ran.stdout
    );
    assert_eq!(body(&fake, "POST /v1/plan")["text"], sample::FILE);
    let json: Value = serde_json::from_str(fake.run(&["plan", file.to_str().unwrap(), "--json"]).ok()).unwrap();
    assert_eq!(json["against"], 3);
    assert!(fake.posts().iter().all(|(call, _)| call == "POST /v1/plan"));
}

#[test]
fn apply_needs_a_yes_and_applies_exactly_what_was_shown() {
    let fake = Fake::shop();
    let file = fake.file("shop.toml", sample::FILE);
    let file = file.to_str().unwrap();
    fake.on("POST /v1/plan", Reply::Json(200, sample::plan(3, true)));
    fake.on(
        "POST /v1/apply",
        Reply::Json(200, sample::done("revision 4 is in force")),
    );
    let ran = fake.run(&["apply", file]);
    assert!(
        ran.failed().contains("active: 1 -> 2") && ran.stderr.contains("hint: add --yes"),
        "{}",
        ran.stderr
    );
    assert!(
        fake.posts().iter().all(|(call, _)| call != "POST /v1/apply"),
        "nothing was applied without a yes"
    );
    let ran = fake.run(&["apply", file, "--yes"]);
    assert_eq!(ran.ok(), "revision 4 is in force\n");
    let sent = body(&fake, "POST /v1/apply");
    assert_eq!((&sent["against"], &sent["path"]), (&json!(3), &json!(file)));
    assert!(!sent["by"].as_str().unwrap().is_empty());

    fake.on(
        "POST /v1/apply",
        Reply::Json(
            409,
            sample::refusal(
                "revision 5 is in force by now, the plan was against 3",
                Some("look at the plan again"),
            ),
        ),
    );
    assert!(
        fake.run(&["apply", file, "--yes"])
            .failed()
            .contains("error: revision 5 is in force by now")
    );
    fake.on("POST /v1/plan", Reply::Json(200, sample::plan(3, false)));
    fake.on("POST /v1/apply", Reply::Json(200, sample::done("nothing changed")));
    assert!(
        fake.run(&["apply", file]).ok().contains("nothing changed"),
        "no change needs no yes"
    );
}

#[test]
fn a_file_with_errors_or_of_another_cluster_is_not_sent() {
    let fake = Fake::shop();
    let bad = fake.file(
        "bad.toml",
        "name = \"shop\"\n[service.web]\ncomand = [\"sleep\", \"1\"]\n",
    );
    for command in ["plan", "apply", "up"] {
        let ran = fake.run(&[command, bad.to_str().unwrap()]);
        assert!(
            ran.failed().contains("comand") && ran.stderr.contains("bad.toml:3"),
            "{command}: {}",
            ran.stderr
        );
    }
    let other = fake.file("other.toml", &sample::FILE.replace("\"shop\"", "\"other\""));
    let ran = fake.run(&["apply", other.to_str().unwrap(), "--cluster", "shop"]);
    assert!(
        ran.failed().contains("the file is of cluster `other`, not `shop`"),
        "{}",
        ran.stderr
    );
    assert!(
        fake.run(&["apply", other.to_str().unwrap()])
            .failed()
            .contains("cluster `other` does not run")
    );
    let ran = fake.run(&["plan", "/nowhere/shop.toml"]);
    assert!(
        ran.failed()
            .contains("failed to read the file `/nowhere/shop.toml`\n  because: No such file"),
        "{}",
        ran.stderr
    );
    assert_eq!(fake.posts(), []);
}

#[test]
fn rollback_shows_the_plan_of_the_earlier_file_first() {
    let fake = Fake::shop();
    fake.on("GET /v1/history", Reply::Json(200, sample::history()));
    fake.on("POST /v1/plan", Reply::Json(200, sample::plan(3, true)));
    fake.on(
        "POST /v1/rollback",
        Reply::Json(200, sample::done("revision 4 is revision 2 again")),
    );
    let ran = fake.run(&["rollback"]);
    assert!(
        ran.failed().contains("back to revision 2") && ran.stderr.contains("active: 1 -> 2"),
        "{}",
        ran.stderr
    );
    assert_eq!(body(&fake, "POST /v1/plan")["text"], "# file 2\n");
    assert_eq!(
        fake.run(&["rollback", "--yes"]).ok(),
        "revision 4 is revision 2 again\n"
    );
    assert_eq!(body(&fake, "POST /v1/rollback")["to"], 2);
    fake.run(&["rollback", "1", "--yes"]).ok();
    assert_eq!(body(&fake, "POST /v1/rollback")["to"], 1);
    assert!(
        fake.run(&["rollback", "7", "--yes"])
            .failed()
            .contains("revision 7 of cluster `shop` is not in its history")
    );
    fake.on("GET /v1/history", Reply::Json(200, "[]".into()));
    assert!(
        fake.run(&["rollback", "--yes"])
            .failed()
            .contains("no earlier revision")
    );
}

#[test]
fn a_drill_tells_who_is_hit_before_it_asks() {
    let fake = Fake::shop();
    fake.on(
        "POST /v1/drill",
        Reply::Json(200, sample::done("node a is gone for 30 s")),
    );
    let ran = fake.run(&["drill", "node", "a", "--for", "30s"]);
    for part in [
        "kills everything on node `a` for 30s",
        "db: loses 1 active (db-1); db-2 would take over; stays up",
        "web: loses 1 active (web-1)",
        "GOES DOWN",
        "hint: add --yes",
    ] {
        assert!(ran.failed().contains(part), "{part} is missing in\n{}", ran.stderr);
    }
    assert_eq!(fake.posts(), [], "nothing was broken without a yes");
    assert_eq!(
        fake.run(&["drill", "node", "a", "--for", "30s", "--yes"]).ok(),
        "node a is gone for 30 s\n"
    );
    assert_eq!(
        body(&fake, "POST /v1/drill"),
        json!({"what": "node", "name": "a", "back_after_ms": 30_000})
    );
    fake.run(&["drill", "instance", "db-2", "--yes"]).ok();
    assert_eq!(
        body(&fake, "POST /v1/drill"),
        json!({"what": "instance", "name": "db-2", "back_after_ms": null})
    );
}

#[test]
fn down_names_what_stops_and_waits_until_it_has() {
    let fake = Fake::shop();
    fake.on(
        "POST /v1/down",
        Reply::Json(409, sample::refusal("a drill is under way", None)),
    );
    let ran = fake.run(&["down", "--yes"]);
    for part in [
        "this stops cluster `shop`:",
        "db (2 instances running; clients of 127.0.0.1:6380 get no answer any more)",
        "error: a drill is under way",
    ] {
        assert!(ran.failed().contains(part), "{part} is missing in\n{}", ran.stderr);
    }
    // The agent takes its socket away when all is stopped.
    fake.on("POST /v1/down", Reply::Json(200, sample::done("all stopped")));
    let socket = fake.folder.path().join("shop/run/api.sock");
    let taken_away = std::thread::spawn({
        let calls = std::time::Instant::now();
        move || {
            std::thread::sleep(std::time::Duration::from_millis(300));
            std::fs::remove_file(socket).unwrap();
            calls
        }
    });
    let ran = fake.run(&["down", "--yes", "--json"]);
    let begun = taken_away.join().unwrap();
    assert_eq!(serde_json::from_str::<Value>(ran.ok()).unwrap()["text"], "all stopped");
    assert!(
        begun.elapsed() >= std::time::Duration::from_millis(300),
        "it returned while the agent was still there"
    );
    assert!(fake.run(&["down", "--yes"]).failed().contains("no cluster runs"));
}

#[test]
fn up_on_a_running_cluster_applies_the_file() {
    let fake = Fake::shop();
    let file = fake.file("shop.toml", sample::FILE);
    let file = file.to_str().unwrap();
    fake.on(
        "GET /v1/status/stream",
        Reply::Stream(vec![sample::status().to_string()]),
    );
    fake.on("POST /v1/plan", Reply::Json(200, sample::plan(3, true)));
    fake.on(
        "POST /v1/apply",
        Reply::Json(200, sample::done("revision 4 is in force")),
    );
    let ran = fake.run(&["up", file, "--detach"]);
    assert!(
        ran.failed().contains("already runs") && ran.stderr.contains("hint: add --yes"),
        "{}",
        ran.stderr
    );
    let ran = fake.run(&["up", file, "--detach", "--yes", "--nodes", "3"]);
    for part in [
        "revision 4 is in force",
        "shop is up: 2 services, all redundant",
        "127.0.0.1:6380",
        "kill -9 4012",
        "see db-2 take over",
        "drill node b --for 30s",
    ] {
        assert!(ran.ok().contains(part), "{part} is missing in\n{}", ran.stdout);
    }
    assert!(ran.stderr.contains("it runs with 2 nodes"), "{}", ran.stderr);
    // The environment leads here: nothing has to be typed for that.
    assert!(ran.stdout.contains("understudy down"), "{}", ran.stdout);
}

#[test]
fn up_tells_what_is_not_redundant_in_time() {
    let fake = Fake::shop();
    let file = fake.file("shop.toml", sample::FILE);
    let mut status = sample::status();
    status["services"][1]["state"] = "down".into();
    status["services"][1]["because"] = "web-1 exits at once".into();
    fake.on("GET /v1/status", Reply::Json(200, status.to_string()));
    fake.on("GET /v1/status/stream", Reply::Stream(vec![status.to_string()]));
    fake.on("POST /v1/plan", Reply::Json(200, sample::plan(3, false)));
    fake.on("POST /v1/apply", Reply::Json(200, sample::done("nothing changed")));
    let ran = fake.run(&["up", file.to_str().unwrap(), "--detach", "--timeout", "300ms"]);
    assert!(
        ran.failed().contains("web is down: web-1 exits at once"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("db is redundant after"), "{}", ran.stderr);
}
