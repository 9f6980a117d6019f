//! The API for others: over TLS, for nodes and operators of this cluster; and the one call of a machine that wants to become a node.

use crate::http::Door;
use crate::input::refused;
use axum::Json;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::serve::{IncomingStream, Listener};
use identity::{JoinRequest, Peer, Right, Tls};
use membership::Place;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Handshakes under way at once: more wait in the listening socket.
const HANDSHAKES: usize = 64;
/// A handshake that takes longer is none.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// After a failed accept (no file descriptors left) this long.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Begins to answer at the node's address.
pub(crate) async fn open(place: Place, store: Arc<dyn Store>, app: axum::Router, tls: Tls) -> io::Result<()> {
    let address = SocketAddr::new(place.node.host, place.node.agent_port);
    let config = tls.join_server_config().map_err(io::Error::other)?;
    let listener = TcpListener::bind(address).await?;
    let listener = TlsListener::start(listener, TlsAcceptor::from(Arc::new(config)));
    let admits = Arc::new(Admits { place, store });
    let join = axum::Router::new().route("/v1/join", post(let_in)).with_state(admits);
    let app = app.layer(middleware::from_fn(with_right)).merge(join);
    tokio::spawn(async move {
        let service = app.into_make_service_with_connect_info::<Caller>();
        if let Err(error) = axum::serve(listener, service).await {
            tracing::error!(%error, "the API for other machines ended");
        }
    });
    tracing::info!(%address, "answering other machines");
    Ok(())
}

struct Admits {
    place: Place,
    store: Arc<dyn Store>,
}

/// Lets a machine in that shows a good token.
async fn let_in(State(admits): State<Arc<Admits>>, Json(request): Json<JoinRequest>) -> Response {
    match membership::admit(&admits.place, admits.store.as_ref(), &request).await {
        Ok(bundle) => {
            tracing::info!(node = %request.node, role = %bundle.role, "a machine was let in");
            Json(bundle).into_response()
        }
        Err(error) => {
            let text = crate::executor::chain(&error);
            tracing::warn!(node = %request.node, text, "a machine was not let in");
            (StatusCode::FORBIDDEN, Json(refused(text, error.hint()))).into_response()
        }
    }
}

/// Nodes and operators with the right to operate may do everything, operators with the right to read may look; nobody else anything.
async fn with_right(ConnectInfo(caller): ConnectInfo<Caller>, request: Request, next: Next) -> Response {
    let no = |text: &str| (StatusCode::FORBIDDEN, Json(refused(text, None))).into_response();
    let Some(peer) = caller.0 else {
        return no("show a certificate of this cluster");
    };
    let allowed = match &peer.who.kind {
        identity::Kind::Node { .. } => true,
        identity::Kind::Operator { right, .. } => {
            let needed = if request.method() == Method::GET {
                Right::Read
            } else {
                Right::Operate
            };
            right.allows(needed)
        }
        _ => false,
    };
    if !allowed {
        return no("this certificate gives no right to do that");
    }
    next.run(request).await
}

/// Who is at the other end.
#[derive(Debug, Clone)]
struct Caller(Option<Peer>);

impl Connected<IncomingStream<'_, TlsListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        Caller(Peer::of_connection(stream.io().get_ref().1.peer_certificates()))
    }
}

/// Connections whose handshake is through.
struct TlsListener {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
}

impl TlsListener {
    fn start(listener: TcpListener, acceptor: TlsAcceptor) -> Self {
        let address = listener
            .local_addr()
            .unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
        let (done, ready) = mpsc::channel(HANDSHAKES);
        let permits = Arc::new(Semaphore::new(HANDSHAKES));
        tokio::spawn(async move {
            // Ends with the listener: permits are never closed.
            while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
                let (tcp, from) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "cannot take a connection of another machine");
                        tokio::time::sleep(ACCEPT_RETRY).await;
                        continue;
                    }
                };
                let (acceptor, done) = (acceptor.clone(), done.clone());
                tokio::spawn(async move {
                    let _permit = permit;
                    match tokio::time::timeout(HANDSHAKE, acceptor.accept(tcp)).await {
                        Ok(Ok(stream)) => {
                            let _ = done.send((stream, from)).await;
                        }
                        Ok(Err(error)) => match identity::Refused::from_io(&error) {
                            Some(refused) => tracing::warn!(%from, %refused, "refused a connection"),
                            None => tracing::debug!(%from, %error, "a connection ended in its handshake"),
                        },
                        Err(_) => tracing::debug!(%from, "a handshake took too long"),
                    }
                });
            }
        });
        Self { ready, address }
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}

/// Certificates that were renewed, or revoked, count from the next handshake on.
pub(crate) fn keep_fresh(mut reloader: identity::renewal::Reloader) {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            match reloader.poll() {
                Ok(true) => tracing::info!("keys and certificates were read anew"),
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(error = %crate::executor::chain(&error), "keys and certificates cannot be read anew");
                }
            }
        }
    });
}

/// The way in for everybody else, as the Unix socket has it.
pub(crate) fn app(door: Door) -> axum::Router {
    crate::http::app(door)
}
