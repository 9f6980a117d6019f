//! Whose answers are believed: those of our cluster, of a version that we know, that do not go back.

use super::link::{known_version, not_back};
use super::{Cause, Failure, Kind, Link, Shared, Up};
use crate::Error;
use crate::pb::{ResponseHeader, StatusResponse};
use std::sync::atomic::Ordering;
use store::ServerError;

impl Shared {
    /// Whether whoever answered on a new connection is a member of our cluster, of a version we know.
    pub(super) fn identify(&self, link: &Link, status: &StatusResponse) -> Result<(), ServerError> {
        known_version(&link.target.name, &status.version)?;
        let header = status.header.unwrap_or_default();
        self.same_cluster(link, header.cluster_id)?;
        self.note_term(header.raft_term);
        self.note_leader(status.leader, header.raft_term);
        Ok(())
    }

    pub(super) fn same_cluster(&self, link: &Link, found: u64) -> Result<(), ServerError> {
        // Whoever answers first says which cluster is ours, unless it is known from before.
        let expected = match self
            .cluster
            .compare_exchange(0, found, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => found,
            Err(expected) => expected,
        };
        if found != expected {
            return Err(ServerError::OtherCluster {
                endpoint: link.target.name.clone(),
                expected,
                found,
            });
        }
        Ok(())
    }

    /// Takes in what an answer says about the store, and refuses one that cannot be right. `seen` is the highest
    /// revision that was known when the request was sent.
    pub(crate) fn believe(
        &self,
        link: &Link,
        up: &Up,
        kind: Kind,
        seen: u64,
        header: Option<&ResponseHeader>,
    ) -> Result<(), Failure> {
        // Some answers about the cluster itself do not say whose they are; who is behind the connection was asked before.
        if !kind.tells_revision() && header.is_none() {
            return Ok(());
        }
        let header = header.copied().unwrap_or_default();
        let refuse = |error: ServerError| {
            up.line.condemn();
            Failure {
                endpoint: link.target.name.clone(),
                cause: Cause::Server(error),
                unknown: kind.changes(),
            }
        };
        self.same_cluster(link, header.cluster_id).map_err(refuse)?;
        let found = u64::try_from(header.revision).unwrap_or(0);
        if kind.tells_revision() {
            if let Err(error) = not_back(&link.target.name, seen, found) {
                if kind == Kind::Write {
                    // Written by a majority, so this is no old answer.
                    self.doubt(&error);
                }
                return Err(refuse(error));
            }
            up.set_current();
            if let Some(index) = self.links.iter().position(|other| std::ptr::eq(other, link)) {
                self.last_good.store(index, Ordering::Release);
            }
        }
        self.highest.fetch_max(found, Ordering::AcqRel);
        self.note_term(header.raft_term);
        link.fine();
        Ok(())
    }

    pub(super) fn note_term(&self, term: u64) {
        if self.term.fetch_max(term, Ordering::AcqRel) < term {
            self.leader.store(0, Ordering::Release);
            self.keeper.look();
        }
    }

    pub(super) fn note_leader(&self, leader: u64, term: u64) {
        if term >= self.term.load(Ordering::Acquire) {
            self.leader.store(leader, Ordering::Release);
        }
    }

    /// Whether `failures` say that the store went back. Nothing is believed any more if a majority of members says so: one
    /// alone may have answered from an old state.
    pub(crate) fn gone_back(&self, failures: &[Failure]) -> Option<Error> {
        let back = failures.iter().filter_map(|failure| match &failure.cause {
            Cause::Server(error @ ServerError::WentBack { .. }) => Some(error),
            _ => None,
        });
        let first = back.clone().next()?;
        if back.count() * 2 > self.links.len() {
            self.doubt(first);
        }
        Some(Error::Server(first.clone()))
    }

    pub(super) fn doubt(&self, error: &ServerError) {
        if self.distrust.set(error.clone()).is_ok() {
            tracing::error!(%error, "the store is not believed any more");
        }
    }

    /// Why the store is not believed any more, if it is not.
    pub(crate) fn distrusted(&self) -> Option<Error> {
        self.distrust.get().cloned().map(Error::Server)
    }
}
