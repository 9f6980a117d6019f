//! One clock for witnesses, clients and faults.

use rustix::time::{ClockId, clock_gettime};

/// CLOCK_BOOTTIME in nanoseconds: all hosts of a machine share it, unless one was made with another.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    // Neither is ever negative.
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}
