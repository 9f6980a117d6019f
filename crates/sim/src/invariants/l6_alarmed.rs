//! L6: a slot that nobody serves is alarmed: its service is not told to be redundant.

use super::{Invariant, Moment};
use crate::world::truth::Truth;
use decisions::{Action, NoteKind};
use model::{ServiceName, ServiceState, SlotId};
use std::collections::BTreeMap;

/// So many seconds in a row a slot may be without a live holder before somebody must be told.
const PATIENCE: u32 = 5;

#[derive(Debug, Default)]
pub(crate) struct Alarmed {
    told: BTreeMap<ServiceName, ServiceState>,
    unserved: BTreeMap<SlotId, u32>,
}

impl Invariant for Alarmed {
    fn name(&self) -> &'static str {
        "L6"
    }

    fn observe(&mut self, truth: &Truth, moment: &Moment<'_>) -> Result<(), String> {
        match moment {
            Moment::Decided(decision) => {
                if let Action::Note(note) = &decision.action
                    && let (NoteKind::ServiceState(state), Some(service)) = (&note.kind, &note.service)
                {
                    self.told.insert(service.clone(), *state);
                    // It was so at this moment: what matters is how long it is not.
                    self.unserved.retain(|slot, _| slot.service != *service);
                }
                Ok(())
            }
            Moment::Second => self.second(truth),
            _ => Ok(()),
        }
    }
}

impl Alarmed {
    fn second(&mut self, truth: &Truth) -> Result<(), String> {
        // Without an agent nobody can tell anything.
        if !truth.agent_runs || truth.shutdown {
            self.unserved.clear();
            return Ok(());
        }
        for (name, declared) in &truth.declared {
            // Where neither hook nor client makes an active, nothing shows who is one.
            let mut processes = truth.of(name).filter_map(|(_, instance)| instance.process.as_ref());
            let unmarked =
                !Truth::acts_by_itself(declared) || processes.any(|process| !Truth::acts_by_itself(&process.from));
            if declared.listen.is_none() && unmarked {
                continue;
            }
            for number in 0..declared.active {
                let slot = SlotId {
                    service: name.clone(),
                    slot: number,
                };
                let holder = truth
                    .store
                    .slots
                    .get(&slot)
                    .filter(|known| known.held)
                    .map(|known| &known.holder);
                let served = holder
                    .and_then(|holder| truth.process(holder))
                    .is_some_and(|process| process.main);
                // During a shared slot's handover the old holder serves on.
                let served = served || truth.acting(&slot).any(|(_, process)| process.main);
                let seconds = self.unserved.entry(slot.clone()).or_default();
                *seconds = if served { 0 } else { *seconds + 1 };
                if *seconds > PATIENCE && self.told.get(name) == Some(&ServiceState::Redundant) {
                    return Err(format!(
                        "nobody holds {slot} for {seconds}s and {name} is said to be redundant"
                    ));
                }
            }
        }
        Ok(())
    }
}
