//! Gates that the kernel closes by itself: ports and addresses of a slot are let through until a moment, whoever still runs then.
//!
//! ```text
//!   packet to or from a port or address that is gated ── is it in the set of open ones? ── yes ─► on
//!                                                          (elements time out at G)      └─ no ──► dropped
//! ```
//! Connections that exist are cut like new ones, and loopback is no exception. The table belongs to nobody: it outlives the guard,
//! and a guard that starts finds it and leaves it as it is, so that what another guard gated stays gated until it is armed
//! or disarmed anew.
//!
//! The timeouts count in the kernel's ticks, which stand still while a machine is suspended: after a resume the guard, not
//! the gate, is the first to act.

pub(crate) mod address;
mod admission;
mod nft;
mod table;

pub use admission::Admission;
pub use nft::{Error, Gates, Member};
