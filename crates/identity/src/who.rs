//! Whom a certificate stands for. It is in its URI: `understudy://CLUSTER/node/a/member`.

use crate::random;
use model::NodeName;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

const SCHEME: &str = "understudy://";

/// A cluster: a random UUID (version 4), given when it is made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterId([u8; 16]);

impl ClusterId {
    /// A new one; `None` if the kernel gives no random bytes.
    pub fn random() -> Option<Self> {
        let mut bytes: [u8; 16] = random::random()?;
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Some(Self(bytes))
    }

    /// Its first eight characters, for people and tokens.
    pub fn short(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.0[..4])
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is no cluster id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a cluster id: those look like 1b4e28ba-2fa1-41d2-883f-b9a761bde3fb")]
pub struct NoClusterId(String);

impl FromStr for ClusterId {
    type Err = NoClusterId;
    fn from_str(text: &str) -> Result<Self, NoClusterId> {
        let wrong = || NoClusterId(text.chars().take(60).collect());
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let bytes = data_encoding::HEXLOWER.decode(digits.as_bytes()).map_err(|_| wrong())?;
        let id = Self(bytes.try_into().map_err(|_| wrong())?);
        if id.to_string() == text { Ok(id) } else { Err(wrong()) }
    }
}

impl TryFrom<String> for ClusterId {
    type Error = NoClusterId;
    fn try_from(text: String) -> Result<Self, NoClusterId> {
        text.parse()
    }
}

impl From<ClusterId> for String {
    fn from(id: ClusterId) -> String {
        id.to_string()
    }
}

/// What a node is to its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// Votes in the store, has the authority's keys, runs services.
    Member,
    /// Votes in the store and runs no service.
    Witness,
    /// Runs services and does not vote.
    Worker,
}

impl NodeRole {
    /// Whether it runs a member of the store.
    pub fn votes(self) -> bool {
        matches!(self, NodeRole::Member | NodeRole::Witness)
    }

    /// Whether it has the authority's keys, and so can let others in and renew their certificates.
    pub fn has_authority(self) -> bool {
        self == NodeRole::Member
    }

    fn word(self) -> &'static str {
        match self {
            NodeRole::Member => "member",
            NodeRole::Witness => "witness",
            NodeRole::Worker => "worker",
        }
    }
}

impl fmt::Display for NodeRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// Whom a certificate stands for, within its cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An agent, towards other agents and operators.
    Node {
        /// Its name.
        name: NodeName,
        /// Its role.
        role: NodeRole,
    },
    /// A person or a program with rights at the API.
    Operator {
        /// Its name, for the record of who did what.
        name: NodeName,
        /// What it may do.
        right: crate::Right,
    },
    /// A member of the store, towards its clients.
    StoreServer(NodeName),
    /// A member of the store, towards other members.
    StorePeer(NodeName),
    /// A client of the store.
    StoreClient(NodeName),
    /// The authority for nodes and operators.
    ClusterAuthority(u32),
    /// The authority for the store.
    StoreAuthority(u32),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Node { name, role } => write!(f, "{role} {name}"),
            Kind::Operator { name, right } => write!(f, "operator {name} ({right})"),
            Kind::StoreServer(name) => write!(f, "store member on {name}"),
            Kind::StorePeer(name) => write!(f, "store peer on {name}"),
            Kind::StoreClient(name) => write!(f, "store client on {name}"),
            Kind::ClusterAuthority(generation) => write!(f, "cluster authority {generation}"),
            Kind::StoreAuthority(generation) => write!(f, "store authority {generation}"),
        }
    }
}

/// Whom a certificate stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Who {
    /// The cluster.
    pub cluster: ClusterId,
    /// Who in it.
    pub kind: Kind,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of cluster {}", self.kind, self.cluster.short())
    }
}

impl Who {
    /// As the URI that stands in the certificate.
    pub fn uri(&self) -> String {
        let tail = match &self.kind {
            Kind::Node { name, role } => format!("node/{name}/{role}"),
            Kind::Operator { name, right } => format!("operator/{name}/{right}"),
            Kind::StoreServer(name) => format!("store-server/{name}"),
            Kind::StorePeer(name) => format!("store-peer/{name}"),
            Kind::StoreClient(name) => format!("store-client/{name}"),
            Kind::ClusterAuthority(generation) => format!("cluster-authority/{generation}"),
            Kind::StoreAuthority(generation) => format!("store-authority/{generation}"),
        };
        format!("{SCHEME}{}/{tail}", self.cluster)
    }

    /// Reads such a URI; `None` if it is another kind of URI.
    pub fn from_uri(uri: &str) -> Option<Self> {
        let mut parts = uri.strip_prefix(SCHEME)?.split('/');
        let cluster = parts.next()?.parse().ok()?;
        let word = parts.next()?;
        let first = parts.next()?;
        let second = parts.next();
        if parts.next().is_some() {
            return None;
        }
        let name = || NodeName::new(first).ok();
        let kind = match (word, second) {
            ("node", Some(role)) => Kind::Node {
                name: name()?,
                role: [NodeRole::Member, NodeRole::Witness, NodeRole::Worker]
                    .into_iter()
                    .find(|r| r.word() == role)?,
            },
            ("operator", Some(right)) => Kind::Operator {
                name: name()?,
                right: right.parse().ok()?,
            },
            ("store-server", None) => Kind::StoreServer(name()?),
            ("store-peer", None) => Kind::StorePeer(name()?),
            ("store-client", None) => Kind::StoreClient(name()?),
            ("cluster-authority", None) => Kind::ClusterAuthority(first.parse().ok()?),
            ("store-authority", None) => Kind::StoreAuthority(first.parse().ok()?),
            _ => return None,
        };
        Some(Self { cluster, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_kind_of_certificate_is_read_back_from_its_uri() {
        let cluster = ClusterId::random().expect("random");
        let name = NodeName::new("rack-7").expect("name");
        for kind in [
            Kind::Node {
                name: name.clone(),
                role: NodeRole::Witness,
            },
            Kind::Operator {
                name: name.clone(),
                right: crate::Right::Read,
            },
            Kind::StoreServer(name.clone()),
            Kind::StorePeer(name.clone()),
            Kind::StoreClient(name),
            Kind::ClusterAuthority(3),
            Kind::StoreAuthority(4_000_000_000),
        ] {
            let who = Who { cluster, kind };
            assert_eq!(Who::from_uri(&who.uri()), Some(who));
        }
    }

    #[test]
    fn a_uri_with_a_part_more_or_less_or_of_another_scheme_stands_for_nobody() {
        let id = "1b4e28ba-2fa1-41d2-883f-b9a761bde3fb";
        for uri in [
            format!("understudy://{id}/node/a/member/x"),
            format!("understudy://{id}/node/a"),
            format!("understudy://{id}/node/A/member"),
            format!("understudy://{id}/node/a/king"),
            format!("understudy://{id}/store-client/a/member"),
            format!("spiffe://{id}/node/a/member"),
            format!("understudy://{}/node/a/member", id.to_uppercase()),
            "understudy://".into(),
        ] {
            assert_eq!(Who::from_uri(&uri), None, "{uri}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(understudy://)?.{0,120}") {
            let _ = Who::from_uri(&text);
            let _ = text.parse::<ClusterId>();
        }
    }
}
