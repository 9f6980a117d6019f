//! After the agent's own end: finds again what runs, and ends what nobody knows of.

use super::handle::{Noted, Process, StopError};
use super::record::{ReadError, Record};
use super::scan::{Proc, Snapshot};
use super::tree::{self, Tree};
use super::{Driver, record};
use crate::cgroup;
use model::{InstanceId, RunId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What became of a recorded instance.
#[derive(Debug)]
pub enum Adopted {
    /// It runs, and is watched again.
    Running(Process),
    /// Its main process has ended. The rest was killed and the record is gone.
    Gone(Gone),
}

/// A recorded instance whose main process runs no more.
#[derive(Debug, Clone, PartialEq)]
pub struct Gone {
    /// The instance.
    pub instance: InstanceId,
    /// Which start of it.
    pub run: RunId,
    /// How that is known.
    pub because: GoneBecause,
    /// What the agent had noted about it.
    pub memo: serde_json::Value,
    /// Whether processes were left of it that had to be killed.
    pub leftovers: bool,
}

/// How it is known that a recorded process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoneBecause {
    /// The machine was started again since.
    Reboot,
    /// No process has its number.
    NoProcess,
    /// Its number is another process's now: that one began at another time.
    OtherProcess,
}

impl fmt::Display for GoneBecause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GoneBecause::Reboot => "the machine was started again since",
            GoneBecause::NoProcess => "its process has ended",
            GoneBecause::OtherProcess => "its process has ended and its number is another's now",
        })
    }
}

/// Why a record led to nothing.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The record cannot be used.
    #[error(transparent)]
    Record(#[from] ReadError),
    /// It runs but cannot be watched.
    #[error("failed to watch process {pid} of `{instance}`: {source}")]
    Watch {
        /// The instance.
        instance: InstanceId,
        /// Its main process.
        pid: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its main process has ended, but what it left behind is not known to be gone.
    #[error(transparent)]
    Leftovers(#[from] StopError),
}

/// A run that nobody knew of any more, and that was killed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Swept {
    /// `INSTANCE/RUN`, or the name of a cgroup of ours that is neither.
    pub what: String,
    /// Its processes.
    pub pids: Vec<u32>,
}

/// Why strays may be left.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The kernel refused to tell or to kill.
    #[error("failed to look for strays: {0}")]
    Look(#[from] io::Error),
    /// Killed processes hang in the kernel.
    #[error("strays are still there {}s after SIGKILL: {}", waited.as_secs_f32(), what.join(", "))]
    Stuck {
        /// Which runs.
        what: Vec<String>,
        /// Since SIGKILL.
        waited: std::time::Duration,
    },
}

impl Driver {
    /// Takes over an instance by its record: the same process, watched again, nothing restarted.
    pub async fn adopt(&self, path: &Path) -> Result<Adopted, AdoptError> {
        let record = Record::read(path, &self.inner.cluster_id)?;
        let found = if record.boot_id == self.inner.boot_id {
            find(&record)
        } else {
            Err(GoneBecause::Reboot)
        };
        match found {
            Ok(pidfd) => {
                let (instance, pid) = (record.instance.clone(), record.pid);
                let is_child = Proc::read(pid).is_some_and(|process| process.parent == std::process::id());
                let noted = Noted {
                    path: path.to_path_buf(),
                    record,
                    length: std::fs::metadata(path).map_or(0, |metadata| metadata.len()),
                    removed: false,
                };
                let tree = tree_of(&noted.record);
                Process::watch(self.inner.clone(), tree, pidfd, noted, is_child)
                    .map(Adopted::Running)
                    .map_err(|source| AdoptError::Watch { instance, pid, source })
            }
            Err(because) => {
                let leftovers = because != GoneBecause::Reboot && self.end_leftovers(&record).await?;
                if let Err(error) = std::fs::remove_file(path) {
                    tracing::warn!(path = %path.display(), %error, "failed to remove the record of an instance that is gone");
                }
                let Record {
                    instance, run, memo, ..
                } = record;
                Ok(Adopted::Gone(Gone {
                    instance,
                    run,
                    because,
                    memo,
                    leftovers,
                }))
            }
        }
    }

    async fn end_leftovers(&self, record: &Record) -> Result<bool, StopError> {
        let (tree, scanner, waited) = (tree_of(record), &self.inner.scanner, self.inner.kill_bound);
        let instance = || record.instance.clone();
        match tokio::time::timeout(waited, tree.end(scanner)).await {
            Ok(ended) => ended.map_err(|source| StopError::Kill {
                instance: instance(),
                source,
            }),
            Err(_) => {
                let pids = tree.pids(scanner).await.unwrap_or_default();
                Err(StopError::Stuck {
                    instance: instance(),
                    pids,
                    waited,
                })
            }
        }
    }

    /// What [`Driver::sweep`] would kill.
    pub async fn strays(&self, known: &BTreeSet<(InstanceId, RunId)>) -> Result<Vec<Swept>, SweepError> {
        let mut strays = Vec::new();
        for path in self.stray_cgroups(known)? {
            let pids = cgroup::pids(&path)?;
            if !pids.is_empty() {
                let what = run_of(&path);
                strays.push(Swept { what, pids });
            }
        }
        let snapshot = self.inner.scanner.fresh().await?;
        let marked = self.stray_marked(&snapshot, known);
        let is_new = |swept: &Swept| !strays.iter().any(|stray: &Swept| stray.what == swept.what);
        let marked: Vec<Swept> = marked.into_iter().filter(is_new).collect();
        strays.extend(marked);
        strays.sort();
        Ok(strays)
    }

    /// Kills everything of this cluster that is not of a known run: what the agent had started but not yet recorded when it
    /// was killed, say. To be called after all records were adopted and before anything is started.
    pub async fn sweep(&self, known: &BTreeSet<(InstanceId, RunId)>) -> Result<Vec<Swept>, SweepError> {
        let mut swept = self.sweep_cgroups(known).await?;
        swept.extend(self.sweep_marked(known).await?);
        swept.sort();
        Ok(swept)
    }

    async fn sweep_cgroups(&self, known: &BTreeSet<(InstanceId, RunId)>) -> Result<Vec<Swept>, SweepError> {
        let strays = self.stray_cgroups(known)?;
        let mut swept = Vec::new();
        for path in &strays {
            let pids = cgroup::pids(path)?;
            cgroup::kill(path)?;
            if !pids.is_empty() {
                let what = run_of(path);
                swept.push(Swept { what, pids });
            }
        }
        let all_gone = async {
            for path in &strays {
                cgroup::empty(path).await?;
                cgroup::remove(path)?;
            }
            io::Result::Ok(())
        };
        self.within_bound(all_gone, &swept).await?;
        Ok(swept)
    }

    fn stray_cgroups(&self, known: &BTreeSet<(InstanceId, RunId)>) -> io::Result<Vec<PathBuf>> {
        let Ok(root) = &self.inner.cgroups else {
            return Ok(Vec::new());
        };
        let known: BTreeSet<String> = known
            .iter()
            .map(|(instance, run)| format!("{instance}.{run}"))
            .collect();
        let mut strays = cgroup::children(root)?;
        strays.retain(|path| !known.contains(&name(path)));
        Ok(strays)
    }

    fn markers(&self, known: &BTreeSet<(InstanceId, RunId)>) -> BTreeSet<String> {
        let marker = |(instance, run): &(InstanceId, RunId)| record::marker(&self.inner.cluster_id, instance, *run);
        known.iter().map(marker).collect()
    }

    fn stray_marked(&self, snapshot: &Snapshot, known: &BTreeSet<(InstanceId, RunId)>) -> Vec<Swept> {
        let mut found: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for process in snapshot.strays(&self.markers(known)) {
            let what = process
                .marker
                .as_deref()
                .and_then(|marker| marker.split_once('/'))
                .map_or("unmarked child", |(_, run)| run);
            found.entry(what.to_owned()).or_default().push(process.pid);
        }
        found.into_iter().map(|(what, pids)| Swept { what, pids }).collect()
    }

    /// What was started without a cgroup, or has left its own.
    async fn sweep_marked(&self, known: &BTreeSet<(InstanceId, RunId)>) -> Result<Vec<Swept>, SweepError> {
        let scanner = &self.inner.scanner;
        let snapshot = scanner.fresh().await?;
        let swept = self.stray_marked(&snapshot, known);
        let known = self.markers(known);
        if !swept.is_empty() {
            let all_gone = async {
                tree::end_all(scanner, |snapshot| snapshot.strays(&known))
                    .await
                    .map(|_| ())
            };
            self.within_bound(all_gone, &swept).await?;
        }
        Ok(swept)
    }

    async fn within_bound(
        &self,
        all_gone: impl Future<Output = io::Result<()>>,
        swept: &[Swept],
    ) -> Result<(), SweepError> {
        let waited = self.inner.kill_bound;
        match tokio::time::timeout(waited, all_gone).await {
            Ok(ended) => Ok(ended?),
            Err(_) => Err(SweepError::Stuck {
                what: swept.iter().map(|swept| swept.what.clone()).collect(),
                waited,
            }),
        }
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Of a cgroup's name.
fn run_of(path: &Path) -> String {
    let name = name(path);
    name.rsplit_once('.')
        .map_or(name.clone(), |(instance, run)| format!("{instance}/{run}"))
}

/// The recorded process, if it still is that one.
fn find(record: &Record) -> Result<std::os::fd::OwnedFd, GoneBecause> {
    match Proc::read(record.pid) {
        None => Err(GoneBecause::NoProcess),
        Some(process) if process.start != record.start_ticks => Err(GoneBecause::OtherProcess),
        Some(process) if process.is_zombie() => Err(GoneBecause::NoProcess),
        Some(process) => tree::open(&process).ok_or(GoneBecause::NoProcess),
    }
}

fn tree_of(record: &Record) -> Tree {
    match &record.cgroup {
        Some(path) => Tree::Cgroup(path.clone()),
        None => Tree::Group(record.root()),
    }
}
