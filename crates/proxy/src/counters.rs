//! What is counted, per service and worker. Each counter has one writer, its worker; control adds them up.

use crate::area::Area;
use crate::callers::Callers;
use crate::clock::now_us;
use api::proxy::{Measured, Totals};
use model::latency::{self, Histogram};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

/// Counters of one service on one worker; the fields are those of [`Totals`] and [`Measured`].
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) connections: Counter,
    pub(crate) open: Counter,
    pub(crate) requests: Counter,
    pub(crate) retried: Counter,
    pub(crate) held: Counter,
    pub(crate) holding: Counter,
    pub(crate) failed: Counter,
    pub(crate) errors: Counter,
    pub(crate) latency_us: Counter,
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) no_active: Counter,
    pub(crate) crowded: Counter,
    pub(crate) left: Counter,
    pub(crate) latency: Times,
    pub(crate) connect: Times,
    /// Requests by who makes them, of all workers together: a bound on them shows only there.
    pub(crate) callers: Arc<Callers>,
    status: [Counter; 5],
    /// How many are under way, since when it is so many, and the sum over time until then.
    inflight: Counter,
    inflight_since_us: Counter,
    inflight_us: Counter,
}

/// Written by one thread, read by another: no locked instructions.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub(crate) fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }
}

/// Times by bucket: [`latency`].
pub(crate) struct Times(Box<[Counter; latency::BUCKETS]>);

impl Default for Times {
    fn default() -> Self {
        Self(Box::new(std::array::from_fn(|_| Counter::default())))
    }
}

impl Times {
    pub(crate) fn record(&self, us: u64) {
        self.0[latency::bucket(us)].add(1);
    }

    fn add_to(&self, histogram: &mut Histogram) {
        for (bucket, times) in self.0.iter().enumerate() {
            histogram.add(bucket, times.get());
        }
    }
}

impl Counters {
    /// One for each of so many workers.
    pub(crate) fn of_workers(count: usize) -> Vec<Arc<Self>> {
        let callers: Arc<Callers> = Arc::default();
        let counters = || Self {
            callers: Arc::clone(&callers),
            ..Self::default()
        };
        std::iter::repeat_with(|| Arc::new(counters())).take(count).collect()
    }

    /// An answer of this status came.
    pub(crate) fn answered(&self, status: u16) {
        if let Some(counter) = self.status.get(usize::from(status / 100).wrapping_sub(1)) {
            counter.add(1);
        }
    }

    fn move_inflight(&self, now: Instant, change: i64) {
        let now = since_start(now);
        let (count, since) = (self.inflight.get(), self.inflight_since_us.get());
        // One that arrived before the last change and was noted after it comes out a little late.
        self.inflight_us.add(count * now.saturating_sub(since));
        self.inflight_since_us.set(now.max(since));
        self.inflight.set(count.wrapping_add_signed(change));
    }

    /// Adds these to a sum.
    pub(crate) fn add_to(&self, totals: &mut Totals) {
        totals.connections += self.connections.get();
        totals.open += self.open.get();
        totals.requests += self.requests.get();
        totals.retried += self.retried.get();
        totals.held += self.held.get();
        totals.holding += self.holding.get();
        totals.failed += self.failed.get();
        totals.errors += self.errors.get();
        totals.latency_us += self.latency_us.get();
    }

    fn add_to_measured(&self, measured: &mut Measured, now: u64) {
        measured.bytes_in += self.bytes_in.get();
        measured.bytes_out += self.bytes_out.get();
        measured.no_active += self.no_active.get();
        measured.crowded += self.crowded.get();
        measured.left += self.left.get();
        for (sum, counter) in measured.status.iter_mut().zip(&self.status) {
            *sum += counter.get();
        }
        self.latency.add_to(&mut measured.latency);
        self.connect.add_to(&mut measured.connect);
        // The worker may change these three while we read them. What is wrong then is within a few microseconds of one request.
        let (count, since) = (self.inflight.get(), self.inflight_since_us.get());
        measured.inflight += count;
        measured.inflight_us += self.inflight_us.get() + count * now.saturating_sub(since);
    }
}

/// What all workers counted of a service.
pub(crate) fn measured(counters: &[Arc<Counters>], since_us: u64) -> Measured {
    let mut measured = Measured {
        at_us: now_us(),
        since_us,
        pid: std::process::id(),
        ..Measured::default()
    };
    let now = Instant::now();
    for counters in counters {
        counters.add_to_measured(&mut measured, since_start(now));
    }
    if let Some(counters) = counters.first() {
        measured.calls = counters.callers.calls(now);
    }
    measured
}

/// A request or connection under way, for as long as the value lives.
pub(crate) struct Stay {
    counters: Arc<Counters>,
    caller: Option<Arc<Area>>,
}

impl Stay {
    /// `caller` is where the requests of its client are summed up, if that was asked who it is.
    pub(crate) fn begin(counters: &Arc<Counters>, caller: Option<&Arc<Area>>, arrived: Instant) -> Self {
        counters.move_inflight(arrived, 1);
        if let Some(caller) = caller {
            caller.enter(arrived);
        }
        Self {
            counters: Arc::clone(counters),
            caller: caller.cloned(),
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let now = Instant::now();
        self.counters.move_inflight(now, -1);
        if let Some(caller) = &self.caller {
            caller.leave(now);
        }
    }
}

/// Microseconds from the first use to a moment.
pub(crate) fn since_start(at: Instant) -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(at.saturating_duration_since(*START).as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_mean_under_way_is_the_sum_of_all_stays() {
        let counters = Arc::new(Counters::default());
        let start = Instant::now();
        since_start(start);
        let at = |ms: u64| start + Duration::from_millis(1_000 + ms);
        // Two stays, of 300 and of 500 ms; the second still under way for 200 ms when it is read.
        counters.move_inflight(at(0), 1);
        counters.move_inflight(at(100), 1);
        counters.move_inflight(at(300), -1);
        let mut measured = Measured::default();
        counters.add_to_measured(&mut measured, since_start(at(300)) + 200_000);
        assert_eq!(measured.inflight, 1);
        assert_eq!(measured.inflight_us, 300_000 + 400_000);
        counters.move_inflight(at(600), -1);
        let mut measured = Measured::default();
        counters.add_to_measured(&mut measured, since_start(at(5_000)));
        assert_eq!((measured.inflight, measured.inflight_us), (0, 800_000));
    }

    #[test]
    fn answers_are_counted_by_the_first_digit() {
        let counters = Arc::new(Counters::default());
        for status in [101, 200, 204, 301, 404, 503, 599, 0, 99, 600, 65_535] {
            counters.answered(status);
        }
        counters.latency.record(1_000);
        let measured = measured(&[Arc::clone(&counters), counters], 0);
        assert_eq!(measured.status, [2, 4, 2, 2, 4]);
        assert_eq!(measured.latency.count(), 2);
    }
}
