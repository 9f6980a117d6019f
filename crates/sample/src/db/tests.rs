//! One db in this process, by its own HTTP. What needs several of them, or a kill, is in `tests/processes.rs`.

use super::*;
use crate::client::{self, CallError};
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_refuses_reads_and_writes_and_says_why() {
    let db = Running::start().await;
    for (method, path) in [
        (Method::GET, "/kv/a"),
        (Method::PUT, "/kv/a"),
        (Method::DELETE, "/kv/a"),
        (Method::GET, "/counter"),
        (Method::POST, "/counter"),
    ] {
        let (status, body) = db.ask(method.clone(), path, "1").await;
        assert_eq!(status, 503, "{method} {path}");
        assert!(body.contains("standby"), "{method} {path}: {body}");
    }
    assert_eq!(db.ask(Method::GET, "/healthz", "").await.0, 200);
    let (status, body) = db.ask(Method::GET, "/ready", "").await;
    assert_eq!((status, body.contains("follows nobody")), (503, true), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_active_keeps_entries_and_counts() {
    let db = Running::start().await;
    db.promote(1).await.unwrap();
    assert_eq!(db.ask(Method::PUT, "/kv/a", "one").await.0, 201);
    assert_eq!(db.ask(Method::PUT, "/kv/a", "two").await.0, 200);
    assert_eq!(db.ask(Method::GET, "/kv/a", "").await, (200, "two".into()));
    assert_eq!(db.ask(Method::DELETE, "/kv/a", "").await.0, 200);
    assert_eq!(db.ask(Method::DELETE, "/kv/a", "").await.0, 404);
    assert_eq!(db.ask(Method::GET, "/kv/a", "").await.0, 404);
    assert_eq!(db.ask(Method::POST, "/counter", "").await.1, "{\"counter\":1}\n");
    assert_eq!(db.ask(Method::POST, "/counter", "").await.1, "{\"counter\":2}\n");
    assert_eq!(db.ask(Method::GET, "/counter", "").await.1, "{\"counter\":2}\n");
    let role: serde_json::Value = serde_json::from_str(&db.ask(Method::GET, "/role", "").await.1).unwrap();
    assert_eq!((&role["role"], &role["epoch"]), (&json!("active"), &json!(1)));
    assert_eq!(role["instance"], "db-1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_is_taken_once() {
    let db = Running::start().await;
    db.promote(5).await.unwrap();
    db.promote(5).await.expect("asked again by one who lost the answer");
    for old in [4, 5] {
        db.demote().await.unwrap();
        let error = db.promote(old).await.unwrap_err();
        assert!(matches!(error, CallError::Refused { status: 409, .. }), "{error}");
    }
    let error = db.promote(0).await.unwrap_err();
    assert!(error.to_string().contains("epoch 5 was already seen"), "{error}");
    db.promote(6).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_one_refuses_writes() {
    let db = Running::start().await;
    db.promote(1).await.unwrap();
    assert_eq!(db.ask(Method::POST, "/counter", "").await.0, 200);
    db.demote().await.unwrap();
    assert_eq!(db.ask(Method::POST, "/counter", "").await.0, 503);
    assert_eq!(db.ask(Method::GET, "/counter", "").await.0, 503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_are_refused_with_a_reason() {
    let db = Running::start().await;
    let long_key = format!("/kv/{}", "k".repeat(KEY_BYTES_MAX + 1));
    let long_value = "v".repeat(VALUE_BYTES_MAX + 1);
    db.promote(1).await.unwrap();
    for (method, path, body, expected) in [
        (Method::POST, "/promote", "three", 400),
        (Method::POST, "/promote", r#"{"epoch":-1}"#, 400),
        (Method::POST, "/follow", r#"{"host":"h"}"#, 400),
        (Method::POST, "/follow", r#"{"host":"127.0.0.1","port":1}"#, 409),
        (Method::PUT, long_key.as_str(), "", 400),
        (Method::GET, "/kv/", "", 400),
        (Method::PUT, "/kv/a", long_value.as_str(), 413),
        (Method::POST, "/kv/a", "", 405),
        (Method::GET, "/nothing", "", 404),
        (Method::GET, "/log?position=8", "", 426),
        (Method::GET, "/log?position=x", "", 400),
    ] {
        let (status, answer) = db.ask(method.clone(), path, body).await;
        assert_eq!(status, expected, "{method} {path}: {answer}");
        assert!(answer.contains("\"error\""), "{method} {path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_does_not_follow_itself() {
    let db = Running::start().await;
    let (address, own) = (db.address, db.address.to_string());
    let error = tokio::task::spawn_blocking(move || client::follow(address, &own, PATIENCE));
    let error = error.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("is this db itself"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_sent_at_once_share_a_record_and_each_gets_its_own_answer() {
    let db = Running::start().await;
    db.promote(1).await.unwrap();
    let asked = (0..200).map(|_| {
        let address = db.address;
        tokio::spawn(async move { ask_at(address, Method::POST, "/counter", "").await.1 })
    });
    let mut counters = Vec::new();
    for asked in asked.collect::<Vec<_>>() {
        let answer: serde_json::Value = serde_json::from_str(&asked.await.unwrap()).unwrap();
        counters.push(answer["counter"].as_u64().unwrap());
    }
    counters.sort_unstable();
    assert_eq!(counters, (1..=200).collect::<Vec<u64>>());
}

struct Running {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    _dir: TempDir,
}

impl Running {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = DbConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            data: dir.path().to_owned(),
            witness: None,
            identity: Identity {
                instance: "db-1".into(),
                role: "standby".into(),
            },
        };
        let (stop, stopped) = oneshot::channel();
        let (tell, address) = oneshot::channel();
        tokio::spawn(serve_until(config, async { drop(stopped.await) }, |address| {
            tell.send(address).unwrap();
        }));
        Self {
            address: address.await.unwrap(),
            stop: Some(stop),
            _dir: dir,
        }
    }

    async fn ask(&self, method: Method, path: &str, body: &str) -> (u16, String) {
        ask_at(self.address, method, path, body).await
    }

    async fn promote(&self, epoch: u64) -> Result<String, CallError> {
        let address = self.address;
        let call = move || client::promote(address, epoch, PATIENCE);
        tokio::task::spawn_blocking(call).await.unwrap()
    }

    async fn demote(&self) -> Result<String, CallError> {
        let address = self.address;
        tokio::task::spawn_blocking(move || client::demote(address, PATIENCE))
            .await
            .unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.take().map(|stop| stop.send(()));
    }
}

async fn ask_at(address: SocketAddr, method: Method, path: &str, body: &str) -> (u16, String) {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "db")
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}
