//! HTTP/1.1 services: what passes, and how.

use crate::backend::{Backend, Reply};
use crate::client::{Client, by_hyper, get, get_text, post_text, send};
use crate::support::{PATIENT, Proxy, target, until};
use api::proxy::FromProxy;
use model::Protocol;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::AsyncReadExt;

async fn in_front_of(backend: &Backend) -> (Proxy, SocketAddr) {
    let (mut proxy, address) = Proxy::serving(Protocol::Http, PATIENT).await;
    proxy.route(vec![target(1, backend.address)], vec![]).await;
    (proxy, address)
}

#[tokio::test]
async fn an_answer_of_any_form_arrives_as_it_was() {
    let long = "y".repeat(300_000);
    let chunked_long = format!("30D40\r\n{}\r\n0\r\nX-Sum: 1\r\n\r\n", "z".repeat(200_000));
    let forms = [
        (
            "/empty",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_string(),
            String::new(),
        ),
        ("/no-content", "HTTP/1.1 204 No Content\r\n\r\n".into(), String::new()),
        (
            "/unchanged",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n".into(),
            String::new(),
        ),
        (
            "/missing",
            "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno".into(),
            "no".into(),
        ),
        (
            "/small",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".into(),
            "hello".into(),
        ),
        (
            "/large",
            format!("HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n{long}"),
            long,
        ),
        (
            "/chunks",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=1\r\nde\r\n0\r\n\r\n".into(),
            "abcde".into(),
        ),
        (
            "/chunks-large",
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunked_long}"),
            "z".repeat(200_000),
        ),
        (
            "/hints",
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".into(),
            "ok".into(),
        ),
    ];
    let replies = forms.clone();
    let backend = Backend::http(move |request| {
        let path = request.head.split(' ').nth(1).unwrap();
        let (_, answer, _) = replies.iter().find(|(of, ..)| *of == path).unwrap();
        Reply::Raw(answer.clone().into_bytes())
    })
    .await;
    let (_proxy, address) = in_front_of(&backend).await;
    let mut fast = Client::connect(address).await;
    let mut general = Client::connect(address).await;
    for (path, answer, body) in &forms {
        let status = answer.rsplit("HTTP/1.1 ").next().unwrap()[..3].parse::<u16>().unwrap();
        let got = fast.get(path).await.unwrap();
        assert_eq!(
            (got.status(), got.text() == body),
            (status, true),
            "{path}: {}",
            got.head
        );
        general
            .send(format!("GET {path} HTTP/1.1\r\nHost: x\r\nTE: trailers\r\n\r\n"))
            .await;
        let got = general.answer().await.unwrap();
        assert_eq!(
            (got.status(), got.text() == body),
            (status, true),
            "{path}: {}",
            got.head
        );
    }
    // One connection to the active for each of the two, and the probe of none.
    assert_eq!(backend.connections(), 2);
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_passed_on_and_so_is_its_end() {
    let backend = Backend::http(|_| Reply::Last(b"HTTP/1.0 200 OK\r\n\r\nuntil the end".to_vec())).await;
    let (_proxy, address) = in_front_of(&backend).await;
    let mut client = Client::connect(address).await;
    let got = client.get("/").await.unwrap();
    assert_eq!((got.header("connection"), got.text()), (Some("close"), "until the end"));
}

#[tokio::test]
async fn head_and_the_other_methods_pass() {
    let backend = Backend::named("web-1").await;
    let (_proxy, address) = in_front_of(&backend).await;
    let mut client = Client::connect(address).await;
    client.send("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let got = client.answer_to("HEAD").await.unwrap();
    assert_eq!((got.status(), got.header("content-length")), (200, Some("5")));
    client
        .send("HEAD / HTTP/1.1\r\nHost: x\r\nExpect: nothing\r\n\r\n")
        .await;
    let got = client.answer_to("HEAD").await.unwrap();
    assert_eq!((got.status(), got.header("content-length")), (200, Some("5")));
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        for body in ["body", &"x".repeat(60_000), &"y".repeat(1_000_000)] {
            let request = post_text(method, body);
            for request in [by_hyper(&request), request] {
                client.send(request).await;
                assert_eq!(client.answer().await.unwrap().text(), "web-1", "{method}");
                let seen = backend.requests().pop().unwrap();
                assert_eq!(seen.head.split(' ').next(), Some(method));
                assert!(seen.text() == body, "{method}, {} bytes", body.len());
            }
            client = Client::connect(address).await;
        }
    }
    client
        .send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.unwrap().text(), "web-1");
    assert_eq!(backend.requests().pop().unwrap().text(), "abc");
    let mut refused = Client::connect(address).await;
    refused.send("CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n").await;
    assert_eq!(refused.answer().await.unwrap().status(), 405);
}

#[tokio::test]
async fn headers_for_one_connection_go_no_further_and_the_client_is_named() {
    let backend = Backend::http(|_| {
        Reply::Raw(b"HTTP/1.1 200 OK\r\nConnection: keep-alive, x-a\r\nX-A: 1\r\nKeep-Alive: timeout=5\r\nX-B: 2\r\nContent-Length: 0\r\n\r\n".to_vec())
    })
    .await;
    let (_proxy, address) = in_front_of(&backend).await;
    let mut client = Client::connect(address).await;
    for special in [
        "Connection: keep-alive\r\n",
        "Connection: keep-alive, x-c\r\nX-C: 1\r\n",
    ] {
        client
            .send(format!(
                "GET / HTTP/1.1\r\nHost: shop.example:80\r\nX-Forwarded-For: 10.0.0.1\r\n{special}\r\n"
            ))
            .await;
        let got = client.answer().await.unwrap();
        let names = ["connection", "keep-alive", "x-a", "x-b"].map(|name| got.header(name));
        assert_eq!(names, [None, None, None, Some("2")]);
        let seen = backend.requests().pop().unwrap();
        let names = ["connection", "x-c", "host", "x-forwarded-for", "x-forwarded-proto"].map(|name| seen.header(name));
        assert_eq!(
            names,
            [
                None,
                None,
                Some("shop.example:80"),
                Some("10.0.0.1, 127.0.0.1"),
                Some("http")
            ]
        );
    }
}

#[tokio::test]
async fn requests_sent_in_one_go_are_answered_in_their_order() {
    let backend = Backend::http(|request| Reply::Text(request.head.split(' ').nth(1).unwrap().into())).await;
    let (_proxy, address) = in_front_of(&backend).await;
    let mut client = Client::connect(address).await;
    let mut all = String::new();
    for n in 0..20 {
        all += &get_text(&format!("/{n}"));
    }
    all += &post_text("POST", "x").replace("POST /", "POST /post");
    all += &get_text("/last");
    client.send(all).await;
    for n in 0..20 {
        assert_eq!(client.answer().await.unwrap().text(), format!("/{n}"));
    }
    assert_eq!(client.answer().await.unwrap().text(), "/post");
    assert_eq!(client.answer().await.unwrap().text(), "/last");
}

#[tokio::test]
async fn a_client_that_wants_its_connection_closed_gets_it_closed() {
    let backend = Backend::named("web-1").await;
    let (_proxy, address) = in_front_of(&backend).await;
    for version in ["1.1", "1.0"] {
        let mut client = Client::connect(address).await;
        client
            .send(format!("GET / HTTP/{version}\r\nHost: x\r\nConnection: close\r\n\r\n"))
            .await;
        let got = client.answer().await.unwrap();
        // To an old client it goes without saying.
        let said = (version == "1.1").then_some("close");
        assert_eq!((got.text(), got.header("connection")), ("web-1", said), "{version}");
        assert_eq!(client.rest().await.unwrap(), b"");
    }
}

#[tokio::test]
async fn a_client_that_half_closes_is_answered() {
    let backend = Backend::http(|_| Reply::Late(Duration::from_millis(50), "late".into())).await;
    let (_proxy, address) = in_front_of(&backend).await;
    let mut client = Client::connect(address).await;
    client.send(get_text("/")).await;
    tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await.unwrap();
    assert_eq!(client.answer().await.unwrap().text(), "late");
}

#[tokio::test]
async fn a_body_announced_by_expect_is_asked_for() {
    let backend = Backend::named("web-1").await;
    let (_proxy, address) = in_front_of(&backend).await;
    let mut client = Client::connect(address).await;
    client
        .send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.unwrap().status(), 100);
    client.send("body").await;
    assert_eq!(client.answer().await.unwrap().text(), "web-1");
    assert_eq!(backend.requests()[0].text(), "body");
}

#[tokio::test]
async fn another_protocol_passes_through_once_both_agree() {
    let backend = Backend::http(|request| {
        assert_eq!(request.header("upgrade"), Some("echo"));
        Reply::Echo
    })
    .await;
    let (mut proxy, address) = in_front_of(&backend).await;
    let mut client = Client::connect(address).await;
    client
        .send("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nfirst")
        .await;
    let got = client.answer().await.unwrap();
    assert_eq!((got.status(), got.header("upgrade")), (101, Some("echo")));
    assert_eq!(client.read(5).await, "first");
    client.send("second").await;
    assert_eq!(client.read(6).await, "second");
    // It counts as something under way, and is cut like it.
    proxy.route(vec![], vec![crate::support::leaving(1, 50)]).await;
    assert_eq!(proxy.hears_drained(1).await, 1);
    assert_eq!(client.rest().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn events_arrive_one_by_one_and_a_client_that_leaves_is_noticed() {
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nevent1\r\n";
    let backend = Backend::http(move |_| Reply::Hang(head.into())).await;
    let (_proxy, address) = in_front_of(&backend).await;
    for special in ["", "TE: trailers\r\n"] {
        let mut client = Client::connect(address).await;
        client.send(format!("GET / HTTP/1.1\r\nHost: x\r\n{special}\r\n")).await;
        let mut seen = String::new();
        while !seen.contains("event1") {
            let mut some = [0; 1024];
            let n = client.stream.read(&mut some).await.unwrap();
            seen += std::str::from_utf8(&some[..n]).unwrap();
        }
        assert_eq!(backend.open(), 1);
        drop(client);
        until(|| backend.open() == 0).await;
    }
}

#[tokio::test]
async fn malformed_requests_are_refused_and_never_reach_an_active() {
    let backend = Backend::named("web-1").await;
    let (_proxy, address) = in_front_of(&backend).await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(200_000));
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nBad Header: b\r\n\r\n", 400),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
            400,
        ),
        (&long, 431),
    ] {
        let mut client = Client::connect(address).await;
        // The answer may come, and with it the end, before all is sent.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client.stream, request.as_bytes()).await;
        let got = client.answer().await.map(|got| got.status());
        assert!(
            got == Some(status) || (status == 431 && got.is_none()),
            "{got:?}: {request:.60}"
        );
    }
    assert_eq!(backend.requests().len(), 0);
    assert_eq!(get(address, "/").await.text(), "web-1");
}

#[tokio::test]
async fn answers_that_are_not_http_are_not_passed_on() {
    for answer in [
        "220 mail.example\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
    ] {
        let backend = Backend::http(move |_| Reply::Last(answer.into())).await;
        let (_proxy, address) = in_front_of(&backend).await;
        let got = get(address, "/").await;
        assert_eq!((got.status(), got.header("retry-after")), (503, Some("1")), "{answer}");
        // One target: as many tries as it has, and two more.
        assert_eq!(backend.requests().len(), 3, "{answer}");
    }
}

#[tokio::test]
async fn connections_to_an_active_are_used_again() {
    let backend = Backend::named("web-1").await;
    let (_proxy, address) = in_front_of(&backend).await;
    let mut client = Client::connect(address).await;
    for _ in 0..50 {
        client.get("/").await.unwrap();
        client.send(post_text("POST", "x")).await;
        client.answer().await.unwrap();
    }
    assert_eq!(backend.connections(), 1);
    for _ in 0..50 {
        client.send(by_hyper(&post_text("POST", "x"))).await;
        client.answer().await.unwrap();
    }
    // One more: what hyper makes is its own.
    assert_eq!(backend.connections(), 2);
}

#[tokio::test]
async fn the_first_good_answer_is_told_once_and_bad_ones_are_counted() {
    let asked = AtomicUsize::new(0);
    let backend = Backend::http(move |_| match asked.fetch_add(1, SeqCst) {
        0 => Reply::Raw(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_vec()),
        _ => Reply::Text("ok".into()),
    })
    .await;
    let (mut proxy, address) = in_front_of(&backend).await;
    assert_eq!(get(address, "/").await.status(), 500);
    assert_eq!(get(address, "/").await.status(), 200);
    assert_eq!(send(address, "POST", "x").await.status(), 200);
    let mut first_answers = 0;
    let totals = proxy
        .hears(|said| match said {
            FromProxy::FirstAnswer { instance, .. } => {
                assert_eq!(instance.number(), 1);
                first_answers += 1;
                None
            }
            FromProxy::Traffic { totals, .. } if totals.requests == 3 && totals.open == 0 => Some(*totals),
            _ => None,
        })
        .await;
    assert_eq!((first_answers, totals.errors, totals.failed), (1, 1, 0));
    assert!(totals.latency_us > 0);
}
