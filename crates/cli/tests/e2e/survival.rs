//! Agent, guard and proxy die; services do not notice.

use super::{HEAL, PROGRAM, Shop, assert_no_failures, kill};
use bench::process;
use bench::rig::{self, Rig};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::time::Duration;

/// Kills one of our own processes under load and waits until another one is in its place.
async fn survive(pick: impl Fn(&rig::Own) -> u32) {
    let shop = Shop::up();
    let before = rig::pids(&shop.rig.status().unwrap());
    let load = shop.load(shop.web, "/");
    for _ in 0..3 {
        let own = shop.rig.own().unwrap();
        kill(pick(&own));
        until_back(&shop.rig, |now| pick(now) != pick(&own));
        shop.until_redundant_without("web", &[]);
    }
    let after = rig::pids(&shop.rig.status().unwrap());
    assert_eq!(before, after, "a service was restarted");
    assert_no_failures(&load.finish().await);
}

fn until_back(rig: &Rig, is_back: impl Fn(&rig::Own) -> bool) {
    let back = || {
        rig.own()
            .is_ok_and(|own| own.proxy.is_some() && own.pids().into_iter().all(process::is_alive) && is_back(&own))
    };
    let begun = std::time::Instant::now();
    while !back() {
        assert!(begun.elapsed() < HEAL, "not back within {HEAL:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_comes_back_and_adopts() {
    survive(|own| own.agent).await;
}

/// Nobody starts again what still is there: the guard sees that it hangs, and ends it.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_hangs_is_replaced_and_what_died_meanwhile_serves_again() {
    let shop = Shop::up();
    shop.until_redundant_without("db", &[]);
    let status = shop.rig.status().unwrap();
    let (lost, active) = rig::holder(&status, "db", 0).unwrap();
    let before = rig::pids(&status);
    let own = shop.rig.own().unwrap();
    process::signal(own.agent, Signal::STOP).unwrap();
    kill(active);
    until_back(&shop.rig, |now| now.agent != own.agent);
    shop.until_redundant_without("db", &[active]);
    let mut after = rig::pids(&shop.rig.status().unwrap());
    after.remove(&lost);
    for (instance, pid) in after {
        assert_eq!(before[&instance], pid, "{instance} was restarted");
    }
}

/// What is said first is as it was, if it is so: since when, why, and how far the outage is; and nothing is called redundant that was not
/// looked at again.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_status_of_an_agent_that_came_back_is_as_it_was_before() {
    let shop = Shop::up();
    shop.until_redundant_without("web", &[]);
    // A "since" that begins anew is younger than this.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = shop.rig.status().unwrap();
    let states_told = || {
        let output = shop.rig.run(&["events", "--json"]).unwrap();
        String::from_utf8_lossy(&output.stdout).matches("service-state").count()
    };
    let told_before = states_told();
    let agent = shop.rig.own().unwrap().agent;
    kill(agent);
    let begun = std::time::Instant::now();
    let first = loop {
        match shop.rig.status() {
            Ok(status) => break status,
            Err(_) => assert!(begun.elapsed() < HEAL, "not back within {HEAL:?}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_ne!(shop.rig.own().unwrap().agent, agent);
    let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_millisecond();
    let is_same = |before: &str, now: &str| at(before).abs_diff(at(now)) < 1_000;
    for (before, now) in before.services.iter().zip(&first.services) {
        assert_eq!((&before.name, &before.state), (&now.name, &now.state), "{now:?}");
        assert!(is_same(&before.since, &now.since), "{before:?}\n{now:?}");
        assert_eq!(before.because, now.because);
        assert_eq!(before.distance_to_outage, now.distance_to_outage, "{before:?}\n{now:?}");
        for (before, now) in before.slots.iter().zip(&now.slots) {
            assert!(is_same(&before.since, &now.since), "{before:?}\n{now:?}");
            assert_eq!(before.instance, now.instance);
        }
        for (before, now) in before.instances.iter().zip(&now.instances) {
            assert!(is_same(&before.since, &now.since), "{before:?}\n{now:?}");
            assert_eq!(before.because, now.because);
        }
    }
    assert!(first.distances_at.is_some(), "what else may take it down was reckoned");
    // That all is as before is no news.
    assert_eq!(states_told(), told_before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_guard_comes_back() {
    survive(|own| own.guard).await;
}

/// Connections that the proxy had are lost with it; these tests' requests are so short that few are. New ones wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_proxy_comes_back_on_the_same_sockets() {
    let shop = Shop::up();
    let before = rig::pids(&shop.rig.status().unwrap());
    let load = shop.load(shop.web, "/");
    let mut killed = 0;
    for _ in 0..3 {
        // Those that waited for the last one are answered by then.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let own = shop.rig.own().unwrap();
        kill(own.proxy.unwrap());
        killed += 1;
        until_back(&shop.rig, |now| now.proxy != own.proxy);
        shop.until_redundant_without("web", &[]);
    }
    assert_eq!(
        before,
        rig::pids(&shop.rig.status().unwrap()),
        "a service was restarted"
    );
    let report = load.finish().await;
    // At 200 a second and a millisecond each, one or two may have been on their way through it.
    assert!(report.failed() <= 3 * killed, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_active_that_dies_while_the_agent_is_dead_is_replaced_when_it_is_back() {
    let shop = Shop::up();
    let (instance, pid) = shop.holder("db");
    let own = shop.rig.own().unwrap();
    // The guard cannot start another agent as long as it is stopped.
    process::signal(own.guard, Signal::STOP).unwrap();
    kill(own.agent);
    kill(pid);
    process::signal(own.guard, Signal::CONT).unwrap();
    until_back(&shop.rig, |now| now.agent != own.agent);
    shop.until_redundant_without("db", &[pid]);
    assert_ne!(
        shop.holder("db").0,
        instance,
        "the standby had all the data and was there first"
    );
    shop.assert_never_two_actives();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_agent_judges_nobody_when_it_goes_on() {
    let shop = Shop::up();
    let before = rig::pids(&shop.rig.status().unwrap());
    let load = shop.load(shop.web, "/");
    let agent = shop.rig.own().unwrap().agent;
    process::signal(agent, Signal::STOP).unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    process::signal(agent, Signal::CONT).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let status = shop.rig.status().unwrap();
    assert_eq!(before, rig::pids(&status), "a service was restarted");
    assert!(
        status.services.iter().all(|service| service.state == "redundant"),
        "{status:?}"
    );
    assert_no_failures(&load.finish().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_binary_takes_over_at_the_next_start_of_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("understudy");
    std::fs::copy(PROGRAM, &program).unwrap();
    let file = "name = \"upgrade\"\n[service.sleeper]\ncommand = [\"sleep\", \"1000\"]\n";
    let rig = Rig::up(&program, "upgrade", file).unwrap();
    let before = rig::pids(&rig.status().unwrap());
    let own = rig.own().unwrap();
    // As a package manager does it: the old file is replaced by a rename, not written over.
    let new = folder.path().join("understudy.new");
    std::fs::copy(PROGRAM, &new).unwrap();
    std::fs::rename(&new, &program).unwrap();
    kill(own.agent);
    until_back(&rig, |now| now.agent != own.agent);
    let exe = std::fs::read_link(format!("/proc/{}/exe", rig.own().unwrap().agent)).unwrap();
    assert_eq!(exe, program, "the new agent is the old program");
    assert_eq!(before, rig::pids(&rig.status().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_of_the_same_cluster_is_refused() {
    let shop = Shop::up();
    let refused = shop.rig.run(&["agent"]).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        super::text(&refused.stderr).contains("held by process"),
        "{}",
        super::text(&refused.stderr)
    );
    let pids: BTreeMap<String, u32> = rig::pids(&shop.rig.status().unwrap());
    assert_eq!(pids.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_proxy_is_replaced() {
    let shop = Shop::up();
    let own = shop.rig.own().unwrap();
    process::signal(own.proxy.unwrap(), Signal::STOP).unwrap();
    until_back(&shop.rig, |now| now.proxy != own.proxy);
    let plan = bench::load::Plan {
        duration: Duration::from_millis(500),
        ..bench::load::Plan::get(shop.web, "/", 100.0)
    };
    assert_no_failures(&bench::load::run(plan).await.unwrap());
    let events = super::text(&shop.rig.run(&["events"]).unwrap().stdout);
    assert!(
        events.contains("the proxy hung and was killed") && !events.contains("the proxy died"),
        "{events}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_outlives_the_agent() {
    let shop = Shop::up();
    assert!(shop.rig.run(&["pause"]).unwrap().status.success());
    let own = shop.rig.own().unwrap();
    kill(own.agent);
    until_back(&shop.rig, |now| now.agent != own.agent);
    let (_, pid) = shop.holder("web");
    kill(pid);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let status = shop.rig.status().unwrap();
    assert!(status.paused.is_some(), "the pause was forgotten");
    assert_eq!(rig::pids(&status).len(), 4, "something was started in a pause");
    assert!(shop.rig.run(&["resume"]).unwrap().status.success());
    shop.until_redundant_without("web", &[pid]);
}
