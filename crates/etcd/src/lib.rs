//! The store on etcd v3 (3.4 and later of 3.x): client, members and their administration.
//!
//! | part | duty |
//! |---|---|
//! | [`Etcd`] | the store, with a prefix; implements [`store::Store`] |
//! | [`Renewals`] | the same, with a thread and connections of its own, for session renewals |
//! | [`Client`] | one connection per member; which member to ask, for how long, and what its answer means |
//! | [`client::Admin`] | members, status, alarms, snapshots, users |
//! | [`server`] | members that we run ourselves |
//!
//! An answer is believed only if it comes from the right cluster and does not go back behind what was seen before.

pub mod client;
mod convert;
mod error;
mod etcd;
mod keys;
mod options;
mod pb;
mod renewals;
pub mod server;
mod watch;

pub use client::Client;
pub use error::{Error, MemberError};
pub use etcd::Etcd;
pub use options::{Class, Known, Options, Password, Tls};
pub use renewals::Renewals;
