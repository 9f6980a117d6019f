//! etcd, run for the operator.
//!
//! - [`measure`] and [`propose`]: what this machine and its network can do, and the timing that fits.
//! - [`binary`] and [`config`]: the program, and the flags it gets.
//! - [`Server`]: a member's process, which outlives the agent and is adopted by the next one.
//! - [`cluster`]: members come and go; leader, upkeep, health.
//! - [`backup`] and [`restore`]: the whole store in a file, and back; a cluster anew from the one member that is left.
//!
//! Two machines and a tiny third one make a cluster, too: the third is a member like the others, a *witness*, whose node runs
//! no services. [`Config::witness`] makes it keep less on its disk; its quota is that of the others, since the first member
//! that is full stops all.

pub mod backup;
pub mod binary;
pub mod cluster;
pub mod config;
mod diagnosis;
mod lock;
pub mod measure;
mod process;
mod propose;
mod record;
pub mod restore;
mod supervise;

pub use config::Config;
pub use diagnosis::{Cause, Diagnosis};
pub use lock::LockError;
pub use process::{Exit, SpawnError, StopError, Stopped};
pub use propose::{Proposal, misfits, propose};
pub use supervise::{PATIENCE, Server, StartError, State};

/// For names and notes that people read.
fn seconds_since_1970() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
