use sim::cluster::*;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let first: u64 = args[1].parse().unwrap();
    let runs: u64 = args[2].parse().unwrap();
    let faults: usize = args[3].parse().unwrap();
    let outage = args.get(4).is_some_and(|a| a == "outage");
    let only = args.get(4).filter(|_| !outage).map(|a| a.split(',').filter(|x| !x.is_empty()).map(|x| x.parse().unwrap()).collect());
    let options = ClusterOptions { faults, only, mode: if outage { ClusterMode::StoreOutage } else { ClusterMode::Storm }, ..Default::default() };
    if runs == 0 {
        let report = run_cluster(first, &ClusterOptions { transcript: true, ..options });
        for line in report.transcript { println!("{line}"); }
        println!("{:?}", report.violation);
        return;
    }
    let outcome = simulate_cluster(&ClusterSimulation { seeds: first..first + runs, options, threads: 2, within: Default::default() }, &|_| {});
    println!("{outcome}\ntook {:?} steps {}", outcome.took, outcome.steps);
    if let Some(f) = outcome.failure { println!("{f}"); }
}
