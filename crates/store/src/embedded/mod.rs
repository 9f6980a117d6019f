//! The store of one machine: one file, on disk before it answers.
//!
//! ```text
//! txn ──► queue ──► writer thread ── plan ──► redb, one fsync ──► publish ──► answers, watches
//!                   (all that wait, at once)                         ▲
//!                                              get, list ────────────┘
//! ```
//! - *Group commit*: whatever waits when the writer is free goes to disk together, in order, each transaction with a
//!   revision of its own. A hundred claims at once cost one or two fsyncs.
//! - *Reads* come from memory and show what is on disk, never what is on its way there.
//! - *Failures*: when a commit fails, the file is read again to see what is in it. If that tells, the caller gets a plain
//!   answer; if not, `Unknown`, and nobody reads until it is settled.
//! - *Damage* is told and never repaired by guessing: the file is checked whole when it is opened, before anything may
//!   write to it.

mod codec;
#[cfg(test)]
mod damage_tests;
mod disk;
#[cfg(test)]
mod fault_tests;
mod medium;
mod overlay;
#[cfg(test)]
mod power_loss_tests;
#[cfg(test)]
mod ram;
#[cfg(test)]
mod tests;
mod writer;

use crate::shared::Shared;
use crate::txn::check_key;
use crate::{BoxFuture, Entry, Error, FileError, Store, Txn, TxnResult, Watch};
use disk::Disk;
use medium::{FileMedium, Medium};
use model::Revision;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};
use writer::{Request, Writer};

/// How many transactions may wait for the writer; more wait to be let in. One commit takes as many, so a caller waits
/// for two commits at most once it is in the queue.
const QUEUE: usize = 256;

/// How to open an [`Embedded`] store.
#[derive(Debug, Clone)]
pub struct Options {
    /// Make the store if there is none; otherwise that is an error.
    pub create: bool,
    /// How many revisions are kept for watches at least; up to a tenth more are. Fewer if their values take more
    /// than 16 MiB.
    pub history: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            create: true,
            history: 10_000,
        }
    }
}

/// A store in a file of this machine. Closing waits for what is being written.
#[derive(Debug)]
pub struct Embedded {
    path: PathBuf,
    shared: Arc<Shared>,
    commits: Arc<AtomicU64>,
    queue: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
}

impl Embedded {
    /// Opens the store at `path` and checks it whole. Blocks: a few milliseconds, seconds on a slow disk.
    ///
    /// A lock file `path.lock` names the process that has it open.
    pub fn open(path: &Path, options: &Options) -> Result<Self, FileError> {
        let medium = FileMedium::lock(path)?;
        if !medium.exists()? {
            if !options.create {
                return Err(FileError::Missing { path: path.into() });
            }
            medium.replace(&crate::state::State::default())?;
            tracing::info!(path = %path.display(), "made a new store");
        }
        Self::on(Box::new(medium), options)
    }

    /// Opens what is on `medium`.
    fn on(medium: Box<dyn Medium>, options: &Options) -> Result<Self, FileError> {
        let path = medium.path().to_owned();
        let (disk, state) = Disk::open(medium)?;
        let shared = Shared::new(state);
        let commits = Arc::new(AtomicU64::new(0));
        let (queue, requests) = mpsc::channel(QUEUE);
        let writer = Writer::new(disk, Arc::clone(&shared), options.history, Arc::clone(&commits));
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(requests))
            .map_err(|error| FileError::from_io(&path, "start the writer of", error))?;
        Ok(Self {
            path,
            shared,
            commits,
            queue: Some(queue),
            writer: Some(writer),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How often it went to disk since it was opened: fewer than transactions when many come at once.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Writes a copy of one moment to a new file and returns that moment's revision. Blocks; writers go on meanwhile.
    ///
    /// To recover from it, put it in the store's place while no agent runs.
    pub fn backup(&self, to: &Path) -> Result<Revision, FileError> {
        let state = self.shared.read().state.clone();
        let medium = FileMedium::lock(to)?;
        if medium.exists()? {
            return Err(FileError::Exists { path: to.into() });
        }
        medium.replace(&state)?;
        medium.remove_lock();
        Ok(state.revision)
    }

    async fn submit(&self, txn: Txn) -> Result<TxnResult, Error> {
        let queue = self.queue.as_ref().ok_or(Error::Closed)?;
        let (reply, answer) = oneshot::channel();
        queue.send(Request { txn, reply }).await.map_err(|_| Error::Closed)?;
        answer.await.unwrap_or_else(|_| {
            Err(Error::Unknown {
                reason: "the store's writer ended".into(),
            })
        })
    }

    /// Returns when reads may be answered: an earlier write whose outcome was unknown is settled first.
    async fn settled(&self) -> Result<(), Error> {
        if self.shared.read().unsettled.is_some() {
            self.submit(Txn::new()).await?;
        }
        Ok(())
    }
}

impl Store for Embedded {
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResult, Error>> {
        Box::pin(async move {
            txn.validate()?;
            self.submit(txn).await
        })
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, Error>> {
        Box::pin(async move {
            check_key(key)?;
            self.settled().await?;
            self.shared.get(key)
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<(Vec<Entry>, Revision), Error>> {
        Box::pin(async move {
            self.settled().await?;
            self.shared.list(prefix)
        })
    }

    fn watch<'a>(&'a self, prefix: &'a str, from: Revision) -> BoxFuture<'a, Result<Watch, Error>> {
        Box::pin(async move {
            self.settled().await?;
            self.shared.watch(prefix, from)
        })
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision, Error>> {
        Box::pin(async move {
            self.settled().await?;
            self.shared.revision()
        })
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!(path = %self.path.display(), "the store's writer panicked");
        }
        self.shared.update(|inner| inner.closed = true);
    }
}
