//! How to reach etcd.

use model::Revision;
use std::fmt;
use std::time::Duration;

/// How to reach etcd, and how long to wait for it.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the members listen for clients: `http://10.0.0.1:2379` or `https://name:2379`, one per member.
    pub endpoints: Vec<String>,
    /// For `https://`: whom to trust, and who we are.
    pub tls: Option<Tls>,
    /// User and password, if etcd asks for them.
    pub login: Option<(String, Password)>,
    /// Put before every key of the store, so that others can share the etcd. Administration ignores it.
    pub prefix: String,
    /// Deadlines of what only reads.
    pub read: Class,
    /// Deadlines of transactions.
    pub write: Class,
    /// Deadlines of what goes through a renewal handle: by default one attempt, hedged.
    pub renewal: Class,
    /// Deadlines of administration, except for what is as large as the database.
    pub admin: Class,
    /// R: a member that cannot be reached is tried again after at most this long.
    pub reconnect: Duration,
    /// The first endpoint is on this machine. Watches are opened there as long as it answers: then no loss of another machine keeps news from us.
    pub near: bool,
    /// A watch that is told nothing for this long asks its member for a sign of life, and goes to another one if none comes
    /// within [`mute`](Self::mute).
    pub silence: Duration,
    /// How long a member has for a sign of life, the first time; doubled each time that none came.
    pub mute: Duration,
    /// What an earlier run knew. Without it the first answer is believed.
    pub known: Option<Known>,
}

/// Deadlines of one class of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// T: one member has this long to answer.
    pub attempt: Duration,
    /// After this long no further round through the members is begun; zero for one round.
    pub total: Duration,
    /// Ask a second member when the first has not answered after half of `attempt`. A transaction may then be carried
    /// out twice, so it is for those that may: renewals.
    pub hedge: bool,
}

/// What is remembered of a store, to notice another one in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// etcd's id of the cluster.
    pub cluster: u64,
    /// The highest revision that was seen.
    pub revision: Revision,
}

/// Certificates and key, each in PEM.
#[derive(Clone)]
pub struct Tls {
    /// The authorities that may sign certificates of members.
    pub ca: String,
    /// Our certificate and its key, if members ask for one.
    pub identity: Option<(String, Password)>,
}

/// A secret. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Options {
    /// The defaults for these endpoints: 250 ms per attempt, 5 s in all.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let attempt = Duration::from_millis(250);
        let usual = Class {
            attempt,
            total: Duration::from_secs(5),
            hedge: false,
        };
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            tls: None,
            login: None,
            prefix: String::new(),
            read: usual,
            write: usual,
            renewal: Class {
                attempt,
                total: Duration::ZERO,
                hedge: true,
            },
            admin: Class {
                // A change of members waits for the new configuration to be applied.
                attempt: Duration::from_secs(5),
                total: Duration::from_secs(15),
                hedge: false,
            },
            reconnect: Duration::from_millis(100),
            near: false,
            silence: attempt * 3,
            mute: attempt * 2,
            known: None,
        }
    }

    /// With T for reads, transactions and renewals (and three times that for a silent watch), and `total` for all rounds
    /// of a read or transaction.
    #[must_use]
    pub fn deadlines(mut self, attempt: Duration, total: Duration) -> Self {
        for class in [&mut self.read, &mut self.write] {
            class.attempt = attempt;
            class.total = total;
        }
        self.renewal.attempt = attempt;
        self.silence = attempt * 3;
        self.mute = attempt * 2;
        self
    }

    /// With a prefix for every key.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// With user and password.
    #[must_use]
    pub fn login(mut self, user: impl Into<String>, password: impl Into<Password>) -> Self {
        self.login = Some((user.into(), password.into()));
        self
    }

    /// With certificates.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }
}

impl Password {
    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> From<T> for Password {
    fn from(secret: T) -> Self {
        Self(secret.into())
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("ca_bytes", &self.ca.len())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let options = Options::new(["http://[::1]:2379"]).login("root", "hunter2").tls(Tls {
            ca: "CA".into(),
            identity: Some(("CERT".into(), "KEYKEY".into())),
        });
        let printed = format!("{options:?}");
        assert!(!printed.contains("hunter2") && !printed.contains("KEYKEY"), "{printed}");
        assert!(printed.contains("root"), "{printed}");
    }
}
