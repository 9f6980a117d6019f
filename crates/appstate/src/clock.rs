//! The clock by which locks expire: two at once, as the takeover protocol's clock rule says.

use model::Mark;
use rustix::time::{ClockId, clock_gettime};

/// Tells the time. The system's in the product, made up in tests.
pub trait Clock: Send + Sync + 'static {
    /// Now, on both clocks.
    fn now(&self) -> Mark;
}

/// CLOCK_BOOTTIME and CLOCK_MONOTONIC_RAW of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Mark {
        Mark {
            boot_ns: read(ClockId::Boottime),
            raw_ns: read(ClockId::MonotonicRaw),
        }
    }
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
