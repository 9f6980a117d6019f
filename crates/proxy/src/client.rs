//! The agent's end of the proxy's socket.

pub use crate::wire::Error as WireError;
use crate::wire::Wire;
use api::proxy::{FromProxy, Front, PROTOCOL, ToProxy};
use std::io;
use std::net::TcpListener;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// A proxy that lives answers the greeting at once.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to the proxy.
pub struct ProxyClient {
    wire: Wire,
}

/// What a proxy says of itself when an agent comes.
#[derive(Debug)]
pub struct Hello {
    /// Its process id.
    pub pid: u32,
    /// What it serves, each with its listening socket.
    pub fronts: Vec<(Front, TcpListener)>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No proxy runs there.
    #[error("no proxy answers at {}", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is of another version.
    #[error("the proxy at {} speaks protocol {theirs}, this agent {ours}: end it with SIGTERM and a new one is started", path.display())]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What the proxy speaks.
        theirs: u32,
        /// What we speak.
        ours: u32,
    },
    /// Something else is at the socket, or it hangs.
    #[error("whoever is at {} did not greet like a proxy: {what}", path.display())]
    NotAProxy {
        /// The socket.
        path: PathBuf,
        /// What it did.
        what: String,
    },
    /// The connection failed.
    #[error("failed to greet the proxy at {}", path.display())]
    Greet {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: WireError,
    },
}

/// Why a message could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The socket that goes with it could not be copied.
    #[error("failed to copy the listening socket")]
    CopySocket {
        /// What the system said.
        source: io::Error,
    },
    /// The connection is gone.
    #[error("failed to reach the proxy")]
    Wire {
        /// Why.
        #[from]
        source: WireError,
    },
}

impl ProxyClient {
    /// Connects and greets.
    pub async fn connect(path: &Path) -> Result<(Self, Hello), ConnectError> {
        Self::connect_with(path, PROTOCOL).await
    }

    async fn connect_with(path: &Path, ours: u32) -> Result<(Self, Hello), ConnectError> {
        let path = path.to_path_buf();
        let stream = match UnixStream::connect(&path).await {
            Ok(stream) => stream,
            Err(source) => return Err(ConnectError::NotRunning { path, source }),
        };
        let mut wire = Wire::new(stream);
        let answer = async {
            wire.queue(&ToProxy::Hello { protocol: ours }, Vec::new())?;
            wire.receive::<FromProxy>().await
        };
        let (pid, fronts, fds) = match tokio::time::timeout(HELLO_TIMEOUT, answer).await {
            Ok(Ok((FromProxy::Hello { protocol, .. }, _))) if protocol != ours => {
                return Err(ConnectError::Protocol {
                    path,
                    theirs: protocol,
                    ours,
                });
            }
            Ok(Ok((FromProxy::Hello { pid, fronts, .. }, fds))) => (pid, fronts, fds),
            Ok(Ok((other, _))) => {
                let what = format!("it said {other:?}");
                return Err(ConnectError::NotAProxy { path, what });
            }
            Ok(Err(source)) => return Err(ConnectError::Greet { path, source }),
            Err(_) => {
                let what = format!("no answer within {} s", HELLO_TIMEOUT.as_secs());
                return Err(ConnectError::NotAProxy { path, what });
            }
        };
        if fronts.len() != fds.len() {
            let what = format!("{} sockets came for {} services", fds.len(), fronts.len());
            return Err(ConnectError::NotAProxy { path, what });
        }
        let sockets = fds.into_iter().map(TcpListener::from);
        let fronts = fronts.into_iter().zip(sockets).collect();
        Ok((Self { wire }, Hello { pid, fronts }))
    }

    /// Sends a message, with the listening socket for a `Serve`. If the future is dropped before it completes, the
    /// message is sent all the same, by the next `send` or `receive`.
    pub async fn send(&mut self, message: &ToProxy, socket: Option<BorrowedFd<'_>>) -> Result<(), SendError> {
        self.queue(message, socket)?;
        Ok(self.wire.flush().await?)
    }

    /// Puts a message in the queue that `send` and `receive` work off; never waits.
    pub fn queue(&mut self, message: &ToProxy, socket: Option<BorrowedFd<'_>>) -> Result<(), SendError> {
        let fds = socket
            .map(|socket| socket.try_clone_to_owned())
            .transpose()
            .map_err(|source| SendError::CopySocket { source })?;
        Ok(self.wire.queue(message, fds.into_iter().collect())?)
    }

    /// The next message and the descriptors that came with it; sends what is queued meanwhile. May be dropped at any
    /// time without losing anything. After [`WireError::NotUnderstood`] it can go on; any other error is the end of
    /// the connection.
    pub async fn receive(&mut self) -> Result<(FromProxy, Vec<OwnedFd>), WireError> {
        self.wire.receive().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn another_protocol_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let proxy = async {
            let (stream, _) = listener.accept().await.unwrap();
            assert!(crate::greet::greet(Wire::new(stream)).await.is_none());
        };
        let (connected, ()) = tokio::join!(ProxyClient::connect_with(&path, PROTOCOL + 1), proxy);
        assert!(matches!(
            connected,
            Err(ConnectError::Protocol { theirs: PROTOCOL, .. })
        ));
    }

    #[tokio::test]
    async fn something_else_at_the_socket_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.sock");
        assert!(matches!(
            ProxyClient::connect(&path).await,
            Err(ConnectError::NotRunning { .. })
        ));
        let listener = UnixListener::bind(&path).unwrap();
        let other = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"220 mail.example\r\n").await.unwrap();
            stream
        };
        let (connected, _stream) = tokio::join!(ProxyClient::connect(&path), other);
        assert!(matches!(
            connected,
            Err(ConnectError::Greet {
                source: WireError::NotUnderstood { .. },
                ..
            })
        ));
    }
}
