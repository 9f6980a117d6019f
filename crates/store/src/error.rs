//! What can go wrong, to what, and what to do about it.

use crate::{Invalid, ServerError};
use model::Revision;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the store did not do what it was asked to.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The request is out of bounds.
    #[error("the store refused a request")]
    Invalid(#[from] Invalid),

    /// A watch asked for, or fell back behind, changes that are no longer kept.
    #[error("changes before revision {oldest} are no longer kept")]
    Compacted {
        /// The first revision that is.
        oldest: Revision,
    },

    /// Nothing was changed: the file cannot be written.
    #[error("the store could not write; nothing was changed")]
    File(#[from] FileError),

    /// What keeps the store cannot be worked with. Nothing was changed, except perhaps at a store that went back.
    #[error(transparent)]
    Server(#[from] ServerError),

    /// Nothing was changed: the store could not be asked.
    #[error("the store could not be asked ({reason}); nothing was changed")]
    Unavailable {
        /// Why.
        reason: String,
    },

    /// The transaction may have been carried out, or not.
    #[error("whether the transaction was carried out is unknown ({reason})")]
    Unknown {
        /// What happened.
        reason: String,
    },

    /// What an earlier transaction did is unknown, and reading must wait until it is settled.
    #[error("the store cannot tell whether its last write is on disk ({reason})")]
    Unsettled {
        /// What happened.
        reason: String,
    },

    /// The store was closed.
    #[error("the store was closed")]
    Closed,
}

/// What is wrong with the store's file.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FileError {
    /// Its content is not what a store wrote. It was not touched.
    #[error("the store `{}` is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },

    /// Another process has it.
    #[error("the store `{}` is in use by {}", path.display(), by(*pid))]
    InUse {
        /// The file.
        path: PathBuf,
        /// Which process, if it said.
        pid: Option<u32>,
    },

    /// There is no room.
    #[error("no space left for the store `{}`", path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
    },

    /// The file system takes no writes.
    #[error("the store `{}` is on a read-only file system", path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },

    /// We may not.
    #[error("no permission to open the store `{}` for writing", path.display())]
    Permission {
        /// The file.
        path: PathBuf,
    },

    /// A newer version wrote it.
    #[error("the store `{}` has format {found}, this version knows up to {known}", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Format of the file.
        found: u64,
        /// Newest format that is known here.
        known: u64,
    },

    /// There is none, and none was to be made.
    #[error("there is no store `{}`", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },

    /// A backup would overwrite something.
    #[error("`{}` exists and is not overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },

    /// Anything else that the operating system refused.
    #[error("failed to {doing} the store `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What we were doing: "sync".
        doing: &'static str,
        /// What it said.
        source: Arc<io::Error>,
    },
}

impl Error {
    /// What to do about it, where there is something to do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Error::File(error) => Some(error.hint()),
            Error::Server(error) => Some(error.hint()),
            Error::Compacted { .. } => Some("list again, then watch from the revision after the list's"),
            Error::Unknown { .. } => Some("send the same transaction again and look for its attempt id"),
            Error::Unsettled { .. } => Some("look at the disk; the store tries again with every request"),
            Error::Unavailable { .. } => Some("try again"),
            Error::Invalid(_) | Error::Closed => None,
        }
    }
}

impl FileError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            FileError::Damaged { .. } => {
                "keep the file, put a backup in its place and raise the generation: a store is recovered, never guessed"
            }
            FileError::InUse { .. } => "an agent runs already: ask it, or stop it first",
            FileError::DiskFull { .. } => "make room on that disk; the store goes on by itself",
            FileError::ReadOnly { .. } => {
                "look at the kernel's log for why it was mounted read-only, or choose another folder"
            }
            FileError::Permission { .. } => "run as the owner of the file, or choose another folder",
            FileError::NewerFormat { .. } => "run the version that wrote it, or a newer one",
            FileError::Missing { .. } => "check the path; a store that is gone is recovered from a backup",
            FileError::Exists { .. } => "choose another name",
            FileError::Io { .. } => "look at the kernel's log for errors of that disk",
        }
    }

    /// Tells apart what an operator would do different things about.
    pub(crate) fn from_io(path: &Path, doing: &'static str, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FileError::DiskFull { path },
            io::ErrorKind::ReadOnlyFilesystem => FileError::ReadOnly { path },
            io::ErrorKind::PermissionDenied => FileError::Permission { path },
            _ => FileError::Io {
                path,
                doing,
                source: Arc::new(source),
            },
        }
    }
}

fn by(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".into(), |pid| format!("process {pid}"))
}
