//! The kernel's own deadline: what of a cgroup still runs past it is killed by the kernel, also while agent and guard are both stopped.
//!
//! ```text
//!   agent ── set(sent + G) ──► one word of memory ◄── read ── a BPF program ◄── each millisecond that a process of the cgroup runs,
//!                                                                  │            and whenever one of them leaves a processor
//!                                                                  └── the clock is past the word: SIGKILL to who runs
//! ```
//! So each process runs once more at most, for a millisecond or until it sleeps. What is frozen must have no deadline: a signal lets it leave a
//! processor without running an instruction of its own. It lives as long as the process that set it up; whatever that is worth, guard and gates
//! do their part all the same. Processors that are switched on later are not watched.

#![expect(unsafe_code, reason = "the kernel's programs and their memory have no safe wrapper")]

use rustix::fd::{AsRawFd, FromRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::process::{Resource, getrlimit};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Release, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

/// How long a process may run on one processor until the clock is looked at.
const RUNS_NS: u64 = 1_000_000;
/// No deadline.
const NEVER: u64 = u64::MAX;
/// What is mapped of the word: at least a page.
const MAPPED: usize = 4096;

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
    /// What calls the program: on each processor one for time, one for leaving it.
    events: Mutex<Option<(Vec<OwnedFd>, Room)>>,
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
            events: Mutex::new(None),
        };
        Ok(Self(Some(Arc::new(inner))))
    }

    /// Whether there can be one here: tried on the cgroup of this process, in which nothing is ended.
    pub fn probe() -> Result<(), Error> {
        if has_clock_of_its_own(&fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default()) {
            return Err(Error::OtherClock);
        }
        let own = super::selftest::own().unwrap_or_default();
        Self::new()?.watch(&own)
    }

    /// Sets it to a time on CLOCK_BOOTTIME, in nanoseconds. Waits for nothing.
    pub fn set(&self, boot_ns: u64) {
        if let Some(inner) = &self.0 {
            inner.word.set(boot_ns);
        }
    }

    /// There is none until it is set again.
    pub fn lift(&self) {
        self.set(NEVER);
    }

    /// Has the kernel watch a cgroup with all below it. Takes milliseconds, more with many processors.
    pub fn watch(&self, cgroup: &Path) -> Result<(), Error> {
        self.0.as_ref().map_or(Ok(()), |inner| inner.watch(cgroup))
    }

    /// The same, in a thread of its own.
    pub fn watch_soon(&self, cgroup: &Path) {
        let (inner, path) = (self.0.clone(), cgroup.to_owned());
        let watched = std::thread::Builder::new().name("deadline".into()).spawn(move || {
            if let Some(inner) = inner
                && let Err(error) = inner.watch(&path)
            {
                tracing::warn!(%error, "the kernel sets no deadline of its own");
            }
        });
        if let Err(error) = watched {
            tracing::warn!(%error, "the kernel sets no deadline of its own");
        }
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
    fn watch(&self, cgroup: &Path) -> Result<(), Error> {
        let failed = |source| Error::Watch {
            path: cgroup.into(),
            source,
        };
        let program = load(&self.word.map).map_err(Error::Program)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(cgroup, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
        let online = fs::read_to_string("/sys/devices/system/cpu/online").map_err(failed)?;
        let online: Vec<i32> = processors(&online).collect();
        if online.is_empty() {
            return Err(failed(io::ErrorKind::InvalidData.into()));
        }
        let room = Room::take(online.len())?;
        let mut events = Vec::with_capacity(online.len() * 2);
        for processor in online {
            for (what, every) in [(CPU_CLOCK, RUNS_NS), (CONTEXT_SWITCHES, 1)] {
                match call_on(&program, &folder, processor, what, every) {
                    Ok(event) => events.push(event),
                    // Switched off meanwhile.
                    Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => {}
                    Err(error) => return Err(failed(error)),
                }
            }
        }
        *self.events.lock().unwrap_or_else(PoisonError::into_inner) = Some((events, room));
        Ok(())
    }
}

/// The word that the program reads: an array of one, in memory that both of us have.
#[derive(Debug)]
struct Word {
    map: OwnedFd,
    at: NonNull<AtomicU64>,
}

// SAFETY: `at` points to memory that lives as long as this, and is only ever used as an atomic.
unsafe impl Send for Word {}
// SAFETY: likewise.
unsafe impl Sync for Word {}

impl Word {
    fn new() -> io::Result<Self> {
        let map = bpf(
            MAP_CREATE,
            &MapCreate {
                map_type: MAP_TYPE_ARRAY,
                key_size: 4,
                value_size: 8,
                max_entries: 1,
                map_flags: MMAPABLE,
            },
        )?;
        // SAFETY: a new mapping at a place that the kernel chooses; it overlaps nothing.
        let at = unsafe {
            mmap(
                std::ptr::null_mut(),
                MAPPED,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &map,
                0,
            )?
        };
        let at = NonNull::new(at.cast::<AtomicU64>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let word = Self { map, at };
        word.set(NEVER);
        Ok(word)
    }

    fn set(&self, boot_ns: u64) {
        // SAFETY: the mapping is a page of zeroes or what was stored, aligned to a page, and there until `drop`.
        unsafe { self.at.as_ref() }.store(boot_ns, Release);
    }
}

impl Drop for Word {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and used by nobody any more.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), MAPPED) };
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

// What the kernel calls these things: include/uapi/linux/bpf.h and perf_event.h.
const MAP_CREATE: u32 = 0;
const PROG_LOAD: u32 = 5;
const MAP_TYPE_ARRAY: u32 = 2;
const MMAPABLE: u32 = 1 << 10;
const PROG_TYPE_PERF_EVENT: u32 = 7;
const MAP_VALUE: u8 = 2;
const KTIME_GET_BOOT_NS: i32 = 125;
const SEND_SIGNAL: i32 = 109;
const SOFTWARE: u32 = 1;
const CPU_CLOCK: u64 = 0;
const CONTEXT_SWITCHES: u64 = 3;
const DISABLED: u64 = 1;
const PID_CGROUP: u64 = 1 << 2;
const CLOEXEC: u64 = 1 << 3;
const IOC_ENABLE: u64 = 0x2400;
const IOC_SET_BPF: u64 = 0x4004_2408;

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// `struct perf_event_attr` as of its fifth size.
#[repr(C)]
#[derive(Default)]
struct PerfEvent {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
    config2: u64,
    branch_sample_type: u64,
    sample_regs_user: u64,
    sample_stack_user: u32,
    clockid: i32,
    sample_regs_intr: u64,
    aux_watermark: u32,
    sample_max_stack: u16,
    reserved: u16,
}

/// One instruction of the kernel's machine.
#[repr(C)]
struct Instruction {
    code: u8,
    /// Where to in the lower half, where from in the upper one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: to | from << 4,
        offset,
        immediate,
    }
}

/// Loads the program that kills who runs past the word of `map`.
fn load(map: &OwnedFd) -> io::Result<OwnedFd> {
    let program = [
        // r1 = the word's address, in two instructions; r6 = the word
        instruction(0x18, 1, MAP_VALUE, 0, map.as_raw_fd()),
        instruction(0x00, 0, 0, 0, 0),
        instruction(0x79, 6, 1, 0, 0),
        instruction(0x85, 0, 0, 0, KTIME_GET_BOOT_NS),
        // if r0 < r6: on to the end
        instruction(0xad, 0, 6, 2, 0),
        instruction(0xb7, 1, 0, 0, libc::SIGKILL),
        instruction(0x85, 0, 0, 0, SEND_SIGNAL),
        // Nothing is to be recorded.
        instruction(0xb7, 0, 0, 0, 0),
        instruction(0x95, 0, 0, 0, 0),
    ];
    bpf(
        PROG_LOAD,
        &ProgLoad {
            prog_type: PROG_TYPE_PERF_EVENT,
            insn_cnt: u32::try_from(program.len()).unwrap_or(0),
            insns: program.as_ptr() as u64,
            license: c"Dual MIT/GPL".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log_buf: 0,
            kern_version: 0,
            prog_flags: 0,
        },
    )
}

fn bpf<T>(command: u32, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `attributes` and what it points to, all of which outlives the call, and answers with a new descriptor.
    unsafe {
        descriptor(libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        ))
    }
}

/// Has the program called on one processor, for what runs there of a cgroup.
fn call_on(program: &OwnedFd, cgroup: &OwnedFd, processor: i32, what: u64, every: u64) -> io::Result<OwnedFd> {
    let event = PerfEvent {
        kind: SOFTWARE,
        size: u32::try_from(size_of::<PerfEvent>()).unwrap_or(0),
        config: what,
        sample_period: every,
        flags: DISABLED,
        ..PerfEvent::default()
    };
    let cgroup = cgroup.as_raw_fd();
    // SAFETY: the kernel reads `event`, and answers with a new descriptor.
    let event = unsafe {
        let event = std::ptr::from_ref(&event);
        descriptor(libc::syscall(
            libc::SYS_perf_event_open,
            event,
            cgroup,
            processor,
            -1,
            PID_CGROUP | CLOEXEC,
        ))?
    };
    for (request, argument) in [(IOC_SET_BPF, program.as_raw_fd()), (IOC_ENABLE, 0)] {
        // SAFETY: both take a number, and touch no memory of ours.
        if unsafe { libc::ioctl(event.as_raw_fd(), request as _, argument) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(event)
}

/// # Safety
/// If it is not negative it is a descriptor that nobody else owns.
unsafe fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(result) {
        // SAFETY: as promised by the caller.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
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

    #[test]
    fn what_the_kernel_is_given_has_the_size_that_it_expects() {
        assert_eq!(size_of::<PerfEvent>(), 112);
        assert_eq!(size_of::<ProgLoad>(), 48);
        assert_eq!(size_of::<MapCreate>(), 20);
        assert_eq!(size_of::<Instruction>(), 8);
    }
}
