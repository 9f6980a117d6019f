//! How long an address may be kept: by the holder's clocks, and by the kernel's whole seconds.

use model::Mark;
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Now, on both clocks.
pub(crate) fn now() -> Mark {
    let ns = |clock| {
        let time = clock_gettime(clock);
        u64::try_from(i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)).unwrap_or_default()
    };
    Mark {
        boot_ns: ns(ClockId::Boottime),
        raw_ns: ns(ClockId::MonotonicRaw),
    }
}

/// What is left until a lease ends: by the clock on which it ends first. Zero once it has ended.
pub(crate) fn left(until: Mark, now: Mark) -> Duration {
    let left = |until: u64, now: u64| Duration::from_nanos(until.saturating_sub(now));
    left(until.boot_ns, now.boot_ns).min(left(until.raw_ns, now.raw_ns))
}

/// For the kernel, which counts whole seconds, takes none for never, and is up to half a second late: rounded down, at least one.
pub(crate) fn whole_seconds(left: Duration) -> u32 {
    u32::try_from(left.as_secs()).unwrap_or(u32::MAX).max(1)
}

/// When the kernel takes an address away that was given to it now.
pub(crate) fn kernel_end(until: Option<Mark>, now: Mark) -> Option<Mark> {
    let seconds = whole_seconds(left(until?, now));
    Some(now.later(Duration::from_secs(seconds.into())))
}

/// Whether an address that is gone now may be so because the kernel's time for it is over, which for IPv6 is a little early.
pub(crate) fn is_kernels_end(end: Mark, now: Mark) -> bool {
    const EARLY: Duration = Duration::from_millis(50);
    left(end, now) < EARLY
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(boot_s: u64, raw_s: u64) -> Mark {
        Mark {
            boot_ns: boot_s * 1_000_000_000,
            raw_ns: raw_s * 1_000_000_000,
        }
    }

    #[test]
    fn a_lease_ends_with_the_first_of_its_clocks() {
        assert_eq!(left(mark(10, 10), mark(4, 7)), Duration::from_secs(3));
        assert_eq!(left(mark(10, 10), mark(11, 7)), Duration::ZERO);
    }

    #[test]
    fn the_kernel_is_given_no_more_than_is_left_and_at_least_a_second() {
        let given = |ms| whole_seconds(Duration::from_millis(ms));
        assert_eq!((given(2_900), given(700), given(0)), (2, 1, 1));
    }

    #[test]
    fn what_goes_when_the_kernels_time_is_over_was_not_removed_by_others() {
        let end = kernel_end(Some(mark(13, 13)), mark(10, 10)).unwrap();
        assert_eq!(end, mark(13, 13));
        assert!(!is_kernels_end(end, mark(12, 12)));
        assert!(is_kernels_end(end, mark(13, 13)));
        assert!(is_kernels_end(end, mark(12, 12).later(Duration::from_millis(970))));
        assert_eq!(kernel_end(None, mark(10, 10)), None);
    }

    #[test]
    fn both_clocks_go_on() {
        let before = now();
        std::thread::sleep(Duration::from_millis(2));
        assert!(now().waited_for(before) >= Duration::from_millis(1));
    }
}
