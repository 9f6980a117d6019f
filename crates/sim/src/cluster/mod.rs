//! Several machines in virtual time: cores, sessions, guards, one store, a network, and everything that goes wrong between them.
//!
//! ```text
//! seed ──▶ cluster + schedule of faults ──▶ World (nodes, store, network) ──▶ ClusterReport
//!                                             │ each decision, write, act, quarter of a second
//!                                             ▼
//!                                          invariants, judged by the world's truth
//! ```
//! The core, the lease machines of holder and observer and the guard's machine of deadlines are the real ones. What is between them is
//! modelled after the agent: its main loop, session thread, mirror, publisher and transactions.

mod agent;
mod blueprint;
mod clocks;
mod cut_off;
mod faults;
mod given_up;
mod guard;
mod hear;
mod invariants;
mod machine;
mod many;
mod measure;
mod operator;
mod records;
mod run;
mod sabotage;
mod scope;
mod session;
mod simulate;
pub mod store;
mod tell;
mod wire;
mod world;

pub use cut_off::{CutOff, cut_off};
pub use faults::ClusterFault;
pub use given_up::{Broken, BrokenVersion, broken_version};
pub use measure::{Loss, Measured, Scale, core_alone, measure, scale};
pub use run::{ClusterMode, ClusterOptions, ClusterReport, cluster_drawn, run_cluster};
pub use sabotage::ClusterRule;
pub use simulate::{ClusterFailure, ClusterOutcome, ClusterSimulation, simulate_cluster};

use std::collections::BTreeMap;
use std::time::Duration;

/// What happened, in numbers.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    pub(crate) steps: u64,
    pub(crate) events: u64,
    pub(crate) decisions: u64,
    pub(crate) faults: BTreeMap<ClusterFault, u64>,
    pub(crate) failovers: u64,
    pub(crate) switchovers: u64,
    pub(crate) worst_failover: Duration,
    pub(crate) txns: u64,
    pub(crate) writes: u64,
    pub(crate) watched: u64,
    /// Of the writes and of what was told of them, renewals.
    pub(crate) renewals: u64,
    /// See above.
    pub(crate) renewals_told: u64,
    pub(crate) fenced: u64,
    pub(crate) freezes: u64,
    pub(crate) fired: u64,
    pub(crate) drained: bool,
    pub(crate) rebalanced: bool,
    /// Real time that cores worked.
    pub(crate) busy: Duration,
}
