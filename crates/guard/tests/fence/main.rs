//! The fence as a process: real cgroups, real traffic, real signals. Needs root.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../bench/mod.rs"]
#[expect(dead_code, reason = "the other test uses all of it")]
mod bench;
mod world;

mod agents;
mod deadlines;
mod gates;
mod kernel;
mod latency;
mod watchdog;
