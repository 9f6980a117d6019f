//! Deadlines that outlive the process which set them: all that belongs to one has a name in the machine's BPF file system.
//!
//! ```text
//!   /sys/fs/bpf/understudy/<owner>/<when>@<cgroup's number>@<cgroup's path>/word       the word that is set
//!                                                                          /time-0 …   what calls the program, for each processor
//!                                                                          /leave-0 …
//! ```
//! A folder gets that name when it is whole, and loses it when it is not wanted any more; until then it is called `new…` or `old…`, and
//! whoever finds such a one removes it.

use super::bpf::{self, Word};
use crate::fence::cgroup::Cgroup;
use crate::fence::clock::mark;
use rustix::fd::OwnedFd;
use rustix::fs::statfs;
use rustix::mount::{MountFlags, mount};
use std::ffi::CString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const MOUNTED_AT: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC`.
const BPF_FS: u32 = 0xcafe_4a11;
const WORD: &str = "word";

/// Where the deadlines of one owner are kept.
#[derive(Debug, Clone)]
pub struct Pins {
    folder: PathBuf,
}

/// What is kept of one deadline, until this is dropped.
#[derive(Debug)]
pub(super) struct Pinned(PathBuf);

/// A folder that is not whole yet.
struct Draft(Option<PathBuf>);

impl Pins {
    /// Of the owner whose folder this is. The file system is mounted where the machine has none: not in a mount namespace of ours alone, which
    /// the next agent would not see.
    pub fn open(owner: &Path) -> io::Result<Self> {
        let is_there =
            || statfs(MOUNTED_AT).is_ok_and(|found| u32::try_from(found.f_type).is_ok_and(|is| is == BPF_FS));
        if !is_there() {
            if fs::read_link("/proc/self/ns/mnt")? != fs::read_link("/proc/1/ns/mnt")? {
                let why = "there is no BPF file system at /sys/fs/bpf, and this mount namespace is not the machine's";
                return Err(io::Error::other(why));
            }
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            mount("bpf", MOUNTED_AT, "bpf", flags, Some(c"mode=0700"))?;
        }
        let owner = fs::metadata(owner)?;
        let folder = Path::new(MOUNTED_AT)
            .join("understudy")
            .join(format!("{:x}-{:x}", owner.dev(), owner.ino()));
        Ok(Self { folder })
    }

    /// Lifts what an earlier process set and whose cgroup stands still, for as long as nobody has taken it over.
    pub fn lift_frozen(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        for entry in entries.flatten() {
            let living = entry.file_name().to_str().and_then(of_living);
            if living.is_some_and(|(_, cgroup)| is_frozen(&cgroup))
                && let Err(error) = word_of(&entry.path()).map(|word| word.set(bpf::NEVER))
            {
                tracing::warn!(%error, path = %entry.path().display(), "a deadline of an earlier process cannot be lifted");
            }
        }
    }

    /// Whether the kernel keeps what has a name, tried with events of a cgroup in which nothing is ended.
    pub(super) fn probe(
        &self,
        word: &Word,
        events: impl Iterator<Item = io::Result<(String, OwnedFd)>>,
    ) -> io::Result<()> {
        self.draft(word, events).map(drop)
    }

    /// Keeps a deadline. `events` come with a name each.
    pub(super) fn keep(
        &self,
        cgroup: &Path,
        word: &Word,
        events: impl Iterator<Item = io::Result<(String, OwnedFd)>>,
    ) -> io::Result<Pinned> {
        let number = fs::metadata(cgroup)?.ino();
        let mut draft = self.draft(word, events)?;
        let whole = self
            .folder
            .join(format!("{:x}@{number:x}@{}", mark().boot_ns, escape(cgroup)));
        if let Some(path) = &draft.0 {
            fs::rename(path, &whole)?;
            draft.0 = None;
        }
        Ok(Pinned(whole))
    }

    fn draft(&self, word: &Word, events: impl Iterator<Item = io::Result<(String, OwnedFd)>>) -> io::Result<Draft> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let path = self
            .folder
            .join(format!("new-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed)));
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        let draft = Draft(Some(path.clone()));
        let program = bpf::load(&word.map)?;
        bpf::pin(&word.map, &named(&path, WORD)?)?;
        for event in events {
            let (name, event) = event?;
            bpf::pin(&bpf::link(&program, &event)?, &named(&path, &name)?)?;
        }
        Ok(draft)
    }

    /// What earlier processes of this owner set and did not take back, with the cgroup of each. What is of no use any more is removed:
    /// there must be no other process that sets deadlines of this owner.
    pub(super) fn found(&self) -> io::Result<Vec<(PathBuf, Word, Pinned)>> {
        let mut found: Vec<(PathBuf, u64, Word, Pinned)> = Vec::new();
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let pinned = Pinned(entry.path());
            let Some((when, cgroup)) = entry.file_name().to_str().and_then(of_living) else {
                continue;
            };
            let word = match word_of(&pinned.0) {
                Ok(word) => word,
                Err(error) => {
                    tracing::warn!(%error, path = %pinned.0.display(), "a deadline of an earlier process cannot be read; it is removed");
                    continue;
                }
            };
            match found.iter_mut().find(|(path, ..)| *path == cgroup) {
                // The newest counts: its process ended while it took the other one back.
                Some(known) if known.1 < when => *known = (cgroup, when, word, pinned),
                Some(_) => {}
                None => found.push((cgroup, when, word, pinned)),
            }
        }
        Ok(found
            .into_iter()
            .map(|(path, _, word, pinned)| (path, word, pinned))
            .collect())
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            remove(path);
        }
    }
}

/// With another name first, so that nobody takes half of it for the whole.
fn remove(path: &Path) {
    let is_whole = path.file_name().is_some_and(|name| name.as_bytes().contains(&b'@'));
    let old = path.with_file_name(format!("old-{}", mark().boot_ns));
    let path = match is_whole && fs::rename(path, &old).is_ok() {
        true => &old,
        false => path,
    };
    if let Err(error) = fs::remove_dir_all(path) {
        tracing::warn!(%error, path = %path.display(), "cannot remove a deadline of the kernel");
    }
    // The owner's, once nothing is in it.
    if let Some(owner) = path.parent() {
        let _ = fs::remove_dir(owner);
    }
}

pub(super) fn is_frozen(cgroup: &Path) -> bool {
    Cgroup::open(cgroup).is_ok_and(|cgroup| cgroup.events().is_ok_and(|events| events.frozen))
}

fn word_of(folder: &Path) -> io::Result<Word> {
    Word::of(bpf::pinned(&named(folder, WORD)?)?)
}

/// When a deadline was made, and its cgroup, if something lives in that.
fn of_living(name: &str) -> Option<(u64, PathBuf)> {
    let mut parts = name.splitn(3, '@');
    let when = u64::from_str_radix(parts.next()?, 16).ok()?;
    let number = u64::from_str_radix(parts.next()?, 16).ok()?;
    let path = unescape(parts.next()?)?;
    let is_the_same = fs::metadata(&path).is_ok_and(|cgroup| cgroup.ino() == number);
    let lives = || Cgroup::open(&path).is_ok_and(|cgroup| cgroup.events().is_ok_and(|events| events.populated));
    (is_the_same && lives()).then_some((when, path))
}

fn named(folder: &Path, name: &str) -> io::Result<CString> {
    Ok(CString::new(folder.join(name).into_os_string().as_bytes())?)
}

/// A path as a name. The file system allows no dots in names.
fn escape(path: &Path) -> String {
    let byte = |byte: &u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(*byte).to_string(),
        other => format!("%{other:02x}"),
    };
    path.as_os_str().as_bytes().iter().map(byte).collect()
}

fn unescape(name: &str) -> Option<PathBuf> {
    let mut parts = name.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (byte, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(byte, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(&bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_comes_back_from_its_name() {
        for path in ["/sys/fs/cgroup/understudy.shop/db-1.4", "/a b%2e@c/ö", "/"] {
            let name = escape(Path::new(path));
            assert!(!name.contains(['.', '/', '@']), "{name}");
            assert_eq!(unescape(&name), Some(PathBuf::from(path)));
        }
        for name in ["%2", "%zz", "a%"] {
            assert_eq!(unescape(name), None, "{name}");
        }
    }

    #[test]
    fn names_of_nothing_that_lives_are_known() {
        for name in ["", "new-1-2", "5@6", "x@1@%2f", "5@ffffffffffff@%2fsys", "5@1@relative"] {
            assert_eq!(of_living(name), None, "{name}");
        }
    }
}
