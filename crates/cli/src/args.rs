//! What can be typed. The doc comments are the reference: `docs/cli.md` is made from them.

use crate::parse::{loopback, reason, revision, span};
use clap::{Args, Parser, Subcommand, ValueEnum};
use load::generator::{RATE_MAX, RATE_MIN};
use std::net::{IpAddr, SocketAddr};
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
    Drain(Node),
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
    Force(Force),
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
    /// Return only when everything runs as the file says and is redundant; exit code 1 if that takes longer than this
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

/// The limit of a `tier`.
fn limit(text: &str) -> Result<sample::Limit, String> {
    text.parse()
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

/// `switchover`
#[derive(Debug, Args)]
pub(crate) struct Switchover {
    /// The service
    pub(crate) service: String,
    /// Who shall take over [default: the first in the failover order]
    #[arg(long, value_name = "INSTANCE")]
    pub(crate) to: Option<String>,
    /// Which slot [default: the first]
    #[arg(long, value_name = "N")]
    pub(crate) slot: Option<u32>,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `history`
#[derive(Debug, Args)]
pub(crate) struct History {
    /// Print the file of this revision
    #[arg(long, value_name = "REVISION", value_parser = revision)]
    pub(crate) show: Option<u64>,
    /// List what operators did by hand instead: `park`, `unpark`, `force`, `pause`, `resume`
    #[arg(long, conflicts_with = "show")]
    pub(crate) deeds: bool,
    /// Print it as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `rollback`
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// To which revision [default: the last that was healthy and says something else than the one in force]
    #[arg(value_parser = revision)]
    pub(crate) revision: Option<u64>,
    /// Do not ask; needed where there is no terminal
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `drain`, `undrain`
#[derive(Debug, Args)]
pub(crate) struct Node {
    /// The node
    pub(crate) node: String,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `rebalance`
#[derive(Debug, Args)]
pub(crate) struct Service {
    /// The service
    pub(crate) service: String,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `pause`
#[derive(Debug, Args)]
pub(crate) struct Pause {
    /// Why: shown for as long as it is paused
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub(crate) because: Option<String>,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `park`
#[derive(Debug, Args)]
pub(crate) struct Park {
    /// The slot: `db`, or `web/1` of a service with several
    #[arg(value_name = "SERVICE[/SLOT]")]
    pub(crate) slot: String,
    /// Why: shown for as long as it is parked
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub(crate) because: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `unpark`
#[derive(Debug, Args)]
pub(crate) struct Unpark {
    /// The slot: `db`, or `web/1` of a service with several
    #[arg(value_name = "SERVICE[/SLOT]")]
    pub(crate) slot: String,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `force`
#[derive(Debug, Args)]
pub(crate) struct Force {
    /// The slot: `db`, or `web/1` of a service with several
    #[arg(value_name = "SERVICE[/SLOT]")]
    pub(crate) slot: String,
    /// The node that holds it, and is off
    #[arg(long, value_name = "NODE")]
    pub(crate) node_is_off: String,
    /// The same in words, `host NODE is off`; asked for if not given
    #[arg(long, value_name = "WORDS")]
    pub(crate) statement: Option<String>,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `retry`
#[derive(Debug, Args)]
pub(crate) struct Retry {
    /// The instance
    pub(crate) instance: String,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Commands without arguments.
#[derive(Debug, Args)]
pub(crate) struct Plain {
    /// Print it as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `drill`
#[derive(Debug, Args)]
pub(crate) struct Drill {
    /// What to break
    #[command(subcommand)]
    pub(crate) what: DrillWhat,
}

/// What `drill` breaks.
#[derive(Debug, Subcommand)]
pub(crate) enum DrillWhat {
    /// Kill everything on a node at once, as if its power were cut
    Node {
        /// The node
        name: String,
        /// It comes back after this long; without it, it stays away until `undrain`
        #[arg(long = "for", value_name = "SPAN", value_parser = span)]
        back_after: Option<Duration>,
        /// Do not ask; needed where there is no terminal
        #[arg(long, short)]
        yes: bool,
        /// Print the outcome as JSON
        #[arg(long)]
        json: bool,
    },
    /// Kill one instance
    Instance {
        /// The instance
        name: String,
        /// Do not ask; needed where there is no terminal
        #[arg(long, short)]
        yes: bool,
        /// Print the outcome as JSON
        #[arg(long)]
        json: bool,
    },
}

/// `down`
#[derive(Debug, Args)]
pub(crate) struct Down {
    /// Stop this node's member of the store, too; without it, it goes on voting, and the others keep their majority
    #[arg(long)]
    pub(crate) etcd: bool,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Print the outcome as JSON
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

/// `agent`
#[derive(Debug, Args)]
pub(crate) struct Agent {
    /// How many nodes this machine pretends to be
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=26))]
    pub(crate) nodes: u32,
    /// Answer the HTTP API on this loopback address too
    #[arg(long, value_name = "ADDRESS", value_parser = loopback)]
    pub(crate) api: Option<SocketAddr>,
    /// Where the dashboard is
    #[arg(long, value_name = "ADDRESS", default_value_t = agent::DashboardPlace::Usual)]
    pub(crate) dashboard: agent::DashboardPlace,
    /// How much to log
    #[command(flatten)]
    pub(crate) log: Log,
}

/// `guard`
#[derive(Debug, Args)]
pub(crate) struct Guard {
    /// How many nodes the agent pretends to be
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=26))]
    pub(crate) nodes: u32,
    /// The agent's loopback address
    #[arg(long, value_name = "ADDRESS", value_parser = loopback)]
    pub(crate) api: Option<SocketAddr>,
    /// Where the agent's dashboard is
    #[arg(long, value_name = "ADDRESS", default_value_t = agent::DashboardPlace::Usual)]
    pub(crate) dashboard: agent::DashboardPlace,
    /// An agent that runs already: only when it ends, start one
    #[arg(long, value_name = "PID")]
    pub(crate) watch: Option<u32>,
    /// How much to log
    #[command(flatten)]
    pub(crate) log: Log,
}

/// `proxy`
#[derive(Debug, Args)]
pub(crate) struct Proxy {
    /// Where the agent gives its orders
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: PathBuf,
    /// How many threads carry traffic; 0 for one per core, at most 4
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=64))]
    pub(crate) workers: u32,
    /// How long clients may finish when it is told to end
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = span)]
    pub(crate) drain: Duration,
    /// How much to log
    #[command(flatten)]
    pub(crate) log: Log,
}

/// How much a daemon logs.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Log {
    /// Log from this level up
    #[arg(long = "log", value_name = "LEVEL", default_value = "info", env = "UNDERSTUDY_LOG")]
    pub(crate) level: tracing::Level,
    /// How each line is written
    #[arg(
        long = "log-format",
        value_name = "FORMAT",
        default_value = "text",
        env = "UNDERSTUDY_LOG_FORMAT"
    )]
    pub(crate) format: LogFormat,
}

/// How a daemon writes its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line, with `timestamp`, `level`, `target`, `message` and fields.
    Json,
}

/// `cluster`
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Make a cluster of this machine; others join it
    ///
    /// Measures disk and scheduling, chooses the timing, makes the certificates, starts etcd, then the agent, and prints what to type
    /// on the next machine. With `--etcd` it uses an etcd that runs already.
    Init(ClusterInit),
    /// Make this machine a node of a cluster
    ///
    /// The token comes from `cluster init` or `cluster token` on a node. It is used up by this.
    Join(ClusterJoin),
    /// Print a token with which one more machine can join
    Token(ClusterToken),
    /// Take a node out for good: its vote, its certificates, its instances
    Remove(ClusterRemove),
    /// Show who belongs to the cluster, who votes, and what to do if something is amiss; works without a majority too
    Status(Plain),
    /// Write all that the cluster knows to a file
    Backup(ClusterBackup),
    /// Put back what a backup knows, on this node alone; the others join anew
    Restore(ClusterRestore),
    /// The majority is lost for good: make this node the only one that votes
    ///
    /// What the lost machines acknowledged last and this one did not hear is lost. If they are not off, two clusters go on, and exclusive
    /// services have two actives: be sure that they are off.
    Recover(ClusterRecover),
    /// Start the agent of this node again, after a reboot or `down`
    Start(Plain),
    /// Replace the authority that signs certificates: after a member was taken over, or before it ends
    ///
    /// The agents do it by themselves, step by step, while everything runs: first all nodes trust both, then all get certificates of the new
    /// one, then the old one is dropped. Each member's etcd is restarted twice, one after the other. `cluster status` says how far it is.
    RotateAuthority(ClusterRotate),
}

/// `cluster rotate-authority`
#[derive(Debug, Args)]
pub(crate) struct ClusterRotate {
    /// Give it up; possible until the new authority issues certificates
    #[arg(long)]
    pub(crate) abort: bool,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// `cluster init`
#[derive(Debug, Args)]
pub(crate) struct ClusterInit {
    /// Name of the cluster
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// The address by which the other machines reach this one
    #[arg(long, value_name = "IP")]
    pub(crate) host: IpAddr,
    /// Name of this node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Its place, a path of failure domains: dc1/rack3 [default: the name of the node]
    #[arg(long, value_name = "ZONE")]
    pub(crate) zone: Option<String>,
    /// Port of the agent; etcd takes the next two
    #[arg(long, value_name = "PORT", default_value_t = membership::AGENT_PORT)]
    pub(crate) port: u16,
    /// The timing [default: the quickest that fits what is measured]
    #[arg(long, value_name = "PROFILE", value_parser = parse_profile)]
    pub(crate) profile: Option<model::Profile>,
    /// An endpoint of an etcd that runs already; may be given several times
    #[arg(long, value_name = "URL")]
    pub(crate) etcd: Vec<String>,
    /// For https: the authority of that etcd's certificates, in PEM
    #[arg(long, value_name = "FILE", requires_all = ["etcd_cert", "etcd_key"])]
    pub(crate) etcd_ca: Option<PathBuf>,
    /// For https: our certificate for it
    #[arg(long, value_name = "FILE", requires = "etcd_ca")]
    pub(crate) etcd_cert: Option<PathBuf>,
    /// For https: the key of that
    #[arg(long, value_name = "FILE", requires = "etcd_ca")]
    pub(crate) etcd_key: Option<PathBuf>,
    /// User for it
    #[arg(long, value_name = "NAME", requires = "etcd_password_file")]
    pub(crate) etcd_user: Option<String>,
    /// File with the password for it
    #[arg(long, value_name = "FILE", requires = "etcd_user")]
    pub(crate) etcd_password_file: Option<PathBuf>,
    /// What is put before every key
    #[arg(long, value_name = "PREFIX", default_value = membership::PREFIX)]
    pub(crate) prefix: String,
    /// Reach that etcd without TLS even over a network: whoever is on the way can read and change everything
    #[arg(long, requires = "etcd")]
    pub(crate) etcd_in_the_open: bool,
    /// How long certificates are valid; they are renewed after two thirds of it [default: 90 days]
    #[arg(long, value_name = "SPAN", value_parser = span, hide = true)]
    pub(crate) certificate_lifetime: Option<Duration>,
}

/// `cluster join`
#[derive(Debug, Args)]
pub(crate) struct ClusterJoin {
    /// The token; `-` reads it from standard input, so that it is in no list of processes
    #[arg(value_name = "TOKEN", env = "UNDERSTUDY_JOIN_TOKEN", hide_env_values = true)]
    pub(crate) token: String,
    /// The address by which the other machines reach this one
    #[arg(long, value_name = "IP")]
    pub(crate) host: IpAddr,
    /// Name of this node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Its place, a path of failure domains: dc1/rack3 [default: the name of the node]
    #[arg(long, value_name = "ZONE")]
    pub(crate) zone: Option<String>,
    /// Port of the agent; etcd takes the next two
    #[arg(long, value_name = "PORT", default_value_t = membership::AGENT_PORT)]
    pub(crate) port: u16,
}

/// `cluster token`
#[derive(Debug, Args)]
pub(crate) struct ClusterToken {
    /// What the machine will be: `member` votes and runs services, `witness` only votes, `worker` only runs services
    #[arg(long, value_name = "ROLE", default_value = "member", value_parser = parse_role)]
    pub(crate) role: identity::NodeRole,
    /// The only node that may use it
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// For how long it is valid
    #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = span)]
    pub(crate) expires: Duration,
}

/// `cluster remove`
#[derive(Debug, Args)]
pub(crate) struct ClusterRemove {
    /// Which node
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    /// Even if it holds slots, or the store may stand still
    #[arg(long)]
    pub(crate) force: bool,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// `cluster backup`
#[derive(Debug, Args)]
pub(crate) struct ClusterBackup {
    /// The file to write
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// `cluster restore`
#[derive(Debug, Args)]
pub(crate) struct ClusterRestore {
    /// The file that `cluster backup` wrote
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// `cluster recover`
#[derive(Debug, Args)]
pub(crate) struct ClusterRecover {
    /// The statement that the lost machines are off: `off`
    #[arg(long, value_name = "off")]
    pub(crate) others_are: Option<String>,
}

fn parse_profile(text: &str) -> Result<model::Profile, String> {
    let all = model::Profile::ALL;
    all.into_iter()
        .find(|profile| profile.name() == text)
        .ok_or_else(|| format!("there is no timing `{text}`; there are fast, lan, stock and wan"))
}

fn parse_role(text: &str) -> Result<identity::NodeRole, String> {
    use identity::NodeRole;
    [NodeRole::Member, NodeRole::Witness, NodeRole::Worker]
        .into_iter()
        .find(|role| role.to_string() == text)
        .ok_or_else(|| format!("there is no role `{text}`; there are member, witness and worker"))
}

/// `sample`
#[derive(Debug, Args)]
pub(crate) struct Sample {
    /// Where it listens, or where the one that is called does; an agent sets UNDERSTUDY_HOST for what it starts
    #[arg(
        long,
        global = true,
        value_name = "IP",
        env = "UNDERSTUDY_HOST",
        default_value = "127.0.0.1"
    )]
    pub(crate) host: IpAddr,
    /// Which
    #[command(subcommand)]
    pub(crate) what: SampleWhat,
}

/// The samples, and the calls that their hooks and checks make.
#[derive(Debug, Subcommand)]
pub(crate) enum SampleWhat {
    /// A stateless web page with a counter that is kept in `db`
    Web {
        /// The port on which it listens
        #[arg(long, value_name = "PORT")]
        port: u16,
        /// Where its database is
        #[arg(long, value_name = "HOST:PORT")]
        db: Option<String>,
        /// Wait this long before it listens
        #[arg(long, value_name = "SPAN", value_parser = span)]
        start_delay: Option<Duration>,
        /// Think this long about each page
        #[arg(long, value_name = "SPAN", value_parser = span)]
        answer_delay: Option<Duration>,
    },
    /// A small durable database with one active and followers
    Db {
        /// The port on which it listens
        #[arg(long, value_name = "PORT")]
        port: u16,
        /// Folder of its log
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// File in which it writes down when it acted as the active
        #[arg(long, value_name = "FILE")]
        witness: Option<PathBuf>,
    },
    /// One service of a chain, which can be limited in one way: for trying out `load`
    Tier {
        /// The port on which it listens
        #[arg(long, value_name = "PORT")]
        port: u16,
        /// Which service it calls for each request; may be given several times
        #[arg(long, value_name = "HOST:PORT")]
        next: Vec<String>,
        /// How long a request takes in it, without using anything
        #[arg(long, value_name = "SPAN", default_value = "2ms", value_parser = span)]
        work: Duration,
        /// Its limit: `cpu:5ms` or `lock:5ms`, one request at a time; `disk:4`, so many synced writes each, one at a time; `pool:4`, so many calls at once
        #[arg(long, value_name = "LIMIT", value_parser = limit)]
        limit: Option<sample::Limit>,
        /// Folder for its writes
        #[arg(long, value_name = "DIR", default_value = ".")]
        data: PathBuf,
    },
    /// A process that does nothing
    Sleeper,
    /// Make a `db` the active
    Promote {
        /// The port of the `db`
        #[arg(long, value_name = "PORT")]
        port: u16,
        /// The epoch of the promotion
        #[arg(long, value_name = "N", env = "UNDERSTUDY_EPOCH")]
        epoch: u64,
        /// How long to try
        #[arg(long, value_name = "SPAN", default_value = "5s", value_parser = span)]
        timeout: Duration,
    },
    /// Make a `db` refuse reads and writes
    Demote {
        /// The port of the `db`
        #[arg(long, value_name = "PORT")]
        port: u16,
        /// How long to try
        #[arg(long, value_name = "SPAN", default_value = "5s", value_parser = span)]
        timeout: Duration,
    },
    /// Make a `db` copy another one
    Follow {
        /// The port of the `db`
        #[arg(long, value_name = "PORT")]
        port: u16,
        /// The one to copy
        #[arg(long, value_name = "HOST:PORT")]
        active: String,
        /// How long to try
        #[arg(long, value_name = "SPAN", default_value = "5s", value_parser = span)]
        timeout: Duration,
    },
    /// Say whether a `db` has all that its active acknowledged
    Ready {
        /// The port of the `db`
        #[arg(long, value_name = "PORT")]
        port: u16,
        /// How long to try
        #[arg(long, value_name = "SPAN", default_value = "5s", value_parser = span)]
        timeout: Duration,
    },
    /// Say whether two `db` ever acted as the active at once; exit code 1 if so
    Witness {
        /// The file that they wrote
        file: PathBuf,
    },
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
