//! Each fault does what it says, to whom it says, and heals.

use crate::{client_reaches, reaches, rig, wait_until};
use hosts::{Command, Error, Fault, Host, Rig, Spec};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// All pairs of ends of which the first hears from the second, by datagrams, which need only one direction.
fn heard(rig: &Rig, from: &str, to: &str) -> bool {
    let (from, to) = (rig.host(from).unwrap(), rig.host(to).unwrap());
    // Addresses of the neighbours are fixed, or the question for them would need the other direction.
    let mac = |host: &Host| host.shell("cat /sys/class/net/eth0/address").unwrap().trim().to_owned();
    let line = format!(
        "ip neighbour replace {} lladdr {} dev eth0 nud permanent",
        to.address(),
        mac(to)
    );
    from.shell(&line).unwrap();
    let port = 20_000 + fastrand::u16(..20_000);
    let listen = format!(
        "import socket\ns=socket.socket(2,2)\ns.bind(('',{port}))\nopen('/run/bound{port}','w')\ns.settimeout(60)\ns.recv(9)"
    );
    let listener = to
        .start_daemon(Command::new(["python3", "-c", &listen]), "listen")
        .unwrap();
    wait_until("the listener", || {
        to.run(Command::new(["test", "-e", &format!("/run/bound{port}")]))
            .unwrap()
            .ended
            .is_success()
    });
    let send = format!(
        "import socket\ns=socket.socket(2,2)\n[s.sendto(b'x',('{}',{port})) for _ in range(3)]",
        to.address()
    );
    from.check(Command::new(["python3", "-c", &send])).unwrap();
    // They are sent; what arrives has arrived, and only the listener may still have to be scheduled.
    match to.wait(listener, Duration::from_secs(2)).unwrap() {
        Some(ended) => ended.is_success(),
        None => {
            to.signal(listener, rustix::process::Signal::KILL).unwrap();
            false
        }
    }
}

#[test]
fn a_link_that_is_down_is_seen_by_its_host_and_a_cut_path_is_not() {
    let rig = rig(&["a", "b", "c"]);
    let [a, b, c] = ["a", "b", "c"].map(|name| rig.host(name).unwrap());
    let carrier = || a.shell("cat /sys/class/net/eth0/carrier").unwrap();
    for (fault, seen) in [
        (Fault::LinkDown { end: "a".into() }, "0\n"),
        (Fault::PathCut { end: "a".into() }, "1\n"),
    ] {
        rig.begin(&fault).unwrap();
        wait_until("the carrier to be as it is", || carrier() == seen);
        assert!(!reaches(a, b) && !reaches(b, a) && !client_reaches(&rig, a), "{fault}");
        assert!(reaches(b, c) && client_reaches(&rig, b), "{fault}");
        assert_eq!(rig.faults(), std::slice::from_ref(&fault));
        rig.heal(&fault).unwrap();
        wait_until("a to be reached", || {
            reaches(a, b) && reaches(b, a) && client_reaches(&rig, a)
        });
        assert_eq!(carrier(), "1\n");
    }
}

#[test]
fn a_one_way_cut_stops_one_direction_only() {
    let rig = rig(&["a", "b"]);
    let cut = Fault::OneWayCut {
        from: "a".into(),
        to: "b".into(),
    };
    rig.begin(&cut).unwrap();
    assert!(!heard(&rig, "a", "b"));
    assert!(heard(&rig, "b", "a"));
    assert!(client_reaches(&rig, rig.host("a").unwrap()) && client_reaches(&rig, rig.host("b").unwrap()));
    rig.heal(&cut).unwrap();
    assert!(heard(&rig, "a", "b"));
}

#[test]
fn a_partial_partition_leaves_those_in_no_part_alone() {
    let rig = rig(&["a", "b", "c"]);
    let [a, b, c] = ["a", "b", "c"].map(|name| rig.host(name).unwrap());
    let partition = Fault::partition([["a"], ["b"]]);
    rig.begin(&partition).unwrap();
    assert!(!reaches(a, b) && !reaches(b, a));
    assert!(reaches(a, c) && reaches(b, c) && client_reaches(&rig, a));
    // Faults add up, and each heals alone.
    let from_clients = Fault::partition([vec!["a", "b"], vec!["client"]]);
    rig.begin(&from_clients).unwrap();
    assert!(!client_reaches(&rig, a) && client_reaches(&rig, c) && !reaches(a, b));
    rig.heal(&partition).unwrap();
    wait_until("a to reach b", || reaches(a, b));
    assert!(!client_reaches(&rig, a));
    rig.heal_all().unwrap();
    wait_until("the client to reach a", || client_reaches(&rig, a));
    assert!(rig.faults().is_empty());
}

#[test]
fn about_as_many_frames_are_lost_as_said() {
    let rig = rig(&["a", "b"]);
    let a = rig.host("a").unwrap();
    let lost = || {
        let ping = "ping -n -q -A -c 400 -i 0.002 -W 0.05 b || true";
        let text = a.shell(ping).unwrap();
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let place = words.iter().position(|word| word.ends_with('%')).unwrap();
        words[place].trim_end_matches('%').parse::<f64>().unwrap()
    };
    assert!(lost() < 1.0);
    let loss = Fault::Loss {
        end: "a".into(),
        permille: 200,
    };
    rig.begin(&loss).unwrap();
    // Out and back: 1 - 0.8².
    let share = lost();
    assert!((25.0..47.0).contains(&share), "{share} %");
    rig.heal(&loss).unwrap();
    assert!(lost() < 1.0);
}

#[test]
fn stopped_killed_and_paused_processes_do_nothing() {
    let rig = rig(&["a"]);
    let a = rig.host("a").unwrap();
    let counter = "i=0; while :; do i=$((i+1)); echo $i > /run/count; sleep 0.002; done";
    let start = || a.start_daemon(Command::shell(counter), "count").unwrap();
    // Read from outside: the host itself may be paused.
    let init = a.init_pid().unwrap();
    let count = || std::fs::read_to_string(format!("/proc/{init}/root/run/count")).unwrap_or_default();
    let counts = || {
        let before = count();
        std::thread::sleep(Duration::from_millis(100));
        count() != before
    };
    let pid = start();
    wait_until("the counter", counts);
    for fault in [Fault::Stop { host: "a".into(), pid }, Fault::Pause { host: "a".into() }] {
        rig.begin(&fault).unwrap();
        assert!(!counts(), "{fault}");
        assert!(client_reaches(&rig, a), "the kernel goes on");
        rig.heal(&fault).unwrap();
        wait_until("the counter to go on", counts);
    }
    let kill = Fault::Kill { host: "a".into(), pid };
    rig.begin(&kill).unwrap();
    assert_eq!(
        a.wait(pid, Duration::from_secs(5)).unwrap(),
        Some(hosts::Ended::Signal(9))
    );
    assert!(!counts());
    rig.heal(&kill).unwrap();
    // A paused host can lose its power.
    rig.begin(&Fault::Pause { host: "a".into() }).unwrap();
    rig.begin(&Fault::power_loss("a")).unwrap();
    rig.heal_all().unwrap();
    assert_eq!(a.shell("echo up").unwrap(), "up\n");
    assert!(rig.faults().is_empty());
}

#[test]
fn hogs_use_processors_up_until_they_are_taken_away() {
    let rig = rig(&["a"]);
    let a = rig.host("a").unwrap();
    let hogs = Fault::CpuHogs {
        host: "a".into(),
        count: 2,
    };
    let busy = || {
        a.shell("cat /proc/[0-9]*/stat | awk '{ if ($3 == \"R\" && $14 > 5) n++ } END { print n+0 }'")
            .unwrap()
    };
    rig.begin(&hogs).unwrap();
    wait_until("two hogs", || busy() == "2\n");
    rig.heal(&hogs).unwrap();
    wait_until("none", || busy() == "0\n");
}

#[test]
fn a_full_disk_refuses_and_a_stalled_one_keeps_waiting() {
    let rig = Rig::create(&Spec::new(["a", "b"]).disk_bytes(24 << 20)).unwrap();
    let [a, b] = ["a", "b"].map(|name| rig.host(name).unwrap());
    let write = "dd if=/dev/zero of=/var/lib/data bs=64k count=16 conv=fsync 2>&1";
    a.shell(write).unwrap();
    a.shell("rm /var/lib/data").unwrap();
    let full = Fault::DiskFull {
        host: "a".into(),
        free_bytes: 64 << 10,
    };
    rig.begin(&full).unwrap();
    let error = a.shell(write).unwrap_err().to_string();
    assert!(error.contains("No space left"), "{error}");
    b.shell(write).unwrap();
    a.shell("rm /var/lib/data").unwrap();
    rig.heal(&full).unwrap();
    a.shell(write).unwrap();

    let stall = Fault::DiskStall { host: "a".into() };
    rig.begin(&stall).unwrap();
    // Not through a log, which would have to be written to the same disk.
    let writer = a.run_within(
        Command::shell("(echo x > /var/lib/late; sync /var/lib/late) & sleep 0.3; kill -0 $!"),
        Duration::from_secs(5),
    );
    assert!(writer.unwrap().ended.is_success(), "the write came back");
    b.shell(write).unwrap();
    rig.heal(&stall).unwrap();
    wait_until("the write that waited", || {
        a.shell("cat /var/lib/late").is_ok_and(|text| text == "x\n")
    });

    // A host with a stalled disk can lose its power.
    rig.begin(&stall).unwrap();
    a.shell("(echo y > /var/lib/lost; sync) & sleep 0.05").unwrap();
    let begun = Instant::now();
    rig.begin(&Fault::power_loss("a")).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
    rig.heal_all().unwrap();
    a.shell(write).unwrap();
}

#[test]
fn what_is_no_fault_is_refused() {
    let rig = rig(&["a", "b"]);
    let part = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    for fault in [
        Fault::OneWayCut {
            from: "a".into(),
            to: "a".into(),
        },
        Fault::Loss {
            end: "a".into(),
            permille: 0,
        },
        Fault::Partition {
            parts: vec![part(&["a"])],
        },
        Fault::Partition {
            parts: vec![part(&["a"]), part(&["a", "b"])],
        },
        Fault::CpuHogs {
            host: "a".into(),
            count: 0,
        },
    ] {
        assert!(matches!(rig.begin(&fault), Err(Error::Fault { .. })), "{fault}");
    }
    assert!(matches!(rig.begin(&Fault::power_loss("x")), Err(Error::Unknown { .. })));
    assert!(matches!(
        rig.begin(&Fault::power_loss("client")),
        Err(Error::Unknown { .. })
    ));
    assert!(matches!(
        rig.begin(&Fault::DiskStall { host: "a".into() }),
        Err(Error::NoDisk { .. })
    ));
    let step = |seconds| Fault::ClockStep {
        host: "a".into(),
        seconds,
    };
    assert!(matches!(rig.begin(&step(1)), Err(Error::NoClock { .. })));
    for far in [0, i64::MIN, i64::MAX] {
        assert!(matches!(rig.begin(&step(far)), Err(Error::Fault { .. })), "{far}");
    }
    assert!(matches!(rig.heal(&Fault::power_loss("a")), Err(Error::Fault { .. })));
    assert!(rig.faults().is_empty());
}
