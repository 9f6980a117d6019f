//! The processes that run for long: agent, guard and proxy. Usually started by the program itself.

use crate::parse::{loopback, span};
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

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
