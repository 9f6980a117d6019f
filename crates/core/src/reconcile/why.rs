//! Why a slot is taken, for people.

use crate::instance::Instance;
use crate::peers::{Hold, lost_because};
use crate::service::Service;
use crate::{Context, Reason};
use model::InstanceId;

impl Service {
    /// Why a slot changes hands now. A takeover that was noticed says so itself; who finds a slot without a holder goes by what the store says.
    pub(super) fn why_taken(&self, index: usize, to: &InstanceId, hold: &Hold, cx: &Context<'_>) -> Reason {
        let slot = &self.slots[index];
        // Whoever had it then and did not come to serve is the reason for the next claim.
        if let Some(takeover) = slot.takeover.as_ref().filter(|takeover| takeover.claimed.is_none()) {
            return takeover.because.clone();
        }
        let number = slot.id.slot;
        let Some(record) = &slot.record else {
            return match slot.data {
                None => Reason::FirstActive { slot: number },
                // Somebody served: what was written of it is lost.
                Some(_) => Reason::SlotUnwritten,
            };
        };
        if !record.held {
            return Reason::SlotReleased { slot: number };
        }
        let ours_was_lost = slot.spent == Some(record.epoch);
        match (hold, cx.peers) {
            (Hold::Open(_), Some(peers)) if record.node != peers.me => lost_because(peers, &record.node),
            (Hold::Open(_), Some(_)) => Reason::OwnSessionLost,
            _ if record.holder != *to => self.why_not_again(index, &record.holder, cx),
            _ if ours_was_lost => Reason::OwnSessionLost,
            _ => Reason::HadSlot { instance: to.clone() },
        }
    }

    /// Why who holds a slot does not take it again, and another one does.
    pub(super) fn why_not_again(&self, index: usize, holder: &InstanceId, cx: &Context<'_>) -> Reason {
        let id = holder.clone();
        let Some(holder) = self.instances.get(holder).filter(|holder| holder.has_process()) else {
            return Reason::HolderGone { instance: id };
        };
        if holder.is_known_unhealthy() {
            let last = holder.last_failure.clone().unwrap_or_default();
            return Reason::HolderUnhealthy { instance: id, last };
        }
        let has_another = self.bound.get(&id).is_some_and(|at| *at != index) || self.is_held_for_another(index, &id);
        let what = match self.readiness(holder) {
            _ if has_another => "it has another slot".into(),
            Err(what) => what,
            Ok(()) if !cx.can_act(&holder.node) => format!("node {} takes no slots now", holder.node),
            Ok(()) => "another one comes first in the failover order".into(),
        };
        Reason::CannotGoOn { instance: id, what }
    }
}

impl Instance {
    /// Its check failed as often as that takes, and has not passed as often since.
    fn is_known_unhealthy(&self) -> bool {
        self.health == model::Health::Unhealthy && self.last_failure.is_some()
    }
}
