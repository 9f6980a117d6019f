//! How many requests there were and how many were bad, over windows from five minutes to thirty days, in little memory.
//!
//! Seconds for an hour, ten seconds for six hours, minutes for three days, hours for thirty days: each window is summed over the finest that
//! covers it, so a window is never off by more than one of its steps.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::ops::AddAssign;

/// Requests of some time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All.
    pub all: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those that took longer than the objective allows; those that failed are not among them.
    pub slow: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.all += other.all;
        self.failed += other.failed;
        self.slow += other.slow;
    }
}

/// Steps in seconds, and how many of each are kept.
const SCALES: [(u64, usize); 4] = [(1, 3_600), (10, 2_160), (60, 4_320), (3_600, 720)];

/// Requests of one service.
#[derive(Debug, Clone)]
pub struct Ledger {
    scales: [Scale; SCALES.len()],
}

#[derive(Debug, Clone)]
struct Scale {
    step: u64,
    keep: usize,
    /// The step of the last count.
    newest: u64,
    counts: VecDeque<Small>,
}

/// [`Counts`] of one step, in half the memory: four thousand million requests an hour are enough.
#[derive(Debug, Clone, Copy, Default)]
struct Small([u32; 3]);

impl Small {
    fn add(&mut self, counts: Counts) {
        for (small, count) in self.0.iter_mut().zip([counts.all, counts.failed, counts.slow]) {
            *small = small.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        }
    }

    fn counts(self) -> Counts {
        let [all, failed, slow] = self.0.map(u64::from);
        Counts { all, failed, slow }
    }
}

impl Default for Ledger {
    fn default() -> Self {
        let scale = |(step, keep)| Scale {
            step,
            keep,
            newest: 0,
            counts: VecDeque::new(),
        };
        Self {
            scales: SCALES.map(scale),
        }
    }
}

impl Ledger {
    /// Notes the requests of a second. Any clock that only rises will do, if it is always the same.
    pub fn note(&mut self, second: u64, counts: Counts) {
        for scale in &mut self.scales {
            scale.note(second, counts);
        }
    }

    /// Notes the requests of a minute of the past: what another agent or an earlier one counted, when only that is left of it.
    pub fn note_minute(&mut self, second: u64, counts: Counts) {
        for scale in self.scales.iter_mut().filter(|scale| scale.step >= 60) {
            scale.note(second, counts);
        }
    }

    /// The seconds after a given one that had requests, at most an hour of them.
    pub fn seconds_after(&self, second: u64) -> Vec<(u64, Counts)> {
        self.scales[0].steps(|step| step > second)
    }

    /// The minutes from `from` on and before `before`, in seconds, that had requests: of the last three days.
    pub fn minutes(&self, from: u64, before: u64) -> Vec<(u64, Counts)> {
        self.scales[2].steps(|second| (from..before).contains(&second))
    }

    /// The requests of the last `window` seconds before `second`, at most thirty days.
    pub fn sum(&self, second: u64, window: u64) -> Counts {
        let covers = |scale: &&Scale| scale.step * scale.keep as u64 >= window;
        let scale = self
            .scales
            .iter()
            .find(covers)
            .unwrap_or(&self.scales[SCALES.len() - 1]);
        scale.sum(second, window)
    }
}

impl Scale {
    fn note(&mut self, second: u64, counts: Counts) {
        let step = second / self.step;
        if self.counts.is_empty() || step >= self.newest + self.keep as u64 {
            self.counts.clear();
            self.counts.push_back(Small::default());
            self.counts[0].add(counts);
            self.newest = step;
            return;
        }
        while self.newest < step {
            if self.counts.len() == self.keep {
                self.counts.pop_front();
            }
            self.counts.push_back(Small::default());
            self.newest += 1;
        }
        let back = (self.newest - step) as usize;
        while self.counts.len() <= back && self.counts.len() < self.keep {
            self.counts.push_front(Small::default());
        }
        if let Some(at) = self.counts.len().checked_sub(back + 1) {
            self.counts[at].add(counts);
        }
    }

    fn steps(&self, wanted: impl Fn(u64) -> bool) -> Vec<(u64, Counts)> {
        let first = (self.newest + 1).saturating_sub(self.counts.len() as u64);
        let all = self.counts.iter().enumerate();
        all.map(|(at, small)| ((first + at as u64) * self.step, small.counts()))
            .filter(|(second, counts)| counts.all > 0 && wanted(*second))
            .collect()
    }

    fn sum(&self, second: u64, window: u64) -> Counts {
        let (last, steps) = (second / self.step, window / self.step);
        let mut sum = Counts::default();
        for (back, counts) in self.counts.iter().rev().enumerate() {
            let step = self.newest - back as u64;
            if step + steps <= last {
                break;
            }
            if step <= last {
                sum += counts.counts();
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ten() -> Counts {
        Counts {
            all: 10,
            failed: 1,
            slow: 2,
        }
    }

    #[test]
    fn windows_have_what_was_noted_in_them() {
        let mut ledger = Ledger::default();
        let start = 1_000_000;
        for second in start..start + 8_000 {
            ledger.note(second, ten());
        }
        let now = start + 7_999;
        assert_eq!(ledger.sum(now, 300).all, 3_000);
        assert_eq!(
            ledger.sum(now, 3_600),
            Counts {
                all: 36_000,
                failed: 3_600,
                slow: 7_200
            }
        );
        // All there is.
        assert_eq!(ledger.sum(now, 21_600).all, 80_000);
        assert_eq!(ledger.sum(now, 259_200).all, 80_000);
        // What is over is not in a window any more.
        assert_eq!(ledger.sum(now + 100, 300).all, 2_000);
        assert_eq!(ledger.sum(now + 4_000, 3_600).all, 0);
    }

    #[test]
    fn the_past_can_be_filled_in() {
        let mut ledger = Ledger::default();
        let now = 10_000_000;
        ledger.note(now, ten());
        ledger.note_minute(now - 86_400, ten());
        ledger.note_minute(now - 40 * 86_400, ten());
        assert_eq!(ledger.sum(now, 3_600).all, 10);
        assert_eq!(ledger.sum(now, 259_200).all, 20);
        assert_eq!(ledger.sum(now, 2_592_000).all, 20);
    }
}
