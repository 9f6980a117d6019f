//! One connection to one member: TCP, TLS, HTTP/2.
//!
//! A channel made here lasts as long as its connection and never makes another one: whoever is behind a new connection
//! has to be asked first who they are.

use super::failure::Cause;
use super::keeper::Bell;
use crate::Error;
use crate::options::Tls;
use hyper_util::rt::TokioIo;
use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_user_timeout};
use std::future::{Ready, ready};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use store::{ServerError, TlsProblem};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, AlertDescription, CertificateError, ClientConfig, RootCertStore};
use tonic::transport::{Channel, Endpoint, Uri};

// etcd takes offence at more than one ping in five seconds (--grpc-keepalive-min-time), and at any while nothing is asked.
const PING_EVERY: Duration = Duration::from_secs(6);
const PING_WAIT: Duration = Duration::from_secs(2);
// Nothing shorter can be asked of the kernel.
const PROBE_EVERY: Duration = Duration::from_secs(1);
// Large enough for a list of a few thousand records in one go.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Where a member listens, taken apart.
#[derive(Clone)]
pub(crate) struct Target {
    /// As the operator wrote it.
    pub(crate) name: String,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// A connection, as long as it lasts.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) channel: Channel,
    fate: Arc<Fate>,
}

/// What is known of the end of a connection.
struct Fate {
    /// It is of no use for anything new.
    over: AtomicBool,
    /// What TLS told about it, which the layers above turn into "connection closed".
    alert: OnceLock<TlsProblem>,
    /// Rung when it ends.
    bell: Arc<Bell>,
}

impl Target {
    pub(crate) fn new(name: &str, tls: Option<&TlsConnector>) -> Result<Self, Error> {
        let bad = |reason: &str| Error::Option {
            option: "endpoints",
            reason: format!("`{name}` {reason}"),
        };
        let uri: Uri = name
            .parse()
            .map_err(|_| bad("is not an address such as http://10.0.0.1:2379"))?;
        let host = uri.host().ok_or_else(|| bad("names no host"))?;
        // As in any URL, an IPv6 address stands in brackets.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = match (uri.scheme_str(), tls) {
            (Some("http"), _) => None,
            (Some("https"), Some(tls)) => {
                let server =
                    ServerName::try_from(host.clone()).map_err(|_| bad("has a host that no certificate can name"))?;
                Some((tls.clone(), server))
            }
            (Some("https"), None) => return Err(bad("needs the certificate of an authority to trust")),
            _ => return Err(bad("has to begin with http:// or https://")),
        };
        Ok(Self {
            name: name.to_owned(),
            port: uri.port_u16().unwrap_or(2379),
            host,
            tls,
        })
    }

    /// Makes a connection. Nothing was asked yet of whoever is there. A way that takes nothing is given up after `limit`; a member that
    /// takes what it is sent and says nothing is waited for.
    pub(crate) async fn dial(&self, bell: Arc<Bell>, limit: Duration) -> Result<(Line, Impatience), Cause> {
        let tcp = timeout(limit, TcpStream::connect((self.host.as_str(), self.port)))
            .await
            .map_err(|_| Cause::TimedOut)?
            .map_err(|error| Cause::Connect(error.to_string()))?;
        tcp.set_nodelay(true)
            .map_err(|error| Cause::Connect(error.to_string()))?;
        let impatience = Impatience::new(&tcp, limit).map_err(|error| Cause::Connect(error.to_string()))?;
        let io: Box<dyn Io> = match &self.tls {
            None => Box::new(tcp),
            Some((tls, server)) => Box::new(
                tls.connect(server.clone(), tcp)
                    .await
                    .map_err(|error| self.tls_cause(&error))?,
            ),
        };
        let fate = Arc::new(Fate {
            over: AtomicBool::new(false),
            alert: OnceLock::new(),
            bell,
        });
        let watched = Watched {
            io,
            fate: Arc::clone(&fate),
        };
        let channel = self
            .settings()
            .connect_with_connector(Once(Some(watched)))
            .await
            .map_err(|error| Cause::Connect(chain(&error)))?;
        Ok((Line { channel, fate }, impatience))
    }

    fn settings(&self) -> Endpoint {
        Endpoint::from_static("http://etcd")
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WAIT)
            .keep_alive_while_idle(false)
    }

    fn tls_cause(&self, error: &io::Error) -> Cause {
        let problem = match problem_of(error) {
            Some(problem) => problem,
            // Closed or broken in the middle of the handshake, by something that does not speak TLS or a proxy.
            None if error.kind() == io::ErrorKind::UnexpectedEof || error.kind() == io::ErrorKind::InvalidData => {
                TlsProblem::Handshake
            }
            None => return Cause::Connect(error.to_string()),
        };
        self.tls_error(problem, error.to_string())
    }

    fn tls_error(&self, problem: TlsProblem, reason: String) -> Cause {
        Cause::Server(ServerError::Tls {
            endpoint: self.name.clone(),
            problem,
            reason,
        })
    }

    /// Why `line` broke, if TLS was the reason: a member that refuses our certificate says so only after the handshake.
    pub(crate) fn tls_reason(&self, line: &Line) -> Option<Cause> {
        let problem = *line.fate.alert.get()?;
        Some(self.tls_error(problem, "told by the member".into()))
    }
}

/// While it lasts, the kernel ends a connection whose bytes, or whose probes once a second, nobody has acknowledged for so long.
pub(crate) struct Impatience(OwnedFd);

impl Impatience {
    fn new(tcp: &TcpStream, limit: Duration) -> io::Result<Self> {
        let socket = tcp.as_fd().try_clone_to_owned()?;
        set_tcp_user_timeout(&socket, u32::try_from(limit.as_millis()).unwrap_or(u32::MAX))?;
        // Where nothing is on its way, a machine that came up anew says by a reset that it knows nothing of this connection.
        set_tcp_keepidle(&socket, PROBE_EVERY)?;
        set_tcp_keepintvl(&socket, PROBE_EVERY)?;
        set_socket_keepalive(&socket, true)?;
        Ok(Self(socket))
    }

    /// The connection is made: from now on what is asked over it has its own time.
    pub(crate) fn end(self) -> io::Result<()> {
        set_socket_keepalive(&self.0, false)?;
        Ok(set_tcp_user_timeout(&self.0, 0)?)
    }
}

impl Line {
    /// Marks the connection as not to be used for anything new.
    pub(crate) fn condemn(&self) {
        self.fate.over.store(true, Ordering::Release);
    }

    pub(crate) fn condemned(&self) -> bool {
        self.fate.over.load(Ordering::Acquire)
    }
}

/// What TLS needs, made of PEM.
pub(crate) fn connector(tls: &Tls) -> Result<TlsConnector, Error> {
    let bad = |reason: String| Error::Option { option: "tls", reason };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&tls.ca, "the authority's certificate").map_err(bad)? {
        roots
            .add(certificate)
            .map_err(|error| bad(format!("the authority's certificate: {error}")))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(error.to_string()))?
        .with_root_certificates(roots);
    let mut config = match &tls.identity {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate, "our certificate").map_err(bad)?;
            let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes())
                .map_err(|_| bad("our key is not a private key in PEM".into()))?;
            config
                .with_client_auth_cert(chain, key)
                .map_err(|error| bad(format!("our certificate and key: {error}")))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn certificates(pem: &str, what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("{what}: there is none in the PEM")),
        Err(_) => Err(format!("{what} is not a certificate in PEM")),
    }
}

/// What about TLS made `error`, if anything did.
fn problem_of(error: &io::Error) -> Option<TlsProblem> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => TlsProblem::Expired,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => TlsProblem::Name,
            _ => TlsProblem::Issuer,
        },
        rustls::Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied,
        ) => TlsProblem::OurCertificate,
        _ => TlsProblem::Handshake,
    })
}

/// The error and everything below it, as one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text = format!("{text}: {part}");
        }
        source = error.source();
    }
    text
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Passes bytes on, and tells at once when the connection ends, whether or not anything is asked over it.
struct Watched {
    io: Box<dyn Io>,
    fate: Arc<Fate>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(context, buffer);
        match &polled {
            Poll::Ready(Err(error)) => {
                if let Some(problem) = problem_of(error) {
                    // The first one is the reason.
                    let _ = self.fate.alert.set(problem);
                }
                self.fate.end();
            }
            Poll::Ready(Ok(())) if buffer.filled().len() == before && buffer.remaining() > 0 => self.fate.end(),
            _ => {}
        }
        polled
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.fate.end();
    }
}

impl Fate {
    fn end(&self) {
        if !self.over.swap(true, Ordering::AcqRel) {
            self.bell.ring();
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// Hands out the one connection it was given.
struct Once(Option<Watched>);

impl tower_service::Service<Uri> for Once {
    type Response = TokioIo<Watched>;
    type Error = io::Error;
    type Future = Ready<io::Result<TokioIo<Watched>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let gone = || io::Error::new(io::ErrorKind::NotConnected, "the connection has ended");
        ready(self.0.take().map(TokioIo::new).ok_or_else(gone))
    }
}
