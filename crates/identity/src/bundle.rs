//! What a node gets when it joins, and how it keeps it.
//!
//! | file | mode | what |
//! |---|---|---|
//! | `node.pem` | 0600 | key and certificates towards agents, in one file so that they change together |
//! | `store.key` | 0600 | key towards the store; it stays the same for the life of the node |
//! | `store-client.crt` | 0644 | certificate of the client of etcd |
//! | `store-server.crt`, `store-peer.crt` | 0644 | those of etcd itself; voting nodes only |
//! | `store-ca.crt`, `cluster-ca.crt` | 0644 | trusted authorities, for etcd and for other programs |
//! | `store.crl` | 0644 | what etcd must not believe |
//! | `trust.json`, `revoked.json` | 0644 | the newest records known, so that older ones are refused also after a restart |
//! | `authority-N.pem` | 0600 | the authorities with their keys; members only |

use crate::random::same;
use crate::rotation::TrustRecord;
use crate::{
    Authority, ClusterId, FileError, Folder, IssueError, IssueId, JoinToken, Kind, NodeRole, Peer, RevocationList,
    Secret,
};
use model::{NodeName, WallTime};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

pub(crate) const NODE_FILE: &str = "node.pem";
pub(crate) const STORE_KEY_FILE: &str = "store.key";
pub(crate) const STORE_CLIENT_FILE: &str = "store-client.crt";
pub(crate) const STORE_SERVER_FILE: &str = "store-server.crt";
pub(crate) const STORE_PEER_FILE: &str = "store-peer.crt";
pub(crate) const STORE_CA_FILE: &str = "store-ca.crt";
pub(crate) const STORE_CRL_FILE: &str = "store.crl";
pub(crate) const TRUST_FILE: &str = "trust.json";
pub(crate) const REVOKED_FILE: &str = "revoked.json";
const CLUSTER_CA_FILE: &str = "cluster-ca.crt";

/// The keys of a node, made on it. They never leave it.
#[derive(Debug)]
pub struct Keys {
    node: Secret,
    store: Secret,
}

/// What a node sends to have its keys signed: with a token when it joins, over mutual TLS when it renews.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The token's text; `None` for a renewal.
    pub token: Option<Secret>,
    /// The name it wants. For a renewal the name in its certificate counts.
    pub node: NodeName,
    /// The role it expects; `None` takes what the token gives.
    pub role: Option<NodeRole>,
    /// IP addresses and DNS names under which it is reached.
    pub hosts: Vec<String>,
    /// Certificate request for its key, in PEM.
    pub node_csr: String,
    /// Certificate request for its store key, in PEM.
    pub store_csr: String,
    /// What its clock reads, milliseconds since 1970: clocks that are far apart are found before the token is used up.
    #[serde(default)]
    pub now: Option<WallTime>,
}

/// The certificates of one issue, in PEM. No secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificates {
    /// The issue, to be noted in the store ([`crate::Issued`]).
    pub issue: IssueId,
    /// When they end.
    pub not_after: WallTime,
    /// Towards agents: the node's and the authority's.
    pub node_pem: String,
    /// Client of etcd.
    pub store_client_pem: String,
    /// etcd towards clients; voting nodes only.
    pub store_server_pem: Option<String>,
    /// etcd towards its peers; voting nodes only.
    pub store_peer_pem: Option<String>,
}

/// What a node gets when it joins or renews. For a member it has the authority's keys in it: it goes through mutual or pinned TLS
/// and is never stored as it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bundle {
    /// The cluster.
    pub cluster: ClusterId,
    /// The name the node got.
    pub node: NodeName,
    /// The role it got.
    pub role: NodeRole,
    /// Whom to trust.
    pub trust: TrustRecord,
    /// Whom not.
    pub revoked: RevocationList,
    /// Its certificates.
    pub certificates: Certificates,
    /// The authorities with their keys, one for each generation that is trusted; members only.
    pub authorities: Vec<Secret>,
    /// URLs of the store's members.
    pub endpoints: Vec<String>,
    /// What the cluster is set up like; opaque here.
    pub profile: serde_json::Value,
}

/// Why a bundle is not taken.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The answer does not fit what was asked for.
    #[error(
        "the answer to the join is refused: {0}; the member that answered has another version, or is not to be trusted"
    )]
    Mismatch(&'static str),
    /// The authority in it is damaged.
    #[error("the authority in the answer cannot be used")]
    Authority(#[from] IssueError),
    /// It could not be written.
    #[error("the answer cannot be kept")]
    File(#[from] FileError),
}

impl Keys {
    /// Makes new keys.
    pub fn generate() -> Result<Self, IssueError> {
        Ok(Self {
            node: new_key()?,
            store: new_key()?,
        })
    }

    /// The keys for a renewal: a new one towards agents, the present one for the store.
    pub fn renewed(folder: &Folder) -> Result<Self, IssueError> {
        Ok(Self {
            node: new_key()?,
            store: folder.read_secret(STORE_KEY_FILE)?,
        })
    }

    /// The request to have them signed.
    pub fn request(
        &self,
        token: Option<&JoinToken>,
        node: &NodeName,
        role: Option<NodeRole>,
        hosts: &[String],
    ) -> Result<JoinRequest, IssueError> {
        Ok(JoinRequest {
            token: token.map(JoinToken::text),
            node: node.clone(),
            role,
            hosts: hosts.to_vec(),
            node_csr: csr(&self.node, NODE_FILE)?,
            store_csr: csr(&self.store, STORE_KEY_FILE)?,
            now: None,
        })
    }

    /// The node's key with its certificates, as `node.pem` holds them and [`crate::Tls::replace_own`] takes them.
    pub fn node_pem(&self, certificates: &Certificates) -> Secret {
        let mut text = zeroize::Zeroizing::new(String::from(self.node.reveal()));
        text.push_str(&certificates.node_pem);
        Secret::new(text.as_str().to_owned())
    }

    /// The key towards the store.
    pub fn store_key(&self) -> &Secret {
        &self.store
    }
}

impl JoinRequest {
    /// Both certificate requests, for [`crate::Presented::requests`].
    pub fn requests(&self) -> String {
        format!("{}{}", self.node_csr, self.store_csr)
    }
}

impl Bundle {
    /// Checks that the answer is what was asked for, before anything of it is used. `token` is that of the join.
    pub fn check(&self, keys: &Keys, node: &NodeName, token: Option<&JoinToken>) -> Result<(), BundleError> {
        let wrong = |what| Err(BundleError::Mismatch(what));
        if &self.node != node {
            return wrong("it is for another node");
        }
        if self.trust.cluster != self.cluster {
            return wrong("its authorities are of another cluster");
        }
        if let Some(token) = token {
            let named = |certs: &crate::CaCerts| certs.fingerprint().is_some_and(|sum| same(&sum, &token.authority()));
            if token.cluster_short() != self.cluster.short() || !self.trust.authorities().any(named) {
                return wrong("it is of another cluster than the token");
            }
        }
        let name = node.clone();
        let kind = Kind::Node {
            name: name.clone(),
            role: self.role,
        };
        let certificates = &self.certificates;
        self.check_certificate(&certificates.node_pem, &keys.node, &kind)?;
        self.check_certificate(
            &certificates.store_client_pem,
            &keys.store,
            &Kind::StoreClient(name.clone()),
        )?;
        match (&certificates.store_server_pem, &certificates.store_peer_pem) {
            (Some(server), Some(peer)) if self.role.votes() => {
                self.check_certificate(server, &keys.store, &Kind::StoreServer(name.clone()))?;
                self.check_certificate(peer, &keys.store, &Kind::StorePeer(name))?;
            }
            (None, None) if !self.role.votes() => {}
            _ => return wrong("the certificates for etcd are missing or too many"),
        }
        if self.role.has_authority() == self.authorities.is_empty() {
            return wrong("the authority's keys are missing or too many");
        }
        for authority in &self.authorities {
            let authority = Authority::from_secret(authority, "authority")?;
            if !self.trust.authorities().any(|certs| certs == authority.certs()) {
                return wrong("an authority in it is not among those to be trusted");
            }
        }
        Ok(())
    }

    /// From when on its certificates are valid; `None` if that cannot be read.
    pub fn begins(&self) -> Option<WallTime> {
        let certificate = crate::certificate::from_pem(&self.certificates.node_pem)?
            .into_iter()
            .next()?;
        Some(Peer::of_certificate(&certificate)?.not_before)
    }

    fn check_certificate(&self, pem: &str, key: &Secret, kind: &Kind) -> Result<(), BundleError> {
        let wrong = |what| Err(BundleError::Mismatch(what));
        let Some(certificate) = crate::certificate::from_pem(pem).and_then(|all| all.into_iter().next()) else {
            return wrong("a certificate is damaged");
        };
        let expected = Peer::of_certificate(&certificate)
            .is_some_and(|peer| peer.who.cluster == self.cluster && &peer.who.kind == kind);
        if !expected {
            return wrong("a certificate is for somebody else");
        }
        let ours = load_key(key, NODE_FILE)?;
        if crate::certificate::public_key(&certificate).as_deref() != Some(ours.public_key_raw()) {
            return wrong("a certificate is for another key");
        }
        Ok(())
    }

    /// Writes all of it to the folder. `node.pem` comes last: a join that was cut off leaves none, and is begun anew.
    pub fn save(&self, folder: &Folder, keys: &Keys) -> Result<(), BundleError> {
        for authority in &self.authorities {
            Authority::from_secret(authority, "authority")?.save(folder)?;
        }
        folder.write_secret(STORE_KEY_FILE, &keys.store)?;
        save_trust(folder, &self.trust)?;
        save_revoked(folder, &self.revoked)?;
        let certificates = &self.certificates;
        folder.write_public(STORE_CLIENT_FILE, &certificates.store_client_pem)?;
        for (name, pem) in [
            (STORE_SERVER_FILE, &certificates.store_server_pem),
            (STORE_PEER_FILE, &certificates.store_peer_pem),
        ] {
            match pem {
                Some(pem) => folder.write_public(name, pem)?,
                None => folder.remove(name)?,
            }
        }
        Ok(folder.write_secret(NODE_FILE, &keys.node_pem(certificates))?)
    }
}

/// Keeps the trusted authorities in the folder, also for etcd, which reads them when it starts. If a newer record is there
/// already, that one stays.
pub fn save_trust(folder: &Folder, trust: &TrustRecord) -> Result<(), FileError> {
    if version(folder, TRUST_FILE)? > Some(trust.version) {
        return Ok(());
    }
    let all = |pem: fn(&crate::CaCerts) -> &str| trust.authorities().map(pem).collect::<String>();
    folder.write_public(STORE_CA_FILE, &all(|certs| &certs.store_pem))?;
    folder.write_public(CLUSTER_CA_FILE, &all(|certs| &certs.cluster_pem))?;
    write_json(folder, TRUST_FILE, trust)
}

/// Keeps the revocation list in the folder, also for etcd, which reads it for each connection. If a newer list is there
/// already, that one stays.
pub fn save_revoked(folder: &Folder, revoked: &RevocationList) -> Result<(), FileError> {
    if version(folder, REVOKED_FILE)? > Some(revoked.version) {
        return Ok(());
    }
    folder.write_public(STORE_CRL_FILE, &revoked.store_crl_pem)?;
    write_json(folder, REVOKED_FILE, revoked)
}

/// The version of the record in a file; `None` if there is none, or none that can be read.
fn version(folder: &Folder, name: &str) -> Result<Option<u64>, FileError> {
    #[derive(Deserialize)]
    struct Version {
        version: u64,
    }
    match folder.read_public(name) {
        Ok(text) => Ok(serde_json::from_str(&text).ok().map(|found: Version| found.version)),
        Err(FileError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn write_json<T: Serialize>(folder: &Folder, name: &str, record: &T) -> Result<(), FileError> {
    let text = serde_json::to_string_pretty(record).map_err(|error| FileError::Io {
        what: "make the content of",
        path: folder.file(name),
        source: error.into(),
    })?;
    folder.write_public(name, &text)
}

/// The first key of a PEM text.
pub(crate) fn read_key(pem: &Secret) -> Option<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem.reveal().as_bytes()).ok()
}

fn new_key() -> Result<Secret, IssueError> {
    let key = KeyPair::generate().map_err(|error| IssueError::Make(error.to_string()))?;
    Ok(Secret::new(key.serialize_pem()))
}

fn load_key(pem: &Secret, name: &str) -> Result<KeyPair, IssueError> {
    let damaged = |what| IssueError::Damaged {
        name: name.into(),
        what,
    };
    let der =
        PrivatePkcs8KeyDer::from_pem_slice(pem.reveal().as_bytes()).map_err(|_| damaged("there is no key in it"))?;
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)
        .map_err(|_| damaged("its key is not ECDSA P-256"))
}

fn csr(key: &Secret, name: &str) -> Result<String, IssueError> {
    let make = |error: rcgen::Error| IssueError::Make(error.to_string());
    let mut params = CertificateParams::default();
    // Whose key it is decides the member that signs; the request says nothing.
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .serialize_request(&load_key(key, name)?)
        .map_err(make)?
        .pem()
        .map_err(make)
}
