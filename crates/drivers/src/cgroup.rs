//! Control groups, version 2: one per run of an instance, so that its whole tree can be seen, killed and confirmed gone.
//!
//! Nothing here needs a controller: `cgroup.procs`, `cgroup.events` and `cgroup.kill` are in every cgroup. The
//! hierarchy is found in `/proc/self/mountinfo`; machines with both versions have it at `/sys/fs/cgroup/unified`.
//!
//! ```text
//! MOUNT/understudy-CLUSTER/        as root; else in our own cgroup, if that was delegated to us
//!   web-1.17/                      run 17 of web-1
//! ```

use crate::sys;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use tokio::io::Interest;

/// A service may make cgroups within its own; deeper than this we do not follow.
const DEPTH_MAX: usize = 16;

/// Why no cgroups can be used here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unavailable {
    /// No cgroup2 file system is mounted.
    #[error("no cgroup v2 hierarchy is mounted")]
    NotMounted,
    /// `/proc` could not be read.
    #[error("cannot read `{path}`: {source}")]
    Proc {
        /// The file.
        path: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel is older than 5.14.
    #[error("`{}` has no cgroup.kill, which Linux has since 5.14", path.display())]
    NoKill {
        /// A cgroup.
        path: PathBuf,
    },
    /// We may not make cgroups.
    #[error("not allowed to make a cgroup at `{}`: {source}", path.display())]
    NotAllowed {
        /// Where it was tried last.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// We may make cgroups, but not put processes into them.
    #[error("not allowed to move a process into `{}`: {source}", path.display())]
    NoEntry {
        /// Where it was tried last.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Finds a place for our cgroups and makes it: `name` at the top of the hierarchy, else within our own cgroup.
/// `join` puts a process into a cgroup; each place is tried by really making a cgroup in it and joining that.
pub(crate) fn make_root(name: &str, join: impl Fn(sys::Cgroup) -> io::Result<()>) -> Result<PathBuf, Unavailable> {
    let mounts = read_proc("/proc/self/mountinfo")?;
    let own = read_proc("/proc/self/cgroup")?;
    let mut refused = Unavailable::NotMounted;
    for place in places(&mounts, &own) {
        let root = place.join(name);
        match try_root(&root, &join) {
            Ok(()) => return Ok(root),
            Err(error) => {
                let _ = fs::remove_dir(&root);
                refused = error;
            }
        }
    }
    Err(refused)
}

fn read_proc(path: &'static str) -> Result<String, Unavailable> {
    let bytes = fs::read(path).map_err(|source| Unavailable::Proc { path, source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The top of the hierarchy and our own cgroup, in this order.
fn places(mountinfo: &str, own: &str) -> Vec<PathBuf> {
    let mount = mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ');
        let (root, point) = (left.nth(3)?, left.next()?);
        (right.split(' ').next()? == "cgroup2").then(|| (unescape(root), PathBuf::from(unescape(point))))
    });
    let Some((root, point)) = mount else { return Vec::new() };
    // What is mounted may be a part of the hierarchy (in containers), and our own path is given from the very top.
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).and_then(|own| {
        Path::new(own)
            .strip_prefix(&root)
            .ok()
            .filter(|rest| !rest.as_os_str().is_empty())
            .map(|rest| point.join(rest))
    });
    std::iter::once(point).chain(own).collect()
}

/// Undoes `\040` and the like.
fn unescape(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}

fn try_root(root: &Path, join: impl Fn(sys::Cgroup) -> io::Result<()>) -> Result<(), Unavailable> {
    let not_allowed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| Unavailable::NotAllowed { path, source }
    };
    create(root).map_err(not_allowed(root))?;
    // Makes `memory.current` appear where the controller is to be had; usage falls back to /proc otherwise.
    if fs::read_to_string(root.join("cgroup.controllers"))
        .is_ok_and(|have| have.split_whitespace().any(|c| c == "memory"))
    {
        let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
    }
    let probe = root.join(format!("probe.{}", std::process::id()));
    create(&probe).map_err(not_allowed(&probe))?;
    let tried = if probe.join("cgroup.kill").exists() {
        open(&probe).and_then(join).map_err(|source| Unavailable::NoEntry {
            path: probe.clone(),
            source,
        })
    } else {
        Err(Unavailable::NoKill { path: probe.clone() })
    };
    let removed = fs::remove_dir(&probe).map_err(not_allowed(&probe));
    tried.and(removed)
}

fn create(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// Makes the cgroup `path`, and its parent if that has gone. An empty one of that name is as good as new.
pub(crate) fn make(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        create(parent)?;
    }
    create(path)?;
    if populated(path)? {
        let what = "processes of an earlier start with the same number are still in it";
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, what));
    }
    Ok(())
}

/// Opens what a process joins through.
pub(crate) fn open(path: &Path) -> io::Result<sys::Cgroup> {
    // Not where the child's stdio will be.
    let above_stdio = |file: fs::File| rustix::io::fcntl_dupfd_cloexec(file.as_fd(), 3).map_err(io::Error::from);
    Ok(sys::Cgroup {
        dir: fs::File::open(path).and_then(above_stdio)?,
        procs: fs::OpenOptions::new()
            .write(true)
            .open(path.join("cgroup.procs"))
            .and_then(above_stdio)?,
    })
}

/// Sends SIGKILL to all in the cgroup and below, at once; forks under way included, frozen ones too.
pub(crate) fn kill(path: &Path) -> io::Result<()> {
    unless_gone(fs::write(path.join("cgroup.kill"), "1"), ())
}

/// Whether any process lives in the cgroup or below. A zombie does not.
pub(crate) fn populated(path: &Path) -> io::Result<bool> {
    let events = unless_gone(fs::read_to_string(path.join("cgroup.events")), String::new())?;
    Ok(says_populated(&events))
}

/// Waits until nothing lives in the cgroup and below. The kernel tells; nothing is polled.
pub(crate) async fn empty(path: &Path) -> io::Result<()> {
    let Some(file) = unless_gone(fs::File::open(path.join("cgroup.events")).map(Some), None)? else {
        return Ok(());
    };
    if !read_events(&file)? {
        return Ok(());
    }
    let events = sys::watch(file.into(), Interest::PRIORITY)?;
    loop {
        let mut ready = events.ready(Interest::PRIORITY).await?;
        // Reading is what rearms the notification, so it comes first: a change after it wakes us again.
        if !read_events(events.get_ref())? {
            return Ok(());
        }
        ready.clear_ready();
    }
}

fn read_events(file: impl AsFd) -> io::Result<bool> {
    let mut buffer = [0; 256];
    // ENODEV: the cgroup was removed, so it is empty.
    match rustix::io::pread(file, &mut buffer, 0) {
        Ok(count) => Ok(says_populated(&String::from_utf8_lossy(&buffer[..count]))),
        Err(rustix::io::Errno::NODEV) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn says_populated(events: &str) -> bool {
    events.lines().any(|line| line == "populated 1")
}

/// Removes an empty cgroup with those below it.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    remove_below(path, DEPTH_MAX)
}

fn remove_below(path: &Path, depth: usize) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy && depth > 0 => {
            for child in children(path)? {
                remove_below(&child, depth - 1)?;
            }
            unless_gone(fs::remove_dir(path), ())
        }
        result => unless_gone(result, ()),
    }
}

/// The cgroups directly within one.
pub(crate) fn children(path: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(entries) = unless_gone(fs::read_dir(path).map(Some), None)? else {
        return Ok(Vec::new());
    };
    Ok(entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect())
}

/// The processes in a cgroup and below.
pub(crate) fn pids(path: &Path) -> io::Result<Vec<u32>> {
    let mut pids = Vec::new();
    pids_below(path, DEPTH_MAX, &mut pids)?;
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

fn pids_below(path: &Path, depth: usize, pids: &mut Vec<u32>) -> io::Result<()> {
    let procs = unless_gone(fs::read_to_string(path.join("cgroup.procs")), String::new())?;
    // 0 stands for a process of another PID namespace.
    pids.extend(
        procs
            .lines()
            .filter_map(|line| line.parse::<u32>().ok())
            .filter(|pid| *pid != 0),
    );
    // A cgroup has two links and one more for each child, so the common case needs no listing.
    let links = unless_gone(
        fs::metadata(path).map(|meta| std::os::unix::fs::MetadataExt::nlink(&meta)),
        2,
    )?;
    if depth > 0 && links > 2 {
        for child in children(path)? {
            pids_below(&child, depth - 1, pids)?;
        }
    }
    Ok(())
}

/// CPU time used by all that ever ran in the cgroup, in microseconds.
pub(crate) fn cpu_us(path: &Path) -> Option<u64> {
    let stat = fs::read_to_string(path.join("cpu.stat")).ok()?;
    stat.lines()
        .find_map(|line| line.strip_prefix("usage_usec "))?
        .parse()
        .ok()
}

/// Memory charged to the cgroup in bytes, where the controller is on.
pub(crate) fn memory_bytes(path: &Path) -> Option<u64> {
    fs::read_to_string(path.join("memory.current"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// A cgroup that is not there any more has nothing in it.
fn unless_gone<T>(result: io::Result<T>, gone: T) -> io::Result<T> {
    match result {
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) =>
        {
            Ok(gone)
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found_on_hybrid_machines_and_in_containers() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(
            places(hybrid, "1:cpu:/\n0::/\n"),
            [Path::new("/sys/fs/cgroup/uni fied")]
        );
        let own = "0::/user.slice/session.scope\n";
        assert_eq!(
            places(hybrid, own)[1],
            Path::new("/sys/fs/cgroup/uni fied/user.slice/session.scope")
        );

        let container = "9 8 0:3 /pod/one /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        let places_in = places(container, "0::/pod/one/sub\n");
        assert_eq!(
            places_in,
            [Path::new("/sys/fs/cgroup"), Path::new("/sys/fs/cgroup/sub")]
        );
        assert!(places("1 2 0:3 / /proc rw - proc proc rw\n", "0::/\n").is_empty());
    }
}
