//! Connections to actives by hyper: HTTP/1.1, one request at a time, and HTTP/2, many at once.

use super::body::Body;
use super::{HEAD_BYTES_MAX, SURELY_OPEN};
use crate::connect::{self, connect};
use crate::target::{InFlight, Target};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) type Http1Sender = http1::SendRequest<Body>;
pub(crate) type Http2Sender = http2::SendRequest<Body>;

/// A server that speaks HTTP/2 begins with its settings; one that says nothing for this long is not asked again.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// Between the end of an answer and the moment its connection can be used again.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(1);

const WINDOW_BYTES: u32 = 1 << 20;

/// What a request goes by.
pub(crate) enum Channel {
    Http1(Http1Sender),
    Http2(Http2Sender),
}

/// Why there is no answer.
pub(super) enum Failure {
    /// Not a byte was sent: the request is unharmed.
    Unsent(Box<Request<Body>>, String),
    /// It may have been carried out.
    Sent(String),
}

/// A connection for a request.
pub(super) struct Opened {
    pub(super) channel: Channel,
    /// It carried a request before.
    pub(super) used: bool,
}

/// Finds or makes a connection.
pub(super) async fn open(
    target: &Rc<Target>,
    wants_http2: bool,
    is_repeatable: bool,
) -> Result<Opened, connect::Error> {
    if wants_http2 && speaks_http2(target).await? {
        return open_http2(target).await;
    }
    while let Some((sender, since)) = target.idle_http1.take() {
        if sender.is_ready() && (is_repeatable || since.elapsed() < SURELY_OPEN) {
            let channel = Channel::Http1(sender);
            return Ok(Opened { channel, used: true });
        }
    }
    let stream = connect(target.address).await?;
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX * 2)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    drive(target, connection.with_upgrades());
    let channel = Channel::Http1(sender);
    Ok(Opened { channel, used: false })
}

async fn open_http2(target: &Rc<Target>) -> Result<Opened, connect::Error> {
    let known = target.http2.borrow().clone();
    if let Some(sender) = known.filter(|sender| !sender.is_closed()) {
        let channel = Channel::Http2(sender);
        return Ok(Opened { channel, used: true });
    }
    let stream = connect(target.address).await?;
    let (sender, connection) = http2::Builder::new(super::general::LocalExecutor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    drive(target, connection);
    if !target.is_leaving() {
        *target.http2.borrow_mut() = Some(sender.clone());
    }
    let channel = Channel::Http2(sender);
    Ok(Opened { channel, used: false })
}

/// Whether a target takes HTTP/2 without being asked: tried once, on a connection of its own.
async fn speaks_http2(target: &Rc<Target>) -> Result<bool, connect::Error> {
    if let Some(known) = target.speaks_http2.get() {
        return Ok(known);
    }
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const TYPE_SETTINGS: u8 = 4;
    let mut stream = connect(target.address).await?;
    let answer = async {
        stream.write_all(PREFACE).await?;
        let mut frame = [0; 9];
        stream.read_exact(&mut frame).await?;
        Ok::<_, std::io::Error>(frame)
    };
    let speaks = match tokio::time::timeout(PROBE_TIMEOUT, answer).await {
        Ok(Ok(frame)) => frame[3] == TYPE_SETTINGS && frame[5..] == [0; 4],
        Ok(Err(_)) | Err(_) => false,
    };
    target.speaks_http2.set(Some(speaks));
    Ok(speaks)
}

/// Runs a connection until it ends or its target is cut.
fn drive<C, E>(target: &Rc<Target>, connection: C)
where
    C: Future<Output = Result<(), E>> + 'static,
{
    let mut cut = target.watch_cut();
    tokio::task::spawn_local(async move {
        tokio::select! {
            // Whoever waits for an answer hears of the failure.
            _ = connection => {}
            () = cut.raised() => {}
        }
    });
}

fn broken(error: hyper::Error) -> connect::Error {
    connect::Error::Io(std::io::Error::other(error))
}

impl Channel {
    pub(super) fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn send(
        &mut self,
        in_flight: &mut InFlight,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, Failure> {
        let ready = match self {
            Self::Http1(sender) => sender.ready().await,
            Self::Http2(sender) => sender.ready().await,
        };
        if let Err(error) = ready {
            return Err(Failure::Unsent(Box::new(request), describe(&error)));
        }
        let answer = async {
            match self {
                Self::Http1(sender) => sender.try_send_request(request).await,
                Self::Http2(sender) => sender.try_send_request(request).await,
            }
        };
        tokio::select! {
            biased;
            answer = answer => answer.map_err(failure),
            () = in_flight.cut() => Err(Failure::Sent("the active was replaced".into())),
        }
    }

    /// Keeps the connection for the next request, as soon as it is ready for one.
    pub(super) fn give_back(self, target: &Rc<Target>) {
        let Self::Http1(mut sender) = self else {
            return;
        };
        if target.is_leaving() || sender.is_closed() {
            return;
        }
        if sender.is_ready() {
            return target.idle_http1.put(sender, Instant::now());
        }
        let target = Rc::clone(target);
        tokio::task::spawn_local(async move {
            let ready = tokio::time::timeout(SETTLE_TIMEOUT, sender.ready()).await;
            if matches!(ready, Ok(Ok(()))) && !target.is_leaving() {
                target.idle_http1.put(sender, Instant::now());
            }
        });
    }
}

fn failure(mut error: TrySendError<Request<Body>>) -> Failure {
    if let Some(request) = error.take_message() {
        return Failure::Unsent(Box::new(request), describe(error.error()));
    }
    Failure::Sent(describe(error.error()))
}

/// hyper's own words say what it did; the cause below says what happened.
fn describe(error: &hyper::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    match cause.downcast_ref::<std::io::Error>() {
        Some(error) => connect::plainly(error),
        None => cause.to_string(),
    }
}
