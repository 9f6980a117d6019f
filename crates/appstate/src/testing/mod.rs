//! What tests of linearizability need, over any store and any agents (feature `testing`).
//!
//! ```text
//!  workload ── clients, at most 8 ──► agents ──► Faulty(store)
//!     └── History ──► check: is there an order in which one map gives all these answers?
//! ```

mod faulty;
mod wgl;
mod workload;

pub use faulty::{Faults, Faulty};
pub use wgl::{Call, History, KEYS, Operation, Reply, Verdict, check};
pub use workload::{Plan, Recorded, record, revisions_agree};
