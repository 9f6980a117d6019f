//! A store whose members come and go: whoever has it keeps it, while what is behind it is exchanged.

use model::Revision;
use std::sync::{Arc, PoisonError, RwLock};
use store::{BoxFuture, Entry, Error, Store, Txn, TxnResult, Watch};

/// The store as it is reached now.
pub(crate) struct Reach {
    inner: RwLock<Arc<dyn Store>>,
}

impl Reach {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            inner: RwLock::new(store),
        }
    }

    /// From the next call on another way is taken. Calls under way end as they would have.
    pub(crate) fn switch(&self, store: Arc<dyn Store>) {
        *self.inner.write().unwrap_or_else(PoisonError::into_inner) = store;
    }

    fn now(&self) -> Arc<dyn Store> {
        Arc::clone(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Store for Reach {
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResult, Error>> {
        let store = self.now();
        Box::pin(async move { store.txn(txn).await })
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, Error>> {
        let store = self.now();
        Box::pin(async move { store.get(key).await })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<(Vec<Entry>, Revision), Error>> {
        let store = self.now();
        Box::pin(async move { store.list(prefix).await })
    }

    fn watch<'a>(&'a self, prefix: &'a str, from: Revision) -> BoxFuture<'a, Result<Watch, Error>> {
        let store = self.now();
        Box::pin(async move { store.watch(prefix, from).await })
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision, Error>> {
        let store = self.now();
        Box::pin(async move { store.revision().await })
    }
}
