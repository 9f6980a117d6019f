//! Looks, a few times a second, at what the kernel only tells of the moment: what threads wait for, and which connections wait for an answer.

use super::times::{Shares, Times};
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
    /// Looks at which one of them waited for a disk.
    pub(super) at_disk: f64,
    /// What the busiest one does with its time, as last measured.
    pub(super) busiest: Shares,
    /// How many could run and got no processor, as last measured.
    pub(super) cpu_waiting: Option<f64>,
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
    times: Times,
}

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
    let mut at_disk = BTreeSet::new();
    for task in &all[..looked_at] {
        match place(task) {
            Place::Futex(address) => {
                knows_places = true;
                threads.futex += scale;
                *places.entry(address).or_default() += 1;
            }
            Place::Disk => {
                knows_places = true;
                at_disk.extend(number(task));
            }
            Place::Elsewhere => knows_places = true,
            Place::UnknownFutex => threads.futex += scale,
            Place::Unknown => {}
        }
    }
    threads.threads = all.len() as f64;
    threads.at_disk = f64::from(u8::from(!at_disk.is_empty()));
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
    known.times.look(&all[..looked_at], at_disk, scale, Instant::now());
    threads.busiest = known.times.busiest;
    threads.cpu_waiting = known.times.waiting;
    threads
}

fn number(task: &Path) -> Option<u32> {
    task.file_name()?.to_str()?.parse().ok()
}

/// Where a thread is.
enum Place {
    Futex(u64),
    /// It waits in futex, at a place that we may not know.
    UnknownFutex,
    /// It waits for a disk.
    Disk,
    Elsewhere,
    Unknown,
}

fn place(task: &Path) -> Place {
    let Ok(call) = std::fs::read_to_string(task.join("syscall")) else {
        return match std::fs::read_to_string(task.join("wchan")) {
            Ok(name) if name.starts_with("futex") => Place::UnknownFutex,
            _ if cannot_be_woken(task) => Place::Disk,
            _ => Place::Unknown,
        };
    };
    let mut words = call.split(' ');
    let call: Option<libc::c_long> = words.next().and_then(|call| call.trim().parse().ok());
    match call {
        Some(libc::SYS_futex) => {
            let address = words.next().and_then(|address| address.strip_prefix("0x"));
            match address.and_then(|address| u64::from_str_radix(address, 16).ok()) {
                Some(address) => Place::Futex(address),
                None => Place::UnknownFutex,
            }
        }
        // It does not run, so it was stopped within a call, or, without a number, by a page that is not there.
        Some(call) if !RESTS.contains(&call) && cannot_be_woken(task) => Place::Disk,
        _ => Place::Elsewhere,
    }
}

/// Calls in which a thread waits for others or for time, and never for a disk.
const RESTS: &[libc::c_long] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_clock_nanosleep,
    libc::SYS_connect,
    libc::SYS_epoll_pwait,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_wait4,
    libc::SYS_waitid,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_select,
    // These wait for a child to have begun, in the same state as for a disk.
    libc::SYS_clone,
    libc::SYS_clone3,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
];

/// Whether a thread is in the state in which the kernel waits for a disk. Waits for a journal count here, and not in the kernel's figures of
/// pressure.
fn cannot_be_woken(task: &Path) -> bool {
    let Ok(stat) = std::fs::read_to_string(task.join("stat")) else {
        return false;
    };
    // Its name is in brackets, and may have brackets of its own.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D'))
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
        sum.at_disk += seen.at_disk;
        sum.busiest = seen.busiest;
        sum.cpu_waiting = seen.cpu_waiting;
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
    fn a_thread_that_waits_for_the_disk_is_seen() {
        use std::os::unix::fs::FileExt;
        let stop = AtomicBool::new(false);
        let mut known = Known::default();
        let file = tempfile::tempfile().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    file.write_all_at(&[7; 64 * 1024], 0).unwrap();
                    file.sync_all().unwrap();
                }
            });
            let seen = sees(&mut known, false, |seen| seen.at_disk > 0.0);
            stop.store(true, Ordering::Relaxed);
            // In a folder that is memory nothing waits.
            let is_memory = rustix::fs::fstatfs(&file).unwrap().f_type == libc::TMPFS_MAGIC;
            assert!(seen.at_disk > 0.0 || is_memory, "{seen:?}");
        });
    }

    #[test]
    fn the_busiest_thread_is_seen() {
        let stop = Arc::new(AtomicBool::new(false));
        let mut known = Known::default();
        std::thread::scope(|scope| {
            scope.spawn(|| while !stop.load(Ordering::Relaxed) {});
            let works = |seen: &Threads| seen.busiest.ran + seen.busiest.waited;
            let seen = sees(&mut known, false, |seen| works(seen) > 0.8);
            stop.store(true, Ordering::Relaxed);
            // On a machine that others use too it does not get all of a processor, and waits for it.
            assert!(works(&seen) > 0.8 && seen.busiest.ran <= 1.0, "{seen:?}");
            assert!(seen.cpu_waiting.is_some(), "{seen:?}");
        });
    }
}
