//! One value a second for an hour.

use std::collections::VecDeque;

/// How many seconds are kept.
pub const SECONDS: usize = 3_600;

/// The values of the last hour; a second without one is a gap.
#[derive(Debug, Clone, Default)]
pub struct Ring {
    values: VecDeque<f32>,
    /// The second of the last value.
    newest: u64,
}

impl Ring {
    /// Notes the value of a second, in seconds since boot. One of the past is noted if it is within the hour.
    pub fn push(&mut self, second: u64, value: f64) {
        // Precise to seven digits: enough for a picture, at half the memory.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a value beyond f32 becomes infinite, which no reading is"
        )]
        let value = value as f32;
        if self.values.is_empty() || second >= self.newest + SECONDS as u64 {
            self.values.clear();
            self.values.push_back(value);
            self.newest = second;
            return;
        }
        if second <= self.newest {
            let back = (self.newest - second) as usize;
            if let Some(at) = self.values.len().checked_sub(back + 1) {
                self.values[at] = value;
            }
            return;
        }
        for _ in self.newest + 1..second {
            self.append(f32::NAN);
        }
        self.append(value);
        self.newest = second;
    }

    fn append(&mut self, value: f32) {
        if self.values.len() == SECONDS {
            self.values.pop_front();
        }
        self.values.push_back(value);
    }

    /// The newest value and its second.
    pub fn newest(&self) -> Option<(u64, f64)> {
        self.values.back().map(|value| (self.newest, f64::from(*value)))
    }

    /// The values from a second on: that of the first, and one for each second after it, none where there is a gap.
    pub fn since(&self, second: u64) -> (u64, Vec<Option<f64>>) {
        let first = (self.newest + 1).saturating_sub(self.values.len() as u64);
        let from = second.max(first);
        let skip = (from - first).min(self.values.len() as u64) as usize;
        let values = self.values.iter().skip(skip);
        let shown = |value: &f32| (!value.is_nan()).then(|| f64::from(*value));
        (from, values.map(shown).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_kept_with_its_gaps() {
        let mut ring = Ring::default();
        assert_eq!(ring.newest(), None);
        ring.push(100, 1.0);
        ring.push(103, 4.0);
        assert_eq!(ring.since(0), (100, vec![Some(1.0), None, None, Some(4.0)]));
        assert_eq!(ring.since(102), (102, vec![None, Some(4.0)]));
        assert_eq!(ring.since(200), (200, vec![]));
        ring.push(101, 2.0);
        ring.push(99, 0.5);
        assert_eq!(ring.since(0).1, [Some(1.0), Some(2.0), None, Some(4.0)]);
        for second in 104..10_000 {
            ring.push(second, second as f64);
        }
        let (first, values) = ring.since(0);
        assert_eq!((first, values.len(), values[0]), (6_400, SECONDS, Some(6_400.0)));
        assert_eq!(ring.newest(), Some((9_999, 9_999.0)));
    }

    #[test]
    fn after_more_than_an_hour_of_silence_it_begins_anew() {
        let mut ring = Ring::default();
        ring.push(1, 1.0);
        ring.push(3_601, 2.0);
        assert_eq!(ring.since(0), (3_601, vec![Some(2.0)]));
    }
}
