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
use store::{Compare, Op, Store, Txn};
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
        if let Some(heir) = &request.give_to {
            match self.giving(request, heir, now) {
                Ok((text, txn)) => {
                    let store = Arc::clone(&self.store);
                    tokio::spawn(async move {
                        let _ = answer.send(give(store.as_ref(), text, txn).await);
                    });
                }
                Err(refused) => drop(answer.send(Err(refused))),
            }
            return;
        }
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

    /// Whoever served last is lost with what only it had: who is named counts as having the newest data from now on. What that does to the
    /// record, and what is said of it.
    fn giving(&self, request: &ForceRequest, heir: &str, now: Timestamp) -> Result<(String, Txn), Outcome> {
        let no = |text: String, hint: &str| Err(refused(text, Some(hint.into())));
        let slot = self.slot_named(&request.service, request.slot, now)?;
        let Some(cluster) = &self.clustered else {
            let why = NotForced::OneMachine;
            return no(why.to_string(), why.hint());
        };
        let entry = cluster.slots.get(&slot);
        let record = entry.and_then(|entry| serde_json::from_slice::<record::Slot>(&entry.value).ok());
        let (Some(entry), Some(record)) = (entry, record) else {
            return no(format!("nobody ever held slot {slot}"), NotForced::NotHeld.hint());
        };
        let (last, node) = (record.holder.clone(), record.node.clone());
        if node.as_str() != request.node {
            let text = format!("{last} on node {node} held slot {slot} last, not node {}", request.node);
            return no(text, "`understudy explain SERVICE` says whose data it waits for");
        }
        if cluster.sessions.contains_key(&node) {
            let text = format!("node {node} has its session: it may be there with its data");
            return no(
                text,
                "without `--give-to`, `understudy force` ends the session of a node that is off",
            );
        }
        let view = self.core.service_view(&slot.service, now);
        let instances = view.map(|view| view.instances).unwrap_or_default();
        let named = instances.iter().find(|instance| instance.id.to_string() == heir);
        let Some(named) = named.filter(|named| named.node != node) else {
            let others = instances.iter().filter(|instance| instance.node != node);
            let others: Vec<String> = others.map(|instance| instance.id.to_string()).collect();
            let text = format!(
                "there is no instance `{heir}` of {} on another node than {node}",
                slot.service
            );
            return no(text, &format!("there are: {}", others.join(", ")));
        };
        let said = lease::is_loss_stated(&node, &request.statement);
        said.map_err(|why| refused(why.to_string(), Some(why.hint().into())))?;
        let at = clock::wall_now();
        let text = format!(
            "{} counts as having the newest data of {slot}; what only {last} on node {node} had is given up",
            named.id
        );
        let deed = self.deed(
            at,
            &request.by,
            "force",
            &slot.to_string(),
            format!("{text}; stated: {}", lease::statement_of_loss(&node)),
        );
        let as_json = |error: serde_json::Error| refused(error.to_string(), None);
        let given = record::Slot {
            state: record::SlotState::Released,
            data: Some((named.id.clone(), record.epoch)),
            served: false,
            served_before: None,
            begun: None,
            attempt: u64::try_from(at.0)
                .unwrap_or(record.attempt)
                .wrapping_add(record.attempt),
            since: at,
            because: format!("{} stated that host {node} is off and its data are lost", request.by),
            ..record
        };
        let txn = Txn::new()
            .when(Compare::modified(&*entry.key, entry.modified))
            .when(Compare::absent(session::session_key(&node)))
            .then(Op::put(&*entry.key, serde_json::to_vec(&given).map_err(as_json)?))
            .then(Op::put(
                record::deed_key(at, &deed.through),
                serde_json::to_vec(&deed).map_err(as_json)?,
            ));
        Ok((text, txn))
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

/// Writes whose data are the newest, at an operator's word.
async fn give(store: &dyn Store, text: String, txn: Txn) -> Result<Outcome, Outcome> {
    match tokio::time::timeout(ANSWER_WITHIN, store.txn(txn)).await {
        Ok(Ok(result)) if result.succeeded => {
            tracing::warn!(text, "at an operator's word");
            Ok(done(text))
        }
        Ok(Ok(_)) => Err(refused(
            "the slot changed hands, or its last holder's node is back, at this moment: nothing was done".to_owned(),
            Some("`understudy status` shows how things stand now".into()),
        )),
        Ok(Err(error)) => Err(refused(
            format!("whether it was written is not known: {}", chain(&error)),
            Some("`understudy history --deeds` shows it if it was".into()),
        )),
        Err(_) => Err(no_store()),
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
