//! The kernel's own deadline, with neither guard nor agent.

use crate::bench::{kill, until};
use crate::world::Group;
use guard::fence::{KernelDeadline, Pins, freeze_now, mark};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// What would be ended has been by then.
const SOON: Duration = Duration::from_millis(500);

fn in_ms(span: u64) -> u64 {
    mark().later(Duration::from_millis(span)).boot_ns
}

fn watched(group: &Group) -> KernelDeadline {
    let deadline = KernelDeadline::new().unwrap();
    deadline.watch(&group.path, None).unwrap().unwrap();
    deadline
}

/// One that wakes for a moment, again and again.
fn waking() -> Group {
    let mut group = Group::new();
    group.run("while :; do sleep 0.01; done");
    until("it runs", || group.processes() >= 1);
    group
}

fn is_there(group: &Group) -> bool {
    group.events().populated
}

#[test]
fn what_computes_is_ended_at_the_deadline_and_not_before() {
    let mut group = Group::new();
    group.run("while :; do :; done & while :; do :; done");
    until("it runs", || group.processes() >= 2);
    let deadline = watched(&group);
    std::thread::sleep(Duration::from_millis(200));
    assert!(is_there(&group), "no deadline was set");
    deadline.set(in_ms(5_000));
    std::thread::sleep(Duration::from_millis(200));
    assert!(is_there(&group));
    // Put off, as by a renewal, and then brought near.
    deadline.set(in_ms(60_000));
    let set_at = mark().boot_ns;
    deadline.set(in_ms(300));
    until("it is ended", || !is_there(&group));
    assert!(mark().boot_ns >= set_at + 300_000_000);
}

#[test]
fn what_wakes_for_a_moment_is_ended_at_that_moment() {
    let group = waking();
    let deadline = watched(&group);
    deadline.set(in_ms(0));
    until("it is ended", || !is_there(&group));
}

#[test]
fn what_is_below_it_is_ended_too_and_what_is_beside_it_is_not() {
    let (mut group, beside) = (Group::new(), waking());
    let below = group.path.join("below");
    std::fs::create_dir(&below).unwrap();
    group.run(&format!(
        "echo $$ > {}/cgroup.procs; while :; do sleep 0.01; done",
        below.display()
    ));
    let runs = || std::fs::read_to_string(below.join("cgroup.procs")).is_ok_and(|processes| !processes.is_empty());
    until("it runs", runs);
    let deadline = watched(&group);
    deadline.set(in_ms(0));
    until("it is ended", || !is_there(&group));
    assert!(is_there(&beside));
    std::fs::remove_dir(below).unwrap();
}

#[test]
fn what_stands_still_has_no_deadline_and_goes_on_with_a_later_one() {
    let group = waking();
    let deadline = watched(&group);
    freeze_now([group.path.as_path()]).unwrap();
    until("it stands still", || group.events().frozen);
    // A signal wakes it, within the kernel.
    deadline.lift();
    for pid in std::fs::read_to_string(group.path.join("cgroup.procs"))
        .unwrap()
        .lines()
    {
        kill("CONT", pid.parse().unwrap());
    }
    std::thread::sleep(SOON);
    assert!(is_there(&group));
    deadline.set(in_ms(60_000));
    std::fs::write(group.path.join("cgroup.freeze"), "0").unwrap();
    std::thread::sleep(SOON);
    assert!(is_there(&group));
    // Nobody keeps it any more.
    deadline.set(in_ms(100));
    drop(deadline);
    std::thread::sleep(SOON);
    assert!(is_there(&group));
}

#[test]
fn what_was_pinned_is_found_by_the_next_agent_and_goes_when_it_is_taken_back() {
    let (owner, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (pins, of_another) = (Pins::open(owner.path()).unwrap(), Pins::open(other.path()).unwrap());
    let (kept, again, gone) = (waking(), waking(), Group::new());
    for group in [&kept, &again, &gone] {
        let deadline = KernelDeadline::new().unwrap();
        deadline.watch(&group.path, Some(&pins)).unwrap().unwrap();
        deadline.set(in_ms(60_000));
        deadline.leave();
    }
    assert!(KernelDeadline::found(&of_another).unwrap().is_empty());
    let mut found = KernelDeadline::found(&pins).unwrap();
    found.sort_by_key(|(path, _)| *path != kept.path);
    let paths: Vec<_> = found.iter().map(|(path, _)| path).collect();
    assert_eq!(
        paths,
        [&kept.path, &again.path],
        "where nothing lives there is none any more"
    );
    let (_, second) = found.pop().unwrap();
    let (_, first) = found.pop().unwrap();
    // The one goes on for the next agent, the other is taken back.
    drop(second);
    until("it is taken back", || names_of(owner.path()) == 1);
    first.set(in_ms(0));
    until("it is ended", || !is_there(&kept));
    assert!(is_there(&again));
    drop(first);
    until("nothing is left", || names_of(owner.path()) == 0);
}

/// How many deadlines of an owner have a name.
fn names_of(owner: &Path) -> usize {
    let owner = std::fs::metadata(owner).unwrap();
    let folder = format!("/sys/fs/bpf/understudy/{:x}-{:x}", owner.dev(), owner.ino());
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

#[test]
fn what_was_pinned_ends_who_runs_though_nobody_holds_it() {
    let owner = tempfile::tempdir().unwrap();
    let pins = Pins::open(owner.path()).unwrap();
    let group = waking();
    let deadline = KernelDeadline::new().unwrap();
    deadline.set(in_ms(300));
    deadline.watch(&group.path, Some(&pins)).unwrap().unwrap();
    deadline.leave();
    assert!(is_there(&group), "not before its time");
    until("it is ended", || !is_there(&group));
    assert!(KernelDeadline::found(&pins).unwrap().is_empty());
    assert_eq!(names_of(owner.path()), 0);
}

#[test]
fn what_stands_still_while_there_is_no_agent_is_spared_by_the_next_one() {
    let owner = tempfile::tempdir().unwrap();
    let pins = Pins::open(owner.path()).unwrap();
    let (still, runs) = (waking(), waking());
    freeze_now([still.path.as_path()]).unwrap();
    until("it stands still", || still.events().frozen);
    for group in [&still, &runs] {
        let deadline = KernelDeadline::new().unwrap();
        deadline.set(in_ms(60_000));
        deadline.watch(&group.path, Some(&pins)).unwrap().unwrap();
        deadline.leave();
    }
    pins.lift_frozen();
    std::fs::write(still.path.join("cgroup.freeze"), "0").unwrap();
    for (cgroup, deadline) in KernelDeadline::found(&pins).unwrap() {
        assert_eq!(deadline.is_set(), cgroup == runs.path, "{}", cgroup.display());
    }
}
