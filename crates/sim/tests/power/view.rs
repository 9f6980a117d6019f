//! What is in the store, decoded once for all who look.

use decisions::power::SETTLE;
use model::{FenceRecord, NodeName, Revision};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use store::fence::{self, FENCES};
use store::session::{self, Cause, Grave, SESSIONS, Session};
use store::{Memory, Store};

pub(crate) const SLOTS: &str = "slot/";

/// The store at a moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    pub(crate) sessions: BTreeMap<NodeName, Session>,
    pub(crate) ids: BTreeMap<NodeName, Revision>,
    pub(crate) fences: BTreeMap<NodeName, (FenceRecord, Revision)>,
    pub(crate) slots: BTreeMap<usize, Slot>,
    pub(crate) graves: Rc<BTreeMap<(NodeName, Revision), Cause>>,
}

/// Who holds a slot, and under which session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) holder: NodeName,
    pub(crate) under: Revision,
    pub(crate) modified: Revision,
}

impl View {
    /// What is there now; only what changed since `before` is read.
    pub(crate) fn read(store: &Memory, before: &View) -> Self {
        let mut view = View {
            graves: Rc::clone(&before.graves),
            ..View::default()
        };
        for entry in finish(store.list(SESSIONS)).unwrap().0 {
            let node = named(&entry.key, SESSIONS);
            let known = before.sessions.get(&node);
            let session = match known.filter(|session| session.id == entry.create) {
                // A renewal changes nothing else that anybody here looks at.
                Some(known) => Session {
                    modified: entry.modified,
                    ..known.clone()
                },
                None => finish(session::get(store, &node)).unwrap().unwrap(),
            };
            view.ids.insert(node.clone(), session.id);
            view.sessions.insert(node, session);
        }
        for (node, session) in &before.sessions {
            if view.ids.get(node) != Some(&session.id)
                && let Some(entry) = finish(store.get(&session::grave_key(node, session.id))).unwrap()
            {
                let grave: Grave = serde_json::from_slice(&entry.value).unwrap();
                Rc::make_mut(&mut view.graves).insert((node.clone(), session.id), grave.cause);
            }
        }
        for entry in finish(store.list(FENCES)).unwrap().0 {
            let node = named(&entry.key, FENCES);
            let known = before
                .fences
                .get(&node)
                .filter(|(_, revision)| *revision == entry.modified);
            let known = known.cloned();
            view.fences.insert(
                node,
                known.unwrap_or_else(|| (fence::read(&entry).unwrap(), entry.modified)),
            );
        }
        for entry in finish(store.list(SLOTS)).unwrap().0 {
            let slot = entry.key.strip_prefix(SLOTS).unwrap().parse().unwrap();
            let text = String::from_utf8(entry.value).unwrap();
            let (node, session) = text.split_once(' ').unwrap();
            let held = Slot {
                holder: NodeName::new(node).unwrap(),
                under: Revision(session.parse().unwrap()),
                modified: entry.modified,
            };
            view.slots.insert(slot, held);
        }
        view
    }

    /// Whether what ran at a node under a session is known to write no more.
    pub(crate) fn proves(&self, node: &NodeName, session: Revision) -> bool {
        let cause = self.graves.get(&(node.clone(), session));
        self.fences.get(node).is_some_and(|(record, _)| record.proves(session))
            || matches!(
                cause,
                Some(Cause::Closed | Cause::Rebooted | Cause::Fenced | Cause::Stated)
            )
    }
}

/// Everything here answers at once.
pub(crate) fn finish<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..100 {
        if let Poll::Ready(answer) = future.as_mut().poll(&mut context) {
            return answer;
        }
    }
    panic!("the store in memory does not answer");
}

/// How long the product waits for what was told to happen.
pub(crate) fn settle_ms() -> u64 {
    u64::try_from(SETTLE.as_millis()).unwrap()
}

fn named(key: &str, prefix: &str) -> NodeName {
    NodeName::new(key.strip_prefix(prefix).unwrap()).unwrap()
}
