//! One request, over HTTP or plain TCP.

use super::{Error, Request, Target};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Idle connections that are kept.
const IDLE_MAX: usize = 1_000;

pub(super) struct Client {
    address: SocketAddr,
    what: What,
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
}

enum What {
    Get(http::Uri, String),
    Connect(Vec<u8>),
}

impl Client {
    pub(super) fn new(target: &Target) -> Result<Self, Error> {
        let what = match &target.request {
            Request::Get { path } => {
                let uri: Result<http::Uri, _> = path.parse();
                match uri {
                    Ok(uri) if path.starts_with('/') => What::Get(uri, target.address.to_string()),
                    _ => return Err(Error::Path { path: path.clone() }),
                }
            }
            Request::Connect { send } => What::Connect(send.clone()),
        };
        Ok(Self {
            address: target.address,
            what,
            idle: Mutex::default(),
        })
    }

    /// Succeeds, or says how it failed in words that are few and always the same.
    pub(super) async fn once(&self) -> Result<(), String> {
        match &self.what {
            What::Get(uri, host) => self.get(uri, host).await,
            What::Connect(send) => self.connect(send).await,
        }
    }

    async fn get(&self, uri: &http::Uri, host: &str) -> Result<(), String> {
        let request = || {
            let mut request = http::Request::new(Empty::new());
            *request.uri_mut() = uri.clone();
            if let Ok(host) = http::HeaderValue::from_str(host) {
                request.headers_mut().insert(http::header::HOST, host);
            }
            request
        };
        loop {
            let kept = self.take();
            let was_kept = kept.is_some();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.open().await?,
            };
            let answer = match sender.send_request(request()).await {
                Ok(answer) => answer,
                // It was closed while it was idle: a new one tells.
                Err(_) if was_kept => continue,
                Err(_) => return Err("the connection broke".into()),
            };
            let status = answer.status();
            answer.into_body().collect().await.map_err(|_| "the answer broke off")?;
            self.keep(sender);
            return if status.is_server_error() {
                Err(format!("status {}", status.as_u16()))
            } else {
                Ok(())
            };
        }
    }

    fn take(&self) -> Option<SendRequest<Empty<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(sender) = idle.pop() {
            if !sender.is_closed() && sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn keep(&self, sender: SendRequest<Empty<Bytes>>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX && !sender.is_closed() {
            idle.push(sender);
        }
    }

    async fn open(&self) -> Result<SendRequest<Empty<Bytes>>, String> {
        let stream = self.dial().await?;
        let (mut sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|_| "the connection broke")?;
        // It ends with the connection.
        tokio::spawn(connection);
        sender.ready().await.map_err(|_| "the connection broke")?;
        Ok(sender)
    }

    async fn dial(&self) -> Result<TcpStream, String> {
        let stream = TcpStream::connect(self.address)
            .await
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
                _ => "no connection".to_owned(),
            })?;
        stream.set_nodelay(true).map_err(|_| "the connection broke")?;
        Ok(stream)
    }

    async fn connect(&self, send: &[u8]) -> Result<(), String> {
        let mut stream = self.dial().await?;
        let broke = |_| "the connection broke".to_owned();
        if send.is_empty() {
            // Whoever serves it ends it after us: so it is known that somebody does.
            stream.shutdown().await.map_err(broke)?;
            let mut buffer = [0; 4_096];
            while stream.read(&mut buffer).await.map_err(broke)? > 0 {}
            return Ok(());
        }
        stream.write_all(send).await.map_err(broke)?;
        match stream.read(&mut [0; 4_096]).await.map_err(broke)? {
            0 => Err("ended without an answer".into()),
            _ => Ok(()),
        }
    }
}

/// Why a service is not tested: what one request at rest came to.
pub(crate) enum Trial {
    /// It took so long.
    Answered(std::time::Duration),
    /// It failed, or was answered with a status that would make the test a test of error pages.
    Failed(String),
}

/// One request at rest.
pub(crate) async fn trial(target: &Target) -> Result<Trial, Error> {
    let client = Client::new(target)?;
    let begun = std::time::Instant::now();
    let tried = async {
        if let What::Get(uri, host) = &client.what {
            let mut sender = client.open().await?;
            let mut request = http::Request::new(Empty::<Bytes>::new());
            *request.uri_mut() = uri.clone();
            if let Ok(host) = http::HeaderValue::from_str(host) {
                request.headers_mut().insert(http::header::HOST, host);
            }
            let answer = sender.send_request(request).await.map_err(|_| "the connection broke")?;
            let status = answer.status();
            if status.is_client_error() || status.is_server_error() {
                return Err(format!("it answers {status}"));
            }
            answer
                .into_body()
                .collect()
                .await
                .map_err(|_| "the answer broke off".to_owned())?;
            return Ok(());
        }
        client.once().await
    };
    Ok(match tokio::time::timeout(super::TIMEOUT, tried).await {
        Ok(Ok(())) => Trial::Answered(begun.elapsed()),
        Ok(Err(how)) => Trial::Failed(how),
        Err(_) => Trial::Failed(format!("no answer within {} s", super::TIMEOUT.as_secs())),
    })
}
