//! What the tests have around the program: a way to its API, a webhook, programs of others that end with the test.

use bench::rig::Rig;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_understudy");
/// For whatever takes a few rounds of a second each, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(40);

/// The socket of a cluster's API.
pub(crate) fn socket(rig: &Rig, cluster: &str) -> PathBuf {
    rig.folder().join(cluster).join("run/api.sock")
}

/// `GET` over the API's socket: status, content type and body.
pub(crate) fn get(socket: &Path, path: &str, accept: &str) -> (u16, String, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let header = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        let mut found = lines
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.to_owned());
        found.next().unwrap_or_default()
    };
    (
        status,
        header("content-type"),
        unchunked(body, &header("transfer-encoding")),
    )
}

/// The same, as JSON.
pub(crate) fn json(socket: &Path, path: &str) -> Value {
    let (status, _, body) = get(socket, path, "*/*");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

fn unchunked(body: &str, encoding: &str) -> String {
    if encoding != "chunked" {
        return body.to_owned();
    }
    let (mut out, mut rest) = (String::new(), body);
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            break;
        }
        out.push_str(&after[..size]);
        rest = &after[size + 2..];
    }
    out
}

/// Asks until the answer is as wished.
pub(crate) fn until<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(begun.elapsed() < within, "waited {within:?} for {what} in vain");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A port of this machine that leads to a socket: Prometheus reads over TCP only.
pub(crate) fn relay(socket: &Path) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let socket = socket.to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = UnixStream::connect(&socket) else {
                continue;
            };
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Write);
            });
            let (mut from, mut to) = (server, client);
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    address
}

/// A request that a webhook got.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) head: String,
    pub(crate) body: Value,
}

/// A receiver of alerts, which says yes or no.
pub(crate) struct Webhook {
    pub(crate) url: String,
    pub(crate) got: Arc<Mutex<Vec<Got>>>,
}

impl Webhook {
    pub(crate) fn start() -> Self {
        Self::at(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// Behind a socket that somebody else opened, in another network perhaps.
    pub(crate) fn at(listener: TcpListener) -> Self {
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let got = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&got);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if let Some(one) = read(&client) {
                    into.lock().unwrap().push(one);
                }
                let _ = (&client).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
        });
        Self { url, got }
    }

    /// What it was told of one alert: "firing" or "resolved", in order.
    pub(crate) fn told(&self, alertname: &str, about: &str) -> Vec<String> {
        let got = self.got.lock().unwrap();
        let alerts = got.iter().flat_map(|one| one.body["alerts"].as_array().unwrap());
        alerts
            .filter(|alert| {
                alert["labels"]["alertname"] == alertname && (about.is_empty() || alert["labels"]["about"] == about)
            })
            .map(|alert| alert["status"].as_str().unwrap().to_owned())
            .collect()
    }
}

fn read(client: &TcpStream) -> Option<Got> {
    let mut reader = BufReader::new(client);
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        head.push_str(&line.to_ascii_lowercase());
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
    let mut body = vec![0; length.trim().parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    let body = serde_json::from_slice(&body).ok()?;
    Some(Got { head, body })
}

/// A program of others; it ends with the test.
pub(crate) struct Other(Child);

impl Other {
    pub(crate) fn start(program: &str, arguments: &[String], log: &Path) -> Self {
        let log = std::fs::File::create(log).unwrap();
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {program}, which `cargo xtask test` installs: {error}"));
        Self(child)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `GET` over TCP, as JSON; nothing if there is no such answer yet.
pub(crate) fn get_tcp(address: SocketAddr, path: &str) -> Option<Value> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(SOON)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.contains(" 200 ").then_some(())?;
    serde_json::from_str(body).ok()
}

/// A text as part of an address.
pub(crate) fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}
