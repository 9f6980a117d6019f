//! What is measured of the traffic, and reported each second.

use crate::backend::{Backend, Reply};
use crate::client::{get, send};
use crate::support::{PATIENT, Proxy, target};
use api::proxy::{FromProxy, Measured};
use model::Protocol;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn hears(proxy: &mut Proxy, wanted: impl Fn(&Measured) -> bool) -> Measured {
    proxy
        .hears(|said| match said {
            FromProxy::Traffic {
                measured: Some(measured),
                ..
            } if wanted(measured) => Some((**measured).clone()),
            _ => None,
        })
        .await
}

#[tokio::test]
async fn requests_are_measured_by_status_time_and_bytes() {
    let asked = AtomicUsize::new(0);
    let backend = Backend::http(move |_| match asked.fetch_add(1, SeqCst) {
        0 => Reply::Raw(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_vec()),
        _ => Reply::Text("ok".into()),
    })
    .await;
    let (mut proxy, address) = Proxy::serving(Protocol::Http, PATIENT).await;
    proxy.route(vec![target(1, backend.address)], vec![]).await;
    assert_eq!(get(address, "/").await.status(), 500);
    assert_eq!(get(address, "/").await.status(), 200);
    assert_eq!(send(address, "POST", "twelve bytes").await.status(), 200);
    let measured = hears(&mut proxy, |measured| {
        measured.status.iter().sum::<u64>() == 3 && measured.inflight == 0
    })
    .await;
    assert_eq!(measured.status, [0, 2, 0, 0, 1]);
    assert_eq!(measured.latency.count(), 3);
    assert!(measured.latency.percentile(1.0) > Some(0), "{measured:?}");
    assert!(measured.bytes_in > 12 && measured.bytes_out > 4, "{measured:?}");
    assert!(measured.at_us > 0 && measured.inflight_us > 0, "{measured:?}");
}

#[tokio::test]
async fn connections_are_measured_while_they_are_open() {
    let backend = Backend::echo("a:").await;
    let (mut proxy, address) = Proxy::serving(Protocol::Tcp, PATIENT).await;
    proxy.route(vec![target(1, backend.address)], vec![]).await;
    let mut client = TcpStream::connect(address).await.expect("connects");
    client.write_all(b"hello").await.expect("is sent");
    client.read_exact(&mut [0; 7]).await.expect("comes back");
    // Nothing moves any more, and the sum over time still rises: by a second each second.
    let first = hears(&mut proxy, |measured| measured.inflight == 1 && measured.bytes_out == 7).await;
    let second = hears(&mut proxy, |measured| measured.at_us > first.at_us).await;
    assert_eq!(
        (first.bytes_in, first.latency.count(), first.connect.count()),
        (5, 1, 1)
    );
    let (risen, passed) = (second.inflight_us - first.inflight_us, second.at_us - first.at_us);
    assert!(risen.abs_diff(passed) < passed / 20, "{risen} in {passed}");
    drop(client);
    let last = hears(&mut proxy, |measured| measured.inflight == 0).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(last.inflight_us >= second.inflight_us);
}

#[tokio::test]
async fn it_is_known_who_calls_and_who_works() {
    let backend = Backend::http(|_| Reply::Text("ok".into())).await;
    let (mut proxy, address) = Proxy::serving(Protocol::Http, PATIENT).await;
    proxy.route(vec![target(1, backend.address)], vec![]).await;
    for _ in 0..3 {
        assert_eq!(get(address, "/").await.status(), 200);
    }
    let measured = hears(&mut proxy, |measured| {
        measured.calls.iter().map(|calls| calls.requests).sum::<u64>() == 3
    })
    .await;
    // All of this process, whose cgroup the kernel knows.
    assert_eq!(measured.calls.len(), 1, "{measured:?}");
    assert!(
        measured.calls[0].cgroup > 0 && measured.calls[0].inflight_max >= 1,
        "{measured:?}"
    );
    assert_eq!(measured.works.len(), 1);
    assert_eq!(measured.works[0].requests, 3);
    assert!(
        measured.works[0].inflight_us > 0 && measured.works[0].inflight_us <= measured.inflight_us,
        "{measured:?}"
    );
}

#[tokio::test]
async fn of_a_connection_only_the_time_from_question_to_answer_counts() {
    let backend = Backend::echo("a:").await;
    let (mut proxy, address) = Proxy::serving(Protocol::Tcp, PATIENT).await;
    proxy.route(vec![target(1, backend.address)], vec![]).await;
    let mut client = TcpStream::connect(address).await.expect("connects");
    // It says its name before its first answer.
    for answer in [7, 5] {
        tokio::time::sleep(Duration::from_millis(300)).await;
        client.write_all(b"hello").await.expect("is sent");
        client.read_exact(&mut vec![0; answer]).await.expect("comes back");
    }
    let measured = hears(&mut proxy, |measured| {
        measured.works.iter().any(|works| works.requests == 2)
    })
    .await;
    assert!(measured.works[0].inflight_us < 300_000, "{measured:?}");
    assert_eq!(measured.calls[0].requests, 2);
}
