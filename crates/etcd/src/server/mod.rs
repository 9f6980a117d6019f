//! etcd, run for the operator.
//!
//! - [`measure`] and [`propose`]: what this machine and its network can do, and the timing that fits.
//! - [`binary`] and [`config`]: the program, and the flags it gets.
//! - [`Server`]: a member's process, which outlives the agent and is adopted by the next one.

pub mod binary;
pub mod config;
mod diagnosis;
mod lock;
pub mod measure;
mod process;
mod propose;
mod record;
mod supervise;

pub use config::Config;
pub use diagnosis::{Cause, Diagnosis};
pub use lock::LockError;
pub use process::{Exit, SpawnError, StopError, Stopped};
pub use propose::{Proposal, misfits, propose};
pub use supervise::{PATIENCE, Server, StartError, State};
