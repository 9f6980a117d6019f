//! Waits until the time of a probe is up, and notices when it was us who were late.
//!
//! ```text
//! begin ───────────── half ───────────── end
//!                       └─ woken more than max(50 ms, timeout/4) late ─┐
//!                                          └─ more than max(50 ms, timeout/2) ─┴─▶ Late
//! ```
//! A stall that covers neither moment is shorter than half the timeout, so the instance had our attention for the other half.

use std::time::Duration;

/// Timers of a busy machine are late by tens of milliseconds; that much is not worth a doubt.
const USUAL_LATENESS: Duration = Duration::from_millis(50);

/// The time of one probe, running from its making.
#[derive(Debug)]
pub(super) struct Patience {
    timeout: Duration,
    begun: Duration,
    clock: fn() -> Duration,
}

/// How the time came to be up.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// We were there when it was.
    InTime,
    /// We were not.
    Late { by: Duration },
}

impl Patience {
    pub(super) fn new(timeout: Duration) -> Self {
        Self::with_clock(timeout, since_boot)
    }

    fn with_clock(timeout: Duration, clock: fn() -> Duration) -> Self {
        Self {
            timeout,
            begun: clock(),
            clock,
        }
    }

    /// Returns when the time is up.
    pub(super) async fn over(self) -> Over {
        let half = self.timeout / 2;
        let late_at_half = self.sleep_until(half).await;
        let late_at_end = self.sleep_until(self.timeout).await;
        if late_at_end > USUAL_LATENESS.max(half) {
            Over::Late { by: late_at_end }
        } else if late_at_half > USUAL_LATENESS.max(half / 2) {
            Over::Late { by: late_at_half }
        } else {
            Over::InTime
        }
    }

    /// Sleeps until `moment` after the beginning and returns how much later it is then.
    async fn sleep_until(&self, moment: Duration) -> Duration {
        let passed = (self.clock)().saturating_sub(self.begun);
        tokio::time::sleep(moment.saturating_sub(passed)).await;
        (self.clock)().saturating_sub(self.begun).saturating_sub(moment)
    }
}

/// Counts on while the machine is suspended, unlike the clock that timers use.
pub(super) fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        /// What each look at the clock shows, in milliseconds.
        static SHOWS: Cell<&'static [u64]> = const { Cell::new(&[]) };
    }

    /// Looks: at the beginning, before and after the first sleep, before and after the second.
    async fn over(timeout_ms: u64, shows: &'static [u64; 5]) -> Over {
        SHOWS.set(shows);
        let patience = Patience::with_clock(Duration::from_millis(timeout_ms), || {
            let (now, later) = SHOWS.get().split_first().expect("the clock is read five times");
            SHOWS.set(later);
            Duration::from_millis(*now)
        });
        patience.over().await
    }

    fn late(ms: u64) -> Over {
        Over::Late {
            by: Duration::from_millis(ms),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn lateness_within_bounds_is_no_excuse() {
        assert_eq!(over(200, &[0, 0, 101, 101, 201]).await, Over::InTime);
        assert_eq!(over(200, &[0, 0, 150, 150, 300]).await, Over::InTime);
        assert_eq!(over(20, &[0, 0, 10, 10, 70]).await, Over::InTime);
        assert_eq!(over(4000, &[0, 0, 3000, 3000, 6000]).await, Over::InTime);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_over_the_end_or_the_middle_makes_it_late() {
        assert_eq!(over(200, &[0, 0, 100, 100, 301]).await, late(101));
        assert_eq!(over(20, &[0, 0, 10, 10, 71]).await, late(51));
        assert_eq!(over(200, &[0, 0, 199, 199, 200]).await, late(99));
        assert_eq!(over(200, &[1000, 1000, 9000, 9000, 9000]).await, late(7800));
    }
}
