//! Sends requests at planned times, whatever becomes of those before.
//!
//! A thread keeps the time; another has a runtime of its own and does nothing but send and receive. What they cost and how late they are
//! is part of what is reported: figures of a generator that was late are figures of the generator.

mod client;
pub(crate) use client::{Trial, trial};
mod pacer;

use client::Client;
use hdrhistogram::Histogram;
use pacer::Pacer;
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Requests a second that may be asked for.
pub const RATE_MAX: f64 = 100_000.0;
/// Of fewer requests a second hardly one is due in the longest step.
pub const RATE_MIN: f64 = 0.01;
/// Requests under way at once: more are not sent, and the step is distrusted. Each is an open file here and in the proxy.
pub const IN_FLIGHT_MAX: usize = 4_000;
/// A request that takes longer has failed.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Where to send what.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where clients of the service come to.
    pub address: SocketAddr,
    /// What a request is.
    pub request: Request,
}

/// What a request is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A GET over kept connections; succeeds with a whole answer below 500.
    Get {
        /// Path and query.
        path: String,
    },
    /// A new connection; with bytes to send, succeeds when bytes come back, else when the other side ends it after us.
    Connect {
        /// What to send.
        send: Vec<u8>,
    },
}

/// In which intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spacing {
    /// As of many clients that know nothing of each other.
    #[default]
    Poisson,
    /// All the same.
    Even,
}

/// A stretch at one rate.
#[derive(Debug, Clone, Copy)]
pub struct Stretch {
    /// Requests a second, from [`RATE_MIN`] to [`RATE_MAX`].
    pub rate: f64,
    /// Until it is settled, nothing counts.
    pub settle: Duration,
    /// How long requests count after that.
    pub measure: Duration,
    /// In which intervals.
    pub spacing: Spacing,
    /// Of the chance in them.
    pub seed: u64,
}

/// Why nothing could be sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such rate.
    #[error("{0} requests a second cannot be sent: from {RATE_MIN} to {RATE_MAX} can")]
    Rate(f64),
    /// The request makes no sense.
    #[error("`{path}` is no path: it begins with a slash, as in /search?q=x")]
    Path {
        /// As given.
        path: String,
    },
    /// The machine gives us no thread.
    #[error("failed to start a thread")]
    Thread(#[source] std::io::Error),
}

/// What came of a stretch.
#[derive(Debug, Clone)]
pub struct Report {
    /// Requests that were due while it was measured.
    pub planned: u64,
    /// Of those, answered well.
    pub succeeded: u64,
    /// Of those, that failed, by how.
    pub failures: BTreeMap<String, u64>,
    /// Of those, not sent, because too many were under way.
    pub dropped: u64,
    /// Of those that were answered well, from when they were due to the whole answer, microseconds.
    pub latency_us: Histogram<u64>,
    /// Answers a second that came while it was measured, whenever they were due.
    pub goodput: f64,
    /// How late requests were sent, 99th percentile.
    pub lag_p99: Duration,
    /// Processor time of this process, as a share of one processor.
    pub cpu: f64,
    /// It was ended before its time.
    pub cut_short: bool,
    /// How long was measured.
    pub measured: Duration,
}

impl Report {
    /// All failures.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum::<u64>() + self.dropped
    }

    /// A quantile of the latency in milliseconds, failures counted as slower than any answer. `None` if it lies among them.
    pub fn latency_ms(&self, quantile: f64) -> Option<f64> {
        let all = self.latency_us.len() + self.failed();
        let rank = (quantile * all as f64).ceil() as u64;
        if all == 0 || rank > self.latency_us.len() {
            return None;
        }
        let among = rank as f64 / self.latency_us.len() as f64;
        Some(self.latency_us.value_at_quantile(among) as f64 / 1_000.0)
    }
}

/// Requests under way. Dropped, nothing more is sent.
#[derive(Debug)]
pub struct Running {
    stretch: Stretch,
    began: Instant,
    seen: Arc<Seen>,
    usage: Arc<Mutex<Option<(Duration, Instant)>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// How it goes, while it goes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Progress {
    /// Since its start.
    pub elapsed: Duration,
    /// Under way now.
    pub in_flight: u64,
    /// Of what was measured so far: answered well, and failed.
    pub succeeded: u64,
    /// Failed or not sent.
    pub failed: u64,
    /// 99 % took at most, milliseconds; `None` without answers.
    pub p99_ms: Option<f64>,
    /// The one that has been under way longest, milliseconds.
    pub oldest_ms: f64,
}

/// Begins to send.
pub fn start(target: &Target, stretch: Stretch) -> Result<Running, Error> {
    if !(RATE_MIN..=RATE_MAX).contains(&stretch.rate) {
        return Err(Error::Rate(stretch.rate));
    }
    let client = Client::new(target)?;
    let began = Instant::now();
    let seen = Arc::new(Seen::new(
        began + stretch.settle,
        began + stretch.settle + stretch.measure,
    ));
    let (due, dues) = unbounded_channel();
    let pacer = Pacer {
        began,
        stretch,
        due,
        seen: Arc::clone(&seen),
    };
    std::thread::Builder::new()
        .name("load pacer".into())
        .spawn(move || pacer.run())
        .map_err(Error::Thread)?;
    let usage = Arc::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Thread)?;
    let (at_work, spent) = (Arc::clone(&seen), Arc::clone(&usage));
    let thread = std::thread::Builder::new()
        .name("load sender".into())
        .spawn(move || runtime.block_on(send(client, dues, at_work, spent)))
        .map_err(Error::Thread)?;
    Ok(Running {
        stretch,
        began,
        seen,
        usage,
        thread: Some(thread),
    })
}

impl Running {
    /// How it goes.
    pub fn progress(&self) -> Progress {
        let inner = self.seen.lock();
        Progress {
            elapsed: self.began.elapsed(),
            in_flight: self.seen.in_flight.load(Relaxed),
            succeeded: inner.latency_us.len(),
            failed: inner.failures.values().sum::<u64>() + inner.dropped,
            p99_ms: (!inner.latency_us.is_empty()).then(|| inner.latency_us.value_at_quantile(0.99) as f64 / 1_000.0),
            oldest_ms: inner
                .under_way
                .first_key_value()
                .map_or(0.0, |((due, _), ())| due.elapsed().as_secs_f64() * 1_000.0),
        }
    }

    /// Whether all that was planned was sent.
    pub fn is_over(&self) -> bool {
        self.began.elapsed() >= self.stretch.settle + self.stretch.measure
    }

    /// Sends nothing more, waits for what is under way, and tells. What is not answered within [`TIMEOUT`] has failed.
    pub fn finish(mut self) -> Report {
        let cut_short = !self.is_over();
        self.seen.stop.store(true, Relaxed);
        let ended = Instant::now();
        if let Some(thread) = self.thread.take() {
            // It ends by itself: every request has its time.
            let _ = thread.join();
        }
        let from = self.began + self.stretch.settle;
        let measured = ended.min(from + self.stretch.measure).saturating_duration_since(from);
        let (cpu, over) = match *self.usage.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((spent, until)) => (spent, until.saturating_duration_since(self.began)),
            None => (Duration::ZERO, Duration::ZERO),
        };
        let inner = self.seen.lock();
        let in_time = inner.goodput as f64;
        Report {
            planned: inner.planned,
            succeeded: inner.latency_us.len(),
            failures: inner.failures.clone(),
            dropped: inner.dropped,
            latency_us: inner.latency_us.clone(),
            goodput: if measured.is_zero() {
                0.0
            } else {
                in_time / measured.as_secs_f64()
            },
            lag_p99: Duration::from_micros(inner.lag_us.value_at_quantile(0.99)),
            cpu: if over.is_zero() {
                0.0
            } else {
                cpu.as_secs_f64() / over.as_secs_f64()
            },
            cut_short,
            measured,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.seen.stop.store(true, Relaxed);
    }
}

async fn send(
    client: Client,
    mut dues: UnboundedReceiver<Instant>,
    seen: Arc<Seen>,
    usage: Arc<Mutex<Option<(Duration, Instant)>>>,
) {
    let before = processor_time();
    let client = Arc::new(client);
    let mut tasks = tokio::task::JoinSet::new();
    let mut number = 0;
    while let Some(due) = dues.recv().await {
        seen.late(due, due.elapsed());
        if tasks.len() >= IN_FLIGHT_MAX {
            while tasks.try_join_next().is_some() {}
            if tasks.len() >= IN_FLIGHT_MAX {
                seen.drop_one(due);
                continue;
            }
        }
        number += 1;
        seen.sent(due, number);
        let (client, seen) = (Arc::clone(&client), Arc::clone(&seen));
        tasks.spawn(async move {
            let outcome = match tokio::time::timeout_at((due + TIMEOUT).into(), client.once()).await {
                Ok(outcome) => outcome,
                Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
            };
            seen.ended(due, number, outcome);
        });
    }
    let spent = processor_time().saturating_sub(before);
    *usage.lock().unwrap_or_else(PoisonError::into_inner) = Some((spent, Instant::now()));
    while tasks.join_next().await.is_some() {}
}

/// Of this process.
fn processor_time() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(spent.tv_sec.unsigned_abs(), u32::try_from(spent.tv_nsec).unwrap_or(0))
}

/// Latencies up to a minute, with three digits.
const LATENCY_US_MAX: u64 = 60_000_000;

/// What both threads note.
#[derive(Debug)]
struct Seen {
    /// Requests that are due in this time count.
    from: Instant,
    until: Instant,
    stop: AtomicBool,
    in_flight: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    planned: u64,
    latency_us: Histogram<u64>,
    lag_us: Histogram<u64>,
    failures: BTreeMap<String, u64>,
    dropped: u64,
    goodput: u64,
    under_way: BTreeMap<(Instant, u64), ()>,
}

impl Seen {
    fn new(from: Instant, until: Instant) -> Self {
        let inner = Inner {
            planned: 0,
            latency_us: histogram(),
            lag_us: histogram(),
            failures: BTreeMap::new(),
            dropped: 0,
            goodput: 0,
            under_way: BTreeMap::new(),
        };
        Self {
            from,
            until,
            stop: AtomicBool::new(false),
            in_flight: AtomicU64::new(0),
            inner: Mutex::new(inner),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self, due: Instant) -> bool {
        (self.from..self.until).contains(&due)
    }

    fn late(&self, due: Instant, by: Duration) {
        if self.counts(due) {
            let mut inner = self.lock();
            inner.planned += 1;
            inner.lag_us.saturating_record(micros(by));
        }
    }

    fn drop_one(&self, due: Instant) {
        if self.counts(due) {
            self.lock().dropped += 1;
        }
    }

    fn sent(&self, due: Instant, number: u64) {
        self.in_flight.fetch_add(1, Relaxed);
        self.lock().under_way.insert((due, number), ());
    }

    fn ended(&self, due: Instant, number: u64, outcome: Result<(), String>) {
        self.in_flight.fetch_sub(1, Relaxed);
        let mut inner = self.lock();
        inner.under_way.remove(&(due, number));
        if outcome.is_ok() && self.counts(Instant::now()) {
            inner.goodput += 1;
        }
        if !self.counts(due) {
            return;
        }
        match outcome {
            Ok(()) => inner.latency_us.saturating_record(micros(due.elapsed())),
            Err(how) => *inner.failures.entry(how).or_default() += 1,
        }
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn histogram() -> Histogram<u64> {
    #[expect(clippy::expect_used, reason = "the bounds are constants that the constructor takes")]
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("valid bounds")
}

#[cfg(test)]
mod tests;
