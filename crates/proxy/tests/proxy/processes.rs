//! The proxy as a process of its own: killed, restarted, drained, out of files.

use crate::backend::{Backend, Reply};
use crate::client::{Client, get, get_text};
use crate::support::{PATIENCE, PATIENT, connect, serve, target, until, web};
use api::proxy::{Route, ToProxy};
use model::Protocol;
use proxy::client::{Hello, ProxyClient};
use proxy::listener;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

struct Process {
    child: Child,
    agent: ProxyClient,
    folder: TempDir,
}

impl Process {
    async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await.0
    }

    async fn start_in(folder: TempDir) -> (Self, Hello) {
        let socket = folder.path().join("proxy.sock");
        let child = Command::new(env!("CARGO_BIN_EXE_understudy-proxy"))
            .args([Path::new("--socket"), &socket])
            .args(["--workers", "1"])
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (agent, hello) = connect(&socket).await;
        let process = Self { child, agent, folder };
        (process, hello)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().unwrap().try_into().unwrap()).unwrap()
    }

    /// Serves `web` from a socket and routes it.
    async fn serve(&mut self, protocol: Protocol, listener: &TcpListener, to: SocketAddr) {
        let listen = listener.local_addr().unwrap();
        let message = serve(web(), listen, protocol, PATIENT);
        self.agent.send(&message, Some(listener.as_fd())).await.unwrap();
        let route = Route {
            service: web(),
            revision: 1,
            targets: vec![target(1, to)],
            leaving: vec![],
        };
        self.agent.send(&ToProxy::Route(route), None).await.unwrap();
    }

    fn open_files(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.pid().as_raw_nonzero());
        std::fs::read_dir(folder).unwrap().count()
    }

    /// Processor time used so far.
    fn used(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid().as_raw_nonzero())).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second())
    }

    async fn ended(&mut self) -> bool {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.expect("the proxy does not end").unwrap().success()
    }
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = listener::bind(([127, 0, 0, 1], 0).into(), false).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn while_a_killed_proxy_is_replaced_clients_wait_at_the_door() {
    let backend = Backend::named("a").await;
    let (listener, address) = listen();
    let mut first = Process::start().await;
    first.serve(Protocol::Http, &listener, backend.address).await;
    assert_eq!(get(address, "/").await.text(), "a");
    first.child.kill().await.unwrap();
    let mut waiting = JoinSet::new();
    for _ in 0..50 {
        waiting.spawn(async move { get(address, "/").await });
    }
    let (mut second, hello) = Process::start_in(first.folder).await;
    assert!(hello.fronts.is_empty());
    second.serve(Protocol::Http, &listener, backend.address).await;
    for got in waiting.join_all().await {
        assert_eq!(got.text(), "a");
    }
}

#[tokio::test]
async fn terminated_it_lets_clients_finish_and_then_ends() {
    let backend = Backend::http(|_| Reply::Late(Duration::from_millis(300), "late".into())).await;
    let (listener, address) = listen();
    let mut process = Process::start().await;
    process.serve(Protocol::Http, &listener, backend.address).await;
    drop(listener);
    let mut idle = Client::connect(address).await;
    idle.get("/").await.unwrap();
    let asking = tokio::spawn(async move { get(address, "/").await });
    until(|| backend.requests().len() == 2).await;
    // An interrupt at the terminal is not meant for it.
    rustix::process::kill_process(process.pid(), rustix::process::Signal::INT).unwrap();
    rustix::process::kill_process(process.pid(), rustix::process::Signal::TERM).unwrap();
    assert_eq!(idle.rest().await.unwrap(), b"");
    until(|| std::net::TcpStream::connect(address).is_err()).await;
    let got = asking.await.unwrap();
    assert_eq!((got.text(), got.header("connection")), ("late", Some("close")));
    assert!(process.ended().await);
}

#[tokio::test]
async fn told_to_end_it_cuts_what_is_left_after_the_drain() {
    let backend = Backend::http(|_| Reply::Hang(Vec::new())).await;
    let (listener, address) = listen();
    let mut process = Process::start().await;
    process.serve(Protocol::Http, &listener, backend.address).await;
    let mut client = Client::connect(address).await;
    client.send(get_text("/")).await;
    until(|| backend.requests().len() == 1).await;
    let started = Instant::now();
    let drain = model::Millis(200);
    process.agent.send(&ToProxy::Shutdown { drain }, None).await.unwrap();
    assert!(process.ended().await);
    assert!(started.elapsed() >= Duration::from_millis(200));
    let got = client.answer().await.unwrap();
    assert_eq!((got.status(), got.header("connection")), (503, Some("close")));
    assert_eq!(backend.requests().len(), 1);
}

#[tokio::test]
async fn ten_thousand_connections_leave_no_file_open() {
    for (protocol, count) in [(Protocol::Tcp, 10_000), (Protocol::Http, 2_000)] {
        let backend = match protocol {
            Protocol::Tcp => Backend::echo("a").await,
            Protocol::Http => Backend::named("a").await,
        };
        let (listener, address) = listen();
        let mut process = Process::start().await;
        process.serve(protocol, &listener, backend.address).await;
        let mut before = 0;
        for n in 0..count {
            let mut client = Client::connect(address).await;
            if protocol == Protocol::Tcp {
                client.read(1).await;
            } else {
                client.get("/").await.unwrap();
            }
            if n == 0 {
                // With this client and its connection to the active.
                before = process.open_files();
            }
            // Every other one leaves without a word.
            if n % 2 == 0 {
                client.stream.set_zero_linger().unwrap();
            }
        }
        // Two sockets less, or one if the connection to the active is kept for the next request.
        until(|| process.open_files() < before).await;
    }
}

#[tokio::test]
async fn out_of_files_it_waits_and_recovers() {
    let backend = Backend::echo("a").await;
    let (listener, address) = listen();
    let mut process = Process::start().await;
    process.serve(Protocol::Tcp, &listener, backend.address).await;
    Client::connect(address).await.read(1).await;
    until(|| backend.open() == 0).await;
    let limit = process.open_files() as u64 + 8;
    let few = Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    prlimit(Some(process.pid()), Resource::Nofile, few).unwrap();
    let mut clients = Vec::new();
    for _ in 0..30 {
        // Some are reset at once.
        clients.extend(TcpStream::connect(address).await);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let used = process.used();
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    let spent = process.used() - used;
    assert!(spent < Duration::from_millis(300), "it spins: {spent:?} of a second");
    drop(clients);
    // Those that waited at the door all that time come first.
    let mut name = [0];
    for _ in 0..1_000 {
        let Ok(mut client) = TcpStream::connect(address).await else {
            continue;
        };
        if client.read_exact(&mut name).await.is_ok() {
            break;
        }
    }
    assert_eq!(&name, b"a");
}
