//! `hosts`: three hosts that act as one, to watch and to break by hand.

use crate::say;
use anyhow::Result;
use bench::cluster::{Cluster, Settings};
use bench::trouble::{Begun, Trouble, heal_all};
use std::io::BufRead;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// For a command that somebody types.
const TYPED_WITHIN: Duration = Duration::from_secs(120);

/// What kind of cluster.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Wanted {
    /// The timing: fast, lan, stock, wan [default: what `cluster init` finds to fit]
    #[arg(long)]
    profile: Option<String>,
    /// A disk of its own for each host, in MiB, that can be filled and stalled
    #[arg(long)]
    disk_mib: Option<u64>,
}

impl Wanted {
    pub(crate) fn settings(&self, program: PathBuf) -> Result<Settings> {
        let mut settings = Settings::beside(program)?;
        settings.profile.clone_from(&self.profile);
        settings.disk_bytes = self.disk_mib.map(|mib| mib << 20);
        Ok(settings)
    }
}

/// Brings it up, and does what is typed until the end of input.
pub(crate) fn run(settings: &Settings) -> Result<()> {
    let began = Instant::now();
    let cluster = Cluster::up(settings)?;
    say(&format!("up and redundant after {:.1?}", began.elapsed()));
    for host in cluster.rig().hosts() {
        say(&format!(
            "{} {}: {}",
            host.name(),
            host.address(),
            host.enter_with().unwrap_or_default()
        ));
    }
    say(
        "troubles: kill HOST agent|guard|proxy|etcd|token, stop …, power-loss HOST, link-down HOST, path-cut HOST, one-way A B, apart A B,",
    );
    say("          loss HOST PERMILLE, pause HOST, disk-full HOST, disk-stall HOST, hogs HOST N");
    say("others:   heal, wait, active, leader, judge, HOST COMMAND …, end");
    let mut begun = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if line.trim() == "end" {
            break;
        }
        if let Err(error) = obey(&cluster, &mut begun, line.trim()) {
            println!("error: {error:#}");
        }
        println!(".");
    }
    Ok(())
}

fn obey(cluster: &Cluster, begun: &mut Vec<Begun>, line: &str) -> Result<()> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "" => {}
        "heal" => heal_all(std::mem::take(begun), cluster)?,
        "wait" => println!("redundant after {:.2?}", cluster.wait_redundant(TYPED_WITHIN)?),
        "active" => println!("{:?}", cluster.active()?),
        "leader" => println!("{}", cluster.store_leader()?),
        "judge" => println!("{}", cluster.verdict()?),
        "keep" => cluster.keep_logs(rest.as_ref())?,
        host if cluster.names().iter().any(|name| name == host) => {
            let rest = rest.replace(
                "understudy",
                &cluster.rig().shared().join("bin/understudy").display().to_string(),
            );
            let output = cluster
                .host(host)?
                .run_within(hosts::Command::shell(rest), TYPED_WITHIN)?;
            println!("{}{}", output.stdout, output.stderr);
        }
        _ => {
            let trouble: Trouble = line.parse()?;
            begun.push(trouble.begin(cluster)?);
        }
    }
    Ok(())
}
