//! Whether anything of an instance runs, as the kernel's scheduler saw it.

use super::scan::Scanner;
use super::tree::Tree;
use std::fs;
use std::io;
use std::path::Path;

/// What the threads of an instance do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stir {
    /// One runs, or would if a processor or the disk were free, or waits for what others send: it is slow at most, or leaves something by choice,
    /// as who has as many clients as it takes does with the next.
    Awake,
    /// All wait for each other or for time to pass, or were stopped. Together they have run for so many nanoseconds: if it is the same later, none
    /// ran.
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

/// Parts of the names of functions of the kernel in which a thread waits for what others send.
const WAITS_FOR_OTHERS: [&str; 9] = [
    "poll", "select", "accept", "cqring", "woken", "skb", "sk_", "unix_", "inet_",
];

/// For how long a thread that is asleep has run, in nanoseconds; `None` if it is not, or that is not known.
fn thread_ran(folder: &Path) -> Option<u64> {
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    match stat.rsplit_once(") ")?.1.chars().next()? {
        'T' | 'Z' | 'X' => {}
        'S' => {
            let waits_in = fs::read_to_string(folder.join("wchan")).ok()?;
            // Nothing is told of one that was just woken, nor to whoever may not know.
            if waits_in == "0" || WAITS_FOR_OTHERS.iter().any(|part| waits_in.contains(part)) {
                return None;
            }
        }
        _ => return None,
    }
    let schedule = fs::read_to_string(folder.join("schedstat")).ok()?;
    schedule.split_ascii_whitespace().next()?.parse().ok()
}
