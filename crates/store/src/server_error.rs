//! What can be wrong with a store that servers keep.

use model::Revision;

/// Why a server of the store, or all of them, cannot be worked with as they are. Trying again alone does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    /// It belongs to another cluster.
    #[error("`{endpoint}` belongs to the etcd cluster {found:016x}, ours is {expected:016x}")]
    OtherCluster {
        /// Whom we asked.
        endpoint: String,
        /// Id of our cluster.
        expected: u64,
        /// Id of its cluster.
        found: u64,
    },

    /// It knows less than was already told: it was wiped, or restored from a backup.
    #[error("the store went back: `{endpoint}` is at revision {found}, but {known} was seen already")]
    WentBack {
        /// Whom we asked.
        endpoint: String,
        /// The highest revision that was seen.
        known: Revision,
        /// The revision it has.
        found: Revision,
    },

    /// It is of a version that we do not know.
    #[error("`{endpoint}` runs etcd `{version}`; 3.4 and later of 3.x are known")]
    Version {
        /// Whom we asked.
        endpoint: String,
        /// What it says it is.
        version: String,
    },

    /// Its database has reached its quota; it only takes reads and deletions.
    #[error("the database of etcd has reached its quota (told by `{endpoint}`)")]
    NoSpace {
        /// Whom we asked.
        endpoint: String,
    },

    /// It does not accept user and password.
    #[error("`{endpoint}` does not accept {} ({reason})", who(user.as_deref()))]
    Login {
        /// Whom we asked.
        endpoint: String,
        /// As whom; none if no user was given.
        user: Option<String>,
        /// What it said.
        reason: String,
    },

    /// The user may not do this.
    #[error("`{endpoint}` does not permit this to {}", who(user.as_deref()))]
    Denied {
        /// Whom we asked.
        endpoint: String,
        /// As whom; none if no user was given.
        user: Option<String>,
    },

    /// There is no secure connection to it.
    #[error("no secure connection to `{endpoint}`: {problem} ({reason})")]
    Tls {
        /// Whom we asked.
        endpoint: String,
        /// What about it.
        problem: TlsProblem,
        /// What the library said.
        reason: String,
    },

    /// It found its data to differ from that of the other members.
    #[error("etcd reports corrupt data (told by `{endpoint}`)")]
    Corrupt {
        /// Whom we asked.
        endpoint: String,
    },

    /// It refuses this request, and would do so again.
    #[error("`{endpoint}` refused the request: {reason}")]
    Refused {
        /// Whom we asked.
        endpoint: String,
        /// What it said.
        reason: String,
    },
}

/// What is wrong with a secure connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TlsProblem {
    /// Its certificate has expired, or is not valid yet.
    #[error("its certificate is not valid at this time")]
    Expired,
    /// Its certificate is of an authority that we do not trust.
    #[error("its certificate is of another authority")]
    Issuer,
    /// Its certificate is for another name or address.
    #[error("its certificate is for another name")]
    Name,
    /// It wants a certificate of us, or another one.
    #[error("it does not accept our certificate")]
    OurCertificate,
    /// It does not speak TLS, or not as we do.
    #[error("the handshake failed")]
    Handshake,
}

impl ServerError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            ServerError::OtherCluster { .. } => "take it off the list of endpoints, or correct the address",
            ServerError::WentBack { .. } => {
                "the store was wiped or restored: nothing is taken over until `understudy cluster` recovery raises the generation"
            }
            ServerError::Version { .. } => "run etcd 3.4 or later (3.5.28 or 3.6.9 and later are recommended)",
            ServerError::NoSpace { .. } => {
                "compact and defragment etcd, or raise --quota-backend-bytes; then disarm its NOSPACE alarm"
            }
            ServerError::Login { user: None, .. } => "etcd asks for a user and a password: give them",
            ServerError::Login { .. } => "check user and password",
            ServerError::Denied { .. } => "grant the user a role that may read and write the prefix of this cluster",
            ServerError::Tls { problem, .. } => problem.hint(),
            ServerError::Corrupt { .. } => "compare the members with `etcdctl endpoint hashkv` and replace the odd one",
            ServerError::Refused { .. } => {
                "look at the limits etcd was started with (--max-txn-ops, --max-request-bytes)"
            }
        }
    }
}

impl TlsProblem {
    fn hint(self) -> &'static str {
        match self {
            TlsProblem::Expired => "renew its certificate, and check the clocks of both machines",
            TlsProblem::Issuer => "give the certificate authority that signed it",
            TlsProblem::Name => "use a name or address that its certificate lists, or issue one that lists this",
            TlsProblem::OurCertificate => {
                "give a client certificate and key that its authority signed and that are valid now"
            }
            TlsProblem::Handshake => {
                "check that this port speaks TLS, and that the address begins with https:// only then"
            }
        }
    }
}

fn who(user: Option<&str>) -> String {
    user.map_or_else(|| "requests without a user".into(), |user| format!("user `{user}`"))
}
