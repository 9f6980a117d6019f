//! What can go wrong between us and etcd.

use model::Revision;
use store::ServerError;

/// Why etcd did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An option cannot be used.
    #[error("the option {option} cannot be used: {reason}")]
    Option {
        /// Which.
        option: &'static str,
        /// Why.
        reason: String,
    },

    /// Trying again alone does not help. Nothing was done, except perhaps at a store that went back.
    #[error(transparent)]
    Server(#[from] ServerError),

    /// Nothing was done: no member could be asked, or none could act. The reason names each.
    #[error("no member of etcd could do it: {reason}")]
    Unavailable {
        /// What each member answered.
        reason: String,
    },

    /// It may have been done, or not.
    #[error("whether `{endpoint}` did it is unknown: {reason}")]
    Unknown {
        /// Who was asked.
        endpoint: String,
        /// What happened.
        reason: String,
    },

    /// Revisions before this one are no longer kept.
    #[error("revisions before {oldest} are no longer kept")]
    Compacted {
        /// The first one that is.
        oldest: Revision,
    },

    /// A change of members was refused.
    #[error("etcd refuses to change its members: {0}")]
    Member(MemberError),

    /// What was being copied could not be written.
    #[error("failed to write the snapshot: {reason}")]
    Write {
        /// What the operating system said.
        reason: String,
    },
}

/// Why a change of members was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// There is no such member.
    #[error("there is no member with this id")]
    NotFound,
    /// A member with these peer addresses, or this id, is there already.
    #[error("a member with these addresses is there already")]
    Exists,
    /// A learner has not caught up yet.
    #[error("the learner has not caught up with the leader")]
    NotReady,
    /// It is no learner, so it cannot be promoted.
    #[error("the member is not a learner")]
    NotLearner,
    /// There is another learner already.
    #[error("there are too many learners")]
    TooManyLearners,
    /// Too few members are started or connected for the change to be safe.
    #[error("too few members are healthy ({reason})")]
    Unhealthy {
        /// What etcd said.
        reason: String,
    },
    /// The leader cannot be moved to it.
    #[error("the leader cannot be moved there ({reason})")]
    BadLeader {
        /// What etcd said.
        reason: String,
    },
}

impl Error {
    /// What to do about it, where there is something to do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Error::Server(error) => Some(error.hint()),
            Error::Unavailable { .. } => Some("check that a majority of the members run and reach each other"),
            Error::Unknown { .. } => Some("look whether it was done before doing it again"),
            Error::Compacted { .. } => Some("list again, then watch from the revision after the list's"),
            Error::Member(error) => Some(error.hint()),
            Error::Write { .. } => Some("make room on that disk, or choose another folder"),
            Error::Option { .. } => None,
        }
    }
}

impl MemberError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            MemberError::NotFound => "list the members again; somebody may have removed it",
            MemberError::Exists => "remove the member that has these addresses first",
            MemberError::NotReady => "wait until it has caught up, then promote it",
            MemberError::NotLearner => "nothing is left to do: it votes already",
            MemberError::TooManyLearners => "promote or remove the learner that is there first",
            MemberError::Unhealthy { .. } => {
                "bring the other members back first, or recover from the loss of the majority"
            }
            MemberError::BadLeader { .. } => "ask the leader itself, and name a voting member that runs",
        }
    }
}

impl From<Error> for store::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Server(error) => store::Error::Server(error),
            Error::Unknown { .. } => store::Error::Unknown {
                reason: error.to_string(),
            },
            Error::Compacted { oldest } => store::Error::Compacted { oldest },
            Error::Unavailable { reason } => store::Error::Unavailable { reason },
            Error::Option { .. } | Error::Member(_) | Error::Write { .. } => store::Error::Unavailable {
                reason: error.to_string(),
            },
        }
    }
}
