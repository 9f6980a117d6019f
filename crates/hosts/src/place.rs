//! Where the parts of a rig are, how a number is claimed for it, and the removal of it all.

use crate::cgroup;
use crate::disk;
use crate::error::{Error, io};
use crate::net::{self, Namespace, RIGS_MAX, Subnet};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The end of the bridge that is no host.
pub(crate) const CLIENT: &str = "client";
pub(crate) const SWITCH: &str = "switch";
/// On a disk, for what hosts write must be able to be synced.
const FOLDER: &str = "/var/tmp/understudy-hosts";
/// In memory, for what all hosts share must cost nothing.
const SHARED: &str = "/dev/shm/understudy-hosts";
const CGROUPS: &str = "understudy-hosts";

/// Removes what is left of rigs whose owner died. Returns their numbers.
pub fn sweep() -> Result<Vec<u32>, Error> {
    let _claiming = claiming()?;
    let mut swept = Vec::new();
    for number in Place::all()? {
        let place = Place { number };
        let lock = place.folder().join("owner");
        let file = File::create(&lock).map_err(io("open", &lock))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        place.remove(|| ())?;
        swept.push(number);
    }
    Ok(swept)
}

/// Held while rigs are claimed or swept, so that none is swept before it is locked.
fn claiming() -> Result<File, Error> {
    fs::create_dir_all(FOLDER).map_err(io("make", FOLDER))?;
    let path = Path::new(FOLDER).join("lock");
    let file = File::create(&path).map_err(io("open", &path))?;
    flock(&file, FlockOperation::LockExclusive).map_err(|source| io("lock", &path)(source.into()))?;
    Ok(file)
}

/// Where the parts of a rig are, all from its number: whoever removes it needs nothing else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) number: u32,
}

impl Place {
    pub(crate) fn claim() -> Result<(Self, File), Error> {
        let _claiming = claiming()?;
        for number in 1..=RIGS_MAX {
            let place = Self { number };
            let folder = place.folder();
            match fs::create_dir(&folder) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                made => made.map_err(io("make", &folder))?,
            }
            let path = folder.join("owner");
            let file = File::create(&path).map_err(io("make", &path))?;
            flock(&file, FlockOperation::LockExclusive).map_err(|source| io("lock", &path)(source.into()))?;
            return Ok((place, file));
        }
        Err(Error::Full { taken: RIGS_MAX })
    }

    fn all() -> Result<Vec<u32>, Error> {
        let entries = fs::read_dir(FOLDER).map_err(io("read", FOLDER))?;
        let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        Ok(numbers.collect())
    }

    pub(crate) fn folder(self) -> PathBuf {
        Path::new(FOLDER).join(self.number.to_string())
    }

    pub(crate) fn shared(self) -> PathBuf {
        Path::new(SHARED).join(self.number.to_string())
    }

    pub(crate) fn cgroup(self) -> Option<PathBuf> {
        Some(cgroup::mount_point()?.join(CGROUPS).join(self.number.to_string()))
    }

    pub(crate) fn subnet(self) -> Subnet {
        Subnet(self.number)
    }

    pub(crate) fn namespace(self, name: &str) -> Namespace {
        Namespace::new(self.number, name)
    }

    pub(crate) fn switch(self) -> Namespace {
        self.namespace(SWITCH)
    }

    /// Processes first, then what they held.
    pub(crate) fn remove(self, reap: impl FnOnce()) -> Result<(), Error> {
        let hosts = self.folder().join("hosts");
        let names: Vec<String> = fs::read_dir(&hosts)
            .map(|entries| {
                entries
                    .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                    .collect()
            })
            .unwrap_or_default();
        for name in &names {
            // Who waits for a stalled disk cannot be killed.
            let disk = hosts.join(name).join("disk");
            if disk::is_mounted(&disk) {
                net::run("fsfreeze", "util-linux", &["--unfreeze", &disk.to_string_lossy()], None).ok();
            }
        }
        let cgroup = self.cgroup().ok_or(Error::NoCgroup2)?;
        cgroup::kill(&cgroup)?;
        reap();
        cgroup::remove(&cgroup)?;
        // The switch takes the bridge and all cables with it.
        for name in names.iter().map(String::as_str).chain([CLIENT, SWITCH]) {
            self.namespace(name).remove()?;
        }
        for name in &names {
            disk::release(&hosts.join(name).join("disk"))?;
        }
        for folder in [self.shared(), self.folder()] {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove", &folder)(error)),
                _ => Ok(()),
            }?;
        }
        Ok(())
    }
}
