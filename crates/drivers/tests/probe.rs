//! Probes, against real servers and processes.

#![expect(clippy::unwrap_used, reason = "a test helper that panics is a failing test")]

use bytes::Bytes;
use drivers::probe::{ExecEnv, ProbeResult};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use model::CheckKind;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Longer than any working answer takes on a busy machine.
const LONG: Duration = Duration::from_secs(10);
/// Short, and long enough that a late timer of a busy machine is no doubt of ours.
const SHORT: Duration = Duration::from_millis(200);

#[tokio::test]
async fn tcp_passes_when_the_connection_is_accepted_and_tells_when_it_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    assert_passes(&tcp(), address).await;
    drop(listener);
    assert_eq!(
        failure(&tcp(), address, LONG).await,
        format!("connection refused by {address}")
    );
}

#[tokio::test]
async fn tcp_fails_when_nobody_takes_the_connection() {
    // With a full queue the kernel lets connections wait, as it does for a process that hangs for long.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = tokio::time::timeout(SHORT, TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
        assert!(waiting.len() < 10, "the queue never fills");
    }
    let what = failure(&tcp(), address, SHORT).await;
    assert_eq!(what, format!("connection not accepted within 200ms by {address}"));
}

#[tokio::test]
async fn http_asks_politely() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await
            .unwrap();
        // The end of the stream and not a reset: all of the answer was read.
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
        request
    });
    assert_passes(&http("/healthz?deep=1", &[], None), address).await;
    let asked = server.await.unwrap();
    let mut lines: Vec<&str> = asked.lines().filter(|line| !line.is_empty()).collect();
    lines[1..].sort_unstable();
    let host = format!("host: {address}");
    assert_eq!(
        lines,
        [
            "GET /healthz?deep=1 HTTP/1.1",
            "accept: */*",
            "connection: close",
            host.as_str(),
            "user-agent: understudy-check"
        ]
    );
}

#[tokio::test]
async fn http_judges_the_status_and_follows_no_redirect() {
    let answers = |status: &str| serve(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").into_bytes());
    let any = http("/", &[], None);
    let only_200 = http("/", &[200], None);
    assert_passes(&any, answers("204 No Content").await).await;
    assert_passes(&http("/", &[200, 503], None), answers("503 Busy").await).await;
    assert_eq!(
        failure(&only_200, answers("503 Busy").await, LONG).await,
        "status 503, expected 200"
    );
    assert_eq!(
        failure(&any, answers("404 Not Found").await, LONG).await,
        "status 404, expected 200 to 299"
    );
    let elsewhere = serve(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()).await;
    let redirect = format!("302 Found\r\nlocation: http://{elsewhere}/");
    assert_eq!(
        failure(&any, answers(&redirect).await, LONG).await,
        "status 302, expected 200 to 299"
    );
    let early = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec();
    assert_passes(&any, serve(early).await).await;
}

#[tokio::test]
async fn http_looks_for_a_text_in_the_body_however_it_comes() {
    let ready = http("/", &[], Some("ready"));
    let sized = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nis ready!".to_vec();
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nis rea\r\n3\r\ndy!\r\n0\r\n\r\n".to_vec();
    let until_close = b"HTTP/1.0 200 OK\r\n\r\nis ready!".to_vec();
    for answer in [sized, chunked, until_close] {
        assert_passes(&ready, serve(answer).await).await;
    }
    let not = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nnot yet..".to_vec();
    assert_eq!(
        failure(&ready, serve(not).await, LONG).await,
        "body does not contain `ready`"
    );
}

#[tokio::test]
async fn http_reads_64_kib_of_the_body_and_no_more() {
    let ready = http("/", &[], Some("ready"));
    let with_text_at = |at: usize| {
        let mut answer = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        answer.resize(answer.len() + at, b'x');
        answer.extend_from_slice(b"ready");
        answer.resize(answer.len() + 1_000_000, b'x');
        answer
    };
    let last = 64 * 1024 - "ready".len();
    assert_passes(&ready, serve(with_text_at(last)).await).await;
    let what = failure(&ready, serve(with_text_at(last + 1)).await, LONG).await;
    assert_eq!(what, "body does not contain `ready` in its first 64 KiB");
}

#[tokio::test]
async fn http_tells_what_is_wrong_with_an_answer() {
    let any = http("/", &[], None);
    let ssh = serve(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()).await;
    let what = failure(&any, ssh, LONG).await;
    assert!(what.starts_with("the answer is not HTTP: "), "{what}");

    let silent = serve(Vec::new()).await;
    assert_eq!(
        failure(&any, silent, LONG).await,
        format!("connection closed by {silent} before it answered")
    );

    let mut long = b"HTTP/1.1 200 OK\r\nx: ".to_vec();
    long.resize(200_000, b'x');
    assert_eq!(
        failure(&any, serve(long).await, LONG).await,
        "the head of the answer is longer than 16 KiB"
    );

    let cut = serve(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf of".to_vec()).await;
    let what = failure(&http("/", &[], Some("ready")), cut, LONG).await;
    assert!(
        what.starts_with(&format!("{cut} broke off in the middle of the answer")),
        "{what}"
    );

    let what = failure(&http("/a b", &[], None), ssh, LONG).await;
    assert!(what.starts_with("cannot ask for the path `/a b`"), "{what}");
}

#[tokio::test]
async fn http_tells_of_a_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // Closed with the request half read, the kernel resets the connection.
        stream.read_exact(&mut [0; 4]).await.unwrap();
    });
    let what = failure(&http("/", &[], None), address, LONG).await;
    assert_eq!(what, format!("connection reset by {address} before it answered"));
}

#[tokio::test]
async fn http_is_bounded_in_time() {
    let silent = serve_slowly(b"").await;
    assert_eq!(
        failure(&http("/", &[], None), silent, SHORT).await,
        "no answer within 200ms"
    );
    let half_a_head = serve_slowly(b"HTTP/1.1 200 OK\r\nserver: slow").await;
    assert_eq!(
        failure(&http("/", &[], None), half_a_head, SHORT).await,
        "no answer within 200ms"
    );
    let endless = serve_slowly(b"HTTP/1.1 200 OK\r\n\r\nnot yet").await;
    let what = failure(&http("/", &[], Some("ready")), endless, SHORT).await;
    assert_eq!(what, "answer not complete within 200ms");
    // The status is all that was asked for, so an endless body does not matter.
    assert_passes(&http("/", &[], None), endless).await;
}

#[tokio::test]
async fn a_stopped_process_is_found_by_http_and_not_by_tcp_where_the_process_is_not_known() {
    let mut server = PythonServer::start();
    let address = server.address;
    let get = http("/", &[], None);
    assert_passes(&get, address).await;
    server.signal(rustix::process::Signal::STOP);
    assert_passes(&tcp(), address).await;
    assert_eq!(failure(&get, address, SHORT).await, "no answer within 200ms");
    server.signal(rustix::process::Signal::CONT);
    assert_passes(&get, address).await;
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    assert_eq!(
        failure(&get, address, LONG).await,
        format!("connection refused by {address}")
    );
}

#[tokio::test]
async fn grpc_asks_the_health_service() {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("shop.Cart", tonic_health::ServingStatus::Serving)
        .await;
    reporter
        .set_service_status("shop.Pay", tonic_health::ServingStatus::NotServing)
        .await;
    let address = serve_grpc(TowerToHyperService::new(service)).await;
    assert_passes(&grpc(""), address).await;
    assert_passes(&grpc("shop.Cart"), address).await;
    let what = failure(&grpc("shop.Pay"), address, LONG).await;
    assert_eq!(what, "the service `shop.Pay` answers NOT_SERVING");
    let what = failure(&grpc("shop.Nope"), address, LONG).await;
    assert_eq!(what, "the service `shop.Nope` is not known to the server");
    reporter
        .set_service_status("", tonic_health::ServingStatus::NotServing)
        .await;
    assert_eq!(
        failure(&grpc(""), address, LONG).await,
        "the server answers NOT_SERVING"
    );
}

#[tokio::test]
async fn grpc_tells_what_is_wrong_with_a_server() {
    let other = serve_grpc(hyper::service::service_fn(async |_request| {
        // What gRPC servers answer for a method they do not have.
        let answer = hyper::Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "12");
        Ok::<_, std::convert::Infallible>(answer.body(Empty::<Bytes>::new()).unwrap())
    }))
    .await;
    assert_eq!(
        failure(&grpc(""), other, LONG).await,
        "the server does not offer grpc.health.v1"
    );
    let web = serve_slowly(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
    let what = failure(&grpc(""), web, LONG).await;
    assert!(what.starts_with("the answer is not HTTP/2: "), "{what}");
    let closing = serve(Vec::new()).await;
    let what = failure(&grpc(""), closing, LONG).await;
    assert!(
        what.starts_with("connection ") && what.ends_with(" before it answered"),
        "{what}"
    );
    let closed = closed_port().await;
    assert_eq!(
        failure(&grpc(""), closed, LONG).await,
        format!("connection refused by {closed}")
    );
}

#[tokio::test]
async fn after_the_deadline_no_connection_is_left() {
    for kind in [http("/", &[], None), grpc("")] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = tokio::spawn(async move { listener.accept().await.unwrap().0 });
        assert_eq!(failure(&kind, address, SHORT).await, "no answer within 200ms");
        let mut stream = accepted.await.unwrap();
        let mut received = Vec::new();
        let to_the_end = stream.read_to_end(&mut received);
        tokio::time::timeout(LONG, to_the_end)
            .await
            .expect("the connection is still open")
            .unwrap();
    }
}

#[tokio::test]
async fn exec_passes_with_exit_code_0_and_tells_the_rest() {
    assert_eq!(run("exit 0").await, None);
    assert_eq!(
        run("echo fine; echo 'lag is 30 s' >&2; exit 1").await.unwrap(),
        "exit code 1: lag is 30 s"
    );
    assert_eq!(run("exit 4").await.unwrap(), "exit code 4");
    assert_eq!(run("kill -KILL $$").await.unwrap(), "killed by SIGKILL");
    let kind = CheckKind::Exec {
        command: vec!["/no/such/check".into()],
    };
    let result = probe(&kind, None, LONG, &ExecEnv::default()).await;
    let ProbeResult::Fail { what, .. } = result else {
        panic!("{result:?}")
    };
    assert_eq!(what, "cannot start the check: `/no/such/check` does not exist");
}

#[tokio::test]
async fn exec_has_a_clean_environment_and_its_own_directory() {
    let dir = tempfile::tempdir().unwrap();
    let env = ExecEnv {
        env: [("UNDERSTUDY_INSTANCE".to_owned(), "db-1".to_owned())].into(),
        dir: Some(dir.path().into()),
        user: None,
    };
    let kind = exec("/usr/bin/env > seen");
    let result = probe(&kind, None, LONG, &env).await;
    assert!(matches!(result, ProbeResult::Pass { .. }), "{result:?}");
    let seen = std::fs::read_to_string(dir.path().join("seen")).unwrap();
    // Some of them are the shell's own.
    let mut names: Vec<&str> = seen.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name));
    names.sort_unstable();
    assert_eq!(
        names,
        ["HOME", "LANG", "LOGNAME", "PATH", "UNDERSTUDY_INSTANCE", "USER"]
    );
}

#[tokio::test]
async fn exec_is_killed_with_all_it_started_at_the_deadline_and_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let env = ExecEnv {
        dir: Some(dir.path().into()),
        ..ExecEnv::default()
    };
    let hangs = exec("sh -c 'trap \"\" TERM; echo $$ > grandchild; sleep 60' & echo connecting; sleep 60");
    let result = probe(&hangs, None, Duration::from_millis(900), &env).await;
    let ProbeResult::Fail { what, .. } = result else {
        panic!("{result:?}")
    };
    assert_eq!(what, "still running after 900ms: connecting");
    gone(&dir.path().join("grandchild")).await;

    let leaves = exec("sleep 60 & echo $! > left");
    let result = probe(&leaves, None, LONG, &env).await;
    assert!(matches!(result, ProbeResult::Pass { .. }), "{result:?}");
    gone(&dir.path().join("left")).await;
}

#[tokio::test]
async fn our_own_lateness_is_no_failure_of_the_instance() {
    let silent = serve_slowly(b"").await;
    let blocked = async {
        // Nothing else runs on this thread meanwhile, as when the agent is stopped or starved.
        tokio::task::yield_now().await;
        std::thread::sleep(Duration::from_millis(600));
    };
    let env = ExecEnv::default();
    let get = http("/", &[], None);
    let (result, ()) = tokio::join!(probe(&get, Some(silent), SHORT, &env), blocked);
    let ProbeResult::Unsure { why } = result else {
        panic!("{result:?}")
    };
    assert!(
        why.starts_with("this agent was ") && why.ends_with(" late to look for the answer"),
        "{why}"
    );

    let hangs = exec("sleep 60");
    let blocked = async {
        tokio::task::yield_now().await;
        std::thread::sleep(Duration::from_millis(600));
    };
    let (result, ()) = tokio::join!(probe(&hangs, None, SHORT, &env), blocked);
    assert!(matches!(result, ProbeResult::Unsure { .. }), "{result:?}");
}

#[tokio::test]
async fn an_answer_that_came_while_we_were_late_counts() {
    let address = std::thread::spawn(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            // Waits for the request, on a thread that is not blocked.
            BufReader::new(&stream).read_line(&mut String::new()).unwrap();
            std::io::Write::write_all(&mut &stream, b"HTTP/1.0 500 Broken\r\n\r\n").unwrap();
        });
        address
    });
    let address = address.join().unwrap();
    let blocked = async {
        // Until the request is on its way.
        tokio::time::sleep(Duration::from_millis(50)).await;
        std::thread::sleep(Duration::from_millis(600));
    };
    let env = ExecEnv::default();
    let get = http("/", &[], None);
    let (result, ()) = tokio::join!(probe(&get, Some(address), SHORT, &env), blocked);
    assert!(
        matches!(&result, ProbeResult::Fail { what, .. } if what.starts_with("status 500")),
        "{result:?}"
    );

    let ends = exec("exit 0");
    let (result, ()) = tokio::join!(probe(&ends, None, SHORT, &env), async {
        tokio::task::yield_now().await;
        std::thread::sleep(Duration::from_millis(600));
    });
    assert!(matches!(result, ProbeResult::Pass { .. }), "{result:?}");
}

#[tokio::test]
async fn without_an_address_a_check_over_the_network_fails() {
    let result = probe(&tcp(), None, LONG, &ExecEnv::default()).await;
    assert!(
        matches!(&result, ProbeResult::Fail { what, .. } if what == "there is no address to check"),
        "{result:?}"
    );
}

/// What answers is known by its address alone.
async fn probe(kind: &CheckKind, target: Option<SocketAddr>, timeout: Duration, env: &ExecEnv) -> ProbeResult {
    drivers::probe::probe(kind, target, timeout, env, None).await
}

fn tcp() -> CheckKind {
    CheckKind::Tcp
}

fn http(path: &str, status: &[u16], body: Option<&str>) -> CheckKind {
    CheckKind::Http {
        path: path.into(),
        status: status.iter().copied().collect(),
        body: body.map(str::to_owned),
    }
}

fn grpc(service: &str) -> CheckKind {
    CheckKind::Grpc {
        service: service.into(),
    }
}

fn exec(script: &str) -> CheckKind {
    CheckKind::Exec {
        command: ["sh", "-c", script].map(str::to_owned).into(),
    }
}

async fn assert_passes(kind: &CheckKind, target: SocketAddr) {
    let result = probe(kind, Some(target), LONG, &ExecEnv::default()).await;
    assert!(
        matches!(result, ProbeResult::Pass { took } if took < LONG),
        "{result:?}"
    );
}

async fn failure(kind: &CheckKind, target: SocketAddr, timeout: Duration) -> String {
    // On a machine so busy that the probe doubts itself, the answer is to try again.
    for _ in 0..20 {
        let begun = Instant::now();
        match probe(kind, Some(target), timeout, &ExecEnv::default()).await {
            ProbeResult::Fail { what, took } => {
                assert!(took <= begun.elapsed());
                return what;
            }
            ProbeResult::Unsure { .. } => {}
            pass @ ProbeResult::Pass { .. } => panic!("{pass:?}"),
        }
    }
    panic!("unsure twenty times in a row");
}

/// What a check by this script says; nothing if it passes.
async fn run(script: &str) -> Option<String> {
    match probe(&exec(script), None, LONG, &ExecEnv::default()).await {
        ProbeResult::Pass { .. } => None,
        ProbeResult::Fail { what, .. } => Some(what),
        unsure @ ProbeResult::Unsure { .. } => panic!("{unsure:?}"),
    }
}

/// Answers each request with these bytes and closes.
async fn serve(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            request(&mut stream).await;
            // The probe may have heard enough.
            let _ = stream.write_all(&answer).await;
        }
    });
    address
}

/// Answers each request with these bytes and then hangs.
async fn serve_slowly(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            request(&mut stream).await;
            stream.write_all(answer).await.unwrap();
            held.push(stream);
        }
    });
    address
}

async fn serve_grpc<S, B>(service: S) -> SocketAddr
where
    S: hyper::service::HttpService<Incoming, ResBody = B> + Clone + Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Send,
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service.clone()));
        }
    });
    address
}

/// Reads a request up to the empty line, or what there is of it.
async fn request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(count) if count > 0 => request.extend_from_slice(&buffer[..count]),
            _ => break,
        }
        if request.starts_with(b"PRI * HTTP/2.0") {
            break;
        }
    }
    String::from_utf8_lossy(&request).into_owned()
}

async fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// Waits until the process whose number is in `file` no longer runs.
async fn gone(file: &std::path::Path) {
    let pid: u32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
    for _ in 0..1000 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if stat
            .rsplit(") ")
            .next()
            .is_none_or(|state| state.is_empty() || state.starts_with(['Z', 'X']))
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("process {pid} still runs");
}

/// A web server in a process of its own.
struct PythonServer {
    child: Child,
    address: SocketAddr,
}

impl PythonServer {
    fn start() -> Self {
        let dir = std::env::temp_dir();
        let mut child = Command::new("python3")
            .args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory"])
            .arg(dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 is needed for this test");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        // "Serving HTTP on 127.0.0.1 port 40001 (http://127.0.0.1:40001/) ..."
        let port = line
            .split(" port ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next())
            .unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()));
        Self { child, address }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for PythonServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
