//! The process driver on real processes, with cgroups (where this machine lets us) and without, by the same tests.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod adopt;
mod checked;
mod crowd;
mod life;
mod start;
mod world;
