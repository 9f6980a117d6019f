//! Single points of failure, cut sets, predicted availability: pure. No I/O, no clock, no randomness.

pub mod solve;
pub mod tree;
