//! The kernel's own deadline: what of a cgroup still runs past it is killed by the kernel, also while agent and guard are both stopped or gone.
//!
//! ```text
//!   agent ── set(sent + G) ──► one word of memory ◄── read ── a BPF program ◄── each millisecond that a process of the cgroup runs,
//!                                                                  │            and whenever one of them leaves a processor
//!                                                                  └── the clock is past the word: SIGKILL to who runs
//! ```
//! So each process runs once more at most, for a millisecond or until it sleeps. What is frozen must have no deadline: a signal lets it leave a
//! processor without running an instruction of its own. With [`Pins`] it outlives the process that set it up, and the next one takes it over;
//! without them it ends with that process. Guard and gates do their part all the same. Processors that are switched on after it was set up are
//! not watched.

mod bpf;
mod pins;

pub use pins::Pins;

use bpf::{CONTEXT_SWITCHES, CPU_CLOCK, NEVER, Word};
use pins::Pinned;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

/// How long a process may run on one processor until the clock is looked at.
const RUNS_NS: u64 = 1_000_000;

/// Why there is no such deadline.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The word, or the program.
    #[error("the kernel takes no program ({0}): it needs Linux 5.8 with BPF, and root or CAP_BPF with CAP_PERFMON")]
    Program(io::Error),
    /// Each processor takes two descriptors, which others need more.
    #[error("{processors} processors take {} open files a slot, and this process may have {limit}: raise LimitNOFILE", processors * 2)]
    TooManyFiles {
        /// Of this machine.
        processors: usize,
        /// Open files.
        limit: u64,
    },
    /// In a container with clocks of its own the kernel goes by others.
    #[error("this time namespace has another CLOCK_BOOTTIME than the kernel")]
    OtherClock,
    /// What calls the program.
    #[error("the kernel does not watch cgroup `{}` run ({source}): it needs CONFIG_CGROUP_PERF, and root or CAP_PERFMON", path.display())]
    Watch {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A deadline of one cgroup. It ends when this is dropped.
#[derive(Debug)]
pub struct KernelDeadline(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    word: Word,
    calls: Mutex<Option<Calls>>,
}

/// What calls the program, until it is dropped: on each processor one event for time, one for leaving it.
#[derive(Debug)]
#[expect(dead_code, reason = "held for what happens when they are dropped")]
enum Calls {
    Open(Vec<OwnedFd>, Room),
    Pinned(Pinned),
}

/// Descriptors of all that is watched, so that they never are more than half of those that this process may have.
#[derive(Debug)]
struct Room(usize);

static TAKEN: AtomicUsize = AtomicUsize::new(0);

impl Room {
    fn take(processors: usize) -> Result<Self, Error> {
        let wants = processors * 2;
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let taken = TAKEN.fetch_add(wants, SeqCst) + wants;
        let room = Self(wants);
        match u64::try_from(taken).unwrap_or(u64::MAX) > limit / 2 {
            true => Err(Error::TooManyFiles { processors, limit }),
            false => Ok(room),
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        TAKEN.fetch_sub(self.0, SeqCst);
    }
}

impl KernelDeadline {
    /// A deadline that is set and watched by nobody: [`KernelDeadline::watch`] does that.
    pub fn new() -> Result<Self, Error> {
        let inner = Inner {
            word: Word::new().map_err(Error::Program)?,
            calls: Mutex::new(None),
        };
        Ok(Self(Some(Arc::new(inner))))
    }

    /// Whether there can be one here, and whether it can be kept where `pins` says: tried on the cgroup of this process, in which nothing is
    /// ended.
    pub fn probe(pins: Option<&Pins>) -> Result<io::Result<()>, Error> {
        if has_clock_of_its_own(&fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default()) {
            return Err(Error::OtherClock);
        }
        let own = super::selftest::own().unwrap_or_default();
        drop(Self::new()?.watch(&own, None)?);
        let keeps = || pins.map_or(Ok(()), |pins| pins.probe(&Word::new()?, Events::of(&own)?));
        Ok(keeps())
    }

    /// What earlier processes set and did not take back, with the cgroup of each in which something lives. There must be no other process that
    /// sets deadlines of this owner.
    pub fn found(pins: &Pins) -> io::Result<Vec<(PathBuf, Self)>> {
        let taken_over = |(cgroup, word, pinned)| {
            let calls = Mutex::new(Some(Calls::Pinned(pinned)));
            (cgroup, Self(Some(Arc::new(Inner { word, calls }))))
        };
        Ok(pins.found()?.into_iter().map(taken_over).collect())
    }

    /// Sets it to a time on CLOCK_BOOTTIME, in nanoseconds. Waits for nothing.
    pub fn set(&self, boot_ns: u64) {
        if let Some(inner) = &self.0 {
            inner.word.set(boot_ns);
        }
    }

    /// Whether there is one.
    pub fn is_set(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.word.get() != NEVER)
    }

    /// There is none until it is set again.
    pub fn lift(&self) {
        self.set(NEVER);
    }

    /// It stands still: a signal would let it leave a processor.
    pub fn lift_if_frozen(&self, cgroup: &Path) {
        if pins::is_frozen(cgroup) {
            self.lift();
        }
    }

    /// It stays in force though this process ends, if it is pinned.
    pub fn leave(mut self) {
        std::mem::forget(self.0.take());
    }

    /// Has the kernel watch a cgroup with all below it, also when this process has ended if `pins` are given: or says why not then.
    /// Takes milliseconds, more with many processors.
    pub fn watch(&self, cgroup: &Path, pins: Option<&Pins>) -> Result<io::Result<()>, Error> {
        self.0.as_ref().map_or(Ok(Ok(())), |inner| inner.watch(cgroup, pins))
    }

    /// The same, in a thread of its own, which tells what came of it.
    pub fn watch_soon(
        &self,
        cgroup: &Path,
        pins: Option<&Pins>,
        tell: impl FnOnce(Result<io::Result<()>, Error>) + Send + 'static,
    ) -> io::Result<()> {
        let (inner, path, pins) = (self.0.clone(), cgroup.to_owned(), pins.cloned());
        let watched = std::thread::Builder::new().name("deadline".into()).spawn(move || {
            if let Some(inner) = inner {
                tell(inner.watch(&path, pins.as_ref()));
            }
        });
        watched.map(drop)
    }
}

impl Drop for KernelDeadline {
    fn drop(&mut self) {
        self.lift();
        // To close what calls the program takes its time too; without another thread it is done here.
        let inner = self.0.take();
        let _ = std::thread::Builder::new()
            .name("deadline".into())
            .spawn(move || drop(inner));
    }
}

impl Inner {
    fn watch(&self, cgroup: &Path, pins: Option<&Pins>) -> Result<io::Result<()>, Error> {
        let failed = |source| Error::Watch {
            path: cgroup.into(),
            source,
        };
        let pin = |pins: &Pins| pins.keep(cgroup, &self.word, Events::of(cgroup)?);
        let (calls, kept) = match pins.map(pin) {
            Some(Ok(pinned)) => (Calls::Pinned(pinned), Ok(())),
            unpinned => {
                let program = bpf::load(&self.word.map).map_err(Error::Program)?;
                let events = Events::of(cgroup).map_err(failed)?;
                let room = Room::take(events.processors)?;
                let called = |event: io::Result<(String, OwnedFd)>| {
                    let (_, event) = event?;
                    bpf::call_with(&program, &event).map(|()| event)
                };
                let called = events.map(called).collect::<io::Result<_>>().map_err(failed)?;
                (
                    Calls::Open(called, room),
                    unpinned.map_or(Ok(()), |pinned| pinned.map(drop)),
                )
            }
        };
        *self.calls.lock().unwrap_or_else(PoisonError::into_inner) = Some(calls);
        Ok(kept)
    }
}

/// All that is to call the program for a cgroup, opened one by one, with a name each.
struct Events {
    cgroup: OwnedFd,
    processors: usize,
    left: std::vec::IntoIter<(i32, &'static str, u64, u64)>,
}

impl Events {
    fn of(cgroup: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let cgroup = rustix::fs::open(cgroup, flags, Mode::empty())?;
        let online = fs::read_to_string("/sys/devices/system/cpu/online")?;
        let online: Vec<i32> = processors(&online).collect();
        if online.is_empty() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let of_one = |processor: &i32| {
            [
                (*processor, "time", CPU_CLOCK, RUNS_NS),
                (*processor, "leave", CONTEXT_SWITCHES, 1),
            ]
        };
        let all: Vec<_> = online.iter().flat_map(of_one).collect();
        Ok(Self {
            cgroup,
            processors: online.len(),
            left: all.into_iter(),
        })
    }
}

impl Iterator for Events {
    type Item = io::Result<(String, OwnedFd)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (processor, name, what, every) = self.left.next()?;
            match bpf::event_on(&self.cgroup, processor, what, every) {
                // Switched off meanwhile.
                Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => {}
                opened => return Some(opened.map(|event| (format!("{name}-{processor}"), event))),
            }
        }
    }
}

/// `boottime 0 0`: seconds and nanoseconds by which it differs from the machine's.
fn has_clock_of_its_own(offsets: &str) -> bool {
    let of_boot = |line: &str| line.strip_prefix("boottime").map(str::to_owned);
    let offset = offsets.lines().find_map(of_boot).unwrap_or_default();
    offset.split_whitespace().any(|number| number != "0")
}

/// `0-3,8`
fn processors(online: &str) -> impl Iterator<Item = i32> {
    let ranges = online.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<i32>().ok()?..=last.parse().ok()?)
    });
    ranges.flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_read() {
        assert_eq!(processors("0-3,8\n").collect::<Vec<_>>(), [0, 1, 2, 3, 8]);
        assert_eq!(processors("0").collect::<Vec<_>>(), [0]);
        assert_eq!(processors("\n").count(), 0);
    }

    #[test]
    fn another_clock_than_the_machines_is_noticed() {
        assert!(!has_clock_of_its_own(
            "monotonic           0         0\nboottime            0         0\n"
        ));
        assert!(has_clock_of_its_own(
            "monotonic           0         0\nboottime         3600         0\n"
        ));
        assert!(!has_clock_of_its_own(""));
    }
}
