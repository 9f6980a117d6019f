//! The dashboard at work: who is signed in, where it is served, and the stream that keeps its pages live. What it looks like and who
//! may do what is in the crate `dashboard`.
//!
//! ```text
//!   loopback, plain ──┐ guarded                ┌── /ui/…: page, sign-in
//!                     ├────────► routes ───────┤
//!   node's address ───┘ (TLS)                  └── /v1/stream, /v1/preview ◄── feed ◄── main loop
//! ```

mod desk;
mod feed;
mod routes;
mod serve;

pub(crate) use desk::Desk;
pub(crate) use feed::Feed;
pub(crate) use routes::{Intent, openapi_routes, routes};
pub(crate) use serve::{guarded, is_lured, listen};

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// Where an agent has its dashboard on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Place {
    /// At 127.0.0.1:7400, or at a free port if somebody else has that.
    #[default]
    Usual,
    /// Nowhere.
    Off,
    /// At this loopback address and no other.
    At(SocketAddr),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Usual => f.write_str("usual"),
            Place::Off => f.write_str("off"),
            Place::At(address) => address.fmt(f),
        }
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "usual" => return Ok(Place::Usual),
            "off" => return Ok(Place::Off),
            _ => {}
        }
        let address: SocketAddr = text
            .parse()
            .map_err(|_| format!("`{text}` is not an address; write for example 127.0.0.1:7400, or `off`"))?;
        if !address.ip().is_loopback() {
            return Err(format!(
                "{} can be reached from other machines, and this is served without TLS; use 127.0.0.1:{}. The nodes of a cluster have it \
                 with TLS at the address of their API",
                address.ip(),
                address.port()
            ));
        }
        Ok(Place::At(address))
    }
}
