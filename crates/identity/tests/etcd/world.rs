//! etcd processes on addresses of their own, and calls to them over our TLS.

use identity::rotation::TrustRecord;
use identity::{
    Authority, Bundle, Folder, IssueId, Keys, Lifetime, NODE_LIFETIME, NodeRole, Peer, Refused, Registrar,
    RevocationList, Tls, etcd,
};
use model::{NodeName, WallTime};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) struct Cluster {
    pub(crate) authority: Authority,
    pub(crate) trust: TrustRecord,
    pub(crate) revoked: RevocationList,
    temporary: tempfile::TempDir,
    /// First three bytes of the members' addresses.
    net: String,
}

impl Cluster {
    /// `number` tells the tests of this file apart.
    pub(crate) fn new(number: u32) -> Self {
        let authority = Authority::create(now()).expect("authority");
        let pid = std::process::id();
        Self {
            trust: TrustRecord::first(&authority),
            revoked: RevocationList::first(&authority, now()).expect("list"),
            authority,
            temporary: tempfile::tempdir().expect("folder"),
            net: format!("127.{}.{}", 100 + number, 1 + pid % 250),
        }
    }

    /// Starts three members and waits until they answer.
    pub(crate) async fn start(&self, role: NodeRole) -> Vec<Member> {
        let address = |at: usize, port: u16| format!("{}.{}:{port}", self.net, at + 1).parse().expect("address");
        let peers: Vec<String> = (0..3)
            .map(|at| format!("m{at}=https://{}", address(at, 2380)))
            .collect();
        let mut members: Vec<Member> = (0..3)
            .map(|at| {
                let node = format!("m{at}");
                let home = self.temporary.path().join(&node);
                std::fs::create_dir(&home).expect("folder");
                let folder = Folder::create(home.join("pki")).expect("folder");
                let keys = Keys::generate().expect("keys");
                let host = format!("{}.{}", self.net, at + 1);
                self.bundle(&keys, &node, &host, role, (NODE_LIFETIME, now()))
                    .save(&folder, &keys)
                    .expect("saved");
                Member {
                    node,
                    host,
                    client: address(at, 2379),
                    peer: address(at, 2380),
                    folder,
                    peers: peers.join(","),
                    process: None,
                }
            })
            .collect();
        for member in &mut members {
            member.spawn();
        }
        let worker = self.worker("starter");
        for member in &members {
            well(&worker.store(), member.client).await;
        }
        members
    }

    pub(crate) fn worker(&self, node: &str) -> Node {
        let folder = Folder::create(self.temporary.path().join(format!("{node}-pki"))).expect("folder");
        let keys = Keys::generate().expect("keys");
        let bundle = self.bundle(&keys, node, "127.0.0.1", NodeRole::Worker, (NODE_LIFETIME, now()));
        bundle.save(&folder, &keys).expect("saved");
        Node {
            tls: Tls::load(&folder).expect("loaded"),
            folder,
            node: node.into(),
        }
    }

    pub(crate) fn stranger(&self) -> Tls {
        Tls::new(self.trust.clone(), self.revoked.clone()).expect("tls")
    }

    /// Puts the successor in the place of the authority and gives the old one.
    pub(crate) fn replace_authority(&mut self) -> Authority {
        let new = self.authority.successor(now()).expect("successor");
        std::mem::replace(&mut self.authority, new)
    }

    fn bundle(&self, keys: &Keys, node: &str, host: &str, role: NodeRole, life: (Lifetime, WallTime)) -> Bundle {
        // On loopback all connections come from 127.0.0.1, and etcd wants to find that in a peer's certificate.
        let hosts = [host.to_owned(), "127.0.0.1".to_owned()];
        let request = keys.request(None, &name(node), None, &hosts).expect("request");
        let copy = Authority::from_secret(&self.authority.to_secret(), "copy").expect("copy");
        let registrar = Registrar {
            authorities: &[copy],
            trust: &self.trust,
            revoked: &self.revoked,
            endpoints: &[],
            profile: &serde_json::Value::Null,
            lifetime: life.0,
        };
        registrar.enrol(&name(node), role, &request, life.1).expect("bundle")
    }
}

pub(crate) struct Node {
    pub(crate) tls: Tls,
    pub(crate) folder: Folder,
    node: String,
}

impl Node {
    pub(crate) fn store(&self) -> ClientConfig {
        self.tls.store_client_config().expect("config")
    }

    pub(crate) fn enrol(&self, cluster: &Cluster, role: NodeRole, life: (Lifetime, WallTime)) {
        let keys = Keys::renewed(&self.folder).expect("keys");
        cluster
            .bundle(&keys, &self.node, "127.0.0.1", role, life)
            .save(&self.folder, &keys)
            .expect("saved");
        self.tls.reload_own(&self.folder).expect("reloaded");
    }
}

pub(crate) struct Member {
    node: String,
    host: String,
    pub(crate) client: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) folder: Folder,
    peers: String,
    process: Option<Child>,
}

impl Member {
    fn spawn(&mut self) {
        let home = self.folder.path().parent().expect("home");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(home.join("log"))
            .expect("log");
        let mut command = Command::new("etcd");
        command
            .arg(format!("--name={}", self.node))
            .arg(format!("--data-dir={}", home.join("data").display()))
            .arg(format!("--listen-client-urls=https://{}", self.client))
            .arg(format!("--advertise-client-urls=https://{}", self.client))
            .arg(format!("--listen-peer-urls=https://{}", self.peer))
            .arg(format!("--initial-advertise-peer-urls=https://{}", self.peer))
            .arg(format!("--initial-cluster={}", self.peers))
            .args([
                "--heartbeat-interval=50",
                "--election-timeout=500",
                "--pre-vote",
                "--logger=zap",
            ])
            .args(etcd::flags(&self.folder))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .process_group(0);
        let process = command
            .spawn()
            .expect("etcd is missing: apt-get install --no-install-recommends etcd-server");
        self.process = Some(process);
    }

    /// Stops it in order, so that it hands the leadership over, and starts it again.
    pub(crate) async fn restart(&mut self) {
        let mut process = self.process.take().expect("runs");
        let pid = rustix::process::Pid::from_child(&process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal to our child");
        let begin = Instant::now();
        while process.try_wait().expect("our child").is_none() {
            if begin.elapsed() > Duration::from_secs(20) {
                process.kill().expect("kill");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.spawn();
    }

    /// New certificates in its files, the same key for the store.
    pub(crate) fn enrol(&self, cluster: &Cluster, role: NodeRole, life: (Lifetime, WallTime)) -> IssueId {
        let keys = Keys::renewed(&self.folder).expect("keys");
        let bundle = cluster.bundle(&keys, &self.node, &self.host, role, life);
        bundle.check(&keys, &name(&self.node), None).expect("fits");
        bundle.save(&self.folder, &keys).expect("saved");
        bundle.certificates.issue
    }

    /// Shows this member's peer certificate and believes whoever answers: what is tested is what etcd believes.
    pub(crate) fn peer_client(&self, like: &ClientConfig) -> ClientConfig {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let key = self.folder.read_secret("store.key").expect("key");
        let key = PrivateKeyDer::from_pem_slice(key.reveal().as_bytes()).expect("key");
        let chain = CertificateDer::pem_file_iter(self.folder.file("store-peer.crt")).expect("file");
        let chain = chain.collect::<Result<Vec<_>, _>>().expect("certificate");
        let mut roots = rustls::RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(self.folder.file("store-ca.crt")).expect("file") {
            roots.add(root.expect("certificate")).expect("root");
        }
        ClientConfig::builder_with_provider(like.crypto_provider().clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("versions")
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .expect("key of the certificate")
    }

    pub(crate) fn etcdctl(&self, folder: &Folder, words: &[&str]) -> io::Result<()> {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints=https://{}", self.client))
            .arg(format!("--cacert={}", folder.file("store-ca.crt").display()))
            .arg(format!("--cert={}", folder.file("store-client.crt").display()))
            .arg(format!("--key={}", folder.file("store.key").display()))
            .args(words)
            .output()
            .expect("etcdctl is missing: apt-get install --no-install-recommends etcd-client");
        if output.status.success() {
            Ok(())
        } else {
            Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            let log = self.folder.path().parent().map(|home| home.join("log"));
            let text = log
                .and_then(|log| std::fs::read_to_string(log).ok())
                .unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(60).collect();
            for line in lines.iter().rev() {
                eprintln!("{}: {line}", self.node);
            }
        }
    }
}

#[derive(Debug)]
pub(crate) enum Error {
    /// TLS said no, on our side or theirs.
    Refused(Refused),
    /// The connection broke, or the answer was none.
    #[expect(dead_code, reason = "shown when a test fails")]
    Broken(String),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Refused::from_io(&error).map_or_else(|| Error::Broken(error.to_string()), Error::Refused)
    }
}

/// Writes a key over a connection of its own, through etcd's HTTP gateway.
pub(crate) async fn put(config: &ClientConfig, address: SocketAddr) -> Result<(), Error> {
    let body = r#"{"key":"a2V5","value":"dmFsdWU="}"#;
    let length = body.len();
    let request = format!(
        "POST /v3/kv/put HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    ask(config, address, &request).await
}

pub(crate) async fn get(config: &ClientConfig, address: SocketAddr, path: &str) -> Result<(), Error> {
    ask(
        config,
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n"),
    )
    .await
}

/// Whom a server shows itself as.
pub(crate) async fn shown(config: &ClientConfig, address: SocketAddr) -> Result<Peer, Error> {
    let tls = connect(config, address).await?;
    Ok(Peer::of_connection(tls.get_ref().1.peer_certificates()).expect("a certificate of ours"))
}

/// Waits until a member answers.
pub(crate) async fn well(config: &ClientConfig, address: SocketAddr) {
    let begin = Instant::now();
    while let Err(error) = put(config, address).await {
        assert!(
            begin.elapsed() < Duration::from_secs(40),
            "{address} does not answer: {error:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn connect(config: &ClientConfig, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    let connector = TlsConnector::from(Arc::new(config.clone()));
    connector.connect(ServerName::from(address.ip()), tcp).await
}

async fn ask(config: &ClientConfig, address: SocketAddr, request: &str) -> Result<(), Error> {
    let exchange = async {
        let mut tls = connect(config, address).await?;
        tls.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        tls.read_to_end(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(10), exchange).await;
    let answer = answer.map_err(|_| Error::Broken("no answer in 10 s".into()))??;
    let text = String::from_utf8_lossy(&answer);
    if text.starts_with("HTTP/1.1 200") {
        Ok(())
    } else {
        Err(Error::Broken(text.into_owned()))
    }
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
