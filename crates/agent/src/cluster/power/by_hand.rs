//! `understudy fence NODE`: somebody's power is taken away at an operator's wish.

use super::words::words;
use super::{Facts, devices};
use crate::agent::Agent;
use crate::clock;
use crate::input::refused;
use api::Outcome;
use api::record;
use decisions::power::Begin;
use model::{NodeName, Revision};
use store::{Op, Txn};
use tokio::sync::oneshot;

impl Agent {
    /// `understudy fence NODE`: its power is taken away at an operator's wish, or its devices are asked whether they would.
    pub(crate) fn fence_by_hand(
        &mut self,
        request: &api::FenceRequest,
        answer: oneshot::Sender<Result<Outcome, Outcome>>,
    ) {
        let place = self
            .cluster
            .site
            .nodes
            .iter()
            .find(|(name, _)| name.as_str() == request.node);
        let Some((node, place)) = place.filter(|(_, place)| !place.fence.is_empty()) else {
            let text = format!(
                "no device is declared that takes the power of node `{}` away",
                request.node
            );
            let hint = format!("`[node.{}.fence]` in the file declares one", request.node);
            let _ = answer.send(Err(refused(text, Some(hint))));
            return;
        };
        let node = node.clone();
        if request.test {
            let devices = place.fence.clone();
            tokio::spawn(async move {
                let _ = answer.send(devices::test(&node, &devices).await);
            });
            return;
        }
        match self.may_fence_by_hand(&node) {
            Err(why) => drop(answer.send(Err(why))),
            Ok(begin) => {
                let text = format!("took the power of node {node} away");
                let at = clock::wall_now();
                let deed = self.deed(at, &request.by, "fence", node.as_str(), text);
                if let Ok(value) = serde_json::to_vec(&deed) {
                    let key = record::deed_key(at, &deed.through);
                    self.write_down(
                        "who takes the power of a node away",
                        Txn::new().then(Op::put(key, value)),
                    );
                }
                if let Some(cluster) = &mut self.clustered {
                    cluster.power.waiting.insert(node.clone(), answer);
                }
                self.fence(begin, format!("{} asked for it", request.by));
            }
        }
    }

    fn may_fence_by_hand(&mut self, node: &NodeName) -> Result<Begin, Outcome> {
        let unproven = self.core.unproven_nodes();
        let only_here = |text: &str| refused(text, Some("`understudy status` shows what is".into()));
        let Some(cluster) = &mut self.clustered else {
            return Err(only_here("one machine takes nobody's power away"));
        };
        if *node == cluster.me {
            return Err(refused(
                format!("node {node} is the one that is asked: nobody would be left to see that it is off"),
                Some("ask the agent of another node".into()),
            ));
        }
        if cluster.session.is_none() || cluster.answering.lost().is_some() {
            return Err(only_here(
                "this node has no session, or the store does not answer: whoever fences must have the majority",
            ));
        }
        let facts = Facts::of(cluster, &self.cluster, unproven);
        let snapshot = facts.situation(cluster);
        let begin = cluster.power.fencer.by_hand(node, &snapshot).map_err(|why| {
            refused(
                words(node, &why),
                Some("`understudy status` shows how far it is".into()),
            )
        })?;
        if begin.session == Revision(0) {
            cluster.power.fencer.ended(node);
            let text = format!("node {node} has no session and holds nothing: there is nothing to fence");
            return Err(only_here(&text));
        }
        Ok(begin)
    }
}
