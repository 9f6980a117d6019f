//! Whether anything of an instance runs, as the kernel's scheduler saw it.

use super::scan::Scanner;
use super::tree::Tree;
use std::fs;
use std::io;
use std::path::Path;

/// What the threads of an instance do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stir {
    /// One runs, or would if a processor or the disk were free, or waits for something from outside: it is slow at most, or leaves something by
    /// choice, as who has as many clients as it takes does with the next.
    Awake,
    /// All were stopped, or wait for each other. Together they have run for so many nanoseconds: if it is the same later, none ran.
    Asleep {
        /// Of those that live.
        ran_ns: u64,
    },
}

pub(super) async fn of(tree: &Tree, scanner: &Scanner) -> io::Result<Stir> {
    let pids = tree.recent_pids(scanner).await?;
    // Some have thousands of threads.
    let look = tokio::task::spawn_blocking(move || look(&pids));
    Ok(look.await.unwrap_or(Stir::Awake))
}

fn look(pids: &[u32]) -> Stir {
    let mut ran_ns = 0;
    for pid in pids {
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
            // It has ended since.
            continue;
        };
        for thread in threads.flatten() {
            match thread_ran(&thread.path()) {
                Some(ran) => ran_ns += ran,
                None => return Stir::Awake,
            }
        }
    }
    Stir::Asleep { ran_ns }
}

/// Parts of the names of functions of the kernel in which a thread waits for other threads, for the end of a child or, as who started a child
/// does, for signals. Whoever waits in any other may be waiting for a client, a file or the time, and goes on by itself.
const WAITS_INSIDE: [&str; 5] = ["futex", "do_wait", "sigtimedwait", "sigsuspend", "sys_pause"];

/// For how long a thread that is asleep has run, in nanoseconds; `None` if it is not, or that is not known.
fn thread_ran(folder: &Path) -> Option<u64> {
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    match stat.rsplit_once(") ")?.1.chars().next()? {
        'T' | 'Z' | 'X' => {}
        'S' => {
            let waits_in = fs::read_to_string(folder.join("wchan")).ok()?;
            // Of one that was just woken nothing is told, nor to whoever may not know.
            if !WAITS_INSIDE.iter().any(|part| waits_in.contains(part)) {
                return None;
            }
        }
        _ => return None,
    }
    let schedule = fs::read_to_string(folder.join("schedstat")).ok()?;
    schedule.split_ascii_whitespace().next()?.parse().ok()
}
