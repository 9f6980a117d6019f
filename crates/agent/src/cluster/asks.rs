//! What one agent asks of another, through the store: whoever reaches the store reaches every node.

use crate::agent::Agent;
use crate::executor::chain;
use crate::input::{Input, refused};
use api::Outcome;
use api::record::{self, Ask};
use decisions::{ClusterEvent, Event};
use model::{NodeName, Timestamp};
use std::sync::Arc;
use std::time::Duration;
use store::{Compare, Entry, Op, Store, Txn};
use tokio::sync::oneshot;

/// Who asked is told after this long that there was no answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(35);
/// And so long it is tried to withdraw it.
const WITHDRAW_WITHIN: Duration = Duration::from_secs(5);

impl Agent {
    /// Asks another node for something that nobody waits for.
    pub(crate) fn ask(&mut self, node: &NodeName, ask: &Ask) {
        let number = self.ask_number();
        self.write_ask(node, &number, ask);
    }

    /// Asks another node, and answers the operator when that did.
    pub(crate) fn forward(&mut self, node: &NodeName, ask: &Ask, answer: oneshot::Sender<Outcome>) {
        let number = self.ask_number();
        if let Some(refused) = self.not_begun() {
            let _ = answer.send(refused);
            return;
        }
        if let Some(cluster) = &mut self.clustered {
            if !cluster.sessions.contains_key(node) {
                let text = format!("node {node} is not there to do it");
                let _ = answer.send(refused(
                    text,
                    Some("`understudy status` shows which nodes are online".into()),
                ));
                return;
            }
            cluster.awaited.insert(number.clone(), answer);
        }
        let key = format!("{}{node}/{number}", record::ASKS);
        let Ok(value) = serde_json::to_vec(ask) else { return };
        let (store, inputs, node) = (Arc::clone(&self.store), self.inputs.clone(), node.clone());
        tokio::spawn(async move {
            let outcome = match store.txn(Txn::new().then(Op::put(&*key, value))).await {
                // Surely not written.
                Err(error @ (store::Error::Invalid(_) | store::Error::Server(_))) => {
                    let hint = error.hint().map(ToOwned::to_owned);
                    refused(
                        format!(
                            "node {node} could not be asked, and nothing was begun: {}",
                            chain(&error)
                        ),
                        hint,
                    )
                }
                _ => {
                    tokio::time::sleep(ANSWER_WITHIN).await;
                    unanswered(&node, withdraw(store.as_ref(), &key).await)
                }
            };
            let _ = inputs.send(Input::Answered { number, outcome });
        });
    }

    /// The same for requests whose answer may be a "no" of its own kind.
    pub(crate) fn forward_result(
        &mut self,
        node: &NodeName,
        ask: &Ask,
        answer: oneshot::Sender<Result<Outcome, Outcome>>,
    ) {
        let (told, outcome) = oneshot::channel();
        self.forward(node, ask, told);
        tokio::spawn(async move {
            if let Ok(outcome) = outcome.await {
                let _ = answer.send(if outcome.done { Ok(outcome) } else { Err(outcome) });
            }
        });
    }

    /// The node that holds the slot that a switchover is about, if that is another one; and our own name.
    pub(crate) fn held_elsewhere(&self, request: &api::SwitchoverRequest) -> Option<(NodeName, NodeName)> {
        let me = self.clustered.as_ref()?.me.clone();
        let service = request.service.parse().ok()?;
        let node = self.core.holder_node(&service, request.slot.unwrap_or(0))?;
        (node != me).then_some((node, me))
    }

    /// The node of an instance, if that is another one; and our own name.
    pub(crate) fn runs_elsewhere(&self, instance: &str) -> Option<(NodeName, NodeName)> {
        let me = self.clustered.as_ref()?.me.clone();
        let node = self.core.node_of(&instance.parse().ok()?)?;
        (node != me).then_some((node, me))
    }

    fn ask_number(&mut self) -> String {
        match &mut self.clustered {
            Some(cluster) => {
                cluster.next_ask += 1;
                format!("{}-{}", cluster.me, cluster.next_ask)
            }
            None => String::new(),
        }
    }

    fn write_ask(&self, node: &NodeName, number: &str, ask: &Ask) {
        match serde_json::to_vec(ask) {
            Ok(value) => {
                let key = format!("{}{node}/{number}", record::ASKS);
                self.write_down("a request to another node", Txn::new().then(Op::put(key, value)));
            }
            Err(error) => tracing::error!(%error, "a request cannot be written as JSON"),
        }
    }

    /// Somebody asks something of a node: `node/number`.
    pub(crate) fn asked(&mut self, ask: &str, entry: &Entry, now: Timestamp) {
        let Some((node, number)) = ask.split_once('/') else {
            return;
        };
        if self
            .clustered
            .as_ref()
            .is_none_or(|cluster| cluster.me.as_str() != node)
        {
            return;
        }
        let ask: Ask = match serde_json::from_slice(&entry.value) {
            Ok(ask) => ask,
            Err(error) => {
                tracing::error!(%error, "a request of another node cannot be read");
                self.write_down("that a request was taken", Txn::new().then(Op::delete(&*entry.key)));
                return;
            }
        };
        let number = number.to_owned();
        if !matches!(ask, Ask::Switchover { .. } | Ask::Drill { .. } | Ask::Retry { .. }) {
            self.write_down("that a request was taken", Txn::new().then(Op::delete(&*entry.key)));
            return self.do_ask(ask, number, now);
        }
        // Who asked may have been told that nothing came of it, and have withdrawn it: whoever takes it out of the store first is right.
        let (store, inputs, entry) = (Arc::clone(&self.store), self.inputs.clone(), entry.clone());
        tokio::spawn(async move {
            match take(store.as_ref(), &entry).await {
                Ok(true) => {
                    let ask = Box::new(ask);
                    let _ = inputs.send(Input::Later(super::Later::Took { number, ask }));
                }
                Ok(false) => tracing::info!(number, "a request of another node was withdrawn"),
                Err(error) => {
                    tracing::warn!(%error, number, "a request of another node cannot be taken, and is not carried out");
                }
            }
        });
    }

    /// Does what another node asks.
    pub(super) fn do_ask(&mut self, ask: Ask, number: String, now: Timestamp) {
        match ask {
            Ask::Renew { instance } => self
                .core
                .handle(Event::Cluster(ClusterEvent::RenewAsked { instance }), now),
            Ask::Prove { instance, number } => self
                .core
                .handle(Event::Cluster(ClusterEvent::ProofAsked { instance, number }), now),
            Ask::Left { instance, by } => self
                .core
                .handle(Event::Cluster(ClusterEvent::Left { instance, by }), now),
            Ask::Move {
                service,
                slot,
                to,
                drain,
            } => {
                let event = ClusterEvent::MoveAsked {
                    service,
                    slot,
                    to,
                    drain,
                };
                self.core.handle(Event::Cluster(event), now);
            }
            Ask::Switchover { request, from } => {
                let (answer, result) = oneshot::channel();
                let way_on = self.way_on(&request, now);
                self.switchover(&request, answer, now);
                self.answer_later(from, number, async move {
                    match result.await {
                        Ok(result) => crate::http::switchover_outcome(&request.service, way_on, result),
                        Err(_) => refused("the agent there ended meanwhile", None),
                    }
                });
            }
            Ask::Drill { request, from } => {
                let outcome = self.drill(&request, now).unwrap_or_else(|refused| refused);
                self.answer_later(from, number, async move { outcome });
            }
            Ask::Retry { instance, from } => {
                let outcome = self.retry(&instance, now).unwrap_or_else(|refused| refused);
                self.answer_later(from, number, async move { outcome });
            }
        }
    }

    fn answer_later(&self, to: NodeName, number: String, outcome: impl Future<Output = Outcome> + Send + 'static) {
        let store = Arc::clone(&self.store);
        tokio::spawn(async move {
            let outcome = outcome.await;
            let Ok(value) = serde_json::to_vec(&outcome) else {
                return;
            };
            let key = format!("{}{to}/{number}", record::ANSWERS);
            if let Err(error) = store.txn(Txn::new().then(Op::put(key, value))).await {
                tracing::warn!(%error, "an answer to another node is lost");
            }
        });
    }

    /// Another node answered: `node/number`.
    pub(crate) fn ask_answered(&mut self, answer: &str, entry: &Entry) {
        let Some(cluster) = &mut self.clustered else { return };
        let Some((node, number)) = answer.split_once('/') else {
            return;
        };
        if node != cluster.me.as_str() {
            return;
        }
        let waiting = cluster.awaited.remove(number);
        self.write_down("that an answer was taken", Txn::new().then(Op::delete(&*entry.key)));
        if let Some(waiting) = waiting {
            let outcome = serde_json::from_slice(&entry.value)
                .unwrap_or_else(|error| refused(format!("the answer cannot be read: {error}"), None));
            let _ = waiting.send(outcome);
        }
    }
}

/// Takes a request out of the store, to carry it out. Whether it was still there.
async fn take(store: &dyn Store, entry: &Entry) -> Result<bool, store::Error> {
    let txn = Txn::new()
        .when(Compare::modified(&*entry.key, entry.modified))
        .then(Op::delete(&*entry.key));
    Ok(store.txn(txn).await?.succeeded)
}

/// Takes a request out of the store that nobody answered. Whether nobody had taken it; nothing if that cannot be known.
async fn withdraw(store: &dyn Store, key: &str) -> Option<bool> {
    let txn = Txn::new().when(Compare::absent(key)).otherwise(Op::delete(key));
    let result = tokio::time::timeout(WITHDRAW_WITHIN, store.txn(txn)).await;
    Some(!result.ok()?.ok()?.succeeded)
}

/// What is known of a request that was not answered in time.
fn unanswered(node: &NodeName, withdrawn: Option<bool>) -> Outcome {
    let text = format!("node {node} did not answer within {} s", ANSWER_WITHIN.as_secs());
    let hint = "`understudy status` and `understudy events` show whether it does it";
    match withdrawn {
        Some(true) => refused(
            format!("{text} and had not begun: the request is withdrawn, and nothing was changed"),
            Some("`understudy status` shows which nodes are online".into()),
        ),
        Some(false) => refused(
            format!("{text}: it may have begun, and what becomes of it is not known"),
            Some(hint.into()),
        ),
        None => refused(
            format!("{text}, nor does the store: whether it begins, and what becomes of it, is not known"),
            Some(hint.into()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{take, unanswered, withdraw};
    use model::NodeName;
    use store::{Memory, Op, Store, Txn};

    #[tokio::test]
    async fn a_request_is_either_carried_out_or_withdrawn() {
        let store = Memory::default();
        let put = || Txn::new().then(Op::put("ask/b/a-1", "{}"));
        store.txn(put()).await.expect("it is written");
        let seen = store.list("ask/").await.expect("it is read").0.remove(0);
        assert_eq!(withdraw(&store, "ask/b/a-1").await, Some(true));
        assert!(
            !take(&store, &seen).await.expect("an answer"),
            "nobody waits for it any more"
        );

        store.txn(put()).await.expect("it is written");
        let seen = store.list("ask/").await.expect("it is read").0.remove(0);
        assert!(take(&store, &seen).await.expect("an answer"));
        assert!(!take(&store, &seen).await.expect("an answer"), "once");
        assert_eq!(withdraw(&store, "ask/b/a-1").await, Some(false));
        let node = NodeName::new("b").expect("a name");
        let told = |withdrawn| unanswered(&node, withdrawn).text;
        assert!(told(Some(true)).contains("withdrawn") && told(Some(false)).contains("not known"));
        assert!(told(None).contains("not known"));
    }
}
