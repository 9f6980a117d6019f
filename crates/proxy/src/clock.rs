//! The clock that agent and proxy share.

use rustix::time::{ClockId, clock_gettime};

/// Microseconds on CLOCK_BOOTTIME.
pub(crate) fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds * 1_000_000 + nanos / 1_000
}
