//! The two clocks, and being woken in time.

use model::Mark;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// This moment. Taken before a renewal is sent, it is what the guard is told when the answer comes.
pub fn mark() -> Mark {
    Mark {
        boot_ns: nanoseconds(clock_gettime(ClockId::Boottime)),
        raw_ns: nanoseconds(clock_gettime(ClockId::MonotonicRaw)),
    }
}

fn nanoseconds(time: Timespec) -> u64 {
    // Both count from the start of the machine.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds * 1_000_000_000 + nanos
}

/// A timer on CLOCK_BOOTTIME, which goes on while the machine is suspended.
#[derive(Debug)]
pub(super) struct Timer(OwnedFd);

impl Timer {
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self(timerfd_create(TimerfdClockId::Boottime, flags)?))
    }

    /// Becomes readable this long after `now`; earlier settings are forgotten.
    pub(super) fn set(&self, now: Mark, span: Duration) -> io::Result<()> {
        // A setting of zero would switch it off.
        let at = now.later(span).boot_ns.max(1);
        let time = Timespec {
            tv_sec: i64::try_from(at / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: (at % 1_000_000_000) as _,
        };
        let setting = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: time,
        };
        timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &setting)?;
        Ok(())
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
