//! Certificates that are not to be believed any more.

use crate::authority::BACKDATED;
use crate::certificate::SERIALS_PER_ISSUE;
use crate::{Authority, IssueError, IssueId, Kind, Peer};
use model::{NodeName, WallTime};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What is revoked: a small record, sealed with [`crate::Purpose::Revocation`], that every node watches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationList {
    /// Rises with every change. A node refuses a list that is older than the one it has.
    pub version: u64,
    /// Single issues.
    pub issues: BTreeMap<IssueId, Revocation>,
    /// Nodes that were removed: whatever was issued to that name up to then. A node of the same name may join again.
    pub nodes: BTreeMap<NodeName, Revocation>,
    /// The same for etcd, in PEM (see [`RevocationList::for_store`]).
    pub store_crl_pem: String,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// When.
    pub at: WallTime,
    /// Whose certificate it was.
    pub node: NodeName,
    /// Why, in the operator's words.
    pub reason: String,
    /// When the last certificate it concerns ends by itself, and the entry with it.
    pub until: WallTime,
    /// Where that node was, if it was removed: what it has open is ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<IpAddr>,
}

/// Which issues of a node are still valid: kept in the store, so that all of them can be revoked. No secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// The issues and when they end.
    pub issues: BTreeMap<IssueId, WallTime>,
}

impl Issued {
    /// Notes an issue and forgets those that ended.
    pub fn add(&mut self, issue: IssueId, not_after: WallTime, now: WallTime) {
        self.issues.retain(|_, end| end.0 >= now.0);
        self.issues.insert(issue, not_after);
    }
}

impl RevocationList {
    /// The list of a new cluster: nothing is revoked.
    pub fn first(authority: &Authority, now: WallTime) -> Result<Self, IssueError> {
        let mut list = Self {
            version: 1,
            ..Self::default()
        };
        list.for_store(authority, now)?;
        Ok(list)
    }

    /// Adds all that was issued to a node, because it was removed or taken over.
    pub fn revoke_node(&mut self, node: &NodeName, issued: &Issued, reason: &str, now: WallTime) {
        let last = issued.issues.values().map(|end| end.0).max().unwrap_or(now.0);
        // Without a note of what was issued, as long as certificates last by default.
        let default = now.0.saturating_add(crate::NODE_LIFETIME.duration().as_millis() as i64);
        let entry = |until| Revocation {
            at: now,
            node: node.clone(),
            reason: reason.into(),
            until,
            host: None,
        };
        for (issue, end) in &issued.issues {
            self.issues.insert(*issue, entry(*end));
        }
        self.nodes.insert(node.clone(), entry(WallTime(last.max(default))));
        self.version = self.version.saturating_add(1);
    }

    /// Notes where a node was that is revoked.
    pub fn was_at(&mut self, node: &NodeName, host: IpAddr) {
        if let Some(entry) = self.nodes.get_mut(node) {
            entry.host = Some(host);
        }
    }

    /// Where nodes were that were not revoked in an earlier list.
    pub fn hosts_since(&self, before: Option<&RevocationList>) -> BTreeSet<IpAddr> {
        let known = |name: &NodeName| before.and_then(|before| before.nodes.get(name));
        let new = self.nodes.iter().filter(|(name, entry)| known(name) != Some(*entry));
        new.filter_map(|(_, entry)| entry.host).collect()
    }

    /// Adds one issue.
    pub fn revoke_issue(&mut self, issue: IssueId, node: &NodeName, until: WallTime, reason: &str, now: WallTime) {
        let entry = Revocation {
            at: now,
            node: node.clone(),
            reason: reason.into(),
            until,
            host: None,
        };
        self.issues.insert(issue, entry);
        self.version = self.version.saturating_add(1);
    }

    /// Leaves out what ended by itself at least a day ago, so that the list stays small. Says whether it changed.
    pub fn prune(&mut self, now: WallTime) -> bool {
        // A day, for clocks that are behind.
        let ended = |entry: &Revocation| entry.until.0.saturating_add(86_400_000) < now.0;
        let before = self.issues.len() + self.nodes.len();
        self.issues.retain(|_, entry| !ended(entry));
        self.nodes.retain(|_, entry| !ended(entry));
        let changed = before != self.issues.len() + self.nodes.len();
        self.version = self.version.saturating_add(u64::from(changed));
        changed
    }

    /// The entry by which a certificate is revoked. Ask it also for connections that are open already, when the list changed.
    pub fn revoked(&self, peer: &Peer) -> Option<&Revocation> {
        if let Some(entry) = self.issues.get(&peer.issue) {
            return Some(entry);
        }
        let name = match &peer.who.kind {
            Kind::Node { name, .. } | Kind::StoreServer(name) | Kind::StorePeer(name) | Kind::StoreClient(name) => name,
            Kind::Operator { .. } | Kind::ClusterAuthority(_) | Kind::StoreAuthority(_) => return None,
        };
        // Certificates count seconds, entries milliseconds: the second of the revocation counts as before it.
        let issued = peer.not_before.0.saturating_add(BACKDATED.as_millis() as i64);
        self.nodes.get(name).filter(|entry| issued <= entry.at.0)
    }

    /// Makes the list for etcd (`--client-crl-file`, `--peer-crl-file`) anew: etcd knows nothing of ours. To be called
    /// after each change and before the list is sealed. etcd's has issues only, not names.
    pub fn for_store(&mut self, authority: &Authority, now: WallTime) -> Result<(), IssueError> {
        let time = |at: WallTime| {
            time::OffsetDateTime::from_unix_timestamp(at.0.div_euclid(1_000))
                .unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
        };
        let revoked_certs = self
            .issues
            .iter()
            .flat_map(|(issue, entry)| (1..SERIALS_PER_ISSUE).map(move |last| (issue.serial(last), entry.at)))
            .map(|(serial, at)| rcgen::RevokedCertParams {
                serial_number: rcgen::SerialNumber::from(serial),
                revocation_time: time(at),
                reason_code: None,
                invalidity_date: None,
            })
            .collect();
        let list = rcgen::CertificateRevocationListParams {
            this_update: time(now),
            // etcd takes it for as long as it is there; a list that ended must not lock everybody out.
            next_update: time(WallTime(now.0.saturating_add(10 * 365 * 86_400_000))),
            crl_number: rcgen::SerialNumber::from(self.version),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let make = |error: rcgen::Error| IssueError::Make(error.to_string());
        let signed = list.signed_by(authority.store_issuer()).map_err(make)?;
        self.store_crl_pem = signed.pem().map_err(make)?;
        Ok(())
    }
}
