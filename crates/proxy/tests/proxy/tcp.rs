//! TCP services.

use crate::backend::Backend;
use crate::client::Client;
use crate::support::{Hold, PATIENT, Proxy, at_epoch, leaving, nobody, target, until};
use api::proxy::FromProxy;
use model::{Epoch, Protocol};
use std::io::ErrorKind;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn bytes_pass_both_ways_and_a_half_closed_client_gets_the_rest() {
    let (mut proxy, address) = Proxy::serving(Protocol::Tcp, PATIENT).await;
    let backend = Backend::echo("a:").await;
    proxy.route(vec![target(1, backend.address)], vec![]).await;
    let mut client = Client::connect(address).await;
    assert_eq!(client.read(2).await, "a:");
    let sent: Vec<u8> = (0..4_000_000_u32).map(|n| (n % 251) as u8).collect();
    let (mut from, mut to) = client.stream.split();
    let mut received = Vec::new();
    let write = async {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let (read, ()) = tokio::join!(from.read_to_end(&mut received), write);
    read.unwrap();
    assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
}

#[tokio::test]
async fn the_least_busy_active_gets_the_next_connection() {
    let (mut proxy, address) = Proxy::serving(Protocol::Tcp, PATIENT).await;
    let [a, b] = [Backend::echo("a").await, Backend::echo("b").await];
    proxy
        .route(vec![target(1, a.address), target(2, b.address)], vec![])
        .await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = Client::connect(address).await;
        let name = client.read(1).await;
        clients.push((name, client));
    }
    assert_eq!((a.connections(), b.connections()), (5, 5));
    // All of `a` end: it is the least busy until it has as many as `b`.
    clients.retain(|(name, _)| name == "b");
    until(|| a.open() == 0).await;
    for _ in 0..4 {
        let mut client = Client::connect(address).await;
        assert_eq!(client.read(1).await, "a");
        clients.push(("a".into(), client));
    }
}

#[tokio::test]
async fn an_active_that_refuses_is_passed_over_and_reported() {
    let (mut proxy, address) = Proxy::serving(Protocol::Tcp, PATIENT).await;
    let b = Backend::echo("b").await;
    proxy
        .route(vec![target(1, nobody()), target(2, b.address)], vec![])
        .await;
    for _ in 0..6 {
        assert_eq!(Client::connect(address).await.read(1).await, "b");
    }
    let (what, suspects) = proxy
        .hears(|said| match said {
            FromProxy::Suspect { instance, what, .. } => Some((what.clone(), instance.clone())),
            _ => None,
        })
        .await;
    assert_eq!((what.as_str(), suspects.number()), ("connection refused", 1));
    let totals = proxy.hears_totals(|totals| totals.requests == 6).await;
    assert!(totals.retried >= 1, "{totals:?}");
    assert_eq!((totals.connections, totals.failed), (6, 0));
}

#[tokio::test]
async fn connections_wait_for_an_active_and_are_let_go_at_once() {
    let (mut proxy, address) = Proxy::serving(Protocol::Tcp, PATIENT).await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(Client::connect(address).await);
    }
    proxy.hears_totals(|totals| totals.holding == 20).await;
    let a = Backend::echo("a").await;
    let routed = Instant::now();
    proxy.route(vec![target(1, a.address)], vec![]).await;
    for client in &mut waiting {
        assert_eq!(client.read(1).await, "a");
    }
    let took = routed.elapsed();
    // A debug build on a busy machine; what counts is that nothing waits for a timer.
    assert!(took < Duration::from_millis(100), "{took:?}");
    let totals = proxy.hears_totals(|totals| totals.holding == 0).await;
    assert_eq!((totals.held, totals.failed), (20, 0));
}

#[tokio::test]
async fn no_more_connections_wait_than_allowed_and_none_for_longer() {
    let hold = Hold { timeout: 2_000, max: 2 };
    let (mut proxy, address) = Proxy::serving(Protocol::Tcp, hold).await;
    let started = Instant::now();
    let mut first = Client::connect(address).await;
    let mut second = Client::connect(address).await;
    proxy.hears_totals(|totals| totals.holding == 2).await;
    // The reset may come before the client knows that it is connected.
    let third = match TcpStream::connect(address).await {
        Ok(stream) => Client { stream }.rest().await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(third.kind(), ErrorKind::ConnectionReset);
    for client in [&mut first, &mut second] {
        assert_eq!(client.rest().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(2_000), "{waited:?}");
    let totals = proxy.hears_totals(|totals| totals.failed == 3).await;
    assert_eq!((totals.held, totals.holding), (2, 0));
}

#[tokio::test]
async fn an_active_that_comes_back_at_its_address_is_found_without_a_new_route() {
    let (mut proxy, address) = Proxy::serving(Protocol::Http, PATIENT).await;
    let home = nobody();
    proxy.route(vec![target(1, home)], vec![]).await;
    let asking = tokio::spawn(async move { crate::client::get(address, "/").await });
    proxy.hears_totals(|totals| totals.holding == 1).await;
    let _back = Backend::named_at("back", home).await;
    assert_eq!(asking.await.unwrap().text(), "back");
}

#[tokio::test]
async fn a_drained_active_finishes_what_it_has_and_gets_nothing_new() {
    let (mut proxy, address) = Proxy::serving(Protocol::Tcp, PATIENT).await;
    let [a, b] = [Backend::echo("a").await, Backend::echo("b").await];
    proxy.route(vec![target(1, a.address)], vec![]).await;
    let mut old = Client::connect(address).await;
    assert_eq!(old.read(1).await, "a");
    proxy.route(vec![target(2, b.address)], vec![leaving(1, 8_000)]).await;
    assert_eq!(Client::connect(address).await.read(1).await, "b");
    old.send("still here").await;
    assert_eq!(old.read(10).await, "still here");
    old.stream.shutdown().await.unwrap();
    assert_eq!(old.rest().await.unwrap(), b"");
    assert_eq!(proxy.hears_drained(1).await, 0);
}

#[tokio::test]
async fn what_is_left_when_the_drain_is_over_is_reset() {
    let (mut proxy, address) = Proxy::serving(Protocol::Tcp, PATIENT).await;
    let a = Backend::echo("a").await;
    proxy.route(vec![target(1, a.address)], vec![]).await;
    let mut clients = [Client::connect(address).await, Client::connect(address).await];
    for client in &mut clients {
        client.read(1).await;
    }
    let started = Instant::now();
    proxy.route(vec![], vec![leaving(1, 150)]).await;
    assert_eq!(proxy.hears_drained(1).await, 2);
    assert!(started.elapsed() >= Duration::from_millis(150));
    for client in &mut clients {
        assert_eq!(client.rest().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    // Nothing is left of it: named again, it is drained at once.
    proxy.route(vec![], vec![leaving(1, 5_000)]).await;
    assert_eq!(proxy.hears_drained(1).await, 0);
}

#[tokio::test]
async fn an_active_that_is_in_no_list_is_cut_at_once() {
    let (mut proxy, address) = Proxy::serving(Protocol::Tcp, PATIENT).await;
    let a = Backend::echo("a").await;
    proxy.route(vec![target(1, a.address)], vec![]).await;
    let mut client = Client::connect(address).await;
    client.read(1).await;
    proxy.route(vec![], vec![]).await;
    assert_eq!(client.rest().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn connections_of_an_earlier_epoch_are_cut() {
    let (mut proxy, address) = Proxy::serving(Protocol::Tcp, PATIENT).await;
    let a = Backend::echo("a").await;
    proxy.route(vec![at_epoch(0, 1, 4, a.address)], vec![]).await;
    let mut old = Client::connect(address).await;
    old.read(1).await;
    proxy.route(vec![at_epoch(0, 1, 5, a.address)], vec![]).await;
    assert_eq!(old.rest().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(Client::connect(address).await.read(1).await, "a");
    for epoch in [4, 5] {
        let first = proxy
            .hears(|said| match said {
                FromProxy::FirstAnswer { epoch, at_us, .. } => Some((*epoch, *at_us > 0)),
                _ => None,
            })
            .await;
        assert_eq!(first, (Epoch(epoch), true));
    }
}

/// What a takeover breaks off is a failed request, and a connection at rest is none.
#[tokio::test]
async fn a_request_that_is_broken_off_has_failed_and_a_connection_at_rest_has_not() {
    // Sends one answer, then none.
    let silent = |request: &crate::client::Message| match request.head.contains("second") {
        true => crate::backend::Reply::Hang(Vec::new()),
        false => crate::backend::Reply::Text("first".into()),
    };
    for how in ["cut", "killed", "ended"] {
        let (mut proxy, address) = Proxy::serving(Protocol::Tcp, PATIENT).await;
        let a = match how {
            "ended" => {
                Backend::http(|request| match request.head.contains("second") {
                    true => crate::backend::Reply::Last(Vec::new()),
                    false => crate::backend::Reply::Text("first".into()),
                })
                .await
            }
            _ => Backend::http(silent).await,
        };
        proxy.route(vec![at_epoch(0, 1, 4, a.address)], vec![]).await;
        let mut resting = Client::connect(address).await;
        let mut asking = Client::connect(address).await;
        for client in [&mut resting, &mut asking] {
            client.send(crate::client::get_text("/first")).await;
            assert_eq!(client.answer().await.unwrap().text(), "first");
        }
        asking.send(crate::client::get_text("/second")).await;
        match how {
            "cut" => {
                until(|| a.requests().len() == 3).await;
                proxy.route(vec![at_epoch(0, 1, 5, a.address)], vec![]).await;
            }
            "killed" => {
                until(|| a.requests().len() == 3).await;
                a.kill();
            }
            _ => {}
        }
        let _ = asking.rest().await;
        drop((resting, asking));
        let totals = proxy.hears_totals(|totals| totals.open == 0 && totals.failed > 0).await;
        assert_eq!((totals.requests, totals.failed), (2, 1), "{how}");
    }
}

/// It says that it goes, and wants no answer.
#[tokio::test]
async fn a_client_that_takes_its_leave_has_not_failed() {
    let (mut proxy, address) = Proxy::serving(Protocol::Tcp, PATIENT).await;
    let a = Backend::http(|_| crate::backend::Reply::Hang(Vec::new())).await;
    proxy.route(vec![target(1, a.address)], vec![]).await;
    let mut client = Client::connect(address).await;
    client.send(crate::client::get_text("/quit")).await;
    client.stream.shutdown().await.unwrap();
    client.rest().await.unwrap();
    let totals = proxy
        .hears_totals(|totals| totals.open == 0 && totals.requests == 1)
        .await;
    assert_eq!(totals.failed, 0, "{totals:?}");
}

#[tokio::test]
async fn a_client_that_is_reset_is_reset_at_the_active_too() {
    let (mut proxy, address) = Proxy::serving(Protocol::Tcp, PATIENT).await;
    let a = Backend::echo("a").await;
    proxy.route(vec![target(1, a.address)], vec![]).await;
    let mut client = Client::connect(address).await;
    client.read(1).await;
    client.stream.set_zero_linger().unwrap();
    drop(client);
    until(|| a.open() == 0).await;
    proxy.hears_totals(|totals| totals.open == 0).await;
}

#[tokio::test]
async fn what_a_dying_active_said_last_still_arrives() {
    let (mut proxy, address) = Proxy::serving(Protocol::Tcp, PATIENT).await;
    let last = vec![b'x'; 500_000];
    let said = last.clone();
    let a = Backend::http(move |_| crate::backend::Reply::Last(said.clone())).await;
    proxy.route(vec![target(1, a.address)], vec![]).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut received = Vec::new();
    client.read_to_end(&mut received).await.unwrap();
    assert_eq!(received.len(), last.len());
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_makes_room_for_another() {
    let hold = Hold { timeout: 8_000, max: 1 };
    for protocol in [Protocol::Tcp, Protocol::Http] {
        let (mut proxy, address) = Proxy::serving(protocol, hold).await;
        let mut client = Client::connect(address).await;
        if protocol == Protocol::Http {
            client.send(crate::client::get_text("/")).await;
        }
        proxy.hears_totals(|totals| totals.holding == 1).await;
        drop(client);
        let totals = proxy.hears_totals(|totals| totals.open == 0).await;
        assert_eq!((totals.holding, totals.failed), (0, 0));
    }
}
