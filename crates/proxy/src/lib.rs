//! The data path: a process of its own, between the clients and the actives.
//!
//! ```text
//!   agent ──proxy.sock── control (1 thread)        routes, epochs, totals; never touches a client
//!                           │ commands   ▲ events
//!                           ▼            │
//!   clients ── listener ── worker × N (a thread with a runtime each, nothing shared but counters)
//!                           ├ tcp:  pick an active, connect, relay bytes
//!                           └ http: pick an active per request, repeat what may be repeated
//! ```
//!
//! [`server::run`] is the process, [`client::ProxyClient`] the agent's end of its socket, [`listener::bind`] makes the
//! sockets that the agent hands over. What they say to each other is `api::proxy`.
//!
//! Deliberately absent: deciding who is active, checking health, TLS, and any setting of its own that outlives it.

mod area;
mod callers;
mod clock;
mod connect;
mod control;
mod counters;
mod flag;
mod front;
mod greet;
mod hold;
mod http;
mod target;
mod tcp;
mod wire;
mod worker;

pub mod client;
pub mod listener;
pub mod server;
