//! Keeps a log within its bounds while a service writes to it.

use super::{cut_file, cut_of, nth};
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock, fstatvfs};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Rotates logs that have grown too large.
///
/// On ext4 and XFS the front of the live file is taken away by `FALLOC_FL_COLLAPSE_RANGE`, in whole blocks, and no
/// line is lost whatever the service writes meanwhile. Other file systems cannot do that: there the live file is copied
/// until nothing new has come, and emptied; **what is written between these two steps, some microseconds, is lost**.
///
/// If the machine stops in the midst of a rotation, lines may be there twice; none is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotator {
    /// A log that is larger is rotated.
    pub max_bytes: u64,
    /// How many rotated files are kept; with 0, what is old is dropped.
    pub keep: u32,
}

/// What a rotation did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotated {
    /// How much left the live file.
    pub bytes: u64,
    /// Whether it is in `FILE.1` now. Not so with `keep = 0`, and on a full disk, where the bound comes first.
    pub kept: bool,
    /// Whether no line can have been lost that was written meanwhile.
    pub lossless: bool,
}

/// Why a log could not be rotated.
#[derive(Debug, thiserror::Error)]
#[error("failed to {doing} `{}`: {source}", path.display())]
pub struct RotateError {
    /// "open", "copy", "rename", "shorten".
    pub doing: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What the kernel said.
    pub source: io::Error,
}

impl Rotator {
    /// Rotates the log if it has grown too large. Blocks for as long as the copy takes; a look alone is one `stat`.
    pub fn check(&self, path: &Path) -> Result<Option<Rotated>, RotateError> {
        match fs::metadata(path) {
            Ok(meta) if meta.len() > self.max_bytes => self.rotate(path),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(failed("open", path)(source)),
        }
    }

    fn rotate(&self, path: &Path) -> Result<Option<Rotated>, RotateError> {
        let live = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(failed("open", path))?;
        flock(&live, FlockOperation::LockExclusive).map_err(|error| failed("lock", path)(error.into()))?;
        let size = live.metadata().map_err(failed("open", path))?.len();
        let block = fstatvfs(&live).map_or(4096, |stat| stat.f_bsize.max(1));
        // At least one byte must stay, says the kernel.
        let front = size.saturating_sub(1) / block * block;
        if self.keep == 0 || front == 0 {
            return self.empty(path, &live, size, false);
        }
        let kept = self.keep_copy(path, &live, front)?;
        match fallocate(&live, FallocateFlags::COLLAPSE_RANGE, 0, front) {
            Ok(()) => {
                note_cut(path, front);
                Ok(Some(Rotated {
                    bytes: front,
                    kept,
                    lossless: true,
                }))
            }
            // The file system cannot, or not with blocks of this size.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => self.empty(path, &live, front, kept),
            Err(error) => Err(failed("shorten", path)(error.into())),
        }
    }

    /// Copies the first `front` bytes to `FILE.1` and moves the older ones up. Returns false if there is no room.
    fn keep_copy(&self, path: &Path, live: &File, front: u64) -> Result<bool, RotateError> {
        let mut new = nth(path, 1).into_os_string();
        new.push(".new");
        let new = PathBuf::from(new);
        let copied = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&new)
            .and_then(|mut file| {
                file.set_permissions(live.metadata()?.permissions())?;
                let mut source = File::open(path)?;
                io::copy(&mut Read::by_ref(&mut source).take(front), &mut file)
            });
        match copied {
            Ok(_) => {}
            Err(error) => {
                let _ = fs::remove_file(&new);
                return match Errno::from_io_error(&error) {
                    Some(Errno::NOSPC | Errno::DQUOT) => {
                        tracing::warn!(path = %path.display(), "no room to rotate a log, its oldest lines are dropped");
                        Ok(false)
                    }
                    _ => Err(failed("copy", path)(error)),
                };
            }
        }
        for n in (1..self.keep).rev() {
            let (from, to) = (nth(path, n), nth(path, n + 1));
            match fs::rename(&from, &to) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("rename", &from)(error)),
                _ => {}
            }
        }
        fs::rename(&new, nth(path, 1)).map_err(failed("rename", &new))?;
        self.forget_beyond(path);
        Ok(true)
    }

    /// Fewer may be kept than before.
    fn forget_beyond(&self, path: &Path) {
        let mut n = self.keep + 1;
        while fs::remove_file(nth(path, n)).is_ok() {
            n += 1;
        }
    }

    /// Empties the live file, of which `copied` bytes were copied already if `kept`.
    fn empty(&self, path: &Path, live: &File, copied: u64, kept: bool) -> Result<Option<Rotated>, RotateError> {
        let mut bytes = copied;
        let mut kept = kept;
        if kept || (self.keep > 0 && self.keep_copy(path, live, copied)?) {
            kept = true;
            let first = nth(path, 1);
            let mut rest = File::open(path).map_err(failed("open", path))?;
            io::Seek::seek(&mut rest, io::SeekFrom::Start(copied)).map_err(failed("open", path))?;
            let mut copy = OpenOptions::new()
                .append(true)
                .open(&first)
                .map_err(failed("open", &first))?;
            // The copy is faster than any writer, but not without a bound.
            for _ in 0..16 {
                match io::copy(&mut rest, &mut copy).map_err(failed("copy", path))? {
                    0 => break,
                    more => bytes += more,
                }
            }
        }
        live.set_len(0).map_err(failed("shorten", path))?;
        note_cut(path, bytes);
        Ok(Some(Rotated {
            bytes,
            kept,
            lossless: false,
        }))
    }
}

/// On a full disk a follower may repeat or miss lines; the log itself is as it should be.
fn note_cut(path: &Path, bytes: u64) {
    if let Err(error) = fs::write(cut_file(path), (cut_of(path) + bytes).to_string()) {
        tracing::warn!(path = %path.display(), %error, "failed to note the rotation of a log");
    }
}

fn failed<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> RotateError + 'a {
    move |source| RotateError {
        doing,
        path: path.to_path_buf(),
        source,
    }
}
