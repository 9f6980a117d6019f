//! Where the files of a cluster lie on a machine. Paths only; nothing here touches the disk but [`default_base`].
//!
//! ```text
//! BASE/                  /var/lib/understudy as root, $XDG_STATE_HOME/understudy (~/.local/state) otherwise
//!   CLUSTER/
//!     store.redb         slots, epochs, applied files; of one machine
//!     node.json, pki/    whose node this is and its keys; etcd/ its member of the store; of several machines
//!     data/INSTANCE/     working data of an instance, `{data}`
//!     logs/INSTANCE.log  its output, `INSTANCE.log.1` and so on when rotated
//!     run/               sockets, locks, what runs: worthless after a reboot
//! ```

use model::InstanceId;
use std::path::{Path, PathBuf};

/// The folder of one cluster on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The cluster `name` below `base`.
    pub fn new(base: &Path, name: &str) -> Self {
        Self { root: base.join(name) }
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The embedded store.
    pub fn store(&self) -> PathBuf {
        self.root.join("store.redb")
    }

    /// What this machine knows of the cluster, if it is one of several.
    pub fn node(&self) -> PathBuf {
        self.root.join("node.json")
    }

    /// Certificates and keys: of the cluster, this node and its member of the store.
    pub fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    /// The data of the member of the store that this node runs.
    pub fn etcd(&self) -> PathBuf {
        self.root.join("etcd")
    }

    /// Where the guard listens for its agent.
    pub fn guard_socket(&self) -> PathBuf {
        self.run().join("guard.sock")
    }

    /// Where the agent of one machine tells its guard that it goes on.
    pub fn heartbeat(&self) -> PathBuf {
        self.run().join("guard.beat")
    }

    /// The session of this boot, for an agent that comes back.
    pub fn session(&self) -> PathBuf {
        self.root.join("session.json")
    }

    /// The folder of all data folders.
    pub fn all_data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// Up to which revision this node told of what operators did by force.
    pub fn told(&self) -> PathBuf {
        self.root.join("told.json")
    }

    /// The data folder of an instance.
    pub fn data(&self, instance: &InstanceId) -> PathBuf {
        self.all_data().join(instance.to_string())
    }

    /// The folder of all logs.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The current log of an instance.
    pub fn log(&self, instance: &InstanceId) -> PathBuf {
        self.logs().join(format!("{instance}.log"))
    }

    /// Sockets and our own logs. Whoever empties it does no harm: each process makes its own anew.
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// Where the agent answers.
    pub fn api_socket(&self) -> PathBuf {
        self.run().join("api.sock")
    }

    /// What the dashboard of a single machine keeps: the key of its sessions.
    pub fn dashboard(&self) -> PathBuf {
        self.root.join("dashboard")
    }

    /// At which address of this machine the dashboard is.
    pub fn dashboard_address(&self) -> PathBuf {
        self.run().join("dashboard.address")
    }

    /// Where services ask for state of theirs.
    pub fn state_socket(&self) -> PathBuf {
        self.run().join("state.sock")
    }

    /// With what an instance shows which service it is of. Not in `run/`: it knows only this path, for as long as it runs.
    pub fn state_token(&self, instance: &InstanceId) -> PathBuf {
        self.root.join("tokens").join(instance.to_string())
    }

    /// Where the proxy listens for its agent.
    pub fn proxy_socket(&self) -> PathBuf {
        self.run().join("proxy.sock")
    }

    /// Held by the agent that is in charge; contains its process id. Not in `run/`: with that emptied a second agent could be started.
    pub fn agent_lock(&self) -> PathBuf {
        self.root.join("agent.lock")
    }

    /// Held by the guard that is in charge; contains its process id.
    pub fn guard_lock(&self) -> PathBuf {
        self.root.join("guard.lock")
    }

    /// Records of running instances, one file each. Not in `run/`: whoever empties that must not make anyone forget what runs.
    pub fn instances(&self) -> PathBuf {
        self.root.join("running")
    }

    /// The log of one of our own processes: `agent`, `guard`, `proxy`.
    pub fn own_log(&self, process: &str) -> PathBuf {
        self.run().join(format!("{process}.log"))
    }
}

/// Where clusters lie if nothing else is said, from the environment of this process.
pub fn default_base(is_root: bool) -> PathBuf {
    if is_root {
        return PathBuf::from("/var/lib/understudy");
    }
    if let Some(state) = std::env::var_os("XDG_STATE_HOME").filter(|path| Path::new(path).is_absolute()) {
        return PathBuf::from(state).join("understudy");
    }
    match std::env::var_os("HOME") {
        Some(home) => PathBuf::from(home).join(".local/state/understudy"),
        None => std::env::temp_dir().join("understudy"),
    }
}
