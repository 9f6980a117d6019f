use super::*;
use std::io::{Read, Write};
use std::net::TcpListener;

/// A server that answers each request after what `delay` says of the time since its start; a thread a connection.
fn serves(delay: impl Fn(Duration) -> Duration + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let began = Instant::now();
    let delay = Arc::new(delay);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let delay = Arc::clone(&delay);
            std::thread::spawn(move || {
                let mut buffer = [0; 4_096];
                while let Ok(1..) = stream.read(&mut buffer) {
                    std::thread::sleep(delay(began.elapsed()));
                    if stream
                        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                        .is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn run(address: SocketAddr, request: Request, rate: f64, measure: Duration) -> Report {
    let target = Target { address, request };
    let stretch = Stretch {
        rate,
        settle: Duration::ZERO,
        measure,
        spacing: Spacing::Even,
        seed: 1,
    };
    let running = start(&target, stretch).unwrap();
    while !running.is_over() {
        std::thread::sleep(Duration::from_millis(20));
    }
    running.finish()
}

fn get() -> Request {
    Request::Get { path: "/".into() }
}

#[test]
fn a_stall_is_seen_by_all_requests_that_it_would_have_met() {
    // Still for a second out of two: a client that waits for its answer before it asks again would see one slow request.
    let stall = Duration::from_millis(500)..Duration::from_millis(1_500);
    let address = serves(move |at| {
        if stall.contains(&at) {
            stall.end - at
        } else {
            Duration::ZERO
        }
    });
    let report = run(address, get(), 100.0, Duration::from_secs(2));
    assert_eq!(report.failed(), 0, "{:?}", report.failures);
    assert!((190..=200).contains(&report.planned), "{}", report.planned);
    // A quarter of all were due in the first half of the stall, and waited half a second or more.
    let slow = report.latency_us.count_between(450_000, 2_000_000);
    assert!((35..=90).contains(&slow), "{slow}");
}

#[test]
fn nobody_there_is_a_failure_of_each() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let report = run(address, get(), 50.0, Duration::from_millis(400));
    assert_eq!(
        (report.succeeded, report.failures.get("connection refused").copied()),
        (0, Some(report.planned))
    );
    assert_eq!(report.latency_ms(0.5), None);
}

#[test]
fn of_tcp_the_end_or_an_answer_counts() {
    let address = serves(|_| Duration::ZERO);
    for send in ["", "?"] {
        let report = run(
            address,
            Request::Connect { send: send.into() },
            50.0,
            Duration::from_millis(400),
        );
        assert_eq!(report.failed(), 0, "{:?}", report.failures);
        assert!(report.succeeded >= 18 && report.goodput > 40.0, "{report:?}");
    }
}

#[test]
fn failures_are_slower_than_any_answer() {
    let mut report = run(serves(|_| Duration::ZERO), get(), 100.0, Duration::from_millis(500));
    assert!(report.latency_ms(0.99).is_some());
    report.failures.insert("status 503".into(), report.succeeded);
    assert!(report.latency_ms(0.4).is_some());
    assert_eq!(report.latency_ms(0.99), None);
}

#[test]
fn what_cannot_be_sent_is_refused() {
    let target = Target {
        address: "127.0.0.1:1".parse().unwrap(),
        request: Request::Get {
            path: "no/slash".into(),
        },
    };
    let stretch = |rate| Stretch {
        rate,
        settle: Duration::ZERO,
        measure: Duration::from_secs(1),
        spacing: Spacing::Even,
        seed: 1,
    };
    assert!(matches!(start(&target, stretch(1.0)), Err(Error::Path { .. })));
    for rate in [0.0, -1.0, 1e-300, f64::NAN, RATE_MAX * 2.0] {
        assert!(matches!(start(&target, stretch(rate)), Err(Error::Rate(_))), "{rate}");
    }
}
