//! Renewals of single sessions, of many nodes: each is read, then watched from there; read again when the watch was lost.

use super::mirror::{RETRY, Seen};
use crate::input::Input;
use crate::journal::Inputs;
use decisions::Scope;
use model::{NodeName, Revision};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use store::Store;
use store::session::session_key;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Tells renewals of those who are in the scope, as long as not everything is watched anyway; for as long as the agent lives.
pub(crate) async fn run(store: Arc<dyn Store>, mut scopes: watch::Receiver<Scope>, inputs: Inputs) {
    // Bound: nodes of the cluster.
    let mut told: BTreeMap<NodeName, JoinHandle<()>> = BTreeMap::new();
    loop {
        let wanted = match &*scopes.borrow_and_update() {
            Scope::Of(nodes) => nodes.clone(),
            Scope::Whole | Scope::Controller => BTreeSet::new(),
        };
        let (kept, dropped) = told.into_iter().partition(|(node, _)| wanted.contains(node));
        told = kept;
        let dropped: BTreeMap<NodeName, JoinHandle<()>> = dropped;
        for (_, task) in dropped {
            task.abort();
            // It says nothing any more: what another one says of the same session later is not mixed with it.
            let _ = task.await;
        }
        for node in wanted {
            let fresh = || tokio::spawn(tell(Arc::clone(&store), node.clone(), inputs.clone()));
            told.entry(node.clone()).or_insert_with(fresh);
        }
        if scopes.changed().await.is_err() {
            return;
        }
    }
}

async fn tell(store: Arc<dyn Store>, node: NodeName, inputs: Inputs) {
    loop {
        let lost = match follow(store.as_ref(), &node, &inputs).await {
            Ok(()) => return,
            Err(error) => error,
        };
        tracing::debug!(%node, error = %lost, "renewals are not heard any more");
        if inputs.send(Input::Seen(Seen::Unheard(node.clone()))).is_err() {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Comes back when the agent ends, or the watch is lost.
async fn follow(store: &dyn Store, node: &NodeName, inputs: &Inputs) -> Result<(), store::Error> {
    let key = session_key(node);
    let before = store.revision().await?;
    let entry = store.get(&key).await?;
    // Whatever came after what was read is told.
    let from = entry.as_ref().map_or(before, |entry| entry.modified);
    if inputs.send(Input::Seen(Seen::Session(node.clone(), entry))).is_err() {
        return Ok(());
    }
    let mut watch = store
        .watch_range(&key, &format!("{key}\0"), Revision(from.0 + 1))
        .await?;
    loop {
        let changes = watch.next().await?.changes;
        if inputs.send(Input::Seen(Seen::Renewals(node.clone(), changes))).is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use store::{Change, Memory, Op, Txn};
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn renewals_are_told_of_those_in_the_scope_from_what_was_read_on() {
        let store = Arc::new(Memory::default());
        put(&store, "session/n1", "1").await;
        put(&store, "session/n10", "1").await;
        let (scopes, scope) = watch::channel(of(&["n1", "n3"]));
        let (inputs, mut seen) = mpsc::unbounded_channel();
        tokio::spawn(run(Arc::clone(&store) as Arc<dyn Store>, scope, inputs));
        let mut first = vec![next(&mut seen).await, next(&mut seen).await];
        first.sort();
        assert_eq!(first, ["n1 is 1", "n3 is away"]);

        put(&store, "session/n10", "2").await;
        put(&store, "session/n1", "2").await;
        assert_eq!(next(&mut seen).await, "n1 renewed 2", "and nothing of n10");
        put(&store, "session/n3", "1").await;
        assert_eq!(next(&mut seen).await, "n3 renewed 1");

        scopes.send_replace(of(&["n3", "n10"]));
        assert_eq!(next(&mut seen).await, "n10 is 2");
        put(&store, "session/n1", "3").await;
        store
            .txn(Txn::new().then(Op::delete("session/n3")))
            .await
            .expect("a write");
        assert_eq!(next(&mut seen).await, "n3 ended", "and nothing of n1");

        scopes.send_replace(Scope::Controller);
        tokio::time::sleep(Duration::from_millis(20)).await;
        put(&store, "session/n10", "3").await;
        let silent = tokio::time::timeout(Duration::from_millis(50), seen.recv()).await;
        assert!(silent.is_err(), "another watch tells everything");
    }

    async fn put(store: &Memory, key: &str, value: &str) {
        store.txn(Txn::new().then(Op::put(key, value))).await.expect("a write");
    }

    fn of(nodes: &[&str]) -> Scope {
        let nodes = nodes.iter().map(|node| NodeName::new(*node).expect("a name"));
        Scope::Of(nodes.collect::<BTreeSet<_>>())
    }

    async fn next(seen: &mut mpsc::UnboundedReceiver<Input>) -> String {
        let told = tokio::time::timeout(Duration::from_secs(10), seen.recv()).await;
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        match told.expect("something is told in time") {
            Some(Input::Seen(Seen::Session(node, Some(entry)))) => format!("{node} is {}", text(&entry.value)),
            Some(Input::Seen(Seen::Session(node, None))) => format!("{node} is away"),
            Some(Input::Seen(Seen::Renewals(node, changes))) => match changes.as_slice() {
                [Change::Put(entry)] => format!("{node} renewed {}", text(&entry.value)),
                [Change::Delete { .. }] => format!("{node} ended"),
                other => panic!("{other:?}"),
            },
            _ => panic!("something else was told"),
        }
    }
}
