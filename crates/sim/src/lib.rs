//! The decisions under virtual time, with seeded faults and named invariants.
//!
//! ```text
//! seed ──▶ cluster + schedule of faults ──▶ World (machine, store, proxy, agent with its core) ──▶ Report
//!                                             │ every decision, write, promotion, second
//!                                             ▼
//!                                          invariants, judged by the world's truth
//! ```
//! [`run`] carries one seed out, [`simulate`] many on all processors, and [`play`] a script in the operator's words.
//! A run ends by healing: faults stop, and within a bound everything must be well again.

mod blueprint;
pub mod cluster;
mod fault;
mod invariants;
mod pace;
mod run;
mod sabotage;
mod schedule;
mod script;
mod shrink;
mod simulate;
mod transcript;
mod world;

pub use fault::FaultKind;
pub use run::{FAULTS, Options, Report, drawn, run};
pub use sabotage::BrokenRule;
pub use script::{Played, ScriptError, play};
pub use simulate::{Failure, Outcome, Simulation, simulate};

use model::Timestamp;
use std::fmt;

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its name, as in the takeover protocol.
    pub invariant: &'static str,
    /// When.
    pub at: Timestamp,
    /// How.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.at.0;
        let (seconds, millis) = (micros / 1_000_000, micros % 1_000_000 / 1_000);
        write!(
            f,
            "{} is violated at {seconds}.{millis:03}s: {}",
            self.invariant, self.what
        )
    }
}
