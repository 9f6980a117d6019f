//! A file that one living process holds, with its process id in it.

use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

/// Who only looks whether a lock is free has it for a moment: a few looks later it is really held by somebody.
const LOOKS: u32 = 10;
const LOOK: std::time::Duration = std::time::Duration::from_millis(5);

/// Why a lock is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody has it.
    #[error("`{}` is held by process {pid}", path.display())]
    Held {
        /// The lock.
        path: PathBuf,
        /// Who, as the file says.
        pid: String,
    },
    /// The file system refuses.
    #[error("failed to lock `{}`: {source}", path.display())]
    Io {
        /// The lock.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Takes the lock; it is held until the file returned is dropped or this process ends.
pub fn lock(path: &Path) -> Result<File, LockError> {
    let failed = |source| LockError::Io {
        path: path.into(),
        source,
    };
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .map_err(failed)?;
    let mut taken = flock(&file, FlockOperation::NonBlockingLockExclusive);
    for _ in 0..LOOKS {
        if taken != Err(rustix::io::Errno::WOULDBLOCK) {
            break;
        }
        std::thread::sleep(LOOK);
        taken = flock(&file, FlockOperation::NonBlockingLockExclusive);
    }
    match taken {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(LockError::Held {
                path: path.into(),
                pid: locked_by(path).unwrap_or_else(|| "unknown".into()),
            });
        }
        Err(error) => return Err(failed(error.into())),
    }
    write_lock(&mut file, &std::process::id().to_string()).map_err(failed)?;
    Ok(file)
}

/// Replaces what the lock file says.
pub fn write_lock(file: &mut File, text: &str) -> io::Result<()> {
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    // Shortened after the write: on a full disk a file that was emptied first could not be written again.
    file.set_len(text.len() as u64)
}

/// What the lock file says: the process id of its (last) holder.
pub fn locked_by(path: &Path) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

/// Whether nobody holds the lock at this moment.
pub fn is_free(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return true };
    // Let go of again at once, with the file.
    flock(&file, FlockOperation::NonBlockingLockShared).is_ok()
}
