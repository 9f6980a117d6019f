//! The desk of a member: lets nodes in and renews their certificates.

use crate::rotation::TrustRecord;
use crate::{Authority, Bundle, Enrolment, IssueError, JoinRequest, Lifetime, NodeRole, Peer, RevocationList};
use model::{NodeName, WallTime};

/// What a member needs to let nodes in and to renew their certificates.
#[derive(Debug, Clone, Copy)]
pub struct Registrar<'a> {
    /// All authorities whose keys this member has, with the one that issues now among them.
    pub authorities: &'a [Authority],
    /// Whom to trust.
    pub trust: &'a TrustRecord,
    /// Whom not.
    pub revoked: &'a RevocationList,
    /// URLs of the store's members.
    pub endpoints: &'a [String],
    /// What the cluster is set up like; opaque here.
    pub profile: &'a serde_json::Value,
    /// How long the certificates are valid.
    pub lifetime: Lifetime,
}

/// Why certificates are not renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// The caller is no node.
    #[error("{who} asked to renew a node's certificates; only the node itself may")]
    NotANode {
        /// Who it is.
        who: String,
    },
    /// The caller was removed.
    #[error(
        "node `{node}` was removed ({reason}) and gets no new certificates; to come back it joins with a new token"
    )]
    Removed {
        /// The node.
        node: NodeName,
        /// Why it was removed.
        reason: String,
    },
    /// It could not be signed.
    #[error("failed to renew the certificates of a node")]
    Issue(#[from] IssueError),
}

impl Registrar<'_> {
    /// Signs what a node needs and packs it. `node` and `role` are what the token gave ([`crate::redeem`]), or for the first
    /// node of a cluster what the operator said; those in the request are not looked at.
    pub fn enrol(
        &self,
        node: &NodeName,
        role: NodeRole,
        request: &JoinRequest,
        now: WallTime,
    ) -> Result<Bundle, IssueError> {
        let trust = self.trust;
        let issues = |authority: &&Authority| {
            authority.certs().generation == trust.issues() && authority.cluster_id() == trust.cluster
        };
        let issuing = self.authorities.iter().find(issues).ok_or_else(|| {
            IssueError::Make("this member does not have the keys of the authority that issues now".into())
        })?;
        let enrolment = Enrolment {
            node,
            role,
            hosts: &request.hosts,
            node_csr: &request.node_csr,
            store_csr: &request.store_csr,
        };
        let certificates = issuing.enrol(&enrolment, self.lifetime, now)?;
        let trusted = |authority: &&Authority| trust.authorities().any(|certs| certs == authority.certs());
        let handed_over = self.authorities.iter().filter(trusted).filter(|_| role.has_authority());
        Ok(Bundle {
            cluster: trust.cluster,
            node: node.clone(),
            role,
            trust: trust.clone(),
            revoked: self.revoked.clone(),
            certificates,
            authorities: handed_over.map(Authority::to_secret).collect(),
            endpoints: self.endpoints.to_vec(),
            profile: self.profile.clone(),
        })
    }

    /// Renews the certificates of the node at the other end of a connection. Its name and role are those in the certificate
    /// that it proved to have, whatever it asks for. A member gets with them the keys of an authority that was announced since.
    pub fn renew(&self, peer: &Peer, request: &JoinRequest, now: WallTime) -> Result<Bundle, RenewError> {
        let who = || peer.who.to_string();
        if peer.who.cluster != self.trust.cluster {
            return Err(RenewError::NotANode { who: who() });
        }
        let Some((node, role)) = peer.node() else {
            return Err(RenewError::NotANode { who: who() });
        };
        // The connection may be older than the entry.
        if let Some(entry) = self.revoked.revoked(peer) {
            return Err(RenewError::Removed {
                node: node.clone(),
                reason: entry.reason.clone(),
            });
        }
        Ok(self.enrol(node, role, request, now)?)
    }
}
