//! What becomes of instances when their agent is killed. The agent is this test program, run again as another process.

use crate::world::{World, both, eventually, launch, lives, marked, policy};
use drivers::process::{Adopted, Config, Driver, ExitHow, Gone, GoneBecause, Process, Record, StoppedHow, TreeKind};
use model::{RunId, StopSignal};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

both! {
    an_instance_is_adopted_after_its_agent_was_killed
    what_ended_while_no_agent_ran_is_gone_and_its_leftovers_are_killed
    a_number_that_is_anothers_by_now_is_left_alone
    what_has_no_record_is_swept
}

async fn an_instance_is_adopted_after_its_agent_was_killed(world: &World) {
    let dir = world.dir.path();
    let pids = agent_that_is_killed(
        world,
        "while :; do sleep 0.02; done & trap 'exit 6' TERM; while :; do echo tick; sleep 0.02; done",
    );
    let log = fs::metadata(dir.join("web-1.log")).unwrap().len();
    eventually("it goes on writing", || {
        (fs::metadata(dir.join("web-1.log")).unwrap().len() > log).then_some(())
    })
    .await;
    let adopted = [adopt(world, "web-1").await, adopt(world, "web-2").await];
    assert_eq!(adopted.each_ref().map(Process::pid).as_slice(), pids);
    assert_eq!(adopted[0].memo(), serde_json::json!({"for": "web-1"}));
    assert_eq!(
        (adopted[0].instance().to_string(), adopted[0].run()),
        ("web-1".to_owned(), RunId(7))
    );
    assert!(adopted[0].pids().await.unwrap().len() >= 2);
    assert_eq!(
        world
            .driver
            .sweep(
                &adopted
                    .iter()
                    .map(|process| (process.instance(), process.run()))
                    .collect()
            )
            .await
            .unwrap(),
        []
    );
    assert!(
        adopted
            .iter()
            .all(|process| process.exit().is_none() && lives(process.pid()))
    );

    assert_eq!(
        adopted[0].stop(&policy(StopSignal::Term, 10_000)).await.unwrap().how,
        StoppedHow::Polite
    );
    let how = adopted[0].exited().await.how;
    assert!(matches!(how, ExitHow::Code(6) | ExitHow::Unknown), "{how:?}");
    kill(adopted[1].pid());
    let how = adopted[1].exited().await.how;
    assert!(matches!(how, ExitHow::Signal(9) | ExitHow::Unknown), "{how:?}");
    assert_eq!(adopted[1].reap_tree().await.unwrap().how, StoppedHow::Killed);
    assert_eq!(marked(&world.cluster_id), [0; 0]);
}

async fn what_ended_while_no_agent_ran_is_gone_and_its_leftovers_are_killed(world: &World) {
    let pids = agent_that_is_killed(world, "(exec setsid sleep 1000) & exec sleep 1000");
    eventually("both have left their session", || {
        (marked(&world.cluster_id).len() == 4).then_some(())
    })
    .await;
    kill(pids[0]);
    eventually("it is dead", || (!lives(pids[0])).then_some(())).await;
    let gone = is_gone(world, "web-1").await;
    assert_eq!((gone.because, gone.leftovers), (GoneBecause::NoProcess, true));
    assert_eq!(gone.memo, serde_json::json!({"for": "web-1"}));
    assert_eq!(marked(&world.cluster_id).len(), 2, "those of the other instance");
    assert!(!record(world, "web-1").exists());

    // As after a reboot.
    let path = record(world, "web-2");
    let text = fs::read_to_string(&path).unwrap();
    let boot_id = Record::read(&path, &world.cluster_id).unwrap().boot_id;
    fs::write(&path, text.replace(&boot_id, "another")).unwrap();
    let gone = is_gone(world, "web-2").await;
    assert_eq!((gone.because, gone.leftovers), (GoneBecause::Reboot, false));
    assert_eq!(
        world.driver.sweep(&[].into()).await.unwrap().len(),
        1,
        "a new boot id did not really end it"
    );
}

async fn a_number_that_is_anothers_by_now_is_left_alone(world: &World) {
    let process = world.sh("exec sleep 1000").await;
    let mut stranger = Command::new("sleep");
    stranger.arg("1000").process_group(0);
    let mut stranger = stranger.spawn().unwrap();
    let path = record(world, "web-1");
    let mut note: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    process.kill().await.unwrap();
    note["pid"] = stranger.id().into();
    // Both may have been started within one tick of the clock.
    note["start_ticks"] = (note["start_ticks"].as_u64().unwrap() - 1).into();
    fs::write(&path, note.to_string()).unwrap();
    let gone = is_gone(world, "web-1").await;
    assert_eq!((gone.because, gone.leftovers), (GoneBecause::OtherProcess, false));
    assert!(stranger.try_wait().unwrap().is_none(), "not ours to kill");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

async fn what_has_no_record_is_swept(world: &World) {
    let pids = agent_that_is_killed(world, "sleep 1000 & exec sleep 1000");
    eventually("all run", || (marked(&world.cluster_id).len() == 4).then_some(())).await;
    let known = adopt(world, "web-2").await;
    fs::write(record(world, "web-1"), "{\"format\":").unwrap();
    let damaged = world.driver.adopt(&record(world, "web-1")).await.unwrap_err();
    assert!(damaged.to_string().contains("is damaged"), "{damaged}");
    let swept = world
        .driver
        .sweep(&[(known.instance(), known.run())].into())
        .await
        .unwrap();
    assert_eq!(swept.len(), 1);
    assert!(
        swept[0].what == "web-1/7" && swept[0].pids.contains(&pids[0]) && swept[0].pids.len() == 2,
        "{swept:?}"
    );
    assert!(!lives(pids[0]) && known.exit().is_none());
    known.kill().await.unwrap();
}

/// The same agent, but as a user who may not make cgroups: with no word from us it does without.
#[test]
fn without_root_process_groups_do() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: all the other tests test this");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(65534), Some(65534)).unwrap();
    let mut agent = agent(dir.path(), "nobodys-cluster", "");
    agent
        .env("AGENT_DOES", "all")
        .uid(65534)
        .gid(65534)
        .current_dir(dir.path());
    let output = agent.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("all done as 65534"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What the agent does that other tests start.
#[test]
fn agent_for_other_tests() {
    let Ok(does) = std::env::var("AGENT_DOES") else { return };
    let given = |name: &str| std::env::var(name).unwrap();
    let (dir, script) = (PathBuf::from(given("AGENT_DIR")), given("AGENT_SCRIPT"));
    let process_groups_only = given("AGENT_GROUPS_ONLY") == "true";
    let config = Config {
        process_groups_only,
        ..Config::new(given("AGENT_CLUSTER"))
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let driver = Driver::new(config).unwrap();
        if does == "all" {
            all_by_process_groups(&driver, &dir).await;
            println!("all done as {}", rustix::process::geteuid().as_raw());
            return;
        }
        for instance in ["web-1", "web-2"] {
            let process = driver
                .start(launch(&dir, instance, &["sh", "-c", &script]))
                .await
                .unwrap();
            println!("\nstarted {}", process.pid());
        }
        println!("\nready");
        std::future::pending::<()>().await;
    });
}

async fn all_by_process_groups(driver: &Driver, dir: &Path) {
    let (kind, why) = driver.tree_kind();
    assert_eq!(kind, TreeKind::ProcessGroup);
    assert!(why.contains("cgroup"), "{why}");
    let script = "(exec setsid sleep 1000) & trap '' TERM; echo ready; while :; do sleep 0.02; done";
    let process = driver.start(launch(dir, "web-1", &["sh", "-c", script])).await.unwrap();
    eventually("it is ready", || {
        fs::read_to_string(dir.join("web-1.log"))
            .ok()
            .filter(|log| log.contains("ready"))
    })
    .await;
    let pids = process.pids().await.unwrap();
    assert!(pids.len() >= 2, "{pids:?}");
    assert_eq!(
        process.stop(&policy(StopSignal::Term, 50)).await.unwrap().how,
        StoppedHow::Killed
    );
    assert!(!pids.into_iter().any(lives));
    let mut other = launch(dir, "web-2", &["true"]);
    other.user = Some("root".into());
    let error = driver.start(other).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot run as user `root`"), "{error}");
}

fn agent(dir: &Path, cluster_id: &str, script: &str) -> Command {
    let mut agent = Command::new(std::env::current_exe().unwrap());
    agent.args([
        "--exact",
        "adopt::agent_for_other_tests",
        "--nocapture",
        "--test-threads=1",
    ]);
    agent
        .env("AGENT_DIR", dir)
        .env("AGENT_CLUSTER", cluster_id)
        .env("AGENT_SCRIPT", script);
    agent
        .env("AGENT_GROUPS_ONLY", "false")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    agent
}

/// Runs an agent that starts `web-1` and `web-2`, and kills it. Returns their processes.
fn agent_that_is_killed(world: &World, script: &str) -> Vec<u32> {
    let mut agent = agent(world.dir.path(), &world.cluster_id, script);
    agent
        .env("AGENT_DOES", "start")
        .env("AGENT_GROUPS_ONLY", (!world.has_cgroups()).to_string());
    let mut agent = agent.spawn().unwrap();
    let mut pids = Vec::new();
    for line in BufReader::new(agent.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        pids.extend(line.strip_prefix("started ").map(|pid| pid.parse::<u32>().unwrap()));
        if line == "ready" {
            break;
        }
    }
    agent.kill().unwrap();
    let mut said = String::new();
    // Ends at once, since services do not hold the agent's pipes.
    agent.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    agent.wait().unwrap();
    assert_eq!(pids.len(), 2, "{said}");
    pids
}

async fn adopt(world: &World, instance: &str) -> Process {
    match world.driver.adopt(&record(world, instance)).await.unwrap() {
        Adopted::Running(process) => process,
        Adopted::Gone(gone) => panic!("{gone:?}"),
    }
}

async fn is_gone(world: &World, instance: &str) -> Gone {
    match world.driver.adopt(&record(world, instance)).await.unwrap() {
        Adopted::Running(process) => panic!("{process:?}"),
        Adopted::Gone(gone) => gone,
    }
}

fn record(world: &World, instance: &str) -> PathBuf {
    world.dir.path().join(format!("instances/{instance}.json"))
}

fn kill(pid: u32) {
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid as i32).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
}
