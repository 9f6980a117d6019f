//! What can go wrong with a cluster.

use super::judge::Refusal;
use crate::server::{Diagnosis, StartError, StopError};
use std::path::PathBuf;
use std::time::Duration;

/// Why something about a cluster was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// etcd said no, or nothing.
    #[error("failed to {doing}: {source}")]
    Etcd {
        /// "list the members", "add a member".
        doing: &'static str,
        /// What it said.
        source: crate::Error,
    },
    /// The member could not be started.
    #[error("failed to start etcd: {0}")]
    Start(#[from] StartError),
    /// The member could not be stopped.
    #[error("failed to stop etcd: {0}")]
    Stop(#[from] StopError),
    /// It was started, and ended.
    #[error("etcd of `{name}` ended while it was waited for: {because}")]
    Died {
        /// The member.
        name: String,
        /// Why.
        because: Diagnosis,
    },
    /// It runs but does not serve.
    #[error("etcd of `{name}` does not serve after {}s: {last}", waited.as_secs())]
    NotReady {
        /// The member.
        name: String,
        /// How long it was waited for.
        waited: Duration,
        /// What it said last.
        last: String,
    },
    /// The cluster did not let it in, or it did not catch up.
    #[error("`{name}` did not become a member with a vote within {}s: {last}", waited.as_secs())]
    NotJoined {
        /// The member.
        name: String,
        /// How long it was tried.
        waited: Duration,
        /// What stood in the way last.
        last: String,
    },
    /// There are data of a member already.
    #[error("`{}` has the data of a member already", dir.display())]
    HasData {
        /// The folder.
        dir: PathBuf,
    },
    /// There is one of this name.
    #[error("there is a member `{name}` already")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// It would do harm.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The operator insisted, but typed something else than the member's name.
    #[error("`{typed}` was typed to confirm, but the member is `{name}`")]
    NotConfirmed {
        /// The member.
        name: String,
        /// What was typed.
        typed: String,
    },
    /// The data that cannot be used could not be moved out of the way.
    #[error("failed to move `{}` aside: {what}", dir.display())]
    Aside {
        /// The data.
        dir: std::path::PathBuf,
        /// What went wrong.
        what: String,
    },
    /// A certificate could not be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn etcd(doing: &'static str) -> impl FnOnce(crate::Error) -> Self {
        move |source| Error::Etcd { doing, source }
    }

    /// What can be done about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Etcd { source, .. } => source.hint().map(str::to_owned),
            Error::Start(error) => error.hint(),
            Error::Stop(error) => Some(error.hint().into()),
            Error::Died { because, .. } => because.hint().map(str::to_owned),
            Error::NotReady { .. } => {
                Some("see etcd's log; a member that waits for others serves when a majority of them runs".into())
            }
            Error::NotJoined { .. } => Some(
                "it was taken out again; see that all members are well and reach each other, then join once more"
                    .into(),
            ),
            Error::HasData { dir } => Some(format!(
                "start it as it is if it belongs to this cluster; if not, move `{}` away",
                dir.display()
            )),
            Error::NameTaken { name } => Some(format!(
                "replace the member if the node `{name}` was set up anew, or choose another name"
            )),
            Error::Refused(refusal) => Some(refusal.hint().into()),
            Error::NotConfirmed { name, .. } => Some(format!("type `{name}` to insist")),
            Error::Aside { .. } => Some("the disk must be writable: see `dmesg`, and whether it is full".into()),
            Error::Certificate { .. } => {
                Some("make the certificates anew, or run as the user that may read them".into())
            }
        }
    }
}
