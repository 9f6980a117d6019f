fn main() {
    if let Ok(f) = std::env::var("SCRIPT") {
        match sim::play(&std::fs::read_to_string(f).unwrap()) {
            Ok(p) => println!("{p}"),
            Err(e) => println!("ERROR {e}"),
        }
        return;
    }
    let args: Vec<String> = std::env::args().collect();
    let a: u64 = args[1].parse().unwrap();
    let n: u64 = args.get(2).map_or(1, |x| x.parse().unwrap());
    let mut options = sim::Options::default();
    if let Ok(f) = std::env::var("FAULTS") {
        options.faults = f.parse().unwrap();
    }
    options.events = std::env::var("EVENTS").is_ok();
    if let Ok(o) = std::env::var("ONLY") {
        options.only = Some(
            o.split(',')
                .filter(|x| !x.is_empty())
                .map(|x| x.parse().unwrap())
                .collect(),
        );
    }
    if let Ok(o) = std::env::var("BROKEN") {
        options.broken = Some(sim::BrokenRule::ALL[o.parse::<usize>().unwrap()]);
    }
    let t = std::time::Instant::now();
    if std::env::var("COUNT").is_ok() {
        let mut by = std::collections::BTreeMap::<String, Vec<u64>>::new();
        for seed in a..a + n {
            let r = sim::run(seed, &options);
            if let Some(v) = r.violation {
                by.entry(v.invariant.to_string()).or_default().push(seed);
            }
        }
        for (k, v) in by {
            println!("{k}: {} {:?}", v.len(), &v[..v.len().min(8)]);
        }
        println!("{:?}", t.elapsed());
        return;
    }
    let out = sim::simulate(
        &sim::Simulation {
            seeds: a..a + n,
            options,
            threads: 0,
        },
        &|_| {},
    );
    println!("{out}\n{:?} steps {}", t.elapsed(), out.steps);
    if let Some(f) = out.failure {
        println!("{f}");
    }
}
