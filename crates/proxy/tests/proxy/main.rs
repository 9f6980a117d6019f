//! The proxy as a whole, by real sockets: in this process, or in one of its own where it is to be killed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod backend;
mod client;
mod control;
mod http1;
mod http2;
mod measured;
mod parting;
mod processes;
mod support;
mod takeover;
mod tcp;
