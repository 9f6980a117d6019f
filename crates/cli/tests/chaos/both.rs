//! Guard and agent of the active's host stand still at once, and nothing of what runs beside them: the kernel ends it before another one acts.

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
    let mut settings = Settings::beside(PathBuf::from(env!("CARGO_BIN_EXE_understudy"))).unwrap();
    settings.profile = Some("lan".into());
    let cluster = Cluster::up(&settings).unwrap();
    let before = cluster.active().unwrap();
    let stop = |process| Trouble::Stop {
        host: before.host.clone(),
        process,
    };
    let other = cluster.names().iter().find(|host| **host != before.host).unwrap();
    let plan = Plan::new(cluster.target(other, TOKEN_PORT).unwrap());
    let troubles = vec![stop(Process::Agent), stop(Process::Guard)];
    // The witness reads what each process stamped that could act, whatever became of its traffic.
    let round = play(&cluster, troubles, HOLD, BACK_WITHIN, plan).unwrap();
    assert!(round.epochs.1 > round.epochs.0, "nobody took over: {round:?}");
    assert!(
        round.outage.length.is_some_and(|outage| outage < HOLD),
        "{:?}",
        round.outage
    );
    assert_ne!(cluster.active().unwrap().host, before.host);
}
