//! Sample services that come with the binary, so that the examples, the tests and the benchmarks need nothing installed.
//!
//! - [`web`]: a stateless page over HTTP/1.1 and HTTP/2 that shows a counter kept in `db`
//! - [`db`]: a small durable key-value store with one active and followers, promoted and demoted from outside
//! - [`tier`]: a service of a chain that can be limited in one way, to see whether a search for bottlenecks finds it
//! - [`sleeper`]: a process that does nothing, for counting what a process costs
//! - [`client`]: the calls that `db`'s hooks make: promote, demote, follow
//! - [`witness`]: when which `db` acted as the active, and whether two ever did at once
//!
//! None of them knows Understudy: they are told what to do by arguments, hooks and checks, as any program would be.

pub mod client;
mod db;
mod serve;
mod sleeper;
mod tier;
mod web;
pub mod witness;

pub use db::{DbConfig, OpenError, db};
pub use serve::{Identity, ServeError};
pub use sleeper::sleeper;
pub use tier::{Limit, TierConfig, tier};
pub use web::{WebConfig, web};
