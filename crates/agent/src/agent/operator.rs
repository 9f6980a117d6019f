//! What operators ask to be done: switchovers, drills, drains, and another try.

use super::{Agent, node_key};
use crate::clock;
use crate::executor::chain;
use crate::input::{Input, done, refused};
use crate::show;
use api::record;
use api::{Outcome, Severity};
use decisions::{Event, Reason, Takeover};
use model::{InstanceId, Millis, NodeName, ServiceName, Timestamp};
use std::sync::Arc;
use std::time::Duration;
use store::{Op, Txn};
use tokio::sync::oneshot;

impl Agent {
    pub(crate) fn switchover(
        &mut self,
        request: &api::SwitchoverRequest,
        answer: oneshot::Sender<Result<Takeover, String>>,
        now: Timestamp,
    ) {
        let parsed = || -> Result<Event, String> {
            let service: ServiceName = request
                .service
                .parse()
                .map_err(|_| format!("there is no service `{}`", request.service))?;
            let to = match &request.to {
                Some(to) => Some(to.parse().map_err(|_| format!("there is no instance `{to}`"))?),
                None => None,
            };
            Ok(Event::Switchover {
                request: self.next_request,
                service,
                slot: request.slot,
                to,
            })
        };
        match parsed() {
            Ok(event) => {
                self.switchovers.insert(self.next_request, answer);
                self.next_request += 1;
                self.core.handle(event, now);
            }
            Err(problem) => {
                let _ = answer.send(Err(problem));
            }
        }
    }

    /// What must be done before a slot that nobody serves can be switched over.
    pub(crate) fn way_on(&self, request: &api::SwitchoverRequest, now: Timestamp) -> Option<String> {
        let view = self.core.view(now);
        let mut services = view.services.iter();
        let service = services.find(|service| service.name.as_str() == request.service)?;
        let wanted = request.slot.unwrap_or(0);
        let slot = service.slots.iter().find(|slot| slot.slot == wanted)?;
        show::way_on(view.paused.as_ref(), service, slot)
    }

    pub(crate) fn drill(&mut self, request: &api::DrillRequest, now: Timestamp) -> Result<Outcome, Outcome> {
        let unknown = |what: &str| {
            refused(
                format!("there is no {what} `{}`", request.name),
                Some("`understudy status` lists them".into()),
            )
        };
        if let Some(paused) = &self.core.view(now).paused {
            return Err(refused(
                format!(
                    "automatic actions are paused, so nobody would take over and nothing would be started again: {}, since {}",
                    paused.reason(),
                    clock::shown(paused.since)
                ),
                Some("`understudy resume` ends that".into()),
            ));
        }
        match request.what.as_str() {
            "instance" => {
                let id: InstanceId = request.name.parse().map_err(|_| unknown("instance"))?;
                let pid = self.executor.pid(&id).ok_or_else(|| unknown("running instance"))?;
                self.executor.kill_main(&id);
                self.journal.tell(
                    Severity::Warning,
                    "drill",
                    format!("killed {id} (process {pid})"),
                    "the operator drills its loss".into(),
                );
                Ok(done(format!(
                    "killed {id} (process {pid}); `understudy events --failovers` shows what followed"
                )))
            }
            "node" if self.clustered.is_some() => Err(refused(
                "the loss of a machine of several cannot be played by its own agent",
                Some("take its power or its network away, or `understudy drain` it; `understudy drill instance NAME` kills one instance".into()),
            )),
            "node" => {
                let node = self.known_node(&request.name).ok_or_else(|| unknown("node"))?;
                self.leave_others(&node, "lost")?;
                self.wish(&node_key(&node), Some("lost"));
                self.core.handle(
                    Event::NodeLost {
                        node: node.clone(),
                        because: Reason::DrillAsked,
                    },
                    now,
                );
                self.executor.lose_node(&node);
                let mut text = format!("node {node} is lost with all that ran on it");
                if let Some(ms) = request.back_after_ms {
                    let (inputs, node) = (self.inputs.clone(), node.clone());
                    text.push_str(&format!("; it comes back in {}", Millis(ms)));
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(ms)).await;
                        let _ = inputs.send(Input::NodeBack(node));
                    });
                } else {
                    text.push_str(&format!("; `understudy undrain {node}` brings it back"));
                }
                Ok(done(text))
            }
            other => Err(refused(
                format!("cannot drill a `{other}`"),
                Some("drill a `node` or an `instance`".into()),
            )),
        }
    }

    pub(super) fn drain(
        &mut self,
        name: &str,
        back: bool,
        answer: oneshot::Sender<Result<Outcome, Outcome>>,
        now: Timestamp,
    ) {
        match self.judge_drain(name, back, now) {
            Err(answered) => drop(answer.send(answered)),
            Ok((node, outcome)) => {
                self.keep_wish(node_key(&node), (!back).then_some("drained"), outcome, answer);
                if self.clustered.is_some() {
                    return;
                }
                let event = match back {
                    true => Event::NodeBack {
                        node,
                        because: Reason::BackAsked,
                    },
                    false => Event::NodeDrained { node },
                };
                self.core.handle(event, now);
            }
        }
    }

    /// The node that is meant and what is answered when that is written, or what is answered at once.
    fn judge_drain(
        &self,
        name: &str,
        back: bool,
        now: Timestamp,
    ) -> Result<(NodeName, Outcome), Result<Outcome, Outcome>> {
        let unknown = || {
            Err(refused(
                format!("there is no node `{name}`"),
                Some("`understudy status` lists them".into()),
            ))
        };
        let node = self.known_node(name).ok_or_else(unknown)?;
        if let Some(refused) = self.not_begun() {
            return Err(Err(refused));
        }
        let outcome = match back {
            true => {
                let view = self.core.view(now);
                let mut nodes = view.nodes.iter();
                let online = |known: &decisions::NodeView| known.state == decisions::NodeState::Online;
                match nodes.any(|known| known.name == node && online(known)) {
                    true => done(format!("nothing to do: node {name} is not drained")),
                    false => Outcome {
                        hint: show::way_back_to(&node, &view),
                        ..done(format!(
                            "node {name} may run instances again; nothing moves back by itself"
                        ))
                    },
                }
            }
            false => {
                self.leave_others(&node, "drained").map_err(Err)?;
                done(format!(
                    "node {name} is being drained: its actives move first, then its standbys"
                ))
            }
        };
        Ok((node, outcome))
    }

    pub(super) fn rebalance(&mut self, name: &str, answer: oneshot::Sender<Result<Outcome, Outcome>>, now: Timestamp) {
        match self.judge_rebalance(name, now) {
            Err(refused) => drop(answer.send(Err(refused))),
            Ok((service, outcome)) => {
                self.keep_wish(rebalance_key(&service), Some("1"), outcome, answer);
                if self.clustered.is_none() {
                    self.core.handle(Event::Rebalance { service, asked: true }, now);
                }
            }
        }
    }

    fn judge_rebalance(&self, name: &str, now: Timestamp) -> Result<(ServiceName, Outcome), Outcome> {
        let known = model::ServiceName::new(name).ok();
        let known = known.filter(|service| self.core.service_view(service, now).is_some_and(|view| !view.removed));
        let Some(service) = known else {
            return Err(refused(
                format!("there is no service `{name}`"),
                Some("`understudy status` lists them".into()),
            ));
        };
        let parked = self.core.service_view(&service, now).map_or_else(Vec::new, |view| {
            let parked = view.slots.into_iter().filter(|slot| slot.parked.is_some());
            parked.map(|slot| format!("{name}/{}", slot.slot)).collect()
        });
        if let Some(refused) = self.not_begun() {
            return Err(refused);
        }
        let mut text = format!(
            "those instances of {name} that would be put elsewhere today move there, one by one: standbys first, actives by a switchover"
        );
        if !parked.is_empty() {
            text.push_str(&format!("; {} has no active to move: it is parked", parked.join(", ")));
        }
        if let Some(paused) = &self.core.view(now).paused {
            text.push_str(&format!(
                "; nothing moves before `understudy resume`, for automatic actions are paused: {}, since {}",
                paused.reason(),
                clock::shown(paused.since)
            ));
        }
        Ok((service, done(text)))
    }

    /// Keeps a wish of the operator's over the life of this agent, or forgets it.
    pub(crate) fn wish(&self, key: &str, value: Option<&str>) {
        let op = match value {
            Some(value) => Op::put(key, value),
            None => Op::delete(key),
        };
        let store = Arc::clone(&self.store);
        let key = key.to_owned();
        tokio::spawn(async move {
            if let Err(error) = store.txn(Txn::new().then(op)).await {
                tracing::error!(key, error = %chain(&error), "a wish of the operator's is lost if the agent restarts");
            }
        });
    }

    pub(super) fn known_node(&self, name: &str) -> Option<NodeName> {
        self.core
            .view(clock::now())
            .nodes
            .into_iter()
            .map(|node| node.name)
            .find(|node| node.as_str() == name)
    }

    /// Nothing may take the last node away: that is `down`.
    pub(crate) fn leave_others(&self, node: &NodeName, what: &str) -> Result<(), Outcome> {
        let online = |other: &&decisions::NodeView| other.state == decisions::NodeState::Online && other.name != *node;
        let view = self.core.view(clock::now());
        if view.nodes.iter().any(|other| online(&other)) {
            return Ok(());
        }
        let hint = "`understudy up FILE --nodes 3` pretends three nodes; `understudy drill instance NAME` kills one instance; `understudy down` stops everything";
        Err(refused(
            format!("{node} is the only node that is left and cannot be {what}"),
            Some(hint.into()),
        ))
    }

    pub(crate) fn retry(&mut self, instance: &str, now: Timestamp) -> Result<Outcome, Outcome> {
        let unknown = || {
            refused(
                format!("there is no instance `{instance}`"),
                Some("`understudy status` lists them".into()),
            )
        };
        let id: InstanceId = instance.parse().map_err(|_| unknown())?;
        let view = self.core.service_view(id.service(), now).ok_or_else(unknown)?;
        let given_up = view.rollout.as_ref().and_then(|rollout| rollout.given_up.as_ref());
        // Who tried it last may have been replaced since.
        let text = match given_up.is_some_and(|given_up| given_up.instance == id) {
            true => format!("the new version of {} is tried again now", id.service()),
            false => {
                let found = view.instances.iter().find(|other| other.id == id).ok_or_else(unknown)?;
                if found.phase == decisions::InstancePhase::Running {
                    return Err(refused(format!("{id} runs; there is nothing to try again"), None));
                }
                format!("{id} is tried again now")
            }
        };
        let because = format!("an operator asked for a retry of {id}");
        self.journal.tell(Severity::Info, "retry", text.clone(), because);
        self.core.handle(Event::Retry { instance: id }, now);
        Ok(done(text))
    }
}

pub(super) fn rebalance_key(service: &model::ServiceName) -> String {
    format!("{}{service}", record::REBALANCE)
}
