//! How many are in a place, summed over time, told exactly by one word.

use crate::counters::since_start;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// The low bits count who is inside; at most 65,535 are told apart, more than descriptors allow.
const COUNT_BITS: u32 = 16;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// Who comes takes the time off a sum, who goes puts it on; what is inside at the time of reading counts from then. So one addition
/// does for count and sum, any thread may make it, and a reader never sees one without the other. The sum of all stays wraps after nine
/// years of them.
#[derive(Default)]
pub(crate) struct Area {
    word: AtomicU64,
    done: AtomicU64,
    most: AtomicU32,
}

impl Area {
    /// One comes in.
    pub(crate) fn enter(&self, at: Instant) {
        let change = (since_start(at) << COUNT_BITS).wrapping_neg().wrapping_add(1);
        let before = self.word.fetch_add(change, Relaxed);
        let inside = (before & COUNT_MASK) as u32 + 1;
        if inside > self.most.load(Relaxed) {
            self.most.fetch_max(inside, Relaxed);
        }
    }

    /// One goes out that came in.
    pub(crate) fn leave(&self, at: Instant) {
        self.word
            .fetch_add((since_start(at) << COUNT_BITS).wrapping_sub(1), Relaxed);
        self.done.fetch_add(1, Relaxed);
    }

    /// The sum of all stays until `at`, microseconds.
    pub(crate) fn sum_us(&self, at: Instant) -> u64 {
        let word = self.word.load(Relaxed);
        let inside = word & COUNT_MASK;
        ((word >> COUNT_BITS).wrapping_add(inside.wrapping_mul(since_start(at)))) & (u64::MAX >> COUNT_BITS)
    }

    /// How many came and went.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Relaxed)
    }

    /// The most that were inside at once since the last time that this was asked.
    pub(crate) fn take_most(&self) -> u32 {
        let inside = (self.word.load(Relaxed) & COUNT_MASK) as u32;
        self.most.swap(inside, Relaxed).max(inside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn stays_add_up() {
        let start = Instant::now();
        since_start(start);
        let at = |ms: u64| start + Duration::from_millis(1_000 + ms);
        let area = Area::default();
        area.enter(at(0));
        area.enter(at(100));
        assert_eq!(area.sum_us(at(150)), 200_000);
        area.leave(at(300));
        assert_eq!((area.sum_us(at(500)), area.done()), (700_000, 1));
        assert_eq!((area.take_most(), area.take_most()), (2, 1));
        area.leave(at(600));
        assert_eq!((area.sum_us(at(9_000)), area.done()), (800_000, 2));
        assert_eq!((area.take_most(), area.take_most()), (1, 0));
    }

    #[test]
    fn threads_do_not_lose_any() {
        let area = Area::default();
        since_start(Instant::now());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let now = Instant::now();
                        area.enter(now);
                        area.leave(now + Duration::from_micros(3));
                    }
                });
            }
        });
        assert_eq!((area.sum_us(Instant::now()), area.done()), (120_000, 40_000));
    }
}
