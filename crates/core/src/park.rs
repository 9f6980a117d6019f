//! Slots that an operator keeps without a holder.
//!
//! A parked slot is given up as one that is not declared any more would be, and claimed by nobody until it is unparked. Each claim
//! compares in the store that its slot is not parked, so an agent that has not heard of it yet claims nothing either.

use crate::slot::Slot;
use crate::{Core, Reason};
use model::{SlotId, Timestamp};
use std::collections::BTreeMap;

/// Why nobody holds a slot, on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// Since when.
    pub since: Timestamp,
    /// Who wants it so.
    pub by: String,
    /// Why; empty if that was not said.
    pub why: String,
}

impl Parked {
    /// The same as a reason.
    pub fn reason(&self) -> Reason {
        Reason::Parked {
            by: self.by.clone(),
            why: self.why.clone(),
        }
    }
}

/// Why nothing is done automatically, on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paused {
    /// Since when.
    pub since: Timestamp,
    /// Who wants it so.
    pub by: String,
    /// Why; empty if that was not said.
    pub why: String,
}

impl Paused {
    /// The same as a reason.
    pub fn reason(&self) -> Reason {
        Reason::Paused {
            by: self.by.clone(),
            why: self.why.clone(),
        }
    }
}

impl Core {
    pub(crate) fn park(&mut self, slot: SlotId, parked: Option<Parked>, now: Timestamp) {
        let service = slot.service.clone();
        match parked {
            Some(parked) => drop(self.parks.insert(slot, parked)),
            None => drop(self.parks.remove(&slot)),
        }
        self.reconcile(&service, now);
    }

    /// All slots that are parked, also of services that are not declared.
    pub fn parks(&self) -> &BTreeMap<SlotId, Parked> {
        &self.parks
    }

    /// Whether automatic actions are paused.
    pub fn is_paused(&self) -> bool {
        self.paused.is_some()
    }
}

impl Slot {
    /// Takes in whether the operator wants nobody to hold it.
    pub(crate) fn park_as(&mut self, parks: &BTreeMap<SlotId, Parked>) {
        self.parked = parks.get(&self.id).cloned();
    }

    /// Nobody holds it any more, as the operator wants.
    pub(crate) fn is_parked(&self) -> bool {
        self.parked.is_some() && self.phase == crate::slot::Phase::Vacant && self.maybe_held().is_none()
    }
}
