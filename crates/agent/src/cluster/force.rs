//! T12: at an operator's word the session of a node that is off is ended before it has run out; its slots are then taken as any others.

use super::clock as marks;
use crate::agent::Agent;
use crate::clock;
use crate::executor::chain;
use crate::input::{done, refused};
use crate::wishes::no_store;
use api::record;
use api::{ForceRequest, Outcome};
use decisions::lease::{self, Forcing, NotForced};
use model::{FenceRecord, FenceState, NodeName, Revision, SlotId, Timestamp};
use std::sync::Arc;
use std::time::Duration;
use store::session::{self, Ending, Ground, Session};
use store::{Op, Store, Txn};
use tokio::sync::oneshot;

/// A store that does not answer an operator within this is told to be lost.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A slot as it is held now.
struct Held {
    key: String,
    revision: Revision,
}

impl Agent {
    /// How a slot and the node that is stated to be off stand.
    pub(crate) fn forcing(&self, slot: &SlotId, node: &NodeName) -> Forcing {
        let Some(cluster) = &self.clustered else {
            return Forcing {
                me: None,
                node: node.clone(),
                holder: None,
                sessions: (Revision(0), None),
                silent: None,
                unproven: false,
                store_answers: true,
            };
        };
        let entry = cluster.slots.get(slot);
        let held = entry.and_then(|entry| serde_json::from_slice::<record::Slot>(&entry.value).ok());
        let held = held.filter(|held| held.state == record::SlotState::Held);
        let under = held.as_ref().and_then(|held| held.session).unwrap_or_default();
        Forcing {
            me: Some(cluster.me.clone()),
            node: node.clone(),
            holder: held.map(|held| (held.holder, held.node)),
            sessions: (under, cluster.sessions.get(node).map(|session| session.id)),
            silent: cluster.observer.silent_for(node, marks::mark()),
            unproven: self.core.unproven_nodes().contains_key(node),
            store_answers: cluster.answering.lost().is_none(),
        }
    }

    /// The slot and the node that are named, and how they stand.
    pub(crate) fn forcing_named(
        &self,
        service: &str,
        slot: Option<u32>,
        node: &str,
        now: Timestamp,
    ) -> Result<(SlotId, Forcing), Outcome> {
        let slot = self.slot_named(service, slot, now)?;
        // One that was removed may still be waited for.
        let known = self.core.view(now).nodes.into_iter().map(|view| view.name);
        let known = known.chain(self.core.unproven_nodes().into_keys());
        let mut known = known.filter(|name| name.as_str() == node);
        let node = known.next().ok_or_else(|| {
            refused(
                format!("there is no node `{node}`"),
                Some("`understudy status` lists them".into()),
            )
        })?;
        let forcing = self.forcing(&slot, &node);
        Ok((slot, forcing))
    }

    /// Ends the session of a node that is stated to be off.
    pub(crate) fn force(
        &mut self,
        request: &ForceRequest,
        answer: oneshot::Sender<Result<Outcome, Outcome>>,
        now: Timestamp,
    ) {
        match self.forceable_unproven(request, now) {
            Ok(None) => {}
            Ok(Some((node, txn))) => {
                let store = Arc::clone(&self.store);
                tokio::spawn(async move {
                    let _ = answer.send(believe(store.as_ref(), &node, txn).await);
                });
                return;
            }
            Err(refused) => return drop(answer.send(Err(refused))),
        }
        match self.forceable(request, now) {
            Ok((slot, session, ground)) => {
                let store = Arc::clone(&self.store);
                let by = format!("{}: {}", request.by, request.statement.trim());
                tokio::spawn(async move {
                    let _ = answer.send(end(store.as_ref(), &slot, &session, &ground, &by).await);
                });
            }
            Err(refused) => drop(answer.send(Err(refused))),
        }
    }

    /// Of a node whose session has ended, and of which nobody knows whether it still writes: what is stated is noted as known.
    fn forceable_unproven(&self, request: &ForceRequest, now: Timestamp) -> Result<Option<(NodeName, Txn)>, Outcome> {
        let refused = |why: &NotForced| refused(why.to_string(), Some(why.hint().into()));
        let (slot, forcing) = self.forcing_named(&request.service, request.slot, &request.node, now)?;
        let Some(cluster) = &self.clustered else {
            return Ok(None);
        };
        if !forcing.unproven || forcing.sessions.1.is_some() {
            return Ok(None);
        }
        lease::may_force(&forcing, &cluster.timing).map_err(|why| refused(&why))?;
        lease::is_stated(&forcing.node, &request.statement).map_err(|why| refused(&why))?;
        let node = forcing.node.clone();
        if let Some((record, _)) = cluster
            .power
            .fencer
            .record(&node)
            .filter(|(record, _)| record.is_under_way())
        {
            let text = format!("node {} is at the power of node {node} at this moment", record.by);
            let hint = "`understudy status` shows what comes of it".to_owned();
            return Err(crate::input::refused(text, Some(hint)));
        }
        let at = clock::wall_now();
        let words = lease::statement(&node);
        let text = format!("took {slot} from node {node} by force; stated: {words}; its session had ended");
        let deed = self.deed(at, &request.by, "force", &slot.to_string(), text);
        let value = serde_json::to_vec(&deed).map_err(|error| crate::input::refused(error.to_string(), None))?;
        let record = FenceRecord {
            session: forcing.sessions.0,
            state: FenceState::Done,
            by: cluster.me.clone(),
            under: cluster.session.unwrap_or_default(),
            bound: model::Millis(0),
            tries: 0,
            proven: forcing.sessions.0,
            because: format!("{} stated: {words}", request.by),
            at,
        };
        let known = cluster.power.fencer.record(&node);
        let txn = super::power::stated(&node, known, record).ok_or_else(no_store)?;
        let txn = txn.then(Op::put(record::deed_key(at, &deed.through), value));
        Ok(Some((node, txn)))
    }

    fn forceable(&self, request: &ForceRequest, now: Timestamp) -> Result<(SlotId, Session, Ground), Outcome> {
        let refused = |why: &NotForced| refused(why.to_string(), Some(why.hint().into()));
        let (slot, forcing) = self.forcing_named(&request.service, request.slot, &request.node, now)?;
        let Some(cluster) = &self.clustered else {
            return Err(refused(&NotForced::OneMachine));
        };
        lease::may_force(&forcing, &cluster.timing).map_err(|why| refused(&why))?;
        lease::is_stated(&forcing.node, &request.statement).map_err(|why| refused(&why))?;
        let session = cluster.sessions.get(&forcing.node).cloned().ok_or_else(no_store)?;
        let held = cluster.slots.get(&slot).map(|entry| Held {
            key: entry.key.clone(),
            revision: entry.modified,
        });
        let held = held.ok_or_else(|| refused(&NotForced::NotHeld))?;
        let at = clock::wall_now();
        let text = format!(
            "took {slot} from node {} by force; stated: {}; {forcing}",
            forcing.node,
            lease::statement(&forcing.node)
        );
        let deed = self.deed(at, &request.by, "force", &slot.to_string(), text);
        let value = serde_json::to_vec(&deed).map_err(|error| crate::input::refused(error.to_string(), None))?;
        let ground = Ground::Stated {
            slot: held.key,
            held: held.revision,
            deed: (record::deed_key(at, &deed.through), value),
        };
        Ok((slot, session, ground))
    }
}

/// Notes that a node is off, at an operator's word.
async fn believe(store: &dyn Store, node: &NodeName, txn: Txn) -> Result<Outcome, Outcome> {
    match tokio::time::timeout(ANSWER_WITHIN, store.txn(txn)).await {
        Ok(Ok(result)) if result.succeeded => Ok(done(format!(
            "it is noted that node {node} is off: whoever is first in line takes what it held; `understudy events --failovers` shows how it went"
        ))),
        Ok(Ok(_)) => Err(refused(
            format!("node {node} is back, or somebody is at its power at this moment: nothing was done"),
            Some("`understudy status` shows how things stand now".into()),
        )),
        Ok(Err(error)) => Err(refused(
            format!("whether it was written is not known: {}", chain(&error)),
            Some("`understudy history --deeds` shows it if it was".into()),
        )),
        Err(_) => Err(no_store()),
    }
}

async fn end(
    store: &dyn Store,
    slot: &SlotId,
    session: &Session,
    ground: &Ground,
    by: &str,
) -> Result<Outcome, Outcome> {
    let node = &session.node;
    let ending = tokio::time::timeout(ANSWER_WITHIN, session::condemn(store, session, ground, by)).await;
    match ending {
        Ok(Ok(Ending::AlreadyEnded(_))) => Ok(done(format!(
            "the session of node {node} had ended already: whoever is first in line takes slot {slot}, and nothing is noted as done at your word"
        ))),
        Ok(Ok(Ending::Ended(_))) => {
            tracing::warn!(%slot, %node, by, "ended a session at an operator's word");
            Ok(done(format!(
                "the session of node {node} is ended: whoever is first in line takes slot {slot}, and what else it held; `understudy events --failovers` shows how it went"
            )))
        }
        Ok(Ok(Ending::Lives(_))) => Err(refused(
            format!("node {node} renewed its session at this moment, or the slot changed hands: nothing was done"),
            Some("it is alive: `understudy status` shows how things stand now".into()),
        )),
        Ok(Err(error)) => Err(refused(
            format!("whether it was written is not known: {}", chain(&error)),
            Some("`understudy history --deeds` shows it if it was; `understudy cluster status` says which members are missing".into()),
        )),
        Err(_) => Err(no_store()),
    }
}
