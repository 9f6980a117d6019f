//! An hour of latencies of one service, a histogram for each second, small: what other nodes counted can be added.

use crate::ring::SECONDS;
use model::latency::Histogram;
use std::collections::VecDeque;

/// The histograms of an hour, packed: for each bucket that is not empty, how far it lies from the one before and how many it has.
#[derive(Debug, Clone, Default)]
pub struct Latencies {
    seconds: VecDeque<Box<[u8]>>,
    newest: u64,
    bytes: usize,
}

impl Latencies {
    /// Notes the histogram of a second, in seconds since boot; what falls into a second that has one is added.
    pub fn push(&mut self, second: u64, histogram: &Histogram) {
        if self.seconds.is_empty() || second >= self.newest + SECONDS as u64 {
            self.seconds.clear();
            self.bytes = 0;
            self.append(pack(histogram));
            self.newest = second;
            return;
        }
        if second <= self.newest {
            let back = (self.newest - second) as usize;
            if let Some(at) = self.seconds.len().checked_sub(back + 1) {
                let mut sum = unpack(&self.seconds[at]);
                sum.merge(histogram);
                let packed = pack(&sum);
                self.bytes = self.bytes + packed.len() - self.seconds[at].len();
                self.seconds[at] = packed;
            }
            return;
        }
        for _ in self.newest + 1..second {
            self.append(Box::default());
        }
        self.append(pack(histogram));
        self.newest = second;
    }

    fn append(&mut self, packed: Box<[u8]>) {
        if self.seconds.len() == SECONDS
            && let Some(gone) = self.seconds.pop_front()
        {
            self.bytes -= gone.len();
        }
        self.bytes += packed.len();
        self.seconds.push_back(packed);
    }

    /// The histograms from a second on: the first second, and one for each from there.
    pub fn since(&self, second: u64) -> (u64, Vec<Histogram>) {
        let first = (self.newest + 1).saturating_sub(self.seconds.len() as u64);
        let from = second.max(first);
        let skip = (from - first).min(self.seconds.len() as u64) as usize;
        (
            from,
            self.seconds.iter().skip(skip).map(|packed| unpack(packed)).collect(),
        )
    }

    /// How much memory its packed seconds take, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

fn pack(histogram: &Histogram) -> Box<[u8]> {
    let mut packed = Vec::new();
    let mut last = 0;
    for (bucket, times) in histogram.buckets() {
        put(&mut packed, (bucket - last) as u64);
        put(&mut packed, times);
        last = bucket;
    }
    packed.into()
}

fn unpack(packed: &[u8]) -> Histogram {
    let mut histogram = Histogram::default();
    let mut bytes = packed.iter().copied();
    let mut bucket = 0;
    while let (Some(step), Some(times)) = (take(&mut bytes), take(&mut bytes)) {
        bucket += step as usize;
        histogram.add(bucket, times);
    }
    histogram
}

/// Seven bits a byte, the lowest first; the eighth says that more follows.
fn put(packed: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        packed.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    packed.push(number as u8);
}

fn take(bytes: &mut impl Iterator<Item = u8>) -> Option<u64> {
    let mut number = 0;
    for place in (0..64).step_by(7) {
        let byte = bytes.next()?;
        number |= u64::from(byte & 0x7f) << place;
        if byte & 0x80 == 0 {
            break;
        }
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_out_as_it_was() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..500 {
            let mut histogram = Histogram::default();
            for _ in 0..rng.usize(0..40) {
                let times = 1 << rng.u32(0..50);
                histogram.add(rng.usize(0..model::latency::BUCKETS), times);
            }
            assert_eq!(unpack(&pack(&histogram)), histogram);
        }
    }

    #[test]
    fn an_hour_of_a_busy_service_is_small() {
        let mut rng = fastrand::Rng::with_seed(2);
        let mut latencies = Latencies::default();
        for second in 0..4_000 {
            let mut histogram = Histogram::default();
            for _ in 0..1_000 {
                // Between 1 and about 30 ms, most near the lower end.
                histogram.record(1_000 + (1_000.0 * -rng.f64().max(1e-12).ln() * 3.0) as u64);
            }
            latencies.push(second, &histogram);
        }
        let (first, seconds) = latencies.since(0);
        assert_eq!((first, seconds.len()), (400, SECONDS));
        assert!(seconds.iter().all(|histogram| histogram.count() == 1_000));
        let bytes: usize = latencies.seconds.iter().map(|packed| packed.len()).sum();
        assert_eq!(bytes, latencies.bytes());
        assert!(bytes < 1_000_000, "{bytes}");
    }

    #[test]
    fn seconds_without_requests_are_empty_and_two_reports_of_one_second_add_up() {
        let mut one = Histogram::default();
        one.record(10);
        let mut latencies = Latencies::default();
        latencies.push(5, &one);
        latencies.push(8, &one);
        latencies.push(8, &one);
        let (first, seconds) = latencies.since(6);
        let counts: Vec<u64> = seconds.iter().map(Histogram::count).collect();
        assert_eq!((first, counts), (6, vec![0, 0, 2]));
    }
}
