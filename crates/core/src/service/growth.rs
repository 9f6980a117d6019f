//! More actives are declared than the service had: until the new slots were held once, it is judged by what it had.
//!
//! What it had is what worked last ([`Service::worked`]); which slots were never held is known from their records. Both are in the store, so
//! that an agent that comes up meanwhile, and every other node, says the same. A service that never worked as a whole has nothing to grow from.

use super::Service;
use crate::Reason;
use crate::slot::Slot;

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Growth {
    /// Actives that it had.
    pub(crate) from: u32,
    /// How many of them must serve meanwhile.
    pub(crate) need: u32,
}

impl Service {
    /// Nothing, if every slot that is declared was held once, or no more are declared than were.
    pub(crate) fn growth(&self) -> Option<Growth> {
        let worked = self.worked.as_ref()?;
        let (from, to) = (worked.active, self.declared.active);
        let added = to.checked_sub(from).filter(|added| *added > 0)?;
        let slots = self.slots.iter().take(to as usize).skip(from as usize);
        let held = u32::try_from(slots.filter(|slot| slot.was_held).count()).unwrap_or(u32::MAX);
        let missing = added.saturating_sub(held);
        // Whoever was added and held a slot is missed like any other when it is gone.
        let need = self.declared.need.saturating_sub(missing).max(worked.need);
        (missing > 0).then_some(Growth {
            from,
            need: need.min(self.declared.need),
        })
    }

    /// How many actives must serve now.
    pub(crate) fn need(&self) -> u32 {
        self.growth().map_or(self.declared.need, |growth| growth.need)
    }

    /// How many serve and are ready, in words.
    pub(crate) fn counted(&self, serving: u32, ready: u32) -> Reason {
        let (active, standby) = (self.declared.active, self.declared.standby);
        let ready = ready.min(standby);
        match self.growth() {
            Some(growth) => Reason::Grows {
                from: growth.from,
                serving,
                active,
                ready,
                standby,
            },
            None => Reason::Serving {
                serving,
                active,
                ready,
                standby,
            },
        }
    }

    pub(crate) fn note_held(&mut self) {
        let serves = |slot: &&mut Slot| slot.serving().is_some() || slot.routed.is_some();
        for slot in self.slots.iter_mut().filter(serves) {
            slot.was_held = true;
        }
    }
}
