//! A host's life: what it sees, what a boot renews, what is left of it.

use crate::{client_reaches, reaches, rig, wait_until};
use hosts::{Command, Ended, Error, Fault, Host, Rig, Spec};
use rustix::process::Signal;
use std::fs;
use std::path::PathBuf;
use std::process;
use std::time::{Duration, Instant};

#[test]
fn three_hosts_come_up_within_a_second_each_and_reach_one_another() {
    let begun = Instant::now();
    let rig = rig(&["a", "b", "c"]);
    let took = begun.elapsed();
    for from in rig.hosts() {
        for to in rig.hosts() {
            assert!(reaches(from, to), "{} to {}", from.name(), to.name());
        }
        assert!(client_reaches(&rig, from));
    }
    eprintln!("three hosts in {took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn a_host_is_a_machine_of_its_own() {
    let rig = rig(&["a", "b"]);
    let (a, b) = (rig.host("a").unwrap(), rig.host("b").unwrap());
    assert_eq!(a.shell("hostname").unwrap(), "a\n");
    assert_eq!(a.shell("cat /etc/hostname").unwrap(), "a\n");
    // Its own processes only, and process 1 is ours.
    assert_eq!(a.shell("echo /proc/[0-9]*").unwrap().matches("/proc/").count(), 2);
    // Its own files, below those of the machine.
    for place in ["/run/it", "/tmp/it", "/dev/shm/it", "/etc/it", "/var/lib/it"] {
        a.shell(&format!("echo of a > {place}")).unwrap();
        assert!(b.shell(&format!("cat {place}")).is_err(), "{place} of a is seen on b");
        assert!(!PathBuf::from(place).exists(), "{place} of a is seen on the machine");
    }
    // Who enters it by hand finds himself in it.
    let line = a
        .enter_with()
        .unwrap()
        .replace("exec bash", "hostname; pwd; grep ^0: /proc/self/cgroup");
    let inside = process::Command::new("sh").args(["-c", &line]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&inside.stdout), "a\n/root\n0::/\n", "{line}");
    // Its own network.
    assert_eq!(a.shell("ls /sys/class/net").unwrap(), "eth0\nlo\n");
    assert_ne!(
        a.shell("cat /etc/machine-id").unwrap(),
        b.shell("cat /etc/machine-id").unwrap()
    );
    // Its own cgroups: the root that it sees is its own, with the switches of one that is no root.
    assert_eq!(a.shell("grep ^0: /proc/self/cgroup").unwrap(), "0::/\n");
    let tree = a
        .shell("awk '$9 == \"cgroup2\" || $(NF-2) == \"cgroup2\" { print $5 }' /proc/self/mountinfo")
        .unwrap();
    let tree = tree.trim();
    a.shell(&format!(
        "mkdir {tree}/svc; sleep 60 & echo $! > {tree}/svc/cgroup.procs; grep -q . {tree}/svc/cgroup.procs"
    ))
    .unwrap();
    assert!(a.cgroup().join("svc").is_dir());
    a.shell(&format!("echo 1 > {tree}/svc/cgroup.kill")).unwrap();
    // One folder is everybody's.
    let shared = rig.shared().join("note");
    a.shell(&format!("echo hello > {}", shared.display())).unwrap();
    assert_eq!(b.shell(&format!("cat {}", shared.display())).unwrap(), "hello\n");
    assert_eq!(fs::read_to_string(shared).unwrap(), "hello\n");
}

#[test]
fn commands_and_daemons_tell_how_they_ended() {
    let rig = rig(&["a"]);
    let a = rig.host("a").unwrap();
    let output = a.run(Command::shell("echo out; echo err >&2; exit 3")).unwrap();
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str(), output.ended),
        ("out\n", "err\n", Ended::Code(3))
    );
    let error = a.shell("echo why >&2; exit 4").unwrap_err().to_string();
    assert!(
        error.contains("on host `a`") && error.contains("status 4") && error.contains("why"),
        "{error}"
    );
    let echoed = a
        .check(Command::new(["cat"]).stdin("given").dir("/tmp").env("A", "b"))
        .unwrap();
    assert_eq!(echoed, "given");
    // One that never was, again and again: the reaper and the start must not take each other's children.
    for _ in 0..50 {
        let error = a.check(Command::new(["/no/such"])).unwrap_err();
        assert!(
            matches!(&error, Error::Init { said, .. } if said.contains("/no/such")),
            "{error}"
        );
    }
    let late = a
        .run_within(Command::shell("sleep 60 & sleep 60"), Duration::from_millis(50))
        .unwrap();
    assert_eq!(late.ended, Ended::TimedOut);
    wait_until("its group to be gone", || {
        a.shell("pgrep -c sleep || true").unwrap() == "0\n"
    });
    // A child left behind does not keep the answer back.
    let begun = Instant::now();
    assert_eq!(a.shell("sleep 5 & echo left").unwrap(), "left\n");
    assert!(begun.elapsed() < Duration::from_secs(3));

    let pid = a
        .start_daemon(
            Command::shell("echo up; trap 'exit 7' TERM; while :; do sleep 0.01; done"),
            "d",
        )
        .unwrap();
    wait_until("the daemon's first words", || a.log("d") == "up\n");
    assert_eq!(a.wait(pid, Duration::ZERO).unwrap(), None);
    a.signal(pid, Signal::TERM).unwrap();
    assert_eq!(a.wait(pid, Duration::from_secs(5)).unwrap(), Some(Ended::Code(7)));
    assert!(a.signal(1, Signal::TERM).is_err(), "the init is nobody's to signal");
}

#[test]
fn orphans_are_reaped() {
    let rig = rig(&["a"]);
    let a = rig.host("a").unwrap();
    a.shell("for i in 1 2 3 4 5; do sh -c 'sleep 0.05 &'; done").unwrap();
    let states = "cat /proc/[0-9]*/stat | awk '{ print $2 $3 }'";
    wait_until("the orphans to be gone", || {
        let states = a.shell(states).unwrap();
        !states.contains("(sleep)") && !states.contains(")Z")
    });
}

#[test]
fn a_power_loss_ends_all_and_a_boot_renews_what_a_boot_renews() {
    let rig = rig(&["a", "b"]);
    let (a, b) = (rig.host("a").unwrap(), rig.host("b").unwrap());
    let boot_id = |host: &Host| {
        host.shell("cat /proc/sys/kernel/random/boot_id")
            .unwrap()
            .trim()
            .to_owned()
    };
    let first = boot_id(a);
    assert_eq!(Some(&first), a.boot_id().as_ref());
    assert_eq!(boot_id(a), first);
    assert_ne!(boot_id(b), first);
    let machine_id = a.shell("cat /etc/machine-id").unwrap();
    let floating = rig.floating_address(0);
    a.shell(&format!(
        "ip address add {floating}/24 dev eth0; echo kept > /var/lib/kept; echo gone > /run/gone"
    ))
    .unwrap();
    a.start_daemon(Command::new(["sleep", "1000"]), "sleep").unwrap();
    let processes = fs::read_to_string(a.cgroup().join("cgroup.procs")).unwrap();
    assert!(processes.lines().count() >= 2, "{processes}");

    let loss = Fault::power_loss("a");
    rig.begin(&loss).unwrap();
    for pid in processes.lines() {
        assert!(!PathBuf::from(format!("/proc/{pid}")).exists(), "{pid} survived");
    }
    assert!(!reaches(b, a) && !a.is_on());
    assert!(matches!(a.shell("true"), Err(Error::Off { .. })));
    assert!(rig.begin(&loss).is_err(), "it has no power to lose");

    rig.heal(&loss).unwrap();
    wait_until("a to be reached again", || reaches(b, a));
    let second = boot_id(a);
    assert_ne!(first, second);
    assert_eq!(boot_id(a), second);
    assert_eq!(a.shell("cat /etc/machine-id").unwrap(), machine_id);
    assert_eq!(a.shell("cat /var/lib/kept").unwrap(), "kept\n");
    assert!(a.shell("cat /run/gone").is_err());
    assert!(
        !a.shell("ip address").unwrap().contains(&floating.to_string()),
        "the floating address came back by itself"
    );
}

#[test]
fn a_clock_can_be_ahead_but_the_wall_clock_is_everybodys() {
    let rig = Rig::create(&Spec::new(["a", "b"]).clock_offset_s("b", 5_000)).unwrap();
    let uptime = |host: &str| -> f64 {
        let text = rig.host(host).unwrap().shell("cat /proc/uptime").unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    };
    let ahead = uptime("b") - uptime("a");
    assert!((4_990.0..5_010.0).contains(&ahead), "{ahead}");
    let date = |host: &str| -> i64 {
        rig.host(host)
            .unwrap()
            .shell("date +%s")
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    };
    assert!((date("b") - date("a")).abs() < 30);
}

#[test]
fn a_dropped_rig_leaves_nothing() {
    let rig = Rig::create(&Spec::new(["a", "b"]).disk_bytes(16 << 20)).unwrap();
    let a = rig.host("a").unwrap();
    a.start_daemon(Command::new(["sleep", "1000"]), "sleep").unwrap();
    a.shell("mkdir -p $(awk '$(NF-2) == \"cgroup2\" { print $5 }' /proc/self/mountinfo)/deep/er")
        .unwrap();
    // In the worst state.
    rig.begin(&Fault::Pause { host: "a".into() }).unwrap();
    rig.begin(&Fault::DiskStall { host: "b".into() }).unwrap();
    let number = rig.number();
    assert_ne!(traces(number), Vec::<String>::new());
    drop(rig);
    assert_eq!(traces(number), Vec::<String>::new());
}

#[test]
fn what_a_killed_owner_left_is_swept_and_what_a_living_one_has_is_not() {
    let living = rig(&["a"]);
    // Another process of this program makes a rig and is killed, like a test that a user gave up.
    let mut owner = process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "life::owner_for_the_sweep", "--ignored", "--nocapture"])
        .stdout(process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(owner.stdout.take().unwrap()));
    let number: u32 = lines
        .find_map(|line| line.unwrap().strip_prefix("rig ").map(|number| number.parse().unwrap()))
        .unwrap();
    let hosts = traces(number)
        .into_iter()
        .filter(|trace| trace.starts_with("process"))
        .count();
    assert!(hosts >= 2, "{:?}", traces(number));
    owner.kill().unwrap();
    owner.wait().unwrap();
    wait_until("the hosts to end with their owner", || {
        !traces(number).iter().any(|trace| trace.starts_with("process"))
    });
    // Another test's rig may sweep it before us.
    hosts::sweep().unwrap();
    assert_eq!(traces(number), Vec::<String>::new());
    assert_eq!(living.host("a").unwrap().shell("echo alive").unwrap(), "alive\n");
}

#[test]
#[ignore = "run by the test of the sweep, which kills it"]
fn owner_for_the_sweep() {
    let rig = rig(&["a", "b"]);
    println!("\nrig {}", rig.number());
    std::thread::sleep(Duration::from_secs(60));
}

/// All that is left of a rig, wherever.
fn traces(number: u32) -> Vec<String> {
    let mut found = Vec::new();
    let mark = format!("us{number}-");
    for entry in fs::read_dir("/run/netns").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with(&mark) {
            found.push(format!("namespace {name}"));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let parts = [format!("/understudy-hosts/{number}/"), format!("/{mark}")];
    for line in mounts
        .lines()
        .filter(|line| parts.iter().any(|part| line.contains(part)))
    {
        found.push(format!("mount {line}"));
    }
    for folder in [
        "/var/tmp/understudy-hosts",
        "/dev/shm/understudy-hosts",
        "/sys/fs/cgroup/unified/understudy-hosts",
        "/sys/fs/cgroup/understudy-hosts",
    ] {
        let path = PathBuf::from(folder).join(number.to_string());
        if path.exists() {
            found.push(format!("folder {}", path.display()));
        }
    }
    let loops = fs::read_dir("/sys/block").unwrap().filter_map(|entry| {
        let file = entry.ok()?.path().join("loop/backing_file");
        fs::read_to_string(file).ok()
    });
    found.extend(
        loops
            .filter(|file| file.contains(&parts[0]))
            .map(|file| format!("loop device of {file}")),
    );
    for entry in fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        let environment = fs::read(path.join("environ")).unwrap_or_default();
        let plan = format!("UNDERSTUDY_HOSTS_PLAN=/var/tmp/understudy-hosts/{number}/");
        let cgroup = fs::read_to_string(path.join("cgroup")).unwrap_or_default();
        let within = environment.windows(plan.len()).any(|window| window == plan.as_bytes());
        if within || cgroup.contains(&format!("/understudy-hosts/{number}/")) {
            found.push(format!("process {}", path.display()));
        }
    }
    found
}
