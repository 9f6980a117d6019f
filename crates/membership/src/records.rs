//! What the store keeps of the cluster itself.

use crate::Error;
use api::record::{self, Member};
use identity::{Sealed, Secret};
use model::{NodeName, Profile, Timing, WallTime};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use store::Store;

/// The trusted authorities, sealed.
pub const TRUST: &str = "identity/trust";
/// The revocation list, sealed.
pub const REVOKED: &str = "identity/revoked";
const TOKENS: &str = "identity/join/";
const ISSUED: &str = "identity/issued/";
const JOINING: &str = "identity/joining/";

/// What a cluster is set up like; a joiner gets it with its certificates.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    /// How an etcd that is not ours is reached.
    #[serde(default)]
    pub access: Option<Access>,
    /// Milliseconds since 1970 by the clock of who answered.
    pub now_ms: i64,
    /// Name of the node that answered.
    pub by: NodeName,
}

/// Keys to an etcd that is not ours. It travels with the certificates of a joiner, inside TLS, and is never in the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Access {
    /// Authority, certificate and key, if it is reached by https.
    pub tls: Option<(String, String, Secret)>,
    /// User and password, if it asks for them.
    pub login: Option<(String, Secret)>,
}

/// A machine that was let in and has not finished: its name is not free meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Joining {
    /// Where it is.
    pub(crate) hosts: Vec<String>,
    /// When it was let in.
    pub(crate) at: WallTime,
}

/// Where it is noted who is joining.
pub(crate) fn joining_key(node: &NodeName) -> String {
    format!("{JOINING}{node}")
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

/// All nodes that belong to the cluster, with what is known of each for good.
pub async fn members(store: &dyn Store) -> Result<Vec<(NodeName, Member)>, Error> {
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
