//! Reaps orphans: what a service left behind becomes our child when its parent ends, if we are their subreaper.
//!
//! The status of our own children must not be taken from those who wait for them, so only what cannot be one is reaped at once:
//! a child of ours is in our session or leads its own, and there in our group or leads its own. The rare
//! orphan that looks like a child is reaped when nobody has asked for it for a minute.

use super::scan::{Proc, Snapshot};
use super::tree;
use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

/// Deaths come in crowds and zombies are cheap: one look a second at most.
const PAUSE: Duration = Duration::from_secs(1);
/// Whoever waits for a child takes its status at once.
const ASKED_FOR_WITHIN: Duration = Duration::from_secs(60);

/// Works until dropped. At rest it costs nothing: it looks only after a child has died.
#[derive(Debug)]
pub(super) struct Reaper {
    task: JoinHandle<()>,
}

impl Reaper {
    pub(super) fn new() -> io::Result<Self> {
        let mut deaths = signal(SignalKind::child())?;
        let task = tokio::spawn(async move {
            let mut seen = BTreeMap::new();
            loop {
                let look_again = tokio::time::timeout(ASKED_FOR_WITHIN, deaths.recv());
                match look_again.await {
                    Ok(None) => return,
                    // Nothing died and nothing is left to be reaped later.
                    Err(_) if seen.is_empty() => continue,
                    Ok(Some(())) | Err(_) => {}
                }
                tokio::time::sleep(PAUSE).await;
                let look = tokio::task::spawn_blocking(move || {
                    reap_orphans(&mut seen);
                    seen
                });
                seen = look.await.unwrap_or_default();
            }
        });
        Ok(Self { task })
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `seen` are zombies that may be somebody's, and since when.
fn reap_orphans(seen: &mut BTreeMap<(u32, u64), Instant>) {
    let Ok(snapshot) = Snapshot::unmarked() else { return };
    let Some(us) = Proc::read(std::process::id()) else {
        return;
    };
    let mut still = BTreeMap::new();
    for zombie in snapshot.dead_children() {
        let identity = (zombie.pid, zombie.start);
        let since = *seen.get(&identity).unwrap_or(&Instant::now());
        if is_orphan(zombie, &us) || since.elapsed() >= ASKED_FOR_WITHIN {
            if let Some(pidfd) = tree::open(zombie) {
                tree::reap(pidfd);
            }
        } else {
            still.insert(identity, since);
        }
    }
    *seen = still;
}

fn is_orphan(zombie: &Proc, us: &Proc) -> bool {
    if zombie.session == us.session {
        zombie.group != us.group && zombie.group != zombie.pid
    } else {
        zombie.session != zombie.pid
    }
}
