//! One try over the network: what it waits for at the moment, and the words for what can go wrong with a connection.

use super::shown;
use crate::command::is_shortage;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::TcpStream;

/// Why a try did not pass.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The instance is to blame; this was seen.
    Instance(String),
    /// We are; this kept us.
    Ours(String),
}

/// A try under way.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) target: SocketAddr,
    /// A [`Stage`].
    stage: AtomicU8,
}

#[derive(Debug, Clone, Copy)]
#[repr(u8)]
enum Stage {
    Connecting,
    Queued,
    Asked,
    ReadingBody,
    Passed,
}

impl Attempt {
    pub(super) fn new(target: SocketAddr) -> Self {
        Self {
            target,
            stage: AtomicU8::new(Stage::Connecting as u8),
        }
    }

    /// Connects; from then on the answer is waited for.
    pub(super) async fn connect(&self) -> Result<TcpStream, Trouble> {
        let stream = TcpStream::connect(self.target)
            .await
            .map_err(|error| self.refused(&error))?;
        self.stage.store(Stage::Asked as u8, Relaxed);
        Ok(stream)
    }

    /// The kernel has accepted for the instance, which has not taken the connection.
    pub(super) fn is_queued(&self) {
        self.stage.store(Stage::Queued as u8, Relaxed);
    }

    /// The answer has begun and only its body is missing.
    pub(super) fn reads_body(&self) {
        self.stage.store(Stage::ReadingBody as u8, Relaxed);
    }

    /// It has passed, and what is still done is courtesy.
    pub(super) fn passed(&self) {
        self.stage.store(Stage::Passed as u8, Relaxed);
    }

    pub(super) fn has_passed(&self) -> bool {
        self.is_at(Stage::Passed)
    }

    /// What to say when the time is up.
    pub(super) fn too_slow(&self, timeout: Duration) -> String {
        let timeout = shown(timeout);
        if self.is_at(Stage::Connecting) {
            format!("connection not accepted within {timeout} by {}", self.target)
        } else if self.is_at(Stage::Queued) {
            format!("connection not taken within {timeout}, and nothing of it ran meanwhile")
        } else if self.is_at(Stage::ReadingBody) {
            format!("answer not complete within {timeout}")
        } else {
            format!("no answer within {timeout}")
        }
    }

    fn is_at(&self, stage: Stage) -> bool {
        self.stage.load(Relaxed) == stage as u8
    }

    /// What to say when there is no connection.
    fn refused(&self, error: &io::Error) -> Trouble {
        let target = self.target;
        match error.kind() {
            _ if is_shortage(error) => Trouble::Ours(format!("cannot open a connection: {error}")),
            io::ErrorKind::ConnectionRefused => Trouble::Instance(format!("connection refused by {target}")),
            _ => Trouble::Instance(format!("cannot connect to {target}: {error}")),
        }
    }

    /// What to say when a connection breaks before the answer is there.
    pub(super) fn broken(&self, error: &(dyn Error + 'static)) -> Option<Trouble> {
        let kind = causes(error)
            .find_map(|cause| cause.downcast_ref::<io::Error>())
            .map(io::Error::kind)?;
        let what = match kind {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "reset",
            io::ErrorKind::UnexpectedEof => "closed",
            _ => return None,
        };
        Some(Trouble::Instance(format!(
            "connection {what} by {} before it answered",
            self.target
        )))
    }
}

/// An error and what caused it.
pub(super) fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}
