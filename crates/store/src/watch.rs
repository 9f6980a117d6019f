//! A stream of changes.

use crate::{BoxFuture, Changes, Error};

/// Where the changes of a [`Watch`] come from; one per implementation of the store.
pub trait ChangeSource: Send {
    /// The next revision that changed something watched. A call that is dropped half-way loses nothing.
    fn next(&mut self) -> BoxFuture<'_, Result<Changes, Error>>;
}

/// Every change to what is watched, in order, none lost.
pub struct Watch {
    source: Box<dyn ChangeSource>,
}

impl Watch {
    /// A watch on what `source` tells.
    pub fn new(source: impl ChangeSource + 'static) -> Self {
        Self {
            source: Box::new(source),
        }
    }

    /// Waits for the next revision that changed something watched, and returns its changes. May be dropped half-way.
    ///
    /// [`Error::Compacted`] if the reader was so slow that changes are lost to it: list again and start anew.
    pub async fn next(&mut self) -> Result<Changes, Error> {
        self.source.next().await
    }
}

/// Of what a watch tells, keys from `first` on that come before `end`, which may be empty.
pub(crate) fn within(watch: Watch, first: &str, end: &str) -> Watch {
    Watch::new(Within {
        watch,
        first: first.into(),
        end: end.into(),
    })
}

struct Within {
    watch: Watch,
    first: String,
    end: String,
}

impl ChangeSource for Within {
    fn next(&mut self) -> BoxFuture<'_, Result<Changes, Error>> {
        Box::pin(async move {
            loop {
                let mut told = self.watch.next().await?;
                let ours = |key: &str| key >= &*self.first && (self.end.is_empty() || key < &*self.end);
                told.changes.retain(|change| ours(change.key()));
                if !told.changes.is_empty() {
                    return Ok(told);
                }
            }
        })
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}
