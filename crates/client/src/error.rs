//! Why a call failed, and whether what it asked for may have happened.

use http::StatusCode;

/// What a call came to that did not do what it was asked to.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The write may have been carried out, or not, or may be yet. It was not sent again.
    #[error("whether it was carried out is not known: {problem}")]
    Unknown {
        /// What happened.
        problem: String,
    },
    /// A condition did not hold, nothing was changed.
    #[error("{problem}")]
    Mismatch {
        /// What the agent said.
        problem: String,
        /// The revision that the key has, 0 if it is absent.
        revision: Option<u64>,
    },
    /// Somebody else has the lock.
    #[error("{problem}")]
    Held {
        /// What the agent said.
        problem: String,
    },
    /// The lock is not held with this token any more: stop.
    #[error("{problem}")]
    Lost {
        /// What the agent said.
        problem: String,
    },
    /// Changes since the revision asked for are no longer kept: list, then watch from the revision after the list's.
    #[error("changes before revision {oldest} are no longer kept")]
    Compacted {
        /// The first one that is.
        oldest: u64,
    },
    /// The agent refused. Nothing was changed.
    #[error("{problem}")]
    Refused {
        /// What the agent said.
        problem: String,
        /// The same for programs: `quota_exceeded`.
        code: String,
        /// What to do about it.
        hint: Option<String>,
        /// The HTTP status.
        status: StatusCode,
    },
    /// No agent could be asked in time. Nothing was changed.
    #[error("no agent could be asked: {problem}")]
    NotReached {
        /// What happened last.
        problem: String,
    },
    /// The answer is not one of an agent's.
    #[error("the answer is not what this client expects: {problem}")]
    Unexpected {
        /// What is wrong with it.
        problem: String,
    },
    /// The client was not told where the agents are, or what its token is.
    #[error("{problem}")]
    NotConfigured {
        /// What is missing.
        problem: String,
    },
}

impl Error {
    /// Whether what was asked for may have happened all the same, or may yet.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Error::Unknown { .. })
    }
}
