//! The store for session renewals: a thread, a runtime and connections that it shares with nobody.

use crate::client::Client;
use crate::{Error, Etcd, Options};
use model::Revision;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use store::{BoxFuture, Entry, Store, Txn, TxnResult, Watch};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A store whose transactions may be carried out twice, for renewals and the read probes between them.
///
/// A transaction is sent to a second member if the first has not answered after half of its deadline, and if the first
/// connection breaks. Of a renewal either copy will do. Its thread is called `renewals`, and ends with the handle.
pub struct Renewals {
    etcd: Etcd,
    runtime: Handle,
    /// Dropped to end the thread.
    _alive: oneshot::Sender<()>,
}

impl Renewals {
    pub(crate) fn start(options: Options) -> Result<Self, Error> {
        let etcd = Etcd::new(options)?;
        let failed = |error: std::io::Error| Error::Option {
            option: "renewal",
            reason: format!("no thread for it: {error}"),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let handle = runtime.handle().clone();
        let (alive, ended) = oneshot::channel::<()>();
        let client = etcd.client().clone();
        std::thread::Builder::new()
            .name("renewals".into())
            .spawn(move || {
                runtime.block_on(async {
                    client.warm();
                    drop(client);
                    // Ends with an error, when the handle is dropped.
                    let _ = ended.await;
                });
                // A name that is being looked up is not waited for.
                runtime.shutdown_background();
            })
            .map_err(failed)?;
        Ok(Self {
            etcd,
            runtime: handle,
            _alive: alive,
        })
    }

    /// Its client, which shares nothing with that of the store it was made from.
    pub fn client(&self) -> &Client {
        self.etcd.client()
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, store::Error>> + Send + 'static,
    ) -> Result<T, store::Error> {
        match OnThread(self.runtime.spawn(work)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(store::Error::Closed),
        }
    }
}

impl Store for Renewals {
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResult, store::Error>> {
        let etcd = self.etcd.clone();
        Box::pin(self.run(async move { etcd.txn(txn).await }))
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, store::Error>> {
        let (etcd, key) = (self.etcd.clone(), key.to_owned());
        Box::pin(self.run(async move { etcd.get(&key).await }))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<(Vec<Entry>, Revision), store::Error>> {
        let (etcd, prefix) = (self.etcd.clone(), prefix.to_owned());
        Box::pin(self.run(async move { etcd.list(&prefix).await }))
    }

    fn watch<'a>(&'a self, prefix: &'a str, from: Revision) -> BoxFuture<'a, Result<Watch, store::Error>> {
        let (etcd, prefix) = (self.etcd.clone(), prefix.to_owned());
        Box::pin(self.run(async move { etcd.watch(&prefix, from).await }))
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision, store::Error>> {
        let etcd = self.etcd.clone();
        Box::pin(self.run(async move { etcd.revision().await }))
    }
}

/// Work on the thread, which ends when nobody waits for it any more.
struct OnThread<T>(JoinHandle<T>);

impl<T> Future for OnThread<T> {
    type Output = Result<T, tokio::task::JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl<T> Drop for OnThread<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
