//! What a member is to be, and the flags that make etcd so.

use model::Profile;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bound of the database unless another is given. What Understudy keeps is small; a small bound keeps a member's start, its
/// snapshots and the move to a new member quick.
pub const QUOTA_BYTES: u64 = 512 * 1024 * 1024;
/// How long old revisions are kept: an interrupted watch finds its place again for so long.
pub const KEEP_HISTORY: Duration = Duration::from_secs(300);
/// etcd refuses a larger quota's benefit, and warns, from here on.
const QUOTA_BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;
/// Below it, the database would be full before anything is in it.
const QUOTA_BYTES_MIN: u64 = 1024 * 1024;
/// Log entries between two of etcd's own snapshots: with etcd's old default of 100,000 a member holds all those in memory.
const SNAPSHOT_COUNT: u32 = 10_000;
/// Our clients ask a silent member whether it lives this often; etcd would hang up on them at its default of 5 s.
const PINGS_ALLOWED_EVERY: &str = "100ms";

/// What a member is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Its name in the cluster: the node's.
    pub name: String,
    /// etcd's data. Beside it lie `DIR.lock` and, while it is being replaced, `DIR.before-…`.
    pub data_dir: PathBuf,
    /// What etcd writes; kept bounded.
    pub log: PathBuf,
    /// Where it is noted that etcd runs, for the next agent. Worthless after a reboot.
    pub record: PathBuf,
    /// Where clients and peers reach this node: an address that it has.
    pub address: IpAddr,
    /// For clients.
    pub client_port: u16,
    /// For the other members.
    pub peer_port: u16,
    /// Certificates; without them only loopback addresses are allowed.
    pub tls: Option<Tls>,
    /// Gives the heartbeat and the election timeout: the same for all members.
    pub profile: Profile,
    /// How it comes to the cluster; of no effect once there is data.
    pub initial: Initial,
    /// The cluster's own word, so that members of two clusters never mix.
    pub token: String,
    /// Bound of the database, in bytes: the same for all members, because the first that is full stops all.
    pub quota_bytes: u64,
    /// How long old revisions are kept, in whole seconds.
    pub keep_history: Duration,
    /// Whether this node only votes: it keeps less of the past on its disk.
    pub witness: bool,
    /// The program, if not the first found.
    pub program: Option<PathBuf>,
}

/// Certificates in PEM files, for clients and peers alike. The certificate must allow both uses, server and client, and name
/// every address that the node's connections to the others come from: a member hangs up on a peer whose certificate does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Who may sign the certificates of clients and peers.
    pub ca: PathBuf,
    /// This node's certificate, with its address in it.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Another certificate of the same key, towards the other members.
    pub peer_cert: Option<PathBuf>,
    /// The common name that the other members must show.
    pub peer_name: Option<String>,
    /// Certificates that are not believed any more.
    pub revoked: Option<PathBuf>,
}

/// How a member comes to its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Initial {
    /// It is the first of a new one.
    New,
    /// It was added to one that runs: name and peer URL of all others.
    Join(Vec<(String, String)>),
    /// It belongs to one already. Without its data it is not started: etcd would begin a cluster of its own, under the address of this one.
    Present,
}

/// What is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// etcd's lists separate by `,` and `=`.
    #[error("`{name}` cannot be the name of a member: letters, digits, `-`, `_` and `.` only")]
    Name {
        /// The name.
        name: String,
    },
    /// Whoever can reach it could read and write everything.
    #[error("etcd would listen on {address} without certificates")]
    Plain {
        /// The address.
        address: IpAddr,
    },
    /// No address that others could be told.
    #[error("{address} is no address of a node: it stands for all of them")]
    Unspecified {
        /// The address.
        address: IpAddr,
    },
    /// One port for both.
    #[error("port {port} cannot be for clients and for peers")]
    Ports {
        /// The port.
        port: u16,
    },
    /// A file that is not there or not readable.
    #[error("cannot read the {what} `{}`: {why}", path.display())]
    Certificate {
        /// "certificate", "key", "CA".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said, or "it is not PEM".
        why: String,
    },
    /// etcd does not run in the agent's folder.
    #[error("`{}` is not absolute", path.display())]
    Relative {
        /// The path.
        path: PathBuf,
    },
    /// Too small or too large.
    #[error("a quota of {bytes} bytes is out of range: from {QUOTA_BYTES_MIN} to {QUOTA_BYTES_MAX}")]
    Quota {
        /// What was asked for.
        bytes: u64,
    },
    /// Less than a second would compact away what watches need.
    #[error("history must be kept for a second at least, not {}ms", asked.as_millis())]
    History {
        /// What was asked for.
        asked: Duration,
    },
}

impl Invalid {
    /// What can be done about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Invalid::Plain { .. } => {
                Some("make certificates (`cluster init` does), or use 127.0.0.1 for a trial on one machine")
            }
            Invalid::Unspecified { .. } => Some("give the address by which the other nodes reach this one"),
            Invalid::Certificate { .. } => Some("make the certificates anew, or run as the user that may read them"),
            Invalid::Ports { .. } => Some("etcd's usual ones are 2379 for clients and 2380 for peers"),
            _ => None,
        }
    }
}

impl Config {
    /// A member that keeps its files in `folder`, on loopback, with defaults for the rest.
    pub fn new(name: impl Into<String>, folder: &Path, client_port: u16, peer_port: u16) -> Self {
        Self {
            name: name.into(),
            data_dir: folder.join("etcd"),
            log: folder.join("etcd.log"),
            record: folder.join("etcd.process.json"),
            address: IpAddr::from([127, 0, 0, 1]),
            client_port,
            peer_port,
            tls: None,
            profile: Profile::Lan,
            initial: Initial::New,
            token: "understudy".into(),
            quota_bytes: QUOTA_BYTES,
            keep_history: KEEP_HISTORY,
            witness: false,
            program: None,
        }
    }

    /// Where clients reach it.
    pub fn client_url(&self) -> String {
        self.url(self.client_port)
    }

    /// Where peers reach it.
    pub fn peer_url(&self) -> String {
        self.url(self.peer_port)
    }

    fn url(&self, port: u16) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", std::net::SocketAddr::new(self.address, port))
    }

    /// What keeps a second etcd from these data: held by etcd itself, as its standard input, for as long as it lives.
    pub fn lock(&self) -> PathBuf {
        beside(&self.data_dir, "lock")
    }

    /// Whether there are data of a member.
    pub fn has_data(&self) -> bool {
        self.data_dir.join("member").exists()
    }

    /// Finds what would make etcd refuse, or be open to everyone.
    pub fn check(&self) -> Result<(), Invalid> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || !self.name.chars().all(allowed) {
            return Err(Invalid::Name {
                name: self.name.clone(),
            });
        }
        if self.address.is_unspecified() {
            return Err(Invalid::Unspecified { address: self.address });
        }
        if self.tls.is_none() && !self.address.is_loopback() {
            return Err(Invalid::Plain { address: self.address });
        }
        if self.client_port == self.peer_port {
            return Err(Invalid::Ports { port: self.peer_port });
        }
        if !(QUOTA_BYTES_MIN..=QUOTA_BYTES_MAX).contains(&self.quota_bytes) {
            return Err(Invalid::Quota {
                bytes: self.quota_bytes,
            });
        }
        let paths = [&self.data_dir, &self.log, &self.record];
        if let Some(path) = paths.into_iter().find(|path| !path.is_absolute()) {
            return Err(Invalid::Relative { path: path.clone() });
        }
        if self.keep_history < Duration::from_secs(1) {
            return Err(Invalid::History {
                asked: self.keep_history,
            });
        }
        self.tls.as_ref().map_or(Ok(()), Tls::check)
    }

    /// etcd's arguments. Flags rather than a file: with a file, etcd would ignore the flags, and switch off more than that.
    pub fn arguments(&self) -> Vec<String> {
        let timing = self.profile.timing();
        let mut flags = Flags::default();
        flags.add("name", &self.name);
        flags.add("data-dir", self.data_dir.display());
        flags.add("listen-client-urls", self.client_url());
        flags.add("advertise-client-urls", self.client_url());
        flags.add("listen-peer-urls", self.peer_url());
        flags.add("initial-advertise-peer-urls", self.peer_url());
        flags.add("initial-cluster", self.initial_cluster());
        flags.add("initial-cluster-state", self.initial.word());
        flags.add("initial-cluster-token", &self.token);
        flags.add("heartbeat-interval", timing.store_heartbeat.0);
        flags.add("election-timeout", timing.store_election_timeout.0);
        flags.add("pre-vote", true);
        flags.add("strict-reconfig-check", true);
        flags.add("auto-compaction-mode", "periodic");
        flags.add(
            "auto-compaction-retention",
            format_args!("{}s", self.keep_history.as_secs()),
        );
        flags.add("quota-backend-bytes", self.quota_bytes);
        flags.add("snapshot-count", SNAPSHOT_COUNT);
        flags.add("grpc-keepalive-min-time", PINGS_ALLOWED_EVERY);
        flags.add("logger", "zap");
        flags.add("log-outputs", "stderr");
        if self.witness {
            flags.add("max-wals", 2);
            flags.add("max-snapshots", 2);
        }
        if let Some(tls) = &self.tls {
            let peer_cert = tls.peer_cert.as_ref().unwrap_or(&tls.cert);
            for (prefix, cert) in [("", &tls.cert), ("peer-", peer_cert)] {
                flags.add(&format!("{prefix}trusted-ca-file"), tls.ca.display());
                flags.add(&format!("{prefix}cert-file"), cert.display());
                flags.add(&format!("{prefix}key-file"), tls.key.display());
                flags.add(&format!("{prefix}client-cert-auth"), true);
            }
            if let Some(revoked) = &tls.revoked {
                flags.add("client-crl-file", revoked.display());
                flags.add("peer-crl-file", revoked.display());
            }
            if let Some(name) = &tls.peer_name {
                flags.add("peer-cert-allowed-cn", name);
            }
        }
        flags.0
    }

    fn initial_cluster(&self) -> String {
        let mut members = vec![(self.name.clone(), self.peer_url())];
        if let Initial::Join(others) = &self.initial {
            members.extend(others.iter().filter(|(name, _)| *name != self.name).cloned());
        }
        let members: Vec<String> = members.into_iter().map(|(name, url)| format!("{name}={url}")).collect();
        members.join(",")
    }
}

impl Initial {
    fn word(&self) -> &'static str {
        match self {
            Initial::New => "new",
            Initial::Join(_) | Initial::Present => "existing",
        }
    }
}

impl Tls {
    fn check(&self) -> Result<(), Invalid> {
        let files = [("CA", &self.ca), ("certificate", &self.cert), ("key", &self.key)];
        for (what, path) in files
            .into_iter()
            .chain(self.peer_cert.iter().map(|path| ("certificate", path)))
        {
            let why = match std::fs::read(path) {
                Err(error) => error.to_string(),
                Ok(text) if text.windows(10).any(|part| part == b"-----BEGIN") => continue,
                Ok(_) => "it is not PEM".into(),
            };
            return Err(Invalid::Certificate {
                what,
                path: path.clone(),
                why,
            });
        }
        Ok(())
    }
}

/// `DIR.SUFFIX`, on the same file system as `DIR`.
pub(super) fn beside(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

#[derive(Default)]
struct Flags(Vec<String>);

impl Flags {
    fn add(&mut self, name: &str, value: impl fmt::Display) {
        self.0.push(format!("--{name}={value}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_member_of_a_lan_on_loopback() {
        let config = Config::new("a", Path::new("/var/lib/understudy"), 2379, 2380);
        config.check().unwrap();
        let arguments = config.arguments().join(" ");
        assert_eq!(
            arguments,
            "--name=a --data-dir=/var/lib/understudy/etcd --listen-client-urls=http://127.0.0.1:2379 \
             --advertise-client-urls=http://127.0.0.1:2379 --listen-peer-urls=http://127.0.0.1:2380 \
             --initial-advertise-peer-urls=http://127.0.0.1:2380 --initial-cluster=a=http://127.0.0.1:2380 \
             --initial-cluster-state=new --initial-cluster-token=understudy --heartbeat-interval=50 --election-timeout=500 \
             --pre-vote=true --strict-reconfig-check=true --auto-compaction-mode=periodic --auto-compaction-retention=300s \
             --quota-backend-bytes=536870912 --snapshot-count=10000 --grpc-keepalive-min-time=100ms --logger=zap --log-outputs=stderr"
        );
    }

    #[test]
    fn a_witness_that_joins_with_certificates() {
        let dir = tempfile::tempdir().unwrap();
        let pem = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, "-----BEGIN SOMETHING-----\n").unwrap();
            path
        };
        let mut config = Config::new("w", dir.path(), 2379, 2380);
        config.address = "2001:db8::7".parse().unwrap();
        config.profile = Profile::Fast;
        config.witness = true;
        config.initial = Initial::Join(vec![("a".into(), "https://10.0.0.1:2380".into())]);
        assert_eq!(
            config.check(),
            Err(Invalid::Plain {
                address: config.address
            })
        );
        config.tls = Some(Tls {
            ca: pem("ca.pem"),
            cert: pem("w.pem"),
            peer_cert: None,
            peer_name: None,
            revoked: None,
            key: pem("w.key"),
        });
        config.check().unwrap();
        let arguments = config.arguments();
        for flag in [
            "--listen-peer-urls=https://[2001:db8::7]:2380",
            "--initial-cluster=w=https://[2001:db8::7]:2380,a=https://10.0.0.1:2380",
            "--initial-cluster-state=existing",
            "--heartbeat-interval=20",
            "--election-timeout=150",
            "--client-cert-auth=true",
            "--peer-client-cert-auth=true",
            "--max-wals=2",
        ] {
            assert!(
                arguments.iter().any(|argument| argument == flag),
                "{flag} is not in {arguments:?}"
            );
        }
        std::fs::write(dir.path().join("w.key"), "nonsense").unwrap();
        assert!(matches!(config.check(), Err(Invalid::Certificate { what: "key", why, .. }) if why == "it is not PEM"));
    }

    #[test]
    fn what_etcd_would_refuse_or_misread_is_refused_first() {
        let config = || Config::new("a", Path::new("/d"), 2379, 2380);
        let wrong = |change: fn(&mut Config)| {
            let mut config = config();
            change(&mut config);
            config.check().unwrap_err()
        };
        assert!(matches!(wrong(|c| c.name = "a=b,c".into()), Invalid::Name { .. }));
        assert!(matches!(wrong(|c| c.name.clear()), Invalid::Name { .. }));
        assert!(matches!(wrong(|c| c.peer_port = 2379), Invalid::Ports { .. }));
        assert!(matches!(wrong(|c| c.quota_bytes = 0), Invalid::Quota { .. }));
        assert!(matches!(
            wrong(|c| c.keep_history = Duration::from_millis(10)),
            Invalid::History { .. }
        ));
        assert!(matches!(
            wrong(|c| c.address = "0.0.0.0".parse().unwrap()),
            Invalid::Unspecified { .. }
        ));
    }
}
