//! What the store keeps of the cluster itself.

use crate::Error;
use api::record::{self, Member};
use identity::Sealed;
use model::{NodeName, Profile, Timing};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use store::Store;

/// The trusted authorities, sealed.
pub(crate) const TRUST: &str = "identity/trust";
/// The revocation list, sealed.
pub(crate) const REVOKED: &str = "identity/revoked";
const TOKENS: &str = "identity/join/";
const ISSUED: &str = "identity/issued/";

/// What a cluster is set up like; a joiner gets it with its certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Name of the cluster.
    pub cluster: String,
    /// Its id, as `meta` has it.
    pub cluster_id: String,
    /// The timing.
    pub profile: Profile,
    /// Why it was chosen.
    pub because: String,
    /// What the operator changed of it.
    pub timing: Option<Timing>,
    /// Before every key.
    pub prefix: String,
    /// Whether etcd is ours to run.
    pub managed: bool,
    /// Milliseconds since 1970 by the clock of who answered.
    pub now_ms: i64,
    /// Name of the node that answered.
    pub by: NodeName,
}

/// Where the record of a join token is.
pub fn token_key(id: &str) -> String {
    format!("{TOKENS}{id}")
}

/// Where it is noted what was issued to a node.
pub fn issued_key(node: &NodeName) -> String {
    format!("{ISSUED}{node}")
}

pub(crate) fn member_key(node: &NodeName) -> String {
    format!("{}{node}", record::MEMBERS)
}

pub(crate) fn encode(key: &str, value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|source| Error::Record {
        key: key.into(),
        source,
    })
}

pub(crate) fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(value).map_err(|source| Error::Record {
        key: key.into(),
        source,
    })
}

/// A sealed record, and the store's revision of it.
pub(crate) async fn sealed(store: &dyn Store, key: &str) -> Result<Option<(Sealed, model::Revision)>, Error> {
    let Some(entry) = store.get(key).await? else {
        return Ok(None);
    };
    Ok(Some((decode(key, &entry.value)?, entry.modified)))
}

pub(crate) async fn members(store: &dyn Store) -> Result<Vec<(NodeName, Member)>, Error> {
    let mut members = Vec::new();
    for entry in store.list(record::MEMBERS).await?.0 {
        if let Some(node) = entry
            .key
            .strip_prefix(record::MEMBERS)
            .and_then(|node| NodeName::new(node).ok())
        {
            members.push((node, decode(&entry.key, &entry.value)?));
        }
    }
    Ok(members)
}
