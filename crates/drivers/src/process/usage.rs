//! What an instance uses, cheaply.

use super::scan::{Proc, Scanner};
use super::tree::Tree;
use crate::cgroup;
use std::io;
use std::time::Duration;

/// Without cgroups one scan of `/proc` answers for all instances; figures may be this old then.
const AGE_MAX: Duration = Duration::from_secs(1);

/// What an instance uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time, in microseconds. With a cgroup it only rises; without one, what ended unnoticed by its parent drops out.
    pub cpu_us: u64,
    /// Memory: what the cgroup is charged with where the kernel counts that, else the sum of the resident sets.
    pub memory_bytes: u64,
    /// How many processes it has.
    pub processes: u32,
}

pub(super) async fn of(tree: &Tree, scanner: &Scanner) -> io::Result<Usage> {
    match tree {
        Tree::Cgroup(path) => {
            let pids = cgroup::pids(path)?;
            let resident = || {
                pids.iter()
                    .filter_map(|pid| Proc::read(*pid))
                    .map(|process| resident_bytes(&process))
                    .sum()
            };
            Ok(Usage {
                cpu_us: cgroup::cpu_us(path).unwrap_or(0),
                memory_bytes: cgroup::memory_bytes(path).unwrap_or_else(resident),
                processes: count(pids.len()),
            })
        }
        Tree::Group(root) => {
            let members = scanner.recent(AGE_MAX).await?.members(root);
            let ticks: u64 = members.iter().map(|process| process.cpu_ticks).sum();
            Ok(Usage {
                cpu_us: ticks * 1_000_000 / rustix::param::clock_ticks_per_second().max(1),
                memory_bytes: members.iter().map(resident_bytes).sum(),
                processes: count(members.len()),
            })
        }
    }
}

fn resident_bytes(process: &Proc) -> u64 {
    process.resident_pages * rustix::param::page_size() as u64
}

fn count(processes: usize) -> u32 {
    u32::try_from(processes).unwrap_or(u32::MAX)
}
