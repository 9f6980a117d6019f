//! Files change while clients come: plan, apply, history, rollback.

use super::{HEAL, PROGRAM, assert_no_failures, text};
use bench::load::{self, Plan};
use bench::rig::{self, Rig};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

fn web_file(listen: SocketAddr, active: u32, marker: &str) -> String {
    format!(
        r#"
name = "roll"
[service.web]
command = ["{{understudy}}", "sample", "web", "--port", "{{port}}"]
active = {active}
standby = 1
listen = "{listen}"
protocol = "http"
check = {{ http = "/healthz", every = "200ms", fail_after = 2 }}
env = {{ MARKER = "{marker}" }}
"#
    )
}

struct Rollout {
    rig: Rig,
    listen: SocketAddr,
}

impl Rollout {
    fn up() -> Self {
        let listen = rig::free_address().unwrap();
        let rig = Rig::up(Path::new(PROGRAM), "roll", &web_file(listen, 2, "one")).unwrap();
        Self { rig, listen }
    }

    fn apply(&self, file: &str) -> std::process::Output {
        let path = self.rig.folder().join("new.toml");
        std::fs::write(&path, file).unwrap();
        self.rig.run(&["apply", path.to_str().unwrap(), "--yes"]).unwrap()
    }

    fn apply_and_wait(&self, file: &str, limit: &str) -> std::process::Output {
        let path = self.rig.folder().join("new.toml");
        std::fs::write(&path, file).unwrap();
        self.rig
            .run(&["apply", path.to_str().unwrap(), "--yes", &format!("--wait={limit}")])
            .unwrap()
    }

    /// Waits until every process has this marker in its environment.
    fn until_all_run(&self, marker: &str, count: usize) {
        let wanted = format!("MARKER={marker}");
        let has = |pid: &u32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|entry| entry == wanted.as_bytes())
        };
        self.rig
            .wait_for("the rollout", HEAL * 2, |status| {
                let pids = rig::pids(status);
                pids.len() == count && pids.values().all(has) && rig::redundant_without(status, "web", &[])
            })
            .unwrap();
    }
}

#[test]
fn a_file_that_lets_nothing_run_where_it_runs_is_not_called_done() {
    let rollout = Rollout::up();
    let before = rig::pids(&rollout.rig.status().unwrap());
    let file = web_file(rollout.listen, 2, "one").replace("active", "nodes = [\"zz\"]\nactive");
    let applied = rollout.apply_and_wait(&file, "30s");
    let said = text(&applied.stderr);
    assert!(
        !applied.status.success() && said.contains("no longer lets it"),
        "{said}"
    );
    assert_eq!(
        rig::pids(&rollout.rig.status().unwrap()),
        before,
        "nobody was stopped for it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_environment_is_rolled_out_and_back_without_a_failed_request() {
    let rollout = Rollout::up();
    let load = load::start(Plan::get(rollout.listen, "/healthz", 200.0)).unwrap();
    let applied = rollout.apply_and_wait(&web_file(rollout.listen, 2, "two"), "1m");
    assert!(applied.status.success(), "{}", text(&applied.stderr));
    rollout.until_all_run("two", 3);
    let back = rollout.rig.run(&["rollback", "--yes"]).unwrap();
    assert!(back.status.success(), "{}", text(&back.stderr));
    rollout.until_all_run("one", 3);
    assert_no_failures(&load.finish().await);
    let history: Vec<api::HistoryEntry> =
        serde_json::from_slice(&rollout.rig.run(&["history", "--json"]).unwrap().stdout).unwrap();
    let hows: Vec<&str> = history.iter().map(|entry| entry.how.as_str()).collect();
    assert_eq!(hows, ["rollback to 1", "apply", "up"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_and_fewer_actives_touch_only_those_that_come_and_go() {
    let rollout = Rollout::up();
    let before = rig::pids(&rollout.rig.status().unwrap());
    let load = load::start(Plan::get(rollout.listen, "/healthz", 200.0)).unwrap();
    assert!(rollout.apply(&web_file(rollout.listen, 4, "one")).status.success());
    rollout.until_all_run("one", 5);
    let more = rig::pids(&rollout.rig.status().unwrap());
    assert_eq!(kept(&before, &more), 3, "{before:?} {more:?}");
    assert!(rollout.apply(&web_file(rollout.listen, 1, "one")).status.success());
    rollout.until_all_run("one", 2);
    let fewer = rig::pids(&rollout.rig.status().unwrap());
    assert_eq!(kept(&more, &fewer), 2, "{more:?} {fewer:?}");
    assert_no_failures(&load.finish().await);
}

fn kept(before: &BTreeMap<String, u32>, after: &BTreeMap<String, u32>) -> usize {
    after.iter().filter(|(id, pid)| before.get(*id) == Some(*pid)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_needs_no_restart_restarts_nothing() {
    let rollout = Rollout::up();
    let before = rig::pids(&rollout.rig.status().unwrap());
    let file = web_file(rollout.listen, 2, "one").replace("every = \"200ms\"", "every = \"100ms\"");
    let path = rollout.rig.folder().join("plan.toml");
    std::fs::write(&path, &file).unwrap();
    let plan = rollout.rig.run(&["plan", path.to_str().unwrap(), "--json"]).unwrap();
    let plan: api::Plan = serde_json::from_slice(&plan.stdout).unwrap();
    assert_eq!(plan.changes.len(), 1);
    assert_eq!((plan.changes[0].starts, plan.changes[0].stops), (0, 0), "{plan:?}");
    assert!(rollout.apply(&file).status.success());
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(rig::pids(&rollout.rig.status().unwrap()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_new_version_stops_at_the_first_standby_and_clients_notice_nothing() {
    let rollout = Rollout::up();
    let before = rig::pids(&rollout.rig.status().unwrap());
    let load = load::start(Plan::get(rollout.listen, "/healthz", 200.0)).unwrap();
    let broken = web_file(rollout.listen, 2, "two").replace("\"sample\", \"web\"", "\"sample\", \"wep\"");
    assert!(rollout.apply(&broken).status.success());
    std::thread::sleep(std::time::Duration::from_secs(3));
    let waited = rollout.apply_and_wait(&broken, "1s");
    assert_eq!(waited.status.code(), Some(1), "{}", text(&waited.stderr));
    assert!(text(&waited.stderr).contains("web:"), "{}", text(&waited.stderr));
    let status = rollout.rig.status().unwrap();
    let service = rig::service(&status, "web").unwrap();
    assert_ne!(service.state, "down");
    let serving: Vec<u32> = service
        .slots
        .iter()
        .filter_map(|slot| rig::pids(&status).get(slot.instance.as_ref()?).copied())
        .collect();
    assert_eq!(serving.len(), 2);
    assert!(
        serving.iter().all(|pid| before.values().any(|old| old == pid)),
        "an old active was touched"
    );
    assert!(
        status
            .problems
            .iter()
            .any(|problem| problem.code == "instance-failing" || problem.code == "not-redundant"),
        "{status:?}"
    );
    let back = rollout.rig.run(&["rollback", "--yes"]).unwrap();
    assert!(back.status.success(), "{}", text(&back.stderr));
    rollout.until_all_run("one", 3);
    assert_no_failures(&load.finish().await);
}

/// Waits until the file in force is known to work.
fn until_it_works(rollout: &Rollout) {
    let works = |_: &api::Status| history(rollout).first().is_some_and(|newest| newest.worked.is_some());
    rollout.rig.wait_for("a file that works", HEAL * 2, works).unwrap();
}

/// Newest first.
fn history(rollout: &Rollout) -> Vec<api::HistoryEntry> {
    serde_json::from_slice(&rollout.rig.run(&["history", "--json"]).unwrap().stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_never_goes_to_what_never_worked_and_a_killed_active_runs_as_what_did() {
    let rollout = Rollout::up();
    until_it_works(&rollout);
    let broken = web_file(rollout.listen, 2, "two").replace("\"sample\", \"web\"", "\"sample\", \"wep\"");
    assert!(rollout.apply(&broken).status.success());
    let explained = |words: &[&str]| text(&rollout.rig.run(words).unwrap().stdout);
    let tries = |status: &api::Status| {
        let service = rig::service(status, "web").unwrap();
        service.rollout.is_some() && service.instances.iter().any(|instance| instance.last_failure.is_some())
    };
    rollout.rig.wait_for("a failed try", HEAL, tries).unwrap();

    // An active dies meanwhile: it is started from what worked, and serves again.
    let (victim, pid) = rig::holder(&rollout.rig.status().unwrap(), "web", 0).unwrap();
    crate::kill(pid);
    let serves_again = |status: &api::Status| {
        let service = rig::service(status, "web").unwrap();
        let serving = service.slots.iter().filter(|slot| slot.state == "serving").count();
        let again = rig::pids(status).get(&victim).is_some_and(|now| *now != pid);
        serving == 2 && again
    };
    rollout.rig.wait_for("the killed active", HEAL, serves_again).unwrap();
    let environment = |pid: u32| std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let now = rig::pids(&rollout.rig.status().unwrap())[&victim];
    assert!(
        text(&environment(now)).contains("MARKER=one"),
        "it runs the file that broke"
    );

    // The agent dies too: the next one knows what worked.
    crate::kill(rollout.rig.own().unwrap().agent);
    let answers = |status: &api::Status| {
        rig::service(status, "web").is_ok_and(|web| web.slots.iter().all(|slot| slot.state == "serving"))
    };
    rollout.rig.wait_for("the next agent", HEAL, answers).unwrap();
    crate::kill(now);
    let third = |status: &api::Status| {
        let again = rig::pids(status).get(&victim).is_some_and(|third| *third != now);
        again && answers(status)
    };
    rollout
        .rig
        .wait_for("the active that was killed once more", HEAL, third)
        .unwrap();
    let now = rig::pids(&rollout.rig.status().unwrap())[&victim];
    assert!(
        text(&environment(now)).contains("MARKER=one"),
        "it runs the file that broke"
    );

    let listed = explained(&["history"]);
    assert!(
        listed.contains("in force, not healthy yet") && listed.contains("`rollback` goes here"),
        "{listed}"
    );
    let back = rollout.rig.run(&["rollback", "--yes"]).unwrap();
    assert!(back.status.success(), "{}", text(&back.stderr));
    assert!(
        text(&back.stderr).contains("back to revision 1"),
        "{}",
        text(&back.stderr)
    );
    rollout.until_all_run("one", 3);
    until_it_works(&rollout);
    // What is in force says what revision 1 says, and revision 2 never worked: there is nowhere to go.
    let again = rollout.rig.run(&["rollback", "--yes"]).unwrap();
    assert_eq!(again.status.code(), Some(1), "{}", text(&again.stdout));
    assert!(
        text(&again.stderr).contains("known to have been healthy"),
        "{}",
        text(&again.stderr)
    );
    let listed = explained(&["history"]);
    assert!(
        listed.contains("never became healthy") || listed.contains("replaced before all of it was healthy"),
        "{listed}"
    );
    // One that is asked for by its number is.
    let to_two = rollout.rig.run(&["rollback", "2", "--yes"]).unwrap();
    assert!(
        to_two.status.success() && text(&to_two.stderr).contains("it NEVER became healthy"),
        "{}",
        text(&to_two.stderr)
    );
}

/// What a program says as it ends is told, not that it does not answer; that it is given up outlives the agent that found out, and who tried
/// it stands by again with what worked.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_exits_at_once_is_given_up_with_its_exit_and_stays_so() {
    let rollout = Rollout::up();
    until_it_works(&rollout);
    let gives_up = "\nrestart = { backoff = \"10ms\", replace_after = 2, give_up_after = 1, retry_after = \"10m\" }\n";
    let broken = web_file(rollout.listen, 2, "two").replace("\"sample\", \"web\"", "\"sample\", \"wep\"") + gives_up;
    let waited = rollout.apply_and_wait(&broken, "40s");
    let said = text(&waited.stderr);
    let lines: Vec<&str> = said
        .lines()
        .skip_while(|line| !line.starts_with("not waiting"))
        .collect();
    assert!(!waited.status.success() && lines.len() >= 3, "{said}");
    let told = lines.join("\n");
    assert!(
        told.contains("was given up: web-") && told.contains("exit code 2"),
        "{told}"
    );
    // Where it runs what worked by then, that has said something since.
    let points_on = told.contains("the last line of its output: ") || told.contains(" logs web-");
    assert!(
        points_on && !told.contains("refused") && !told.contains("serves on 127"),
        "{told}"
    );
    assert_eq!(told.matches("apply").count(), 1, "{told}");

    let given_up = |status: &api::Status| rig::service(status, "web").unwrap().rollout.clone();
    let before = given_up(&rollout.rig.status().unwrap()).unwrap();
    assert_eq!(
        (before.state.as_str(), before.tries),
        ("given-up", Some(2)),
        "{before:?}"
    );
    let went_back = |status: &api::Status| {
        let is_redundant = rig::service(status, "web").unwrap().state == "redundant";
        is_redundant && given_up(status).is_some_and(|rollout| rollout.state == "given-up")
    };
    let (healed, _) = rollout
        .rig
        .wait_for("what worked to stand by again", HEAL, went_back)
        .unwrap();
    crate::kill(rollout.rig.own().unwrap().agent);
    let (after, _) = rollout.rig.wait_for("the next agent", HEAL, went_back).unwrap();
    assert_eq!(given_up(&after).unwrap().because, before.because);
    assert_eq!(
        rig::pids(&after),
        rig::pids(&healed),
        "the next agent started somebody anew"
    );
    for pid in rig::pids(&after).into_values() {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        assert!(text(&environment).contains("MARKER=one"));
    }
    let tried = before.instance.unwrap();
    let entries = history(&rollout);
    let in_force = entries.first().unwrap();
    assert_eq!(in_force.given_up.len(), 1, "{in_force:?}");
    assert!(text(&rollout.rig.run(&["history"]).unwrap().stdout).contains("web was given up"));

    // Asked for, it is tried again: and given up again, for it is as broken as it was.
    let retried = rollout.rig.run(&["retry", &tried]).unwrap();
    assert!(retried.status.success(), "{}", text(&retried.stderr));
    let newer =
        |rollout: api::Rollout| rollout.state == "given-up" && rollout.tries.is_some() && rollout.since > before.since;
    let again = |status: &api::Status| given_up(status).is_some_and(newer);
    rollout.rig.wait_for("another try in vain", HEAL, again).unwrap();
    let back = rollout.rig.run(&["rollback", "--yes"]).unwrap();
    assert!(back.status.success(), "{}", text(&back.stderr));
    rollout.until_all_run("one", 3);
}

/// A mistake in a check must not end what works.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_check_ends_nothing_and_a_rollback_goes_to_what_worked() {
    let rollout = Rollout::up();
    until_it_works(&rollout);
    let before = rig::pids(&rollout.rig.status().unwrap());
    let load = load::start(Plan::get(rollout.listen, "/healthz", 100.0)).unwrap();
    let wrong = web_file(rollout.listen, 2, "one").replace("/healthz", "/nowhere");
    let applied = rollout.apply_and_wait(&wrong, "20s");
    assert!(
        !applied.status.success() && text(&applied.stderr).contains("never passed"),
        "{}",
        text(&applied.stderr)
    );
    let told = |status: &api::Status| {
        let web = rig::service(status, "web").unwrap();
        let rollout = web.rollout.as_ref();
        rollout.is_some_and(|rollout| rollout.state == "given-up" && rollout.because.contains("never passed"))
    };
    rollout.rig.wait_for("the wrong check to be told", HEAL, told).unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let history_now = history(&rollout);
    let in_force = history_now.first().unwrap();
    assert!(in_force.worked.is_none(), "{in_force:?}");

    let back = rollout.rig.run(&["rollback", "--yes"]).unwrap();
    assert!(back.status.success(), "{}", text(&back.stderr));
    let is_well = |status: &api::Status| {
        let web = rig::service(status, "web").unwrap();
        web.rollout.is_none() && web.state == "redundant"
    };
    rollout.rig.wait_for("the old check", HEAL, is_well).unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_no_failures(&load.finish().await);
    let after = rig::pids(&rollout.rig.status().unwrap());
    assert_eq!(after, before, "somebody was restarted for a mistake in a check");
}
