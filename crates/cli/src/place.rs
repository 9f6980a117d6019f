//! Where clusters lie on this machine, which of them live, and which one is meant.

use crate::args::Global;
use crate::names;
use api::layout::{Layout, default_base};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// The folder of all clusters.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The folder.
    pub(crate) base: PathBuf,
    /// The cluster that was asked for.
    pub(crate) asked: Option<String>,
    /// How this program was called, with the options that lead here: what to type next begins with it.
    pub(crate) program: String,
    /// The options alone that lead here, each with a space before it: commands that are told of need them too.
    pub(crate) options: String,
}

/// Whether a cluster runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Life {
    /// Its agent answers.
    Running,
    /// Its guard or agent runs but does not answer: it restarts, hangs, or cannot start.
    Starting,
    /// It does not run.
    Stopped,
    /// Somebody else's: we may not look.
    Closed,
}

/// A cluster of this machine.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Known {
    /// Its name.
    pub(crate) cluster: String,
    /// Whether it runs.
    pub(crate) state: Life,
    /// Its folder.
    pub(crate) folder: PathBuf,
}

/// Why it is not clear which cluster is meant.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("no cluster runs on this machine (looked in {})", base.display())]
    NoneRuns { base: PathBuf, stopped: Vec<String> },

    #[error("{} clusters run on this machine: {}", names.len(), names.join(", "))]
    Several { names: Vec<String> },

    #[error("there is no cluster `{name}` in {}", base.display())]
    Unknown {
        name: String,
        base: PathBuf,
        near: Option<String>,
    },

    #[error(transparent)]
    Name(#[from] model::InvalidName),

    #[error("failed to list the clusters in {}", base.display())]
    List { base: PathBuf, source: io::Error },
}

impl Error {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Error::NoneRuns { stopped, .. } => Some(match stopped.as_slice() {
                [] => "`understudy up FILE` starts one; `--state-dir` looks in another folder".into(),
                stopped => format!(
                    "`understudy up FILE` starts one, on several machines `understudy cluster start`; here are, stopped: {}",
                    stopped.join(", ")
                ),
            }),
            Error::Several { names } => Some(format!("say which one: `--cluster {}`", names.first()?)),
            Error::Unknown { near, .. } => Some(match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => "`understudy clusters` lists what there is".into(),
            }),
            Error::Name(_) => None,
            Error::List { .. } => {
                Some("run this as the user who started the cluster, or choose another folder with `--state-dir`".into())
            }
        }
    }
}

impl Place {
    /// As the options say.
    pub(crate) fn new(global: &Global) -> Self {
        let base = global
            .state_dir
            .clone()
            .unwrap_or_else(|| default_base(rustix::process::geteuid().is_root()));
        // Daemons outlive this working directory.
        let base = std::path::absolute(&base).unwrap_or(base);
        Self {
            program: program(global, &base),
            options: options(global, &base),
            base,
            asked: global.cluster.clone(),
        }
    }

    /// The layout of a cluster here.
    pub(crate) fn layout(&self, cluster: &str) -> Layout {
        Layout::new(&self.base, cluster)
    }

    /// All clusters here, by name.
    pub(crate) fn known(&self) -> Result<Vec<Known>, Error> {
        let list = |source| Error::List {
            base: self.base.clone(),
            source,
        };
        let entries = match std::fs::read_dir(&self.base) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(list(source)),
        };
        let mut known = Vec::new();
        for entry in entries {
            let entry = entry.map_err(list)?;
            let Ok(cluster) = entry.file_name().into_string() else {
                continue;
            };
            if model::name_problem(&cluster).is_some() || !entry.path().is_dir() {
                continue;
            }
            let layout = self.layout(&cluster);
            let state = life(&layout);
            if state == Life::Stopped && !layout.run().exists() && !layout.store().exists() {
                continue; // Some folder of somebody else's.
            }
            known.push(Known {
                cluster,
                state,
                folder: layout.root().to_owned(),
            });
        }
        known.sort_by(|one, other| one.cluster.cmp(&other.cluster));
        Ok(known)
    }

    /// The cluster that is meant: the one asked for, or the only one that lives.
    pub(crate) fn choose(&self) -> Result<String, Error> {
        if let Some(name) = &self.asked {
            if let Some(problem) = model::name_problem(name) {
                return Err(model::InvalidName {
                    name: name.clone(),
                    problem,
                }
                .into());
            }
            if !self.layout(name).root().exists() {
                let known = self.known().unwrap_or_default();
                let near = names::nearest(name, known.iter().map(|known| known.cluster.as_str()));
                return Err(Error::Unknown {
                    name: name.clone(),
                    base: self.base.clone(),
                    near: near.map(ToOwned::to_owned),
                });
            }
            return Ok(name.clone());
        }
        let (mut live, stopped): (Vec<Known>, Vec<Known>) = self
            .known()?
            .into_iter()
            .partition(|known| known.state != Life::Stopped);
        // Those of others count only if there is none of ours.
        if live.iter().any(|known| known.state != Life::Closed) {
            live.retain(|known| known.state != Life::Closed);
        }
        let names = |list: Vec<Known>| list.into_iter().map(|known| known.cluster).collect::<Vec<_>>();
        match live.len() {
            0 => Err(Error::NoneRuns {
                base: self.base.clone(),
                stopped: names(stopped),
            }),
            1 => Ok(live.remove(0).cluster),
            _ => Err(Error::Several { names: names(live) }),
        }
    }
}

/// Whether the cluster of a layout runs.
pub(crate) fn life(layout: &Layout) -> Life {
    match UnixStream::connect(layout.api_socket()) {
        Ok(_) => Life::Running,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Life::Closed,
        Err(_)
            if holder(&layout.guard_lock())
                .or_else(|| holder(&layout.agent_lock()))
                .is_some() =>
        {
            Life::Starting
        }
        Err(_) => Life::Stopped,
    }
}

/// Whether nothing of ours is left of a cluster: neither guard nor agent nor proxy.
pub(crate) fn is_gone(layout: &Layout) -> bool {
    life(layout) == Life::Stopped && UnixStream::connect(layout.proxy_socket()).is_err()
}

/// What to type to call this program again for the same folder.
fn program(global: &Global, base: &Path) -> String {
    let called = std::env::args().next().unwrap_or_default();
    // Found by the shell's search, or by a path that has to be typed again.
    let mut program = if called.contains('/') {
        called
    } else {
        "understudy".to_owned()
    };
    program.push_str(&options(global, base));
    program
}

/// The options that were typed and lead to the same cluster again.
fn options(global: &Global, base: &Path) -> String {
    let from_environment = std::env::var_os("UNDERSTUDY_STATE_DIR")
        .is_some_and(|value| Some(Path::new(&value)) == global.state_dir.as_deref());
    let mut options = String::new();
    if global.state_dir.is_some() && !from_environment {
        options.push_str(&format!(" --state-dir {}", quoted(&base.display().to_string())));
    }
    if let Some(cluster) = &global.cluster {
        options.push_str(&format!(" --cluster {cluster}"));
    }
    options
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+,:@%".contains(c);
    match word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// The process that holds the lock of a file, if one does.
///
/// Only looked at: taking the lock to try it could keep the rightful owner from it at that very moment.
pub(crate) fn holder(path: &Path) -> Option<u32> {
    let file = std::fs::metadata(path).ok()?;
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    holders_in(&locks, file.ino()).find(|pid| has_open(*pid, &file))
}

/// Whether a process has this very file open. Inodes have the same numbers on other file systems, whose holders are none of ours: they must
/// neither be waited for nor ended. The device that the kernel lists beside the inode is not the one of the file on all file systems.
fn has_open(pid: u32, file: &std::fs::Metadata) -> bool {
    let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        // Of another user: it cannot be looked at, and cannot be ended by us either.
        return true;
    };
    open.flatten()
        .filter_map(|fd| std::fs::metadata(fd.path()).ok())
        .any(|other| (other.dev(), other.ino()) == (file.dev(), file.ino()))
}

/// `1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF`: who, and the inode at the end of the third number.
fn holders_in(locks: &str, inode: u64) -> impl Iterator<Item = u32> {
    locks.lines().filter_map(move |line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // A line with `->` is somebody who waits for the lock.
        let [_, "FLOCK", _, "WRITE", pid, file, ..] = fields.as_slice() else {
            return None;
        };
        (file.rsplit(':').next()?.parse() == Ok(inode)).then(|| pid.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn place(base: &Path, asked: Option<&str>) -> Place {
        Place {
            base: base.to_owned(),
            asked: asked.map(Into::into),
            program: String::new(),
            options: String::new(),
        }
    }

    fn live(base: &Path, name: &str) -> UnixListener {
        let layout = Layout::new(base, name);
        std::fs::create_dir_all(layout.run()).unwrap();
        UnixListener::bind(layout.api_socket()).unwrap()
    }

    #[test]
    fn the_only_live_cluster_is_meant() {
        let base = tempfile::tempdir().unwrap();
        let hint = |place: Place| {
            let error = place.choose().unwrap_err();
            format!("{error}; {}", error.hint().unwrap())
        };
        assert!(hint(place(base.path(), None)).contains("starts one; `--state-dir`"));
        drop(live(base.path(), "old"));
        std::fs::create_dir(base.path().join("lost+found")).unwrap();
        std::fs::create_dir(base.path().join("notes")).unwrap();
        assert!(hint(place(base.path(), None)).ends_with("here are, stopped: old"));
        let _shop = live(base.path(), "shop");
        assert_eq!(place(base.path(), None).choose().unwrap(), "shop");
        let _test = live(base.path(), "test");
        assert!(hint(place(base.path(), None)).contains("--cluster shop"));
        assert_eq!(place(base.path(), Some("test")).choose().unwrap(), "test");
        assert!(hint(place(base.path(), Some("shp"))).ends_with("did you mean `shop`?"));
        assert!(place(base.path(), Some("../etc")).choose().is_err());
    }

    #[test]
    fn the_holder_of_a_lock_is_found_by_its_inode() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 08:01:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 12 08:01:77 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 13 08:01:77 0 EOF\n\
                     3: FLOCK  ADVISORY  READ 14 08:01:78 0 EOF\n";
        let holders = |locks: &str, inode| holders_in(locks, inode).collect::<Vec<u32>>();
        assert_eq!(holders(locks, 77), [12]);
        assert!(holders(locks, 78).is_empty());
        assert!(holders("nonsense\n", 77).is_empty());
    }

    #[test]
    fn who_holds_a_file_of_the_same_number_elsewhere_is_not_taken_for_the_holder() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, other) = (folder.path().join("ours"), folder.path().join("other"));
        let held = std::fs::File::create(&ours).unwrap();
        std::fs::File::create(&other).unwrap();
        let me = std::process::id();
        assert!(has_open(me, &std::fs::metadata(&ours).unwrap()));
        assert!(!has_open(me, &std::fs::metadata(&other).unwrap()));
        drop(held);
        assert!(!has_open(me, &std::fs::metadata(&ours).unwrap()));
    }

    #[test]
    fn a_held_guard_lock_means_that_the_agent_is_on_its_way() {
        let base = tempfile::tempdir().unwrap();
        let layout = Layout::new(base.path(), "shop");
        std::fs::create_dir_all(layout.run()).unwrap();
        let lock = std::fs::File::create(layout.guard_lock()).unwrap();
        assert_eq!(life(&layout), Life::Stopped);
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
        assert_eq!(life(&layout), Life::Starting);
        assert_eq!(holder(&layout.guard_lock()), Some(std::process::id()));
        drop(lock);
        assert_eq!(life(&layout), Life::Stopped);
    }
}
