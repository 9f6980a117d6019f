//! From the start of an instance to the end of the last process of its tree.

use crate::world::{World, both, eventually, lives, marked, policy};
use drivers::process::{Config, Driver, ExitHow, StopError, StoppedHow};
use model::StopSignal;
use std::fs;
use std::time::{Duration, Instant};

both! {
    an_exit_is_told_with_its_code
    a_death_by_signal_is_told_as_such
    a_tree_is_gone_when_it_is_said_to_be
    a_daemon_that_left_its_session_is_killed
    stop_lets_a_program_end_itself
    stop_kills_what_does_not_heed_the_signal
    stop_reaches_a_halted_process
    a_fork_storm_ends_by_one_kill
    usage_counts_the_whole_tree
    a_start_that_nobody_waits_for_is_undone
    the_memo_is_kept_in_the_record
}

async fn an_exit_is_told_with_its_code(world: &World) {
    let process = world.sh("echo out; echo err >&2; exit 3").await;
    assert_eq!(process.exited().await.how, ExitHow::Code(3));
    assert_eq!(
        process.exited().await,
        process.exit().unwrap(),
        "and told again to whoever asks again"
    );
    assert_eq!(process.exit().unwrap().to_string(), "exit code 3");
    assert!(process.exit().unwrap().at >= process.started());
    assert_eq!(
        fs::read_to_string(world.dir.path().join("web-1.log")).unwrap(),
        "out\nerr\n"
    );
    let stopped = process.reap_tree().await.unwrap();
    assert_eq!(stopped.how, StoppedHow::AlreadyGone);
    assert!(!world.launch(&[]).record.exists(), "the record goes with the instance");
    assert!(
        fs::metadata(format!("/proc/{}", process.pid())).is_err(),
        "not even a zombie is left"
    );
}

async fn a_death_by_signal_is_told_as_such(world: &World) {
    let process = world.sh("kill -SEGV $$").await;
    let exit = process.exited().await;
    assert_eq!(
        (exit.how, exit.to_string().as_str()),
        (ExitHow::Signal(11), "killed by SIGSEGV")
    );
    process.reap_tree().await.unwrap();
}

async fn a_tree_is_gone_when_it_is_said_to_be(world: &World) {
    let process = world
        .sh("sleep 1000 & sleep 1000 & echo $!; (trap '' TERM HUP; sleep 1000; sleep 1000) & exec true")
        .await;
    assert_eq!(process.exited().await.how, ExitHow::Code(0));
    let left = marked(&world.cluster_id);
    assert!(left.len() >= 3, "{left:?}");
    let stopped = process.reap_tree().await.unwrap();
    assert_eq!(stopped.how, StoppedHow::Killed);
    assert!(!left.into_iter().any(lives), "all of them, before it said so");
    assert_eq!(process.pids().await.unwrap(), [0; 0]);
    assert_eq!(process.kill().await.unwrap().how, StoppedHow::AlreadyGone);
}

async fn a_daemon_that_left_its_session_is_killed(world: &World) {
    let daemon = r"
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(f'daemon {os.getpid()}.', flush=True)
        time.sleep(1000)
    os._exit(0)
time.sleep(1000)";
    let process = world.start(&["python3", "-c", daemon]).await;
    let log = world.log(".").await;
    let pid: u32 = log.split(['.', ' ']).nth(1).unwrap().parse().unwrap();
    assert!(lives(pid));
    eventually("the process between has ended", || {
        (marked(&world.cluster_id).len() == 2).then_some(())
    })
    .await;
    assert!(process.pids().await.unwrap().contains(&pid));
    assert_eq!(process.kill().await.unwrap().how, StoppedHow::Killed);
    assert!(!lives(pid) && !lives(process.pid()));
    assert_eq!(process.exited().await.how, ExitHow::Signal(9));
}

async fn stop_lets_a_program_end_itself(world: &World) {
    let process = world
        .sh("trap 'echo bye; exit 5' INT; echo ready; while :; do sleep 0.02; done")
        .await;
    world.log("ready").await;
    let stopped = process.stop(&policy(StopSignal::Int, 10_000)).await.unwrap();
    assert_eq!(stopped.how, StoppedHow::Polite);
    assert!(stopped.took < Duration::from_secs(5), "{stopped:?}");
    assert_eq!(process.exited().await.how, ExitHow::Code(5));
    world.log("bye").await;
    assert_eq!(
        process.stop(&policy(StopSignal::Int, 10_000)).await.unwrap().how,
        StoppedHow::AlreadyGone
    );
}

async fn stop_kills_what_does_not_heed_the_signal(world: &World) {
    let process = world.sh("trap '' TERM; echo ready; while :; do sleep 0.02; done").await;
    world.log("ready").await;
    let stopped = process.stop(&policy(StopSignal::Term, 150)).await.unwrap();
    assert_eq!(stopped.how, StoppedHow::Killed);
    assert!(
        stopped.took >= Duration::from_millis(150) && stopped.took < Duration::from_secs(3),
        "{stopped:?}"
    );
    assert_eq!(process.exited().await.how, ExitHow::Signal(9));
}

async fn stop_reaches_a_halted_process(world: &World) {
    let process = world
        .sh("trap 'exit 0' TERM; echo ready; while :; do sleep 0.02; done")
        .await;
    world.log("ready").await;
    let pid = rustix::process::Pid::from_raw(process.pid() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    assert_eq!(
        process.stop(&policy(StopSignal::Term, 10_000)).await.unwrap().how,
        StoppedHow::Polite
    );
}

async fn a_fork_storm_ends_by_one_kill(world: &World) {
    // Each process leaves the session and makes two of the same, eight generations deep: 511 in all.
    let storm = r"
import os, time
print('on', flush=True)
depth = 0
while depth < 8:
    for child in range(2):
        if os.fork() == 0:
            os.setsid()
            depth += 1
            break
    else:
        break
time.sleep(1000)";
    let process = world.start(&["python3", "-c", storm]).await;
    world.log("on").await;
    eventually("the storm is on", || {
        (marked(&world.cluster_id).len() > 20).then_some(())
    })
    .await;
    assert_eq!(process.kill().await.unwrap().how, StoppedHow::Killed);
    assert_eq!(marked(&world.cluster_id), [0; 0]);
}

async fn usage_counts_the_whole_tree(world: &World) {
    let busy = "import os,time
os.fork()
data = bytearray(20_000_000)
end = time.process_time() + 0.1
while time.process_time() < end: pass
print('done', flush=True)
time.sleep(1000)";
    let process = world.start(&["python3", "-c", busy]).await;
    let log = world.dir.path().join("web-1.log");
    let both_done = || {
        fs::read_to_string(&log)
            .is_ok_and(|log| log.matches("done").count() == 2)
            .then_some(())
    };
    eventually("both have worked", both_done).await;
    let usage = world.driver.usage(&process).await.unwrap();
    assert_eq!(usage.processes, 2);
    assert!(usage.cpu_us >= 180_000 && usage.cpu_us < 20_000_000, "{usage:?}");
    assert!(
        usage.memory_bytes > 40_000_000 && usage.memory_bytes < 400_000_000,
        "{usage:?}"
    );
    process.kill().await.unwrap();
    assert_eq!(process.usage().await.unwrap().processes, 0);
}

async fn a_start_that_nobody_waits_for_is_undone(world: &World) {
    for wait_until_started in [false, true] {
        let mut starting = Box::pin(world.driver.start(world.launch(&["sleep", "1000"])));
        while let Some(process) = poll(&mut starting) {
            // It was quicker than we.
            process.unwrap().kill().await.unwrap();
            starting = Box::pin(world.driver.start(world.launch(&["sleep", "1000"])));
        }
        if wait_until_started {
            eventually("it is started", || world.launch(&[]).record.exists().then_some(())).await;
        }
        drop(starting);
        // The starts are made one after the other, so after this one the other was made.
        let mut other = world.launch(&["true"]);
        other.instance = "web-2".parse().unwrap();
        other.record = world.dir.path().join("instances/web-2.json");
        world.driver.start(other).await.unwrap().kill().await.unwrap();
        eventually("it is undone", || (!world.launch(&[]).record.exists()).then_some(())).await;
        assert_eq!(marked(&world.cluster_id), [0; 0]);
    }
}

fn poll<F: Future>(future: &mut std::pin::Pin<Box<F>>) -> Option<F::Output> {
    match future
        .as_mut()
        .poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

async fn the_memo_is_kept_in_the_record(world: &World) {
    let process = world.sh("exec sleep 1000").await;
    assert_eq!(process.memo(), serde_json::json!({"for": "web-1"}));
    process.set_memo(serde_json::json!({"epoch": 4})).unwrap();
    let record = drivers::process::Record::read(&world.launch(&[]).record, &world.cluster_id).unwrap();
    assert_eq!(
        (record.memo, record.pid),
        (serde_json::json!({"epoch": 4}), process.pid())
    );
    process.kill().await.unwrap();
    process.set_memo(serde_json::json!(null)).unwrap();
    assert!(!world.launch(&[]).record.exists(), "a late note does not bring it back");
}

/// A version 1 freezer keeps even a killed process, as a dead disk does.
#[tokio::test]
async fn a_process_that_cannot_die_is_reported_and_waited_for() {
    let freezer =
        std::path::Path::new("/sys/fs/cgroup/freezer").join(format!("understudy-test-{}", std::process::id()));
    if let Err(error) = fs::create_dir(&freezer) {
        eprintln!("skipped: there is no version 1 freezer here ({error})");
        return;
    }
    for process_groups_only in [false, true] {
        let mut world = World::new(process_groups_only);
        let kill_bound = Duration::from_millis(150);
        world.driver = Driver::new(Config {
            kill_bound,
            process_groups_only,
            ..Config::new(world.cluster_id.as_str())
        })
        .unwrap();
        let process = world.sh("exec sleep 1000").await;
        fs::write(freezer.join("cgroup.procs"), process.pid().to_string()).unwrap();
        fs::write(freezer.join("freezer.state"), "FROZEN").unwrap();
        eventually("it is frozen", || {
            fs::read_to_string(freezer.join("freezer.state"))
                .unwrap()
                .starts_with("FROZEN")
                .then_some(())
        })
        .await;
        let begun = Instant::now();
        let stuck = process.kill().await.unwrap_err();
        assert!(begun.elapsed() >= kill_bound);
        assert!(
            matches!(&stuck, StopError::Stuck { pids, .. } if *pids == [process.pid()]),
            "{stuck:?}"
        );
        assert!(
            stuck
                .to_string()
                .contains(&format!("process {} of `web-1`", process.pid())),
            "{stuck}"
        );
        assert!(world.launch(&[]).record.exists(), "the next agent must know of it");
        let (gone, thawed) = tokio::join!(process.gone(), async {
            fs::write(freezer.join("freezer.state"), "THAWED")
        });
        thawed.unwrap();
        gone.unwrap();
        assert!(!lives(process.pid()));
        assert_eq!(process.exited().await.how, ExitHow::Signal(9));
    }
    fs::remove_dir(&freezer).unwrap();
}

/// Without cgroups, what a service leaves behind becomes our child: it must not stay a zombie.
#[tokio::test(flavor = "multi_thread")]
async fn orphans_are_reaped_and_our_own_children_are_not_touched() {
    let world = World::new(true);
    let own = std::process::Command::new("true").spawn().unwrap();
    let process = world.sh("(sleep 0.2; exit 9) & echo orphan $!.; exec true").await;
    let log = world.log(".").await;
    let orphan: u32 = log
        .trim_start_matches("orphan ")
        .trim()
        .trim_end_matches('.')
        .parse()
        .unwrap();
    process.exited().await;
    eventually("it is dead", || (!lives(orphan)).then_some(())).await;
    eventually("and reaped", || {
        fs::metadata(format!("/proc/{orphan}")).is_err().then_some(())
    })
    .await;
    assert!(
        own.wait_with_output().unwrap().status.success(),
        "the status was left to us"
    );
    process.reap_tree().await.unwrap();
}
