//! Whether anything of an instance runs, as the kernel's scheduler saw it.

use super::scan::Scanner;
use super::tree::Tree;
use std::fs;
use std::io;
use std::path::Path;

/// What the threads of an instance do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stir {
    /// One runs, or would if a processor or the disk were free: it is slow at most.
    Awake,
    /// All wait for something else, or were stopped. Together they have run for so many nanoseconds: if it is the same later, none ran.
    Asleep {
        /// Of those that live.
        ran_ns: u64,
    },
}

pub(super) async fn of(tree: &Tree, scanner: &Scanner) -> io::Result<Stir> {
    let mut ran_ns = 0;
    for pid in tree.recent_pids(scanner).await? {
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
            // It has ended since.
            continue;
        };
        for thread in threads.flatten() {
            match thread_ran(&thread.path()) {
                Some(ran) => ran_ns += ran,
                None => return Ok(Stir::Awake),
            }
        }
    }
    Ok(Stir::Asleep { ran_ns })
}

/// For how long a thread that sleeps has run, in nanoseconds; `None` if it does not sleep, or that is not known.
fn thread_ran(folder: &Path) -> Option<u64> {
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    let state = stat.rsplit_once(") ")?.1.chars().next()?;
    if !matches!(state, 'S' | 'T' | 'I' | 'Z' | 'X') {
        return None;
    }
    let schedule = fs::read_to_string(folder.join("schedstat")).ok()?;
    schedule.split_ascii_whitespace().next()?.parse().ok()
}
