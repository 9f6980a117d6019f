//! A proxy with its agent: the tests' single door to both.

use api::proxy::{FromProxy, Leaving, Route, Target, ToProxy, Totals};
use model::{Epoch, InstanceId, Millis, Protocol, ServiceName};
use proxy::client::{Hello, ProxyClient};
use proxy::listener;
use proxy::server::{self, Config};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Nothing here takes this long; a test that would wait longer has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Proxy {
    pub(crate) agent: ProxyClient,
    pub(crate) socket: PathBuf,
    revision: u64,
    unheard: Vec<FromProxy>,
    pub(crate) sockets: Vec<TcpListener>,
    pub(crate) folder: TempDir,
}

/// Settings that hold for a test's whole life.
pub(crate) const PATIENT: Hold = Hold {
    timeout: 8_000,
    max: 1_000,
};

#[derive(Clone, Copy)]
pub(crate) struct Hold {
    pub(crate) timeout: u64,
    pub(crate) max: u32,
}

pub(crate) fn web() -> ServiceName {
    ServiceName::new("web").unwrap()
}

pub(crate) fn instance(number: u32) -> InstanceId {
    InstanceId::new(web(), number)
}

/// `web-NUMBER` as the holder of slot NUMBER-1 at epoch 1.
pub(crate) fn target(number: u32, address: SocketAddr) -> Target {
    at_epoch(number - 1, number, 1, address)
}

pub(crate) fn at_epoch(slot: u32, number: u32, epoch: u64, address: SocketAddr) -> Target {
    Target {
        slot,
        instance: instance(number),
        epoch: Epoch(epoch),
        address,
    }
}

pub(crate) fn leaving(number: u32, drain: u64) -> Leaving {
    Leaving {
        instance: instance(number),
        drain: Millis(drain),
    }
}

/// An address at which nobody listens.
pub(crate) fn nobody() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

pub(crate) fn serve(service: ServiceName, listen: SocketAddr, protocol: Protocol, hold: Hold) -> ToProxy {
    ToProxy::Serve {
        service,
        listen,
        protocol,
        hold_timeout: Millis(hold.timeout),
        hold_max: hold.max,
        parting: false,
    }
}

/// Waits for something that is about to be so.
pub(crate) async fn until(so: impl Fn() -> bool) {
    let started = Instant::now();
    while !so() {
        assert!(started.elapsed() < PATIENCE, "it does not come to be");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Waits for a proxy to come up.
pub(crate) async fn connect(socket: &Path) -> (ProxyClient, Hello) {
    let started = Instant::now();
    loop {
        match ProxyClient::connect(socket).await {
            Ok(connected) => return connected,
            Err(error) if started.elapsed() > PATIENCE => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

impl Proxy {
    /// One in this process, ended with it.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("proxy.sock");
        let config = Config {
            socket: socket.clone(),
            workers: 2,
            drain: Duration::from_secs(1),
        };
        std::thread::spawn(move || server::run(&config).unwrap());
        let (agent, hello) = connect(&socket).await;
        assert!(hello.fronts.is_empty());
        Self {
            agent,
            socket,
            revision: 0,
            unheard: Vec::new(),
            sockets: Vec::new(),
            folder,
        }
    }

    /// One that serves `web` already.
    pub(crate) async fn serving(protocol: Protocol, hold: Hold) -> (Self, SocketAddr) {
        let mut proxy = Self::start().await;
        let address = proxy.serve(web(), protocol, hold).await;
        (proxy, address)
    }

    /// Serves a service at an address of its own.
    pub(crate) async fn serve(&mut self, service: ServiceName, protocol: Protocol, hold: Hold) -> SocketAddr {
        let listener = listener::bind(([127, 0, 0, 1], 0).into(), false).unwrap();
        let listen = listener.local_addr().unwrap();
        let message = serve(service.clone(), listen, protocol, hold);
        self.agent.send(&message, Some(listener.as_fd())).await.unwrap();
        self.sockets.push(listener);
        let error = self
            .hears(|said| match said {
                FromProxy::Served { service: of, error } if *of == service => Some(error.clone()),
                _ => None,
            })
            .await;
        assert_eq!(error, None);
        listen
    }

    /// Routes `web`; returns when the route is in force.
    pub(crate) async fn route(&mut self, targets: Vec<Target>, leaving: Vec<Leaving>) -> u64 {
        self.revision += 1;
        self.route_as(self.revision, targets, leaving).await
    }

    pub(crate) async fn route_as(&mut self, revision: u64, targets: Vec<Target>, leaving: Vec<Leaving>) -> u64 {
        let route = Route {
            service: web(),
            revision,
            targets,
            leaving,
        };
        self.agent.send(&ToProxy::Route(route), None).await.unwrap();
        self.hears(|said| match said {
            FromProxy::Routed { revision, .. } => Some(*revision),
            _ => None,
        })
        .await
    }

    /// The first message not yet heard that `wanted` makes something of; the others are kept.
    pub(crate) async fn hears<T>(&mut self, mut wanted: impl FnMut(&FromProxy) -> Option<T>) -> T {
        let mut at = 0;
        loop {
            if at == self.unheard.len() {
                let receive = tokio::time::timeout(PATIENCE, self.agent.receive()).await;
                let Ok(received) = receive else {
                    panic!("the proxy said nothing of the kind, but {:?}", self.unheard);
                };
                self.unheard.push(received.unwrap().0);
            }
            if let Some(wanted) = wanted(&self.unheard[at]) {
                self.unheard.remove(at);
                return wanted;
            }
            at += 1;
        }
    }

    /// How many connections or requests of a leaving instance were cut.
    pub(crate) async fn hears_drained(&mut self, number: u32) -> u32 {
        self.hears(|said| match said {
            FromProxy::Drained { instance: of, cut, .. } if *of == instance(number) => Some(*cut),
            _ => None,
        })
        .await
    }

    /// Totals that satisfy a condition.
    pub(crate) async fn hears_totals(&mut self, wanted: impl Fn(&Totals) -> bool) -> Totals {
        self.hears(|said| match said {
            FromProxy::Traffic { totals, .. } if wanted(totals) => Some(*totals),
            _ => None,
        })
        .await
    }
}
