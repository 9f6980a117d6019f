//! What etcd needs of the folder.
//!
//! etcd reads certificates, keys and revocation lists anew for each connection: replacing a file is enough. The key stays the same
//! when certificates are renewed, since etcd reads the two files one after the other and must not see a
//! new key with an old certificate. The trusted authorities ([`crate::rotation`]) it reads only when it starts.

use crate::Folder;
use crate::bundle::{STORE_CA_FILE, STORE_CRL_FILE, STORE_KEY_FILE, STORE_PEER_FILE, STORE_SERVER_FILE};

/// The common name that etcd demands of its peers, so that a store client cannot speak as a peer.
pub const PEER_NAME: &str = "understudy-store-peer";

/// The options for etcd 3.4 and later: TLS with certificates on both sides, for clients and peers.
///
/// etcd compares where a peer comes from with the addresses in its certificate: behind address translation the outer
/// address belongs among the node's hosts.
pub fn flags(folder: &Folder) -> Vec<String> {
    let file = |option: &str, name: &str| format!("--{option}={}", folder.file(name).display());
    vec![
        "--client-cert-auth=true".into(),
        file("trusted-ca-file", STORE_CA_FILE),
        file("cert-file", STORE_SERVER_FILE),
        file("key-file", STORE_KEY_FILE),
        file("client-crl-file", STORE_CRL_FILE),
        "--peer-client-cert-auth=true".into(),
        file("peer-trusted-ca-file", STORE_CA_FILE),
        file("peer-cert-file", STORE_PEER_FILE),
        file("peer-key-file", STORE_KEY_FILE),
        file("peer-crl-file", STORE_CRL_FILE),
        format!("--peer-cert-allowed-cn={PEER_NAME}"),
    ]
}
