//! What the store says, as it changes: listed once, then watched from there; listed again when the watch was lost.

use crate::input::Input;
use crate::journal::Inputs;
use api::record;
use model::{NodeName, Revision};
use std::sync::Arc;
use std::time::Duration;
use store::{Change, Entry, Store};

/// A store that does not answer is asked again after this long.
const RETRY: Duration = Duration::from_millis(200);

/// What the store says.
#[derive(Debug)]
pub(crate) enum Seen {
    /// All there is; what is not in it is not there.
    All(Vec<Entry>),
    /// What one or more revisions changed, in order.
    Changes(Vec<Change>),
    /// The watch was lost: what follows next is `All`.
    Lost(String),
}

/// Reads all that agents look at.
pub(crate) async fn list(store: &dyn Store, me: &NodeName) -> Result<(Vec<Entry>, Revision), store::Error> {
    let asks = format!("{}{me}/", record::ASKS);
    let answers = format!("{}{me}/", record::ANSWERS);
    let prefixes = [
        record::META,
        record::MEMBERS,
        store::session::SESSIONS,
        record::CURRENT,
        record::NUMBERS,
        record::COUNTS,
        record::PAUSED,
        record::NODES,
        record::REBALANCE,
        record::PARKS,
        record::DEEDS,
        record::INSTANCES,
        record::SLOTS,
        record::LIVES,
        record::CONTROLLER,
        &asks,
        &answers,
    ];
    let mut entries = Vec::new();
    let mut from: Option<Revision> = None;
    for prefix in prefixes {
        let (listed, revision) = store.list(prefix).await?;
        // What changes between the first list and the last one is seen twice, which harms nothing.
        from.get_or_insert(revision);
        entries.extend(listed);
    }
    Ok((entries, from.unwrap_or_default()))
}

/// Keeps telling what changes after `from`, for as long as the agent lives.
pub(crate) async fn follow(store: Arc<dyn Store>, me: NodeName, from: Revision, inputs: Inputs) {
    let mut next = Some(Revision(from.0 + 1));
    loop {
        let from = match next.take() {
            Some(from) => from,
            None => match list(store.as_ref(), &me).await {
                Ok((entries, revision)) => {
                    if inputs.send(Input::Seen(Seen::All(entries))).is_err() {
                        return;
                    }
                    Revision(revision.0 + 1)
                }
                Err(error) => {
                    tracing::debug!(%error, "the store cannot be read");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            },
        };
        let lost = match store.watch("", from).await {
            Ok(mut watch) => loop {
                match watch.next().await {
                    Ok(changes) => {
                        let ours = |change: &Change| !key_of(change).starts_with(record::APPLICATIONS);
                        let changes: Vec<Change> = changes.changes.into_iter().filter(ours).collect();
                        if !changes.is_empty() && inputs.send(Input::Seen(Seen::Changes(changes))).is_err() {
                            return;
                        }
                    }
                    Err(error) => break error,
                }
            },
            Err(error) => error,
        };
        if inputs.send(Input::Seen(Seen::Lost(lost.to_string()))).is_err() {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The key that a change is about.
pub(crate) fn key_of(change: &Change) -> &str {
    match change {
        Change::Put(entry) => &entry.key,
        Change::Delete { key } => key,
    }
}
