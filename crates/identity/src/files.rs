//! The `pki` folder: secrets for their owner only, each file replaced whole or not at all.

use crate::Secret;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// No file of ours is near this; whatever is larger is none of ours.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The folder with keys and certificates. It belongs to this process's user and nobody else can enter it.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
}

/// Why a file of the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Others may enter the folder or read the file.
    #[error("`{}` may be used by others than its owner (mode {mode:04o}); fix with: chmod {fix:o} {}", path.display(), path.display())]
    Open {
        /// Folder or file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// The mode it should have.
        fix: u32,
    },

    /// It belongs to another user.
    #[error("`{}` belongs to user {owner}, this program runs as user {us}; fix with: chown {us} {}", path.display(), path.display())]
    Owner {
        /// Folder or file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        us: u32,
    },

    /// It is a link, a device or a folder, or far too large.
    #[error("`{}` is not an ordinary file of at most 1 MiB", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },

    /// It is not there.
    #[error("`{}` is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },

    /// The system refused.
    #[error("failed to {what} `{}`", path.display())]
    Io {
        /// What we did.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Folder {
    /// Opens the folder, and makes it (mode 0700) if it is missing.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, FileError> {
        let path = path.into();
        match rustix::fs::mkdir(&path, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(io_error("make", &path, error)),
        }
        Self::open(path)
    }

    /// Opens the folder, which must be there and closed to others.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, FileError> {
        let folder = Self { path: path.into() };
        folder.handle()?;
        Ok(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Replaces a file with a secret (mode 0600): after a crash there is the old content or the new, never a part.
    pub fn write_secret(&self, name: &str, content: &Secret) -> Result<(), FileError> {
        self.write(name, content.reveal().as_bytes(), Mode::RUSR | Mode::WUSR)
    }

    /// Replaces a file that others may know (mode 0644; the folder keeps them out anyway).
    pub fn write_public(&self, name: &str, content: &str) -> Result<(), FileError> {
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
        self.write(name, content.as_bytes(), mode)
    }

    /// Reads a secret. A file that others may read is refused: what they may have read is no secret any more.
    pub fn read_secret(&self, name: &str) -> Result<Secret, FileError> {
        self.read(name, true).map(Secret::new)
    }

    /// Reads a file that others may know.
    pub fn read_public(&self, name: &str) -> Result<String, FileError> {
        self.read(name, false)
    }

    /// The names of the files in it, sorted.
    pub fn names(&self) -> Result<Vec<String>, FileError> {
        let listed = std::fs::read_dir(&self.path).map_err(|source| io_error_std("list", &self.path, source))?;
        let mut names: Vec<String> = listed
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Removes a file; it is no error if it is not there.
    pub fn remove(&self, name: &str) -> Result<(), FileError> {
        let folder = self.handle()?;
        match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => sync(&folder, &self.path),
            Err(error) => Err(io_error("remove", &self.file(name), error)),
        }
    }

    fn handle(&self) -> Result<OwnedFd, FileError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = match rustix::fs::open(&self.path, flags, Mode::empty()) {
            Ok(folder) => folder,
            Err(rustix::io::Errno::NOENT) => {
                return Err(FileError::Missing {
                    path: self.path.clone(),
                });
            }
            Err(error) => return Err(io_error("open", &self.path, error)),
        };
        check(&folder, &self.path, 0o700)?;
        Ok(folder)
    }

    fn write(&self, name: &str, content: &[u8], mode: Mode) -> Result<(), FileError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let folder = self.handle()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let draft = format!(".{name}.{}.{number}.new", std::process::id());
        let path = self.file(&draft);
        // What an earlier process with this id left behind.
        let _ = rustix::fs::unlinkat(&folder, draft.as_str(), AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder, draft.as_str(), flags, mode).map_err(|e| io_error("make", &path, e))?;
        // The mode given at creation is narrowed by the umask, so that it may lack what the owner needs.
        let written = rustix::fs::fchmod(&file, mode)
            .map_err(io::Error::from)
            .and_then(|()| {
                let mut file = File::from(file);
                file.write_all(content)?;
                file.sync_all()
            })
            .and_then(|()| Ok(rustix::fs::renameat(&folder, draft.as_str(), &folder, name)?));
        if let Err(source) = written {
            let _ = rustix::fs::unlinkat(&folder, draft.as_str(), AtFlags::empty());
            return Err(io_error_std("write", &self.file(name), source));
        }
        sync(&folder, &self.path)
    }

    fn read(&self, name: &str, secret: bool) -> Result<String, FileError> {
        let folder = self.handle()?;
        let path = self.file(name);
        // Without `NONBLOCK` a pipe put here would hold us for ever.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&folder, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return Err(FileError::Missing { path }),
            Err(rustix::io::Errno::LOOP) => return Err(FileError::NotAFile { path }),
            Err(error) => return Err(io_error("open", &path, error)),
        };
        let stat = rustix::fs::fstat(&file).map_err(|e| io_error("examine", &path, e))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
            || stat.st_size.unsigned_abs() > FILE_BYTES_MAX
        {
            return Err(FileError::NotAFile { path });
        }
        if secret {
            check(&file, &path, 0o600)?;
        }
        let mut text = String::new();
        File::from(file)
            .take(FILE_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(|source| io_error_std("read", &path, source))?;
        Ok(text)
    }
}

/// Judges the opened file, not its name: what is judged is what is read.
fn check(file: &OwnedFd, path: &Path, fix: u32) -> Result<(), FileError> {
    let stat = rustix::fs::fstat(file).map_err(|e| io_error("examine", path, e))?;
    let us = rustix::process::geteuid().as_raw();
    if stat.st_uid != us {
        return Err(FileError::Owner {
            path: path.into(),
            owner: stat.st_uid,
            us,
        });
    }
    let mode = stat.st_mode & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileError::Open {
            path: path.into(),
            mode,
            fix,
        });
    }
    Ok(())
}

fn sync(folder: &OwnedFd, path: &Path) -> Result<(), FileError> {
    rustix::fs::fsync(folder).map_err(|e| io_error("sync", path, e))
}

fn io_error(what: &'static str, path: &Path, error: rustix::io::Errno) -> FileError {
    io_error_std(what, path, error.into())
}

fn io_error_std(what: &'static str, path: &Path, source: io::Error) -> FileError {
    FileError::Io {
        what,
        path: path.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn keys_are_for_their_owner_only() {
        let (_temporary, folder) = folder();
        folder.write_secret("node.pem", &secret("first")).expect("write");
        folder.write_secret("node.pem", &secret("second")).expect("replace");
        let mode = |path: &Path| std::fs::metadata(path).expect("stat").permissions().mode() & 0o7777;
        assert_eq!(mode(folder.path()), 0o700);
        assert_eq!(mode(&folder.file("node.pem")), 0o600);
        assert_eq!(folder.read_secret("node.pem").expect("read").reveal(), "second");
        assert_eq!(folder.names().expect("list"), ["node.pem"], "no draft stays behind");
    }

    #[test]
    fn a_key_that_the_group_may_read_is_refused_with_the_command_that_helps() {
        let (_temporary, folder) = folder();
        folder.write_secret("node.pem", &secret("key")).expect("write");
        let path = folder.file("node.pem");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).expect("chmod");
        let error = folder.read_secret("node.pem").expect_err("refused").to_string();
        assert!(error.contains("mode 0640"), "{error}");
        assert!(error.ends_with(&format!("chmod 600 {}", path.display())), "{error}");
    }

    #[test]
    fn a_folder_that_others_may_enter_is_refused_for_reading_and_writing() {
        let (_temporary, folder) = folder();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
        let error = folder.write_secret("node.pem", &secret("key")).expect_err("refused");
        assert!(error.to_string().contains("chmod 700"), "{error}");
        assert!(matches!(folder.read_secret("node.pem"), Err(FileError::Open { .. })));
        assert!(!folder.file("node.pem").exists());
    }

    #[test]
    fn links_and_pipes_in_place_of_a_key_are_refused() {
        let (_temporary, folder) = folder();
        folder.write_secret("real.pem", &secret("key")).expect("write");
        symlink("real.pem", folder.file("link.pem")).expect("link");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            folder.file("pipe.pem"),
            FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .expect("pipe");
        for name in ["link.pem", "pipe.pem"] {
            let error = folder.read_secret(name).expect_err(name);
            assert!(matches!(error, FileError::NotAFile { .. }), "{error}");
        }
    }

    fn folder() -> (tempfile::TempDir, Folder) {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let folder = Folder::create(temporary.path().join("pki")).expect("make");
        (temporary, folder)
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text.into())
    }
}
