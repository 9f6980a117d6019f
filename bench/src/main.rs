//! Benchmarks: the product beside its peers and beside the floor, through its command line.
//!
//! Each writes `bench/results/NAME.md`. `cargo xtask bench NAME` builds what is needed and runs one.

mod analyze;
mod bottleneck;
mod calm;
mod console;
mod db_failover;
mod deadline;
mod echo;
mod failover;
mod files;
mod node_loss;
mod proxy;
mod restart;
mod rounds;
mod scale;
mod store_away;
mod web_kill;

use anyhow::{Context as _, Result};
use bench::load::{Load, Plan, Report};
use bench::rig;
use clap::{Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Measures Understudy, and writes what came out into `bench/results`.
#[derive(Debug, Parser)]
#[command(name = "understudy-bench")]
struct Cli {
    /// The program to measure [default: `understudy` beside this one]
    #[arg(long, global = true, value_name = "PATH")]
    understudy: Option<PathBuf>,
    /// Where the result is written
    #[arg(long, global = true, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    results: PathBuf,
    /// How many tries of each kind, instead of the benchmark's own number
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    runs: Option<u32>,
    /// What to measure
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, Subcommand)]
enum What {
    /// Kill and freeze an active web server under load: failed requests
    WebKill,
    /// Kill the active database: where the time goes, beside the floor
    DbFailover,
    /// 10, 100, 1,000 instances: start, cost at rest, a tenth of them killed at once
    Scale,
    /// The proxy beside HAProxy: throughput, p99, time on the core
    Proxy,
    /// What the kernel's deadline of an exclusive active costs who is watched
    Deadline,
    /// Kill agent, guard and proxy under load: failed requests, and whether services noticed
    Restart,
    /// A chain of three services with one limit injected, of each kind and in each place, and none: whether `load` finds it
    Bottleneck {
        /// Only from this case on, counted from 1, for a machine that is quiet for minutes only
        #[arg(long, default_value_t = 1)]
        from: usize,
        /// Only up to this case
        #[arg(long, default_value_t = usize::MAX)]
        to: usize,
    },
    /// Understudy, keepalived and Pacemaker on hosts out of namespaces: kill, freeze, power loss, link down, switchover
    Failover(failover::Settings),
    /// The loss of a host in all its ways, as a client sees it; planned moves
    NodeLoss(node_loss::Settings),
    /// Fault trees beside SCRAM, and how the search for single points of failure grows
    Analyze,
    /// An hour of load without a fault: nobody may be taken for dead
    Calm(calm::Settings),
    /// All members of the store stand still for ten minutes: what is healthy neither stops nor moves, and nothing is lost
    StoreAway(store_away::Settings),
    /// Random faults on three hosts, round after round, judged by a witness from outside
    Chaos(rounds::Wanted),
    /// Three hosts out of namespaces that act as one, to watch and to break by hand
    Hosts(console::Wanted),
    /// A TCP server that sends back what it gets; `proxy` runs it
    #[command(hide = true)]
    Echo {
        /// Where it listens
        #[arg(long)]
        listen: SocketAddr,
    },
}

/// What every benchmark is given.
struct Context {
    program: PathBuf,
    results: PathBuf,
    runs: Option<u32>,
    runtime: Runtime,
}

impl Context {
    fn runs(&self, usual: u32) -> u32 {
        self.runs.unwrap_or(usual)
    }

    fn start(&self, plan: Plan) -> Result<Load> {
        let _runtime = self.runtime.enter();
        Ok(bench::load::start(plan)?)
    }

    fn finish(&self, load: Load) -> Report {
        self.runtime.block_on(load.finish())
    }
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    if let What::Echo { listen } = cli.what {
        return echo::serve(listen);
    }
    if let What::Hosts(wanted) = cli.what {
        return console::run(&wanted.settings(rig::find_program(cli.understudy)?)?);
    }
    if let What::Chaos(wanted) = cli.what {
        return rounds::run(&wanted, rig::find_program(cli.understudy)?);
    }
    let context = Context {
        program: rig::find_program(cli.understudy)?,
        results: cli.results,
        runs: cli.runs,
        runtime: Runtime::new().context("failed to start the load client's threads")?,
    };
    context.runtime.spawn(end_when_told());
    let page = match cli.what {
        What::WebKill => web_kill::run(&context)?,
        What::DbFailover => db_failover::run(&context)?,
        What::Scale => scale::run(&context)?,
        What::Analyze => analyze::run(&context)?,
        What::Proxy => proxy::run(&context)?,
        What::Deadline => deadline::run(&context)?,
        What::Restart => restart::run(&context)?,
        What::Bottleneck { from, to } => bottleneck::run(&context, from..=to)?,
        What::NodeLoss(settings) => node_loss::run(&context, &settings)?,
        What::Calm(settings) => calm::run(&context, &settings)?,
        What::StoreAway(settings) => store_away::run(&context, &settings)?,
        What::Failover(settings) => failover::run(&context, &settings)?,
        What::Echo { .. } | What::Hosts(_) | What::Chaos(_) => return Ok(()),
    };
    let path = page.write(&context.results)?;
    eprintln!("written to {}", path.display());
    Ok(())
}

/// Leaves nothing behind when a benchmark is stopped in the middle.
async fn end_when_told() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return;
    };
    let Ok(mut interrupt) = signal(SignalKind::interrupt()) else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    rig::abandon();
    std::process::exit(1);
}

/// What is going on, for whoever watches; the result is on stdout.
fn say(text: &str) {
    eprintln!("{text}");
}
