//! The takeover protocol, checked exhaustively in small bounds.
//!
//! A world of two or three nodes, a store and time in ticks. Each node runs the product's own [`Holder`] and [`Observer`],
//! and the store runs the product's own transactions ([`decisions::lease::txn`]); around them are a guard, one instance per
//! node, messages that take any time or never arrive, clocks that drift, and faults. Stateright visits every state there is
//! within a [`Budget`]. What must always hold is in [`properties`]; a [`Mutation`] leaves one rule out and must be found out.
//!
//! [`Holder`]: decisions::lease::Holder
//! [`Observer`]: decisions::lease::Observer
//!
//! | letter | ticks | |
//! |---|---|---|
//! | R, T | 1 | renewal, timeout |
//! | A, G | 2 | soft and hard deadline |
//! | D | 3 | lease |
//! | W | 5 | as the product computes it from D, for ticks of 3 ms |
//! | H | 3 | hold-off |

mod act;
mod actions;
mod agent;
mod check;
mod config;
mod congruence;
pub mod properties;
pub mod scenarios;
mod start;
mod store;
mod world;

pub use actions::Action;
pub use check::{Found, Takeover, check};
pub use config::{Budget, Config, Mutation, Start};
pub use congruence::{Difference, congruent};
pub use store::{Instance, Session, Slot, Store};
pub use world::{Broken, World};

/// A node, by number.
pub type NodeId = u8;
/// A slot, by number.
pub type SlotId = u8;
/// An instance, by the number of its node.
pub type InstanceId = u8;
/// A transaction.
pub type Step = decisions::lease::txn::Step<NodeId, SlotId, InstanceId>;
