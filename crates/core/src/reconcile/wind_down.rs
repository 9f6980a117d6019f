//! A service goes away, or everything stops.

use crate::instance::Instance;
use crate::service::Service;
use crate::slot;
use crate::{Action, Context, Reason, SlotWrite};
use model::{InstanceId, NodeName};

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
            self.stop(&id, because.clone(), cx.now, cx.out);
            let idle = self.instances.get(&id).is_some_and(|instance| !instance.has_process());
            if idle && self.removed {
                self.instances.remove(&id);
                cx.decide(Action::Forget { instance: id }, because.clone());
            }
        }
        self.lose_slots_quietly(cx);
        for index in 0..self.slots.len() {
            self.release_if_held(index, cx);
        }
    }

    fn lose_slots_quietly(&mut self, cx: &mut Context<'_>) {
        for slot in &mut self.slots {
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
    pub(super) fn release_if_held(&mut self, index: usize, cx: &mut Context<'_>) {
        let slot = &self.slots[index];
        if slot.phase != slot::Phase::Vacant || cx.now < slot.write_after {
            return;
        }
        let Some(record) = slot.maybe_held() else {
            return;
        };
        if self
            .instances
            .get(&record.holder)
            .is_some_and(|holder| holder.has_process() && self.declared.exclusive && holder.acts)
        {
            return;
        }
        let Some(node) = self.node_of(&record.holder, cx) else {
            return;
        };
        let attempt = cx.next_attempt();
        let write = SlotWrite {
            slot: self.slots[index].id.clone(),
            attempt,
            expect: record.revision,
            held: false,
            holder: record.holder.clone(),
            node,
            epoch: record.epoch,
        };
        let because = Reason::HolderGone {
            instance: record.holder,
        };
        let slot = &mut self.slots[index];
        slot.set(slot::Phase::Clearing { attempt }, cx.now, because.clone());
        cx.decide(Action::Write(write), because);
    }

    fn node_of(&self, id: &InstanceId, cx: &Context<'_>) -> Option<NodeName> {
        self.instances
            .get(id)
            .map(|instance| &instance.node)
            .or_else(|| cx.nodes.keys().next())
            .cloned()
    }
}
