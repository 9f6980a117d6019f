//! What operators do by hand to what runs: switchovers, drains, drills, pauses and the like.

use crate::parse::{reason, revision, span};
use clap::{Args, Subcommand};
use std::time::Duration;

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
    /// List what operators did by hand instead: who switched over, drained, drilled, retried, parked, forced, fenced, paused, took down, removed, recovered and restored, and when
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

/// `drain`
#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// The node
    pub(crate) node: String,
    /// Return only when nothing runs on it any more; exit code 1 if that takes longer than this
    #[arg(long, value_name = "SPAN", num_args = 0..=1, require_equals = true, default_missing_value = "5m", value_parser = span)]
    pub(crate) wait: Option<Duration>,
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
    /// Why, if it is to be said: shown for as long as it is paused
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
    /// Why, if it is to be said: shown for as long as it is parked
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub(crate) because: Option<String>,
    /// Do not ask; needed where there is no terminal
    #[arg(long, short)]
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
    /// Whoever served last is lost for good, on that node, with what only it had: let this instance count as having the newest data
    #[arg(long, value_name = "INSTANCE")]
    pub(crate) give_to: Option<String>,
    /// The same in words, `host NODE is off`, with `--give-to` `host NODE is off and its data are lost`; asked for if not given
    #[arg(long, value_name = "WORDS")]
    pub(crate) statement: Option<String>,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `fence`
#[derive(Debug, Args)]
pub(crate) struct Fence {
    /// The node
    pub(crate) node: String,
    /// Only ask its devices whether it is on or off
    #[arg(long)]
    pub(crate) test: bool,
    /// Do not ask; needed where there is no terminal
    #[arg(long, short)]
    pub(crate) yes: bool,
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
    /// Stop it also where nothing is decided any more without it
    #[arg(long, requires = "etcd")]
    pub(crate) force: bool,
    /// Do not ask; needed where there is no terminal
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
}
