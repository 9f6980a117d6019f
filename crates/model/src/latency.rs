//! Latencies as counts in fixed buckets: what two machines counted can be added, and percentiles taken of the sum.
//!
//! Percentiles of two machines cannot be averaged; their buckets can be added. Below 16 µs a bucket is one microsecond
//! wide; above, each doubling of the time has 16 buckets, so a bucket is at most a sixteenth of its value wide.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Buckets in each doubling of the time.
const PER_DOUBLING: u64 = 16;
/// The first doubling that is divided begins here: 2^4 µs.
const FIRST: u32 = 4;
/// The last doubling begins here: 2^26 µs is 67 s. What takes longer than 134 s counts as that.
const LAST: u32 = 26;

/// How many buckets there are.
pub const BUCKETS: usize = ((LAST - FIRST + 2) as usize) * PER_DOUBLING as usize;

/// The bucket of a time in microseconds: 0 to [`BUCKETS`] − 1.
pub fn bucket(us: u64) -> usize {
    if us < PER_DOUBLING {
        return us as usize;
    }
    let doubling = us.ilog2();
    if doubling > LAST {
        return BUCKETS - 1;
    }
    let within = (us >> (doubling - FIRST)) & (PER_DOUBLING - 1);
    ((u64::from(doubling - FIRST) + 1) * PER_DOUBLING + within) as usize
}

/// The shortest time of a bucket in microseconds. That of the bucket after it is where this one ends.
pub fn lower_us(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < PER_DOUBLING {
        return bucket;
    }
    let doubling = (bucket / PER_DOUBLING - 1) as u32;
    (PER_DOUBLING + bucket % PER_DOUBLING) << doubling
}

/// How many times fell into each bucket; empty buckets are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u16, u64)>", into = "Vec<(u16, u64)>")]
pub struct Histogram(BTreeMap<u16, u64>);

impl From<Vec<(u16, u64)>> for Histogram {
    fn from(pairs: Vec<(u16, u64)>) -> Self {
        let mut histogram = Self::default();
        for (bucket, times) in pairs {
            histogram.add(usize::from(bucket), times);
        }
        histogram
    }
}

impl From<Histogram> for Vec<(u16, u64)> {
    fn from(histogram: Histogram) -> Self {
        histogram.0.into_iter().collect()
    }
}

impl Histogram {
    /// Counts a time in microseconds.
    pub fn record(&mut self, us: u64) {
        self.add(bucket(us), 1);
    }

    /// Adds `times` to a bucket; one that does not exist counts as the last.
    pub fn add(&mut self, bucket: usize, times: u64) {
        if times > 0 {
            let bucket = u16::try_from(bucket.min(BUCKETS - 1)).unwrap_or(u16::MAX);
            *self.0.entry(bucket).or_default() += times;
        }
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, times) in &other.0 {
            self.add(usize::from(*bucket), *times);
        }
    }

    /// What was counted since `earlier`, an earlier state of this one. All of it if that counted more: its counter began anew.
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |bucket: &u16| earlier.0.get(bucket).copied().unwrap_or(0);
        let began_anew = earlier
            .0
            .iter()
            .any(|(bucket, times)| self.0.get(bucket).copied().unwrap_or(0) < *times);
        if began_anew {
            return self.clone();
        }
        let newer = self.0.iter().map(|(bucket, times)| (*bucket, times - before(bucket)));
        Self(newer.filter(|(_, times)| *times > 0).collect())
    }

    /// How many times were counted.
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// How many of them took at least `us` microseconds, to the width of a bucket.
    pub fn at_least(&self, us: u64) -> u64 {
        let first = u16::try_from(bucket(us)).unwrap_or(u16::MAX);
        self.0.range(first..).map(|(_, times)| times).sum()
    }

    /// The time in microseconds that a share (0 to 1) of all took at most: the middle of its bucket, hence right to a
    /// thirty-second part. `None` if nothing was counted.
    pub fn percentile(&self, share: f64) -> Option<u64> {
        let count = self.count();
        let wanted = ((count as f64 * share).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        for (bucket, times) in &self.0 {
            seen += times;
            if seen >= wanted {
                let (low, high) = (lower_us(usize::from(*bucket)), lower_us(usize::from(*bucket) + 1));
                return Some((low + high - 1) / 2);
            }
        }
        None
    }

    /// The buckets that are not empty, the shortest times first.
    pub fn buckets(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.0.iter().map(|(bucket, times)| (usize::from(*bucket), *times))
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_gap_or_overlap() {
        let mut last = 0;
        for us in (0..100_000).chain((100_000..140_000_000).step_by(997)) {
            let bucket = bucket(us);
            assert!((last..=last + 1).contains(&bucket) && bucket < BUCKETS, "{us} {bucket}");
            assert!(lower_us(bucket) <= us, "{us} {bucket}");
            assert!(us < lower_us(bucket + 1) || bucket == BUCKETS - 1, "{us} {bucket}");
            last = bucket;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(lower_us(bucket(1 << 20)), 1 << 20);
    }

    #[test]
    fn percentiles_are_right_to_a_thirty_second_part() {
        let mut histogram = Histogram::default();
        for us in 1..=100_000 {
            histogram.record(us);
        }
        for share in [0.001, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let exact = 100_000.0 * share;
            let found = histogram.percentile(share).expect("there are some") as f64;
            assert!(
                (found - exact).abs() <= exact / 16.0 + 1.0,
                "{share}: {found} for {exact}"
            );
        }
        assert_eq!(Histogram::default().percentile(0.5), None);
        assert_eq!(histogram.at_least(0), 100_000);
        assert_eq!(histogram.at_least(1 << 16), 100_000 - (1 << 16) + 1);
    }

    #[test]
    fn what_two_counted_gives_the_percentile_of_all() {
        let (mut fast, mut slow, mut all) = (Histogram::default(), Histogram::default(), Histogram::default());
        for us in 0..1_000 {
            fast.record(us);
            slow.record(us * 100);
            all.record(us);
            all.record(us * 100);
        }
        let before = fast.clone();
        fast.merge(&slow);
        assert_eq!(fast, all);
        assert_eq!(fast.since(&before), slow);
        // A counter that began anew is told whole.
        assert_eq!(before.since(&fast), before);
    }
}
