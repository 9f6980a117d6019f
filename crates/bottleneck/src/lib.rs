//! Finds what limits a system of services, from what was measured, and says what would change it.
//!
//! ```text
//!   Window, a second each ──► Baseline::learn   how long each service takes when nothing waits
//!                    │               │
//!                    └──► diagnose ◄─┘          silent, or: who, of which kind, with which share and evidence
//!   (rate, use) ────────► capacity::saturation  which resource is full first, before it is
//!   (rate, latency) ────► knee, usl             where the curve bends
//!   Limits ─────────────► predict               what one more instance buys, and what is left after a failover
//! ```
//!
//! The idea of [`diagnose`]: a request is always somewhere. Those that are in a service and not in one of the services it calls are
//! its *own*; those of them that need not be there, going by its unloaded time, are what it is to *blame* for. The blame of all services
//! adds up to the excess that the clients see, so the largest share is the bottleneck. Busy processors and long latencies are symptoms
//! that victims show too.
//!
//! Pure: no clock, no I/O, no randomness.

pub mod capacity;
pub mod knee;
pub mod laws;
pub mod predict;
pub mod usl;

mod baseline;
mod blame;
mod grey;
mod kind;
mod observe;
mod solve;
mod verdict;

pub use baseline::{Baseline, Usual};
pub use blame::Sign;
pub use kind::Kind;
pub use observe::{Call, Instance, Service, Window};
pub use verdict::{Advice, Suspect, Verdict, diagnose};
