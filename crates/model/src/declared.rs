//! What the operator declared, resolved: every default filled in, every reference checked.
//!
//! The `spec` crate makes these from a file; the store keeps them; the decisions read them.

use crate::{Alerts, FenceBy, FloatingAddress, Millis, NodeName, Objective, Reliability, ServiceName, Site};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// A whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Name of the cluster.
    pub name: String,
    /// The services by name.
    pub services: BTreeMap<ServiceName, Service>,
    /// Who is told of alerts.
    #[serde(default)]
    pub alerts: Alerts,
    /// What was told of the machines and of what they hang on.
    #[serde(default)]
    pub site: Site,
}

/// One declared service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Program and arguments, with `{placeholders}` still in. Never empty.
    pub command: Vec<String>,
    /// How many actives, 1 to 10,000.
    pub active: u32,
    /// How many standbys, 0 to 10,000.
    pub standby: u32,
    /// How many actives must serve for the service to count as up; 1 to `active`.
    pub need: u32,
    /// At most one active per slot ever, old one fenced first.
    pub exclusive: bool,
    /// What else than that has to be certain before the slot of a lost node is taken; only for an exclusive service.
    #[serde(default)]
    pub fence: FenceBy,
    /// Whether standbys run (warm) or are only prepared (cold).
    pub standby_mode: StandbyMode,
    /// Where clients come to, whoever is active. Port never 0.
    pub listen: Option<SocketAddr>,
    /// The address that moves with the active; only for an exclusive service with one active.
    #[serde(default)]
    pub address: Option<FloatingAddress>,
    /// What the proxy understands of the traffic.
    pub protocol: Protocol,
    /// How instances get their address.
    pub addressing: Addressing,
    /// Whether an instance works.
    pub check: Option<Check>,
    /// Whether a standby could take over, beyond `check`: replication caught up, say.
    pub standby_check: Option<Check>,
    /// Services that must be up before this one starts.
    pub needs: BTreeSet<ServiceName>,
    /// How far copies keep apart.
    pub spread: Spread,
    /// Nodes that its instances may be on; empty: any.
    #[serde(default)]
    pub nodes: BTreeSet<NodeName>,
    /// Nodes that its instances are never on.
    #[serde(default)]
    pub avoid: BTreeSet<NodeName>,
    /// What each instance keeps of its node's capacity.
    #[serde(default)]
    pub reserve: Reserve,
    /// Run when a standby becomes active, before clients reach it.
    pub on_promote: Option<Hook>,
    /// Run when an active becomes standby, after clients were kept away from it.
    pub on_demote: Option<Hook>,
    /// Run on each standby when there is a (new) active to follow.
    pub on_follow: Option<Hook>,
    /// Environment beyond the defaults.
    pub env: BTreeMap<String, String>,
    /// Working directory, absolute; the instance's data folder if not given.
    pub dir: Option<String>,
    /// User to run as (name or number); the agent's own if not given.
    pub user: Option<String>,
    /// Resource limits.
    pub limits: Limits,
    /// How long an instance may take from its start to its first passed check.
    pub start_timeout: Millis,
    /// How it is stopped.
    pub stop: Stop,
    /// What happens when it fails.
    pub restart: Restart,
    /// What is kept of its output.
    pub logs: Logs,
    /// How long a switchover lets requests under way finish before it closes their connections.
    pub drain_timeout: Millis,
    /// How long the proxy holds new connections while no active can serve them.
    pub hold_timeout: Millis,
    /// How many connections the proxy holds at most while no active can serve them, 0 to 100,000.
    pub hold_max: u32,
    /// What is wanted of it, and judged.
    #[serde(default)]
    pub objective: Option<Objective>,
    /// What else it depends on, and what it has to keep: for the analysis alone.
    #[serde(default)]
    pub reliability: Reliability,
}

/// Whether standbys run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StandbyMode {
    /// The standby's process runs, is probed, and is promoted by `on_promote` and by clients being sent to it.
    Warm,
    /// The standby is prepared (program found, data folder writable) and started only when it takes a slot.
    Cold,
}

/// What the proxy understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Bytes.
    Tcp,
    /// HTTP/1.1 and HTTP/2: safe requests are repeated on another active when one dies under them.
    Http,
}

/// How instances get their address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Addressing {
    /// Each instance gets a free port of its own (`{port}`) on its node's address.
    Port,
    /// Instances have no port.
    None,
}

/// How often and by what an instance is judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What is tried.
    pub kind: CheckKind,
    /// From the start of one check to the start of the next; 10 ms to 1 h.
    pub every: Millis,
    /// After this long without an answer a check has failed; 1 ms to 5 min.
    pub timeout: Millis,
    /// Failures in a row until the instance counts as unhealthy; 1 to 100.
    pub fail_after: u32,
    /// Passes in a row until an unhealthy instance counts as healthy again; 1 to 100.
    pub pass_after: u32,
}

/// What a check tries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    /// A TCP connection is accepted.
    Tcp,
    /// `GET path` is answered with one of the status codes (any 2xx if empty) and a body that contains the text.
    Http {
        /// Begins with `/`.
        path: String,
        /// Codes that pass; empty for 200 to 299.
        status: BTreeSet<u16>,
        /// Text that the body (its first 64 KiB) must contain.
        body: Option<String>,
    },
    /// `grpc.health.v1.Health/Check` answers SERVING for the named service ("" for the whole server).
    Grpc {
        /// The service asked for.
        service: String,
    },
    /// A command exits with 0; placeholders as in `command`.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
}

/// A command run at a change of role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Program and arguments; placeholders as in `command`, and `{active.host}`, `{active.port}`, `{epoch}`, `{role}`.
    pub command: Vec<String>,
    /// After this long it is killed and has failed; 10 ms to 1 h.
    pub timeout: Millis,
}

/// Which hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HookKind {
    /// `on_promote`
    Promote,
    /// `on_demote`
    Demote,
    /// `on_follow`
    Follow,
}

impl std::fmt::Display for HookKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            HookKind::Promote => "on_promote",
            HookKind::Demote => "on_demote",
            HookKind::Follow => "on_follow",
        })
    }
}

/// Resource limits of an instance; `None` leaves what the agent has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Open files (RLIMIT_NOFILE).
    pub open_files: Option<u64>,
    /// Processes of the user (RLIMIT_NPROC).
    pub processes: Option<u64>,
    /// Address space of each process in bytes (RLIMIT_AS).
    pub memory_bytes: Option<u64>,
    /// Size of a core dump in bytes (RLIMIT_CORE).
    pub core_bytes: Option<u64>,
}

/// How an instance is stopped: the signal, then after `timeout` SIGKILL to its whole tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// The polite signal.
    pub signal: StopSignal,
    /// How long it is given.
    pub timeout: Millis,
}

/// Signals that programs take as "please stop".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopSignal {
    /// SIGTERM
    #[serde(rename = "SIGTERM")]
    Term,
    /// SIGINT
    #[serde(rename = "SIGINT")]
    Int,
    /// SIGQUIT
    #[serde(rename = "SIGQUIT")]
    Quit,
    /// SIGHUP
    #[serde(rename = "SIGHUP")]
    Hup,
    /// SIGUSR1
    #[serde(rename = "SIGUSR1")]
    Usr1,
    /// SIGUSR2
    #[serde(rename = "SIGUSR2")]
    Usr2,
    /// SIGKILL: no polite attempt.
    #[serde(rename = "SIGKILL")]
    Kill,
}

/// What happens when an instance fails: restart with back-off, then replace by a new instance, then give up loudly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// Wait before the second attempt; doubles with each failure in a row, plus up to a quarter of jitter. The first restart is at once.
    pub backoff: Millis,
    /// The longest wait.
    pub backoff_max: Millis,
    /// Starts in a row that never became healthy until the instance is replaced by a new one with an empty data folder.
    pub replace_after: u32,
    /// Replacements in a row that never became healthy until the service's instance is given up.
    pub give_up_after: u32,
    /// An instance that was given up is tried again after this long.
    pub retry_after: Millis,
}

/// What is kept of an instance's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    /// A log file is rotated when it grows past this many bytes.
    pub max_bytes: u64,
    /// How many rotated files are kept beside the current one.
    pub keep: u32,
}

/// How far copies keep apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Spread {
    /// On different nodes where there are enough, in different zones if there are, else together.
    Prefer,
    /// Never two copies on one node; a copy without a node of its own stays away, and `status` says so.
    Node,
    /// Never two copies in one zone: a node's whole path, such as `dc1/rack3`. The same for a copy without one.
    Zone,
}

/// What an instance keeps for itself of its node, whether it uses it or not. Zero: nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserve {
    /// Percent of one processor.
    pub cpu_percent: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

impl Service {
    /// Whether its instances may be on a node at all.
    pub fn may_be_on(&self, node: &NodeName) -> bool {
        (self.nodes.is_empty() || self.nodes.contains(node)) && !self.avoid.contains(node)
    }

    /// Instances that should exist: actives and standbys.
    pub fn wanted(&self) -> u32 {
        self.active + self.standby
    }

    /// Whether clients come to its floating address: then that is not on every node that listens.
    pub fn listens_on_floating(&self) -> bool {
        match (self.listen, &self.address) {
            (Some(listen), Some(address)) => listen.ip() == address.ip,
            _ => false,
        }
    }

    /// Whether it answers at its floating address by itself, with no proxy in between.
    pub fn answers_on_floating(&self) -> bool {
        self.address.is_some() && self.listen.is_none()
    }

    /// What a running process was started from. Two services that agree on it need no restart to become one another.
    pub fn launch(
        &self,
    ) -> (
        &[String],
        &BTreeMap<String, String>,
        Option<&str>,
        Option<&str>,
        &Limits,
        Addressing,
    ) {
        (
            &self.command,
            &self.env,
            self.dir.as_deref(),
            self.user.as_deref(),
            &self.limits,
            self.addressing,
        )
    }
}

impl Cluster {
    /// Services in an order in which each comes after all it needs. Cycles were refused when the file was read.
    pub fn start_order(&self) -> Vec<&ServiceName> {
        let mut order: Vec<&ServiceName> = Vec::with_capacity(self.services.len());
        let mut placed = BTreeSet::new();
        while order.len() < self.services.len() {
            let before = order.len();
            for (name, service) in &self.services {
                if !placed.contains(name) && service.needs.iter().all(|need| placed.contains(need) || need == name) {
                    placed.insert(name);
                    order.push(name);
                }
            }
            if order.len() == before {
                order.extend(self.services.keys().filter(|name| !placed.contains(name)));
                break;
            }
        }
        order
    }
}
