//! What the store says, as it changes: listed once, then watched from there; listed again when the watch was lost.

use crate::input::Input;
use crate::journal::Inputs;
use api::record;
use decisions::{Scope, Scoped};
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
    /// All there is; what is not in it is not there. Listed for a watch of that change of the scope ([`Scoped::opened`]).
    All { opened: u64, entries: Vec<Entry> },
    /// What one or more revisions changed, in order.
    Changes(Vec<Change>),
    /// The watch was lost: what follows next is `All`.
    Lost(String),
    /// It is opened anew, to tell more or less: what follows next is `All`.
    Anew,
    /// What is told of one session alone, by a watch of that change of the scope ([`Scoped::apart`]).
    Apart { node: NodeName, number: u64, told: Apart },
}

/// What the watch of one session says.
#[derive(Debug)]
pub(crate) enum Apart {
    /// The session as it is now, or that there is none: read before its renewals are told.
    Session(Option<Entry>),
    /// What changed of it.
    Renewals(Vec<Change>),
    /// The watch was lost: what follows next is `Session`.
    Unheard,
}

/// Everything was listed, for a watch of that change of the scope, as of that revision.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listed {
    pub(crate) opened: u64,
    pub(crate) revision: Revision,
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
        record::WORKED,
        record::GIVEN_UP,
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
        record::WHOLE,
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

/// Keeps telling what changes after what was `listed` first, for as long as the agent lives: everything, or all but renewals, which then
/// [`renewals`](super::renewals) tells of those who are in the scope.
pub(crate) async fn follow(
    store: Arc<dyn Store>,
    me: NodeName,
    listed: Listed,
    mut scopes: watch::Receiver<Scoped>,
    inputs: Inputs,
) {
    let mut first = Some(listed);
    loop {
        // Looked at before the list: what changes since ends the watch that begins there.
        let scoped = scopes.borrow_and_update().clone();
        let opened = scoped.opened();
        let first = first.take().filter(|listed| listed.opened == opened);
        let from = match first {
            Some(listed) => Revision(listed.revision.0 + 1),
            None => match list(store.as_ref(), &me).await {
                Ok((entries, revision)) => {
                    if inputs.send(Input::Seen(Seen::All { opened, entries })).is_err() {
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
        let lost = match Watches::open(store.as_ref(), &me, scoped.scope(), from).await {
            Ok(mut watches) => loop {
                let told = tokio::select! {
                    told = watches.next() => told,
                    changed = scopes.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        // Not by what it is: it may have changed, and changed back, since it was looked at last.
                        if scopes.borrow_and_update().opened() == opened {
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

#[cfg(test)]
mod tests {
    use super::*;
    use decisions::lease::Observer;
    use std::collections::BTreeSet;
    use store::Memory;
    use tokio::sync::mpsc;

    /// Whoever decides waits at each change until everything was read anew: if that never came, it would end no session any more.
    #[tokio::test]
    async fn a_scope_that_changed_and_changed_back_before_it_was_looked_at_is_listed_anew() {
        let store = Arc::new(Memory::default());
        let (mut scoped, mut observer) = (Scoped::default(), Observer::new(model::Profile::Lan.timing()));
        let (scopes, scope) = watch::channel(scoped.clone());
        let (inputs, mut seen) = mpsc::unbounded_channel();
        let me = NodeName::new("a").expect("a name");
        let listed = Listed {
            opened: scoped.opened(),
            revision: Revision(0),
        };
        // Both before it begins.
        scoped.change(Scope::Of(BTreeSet::new()), &mut observer);
        scoped.change(Scope::Whole, &mut observer);
        scopes.send_replace(scoped.clone());
        tokio::spawn(follow(Arc::clone(&store) as Arc<dyn Store>, me, listed, scope, inputs));
        assert_eq!(next_list(&mut seen).await, scoped.opened());
        // And both while it waits for something to change.
        tokio::time::sleep(Duration::from_millis(20)).await;
        scoped.change(Scope::Of(BTreeSet::new()), &mut observer);
        scopes.send_replace(scoped.clone());
        scoped.change(Scope::Controller, &mut observer);
        scopes.send_replace(scoped.clone());
        assert_eq!(next_list(&mut seen).await, scoped.opened());
    }

    async fn next_list(seen: &mut mpsc::UnboundedReceiver<Input>) -> u64 {
        loop {
            let told = tokio::time::timeout(Duration::from_secs(10), seen.recv()).await;
            if let Some(Input::Seen(Seen::All { opened, .. })) = told.expect("everything is listed in time") {
                return opened;
            }
        }
    }
}
