//! The proxy alone, without the rest of Understudy: what the tests kill and the benchmark measures.
//!
//! `understudy-proxy --socket PATH [--workers N]` waits for an agent as `understudy proxy` does.
//! `understudy-proxy --protocol tcp|http --listen ADDRESS --to ADDRESS,.. [--workers N]` is its own agent, with a route
//! that never changes.

use api::proxy::{Route, Target, ToProxy};
use model::{Epoch, InstanceId, Millis, Protocol, ServiceName};
use proxy::client::ProxyClient;
use proxy::{listener, server};
use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut error: Option<&dyn Error> = Some(&*error);
            while let Some(this) = error {
                eprintln!("understudy-proxy: {this}");
                error = this.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut options = options()?;
    let workers = options.remove("workers").map_or(Ok(0), |n| n.parse())?;
    let config = |socket: PathBuf| server::Config {
        socket,
        workers,
        drain: Duration::from_secs(10),
    };
    if let Some(socket) = options.remove("socket") {
        refuse_rest(&options)?;
        return Ok(server::run(&config(socket.into()))?);
    }
    let mut need = |name: &str| options.remove(name).ok_or(format!("--{name} or --socket is missing"));
    let protocol = match need("protocol")?.as_str() {
        "tcp" => Protocol::Tcp,
        "http" => Protocol::Http,
        other => return Err(format!("--protocol is tcp or http, not `{other}`").into()),
    };
    let listen: SocketAddr = need("listen")?.parse()?;
    let to = need("to")?
        .split(',')
        .map(str::parse)
        .collect::<Result<Vec<SocketAddr>, _>>()?;
    refuse_rest(&options)?;
    let socket = std::env::temp_dir().join(format!("understudy-proxy-{}.sock", std::process::id()));
    let agent_socket = socket.clone();
    std::thread::spawn(move || {
        if let Err(error) = be_agent(&agent_socket, protocol, listen, &to) {
            eprintln!("understudy-proxy: {error}");
            std::process::exit(1);
        }
    });
    let ended = server::run(&config(socket.clone()));
    // Made by us, and of no use to anybody else.
    let _ = std::fs::remove_file(&socket);
    Ok(ended?)
}

fn refuse_rest(options: &BTreeMap<String, String>) -> Result<(), String> {
    match options.keys().next() {
        Some(name) => Err(format!("--{name} is not known here")),
        None => Ok(()),
    }
}

fn options() -> Result<BTreeMap<String, String>, String> {
    let mut options = BTreeMap::new();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let name = word.strip_prefix("--").ok_or(format!("`{word}` is not an option"))?;
        let value = words.next().ok_or(format!("--{name} needs a value"))?;
        options.insert(name.to_string(), value);
    }
    Ok(options)
}

/// Gives the proxy its one service and then listens for ever.
#[tokio::main(flavor = "current_thread")]
async fn be_agent(
    socket: &Path,
    protocol: Protocol,
    listen: SocketAddr,
    to: &[SocketAddr],
) -> Result<(), Box<dyn Error>> {
    let service = ServiceName::new("bench")?;
    let listener = listener::bind(listen, false)?;
    let mut client = loop {
        match ProxyClient::connect(socket).await {
            Ok((client, _)) => break client,
            Err(proxy::client::ConnectError::NotRunning { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => return Err(error.into()),
        }
    };
    let serve = ToProxy::Serve {
        service: service.clone(),
        listen: listener.local_addr()?,
        protocol,
        hold_timeout: Millis(10_000),
        hold_max: 10_000,
        parting: false,
    };
    client.send(&serve, Some(listener.as_fd())).await?;
    let targets = (0..).zip(to).map(|(slot, address)| Target {
        slot,
        instance: InstanceId::new(service.clone(), slot + 1),
        epoch: Epoch(1),
        address: *address,
    });
    let route = ToProxy::Route(Route {
        service: service.clone(),
        revision: 1,
        targets: targets.collect(),
        leaving: Vec::new(),
    });
    client.send(&route, None).await?;
    eprintln!("serving at {}", listener.local_addr()?);
    loop {
        client.receive().await?;
    }
}
