//! Of which kind a bottleneck is: the first rule that fits.

use crate::baseline::Baseline;
use crate::observe::{Instance, Service, Window};
use std::fmt;

/// A pool is full when its mean is this share of its maximum: without a bound, chance takes the mean far below it.
pub(crate) const POOL_FULL: f64 = 0.93;
/// Calls that take longer than this times the usual wait at the callee, not for a connection.
pub(crate) const CALL_SLOW: f64 = 2.0;
/// Where calls are only looked at now and then, and a request within a tick of the kernel after an answer is not seen.
const POOL_FULL_BY_SIGHT: f64 = 0.55;
/// Of few, chance takes the mean further below the maximum, and a busy machine is late to hand one on.
const POOL_FULL_OF_FEW: f64 = 0.88;
const FEW: f64 = 64.0;
const CPU_FULL: f64 = 0.85;
const THREAD_FULL: f64 = 0.9;
const THROTTLED: f64 = 0.1;
const IO_STALLED: f64 = 0.5;
const MEMORY_STALLED: f64 = 0.1;
/// Pages read again a second, beyond the usual, that are no accident.
const REFAULTS: f64 = 100.0;
const LOCKED: f64 = 0.5;
/// With so many of the threads that could work waiting for a processor, and no rule above it that fits, it is want of processors …
const STARVED: f64 = 0.5;
/// … and where threads are not counted, with at least one of them waiting so much of the time.
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
    let usual = baseline.of(name);
    let (locked, possible) = locked(name, service, window, usual.map_or(0.0, |usual| usual.futex));
    let use_of = Use::of(service);
    let found = use_of
        .processor_is_full()
        .or_else(|| use_of.disk_is_full())
        .or_else(|| memory(service, usual.map_or(0.0, |usual| usual.refaults)))
        .or_else(|| {
            let is_lock = locked >= 1.0 && locked > LOCKED * possible;
            is_lock.then(|| {
                let text = format!("{locked:.1} of the {possible:.1} threads that could work wait for a lock");
                (Kind::Lock, text)
            })
        })
        .or_else(|| use_of.processor_is_wanted(possible));
    let (kind, text) = found.unwrap_or_else(|| {
        let text = format!(
            "neither processor ({:.0} %), disk ({:.0} %), memory nor a lock holds it up",
            use_of.cpu * 100.0,
            use_of.io * 100.0
        );
        (Kind::Internal, text)
    });
    (kind, vec![text])
}

/// What the worst instance of a service does with its time.
struct Use {
    /// Share of the processors that it may use.
    cpu: f64,
    throttled: f64,
    cpu_some: f64,
    io: f64,
    busiest: Instance,
    /// Threads of all instances that could run and get no processor.
    waiting: Option<f64>,
}

/// What a thread does with its time, apart from resting.
fn works(instance: &Instance) -> f64 {
    instance.thread_cpu_max + instance.thread_cpu_wait + instance.thread_io
}

impl Use {
    fn of(service: &Service) -> Self {
        let most = |of: fn(&Instance) -> f64| service.instances.values().map(of).fold(0.0, f64::max);
        let instances = service.instances.values();
        Self {
            cpu: most(|instance| {
                if instance.cpu_limit > 0.0 {
                    instance.cpu / instance.cpu_limit
                } else {
                    0.0
                }
            }),
            throttled: most(|instance| instance.throttled),
            cpu_some: most(|instance| instance.cpu_some),
            io: most(|instance| instance.io_some),
            busiest: instances
                .clone()
                .copied()
                .max_by(|a, b| works(a).total_cmp(&works(b)))
                .unwrap_or_default(),
            waiting: instances
                .filter_map(|instance| instance.cpu_waiting)
                .reduce(|a, b| a + b),
        }
    }

    fn processor_is_full(&self) -> Option<(Kind, String)> {
        let (ran, waited) = (self.busiest.thread_cpu_max, self.busiest.thread_cpu_wait);
        let text = if self.cpu >= CPU_FULL {
            format!("it uses {:.0} % of the processors that it may use", self.cpu * 100.0)
        } else if self.throttled > THROTTLED {
            format!(
                "its processor limit held it back in {:.0} % of the periods",
                self.throttled * 100.0
            )
        } else if ran >= THREAD_FULL {
            format!(
                "one of its threads runs {:.0} % of the time, and a thread has one processor at most",
                ran * 100.0
            )
        } else if ran + waited >= THREAD_FULL
            || (works(&self.busiest) >= THREAD_FULL && ran + waited > self.busiest.thread_io)
        {
            format!(
                "one of its threads runs {:.0} % of the time and could run another {:.0} %, in which others on the machine have the processors",
                ran * 100.0,
                waited * 100.0
            )
        } else {
            return None;
        };
        Some((Kind::Cpu, text))
    }

    fn disk_is_full(&self) -> Option<(Kind, String)> {
        let text = if self.io >= IO_STALLED {
            format!("it waits for the disk {:.0} % of the time", self.io * 100.0)
        } else if works(&self.busiest) >= THREAD_FULL {
            // What runs and waits for processors is less: the rule before this one did not fit.
            format!(
                "one of its threads never rests, and waits for the disk {:.0} % of the time",
                self.busiest.thread_io * 100.0
            )
        } else {
            return None;
        };
        Some((Kind::Io, text))
    }

    /// Of `possible` threads that could work for requests.
    fn processor_is_wanted(&self, possible: f64) -> Option<(Kind, String)> {
        let starved = match self.waiting {
            Some(waiting) => waiting >= 1.0 && waiting > STARVED * possible,
            // At least one waits: whether it is many is not known.
            None => self.cpu_some >= CPU_STARVED,
        };
        let neighbour = if self.cpu < 0.5 {
            ", though it uses few: others on the machine take them"
        } else {
            ""
        };
        starved.then(|| {
            let text = match self.waiting {
                Some(waiting) => {
                    format!("{waiting:.1} of the {possible:.1} threads that could work wait for a processor{neighbour}")
                }
                None => format!(
                    "it waits for a processor {:.0} % of the time{neighbour}",
                    self.cpu_some * 100.0
                ),
            };
            (Kind::Cpu, text)
        })
    }
}

fn memory(service: &Service, refaults_usual: f64) -> Option<(Kind, String)> {
    let stalled = service.instances.values().map(|instance| instance.memory_some);
    let stalled = stalled.fold(0.0, f64::max);
    let refaults: f64 = service.instances.values().map(|instance| instance.refaults).sum();
    let text = if stalled >= MEMORY_STALLED {
        format!("it waits for memory {:.0} % of the time", stalled * 100.0)
    } else if refaults > REFAULTS + 2.0 * refaults_usual {
        format!("it reads {refaults:.0} pages a second again that it had before")
    } else {
        return None;
    };
    Some((Kind::Memory, text))
}

/// Whether connections to a callee are all in use while the callee answers as ever.
fn pool(name: &str, service: &Service, baseline: &Baseline) -> Option<(Kind, Vec<String>)> {
    let usual = baseline.of(name)?;
    service.calls.iter().find_map(|(callee, call)| {
        let full = match call.rate {
            None => POOL_FULL_BY_SIGHT,
            Some(_) if call.in_flight_max <= FEW => POOL_FULL_OF_FEW,
            Some(_) => POOL_FULL,
        };
        let is_full = call.in_flight_max >= 1.0 && call.in_flight >= full * call.in_flight_max;
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
    let (threads, futex) = (sum(|i| i.threads), sum(|i| i.futex));
    let gathered: Option<f64> = service
        .instances
        .values()
        .filter_map(|instance| instance.futex_gathered)
        .reduce(|a, b| a + b);
    let own = window.own(name);
    let locked = gathered.unwrap_or_else(|| (futex - (idle - own).max(0.0)).max(0.0));
    let possible = if threads > 0.0 { own.min(threads) } else { own };
    (locked.min(futex), possible)
}

pub(crate) fn milliseconds(seconds: f64) -> String {
    match seconds * 1_000.0 {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 100.0 => format!("{ms:.1} ms"),
        ms => format!("{ms:.0} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::Usual;

    /// The kind of a service with ten requests inside that should not be there.
    fn kind_of(instance: Instance) -> (Kind, String) {
        let service = Service {
            managed: true,
            completions: 100.0,
            in_flight: 10.0,
            instances: [(
                "db-1".to_owned(),
                Instance {
                    cpu_limit: 2.0,
                    ..instance
                },
            )]
            .into(),
            ..Service::default()
        };
        let window = Window {
            span: std::time::Duration::from_secs(1),
            services: [("db".to_owned(), service)].into(),
        };
        let mut baseline = Baseline::default();
        baseline.set("db", Usual::default());
        let (kind, evidence) = kind("db", &window, &baseline);
        (kind, evidence.join("; "))
    }

    /// One thread does it all, and the machine has others to serve: what it would do with a processor of its own decides.
    #[test]
    fn a_thread_that_never_rests_is_held_up_by_what_it_does_most() {
        let thread = |thread_cpu_max, thread_cpu_wait, thread_io| {
            kind_of(Instance {
                thread_cpu_max,
                thread_cpu_wait,
                thread_io,
                ..Instance::default()
            })
        };
        assert_eq!(thread(0.95, 0.02, 0.0).0, Kind::Cpu);
        let (kind, why) = thread(0.55, 0.4, 0.0);
        assert_eq!(kind, Kind::Cpu);
        assert!(why.contains("others on the machine"), "{why}");
        let (kind, why) = thread(0.06, 0.4, 0.5);
        assert_eq!(kind, Kind::Io);
        assert!(why.contains("waits for the disk 50 %"), "{why}");
        assert_eq!(thread(0.1, 0.5, 0.4).0, Kind::Cpu);
        assert_eq!(thread(0.3, 0.2, 0.1).0, Kind::Internal);
    }

    #[test]
    fn that_somebody_waits_for_a_processor_is_not_that_all_do() {
        let waiting = |cpu_waiting| {
            kind_of(Instance {
                cpu_some: 0.9,
                cpu_waiting,
                threads: 20.0,
                ..Instance::default()
            })
        };
        assert_eq!(waiting(None).0, Kind::Cpu);
        assert_eq!(waiting(Some(1.2)).0, Kind::Internal);
        let (kind, why) = waiting(Some(7.0));
        assert_eq!(kind, Kind::Cpu);
        assert!(why.contains("7.0 of the 10.0 threads"), "{why}");
    }

    #[test]
    fn a_disk_is_named_before_the_lock_that_is_held_while_it_is_waited_for() {
        let locked = Instance {
            threads: 20.0,
            futex: 9.0,
            futex_gathered: Some(9.0),
            ..Instance::default()
        };
        assert_eq!(kind_of(locked).0, Kind::Lock);
        assert_eq!(kind_of(Instance { io_some: 0.8, ..locked }).0, Kind::Io);
    }
}
