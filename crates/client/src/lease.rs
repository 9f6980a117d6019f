//! How long a holder may go on. Pure.

use model::Mark;
use std::time::Duration;

/// The time of a holder: it runs from when the request that was acknowledged last was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    ttl: Duration,
    /// When the request that was acknowledged last was sent.
    sent: Mark,
    /// The time was up once: nothing revives it, for whoever holds it has stopped.
    over: bool,
}

impl Lease {
    /// One that was acquired by a request sent at `sent`, which was acknowledged.
    pub fn new(ttl: Duration, sent: Mark) -> Self {
        Self { ttl, sent, over: false }
    }

    /// A renewal that was sent at `sent` was acknowledged, and it is `now`. Too late is too late.
    pub fn acknowledge(&mut self, sent: Mark, now: Mark) {
        // Of two answers that overtook each other the later sending counts.
        let later = self.sent.held_for(sent) < sent.held_for(self.sent);
        if !self.remaining(now).is_zero() && later {
            self.sent = sent;
        }
        self.settle(now);
    }

    /// How long the holder may go on at `now`, at least; zero when it must have stopped.
    pub fn remaining(&self, now: Mark) -> Duration {
        if self.over {
            return Duration::ZERO;
        }
        self.ttl.saturating_sub(now.held_for(self.sent))
    }

    /// Ends it for good if its time is up at `now`. Returns whether it is over.
    pub fn settle(&mut self, now: Mark) -> bool {
        self.over |= self.remaining(now).is_zero();
        self.over
    }

    /// Ends it: the lock is somebody else's, or was given back.
    pub fn end(&mut self) {
        self.over = true;
    }

    /// Time to live.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot_ms: u64, raw_ms: u64) -> Mark {
        Mark {
            boot_ns: boot_ms * 1_000_000,
            raw_ns: raw_ms * 1_000_000,
        }
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn time_runs_from_the_sending_not_from_the_answer() {
        let mut lease = Lease::new(ms(1_000), at(0, 0));
        assert_eq!(lease.remaining(at(300, 300)), ms(700));
        lease.acknowledge(at(400, 400), at(900, 900));
        assert_eq!(lease.remaining(at(900, 900)), ms(500));
    }

    #[test]
    fn an_answer_that_comes_too_late_revives_nothing() {
        let mut lease = Lease::new(ms(1_000), at(0, 0));
        lease.acknowledge(at(900, 900), at(1_000, 1_000));
        assert_eq!(lease.remaining(at(1_000, 1_000)), Duration::ZERO);
        lease.acknowledge(at(1_100, 1_100), at(1_101, 1_101));
        assert!(lease.settle(at(1_101, 1_101)));
    }

    #[test]
    fn answers_that_overtake_each_other_do_not_shorten_it() {
        let mut lease = Lease::new(ms(1_000), at(0, 0));
        lease.acknowledge(at(500, 500), at(600, 600));
        lease.acknowledge(at(300, 300), at(601, 601));
        assert_eq!(lease.remaining(at(601, 601)), ms(899));
    }

    #[test]
    fn the_faster_clock_counts() {
        let lease = Lease::new(ms(1_000), at(0, 0));
        assert_eq!(lease.remaining(at(900, 100)), ms(100));
        assert_eq!(lease.remaining(at(100, 900)), ms(100));
        // Suspended for an hour: CLOCK_MONOTONIC_RAW stood still.
        assert_eq!(lease.remaining(at(3_600_000, 10)), Duration::ZERO);
    }
}
