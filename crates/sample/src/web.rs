//! `web`: a stateless page over HTTP/1.1 and HTTP/2 (prior knowledge) that shows a counter kept in `db`.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | a page: instance, process, role, counter; without the database it says so and is still a page |
//! | `POST /count` | raises the counter; 503 while the database cannot |
//! | `GET /healthz` | 200 while this process can answer. A database that is away is told in the body: restarting a web server does not bring back its database |
//! | `GET /slow?ms=N` | answers after N ms (at most 60,000) |
//! | `GET /hang` | accepts and does not answer for a minute: what a checker and a proxy must cope with |
//! | `GET /bytes?n=N` | N bytes (at most 64 MiB) |

use crate::serve::{self, Body, Identity, Reply, ServeError};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri, header, uri::Authority};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Frame, Incoming};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// How a `web` is run.
#[derive(Debug, Clone)]
pub struct WebConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where its database is, HOST:PORT; without one there is no counter.
    pub db: Option<String>,
    /// How long it waits before it listens, as a program does that has much to load.
    pub start_delay: Duration,
    /// How long it thinks about each page.
    pub answer_delay: Duration,
    /// Who it says it is.
    pub identity: Identity,
}

/// Serves until SIGTERM or SIGINT: then it stops accepting, finishes what is under way and returns.
pub async fn web(config: WebConfig) -> Result<(), ServeError> {
    let stop = serve::stop_signal()?;
    tokio::pin!(stop);
    tokio::select! {
        () = tokio::time::sleep(config.start_delay) => {}
        () = &mut stop => return Ok(()),
    }
    let listener = serve::listen(config.listen)?;
    println!(
        "{} (pid {}) serves on {}",
        config.identity.instance,
        std::process::id(),
        listener.local_addr().unwrap_or(config.listen)
    );
    serve_on(listener, config, stop).await
}

async fn serve_on(listener: TcpListener, config: WebConfig, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
    let db = config.db.as_deref().map(Db::new).transpose()?.map(Arc::new);
    let watch = db.clone().map(|db| tokio::spawn(db.watch()));
    let web = Web {
        identity: config.identity,
        answer_delay: config.answer_delay,
        db,
    };
    serve::run(listener, Arc::new(web), answer, stop).await;
    if let Some(watch) = watch {
        watch.abort();
    }
    Ok(())
}

struct Web {
    identity: Identity,
    answer_delay: Duration,
    db: Option<Arc<Db>>,
}

const SLOW_MS_MAX: u64 = 60_000;
const BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bounded, so that a test that forgets a hanging request leaves nothing behind.
const HANG: Duration = Duration::from_secs(60);

async fn answer(web: Arc<Web>, request: Request<Incoming>) -> Reply {
    let mut reply = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/") => page(&web).await,
        (&Method::POST, "/count") => count(&web).await,
        (&Method::GET | &Method::HEAD, "/healthz") => health(&web),
        (&Method::GET, "/slow") => slow(&request).await,
        (&Method::GET, "/hang") => {
            tokio::time::sleep(HANG).await;
            serve::refusal(StatusCode::GATEWAY_TIMEOUT, "hung for a minute, as asked")
        }
        (&Method::GET, "/bytes") => bytes(&request),
        (_, "/" | "/count" | "/healthz" | "/slow" | "/hang" | "/bytes") => serve::refusal(
            StatusCode::METHOD_NOT_ALLOWED,
            &format!("{} does not take {}", request.uri().path(), request.method()),
        ),
        (_, path) => serve::refusal(
            StatusCode::NOT_FOUND,
            &format!("no `{path}` here; there are /, /count, /healthz, /slow, /hang, /bytes"),
        ),
    };
    if let Ok(instance) = header::HeaderValue::from_str(&web.identity.instance) {
        reply.headers_mut().insert("x-instance", instance);
    }
    reply
}

async fn page(web: &Web) -> Reply {
    tokio::time::sleep(web.answer_delay).await;
    let counter = match &web.db {
        None => "no database".to_owned(),
        Some(db) => match db.counter(Method::GET).await {
            Ok(counter) => counter.to_string(),
            Err(problem) => format!("not available ({problem})"),
        },
    };
    let html = format!(
        "<!doctype html><meta charset=utf-8><title>{name}</title>\n\
         <h1>{name}</h1>\n<dl>\n<dt>process<dd>{pid}\n<dt>started as<dd>{role}\n<dt>counter<dd>{counter}\n</dl>\n\
         <form method=post action=/count><button>count</button></form>\n",
        name = escape(&web.identity.instance),
        pid = std::process::id(),
        role = escape(&web.identity.role),
        counter = escape(&counter),
    );
    serve::full(StatusCode::OK, "text/html; charset=utf-8", html)
}

async fn count(web: &Web) -> Reply {
    let Some(db) = &web.db else {
        return serve::refusal(StatusCode::NOT_FOUND, "no counter: this web was started without --db");
    };
    match db.counter(Method::POST).await {
        Ok(counter) => serve::json(StatusCode::OK, &serde_json::json!({ "counter": counter })),
        Err(problem) => serve::refusal(StatusCode::SERVICE_UNAVAILABLE, &problem),
    }
}

fn health(web: &Web) -> Reply {
    let db = match &web.db {
        None => "none".to_owned(),
        Some(db) => db.last_said(),
    };
    let body = serde_json::json!({ "instance": web.identity.instance, "status": "ok", "db": db });
    serve::json(StatusCode::OK, &body)
}

async fn slow(request: &Request<Incoming>) -> Reply {
    match serve::query_number(request, "ms", 1_000, SLOW_MS_MAX) {
        Err(problem) => serve::refusal(StatusCode::BAD_REQUEST, &problem),
        Ok(ms) => {
            let begun = Instant::now();
            tokio::time::sleep(Duration::from_millis(ms)).await;
            let waited_ms = begun.elapsed().as_millis() as u64;
            serve::json(StatusCode::OK, &serde_json::json!({ "waited_ms": waited_ms }))
        }
    }
}

fn bytes(request: &Request<Incoming>) -> Reply {
    match serve::query_number(request, "n", 1_024, BYTES_MAX) {
        Err(problem) => serve::refusal(StatusCode::BAD_REQUEST, &problem),
        Ok(left) => {
            let mut reply = Response::new(Body::new(Repeat { left }));
            reply.headers_mut().insert(
                header::CONTENT_TYPE,
                header::HeaderValue::from_static("application/octet-stream"),
            );
            reply
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// So many bytes, made as they are sent.
struct Repeat {
    left: u64,
}

impl hyper::body::Body for Repeat {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        static CHUNK: [u8; 16 * 1024] = [b'.'; 16 * 1024];
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let count = self.left.min(CHUNK.len() as u64);
        self.left -= count;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&CHUNK[..count as usize])))))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.left)
    }
}

/// The database as seen from here.
struct Db {
    client: Client<HttpConnector, Full<Bytes>>,
    counter: Uri,
    last: Mutex<String>,
}

/// A page rather waits for a failover of the database than to show a gap, but not longer than a person would.
const DB_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two looks at the database, for `/healthz`.
const DB_LOOK_EVERY: Duration = Duration::from_secs(1);
/// More than any answer of a `db` to `/counter`.
const DB_ANSWER_BYTES_MAX: usize = 16 * 1024;

impl Db {
    fn new(address: &str) -> Result<Self, ServeError> {
        let wrong = || ServeError::DbAddress {
            given: address.to_owned(),
        };
        let authority: Authority = address.parse().map_err(|_| wrong())?;
        if authority.port_u16().is_none() || authority.host().is_empty() {
            return Err(wrong());
        }
        let counter = format!("http://{authority}/counter");
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            counter: counter.parse().map_err(|_| wrong())?,
            last: Mutex::new("not asked yet".into()),
        })
    }

    /// Keeps `last` true while nobody asks for pages.
    async fn watch(self: Arc<Self>) {
        loop {
            self.counter(Method::GET).await.ok();
            tokio::time::sleep(DB_LOOK_EVERY).await;
        }
    }

    fn last_said(&self) -> String {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the counter, or with POST raises it.
    async fn counter(&self, method: Method) -> Result<u64, String> {
        let result = match tokio::time::timeout(DB_TIMEOUT, self.ask(method)).await {
            Ok(result) => result,
            Err(_) => Err(format!("the database did not answer within {DB_TIMEOUT:?}")),
        };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = match &result {
            Ok(_) => "reachable".into(),
            Err(problem) => problem.clone(),
        };
        result
    }

    async fn ask(&self, method: Method) -> Result<u64, String> {
        let mut request = Request::new(Full::default());
        *request.method_mut() = method;
        *request.uri_mut() = self.counter.clone();
        let answer = self
            .client
            .request(request)
            .await
            .map_err(|error| format!("the database cannot be reached: {}", innermost(&error)))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), DB_ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| format!("the database broke off its answer: {error}"))?
            .to_bytes();
        let said: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        if status != StatusCode::OK {
            let reason = said["error"].as_str().unwrap_or("no reason given");
            return Err(format!("the database refused ({}): {reason}", status.as_u16()));
        }
        said["counter"]
            .as_u64()
            .ok_or_else(|| "the database answered without a counter".to_owned())
    }
}

/// The outer errors of the client only say that the request failed.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests;
