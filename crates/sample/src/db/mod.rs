//! `db`: a small durable key-value store with one active and followers.
//!
//! | request | answer |
//! |---|---|
//! | `GET`, `PUT`, `DELETE /kv/KEY` | a value of up to 1 MiB; the key is the rest of the path as written, up to 256 bytes |
//! | `GET`, `POST /counter` | `{"counter":N}`, with POST after raising it |
//! | `GET /role` | role, epoch, process, entries, position, whom it follows and who follows it |
//! | `GET /healthz` | 200 while the thread that writes the log makes progress, active or not |
//! | `GET /ready` | 200 if this standby has all that the active acknowledged (an active is ready too); 503 with the reason |
//! | `POST /promote {"epoch":N}` | active from now on; 409 if that epoch, or a higher one, was seen before, also in an earlier life |
//! | `POST /demote` | standby from now on |
//! | `POST /follow {"host":H,"port":P}` | copies the log of the active there, and goes on copying |
//!
//! It starts as a standby, and a standby answers reads and writes with 503 and the reason. A write is acknowledged when
//! it is on the disk here and on that of every follower in sync; a follower that takes longer than 200 ms is dropped from
//! the set until it has caught up, so that one that hangs does not stop the service.

mod engine;
mod followers;
mod log;
mod replication;

pub use log::OpenError;

use crate::serve::{self, Identity, Reply, ServeError};
use crate::witness::Witness;
use engine::{Command, Engine, Place, Refused, Shared, Write};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use log::Log;
use replication::{Following, Link, ask};
use serde_json::json;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// How a `db` is run.
#[derive(Debug, Clone)]
pub struct DbConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Folder of its log; made if it is not there. One process at a time.
    pub data: PathBuf,
    /// Where it writes down when it acted as the active, see [`crate::witness`].
    pub witness: Option<PathBuf>,
    /// Who it says it is.
    pub identity: Identity,
}

/// Serves until SIGTERM or SIGINT: then it stops accepting, finishes what is under way and returns.
pub async fn db(config: DbConfig) -> Result<(), ServeError> {
    let stop = serve::stop_signal()?;
    serve_until(config, stop, |_| {}).await
}

/// `serving` is told the address once connections are accepted.
async fn serve_until(
    config: DbConfig,
    stop: impl Future<Output = ()>,
    serving: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    let (lock, log, contents) = Log::open(&config.data)?;
    let witness = open_witness(config.witness.as_deref())?;
    let listener = serve::listen(config.listen)?;
    let address = listener.local_addr().unwrap_or(config.listen);
    println!(
        "{} (pid {}) serves on {address} as a standby, {} entries, highest epoch seen {}",
        config.identity.instance,
        std::process::id(),
        contents.entries.len(),
        contents.epoch,
    );
    let shared = Arc::new(Shared::new(contents, &log, witness));
    let engine = Engine::new(lock, log, Arc::clone(&shared));
    let (commands, mut engine_ended) = start(engine);
    let db = Arc::new(Db {
        identity: config.identity,
        address,
        engine: commands,
        shared,
        following: Arc::default(),
        task: tokio::sync::Mutex::new(None),
    });
    serving(address);
    let mut early = None;
    serve::run(listener, Arc::clone(&db), answer, async {
        tokio::select! {
            () = stop => {}
            ended = &mut engine_ended => early = Some(ended),
        }
    })
    .await;
    stop_following(&mut *db.task.lock().await);
    drop(db);
    let ended = match early {
        Some(ended) => ended,
        // The queue closes with the last connection that may still write; connections that do not end in time are left.
        None => tokio::time::timeout(ENGINE_END, engine_ended)
            .await
            .unwrap_or(Ok(Ok(()))),
    };
    let lost = || io::Error::other("the thread that writes the log ended");
    let outcome = ended.unwrap_or_else(|_| Err(lost()));
    outcome.map_err(|source| ServeError::Disk {
        dir: config.data,
        source,
    })
}

/// For the last batch to reach the disk and the followers.
const ENGINE_END: std::time::Duration = std::time::Duration::from_secs(5);

fn open_witness(path: Option<&Path>) -> Result<Option<Arc<Witness>>, ServeError> {
    let Some(path) = path else { return Ok(None) };
    match Witness::open(path) {
        Ok(witness) => Ok(Some(witness)),
        Err(source) => Err(ServeError::Witness {
            path: path.to_owned(),
            source,
        }),
    }
}

type EngineEnded = oneshot::Receiver<io::Result<()>>;

fn start(engine: Engine) -> (mpsc::Sender<Command>, EngineEnded) {
    let (commands, queue) = engine::queue();
    let (ended, engine_ended) = oneshot::channel();
    // A thread of its own: it waits for the disk, which the others must not.
    std::thread::spawn(move || ended.send(engine.run(queue)));
    (commands, engine_ended)
}

struct Db {
    identity: Identity,
    address: SocketAddr,
    engine: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    following: Arc<Mutex<Following>>,
    /// Held while the role changes, so that changes come one after the other.
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

const KEY_BYTES_MAX: usize = 256;
const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Of `/promote` and `/follow`.
const ORDER_BYTES_MAX: usize = 4 * 1024;

async fn answer(db: Arc<Db>, request: Request<Incoming>) -> Reply {
    let path = request.uri().path();
    let result = match (request.method(), path) {
        (&Method::GET, "/counter") => db.counter(),
        (&Method::POST, "/counter") => db.count().await,
        (&Method::GET, "/role") => Ok(db.role()),
        (&Method::GET, "/healthz") => db.health().await,
        (&Method::GET, "/ready") => Ok(db.ready()),
        (&Method::GET, "/log") => db.attach(request).await,
        (&Method::POST, "/promote") => db.promote(request).await,
        (&Method::POST, "/demote") => db.demote().await,
        (&Method::POST, "/follow") => db.follow(request).await,
        _ => match path.strip_prefix("/kv/").map(str::to_owned) {
            Some(key) => db.entry(request, key).await,
            None => Err(Problem::new(
                StatusCode::NOT_FOUND,
                format!("no {} {path} here", request.method()),
            )),
        },
    };
    result.unwrap_or_else(|problem| serve::refusal(problem.status, &problem.text))
}

/// Why a request was not carried out.
struct Problem {
    status: StatusCode,
    text: String,
}

impl Problem {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
        }
    }

    fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let status = match refused {
            Refused::NotActive | Refused::Ending => StatusCode::SERVICE_UNAVAILABLE,
            Refused::Active { .. } | Refused::OldEpoch { .. } | Refused::DoesNotFit | Refused::Overtaken => {
                StatusCode::CONFLICT
            }
            Refused::NotWritten { .. } => StatusCode::INSUFFICIENT_STORAGE,
            Refused::Witness { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, refused.to_string())
    }
}

impl Db {
    fn counter(&self) -> Result<Reply, Problem> {
        let counter = self.shared.read(|contents| contents.counter)?;
        Ok(ok(&json!({ "counter": counter })))
    }

    async fn count(&self) -> Result<Reply, Problem> {
        let written = self.write(Write::Count).await?;
        Ok(ok(&json!({ "counter": written.counter })))
    }

    async fn entry(&self, request: Request<Incoming>, key: String) -> Result<Reply, Problem> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            let text = format!("a key has 1 to {KEY_BYTES_MAX} bytes, this one {}", key.len());
            return Err(Problem::bad(text));
        }
        let missing = || Problem::new(StatusCode::NOT_FOUND, format!("no entry `{key}`"));
        match *request.method() {
            Method::GET => {
                let value = self.shared.read(|contents| contents.entries.get(&key).cloned())?;
                let value = value.ok_or_else(missing)?;
                Ok(serve::full(StatusCode::OK, "application/octet-stream", value))
            }
            Method::PUT => {
                let value = body(request, VALUE_BYTES_MAX).await?;
                let written = self.write(Write::Put(key, value)).await?;
                let status = match written.existed {
                    true => StatusCode::OK,
                    false => StatusCode::CREATED,
                };
                Ok(serve::json(status, &json!({ "created": !written.existed })))
            }
            Method::DELETE => {
                let written = self.write(Write::Delete(key.clone())).await?;
                if !written.existed {
                    return Err(missing());
                }
                Ok(ok(&json!({ "deleted": true })))
            }
            _ => Err(Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "an entry takes GET, PUT and DELETE",
            )),
        }
    }

    async fn write(&self, write: Write) -> Result<engine::Written, Refused> {
        ask(&self.engine, |answer| Command::Write(write, answer)).await
    }

    async fn health(&self) -> Result<Reply, Problem> {
        ask(&self.engine, Command::Ping).await?;
        Ok(ok(&json!({ "status": "ok" })))
    }

    fn role(&self) -> Reply {
        let view = self.shared.view();
        let following = self.following();
        ok(&json!({
            "role": role_name(view.active),
            "epoch": view.contents.epoch,
            "pid": std::process::id(),
            "instance": self.identity.instance,
            "entries": view.contents.entries.len(),
            "position": view.position,
            "following": following.active,
            "in_sync": following.link == Link::InSync,
            "followers": self.shared.followers.view(),
        }))
    }

    fn ready(&self) -> Reply {
        let active = self.shared.view().active;
        match (active, self.following().ready()) {
            (true, _) | (false, Ok(())) => ok(&json!({ "ready": true, "role": role_name(active) })),
            (false, Err(why)) => serve::refusal(StatusCode::SERVICE_UNAVAILABLE, &format!("this standby {why}")),
        }
    }

    fn following(&self) -> Following {
        self.following.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn promote(&self, request: Request<Incoming>) -> Result<Reply, Problem> {
        #[derive(serde::Deserialize)]
        struct Order {
            epoch: u64,
        }
        let Order { epoch } = order(request, r#"{"epoch": 3}"#).await?;
        let mut task = self.task.lock().await;
        ask(&self.engine, |answer| Command::Promote { epoch, answer }).await?;
        stop_following(&mut task);
        *self.following.lock().unwrap_or_else(PoisonError::into_inner) = Following::default();
        Ok(ok(&json!({ "role": "active", "epoch": epoch })))
    }

    async fn demote(&self) -> Result<Reply, Problem> {
        let _one_at_a_time = self.task.lock().await;
        ask(&self.engine, Command::Demote).await?;
        Ok(ok(&json!({ "role": "standby" })))
    }

    async fn follow(&self, request: Request<Incoming>) -> Result<Reply, Problem> {
        #[derive(serde::Deserialize)]
        struct Order {
            host: String,
            port: u16,
        }
        let Order { host, port } = order(request, r#"{"host": "127.0.0.1", "port": 40001}"#).await?;
        let active = match host.contains(':') && !host.starts_with('[') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        if active == self.address.to_string() {
            return Err(Problem::bad(format!("{active} is this db itself")));
        }
        let mut task = self.task.lock().await;
        let view = self.shared.view();
        let (is_active, epoch) = (view.active, view.contents.epoch);
        drop(view);
        if is_active {
            return Err(Refused::Active { epoch }.into());
        }
        let running = task.as_ref().is_some_and(|task| !task.is_finished());
        if !(running && self.following().active.as_ref() == Some(&active)) {
            stop_following(&mut task);
            *self.following.lock().unwrap_or_else(PoisonError::into_inner) = Following::of(active.clone());
            let (engine, following) = (self.engine.clone(), Arc::clone(&self.following));
            *task = Some(tokio::spawn(replication::follow(
                self.address,
                active.clone(),
                engine,
                following,
            )));
        }
        Ok(ok(&json!({ "role": "standby", "following": active })))
    }

    /// A follower asks for the log.
    async fn attach(&self, mut request: Request<Incoming>) -> Result<Reply, Problem> {
        let number = |name: &str| serve::query_number(&request, name, 0, u64::MAX);
        let theirs = Place {
            position: number("position").map_err(Problem::bad)?,
            chain: number("chain").map_err(Problem::bad)?,
            epoch: number("epoch").map_err(Problem::bad)?,
        };
        let upgrade = request.headers().get(header::UPGRADE);
        if upgrade.is_none_or(|upgrade| upgrade != replication::PROTOCOL) {
            let text = format!("/log is for followers: upgrade to {}", replication::PROTOCOL);
            return Err(Problem::new(StatusCode::UPGRADE_REQUIRED, text));
        }
        let peer = serve::query(&request, "follower")
            .unwrap_or("an unnamed address")
            .to_owned();
        let attached = ask(&self.engine, |answer| Command::Attach { peer, theirs, answer }).await?;
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(replication::feed(upgrade, attached, Arc::clone(&self.shared)));
        let mut reply = Response::new(serve::Body::default());
        *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = reply.headers_mut();
        headers.insert(header::CONNECTION, header::HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, header::HeaderValue::from_static(replication::PROTOCOL));
        Ok(reply)
    }
}

fn ok(value: &serde_json::Value) -> Reply {
    serve::json(StatusCode::OK, value)
}

fn role_name(active: bool) -> &'static str {
    if active { "active" } else { "standby" }
}

fn stop_following(task: &mut Option<JoinHandle<()>>) {
    if let Some(task) = task.take() {
        task.abort();
    }
}

async fn body(request: Request<Incoming>, max: usize) -> Result<bytes::Bytes, Problem> {
    match Limited::new(request.into_body(), max).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("at most {max} bytes are taken"),
        )),
        Err(error) => Err(Problem::bad(format!("the body broke off: {error}"))),
    }
}

async fn order<T: serde::de::DeserializeOwned>(request: Request<Incoming>, example: &str) -> Result<T, Problem> {
    let body = body(request, ORDER_BYTES_MAX).await?;
    serde_json::from_slice(&body).map_err(|error| Problem::bad(format!("{error}; expected as in {example}")))
}

#[cfg(test)]
mod tests;
