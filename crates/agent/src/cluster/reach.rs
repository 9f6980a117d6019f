//! A store whose members and certificates come and go: whoever has it keeps it, while what is behind it is exchanged.

use crate::executor::chain;
use api::layout::Layout;
use api::node::Node;
use model::Revision;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::{BoxFuture, ChangeSource, Changes, Entry, Error, Store, Txn, TxnResult, Watch};
use tokio::sync::watch;

/// New connections for renewals are asked this often before they are used: a session must not wait for a handshake.
const WARM_TRIES: u32 = 20;
const WARM_PAUSE: Duration = Duration::from_millis(50);

/// The store as it is reached now.
pub(crate) struct Reach {
    inner: watch::Sender<Arc<dyn Store>>,
}

impl Reach {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            inner: watch::Sender::new(store),
        }
    }

    /// From the next call on another way is taken. Calls under way end as they would have; watches move over without losing a change.
    pub(crate) fn switch(&self, store: Arc<dyn Store>) {
        self.inner.send_replace(store);
    }

    fn now(&self) -> Arc<dyn Store> {
        Arc::clone(&self.inner.borrow())
    }

    async fn follow(&self, keys: Keys, from: Revision) -> Result<Watch, Error> {
        let mut ways = self.inner.subscribe();
        let store = Arc::clone(&ways.borrow_and_update());
        let watch = keys.watch(store.as_ref(), from).await?;
        Ok(Watch::new(Following {
            ways,
            keys,
            next: from,
            watch,
            moved: false,
        }))
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
        Box::pin(self.follow(Keys::Prefix(prefix.to_owned()), from))
    }

    fn watch_range<'a>(&'a self, first: &'a str, end: &'a str, from: Revision) -> BoxFuture<'a, Result<Watch, Error>> {
        Box::pin(self.follow(Keys::Range(first.to_owned(), end.to_owned()), from))
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision, Error>> {
        let store = self.now();
        Box::pin(async move { store.revision().await })
    }
}

/// What is watched.
enum Keys {
    Prefix(String),
    Range(String, String),
}

impl Keys {
    async fn watch(&self, store: &dyn Store, from: Revision) -> Result<Watch, Error> {
        match self {
            Keys::Prefix(prefix) => store.watch(prefix, from).await,
            Keys::Range(first, end) => store.watch_range(first, end, from).await,
        }
    }
}

/// A watch that goes on at the new way from where it was at the old one: the old one's certificates may end.
struct Following {
    ways: watch::Receiver<Arc<dyn Store>>,
    keys: Keys,
    /// All before this revision was told.
    next: Revision,
    watch: Watch,
    /// Another way is there and not taken yet.
    moved: bool,
}

impl ChangeSource for Following {
    fn next(&mut self) -> BoxFuture<'_, Result<Changes, Error>> {
        Box::pin(async move {
            loop {
                if self.moved {
                    let store = Arc::clone(&self.ways.borrow_and_update());
                    self.watch = self.keys.watch(store.as_ref(), self.next).await?;
                    self.moved = false;
                }
                tokio::select! {
                    biased;
                    told = self.watch.next() => {
                        let told = told?;
                        self.next = Revision(told.revision.0 + 1);
                        return Ok(told);
                    }
                    () = another(&mut self.ways) => self.moved = true,
                }
            }
        })
    }
}

async fn another(ways: &mut watch::Receiver<Arc<dyn Store>>) {
    if ways.changed().await.is_err() {
        // The agent ends; nobody exchanges anything any more.
        std::future::pending::<()>().await;
    }
}

/// All ways of this node to the store, and what they are made of.
pub(crate) struct Ways {
    /// For everybody.
    pub(crate) store: Arc<Reach>,
    /// For the session alone.
    pub(crate) renewals: Arc<Reach>,
    layout: Layout,
    node: Mutex<Node>,
    client: Mutex<etcd::Client>,
    /// One exchange at a time.
    exchanging: tokio::sync::Mutex<()>,
    exchanged: watch::Sender<u64>,
}

impl Ways {
    pub(crate) fn new(node: Node, layout: Layout, store: etcd::Etcd) -> Result<Self, etcd::Error> {
        let renewals = store.renewal_handle()?;
        Ok(Self {
            client: Mutex::new(store.client().clone()),
            store: Arc::new(Reach::new(Arc::new(store))),
            renewals: Arc::new(Reach::new(Arc::new(renewals))),
            layout,
            node: Mutex::new(node),
            exchanging: tokio::sync::Mutex::new(()),
            exchanged: watch::Sender::new(0),
        })
    }

    /// This node, with the members of the store as they are now.
    pub(crate) fn place(&self) -> membership::Place {
        membership::Place {
            layout: self.layout.clone(),
            node: self.node.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// What was left behind at these addresses of members of the store has joined anew.
    pub(crate) async fn forget_left_behind(&self, joined: &[String]) {
        // An exchange writes the same file.
        let _one = self.exchanging.lock().await;
        let node = {
            let mut node = self.node.lock().unwrap_or_else(PoisonError::into_inner);
            node.left_behind.retain(|url| !joined.contains(url));
            node.clone()
        };
        if let Err(error) = node.write(&self.layout.node()) {
            tracing::warn!(error = %chain(&error), "it cannot be noted that nodes have joined anew");
        }
    }

    /// How the store is reached now, for clients of their own; what was known of it is remembered.
    pub(crate) fn options(&self) -> Result<etcd::Options, String> {
        let place = self.place();
        let mut options = membership::etcd_options(&place.node, &place.layout).map_err(|error| chain(&error))?;
        options.known = self.client.lock().unwrap_or_else(PoisonError::into_inner).known();
        Ok(options)
    }

    /// Told at each exchange.
    pub(crate) fn exchanged(&self) -> watch::Receiver<u64> {
        self.exchanged.subscribe()
    }

    /// Makes all connections anew, to these endpoints (or to those known) and with the certificates that lie in the folder now. The old ones
    /// stay in use until the new ones answer, so that no call and no renewal meets a gap.
    pub(crate) async fn exchange(&self, endpoints: Option<Vec<String>>) -> Result<(), String> {
        let _one = self.exchanging.lock().await;
        let changed = endpoints.is_some();
        let mut options = self.options()?;
        if let Some(endpoints) = endpoints {
            options.endpoints = endpoints;
        }
        let endpoints = options.endpoints.clone();
        let fresh = etcd::Etcd::connect(options).await.map_err(|error| chain(&error))?;
        fresh.revision().await.map_err(|error| error.to_string())?;
        let renewing = fresh.renewal_handle().map_err(|error| chain(&error))?;
        let mut answer = renewing.revision().await;
        for _ in 0..WARM_TRIES {
            if answer.is_ok() {
                break;
            }
            tokio::time::sleep(WARM_PAUSE).await;
            answer = renewing.revision().await;
        }
        answer.map_err(|error| error.to_string())?;
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = fresh.client().clone();
        self.store.switch(Arc::new(fresh));
        self.renewals.switch(Arc::new(renewing));
        self.exchanged.send_modify(|times| *times += 1);
        if changed {
            let node = {
                let mut node = self.node.lock().unwrap_or_else(PoisonError::into_inner);
                node.store.endpoints = endpoints;
                node.clone()
            };
            if let Err(error) = node.write(&self.layout.node()) {
                tracing::warn!(error = %chain(&error), "the members of the store cannot be noted");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::{Change, Memory, Op};

    #[tokio::test]
    async fn a_watch_goes_on_where_it_was_when_the_way_is_exchanged() {
        let memory = Arc::new(Memory::with_history(100));
        let reach = Reach::new(Arc::new(Shared(Arc::clone(&memory))));
        let put = |value: &str| Txn::new().then(Op::put("k", value));
        memory.txn(put("1")).await.expect("a write");
        let mut watch = reach.watch("k", Revision(1)).await.expect("a watch");
        assert_eq!(value(&watch.next().await.expect("a change")), "1");
        // Written between the last change that was told and the exchange: neither lost nor told twice.
        memory.txn(put("2")).await.expect("a write");
        reach.switch(Arc::new(Shared(Arc::clone(&memory))));
        assert_eq!(value(&watch.next().await.expect("a change")), "2");
        memory.txn(put("3")).await.expect("a write");
        assert_eq!(value(&watch.next().await.expect("a change")), "3");
        // A call that was dropped half-way, just when the way was exchanged, loses nothing.
        reach.switch(Arc::new(Shared(Arc::clone(&memory))));
        let half = tokio::time::timeout(Duration::from_millis(20), watch.next()).await;
        assert!(half.is_err(), "{half:?}");
        memory.txn(put("4")).await.expect("a write");
        assert_eq!(value(&watch.next().await.expect("a change")), "4");
    }

    fn value(changes: &Changes) -> String {
        match changes.changes.as_slice() {
            [Change::Put(entry)] => String::from_utf8_lossy(&entry.value).into_owned(),
            other => panic!("{other:?}"),
        }
    }

    /// Two ways to one store.
    struct Shared(Arc<Memory>);

    impl Store for Shared {
        fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResult, Error>> {
            self.0.txn(txn)
        }

        fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, Error>> {
            self.0.get(key)
        }

        fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<(Vec<Entry>, Revision), Error>> {
            self.0.list(prefix)
        }

        fn watch<'a>(&'a self, prefix: &'a str, from: Revision) -> BoxFuture<'a, Result<Watch, Error>> {
            self.0.watch(prefix, from)
        }

        fn revision(&self) -> BoxFuture<'_, Result<Revision, Error>> {
            self.0.revision()
        }
    }
}
