//! What can be typed. The doc comments are the reference: `docs/cli.md` is made from them.

mod cluster;
mod daemons;
mod hands;
mod sample;

pub(crate) use self::cluster::*;
pub(crate) use self::daemons::*;
pub(crate) use self::hands::*;
pub(crate) use self::sample::*;
use crate::parse::{loopback, span};
use clap::{Args, Parser, Subcommand, ValueEnum};
use load::generator::{RATE_MAX, RATE_MIN};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Keeps rehearsed standbys for your services, and puts them to work before users notice.
///
/// Exit codes: 0 done, 1 refused or failed, 2 wrong usage. The answer goes to stdout, everything else to stderr.
#[derive(Debug, Parser)]
#[command(name = "understudy", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// Options that every command takes.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Folder in which the clusters of this machine lie [default: /var/lib/understudy as root, else ~/.local/state/understudy]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "UNDERSTUDY_STATE_DIR",
        hide_env_values = true
    )]
    pub(crate) state_dir: Option<PathBuf>,
    /// Which cluster, if several run on this machine
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    /// Whether to colour; colour only repeats what words say. `auto`: on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColorChoice,
}

/// Whether to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything in a file on this machine, and watch it
    ///
    /// Starts the services of FILE, waits until each of them is redundant, and shows how they stand. Ctrl-C explains
    /// itself: once leaves everything running, twice stops it in order. Without a terminal, SIGINT and SIGTERM stop it in
    /// order. If the cluster already runs, the file is applied to it as `apply` does.
    Up(Up),
    /// Make several machines act as one: the first of them, more of them, and how they stand
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Check a file: every error at once, with line, column and what would be right
    Check(Check),
    /// Show what applying a file would change, and what it would risk
    Plan(PlanArgs),
    /// Change the running services to what a file says, after showing the plan
    Apply(Apply),
    /// Show how everything stands
    Status(StatusArgs),
    /// Say why a service, an instance or a node is as it is, and what happens if it dies now
    Explain(Explain),
    /// Print a link that signs you in to the dashboard, once, within five minutes
    ///
    /// Looking needs no link on this machine. Actions do, and so does everything from another machine.
    Dashboard(Dashboard),
    /// Show what happened; each failover as a timeline in microseconds
    Events(Events),
    /// Show what is wrong: each alert with what it means and what to do
    Alerts(Alerts),
    /// Tell nobody of alerts for a while; they go on and are shown
    Silence(Silence),
    /// End a silence
    Unsilence(Unsilence),
    /// Show the output of an instance, or of all instances of a service
    Logs(Logs),
    /// Move an active to a standby, planned and without a gap
    Switchover(Switchover),
    /// Show the applied files, newest last
    History(History),
    /// Apply an earlier file again
    Rollback(Rollback),
    /// Move everything off a node and keep it empty
    ///
    /// Answers when that is written down; the node is empty when `status` shows nothing on it, and with `--wait` not before.
    Drain(Drain),
    /// Let a drained node run instances again
    Undrain(Node),
    /// Move the instances of a service to where they would be put today
    Rebalance(Service),
    /// Leave a slot without a holder, on purpose, until `unpark`
    ///
    /// Its holder gives it up as in a switchover, and nobody takes it: over restarts of agents, losses of nodes and new files. `status`
    /// says since when, because of what, and who wanted it.
    Park(Park),
    /// Let a parked slot be held again
    Unpark(Unpark),
    /// Take a slot from a node that is off, at your word, before its session has run out
    ///
    /// For the one case in which waiting does not do: the node that holds the slot is off, and the cluster cannot know it, because too many
    /// nodes fell silent at once or because its lease is long. Go and look at the machine first. If it is not off, two may act at once.
    /// All that the node holds is free then. Refused while the node renews its session, and while the store does not answer.
    /// With `--give-to`, where a slot waits for the data of an instance that will not come back: they are given up for those of another one.
    Force(Force),
    /// Take the power of a node away by its fence devices, or test whether they would
    ///
    /// Shows first what would be lost. Every device that the file declares for the node is told `off` and then asked; only when all of them
    /// say that it is off, its session is ended and what it held is taken. Refused where nobody could take over. With `--test` the
    /// devices are only asked.
    Fence(Fence),
    /// Stop all automatic actions; services run on
    Pause(Pause),
    /// Let automatic actions run again
    Resume(Plain),
    /// Try an instance again that was given up, now
    Retry(Retry),
    /// Break something for real, and see who notices
    Drill(Drill),
    /// Test how much load a service takes, and what limits it
    ///
    /// Sends requests at planned times, whatever becomes of those before, in steps that rise until the objective is not met, then
    /// between. Says the largest load, what is held up by what, what one more instance would buy, and what is left after a loss. It ends
    /// by itself when anything suffers: an instance fails its checks, a slot is lost, a node goes away. Test on a day when that may happen.
    Load(Load),
    /// Stop all services of the cluster, in order, and Understudy with them
    Down(Down),
    /// List the clusters of this machine, and whether they run
    Clusters(Plain),
    /// Print a completion script for a shell
    Completions(Completions),
    /// Show what takes which service down, how often that is to be expected, and what would help
    ///
    /// Without FILE the running cluster is looked at, declared against observed, given what has failed now. With FILE a file, placed
    /// on the nodes that it tells of as it would be.
    Analyze(Analyze),
    /// Run the decisions in virtual time with random faults, and judge them by named invariants
    ///
    /// A run that breaks a promise prints the last lines of what happened and the command that replays it.
    Simulate(Simulate),
    /// Print the description of the HTTP API (OpenAPI 3.1, JSON)
    Openapi,
    /// Run the node daemon (what `up` starts; by hand only to look for faults)
    #[command(hide = true)]
    Agent(Agent),
    /// Keep a node daemon running (what `up` starts)
    #[command(hide = true)]
    Guard(Guard),
    /// Run the data path (what the agent starts)
    #[command(hide = true)]
    Proxy(Proxy),
    /// Run a sample service, or call one: what the examples are made of
    Sample(Sample),
    /// Print this reference as Markdown
    #[command(hide = true)]
    MarkdownHelp,
}

/// `up`
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// The file
    #[arg(default_value = "understudy.toml")]
    pub(crate) file: PathBuf,
    /// How many nodes this machine pretends to be [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=26))]
    pub(crate) nodes: Option<u32>,
    /// Return as soon as every service is redundant; services keep running
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Answer the HTTP API on this loopback address too: 127.0.0.1:PORT
    #[arg(long, value_name = "ADDRESS", value_parser = loopback)]
    pub(crate) api: Option<SocketAddr>,
    /// Where the dashboard is on this machine: a loopback address, or `off` [default: 127.0.0.1:7400, or a free port]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) dashboard: Option<agent::DashboardPlace>,
    /// How long to wait until every service is redundant
    #[arg(long, value_name = "SPAN", default_value = "2m", value_parser = span)]
    pub(crate) timeout: Duration,
    /// Do not ask before changing a cluster that already runs
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// `check`
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The file
    #[arg(default_value = "understudy.toml")]
    pub(crate) file: PathBuf,
    /// Print the findings as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the JSON Schema of the file instead of checking one
    #[arg(long, conflicts_with_all = ["json", "here"])]
    pub(crate) schema: bool,
    /// Also try whether it could run on this machine: programs found, ports free, users known. Without it, only programs that
    /// are not found are told, as a warning
    #[arg(long)]
    pub(crate) here: bool,
}

/// `plan`
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The file
    #[arg(default_value = "understudy.toml")]
    pub(crate) file: PathBuf,
    /// Print the plan as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `apply`
#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// The file
    #[arg(default_value = "understudy.toml")]
    pub(crate) file: PathBuf,
    /// Return only when everything runs as the file says and is redundant; exit code 1 if that takes longer than this, or at
    /// once if it waits for somebody: a rollout was given up, something is parked or paused
    #[arg(long, value_name = "SPAN", num_args = 0..=1, require_equals = true, default_missing_value = "5m", value_parser = span)]
    pub(crate) wait: Option<Duration>,
    /// Do not ask; needed where there is no terminal
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `status`
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Only this service
    pub(crate) service: Option<String>,
    /// Keep showing it; `q` or Ctrl-C ends
    #[arg(long, short)]
    pub(crate) watch: bool,
    /// Print it as JSON; with `--watch` one line per change
    #[arg(long)]
    pub(crate) json: bool,
}

/// `explain`
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// A service, a slot (`db/0`), an instance or a node; an address of one of them; or the cluster
    pub(crate) name: String,
    /// What if this node dies now
    #[arg(long, value_name = "NODE")]
    pub(crate) if_dies: Option<String>,
    /// Print it as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `dashboard`
#[derive(Debug, Args)]
pub(crate) struct Dashboard {
    /// A link that lets one look and change nothing
    #[arg(long)]
    pub(crate) read: bool,
    /// Print the certificate of the cluster's authority instead, for a browser on another machine to trust
    #[arg(long, conflicts_with_all = ["read", "json"])]
    pub(crate) authority: bool,
    /// Print it as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `alerts`
#[derive(Debug, Args)]
pub(crate) struct Alerts {
    /// Only those of this service, instance or node
    pub(crate) about: Option<String>,
    /// Print them as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `load`
#[derive(Debug, Args)]
pub(crate) struct Load {
    /// The service; its clients come through `listen`
    pub(crate) service: String,
    /// Measure this rate, in requests a second, instead of searching for the largest load
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Begin the search with this rate, in requests a second: one that surely is no trouble [default: a tenth of what one client could ask]
    #[arg(long, value_name = "RATE", value_parser = rate, conflicts_with = "rate")]
    pub(crate) from: Option<f64>,
    /// Never ask for more than this, in requests a second
    #[arg(long, value_name = "RATE", default_value = "100000", value_parser = rate)]
    pub(crate) rate_max: f64,
    /// Length of each step; the first third of it, 10 s at most, does not count
    #[arg(long = "for", value_name = "SPAN", default_value = "30s", value_parser = span)]
    pub(crate) step: Duration,
    /// What is promised to clients: a percentile and a time
    #[arg(long, value_name = "OBJECTIVE", default_value = "p99 < 200ms")]
    pub(crate) objective: load::objective::Objective,
    /// What is asked for, of a service with `protocol = "http"`
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub(crate) path: String,
    /// What is sent on each new connection, of any other; `\r`, `\n` and `\\` are understood. Without it connections are only made and ended
    #[arg(long, value_name = "TEXT")]
    pub(crate) send: Option<String>,
    /// Send in even intervals; else as many clients do that know nothing of each other
    #[arg(long)]
    pub(crate) even: bool,
    /// The chance in the intervals
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Write it as a page with pictures, too
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
}

/// Requests a second.
fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (RATE_MIN..=RATE_MAX).contains(&rate) => Ok(rate),
        _ => Err(format!("a number of requests a second, from {RATE_MIN} to {RATE_MAX}")),
    }
}

/// `silence`
#[derive(Debug, Args)]
pub(crate) struct Silence {
    /// The alert, as `alerts` names it: `service-down`; all if not given
    pub(crate) code: Option<String>,
    /// Only about this service, instance or node
    #[arg(long, value_name = "NAME")]
    pub(crate) about: Option<String>,
    /// For how long
    #[arg(long = "for", value_name = "SPAN", default_value = "1h", value_parser = span)]
    pub(crate) span: Duration,
    /// Why: others read it
    #[arg(long, value_name = "TEXT")]
    pub(crate) because: String,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `unsilence`
#[derive(Debug, Args)]
pub(crate) struct Unsilence {
    /// Its number, as `alerts` shows it
    pub(crate) id: String,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `events`
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Keep showing new ones
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only those of this service
    #[arg(long, value_name = "SERVICE")]
    pub(crate) service: Option<String>,
    /// Only failovers and switchovers
    #[arg(long)]
    pub(crate) failovers: bool,
    /// How many of the latest
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(crate) lines: u32,
    /// Print them as JSON; with `--follow` one line per event
    #[arg(long)]
    pub(crate) json: bool,
}

/// `logs`
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// An instance, or a service for all of its instances
    pub(crate) name: String,
    /// Keep showing new lines
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// How many of the latest lines of each instance
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub(crate) lines: u32,
    /// Print them as JSON; with `--follow` one line per line
    #[arg(long)]
    pub(crate) json: bool,
}

/// `analyze`
#[derive(Debug, Args)]
pub(crate) struct Analyze {
    /// The file to look at, in the place of the running cluster
    #[arg(conflicts_with = "open_psa")]
    pub(crate) file: Option<PathBuf>,
    /// List minimal cut sets of at most so many things [default: 3; all for a fault tree]
    ///
    /// The number of minimal cut sets that is told counts all of them, whether listed or not.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) order: Option<u32>,
    /// Solve the fault tree of an Open-PSA file instead
    ///
    /// Given more than once, the files are one model. Common-cause groups are applied; of uncertain probabilities the mean is taken; the
    /// mission time is 8760 hours.
    #[arg(long, value_name = "FILE")]
    pub(crate) open_psa: Vec<PathBuf>,
    /// With --open-psa: solve this gate, not the first that no other gate uses
    #[arg(long, value_name = "GATE", requires = "open_psa")]
    pub(crate) top: Option<String>,
    /// Write it for others: the fault trees of the services, or a picture
    #[arg(long, value_name = "FORMAT", conflicts_with_all = ["json", "open_psa"])]
    pub(crate) export: Option<Export>,
    /// Print the whole answer as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Formats that fault trees are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Export {
    /// Open-PSA Model Exchange Format, XML: the fault trees
    OpenPsa,
    /// A picture: zones, nodes, instances, and what takes which service down
    Svg,
}

/// `simulate`
#[derive(Debug, Args)]
pub(crate) struct Simulate {
    /// A script to play instead: what happens, line by line; prints what was decided, and why
    #[arg(conflicts_with_all = ["seed", "runs", "faults", "only", "threads", "events", "json"])]
    pub(crate) script: Option<PathBuf>,
    /// The run to begin with, or to replay [default: 1 with --runs, else a random one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=SEED_MAX))]
    pub(crate) seed: Option<u64>,
    /// How many runs, each of the next seed
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) runs: u64,
    /// How many faults and acts of operators are drawn for a run
    #[arg(long, value_name = "N", default_value_t = sim::FAULTS, value_parser = faults)]
    pub(crate) faults: usize,
    /// Of the faults of a run only these, by their numbers: what a failed run was reduced to
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', conflicts_with = "runs")]
    pub(crate) only: Option<Vec<usize>>,
    /// Runs at the same time; 0 for one per core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) threads: usize,
    /// Show all of a run: what was told, what was decided
    #[arg(long, conflicts_with = "runs")]
    pub(crate) events: bool,
    /// Several machines with their sessions, guards, network and one store, instead of one machine
    #[arg(long, conflicts_with = "script")]
    pub(crate) machines: bool,
    /// With --machines: nothing fails but the store, which is away for up to ten minutes
    #[arg(long, requires = "machines")]
    pub(crate) store_outage: bool,
    /// With --machines: up to so many nodes each is told every renewal; 0 as in a cluster of very many
    #[arg(long, value_name = "NODES", requires = "machines")]
    pub(crate) whole_up_to: Option<usize>,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The largest seed: with all the runs that one can ask for after it, seeds can still be counted.
pub(crate) const SEED_MAX: u64 = i64::MAX as u64;

/// A number of faults that a run can bear.
fn faults(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 0..=10_000) => Ok(number),
        _ => Err("a number from 0 to 10000, as in `40`".into()),
    }
}

/// `completions`
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    /// Two arguments of one name but of different types are no error to clap until one of them is read.
    #[test]
    fn no_flag_of_a_command_has_the_name_of_an_option_of_all() {
        let shared: Vec<String> = Cli::command()
            .get_arguments()
            .filter(|argument| argument.is_global_set())
            .map(|argument| argument.get_id().to_string())
            .collect();
        assert!(shared.contains(&"cluster".to_owned()), "{shared:?}");
        let mut commands: Vec<clap::Command> = Cli::command().get_subcommands().cloned().collect();
        while let Some(command) = commands.pop() {
            for argument in command.get_arguments() {
                assert!(
                    !shared.iter().any(|name| name == argument.get_id().as_str()),
                    "`{}` of {}",
                    argument.get_id(),
                    command.get_name()
                );
            }
            commands.extend(command.get_subcommands().cloned());
        }
    }
}
