//! Looks, a few times a second, at what the kernel only tells of the moment: what threads wait for, and which connections wait for an answer.

use drivers::sockets::{CgroupId, Sockets};
use rustix::time::{ClockId, clock_gettime};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Between two looks, unless they cost too much.
const EVERY: Duration = Duration::from_millis(200);
/// After a look that took so much of a processor, this many times as long is waited: it takes a half percent of one …
const REST: u32 = 200;
/// … but no longer than this: what is seen less often than once a second is not of that second. [`THREADS_EACH_TIME`] bounds what that costs.
const REST_MAX: Duration = Duration::from_secs(1);
/// Threads looked at each time, of all instances.
const THREADS_EACH_TIME: usize = 1_024;
/// Instances looked at each time, in turns.
const INSTANCES_EACH_TIME: usize = 32;
/// Of an instance with more threads, only so many are looked at, and stand for all.
const THREADS_MAX: usize = 256;
/// Places where threads wait that are remembered of an idle instance.
const PLACES_MAX: usize = 4_096;
/// Callees outside that are told apart, per service.
const OUTSIDE_MAX: usize = 32;
#[cfg(target_arch = "x86_64")]
const FUTEX: &str = "202 ";
#[cfg(not(target_arch = "x86_64"))]
const FUTEX: &str = "98 ";

/// Whom to look at; told once a second.
#[derive(Debug, Clone, Default)]
pub(super) struct Subjects {
    pub(super) instances: Vec<Subject>,
    /// Where services and instances of ours answer: what goes there is counted elsewhere.
    pub(super) ours: BTreeSet<SocketAddr>,
}

/// An instance to look at.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) instance: String,
    pub(super) service: String,
    pub(super) pids: Vec<u32>,
    pub(super) cgroup: Option<CgroupId>,
    /// It has hardly anything to do: its threads wait as idle ones do.
    pub(super) is_idle: bool,
}

/// What was seen since it was last asked.
#[derive(Debug, Default)]
pub(super) struct Sights {
    pub(super) threads: BTreeMap<String, Threads>,
    /// By service and callee.
    pub(super) outside: BTreeMap<String, BTreeMap<SocketAddr, Waiting>>,
    /// Looks at connections.
    pub(super) looks: u32,
}

/// Threads of an instance, sums over looks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Threads {
    pub(super) looks: u32,
    pub(super) threads: f64,
    pub(super) futex: f64,
    pub(super) gathered: Option<f64>,
    /// Share of the time in which the busiest one ran, the last one measured.
    pub(super) busiest: f64,
}

/// Connections of a service to a callee that wait for an answer.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Waiting {
    /// Sum over looks.
    pub(super) sum: f64,
    pub(super) most: f64,
}

#[derive(Debug, Default)]
struct Shared {
    subjects: Subjects,
    sights: Sights,
}

/// The way to it; it looks until this is dropped.
pub(super) struct Eye(Arc<Mutex<Shared>>);

impl Eye {
    pub(super) fn open() -> Self {
        let shared: Arc<Mutex<Shared>> = Arc::default();
        let looker = Looker {
            shared: Arc::downgrade(&shared),
            sockets: Sockets::open().ok(),
            known: BTreeMap::new(),
            turn: 0,
        };
        if let Err(error) = std::thread::Builder::new()
            .name("eye".into())
            .spawn(move || looker.run())
        {
            tracing::error!(%error, "what threads wait for is not looked at: no thread for it");
        }
        Self(shared)
    }

    /// Says whom to look at, and takes what was seen.
    pub(super) fn exchange(&self, subjects: Subjects) -> Sights {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shared.subjects = subjects;
        std::mem::take(&mut shared.sights)
    }
}

struct Looker {
    shared: Weak<Mutex<Shared>>,
    sockets: Option<Sockets>,
    known: BTreeMap<String, Known>,
    turn: usize,
}

/// What is remembered of an instance.
#[derive(Default)]
struct Known {
    /// The most threads that waited at a place while it was idle.
    idle: BTreeMap<u64, u32>,
    /// When its threads' times were read last, and those times, nanoseconds.
    ran: Option<(Instant, BTreeMap<u32, u64>)>,
    busiest: f64,
}

/// Threads' times are compared over this at least: over less, a tick more or less is a tenth.
const RAN_OVER: Duration = Duration::from_millis(900);

impl Looker {
    fn run(mut self) {
        while let Some(shared) = self.shared.upgrade() {
            let begun = processor_time();
            let subjects = shared.lock().unwrap_or_else(PoisonError::into_inner).subjects.clone();
            self.known
                .retain(|name, _| subjects.instances.iter().any(|it| it.instance == *name));
            let threads = self.threads(&subjects);
            let outside = self.sockets.as_ref().and_then(|sockets| outside(sockets, &subjects));
            let mut guard = shared.lock().unwrap_or_else(PoisonError::into_inner);
            note(&mut guard.sights, threads, outside);
            drop(guard);
            drop(shared);
            let spent = processor_time().saturating_sub(begun);
            std::thread::sleep((spent * REST).clamp(EVERY, REST_MAX));
        }
    }

    fn threads(&mut self, subjects: &Subjects) -> Vec<(String, Threads)> {
        let count = subjects.instances.len();
        let mut seen = Vec::new();
        let mut left = THREADS_EACH_TIME;
        for offset in 0..count.min(INSTANCES_EACH_TIME) {
            let subject = &subjects.instances[(self.turn + offset) % count];
            let known = self.known.entry(subject.instance.clone()).or_default();
            let threads = look_at(subject, known);
            left = left.saturating_sub((threads.threads as usize).min(THREADS_MAX));
            seen.push((subject.instance.clone(), threads));
            if left == 0 {
                break;
            }
        }
        if count > 0 {
            self.turn = (self.turn + seen.len()) % count;
        }
        seen
    }
}

/// Of this thread.
fn processor_time() -> Duration {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec.unsigned_abs(), u32::try_from(used.tv_nsec).unwrap_or(0))
}

fn look_at(subject: &Subject, known: &mut Known) -> Threads {
    let mut threads = Threads {
        looks: 1,
        ..Threads::default()
    };
    let mut places: BTreeMap<u64, u32> = BTreeMap::new();
    let mut all = Vec::new();
    for pid in &subject.pids {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
            continue;
        };
        all.extend(tasks.flatten().map(|task| task.path()));
    }
    let looked_at = all.len().min(THREADS_MAX);
    let scale = if looked_at > 0 {
        all.len() as f64 / looked_at as f64
    } else {
        1.0
    };
    let mut knows_places = false;
    for task in &all[..looked_at] {
        match place(task) {
            Place::Futex(address) => {
                knows_places = true;
                threads.futex += scale;
                *places.entry(address).or_default() += 1;
            }
            Place::Elsewhere => knows_places = true,
            Place::UnknownFutex => threads.futex += scale,
            Place::Unknown => {}
        }
    }
    threads.threads = all.len() as f64;
    if knows_places {
        if subject.is_idle {
            for (place, count) in &places {
                if known.idle.len() < PLACES_MAX || known.idle.contains_key(place) {
                    let idle = known.idle.entry(*place).or_default();
                    *idle = (*idle).max(*count);
                }
            }
        }
        let more = |(place, count): (&u64, &u32)| count.saturating_sub(known.idle.get(place).copied().unwrap_or(0));
        // One alone waits for another thread's answer as often as for a lock.
        let gathered: u32 = places.iter().filter(|(_, count)| **count >= 2).map(more).sum();
        threads.gathered = Some(f64::from(gathered) * scale);
    }
    ran(&all[..looked_at], known);
    threads.busiest = known.busiest;
    threads
}

/// Where a thread is.
enum Place {
    Futex(u64),
    /// It waits in futex, at a place that we may not know.
    UnknownFutex,
    Elsewhere,
    Unknown,
}

fn place(task: &Path) -> Place {
    if let Ok(call) = std::fs::read_to_string(task.join("syscall")) {
        let Some(arguments) = call.strip_prefix(FUTEX) else {
            return Place::Elsewhere;
        };
        let address = arguments
            .split(' ')
            .next()
            .and_then(|address| address.strip_prefix("0x"));
        return match address.and_then(|address| u64::from_str_radix(address, 16).ok()) {
            Some(address) => Place::Futex(address),
            None => Place::UnknownFutex,
        };
    }
    match std::fs::read_to_string(task.join("wchan")) {
        Ok(name) if name.starts_with("futex") => Place::UnknownFutex,
        _ => Place::Unknown,
    }
}

/// Finds out how busy the busiest thread is.
fn ran(tasks: &[std::path::PathBuf], known: &mut Known) {
    let now = Instant::now();
    if known
        .ran
        .as_ref()
        .is_some_and(|(at, _)| now.duration_since(*at) < RAN_OVER)
    {
        return;
    }
    let time = |task: &std::path::PathBuf| {
        let thread: u32 = task.file_name()?.to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(task.join("schedstat")).ok()?;
        Some((thread, stat.split(' ').next()?.parse().ok()?))
    };
    let times: BTreeMap<u32, u64> = tasks.iter().filter_map(time).collect();
    if let Some((at, before)) = &known.ran {
        let span = now.duration_since(*at).as_nanos() as f64;
        let busiest = times
            .iter()
            .filter_map(|(thread, time)| Some(time.saturating_sub(*before.get(thread)?)))
            .max()
            .unwrap_or(0);
        known.busiest = (busiest as f64 / span).min(1.0);
    }
    known.ran = Some((now, times));
}

type Outside = BTreeMap<(String, SocketAddr), f64>;

/// Connections of our services to what is not ours, those that wait for an answer.
fn outside(sockets: &Sockets, subjects: &Subjects) -> Option<Outside> {
    let owners: BTreeMap<CgroupId, &str> = subjects
        .instances
        .iter()
        .filter_map(|subject| Some((subject.cgroup?, subject.service.as_str())))
        .collect();
    let mut waiting = Outside::new();
    if owners.is_empty() {
        return Some(waiting);
    }
    for connection in sockets.made_here().ok()? {
        let Some(service) = owners.get(&connection.cgroup) else {
            continue;
        };
        if subjects.ours.contains(&connection.remote) {
            continue;
        }
        *waiting.entry(((*service).to_owned(), connection.remote)).or_default() +=
            f64::from(u8::from(connection.waits));
    }
    Some(waiting)
}

fn note(sights: &mut Sights, threads: Vec<(String, Threads)>, outside: Option<Outside>) {
    for (instance, seen) in threads {
        let sum = sights.threads.entry(instance).or_default();
        sum.looks += 1;
        sum.threads += seen.threads;
        sum.futex += seen.futex;
        if let Some(gathered) = seen.gathered {
            *sum.gathered.get_or_insert(0.0) += gathered;
        }
        sum.busiest = seen.busiest;
    }
    let Some(outside) = outside else { return };
    sights.looks += 1;
    for ((service, callee), count) in outside {
        let callees = sights.outside.entry(service).or_default();
        if callees.len() >= OUTSIDE_MAX && !callees.contains_key(&callee) {
            continue;
        }
        let waiting = callees.entry(callee).or_default();
        waiting.sum += count;
        waiting.most = waiting.most.max(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn this_process(is_idle: bool) -> Subject {
        Subject {
            instance: "web-1".into(),
            service: "web".into(),
            pids: vec![std::process::id()],
            cgroup: None,
            is_idle,
        }
    }

    /// Looks until what is seen is as wanted, for at most ten seconds.
    fn sees(known: &mut Known, is_idle: bool, wanted: impl Fn(&Threads) -> bool) -> Threads {
        let mut seen = Threads::default();
        for _ in 0..1_000 {
            seen = look_at(&this_process(is_idle), known);
            if wanted(&seen) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        seen
    }

    #[test]
    fn threads_that_wait_for_one_lock_are_told_from_idle_ones() {
        let mut known = Known::default();
        let gate = Arc::new((Mutex::new(false), std::sync::Condvar::new()));
        let lock = Arc::new(Mutex::new(()));
        std::thread::scope(|scope| {
            // A pool of idle threads: together at one place too.
            for _ in 0..5 {
                let gate = Arc::clone(&gate);
                scope.spawn(move || {
                    let (closed, open) = &*gate;
                    drop(open.wait_while(closed.lock().unwrap(), |is_open| !*is_open));
                });
            }
            let idle = sees(&mut known, true, |seen| seen.futex >= 5.0);
            assert!(idle.futex >= 5.0, "{idle:?}");
            assert_eq!(look_at(&this_process(true), &mut known).gathered, Some(0.0));
            let held = lock.lock().unwrap();
            for _ in 0..6 {
                let lock = Arc::clone(&lock);
                scope.spawn(move || drop(lock.lock().unwrap()));
            }
            let locked = sees(&mut known, false, |seen| seen.gathered >= Some(6.0));
            assert!(locked.gathered >= Some(6.0) && locked.threads >= 11.0, "{locked:?}");
            drop(held);
            *gate.0.lock().unwrap() = true;
            gate.1.notify_all();
        });
    }

    #[test]
    fn the_busiest_thread_is_seen() {
        let stop = Arc::new(AtomicBool::new(false));
        let mut known = Known::default();
        std::thread::scope(|scope| {
            scope.spawn(|| while !stop.load(Ordering::Relaxed) {});
            let seen = sees(&mut known, false, |seen| seen.busiest > 0.3);
            stop.store(true, Ordering::Relaxed);
            // On a machine that others use too it does not get all of a processor.
            assert!(seen.busiest > 0.3 && seen.busiest <= 1.0, "{seen:?}");
        });
    }
}
