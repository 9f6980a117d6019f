//! What one instance uses.

use super::kept::Kept;
use super::text;
use api::Measure;
use std::collections::BTreeMap;
use std::path::Path;

/// Of an instance with more processes than this, each is looked at only when its members are counted anew.
const PROCESSES_EACH_TIME: usize = 32;

/// Totals of an instance: what only rises, except where said. What cannot be known here is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// When it was read, in microseconds since boot.
    pub at_us: u64,
    /// Time on processors, in microseconds.
    pub cpu_us: Option<u64>,
    /// Time that its processor limit kept it from running.
    pub throttled_us: Option<u64>,
    /// Memory in bytes, now: what its cgroup is charged with where the kernel counts that, else the sum of resident sets.
    pub memory_bytes: Option<u64>,
    /// Bytes read from and written to disks.
    pub io_bytes: Option<u64>,
    /// Time that some of its threads waited for a processor, in microseconds.
    pub cpu_stall_us: Option<u64>,
    /// Likewise for memory.
    pub memory_stall_us: Option<u64>,
    /// Likewise for a disk.
    pub io_stall_us: Option<u64>,
    /// Open files, now.
    pub files: Option<u64>,
    /// Threads, now.
    pub threads: Option<u64>,
}

impl Usage {
    /// What happened between an earlier reading and this one, by measure.
    pub fn since(&self, earlier: &Self) -> Vec<(Measure, f64)> {
        let span_us = self.at_us.saturating_sub(earlier.at_us);
        let rate = |now: Option<u64>, before: Option<u64>, per: f64| {
            let (now, before) = (now?, before?);
            // One that fell began anew: nothing is known of this second.
            (span_us > 0 && now >= before).then(|| (now - before) as f64 * per / span_us as f64)
        };
        let share = |now, before| rate(now, before, 1.0).map(|share| share.min(1.0));
        let level = |now: Option<u64>| now.map(|now| now as f64);
        [
            (Measure::CpuCores, rate(self.cpu_us, earlier.cpu_us, 1.0)),
            (Measure::CpuThrottled, share(self.throttled_us, earlier.throttled_us)),
            (Measure::MemoryBytes, level(self.memory_bytes)),
            (Measure::IoBytesPerSecond, rate(self.io_bytes, earlier.io_bytes, 1e6)),
            (Measure::CpuStall, share(self.cpu_stall_us, earlier.cpu_stall_us)),
            (
                Measure::MemoryStall,
                share(self.memory_stall_us, earlier.memory_stall_us),
            ),
            (Measure::IoStall, share(self.io_stall_us, earlier.io_stall_us)),
            (Measure::OpenFiles, level(self.files)),
            (Measure::Threads, level(self.threads)),
        ]
        .into_iter()
        .filter_map(|(measure, value)| Some((measure, value?)))
        .collect()
    }
}

/// Reads one instance, second after second.
#[derive(Debug)]
pub struct Reader {
    cgroup: Option<Cgroup>,
    processes: BTreeMap<u32, Process>,
    keep: bool,
    /// Time on processors of processes that are gone.
    gone_us: u64,
    files: Option<u64>,
    threads: Option<u64>,
    resident: Option<u64>,
}

#[derive(Debug)]
struct Cgroup {
    cpu: Kept,
    memory: Kept,
    io: Kept,
    cpu_pressure: Kept,
    memory_pressure: Kept,
    io_pressure: Kept,
}

#[derive(Debug)]
struct Process {
    stat: Kept,
    cpu_us: u64,
    threads: u64,
    resident: u64,
}

impl Reader {
    /// Of an instance with a cgroup, or without. `keep` says whether its files stay open, which is quicker and costs up to seven descriptors.
    pub fn new(cgroup: Option<&Path>, keep: bool) -> Self {
        let file = |folder: &Path, name: &str| Kept::new(folder.join(name), keep);
        Self {
            cgroup: cgroup.map(|folder| Cgroup {
                cpu: file(folder, "cpu.stat"),
                memory: file(folder, "memory.current"),
                io: file(folder, "io.stat"),
                cpu_pressure: file(folder, "cpu.pressure"),
                memory_pressure: file(folder, "memory.pressure"),
                io_pressure: file(folder, "io.pressure"),
            }),
            processes: BTreeMap::new(),
            keep,
            gone_us: 0,
            files: None,
            threads: None,
            resident: None,
        }
    }

    /// Says which processes it has now, and counts their open files. Every few seconds is often enough: a process that came since is seen
    /// in its cgroup's figures at once, and without a cgroup when it is named here.
    pub fn members(&mut self, pids: &[u32]) {
        let gone: Vec<u32> = self
            .processes
            .keys()
            .filter(|pid| !pids.contains(pid))
            .copied()
            .collect();
        for pid in gone {
            if let Some(process) = self.processes.remove(&pid) {
                self.gone_us += process.cpu_us;
            }
        }
        for pid in pids {
            let keep = self.keep && pids.len() <= 1;
            self.processes.entry(*pid).or_insert_with(|| Process {
                stat: Kept::new(format!("/proc/{pid}/stat"), keep),
                cpu_us: 0,
                threads: 0,
                resident: 0,
            });
        }
        let counts: Vec<u64> = pids.iter().filter_map(|pid| open_files(*pid)).collect();
        self.files = (!counts.is_empty()).then(|| counts.iter().sum());
        self.look_at_processes(&mut Vec::new());
    }

    /// Reads its totals, `now` being microseconds since boot.
    pub fn read(&mut self, now_us: u64, buffer: &mut Vec<u8>) -> Usage {
        let mut usage = Usage {
            at_us: now_us,
            ..Usage::default()
        };
        if let Some(cgroup) = &mut self.cgroup {
            if let Some(stat) = cgroup.cpu.read(buffer) {
                usage.cpu_us = text::field(stat, "usage_usec");
                usage.throttled_us = text::field(stat, "throttled_usec");
            }
            usage.memory_bytes = cgroup.memory.read(buffer).and_then(|text| text.trim().parse().ok());
            usage.io_bytes = cgroup.io.read(buffer).and_then(text::io_bytes);
            usage.cpu_stall_us = cgroup.cpu_pressure.read(buffer).and_then(text::stalled_us);
            usage.memory_stall_us = cgroup.memory_pressure.read(buffer).and_then(text::stalled_us);
            usage.io_stall_us = cgroup.io_pressure.read(buffer).and_then(text::stalled_us);
        }
        if self.processes.len() <= PROCESSES_EACH_TIME {
            self.look_at_processes(buffer);
        }
        if usage.cpu_us.is_none() && !self.processes.is_empty() {
            usage.cpu_us = Some(self.gone_us + self.processes.values().map(|process| process.cpu_us).sum::<u64>());
        }
        usage.memory_bytes = usage.memory_bytes.or(self.resident);
        usage.files = self.files;
        usage.threads = self.threads;
        usage
    }

    fn look_at_processes(&mut self, buffer: &mut Vec<u8>) {
        let tick_us = 1_000_000 / rustix::param::clock_ticks_per_second().max(1);
        let page = rustix::param::page_size() as u64;
        for process in self.processes.values_mut() {
            let Some(stat) = process.stat.read(buffer).and_then(text::stat) else {
                // It ended since: its time counts until its members are named anew.
                (process.threads, process.resident) = (0, 0);
                continue;
            };
            process.cpu_us = process.cpu_us.max(stat.cpu_ticks * tick_us);
            process.threads = stat.threads;
            process.resident = stat.resident_pages * page;
        }
        let any = !self.processes.is_empty();
        self.threads = any.then(|| self.processes.values().map(|process| process.threads).sum());
        self.resident = any.then(|| self.processes.values().map(|process| process.resident).sum());
    }
}

/// How many files a process has open: kernels from 6.2 on say it as the size of the folder, earlier ones have it counted.
fn open_files(pid: u32) -> Option<u64> {
    let folder = format!("/proc/{pid}/fd");
    match std::fs::metadata(&folder).ok()?.len() {
        0 => Some(std::fs::read_dir(folder).ok()?.count() as u64),
        files => Some(files),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_time_between_two_readings() {
        let before = Usage {
            at_us: 1_000_000,
            cpu_us: Some(500),
            memory_bytes: Some(1),
            io_bytes: Some(1_000),
            cpu_stall_us: Some(0),
            ..Usage::default()
        };
        let now = Usage {
            at_us: 3_000_000,
            cpu_us: Some(3_000_500),
            memory_bytes: Some(77),
            io_bytes: Some(5_000),
            cpu_stall_us: Some(500_000),
            files: Some(3),
            ..Usage::default()
        };
        let values: BTreeMap<Measure, f64> = now.since(&before).into_iter().collect();
        assert_eq!(values[&Measure::CpuCores], 1.5);
        assert_eq!(values[&Measure::MemoryBytes], 77.0);
        assert_eq!(values[&Measure::IoBytesPerSecond], 2_000.0);
        assert_eq!(values[&Measure::CpuStall], 0.25);
        assert_eq!(values[&Measure::OpenFiles], 3.0);
        assert!(!values.contains_key(&Measure::MemoryStall) && !values.contains_key(&Measure::CpuThrottled));
        // A restart: the totals fell.
        let values: BTreeMap<Measure, f64> = before.since(&now).into_iter().collect();
        assert!(!values.contains_key(&Measure::CpuCores));
    }

    #[test]
    fn this_process_is_read_without_a_cgroup() {
        let mut reader = Reader::new(None, true);
        reader.members(&[std::process::id()]);
        let mut buffer = Vec::new();
        let before = reader.read(0, &mut buffer);
        let begun = std::time::Instant::now();
        let mut work = 0_u64;
        while begun.elapsed() < std::time::Duration::from_millis(300) {
            work = work.wrapping_mul(31).wrapping_add(1);
        }
        std::hint::black_box(work);
        let now = reader.read(1_000_000, &mut buffer);
        assert!(now.cpu_us > before.cpu_us, "{before:?} {now:?}");
        assert!(
            now.memory_bytes > Some(100_000) && now.threads >= Some(1) && now.files >= Some(3),
            "{now:?}"
        );
        assert_eq!(now.cpu_stall_us, None);
    }

    #[test]
    fn what_ended_keeps_what_it_used() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; exec sleep 60"])
            .spawn()
            .expect("a shell");
        let mut reader = Reader::new(None, true);
        let mut buffer = Vec::new();
        let mut used = None;
        for _ in 0..1_000 {
            reader.members(&[child.id()]);
            used = reader.read(0, &mut buffer).cpu_us;
            if used > Some(20_000) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        child.kill().expect("is killed");
        child.wait().expect("ended");
        reader.members(&[]);
        assert!(used > Some(20_000));
        assert_eq!(reader.read(0, &mut buffer).threads, None);
        reader.members(&[std::process::id()]);
        assert!(reader.read(0, &mut buffer).cpu_us >= used);
    }
}
