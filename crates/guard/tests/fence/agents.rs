//! Agent and guard watch each other.

use crate::bench::{alive, kill, until};
use crate::world::{Agent, Fenced, Group, SESSION, armament, slot, timing};
use guard::client::{Client, Error};
use guard::fence::protocol::{Armament, Reply, What};
use guard::fence::words::State;
use guard::fence::{freeze_now, kill_now, mark};
use model::{Epoch, Millis};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// A guard whose agent renews the slot of `group` and sends heartbeats.
fn renewing(group: &Group, soft: u64, hard: u64) -> Fenced {
    let renewer = crate::bench::example("renewer");
    let script = format!(
        "exec {} $PWD/guard.sock {} {soft} {hard}",
        renewer.display(),
        group.path.display()
    );
    Fenced::with_agent(&script, &["--agent-timeout", "1500"])
}

fn sleeping() -> Group {
    let mut group = Group::new();
    group.run("sleep 600 & wait");
    until("it runs", || group.processes() >= 2);
    group
}

#[test]
fn a_hung_agent_is_replaced_and_the_next_one_adopts_what_runs() {
    let group = sleeping();
    let fenced = renewing(&group, 10_000, 12_000);
    let first = fenced.bench.starts(1)[0];
    until("it is armed", || fenced.bench.path("armed").exists());
    let stopped = Instant::now();
    crate::world::stop(first);
    let second = fenced.bench.starts(2)[1];
    let took = stopped.elapsed();
    assert!(took >= Duration::from_millis(1_300), "{took:?}");
    until("the first is gone", || !alive(first));
    assert_ne!(first, second);
    assert!(fenced.bench.path("adopted").exists(), "it was armed twice");
    assert!(
        group.processes() >= 2 && !group.events().frozen,
        "the service was touched"
    );
}

#[test]
fn a_hung_agent_lets_the_deadline_pass_and_its_successor_thaws() {
    let group = sleeping();
    let fenced = renewing(&group, 600, 30_000);
    let first = fenced.bench.starts(1)[0];
    std::thread::sleep(Duration::from_millis(300));
    assert!(!group.events().frozen);
    crate::world::stop(first);
    until("it is frozen", || group.events().frozen);
    assert!(fenced.bench.starts(2)[1] != first);
    until("it is thawed", || !group.events().frozen);
    assert!(group.processes() >= 2);
}

#[test]
fn an_agent_that_sends_heartbeats_is_left_alone() {
    let group = sleeping();
    let fenced = renewing(&group, 5_000, 6_000);
    let first = fenced.bench.starts(1)[0];
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(fenced.bench.starts(1), [first]);
    assert!(alive(first));
}

#[test]
fn a_guard_that_dies_is_seen_at_once_and_the_agent_freezes_by_itself() {
    for _ in 0..5 {
        let group = sleeping();
        let fenced = Fenced::new(&[]);
        let (mut agent, _) = fenced.agent_with(timing(5_000, 6_000));
        agent.arm(armament(0, 1, &group));
        let guard = fenced.guard.id();
        let path = group.path.clone();
        let watches = std::thread::spawn(move || {
            let gone = agent.receiver().receive(None);
            assert!(matches!(gone, Err(Error::Gone)), "{gone:?}");
            freeze_now([path.as_path()]).unwrap();
            (mark(), agent)
        });
        std::thread::sleep(Duration::from_millis(50));
        let killed = mark();
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(guard as i32).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        let (seen, agent) = watches.join().unwrap();
        let took = seen.held_for(killed);
        println!("guard killed to frozen: {took:?}");
        assert!(took < Duration::from_millis(40), "{took:?}");
        until("it is frozen", || group.events().frozen);
        assert!(matches!(agent.client.heartbeat(), Err(Error::Gone)));
        kill_now([group.path.as_path()]).unwrap();
        until("it is dead", || !group.events().populated);
    }
}

#[test]
fn a_guard_that_is_stopped_does_not_answer_heartbeats() {
    let fenced = Fenced::new(&[]);
    let mut agent = fenced.agent(1);
    agent.registered();
    agent.client.heartbeat().unwrap();
    assert_eq!(agent.next(), Reply::Alive);
    crate::world::stop(fenced.guard.id());
    agent.client.heartbeat().unwrap();
    assert_eq!(agent.within(Duration::from_millis(200)), None);
    kill("CONT", fenced.guard.id());
    assert_eq!(agent.next(), Reply::Alive);
    // This test is its agent, and is silent from now on.
    agent.client.leave().unwrap();
}

#[test]
fn without_rights_the_self_test_says_what_is_missing() {
    let bench = crate::bench::Bench::new(crate::world::BYSTANDER);
    let folder = bench.path("");
    std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let program = bench.path("guard-program");
    std::fs::copy(crate::bench::example("guard"), &program).unwrap();
    let mut guard = Command::new(&program)
        .arg(&folder)
        .args(["--fence", "rightless", "--"])
        .arg(bench.path("agent"))
        .stderr(std::process::Stdio::null())
        .uid(65_534)
        .gid(65_534)
        .spawn()
        .unwrap();
    let socket = bench.path("guard.sock");
    until("it listens", || socket.exists());
    let (client, mut receiver) = Client::connect(&socket, 1).unwrap();
    client.timing(timing(2_000, 3_000)).unwrap();
    let test = loop {
        match receiver.receive(Some(Duration::from_secs(10))).unwrap() {
            Some(Reply::SelfTest(test)) => break test,
            Some(_) => {}
            None => panic!("it says nothing"),
        }
    };
    guard.kill().unwrap();
    guard.wait().unwrap();
    let why = test.why_not.join("; ");
    assert!(!test.ok && why.contains("real-time scheduling is not allowed"), "{why}");
    assert!(
        why.contains("memory cannot be locked") && why.contains("not allowed to make a cgroup"),
        "{why}"
    );
    assert!(test.gates_unavailable.unwrap().contains("packet filter"));
}

#[test]
fn a_demoted_instance_is_disarmed_alive_and_another_one_armed() {
    let (group, next) = (sleeping(), sleeping());
    let fenced = Fenced::new(&[]);
    let (mut agent, test) = fenced.agent_with(timing(3_000, 4_000));
    assert!(test.ok, "{:?}", test.why_not);
    agent.arm(armament(0, 1, &group));
    agent.client.arm(armament(0, 2, &next)).unwrap();
    assert!(agent.refused().contains("still runs"));
    agent.client.disarm(slot(0)).unwrap();
    assert!(matches!(agent.next(), Reply::Done { .. }));
    agent.client.arm(armament(0, 1, &next)).unwrap();
    assert!(agent.refused().contains("only a higher one"));
    assert_eq!(agent.arm(armament(0, 2, &next)), State::Armed);
    until("the next one is killed", || !next.events().populated);
    assert!(
        group.events().populated && !group.events().frozen,
        "it was given up, and fenced all the same"
    );
}

#[test]
fn who_is_armed_for_another_slot_is_not_ended_for_the_one_that_he_left() {
    let group = sleeping();
    let fenced = Fenced::new(&[]);
    let (mut earlier, _) = fenced.agent_with(timing(700, 1_000));
    let lasting = |number| Armament {
        frozen_max: Millis(60_000),
        ..armament(number, 1, &group)
    };
    earlier.arm(lasting(0));
    // The next agent finds it running, demotes it without having armed it, and has it take another slot.
    let mut agent = fenced.agent(9);
    assert_eq!(agent.registered(), [(slot(0), State::Armed)]);
    agent.renew();
    agent.arm(lasting(1));
    assert_eq!(agent.frozen(), slot(1));
    assert_eq!(
        agent.within(Duration::from_millis(600)),
        None,
        "what was left was frozen too"
    );
    until("it is frozen", || group.events().frozen);
    // Its slot is taken into the next session (T10).
    agent.open(SESSION + 1);
    agent.client.rebind(slot(1), Epoch(1)).unwrap();
    until("it goes on", || !group.events().frozen);
    let goes_on = Instant::now();
    while goes_on.elapsed() < Duration::from_millis(1_500) {
        agent.client.renewed(SESSION + 1, mark()).unwrap();
        if let Some(Reply::Event { slot, what, .. }) = agent.within(Duration::from_millis(50)) {
            assert_eq!((slot, what), (self::slot(1), What::Thawed { address_removed: true }));
        }
    }
    assert!(group.events().populated && !group.events().frozen);
    // What was left is still no older epoch's.
    agent.client.arm(armament(0, 1, &group)).unwrap();
    assert!(agent.refused().contains("only a higher one"));
}

#[test]
fn what_stands_still_for_one_slot_does_not_go_on_for_another() {
    let group = sleeping();
    let fenced = Fenced::new(&[]);
    let (mut agent, _) = fenced.agent_with(timing(500, 800));
    let lasting = |number| Armament {
        frozen_max: Millis(60_000),
        ..armament(number, 1, &group)
    };
    agent.arm(lasting(0));
    assert_eq!(agent.frozen(), slot(0));
    until("it is frozen", || group.events().frozen);
    agent.open(SESSION + 1);
    agent.client.arm(lasting(1)).unwrap();
    assert!(agent.refused().contains("db/0 was armed with before still runs"));
    assert!(group.events().frozen && group.events().populated);
}

#[test]
fn what_an_agent_froze_without_a_guard_is_thawed_by_the_next_guard() {
    let group = sleeping();
    let mut fenced = Fenced::new(&[]);
    let (mut agent, _) = fenced.agent_with(timing(5_000, 6_000));
    agent.arm(armament(0, 1, &group));
    freeze_now([group.path.as_path()]).unwrap();
    fenced.restart();
    let mut agent = fenced.agent(2);
    assert_eq!(agent.registered(), [], "a guard that starts arms nothing by itself");
    until("it is still frozen", || group.events().frozen);
    agent.client.timing(timing(5_000, 6_000)).unwrap();
    agent.next();
    agent.open_session();
    assert_eq!(agent.arm(armament(0, 1, &group)), State::Armed);
    until("it is thawed", || !group.events().frozen);
}

#[test]
fn an_agent_of_earlier_decides_nothing() {
    let group = sleeping();
    let fenced = Fenced::new(&[]);
    let (mut old, _) = fenced.agent_with(timing(700, 900));
    old.arm(armament(0, 1, &group));
    let mut new = fenced.agent(9);
    assert_eq!(new.registered(), [(slot(0), State::Armed)]);
    // The old one goes on renewing, as one that hangs and comes back would.
    let renews = Instant::now();
    while renews.elapsed() < Duration::from_millis(1_200) {
        old.renew();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(old.refused().contains("was replaced by 9"));
    assert!(
        !group.events().populated,
        "renewals of an agent that was replaced counted"
    );
    let mut third = fenced.agent(3);
    assert!(third.refused().contains("was replaced by 9"));
}

#[test]
fn a_client_never_waits_for_a_guard_that_does_not_read() {
    let fenced = Fenced::new(&[]);
    let (agent, _) = fenced.agent_with(timing(60_000, 90_000));
    crate::world::stop(fenced.guard.id());
    let begun = Instant::now();
    let mut longest = Duration::ZERO;
    let refused = (0..1_000_000).find_map(|_| {
        let one = Instant::now();
        let result = agent.client.renewed(SESSION, mark());
        longest = longest.max(one.elapsed());
        result.err()
    });
    kill("CONT", fenced.guard.id());
    assert!(matches!(refused, Some(Error::DoesNotRead)), "{refused:?}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    println!("longest send: {longest:?}");
}

#[test]
fn nonsense_is_answered_and_ends_nothing() {
    let fenced = Fenced::new(&[]);
    let mut agent: Agent = fenced.agent(1);
    agent.registered();
    agent.client.arm(armament(0, 1, &Group::new())).unwrap();
    let why = agent.refused();
    assert!(why.contains("cgroup") || why.contains("session"), "{why}");
    let socket = fenced.bench.path("guard.sock");
    let script = "import socket,sys\n\
                  s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\n\
                  s.connect(sys.argv[1])\n\
                  s.send(b'{\"arm\":7}')\n\
                  print(s.recv(4096).decode())\n\
                  s.send(b'\"heartbeat\"')\n\
                  s.send(b'{\"renewed\":{\"session\":1,\"mark\":{\"boot_ns\":1,\"raw_ns\":1}}}')\n\
                  s.send(b'{\"session\":{\"session\":1,\"mark\":{\"boot_ns\":1,\"raw_ns\":1}}}')\n\
                  print(s.recv(4096).decode())";
    let output = Command::new("python3").args(["-c", script]).arg(&socket).output();
    let output = output.expect("python3: apt-get install --no-install-recommends python3");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("invalid type") && text.contains("no agent has registered"),
        "{text}{output:?}"
    );
    agent.client.timing(timing(5_000, 6_000)).unwrap();
    assert!(matches!(agent.next(), Reply::SelfTest(_)));
}

#[test]
fn another_user_is_shut_out() {
    let fenced = Fenced::new(&[]);
    let socket = fenced.bench.path("guard.sock");
    // Even if the file let it in.
    let folder = socket.parent().unwrap();
    for path in [folder, socket.as_path()] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    }
    let script = "import socket,sys\n\
                  s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\n\
                  s.connect(sys.argv[1])\n\
                  try:\n    s.send(b'{\"register\":{\"incarnation\":1}}')\n    print(len(s.recv(4096)))\n\
                  except OSError: print(0)";
    let say = |uid: u32| {
        let mut python = Command::new("python3");
        python.args(["-c", script]).arg(&socket).uid(uid);
        let output = python
            .output()
            .expect("python3: apt-get install --no-install-recommends python3");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert_eq!(say(65_534), "0");
    assert_ne!(say(0), "0");
    assert!(Client::connect(&folder.join("nowhere"), 1).is_err());
}

#[test]
fn fence_and_gates_are_in_real_time_and_nothing_else_is() {
    let fenced = Fenced::new(&[]);
    let agent = fenced.bench.starts(1)[0];
    let (_agent, test) = fenced.agent_with(timing(2_000, 3_000));
    assert!(test.ok, "{:?}", test.why_not);
    // Policy is the 41st field, the 39th after the name; 1 is SCHED_FIFO.
    let policies = |pid: u32| {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let mut found: Vec<(String, String)> = tasks
            .map(|task| {
                let name = std::fs::read_to_string(task.path().join("comm")).unwrap();
                let stat = std::fs::read_to_string(task.path().join("stat")).unwrap();
                let policy = stat.rsplit_once(") ").unwrap().1.split(' ').nth(38).unwrap().to_owned();
                (name.trim().to_owned(), policy)
            })
            .collect();
        found.sort();
        found
    };
    let expected = [
        ("door", "0"),
        ("fence", "1"),
        ("gates", "1"),
        ("guard", "0"),
        ("log", "0"),
    ];
    let expected = expected.map(|(name, policy)| (name.to_owned(), policy.to_owned()));
    assert_eq!(policies(fenced.guard.id()), expected);
    assert!(
        policies(agent).iter().all(|(_, policy)| policy == "0"),
        "services would be in real time too"
    );
    let adjusted = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    assert_eq!(
        adjusted(fenced.guard.id()).trim() == "-1000",
        crate::bench::may_spare_from_oom()
    );
    let resident = fenced.guard.resident_kib();
    println!("a guard that fences has {resident} KiB");
    assert!(resident < 12 * 1024, "{resident} KiB");
}
