//! What the machine as a whole does.

use super::instance::Usage;
use super::kept::Kept;
use super::text;
use api::Measure;
use std::path::PathBuf;

/// A sector of `/proc/diskstats`, whatever the disk's own are.
const SECTOR_BYTES: u64 = 512;

/// Reads the machine, second after second.
#[derive(Debug)]
pub struct NodeReader {
    stat: Kept,
    memory: Kept,
    disks: Kept,
    load: Kept,
    files: Kept,
    cpu_pressure: Kept,
    memory_pressure: Kept,
    io_pressure: Kept,
    folder: PathBuf,
    last: Option<Usage>,
}

impl NodeReader {
    /// `folder` lies on the disk whose free space counts.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        let file = |path: &str| Kept::new(path, true);
        Self {
            stat: file("/proc/stat"),
            memory: file("/proc/meminfo"),
            disks: file("/proc/diskstats"),
            load: file("/proc/loadavg"),
            files: file("/proc/sys/fs/file-nr"),
            cpu_pressure: file("/proc/pressure/cpu"),
            memory_pressure: file("/proc/pressure/memory"),
            io_pressure: file("/proc/pressure/io"),
            folder: folder.into(),
            last: None,
        }
    }

    /// What happened since the last reading, and how things stand; `now` is microseconds since boot.
    pub fn read(&mut self, now_us: u64, buffer: &mut Vec<u8>) -> Vec<(Measure, f64)> {
        let tick_us = 1_000_000 / rustix::param::clock_ticks_per_second().max(1);
        let used = |text: &str| {
            let bytes = |name| text::field(text, name).map(|kib: u64| kib * 1024);
            Some(bytes("MemTotal")?.saturating_sub(bytes("MemAvailable")?))
        };
        let mut usage = Usage {
            at_us: now_us,
            cpu_us: self
                .stat
                .read(buffer)
                .and_then(text::busy_ticks)
                .map(|ticks| ticks * tick_us),
            memory_bytes: self.memory.read(buffer).and_then(used),
            io_bytes: self
                .disks
                .read(buffer)
                .map(|text| text::disk_sectors(text) * SECTOR_BYTES),
            cpu_stall_us: self.cpu_pressure.read(buffer).and_then(text::stalled_us),
            memory_stall_us: self.memory_pressure.read(buffer).and_then(text::stalled_us),
            io_stall_us: self.io_pressure.read(buffer).and_then(text::stalled_us),
            files: self
                .files
                .read(buffer)
                .and_then(|text| text.split_ascii_whitespace().next()?.parse().ok()),
            ..Usage::default()
        };
        let load = self.load.read(buffer).and_then(text::load);
        usage.threads = load.map(|(_, threads)| threads);
        let mut values = self.last.map(|last| usage.since(&last)).unwrap_or_default();
        self.last = Some(usage);
        values.extend(load.map(|(load, _)| (Measure::Load, load)));
        if let Ok(disk) = rustix::fs::statvfs(&self.folder) {
            values.push((Measure::DiskFreeBytes, (disk.f_bavail * disk.f_frsize) as f64));
            values.push((Measure::DiskBytes, (disk.f_blocks * disk.f_frsize) as f64));
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn this_machine_is_read() {
        let mut reader = NodeReader::new("/");
        let mut buffer = Vec::new();
        reader.read(1_000_000, &mut buffer);
        let values: BTreeMap<Measure, f64> = reader.read(2_000_000, &mut buffer).into_iter().collect();
        assert!(values[&Measure::MemoryBytes] > 1e6);
        assert!(values[&Measure::DiskBytes] >= values[&Measure::DiskFreeBytes]);
        assert!(values[&Measure::Load] >= 0.0 && values[&Measure::Threads] > 1.0);
        assert!(values[&Measure::CpuCores] >= 0.0 && values[&Measure::OpenFiles] > 1.0);
    }
}
