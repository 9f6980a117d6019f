//! Many instances in one agent.

use crate::world::{World, both, launch};
use drivers::process::ExitHow;
use model::StopSignal;
use std::fs;
use std::time::{Duration, Instant};

const INSTANCES: usize = 200;

both! {
    a_crowd_costs_nothing_at_rest_and_its_deaths_are_told_at_once
}

async fn a_crowd_costs_nothing_at_rest_and_its_deaths_are_told_at_once(world: &World) {
    let (descriptors, threads) = (entries("/proc/self/fd"), entries("/proc/self/task"));
    let mut processes = Vec::new();
    let mut took = Vec::new();
    for n in 1..=INSTANCES {
        let begun = Instant::now();
        let wanted = launch(world.dir.path(), &format!("web-{n}"), &["sleep", "1000"]);
        processes.push(world.driver.start(wanted).await.unwrap());
        took.push(begun.elapsed());
    }
    took.sort();
    println!(
        "start: median {:?}, longest {:?}",
        took[INSTANCES / 2],
        took[INSTANCES - 1]
    );
    assert!(
        took[INSTANCES / 2] < Duration::from_millis(50),
        "{:?}",
        took[INSTANCES / 2]
    );
    assert!(
        entries("/proc/self/fd") <= descriptors + INSTANCES + 4,
        "one descriptor each"
    );
    // The runtime may have started a few for blocking work.
    assert!(entries("/proc/self/task") <= threads + 4, "no thread each");

    let before = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let used = Duration::try_from(after).unwrap() - Duration::try_from(before).unwrap();
    println!("at rest: {used:?} of CPU in 500 ms");
    assert!(used < Duration::from_millis(25), "{used:?}");

    let (killed, spared) = processes.split_at(INSTANCES / 2);
    let begun = Instant::now();
    for process in killed {
        process.signal(StopSignal::Kill);
    }
    for process in killed {
        assert_eq!(process.exited().await.how, ExitHow::Signal(9));
    }
    let told = begun.elapsed();
    let mut reaped = tokio::task::JoinSet::new();
    for process in killed {
        let process = process.clone();
        reaped.spawn(async move { process.reap_tree().await.unwrap() });
    }
    reaped.join_all().await;
    println!(
        "{} deaths: told after {told:?}, confirmed after {:?}",
        killed.len(),
        begun.elapsed()
    );
    assert!(told < Duration::from_secs(1), "{told:?}");
    assert!(spared.iter().all(|process| process.exit().is_none()));
    let begun = Instant::now();
    for process in spared {
        process.kill().await.unwrap();
    }
    println!(
        "killed one after the other: {:?} each",
        begun.elapsed() / spared.len() as u32
    );
}

fn entries(path: &str) -> usize {
    fs::read_dir(path).unwrap().count()
}
