//! An open-loop load client: requests have planned times and keep to them, whatever became of those before.
//!
//! Latency counts from the *planned* time. A client that waits for an answer before it sends the next request measures a
//! pause of a second as one slow request; this one measures it as the hundreds of requests that would have been sent. How
//! late the client itself was is in the report: figures of a client that was late are figures of the client.
//!
//! ```no_run
//! # async fn example(address: std::net::SocketAddr) -> Result<(), bench::load::LoadError> {
//! use bench::load::{self, Plan};
//! let load = load::start(Plan::get(address, "/", 200.0))?;
//! // … break something …
//! let report = load.finish().await;
//! assert_eq!(report.failed(), 0, "{report}");
//! # Ok(()) }
//! ```

mod request;

use hdrhistogram::Histogram;
use request::Requester;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};

/// What to send, how often, and how.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where to.
    pub target: SocketAddr,
    /// Requests a second, more than 0 and at most 100,000.
    pub rate: f64,
    /// The end, if nobody calls `finish` before.
    pub duration: Duration,
    /// After this long, from its planned time, a request has failed.
    pub timeout: Duration,
    /// What a request is.
    pub request: Request,
    /// Over which connections.
    pub connections: Connections,
}

/// What a request is, and by what it has succeeded.
#[derive(Debug, Clone)]
pub enum Request {
    /// HTTP/1.1; succeeds with a whole answer of status 200 to 299.
    Http {
        /// GET, POST and so on.
        method: http::Method,
        /// Path and query.
        path: String,
        /// Sent with it.
        body: bytes::Bytes,
    },
    /// So many bytes are sent, and the same bytes must come back.
    Echo {
        /// 1 to 1,000,000.
        bytes: usize,
    },
}

/// Over which connections requests go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// A new one for each request.
    PerRequest,
    /// So many, kept; one that breaks fails its request and is made anew. A request waits while all are busy.
    Kept(usize),
}

impl Plan {
    /// GETs on new connections, for ten minutes at most.
    pub fn get(target: SocketAddr, path: &str, rate: f64) -> Self {
        Self {
            target,
            rate,
            duration: Duration::from_secs(600),
            timeout: Duration::from_secs(10),
            request: Request::Http {
                method: http::Method::GET,
                path: path.to_owned(),
                body: bytes::Bytes::new(),
            },
            connections: Connections::PerRequest,
        }
    }

    /// The same with POST.
    pub fn post(target: SocketAddr, path: &str, rate: f64) -> Self {
        let mut plan = Self::get(target, path, rate);
        plan.request = Request::Http {
            method: http::Method::POST,
            path: path.to_owned(),
            body: bytes::Bytes::new(),
        };
        plan
    }

    /// The same plan over kept connections.
    #[must_use]
    pub fn kept(mut self, connections: usize) -> Self {
        self.connections = Connections::Kept(connections);
        self
    }
}

/// A plan that cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not a rate.
    #[error("{rate} requests a second cannot be sent; more than 0 and at most {RATE_MAX} can")]
    Rate {
        /// As given.
        rate: f64,
    },
    /// No connections, or more than there are descriptors for.
    #[error("{connections} kept connections cannot be used; 1 to {IN_FLIGHT_MAX} can")]
    Connections {
        /// As given.
        connections: usize,
    },
    /// Nothing to echo, or too much.
    #[error("{bytes} bytes cannot be echoed; 1 to {ECHO_BYTES_MAX} can")]
    Echo {
        /// As given.
        bytes: usize,
    },
    /// No thread to keep the time.
    #[error("failed to start the thread that keeps the time")]
    Pacer {
        /// What the system said.
        source: std::io::Error,
    },
}

const RATE_MAX: f64 = 100_000.0;
/// Requests under way at once, bounded by the descriptors of a process. One more counts as failed, not as unsent.
const IN_FLIGHT_MAX: usize = 8_000;
const ECHO_BYTES_MAX: usize = 1_000_000;

/// How a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureKind {
    /// No connection.
    Connect,
    /// The connection broke before the answer was whole.
    Broken,
    /// No whole answer in time.
    Timeout,
    /// An answer with this status.
    Status(u16),
    /// Other bytes came back.
    Wrong,
    /// Too many requests were under way to send this one.
    Overrun,
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FailureKind::Connect => f.write_str("no connection"),
            FailureKind::Broken => f.write_str("connection broke"),
            FailureKind::Timeout => f.write_str("timeout"),
            FailureKind::Status(status) => write!(f, "status {status}"),
            FailureKind::Wrong => f.write_str("wrong answer"),
            FailureKind::Overrun => f.write_str("not sent: too many under way"),
        }
    }
}

/// A request that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its planned time, from the start of the load.
    pub planned: Duration,
    /// From its planned time to its failure.
    pub after: Duration,
    /// How.
    pub kind: FailureKind,
    /// In the words of whoever saw it.
    pub text: String,
}

/// What came of a load.
#[derive(Debug, Clone)]
pub struct Report {
    /// When it began.
    pub began: Instant,
    /// How long requests were sent.
    pub sent_for: Duration,
    /// Requests that were due.
    pub planned: u64,
    /// Requests that succeeded.
    pub succeeded: u64,
    /// The first 10,000 that failed, by planned time.
    pub failures: Vec<Failure>,
    /// All that failed.
    pub failures_by_kind: BTreeMap<FailureKind, u64>,
    /// Of those that succeeded, from the planned time to the whole answer, microseconds.
    pub latency_us: Histogram<u64>,
    /// How late the client was to begin a request, microseconds.
    pub lateness_us: Histogram<u64>,
    /// The longest time in which no request succeeded, from one success to the next.
    pub longest_gap: Duration,
}

impl Report {
    /// How many failed.
    pub fn failed(&self) -> u64 {
        self.failures_by_kind.values().sum()
    }

    /// A quantile of the latency, in milliseconds.
    pub fn latency_ms(&self, quantile: f64) -> f64 {
        self.latency_us.value_at_quantile(quantile) as f64 / 1_000.0
    }

    /// The client's own lateness, 99th percentile, in milliseconds.
    pub fn lateness_p99_ms(&self) -> f64 {
        self.lateness_us.value_at_quantile(0.99) as f64 / 1_000.0
    }

    /// Failures of requests that were planned in a span of time.
    pub fn failed_between(&self, from: Instant, to: Instant) -> usize {
        let planned = |failure: &&Failure| {
            let at = self.began + failure.planned;
            from <= at && at <= to
        };
        self.failures.iter().filter(planned).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} planned, {} succeeded, {} failed; latency p50 {:.2} p99 {:.2} max {:.2} ms; client late by {:.2} ms (p99)",
            self.planned,
            self.succeeded,
            self.failed(),
            self.latency_ms(0.5),
            self.latency_ms(0.99),
            self.latency_us.max() as f64 / 1_000.0,
            self.lateness_p99_ms(),
        )?;
        for (kind, count) in &self.failures_by_kind {
            write!(f, "; {count} × {kind}")?;
        }
        if let Some(first) = self.failures.first() {
            write!(
                f,
                "; first failure at {:.3} s: {}",
                first.planned.as_secs_f64(),
                first.text
            )?;
        }
        Ok(())
    }
}

/// A load under way. Dropped, it stops; `finish` tells what came of it.
#[derive(Debug)]
pub struct Load {
    began: Instant,
    stop: Arc<AtomicBool>,
    dispatcher: tokio::task::JoinHandle<(Duration, u64)>,
    seen: Arc<Seen>,
}

/// Starts to send, on the runtime of the caller.
pub fn start(plan: Plan) -> Result<Load, LoadError> {
    check(&plan)?;
    let began = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let (due, dues) = mpsc::channel(DUES_MAX);
    let pacer = Pacer {
        began,
        rate: plan.rate,
        duration: plan.duration,
        stop: Arc::clone(&stop),
        due,
    };
    std::thread::Builder::new()
        .name("load pacer".into())
        .spawn(move || pacer.run())
        .map_err(|source| LoadError::Pacer { source })?;
    let seen = Arc::new(Seen::new(began));
    let dispatcher = tokio::spawn(dispatch(plan, began, dues, Arc::clone(&seen)));
    Ok(Load {
        began,
        stop,
        dispatcher,
        seen,
    })
}

/// Carries a plan out to its end.
pub async fn run(plan: Plan) -> Result<Report, LoadError> {
    Ok(start(plan)?.wait().await)
}

impl Load {
    /// Sends nothing new, waits for what is under way (bounded by the timeout of a request), and tells.
    pub async fn finish(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        self.wait().await
    }

    async fn wait(mut self) -> Report {
        // The dispatcher does not panic; were it lost, the report would show that nothing was planned.
        let (sent_for, planned) = (&mut self.dispatcher).await.unwrap_or_default();
        self.seen.report(self.began, sent_for, planned)
    }

    /// How many requests have failed so far.
    pub fn failed_so_far(&self) -> u64 {
        self.seen.lock().failures_by_kind.values().sum()
    }

    /// How many requests have succeeded so far.
    pub fn succeeded_so_far(&self) -> u64 {
        self.seen.lock().latency_us.len()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn check(plan: &Plan) -> Result<(), LoadError> {
    if !(plan.rate > 0.0 && plan.rate <= RATE_MAX) {
        return Err(LoadError::Rate { rate: plan.rate });
    }
    if let Connections::Kept(connections) = plan.connections
        && !(1..=IN_FLIGHT_MAX).contains(&connections)
    {
        return Err(LoadError::Connections { connections });
    }
    if let Request::Echo { bytes } = plan.request
        && !(1..=ECHO_BYTES_MAX).contains(&bytes)
    {
        return Err(LoadError::Echo { bytes });
    }
    Ok(())
}

/// Times that are due and not yet taken; a second of the highest rate.
const DUES_MAX: usize = RATE_MAX as usize;

/// A thread of its own, because the runtime's timer counts whole milliseconds.
struct Pacer {
    began: Instant,
    rate: f64,
    duration: Duration,
    stop: Arc<AtomicBool>,
    due: mpsc::Sender<Instant>,
}

impl Pacer {
    fn run(self) {
        for number in 0_u64.. {
            let planned = Duration::from_secs_f64(number as f64 / self.rate);
            if planned >= self.duration {
                return;
            }
            let planned = self.began + planned;
            loop {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                let left = planned.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                // In pieces, so that a slow load stops soon too.
                std::thread::sleep(left.min(Duration::from_millis(50)));
            }
            if self.due.blocking_send(planned).is_err() {
                return;
            }
        }
    }
}

async fn dispatch(plan: Plan, began: Instant, mut dues: mpsc::Receiver<Instant>, seen: Arc<Seen>) -> (Duration, u64) {
    let timeout = plan.timeout;
    let requester = Arc::new(Requester::new(plan));
    let slots = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut planned_count = 0;
    while let Some(planned) = dues.recv().await {
        planned_count += 1;
        seen.late(planned.elapsed());
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            let text = format!("{IN_FLIGHT_MAX} requests under way");
            seen.failed(planned, Duration::ZERO, FailureKind::Overrun, text);
            continue;
        };
        let (requester, seen) = (Arc::clone(&requester), Arc::clone(&seen));
        tokio::spawn(async move {
            let deadline = tokio::time::Instant::from_std(planned + timeout);
            let outcome = tokio::time::timeout_at(deadline, requester.once()).await;
            let after = planned.elapsed();
            match outcome {
                Ok(Ok(())) => seen.succeeded(after),
                Ok(Err((kind, text))) => seen.failed(planned, after, kind, text),
                Err(_) => seen.failed(
                    planned,
                    after,
                    FailureKind::Timeout,
                    format!("nothing within {timeout:?}"),
                ),
            }
            drop(slot);
        });
    }
    let sent_for = began.elapsed();
    // All slots back: nothing is under way. Each request has its timeout, so this ends.
    slots.acquire_many(IN_FLIGHT_MAX as u32).await.map(drop).ok();
    (sent_for, planned_count)
}

/// Failures that are kept with their words; all are counted.
const FAILURES_MAX: usize = 10_000;
/// One minute, above any timeout that is used.
const LATENCY_US_MAX: u64 = 60_000_000;

#[derive(Debug)]
struct Seen {
    began: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    latency_us: Histogram<u64>,
    lateness_us: Histogram<u64>,
    failures: Vec<Failure>,
    failures_by_kind: BTreeMap<FailureKind, u64>,
    last_success: Instant,
    longest_gap: Duration,
}

impl Seen {
    fn new(began: Instant) -> Self {
        Self {
            began,
            inner: Mutex::new(Inner {
                latency_us: histogram(),
                lateness_us: histogram(),
                failures: Vec::new(),
                failures_by_kind: BTreeMap::new(),
                last_success: began,
                longest_gap: Duration::ZERO,
            }),
        }
    }

    fn late(&self, by: Duration) {
        self.lock().lateness_us.saturating_record(by.as_micros() as u64);
    }

    fn succeeded(&self, after: Duration) {
        let mut inner = self.lock();
        inner.latency_us.saturating_record(after.as_micros() as u64);
        let now = Instant::now();
        inner.longest_gap = inner.longest_gap.max(now.duration_since(inner.last_success));
        inner.last_success = now;
    }

    fn failed(&self, planned: Instant, after: Duration, kind: FailureKind, text: String) {
        let mut inner = self.lock();
        *inner.failures_by_kind.entry(kind).or_default() += 1;
        if inner.failures.len() < FAILURES_MAX {
            let planned = planned.duration_since(self.began);
            inner.failures.push(Failure {
                planned,
                after,
                kind,
                text,
            });
        }
    }

    fn report(&self, began: Instant, sent_for: Duration, planned: u64) -> Report {
        let inner = self.lock();
        let mut failures = inner.failures.clone();
        failures.sort_by_key(|failure| failure.planned);
        Report {
            began,
            sent_for,
            planned,
            succeeded: inner.latency_us.len(),
            failures,
            failures_by_kind: inner.failures_by_kind.clone(),
            latency_us: inner.latency_us.clone(),
            lateness_us: inner.lateness_us.clone(),
            longest_gap: inner.longest_gap,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Three digits, up to a minute.
fn histogram() -> Histogram<u64> {
    #[expect(clippy::expect_used, reason = "the bounds are constants that the constructor takes")]
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("valid bounds")
}

#[cfg(test)]
mod tests;
