//! The socket for applications. Every user of the machine may connect, so no user may use it up for the others.

use super::routes;
use crate::{AppState, Error};
use axum::serve::Listener;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixListener;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// Connections of one user: a hundred watches, and as many requests beside them.
const PER_USER_MAX: usize = 256;
/// Connections of all: a quarter of the descriptors that a process has if nobody raised the bound.
const CONNECTIONS_MAX: usize = 512;
/// How long nothing is accepted after the system refused: it is out of descriptors, and trying at once keeps it so.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Begins to answer applications on a Unix socket that every user of the machine may connect to: what they may is up to
/// their token. A socket that is left there is replaced. Needs a tokio runtime. Ending the task stops accepting; connections that are there go on.
pub fn serve(socket: &Path, state: AppState) -> io::Result<JoinHandle<()>> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666))?;
    let app = routes(state).fallback(|| async {
        Error::InvalidRequest(
            "there is nothing here: `docs/state.md` and `GET /v1/openapi.json` list what there is".into(),
        )
    });
    let listener = Bounded {
        listener,
        open: Arc::default(),
    };
    Ok(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(%error, "the API for applications ended");
        }
    }))
}

/// How many connections each user has.
type Open = Arc<Mutex<BTreeMap<u32, usize>>>;

struct Bounded {
    listener: UnixListener,
    open: Open,
}

impl Listener for Bounded {
    type Io = Counted;
    type Addr = u32;

    async fn accept(&mut self) -> (Counted, u32) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match stream.peer_cred() {
                    Ok(peer) => match Counted::new(stream, peer.uid(), &self.open) {
                        Some(counted) => return (counted, peer.uid()),
                        None => tracing::warn!(uid = peer.uid(), "too many connections of this user, refused one"),
                    },
                    Err(error) => tracing::debug!(%error, "a connection ended before it was accepted"),
                },
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection of an application");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<u32> {
        Ok(rustix::process::geteuid().as_raw())
    }
}

/// A connection that counts as its user's until it ends.
struct Counted {
    stream: UnixStream,
    uid: u32,
    open: Open,
}

impl Counted {
    fn new(stream: UnixStream, uid: u32, open: &Open) -> Option<Self> {
        let mut counts = crate::locked(open);
        let of_all: usize = counts.values().sum();
        let of_user = counts.entry(uid).or_default();
        if *of_user >= PER_USER_MAX || of_all >= CONNECTIONS_MAX {
            return None;
        }
        *of_user += 1;
        drop(counts);
        Some(Self {
            stream,
            uid,
            open: Arc::clone(open),
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = crate::locked(&self.open);
        if let Some(count) = counts.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
