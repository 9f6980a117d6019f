//! HTTP/1.1 to the agent over its Unix socket. One connection per request: the agent is local and calls are few.

use api::layout::Layout;
use api::{Outcome, Status};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// A read is answered from memory; an agent that needs longer hangs.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// A change may wait for stop timeouts and hooks, each up to an hour by the file's own bounds; this is for an agent that lost us.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(2 * 3_600);
/// No answer of the API comes near it: 10,000 instances make about 5 MB of status.
const BODY_BYTES_MAX: usize = 256 << 20;

/// Speaks with the agent of one cluster.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    cluster: String,
    socket: PathBuf,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cluster `{cluster}` does not run: its agent does not answer on {}", socket.display())]
    NotRunning {
        cluster: String,
        socket: PathBuf,
        source: io::Error,
    },

    #[error("not allowed to speak with the agent of cluster `{cluster}` on {}", socket.display())]
    NotAllowed {
        cluster: String,
        socket: PathBuf,
        source: io::Error,
    },

    #[error("failed to connect to the agent of cluster `{cluster}` on {}", socket.display())]
    Connect {
        cluster: String,
        socket: PathBuf,
        source: io::Error,
    },

    #[error("lost the agent of cluster `{cluster}` during `{call}`")]
    Lost {
        cluster: String,
        call: String,
        source: hyper::Error,
    },

    #[error("failed to read the answer to `{call}`")]
    Body {
        call: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    #[error("the agent of cluster `{cluster}` did not answer `{call}` within {}s", after.as_secs())]
    Timeout {
        cluster: String,
        call: String,
        after: Duration,
    },

    #[error("the agent speaks version {agent} of the API, this program version {}", api::VERSION)]
    Version { agent: u64 },

    #[error("the answer to `{call}` is not what this program expects")]
    Decode { call: String, source: serde_json::Error },

    #[error("the agent answered `{call}` with status {status}: {text}")]
    Unexpected {
        call: String,
        status: StatusCode,
        text: String,
    },

    #[error("{}", outcome.text)]
    Refused { outcome: Box<Outcome>, raw: String },
}

impl Error {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Error::NotRunning { .. } => Some("`understudy up FILE` starts it, on several machines `understudy cluster start`; `understudy clusters` lists what runs".into()),
            Error::NotAllowed { socket, .. } => Some(match owner(socket) {
                Some(owner) => format!("it belongs to {owner}: run this as that user, or as root"),
                None => "run this as the user who started it, or as root".into(),
            }),
            Error::Timeout { .. } => Some("the agent may hang: its log is `run/agent.log` in the cluster's folder".into()),
            Error::Lost { .. } => Some("if it restarts, services keep running and it is back within a second: try again".into()),
            Error::Version { .. } => Some(
                "they come from different versions of understudy: run `understudy up` with the new one to upgrade the agent"
                    .into(),
            ),
            Error::Decode { .. } => Some("compare `understudy --version` with the version of the running agent".into()),
            Error::Refused { outcome, .. } => outcome.hint.clone(),
            Error::Connect { .. } | Error::Body { .. } | Error::Unexpected { .. } => None,
        }
    }

    /// Whether a new agent may answer soon: it is restarted when it dies.
    pub(crate) fn may_heal(&self) -> bool {
        matches!(
            self,
            Error::NotRunning { .. }
                | Error::Connect { .. }
                | Error::Lost { .. }
                | Error::Body { .. }
                | Error::Timeout { .. }
        )
    }
}

/// An answer: as it came, and understood.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    /// The JSON as sent.
    pub(crate) raw: String,
    /// The same as a value.
    pub(crate) value: T,
}

impl Client {
    /// For the cluster of a layout.
    pub(crate) fn new(cluster: &str, layout: &Layout) -> Self {
        Self {
            cluster: cluster.to_owned(),
            socket: layout.api_socket(),
        }
    }

    /// The cluster's name.
    pub(crate) fn cluster(&self) -> &str {
        &self.cluster
    }

    /// How everything stands.
    pub(crate) async fn status(&self) -> Result<Status, Error> {
        Ok(self.get("/v1/status").await?.value)
    }

    /// Reads.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, Error> {
        self.call(Method::GET, path, Bytes::new(), READ_TIMEOUT).await
    }

    /// Asks for something that is no JSON.
    pub(crate) async fn get_text(&self, path: &str) -> Result<String, Error> {
        let call = format!("GET {path}");
        let open = self.send(Method::GET, path, Bytes::new(), &call);
        let response = within(READ_TIMEOUT, open, self, &call).await?;
        let status = response.status();
        let text = within(READ_TIMEOUT, body_text(response, &call), self, &call).await?;
        match status.is_success() {
            true => Ok(text),
            false => Err(refusal(status, text, call)),
        }
    }

    /// Changes something. `body` is sent as JSON.
    pub(crate) async fn post<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<Answer<T>, Error> {
        let call = format!("POST {path}");
        let body = serde_json::to_vec(body).map_err(|source| Error::Decode { call, source })?;
        self.call(Method::POST, path, body.into(), CHANGE_TIMEOUT).await
    }

    /// Opens a stream of values (server-sent events).
    pub(crate) async fn stream<T: DeserializeOwned>(&self, path: &str) -> Result<Stream<T>, Error> {
        let call = format!("GET {path}");
        let open = self.send(Method::GET, path, Bytes::new(), &call);
        let response = within(READ_TIMEOUT, open, self, &call).await?;
        if !response.status().is_success() {
            let status = response.status();
            let raw = within(READ_TIMEOUT, body_text(response, &call), self, &call).await?;
            return Err(refusal(status, raw, call));
        }
        Ok(Stream {
            cluster: self.cluster.clone(),
            call,
            body: response.into_body(),
            buffer: Vec::new(),
            data: String::new(),
            of: std::marker::PhantomData,
        })
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        after: Duration,
    ) -> Result<Answer<T>, Error> {
        let call = format!("{method} {path}");
        let exchange = async {
            let response = self.send(method, path, body, &call).await?;
            let status = response.status();
            Ok((status, body_text(response, &call).await?))
        };
        let (status, raw) = within(after, exchange, self, &call).await?;
        if !status.is_success() {
            return Err(refusal(status, raw, call));
        }
        let value = decode(&raw, &call)?;
        Ok(Answer { raw, value })
    }

    async fn send(&self, method: Method, path: &str, body: Bytes, call: &str) -> Result<Response<Incoming>, Error> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| self.no_connection(source))?;
        let lost = |source| Error::Lost {
            cluster: self.cluster.clone(),
            call: call.to_owned(),
            source,
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(lost)?;
        // It ends with the answer, or with the connection.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "understudy")
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(api::BY, crate::who::caller().as_bytes())
            .body(Full::new(body))
            .map_err(|source| Error::Body {
                call: call.to_owned(),
                source: source.into(),
            })?;
        sender.send_request(request).await.map_err(lost)
    }

    fn no_connection(&self, source: io::Error) -> Error {
        let (cluster, socket) = (self.cluster.clone(), self.socket.clone());
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Error::NotRunning {
                cluster,
                socket,
                source,
            },
            io::ErrorKind::PermissionDenied => Error::NotAllowed {
                cluster,
                socket,
                source,
            },
            _ => Error::Connect {
                cluster,
                socket,
                source,
            },
        }
    }
}

/// Values as they come.
#[derive(Debug)]
pub(crate) struct Stream<T> {
    cluster: String,
    call: String,
    body: Incoming,
    /// Bytes after the last line break.
    buffer: Vec<u8>,
    /// The data lines of the event that is being read.
    data: String,
    of: std::marker::PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Stream<T> {
    /// The next value; `None` when the agent has ended the stream. Safe to drop and call again (between values).
    pub(crate) async fn next(&mut self) -> Result<Option<Answer<T>>, Error> {
        loop {
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                let line = line.trim_end_matches(['\n', '\r']);
                if let Some(data) = line.strip_prefix("data:") {
                    if !self.data.is_empty() {
                        self.data.push('\n');
                    }
                    self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
                } else if line.is_empty() && !self.data.is_empty() {
                    let raw = std::mem::take(&mut self.data);
                    let value = decode(&raw, &self.call)?;
                    return Ok(Some(Answer { raw, value }));
                }
            }
            let frame = match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => frame,
                Some(Err(source)) => {
                    return Err(Error::Lost {
                        cluster: self.cluster.clone(),
                        call: self.call.clone(),
                        source,
                    });
                }
            };
            if let Some(bytes) = frame.data_ref() {
                self.buffer.extend_from_slice(bytes);
            }
            if self.buffer.len() + self.data.len() > BODY_BYTES_MAX {
                return Err(Error::Body {
                    call: self.call.clone(),
                    source: "an event of the stream does not end".into(),
                });
            }
        }
    }
}

/// A name as a segment of a path: names need no escaping, what somebody typed may.
pub(crate) fn segment(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

async fn within<T>(
    after: Duration,
    work: impl Future<Output = Result<T, Error>>,
    client: &Client,
    call: &str,
) -> Result<T, Error> {
    match tokio::time::timeout(after, work).await {
        Ok(result) => result,
        Err(_) => Err(Error::Timeout {
            cluster: client.cluster.clone(),
            call: call.to_owned(),
            after,
        }),
    }
}

async fn body_text(response: Response<Incoming>, call: &str) -> Result<String, Error> {
    let body = Limited::new(response.into_body(), BODY_BYTES_MAX);
    let bytes = body
        .collect()
        .await
        .map_err(|source| Error::Body {
            call: call.to_owned(),
            source,
        })?
        .to_bytes();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn decode<T: DeserializeOwned>(raw: &str, call: &str) -> Result<T, Error> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: Option<u64>,
    }
    // A newer version is named as such, before some field of it does not fit.
    if raw.trim_start().starts_with('{')
        && let Ok(Versioned { version: Some(agent) }) = serde_json::from_str(raw)
        && agent != u64::from(api::VERSION)
    {
        return Err(Error::Version { agent });
    }
    serde_json::from_str(raw).map_err(|source| Error::Decode {
        call: call.to_owned(),
        source,
    })
}

fn refusal(status: StatusCode, raw: String, call: String) -> Error {
    match decode::<Outcome>(&raw, &call) {
        Ok(outcome) => Error::Refused {
            outcome: Box::new(outcome),
            raw,
        },
        Err(error @ Error::Version { .. }) => error,
        Err(_) => Error::Unexpected {
            call,
            status,
            text: crate::render::elide(raw.trim(), 300),
        },
    }
}

/// Who owns a file, by name where there is one.
fn owner(path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    // The socket's folder may be closed to us; the folder above it tells the owner then.
    let uid = path
        .ancestors()
        .find_map(|path| std::fs::symlink_metadata(path).ok())?
        .uid();
    Some(crate::who::name_of(uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_in_paths() {
        assert_eq!(segment("db-1"), "db-1");
        assert_eq!(segment("../x y?z/ä"), "..%2Fx%20y%3Fz%2F%C3%A4");
    }

    #[test]
    fn another_version_is_named_before_fields_are_read() {
        let error = decode::<Status>(r#"{"version":2,"other":1}"#, "GET /v1/status").unwrap_err();
        assert!(matches!(error, Error::Version { agent: 2 }), "{error}");
        let error = decode::<Status>(r#"{"version":1,"other":1}"#, "GET /v1/status").unwrap_err();
        assert!(matches!(error, Error::Decode { .. }), "{error}");
    }
}
