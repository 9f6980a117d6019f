//! `node.json`: what a machine knows of the cluster it belongs to. Written by `cluster init` and `cluster join`; an agent that finds it
//! is one of several.

use model::{NodeName, Profile, Timing};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Name of the cluster.
    pub cluster: String,
    /// Which cluster: as `meta` in the store says.
    pub cluster_id: String,
    /// Name of this node.
    pub node: NodeName,
    /// Its place: a path of failure domains such as `dc1/rack3`.
    pub zone: String,
    /// Where its instances and its agent are reached by the others.
    pub host: IpAddr,
    /// Port of its agent's API, with mutual TLS.
    pub agent_port: u16,
    /// Whether it runs services; a witness only votes.
    pub runs_services: bool,
    /// Another one for each machine that ever joined.
    pub machine: String,
    /// The timing that was chosen.
    pub profile: Profile,
    /// Why it was chosen: what was measured, or that the operator asked for it.
    pub because: String,
    /// The timing itself, if the operator changed anything of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timing: Option<Timing>,
    /// The store.
    pub store: StorePlace,
    /// `/dev/watchdog`, if the guard shall use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<PathBuf>,
    /// Of up to so many nodes every agent is told every renewal; of more only those of nodes that it may succeed. 50 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole_up_to: Option<usize>,
    /// The highest generation of epochs that this node knew of: a store that is put back knows less.
    #[serde(default, skip_serializing_if = "is_first")]
    pub generation: u32,
    /// Where the members of the store were that `recover` or `restore` left behind, and that have not joined anew since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_behind: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_first(generation: &u32) -> bool {
    *generation == 0
}

/// Where the store is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorePlace {
    /// Addresses for clients, each `https://host:port`.
    pub endpoints: Vec<String>,
    /// Put before every key.
    pub prefix: String,
    /// The member of it that this node runs; none if it is not ours to run.
    pub member: Option<Member>,
    /// User, if it asks for one. The password is in `pki/etcd-password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Whether certificates are used: those of the folder `pki/`.
    pub tls: bool,
}

/// A member of the store that this node runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Where it answers clients.
    pub client: SocketAddr,
    /// Where it answers the other members.
    pub peer: SocketAddr,
}

/// The file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk.
    #[error("failed to {doing} `{}`", path.display())]
    Io {
        /// `read` or `write`.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The content.
    #[error("`{}` is damaged", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl Node {
    /// Reads the file; nothing if there is none.
    pub fn read(path: &Path) -> Result<Option<Self>, Error> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(Error::Io {
                    doing: "read",
                    path: path.into(),
                    source,
                });
            }
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| Error::Damaged {
                path: path.into(),
                source,
            })
    }

    /// Notes a generation of epochs, unless a later one is known.
    pub fn note_generation(path: &Path, generation: u32) -> Result<(), Error> {
        match Self::read(path)? {
            Some(node) if node.generation < generation => Self { generation, ..node }.write(path),
            _ => Ok(()),
        }
    }

    /// Writes the file: whole or not at all. The generation that it has is not lowered.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let known = Self::read(path).ok().flatten().map_or(0, |node| node.generation);
        let node = Self {
            generation: known.max(self.generation),
            ..self.clone()
        };
        let failed = |source| Error::Io {
            doing: "write",
            path: path.into(),
            source,
        };
        let text = serde_json::to_vec_pretty(&node).map_err(|error| failed(io::Error::other(error)))?;
        let new = path.with_extension("json.new");
        let written = std::fs::File::create(&new).and_then(|mut file| {
            io::Write::write_all(&mut file, &text)?;
            file.sync_all()
        });
        written.and_then(|()| std::fs::rename(&new, path)).map_err(failed)
    }

    /// The timing in force.
    pub fn timing(&self) -> Timing {
        self.timing.unwrap_or_else(|| self.profile.timing())
    }
}
