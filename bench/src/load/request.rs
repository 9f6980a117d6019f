//! One request of a load, over a new or a kept connection.

use super::{Connections, FailureKind, Plan, Request};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Semaphore};

type Outcome<T> = Result<T, (FailureKind, String)>;

pub(super) struct Requester {
    plan: Plan,
    /// Kept connections that are idle, and how many may be busy.
    idle: Mutex<Vec<Connection>>,
    may_be_busy: Semaphore,
}

enum Connection {
    Http(SendRequest<Full<Bytes>>),
    Tcp(TcpStream),
}

impl Requester {
    pub(super) fn new(plan: Plan) -> Self {
        let kept = match plan.connections {
            Connections::PerRequest => 0,
            Connections::Kept(connections) => connections,
        };
        Self {
            plan,
            idle: Mutex::default(),
            may_be_busy: Semaphore::new(kept),
        }
    }

    pub(super) async fn once(&self) -> Outcome<()> {
        if self.plan.connections == Connections::PerRequest {
            let mut connection = self.connect().await?;
            return self.ask(&mut connection).await;
        }
        // Never closed, so this only waits.
        let _busy = self.may_be_busy.acquire().await;
        let idle = self.idle.lock().await.pop();
        let mut connection = match idle {
            Some(connection) if connection.is_usable() => connection,
            // Closed by the other side while nothing was asked of it: no failure, clients reconnect.
            _ => self.connect().await?,
        };
        self.ask(&mut connection).await?;
        self.idle.lock().await.push(connection);
        Ok(())
    }

    async fn connect(&self) -> Outcome<Connection> {
        let failed = |error: std::io::Error| (FailureKind::Connect, error.to_string());
        let stream = TcpStream::connect(self.plan.target).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        match self.plan.request {
            Request::Echo { .. } => Ok(Connection::Tcp(stream)),
            Request::Http { .. } => {
                let shaken = handshake(TokioIo::new(stream)).await;
                let (sender, connection) = shaken.map_err(|error| (FailureKind::Connect, error.to_string()))?;
                tokio::spawn(connection);
                Ok(Connection::Http(sender))
            }
        }
    }

    async fn ask(&self, connection: &mut Connection) -> Outcome<()> {
        match (&self.plan.request, connection) {
            (Request::Http { method, path, body }, Connection::Http(sender)) => {
                let request = request(self.plan.target, method, path, body)?;
                http(sender, request).await
            }
            (Request::Echo { bytes }, Connection::Tcp(stream)) => echo(stream, *bytes).await,
            // A plan has one kind of request, and its connections are of that kind.
            _ => Err((FailureKind::Wrong, "a connection of another kind".into())),
        }
    }
}

impl Connection {
    fn is_usable(&self) -> bool {
        match self {
            Connection::Http(sender) => !sender.is_closed() && sender.is_ready(),
            // Readable without a request: closed, or bytes that nobody asked for.
            Connection::Tcp(stream) => {
                matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
            }
        }
    }
}

fn request(target: SocketAddr, method: &http::Method, path: &str, body: &Bytes) -> Outcome<http::Request<Full<Bytes>>> {
    http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, target.to_string())
        .body(Full::new(body.clone()))
        .map_err(|error| (FailureKind::Wrong, format!("not a request: {error}")))
}

async fn http(sender: &mut SendRequest<Full<Bytes>>, request: http::Request<Full<Bytes>>) -> Outcome<()> {
    let broken = |error: hyper::Error| (FailureKind::Broken, chain(&error));
    let mut answer = sender.send_request(request).await.map_err(broken)?;
    let status = answer.status();
    let mut text = Vec::new();
    while let Some(frame) = answer.body_mut().frame().await {
        let frame = frame.map_err(broken)?;
        if let (false, Some(data)) = (status.is_success(), frame.data_ref()) {
            text.extend_from_slice(&data[..data.len().min(REASON_BYTES_MAX)]);
        }
    }
    if status.is_success() {
        return Ok(());
    }
    text.truncate(REASON_BYTES_MAX);
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    Err((FailureKind::Status(status.as_u16()), format!("{status}: {text}")))
}

/// So much of an answer that is a failure is kept.
const REASON_BYTES_MAX: usize = 300;

async fn echo(stream: &mut TcpStream, count: usize) -> Outcome<()> {
    let broken = |error: std::io::Error| (FailureKind::Broken, error.to_string());
    let sent: Vec<u8> = (0..count).map(|position| position as u8).collect();
    let mut back = vec![0; count];
    let (mut reader, mut writer) = stream.split();
    // At once, or an echo of more than the buffers hold would wait for us while we wait for it.
    let (written, read) = tokio::join!(writer.write_all(&sent), reader.read_exact(&mut back));
    written.map_err(broken)?;
    read.map_err(broken)?;
    match back == sent {
        true => Ok(()),
        false => Err((FailureKind::Wrong, "other bytes came back".into())),
    }
}

/// The outer errors only say that something failed.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}
