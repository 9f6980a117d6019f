//! What can go wrong with a cluster's nodes, and what to do about it.

use model::NodeName;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Why a cluster was not made, joined or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is one already.
    #[error("this machine is node `{node}` of cluster `{cluster}` already (`{}`)", path.display())]
    AlreadyNode {
        /// Its name.
        node: NodeName,
        /// The cluster.
        cluster: String,
        /// Its file.
        path: PathBuf,
    },
    /// There is none.
    #[error("this machine is no node of a cluster `{cluster}`")]
    NoNode {
        /// As asked.
        cluster: String,
    },
    /// One machine's cluster of that name.
    #[error("there is a cluster `{cluster}` of this machine alone (`{}`)", path.display())]
    OneMachine {
        /// Its name.
        cluster: String,
        /// Its store.
        path: PathBuf,
    },
    /// The node's file.
    #[error(transparent)]
    Node(#[from] api::node::Error),
    /// The disk.
    #[error("failed to {doing} `{}`", path.display())]
    Io {
        /// What.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The measurement.
    #[error(transparent)]
    Measure(#[from] etcd::server::measure::Error),
    /// The chosen timing.
    #[error(transparent)]
    Timing(#[from] model::timing::Unsafe),
    /// Keys and certificates.
    #[error(transparent)]
    Issue(#[from] identity::IssueError),
    /// Files of keys and certificates.
    #[error(transparent)]
    File(#[from] identity::FileError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] identity::ConfigError),
    /// A signed record.
    #[error("a record of the store is refused")]
    Seal(#[from] identity::SealError),
    /// The token's text.
    #[error(transparent)]
    Token(#[from] identity::TokenError),
    /// The token was not taken.
    #[error(transparent)]
    Refused(#[from] identity::JoinRefused),
    /// What a member answered.
    #[error(transparent)]
    Bundle(#[from] identity::BundleError),
    /// etcd could not be started.
    #[error(transparent)]
    Start(#[from] etcd::server::StartError),
    /// etcd did not answer.
    #[error("the store did not do it")]
    Etcd(#[from] etcd::Error),
    /// The store did not answer.
    #[error("the store did not do it")]
    Store(#[from] store::Error),
    /// A record that cannot be read.
    #[error("the record `{key}` cannot be understood")]
    Record {
        /// Its key.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
    /// etcd of ours did not come up.
    #[error("etcd did not come up within {seconds} s: {last}; its log is `{}`", log.display())]
    NotUp {
        /// How long was waited.
        seconds: u64,
        /// What it said last.
        last: String,
        /// Its log.
        log: PathBuf,
    },
    /// etcd of somebody else does not answer.
    #[error("the etcd at {} does not answer within {seconds} s: {last}", endpoints.join(", "))]
    NoEtcd {
        /// As given.
        endpoints: Vec<String>,
        /// How long was waited.
        seconds: u64,
        /// What it said last.
        last: String,
    },
    /// The store given is of another cluster.
    #[error("this etcd holds the cluster {found} under `{prefix}` already")]
    StoreTaken {
        /// Its id.
        found: String,
        /// The prefix.
        prefix: String,
    },
    /// No member answered.
    #[error("no member of the cluster could be asked: {}", tried.join("; "))]
    NoMember {
        /// Who was asked, and what came of it.
        tried: Vec<String>,
    },
    /// A member said no.
    #[error("{address} refuses: {text}")]
    Said {
        /// Who.
        address: String,
        /// What it said.
        text: String,
        /// What it advised.
        hint: Option<String>,
    },
    /// Clocks differ too much.
    #[error(
        "the clock of this machine is {} {direction} that of {address}: certificates would not be valid",
        people(*ahead_ms)
    )]
    Clock {
        /// Whose clock.
        address: String,
        /// By how much.
        ahead_ms: u64,
        /// `ahead of` or `behind`.
        direction: &'static str,
    },
    /// Nobody can reach a machine there.
    #[error("{host} is no address of one machine: the others could not reach it there")]
    NoAddress {
        /// As given.
        host: IpAddr,
    },
    /// It is the address of another machine, or of none.
    #[error("this machine does not have the address {host}")]
    NotOurAddress {
        /// As given.
        host: IpAddr,
    },
    /// There is no room for three ports.
    #[error("port {port} cannot be used: it must be from 1 to 65533, for etcd takes the next two")]
    NoPort {
        /// As given.
        port: u16,
    },
    /// Somebody else listens there.
    #[error("{at} is taken by another program; {user} would use it")]
    PortTaken {
        /// Where.
        at: SocketAddr,
        /// For what.
        user: &'static str,
    },
    /// An endpoint that cannot be one.
    #[error("`{endpoint}` is no endpoint of etcd: it is written as in https://10.0.0.5:2379")]
    Endpoint {
        /// As given.
        endpoint: String,
    },
    /// An etcd that is spoken to without TLS over a network.
    #[error("`{endpoint}` is reached in the open: whoever is on the way can read and change all that is decided")]
    PlainEtcd {
        /// As given.
        endpoint: String,
    },
    /// etcd's program is missing or none.
    #[error(transparent)]
    Binary(#[from] etcd::server::binary::Error),
    /// A certificate was not renewed.
    #[error(transparent)]
    Renew(#[from] identity::RenewError),
    /// A backup was not made.
    #[error(transparent)]
    Save(#[from] etcd::server::backup::BackupError),
    /// A member of the store was not taken out.
    #[error(transparent)]
    Voters(#[from] etcd::server::cluster::Error),
    /// The name is taken.
    #[error("there is a node `{node}` already; it joined {joined}")]
    NameTaken {
        /// Which.
        node: NodeName,
        /// When.
        joined: String,
    },
    /// It is not there.
    #[error("there is no node `{node}`")]
    UnknownNode {
        /// As asked.
        node: NodeName,
    },
    /// The cluster would stand still.
    #[error("{what}")]
    Unsafe {
        /// Why not.
        what: String,
        /// What to do instead.
        hint: String,
    },
    /// A backup that is not one.
    #[error("`{}` is no backup of a cluster, or a damaged one: {what}", path.display())]
    Backup {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

impl Error {
    /// What can be done about it.
    pub fn hint(&self) -> Option<String> {
        let text = |hint: &str| Some(hint.to_owned());
        match self {
            Error::AlreadyNode { path, .. } => {
                let folder = path.parent().unwrap_or(path).display();
                Some(format!(
                    "`understudy cluster status` shows it; to have it join anew: `understudy cluster remove NODE` on another node, if it is still a \
                     member there, `understudy down --etcd` here, and `mv {folder} ~/`"
                ))
            }
            Error::NoNode { .. } => {
                text("`understudy cluster init` makes one, `understudy cluster join TOKEN` joins one")
            }
            Error::OneMachine { .. } => {
                text("give the new one another name, or end the other with `understudy down` and move its folder away")
            }
            Error::Measure(error) => error.hint().map(Into::into),
            Error::Start(error) => error.hint(),
            Error::NotUp { .. } => text("free the ports it needs, or choose others with --port; then try again"),
            Error::StoreTaken { .. } => text("join that cluster with a token of it, or choose another --prefix"),
            Error::NoMember { .. } => text(
                "the address must be reachable, and an agent run there (`understudy cluster status` on that node); the token carries the addresses",
            ),
            Error::Said { hint, .. } => hint.clone(),
            Error::NoAddress { .. } => text(
                "give the address of this machine by which the others reach it: `ip -brief address` lists those it has",
            ),
            Error::NotOurAddress { .. } => text("`ip -brief address` lists the addresses that it has"),
            Error::NoPort { .. } => text("choose another one with --port, or leave it out"),
            Error::PortTaken { at, .. } => Some(format!(
                "`ss -ltnp 'sport = :{}'` says by whom; end that, or choose other ports with --port (three in a row)",
                at.port()
            )),
            Error::Endpoint { .. } => text("with scheme, host and port; give --etcd once for each member"),
            Error::PlainEtcd { .. } => text(
                "use https with --etcd-ca, --etcd-cert and --etcd-key; on a network of your own that nobody else is in, insist with --etcd-in-the-open",
            ),
            Error::Binary(error) => Some(error.hint()),
            Error::Save(error) => error.hint().map(Into::into),
            Error::Voters(error) => error.hint(),
            Error::Token(_) => text("on a node of the cluster: `understudy cluster token`"),
            Error::Refused(_) => {
                text("nothing was changed; on a node of the cluster `understudy cluster token` makes a new token")
            }
            Error::NoEtcd { .. } => text(
                "see that it runs, is reached from here, and is etcd 3.4 and later of version 3: `etcdctl --endpoints URL endpoint health`, `endpoint status`",
            ),
            Error::Etcd(etcd::Error::Unavailable { .. }) | Error::Store(store::Error::Unavailable { .. }) => no_store(),
            Error::Etcd(error) => error.hint().map(Into::into).or_else(no_store),
            Error::Store(error) => error.hint().map(Into::into).or_else(no_store),
            Error::Clock { .. } => {
                text("set the clocks right on both machines (chrony, systemd-timesyncd), then try again")
            }
            Error::NameTaken { .. } => {
                text("choose another name with --node; or take the old one out first: `understudy cluster remove NODE`")
            }
            Error::UnknownNode { .. } => text("`understudy cluster status` lists them"),
            Error::Unsafe { hint, .. } => Some(hint.clone()),
            Error::Backup { .. } => text("take another file that `understudy cluster backup` wrote"),
            _ => None,
        }
    }
}

fn no_store() -> Option<String> {
    Some("`understudy cluster status` on a node says which members of the store answer; a majority has to".into())
}

/// A span as people say it.
fn people(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{ms} ms"),
        10_000..120_000 => format!("{} s", ms / 1_000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} days", ms / 86_400_000),
    }
}
