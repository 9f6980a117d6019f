//! `hosts`: three hosts that act as one, to watch and to break by hand.

use crate::say;
use anyhow::{Context, Result, bail};
use bench::chaos;
use bench::cluster::{Cluster, Settings, TOKEN_PORT};
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
    /// A wall clock of its own for each host, by libfaketime, that can be stepped
    #[arg(long)]
    own_wall_clocks: bool,
}

impl Wanted {
    pub(crate) fn settings(&self, program: PathBuf) -> Result<Settings> {
        let mut settings = Settings::beside(program)?;
        settings.profile.clone_from(&self.profile);
        settings.own_wall_clocks = self.own_wall_clocks;
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
    say(
        "          loss HOST PERMILLE, pause HOST, disk-full HOST, disk-stall HOST, hogs HOST N, clock-step HOST SECONDS",
    );
    say(
        "          try SECONDS TROUBLE + TROUBLE …: breaks, mends, says what a client saw; hosts may be called active, leader, second, third",
    );
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

/// `try SECONDS TROUBLE + TROUBLE …`: broken for so long, then mended; what a client saw of it.
fn attempt(cluster: &Cluster, words: &str) -> Result<()> {
    let (seconds, troubles) = words.split_once(' ').context("for how many seconds, and what?")?;
    let active = cluster.active()?.host;
    let leader = cluster.store_leader()?;
    let mut others = cluster.names().iter().filter(|name| **name != active);
    let (Some(second), Some(third)) = (others.next(), others.next()) else {
        bail!("there are fewer than three hosts");
    };
    let named = |word: &str| match word {
        "active" => active.clone(),
        "leader" => leader.clone(),
        "second" => second.clone(),
        "third" => third.clone(),
        other => other.to_owned(),
    };
    let troubles = troubles.split('+').map(|trouble| {
        let words: Vec<String> = trouble.split_ascii_whitespace().map(named).collect();
        words.join(" ").parse::<Trouble>()
    });
    let troubles = troubles.collect::<Result<Vec<_>>>()?;
    let asked = cluster
        .names()
        .iter()
        .rfind(|name| troubles.iter().all(|trouble| !trouble.names().contains(&name.as_str())))
        .unwrap_or(third);
    let plan = hosts::client::Plan::new(cluster.target(asked, TOKEN_PORT)?);
    let hold = Duration::from_secs_f64(seconds.parse()?);
    println!("active {active}, store's leader {leader}, asked {asked}");
    let round = chaos::play(cluster, troubles, hold, TYPED_WITHIN, plan)?;
    println!(
        "out {:?}, failed {} of {}, late {:.1?}; redundant {:.2?} after mending; epoch {} to {}",
        round.outage.length,
        round.outage.failed,
        round.outage.sent,
        round.outage.late_p99,
        round.back_after,
        round.epochs.0,
        round.epochs.1
    );
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
        "try" => attempt(cluster, rest)?,
        "keep" => cluster.keep_logs(rest.as_ref())?,
        host if cluster.names().iter().any(|name| name == host) => {
            let rest = rest.replace(
                "understudy ",
                &format!("{} ", cluster.rig().shared().join("bin/understudy").display()),
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
