//! What must hold in every run, each in a file of its own, named as in the takeover protocol, section 8.
//!
//! They are shown every decision, every write, every beginning of acting and every whole second, and judge by the truth.

mod bounded_decisions;
mod i12_routed_epochs_rise;
mod i1_one_active;
mod i2_epochs_rise;
mod i6_vacant_means_silent;
mod i7_one_slot_each;
mod i8_disk_then_promote_then_route;
mod i9_no_write_lost;
mod l6_alarmed;
mod no_unasked_restart;
mod quiet;

pub(crate) mod healed;

use crate::world::truth::{Acting, Truth};
use decisions::{Decision, SlotWrite};
use model::{Epoch, InstanceId, SlotId};
use std::fmt;

/// Something that an invariant may have a say in.
pub(crate) enum Moment<'a> {
    /// The core decided something; it is not carried out yet.
    Decided(&'a Decision),
    /// A slot was written.
    Committed { write: &'a SlotWrite },
    /// A process begins to act for a slot.
    Acts {
        instance: &'a InstanceId,
        slot: &'a SlotId,
        epoch: Epoch,
        before: Option<Acting>,
    },
    /// Another second is over.
    Second,
}

/// A promise.
pub(crate) trait Invariant: fmt::Debug {
    fn name(&self) -> &'static str;
    /// Says what is wrong, if the promise is broken.
    fn observe(&mut self, truth: &Truth, moment: &Moment<'_>) -> Result<(), String>;
}

/// All that is watched in a run.
#[derive(Debug)]
pub(crate) struct Invariants {
    all: Vec<Box<dyn Invariant>>,
}

impl Invariants {
    pub(crate) fn all() -> Self {
        Self {
            all: vec![
                Box::new(i1_one_active::OneActive),
                Box::new(i2_epochs_rise::EpochsRise::default()),
                Box::new(i6_vacant_means_silent::VacantMeansSilent),
                Box::new(i7_one_slot_each::OneSlotEach),
                Box::new(i8_disk_then_promote_then_route::DiskThenPromoteThenRoute),
                Box::new(i9_no_write_lost::NoWriteLost),
                Box::new(i12_routed_epochs_rise::RoutedEpochsRise::default()),
                Box::new(no_unasked_restart::NoUnaskedRestart::default()),
                Box::new(bounded_decisions::BoundedDecisions::default()),
                Box::new(l6_alarmed::Alarmed::default()),
            ],
        }
    }

    /// Everything is healed and settled: nothing may need doing any more.
    pub(crate) fn expect_quiet(&mut self) {
        self.all.push(Box::new(quiet::Quiet));
    }

    pub(crate) fn observe(&mut self, truth: &Truth, moment: &Moment<'_>) -> Result<(), (&'static str, String)> {
        for invariant in &mut self.all {
            invariant
                .observe(truth, moment)
                .map_err(|what| (invariant.name(), what))?;
        }
        Ok(())
    }
}
