//! Linearizable key-value with compare-and-swap, sessions and watch.
//!
//! [`Store`] is the one door; what stands behind it differs:
//!
//! | implementation | keeps its state | for |
//! |---|---|---|
//! | [`Embedded`] | in one file, on disk before it answers | one machine |
//! | `etcd::Etcd`, a crate of its own | in a cluster of etcd, on the disks of a majority | several machines |
//! | [`Memory`] | nowhere, and fails on demand | tests and the simulator |
//!
//! The semantics are those of etcd v3: every transaction that changes something is one revision; a key remembers the
//! revision that created it and the one that changed it last; a key that was deleted and written again is a new one.
//! [`conformance`](mod@conformance) (feature `testing`) checks them against any implementation.
//!
//! ```
//! # use store::{Compare, Memory, Op, Store, Txn};
//! # use std::sync::Arc;
//! # async fn claim() -> Result<(), store::Error> {
//! let store: Arc<dyn Store> = Arc::new(Memory::default());
//! let claimed = store
//!     .txn(
//!         Txn::new()
//!             .when(Compare::absent("slot/db/0"))
//!             .then(Op::put("slot/db/0", "db-1"))
//!             .otherwise(Op::get("slot/db/0")),
//!     )
//!     .await?;
//! assert!(claimed.succeeded);
//! # Ok(())
//! # }
//! ```

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod embedded;
mod error;
pub mod fence;
mod memory;
mod server_error;
pub mod session;
mod shared;
mod state;
mod txn;
mod watch;

pub use embedded::{Embedded, Options};
pub use error::{Error, FileError};
pub use memory::{Fault, Memory};
pub use server_error::{ServerError, TlsProblem};
pub use txn::{
    Change, Changes, Compare, Entry, Invalid, KEY_BYTES_MAX, OPS_MAX, Op, TXN_BYTES_MAX, Txn, TxnResult,
    VALUE_BYTES_MAX, check_key,
};
pub use watch::{ChangeSource, Watch};

use model::Revision;
use std::future::Future;
use std::pin::Pin;

/// A future in a box, so that [`Store`] can stand behind a pointer.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Linearizable key-value. Every answer is about a state that cannot be lost any more.
pub trait Store: Send + Sync + 'static {
    /// Carries out `then` if all compares hold, else `otherwise`, as one revision.
    ///
    /// On [`Error::Unknown`] the transaction may or may not have been carried out: write an attempt id with it, send the
    /// same transaction again, and find it in the else-branch. The same holds when the future is dropped half-way.
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResult, Error>>;

    /// The entry of a key.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, Error>>;

    /// All entries whose keys begin with `prefix` (all there are if it is empty), by key, and the revision at which this
    /// was so: watch from the one after it to miss nothing.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<(Vec<Entry>, Revision), Error>>;

    /// Every change to keys that begin with `prefix`, of revision `from` and later, in order.
    ///
    /// [`Error::Compacted`] if changes since `from` are no longer kept. `Revision(0)` means from the very first.
    fn watch<'a>(&'a self, prefix: &'a str, from: Revision) -> BoxFuture<'a, Result<Watch, Error>>;

    /// Every change to keys from `first` on that come before `end` (to all of them if it is empty), of revision `from` and later, in order:
    /// for whoever wants all but what changes most. A store across a network tells nothing else; one in this process may leave it out here.
    fn watch_range<'a>(&'a self, first: &'a str, end: &'a str, from: Revision) -> BoxFuture<'a, Result<Watch, Error>> {
        Box::pin(async move { Ok(watch::within(self.watch("", from).await?, first, end)) })
    }

    /// The revision of the latest change.
    fn revision(&self) -> BoxFuture<'_, Result<Revision, Error>>;
}
