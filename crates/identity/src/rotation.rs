//! Replacing the authority without a gap, as a pure state machine over one record of the store.
//!
//! ```text
//!            begin                   all nodes trust both,              all nodes have certificates
//!   Steady(1) ───► TrustBoth(1, 2)   all members have the new key       of the new one
//!                     │      └────────► IssueFromNew(1, 2) ────────────────► Steady(2)
//!                     └─ abort ─► Steady(1)
//! ```
//! At each moment any two nodes trust each other's certificates, provided a node is waited for or removed: a node that
//! is away through all of it trusts nobody any more and has to join again.
//!
//! etcd reads the file of trusted authorities when it starts, so each voting node restarts its etcd, one after the other,
//! once in `TrustBoth`, and once after the end.

use crate::{Authority, CaCerts, ClusterId, NodeRole};
use model::NodeName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Which authorities are trusted, and which one issues. Sealed with [`crate::Purpose::Trust`] by the authority that
/// [`TrustRecord::sealed_by`] names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustRecord {
    /// The cluster.
    pub cluster: ClusterId,
    /// Rises with each step. A node refuses a record that is older than the one it has.
    pub version: u64,
    /// How far the replacement is.
    pub phase: Phase,
}

/// How far the replacement of the authority is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// One authority.
    Steady {
        /// The only one.
        current: CaCerts,
    },
    /// Both are trusted, the old one issues.
    TrustBoth {
        /// The one to be replaced.
        old: CaCerts,
        /// The one that replaces it.
        new: CaCerts,
    },
    /// Both are trusted, the new one issues.
    IssueFromNew {
        /// The one to be replaced.
        old: CaCerts,
        /// The one that replaces it.
        new: CaCerts,
    },
}

/// How far one node is, as it reports itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Its role.
    pub role: NodeRole,
    /// Version of the trust record that its agent goes by.
    pub trusts: u64,
    /// Version of the trust record that its etcd was started with; voting nodes only.
    pub store_trusts: Option<u64>,
    /// The latest generation whose keys it has; members only.
    pub keys_of: Option<u32>,
    /// The generation that issued its certificates.
    pub issued_by: u32,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing is being replaced.
    Nothing,
    /// Somebody is not ready.
    Wait(Vec<Waiting>),
    /// Write this record, by compare-and-swap.
    Write(TrustRecord),
}

/// Whom the replacement waits for, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The node.
    pub node: NodeName,
    /// What it lacks.
    pub lacks: Lacks,
}

/// What a node lacks for the next phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lacks {
    /// It has not taken in the record that names both.
    Trust,
    /// Its etcd was not started again since.
    StoreRestart,
    /// It is a member and has not fetched the new keys.
    Keys,
    /// Its certificates are of the old authority.
    Certificates,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Waiting { node, lacks } = self;
        match lacks {
            Lacks::Trust => write!(
                f,
                "{node} does not trust the new authority yet; is it running and connected to the store?"
            ),
            Lacks::StoreRestart => write!(
                f,
                "etcd on {node} was not restarted since the new authority was announced"
            ),
            Lacks::Keys => write!(
                f,
                "{node} has not fetched the new authority's keys from another member yet"
            ),
            Lacks::Certificates => write!(f, "{node} still has certificates of the old authority"),
        }
    }
}

/// Why a replacement cannot begin or be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// One is under way.
    #[error("the authority is being replaced already; wait for the end, see `understudy cluster status`")]
    UnderWay,
    /// The successor is not of this cluster or not the next generation.
    #[error("the new authority is not the successor of the present one")]
    NotTheSuccessor,
    /// There is nothing to give up, or it is too late.
    #[error(
        "certificates of the new authority were issued already, so the replacement has to be finished; or none is under way"
    )]
    CannotAbort,
}

impl TrustRecord {
    /// The first record of a new cluster.
    pub fn first(authority: &Authority) -> Self {
        Self {
            cluster: authority.cluster_id(),
            version: 1,
            phase: Phase::Steady {
                current: authority.certs().clone(),
            },
        }
    }

    /// All that are trusted.
    pub fn authorities(&self) -> impl Iterator<Item = &CaCerts> {
        let (first, second) = match &self.phase {
            Phase::Steady { current } => (current, None),
            Phase::TrustBoth { old, new } | Phase::IssueFromNew { old, new } => (old, Some(new)),
        };
        std::iter::once(first).chain(second)
    }

    /// The generation that issues certificates, and join tokens, now.
    pub fn issues(&self) -> u32 {
        match &self.phase {
            Phase::Steady { current } => current.generation,
            Phase::TrustBoth { old, .. } => old.generation,
            Phase::IssueFromNew { new, .. } => new.generation,
        }
    }

    /// The generation that seals this record: the one that a node trusts which saw only the record before.
    pub fn sealed_by(&self) -> u32 {
        match &self.phase {
            Phase::Steady { current } => current.generation,
            Phase::TrustBoth { old, .. } | Phase::IssueFromNew { old, .. } => old.generation,
        }
    }

    /// Begins the replacement.
    pub fn begin(&self, new: &Authority) -> Result<Self, Error> {
        let Phase::Steady { current } = &self.phase else {
            return Err(Error::UnderWay);
        };
        if new.cluster_id() != self.cluster || new.certs().generation != current.generation.saturating_add(1) {
            return Err(Error::NotTheSuccessor);
        }
        Ok(self.step(Phase::TrustBoth {
            old: current.clone(),
            new: new.certs().clone(),
        }))
    }

    /// Gives the replacement up, which is possible until the new authority issues.
    pub fn abort(&self) -> Result<Self, Error> {
        match &self.phase {
            Phase::TrustBoth { old, .. } => Ok(self.step(Phase::Steady { current: old.clone() })),
            Phase::Steady { .. } | Phase::IssueFromNew { .. } => Err(Error::CannotAbort),
        }
    }

    /// Decides what is next. `nodes` are all nodes of the cluster: one that is away for good is removed first.
    pub fn next(&self, nodes: &BTreeMap<NodeName, Progress>) -> Next {
        let (following, lacks): (_, fn(&Self, &Progress) -> Option<Lacks>) = match &self.phase {
            Phase::Steady { .. } => return Next::Nothing,
            Phase::TrustBoth { old, new } => (
                Phase::IssueFromNew {
                    old: old.clone(),
                    new: new.clone(),
                },
                Self::lacks_to_issue,
            ),
            Phase::IssueFromNew { new, .. } => (Phase::Steady { current: new.clone() }, Self::lacks_to_drop),
        };
        let waiting: Vec<Waiting> = nodes
            .iter()
            .filter_map(|(node, progress)| {
                Some(Waiting {
                    node: node.clone(),
                    lacks: lacks(self, progress)?,
                })
            })
            .collect();
        if waiting.is_empty() {
            Next::Write(self.step(following))
        } else {
            Next::Wait(waiting)
        }
    }

    fn lacks_to_issue(&self, progress: &Progress) -> Option<Lacks> {
        let newest = self.authorities().map(|certs| certs.generation).max();
        if progress.trusts < self.version {
            Some(Lacks::Trust)
        } else if progress.role.has_authority() && progress.keys_of < newest {
            Some(Lacks::Keys)
        } else if progress.role.votes() && progress.store_trusts < Some(self.version) {
            Some(Lacks::StoreRestart)
        } else {
            None
        }
    }

    fn lacks_to_drop(&self, progress: &Progress) -> Option<Lacks> {
        if progress.trusts < self.version {
            Some(Lacks::Trust)
        } else if progress.issued_by < self.issues() {
            Some(Lacks::Certificates)
        } else {
            None
        }
    }

    fn step(&self, phase: Phase) -> Self {
        Self {
            cluster: self.cluster,
            version: self.version.saturating_add(1),
            phase,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Purpose, SealError, Sealed};
    use model::WallTime;

    #[test]
    fn the_authority_is_replaced_in_three_steps_and_each_waits_for_the_slowest_node() {
        let old = Authority::create(WallTime(0)).expect("authority");
        let new = old.successor(WallTime(0)).expect("successor");
        let first = TrustRecord::first(&old);
        let mut nodes = BTreeMap::new();
        nodes.insert(name("a"), progress(NodeRole::Member));
        nodes.insert(name("c"), progress(NodeRole::Witness));
        nodes.insert(name("w"), progress(NodeRole::Worker));
        assert_eq!(first.next(&nodes), Next::Nothing);

        let both = first.begin(&new).expect("begin");
        assert_eq!((both.issues(), both.sealed_by(), both.version), (1, 1, 2));
        assert_eq!(both.authorities().count(), 2);
        assert_eq!(
            waits(&both, &nodes),
            [("a", Lacks::Trust), ("c", Lacks::Trust), ("w", Lacks::Trust)]
        );
        for progress in nodes.values_mut() {
            progress.trusts = 2;
        }
        // A witness votes and has no keys; a worker has neither.
        assert_eq!(waits(&both, &nodes), [("a", Lacks::Keys), ("c", Lacks::StoreRestart)]);
        nodes.get_mut(&name("a")).expect("a").keys_of = Some(2);
        assert_eq!(
            waits(&both, &nodes),
            [("a", Lacks::StoreRestart), ("c", Lacks::StoreRestart)]
        );
        for node in ["a", "c"] {
            nodes.get_mut(&name(node)).expect("node").store_trusts = Some(2);
        }

        let Next::Write(issue) = both.next(&nodes) else {
            panic!("not ready: {:?}", both.next(&nodes))
        };
        assert_eq!((issue.issues(), issue.sealed_by(), issue.version), (2, 1, 3));
        assert_eq!(
            waits(&issue, &nodes),
            [("a", Lacks::Trust), ("c", Lacks::Trust), ("w", Lacks::Trust)]
        );
        for (node, progress) in &mut nodes {
            progress.trusts = 3;
            progress.issued_by = if node.as_str() == "w" { 1 } else { 2 };
        }
        assert_eq!(waits(&issue, &nodes), [("w", Lacks::Certificates)]);
        nodes.remove(&name("w"));

        let Next::Write(last) = issue.next(&nodes) else {
            panic!("not ready")
        };
        assert_eq!((last.issues(), last.sealed_by(), last.version), (2, 2, 4));
        assert_eq!(last.authorities().count(), 1);
        assert_eq!(last.next(&nodes), Next::Nothing);
    }

    #[test]
    fn a_replacement_can_be_given_up_until_the_new_authority_issues() {
        let old = Authority::create(WallTime(0)).expect("authority");
        let new = old.successor(WallTime(0)).expect("successor");
        let first = TrustRecord::first(&old);
        let both = first.begin(&new).expect("begin");
        assert_eq!(both.begin(&new), Err(Error::UnderWay));
        let back = both.abort().expect("abort");
        assert_eq!((back.phase.clone(), back.version), (first.phase.clone(), 3));
        assert_eq!(first.abort(), Err(Error::CannotAbort));
        let Next::Write(issue) = both.next(&BTreeMap::new()) else {
            panic!("nobody to wait for")
        };
        assert_eq!(issue.abort(), Err(Error::CannotAbort));
        let stranger = Authority::create(WallTime(0)).expect("authority");
        assert_eq!(first.begin(&stranger), Err(Error::NotTheSuccessor));
        assert_eq!(first.begin(&old), Err(Error::NotTheSuccessor));
    }

    #[test]
    fn each_record_of_a_replacement_is_believed_by_a_node_that_has_the_one_before() {
        let old = Authority::create(WallTime(0)).expect("authority");
        let new = old.successor(WallTime(0)).expect("successor");
        let nobody = BTreeMap::new();
        let first = TrustRecord::first(&old);
        let both = first.begin(&new).expect("begin");
        let Next::Write(issue) = both.next(&nobody) else {
            panic!("step")
        };
        let Next::Write(last) = issue.next(&nobody) else {
            panic!("step")
        };
        let seal = |record: &TrustRecord| -> Sealed {
            let authority = if record.sealed_by() == 1 { &old } else { &new };
            authority.seal(Purpose::Trust, "trust", record).expect("seal")
        };
        for (has, reads) in [
            (&first, &both),
            (&both, &issue),
            (&issue, &last),
            (&first, &issue),
            (&last, &last),
        ] {
            let read: TrustRecord = seal(reads).open(has, Purpose::Trust, "trust").expect("believed");
            assert_eq!(&read, reads);
        }
        let missed = seal(&last).open::<TrustRecord>(&first, Purpose::Trust, "trust");
        assert_eq!(missed, Err(SealError::UnknownAuthority(2)));
    }

    #[test]
    fn a_record_that_was_changed_moved_or_signed_by_a_stranger_is_forged() {
        let ours = Authority::create(WallTime(0)).expect("authority");
        let stranger = Authority::create(WallTime(0)).expect("authority");
        let trusted = TrustRecord::first(&ours);
        let sealed = ours.seal(Purpose::Join, "join/1", &"role member").expect("seal");
        let open = |sealed: &Sealed, purpose, key| sealed.open::<String>(&trusted, purpose, key);
        assert_eq!(open(&sealed, Purpose::Join, "join/1").as_deref(), Ok("role member"));
        assert_eq!(open(&sealed, Purpose::Join, "join/2"), Err(SealError::Forged));
        assert_eq!(open(&sealed, Purpose::Api, "join/1"), Err(SealError::Forged));
        let mut changed = sealed.clone();
        changed.record = "\"role master\"".into();
        assert_eq!(open(&changed, Purpose::Join, "join/1"), Err(SealError::Forged));
        let strange = stranger.seal(Purpose::Join, "join/1", &"role member").expect("seal");
        assert_eq!(open(&strange, Purpose::Join, "join/1"), Err(SealError::Forged));
        changed.signature = "?".into();
        assert_eq!(open(&changed, Purpose::Join, "join/1"), Err(SealError::Forged));
    }

    fn waits<'a>(record: &TrustRecord, nodes: &'a BTreeMap<NodeName, Progress>) -> Vec<(&'a str, Lacks)> {
        let Next::Wait(waiting) = record.next(nodes) else {
            panic!("does not wait")
        };
        waiting
            .iter()
            .map(|w| (nodes.get_key_value(&w.node).expect("a node").0.as_str(), w.lacks))
            .collect()
    }

    fn progress(role: NodeRole) -> Progress {
        Progress {
            role,
            trusts: 1,
            store_trusts: role.votes().then_some(1),
            keys_of: role.has_authority().then_some(1),
            issued_by: 1,
        }
    }

    fn name(name: &str) -> NodeName {
        NodeName::new(name).expect("name")
    }
}
