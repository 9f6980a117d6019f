//! Guard and agent of the active's host stand still at once, or the agent is killed beside a guard that stands still, and nothing happens to what
//! runs beside them: the kernel ends it before another one acts.

use bench::chaos::play;
use bench::cluster::{Cluster, Process, Settings, TOKEN_PORT};
use bench::trouble::Trouble;
use hosts::client::Plan;
use std::path::PathBuf;
use std::time::Duration;

/// Longer than any takeover with timing `lan`.
const HOLD: Duration = Duration::from_secs(8);
const BACK_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn an_active_whose_agent_and_guard_stand_still_is_ended_before_another_one_acts() {
    is_ended(|host, process| Trouble::Stop { host, process });
}

/// The guard starts no other agent, and the service manager sees a guard that is there.
#[test]
fn an_active_whose_agent_is_killed_beside_a_guard_that_stands_still_is_ended_before_another_one_acts() {
    is_ended(|host, process| match process {
        Process::Agent => Trouble::Kill { host, process },
        _ => Trouble::Stop { host, process },
    });
}

/// The guard is stopped first.
fn is_ended(trouble: impl Fn(String, Process) -> Trouble) {
    let mut settings = Settings::beside(PathBuf::from(env!("CARGO_BIN_EXE_understudy"))).unwrap();
    settings.profile = Some("lan".into());
    let cluster = Cluster::up(&settings).unwrap();
    let before = cluster.active().unwrap();
    let other = cluster.names().iter().find(|host| **host != before.host).unwrap();
    let plan = Plan::new(cluster.target(other, TOKEN_PORT).unwrap());
    let troubles = [Process::Guard, Process::Agent].map(|process| trouble(before.host.clone(), process));
    // The witness reads what each process stamped that could act, whatever became of its traffic.
    let round = play(&cluster, troubles.into(), HOLD, BACK_WITHIN, plan).unwrap();
    assert!(round.epochs.1 > round.epochs.0, "nobody took over: {round:?}");
    assert!(
        round.outage.length.is_some_and(|outage| outage < HOLD),
        "{:?}",
        round.outage
    );
    assert_ne!(cluster.active().unwrap().host, before.host);
}
