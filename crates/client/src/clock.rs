//! The two clocks by which a holder counts its time.

use model::Mark;
use rustix::time::{ClockId, clock_gettime};

/// Now, on CLOCK_BOOTTIME and CLOCK_MONOTONIC_RAW.
pub(crate) fn now() -> Mark {
    Mark {
        boot_ns: read(ClockId::Boottime),
        raw_ns: read(ClockId::MonotonicRaw),
    }
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
