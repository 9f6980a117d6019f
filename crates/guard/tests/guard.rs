//! The guard as a process, with shell scripts for an agent.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod bench;

use bench::{Bench, alive, kill, parent_of, stat_of, until};
use std::fs;
use std::time::{Duration, Instant};

/// An agent that notes its process id and runs until it is killed.
const RUNS: &str = "echo $$ >> starts; exec sleep 600";

#[test]
fn a_killed_agent_is_started_again_at_once_and_then_ever_later() {
    let bench = Bench::new(RUNS);
    let mut guard = bench.guard(&[]);
    let mut waits = Vec::new();
    for start in 1..=4 {
        let agent = bench.starts(start)[start - 1];
        assert_eq!(parent_of(agent), Some(guard.id()));
        let killed = Instant::now();
        kill("KILL", agent);
        bench.starts(start + 1);
        waits.push(killed.elapsed());
    }
    for (wait, at_least) in waits[1..].iter().zip([100, 200, 400]) {
        assert!(*wait >= Duration::from_millis(at_least), "{waits:?}");
    }
    // How long a start takes on a busy machine is not known; that it waited for nothing else shows in the comparison.
    assert!(waits[0] < waits[3], "{waits:?}");
    assert_eq!(guard.try_wait().unwrap(), None, "the guard goes on");
    // The agent writes its start before the guard does.
    let begun = Instant::now();
    while bench.guard_log().matches("started the agent").count() < 5 && begun.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let log = bench.guard_log();
    assert_eq!(log.matches("started the agent").count(), 5, "{log}");
    assert_eq!(log.matches("the agent died").count(), 4, "{log}");
    assert!(log.contains("Signal(9)"), "{log}");
}

#[test]
fn an_agent_that_ends_in_order_ends_the_guard_with_the_same_code() {
    for code in [0, guard::EXIT_REFUSED] {
        let bench = Bench::new(&format!("echo $$ >> starts; exit {code}"));
        let status = bench.guard(&[]).wait().unwrap();
        assert_eq!(status.code(), Some(code));
        assert_eq!(bench.starts(1).len(), 1);
    }
}

#[test]
fn an_agent_that_fails_is_started_until_it_ends_in_order() {
    let bench = Bench::new("echo $$ >> starts; test $(wc -l < starts) -ge 4 || exit 1");
    let begun = Instant::now();
    assert_eq!(bench.guard(&[]).wait().unwrap().code(), Some(0));
    assert_eq!(bench.starts(4).len(), 4);
    // At once, after 100 ms, after 200 ms.
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
}

#[test]
fn ending_the_guard_ends_nothing_else() {
    let bench = Bench::new(RUNS);
    let mut guard = bench.guard(&[]);
    let agent = bench.starts(1)[0];
    kill("TERM", guard.id());
    guard.wait().unwrap();
    assert!(alive(agent));
}

#[test]
fn services_outlive_the_agent_and_are_reaped_when_they_end() {
    let bench = Bench::new("sleep 600 & echo $! >> services; echo $$ >> starts; exec sleep 600");
    let guard = bench.guard(&[]);
    let agent = bench.starts(1)[0];
    let service = bench.numbers("services", 1)[0];
    assert_eq!(parent_of(service), Some(agent));
    kill("KILL", agent);
    until("the guard is the service's parent", || {
        parent_of(service) == Some(guard.id())
    });
    bench.starts(2);
    assert!(alive(service), "a service died with its agent");

    kill("KILL", service);
    until("the service is reaped", || stat_of(service).is_none());
    assert_eq!(bench.starts(2).len(), 2, "its end was taken for the agent's");
}

#[test]
fn an_agent_that_runs_already_is_watched() {
    let bench = Bench::new(RUNS);
    let (mut agent, _lock) = bench.running_agent();
    let guard = bench.guard(&["--watch", &agent.id().to_string()]);
    until("the guard watches", || bench.guard_log().contains("watching"));
    assert!(!bench.path("starts").exists(), "a second agent was started");
    agent.kill().unwrap();
    let next = bench.starts(1)[0];
    assert_eq!(parent_of(next), Some(guard.id()));
    agent.wait().unwrap();
}

#[test]
fn a_watched_agent_that_ended_in_order_is_not_started_again() {
    let bench = Bench::new(RUNS);
    let (mut agent, mut lock) = bench.running_agent();
    let mut guard = bench.guard(&["--watch", &agent.id().to_string()]);
    until("the guard watches", || bench.guard_log().contains("watching"));
    guard::write_lock(&mut lock, guard::ENDED).unwrap();
    agent.kill().unwrap();
    assert_eq!(guard.wait().unwrap().code(), Some(0));
    assert!(!bench.path("starts").exists());
    agent.wait().unwrap();
}

#[test]
fn an_agent_that_is_gone_before_it_is_watched_is_started() {
    let bench = Bench::new(RUNS);
    let (mut agent, lock) = bench.running_agent();
    drop(lock);
    agent.kill().unwrap();
    agent.wait().unwrap();
    let guard = bench.guard(&["--watch", &agent.id().to_string()]);
    assert_eq!(parent_of(bench.starts(1)[0]), Some(guard.id()));
}

/// The agent died while its guard was started, and another process has got its number.
#[test]
fn a_stranger_with_the_number_of_the_agent_is_not_watched() {
    let bench = Bench::new(RUNS);
    let (mut stranger, lock) = bench.running_agent();
    drop(lock);
    let guard = bench.guard(&["--watch", &stranger.id().to_string()]);
    assert_eq!(parent_of(bench.starts(1)[0]), Some(guard.id()));
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn a_second_guard_is_refused() {
    let bench = Bench::new(RUNS);
    let first = bench.guard(&[]);
    bench.starts(1);
    assert_eq!(
        fs::read_to_string(bench.path("guard.lock")).unwrap().trim(),
        first.id().to_string()
    );
    assert_eq!(bench.guard(&[]).wait().unwrap().code(), Some(1));
    let log = bench.guard_log();
    assert!(log.contains(&format!("held by process {}", first.id())), "{log}");
    assert_eq!(bench.starts(1).len(), 1);
}

#[test]
fn a_replaced_program_is_what_is_started_next() {
    let bench = Bench::new(RUNS);
    let _guard = bench.guard(&[]);
    let old = bench.starts(1)[0];
    bench.replace("echo $$ >> upgraded; exec sleep 600");
    kill("KILL", old);
    bench.numbers("upgraded", 1);
    assert_eq!(bench.starts(1).len(), 1);
}

#[test]
fn a_program_that_is_missing_is_started_when_it_is_there() {
    let bench = Bench::new(RUNS);
    fs::rename(bench.path("agent"), bench.path("away")).unwrap();
    let _guard = bench.guard(&[]);
    until("the guard tells", || bench.guard_log().contains("cannot be started"));
    fs::rename(bench.path("away"), bench.path("agent")).unwrap();
    bench.starts(1);
}

#[test]
fn a_detached_guard_has_a_session_of_its_own_and_is_small() {
    let bench = Bench::new(RUNS);
    let guard = bench.detached_guard();
    let agent = bench.starts(1)[0];
    for process in [guard.id(), agent] {
        assert_eq!(
            stat_of(process).unwrap().session,
            guard.id(),
            "it would end with our terminal"
        );
    }
    let resident = guard.resident_kib();
    assert!(resident < 8 * 1024, "{resident} KiB");
}

#[test]
fn only_the_guard_is_spared_when_memory_runs_out() {
    let bench = Bench::new(RUNS);
    let guard = bench.guard(&[]);
    let agent = bench.starts(1)[0];
    let score = |pid: u32| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    let own = score(std::process::id());
    until("the agent is as likely a victim as before", || score(agent) == own);
    assert_eq!(score(guard.id()).trim() == "-900", bench::may_spare_from_oom());
}
