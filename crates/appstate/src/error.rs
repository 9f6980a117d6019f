//! What can be refused or go wrong, what it is called, and what to do about it.

use axum::http::StatusCode;
use model::{Revision, ServiceName};

/// Why a request of an application was not carried out, or may not have been.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A key that cannot be used.
    #[error("the key `{key}` {problem}")]
    InvalidKey {
        /// The key, shortened.
        key: String,
        /// As a sentence without a subject.
        problem: String,
    },
    /// A name that cannot be used.
    #[error("the name of the {what} `{name}` {problem}")]
    InvalidName {
        /// What is named: "lock".
        what: &'static str,
        /// The name, shortened.
        name: String,
        /// As a sentence without a subject.
        problem: String,
    },
    /// A request that means nothing.
    #[error("{0}")]
    InvalidRequest(String),
    /// No token came with the request.
    #[error("no token came with the request")]
    TokenMissing,
    /// A token that nobody issued, or that was replaced or revoked.
    #[error("the token is not valid")]
    TokenInvalid,
    /// There is no value under this key.
    #[error("there is no key `{key}`")]
    NotFound {
        /// The key.
        key: String,
    },
    /// A condition did not hold.
    #[error("the key `{key}` is {}, not {}", at(Some(*found)), at(*expected))]
    RevisionMismatch {
        /// The key.
        key: String,
        /// The revision that was asked for, 0 for absent; none for any.
        expected: Option<Revision>,
        /// The revision that it has, 0 for absent.
        found: Revision,
    },
    /// Somebody else has the lock.
    #[error("the lock `{name}` is held by `{owner}`")]
    LockHeld {
        /// The lock.
        name: String,
        /// Who holds it.
        owner: String,
        /// The holder's token.
        token: Revision,
    },
    /// The lock is not held with this token any more.
    #[error("the lock `{name}` is not held with token {token}")]
    LockLost {
        /// The lock.
        name: String,
        /// The token that was shown.
        token: Revision,
    },
    /// A value is too large.
    #[error("a value has more than {max} bytes")]
    ValueTooLarge {
        /// The bound.
        max: usize,
    },
    /// The service would keep too much.
    #[error("the service `{service}` may keep {max} {what}, this would make {wanted}")]
    QuotaExceeded {
        /// Whose.
        service: ServiceName,
        /// What there would be too much of: "keys".
        what: &'static str,
        /// The bound.
        max: u64,
        /// What it would come to.
        wanted: u64,
    },
    /// Too many requests of one kind wait already.
    #[error("too many {what} of the service `{service}` are open at this agent, at most {max} may be")]
    Busy {
        /// Whose.
        service: ServiceName,
        /// What: "writes".
        what: &'static str,
        /// The bound.
        max: usize,
    },
    /// Others wrote so often that this write never came first. It was not carried out.
    #[error("other agents write to the service `{service}` all the time, this write was not carried out")]
    Contended {
        /// Whose.
        service: ServiceName,
    },
    /// Changes since the revision asked for are no longer kept.
    #[error("changes before revision {oldest} are no longer kept")]
    Compacted {
        /// The first one that is.
        oldest: Revision,
    },
    /// The store did not answer. Nothing was changed.
    #[error("the store did not answer ({source}), nothing was changed")]
    Unavailable {
        /// What it said.
        source: store::Error,
    },
    /// The store shows an older state than one that was seen already.
    #[error("the store shows revision {seen}, which is older than revision {needed} that was seen before")]
    Stale {
        /// Of the answer.
        seen: Revision,
        /// What it must show at least.
        needed: Revision,
    },
    /// The write may have been carried out, or not, or may be yet.
    #[error("whether the write was carried out is not known ({source})")]
    OutcomeUnknown {
        /// What the store said last.
        source: store::Error,
    },
    /// A record in the store is not what we write there.
    #[error("the record `{key}` cannot be read: {problem}")]
    Damaged {
        /// Its key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl Error {
    /// Its name for programs; never changed.
    pub fn code(&self) -> &'static str {
        match self {
            Error::InvalidKey { .. } => "invalid_key",
            Error::InvalidName { .. } => "invalid_name",
            Error::InvalidRequest(_) => "invalid_request",
            Error::TokenMissing => "token_missing",
            Error::TokenInvalid => "token_invalid",
            Error::NotFound { .. } => "not_found",
            Error::RevisionMismatch { .. } => "revision_mismatch",
            Error::LockHeld { .. } => "lock_held",
            Error::LockLost { .. } => "lock_lost",
            Error::ValueTooLarge { .. } => "value_too_large",
            Error::QuotaExceeded { .. } => "quota_exceeded",
            Error::Busy { .. } => "busy",
            Error::Contended { .. } => "contended",
            Error::Compacted { .. } => "compacted",
            Error::Unavailable { .. } => "store_unavailable",
            Error::Stale { .. } => "store_stale",
            Error::OutcomeUnknown { .. } => "outcome_unknown",
            Error::Damaged { .. } => "damaged",
        }
    }

    /// Its HTTP status.
    pub fn status(&self) -> StatusCode {
        match self {
            Error::InvalidKey { .. } | Error::InvalidName { .. } | Error::InvalidRequest(_) => StatusCode::BAD_REQUEST,
            Error::TokenMissing => StatusCode::UNAUTHORIZED,
            Error::TokenInvalid => StatusCode::FORBIDDEN,
            Error::NotFound { .. } => StatusCode::NOT_FOUND,
            Error::RevisionMismatch { .. } | Error::LockLost { .. } => StatusCode::PRECONDITION_FAILED,
            Error::LockHeld { .. } | Error::QuotaExceeded { .. } => StatusCode::CONFLICT,
            Error::ValueTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Error::Busy { .. } => StatusCode::TOO_MANY_REQUESTS,
            Error::Compacted { .. } => StatusCode::GONE,
            Error::Contended { .. } | Error::Unavailable { .. } | Error::Stale { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Error::OutcomeUnknown { .. } => StatusCode::GATEWAY_TIMEOUT,
            Error::Damaged { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What to do about it, where there is something to do.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Error::InvalidKey { .. } | Error::InvalidName { .. } => {
                "choose another name; `docs/state.md` has the rules"
            }
            Error::InvalidRequest(_) => "`docs/state.md` has an example of every request",
            Error::TokenMissing => {
                "send `Authorization: Bearer TOKEN` with what is in the file that UNDERSTUDY_STATE_TOKEN_FILE names"
            }
            Error::TokenInvalid => {
                "read the token file again: a token ends when the instance is started anew or the token is revoked"
            }
            Error::RevisionMismatch { .. } => "read the key again and decide anew",
            Error::LockHeld { .. } => "ask again, or with a longer `wait_ms`",
            Error::LockLost { .. } => "stop what the lock protects, then acquire it again",
            Error::ValueTooLarge { .. } => "keep large things elsewhere, and here where they are",
            Error::QuotaExceeded { .. } => "delete what is not needed any more",
            Error::Busy { .. } => "end some of them, or ask again later",
            Error::Contended { .. } | Error::Unavailable { .. } | Error::Stale { .. } => "ask again",
            Error::Compacted { .. } => "list the keys, then watch from the revision after the list's",
            Error::OutcomeUnknown { .. } => {
                "read what it would have written before deciding; a write with a condition on a revision may be sent again"
            }
            Error::Damaged { .. } => "put a backup of the store in place, or remove this record",
            Error::NotFound { .. } => return None,
        })
    }

    /// Whether the write may have been carried out all the same.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Error::OutcomeUnknown { .. })
    }

    /// What a read of the store came to: nothing can have been changed by it.
    pub(crate) fn reading(source: store::Error) -> Self {
        match source {
            store::Error::Compacted { oldest } => Error::Compacted { oldest },
            source => Error::Unavailable { source },
        }
    }
}

fn at(revision: Option<Revision>) -> String {
    match revision {
        Some(Revision(0)) => "absent".into(),
        Some(revision) => format!("at revision {revision}"),
        None => "there".into(),
    }
}
