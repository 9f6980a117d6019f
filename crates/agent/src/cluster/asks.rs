//! What one agent asks of another, through the store: whoever reaches the store reaches every node.

use crate::agent::Agent;
use crate::input::refused;
use api::Outcome;
use api::record::{self, Ask};
use decisions::{ClusterEvent, Event};
use model::{NodeName, Timestamp};
use std::sync::Arc;
use std::time::Duration;
use store::{Entry, Op, Txn};
use tokio::sync::oneshot;

/// Who asked is told after this long that there was no answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(35);

impl Agent {
    /// Asks another node for something that nobody waits for.
    pub(crate) fn ask(&mut self, node: &NodeName, ask: &Ask) {
        let number = self.ask_number();
        self.write_ask(node, &number, ask);
    }

    /// Asks another node, and answers the operator when that did.
    pub(crate) fn forward(&mut self, node: &NodeName, ask: &Ask, answer: oneshot::Sender<Outcome>) {
        let number = self.ask_number();
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
        self.write_ask(node, &number, ask);
        let (inputs, node) = (self.inputs.clone(), node.clone());
        tokio::spawn(async move {
            tokio::time::sleep(ANSWER_WITHIN).await;
            let text = format!("node {node} did not answer within {} s", ANSWER_WITHIN.as_secs());
            let outcome = refused(
                text,
                Some("look at `understudy events` there; it may still be doing it".into()),
            );
            let _ = inputs.send(crate::input::Input::Answered { number, outcome });
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
        self.write_down("that a request was taken", Txn::new().then(Op::delete(&*entry.key)));
        let ask: Ask = match serde_json::from_slice(&entry.value) {
            Ok(ask) => ask,
            Err(error) => {
                tracing::error!(%error, "a request of another node cannot be read");
                return;
            }
        };
        let number = number.to_owned();
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
