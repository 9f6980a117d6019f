//! `chaos`: random faults on real hosts, round after round, judged by a witness.

use crate::say;
use anyhow::Result;
use bench::chaos::{self, Means, Options};
use bench::cluster::{Cluster, Settings};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How many, from which chance, under which timing.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Wanted {
    /// How many faults; several at once count each
    #[arg(long, default_value_t = 40)]
    faults: u32,
    /// Where chance begins: the same faults again [default: from the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// The timing: fast, lan, stock, wan
    #[arg(long, default_value = "lan")]
    profile: String,
    /// After mending all must be redundant within this many seconds
    #[arg(long, default_value_t = 60)]
    back_within_s: u64,
    /// A fault lasts at most this many milliseconds
    #[arg(long, default_value_t = 6_000)]
    hold_max_ms: u64,
    /// A disk of its own for each host, in MiB, that can be filled and stalled; 0 for none
    #[arg(long, default_value_t = 512)]
    disk_mib: u64,
    /// All hosts share the machine's wall clock, and none is stepped; else libfaketime gives each one of its own
    #[arg(long)]
    one_wall_clock: bool,
    /// Where logs go if it fails
    #[arg(long, default_value = "/var/tmp/understudy-chaos")]
    keep: PathBuf,
}

pub(crate) fn run(wanted: &Wanted, program: PathBuf) -> Result<()> {
    let mut settings = Settings::beside(program)?;
    settings.profile = Some(wanted.profile.clone());
    settings.disk_bytes = Some(wanted.disk_mib << 20).filter(|bytes| *bytes > 0);
    settings.own_wall_clocks = !wanted.one_wall_clock;
    let seed = wanted.seed.unwrap_or_else(hosts::now_ns);
    say(&format!("seed {seed}"));
    let began = Instant::now();
    let cluster = Cluster::up(&settings)?;
    say(&format!(
        "three hosts are up and redundant after {:.1?}",
        began.elapsed()
    ));
    let options = Options {
        faults: wanted.faults,
        seed,
        back_within: Duration::from_secs(wanted.back_within_s),
        hold_max: Duration::from_millis(wanted.hold_max_ms),
        means: Means {
            disks: settings.disk_bytes.is_some(),
            clocks: settings.own_wall_clocks,
        },
        keep: wanted.keep.join(seed.to_string()),
    };
    let outcome = chaos::run(&cluster, &options, &say)?;
    let (middle, longest) = outcome.back();
    println!(
        "{} faults in {} rounds, seed {seed}: never two actives, epochs only rose; redundant again {middle:.1?} after mending (median), {longest:.1?} at \
         most, bound {:.0?}; {:.0?} in all",
        outcome.faults(),
        outcome.rounds.len(),
        options.back_within,
        began.elapsed()
    );
    Ok(())
}
