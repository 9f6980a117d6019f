//! The disk of a host: a folder of the machine, or a file system of its own in a file, which can be filled and stalled.

use crate::error::{Error, io};
use crate::net::run;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Where the layers of a host's root are.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    /// Mount point, or the plain folder.
    pub(crate) folder: PathBuf,
    image: Option<PathBuf>,
}

impl Disk {
    /// Makes it: with a size as a file system of its own.
    pub(crate) fn make(folder: PathBuf, bytes: Option<u64>) -> Result<Self, Error> {
        fs::create_dir_all(&folder).map_err(io("make", &folder))?;
        let mut disk = Self { folder, image: None };
        if let Some(bytes) = bytes {
            let image = disk.folder.with_extension("img");
            let file = File::create(&image).map_err(io("make", &image))?;
            file.set_len(bytes).map_err(io("set the size of", &image))?;
            let path = image.to_string_lossy();
            // No blocks kept for root: full is full, for a host that is root too.
            run(
                "mkfs.ext4",
                "e2fsprogs",
                &["-q", "-m", "0", "-E", "lazy_itable_init=1", &path],
                None,
            )?;
            let folder = disk.folder.to_string_lossy().into_owned();
            run("mount", "mount", &["-o", "loop", &path, &folder], None)?;
            disk.image = Some(image);
        }
        for layer in ["upper/etc", "work"] {
            let layer = disk.folder.join(layer);
            fs::create_dir_all(&layer).map_err(io("make", &layer))?;
        }
        Ok(disk)
    }

    /// What the host wrote, from its root on.
    pub(crate) fn upper(&self) -> PathBuf {
        self.folder.join("upper")
    }

    pub(crate) fn is_own(&self) -> bool {
        self.image.is_some()
    }

    /// Leaves so many bytes free.
    pub(crate) fn fill(&self, free_bytes: u64) -> Result<(), Error> {
        let path = self.filler();
        let file = File::create(&path).map_err(io("make", &path))?;
        let room = statvfs(&self.folder).map_err(|source| io("look at", &self.folder)(source.into()))?;
        let available = room.f_bavail * room.f_frsize;
        let Some(taken) = available.checked_sub(free_bytes).filter(|taken| *taken > 0) else {
            return Ok(());
        };
        // The file's own blocks of addresses need room too: take what there is in ever smaller pieces.
        let (mut end, mut piece) = (0, taken);
        while end < taken && piece >= room.f_frsize {
            match fallocate(&file, FallocateFlags::empty(), end, piece.min(taken - end)) {
                Ok(()) => end += piece.min(taken - end),
                Err(rustix::io::Errno::NOSPC) => piece /= 2,
                Err(error) => return Err(io("fill", &path)(error.into())),
            }
        }
        Ok(())
    }

    pub(crate) fn free(&self) -> Result<(), Error> {
        let path = self.filler();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Every write waits from now on, and whoever waits for one.
    pub(crate) fn stall(&self) -> Result<(), Error> {
        let folder = self.folder.to_string_lossy();
        run("fsfreeze", "util-linux", &["--freeze", &folder], None).map(drop)
    }

    pub(crate) fn go_on(&self) -> Result<(), Error> {
        let folder = self.folder.to_string_lossy();
        run("fsfreeze", "util-linux", &["--unfreeze", &folder], None).map(drop)
    }

    /// Outside of the layers: the host does not see it.
    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }
}

/// Lets go of a disk that nobody uses any more, stalled or not, whoever made it. True if one was mounted there.
pub(crate) fn release(folder: &Path) -> Result<bool, Error> {
    if !is_mounted(folder) {
        return Ok(false);
    }
    let path = folder.to_string_lossy();
    // Says no if it is not stalled.
    run("fsfreeze", "util-linux", &["--unfreeze", &path], None).ok();
    run("umount", "mount", &["--lazy", &path], None)?;
    Ok(true)
}

pub(crate) fn is_mounted(folder: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let path = folder.to_string_lossy();
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(&path))
}
