//! The simulated store: compare-and-swap of slots, with what may go wrong.

use decisions::{Commit, GivenUp, SlotKnown, SlotWrite};
use model::{Epoch, InstanceId, Revision, ServiceName, SlotId};
use std::collections::BTreeMap;

/// What is on disk. Slots are never deleted, so that epochs only rise.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) slots: BTreeMap<SlotId, SlotKnown>,
    /// Every claim that was ever written.
    pub(crate) claims: BTreeMap<(SlotId, Epoch), InstanceId>,
    /// What the file in force declares and is given up.
    pub(crate) given_up: BTreeMap<ServiceName, GivenUp>,
    revision: u64,
}

impl Records {
    /// Whether a write would go through.
    pub(crate) fn expects(&self, write: &SlotWrite) -> bool {
        self.revision_of(&write.slot) == write.expect
    }

    /// Writes.
    pub(crate) fn put(&mut self, write: &SlotWrite) {
        self.revision += 1;
        if write.held {
            self.claims
                .insert((write.slot.clone(), write.epoch), write.holder.clone());
        }
        let known = SlotKnown {
            slot: write.slot.clone(),
            held: write.held,
            holder: write.holder.clone(),
            epoch: write.epoch,
            revision: Revision(self.revision),
            attempt: write.attempt,
            node: write.node.clone(),
            session: write.session,
            served: write.served,
            data: write.data.clone(),
            served_before: write.served_before,
            because: String::new(),
            begun: write.begun.clone(),
            since: model::Timestamp(0),
        };
        self.slots.insert(write.slot.clone(), known);
    }

    /// Somebody else touches a slot without changing what it says.
    pub(crate) fn touch(&mut self, slot: &SlotId) {
        self.revision += 1;
        let revision = Revision(self.revision);
        if let Some(known) = self.slots.get_mut(slot) {
            known.revision = revision;
        }
    }

    pub(crate) fn conflict(&self, slot: &SlotId) -> Commit {
        Commit::Conflict(self.slots.get(slot).cloned().map(Box::new))
    }

    pub(crate) fn revision_of(&self, slot: &SlotId) -> Revision {
        self.slots.get(slot).map(|known| known.revision).unwrap_or_default()
    }

    /// Slots that say that an instance holds them.
    pub(crate) fn held_by<'a>(&'a self, id: &'a InstanceId) -> impl Iterator<Item = &'a SlotKnown> {
        self.of(id.service())
            .filter(move |known| known.held && known.holder == *id)
    }

    pub(crate) fn of<'a>(&'a self, service: &'a model::ServiceName) -> impl Iterator<Item = &'a SlotKnown> {
        let first = SlotId {
            service: service.clone(),
            slot: 0,
        };
        self.slots
            .range(first..)
            .take_while(move |(slot, _)| slot.service == *service)
            .map(|(_, known)| known)
    }
}
