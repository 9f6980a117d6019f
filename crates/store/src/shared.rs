//! The published state of a store within this process: what readers read and watches wait on.

use crate::state::State;
use crate::{BoxFuture, ChangeSource, Changes, Entry, Error, Watch};
use model::Revision;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::watch;

/// Read by many, written by one.
#[derive(Debug)]
pub(crate) struct Shared {
    inner: RwLock<Inner>,
    /// Told whenever something may be new to a watch.
    news: watch::Sender<()>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) state: State,
    /// Why reads have to wait, if they do.
    pub(crate) unsettled: Option<String>,
    pub(crate) closed: bool,
}

impl Shared {
    pub(crate) fn new(state: State) -> Arc<Self> {
        let inner = RwLock::new(Inner {
            state,
            unsettled: None,
            closed: false,
        });
        Arc::new(Self {
            inner,
            news: watch::Sender::new(()),
        })
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Inner> {
        // Whoever panicked did so before or after a change, never within one: `State` has no partial writes to expose
        // that a later reader could act on, and a store that stops answering is worse.
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `change` at the state, then wakes the watches.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let changed = change(&mut self.write());
        self.news.send_replace(());
        changed
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        Ok(self.settled()?.state.entries.get(key).map(|entry| Entry::clone(entry)))
    }

    pub(crate) fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), Error> {
        let inner = self.settled()?;
        Ok((inner.state.list(prefix), inner.state.revision))
    }

    pub(crate) fn revision(&self) -> Result<Revision, Error> {
        Ok(self.settled()?.state.revision)
    }

    pub(crate) fn watch(self: &Arc<Self>, prefix: &str, from: Revision) -> Result<Watch, Error> {
        let oldest = self.settled()?.state.oldest();
        if from < oldest {
            return Err(Error::Compacted { oldest });
        }
        Ok(Watch::new(LocalWatch {
            news: self.news.subscribe(),
            shared: Arc::clone(self),
            prefix: prefix.into(),
            next: from,
        }))
    }

    fn settled(&self) -> Result<RwLockReadGuard<'_, Inner>, Error> {
        let inner = self.read();
        match &inner.unsettled {
            Some(reason) => Err(Error::Unsettled { reason: reason.clone() }),
            None if inner.closed => Err(Error::Closed),
            None => Ok(inner),
        }
    }
}

/// Reads the history that is kept anyway, so a slow watch costs nothing and a fast writer never waits for it.
struct LocalWatch {
    shared: Arc<Shared>,
    news: watch::Receiver<()>,
    prefix: String,
    /// All before this one was told.
    next: Revision,
}

impl LocalWatch {
    fn look(&mut self) -> Result<Option<Changes>, Error> {
        let inner = self.shared.read();
        let oldest = inner.state.oldest();
        if self.next < oldest {
            return Err(Error::Compacted { oldest });
        }
        let found = inner.state.changes_since(self.next, &self.prefix);
        let seen = found.as_ref().map_or(inner.state.revision, |changes| changes.revision);
        // A watch may be set on a revision that is yet to come.
        self.next = self.next.max(Revision(seen.0 + 1));
        if found.is_none() && inner.closed {
            return Err(Error::Closed);
        }
        Ok(found)
    }
}

impl ChangeSource for LocalWatch {
    fn next(&mut self) -> BoxFuture<'_, Result<Changes, Error>> {
        Box::pin(async move {
            loop {
                // Marked as seen before looking, so that news in between wakes us again.
                self.news.borrow_and_update();
                if let Some(changes) = self.look()? {
                    return Ok(changes);
                }
                self.news.changed().await.map_err(|_| Error::Closed)?;
            }
        })
    }
}
