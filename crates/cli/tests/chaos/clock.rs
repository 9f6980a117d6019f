//! The wall clock of the active's host is set wrong, by an hour either way, while clients ask: it is told, and that is all.

use bench::cluster::{Active, Cluster, Process, Settings, TOKEN_PORT};
use bench::trouble::Trouble;
use hosts::client::{Client, Plan};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Told within seconds; a clock that was set back is known to be right after half a minute.
const TOLD_WITHIN: Duration = Duration::from_secs(60);
const HOUR: i64 = 3_600;

#[test]
fn a_clock_that_is_an_hour_off_moves_nothing_and_is_told_until_it_is_right() {
    let (cluster, before) = up();
    assert_goes_by_its_clock(&cluster, &before.host);
    let mut plan = Plan::new(cluster.target(&before.host, TOKEN_PORT).unwrap());
    // It is about answers that are lost, not about late ones on a busy machine.
    plan.timeout = Duration::from_secs(5);
    plan.every = Duration::from_millis(10);
    let client = Client::start(cluster.rig().client(), plan).unwrap();
    for (seconds, direction) in [(HOUR, "ahead of"), (-HOUR, "behind")] {
        let step = Trouble::ClockStep {
            host: before.host.clone(),
            seconds,
        };
        let begun = step.begin(&cluster).unwrap();
        let words = format!("{direction} those of most nodes");
        wait_for(&format!("the clock of {} to be told {words}", before.host), || {
            let told = cluster.clocks_told_wrong().ok()?;
            let by_itself = told
                .iter()
                .any(|(teller, text)| *teller == before.host && text.contains(&words));
            // Others wait half a minute before they call a clock slow: what it says might be late.
            let by_others = told.iter().filter(|(teller, _)| *teller != before.host).count();
            (by_itself && (seconds < 0 || by_others == cluster.names().len() - 1)).then_some(())
        });
        let explained = explain(&cluster, &before.host);
        assert!(explained.contains(&words) && explained.contains("since"), "{explained}");
        begun.heal(&cluster).unwrap();
        if seconds > 0 {
            cluster.wait_clocks_right(TOLD_WITHIN).unwrap();
            let explained = explain(&cluster, &before.host);
            assert!(!explained.contains("those of most nodes"), "{explained}");
        }
    }
    cluster.wait_clocks_right(TOLD_WITHIN).unwrap();
    let attempts = client.stop().unwrap();
    let failed: Vec<_> = attempts.iter().filter(|attempt| !attempt.is_good()).collect();
    assert!(failed.is_empty() && attempts.len() > 500, "{failed:?}");
    cluster.wait_redundant(TOLD_WITHIN).unwrap();
    assert_nothing_moved(&cluster, &before);
}

#[test]
fn an_agent_that_is_killed_while_its_clock_is_an_hour_off_comes_back_and_nothing_moves() {
    let (cluster, before) = up();
    for seconds in [-HOUR, HOUR] {
        let step = Trouble::ClockStep {
            host: before.host.clone(),
            seconds,
        };
        let begun = step.begin(&cluster).unwrap();
        for process in [Process::Agent, Process::Proxy] {
            let kill = Trouble::Kill {
                host: before.host.clone(),
                process,
            };
            assert!(kill.begin(&cluster).unwrap().did_something());
        }
        cluster.wait_redundant(TOLD_WITHIN).unwrap();
        assert_goes_by_its_clock(&cluster, &before.host);
        begun.heal(&cluster).unwrap();
    }
    assert_nothing_moved(&cluster, &before);
}

/// It makes certificates anew that have ended by its clock, and nobody else believes the new ones: they begin in a year.
#[test]
fn a_node_that_began_under_a_clock_a_year_ahead_is_back_when_the_clock_is_right() {
    let (cluster, before) = up();
    let mut others = cluster.names().iter().filter(|name| **name != before.host);
    let node = others.next_back().unwrap().clone();
    let step = Trouble::ClockStep {
        host: node.clone(),
        seconds: 400 * 24 * HOUR,
    };
    let begun = step.begin(&cluster).unwrap();
    let kill = Trouble::Kill {
        host: node.clone(),
        process: Process::Agent,
    };
    assert!(kill.begin(&cluster).unwrap().did_something());
    wait_for(&format!("{node} to be told offline"), || {
        let status = cluster.status(&before.host).ok()?;
        let seen = status.nodes.into_iter().find(|seen| seen.name.as_str() == node)?;
        (seen.state == api::NodeState::Offline).then_some(())
    });
    begun.heal(&cluster).unwrap();
    cluster.wait_redundant(TOLD_WITHIN).unwrap();
    assert_nothing_moved(&cluster, &before);
}

/// Three hosts with wall clocks of their own, and who is active.
fn up() -> (Cluster, Active) {
    let mut settings = Settings::beside(PathBuf::from(env!("CARGO_BIN_EXE_understudy"))).unwrap();
    settings.profile = Some("lan".into());
    settings.own_wall_clocks = true;
    let cluster = Cluster::up(&settings).unwrap();
    let before = cluster.active().unwrap();
    (cluster, before)
}

fn assert_nothing_moved(cluster: &Cluster, before: &Active) {
    assert_eq!(cluster.active().unwrap(), *before);
    let verdict = cluster.verdict().unwrap();
    assert!(verdict.is_clean(), "{verdict}");
}

/// Our processes have libfaketime with them; what proves who was active has not.
fn assert_goes_by_its_clock(cluster: &Cluster, host: &str) {
    let has = |process: Process| {
        let mut pids = Vec::new();
        wait_for(&format!("{process} to run on {host}"), || {
            pids = cluster.pids(host, process).ok()?;
            (!pids.is_empty()).then_some(())
        });
        pids.iter().all(|pid| {
            let maps = cluster.host(host).unwrap().shell(&format!("cat /proc/{pid}/maps"));
            maps.unwrap().contains("libfaketime")
        })
    };
    for process in [Process::Agent, Process::Guard, Process::Proxy] {
        assert!(has(process), "{process} does not go by the clock of {host}");
    }
    assert!(!has(Process::Token) && !has(Process::Etcd));
}

fn explain(cluster: &Cluster, node: &str) -> String {
    let host = cluster.host(node).unwrap();
    cluster.must(host, &["explain", node], Duration::from_secs(10)).unwrap()
}

fn wait_for(what: &str, mut look: impl FnMut() -> Option<()>) {
    let until = Instant::now() + TOLD_WITHIN;
    while look().is_none() {
        assert!(Instant::now() < until, "waited {TOLD_WITHIN:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}
