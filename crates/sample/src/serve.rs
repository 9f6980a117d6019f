//! What `web` and `db` share: listening, answering until told to stop, and the shape of an answer.

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::{conn::auto, graceful::GracefulShutdown};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};

/// Why a sample service could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The port is taken, not allowed, or the address is not ours.
    #[error("failed to listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },

    /// No signal handler, so no polite end.
    #[error("failed to wait for SIGTERM and SIGINT")]
    Signals {
        /// What the system said.
        source: io::Error,
    },

    /// The address of the database cannot be used.
    #[error("`{given}` is not an address: write HOST:PORT, as in 127.0.0.1:6380")]
    DbAddress {
        /// As given.
        given: String,
    },

    /// The log of the database could not be opened.
    #[error(transparent)]
    Open(#[from] crate::db::OpenError),

    /// The witness file could not be opened.
    #[error("failed to open the witness file `{}`", path.display())]
    Witness {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// The disk did not confirm a write. What is on it is unknown, so nothing may be acknowledged any more.
    #[error("the disk did not confirm a write to the log in `{}`; start again to read back what is there", dir.display())]
    Disk {
        /// The data folder.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Who a service says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of the instance.
    pub instance: String,
    /// The role it was started in.
    pub role: String,
}

impl Identity {
    /// From `UNDERSTUDY_INSTANCE` and `UNDERSTUDY_ROLE`; without them it says what it is not.
    pub fn from_env() -> Self {
        let read = |name: &str, otherwise: &str| std::env::var(name).unwrap_or_else(|_| otherwise.to_owned());
        Self {
            instance: read("UNDERSTUDY_INSTANCE", "unnamed"),
            role: read("UNDERSTUDY_ROLE", "unmanaged"),
        }
    }
}

pub(crate) type Body = BoxBody<Bytes, Infallible>;
pub(crate) type Reply = Response<Body>;

/// Connections that the kernel queues while we are busy; std and tokio ask for 128, and the 129th client then waits a second.
const BACKLOG: u32 = 4096;

/// How long requests under way may take once told to stop. Longer than any request that we offer may be asked to take.
const FINISH_WITHIN: Duration = Duration::from_secs(70);

/// Without a free descriptor accept fails at once, for ever: this long between tries.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    let listen = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // A port with connections in TIME_WAIT, left by the run before, is free.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|source| ServeError::Listen { address, source })
}

/// Ends when the process is told to stop.
pub(crate) fn stop_signal() -> Result<impl Future<Output = ()>, ServeError> {
    let signals = |source| ServeError::Signals { source };
    let mut terminate = signal(SignalKind::terminate()).map_err(signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(signals)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Answers until `stop`, then lets requests under way finish.
pub(crate) async fn run<S, H, F>(listener: TcpListener, state: Arc<S>, answer: H, stop: impl Future<Output = ()>)
where
    S: Send + Sync + 'static,
    H: Fn(Arc<S>, Request<Incoming>) -> F + Copy + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let graceful = GracefulShutdown::new();
    let builder = auto::Builder::new(TokioExecutor::new());
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Small answers must not wait for more to send; where it cannot be set, they do.
        stream.set_nodelay(true).ok();
        let state = Arc::clone(&state);
        let service = service_fn(move |request| {
            let reply = answer(Arc::clone(&state), request);
            async move { Ok::<_, Infallible>(reply.await) }
        });
        let connection = builder
            .serve_connection_with_upgrades(TokioIo::new(stream), service)
            .into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // A client that went away in the middle is no news.
            connection.await.ok();
        });
    }
    drop(listener);
    tokio::time::timeout(FINISH_WITHIN, graceful.shutdown()).await.ok();
}

pub(crate) fn full(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()).boxed());
    *reply.status_mut() = status;
    reply
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    reply
}

pub(crate) fn json(status: StatusCode, value: &serde_json::Value) -> Reply {
    full(status, "application/json", format!("{value}\n"))
}

/// An answer that says why not, for people (`error`), with the status for programs.
pub(crate) fn refusal(status: StatusCode, reason: &str) -> Reply {
    let mut reply = json(status, &serde_json::json!({ "error": reason }));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        reply
            .headers_mut()
            .insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    }
    reply
}

/// A number from the query, `default` if it is not given.
pub(crate) fn query_number(request: &Request<Incoming>, name: &str, default: u64, max: u64) -> Result<u64, String> {
    match query(request, name) {
        None => Ok(default),
        Some(text) => match text.parse::<u64>() {
            Ok(number) if number <= max => Ok(number),
            _ => Err(format!("`{name}={text}`: must be a whole number from 0 to {max}")),
        },
    }
}

/// A value from the query; nothing that we take needs percent-decoding.
pub(crate) fn query<'a>(request: &'a Request<Incoming>, name: &str) -> Option<&'a str> {
    request.uri().query()?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key == name).then_some(value)
    })
}
