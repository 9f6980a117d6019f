//! Tries whether an instance works: one [`probe`] at a time, or all of an instance's through a [`Prober`].
//!
//! A probe has three answers. `Pass` and `Fail` are about the instance. `Unsure` is about us: the time was up, but this
//! agent was stopped or starved meanwhile, or the kernel gave it no socket, so that the silence says nothing. Whoever counts
//! failures leaves `Unsure` out.
//!
//! What each kind finds: for a process that is stopped or hangs the kernel still accepts connections until the listen queue is full. `tcp`
//! sees whether a connection is taken from that queue, and fails if not a thread of the instance runs meanwhile. One whose other threads
//! go on is found by `http`, `grpc` and `exec` only.
//!
//! Each probe opens a connection of its own: one that is kept open would go on working when the instance no longer
//! accepts others.

mod attempt;
mod exec;
mod grpc;
mod http;
mod patience;
mod prober;
mod tcp;

pub use prober::{Prober, ProberHandle};

use crate::process::Process;
use attempt::{Attempt, Trouble};
use model::{CheckKind, Millis};
use patience::{Over, Patience};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeResult {
    /// The instance works.
    Pass {
        /// From the start of the probe to the answer.
        took: Duration,
    },
    /// It does not.
    Fail {
        /// What was seen: "connection refused by 127.0.0.1:40001".
        what: String,
        /// From the start of the probe to this finding.
        took: Duration,
    },
    /// Nothing was learned about it.
    Unsure {
        /// What kept us from it.
        why: String,
    },
}

/// What a check by command runs with, beyond the command itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecEnv {
    /// Its environment beyond that of [`crate::environment`], which it may replace.
    pub env: BTreeMap<String, String>,
    /// Working directory, from which a relative path of the program is taken; the agent's own if not given.
    pub dir: Option<PathBuf>,
    /// User to run as, name or number; the agent's own if not given.
    pub user: Option<String>,
}

/// Tries once. The placeholders of `kind` are filled in; `target` is the address of the instance, for all kinds but `exec`.
/// `process` is the instance, if a connection that it does not take is to count against it. Takes at most `timeout`, and what was begun ends
/// when the future is dropped.
pub async fn probe(
    kind: &CheckKind,
    target: Option<SocketAddr>,
    timeout: Duration,
    exec_env: &ExecEnv,
    process: Option<&Process>,
) -> ProbeResult {
    let begun = Instant::now();
    let patience = Patience::new(timeout);
    let found = match (kind, target) {
        // A command is killed at the deadline and its last words are kept, so it minds the time itself.
        (CheckKind::Exec { command }, _) => exec::run(command, exec_env, timeout, patience).await,
        (_, None) => Err(Trouble::Instance("there is no address to check".into())),
        (kind, Some(target)) => over_network(kind, target, timeout, patience, process).await,
    };
    let took = begun.elapsed();
    match found {
        Ok(()) => ProbeResult::Pass { took },
        Err(Trouble::Instance(what)) => ProbeResult::Fail { what, took },
        Err(Trouble::Ours(why)) => ProbeResult::Unsure { why },
    }
}

async fn over_network(
    kind: &CheckKind,
    target: SocketAddr,
    timeout: Duration,
    patience: Patience,
    process: Option<&Process>,
) -> Result<(), Trouble> {
    let attempt = Attempt::new(target);
    let answer = async {
        match kind {
            CheckKind::Tcp => tcp::check(&attempt, process).await,
            CheckKind::Http { path, status, body } => http::get(&attempt, path, status, body.as_deref()).await,
            CheckKind::Grpc { service } => grpc::check(&attempt, service).await,
            CheckKind::Exec { .. } => Ok(()),
        }
    };
    tokio::select! {
        // An answer that is there counts, however late we come to look.
        biased;
        found = answer => found,
        over = patience.over() => match over {
            _ if attempt.has_passed() => Ok(()),
            Over::InTime => Err(Trouble::Instance(attempt.too_slow(timeout))),
            Over::Late { by } => Err(late(by)),
        },
    }
}

fn late(by: Duration) -> Trouble {
    Trouble::Ours(format!("this agent was {} late to look for the answer", shown(by)))
}

fn shown(span: Duration) -> Millis {
    Millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}
