//! Requests to agents: which one, how long, and whether it may be sent again.
//!
//! | what happened | sent again |
//! |---|---|
//! | no connection, or the agent says *not done* | yes, to the next agent |
//! | the request was sent and no answer came, or the agent says *unknown* | only if doing it twice is doing it once |
//!
//! A connection per request: agents are on the same machine or near, and one that was closed meanwhile would make it
//! unclear whether a request arrived.

use crate::{Client, Endpoint, Error};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

/// No answer comes near it: a page of a list has about a megabyte of values.
const BODY_BYTES_MAX: usize = 16 << 20;
/// An agent that does not take a connection by then is passed over.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause after every endpoint was tried doubles up to this.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
    /// Whether doing it twice is doing it once.
    pub(crate) repeatable: bool,
    /// How long one try may take.
    pub(crate) each: Duration,
    /// How long all tries may take.
    pub(crate) total: Duration,
}

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why one try failed.
enum Failure {
    /// The agent did not get the request.
    NotSent(String),
    /// It may have.
    NoAnswer(String),
}

/// The agent's "no".
#[derive(Debug, Deserialize)]
struct ErrorBody {
    error: String,
    code: String,
    hint: Option<String>,
    outcome: String,
    revision: Option<u64>,
    oldest: Option<u64>,
}

impl Client {
    pub(crate) fn request(&self, method: Method, path: String) -> Call {
        let patience = self.inner.patience;
        Call {
            repeatable: method == Method::GET,
            method,
            path,
            headers: Vec::new(),
            body: Bytes::new(),
            each: patience.each,
            total: patience.total,
        }
    }

    /// Asks until there is an answer that counts, and returns it if it is a "yes".
    pub(crate) async fn call(&self, call: &Call) -> Result<Answer, Error> {
        let until = Instant::now() + call.total;
        let first = self.inner.preferred.load(Ordering::Relaxed);
        let count = self.inner.endpoints.len();
        // Of an earlier try it is not known whether it was carried out.
        let mut unclear = None;
        let mut tried = 0;
        loop {
            let number = (first + tried) % count;
            let left = until.saturating_duration_since(Instant::now());
            let problem = match self
                .once(&self.inner.endpoints[number], call, call.each.min(left))
                .await
            {
                Ok(answer) if answer.status.is_success() => {
                    self.inner.preferred.store(number, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(answer) => {
                    let error: ErrorBody = decode(&answer.body)?;
                    let not_done = answer.status == StatusCode::SERVICE_UNAVAILABLE;
                    if !not_done && error.outcome != "unknown" {
                        self.inner.preferred.store(number, Ordering::Relaxed);
                        return Err(refused(answer.status, error));
                    }
                    if !not_done {
                        unclear = Some(error.error.clone());
                    }
                    error.error
                }
                Err(Failure::NotSent(problem)) => problem,
                Err(Failure::NoAnswer(problem)) => {
                    unclear = Some(problem.clone());
                    problem
                }
            };
            tried += 1;
            let harmless = call.method == Method::GET;
            match unclear.take() {
                Some(problem) if !call.repeatable => return Err(Error::Unknown { problem }),
                still => unclear = still,
            }
            let pause = match tried % count {
                0 => PAUSE_MAX.min(Duration::from_millis(10 << (tried / count).min(6))),
                _ => Duration::ZERO,
            };
            if Instant::now() + pause >= until {
                return Err(match unclear {
                    Some(problem) if !harmless => Error::Unknown { problem },
                    _ => Error::NotReached { problem },
                });
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// As [`Client::call`], and reads the answer as JSON.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, call: &Call) -> Result<T, Error> {
        decode(&self.call(call).await?.body)
    }

    async fn once(&self, endpoint: &Endpoint, call: &Call, within: Duration) -> Result<Answer, Failure> {
        let until = Instant::now() + within;
        let response = self.open(endpoint, call, within).await?;
        let (parts, body) = response.into_parts();
        let body = tokio::time::timeout_at(until, Limited::new(body, BODY_BYTES_MAX).collect());
        match body.await {
            Ok(Ok(body)) => Ok(Answer {
                status: parts.status,
                headers: parts.headers,
                body: body.to_bytes(),
            }),
            Ok(Err(error)) => Err(Failure::NoAnswer(format!("{endpoint}: the answer broke off: {error}"))),
            Err(_) => Err(Failure::NoAnswer(format!("{endpoint}: no answer within {within:?}"))),
        }
    }

    /// Sends a request that opens a stream, to the first agent that takes it.
    pub(crate) async fn stream(&self, call: &Call) -> Result<Response<Incoming>, Error> {
        let until = Instant::now() + call.total;
        let mut number = self.inner.preferred.load(Ordering::Relaxed);
        loop {
            number %= self.inner.endpoints.len();
            let problem = match self.open(&self.inner.endpoints[number], call, call.each).await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => {
                    let status = response.status();
                    let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
                    let body = body.map_err(|error| Error::NotReached {
                        problem: error.to_string(),
                    })?;
                    let error: ErrorBody = decode(&body.to_bytes())?;
                    if status != StatusCode::SERVICE_UNAVAILABLE {
                        return Err(refused(status, error));
                    }
                    error.error
                }
                Err(Failure::NotSent(problem) | Failure::NoAnswer(problem)) => problem,
            };
            number += 1;
            if Instant::now() >= until {
                return Err(Error::NotReached { problem });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn open(&self, endpoint: &Endpoint, call: &Call, within: Duration) -> Result<Response<Incoming>, Failure> {
        let until = Instant::now() + within;
        let connecting = tokio::time::timeout(within.min(CONNECT_TIMEOUT), connect(endpoint));
        let io = match connecting.await {
            Ok(Ok(io)) => io,
            Ok(Err(error)) => return Err(Failure::NotSent(format!("{endpoint}: {error}"))),
            Err(_) => return Err(Failure::NotSent(format!("{endpoint}: no connection in time"))),
        };
        let not_sent = |error: &dyn std::fmt::Display| Failure::NotSent(format!("{endpoint}: {error}"));
        let request = self.build(endpoint, call).map_err(|error| not_sent(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io))
            .await
            .map_err(|error| not_sent(&error))?;
        tokio::spawn(async move {
            // How it ended shows in the answer.
            let _ = connection.await;
        });
        match tokio::time::timeout_at(until, sender.send_request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Failure::NoAnswer(format!("{endpoint}: {error}"))),
            Err(_) => Err(Failure::NoAnswer(format!("{endpoint}: no answer within {within:?}"))),
        }
    }

    fn build(&self, endpoint: &Endpoint, call: &Call) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut request = Request::builder()
            .method(&call.method)
            .uri(&call.path)
            .header(header::HOST, endpoint.host())
            .header(header::AUTHORIZATION, format!("Bearer {}", self.inner.token));
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        request.body(Full::new(call.body.clone()))
    }
}

/// Whatever bytes go over.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(endpoint: &Endpoint) -> std::io::Result<Box<dyn Stream>> {
    Ok(match endpoint {
        Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await?),
        Endpoint::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
    })
}

fn refused(status: StatusCode, body: ErrorBody) -> Error {
    let problem = body.error;
    match body.code.as_str() {
        "revision_mismatch" => Error::Mismatch {
            problem,
            revision: body.revision,
        },
        "lock_held" => Error::Held { problem },
        "lock_lost" => Error::Lost { problem },
        "compacted" => Error::Compacted {
            oldest: body.oldest.unwrap_or(0),
        },
        _ => Error::Refused {
            problem,
            code: body.code,
            hint: body.hint,
            status,
        },
    }
}

pub(crate) fn ended(body: &[u8]) -> Error {
    match decode::<ErrorBody>(body) {
        Ok(body) => refused(StatusCode::OK, body),
        Err(error) => error,
    }
}

pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|error| Error::Unexpected {
        problem: format!("{error}: {}", String::from_utf8_lossy(&body[..body.len().min(200)])),
    })
}

/// Text as a part of a path or a query; `/` stays as it is in a path.
pub(crate) fn escaped(text: &str, slashes: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"._-~".contains(&byte) || (slashes && byte == b'/');
        match plain {
            true => escaped.push(char::from(byte)),
            false => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}
