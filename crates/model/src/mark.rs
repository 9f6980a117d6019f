//! A moment on two clocks at once, by which leases are measured.
//!
//! NTP may slew BOOTTIME by up to a tenth, and MONOTONIC_RAW stands still while a machine is suspended. Whoever *holds* a lease takes the
//! longer of the two spans, whoever *waits* for its end the shorter: both err to the safe side.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A moment on CLOCK_BOOTTIME and CLOCK_MONOTONIC_RAW of one machine, in nanoseconds. Compare only marks of one boot of one machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// CLOCK_BOOTTIME.
    pub boot_ns: u64,
    /// CLOCK_MONOTONIC_RAW.
    pub raw_ns: u64,
}

impl Mark {
    /// How long ago `earlier` was, at most: for the holder of a lease and its guard. Zero if it lies ahead on both clocks.
    pub fn held_for(self, earlier: Mark) -> Duration {
        let (boot, raw) = self.spans(earlier);
        Duration::from_nanos(boot.max(raw))
    }

    /// How long ago `earlier` was, at least: for an observer who waits for a lease to end. Zero if it lies ahead on either clock.
    pub fn waited_for(self, earlier: Mark) -> Duration {
        let (boot, raw) = self.spans(earlier);
        Duration::from_nanos(boot.min(raw))
    }

    /// This mark, later by `span` on both clocks.
    #[must_use]
    pub fn later(self, span: Duration) -> Mark {
        let ns = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Mark {
            boot_ns: self.boot_ns.saturating_add(ns),
            raw_ns: self.raw_ns.saturating_add(ns),
        }
    }

    fn spans(self, earlier: Mark) -> (u64, u64) {
        (
            self.boot_ns.saturating_sub(earlier.boot_ns),
            self.raw_ns.saturating_sub(earlier.raw_ns),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(boot: u64, raw: u64) -> Mark {
        Mark {
            boot_ns: boot,
            raw_ns: raw,
        }
    }

    #[test]
    fn holder_takes_the_longer_span_and_observer_the_shorter() {
        let (now, then) = (mark(110, 100), mark(0, 0));
        assert_eq!(now.held_for(then), Duration::from_nanos(110));
        assert_eq!(now.waited_for(then), Duration::from_nanos(100));
    }

    #[test]
    fn mark_that_lies_ahead_is_no_time_ago() {
        assert_eq!(mark(5, 5).held_for(mark(9, 9)), Duration::ZERO);
        assert_eq!(mark(5, 50).waited_for(mark(9, 9)), Duration::ZERO);
    }
}
