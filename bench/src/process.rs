//! What processes cost, from /proc, and signals to them.

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Memory of a process in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// All that it has in memory.
    pub rss_kib: u64,
    /// The same, with pages that several processes share divided among them: adds up to what is really used.
    pub pss_kib: u64,
}

impl std::ops::Add for Memory {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            rss_kib: self.rss_kib + other.rss_kib,
            pss_kib: self.pss_kib + other.pss_kib,
        }
    }
}

/// Memory of a process.
pub fn memory(pid: u32) -> Result<Memory> {
    let text = read(pid, "smaps_rollup")?;
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    let (rss_kib, pss_kib) = (field("Rss:"), field("Pss:"));
    rss_kib
        .zip(pss_kib)
        .map(|(rss_kib, pss_kib)| Memory { rss_kib, pss_kib })
        .with_context(|| format!("no Rss and Pss in /proc/{pid}/smaps_rollup"))
}

/// Time that a process and its threads spent on a core since it began; counted by the kernel in hundredths of a second.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let text = read(pid, "stat")?;
    // The name may contain spaces and parentheses; what follows its last `)` does not.
    let fields: Vec<&str> = text
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
    let (user, system) = ticks(11)
        .zip(ticks(12))
        .with_context(|| format!("no times in /proc/{pid}/stat"))?;
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_secs_f64((user + system) as f64 / per_second as f64))
}

/// Whether a process runs; one that has ended and was not yet reaped does not.
pub fn is_alive(pid: u32) -> bool {
    let Ok(text) = read(pid, "stat") else { return false };
    let state = text
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_ascii_whitespace().next());
    !matches!(state, None | Some("Z" | "X"))
}

/// Sends a signal.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let raw = raw.with_context(|| format!("{pid} is not a process id"))?;
    kill_process(raw, signal).with_context(|| format!("failed to signal process {pid}"))
}

/// Lets a process and all its threads run on one core only.
pub fn pin(pid: u32, core: usize) -> Result<()> {
    let output = std::process::Command::new("taskset")
        .args(["-a", "-c", "-p", &core.to_string(), &pid.to_string()])
        .output()
        .context("failed to run taskset (Debian: util-linux)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "taskset failed for process {pid}: {said}");
    Ok(())
}

/// Processes that were started with `path` among their arguments, or work in a folder below it.
pub fn belonging_to(path: &Path) -> Vec<u32> {
    let own = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != own && belongs(*pid, path)).collect()
}

fn belongs(pid: u32, path: &Path) -> bool {
    let works_there = fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(path));
    let wanted = path.as_os_str().as_encoded_bytes();
    let named = || {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.windows(wanted.len()).any(|window| window == wanted)
    };
    works_there || named()
}

/// The arguments of a process, its program first; empty if it is gone.
pub fn arguments(pid: u32) -> Vec<String> {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let arguments = raw.split(|byte| *byte == 0).filter(|argument| !argument.is_empty());
    arguments
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect()
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    #[test]
    fn a_process_is_found_measured_and_killed() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new("sleep").arg("60").current_dir(dir.path()).spawn().unwrap();
        let pid = child.id();
        wait_for_exec(&child);
        assert!(is_alive(pid));
        assert_eq!(belonging_to(dir.path()), [pid]);
        assert_eq!(arguments(pid), ["sleep", "60"]);
        let memory = memory(pid).unwrap();
        assert!(0 < memory.pss_kib && memory.pss_kib <= memory.rss_kib, "{memory:?}");
        assert!(cpu_time(pid).unwrap() < Duration::from_secs(1));
        signal(pid, Signal::KILL).unwrap();
        child.wait().unwrap();
        assert!(!is_alive(pid) && signal(pid, Signal::KILL).is_err());
    }

    #[test]
    fn own_time_on_a_core_grows_with_work() {
        let before = cpu_time(std::process::id()).unwrap();
        let begun = std::time::Instant::now();
        // Bounded: a thread that works gets time within seconds.
        while cpu_time(std::process::id()).unwrap() <= before {
            assert!(begun.elapsed() < Duration::from_secs(10));
        }
    }

    /// Until then the child is a copy of this test.
    fn wait_for_exec(child: &Child) {
        for _ in 0..1_000 {
            if arguments(child.id()).first().is_some_and(|program| program == "sleep") {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("the child never became sleep");
    }
}
