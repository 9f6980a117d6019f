//! Single points of failure, cut sets, predicted availability: pure. No I/O, no clock, no randomness.
//!
//! ```text
//! file ── place ──┐
//!                 ├──► system ── logic ──► tree ── solve ──► cut sets, probability ──► report
//! status ─ observe┘                          ▲                                          ▲
//!                             Open-PSA ──────┘               actions: what the system would be if … ─┘
//! ```

pub mod availability;
pub mod solve;
pub mod system;
pub mod tree;
