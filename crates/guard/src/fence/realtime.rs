//! Being scheduled before all others.

#![expect(unsafe_code, reason = "the scheduling policy has no safe wrapper")]

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, getrlimit};
use std::io;

/// Above every ordinary process and most that run in real time, below what watches over the machine itself (99).
pub(super) const FENCE_PRIORITY: i32 = 80;
/// The gates' thread waits for the kernel; it must never keep the fence waiting.
pub(super) const GATES_PRIORITY: i32 = 70;

/// Puts the calling thread under SCHED_FIFO. Processes and threads that it starts are ordinary again.
pub(super) fn become_realtime(priority: i32) -> io::Result<()> {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: the call reads `parameters` and touches nothing else; 0 is the calling thread.
    let result =
        unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameters) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Keeps the pages in use out of swap, and those that will be.
pub(super) fn stay_in_memory() -> io::Result<()> {
    // With a limit, locking ahead would make later allocations fail.
    let unlimited = || getrlimit(Resource::Memlock).current.is_none();
    if !rustix::process::geteuid().is_root() && !unlimited() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)?;
    Ok(())
}

/// Touches the stack that a fire uses, so that its pages are there.
#[inline(never)]
pub(super) fn touch_stack() {
    let mut pages = [0_u8; 64 * 1024];
    for byte in pages.iter_mut().step_by(4096) {
        *byte = 1;
    }
    std::hint::black_box(&mut pages);
}
