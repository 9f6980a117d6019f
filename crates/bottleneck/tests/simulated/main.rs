//! The verdict against the truth of made-up systems: five services in a chain and with calls in parallel, each kind of limit in each of
//! them, above and below its capacity.

mod queue;

use bottleneck::{Baseline, Kind, Verdict, diagnose};
use queue::{Duty, Node, Resource, Stage, World};

const SERVICES: usize = 5;
/// What the limited service can do, requests a second; the others can do several times as much.
const CAPACITY: f64 = 200.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// 0 → 1 → 2 → 3 → 4
    Chain,
    /// 0 → 1, 2, 3, 4 at once
    FanOut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Cpu,
    SleepingLock,
    SpinningLock,
    Io,
    Workers,
    /// Of connections to the next service.
    Pool,
    /// The service is not ours.
    External,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    shape: Shape,
    limit: Limit,
    at: usize,
    /// Of its capacity.
    load: f64,
    seed: u64,
    /// Every service has this many workers, who wait with the calls that they make.
    workers: usize,
}

fn name(service: usize) -> String {
    ["front", "shop", "cart", "stock", "ledger"][service].to_owned()
}

fn world(case: &Case) -> World {
    let mut resources: Vec<(usize, Resource)> = Vec::new();
    let mut nodes = Vec::new();
    for service in 0..SERVICES {
        let mut add = |servers, duty| {
            resources.push((service, Resource::new(servers, duty)));
            resources.len() - 1
        };
        let limited = (service == case.at).then_some(case.limit);
        let callees: Vec<usize> = match case.shape {
            Shape::Chain => (service + 1..SERVICES).take(1).collect(),
            Shape::FanOut if service == 0 => (1..SERVICES).collect(),
            Shape::FanOut => Vec::new(),
        };
        let workers = (case.workers > 0 && limited != Some(Limit::Workers)).then(|| add(case.workers, Duty::Workers));
        let mut script: Vec<_> = workers.map(Stage::Take).into_iter().collect();
        // Everybody works for 2 ms on one of 4 processors; the limited one has something of 200 a second besides.
        let cpu = add(4, Duty::Processor);
        script.extend([Stage::Take(cpu), Stage::Work(0.002), Stage::Release(cpu)]);
        let extra = match limited {
            None | Some(Limit::Pool) => None,
            Some(Limit::Cpu) => {
                script.truncate(script.len() - 3);
                Some((cpu, 4.0 / CAPACITY))
            }
            Some(Limit::SleepingLock) => Some((add(1, Duty::SleepingLock), 1.0 / CAPACITY)),
            Some(Limit::SpinningLock) => Some((add(1, Duty::SpinningLock), 1.0 / CAPACITY)),
            Some(Limit::Io) => Some((add(1, Duty::Disk), 1.0 / CAPACITY)),
            Some(Limit::Workers | Limit::External) => Some((add(8, Duty::Workers), 8.0 / CAPACITY)),
        };
        if let Some((resource, time)) = extra {
            script.extend([Stage::Take(resource), Stage::Work(time), Stage::Release(resource)]);
        }
        if !callees.is_empty() {
            let connections = (limited == Some(Limit::Pool)).then(|| add(4, Duty::Connections));
            script.extend(connections.map(Stage::Take));
            script.push(Stage::Call(callees.clone()));
            script.extend(connections.map(Stage::Release));
        }
        // A callee behind a pool of 4 takes 20 ms, so that the pool does 200 a second.
        if case.limit == Limit::Pool && case.at + 1 == service {
            let slow = add(10_000, Duty::Delay);
            script.extend([Stage::Take(slow), Stage::Work(4.0 / CAPACITY), Stage::Release(slow)]);
        }
        script.extend(workers.map(Stage::Release));
        nodes.push(Node {
            name: name(service),
            managed: limited != Some(Limit::External),
            script,
            cpu_limit: 4.0,
            idle_threads: 8.0,
            threads: case.workers as f64,
        });
    }
    World::new(nodes, resources, case.seed)
}

/// The verdict of half a minute after an unloaded one.
fn judge(case: &Case) -> Option<Verdict> {
    let mut world = world(case);
    let baseline = Baseline::learn(&world.run(0.1 * CAPACITY, 40));
    // As a load test does: what is not yet steady is dropped.
    world.run(case.load * CAPACITY, 5);
    diagnose(&world.run(case.load * CAPACITY, 30), &baseline, false)
}

fn is_right(case: &Case, verdict: Option<&Verdict>) -> Result<(), String> {
    let Some(verdict) = verdict else {
        return Err(format!("{case:?}: silent"));
    };
    let suspect = &verdict.suspects[0];
    let kind_is_right = match (case.limit, &suspect.kind) {
        (Limit::Cpu, Kind::Cpu)
        | (Limit::SleepingLock | Limit::SpinningLock, Kind::Lock)
        | (Limit::Io, Kind::Io)
        | (Limit::Workers, Kind::Internal)
        | (Limit::External, Kind::External) => true,
        (Limit::Pool, Kind::Pool { callee, size }) => *callee == name(case.at + 1) && *size == 4.0,
        _ => false,
    };
    if suspect.service == name(case.at) && kind_is_right {
        Ok(())
    } else {
        Err(format!("{case:?}: {verdict:?}"))
    }
}

fn cases(loads: &[f64], seeds: u64) -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in [Shape::Chain, Shape::FanOut] {
        for at in 0..SERVICES {
            for limit in [
                Limit::Cpu,
                Limit::SleepingLock,
                Limit::SpinningLock,
                Limit::Io,
                Limit::Workers,
                Limit::Pool,
                Limit::External,
            ] {
                let is_last = match shape {
                    Shape::Chain => at == SERVICES - 1,
                    Shape::FanOut => at > 0,
                };
                // A pool needs somebody to call, and what is not ours is called and calls nobody that we see.
                if (limit == Limit::Pool && (is_last || shape == Shape::FanOut))
                    || (limit == Limit::External && (!is_last || at == 0))
                {
                    continue;
                }
                for load in loads {
                    for seed in 0..seeds {
                        cases.push(Case {
                            shape,
                            limit,
                            at,
                            load: *load,
                            seed,
                            workers: 0,
                        });
                    }
                }
            }
        }
    }
    cases
}

#[test]
fn culprit_and_kind_are_right_above_capacity() {
    let cases = cases(&[1.15, 1.5], 2);
    let wrong: Vec<_> = cases
        .iter()
        .filter_map(|case| is_right(case, judge(case).as_ref()).err())
        .collect();
    println!("right in {} of {}", cases.len() - wrong.len(), cases.len());
    assert!(cases.len() > 200, "{}", cases.len());
    let share = wrong.len() as f64 / cases.len() as f64;
    assert!(
        share <= 0.05,
        "wrong in {} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

#[test]
fn it_is_silent_while_nothing_is_wrong() {
    let cases = cases(&[0.45], 3);
    let loud: Vec<_> = cases
        .iter()
        .filter_map(|case| judge(case).map(|verdict| format!("{case:?}: {verdict:?}")))
        .collect();
    println!("silent in {} of {}", cases.len() - loud.len(), cases.len());
    assert!(cases.len() > 150, "{}", cases.len());
    assert!(
        loud.is_empty(),
        "loud in {} of {}:\n{}",
        loud.len(),
        cases.len(),
        loud.join("\n")
    );
}

/// When those before the culprit have few workers, all of which wait for it, the queue is at the front door. It is not the door's fault.
#[test]
fn those_who_wait_with_all_their_workers_are_not_blamed() {
    let mut cases: Vec<_> = cases(&[1.3], 2)
        .into_iter()
        .filter(|case| case.limit != Limit::Pool)
        .map(|case| Case { workers: 32, ..case })
        .collect();
    // With fewer workers than the limited resource needs, the workers would be the limit.
    cases.retain(|case| case.workers > 8);
    let wrong: Vec<_> = cases
        .iter()
        .filter_map(|case| is_right(case, judge(case).as_ref()).err())
        .collect();
    println!("right in {} of {}", cases.len() - wrong.len(), cases.len());
    let share = wrong.len() as f64 / cases.len() as f64;
    assert!(
        share <= 0.05,
        "wrong in {} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

/// The rules are held against what people look at first.
#[test]
fn the_busiest_processor_is_often_an_innocent() {
    let cases = cases(&[1.3], 1);
    let by_cpu = cases
        .iter()
        .filter(|case| {
            let mut world = world(case);
            world.run(case.load * CAPACITY, 5);
            let windows = world.run(case.load * CAPACITY, 20);
            let cpu = |window: &bottleneck::Service| window.instances.values().map(|i| i.cpu).sum::<f64>();
            let last = windows.last().unwrap();
            let busiest = last
                .services
                .iter()
                .max_by(|(_, a), (_, b)| cpu(a).total_cmp(&cpu(b)))
                .unwrap();
            *busiest.0 == name(case.at)
        })
        .count();
    let by_blame = cases
        .iter()
        .filter(|case| is_right(case, judge(case).as_ref()).is_ok())
        .count();
    println!("busiest processor: {by_cpu}, blame: {by_blame} of {}", cases.len());
    assert!(by_cpu * 3 < cases.len() * 2 && by_blame > by_cpu);
}
