//! Clusters, nodes, and a server that tells each client whom it takes it for.

use identity::rotation::TrustRecord;
use identity::{
    Authority, Bundle, Keys, Lifetime, NODE_LIFETIME, NodeRole, Peer, Refused, Registrar, RevocationList, Tls,
};
use model::{NodeName, WallTime};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub(crate) struct Cluster {
    pub(crate) authority: Authority,
    pub(crate) trust: TrustRecord,
    pub(crate) revoked: RevocationList,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let authority = Authority::create(now()).expect("authority");
        let trust = TrustRecord::first(&authority);
        let revoked = RevocationList::first(&authority, now()).expect("list");
        Self {
            authority,
            trust,
            revoked,
        }
    }

    pub(crate) fn enrol(&self, keys: &Keys, node: &str, role: NodeRole, life: (Lifetime, WallTime)) -> Bundle {
        let request = keys
            .request(None, &name(node), None, &["127.0.0.1".into()])
            .expect("request");
        let authorities = [copy(&self.authority)];
        let registrar = self.registrar(&authorities, life.0);
        registrar.enrol(&name(node), role, &request, life.1).expect("bundle")
    }

    pub(crate) fn registrar<'a>(&'a self, authorities: &'a [Authority], lifetime: Lifetime) -> Registrar<'a> {
        Registrar {
            authorities,
            trust: &self.trust,
            revoked: &self.revoked,
            endpoints: &[],
            profile: &serde_json::Value::Null,
            lifetime,
        }
    }

    pub(crate) fn node(&self, node: &str, role: NodeRole) -> Tls {
        self.node_at(node, role, NODE_LIFETIME, now())
    }

    /// A node whose certificates were made at another time.
    pub(crate) fn node_at(&self, node: &str, role: NodeRole, lifetime: Lifetime, at: WallTime) -> Tls {
        let keys = Keys::generate().expect("keys");
        let bundle = self.enrol(&keys, node, role, (lifetime, at));
        bundle.check(&keys, &name(node), None).expect("a bundle that fits");
        let tls = self.stranger();
        show(&tls, &keys, &bundle);
        tls
    }

    /// Trusts the cluster and has no certificate.
    pub(crate) fn stranger(&self) -> Tls {
        Tls::new(self.trust.clone(), self.revoked.clone()).expect("tls")
    }
}

/// As another member would have it.
pub(crate) fn copy(authority: &Authority) -> Authority {
    Authority::from_secret(&authority.to_secret(), "copy").expect("copy")
}

pub(crate) fn show(tls: &Tls, keys: &Keys, bundle: &Bundle) {
    let certificates = &bundle.certificates;
    let store = Some((keys.store_key(), certificates.store_client_pem.as_str()));
    tls.replace_own(&keys.node_pem(certificates), store)
        .expect("own certificate");
}

/// A server that greets each client by whom it took it for. It ends with the value.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) refused: mpsc::UnboundedReceiver<Option<Refused>>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("address");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (tell, refused) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, tell) = (acceptor.clone(), tell.clone());
                tokio::spawn(async move {
                    match acceptor.accept(tcp).await {
                        Ok(mut tls) => {
                            let peer = Peer::of_connection(tls.get_ref().1.peer_certificates());
                            let greeting = peer.map_or("nobody".to_owned(), |peer| peer.who.kind.to_string());
                            let _ = tls.write_all(greeting.as_bytes()).await;
                            let _ = tls.shutdown().await;
                        }
                        Err(error) => {
                            let _ = tell.send(Refused::from_io(&error));
                        }
                    }
                });
            }
        });
        Self { address, refused, task }
    }

    /// Why the server refused the last client.
    pub(crate) async fn why(&mut self) -> Refused {
        let told = tokio::time::timeout(Duration::from_secs(10), self.refused.recv()).await;
        told.expect("refused within 10 s")
            .expect("a server")
            .expect("a refusal by TLS")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Calls a server: its greeting and whom the client took it for, or why one of the two refused.
pub(crate) async fn call(config: ClientConfig, address: SocketAddr) -> Result<(String, Peer), Refused> {
    call_with(&TlsConnector::from(Arc::new(config)), address).await
}

pub(crate) async fn call_with(connector: &TlsConnector, address: SocketAddr) -> Result<(String, Peer), Refused> {
    attempt(connector, address)
        .await
        .map_err(|error| Refused::from_io(&error).unwrap_or_else(|| panic!("no refusal by TLS: {error}")))
}

async fn attempt(connector: &TlsConnector, address: SocketAddr) -> io::Result<(String, Peer)> {
    let tcp = TcpStream::connect(address).await?;
    let mut tls = connector.connect(ServerName::from(address.ip()), tcp).await?;
    let peer = Peer::of_connection(tls.get_ref().1.peer_certificates()).expect("a server with a certificate");
    let mut greeting = String::new();
    tls.read_to_string(&mut greeting).await?;
    Ok((greeting, peer))
}

pub(crate) fn now() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    WallTime(since.as_millis() as i64)
}

pub(crate) fn name(name: &str) -> NodeName {
    NodeName::new(name).expect("name")
}

pub(crate) fn minutes(minutes: u64) -> Lifetime {
    Lifetime::new(Duration::from_secs(60 * minutes)).expect("lifetime")
}
