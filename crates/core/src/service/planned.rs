//! Changes of holder that somebody wants: a switchover, a rollout, an emptied node, fewer slots.

use super::Service;
use crate::slot::{self, Planned, Stage};
use crate::{Action, Decision, Event, Node, NodeState, Reason, Refusal, Takeover};
use model::{InstanceId, Millis, NodeName, Timestamp};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// So long the clients of a floating address are served on and asked to come back on new connections: by then each has had an answer or was
/// idle, as a rule.
const PART_WITHIN: Millis = Millis(1_000);
/// By then the holder's node has said that new connections are kept back and nobody is waited for any more, however busy it is: it counts from
/// when they are. The move goes on without it all the same.
const SHUT_WITHIN: Millis = Millis(3_000);
/// An operator who asked for a switchover hears within this what became of it.
const SWITCHOVER_WITHIN: Duration = Duration::from_secs(30);
const WITHDRAWN: &str = "the switchover is withdrawn";

/// A slot shall change hands.
pub(crate) struct Change {
    /// Who shall hold it; `None` if nobody shall.
    pub(crate) to: Option<InstanceId>,
    /// Whom to tell how it went.
    pub(crate) request: Option<u64>,
    pub(crate) because: Reason,
}

impl Change {
    /// Nobody waits to hear of it.
    pub(crate) fn unasked(to: Option<InstanceId>, because: Reason) -> Self {
        Self {
            to,
            request: None,
            because,
        }
    }
}

impl Service {
    /// A switchover names whom it is to, and nobody where no slot may be taken: it would come back, and be called done.
    pub(crate) fn aim(
        &self,
        event: Event,
        nodes: &BTreeMap<NodeName, Node>,
        now: Timestamp,
    ) -> Result<Event, (u64, Refusal)> {
        let Event::Switchover {
            request,
            service,
            slot,
            to,
        } = event
        else {
            return Ok(event);
        };
        let takes_none = |id: &InstanceId| {
            let node = &self.instances.get(id)?.node;
            let online = nodes.get(node).is_some_and(|node| node.state == NodeState::Online);
            (!online).then(|| format!("{id}: node {node} takes no slots now"))
        };
        let order = match to {
            Some(to) => vec![to],
            None => self.failover_order(None, now),
        };
        let why: Vec<String> = order.iter().filter_map(takes_none).collect();
        if !order.is_empty() && why.len() == order.len() {
            return Err((request, Refusal::NobodyReady { why }));
        }
        let to = order.into_iter().find(|id| takes_none(id).is_none());
        Ok(Event::Switchover {
            request,
            service,
            slot,
            to,
        })
    }

    pub(super) fn switchover(
        &mut self,
        request: u64,
        slot: Option<u32>,
        to: Option<InstanceId>,
        now: Timestamp,
        out: &mut VecDeque<Decision>,
    ) -> Result<(), Refusal> {
        let index = slot.unwrap_or(0) as usize;
        if index >= self.slots.len() || index >= self.declared.active as usize {
            return Err(Refusal::UnknownSlot {
                slots: self.declared.active,
            });
        }
        self.refresh_bound();
        if let Some(to) = &to {
            let instance = self
                .instances
                .get(to)
                .ok_or_else(|| Refusal::UnknownInstance { instance: to.clone() })?;
            if self.slots.iter().any(|slot| slot.concerns(to)) {
                return Err(Refusal::AlreadyActive { instance: to.clone() });
            }
            if let Err(why) = self.readiness(instance) {
                return Err(Refusal::NobodyReady {
                    why: vec![format!("{to}: {why}")],
                });
            }
        }
        let slot = &self.slots[index];
        if slot.serving().is_none() || slot.planned.is_some() {
            let state = match slot.planned {
                Some(_) => "changing hands already".to_owned(),
                None => self.why_not_serving(slot),
            };
            return Err(Refusal::SlotNotServing { state });
        }
        let Some(to) = to.or_else(|| self.failover_order(None, now).into_iter().next()) else {
            return Err(Refusal::NobodyReady {
                why: self.unready_standbys(),
            });
        };
        let change = Change {
            to: Some(to),
            request: Some(request),
            because: Reason::SwitchoverAsked,
        };
        self.begin_planned(index, change, now, out);
        Ok(())
    }

    /// How a slot is that nobody serves, why, and who could not take it.
    fn why_not_serving(&self, slot: &slot::Slot) -> String {
        let state = slot.state_name();
        if slot.is_parked() {
            return state.into();
        }
        let unready = match slot.phase {
            slot::Phase::Vacant => self.unready_standbys(),
            _ => Vec::new(),
        };
        let nobody = match unready.is_empty() {
            true => String::new(),
            false => format!("; nobody can take it: {}", unready.join("; ")),
        };
        format!("{state}: {}{nobody}", slot.because)
    }

    /// Begins to move a slot on. Clients are kept away from an exclusive holder first; a shared one serves until the next does.
    pub(crate) fn begin_planned(&mut self, index: usize, change: Change, now: Timestamp, out: &mut VecDeque<Decision>) {
        let Change { to, request, because } = change;
        let (parts, shuts) = (self.declared.listens_on_floating(), self.declared.answers_on_floating());
        let waits = self.declared.exclusive || to.is_none();
        let slot = &mut self.slots[index];
        // The one before is over, even if nobody asked the new active anything yet.
        slot.complete(out);
        slot.begin_takeover(true, because.clone(), now);
        slot.request = request;
        slot.planned = Some(Planned {
            to,
            stage: Stage::Clear,
            because,
            drained: false,
            left: BTreeSet::new(),
        });
        if waits && (parts || shuts) {
            self.part(index, shuts, now, out);
        } else if waits {
            self.begin_draining(index, now);
        }
        self.look_again = true;
    }

    /// Asks the node of the holder, which is ours, to part with the clients of its floating address.
    pub(crate) fn part(&mut self, index: usize, shut: bool, now: Timestamp, out: &mut VecDeque<Decision>) {
        let within = match shut {
            true => SHUT_WITHIN,
            false => Millis(PART_WITHIN.0.min(self.declared.drain_timeout.0)),
        };
        let slot = &mut self.slots[index];
        let (Some(instance), Some(planned)) = (slot.serving().cloned(), &mut slot.planned) else {
            return;
        };
        planned.stage = Stage::Parting {
            shut,
            until: now + within.duration(),
            parted: false,
        };
        let because = planned.because.clone();
        slot.parting = Some(instance.clone());
        out.push_back(Decision {
            action: Action::Part { instance, shut },
            because,
        });
    }

    /// From here on new requests wait, and those under way finish.
    pub(crate) fn begin_draining(&mut self, index: usize, now: Timestamp) {
        let deadline = match self.declared.listen {
            Some(_) => now + self.drain().duration() + Duration::from_secs(1),
            None => now,
        };
        let slot = &mut self.slots[index];
        slot.routed = None;
        if let Some(planned) = &mut slot.planned {
            planned.stage = Stage::Draining { deadline };
        }
        self.look_again = true;
    }

    /// Clients of a floating address were parted from its node.
    pub(super) fn parted(&mut self, id: &InstanceId, now_shut: bool) -> bool {
        let holds = |slot: &&mut slot::Slot| slot.serving() == Some(id);
        let planned = self.slots.iter_mut().find(holds).and_then(|slot| slot.planned.as_mut());
        match planned.map(|planned| &mut planned.stage) {
            Some(Stage::Parting { shut, parted, .. }) if *shut == now_shut => !std::mem::replace(parted, true),
            _ => false,
        }
    }

    /// Nobody is parted with any more when a planned change is over, however it went.
    pub(crate) fn rejoin(&mut self, out: &mut VecDeque<Decision>) {
        for slot in self.slots.iter_mut().filter(|slot| slot.planned.is_none()) {
            if let Some(instance) = slot.parting.take() {
                out.push_back(Decision {
                    action: Action::Rejoin { instance },
                    because: slot.because.clone(),
                });
            }
        }
    }

    /// Requests under way may finish for this long when clients are kept away: less than the proxy holds new ones.
    pub(crate) fn drain(&self) -> Millis {
        if self.declared.exclusive {
            Millis(self.declared.drain_timeout.0.min(self.declared.hold_timeout.0 / 2))
        } else {
            self.declared.drain_timeout
        }
    }

    /// Why a slot is on its way from one to the next as somebody wanted it, and until when the proxies hold its clients.
    pub(crate) fn moves_as_planned(&self, now: Timestamp) -> Option<(Reason, Timestamp)> {
        self.declared.listen.as_ref()?;
        let takeovers = self.slots.iter().filter_map(|slot| slot.takeover.as_ref());
        let mut planned = takeovers.filter(|takeover| takeover.planned).map(|takeover| {
            let until = takeover.detected + self.declared.hold_timeout.duration();
            (takeover.because.clone(), until)
        });
        planned.find(|(_, until)| now < *until)
    }

    pub(super) fn drained(&mut self, id: &InstanceId) {
        for slot in &mut self.slots {
            if slot.serving() == Some(id)
                && let Some(planned) = &mut slot.planned
            {
                planned.drained = true;
            }
        }
    }

    /// From another node no client goes to our holder any more.
    pub(crate) fn left(&mut self, id: &InstanceId, by: NodeName) -> bool {
        let holds = |slot: &&mut slot::Slot| slot.serving() == Some(id);
        let planned = self.slots.iter_mut().find(holds).and_then(|slot| slot.planned.as_mut());
        planned.is_some_and(|planned| planned.left.insert(by))
    }

    /// Whether a holder of ours is about to hand its slot over.
    pub(crate) fn is_leaving(&self, id: &InstanceId) -> bool {
        let leaves = |slot: &slot::Slot| slot.serving() == Some(id) && slot.planned.is_some() && slot.routed.is_none();
        self.declared.listen.is_some() && self.slots.iter().any(leaves)
    }

    /// Nobody can take over any more, and the holder was not touched yet: clients go to it again.
    pub(crate) fn stay(&mut self, index: usize, out: &mut VecDeque<Decision>) {
        let slot = &mut self.slots[index];
        let who = match slot.planned.as_ref().and_then(|planned| planned.to.as_ref()) {
            Some(to) => to.to_string(),
            None => "the target".into(),
        };
        slot.routed = slot.active().map(|(holder, epoch)| (holder.clone(), epoch));
        slot.abort(format!("{who} is not ready any more; nothing was changed"), out);
        self.look_again = true;
    }

    /// A switchover of which the operator hears now that it did not come about is not carried out later, when nobody waits for it any more: who
    /// held the slot keeps it, or takes it again. What the store was asked for and has not answered may be so all the same, and that is said.
    pub(crate) fn withdraw(&mut self, now: Timestamp, out: &mut VecDeque<Decision>) {
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            let late =
                |takeover: &Takeover| takeover.promoted.is_none() && now >= takeover.detected + SWITCHOVER_WITHIN;
            if slot.request.is_none() || !slot.takeover.as_ref().is_some_and(late) {
                continue;
            }
            let Some(planned) = &slot.planned else {
                let what = format!(
                    "the slot is still {}: {}; neither the target nor who had it came to serve, and it is the turn of whoever is ready",
                    slot.state_name(),
                    slot.because
                );
                self.answer_late(index, what, out);
                continue;
            };
            let stage = planned.stage.clone();
            let to = planned
                .to
                .as_ref()
                .map_or_else(|| "the target".to_owned(), ToString::to_string);
            let stands = format!("the slot is still {}: {}", slot.state_name(), slot.because);
            // Each of these has its time by what is declared, which may be longer: nothing has failed.
            let under_way = matches!(
                stage,
                Stage::Parting { .. } | Stage::Draining { .. } | Stage::Demoting | Stage::Stopping
            );
            if under_way {
                let what = format!("{stands}; the switchover to {to} has not ended and goes on");
                self.answer_late(index, what, out);
            } else if matches!(slot.phase, slot::Phase::Promoting { .. }) {
                self.answer_late(index, format!("{stands}; {to} has it already, so this goes on"), out);
            } else {
                self.hand_back_late(index, &to, &stands, now, out);
            }
        }
    }

    /// From now on the old holder is who shall have the slot.
    fn hand_back_late(&mut self, index: usize, to: &str, stands: &str, now: Timestamp, out: &mut VecDeque<Decision>) {
        let slot = &mut self.slots[index];
        let Some(old) = slot.last_holder().cloned() else { return };
        let asked = slot.attempt().is_some() || !slot.unclear.is_empty();
        let unknown = match asked {
            true => format!(
                "the store was asked to give it to {to} and has not said whether it did, so that may still show; if it did not, "
            ),
            false => String::new(),
        };
        let what = format!("{stands}; {WITHDRAWN}: {unknown}{old} takes it again if it can, else who is first in line");
        if let Some(planned) = &mut slot.planned {
            planned.to = Some(old);
            // Whoever serves on is asked for no proof.
            if matches!(planned.stage, Stage::Demoted | Stage::Proving { .. }) {
                planned.stage = Stage::Clear;
            }
        }
        self.answer_late(index, what, out);
        let slot = &mut self.slots[index];
        // Told as what it is from now on, and not as a switchover.
        if slot.phase == slot::Phase::Vacant {
            slot.takeover = None;
            slot.begin_takeover(false, slot.because.clone(), now);
            slot.confirm_dead(now);
        }
    }

    fn answer_late(&mut self, index: usize, what: String, out: &mut VecDeque<Decision>) {
        if let Some(request) = self.slots[index].request.take() {
            out.push_back(Decision::answer(request, Err(Refusal::Failed { what })));
        }
    }

    /// The holder of a planned change cannot act any more.
    pub(super) fn demoted(&mut self, id: &InstanceId, now: Timestamp) {
        for slot in &mut self.slots {
            if slot.serving() == Some(id)
                && let Some(planned) = &mut slot.planned
                && planned.stage == Stage::Demoting
            {
                planned.stage = Stage::Demoted;
                let because = planned.because.clone();
                slot.confirm_dead(now);
                slot.set(slot::Phase::Vacant, now, because);
            }
        }
    }

    pub(super) fn stopping_planned(&mut self, id: &InstanceId) {
        for slot in &mut self.slots {
            if slot.serving() == Some(id)
                && let Some(planned) = &mut slot.planned
                && planned.stage == Stage::Demoting
            {
                planned.stage = Stage::Stopping;
            }
        }
    }
}
