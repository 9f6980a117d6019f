//! The cgroups of a rig: one for all of it, below it one for each host.

use crate::error::{Error, io};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Where the cgroup2 file system is mounted; in a hybrid layout not at `/sys/fs/cgroup`.
pub(crate) fn mount_point() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let is_cgroup2 = kind.split(' ').next() == Some("cgroup2");
        is_cgroup2.then(|| place.split(' ').nth(4)).flatten().map(PathBuf::from)
    })
}

pub(crate) fn make(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(io("make the cgroup", path))
}

/// Stops all in it, or lets it go on; returns when the kernel says so.
pub(crate) fn freeze(path: &Path, frozen: bool) -> Result<(), Error> {
    let file = path.join("cgroup.freeze");
    fs::write(&file, if frozen { "1" } else { "0" }).map_err(io("write", &file))?;
    let wanted = if frozen { "frozen 1" } else { "frozen 0" };
    if wait(path, wanted, FROZEN_WITHIN) {
        return Ok(());
    }
    Err(Error::Refused {
        what: format!("freeze or thaw `{}`", path.display()),
        said: format!("its events do not say `{wanted}` after {} s", FROZEN_WITHIN.as_secs()),
    })
}

/// Kills all in it, frozen or not, and waits until nobody is left. A cgroup that is not there is empty.
pub(crate) fn kill(path: &Path) -> Result<(), Error> {
    if !path.exists() {
        return Ok(());
    }
    let file = path.join("cgroup.kill");
    fs::write(&file, "1").map_err(io("write", &file))?;
    if wait(path, "populated 0", EMPTY_WITHIN) {
        return Ok(());
    }
    Err(Error::Refused {
        what: format!("kill all in `{}`", path.display()),
        said: format!("it is not empty after {} s", EMPTY_WITHIN.as_secs()),
    })
}

/// Removes an empty cgroup and those below it: what a service manager on the host made.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    let Ok(entries) = fs::read_dir(path) else { return Ok(()) };
    for entry in entries.filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(path).map_err(io("remove the cgroup", path))
}

/// A freeze took up to 138 ms on a busy machine.
const FROZEN_WITHIN: Duration = Duration::from_secs(5);
/// Processes that wait for a slow disk die late.
const EMPTY_WITHIN: Duration = Duration::from_secs(20);

fn wait(path: &Path, wanted: &str, within: Duration) -> bool {
    let until = Instant::now() + within;
    let events = path.join("cgroup.events");
    loop {
        let text = fs::read_to_string(&events).unwrap_or_default();
        if text.lines().any(|line| line == wanted) {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        sleep(Duration::from_millis(1));
    }
}
