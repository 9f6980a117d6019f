//! Watching: every change to values of a service, in order, none lost.

use crate::kv::Value;
use crate::{AppState, Error, keys};
use model::{Revision, ServiceName};
use store::Change;
use tokio::sync::OwnedSemaphorePermit;

/// What one revision changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// The revision: to resume, watch from the one after it.
    pub revision: Revision,
    /// Its changes to what is watched, in order; never empty.
    pub changes: Vec<Changed>,
}

/// What happened to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// It was written.
    Put(Value),
    /// It was removed.
    Deleted {
        /// The key.
        key: String,
    },
}

/// A watch that is open.
pub struct Watching {
    watch: store::Watch,
    /// What stands before every key in the store.
    start: String,
    from: Revision,
    _permit: OwnedSemaphorePermit,
}

impl AppState {
    /// Watches the keys that begin with `prefix`: every change of revision `from` and later, or from now on.
    pub async fn watch(&self, service: &ServiceName, prefix: &str, from: Option<Revision>) -> Result<Watching, Error> {
        keys::check_prefix(prefix)?;
        let permit = self.watch_permit(service)?;
        let from = match from {
            Some(from) => from,
            None => Revision(self.snapshot(service, &[]).await?.revision.0 + 1),
        };
        let watch = self.store().watch(&keys::value(service, prefix), from).await;
        Ok(Watching {
            watch: watch.map_err(Error::reading)?,
            start: keys::values(service),
            from,
            _permit: permit,
        })
    }
}

impl Watching {
    /// The first revision whose changes are told.
    pub fn from(&self) -> Revision {
        self.from
    }

    /// The next changes. A call that is dropped half-way loses nothing. [`Error::Compacted`] to readers that are too slow.
    pub async fn next(&mut self) -> Result<News, Error> {
        let changes = self.watch.next().await.map_err(Error::reading)?;
        let changed = changes.changes.iter().filter_map(|change| match change {
            Change::Put(entry) => {
                let key = entry.key.strip_prefix(&self.start)?;
                Some(Changed::Put(Value::from_entry(key, entry)))
            }
            Change::Delete { key } => Some(Changed::Deleted {
                key: key.strip_prefix(&self.start)?.to_owned(),
            }),
        });
        Ok(News {
            revision: changes.revision,
            changes: changed.collect(),
        })
    }
}

impl std::fmt::Debug for Watching {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watching")
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}
