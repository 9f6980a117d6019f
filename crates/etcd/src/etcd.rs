//! The store itself.

use crate::client::{Client, Kind};
use crate::convert::{entry_of, result_of, txn_of};
use crate::keys::Prefix;
use crate::options::Class;
use crate::pb::{RangeRequest, RangeResponse};
use crate::renewals::Renewals;
use crate::{Error, Options, watch};
use model::Revision;
use store::{BoxFuture, Entry, Op, Store, Txn, TxnResult, Watch};

// A page of the longest values fits into memory, and a few thousand records need a few round trips.
const PAGE: i64 = 256;
// A list whose pages are compacted away under it is begun again; with five minutes between compactions once is plenty.
const LISTS_MAX: usize = 3;

/// A store on etcd. Clones share connections.
#[derive(Clone)]
pub struct Etcd {
    client: Client,
    prefix: Prefix,
    read: Class,
    write: Class,
}

impl Etcd {
    /// A store that connects when it is first used.
    pub fn new(options: Options) -> Result<Self, Error> {
        Ok(Self::on(Client::new(options)?))
    }

    /// A store, and the proof that a member of the right cluster answers and that none of another one does.
    pub async fn connect(options: Options) -> Result<Self, Error> {
        Ok(Self::on(Client::connect(options).await?))
    }

    /// A store through this client.
    pub fn on(client: Client) -> Self {
        let options = &client.shared().options;
        Self {
            prefix: Prefix::new(&options.prefix),
            read: options.read,
            write: options.write,
            client,
        }
    }

    /// The same store with other deadlines for reads and transactions.
    #[must_use]
    pub fn with_deadlines(&self, read: Class, write: Class) -> Self {
        Self {
            read,
            write,
            ..self.clone()
        }
    }

    /// Its client, for administration.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The same store for session renewals: with a thread, connections and deadlines (`Options::renewal`) of its own, so
    /// that nothing else here can hold a renewal up. It begins to connect at once.
    pub fn renewal_handle(&self) -> Result<Renewals, Error> {
        let options = self.client.shared().options.clone();
        Renewals::start(Options {
            read: options.renewal,
            write: options.renewal,
            known: self.client.known().or(options.known),
            ..options
        })
    }

    async fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Error> {
        self.client.shared().call(self.read, Kind::Read, request).await
    }

    async fn carry_out(&self, txn: &Txn) -> Result<TxnResult, Error> {
        let message = txn_of(&self.prefix, txn);
        let (class, kind) = match may_change(txn) {
            true => (self.write, Kind::Write),
            false => (self.read, Kind::Read),
        };
        let answer = self.client.shared().call(class, kind, &message).await?;
        Ok(result_of(&self.prefix, answer))
    }

    async fn entries(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), Error> {
        for _ in 1..LISTS_MAX {
            match self.pages(prefix).await {
                Err(Error::Compacted { .. }) => {}
                other => return other,
            }
        }
        self.pages(prefix).await
    }

    /// All pages of a list, each as it was at the revision of the first.
    async fn pages(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), Error> {
        let (mut key, range_end) = self.prefix.range(prefix);
        let mut entries = Vec::new();
        let mut at = 0;
        loop {
            let page = self
                .range(&RangeRequest {
                    key,
                    range_end: range_end.clone(),
                    limit: PAGE,
                    revision: at,
                    ..RangeRequest::default()
                })
                .await?;
            if at == 0 {
                at = page.header.unwrap_or_default().revision;
            }
            let last = page.kvs.last().map(|kv| kv.key.clone());
            entries.extend(page.kvs.into_iter().filter_map(|kv| entry_of(&self.prefix, kv)));
            let (true, Some(last)) = (page.more, last) else {
                return Ok((entries, Revision(u64::try_from(at).unwrap_or(0))));
            };
            key = last;
            key.push(0);
        }
    }

    async fn latest(&self) -> Result<Revision, Error> {
        let answer = self
            .range(&RangeRequest {
                key: self.prefix.probe(),
                keys_only: true,
                ..RangeRequest::default()
            })
            .await?;
        let revision = answer.header.unwrap_or_default().revision;
        Ok(Revision(u64::try_from(revision).unwrap_or(0)))
    }

    /// Refuses what is no longer kept, so that whoever watches learns it at once.
    async fn watch_from(&self, range: (Vec<u8>, Vec<u8>), from: Revision) -> Result<Watch, Error> {
        let before = from.0.saturating_sub(1).max(1);
        let now = self.latest().await?;
        if before <= now.0 {
            let (key, range_end) = range.clone();
            let asked = self
                .range(&RangeRequest {
                    key,
                    range_end,
                    limit: 1,
                    revision: i64::try_from(before).unwrap_or(i64::MAX),
                    keys_only: true,
                    ..RangeRequest::default()
                })
                .await;
            match asked {
                // Only a watch is told since when changes are kept.
                Err(Error::Compacted { .. }) => {
                    let oldest = watch::oldest(&self.client, range).await?;
                    return Err(Error::Compacted { oldest });
                }
                other => other?,
            };
        }
        Ok(watch::start(
            &self.client,
            self.prefix.clone(),
            range,
            from.max(Revision(1)),
        ))
    }
}

impl Store for Etcd {
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResult, store::Error>> {
        Box::pin(async move {
            txn.validate()?;
            Ok(self.carry_out(&txn).await?)
        })
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, store::Error>> {
        Box::pin(async move {
            store::check_key(key)?;
            let request = RangeRequest {
                key: self.prefix.key(key),
                ..RangeRequest::default()
            };
            let found = self.range(&request).await?.kvs;
            Ok(found.into_iter().find_map(|kv| entry_of(&self.prefix, kv)))
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<(Vec<Entry>, Revision), store::Error>> {
        Box::pin(async move { Ok(self.entries(prefix).await?) })
    }

    fn watch<'a>(&'a self, prefix: &'a str, from: Revision) -> BoxFuture<'a, Result<Watch, store::Error>> {
        Box::pin(async move { Ok(self.watch_from(self.prefix.range(prefix), from).await?) })
    }

    fn watch_range<'a>(
        &'a self,
        first: &'a str,
        end: &'a str,
        from: Revision,
    ) -> BoxFuture<'a, Result<Watch, store::Error>> {
        Box::pin(async move { Ok(self.watch_from(self.prefix.between(first, end), from).await?) })
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision, store::Error>> {
        Box::pin(async move { Ok(self.latest().await?) })
    }
}

fn may_change(txn: &Txn) -> bool {
    let changes = |op: &Op| !matches!(op, Op::Get { .. });
    txn.then.iter().chain(&txn.otherwise).any(changes)
}
