use super::*;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::sync::atomic::AtomicUsize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_as_planned_are_sent_and_counted() {
    let server = Server::start().await;
    let report = run(plan(&server, "/", 500.0, 400)).await.unwrap();
    assert_eq!(
        (report.planned, report.succeeded, report.failed()),
        (200, 200, 0),
        "{report}"
    );
    assert_eq!(server.requests(), 200);
    assert_eq!(server.connections(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_connections_are_used_again() {
    let server = Server::start().await;
    let report = run(plan(&server, "/", 500.0, 400).kept(3)).await.unwrap();
    assert_eq!((report.succeeded, report.failed()), (200, 0), "{report}");
    assert!(server.connections() <= 3, "{} connections", server.connections());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_of_the_server_counts_for_every_request_that_was_due_in_it() {
    let server = Server::start().await;
    // One connection: a client that waits for its answers would send two requests, and measure one of them as slow.
    let load = start(plan(&server, "/", 200.0, 1_500).kept(1)).unwrap();
    wait_until(|| load.succeeded_so_far() >= 20).await;
    server.pause(Duration::from_millis(500));
    let report = load.wait().await;
    let slow = report.latency_us.count_between(100_000, LATENCY_US_MAX);
    assert!(slow >= 60, "only {slow} slow ones of 100 that were due: {report}");
    assert!(
        report.longest_gap >= Duration::from_millis(400),
        "{:?}",
        report.longest_gap
    );
    assert_eq!(report.failed(), 0, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_failure_is_counted_by_its_kind_with_its_time() {
    let server = Server::start().await;
    for (path, kind) in [
        ("/status", FailureKind::Status(503)),
        ("/break", FailureKind::Broken),
        ("/hang", FailureKind::Timeout),
    ] {
        let mut plan = plan(&server, path, 100.0, 100);
        plan.timeout = Duration::from_millis(200);
        let report = run(plan).await.unwrap();
        assert_eq!(
            report.failures_by_kind,
            BTreeMap::from([(kind, 10)]),
            "{path}: {report}"
        );
        assert_eq!(report.succeeded, 0);
        assert_eq!(report.failures[3].planned, Duration::from_millis(30));
        assert_eq!(
            report.failed_between(report.began, report.began + Duration::from_millis(45)),
            5
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_there_is_a_failure_to_connect() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut plan = Plan::get(nobody, "/", 100.0);
    plan.duration = Duration::from_millis(50);
    let report = run(plan).await.unwrap();
    assert_eq!(
        report.failures_by_kind,
        BTreeMap::from([(FailureKind::Connect, 5)]),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_come_back_over_new_and_kept_connections() {
    let echo = echo_server(false).await;
    for connections in [Connections::PerRequest, Connections::Kept(2)] {
        let mut plan = Plan::get(echo, "/", 200.0);
        plan.request = Request::Echo { bytes: 300_000 };
        plan.connections = connections;
        plan.duration = Duration::from_millis(100);
        let report = run(plan).await.unwrap();
        assert_eq!((report.succeeded, report.failed()), (20, 0), "{report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_bytes_are_a_wrong_answer() {
    let echo = echo_server(true).await;
    let mut plan = Plan::get(echo, "/", 100.0);
    plan.request = Request::Echo { bytes: 64 };
    plan.duration = Duration::from_millis(50);
    let report = run(plan).await.unwrap();
    assert_eq!(
        report.failures_by_kind,
        BTreeMap::from([(FailureKind::Wrong, 5)]),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finish_ends_a_load_before_its_time_and_waits_for_what_is_under_way() {
    let server = Server::start().await;
    let load = start(Plan::get(server.address, "/", 100.0)).unwrap();
    wait_until(|| load.succeeded_so_far() >= 5).await;
    let report = load.finish().await;
    assert_eq!(report.planned, report.succeeded, "{report}");
    assert!(report.sent_for < Duration::from_secs(10));
}

#[tokio::test]
async fn a_plan_that_cannot_be_carried_out_is_refused() {
    let target = "127.0.0.1:1".parse().unwrap();
    for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(
            start(Plan::get(target, "/", rate)),
            Err(LoadError::Rate { .. })
        ));
    }
    let kept = Plan::get(target, "/", 1.0).kept(0);
    assert!(matches!(start(kept), Err(LoadError::Connections { connections: 0 })));
    let mut echo = Plan::get(target, "/", 1.0);
    echo.request = Request::Echo { bytes: 0 };
    assert!(matches!(start(echo), Err(LoadError::Echo { bytes: 0 })));
}

fn plan(server: &Server, path: &str, rate: f64, duration_ms: u64) -> Plan {
    let mut plan = Plan::get(server.address, path, rate);
    plan.duration = Duration::from_millis(duration_ms);
    plan
}

async fn wait_until(condition: impl Fn() -> bool) {
    for _ in 0..5_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("waited in vain");
}

/// Counts, and answers by path: `/status` with 503, `/break` and `/hang` not at all.
struct Server {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    requests: AtomicUsize,
    connections: AtomicUsize,
    paused_until: Mutex<Option<Instant>>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let serving = Arc::clone(&state);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                serving.connections.fetch_add(1, Ordering::Relaxed);
                let state = Arc::clone(&serving);
                let service = service_fn(move |request| answer(Arc::clone(&state), request));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { address, state }
    }

    fn requests(&self) -> usize {
        self.state.requests.load(Ordering::Relaxed)
    }

    fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    fn pause(&self, span: Duration) {
        *self.state.paused_until.lock().unwrap() = Some(Instant::now() + span);
    }
}

async fn answer(
    state: Arc<State>,
    request: http::Request<Incoming>,
) -> Result<http::Response<Full<bytes::Bytes>>, std::io::Error> {
    state.requests.fetch_add(1, Ordering::Relaxed);
    let paused_until = *state.paused_until.lock().unwrap();
    if let Some(until) = paused_until {
        tokio::time::sleep_until(until.into()).await;
    }
    let mut answer = http::Response::new(Full::from("hello"));
    match request.uri().path() {
        "/status" => *answer.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE,
        "/break" => return Err(std::io::Error::other("as asked")),
        "/hang" => tokio::time::sleep(Duration::from_secs(3_600)).await,
        _ => {}
    }
    Ok(answer)
}

async fn echo_server(wrong: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    if wrong {
                        buffer[0] = !buffer[0];
                    }
                    stream.write_all(&buffer[..count]).await.unwrap();
                }
            });
        }
    });
    address
}
