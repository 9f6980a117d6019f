//! All processes of an instance: killed to the last one, and confirmed gone.
//!
//! With a cgroup that is one write and one notification. Without one, the tree is looked for in `/proc`: what is found is
//! halted until a look finds nothing new (what is halted cannot fork, and keeps the family together), then killed, then
//! waited for by pidfd; repeated until a look finds nothing at all.

use super::scan::{Proc, Root, Scanner, Snapshot};
use crate::{cgroup, sys};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use tokio::io::Interest;

/// What is only looked at may be this old.
const RECENT: std::time::Duration = std::time::Duration::from_secs(1);

/// How the processes of an instance are held together.
#[derive(Debug, Clone)]
pub(crate) enum Tree {
    Cgroup(PathBuf),
    Group(Root),
}

impl Tree {
    /// Kills all that is left of the tree and waits, without a bound, until nothing is. Returns whether anything was left.
    pub(crate) async fn end(&self, scanner: &Scanner) -> io::Result<bool> {
        match self {
            Tree::Cgroup(path) => {
                let leftovers = cgroup::populated(path)?;
                if leftovers {
                    cgroup::kill(path)?;
                    cgroup::empty(path).await?;
                }
                if let Err(error) = cgroup::remove(path) {
                    tracing::warn!(path = %path.display(), %error, "failed to remove an empty cgroup");
                }
                Ok(leftovers)
            }
            Tree::Group(root) => end_all(scanner, |snapshot| snapshot.members(root)).await,
        }
    }

    /// The processes of the tree, as they were a second ago at most.
    pub(crate) async fn recent_pids(&self, scanner: &Scanner) -> io::Result<Vec<u32>> {
        match self {
            Tree::Cgroup(path) => cgroup::pids(path),
            Tree::Group(root) => {
                let members = scanner.recent(RECENT).await?.members(root);
                Ok(members.iter().map(|process| process.pid).collect())
            }
        }
    }

    /// The processes of the tree.
    pub(crate) async fn pids(&self, scanner: &Scanner) -> io::Result<Vec<u32>> {
        match self {
            Tree::Cgroup(path) => cgroup::pids(path),
            Tree::Group(root) => Ok(scanner
                .fresh()
                .await?
                .members(root)
                .iter()
                .map(|process| process.pid)
                .collect()),
        }
    }
}

/// Kills whatever `select` finds until it finds nothing. Returns whether it ever found anything.
pub(crate) async fn end_all(scanner: &Scanner, select: impl Fn(&Snapshot) -> Vec<Proc>) -> io::Result<bool> {
    let mut found_any = false;
    loop {
        let mut found = select(&*scanner.fresh().await?);
        if found.is_empty() {
            return Ok(found_any);
        }
        found_any = true;
        // A lone process group dies by one signal to each of its members, but whoever forks in this moment may be missed:
        // so everything is halted before anything is killed.
        let mut halted = BTreeSet::new();
        loop {
            let new: Vec<&Proc> = found
                .iter()
                .filter(|process| !halted.contains(&(process.pid, process.start)))
                .collect();
            if new.is_empty() {
                break;
            }
            for process in new {
                if let Some(pidfd) = open(process) {
                    signal(&pidfd, process.pid, Signal::STOP);
                }
                halted.insert((process.pid, process.start));
            }
            found = select(&*scanner.fresh().await?);
        }
        let pidfds: Vec<OwnedFd> = found
            .iter()
            .filter_map(|process| {
                let pidfd = open(process)?;
                signal(&pidfd, process.pid, Signal::KILL);
                Some(pidfd)
            })
            .collect();
        for pidfd in pidfds {
            let pidfd = sys::watch(pidfd, Interest::READABLE)?;
            let _ = pidfd.readable().await?;
        }
    }
}

/// The process of a scan, if it still is that one.
pub(crate) fn open(process: &Proc) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(process.pid).ok()?)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
    // Read after opening: if the start is right now, the descriptor holds the right process.
    (Proc::read(process.pid)?.start == process.start).then_some(pidfd)
}

fn signal(pidfd: &OwnedFd, pid: u32, signal: Signal) {
    match rustix::process::pidfd_send_signal(pidfd, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => tracing::warn!(pid, ?signal, %error, "failed to signal a process of an instance"),
    }
}

/// Takes the status of a child that has ended, if it is ours.
pub(crate) fn reap(pidfd: impl AsFd) {
    let _ = rustix::process::waitid(
        WaitId::PidFd(pidfd.as_fd()),
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
    );
}
