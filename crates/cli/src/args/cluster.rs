//! `cluster` and its commands.

use super::Plain;
use crate::parse::span;
use clap::{Args, Subcommand};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// `cluster`
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Make a cluster of this machine; others join it
    ///
    /// Measures disk and scheduling, chooses the timing, makes the certificates, starts etcd, then the agent, and prints what to type
    /// on the next machine. With `--etcd` it uses an etcd that runs already.
    Init(ClusterInit),
    /// Make this machine a node of a cluster
    ///
    /// The token comes from `cluster init` or `cluster token` on a node. It is used up by this.
    Join(ClusterJoin),
    /// Print a token with which one more machine can join
    Token(ClusterToken),
    /// Take a node out for good: its vote, its certificates, its instances
    ///
    /// The vote of one that is silent ends 6 s later: until then the others let go of what they were sending it, or the store would stand
    /// still.
    Remove(ClusterRemove),
    /// Show who belongs to the cluster, who votes, and what to do if something is amiss; works without a majority too
    Status(Plain),
    /// Write all that the cluster knows to a file
    Backup(ClusterBackup),
    /// Put back what a backup knows, on this node alone; the others join anew
    Restore(ClusterRestore),
    /// The majority is lost for good: make this node the only one that votes
    ///
    /// What the lost machines acknowledged last and this one did not hear is lost. If they are not off, two clusters go on, and exclusive
    /// services have two actives: be sure that they are off.
    Recover(ClusterRecover),
    /// Start the agent of this node again, after a reboot or `down`
    Start(Plain),
    /// Replace the authority that signs certificates: after a member was taken over, or before it ends
    ///
    /// The agents do it by themselves, step by step, while everything runs: first all nodes trust both, then all get certificates of the new
    /// one, then the old one is dropped. Each member's etcd is restarted twice, one after the other. `cluster status` says how far it is.
    RotateAuthority(ClusterRotate),
}

/// `cluster rotate-authority`
#[derive(Debug, Args)]
pub(crate) struct ClusterRotate {
    /// Give it up; possible until the new authority issues certificates
    #[arg(long)]
    pub(crate) abort: bool,
    /// Do not ask; needed where there is no terminal
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// `cluster init`
#[derive(Debug, Args)]
pub(crate) struct ClusterInit {
    /// Name of the cluster
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// The address by which the other machines reach this one
    #[arg(long, value_name = "IP")]
    pub(crate) host: IpAddr,
    /// Name of this node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Its place, a path of failure domains: dc1/rack3 [default: the name of the node]
    #[arg(long, value_name = "ZONE")]
    pub(crate) zone: Option<String>,
    /// Port of the agent; etcd takes the next two
    #[arg(long, value_name = "PORT", default_value_t = membership::AGENT_PORT)]
    pub(crate) port: u16,
    /// The timing [default: the quickest that fits what is measured]
    #[arg(long, value_name = "PROFILE", value_parser = parse_profile)]
    pub(crate) profile: Option<model::Profile>,
    /// An endpoint of an etcd that runs already; may be given several times
    #[arg(long, value_name = "URL")]
    pub(crate) etcd: Vec<String>,
    /// For https: the authority of that etcd's certificates, in PEM
    #[arg(long, value_name = "FILE", requires_all = ["etcd_cert", "etcd_key"])]
    pub(crate) etcd_ca: Option<PathBuf>,
    /// For https: our certificate for it
    #[arg(long, value_name = "FILE", requires = "etcd_ca")]
    pub(crate) etcd_cert: Option<PathBuf>,
    /// For https: the key of that
    #[arg(long, value_name = "FILE", requires = "etcd_ca")]
    pub(crate) etcd_key: Option<PathBuf>,
    /// User for it
    #[arg(long, value_name = "NAME", requires = "etcd_password_file")]
    pub(crate) etcd_user: Option<String>,
    /// File with the password for it
    #[arg(long, value_name = "FILE", requires = "etcd_user")]
    pub(crate) etcd_password_file: Option<PathBuf>,
    /// What is put before every key
    #[arg(long, value_name = "PREFIX", default_value = membership::PREFIX)]
    pub(crate) prefix: String,
    /// Reach that etcd without TLS even over a network: whoever is on the way can read and change everything
    #[arg(long, requires = "etcd")]
    pub(crate) etcd_in_the_open: bool,
    /// How long certificates are valid; they are renewed after two thirds of it [default: 90 days]
    #[arg(long, value_name = "SPAN", value_parser = span, hide = true)]
    pub(crate) certificate_lifetime: Option<Duration>,
}

/// `cluster join`
#[derive(Debug, Args)]
pub(crate) struct ClusterJoin {
    /// The token; `-` reads it from standard input, so that it is in no list of processes
    #[arg(value_name = "TOKEN", env = "UNDERSTUDY_JOIN_TOKEN", hide_env_values = true)]
    pub(crate) token: String,
    /// The address by which the other machines reach this one
    #[arg(long, value_name = "IP")]
    pub(crate) host: IpAddr,
    /// Name of this node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Its place, a path of failure domains: dc1/rack3 [default: the name of the node]
    #[arg(long, value_name = "ZONE")]
    pub(crate) zone: Option<String>,
    /// Port of the agent; etcd takes the next two
    #[arg(long, value_name = "PORT", default_value_t = membership::AGENT_PORT)]
    pub(crate) port: u16,
}

/// `cluster token`
#[derive(Debug, Args)]
pub(crate) struct ClusterToken {
    /// What the machine will be: `member` votes and runs services, `witness` only votes, `worker` only runs services
    #[arg(long, value_name = "ROLE", default_value = "member", value_parser = parse_role)]
    pub(crate) role: identity::NodeRole,
    /// The only node that may use it
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// For how long it is valid
    #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = span)]
    pub(crate) expires: Duration,
}

/// `cluster remove`
#[derive(Debug, Args)]
pub(crate) struct ClusterRemove {
    /// Which node
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    /// Even if it holds slots, or the store may stand still
    #[arg(long)]
    pub(crate) force: bool,
    /// Do not ask; needed where there is no terminal
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// `cluster backup`
#[derive(Debug, Args)]
pub(crate) struct ClusterBackup {
    /// The file to write
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// `cluster restore`
#[derive(Debug, Args)]
pub(crate) struct ClusterRestore {
    /// The file that `cluster backup` wrote
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Do not ask; needed where there is no terminal
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// `cluster recover`
#[derive(Debug, Args)]
pub(crate) struct ClusterRecover {
    /// The statement that the lost machines are off: `off`
    #[arg(long, value_name = "off")]
    pub(crate) others_are: Option<String>,
}

fn parse_profile(text: &str) -> Result<model::Profile, String> {
    let all = model::Profile::ALL;
    all.into_iter()
        .find(|profile| profile.name() == text)
        .ok_or_else(|| format!("there is no timing `{text}`; there are fast, lan, stock and wan"))
}

fn parse_role(text: &str) -> Result<identity::NodeRole, String> {
    use identity::NodeRole;
    [NodeRole::Member, NodeRole::Witness, NodeRole::Worker]
        .into_iter()
        .find(|role| role.to_string() == text)
        .ok_or_else(|| format!("there is no role `{text}`; there are member, witness and worker"))
}
