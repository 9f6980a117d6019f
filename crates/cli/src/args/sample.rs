//! `sample`: services to try things with.

use crate::parse::span;
use clap::{Args, Subcommand};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

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

/// The limit of a `tier`.
fn limit(text: &str) -> Result<::sample::Limit, String> {
    text.parse()
}
