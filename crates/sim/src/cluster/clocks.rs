//! A machine's clocks: BOOTTIME and MONOTONIC_RAW run at rates of their own, and wall time jumps.

use model::{Mark, Timestamp};
use std::time::Duration;

/// The clocks of one machine since its last boot.
#[derive(Debug, Clone)]
pub(crate) struct Clocks {
    from: Timestamp,
    at: Mark,
    boot_rate: f64,
    raw_rate: f64,
    /// What wall time says beyond BOOTTIME, in nanoseconds.
    pub(crate) wall_ns: i64,
}

impl Clocks {
    /// Clocks of a machine that boots now. `raw_rate` is how fast its oscillator is.
    pub(crate) fn boot(now: Timestamp, raw_rate: f64, wall_ns: i64) -> Self {
        Self {
            from: now,
            // A machine is a while older than its agent.
            at: Mark {
                boot_ns: 20_000_000_000,
                raw_ns: 20_000_000_000,
            },
            boot_rate: raw_rate,
            raw_rate,
            wall_ns,
        }
    }

    /// From now on they run at other rates.
    pub(crate) fn change(&mut self, now: Timestamp, raw_rate: f64, slew: f64) {
        self.at = self.mark(now);
        self.from = now;
        self.raw_rate = raw_rate;
        self.boot_rate = raw_rate * slew;
    }

    pub(crate) fn mark(&self, now: Timestamp) -> Mark {
        let elapsed_ns = (now.0.saturating_sub(self.from.0) * 1_000) as f64;
        Mark {
            boot_ns: self.at.boot_ns + (elapsed_ns * self.boot_rate) as u64,
            raw_ns: self.at.raw_ns + (elapsed_ns * self.raw_rate) as u64,
        }
    }

    /// The time by which decisions are taken.
    pub(crate) fn decisions(&self, now: Timestamp) -> Timestamp {
        Timestamp(self.mark(now).boot_ns / 1_000)
    }

    /// How long it really takes until one of the clocks reads `at`, as a timer has it: a little late.
    pub(crate) fn until(&self, now: Timestamp, at: Mark) -> Duration {
        let mark = self.mark(now);
        let left = |at: u64, now: u64, rate: f64| (at.saturating_sub(now)) as f64 / rate;
        let boot = left(at.boot_ns, mark.boot_ns, self.boot_rate);
        let raw = left(at.raw_ns, mark.raw_ns, self.raw_rate);
        Duration::from_micros((boot.min(raw) / 1_000.0) as u64 + 1)
    }

    /// The same for a moment of the decisions' time.
    pub(crate) fn until_decisions(&self, now: Timestamp, at: Timestamp) -> Duration {
        // Never may be asked for, too.
        let left_ns = at.0.saturating_mul(1_000).saturating_sub(self.mark(now).boot_ns);
        Duration::from_micros((left_ns as f64 / self.boot_rate / 1_000.0) as u64 + 1)
    }

    /// How long a span of this machine's really takes.
    pub(crate) fn really(&self, span: Duration) -> Duration {
        span.div_f64(self.boot_rate)
    }
}
