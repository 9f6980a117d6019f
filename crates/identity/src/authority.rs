//! The two authorities of a cluster, and the certificates that they sign.

use crate::certificate::{IssueId, from_pem};
use crate::random::sha256;
use crate::sign::{end, host_names, make_root, read_csr, sign, to_pem};
use crate::{ClusterId, FileError, Folder, Kind, NodeRole, Peer, Right, Secret, Who};
use model::{NodeName, WallTime};
use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a node's certificates are valid unless told otherwise: 90 days, renewed after 60.
pub const NODE_LIFETIME: Lifetime = Lifetime(Duration::from_secs(90 * 86_400));
/// How long an operator's certificate is valid unless told otherwise: a year, for nobody renews it by itself.
pub const OPERATOR_LIFETIME: Lifetime = Lifetime(Duration::from_secs(365 * 86_400));
/// How long an authority is valid.
pub(crate) const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Certificates begin this much before they are made, for clocks that are behind.
pub const BACKDATED: Duration = Duration::from_secs(3_600);
/// More addresses than this have no node; the bound keeps certificates small.
pub(crate) const HOSTS_MAX: usize = 64;

/// How long a certificate is valid from the moment it is made: one minute to ten years.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime(Duration);

impl Lifetime {
    /// Takes a lifetime in; `None` if it is shorter than a minute or longer than ten years.
    pub fn new(lifetime: Duration) -> Option<Self> {
        (Duration::from_secs(60)..=AUTHORITY_LIFETIME)
            .contains(&lifetime)
            .then_some(Self(lifetime))
    }

    /// As a span.
    pub fn duration(self) -> Duration {
        self.0
    }
}

/// The certificates of one generation of the authorities. No secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaCerts {
    /// Counted from 1; a replaced authority has the next number.
    pub generation: u32,
    /// The authority for nodes and operators, in PEM.
    pub cluster_pem: String,
    /// The authority for the store, in PEM.
    pub store_pem: String,
}

impl CaCerts {
    /// SHA-256 of the cluster authority's certificate: what a join token names. `None` if the PEM is damaged.
    pub fn fingerprint(&self) -> Option<[u8; 32]> {
        Some(sha256(from_pem(&self.cluster_pem)?.first()?))
    }
}

/// Both authorities of one generation, with their keys: whoever has it can be anybody in the cluster.
pub struct Authority {
    cluster_id: ClusterId,
    certs: CaCerts,
    cluster: Issuer<'static, KeyPair>,
    store: Issuer<'static, KeyPair>,
}

/// Why an authority could not be made, read, or would not sign.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The kernel gave no random bytes.
    #[error("the kernel gives no random bytes (getrandom failed); is it forbidden by a seccomp filter?")]
    NoRandom,

    /// The request is no certificate signing request that is signed by its own key.
    #[error("the certificate request is damaged or not signed by its own key")]
    BadRequest,

    /// The key in the request is of another kind.
    #[error(
        "the certificate request has a key that is not ECDSA P-256; keys are made by the joining node's own program"
    )]
    OtherKey,

    /// A name or address cannot stand in a certificate of this node.
    #[error("`{host}` cannot stand in the certificate of {node}: {why}")]
    Host {
        /// As given.
        host: String,
        /// Whose certificate.
        node: NodeName,
        /// What is wrong.
        why: &'static str,
    },

    /// Too many names and addresses.
    #[error("{given} names and addresses in one certificate, at most {HOSTS_MAX} are allowed")]
    TooManyHosts {
        /// How many.
        given: usize,
    },

    /// The file of the authority is damaged.
    #[error("the file `{name}` of the authority is damaged: {what}; copy it from another member")]
    Damaged {
        /// The file, within the folder.
        name: String,
        /// What was found.
        what: &'static str,
    },

    /// The file of the authority cannot be used.
    #[error("the authority cannot be read or written")]
    File(#[from] FileError),

    /// The library for certificates refused.
    #[error("failed to make a certificate ({0})")]
    Make(String),
}

/// What is to be signed for a node: whose keys, and what the certificates say. Names come from whoever decided them
/// (the token, the certificate that is renewed), never from the request itself.
#[derive(Debug, Clone, Copy)]
pub struct Enrolment<'a> {
    /// The node.
    pub node: &'a NodeName,
    /// Its role; voting nodes get certificates for etcd.
    pub role: NodeRole,
    /// IP addresses and DNS names under which it is reached.
    pub hosts: &'a [String],
    /// Request for the node's key, in PEM.
    pub node_csr: &'a str,
    /// Request for the node's store key, in PEM.
    pub store_csr: &'a str,
}

impl Authority {
    /// Makes the authorities of a new cluster.
    pub fn create(now: WallTime) -> Result<Self, IssueError> {
        let cluster = ClusterId::random().ok_or(IssueError::NoRandom)?;
        Self::make(cluster, 1, now)
    }

    /// Makes the authorities that shall replace these (see [`crate::rotation`]).
    pub fn successor(&self, now: WallTime) -> Result<Self, IssueError> {
        Self::make(self.cluster_id, self.certs.generation.saturating_add(1), now)
    }

    fn make(cluster_id: ClusterId, generation: u32, now: WallTime) -> Result<Self, IssueError> {
        let (cluster_pem, cluster) = make_root(cluster_id, Kind::ClusterAuthority(generation), now)?;
        let (store_pem, store) = make_root(cluster_id, Kind::StoreAuthority(generation), now)?;
        let certs = CaCerts {
            generation,
            cluster_pem,
            store_pem,
        };
        Ok(Self {
            cluster_id,
            certs,
            cluster,
            store,
        })
    }

    /// The cluster.
    pub fn cluster_id(&self) -> ClusterId {
        self.cluster_id
    }

    /// The certificates of the authorities: no secrets.
    pub fn certs(&self) -> &CaCerts {
        &self.certs
    }

    /// All of it, to be handed to another member inside mutual TLS, and to nobody else.
    pub fn to_secret(&self) -> Secret {
        let mut text = zeroize::Zeroizing::new(String::new());
        for (cert, key) in [
            (&self.certs.cluster_pem, self.cluster.key()),
            (&self.certs.store_pem, self.store.key()),
        ] {
            text.push_str(cert);
            text.push_str(&zeroize::Zeroizing::new(key.serialize_pem()));
        }
        Secret::new(text.as_str().to_owned())
    }

    /// Reads what [`Authority::to_secret`] wrote. `name` is for the error.
    pub fn from_secret(secret: &Secret, name: &str) -> Result<Self, IssueError> {
        let damaged = |what| IssueError::Damaged {
            name: name.into(),
            what,
        };
        let certs = from_pem(secret.reveal()).ok_or_else(|| damaged("no certificates in it"))?;
        let keys: Result<Vec<_>, _> = PrivatePkcs8KeyDer::pem_slice_iter(secret.reveal().as_bytes()).collect();
        let keys = keys.map_err(|_| damaged("a key is unreadable"))?;
        let ([cluster_der, store_der], [cluster_key, store_key]) = (&certs[..], &keys[..]) else {
            return Err(damaged("two certificates and two keys are expected"));
        };
        let peer = |der: &[u8]| Peer::of_certificate(der).ok_or_else(|| damaged("a certificate is of another kind"));
        let (first, second) = (peer(cluster_der)?.who, peer(store_der)?.who);
        let (Kind::ClusterAuthority(generation), Kind::StoreAuthority(other)) = (&first.kind, &second.kind) else {
            return Err(damaged("a certificate is of another kind"));
        };
        if first.cluster != second.cluster || generation != other {
            return Err(damaged("its two certificates are of different clusters or generations"));
        }
        let issuer = |der: &CertificateDer<'_>, key| -> Result<_, IssueError> {
            let key = KeyPair::from_pkcs8_der_and_sign_algo(key, &PKCS_ECDSA_P256_SHA256)
                .map_err(|_| damaged("a key is not ECDSA P-256"))?;
            if crate::certificate::public_key(der).as_deref() != Some(key.public_key_raw()) {
                return Err(damaged("a key does not belong to its certificate"));
            }
            Issuer::from_ca_cert_der(der, key).map_err(|_| damaged("a certificate is unreadable"))
        };
        Ok(Self {
            cluster_id: first.cluster,
            certs: CaCerts {
                generation: *generation,
                cluster_pem: to_pem(cluster_der),
                store_pem: to_pem(store_der),
            },
            cluster: issuer(cluster_der, cluster_key)?,
            store: issuer(store_der, store_key)?,
        })
    }

    /// Writes it to its file in the folder.
    pub fn save(&self, folder: &Folder) -> Result<(), IssueError> {
        Ok(folder.write_secret(&file_name(self.certs.generation), &self.to_secret())?)
    }

    /// Reads one generation from the folder.
    pub fn load(folder: &Folder, generation: u32) -> Result<Self, IssueError> {
        let name = file_name(generation);
        Self::from_secret(&folder.read_secret(&name)?, &name)
    }

    /// Forgets a generation, after it was replaced.
    pub fn remove(folder: &Folder, generation: u32) -> Result<(), IssueError> {
        Ok(folder.remove(&file_name(generation))?)
    }

    /// Signs all that a node needs. What the requests say about names is ignored; only their keys count.
    pub fn enrol(
        &self,
        enrolment: &Enrolment<'_>,
        lifetime: Lifetime,
        now: WallTime,
    ) -> Result<crate::Certificates, IssueError> {
        let Enrolment { node, role, hosts, .. } = *enrolment;
        let node_key = read_csr(enrolment.node_csr)?;
        let store_key = read_csr(enrolment.store_csr)?;
        let hosts = host_names(node, hosts)?;
        let issue = IssueId::random().ok_or(IssueError::NoRandom)?;
        let span = (now, lifetime);
        let who = |kind| Who {
            cluster: self.cluster_id,
            kind,
        };
        // The authority comes along, so that a joiner that only knows its fingerprint can check the rest.
        let node_kind = Kind::Node {
            name: node.clone(),
            role,
        };
        let leaf = sign(&self.cluster, &node_key, &who(node_kind), issue, &hosts, span)?;
        let client = Kind::StoreClient(node.clone());
        let store = |kind, hosts: &[SanType]| sign(&self.store, &store_key, &who(kind), issue, hosts, span);
        Ok(crate::Certificates {
            issue,
            not_after: end(now, lifetime),
            node_pem: format!("{leaf}{}", self.certs.cluster_pem),
            // etcd compares names and addresses in a client's certificate with where it comes from: none, no mistake.
            store_client_pem: store(client, &[])?,
            store_server_pem: if role.votes() {
                Some(store(Kind::StoreServer(node.clone()), &hosts)?)
            } else {
                None
            },
            store_peer_pem: if role.votes() {
                Some(store(Kind::StorePeer(node.clone()), &hosts)?)
            } else {
                None
            },
        })
    }

    /// Signs a certificate for an operator, for the API and nothing else. Gives it with the authority's, in PEM.
    pub fn enrol_operator(
        &self,
        name: &NodeName,
        right: Right,
        csr: &str,
        lifetime: Lifetime,
        now: WallTime,
    ) -> Result<(IssueId, String), IssueError> {
        let key = read_csr(csr)?;
        let issue = IssueId::random().ok_or(IssueError::NoRandom)?;
        let kind = Kind::Operator {
            name: name.clone(),
            right,
        };
        let who = Who {
            cluster: self.cluster_id,
            kind,
        };
        let leaf = sign(&self.cluster, &key, &who, issue, &[], (now, lifetime))?;
        Ok((issue, format!("{leaf}{}", self.certs.cluster_pem)))
    }

    pub(crate) fn cluster_key(&self) -> &KeyPair {
        self.cluster.key()
    }

    pub(crate) fn store_issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.store
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Authority({} {}, keys not shown)",
            self.cluster_id, self.certs.generation
        )
    }
}

impl IssueError {
    #[expect(clippy::needless_pass_by_value, reason = "it is for `map_err`")]
    pub(crate) fn make(error: rcgen::Error) -> Self {
        IssueError::Make(error.to_string())
    }
}

fn file_name(generation: u32) -> String {
    format!("authority-{generation}.pem")
}
