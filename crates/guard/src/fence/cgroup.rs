//! A cgroup that can be frozen and killed without opening, allocating or looking anything up.

use rustix::fs::{Mode, OFlags, fstatfs, openat};
use rustix::io::{Errno, pread, pwrite};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// Why a cgroup cannot be fenced.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no version 2 at all.
    #[error(
        "no cgroup v2 hierarchy is mounted, and without it nothing can be killed for sure; mount one: `mount -t cgroup2 none /sys/fs/cgroup/unified`"
    )]
    NotMounted,
    /// It is of another kind.
    #[error("`{}` is not in a cgroup v2 hierarchy", path.display())]
    NotVersion2 {
        /// The folder.
        path: PathBuf,
    },
    /// It, or one of its files, is not to be had.
    #[error("failed to open `{file}` of cgroup `{}`: {source}; {hint}", path.display())]
    Open {
        /// The folder.
        path: PathBuf,
        /// The file in it.
        file: &'static str,
        /// What the kernel said.
        source: io::Error,
        /// What may help.
        hint: &'static str,
    },
    /// Fencing it would end the one who fences.
    #[error("cgroup `{}` contains the guard itself; a service needs a cgroup of its own", path.display())]
    ContainsUs {
        /// The folder.
        path: PathBuf,
    },
}

/// Open descriptors of one cgroup.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    kill: OwnedFd,
    freeze: OwnedFd,
    events: OwnedFd,
}

/// What `cgroup.events` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Events {
    /// Whether processes are in it, or below.
    pub populated: bool,
    /// Whether all of them are frozen.
    pub frozen: bool,
}

impl Cgroup {
    /// Opens all that is needed to fence it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let open = |file, flags| {
            let hint = match file {
                "cgroup.kill" => "Linux has it since 5.14",
                _ => "the guard needs the rights of the agent that made it",
            };
            openat(rustix::fs::CWD, path.join(file), flags | OFlags::CLOEXEC, Mode::empty()).map_err(|source| {
                Error::Open {
                    path: path.into(),
                    file,
                    source: source.into(),
                    hint,
                }
            })
        };
        let events = open("cgroup.events", OFlags::RDONLY)?;
        let stat = fstatfs(&events).map_err(|source| Error::Open {
            path: path.into(),
            file: "cgroup.events",
            source: source.into(),
            hint: "is it a cgroup?",
        })?;
        if stat.f_type as u64 != CGROUP2_MAGIC {
            return Err(Error::NotVersion2 { path: path.into() });
        }
        if contains_us(path) {
            return Err(Error::ContainsUs { path: path.into() });
        }
        Ok(Self {
            path: path.into(),
            kill: open("cgroup.kill", OFlags::WRONLY)?,
            freeze: open("cgroup.freeze", OFlags::WRONLY)?,
            events,
        })
    }

    /// One whose files swallow everything, for rehearsing.
    pub(super) fn of_nothing() -> Result<Self, Errno> {
        let open = || {
            openat(
                rustix::fs::CWD,
                "/dev/null",
                OFlags::RDWR | OFlags::CLOEXEC,
                Mode::empty(),
            )
        };
        Ok(Self {
            path: PathBuf::from("/dev/null"),
            kill: open()?,
            freeze: open()?,
            events: open()?,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Kills all its processes, those born meanwhile included. A cgroup that is gone has none.
    pub fn kill(&self) -> Result<(), Errno> {
        write(&self.kill, b"1")
    }

    /// Freezes all its processes; [`Events::frozen`] tells when it is done. A cgroup that is gone has none.
    pub fn freeze(&self) -> Result<(), Errno> {
        write(&self.freeze, b"1")
    }

    /// Lets its processes go on.
    pub fn thaw(&self) -> Result<(), Errno> {
        write(&self.freeze, b"0")
    }

    /// What the kernel says of it. A cgroup that is gone is empty.
    pub fn events(&self) -> Result<Events, Errno> {
        let mut text = [0_u8; 256];
        match pread(&self.events, &mut text[..], 0) {
            Ok(length) => Ok(parse(&text[..length])),
            Err(Errno::NODEV) => Ok(Events {
                populated: false,
                frozen: false,
            }),
            Err(error) => Err(error),
        }
    }
}

/// Freezes cgroups, for an agent whose guard is gone: the rest are frozen even if one cannot be.
/// Opens them first; an agent that wants to be quicker keeps [`Cgroup`]s.
pub fn freeze_now<'a>(cgroups: impl IntoIterator<Item = &'a Path>) -> io::Result<()> {
    all(cgroups, "cgroup.freeze")
}

/// Kills cgroups, for an agent whose guard is gone: the rest are killed even if one cannot be.
pub fn kill_now<'a>(cgroups: impl IntoIterator<Item = &'a Path>) -> io::Result<()> {
    all(cgroups, "cgroup.kill")
}

/// Where cgroup v2 is mounted, as `/proc/self/mountinfo` has it.
pub fn mount_point() -> Result<PathBuf, Error> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|_| Error::NotMounted)?;
    mount_in(&mounts).ok_or(Error::NotMounted)
}

fn all<'a>(cgroups: impl IntoIterator<Item = &'a Path>, file: &str) -> io::Result<()> {
    let mut result = Ok(());
    for cgroup in cgroups {
        match fs::write(cgroup.join(file), "1") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => result = Err(error),
            // A cgroup that is gone has no processes.
            _ => {}
        }
    }
    result
}

fn write(file: &OwnedFd, text: &[u8]) -> Result<(), Errno> {
    loop {
        match pwrite(file, text, 0) {
            Ok(_) | Err(Errno::NODEV) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

fn parse(text: &[u8]) -> Events {
    let has = |line: &[u8]| text.split(|byte| *byte == b'\n').any(|found| found == line);
    Events {
        populated: has(b"populated 1"),
        frozen: has(b"frozen 1"),
    }
}

fn mount_in(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        // id parent major:minor root mount-point options … - type source options
        let (before, after) = line.split_once(" - ")?;
        (after.split(' ').next()? == "cgroup2")
            .then(|| PathBuf::from(unescape(before.split(' ').nth(4).unwrap_or("/"))))
    })
}

/// Spaces and the like are written in octal there.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

/// Whether this process is in that cgroup, or below.
fn contains_us(path: &Path) -> bool {
    let (Ok(mount), Ok(own)) = (mount_point(), fs::read_to_string("/proc/self/cgroup")) else {
        return false;
    };
    let Some(own) = own.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return false;
    };
    let (Ok(own), Ok(path)) = (mount.join(own).canonicalize(), path.canonicalize()) else {
        return false;
    };
    own.starts_with(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_and_unified_layouts_are_found() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_in(hybrid), Some("/sys/fs/cgroup/unified".into()));
        let unified = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw";
        assert_eq!(mount_in(unified), Some("/sys/fs/cgroup".into()));
        assert_eq!(mount_in("31 23 0:28 / /sys/fs/cgroup rw - cgroup cgroup rw,cpu"), None);
    }

    #[test]
    fn a_space_in_a_mount_point_is_read() {
        let line = "30 23 0:26 / /my\\040groups rw - cgroup2 none rw";
        assert_eq!(mount_in(line), Some("/my groups".into()));
    }

    #[test]
    fn events_are_read_line_by_line() {
        let events = parse(b"populated 1\nfrozen 0\n");
        assert_eq!((events.populated, events.frozen), (true, false));
        let events = parse(b"populated 0\nfrozen 1\n");
        assert_eq!((events.populated, events.frozen), (false, true));
    }
}
