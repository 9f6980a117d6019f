//! The file that the store is in, its lock, and how a whole new content takes its place.

use super::disk::write_new;
use crate::FileError;
use crate::state::State;
use redb::StorageBackend;
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The owner's alone: what operators declare lies in it, secrets of their services' environment included.
const MODE: u32 = 0o600;

/// Blocks that the file has beyond its end: on a full disk it still grows by as much, so that slots change hands.
const ROOM: u64 = 512 << 10;
/// Less is not worth asking for.
const ROOM_MIN: u64 = 64 << 10;

/// What the store is kept on; a file, or in tests something that fails.
pub(super) trait Medium: Send + std::fmt::Debug {
    /// Its name, for messages.
    fn path(&self) -> &Path;

    /// Reads and writes what is there.
    fn open(&self) -> Result<Arc<dyn StorageBackend>, FileError>;

    /// Puts a new content in the place of the old one: after a crash it is the one or the other.
    fn replace(&self, state: &State) -> Result<(), FileError>;
}

/// A file that nobody else uses.
#[derive(Debug)]
pub(super) struct FileMedium {
    path: PathBuf,
    lock_path: PathBuf,
    /// Locked as long as this lives. Apart from the store's file, so that the file can be replaced.
    _lock: File,
}

impl FileMedium {
    /// Takes the lock of the file at `path`, whether or not there is one yet.
    pub(super) fn lock(path: &Path) -> Result<Self, FileError> {
        let failed = |error| FileError::from_io(path, "lock", error);
        let lock_path = beside(path, ".lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(MODE)
            .open(&lock_path)
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // Best effort: the lock is what counts, the number only helps to find who has it.
                let _ = lock.read_to_string(&mut pid);
                return Err(FileError::InUse {
                    path: path.into(),
                    pid: pid.trim().parse().ok(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // Best effort as well: a full disk must not keep a store from being read.
        let _ = lock
            .set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()));
        Ok(Self {
            path: path.into(),
            lock_path,
            _lock: lock,
        })
    }

    /// Whether there is a file.
    pub(super) fn exists(&self) -> Result<bool, FileError> {
        self.path
            .try_exists()
            .map_err(|error| FileError::from_io(&self.path, "find", error))
    }

    /// Gives the lock back and removes its file.
    pub(super) fn remove_lock(self) {
        // A lock file that stays behind does no harm.
        let _ = std::fs::remove_file(&self.lock_path);
    }

    fn sync_folder(&self) -> io::Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Medium for FileMedium {
    fn path(&self) -> &Path {
        &self.path
    }

    fn open(&self) -> Result<Arc<dyn StorageBackend>, FileError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.path)
            .map_err(|error| FileError::from_io(&self.path, "open", error))?;
        keep_private(&file, &self.path);
        // Our own lock file keeps other agents out; this one is for other programs that open redb files.
        match file.try_lock() {
            Ok(()) => {
                keep_room(&file);
                Ok(Arc::new(Handle { file }))
            }
            Err(TryLockError::WouldBlock) => Err(FileError::InUse {
                path: self.path.clone(),
                pid: None,
            }),
            Err(TryLockError::Error(error)) => Err(FileError::from_io(&self.path, "lock", error)),
        }
    }

    fn replace(&self, state: &State) -> Result<(), FileError> {
        let new = beside(&self.path, ".new");
        let write = || {
            let failed = |error| FileError::from_io(&self.path, "write", error);
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .mode(MODE)
                .open(&new)
                .map_err(failed)?;
            let handle = Arc::new(Handle { file });
            write_new(Arc::clone(&handle) as Arc<dyn StorageBackend>, &self.path, state)?;
            handle.file.sync_all().map_err(failed)?;
            std::fs::rename(&new, &self.path).map_err(failed)?;
            self.sync_folder().map_err(failed)
        };
        write().inspect_err(|_| {
            // It may be what fills the disk.
            let _ = std::fs::remove_file(&new);
        })
    }
}

/// Versions of before made it readable for everybody. Whoever owns the file may change that, and nobody else could have opened it to write.
fn keep_private(file: &File, path: &Path) {
    let narrowed = file
        .metadata()
        .and_then(|meta| match meta.permissions().mode() & 0o077 {
            0 => Ok(()),
            _ => file.set_permissions(std::fs::Permissions::from_mode(MODE)),
        });
    if let Err(error) = narrowed {
        tracing::warn!(path = %path.display(), %error, "others on this machine may read the store");
    }
}

/// An open file as redb wants it.
#[derive(Debug)]
struct Handle {
    file: File,
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        keep_room(&self.file);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }
}

/// Asks for blocks beyond the end of the file, for as many as are to be had. Best effort: some file systems have no such thing.
fn keep_room(file: &File) {
    let Ok(len) = file.metadata().map(|meta| meta.len()) else {
        return;
    };
    let mut room = ROOM;
    while room >= ROOM_MIN && fallocate(file, FallocateFlags::KEEP_SIZE, len, room) == Err(rustix::io::Errno::NOSPC) {
        room /= 2;
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
