//! Slots that the operator wants nobody to hold: written before it is answered.

use crate::agent::Agent;
use crate::clock;
use crate::input::{Input, done, refused};
use crate::wishes::{self, Wish};
use api::record::{self, Parked};
use api::{Outcome, ParkRequest, Severity};
use decisions::Event;
use model::{ServiceName, SlotId, Timestamp};
use tokio::sync::oneshot;

impl Agent {
    /// The slot that a request names. Where there are several it has to be named.
    pub(crate) fn slot_named(&self, service: &str, slot: Option<u32>, now: Timestamp) -> Result<SlotId, Outcome> {
        let known = ServiceName::new(service).ok();
        let view = known.and_then(|name| self.core.service_view(&name, now));
        let Some(view) = view else {
            return Err(refused(
                format!("there is no service `{service}`"),
                Some("`understudy status` lists them".into()),
            ));
        };
        let slots = view.declared.active;
        let slot = match slot {
            Some(slot) if slot < slots => slot,
            None if slots == 1 => 0,
            None => {
                let text = format!("{service} has {slots} slots: say which");
                let all = (0..slots).map(|slot| format!("`{service}/{slot}`")).collect::<Vec<_>>();
                return Err(refused(text, Some(format!("they are {}", all.join(", ")))));
            }
            Some(slot) => {
                let text = format!(
                    "{service} has no slot {slot}; they are numbered 0 to {}",
                    slots.saturating_sub(1)
                );
                return Err(refused(text, None));
            }
        };
        Ok(SlotId {
            service: view.name,
            slot,
        })
    }

    /// Parks a slot, or lets it be held again.
    pub(crate) fn park(
        &mut self,
        request: &ParkRequest,
        parks: bool,
        answer: oneshot::Sender<Result<Outcome, Outcome>>,
        now: Timestamp,
    ) {
        let slot = match self.parkable(request, parks, now) {
            Ok(slot) => slot,
            Err(told) => return drop(answer.send(if told.done { Ok(told) } else { Err(told) })),
        };
        let at = clock::wall_now();
        let parked = Parked {
            since: at,
            by: request.by.clone(),
            why: request.why.clone(),
        };
        let (what, text) = match parks {
            true => ("park", format!("parked slot {slot}")),
            false => ("unpark", format!("slot {slot} may be held again")),
        };
        let text = text + &wishes::said(&request.why);
        let deed = self.deed(at, &request.by, what, &slot.to_string(), text);
        let held = self
            .core
            .view(now)
            .services
            .into_iter()
            .find(|view| view.name == slot.service);
        let anybody = held.as_ref().is_some_and(|view| !view.failover_order.is_empty());
        let held = held.and_then(|view| view.slots.into_iter().find(|one| one.slot == slot.slot)?.instance);
        let follows = after_unpark(self.core.view(now).paused.as_ref(), anybody);
        let done = match (parks, held) {
            (true, Some(holder)) => format!(
                "slot {slot} is parked: {holder} gives it up, and nobody takes it before `understudy unpark {slot}`"
            ),
            (true, None) => format!("slot {slot} is parked: nobody takes it before `understudy unpark {slot}`"),
            (false, _) => format!("slot {slot} may be held again: {follows}"),
        };
        let wish = Wish {
            key: record::park_key(&slot),
            kept: parks.then(|| serde_json::to_value(&parked)),
            deed,
            done,
            already: format!("slot {slot} is parked already"),
            told: Input::Parked(slot, parks.then_some(parked)),
        };
        self.write_wish(wish, answer);
    }

    /// Which slot to park or unpark; otherwise what to answer.
    fn parkable(&self, request: &ParkRequest, parks: bool, now: Timestamp) -> Result<SlotId, Outcome> {
        let named = self.slot_named(&request.service, request.slot, now);
        if !parks {
            // Also of a service that is not declared any more.
            let asked = |slot: &&SlotId| {
                slot.service.as_str() == request.service && request.slot.is_none_or(|n| n == slot.slot)
            };
            let mut parked = self.core.parks().keys().filter(asked);
            return match (parked.next(), parked.next(), named) {
                (Some(slot), None, _) => Ok(slot.clone()),
                (Some(_), Some(_), _) => Err(refused(
                    format!("several slots of {} are parked: say which", request.service),
                    Some("`understudy status` shows which".into()),
                )),
                (None, _, Ok(slot)) => Err(done(format!("nothing to do: slot {slot} is not parked"))),
                (None, _, Err(refused)) => Err(refused),
            };
        }
        let slot = named?;
        if let Some(parked) = self.core.parks().get(&slot) {
            let text = format!(
                "slot {slot} is parked already, {} since {}",
                parked.reason(),
                clock::shown(parked.since)
            );
            return Err(refused(text, Some(format!("`understudy unpark {slot}` ends that"))));
        }
        match self.not_begun() {
            Some(refused) => Err(refused),
            None => Ok(slot),
        }
    }

    /// The store says that a slot is parked, or not any more.
    pub(crate) fn park_seen(&mut self, slot: SlotId, parked: Option<&Parked>, now: Timestamp) {
        let known = parked.map(known_park);
        let same = |before: &decisions::Parked, after: &decisions::Parked| {
            (&before.by, &before.why) == (&after.by, &after.why)
        };
        let before = self.core.parks().get(&slot);
        let news = match (before, &known) {
            (None, None) => return,
            (Some(before), Some(after)) => !same(before, after),
            _ => true,
        };
        if news {
            let (kind, text) = match &known {
                Some(_) => ("parked", format!("slot {slot} is parked: nobody holds it")),
                None => ("unparked", format!("slot {slot} may be held again")),
            };
            let because = match &known {
                Some(parked) => parked.reason().to_string(),
                None => "the operator asked for it".into(),
            };
            self.journal.tell(Severity::Warning, kind, text, because);
        }
        self.core.handle(Event::Parked { slot, parked: known }, now);
    }
}

/// Who takes a slot that is parked no more.
fn after_unpark(paused: Option<&decisions::Paused>, anybody: bool) -> String {
    match (paused, anybody) {
        (Some(paused), _) => format!(
            "nobody takes it before `understudy resume`, for automatic actions are paused: {}, since {}",
            paused.reason(),
            clock::shown(paused.since)
        ),
        (None, true) => "the first in line takes it now".into(),
        (None, false) => "nobody could take it now, so whoever is ready first does".into(),
    }
}

/// As the decisions know it.
pub(crate) fn known_park(parked: &Parked) -> decisions::Parked {
    decisions::Parked {
        since: clock::ago(parked.since),
        by: parked.by.clone(),
        why: parked.why.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::after_unpark;
    use model::Timestamp;

    #[test]
    fn nobody_is_promised_to_take_a_slot_while_everything_is_paused() {
        let paused = decisions::Paused {
            since: Timestamp(0),
            by: "ann".into(),
            why: "the switch is replaced".into(),
        };
        let said = after_unpark(Some(&paused), true);
        assert!(
            said.starts_with("nobody takes it before `understudy resume`") && said.contains("ann"),
            "{said}"
        );
        assert_eq!(after_unpark(None, true), "the first in line takes it now");
        assert!(after_unpark(None, false).starts_with("nobody could take it now"));
    }
}
