//! Configurations for TLS whose certificates can be exchanged while they are in use.

use crate::bundle::read_key;
use crate::certificate::from_pem;
use crate::rotation::TrustRecord;
use crate::trust::{Stale, Trust, TrustError};
use crate::verify::{Clients, Pinned, Servers};
use crate::{ClusterId, FileError, Folder, JoinToken, Peer, RevocationList, Secret};
use model::NodeName;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use std::sync::{Arc, PoisonError, RwLock};

/// What a node shows and whom it believes. All configurations made from one share it: what is replaced here holds from
/// the next handshake on, and no connection is cut.
#[derive(Debug, Clone)]
pub struct Tls {
    live: Arc<Live>,
}

/// Whom a client wants to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// This node and no other, whatever its address.
    Node(NodeName),
    /// Some node of this cluster; ask [`Peer::of_connection`] which.
    AnyNode,
    /// A member of the store, with the called name or address in its certificate.
    Store,
}

/// Why configurations cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file is missing, open to others or unreadable.
    #[error("a key or certificate cannot be read")]
    File(#[from] FileError),
    /// A file has other content than it should.
    #[error("`{name}` is damaged: {what}; join again, or copy it from a backup")]
    Damaged {
        /// The file.
        name: &'static str,
        /// What is wrong.
        what: String,
    },
    /// The record of trusted authorities cannot be used.
    #[error("the trusted authorities cannot be used")]
    Trust(#[from] TrustError),
    /// TLS could not be set up.
    #[error("failed to set up TLS")]
    Tls(#[from] rustls::Error),
}

#[derive(Debug)]
pub(crate) struct Live {
    cluster: ClusterId,
    trust: RwLock<Arc<Trust>>,
    own: RwLock<Option<Arc<Own>>>,
}

/// What this node shows.
#[derive(Debug)]
struct Own {
    peer: Peer,
    node: Arc<CertifiedKey>,
    store_client: Option<Arc<CertifiedKey>>,
}

impl Tls {
    /// For a program that has no certificate (yet), or gets it with [`Tls::replace_own`].
    pub fn new(trust: TrustRecord, revoked: RevocationList) -> Result<Self, TrustError> {
        let cluster = trust.cluster;
        let live = Live {
            cluster,
            trust: RwLock::new(Arc::new(Trust::new(trust, revoked)?)),
            own: RwLock::new(None),
        };
        Ok(Self { live: Arc::new(live) })
    }

    /// From the folder of a node.
    pub fn load(folder: &Folder) -> Result<Self, ConfigError> {
        let trust: TrustRecord = read_json(folder, crate::bundle::TRUST_FILE)?;
        let revoked: RevocationList = read_json(folder, crate::bundle::REVOKED_FILE)?;
        let tls = Self::new(trust, revoked)?;
        tls.reload_own(folder)?;
        Ok(tls)
    }

    /// Reads this node's keys and certificates from the folder once more, for whoever is told that they were renewed.
    pub fn reload_own(&self, folder: &Folder) -> Result<(), ConfigError> {
        let node = folder.read_secret(crate::bundle::NODE_FILE)?;
        let store_key = folder.read_secret(crate::bundle::STORE_KEY_FILE)?;
        let store_client = folder.read_public(crate::bundle::STORE_CLIENT_FILE)?;
        self.replace_own(&node, Some((&store_key, &store_client)))
    }

    /// Replaces what this node shows: `node` has key and certificates in PEM, `store` the key and the certificates for the
    /// store. Refuses a key that does not belong to its certificate, and then nothing is replaced.
    pub fn replace_own(&self, node: &Secret, store: Option<(&Secret, &str)>) -> Result<(), ConfigError> {
        let damaged = |what: &str| ConfigError::Damaged {
            name: crate::bundle::NODE_FILE,
            what: what.into(),
        };
        let key = certified(crate::bundle::NODE_FILE, node, node.reveal())?;
        let peer = key.cert.first().and_then(|der| Peer::of_certificate(der));
        let peer = peer.ok_or_else(|| damaged("its certificate is none of an Understudy cluster"))?;
        if peer.who.cluster != self.live.cluster {
            return Err(damaged("its certificate is of another cluster"));
        }
        let store_client = match store {
            Some((key, pem)) => Some(Arc::new(certified(crate::bundle::STORE_CLIENT_FILE, key, pem)?)),
            None => None,
        };
        let own = Own {
            peer,
            node: Arc::new(key),
            store_client,
        };
        *self.live.own.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(own));
        Ok(())
    }

    /// Takes over all that another one has, if it is not older.
    pub(crate) fn take_over(&self, fresh: &Self) -> Result<(), TrustError> {
        let trust = fresh.live.trust();
        self.replace_trust(trust.record.clone())?;
        self.replace_revoked(trust.revoked.clone())?;
        *self.live.own.write().unwrap_or_else(PoisonError::into_inner) = fresh.live.own();
        Ok(())
    }

    /// Replaces the trusted authorities. The record was opened with the present one ([`crate::Sealed::open`]).
    pub fn replace_trust(&self, record: TrustRecord) -> Result<(), TrustError> {
        let mut trust = self.live.trust.write().unwrap_or_else(PoisonError::into_inner);
        if record.cluster != self.live.cluster {
            return Err(TrustError::OtherCluster);
        }
        if record.version < trust.record.version {
            return Err(Stale {
                given: record.version,
                known: trust.record.version,
            }
            .into());
        }
        *trust = Arc::new(Trust::new(record, trust.revoked.clone())?);
        Ok(())
    }

    /// Replaces the revocation list. Connections that are open stay open: ask [`Tls::still_allowed`] about each.
    pub fn replace_revoked(&self, revoked: RevocationList) -> Result<(), TrustError> {
        let mut trust = self.live.trust.write().unwrap_or_else(PoisonError::into_inner);
        if revoked.version < trust.revoked.version {
            return Err(Stale {
                given: revoked.version,
                known: trust.revoked.version,
            }
            .into());
        }
        *trust = Arc::new(Trust::new(trust.record.clone(), revoked)?);
        Ok(())
    }

    /// Whether a peer of an open connection may stay: nobody revoked its certificate since.
    pub fn still_allowed(&self, peer: &Peer) -> bool {
        self.live.trust().revoked.revoked(peer).is_none()
    }

    /// Who this node shows itself as, and until when; `None` without a certificate.
    pub fn own(&self) -> Option<Peer> {
        self.live.own().map(|own| own.peer.clone())
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.live.cluster
    }

    /// The trusted authorities as they are now.
    pub fn trusted(&self) -> TrustRecord {
        self.live.trust().record.clone()
    }

    /// For an agent: nodes and operators of this cluster, with a certificate, and nobody else. Who it is says
    /// [`Peer::of_connection`]. The caller may set ALPN; it must not turn on resumption.
    pub fn server_config(&self) -> Result<ServerConfig, ConfigError> {
        self.server(false)
    }

    /// For the call that lets nodes in: a client without a certificate is let through, and may do nothing but show a token.
    /// A certificate that is shown is judged all the same. For a listener of its own, or for all calls if each asks
    /// [`Peer::of_connection`] first.
    pub fn join_server_config(&self) -> Result<ServerConfig, ConfigError> {
        self.server(true)
    }

    fn server(&self, anonymous: bool) -> Result<ServerConfig, ConfigError> {
        let clients = Arc::new(Clients {
            live: self.live.clone(),
            anonymous,
        });
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::new(ShowNode(self.live.clone())));
        // A resumed session is not judged again: who was revoked in between would come in.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// For calls to an agent. For [`Expect::Node`] and [`Expect::AnyNode`] the server name that is passed when connecting does
    /// not matter; [`server_name`] makes one.
    pub fn client_config(&self, expect: Expect) -> Result<ClientConfig, ConfigError> {
        let show: Arc<dyn ResolvesClientCert> = match &expect {
            Expect::Store => Arc::new(ShowStoreClient(self.live.clone())),
            Expect::Node(_) | Expect::AnyNode => Arc::new(ShowNode(self.live.clone())),
        };
        let servers = Arc::new(Servers {
            live: self.live.clone(),
            expect,
        });
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(servers)
            .with_client_cert_resolver(show);
        Ok(private(config))
    }

    /// For calls to etcd: shows the store client's certificate and takes members of the store of this cluster.
    pub fn store_client_config(&self) -> Result<ClientConfig, ConfigError> {
        self.client_config(Expect::Store)
    }
}

/// For the call with which a node joins: it has no certificate yet, and believes whoever has the authority that the token names.
pub fn join_client_config(token: &JoinToken) -> Result<ClientConfig, ConfigError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { token: token.clone() }))
        .with_no_client_auth();
    Ok(private(config))
}

/// A server name for a call to a node: its name. It is not sent (no SNI), nor compared with more than the node's name.
pub fn server_name(node: &NodeName) -> Result<ServerName<'static>, InvalidDnsNameError> {
    ServerName::try_from(node.as_str().to_owned())
}

fn private(mut config: ClientConfig) -> ClientConfig {
    config.resumption = Resumption::disabled();
    // The name would be readable on the wire, and no server of ours needs it.
    config.enable_sni = false;
    config
}

impl Live {
    pub(crate) fn trust(&self) -> Arc<Trust> {
        self.trust.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn own(&self) -> Option<Arc<Own>> {
        self.own.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Debug)]
struct ShowNode(Arc<Live>);

impl ResolvesServerCert for ShowNode {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.own().map(|own| own.node.clone())
    }
}

impl ResolvesClientCert for ShowNode {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.own().map(|own| own.node.clone())
    }

    fn has_certs(&self) -> bool {
        self.0.own().is_some()
    }
}

#[derive(Debug)]
struct ShowStoreClient(Arc<Live>);

impl ResolvesClientCert for ShowStoreClient {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.own()?.store_client.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.own().is_some_and(|own| own.store_client.is_some())
    }
}

/// The only provider there is: never the process's default, which another part could have set.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    PROVIDER
        .get_or_init(|| Arc::new(rustls::crypto::ring::default_provider()))
        .clone()
}

fn certified(name: &'static str, key: &Secret, certificates: &str) -> Result<CertifiedKey, ConfigError> {
    let damaged = |what: &str| ConfigError::Damaged {
        name,
        what: what.into(),
    };
    let chain = from_pem(certificates).ok_or_else(|| damaged("there is no certificate in it"))?;
    let key = read_key(key).ok_or_else(|| damaged("there is no key in it"))?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| damaged(&error.to_string()))
}

fn read_json<T: serde::de::DeserializeOwned>(folder: &Folder, name: &'static str) -> Result<T, ConfigError> {
    let text = folder.read_public(name)?;
    serde_json::from_str(&text).map_err(|error| ConfigError::Damaged {
        name,
        what: error.to_string(),
    })
}
