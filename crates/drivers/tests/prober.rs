//! The prober, against real servers.

#![expect(clippy::unwrap_used, reason = "a test helper that panics is a failing test")]

use drivers::probe::{ExecEnv, ProbeResult, Prober, ProberHandle};
use model::{Check, CheckKind, Millis};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;

/// Longer than anything takes on a busy machine.
const LONG: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_start_is_noticed_long_before_the_next_turn() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let (_prober, mut results) = spawn(check(CheckKind::Tcp, 3_600_000, 1_000), address, 1);
    for _ in 0..3 {
        assert!(matches!(next(&mut results).await, ProbeResult::Fail { .. }));
    }
    let _listener = socket.listen(16).unwrap();
    let started = Instant::now();
    while !matches!(next(&mut results).await, ProbeResult::Pass { .. }) {}
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    // From now on the pace is that of the check.
    quiet(&mut results, Duration::from_millis(300)).await;
}

#[tokio::test]
async fn probes_come_each_period() {
    let (_listener, address) = listen().await;
    let (_prober, mut results) = spawn(check(CheckKind::Tcp, 50, 1_000), address, 7);
    next(&mut results).await;
    let begun = Instant::now();
    for _ in 0..10 {
        assert!(matches!(next(&mut results).await, ProbeResult::Pass { .. }));
    }
    let took = begun.elapsed();
    // Ten turns; the first may come at any time, but not within half a period of the start.
    assert!(took >= Duration::from_millis(50 * 9), "{took:?}");
    assert!(took < LONG, "{took:?}");
}

#[tokio::test]
async fn probes_never_overlap() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let get = CheckKind::Http {
        path: "/".into(),
        status: Default::default(),
        body: None,
    };
    let (prober, mut results) = spawn(check(get, 10, 60), listener.local_addr().unwrap(), 3);
    for _ in 0..5 {
        let (mut stream, _) = listener.accept().await.unwrap();
        prober.probe_now();
        // Nobody else comes before this one has given up.
        tokio::select! {
            biased;
            _ = async { while stream.read(&mut [0; 256]).await.is_ok_and(|count| count > 0) {} } => {}
            _ = listener.accept() => panic!("a second probe came while the first was under way"),
        }
        assert!(!matches!(next(&mut results).await, ProbeResult::Pass { .. }));
    }
}

#[tokio::test]
async fn an_extra_probe_comes_at_once_and_a_flood_of_them_is_one() {
    let (_listener, address) = listen().await;
    let (prober, mut results) = spawn(check(CheckKind::Tcp, 3_600_000, 1_000), address, 5);
    next(&mut results).await;
    quiet(&mut results, Duration::from_millis(100)).await;
    for _ in 0..1000 {
        prober.probe_now();
    }
    next(&mut results).await;
    quiet(&mut results, Duration::from_millis(100)).await;
    prober.probe_now();
    next(&mut results).await;
}

#[tokio::test]
async fn an_extra_probe_asked_for_during_another_follows_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let get = CheckKind::Http {
        path: "/".into(),
        status: Default::default(),
        body: None,
    };
    let (prober, mut results) = spawn(check(get, 3_600_000, 10_000), listener.local_addr().unwrap(), 5);
    let answer = async |meanwhile: &dyn Fn()| {
        let (mut stream, _) = listener.accept().await.unwrap();
        meanwhile();
        let _ = stream.read(&mut [0; 256]).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.0 204 No Content\r\n\r\n")
            .await
            .unwrap();
    };
    answer(&|| prober.probe_now()).await;
    assert!(matches!(next(&mut results).await, ProbeResult::Pass { .. }));
    tokio::time::timeout(LONG, answer(&|| ()))
        .await
        .expect("no second probe");
    assert!(matches!(next(&mut results).await, ProbeResult::Pass { .. }));
}

#[tokio::test]
async fn stopping_ends_the_probe_under_way_and_all_others() {
    for drop_it in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let get = CheckKind::Http {
            path: "/".into(),
            status: Default::default(),
            body: None,
        };
        let (prober, mut results) = spawn(check(get, 10, 60_000), listener.local_addr().unwrap(), 3);
        let (mut stream, _) = listener.accept().await.unwrap();
        if drop_it {
            drop(prober);
        } else {
            prober.stop();
        }
        let mut request = Vec::new();
        let closed = tokio::time::timeout(LONG, stream.read_to_end(&mut request)).await;
        closed.expect("the connection is still open").unwrap();
        assert_eq!(results.recv().await, None, "the sink is gone too");
    }
}

fn check(kind: CheckKind, every: u64, timeout: u64) -> Check {
    Check {
        kind,
        every: Millis(every),
        timeout: Millis(timeout),
        fail_after: 2,
        pass_after: 1,
    }
}

fn spawn(check: Check, target: SocketAddr, seed: u64) -> (ProberHandle, mpsc::UnboundedReceiver<ProbeResult>) {
    let (sender, results) = mpsc::unbounded_channel();
    let sink = move |result| {
        let _ = sender.send(result);
    };
    (
        Prober::spawn(check, Some(target), ExecEnv::default(), None, seed, sink),
        results,
    )
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn next(results: &mut mpsc::UnboundedReceiver<ProbeResult>) -> ProbeResult {
    tokio::time::timeout(LONG, results.recv())
        .await
        .expect("no probe came")
        .expect("the prober ended")
}

async fn quiet(results: &mut mpsc::UnboundedReceiver<ProbeResult>, during: Duration) {
    let result = tokio::time::timeout(during, results.recv()).await;
    assert!(result.is_err(), "a probe too many: {result:?}");
}
