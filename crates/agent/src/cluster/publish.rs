//! Tells others of our instances: one record each, written when it changes; several changes at once are one write.

use crate::executor::chain;
use api::record::{self, Live};
use model::{InstanceId, NodeName, Revision};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use store::{Compare, Op, Store, Txn};
use tokio::sync::mpsc;

/// Records in one write: etcd takes 128 operations.
const AT_ONCE: usize = 100;
/// A write that failed is tried again after this long.
const RETRY: Duration = Duration::from_millis(100);

/// What is to be told.
pub(crate) enum Publish {
    /// This is how an instance is.
    Live(InstanceId, Box<Live>),
    /// From now on this is our session: what was told under another one is void.
    Session(Option<Revision>),
}

/// Writes records for as long as the agent lives.
pub(crate) async fn run(store: Arc<dyn Store>, me: NodeName, mut queue: mpsc::UnboundedReceiver<Publish>) {
    let mut session: Option<Revision> = None;
    let mut waiting: BTreeMap<InstanceId, Box<Live>> = BTreeMap::new();
    let session_key = store::session::session_key(&me);
    loop {
        if waiting.is_empty() || session.is_none() {
            match queue.recv().await {
                Some(publish) => take(publish, &mut session, &mut waiting),
                None => return,
            }
        }
        while let Ok(publish) = queue.try_recv() {
            take(publish, &mut session, &mut waiting);
        }
        let Some(ours) = session.filter(|_| !waiting.is_empty()) else {
            continue;
        };
        let batch: Vec<(InstanceId, Box<Live>)> = waiting
            .iter()
            .take(AT_ONCE)
            .map(|(id, live)| (id.clone(), live.clone()))
            .collect();
        let mut txn = Txn::new().when(Compare::created(&*session_key, ours));
        for (id, live) in &batch {
            let mut live = live.clone();
            live.session = ours;
            match serde_json::to_vec(&live) {
                Ok(value) => txn = txn.then(Op::put(live_key(id), value)),
                Err(error) => tracing::error!(%error, "cannot be written as JSON"),
            }
        }
        match store.txn(txn).await {
            Ok(result) => {
                if !result.succeeded {
                    // The session is another one by now; who renews it will say so, and then all is told again.
                    session = None;
                }
                for (id, live) in batch {
                    if waiting.get(&id) == Some(&live) {
                        waiting.remove(&id);
                    }
                }
            }
            Err(error) => {
                tracing::debug!(error = %chain(&error), "others cannot be told yet");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

fn take(publish: Publish, session: &mut Option<Revision>, waiting: &mut BTreeMap<InstanceId, Box<Live>>) {
    match publish {
        Publish::Live(id, live) => {
            waiting.insert(id, live);
        }
        Publish::Session(ours) => {
            if *session != ours {
                waiting.clear();
            }
            *session = ours;
        }
    }
}

/// The key of what is told of an instance.
pub(crate) fn live_key(id: &InstanceId) -> String {
    format!("{}{id}", record::LIVES)
}
