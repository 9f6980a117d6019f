//! Keeps a second etcd from the same data.
//!
//! The lock is the open file itself (`flock`). Whoever starts etcd takes it and hands it on as etcd's standard input, so it
//! is held for exactly as long as that etcd lives, whatever becomes of the one who started it. It also leads to an etcd
//! whose record was lost: the process whose standard input is this file.

use super::record::Identity;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why the data are not to be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// By an etcd, or by somebody who is just starting one.
    #[error("`{}` is in use{}", path.display(), holder.map(|pid| format!(" by process {pid}")).unwrap_or_default())]
    Held {
        /// The lock, or the database itself.
        path: PathBuf,
        /// Who, where it can be told.
        holder: Option<u32>,
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

/// Takes the lock beside `data_dir`, and makes sure that no etcd of somebody else has the database open.
pub(super) fn take(lock: &Path, data_dir: &Path) -> Result<File, LockError> {
    let failed = |source| LockError::Io {
        path: lock.into(),
        source,
    };
    if let Some(folder) = lock.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(lock)
        .map_err(failed)?;
    try_lock(&file, lock)?;
    let database = data_dir.join("member/snap/db");
    match File::open(&database) {
        // etcd locks its database in the same way. Ours ends when this file is closed, right here.
        Ok(opened) => try_lock(&opened, &database)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(LockError::Io { path: database, source }),
    }
    Ok(file)
}

fn try_lock(file: &File, path: &Path) -> Result<(), LockError> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(LockError::Held {
            path: path.into(),
            holder: owner(path),
        }),
        Err(error) => Err(LockError::Io {
            path: path.into(),
            source: error.into(),
        }),
    }
}

/// The etcd that has the lock as its standard input.
pub(super) fn etcd_behind(lock: &Path) -> Option<(Identity, Vec<String>)> {
    let ours = fs::metadata(lock).ok()?;
    let same =
        |path: PathBuf| fs::metadata(path).is_ok_and(|meta| (meta.dev(), meta.ino()) == (ours.dev(), ours.ino()));
    let pid = pids().find(|pid| same(format!("/proc/{pid}/fd/0").into()))?;
    let identity = Identity::of(pid)?;
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    let arguments = words.skip(1).map(|word| String::from_utf8_lossy(word).into_owned());
    let arguments: Vec<String> = arguments.collect();
    // One that was forked but does not run etcd yet has our own arguments.
    let is_etcd = arguments.iter().any(|argument| argument.starts_with("--data-dir="));
    is_etcd.then_some((identity, arguments))
}

/// Who holds a lock on this file, as the kernel lists it; of a lock that was handed on, who took it, as long as it has the file open.
fn owner(path: &Path) -> Option<u32> {
    let file = fs::metadata(path).ok()?;
    let locks = fs::read_to_string("/proc/locks").ok()?;
    owners_in(&locks, file.ino()).find(|pid| has_open(*pid, &file))
}

/// `1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF`: who, and the inode at the end of the third number. Of another file system it is
/// another file, and the device beside it is not the one of the file on all file systems.
fn owners_in(locks: &str, inode: u64) -> impl Iterator<Item = u32> {
    locks.lines().filter_map(move |line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, "FLOCK", _, _, pid, place, ..] = fields[..] else {
            return None;
        };
        (place.rsplit(':').next()?.parse() == Ok(inode)).then(|| pid.parse().ok())?
    })
}

/// Whether a process has this very file open. Of one that cannot be looked at that is not known: then nobody is named.
fn has_open(pid: u32, file: &fs::Metadata) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|fd| fs::metadata(fd.path()).ok())
        .any(|other| (other.dev(), other.ino()) == (file.dev(), file.ino()))
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_is_had_once_and_is_free_again_when_its_file_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let (lock, data) = (dir.path().join("d.lock"), dir.path().join("d"));
        let held = take(&lock, &data).unwrap();
        let refused = take(&lock, &data).unwrap_err();
        assert!(
            matches!(refused, LockError::Held { holder: Some(pid), .. } if pid == std::process::id()),
            "{refused}"
        );
        drop(held);
        take(&lock, &data).unwrap();
    }

    #[test]
    fn a_database_that_an_etcd_of_somebody_else_has_open_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (lock, data) = (dir.path().join("d.lock"), dir.path().join("d"));
        fs::create_dir_all(data.join("member/snap")).unwrap();
        let database = File::create(data.join("member/snap/db")).unwrap();
        flock(&database, FlockOperation::LockExclusive).unwrap();
        let refused = take(&lock, &data).unwrap_err();
        assert!(
            matches!(&refused, LockError::Held { path, .. } if path.ends_with("member/snap/db")),
            "{refused}"
        );
        drop(database);
        take(&lock, &data).unwrap();
    }
    #[test]
    fn who_locks_a_file_of_the_same_number_elsewhere_is_not_named() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, other) = (dir.path().join("ours"), dir.path().join("other"));
        let held = File::create(&ours).unwrap();
        flock(&held, FlockOperation::LockExclusive).unwrap();
        File::create(&other).unwrap();
        let (ours, other) = (fs::metadata(ours).unwrap(), fs::metadata(other).unwrap());
        let pid = std::process::id();
        let locks = format!(
            "1: FLOCK  ADVISORY  WRITE 1 00:2a:77 0 EOF\n1: -> FLOCK  ADVISORY  WRITE 2 08:01:78 0 EOF\n2: FLOCK  ADVISORY  WRITE {pid} 08:01:77 0 EOF\n\
             3: POSIX  ADVISORY  WRITE 3 08:01:77 0 EOF\n"
        );
        assert_eq!(owners_in(&locks, 77).collect::<Vec<_>>(), [1, pid]);
        // This process has ours open, and of the other no more than its number could be the same.
        assert!(has_open(pid, &ours));
        assert!(!has_open(pid, &other));
        assert_eq!(owners_in(&locks, 77).find(|pid| has_open(*pid, &other)), None);
    }
}
