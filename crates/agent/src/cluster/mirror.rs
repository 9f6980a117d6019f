//! What the store says, as it changes: listed once, then watched from there; listed again when the watch was lost.

use crate::input::Input;
use crate::journal::Inputs;
use api::record;
use decisions::Scope;
use model::{NodeName, Revision};
use std::sync::Arc;
use std::time::Duration;
use store::session::SESSIONS;
use store::{Change, Changes, Entry, Store, Watch};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// A store that does not answer is asked again after this long.
pub(super) const RETRY: Duration = Duration::from_millis(200);
/// A controller of a thousand nodes is told some 5,000 renewals a second.
const GATHERED: Duration = Duration::from_millis(20);

/// What the store says.
#[derive(Debug)]
pub(crate) enum Seen {
    /// All there is; what is not in it is not there.
    All(Vec<Entry>),
    /// What one or more revisions changed, in order.
    Changes(Vec<Change>),
    /// The watch was lost: what follows next is `All`.
    Lost(String),
    /// It is opened anew, to tell more or less: what follows next is `All`.
    Anew,
    /// A session as it is now, or that there is none: read before its renewals are told.
    Session(NodeName, Option<Entry>),
    /// What changed of one session.
    Renewals(NodeName, Vec<Change>),
    /// The watch of that session was lost: what follows next of it is `Session`.
    Unheard(NodeName),
}

/// Reads all that agents look at.
pub(crate) async fn list(store: &dyn Store, me: &NodeName) -> Result<(Vec<Entry>, Revision), store::Error> {
    let asks = format!("{}{me}/", record::ASKS);
    let answers = format!("{}{me}/", record::ANSWERS);
    let prefixes = [
        record::META,
        record::MEMBERS,
        record::HARDWARE,
        record::DEVICE_CHECKS,
        store::fence::FENCES,
        SESSIONS,
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

/// Keeps telling what changes after `from`, for as long as the agent lives: everything, or all but renewals, which then
/// [`renewals`](super::renewals) tells of those who are in the scope.
pub(crate) async fn follow(
    store: Arc<dyn Store>,
    me: NodeName,
    from: Revision,
    mut scopes: watch::Receiver<Scope>,
    inputs: Inputs,
) {
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
        let scope = scopes.borrow_and_update().clone();
        let lost = match Watches::open(store.as_ref(), &me, &scope, from).await {
            Ok(mut watches) => loop {
                let told = tokio::select! {
                    told = watches.next() => told,
                    changed = scopes.changed() => {
                        let all = scopes.borrow_and_update().has_all();
                        if changed.is_err() {
                            return;
                        }
                        if all == scope.has_all() {
                            continue;
                        }
                        break None;
                    }
                };
                match told {
                    Ok(changes) if changes.is_empty() => {}
                    Ok(changes) => {
                        if inputs.send(Input::Seen(Seen::Changes(changes))).is_err() {
                            return;
                        }
                    }
                    Err(error) => break Some(error),
                }
            },
            Err(error) => Some(error),
        };
        let seen = match &lost {
            Some(lost) => Seen::Lost(lost.to_string()),
            None => Seen::Anew,
        };
        if inputs.send(Input::Seen(seen)).is_err() {
            return;
        }
        if lost.is_some() {
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// What is watched. Two that are opened apart tell nothing of each other: what one tells may come before what the other tells of an earlier
/// revision, and all that is decided by it is compared when it is written.
enum Watches {
    Whole(Watch),
    /// The same of many nodes: what comes within [`GATHERED`] is told at once, or the main loop would do nothing but hear of renewals.
    Gathered {
        watch: Watch,
        /// What has come, and until when more is waited for.
        come: Vec<Change>,
        until: Option<Instant>,
    },
    /// What is before the sessions, what is after them, and what others answer us.
    Parts(Box<[Watch; 3]>),
}

impl Watches {
    async fn open(store: &dyn Store, me: &NodeName, scope: &Scope, from: Revision) -> Result<Self, store::Error> {
        match scope {
            Scope::Whole => Ok(Self::Whole(store.watch("", from).await?)),
            Scope::Controller => Ok(Self::Gathered {
                watch: store.watch("", from).await?,
                come: Vec::new(),
                until: None,
            }),
            Scope::Of(_) => {
                let answers = format!("{}{me}/", record::ANSWERS);
                let parts = [
                    store.watch_range(&after(record::APPLICATIONS), SESSIONS, from).await?,
                    store.watch_range(&after(SESSIONS), "", from).await?,
                    store.watch(&answers, from).await?,
                ];
                Ok(Self::Parts(Box::new(parts)))
            }
        }
    }

    /// What is told next. May be dropped half-way.
    async fn next(&mut self) -> Result<Vec<Change>, store::Error> {
        let ours = |changes: Changes| {
            let ours = |change: &Change| !key_of(change).starts_with(record::APPLICATIONS);
            changes.changes.into_iter().filter(ours)
        };
        match self {
            Self::Whole(watch) => Ok(ours(watch.next().await?).collect()),
            Self::Gathered { watch, come, until } => {
                loop {
                    let told = match *until {
                        None => watch.next().await?,
                        Some(until) => match timeout_at(until, watch.next()).await {
                            Ok(told) => told?,
                            Err(_) => break,
                        },
                    };
                    come.extend(ours(told));
                    until.get_or_insert_with(|| Instant::now() + GATHERED);
                }
                *until = None;
                Ok(std::mem::take(come))
            }
            Self::Parts(parts) => {
                let [first, second, answers] = &mut **parts;
                let told = tokio::select! {
                    told = second.next() => told,
                    told = first.next() => told,
                    told = answers.next() => told,
                };
                Ok(ours(told?).collect())
            }
        }
    }
}

/// The first key after all that begin with a prefix that ends with a slash.
fn after(prefix: &str) -> String {
    format!("{}0", prefix.trim_end_matches('/'))
}

/// The key that a change is about.
pub(crate) fn key_of(change: &Change) -> &str {
    match change {
        Change::Put(entry) => &entry.key,
        Change::Delete { key } => key,
    }
}
