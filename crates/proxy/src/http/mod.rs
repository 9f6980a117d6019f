//! HTTP: an active for each request, and another for the same request if the first dies and that is safe.
//!
//! ```text
//!   client ─► fast ── plain HTTP/1.1: bodies of known length up to 64 KiB, or none
//!               │ anything else: from here on to the end of the connection
//!               ▼
//!             general ── hyper: large and chunked bodies, upgrades, HTTP/1.0, HTTP/2 ─► forward ─► backend
//! ```

pub(crate) mod backend;
mod body;
mod chunked;
mod exchange;
mod fast;
mod forward;
mod general;
mod headers;
mod inbox;
mod parse;

use crate::front::{Front, Open};
use crate::worker::Buffers;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;

/// Answers up to this are read whole before their first byte is passed on, and request bodies up to this are kept, so
/// that a request can be repeated. Larger ones would cost memory that adds up over a thousand clients.
const REPEATABLE_BYTES_MAX: usize = 64 * 1024;

/// A head larger than this is refused.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A client that has not sent a whole head by then, or whose body stands still for this long, is sent away.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Clients that are to come back on new connections are told so with an answer; one that asks for nothing for so long is sent away
/// without. A client that uses its connection hardly ever meets that end with a request on the way.
const PARTING_IDLE: Duration = Duration::from_millis(500);

/// Serves a client to its end.
pub(crate) async fn serve(front: Rc<Front>, buffers: Rc<Buffers>, client: TcpStream, peer: SocketAddr, open: Open) {
    let handed_on = fast::serve(&front, buffers, client, peer, open.caller(), fast::Patience::default()).await;
    if let Some((client, read)) = handed_on {
        Box::pin(general::serve(front, client, read, peer, open)).await;
    }
}

/// A request that must not be sent twice goes by a connection that was idle for less than this, or by a new one: no
/// server gives up a connection so soon after an answer, so it does not close just as the request is on its way.
const SURELY_OPEN: Duration = Duration::from_millis(500);

/// Why a request that an active died under is not repeated.
fn not_repeated(instance: &model::InstanceId, what: &str) -> String {
    format!("`{instance}` failed while it had the request ({what}), which is not safe to repeat")
}

/// What is answered when no active can.
fn unavailable_text(service: &model::ServiceName, why: &dyn std::fmt::Display) -> String {
    format!("no active of `{service}` could answer: {why}\n")
}
