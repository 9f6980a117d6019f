//! A service goes away, or everything stops.

use super::claim::Terms;
use crate::instance::Instance;
use crate::peers::Hold;
use crate::service::Service;
use crate::slot;
use crate::{Action, Context, Reason, SlotWrite};
use model::InstanceId;

impl Service {
    /// The service goes away, or everything stops.
    pub(super) fn wind_down(&mut self, cx: &mut Context<'_>) {
        let because = if self.removed {
            Reason::NotDeclared
        } else {
            Reason::DownAsked
        };
        if (self.declared.listen.is_some() || self.fronted) && !self.unrouted {
            self.unrouted = true;
            self.unroute(because.clone(), cx);
        }
        for slot in &mut self.slots {
            slot.routed = None;
            slot.abort("the service is being stopped", cx.out);
        }
        let ids: Vec<InstanceId> = self.instances.keys().cloned().collect();
        for id in ids {
            let Some(instance) = self.instances.get(&id) else {
                continue;
            };
            // Others end theirs; who is lost with its node is forgotten by the controller.
            let ours = self.is_mine(instance) || (cx.is_controller() && !cx.counts(&instance.node));
            if !ours {
                continue;
            }
            if self.is_mine(instance) {
                self.stop(&id, because.clone(), cx.now, cx.out);
            }
            let idle = self.instances.get(&id).is_some_and(|instance| !instance.has_process());
            if idle && self.removed {
                self.forget(id, because.clone(), cx);
            }
        }
        self.lose_slots_quietly(cx);
        for index in 0..self.slots.len() {
            self.release_if_held(index, because.clone(), cx);
        }
    }

    fn lose_slots_quietly(&mut self, cx: &mut Context<'_>) {
        for slot in &mut self.slots {
            if self.me.is_some() && slot.driven.is_none() {
                continue;
            }
            let Some(holder) = slot.bound().cloned() else {
                continue;
            };
            let busy = matches!(slot.phase, slot::Phase::Claiming { .. });
            if !busy && !self.instances.get(&holder).is_some_and(Instance::has_process) {
                slot.takeover = None;
                slot.set(slot::Phase::Vacant, cx.now, Reason::HolderGone { instance: holder });
            }
        }
        self.refresh_bound();
    }

    /// Writes a vacant slot as released (I6: only when nothing of its holder runs or it was demoted).
    pub(super) fn release_if_held(&mut self, index: usize, because: Reason, cx: &mut Context<'_>) {
        let slot = &self.slots[index];
        if slot.phase != slot::Phase::Vacant || cx.now < slot.write_after {
            return;
        }
        let Some(record) = slot.maybe_held() else {
            return;
        };
        let hold = self.hold(index, cx);
        let ours = match &hold {
            Hold::Ours => true,
            // Its holder's node knows best that nobody has it.
            Hold::Open(_) => {
                let is_at_home = cx.peers.is_some_and(|peers| peers.me == record.node);
                record.held && (cx.is_controller() || is_at_home)
            }
            Hold::Theirs | Hold::Unproven => false,
        };
        if !ours || cx.peers.is_some_and(|peers| peers.session.is_none()) {
            return;
        }
        if self
            .instances
            .get(&record.holder)
            .is_some_and(|holder| holder.has_process() && self.declared.exclusive && holder.acts)
        {
            return;
        }
        let me = cx.peers.map(|peers| peers.me.clone());
        let terms = Terms::of(cx.peers, me.as_ref().unwrap_or(&record.node), &hold, Some(&record));
        let attempt = cx.next_attempt();
        let write = SlotWrite {
            slot: self.slots[index].id.clone(),
            attempt,
            expect: record.revision,
            held: false,
            holder: record.holder.clone(),
            placed: None,
            node: record.node.clone(),
            epoch: record.epoch,
            served: record.served,
            data: self.slots[index].data.clone(),
            served_before: None,
            previous: Some(record.holder.clone()),
            claims: false,
            session: record.session,
            sessions: terms.sessions,
            condemn: terms.condemn,
            begun: None,
        };
        let slot = &mut self.slots[index];
        slot.set(slot::Phase::Clearing { attempt }, cx.now, because.clone());
        cx.decide(Action::Write(write), because);
    }
}
