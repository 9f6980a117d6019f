//! What happens only on a terminal: the live view, questions, Ctrl-C.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::pty::OnTerminal;
use common::{Fake, Reply, command, sample};
use rustix::process::Signal;
use std::time::Duration;

const ENTERED: &str = "\u{1b}[?1049h";
const LEFT: &str = "\u{1b}[?1049l";

fn start(fake: &Fake, args: &[&str]) -> OnTerminal {
    let mut program = command(fake.folder.path());
    program.args(args);
    OnTerminal::start(program)
}

#[test]
fn the_live_view_shows_changes_and_gives_the_terminal_back() {
    let fake = Fake::shop();
    let mut changed = sample::status();
    changed["services"][1]["state"] = "degraded".into();
    fake.on("GET /v1/status/stream", Reply::Stream(vec![changed.to_string()]));
    let mut view = start(&fake, &["status", "--watch"]);
    view.shows(ENTERED);
    view.shows("◐ degraded");
    view.shows("live, data is 0s old");
    view.types("q");
    assert!(view.ends().success());
    assert!(view.shown().ends_with(LEFT), "{:?}", view.shown());

    let mut view = start(&fake, &["status", "--watch"]);
    view.shows("q quits");
    view.signal(Signal::INT);
    assert!(view.ends().success(), "Ctrl-C ends the view");
    assert!(view.shown().ends_with(LEFT));
}

#[test]
fn a_silent_agent_makes_the_view_say_that_it_is_out_of_date() {
    let fake = Fake::shop();
    fake.on(
        "GET /v1/status/stream",
        Reply::Stream(vec![sample::status().to_string()]),
    );
    let mut view = start(&fake, &["status", "--watch", "--color", "always"]);
    view.shows("\u{1b}[32mlive, data is 0s old");
    // It still accepts, and answers nothing of use any more.
    fake.on("GET /v1/status", Reply::HangUp)
        .on("GET /v1/status/stream", Reply::HangUp);
    view.shows("OUT OF DATE, data is 3s old: lost the agent of cluster `shop`");
    let shown = view.shown();
    let (_, stale) = shown.rsplit_once("OUT OF DATE").unwrap();
    assert!(!stale.contains("\u{1b}[32m"), "nothing is green any more: {stale:?}");
    // The agent is back.
    fake.on(
        "GET /v1/status",
        Reply::Json(
            200,
            sample::status()
                .to_string()
                .replace("all there and fit", "all there again"),
        ),
    );
    fake.on(
        "GET /v1/status/stream",
        Reply::Stream(vec![
            sample::status()
                .to_string()
                .replace("all there and fit", "all there again"),
        ]),
    );
    view.shows("all there again");
    view.types("q");
    assert!(view.ends().success());
}

#[test]
fn apply_asks_and_takes_only_yes_for_a_yes() {
    let fake = Fake::shop();
    let file = fake.file("shop.toml", sample::FILE);
    fake.on("POST /v1/plan", Reply::Json(200, sample::plan(3, true)));
    fake.on(
        "POST /v1/apply",
        Reply::Json(200, sample::done("revision 4 is in force")),
    );
    for answer in ["n\n", "\n", "yess\n", "\u{4}"] {
        let mut asked = start(&fake, &["apply", file.to_str().unwrap()]);
        asked.shows("Apply this? [y/N]");
        asked.types(answer);
        assert_eq!(asked.ends().code(), Some(1), "{answer:?} was taken for a yes");
        asked.shows("nothing was done");
    }
    assert!(fake.posts().iter().all(|(call, _)| call != "POST /v1/apply"));
    let mut asked = start(&fake, &["apply", file.to_str().unwrap()]);
    asked.shows("Apply this? [y/N]");
    asked.types("y\n");
    assert!(asked.ends().success());
    asked.shows("revision 4 is in force");
}

#[test]
fn down_and_drill_ask_on_a_terminal() {
    let fake = Fake::shop();
    for (args, question) in [
        (vec!["down"], "Stop all of it? [y/N]"),
        (vec!["drill", "node", "a"], "This is an outage. Go on? [y/N]"),
        (vec!["drill", "instance", "db-2"], "Go on? [y/N]"),
    ] {
        let mut asked = start(&fake, &args);
        asked.shows(question);
        asked.types("n\n");
        assert_eq!(asked.ends().code(), Some(1), "{args:?}");
    }
    assert_eq!(fake.posts(), []);
}

/// A cluster that runs already and needs no change, so that `up` comes to its live view at once.
fn up(fake: &Fake) -> OnTerminal {
    let file = fake.file("shop.toml", sample::FILE);
    fake.on(
        "GET /v1/status/stream",
        Reply::Stream(vec![sample::status().to_string()]),
    );
    fake.on("POST /v1/plan", Reply::Json(200, sample::plan(3, false)));
    fake.on("POST /v1/apply", Reply::Json(200, sample::done("nothing changed")));
    let up = start(fake, &["up", file.to_str().unwrap()]);
    up.shows("shop is up: 2 services");
    up.shows(ENTERED);
    up.shows("Ctrl-C twice stops them all");
    up
}

#[test]
fn one_ctrl_c_explains_itself_and_leaves_everything_running() {
    let fake = Fake::shop();
    let mut up = up(&fake);
    up.signal(Signal::INT);
    up.shows("services keep running; press Ctrl-C again within 5 s to stop them all");
    assert!(up.ends().success());
    up.shows("cluster `shop` keeps running");
    assert!(fake.posts().iter().all(|(call, _)| call != "POST /v1/down"));
}

#[test]
fn two_ctrl_c_stop_everything_in_order() {
    let fake = Fake::shop();
    fake.on(
        "POST /v1/down",
        Reply::Late(Duration::from_millis(500), sample::done("all stopped")),
    );
    let mut up = up(&fake);
    up.signal(Signal::INT);
    up.shows("press Ctrl-C again");
    up.signal(Signal::INT);
    up.shows("stopping: db (2), web (1)");
    std::fs::remove_file(fake.folder.path().join("shop/run/api.sock")).unwrap();
    assert!(up.ends().success(), "{}", up.shown());
    up.shows("all stopped");
    assert!(fake.posts().iter().any(|(call, _)| call == "POST /v1/down"));
}

#[test]
fn up_notices_when_somebody_else_stops_the_cluster() {
    let fake = Fake::shop();
    let mut up = up(&fake);
    std::fs::remove_file(fake.folder.path().join("shop/run/api.sock")).unwrap();
    fake.on("GET /v1/status", Reply::HangUp)
        .on("GET /v1/status/stream", Reply::HangUp);
    // The stream is still open, but nobody answers any more.
    assert!(up.ends().success(), "{}", up.shown());
    up.shows("cluster `shop` was stopped");
}
