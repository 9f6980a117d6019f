//! One run of several machines, for whoever bisects it.
use sim::cluster::*;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let first: u64 = args[1].parse().unwrap();
    let runs: u64 = args[2].parse().unwrap();
    let faults: usize = args[3].parse().unwrap();
    let outage = args.get(4).is_some_and(|a| a == "outage");
    let only = args.get(4).filter(|_| !outage).map(|a| {
        a.split(',')
            .filter(|x| !x.is_empty())
            .map(|x| x.parse().unwrap())
            .collect()
    });
    let options = ClusterOptions {
        faults,
        only,
        mode: if outage {
            ClusterMode::StoreOutage
        } else {
            ClusterMode::Storm
        },
        ..Default::default()
    };
    if runs == 0 {
        let report = run_cluster(
            first,
            &ClusterOptions {
                transcript: true,
                events: std::env::var_os("SIM_EVENTS").is_some(),
                ..options
            },
        );
        for line in report.transcript {
            println!("{line}");
        }
        println!("{:?}", report.violation);
        return;
    }
    if std::env::var_os("KINDS").is_some() {
        let began = std::time::Instant::now();
        let kinds = std::sync::Mutex::new(std::collections::BTreeMap::<String, (u64, u64)>::new());
        let next = std::sync::atomic::AtomicU64::new(first);
        let total = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        if seed >= first + runs {
                            break;
                        }
                        let r = run_cluster(seed, &options);
                        total.fetch_add(r.faults.values().sum(), std::sync::atomic::Ordering::Relaxed);
                        if let Some(v) = r.violation {
                            let mut what: String = v.what.chars().filter(|c| !c.is_ascii_digit()).collect();
                            for n in ["db", "queue", "web"] {
                                what = what.replace(n, "S");
                            }
                            what.truncate(110);
                            let key = format!("{}: {}", v.invariant, what);
                            let mut k = kinds.lock().unwrap();
                            let e = k.entry(key).or_insert((0, seed));
                            e.0 += 1;
                            e.1 = e.1.min(seed);
                        }
                    }
                });
            }
        });
        let kinds = kinds.into_inner().unwrap();
        let bad: u64 = kinds.values().map(|v| v.0).sum();
        let mut list: Vec<_> = kinds.into_iter().collect();
        list.sort_by_key(|(_, (n, _))| std::cmp::Reverse(*n));
        for (k, (n, seed)) in list {
            println!("{n:>5}  seed {seed:<6} {k}");
        }
        let total = total.into_inner();
        println!(
            "{bad} of {runs} runs fail; {total} faults in {:?}: {:.0}/s",
            began.elapsed(),
            total as f64 / began.elapsed().as_secs_f64()
        );
        return;
    }
    let outcome = simulate_cluster(
        &ClusterSimulation {
            seeds: first..first + runs,
            options,
            threads: 2,
            within: Default::default(),
        },
        &|_| {},
    );
    println!("{outcome}\ntook {:?} steps {}", outcome.took, outcome.steps);
    if let Some(f) = outcome.failure {
        println!("{f}");
    }
}
