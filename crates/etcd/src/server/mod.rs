//! etcd, run for the operator.
//!
//! - [`measure`] and [`propose`]: what this machine and its network can do, and the timing that fits.
//! - [`binary`] and [`config`]: the program, and the flags it gets.

pub mod binary;
pub mod config;
pub mod measure;
mod propose;

pub use config::Config;
pub use propose::{Proposal, misfits, propose};
