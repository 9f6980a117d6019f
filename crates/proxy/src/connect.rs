//! Connecting to an active.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// A SYN that was dropped is sent again after a second; another active answers sooner.
const TIMEOUT: Duration = Duration::from_millis(200);

/// Why there is no connection; nothing was sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("no answer to connect within {} ms", TIMEOUT.as_millis())]
    Timeout,
    #[error("{}", plainly(.0))]
    Io(io::Error),
}

impl Error {
    /// Whether it is this process that can open no more files: no other target would help, and waiting would keep the
    /// file that the client has.
    pub(crate) fn is_out_of_files(&self) -> bool {
        const EMFILE: i32 = rustix::io::Errno::MFILE.raw_os_error();
        const ENFILE: i32 = rustix::io::Errno::NFILE.raw_os_error();
        matches!(self, Self::Io(error) if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)))
    }
}

/// Connects to an active.
pub(crate) async fn connect(address: SocketAddr) -> Result<TcpStream, Error> {
    let stream = tokio::time::timeout(TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| Error::Timeout)?
        .map_err(Error::Io)?;
    stream.set_nodelay(true).map_err(Error::Io)?;
    Ok(stream)
}

/// The usual failures without the number the system adds.
pub(crate) fn plainly(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "connection reset".into(),
        _ => error.to_string(),
    }
}
