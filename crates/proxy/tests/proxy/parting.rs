//! An address that is about to move: clients are served, and asked to come back on new connections.

use crate::backend::{Backend, Reply};
use crate::client::{Client, by_hyper};
use crate::support::{PATIENT, Proxy, serve, target, web};
use api::proxy::{FromProxy, ToProxy};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::Protocol;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

async fn start() -> (Proxy, SocketAddr, Backend) {
    let backend = Backend::http(|_| Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec())).await;
    let (mut proxy, address) = Proxy::serving(Protocol::Http, PATIENT).await;
    proxy.route(vec![target(1, backend.address)], vec![]).await;
    (proxy, address, backend)
}

async fn part(proxy: &mut Proxy, address: SocketAddr, parts: bool) {
    let mut message = serve(web(), address, Protocol::Http, PATIENT);
    if let ToProxy::Serve { parting, .. } = &mut message {
        *parting = parts;
    }
    proxy.agent.send(&message, None).await.unwrap();
    proxy
        .hears(|said| matches!(said, FromProxy::Served { error: None, .. }).then_some(()))
        .await;
    // The workers are told on a channel of their own.
    tokio::time::sleep(Duration::from_millis(50)).await;
}

#[tokio::test]
async fn who_asks_is_answered_and_told_to_come_back_and_who_does_not_ask_is_sent_away_after_a_while() {
    let (mut proxy, address, _backend) = start().await;
    let mut clients = [Client::connect(address).await, Client::connect(address).await];
    let mut idle = Client::connect(address).await;
    for client in clients.iter_mut().chain([&mut idle]) {
        assert_eq!(client.get("/").await.unwrap().header("connection"), None);
    }
    let began = Instant::now();
    part(&mut proxy, address, true).await;
    let [plain, by_hyper_served] = &mut clients;
    by_hyper_served
        .send(by_hyper("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
        .await;
    plain.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    for client in [plain, by_hyper_served] {
        let answer = client.answer().await.unwrap();
        assert_eq!((answer.status(), answer.text()), (200, "ok"));
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(client.rest().await.unwrap().is_empty());
    }
    // New ones are served as well, for one request.
    let mut late = Client::connect(address).await;
    assert_eq!(late.get("/").await.unwrap().header("connection"), Some("close"));
    assert!(idle.rest().await.unwrap().is_empty());
    let waited = began.elapsed();
    assert!(
        waited >= Duration::from_millis(450),
        "a request may have been on the way: {waited:?}"
    );
    // It stays after all.
    part(&mut proxy, address, false).await;
    let mut client = Client::connect(address).await;
    for _ in 0..2 {
        assert_eq!(client.get("/").await.unwrap().header("connection"), None);
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
}

#[tokio::test]
async fn a_client_that_was_idle_when_it_was_over_again_keeps_its_connection() {
    let (mut proxy, address, _backend) = start().await;
    let mut client = Client::connect(address).await;
    client.get("/").await.unwrap();
    part(&mut proxy, address, true).await;
    part(&mut proxy, address, false).await;
    for _ in 0..2 {
        assert_eq!(client.get("/").await.unwrap().header("connection"), None);
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
}

#[tokio::test]
async fn http2_clients_are_told_to_go_away_and_lose_nothing() {
    let (mut proxy, address, _backend) = start().await;
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let ask = || {
        Request::builder()
            .uri("http://shop.example/")
            .body(Full::<Bytes>::default())
            .unwrap()
    };
    assert_eq!(sender.send_request(ask()).await.unwrap().status(), 200);
    part(&mut proxy, address, true).await;
    // The connection ends in order: with GOAWAY, not with a reset.
    tokio::time::timeout(Duration::from_secs(5), connection)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(sender.send_request(ask()).await.unwrap_err().is_canceled());
}
