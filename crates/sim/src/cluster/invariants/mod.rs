//! What must hold in every run of a cluster, each in a file of its own, named as in the takeover protocol, section 8. All of them
//! judge by the truth of the world, never by what a core believes.

mod bounded_decisions;
mod enough_are_left;
mod fires_for_its_slot;
mod given_up_is_left;
mod i10_nothing_decreases;
mod i11_fired_is_latched;
mod i12_routed_epochs_rise;
mod i1_one_active;
mod i2_epochs_rise;
mod i4_covered;
mod i5_no_renewal_after_a_grave;
mod i6_released_means_silent;
mod i7_one_slot_each;
mod i8_armed_then_promoted;
mod i9_no_write_lost;
mod no_unasked_restart;
mod paused_begins_nothing;
mod placed_as_declared;
mod quiet;
mod t11_parked_is_not_taken;

pub(crate) mod healed;

use super::records::{Change, NodeIx};
use super::world::World;
use decisions::Decision;
use model::{Epoch, InstanceId, RunId, ServiceName, SlotId};
use std::fmt;

/// Something that an invariant may have a say in.
pub(crate) enum Moment<'a> {
    /// The core of a node decided something; it is not carried out yet.
    Decided(NodeIx, &'a Decision),
    /// A key of the store was written or removed.
    Committed(&'a Change),
    /// A process begins to act, or goes on to.
    Acts(&'a InstanceId),
    /// A node begins to run a promote hook.
    Promotes(NodeIx, &'a InstanceId, Epoch),
    /// A guard ends what it keeps for a slot.
    Fires(&'a SlotId, &'a InstanceId, RunId),
    /// The proxy of a node follows another route.
    Routed(NodeIx, &'a ServiceName),
    /// Some time went by.
    Look,
}

/// A promise.
pub(crate) trait Invariant: fmt::Debug {
    fn name(&self) -> &'static str;
    /// Says what is wrong, if the promise is broken.
    fn observe(&mut self, world: &World, moment: &Moment<'_>) -> Result<(), String>;
}

/// All that is watched in a run.
#[derive(Debug, Default)]
pub(crate) struct Invariants {
    all: Vec<Box<dyn Invariant>>,
}

impl Invariants {
    pub(crate) fn all() -> Self {
        Self {
            all: vec![
                Box::new(placed_as_declared::PlacedAsDeclared),
                Box::new(i1_one_active::OneActive),
                Box::new(i2_epochs_rise::EpochsRise::default()),
                Box::new(i4_covered::Covered),
                Box::new(i5_no_renewal_after_a_grave::NoRenewalAfterAGrave),
                Box::new(i6_released_means_silent::ReleasedMeansSilent),
                Box::new(i7_one_slot_each::OneSlotEach),
                Box::new(i8_armed_then_promoted::ArmedThenPromoted),
                Box::new(i9_no_write_lost::NoWriteLost),
                Box::new(i10_nothing_decreases::NothingDecreases::default()),
                Box::new(i11_fired_is_latched::FiredIsLatched),
                Box::new(i12_routed_epochs_rise::RoutedEpochsRise::default()),
                Box::new(enough_are_left::EnoughAreLeft::default()),
                Box::new(fires_for_its_slot::FiresForItsSlot),
                Box::new(given_up_is_left::GivenUpIsLeft),
                Box::new(t11_parked_is_not_taken::ParkedIsNotTaken::default()),
                Box::new(paused_begins_nothing::PausedBeginsNothing),
                Box::new(no_unasked_restart::NoUnaskedRestart),
                Box::new(bounded_decisions::BoundedDecisions::default()),
            ],
        }
    }

    /// Everything is healed and settled: nothing may need doing any more.
    pub(crate) fn expect_quiet(&mut self, promise: &'static str) {
        self.all.push(Box::new(quiet::Quiet { promise }));
    }

    pub(crate) fn expect_unrest(&mut self) {
        self.all
            .retain(|invariant| !matches!(invariant.name(), "L3" | "L4" | "L8"));
    }

    pub(crate) fn observe(&mut self, world: &World, moment: &Moment<'_>) -> Result<(), (&'static str, String)> {
        for invariant in &mut self.all {
            invariant
                .observe(world, moment)
                .map_err(|what| (invariant.name(), what))?;
        }
        Ok(())
    }
}
