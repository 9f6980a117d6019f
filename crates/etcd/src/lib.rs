//! The store on etcd v3 (3.4 and later of 3.x): client, members and their administration.
//!
//! | part | duty |
//! |---|---|
//! | [`Client`] | one connection per member; which member to ask, for how long, and what its answer means |
//! | [`client::Admin`] | members, status, alarms, snapshots, users |
//! | [`server`] | members that we run ourselves |
//!
//! An answer is believed only if it comes from the right cluster and does not go back behind what was seen before.

pub mod client;
mod error;
mod keys;
mod options;
mod pb;
pub mod server;

pub use client::Client;
pub use error::{Error, MemberError};
pub use options::{Class, Known, Options, Password, Tls};
