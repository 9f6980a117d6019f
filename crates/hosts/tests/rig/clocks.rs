//! A wall clock is stepped, and no other clock and nobody else notices.

use crate::wait_until;
use hosts::{Command, Fault, Host, Rig, Spec};
use std::time::{SystemTime, UNIX_EPOCH};

const HOUR: i64 = 3_600;
/// How far apart two looks at two clocks may be on a busy machine, far below every step.
const NEAR_S: f64 = 30.0;

/// Says what the wall clock shows, and by how much it leads each clock that is not to be stepped.
const LOOK: &str = "import time\nnow = time.time()\nprint(now, *[now - time.clock_gettime(clock) for clock in \
                    (time.CLOCK_MONOTONIC, time.CLOCK_MONOTONIC_RAW, time.CLOCK_BOOTTIME)])";
/// The same clock as seen by one process all the while.
const WATCH: &str = "import os, select, time\nwhile True:\n    with open('/run/new', 'w') as file: file.write(str(time.time() - time.monotonic()))\n    \
                     os.rename('/run/new', '/run/lead')\n    select.select([], [], [], 0.005)";

fn step(host: &str, seconds: i64) -> Fault {
    Fault::ClockStep {
        host: host.into(),
        seconds,
    }
}

/// What a program sees that goes by the host's clock: the time, and the leads.
fn look(host: &Host, with_its_clock: bool) -> (f64, Vec<f64>) {
    let mut command = Command::new(["python3", "-c", LOOK]);
    for (name, value) in host.wall_clock_env().into_iter().filter(|_| with_its_clock) {
        command = command.env(name, value);
    }
    let said = host.check(command).unwrap();
    let mut numbers = said.split_ascii_whitespace().map(|word| word.parse().unwrap());
    (numbers.next().unwrap(), numbers.collect())
}

fn machine() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

fn is(found: f64, wanted: f64) -> bool {
    (found - wanted).abs() < NEAR_S
}

#[test]
fn a_step_is_seen_at_once_by_those_who_go_by_the_hosts_wall_clock_and_by_no_other_clock() {
    let rig = Rig::create(&Spec::new(["a", "b"]).own_wall_clocks()).unwrap();
    let (a, b) = (rig.host("a").unwrap(), rig.host("b").unwrap());
    let (_, leads) = look(a, true);
    let mut watch = Command::new(["python3", "-c", WATCH]);
    for (name, value) in a.wall_clock_env() {
        watch = watch.env(name, value);
    }
    a.start_daemon(watch, "watch").unwrap();
    let lead = || a.shell("cat /run/lead").ok()?.trim().parse::<f64>().ok();
    wait_until("the watch", || lead().is_some_and(|lead| is(lead, leads[0])));
    for seconds in [HOUR, -HOUR] {
        let step = step("a", seconds);
        rig.begin(&step).unwrap();
        let by = seconds as f64;
        let (time, now) = look(a, true);
        assert!(is(time, machine() + by), "{time}");
        // Only the wall clock went: its lead of each other clock grew by as much.
        let moved = now.iter().zip(&leads).all(|(now, before)| is(*now, before + by));
        assert!(moved && now.len() == 3, "{now:?}, {leads:?}");
        wait_until("a process that runs to see it", || {
            lead().is_some_and(|lead| is(lead, leads[0] + by))
        });
        assert!(is(look(a, false).0, machine()) && is(look(b, true).0, machine()));
        rig.heal(&step).unwrap();
        assert!(is(look(a, true).0, machine()));
        wait_until("it to see the step back", || {
            lead().is_some_and(|lead| is(lead, leads[0]))
        });
    }
}

#[test]
fn steps_add_up_and_outlive_a_power_loss() {
    let rig = Rig::create(&Spec::new(["a"]).own_wall_clocks()).unwrap();
    let a = rig.host("a").unwrap();
    let (forward, back) = (step("a", 2 * HOUR), step("a", -HOUR));
    rig.begin(&forward).unwrap();
    rig.begin(&Fault::power_loss("a")).unwrap();
    rig.begin(&back).unwrap();
    rig.heal(&Fault::power_loss("a")).unwrap();
    assert_eq!(rig.faults(), [back.clone(), forward.clone()]);
    assert!(is(look(a, true).0, machine() + HOUR as f64));
    rig.heal(&forward).unwrap();
    assert!(is(look(a, true).0, machine() - HOUR as f64));
    rig.heal_all().unwrap();
    assert!(is(look(a, true).0, machine()));
}
