//! What clients of an HTTP service notice when an active dies, hangs or is replaced: nothing, where that can be.

use crate::backend::{Backend, Reply};
use crate::client::{Client, ask, by_hyper, get, get_text, post_text, send};
use crate::support::{Hold, PATIENT, Proxy, leaving, nobody, target, until};
use api::proxy::FromProxy;
use model::Protocol;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

#[tokio::test]
async fn no_get_fails_when_an_active_dies_under_two_hundred_of_them() {
    let (mut proxy, address) = Proxy::serving(Protocol::Http, PATIENT).await;
    let late = |_: &_| Reply::Late(Duration::from_millis(5), "ok".into());
    let [a, b] = [Backend::http(late).await, Backend::http(late).await];
    proxy
        .route(vec![target(1, a.address), target(2, b.address)], vec![])
        .await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for n in 0..200 {
        let stop = Arc::clone(&stop);
        clients.spawn(async move {
            let mut client = Client::connect(address).await;
            let mut answers = 0;
            while !stop.load(SeqCst) {
                // Every other client is one that hyper serves.
                let request = if n % 2 == 0 {
                    get_text("/")
                } else {
                    by_hyper(&post_text("PUT", "same"))
                };
                client.send(request).await;
                let got = client.answer().await.expect("an answer");
                assert_eq!((got.status(), got.text()), (200, "ok"), "{}", got.text());
                answers += 1;
            }
            answers
        });
    }
    until(|| a.requests().len() >= 600).await;
    a.kill();
    let before = b.requests().len();
    until(|| b.requests().len() >= before + 600).await;
    stop.store(true, SeqCst);
    let answers: usize = clients.join_all().await.into_iter().sum();
    assert!(answers >= 1_200);
    let totals = proxy.hears_totals(|totals| totals.requests == answers as u64).await;
    assert_eq!(totals.failed, 0);
    assert!(totals.retried > 0);
}

#[tokio::test]
async fn the_only_active_may_die_and_be_replaced_without_a_failure() {
    let (mut proxy, address) = Proxy::serving(Protocol::Http, PATIENT).await;
    let late = |_: &_| Reply::Late(Duration::from_millis(5), "ok".into());
    let a = Backend::http(late).await;
    proxy.route(vec![target(1, a.address)], vec![]).await;
    let mut clients = JoinSet::new();
    for n in 0..50 {
        clients.spawn(async move {
            let mut client = Client::connect(address).await;
            for _ in 0..20 {
                let request = if n % 2 == 0 {
                    get_text("/")
                } else {
                    by_hyper(&post_text("DELETE", ""))
                };
                client.send(request).await;
                assert_eq!(client.answer().await.expect("an answer").status(), 200);
            }
        });
    }
    until(|| a.requests().len() >= 300).await;
    a.kill();
    let suspect = proxy
        .hears(|said| match said {
            FromProxy::Suspect { instance, .. } => Some(instance.clone()),
            _ => None,
        })
        .await;
    assert_eq!(suspect.number(), 1);
    let b = Backend::http(late).await;
    proxy.route(vec![target(2, b.address)], vec![leaving(1, 0)]).await;
    clients.join_all().await;
    assert!(proxy.hears_totals(|totals| totals.requests == 1_000).await.failed == 0);
}

#[tokio::test]
async fn a_get_is_repeated_when_its_active_dies_within_a_small_answer() {
    let (mut proxy, address) = Proxy::serving(Protocol::Http, PATIENT).await;
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_vec();
    let a = Backend::http(move |_| Reply::Broken(half.clone())).await;
    proxy.route(vec![target(1, a.address)], vec![]).await;
    let mut asking = JoinSet::new();
    asking.spawn(async move { get(address, "/").await });
    asking.spawn(async move { send(address, "PUT", "body").await });
    asking.spawn(async move { ask(address, &by_hyper(&post_text("PUT", "body"))).await });
    until(|| a.requests().len() >= 3).await;
    let b = Backend::named("b").await;
    proxy
        .route(vec![target(1, a.address), target(2, b.address)], vec![])
        .await;
    for got in asking.join_all().await {
        assert_eq!((got.status(), got.text()), (200, "b"));
    }
    let mut bodies: Vec<_> = b.requests().iter().map(|request| request.text().to_string()).collect();
    bodies.sort();
    assert_eq!(bodies, ["", "body", "body"]);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_never_taken_for_whole() {
    let long = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n{}",
        "x".repeat(100_000)
    );
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".to_string();
    for begin in [long, chunks] {
        for breaks in [Reply::Broken(begin.clone().into()), Reply::Last(begin.clone().into())] {
            let (mut proxy, address) = Proxy::serving(Protocol::Http, PATIENT).await;
            let a = Backend::http(move |_| breaks.clone()).await;
            proxy.route(vec![target(1, a.address)], vec![]).await;
            for special in ["", "TE: trailers\r\n"] {
                let mut client = Client::connect(address).await;
                client.send(format!("GET / HTTP/1.1\r\nHost: x\r\n{special}\r\n")).await;
                assert_eq!(client.rest().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
            }
            // An old client could not tell from the bytes alone.
            let mut client = Client::connect(address).await;
            client.send("GET / HTTP/1.0\r\nHost: x\r\n\r\n").await;
            assert_eq!(client.rest().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
    }
}

#[tokio::test]
async fn a_post_is_never_repeated_and_its_client_is_told() {
    let post = post_text("POST", "once");
    for post in [by_hyper(&post), post] {
        let (mut proxy, address) = Proxy::serving(Protocol::Http, PATIENT).await;
        let a = Backend::http(|_| Reply::Broken(Vec::new())).await;
        let b = Backend::named("b").await;
        proxy.route(vec![target(1, a.address)], vec![]).await;
        let asking = tokio::spawn(async move { ask(address, &post).await });
        until(|| a.requests().len() == 1).await;
        proxy
            .route(vec![target(1, a.address), target(2, b.address)], vec![])
            .await;
        let got = asking.await.unwrap();
        assert_eq!((got.status(), got.header("retry-after")), (503, Some("1")));
        assert!(
            got.text().contains("`web-1` failed while it had the request"),
            "{}",
            got.text()
        );
        assert_eq!((a.requests().len(), b.requests().len()), (1, 0));
        assert_eq!(proxy.hears_totals(|totals| totals.requests == 1).await.failed, 1);
    }
}

#[tokio::test]
async fn a_post_that_was_not_sent_goes_to_another_active() {
    let (mut proxy, address) = Proxy::serving(Protocol::Http, PATIENT).await;
    let b = Backend::named("b").await;
    proxy
        .route(vec![target(1, nobody()), target(2, b.address)], vec![])
        .await;
    for n in 1..=6 {
        let post = post_text("POST", "once");
        let post = if n % 2 == 0 { by_hyper(&post) } else { post };
        assert_eq!(ask(address, &post).await.text(), "b");
        assert_eq!(b.requests().len(), n);
    }
}

#[tokio::test]
async fn a_put_that_is_too_large_to_keep_is_sent_once() {
    let (mut proxy, address) = Proxy::serving(Protocol::Http, PATIENT).await;
    let a = Backend::http(|_| Reply::Broken(Vec::new())).await;
    proxy.route(vec![target(1, a.address)], vec![]).await;
    let large = "x".repeat(200_000);
    assert_eq!(send(address, "PUT", &large).await.status(), 503);
    assert_eq!(a.requests().len(), 1);
    let b = Backend::named("b").await;
    proxy.route(vec![target(2, b.address)], vec![]).await;
    assert_eq!(send(address, "PUT", &large).await.text(), "b");
    assert_eq!(b.requests()[0].body.len(), 200_000);
}

#[tokio::test]
async fn connections_that_an_active_closed_while_idle_harm_no_request() {
    let (mut proxy, address) = Proxy::serving(Protocol::Http, PATIENT).await;
    // Says that it keeps the connection, and closes it all the same.
    let a = Backend::http(|_| Reply::Last(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec())).await;
    proxy.route(vec![target(1, a.address)], vec![]).await;
    let mut clients = [Client::connect(address).await, Client::connect(address).await];
    for n in 0..120 {
        let request = match n % 3 {
            0 => get_text("/"),
            1 => post_text("PUT", "x"),
            _ => post_text("POST", "x"),
        };
        let [fast, general] = &mut clients;
        fast.send(&request).await;
        assert_eq!(fast.answer().await.unwrap().status(), 200);
        general.send(by_hyper(&request)).await;
        assert_eq!(general.answer().await.unwrap().status(), 200);
        if n % 10 == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    assert_eq!(a.requests().len(), 240);
}

#[tokio::test]
async fn requests_inside_an_active_that_hangs_are_answered_by_the_next() {
    let (mut proxy, address) = Proxy::serving(Protocol::Http, PATIENT).await;
    let a = Backend::http(|_| Reply::Hang(Vec::new())).await;
    let b = Backend::named("b").await;
    proxy.route(vec![target(1, a.address)], vec![]).await;
    let mut asking = JoinSet::new();
    for _ in 0..20 {
        asking.spawn(async move { get(address, "/").await });
        asking.spawn(async move { ask(address, &by_hyper(&post_text("PUT", "x"))).await });
    }
    let post = tokio::spawn(async move { send(address, "POST", "x").await });
    let by_hyper = tokio::spawn(async move { ask(address, &by_hyper(&post_text("POST", "x"))).await });
    until(|| a.requests().len() >= 42).await;
    // Found and fenced: nobody is there for a moment.
    proxy.route(vec![], vec![leaving(1, 0)]).await;
    assert_eq!(proxy.hears_drained(1).await, 42);
    assert_eq!(post.await.unwrap().status(), 503);
    assert_eq!(by_hyper.await.unwrap().status(), 503);
    proxy.route(vec![target(2, b.address)], vec![]).await;
    for got in asking.join_all().await {
        assert_eq!((got.status(), got.text()), (200, "b"));
    }
    assert_eq!(b.requests().len(), 40);
}

#[tokio::test]
async fn a_switchover_lets_requests_finish_and_holds_new_ones() {
    let (mut proxy, address) = Proxy::serving(Protocol::Http, PATIENT).await;
    let a = Backend::http(|request| {
        let slow = request.head.starts_with("GET /slow") || request.head.starts_with("POST");
        Reply::Late(Duration::from_millis(if slow { 400 } else { 0 }), "a".into())
    })
    .await;
    let b = Backend::named("b").await;
    proxy.route(vec![target(1, a.address)], vec![]).await;
    let mut kept = Client::connect(address).await;
    assert_eq!(kept.get("/").await.unwrap().text(), "a");
    let slow = tokio::spawn(async move { get(address, "/slow").await });
    let post = tokio::spawn(async move { send(address, "POST", "x").await });
    until(|| a.requests().len() >= 3).await;
    proxy.route(vec![], vec![leaving(1, 8_000)]).await;
    kept.send(get_text("/")).await;
    assert_eq!(slow.await.unwrap().text(), "a");
    assert_eq!(post.await.unwrap().text(), "a");
    assert_eq!(proxy.hears_drained(1).await, 0);
    proxy.hears_totals(|totals| totals.holding == 1).await;
    let routed = Instant::now();
    proxy.route(vec![target(2, b.address)], vec![]).await;
    assert_eq!(kept.answer().await.unwrap().text(), "b");
    assert!(routed.elapsed() < Duration::from_millis(100));
    assert_eq!(a.requests().len(), 3);
    // Idle connections to the old one do not keep it.
    assert_eq!(a.open(), 0);
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_a_drain() {
    let (mut proxy, address) = Proxy::serving(Protocol::Http, PATIENT).await;
    let a = Backend::named("a").await;
    proxy.route(vec![target(1, a.address)], vec![]).await;
    let mut client = Client::connect(address).await;
    client.get("/").await.unwrap();
    client.send(by_hyper(&post_text("POST", "x"))).await;
    client.answer().await.unwrap();
    let started = Instant::now();
    proxy.route(vec![], vec![leaving(1, 8_000)]).await;
    assert_eq!(proxy.hears_drained(1).await, 0);
    assert!(started.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn without_an_active_requests_wait_for_so_long_and_then_get_503() {
    let hold = Hold { timeout: 300, max: 100 };
    let (_proxy, address) = Proxy::serving(Protocol::Http, hold).await;
    let started = Instant::now();
    let put = by_hyper(&post_text("PUT", "x"));
    let (got, put) = tokio::join!(get(address, "/"), ask(address, &put));
    assert!(started.elapsed() >= Duration::from_millis(300));
    for got in [got, put] {
        assert_eq!((got.status(), got.header("retry-after")), (503, Some("1")));
        assert_eq!(
            got.text(),
            "no active of `web` could answer: no active was there within 300 ms\n"
        );
    }
}

#[tokio::test]
async fn no_more_requests_wait_than_allowed_and_the_connection_lives_on() {
    let hold = Hold { timeout: 8_000, max: 0 };
    let (mut proxy, address) = Proxy::serving(Protocol::Http, hold).await;
    let mut client = Client::connect(address).await;
    for request in [get_text("/"), post_text("POST", "x"), by_hyper(&get_text("/"))] {
        client.send(request).await;
        let got = client.answer().await.unwrap();
        assert_eq!((got.status(), got.header("retry-after")), (503, Some("1")));
    }
    let a = Backend::named("a").await;
    proxy.route(vec![target(1, a.address)], vec![]).await;
    assert_eq!(client.get("/").await.unwrap().text(), "a");
}

#[tokio::test]
async fn a_target_that_fails_every_request_costs_a_bounded_number_of_tries() {
    let (mut proxy, address) = Proxy::serving(Protocol::Http, PATIENT).await;
    let tries = Arc::new(AtomicUsize::new(0));
    let reply = |tries: &Arc<AtomicUsize>| {
        let tries = Arc::clone(tries);
        move |_: &_| {
            tries.fetch_add(1, SeqCst);
            Reply::Broken(Vec::new())
        }
    };
    let [a, b] = [Backend::http(reply(&tries)).await, Backend::http(reply(&tries)).await];
    proxy
        .route(vec![target(1, a.address), target(2, b.address)], vec![])
        .await;
    assert_eq!(get(address, "/").await.status(), 503);
    assert_eq!(tries.swap(0, SeqCst), 4);
    assert_eq!(ask(address, &by_hyper(&get_text("/"))).await.status(), 503);
    assert_eq!(tries.load(SeqCst), 4);
}

/// A host that is off answers nothing: that each try at it takes a while prolongs no wait.
#[tokio::test]
async fn nobody_waits_longer_than_allowed_for_hosts_that_are_silent() {
    let hold = Hold {
        timeout: 1_000,
        max: 100,
    };
    for protocol in [Protocol::Tcp, Protocol::Http] {
        let [a, b] = [Silent::start().await, Silent::start().await];
        let (mut proxy, address) = Proxy::serving(protocol, hold).await;
        proxy
            .route(vec![target(1, a.address), target(2, b.address)], vec![])
            .await;
        let started = Instant::now();
        let mut client = Client::connect(address).await;
        client.send(get_text("/")).await;
        match protocol {
            Protocol::Tcp => assert!(client.rest().await.is_err()),
            Protocol::Http => assert_eq!(client.answer().await.unwrap().status(), 503),
        }
        let waited = started.elapsed();
        assert!(
            waited >= Duration::from_secs(1) && waited < Duration::from_secs(3),
            "{protocol:?}: {waited:?}"
        );
        let totals = proxy.hears_totals(|totals| totals.failed == 1).await;
        assert_eq!(totals.held, 1, "{totals:?}");
    }
}

/// Takes no connection, and refuses none: its queue is full.
struct Silent {
    address: SocketAddr,
    _queue: (TcpListener, Vec<TcpStream>),
}

impl Silent {
    async fn start() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
            queued.push(stream.unwrap());
        }
        Self {
            address,
            _queue: (listener, queued),
        }
    }
}
