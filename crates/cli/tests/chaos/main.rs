//! Three hosts out of namespaces, etcd on each, and forty faults: never two actives, and redundant again after each. Needs root, `etcd-server`,
//! `iproute2`, `nftables`, `util-linux`, `e2fsprogs`, `faketime`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod both;
mod clock;

use bench::chaos::{Means, Options, run};
use bench::cluster::{Cluster, Settings};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The same faults each time, unless another seed is asked for: what fails here fails again.
const SEED: u64 = 1;
const FAULTS: u32 = 40;
/// Two cores that do other things too: far above what it takes (seconds), far below what an operator would wait.
const BACK_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn forty_faults_leave_never_two_actives_and_all_redundant_again() {
    for program in ["etcd", "ip", "nft", "mkfs.ext4"] {
        assert!(
            installed(program),
            "`{program}` is missing: apt-get install -y etcd-server iproute2 nftables util-linux e2fsprogs"
        );
    }
    let mut settings = Settings::beside(PathBuf::from(env!("CARGO_BIN_EXE_understudy"))).unwrap();
    settings.profile = Some("lan".into());
    settings.disk_bytes = Some(512 << 20);
    settings.own_wall_clocks = true;
    let seed = std::env::var("UNDERSTUDY_CHAOS_SEED").map_or(SEED, |seed| seed.parse().unwrap());
    let options = Options {
        faults: FAULTS,
        seed,
        back_within: BACK_WITHIN,
        hold_max: Duration::from_secs(5),
        means: Means {
            disks: true,
            clocks: true,
        },
        keep: std::env::temp_dir().join(format!("understudy-chaos-{seed}")),
    };
    let cluster = Cluster::up(&settings).unwrap();
    let outcome = run(&cluster, &options, &|text| eprintln!("{text}")).unwrap_or_else(|error| {
        panic!("{error:#}\nagain: UNDERSTUDY_CHAOS_SEED={seed} cargo nextest run -p understudy-cli --test chaos");
    });
    assert!(outcome.faults() >= FAULTS as usize);
    // The faults did something: the slot changed hands.
    let epochs = |at: fn(&bench::chaos::Round) -> u64| outcome.rounds.iter().map(at);
    let (first, last) = (
        epochs(|round| round.epochs.0).min(),
        epochs(|round| round.epochs.1).max(),
    );
    assert!(last > first, "nothing was ever taken over: {first:?} to {last:?}");
    let (middle, longest) = outcome.back();
    eprintln!("redundant again {middle:.1?} after mending (median), {longest:.1?} at most");
}

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/sbin"].map(|folder| Path::new(folder).to_owned()));
    folders.iter().any(|folder| folder.join(program).is_file())
}
