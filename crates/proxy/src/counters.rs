//! What is counted, per service and worker. Each counter has one writer, its worker; control adds them up.

use api::proxy::Totals;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters of one service on one worker; the fields are those of [`Totals`].
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
}

impl Counters {
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
}
