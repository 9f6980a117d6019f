//! Renewals of single sessions, of many nodes: each is read, then watched from there; read again when the watch was lost.

use super::mirror::{Apart, RETRY, Seen};
use crate::input::Input;
use crate::journal::Inputs;
use decisions::Scoped;
use model::{NodeName, Revision};
use std::collections::BTreeMap;
use std::sync::Arc;
use store::Store;
use store::session::session_key;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Tells renewals of those who are in the scope, as long as not everything is watched anyway; for as long as the agent lives.
pub(crate) async fn run(store: Arc<dyn Store>, mut scopes: watch::Receiver<Scoped>, inputs: Inputs) {
    // Bound: nodes of the cluster.
    let mut told: BTreeMap<Key, JoinHandle<()>> = BTreeMap::new();
    loop {
        let wanted = scopes.borrow_and_update().apart().clone();
        // One that left the scope and came back since it was looked at last is another one: what was known of it is forgotten, and is read again.
        let (kept, dropped) = told
            .into_iter()
            .partition(|((node, number), _)| wanted.get(node) == Some(number));
        told = kept;
        let dropped: BTreeMap<Key, JoinHandle<()>> = dropped;
        for (_, task) in dropped {
            task.abort();
            // It says nothing any more: what another one says of the same session later is not mixed with it.
            let _ = task.await;
        }
        for key in wanted {
            let fresh = || tokio::spawn(tell(Arc::clone(&store), key.clone(), inputs.clone()));
            told.entry(key.clone()).or_insert_with(fresh);
        }
        if scopes.changed().await.is_err() {
            return;
        }
    }
}

/// Whose session, and by which change of the scope it came into it.
type Key = (NodeName, u64);

async fn tell(store: Arc<dyn Store>, key: Key, inputs: Inputs) {
    loop {
        let lost = match follow(store.as_ref(), &key, &inputs).await {
            Ok(()) => return,
            Err(error) => error,
        };
        tracing::debug!(node = %key.0, error = %lost, "renewals are not heard any more");
        if inputs.send(said(&key, Apart::Unheard)).is_err() {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Comes back when the agent ends, or the watch is lost.
async fn follow(store: &dyn Store, of: &Key, inputs: &Inputs) -> Result<(), store::Error> {
    let key = session_key(&of.0);
    let before = store.revision().await?;
    let entry = store.get(&key).await?;
    // Whatever came after what was read is told.
    let from = entry.as_ref().map_or(before, |entry| entry.modified);
    if inputs.send(said(of, Apart::Session(entry))).is_err() {
        return Ok(());
    }
    let mut watch = store
        .watch_range(&key, &format!("{key}\0"), Revision(from.0 + 1))
        .await?;
    loop {
        let changes = watch.next().await?.changes;
        if inputs.send(said(of, Apart::Renewals(changes))).is_err() {
            return Ok(());
        }
    }
}

fn said((node, number): &Key, told: Apart) -> Input {
    let (node, number) = (node.clone(), *number);
    Input::Seen(Seen::Apart { node, number, told })
}

#[cfg(test)]
mod tests {
    use super::*;
    use decisions::Scope;
    use decisions::lease::Observer;
    use std::collections::BTreeSet;
    use std::time::Duration;
    use store::{Change, Memory, Op, Txn};
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn renewals_are_told_of_those_in_the_scope_from_what_was_read_on() {
        let store = Arc::new(Memory::default());
        put(&store, "session/n1", "1").await;
        put(&store, "session/n10", "1").await;
        let mut told = Told::begin(&store, &["n1", "n3"]);
        let mut first = vec![told.next().await, told.next().await];
        first.sort();
        assert_eq!(first, ["n1 is 1", "n3 is away"]);

        put(&store, "session/n10", "2").await;
        put(&store, "session/n1", "2").await;
        assert_eq!(told.next().await, "n1 renewed 2", "and nothing of n10");
        put(&store, "session/n3", "1").await;
        assert_eq!(told.next().await, "n3 renewed 1");

        told.change(of(&["n3", "n10"]));
        assert_eq!(told.next().await, "n10 is 2");
        put(&store, "session/n1", "3").await;
        store
            .txn(Txn::new().then(Op::delete("session/n3")))
            .await
            .expect("a write");
        assert_eq!(told.next().await, "n3 ended", "and nothing of n1");

        told.change(Scope::Controller);
        tokio::time::sleep(Duration::from_millis(20)).await;
        put(&store, "session/n10", "3").await;
        let silent = tokio::time::timeout(Duration::from_millis(50), told.seen.recv()).await;
        assert!(silent.is_err(), "another watch tells everything");
    }

    /// A node that is dead renews nothing: what was forgotten of its session would never be known again.
    #[tokio::test]
    async fn who_left_the_scope_and_came_back_before_it_was_looked_at_is_read_again() {
        let store = Arc::new(Memory::default());
        put(&store, "session/n1", "1").await;
        put(&store, "session/n2", "1").await;
        let mut told = Told::begin(&store, &["n1", "n2"]);
        let mut first = vec![told.next().await, told.next().await];
        first.sort();
        assert_eq!(first, ["n1 is 1", "n2 is 1"]);
        // Nothing is awaited in between: the task that watches sees the last one alone.
        told.change(of(&["n1"]));
        told.change(of(&["n1", "n2"]));
        assert_eq!(told.next().await, "n2 is 1", "and n1 never left");
        told.change(Scope::Whole);
        told.change(of(&["n1"]));
        assert_eq!(told.next().await, "n1 is 1");
    }

    async fn put(store: &Memory, key: &str, value: &str) {
        store.txn(Txn::new().then(Op::put(key, value))).await.expect("a write");
    }

    fn of(nodes: &[&str]) -> Scope {
        let nodes = nodes.iter().map(|node| NodeName::new(*node).expect("a name"));
        Scope::Of(nodes.collect::<BTreeSet<_>>())
    }

    /// The main loop's end: it sets the scope, and takes in what counts.
    struct Told {
        scoped: Scoped,
        observer: Observer,
        scopes: watch::Sender<Scoped>,
        seen: mpsc::UnboundedReceiver<Input>,
    }

    impl Told {
        fn begin(store: &Arc<Memory>, nodes: &[&str]) -> Self {
            let (scopes, scope) = watch::channel(Scoped::default());
            let (inputs, seen) = mpsc::unbounded_channel();
            let mut told = Self {
                scoped: Scoped::default(),
                observer: Observer::new(model::Profile::Lan.timing()),
                scopes,
                seen,
            };
            told.change(of(nodes));
            tokio::spawn(run(Arc::clone(store) as Arc<dyn Store>, scope, inputs));
            told
        }

        fn change(&mut self, scope: Scope) {
            self.scoped.change(scope, &mut self.observer);
            self.scopes.send_replace(self.scoped.clone());
        }

        async fn next(&mut self) -> String {
            let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
            loop {
                let told = tokio::time::timeout(Duration::from_secs(10), self.seen.recv()).await;
                let Some(Input::Seen(Seen::Apart { node, number, told })) = told.expect("something is told in time")
                else {
                    panic!("something else was told")
                };
                if !self.scoped.tells(&node, number) {
                    continue;
                }
                return match told {
                    Apart::Session(Some(entry)) => format!("{node} is {}", text(&entry.value)),
                    Apart::Session(None) => format!("{node} is away"),
                    Apart::Renewals(changes) => match changes.as_slice() {
                        [Change::Put(entry)] => format!("{node} renewed {}", text(&entry.value)),
                        [Change::Delete { .. }] => format!("{node} ended"),
                        other => panic!("{other:?}"),
                    },
                    Apart::Unheard => format!("{node} is unheard"),
                };
            }
        }
    }
}
