//! How late a kill is: until the kernel has been told, from when on no instruction of the service runs, and until its last
//! process is gone, which it has to be given time on a processor for.

use crate::bench::until;
use crate::world::{Agent, Fenced, Group, SESSION, armament, timing};
use guard::fence::mark;
use guard::fence::protocol::{Armament, Reply, What};
use guard::fence::words::Policy;
use rustix::event::{PollFd, PollFlags, poll};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command};
use std::time::Duration;

const HARD: u64 = 120;
const TRIES: usize = 60;

/// Two busy processes for each processor, at ordinary priority.
struct Load(Vec<Child>);

impl Load {
    fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let spin = || Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        Self((0..2 * processors).map(|_| spin()).collect())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The clock of the measurement must not be late itself; what this thread starts is ordinary.
fn watch_in_real_time() {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let status = Command::new("chrt").args(["-R", "-f", "-p", "50", &thread]).status();
    let status = status.expect("chrt: apt-get install --no-install-recommends util-linux");
    assert!(status.success(), "this test needs root");
}

/// After the deadline.
struct Late {
    told: Duration,
    gone: Duration,
}

/// One kill by deadline.
fn one(agent: &mut Agent, epoch: u64, group: &Group) -> Late {
    let events = File::open(group.path.join("cgroup.events")).unwrap();
    let populated = || {
        let mut text = [0; 64];
        let length = events.read_at(&mut text, 0).unwrap();
        String::from_utf8_lossy(&text[..length]).contains("populated 1")
    };
    assert!(populated());
    // Fresh enough to be armed; its deadline is that of the next renewal.
    agent.renew();
    agent.arm(Armament {
        policy: Policy::Kill,
        ..armament(0, epoch, group)
    });
    let sent = mark();
    agent.client.renewed(SESSION, sent).unwrap();
    while populated() {
        poll(&mut [PollFd::new(&events, PollFlags::PRI)], None).unwrap();
    }
    let late = mark().held_for(sent).checked_sub(Duration::from_millis(HARD));
    let mut told = None;
    loop {
        match agent.next() {
            Reply::Event { what: What::Gone, .. } => break,
            Reply::Event {
                what: What::Fired,
                late_us,
                ..
            } => told = late_us.map(Duration::from_micros),
            _ => {}
        }
    }
    Late {
        told: told.expect("it says how late it was"),
        gone: late.expect("killed before its deadline"),
    }
}

struct Figures {
    p50: Duration,
    p99: Duration,
}

fn figures(what: &str, late: &[Late]) -> (Figures, Figures) {
    let of = |phase: &str, pick: fn(&Late) -> Duration| {
        let mut late: Vec<Duration> = late.iter().map(pick).collect();
        late.sort();
        let at = |percent: usize| late[(late.len() * percent / 100).min(late.len() - 1)];
        let (p50, p99, max) = (at(50), at(99), late[late.len() - 1]);
        println!(
            "{what}, {phase}: p50 {p50:.2?}  p99 {p99:.2?}  max {max:.2?}  of {}",
            late.len()
        );
        Figures { p50, p99 }
    };
    (of("kernel told", |late| late.told), of("all gone", |late| late.gone))
}

fn measure(options: &[&str], tries: usize, processes: usize) -> Vec<Late> {
    let fenced = Fenced::new(options);
    let (mut agent, _) = fenced.agent_with(timing(100, HARD));
    (1..=tries as u64)
        .map(|epoch| {
            let mut group = Group::new();
            group.run(&format!(
                "n=0; while [ $n -lt {processes} ]; do sleep 600 & n=$((n+1)); done; wait"
            ));
            until("all run", || group.processes() > processes);
            one(&mut agent, epoch, &group)
        })
        .collect()
}

#[test]
fn kills_are_in_time_under_load_in_real_time() {
    watch_in_real_time();
    figures("idle, SCHED_FIFO", &measure(&[], TRIES, 4));
    let _load = Load::new();
    let (ordinary, _) = figures("loaded, ordinary", &measure(&["--ordinary"], TRIES, 4));
    let (realtime, gone) = figures("loaded, SCHED_FIFO", &measure(&[], TRIES, 4));
    // J and K of the quickest profile are 40 and 100 ms; the host of this machine and other programs take their share.
    assert!(realtime.p50 < Duration::from_millis(5), "{:?}", realtime.p50);
    assert!(realtime.p99 < Duration::from_millis(40), "{:?}", realtime.p99);
    assert!(
        realtime.p50 <= ordinary.p50 + Duration::from_millis(1),
        "real time made it later"
    );
    assert!(
        gone.p50 < Duration::from_millis(100) && gone.p99 < Duration::from_millis(500),
        "{:?}",
        gone.p99
    );
}

#[test]
fn a_thousand_processes_are_killed_within_their_budget() {
    watch_in_real_time();
    let (_, gone) = figures("1000 processes", &measure(&[], 5, 1_000));
    // K: 100 ms, and 50 µs for each process; twice that, for a machine that is shared.
    assert!(gone.p50 < Duration::from_millis(300), "{:?}", gone.p50);
}
