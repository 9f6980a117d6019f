//! Measures, remembers an hour at one second, judges objectives and alerts.
//!
//! ```text
//!  cgroups, /proc ── read ──┐
//!                           ├──► memory (an hour) ── merge (all nodes) ──► history, samples
//!  proxy's totals ── flow ──┘
//! ```
//! Only [`read`] touches the world. Everything else is told the time and answers with values.

pub mod alert;
pub mod exposition;
pub mod flow;
pub mod latencies;
pub mod memory;
pub mod merge;
pub mod objective;
pub mod read;
pub mod ring;
