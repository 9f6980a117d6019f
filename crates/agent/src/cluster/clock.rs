//! The clocks by which leases are measured.

use model::Mark;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Now, on both.
pub(crate) fn mark() -> Mark {
    let ns = |time: Timespec| {
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
    };
    Mark {
        boot_ns: ns(clock_gettime(ClockId::Boottime)),
        raw_ns: ns(clock_gettime(ClockId::MonotonicRaw)),
    }
}
