//! `cargo xtask hosts`: hosts out of namespaces, to watch a cluster lose one.

use crate::packages;
use anyhow::Result;
use std::path::Path;

/// What is to be done.
#[derive(Debug, clap::Args)]
pub(crate) struct Settings {
    /// How many hosts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=26))]
    hosts: u8,
    /// Give each a disk of its own of so many MiB, to fill and to stall
    #[arg(long)]
    disk_mib: Option<u64>,
    /// Only remove what is left of hosts whose owner is gone
    #[arg(long)]
    sweep: bool,
}

/// Makes the hosts, and waits for Ctrl-C.
pub(crate) fn run(root: &Path, settings: &Settings) -> Result<()> {
    packages::need(packages::FOR_HOSTS, false)?;
    let count = settings.hosts.to_string();
    let mut words = vec!["run", "--quiet", "--package", "understudy-hosts", "--bin", "rig", "--"];
    let disk_mib = settings.disk_mib.map(|mib| mib.to_string());
    match settings.sweep {
        true => words.push("sweep"),
        false => words.extend(["up", "--hosts", &count]),
    }
    if let (Some(mib), false) = (&disk_mib, settings.sweep) {
        words.extend(["--disk-mib", mib]);
    }
    if !settings.sweep {
        // For the hosts too: they see the machine's files.
        crate::cargo(root, &["build", "--quiet", "--package", "understudy-cli"])?;
        let program = root.join("target/debug/understudy");
        eprintln!("the program of this tree: {}", program.display());
    }
    crate::cargo(root, &words)
}
