//! What becomes of processes when renewals stop.

use crate::bench::{kill, until};
use crate::world::{Fenced, Group, armament, slot, timing};
use guard::fence::mark;
use guard::fence::protocol::{Armament, What};
use guard::fence::words::{Policy, State};
use model::{Mark, Millis};
use std::fs;
use std::time::Duration;

/// J and what a test on a shared machine may lose on top.
const LATE: Duration = Duration::from_millis(500);

#[test]
fn a_forking_tree_is_frozen_at_the_soft_deadline_and_killed_at_the_hard_one() {
    let fenced = Fenced::new(&[]);
    let mut group = Group::new();
    let stamps = fenced.bench.path("stamps");
    group.fork_for_ever(&stamps);
    let (mut agent, _) = fenced.agent_with(timing(400, 900));
    assert_eq!(agent.arm(armament(0, 1, &group)), State::Armed);
    let sent = agent.renew();

    assert_eq!(agent.event(), What::Frozen);
    let frozen = mark().held_for(sent);
    assert!(
        frozen >= Duration::from_millis(400) && frozen < Duration::from_millis(400) + LATE,
        "{frozen:?}"
    );
    until("all are frozen", || group.events().frozen);
    let written = fs::metadata(&stamps).unwrap().len();
    assert!(group.processes() >= 5, "the freeze killed");

    assert_eq!(agent.event(), What::Fired);
    let fired = mark().held_for(sent);
    assert!(
        fired >= Duration::from_millis(900) && fired < Duration::from_millis(900) + LATE,
        "{fired:?}"
    );
    assert_eq!(agent.event(), What::Gone);
    assert!(!group.events().populated);
    assert_eq!(
        fs::metadata(&stamps).unwrap().len(),
        written,
        "it ran after it was frozen"
    );
}

#[test]
fn a_renewal_between_the_deadlines_thaws() {
    let fenced = Fenced::new(&[]);
    let mut group = Group::new();
    let stamps = fenced.bench.path("stamps");
    group.fork_for_ever(&stamps);
    let (mut agent, _) = fenced.agent_with(timing(400, 5_000));
    agent.arm(armament(0, 1, &group));
    assert_eq!(agent.event(), What::Frozen);
    until("all are frozen", || group.events().frozen);
    let written = || fs::metadata(&stamps).unwrap().len();
    let before = written();
    // An answer that comes so late that its deadline has passed already changes nothing.
    agent.client.renewed(crate::world::SESSION, an_old_mark()).unwrap();
    assert_eq!(agent.within(Duration::from_millis(100)), None);
    agent.renew();
    assert_eq!(agent.event(), What::Thawed { address_removed: false });
    until("it goes on", || written() > before);
    assert_eq!(agent.event(), What::Frozen);
}

#[test]
fn renewals_keep_it_running_for_many_deadlines() {
    let fenced = Fenced::new(&[]);
    let mut group = Group::new();
    group.fork_for_ever(&fenced.bench.path("stamps"));
    let (mut agent, _) = fenced.agent_with(timing(2_000, 2_500));
    agent.arm(armament(0, 1, &group));
    for _ in 0..40 {
        agent.renew();
        assert_eq!(agent.within(Duration::from_millis(100)), None);
    }
    assert!(!group.events().frozen);
}

#[test]
fn under_policy_kill_the_agent_is_told_to_finish_and_then_it_is_killed() {
    let fenced = Fenced::new(&[]);
    let mut group = Group::new();
    group.run("sleep 600 & wait");
    let (mut agent, _) = fenced.agent_with(timing(300, 1_200));
    agent.arm(Armament {
        policy: Policy::Kill,
        ..armament(0, 1, &group)
    });
    assert_eq!(agent.event(), What::Quiesce);
    assert!(!group.events().frozen);
    agent.renew();
    assert_eq!(agent.event(), What::Resumed);
    assert_eq!(agent.event(), What::Quiesce);
    assert_eq!(agent.event(), What::Fired);
    assert_eq!(agent.event(), What::Gone);
}

#[test]
fn what_is_surely_frozen_outlives_the_hard_deadline_if_that_was_allowed() {
    let fenced = Fenced::new(&[]);
    let mut group = Group::new();
    group.run("sleep 600 & wait");
    until("it runs", || group.processes() >= 2);
    let (mut agent, _) = fenced.agent_with(timing(300, 600));
    agent.arm(Armament {
        frozen_max: Millis(2_500),
        ..armament(0, 1, &group)
    });
    assert_eq!(agent.event(), What::Frozen);
    assert_eq!(
        agent.within(Duration::from_millis(800)),
        None,
        "killed although it cannot act"
    );
    agent.renew();
    assert_eq!(agent.event(), What::Thawed { address_removed: true });
    assert_eq!(agent.event(), What::Frozen);
    // Somebody thaws it by hand, after the hard deadline.
    assert_eq!(agent.within(Duration::from_millis(600)), None);
    fs::write(group.path.join("cgroup.freeze"), "0").unwrap();
    assert_eq!(agent.event(), What::Fired);
    assert_eq!(agent.event(), What::Gone);
}

#[test]
fn a_late_renewal_does_not_revive_and_only_a_higher_epoch_is_armed() {
    let fenced = Fenced::new(&[]);
    let mut group = Group::new();
    group.run("sleep 600 & wait");
    let (mut agent, _) = fenced.agent_with(timing(200, 300));
    agent.arm(armament(0, 4, &group));
    assert_eq!(
        [agent.event(), agent.event(), agent.event()],
        [What::Frozen, What::Fired, What::Gone]
    );
    agent.renew();
    assert_eq!(agent.within(Duration::from_millis(100)), None);
    agent.client.arm(armament(0, 4, &group)).unwrap();
    assert!(agent.refused().contains("only a higher one"));
    let mut next = Group::new();
    next.run("sleep 600 & wait");
    until("it runs", || next.processes() >= 1);
    agent.renew();
    assert_eq!(agent.arm(armament(0, 5, &next)), State::Armed);
    assert!(next.events().populated);
}

#[test]
fn what_cannot_be_fenced_is_refused_with_the_reason() {
    let fenced = Fenced::new(&[]);
    let (mut agent, _) = fenced.agent_with(timing(5_000, 6_000));
    let group = Group::new();
    let refused = |agent: &mut crate::world::Agent, cgroup: &str| {
        agent
            .client
            .arm(Armament {
                cgroup: cgroup.into(),
                ..armament(0, 1, &group)
            })
            .unwrap();
        agent.refused()
    };
    assert!(refused(&mut agent, "/tmp").contains("cgroup.events"));
    let own = guard::fence::cgroup::mount_point().unwrap();
    let why = refused(&mut agent, own.to_str().unwrap());
    assert!(
        why.contains("cgroup.events") || why.contains("contains the guard itself"),
        "{why}"
    );
    // A version 1 hierarchy, on machines that have both.
    assert!(!refused(&mut agent, "/sys/fs/cgroup/cpu").is_empty());
    agent.client.disarm(slot(3)).unwrap();
    assert!(matches!(agent.next(), guard::fence::protocol::Reply::Done { .. }));
}

#[test]
fn the_deadline_is_kept_when_the_agent_dies_with_its_connection() {
    let fenced = Fenced::new(&[]);
    let mut group = Group::new();
    group.run("sleep 600 & wait");
    let (mut agent, _) = fenced.agent_with(timing(300, 600));
    agent.arm(armament(0, 1, &group));
    drop(agent);
    until("it is killed", || !group.events().populated);
}

#[test]
fn a_guard_that_was_stopped_for_long_fires_when_it_goes_on() {
    let fenced = Fenced::new(&[]);
    let mut group = Group::new();
    group.run("sleep 600 & wait");
    until("it runs", || group.processes() >= 2);
    let (mut agent, _) = fenced.agent_with(timing(300, 600));
    agent.arm(armament(0, 1, &group));
    crate::world::stop(fenced.guard.id());
    std::thread::sleep(Duration::from_millis(1_000));
    assert!(group.events().populated);
    kill("CONT", fenced.guard.id());
    assert_eq!(agent.event(), What::Fired);
    assert_eq!(agent.event(), What::Gone);
}

#[test]
fn renewals_that_gathered_while_the_guard_was_stopped_count() {
    let fenced = Fenced::new(&[]);
    let mut group = Group::new();
    group.run("sleep 600 & wait");
    until("it runs", || group.processes() >= 2);
    let (mut agent, _) = fenced.agent_with(timing(1_500, 2_000));
    agent.arm(armament(0, 1, &group));
    crate::world::stop(fenced.guard.id());
    for _ in 0..30 {
        agent.renew();
        std::thread::sleep(Duration::from_millis(100));
    }
    kill("CONT", fenced.guard.id());
    assert_eq!(
        agent.within(Duration::from_millis(500)),
        None,
        "its session lived all the time"
    );
    assert!(group.events().populated);
}

fn an_old_mark() -> Mark {
    let now = mark();
    let ns = 500_000_000;
    Mark {
        boot_ns: now.boot_ns - ns,
        raw_ns: now.raw_ns - ns,
    }
}
