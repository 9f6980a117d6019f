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

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}
