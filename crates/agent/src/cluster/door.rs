//! The API for others: over TLS, for nodes and operators of this cluster; and the one call of a machine that wants to become a node.

use super::guests::{Guest, Guests, IDLE_MAX, Patient};
use super::reach::Ways;
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
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
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
/// Refusals are told this often: who is refused comes again at once.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Begins to answer at the node's address.
pub(crate) async fn open(
    ways: Arc<Ways>,
    app: axum::Router,
    tls: Tls,
    people: Arc<crate::dashboard::Desk>,
) -> io::Result<()> {
    let node = ways.place().node;
    let address = SocketAddr::new(node.host, node.agent_port);
    let config = tls.join_server_config().map_err(io::Error::other)?;
    let listener = TcpListener::bind(address).await?;
    let listener = TlsListener::start(listener, TlsAcceptor::from(Arc::new(config)), tls.clone());
    let desk = Arc::new(Desk {
        ways,
        tls,
        people,
        port: address.port(),
    });
    let calls = axum::Router::new()
        .route("/v1/join", post(let_in))
        .route("/v1/renew", post(renew))
        .route("/v1/standing", post(standing))
        .with_state(Arc::clone(&desk));
    let app = app.layer(middleware::from_fn_with_state(desk, with_right)).merge(calls);
    tokio::spawn(async move {
        let service = app.into_make_service_with_connect_info::<Caller>();
        if let Err(error) = axum::serve(listener, service).await {
            tracing::error!(%error, "the API for other machines ended");
        }
    });
    tracing::info!(%address, "answering other machines");
    Ok(())
}

/// Where nodes are let in and their certificates renewed.
struct Desk {
    ways: Arc<Ways>,
    tls: Tls,
    /// Where people with a browser sign in, who have no certificate.
    people: Arc<crate::dashboard::Desk>,
    port: u16,
}

/// Lets a machine in that shows a good token.
async fn let_in(State(desk): State<Arc<Desk>>, Json(request): Json<JoinRequest>) -> Response {
    match membership::admit(&desk.ways.place(), desk.ways.store.as_ref(), &request).await {
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

/// Renews the certificates of the node that calls: whose they are says its certificate, not the request.
async fn renew(
    State(desk): State<Arc<Desk>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Json(request): Json<JoinRequest>,
) -> Response {
    let no = |text: String, hint| (StatusCode::FORBIDDEN, Json(refused(text, hint))).into_response();
    let Some(peer) = caller.0 else {
        return no("show the certificate of the node that is to be renewed".into(), None);
    };
    let store = desk.ways.store.as_ref();
    match membership::renew_for(&desk.ways.place(), store, &desk.tls, &peer, &request).await {
        Ok(bundle) => {
            tracing::info!(node = %bundle.node, "the certificates of a node were renewed");
            Json(bundle).into_response()
        }
        Err(error) => {
            let text = crate::executor::chain(&error);
            tracing::warn!(who = %peer.who, text, "certificates were not renewed");
            no(text, error.hint())
        }
    }
}

/// Tells whoever asks, with a certificate or without, whether it is a node of this cluster: what is said is no secret.
async fn standing(State(desk): State<Arc<Desk>>, Json(ask): Json<membership::Ask>) -> Response {
    match membership::standing(&desk.ways.place(), desk.ways.store.as_ref(), &ask).await {
        Ok(standing) => Json(standing).into_response(),
        Err(error) => {
            let text = crate::executor::chain(&error);
            (StatusCode::SERVICE_UNAVAILABLE, Json(refused(text, error.hint()))).into_response()
        }
    }
}

/// Nodes and operators with the right to operate may do everything, operators with the right to read may look. Who shows no certificate may
/// have signed in to the dashboard.
async fn with_right(
    State(desk): State<Arc<Desk>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: Request,
    next: Next,
) -> Response {
    let no = |text: &str| (StatusCode::FORBIDDEN, Json(refused(text, None))).into_response();
    let Some(peer) = caller.0 else {
        return crate::dashboard::guarded(Arc::clone(&desk.people), true, desk.port, request, next).await;
    };
    if crate::dashboard::is_lured(request.headers()) {
        return no("a page of another site may not ask with your certificate");
    }
    if !desk.tls.still_allowed(&peer) {
        return no("this certificate was revoked");
    }
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
        Caller(stream.io().peer.clone())
    }
}

/// Connections whose handshake is through.
struct TlsListener {
    ready: mpsc::Receiver<(Allowed, SocketAddr)>,
    address: SocketAddr,
}

impl TlsListener {
    fn start(listener: TcpListener, acceptor: TlsAcceptor, tls: Tls) -> Self {
        let address = listener
            .local_addr()
            .unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
        let (done, ready) = mpsc::channel(HANDSHAKES);
        let permits = Arc::new(Semaphore::new(HANDSHAKES));
        let guests = Guests::default();
        let mut told: Option<Instant> = None;
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
                // Whoever it is, it is a guest until it has shown a certificate.
                let Some(guest) = guests.let_in(from.ip()) else {
                    if told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
                        tracing::warn!(%from, "too many connections without a certificate: they are refused");
                        told = Some(Instant::now());
                    }
                    continue;
                };
                let (acceptor, done, tls) = (acceptor.clone(), done.clone(), tls.clone());
                tokio::spawn(async move {
                    let _permit = permit;
                    match tokio::time::timeout(HANDSHAKE, acceptor.accept(tcp)).await {
                        Ok(Ok(stream)) => {
                            let peer = Peer::of_connection(stream.get_ref().1.peer_certificates());
                            let allowed = Allowed::new(stream, peer, tls, guest);
                            let _ = done.send((allowed, from)).await;
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
    type Io = Allowed;
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

/// A connection for as long as nobody revokes the certificate at its other end.
struct Allowed {
    stream: Patient<TlsStream<TcpStream>>,
    peer: Option<Peer>,
    tls: Tls,
    /// Of those who showed none.
    _guest: Option<Guest>,
}

impl Allowed {
    fn new(stream: TlsStream<TcpStream>, peer: Option<Peer>, tls: Tls, guest: Guest) -> Self {
        let is_guest = peer.is_none();
        Self {
            stream: Patient::new(stream, is_guest.then_some(IDLE_MAX)),
            peer,
            tls,
            _guest: is_guest.then_some(guest),
        }
    }

    fn still(&self) -> io::Result<()> {
        match &self.peer {
            Some(peer) if !self.tls.still_allowed(peer) => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "its certificate was revoked",
            )),
            _ => Ok(()),
        }
    }
}

impl AsyncRead for Allowed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.still()?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Allowed {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.still()?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The way in for everybody else, as the Unix socket has it.
pub(crate) fn app(door: Door) -> axum::Router {
    crate::http::app(door)
}
