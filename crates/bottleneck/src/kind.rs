//! Of which kind a bottleneck is: the first rule that fits.

use crate::baseline::Baseline;
use crate::observe::{Instance, Service, Window};
use std::fmt;

/// A pool is full when its mean is this share of its maximum: without a bound, chance takes the mean far below it.
pub(crate) const POOL_FULL: f64 = 0.93;
/// Calls that take longer than this times the usual wait at the callee, not for a connection.
pub(crate) const CALL_SLOW: f64 = 2.0;
const CPU_FULL: f64 = 0.85;
const THREAD_FULL: f64 = 0.9;
const THROTTLED: f64 = 0.1;
const IO_STALLED: f64 = 0.5;
const MEMORY_STALLED: f64 = 0.1;
/// Pages read again a second, beyond the usual, that are no accident.
const REFAULTS: f64 = 100.0;
const LOCKED: f64 = 0.5;
/// Waiting for a processor this much of the time, with no rule above it that fits, is want of processors.
const CPU_STARVED: f64 = 0.6;

/// What a service has too little of.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Nobody here runs it.
    External,
    /// Its connections to another service, which could do more.
    Pool {
        /// To whom.
        callee: String,
        /// How many.
        size: f64,
    },
    /// Processor time.
    Cpu,
    /// The disk.
    Io,
    /// Memory.
    Memory,
    /// A lock that its threads wait for.
    Lock,
    /// Workers, or another bound within it.
    Internal,
}

impl Kind {
    /// In one word, for programs: `cpu`, `pool`.
    pub fn code(&self) -> &'static str {
        match self {
            Kind::External => "external",
            Kind::Pool { .. } => "pool",
            Kind::Cpu => "cpu",
            Kind::Io => "io",
            Kind::Memory => "memory",
            Kind::Lock => "lock",
            Kind::Internal => "internal",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::External => f.write_str("outside of what is managed here"),
            Kind::Pool { callee, size } => write!(f, "its {} to {callee}", connections(*size)),
            Kind::Cpu => f.write_str("processor time"),
            Kind::Io => f.write_str("the disk"),
            Kind::Memory => f.write_str("memory"),
            Kind::Lock => f.write_str("a lock"),
            Kind::Internal => f.write_str("a number of workers, or another bound within it"),
        }
    }
}

fn connections(size: f64) -> String {
    match size.round() {
        1.0 => "one connection".into(),
        size => format!("pool of {size} connections"),
    }
}

/// The kind, and what shows it.
pub(crate) fn kind(name: &str, window: &Window, baseline: &Baseline) -> (Kind, Vec<String>) {
    let service = match window.services.get(name) {
        Some(service) if service.managed => service,
        _ => return (Kind::External, external(name, window, baseline)),
    };
    if let Some(found) = pool(name, service, baseline) {
        return found;
    }
    let busiest = |of: fn(&Instance) -> f64| service.instances.values().map(of).fold(0.0, f64::max);
    let cpu = busiest(|instance| {
        if instance.cpu_limit > 0.0 {
            instance.cpu / instance.cpu_limit
        } else {
            0.0
        }
    });
    let (thread, throttled) = (
        busiest(|instance| instance.thread_cpu_max),
        busiest(|instance| instance.throttled),
    );
    let cpu_some = busiest(|instance| instance.cpu_some);
    if cpu >= CPU_FULL {
        return (
            Kind::Cpu,
            vec![format!(
                "it uses {:.0} % of the processors that it may use",
                cpu * 100.0
            )],
        );
    }
    if throttled > THROTTLED {
        let text = format!(
            "its processor limit held it back in {:.0} % of the periods",
            throttled * 100.0
        );
        return (Kind::Cpu, vec![text]);
    }
    if thread >= THREAD_FULL {
        let text = format!(
            "one of its threads runs {:.0} % of the time, and a thread has one processor at most",
            thread * 100.0
        );
        return (Kind::Cpu, vec![text]);
    }
    let io = busiest(|instance| instance.io_some);
    if io >= IO_STALLED {
        return (
            Kind::Io,
            vec![format!("it waits for the disk {:.0} % of the time", io * 100.0)],
        );
    }
    let memory = busiest(|instance| instance.memory_some);
    if memory >= MEMORY_STALLED {
        return (
            Kind::Memory,
            vec![format!("it waits for memory {:.0} % of the time", memory * 100.0)],
        );
    }
    let usual = baseline.of(name);
    let refaults: f64 = service.instances.values().map(|instance| instance.refaults).sum();
    let refaults_usual = usual.map_or(0.0, |usual| usual.refaults);
    if refaults > REFAULTS + 2.0 * refaults_usual {
        return (
            Kind::Memory,
            vec![format!(
                "it reads {refaults:.0} pages a second again that it had before"
            )],
        );
    }
    let (locked, possible) = locked(name, service, window, usual.map_or(0.0, |usual| usual.futex));
    if locked >= 1.0 && locked > LOCKED * possible {
        let text = format!("{locked:.1} of the {possible:.1} threads that could work wait for a lock");
        return (Kind::Lock, vec![text]);
    }
    if cpu_some >= CPU_STARVED {
        let neighbour = if cpu < 0.5 {
            ", though it uses few: others on the machine take them"
        } else {
            ""
        };
        let text = format!(
            "it waits for a processor {:.0} % of the time{neighbour}",
            cpu_some * 100.0
        );
        return (Kind::Cpu, vec![text]);
    }
    let text = format!(
        "neither processor ({:.0} %), disk ({:.0} %), memory nor a lock holds it up",
        cpu * 100.0,
        io * 100.0
    );
    (Kind::Internal, vec![text])
}

/// Whether connections to a callee are all in use while the callee answers as ever.
fn pool(name: &str, service: &Service, baseline: &Baseline) -> Option<(Kind, Vec<String>)> {
    let usual = baseline.of(name)?;
    service.calls.iter().find_map(|(callee, call)| {
        let is_full = call.in_flight_max >= 1.0 && call.in_flight >= POOL_FULL * call.in_flight_max;
        let time = call_time(service, callee)?;
        let before = *usual.calls.get(callee)?;
        (is_full && time < CALL_SLOW * before).then(|| {
            let kind = Kind::Pool {
                callee: callee.clone(),
                size: call.in_flight_max,
            };
            let text = format!(
                "of at most {:.0} calls to {callee} at once, {:.1} are under way, and {callee} answers in {} as ever",
                call.in_flight_max,
                call.in_flight,
                milliseconds(time)
            );
            (kind, vec![text])
        })
    })
}

/// How long a call takes, seconds.
pub(crate) fn call_time(service: &Service, callee: &str) -> Option<f64> {
    let call = service.calls.get(callee)?;
    let rate = call.rate.unwrap_or(service.completions);
    (rate > 0.0).then(|| call.in_flight / rate)
}

fn external(name: &str, window: &Window, baseline: &Baseline) -> Vec<String> {
    let mut evidence = Vec::new();
    for (caller, service, call) in window.callers_of(name) {
        let before = baseline.of(caller).and_then(|usual| usual.calls.get(name));
        if let (Some(time), Some(before)) = (call_time(service, name), before) {
            evidence.push(format!(
                "{caller} waits for it {} a request, {} when there is little load; {:.1} calls are under way",
                milliseconds(time),
                milliseconds(*before),
                call.in_flight
            ));
        }
    }
    evidence
}

/// Threads that wait for a lock, and how many could work at most. Idle threads wait in the same way: those are taken off as far as
/// requests would not have woken them.
fn locked(name: &str, service: &Service, window: &Window, idle: f64) -> (f64, f64) {
    let sum = |of: fn(&Instance) -> f64| service.instances.values().map(of).sum::<f64>();
    let (threads, futex, gathered) = (sum(|i| i.threads), sum(|i| i.futex), sum(|i| i.futex_gathered));
    let own = window.own(name);
    let by_count = (futex - (idle - own).max(0.0)).max(0.0);
    let possible = if threads > 0.0 { own.min(threads) } else { own };
    (by_count.max(gathered).min(futex), possible)
}

pub(crate) fn milliseconds(seconds: f64) -> String {
    match seconds * 1_000.0 {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 100.0 => format!("{ms:.1} ms"),
        ms => format!("{ms:.0} ms"),
    }
}
