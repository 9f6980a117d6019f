//! What the kernel is asked for: its programs, the memory that they share with us, and their files.

#![expect(unsafe_code, reason = "the kernel's programs and their memory have no safe wrapper")]

use rustix::fd::{AsRawFd, FromRawFd, OwnedFd};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::CStr;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};

/// What is mapped of the word: at least a page.
const MAPPED: usize = 4096;
/// No deadline.
pub(super) const NEVER: u64 = u64::MAX;

/// The word that the program reads: an array of one, in memory that both of us have.
#[derive(Debug)]
pub(super) struct Word {
    pub(super) map: OwnedFd,
    at: NonNull<AtomicU64>,
}

// SAFETY: `at` points to memory that lives as long as this, and is only ever used as an atomic.
unsafe impl Send for Word {}
// SAFETY: likewise.
unsafe impl Sync for Word {}

impl Word {
    pub(super) fn new() -> io::Result<Self> {
        let word = Self::of(bpf(
            MAP_CREATE,
            &MapCreate {
                map_type: MAP_TYPE_ARRAY,
                key_size: 4,
                value_size: 8,
                max_entries: 1,
                map_flags: MMAPABLE,
            },
        )?)?;
        word.set(NEVER);
        Ok(word)
    }

    /// That of a map which is there.
    pub(super) fn of(map: OwnedFd) -> io::Result<Self> {
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
        Ok(Self { map, at })
    }

    pub(super) fn set(&self, boot_ns: u64) {
        // SAFETY: the mapping is a page of zeroes or what was stored, aligned to a page, and there until `drop`.
        unsafe { self.at.as_ref() }.store(boot_ns, Release);
    }

    pub(super) fn get(&self) -> u64 {
        // SAFETY: likewise.
        unsafe { self.at.as_ref() }.load(Acquire)
    }
}

impl Drop for Word {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and used by nobody any more.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), MAPPED) };
    }
}

// What the kernel calls these things: include/uapi/linux/bpf.h and perf_event.h.
const MAP_CREATE: u32 = 0;
const PROG_LOAD: u32 = 5;
const OBJ_PIN: u32 = 6;
const OBJ_GET: u32 = 7;
const LINK_CREATE: u32 = 28;
/// What a link of a perf event is called.
const PERF_EVENT: u32 = 41;
const MAP_TYPE_ARRAY: u32 = 2;
const MMAPABLE: u32 = 1 << 10;
const PROG_TYPE_PERF_EVENT: u32 = 7;
const MAP_VALUE: u8 = 2;
const KTIME_GET_BOOT_NS: i32 = 125;
const SEND_SIGNAL: i32 = 109;
const SOFTWARE: u32 = 1;
pub(super) const CPU_CLOCK: u64 = 0;
pub(super) const CONTEXT_SWITCHES: u64 = 3;
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

#[repr(C)]
struct Pin {
    path: u64,
    descriptor: u32,
    flags: u32,
}

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
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
pub(super) fn load(map: &OwnedFd) -> io::Result<OwnedFd> {
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
    unsafe { descriptor(call(command, attributes)) }
}

/// # Safety
/// What `attributes` points to must outlive the call.
unsafe fn call<T>(command: u32, attributes: &T) -> libc::c_long {
    let attributes = std::ptr::from_ref(attributes);
    // SAFETY: as promised by the caller.
    unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) }
}

/// Gives a map or a link a name in a BPF file system: it is there as long as that is.
pub(super) fn pin(what: &OwnedFd, path: &CStr) -> io::Result<()> {
    let pin = Pin {
        path: path.as_ptr() as u64,
        descriptor: number(what),
        flags: 0,
    };
    // SAFETY: the path outlives the call.
    match unsafe { call(OBJ_PIN, &pin) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What has that name.
pub(super) fn pinned(path: &CStr) -> io::Result<OwnedFd> {
    let pin = Pin {
        path: path.as_ptr() as u64,
        descriptor: 0,
        flags: 0,
    };
    bpf(OBJ_GET, &pin)
}

/// An event of one processor, for what runs there of a cgroup. Nothing is called yet.
pub(super) fn event_on(cgroup: &OwnedFd, processor: i32, what: u64, every: u64) -> io::Result<OwnedFd> {
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
    unsafe {
        let event = std::ptr::from_ref(&event);
        descriptor(libc::syscall(
            libc::SYS_perf_event_open,
            event,
            cgroup,
            processor,
            -1,
            PID_CGROUP | CLOEXEC,
        ))
    }
}

/// Has the program called with each event, until that is closed.
pub(super) fn call_with(program: &OwnedFd, event: &OwnedFd) -> io::Result<()> {
    tell(event, IOC_SET_BPF, program.as_raw_fd())?;
    tell(event, IOC_ENABLE, 0)
}

/// Has the program called with each event, until the link that is answered is closed and has no name.
pub(super) fn link(program: &OwnedFd, event: &OwnedFd) -> io::Result<OwnedFd> {
    let link = bpf(
        LINK_CREATE,
        &LinkCreate {
            prog_fd: number(program),
            target_fd: number(event),
            attach_type: PERF_EVENT,
            flags: 0,
        },
    )?;
    tell(event, IOC_ENABLE, 0)?;
    Ok(link)
}

fn tell(event: &OwnedFd, request: u64, argument: i32) -> io::Result<()> {
    // SAFETY: what is asked for takes a number, and touches no memory of ours.
    match unsafe { libc::ioctl(event.as_raw_fd(), request as _, argument) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A descriptor as the kernel wants it here. There is no negative one.
fn number(descriptor: &OwnedFd) -> u32 {
    descriptor.as_raw_fd().unsigned_abs()
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
    fn what_the_kernel_is_given_has_the_size_that_it_expects() {
        assert_eq!(size_of::<PerfEvent>(), 112);
        assert_eq!(size_of::<ProgLoad>(), 48);
        assert_eq!(size_of::<MapCreate>(), 20);
        assert_eq!(size_of::<Pin>(), 16);
        assert_eq!(size_of::<LinkCreate>(), 16);
        assert_eq!(size_of::<Instruction>(), 8);
    }
}
