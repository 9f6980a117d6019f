//! What an attempt that failed means: was something done, and is it worth asking somebody else?

use super::dial::chain;
use crate::{Error, MemberError};
use std::error::Error as _;
use store::ServerError;
use tonic::{Code, ConnectError, Status, TimeoutExpired};

/// An attempt with one member that came to nothing.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) endpoint: String,
    pub(crate) cause: Cause,
    /// Whether it may have been done nevertheless.
    pub(crate) unknown: bool,
}

/// Why it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cause {
    /// There is no connection.
    Connect(String),
    /// The connection broke.
    Lost(String),
    /// No answer in time.
    TimedOut,
    /// The member knows no leader, or lost it, or is about to stop, or has too much to do: another may be better.
    NotNow(String),
    /// The token of our login has expired.
    Token,
    /// Trying again alone does not help.
    Server(ServerError),
    /// About members.
    Member(MemberError),
    /// The revision asked for is gone.
    Compacted,
    /// The revision asked for is yet to come.
    Future,
}

/// How far a cause reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It may be over with the next attempt.
    Passing,
    /// It lies in this member; another may do it.
    Member,
    /// Every member would say the same.
    Cluster,
}

impl Cause {
    pub(crate) fn reach(&self) -> Reach {
        match self {
            Cause::Connect(_) | Cause::Lost(_) | Cause::TimedOut | Cause::NotNow(_) | Cause::Token => Reach::Passing,
            Cause::Server(error) => match error {
                ServerError::OtherCluster { .. }
                | ServerError::WentBack { .. }
                | ServerError::Version { .. }
                | ServerError::Tls { .. } => Reach::Member,
                ServerError::NoSpace { .. }
                | ServerError::Login { .. }
                | ServerError::Denied { .. }
                | ServerError::Corrupt { .. }
                | ServerError::Refused { .. } => Reach::Cluster,
            },
            Cause::Member(_) | Cause::Compacted | Cause::Future => Reach::Cluster,
        }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Cause::Connect(reason) | Cause::Lost(reason) | Cause::NotNow(reason) => f.write_str(reason),
            Cause::TimedOut => f.write_str("no answer in time"),
            Cause::Token => f.write_str("the token of the login has expired"),
            Cause::Server(error) => error.fmt(f),
            Cause::Member(error) => error.fmt(f),
            Cause::Compacted => f.write_str("the revision is no longer kept"),
            Cause::Future => f.write_str("the revision is yet to come"),
        }
    }
}

impl Failure {
    /// Nothing was done.
    pub(crate) fn certain(endpoint: &str, cause: Cause) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            cause,
            unknown: false,
        }
    }

    /// It may have been done.
    pub(crate) fn unknown(endpoint: &str, cause: Cause) -> Self {
        Self {
            unknown: true,
            ..Self::certain(endpoint, cause)
        }
    }

    /// What `status`, the answer of `endpoint` to a request of `user`, says.
    pub(crate) fn from_status(endpoint: &str, user: Option<&str>, status: &Status) -> Self {
        // What the member itself answers has no source; what broke on the way has.
        match status.source() {
            Some(_) if has_source::<ConnectError>(status) => {
                Self::certain(endpoint, Cause::Connect("the connection has ended".into()))
            }
            Some(_) if has_source::<TimeoutExpired>(status) => Self::unknown(endpoint, Cause::TimedOut),
            Some(source) => Self::unknown(endpoint, Cause::Lost(chain(source))),
            None => {
                let (cause, unknown) = meaning(endpoint, user, status.code(), status.message());
                Self {
                    endpoint: endpoint.to_owned(),
                    cause,
                    unknown,
                }
            }
        }
    }

    pub(crate) fn into_error(self) -> Error {
        match (self.unknown, self.cause) {
            // Told even if it is unknown: it explains, and who goes on after it does not take the answer for a no.
            (_, Cause::Server(error)) => Error::Server(error),
            (_, Cause::Member(error)) => Error::Member(error),
            (true, cause) => Error::Unknown {
                endpoint: self.endpoint,
                reason: cause.to_string(),
            },
            (false, cause) => Error::Unavailable {
                reason: format!("{}: {cause}", self.endpoint),
            },
        }
    }
}

fn has_source<E: std::error::Error + 'static>(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<E>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// What etcd means, and whether the request may have been carried out. etcd 3.4 to 3.6; its texts are part of its API.
fn meaning(endpoint: &str, user: Option<&str>, code: Code, text: &str) -> (Cause, bool) {
    let endpoint = endpoint.to_owned();
    let user = user.map(str::to_owned);
    let reason = text.to_owned();
    let has = |part: &str| text.contains(part);
    let no = |cause: Cause| (cause, false);
    let now = |unknown: bool| (Cause::NotNow(text.to_owned()), unknown);

    // Said before anything is proposed.
    if has("etcdserver: no leader")
        || has("etcdserver: too many requests")
        || has("raft proposal dropped")
        || has("etcdserver: not leader")
        || has("rpc not supported for learner")
        || has("etcdserver: not capable")
        || has("etcdserver: user name not found, retry")
    {
        return now(false);
    }
    // Said while a proposal may be on its way.
    if has("request timed out") || has("leader changed") || has("server stopped") || has("applied index took too long")
    {
        return now(true);
    }
    if has("database space exceeded") {
        return no(Cause::Server(ServerError::NoSpace { endpoint }));
    }
    if has("corrupt cluster") {
        return no(Cause::Server(ServerError::Corrupt { endpoint }));
    }
    if has("invalid auth token") || has("revision of auth store is old") {
        return no(Cause::Token);
    }
    if has("user name is empty") && user.is_some() {
        // We logged in when the cluster did not ask for it yet.
        return no(Cause::Token);
    }
    if has("authentication failed") || has("user name is empty") || has("common name") {
        return no(Cause::Server(ServerError::Login { endpoint, user, reason }));
    }
    if code == Code::PermissionDenied {
        return no(Cause::Server(ServerError::Denied { endpoint, user }));
    }
    if has("revision has been compacted") {
        return no(Cause::Compacted);
    }
    if has("is a future revision") {
        return no(Cause::Future);
    }
    if let Some(error) = about_members(text) {
        return no(Cause::Member(error));
    }
    match code {
        Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented | Code::OutOfRange | Code::NotFound => {
            no(Cause::Server(ServerError::Refused { endpoint, reason }))
        }
        // Refused by size or number before anything is proposed.
        Code::ResourceExhausted => no(Cause::Server(ServerError::Refused { endpoint, reason })),
        Code::DeadlineExceeded => (Cause::TimedOut, true),
        _ => now(true),
    }
}

fn about_members(text: &str) -> Option<MemberError> {
    let reason = text.to_owned();
    let known: [(&str, MemberError); 8] = [
        ("member not found", MemberError::NotFound),
        ("member ID already exist", MemberError::Exists),
        ("Peer URLs already exists", MemberError::Exists),
        (
            "can only promote a learner member which is in sync",
            MemberError::NotReady,
        ),
        ("can only promote a learner member", MemberError::NotLearner),
        ("too many learner members", MemberError::TooManyLearners),
        (
            "not enough started members",
            MemberError::Unhealthy { reason: reason.clone() },
        ),
        ("unhealthy cluster", MemberError::Unhealthy { reason: reason.clone() }),
    ];
    if text.contains("bad leader transferee") || text.contains("not leader") {
        return Some(MemberError::BadLeader { reason });
    }
    known
        .into_iter()
        .find(|(part, _)| text.contains(part))
        .map(|(_, error)| error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_etcd_are_told_apart() {
        for (code, text, cause, unknown) in [
            (Code::Unavailable, "etcdserver: no leader", "NotNow", false),
            (
                Code::ResourceExhausted,
                "etcdserver: too many requests",
                "NotNow",
                false,
            ),
            (Code::Unknown, "raft proposal dropped", "NotNow", false),
            (Code::Unavailable, "etcdserver: request timed out", "NotNow", true),
            (
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to previous leader failure",
                "NotNow",
                true,
            ),
            (Code::Unavailable, "etcdserver: leader changed", "NotNow", true),
            (Code::Unavailable, "etcdserver: server stopped", "NotNow", true),
            (Code::DeadlineExceeded, "context deadline exceeded", "TimedOut", true),
            (Code::Cancelled, "context canceled", "NotNow", true),
            (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
                "NoSpace",
                false,
            ),
            (Code::Unauthenticated, "etcdserver: invalid auth token", "Token", false),
            (
                Code::InvalidArgument,
                "etcdserver: revision of auth store is old",
                "Token",
                false,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                "Login",
                false,
            ),
            (Code::InvalidArgument, "etcdserver: user name is empty", "Token", false),
            (Code::PermissionDenied, "etcdserver: permission denied", "Denied", false),
            (Code::DataLoss, "etcdserver: corrupt cluster", "Corrupt", false),
            (
                Code::InvalidArgument,
                "etcdserver: too many operations in txn request",
                "Refused",
                false,
            ),
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
                "Compacted",
                false,
            ),
            (Code::Unknown, "something nobody has seen", "NotNow", true),
        ] {
            let failure = Failure::from_status("e", Some("u"), &Status::new(code, text));
            let debug = format!("{:?}", failure.cause);
            assert!(debug.contains(cause), "{text}: {debug}");
            assert_eq!(failure.unknown, unknown, "{text}");
        }
    }

    #[test]
    fn what_is_about_members_is_told_apart() {
        for (text, expected) in [
            ("etcdserver: member not found", MemberError::NotFound),
            ("etcdserver: Peer URLs already exists", MemberError::Exists),
            (
                "etcdserver: can only promote a learner member which is in sync with leader",
                MemberError::NotReady,
            ),
            ("etcdserver: can only promote a learner member", MemberError::NotLearner),
            (
                "etcdserver: too many learner members in cluster",
                MemberError::TooManyLearners,
            ),
        ] {
            let failure = Failure::from_status("e", None, &Status::new(Code::FailedPrecondition, text));
            assert_eq!(failure.into_error(), Error::Member(expected), "{text}");
        }
    }
}
