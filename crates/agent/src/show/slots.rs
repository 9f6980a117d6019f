//! A slot in words: who holds it, and why nobody does.

use super::status::slot_state;
use crate::clock::shown;
use decisions::{Paused, ServiceView, SlotPhase, SlotView, View};

/// The slot of a name such as `db/0`.
pub(super) fn find<'a>(view: &'a View, name: &str) -> Option<(&'a ServiceView, &'a SlotView)> {
    let (service, number) = name.split_once('/')?;
    let service = view.services.iter().find(|one| one.name.as_str() == service)?;
    let slot = service.slots.iter().find(|slot| slot.slot.to_string() == number)?;
    Some((service, slot))
}

/// "slot 0 is serving, held by db-1 at epoch 3, since …, because …".
pub(super) fn line(slot: &SlotView) -> String {
    format!(
        "slot {} is {}, {}, since {}, because {}",
        slot.slot,
        slot_state(slot.phase),
        holder(slot),
        shown(slot.since),
        because(slot)
    )
}

/// Why it is as it is, and when somebody is promoted again where that failed.
pub(super) fn because(slot: &SlotView) -> String {
    let again = slot
        .next_try
        .map(|at| format!("; the next promotion is tried at {}", shown(at)));
    format!("{}{}", slot.because, again.unwrap_or_default())
}

/// Who holds it, or held it.
pub(super) fn holder(slot: &SlotView) -> String {
    match (&slot.instance, &slot.last_holder) {
        (Some(holder), _) => format!("held by {holder} at epoch {}", slot.epoch),
        (None, Some(last)) => format!("last held by {last} at epoch {}", slot.epoch),
        (None, None) => "never held".into(),
    }
}

/// Why nobody takes it, if the operator wants that.
pub(super) fn parked(service: &ServiceView, slot: &SlotView) -> Option<String> {
    let parked = slot.parked.as_ref()?;
    let leaves = match &slot.instance {
        Some(holder) => format!("{holder} is giving it up, and "),
        None => String::new(),
    };
    let name = &service.name;
    Some(format!(
        "slot {} is parked since {}, because {}: {leaves}nobody takes it before `understudy unpark {name}/{}`",
        slot.slot,
        shown(parked.since),
        parked.reason(),
        slot.slot
    ))
}

/// What must be ended before a slot that nobody serves can be held again: by hand it was stopped, by hand it goes on.
pub(crate) fn way_on(paused: Option<&Paused>, service: &ServiceView, slot: &SlotView) -> Option<String> {
    if slot.phase == SlotPhase::Serving {
        return None;
    }
    let parked = slot.parked.as_ref().map(|parked| {
        let (name, slot) = (&service.name, slot.slot);
        let why = parked.reason();
        format!("slot {name}/{slot} is parked, because {why}: `understudy unpark {name}/{slot}` lets it be held again")
    });
    let paused = paused.map(|paused| {
        let why = paused.reason();
        format!("automatic actions are paused, because {why}: nobody takes it before `understudy resume`")
    });
    let both: Vec<String> = parked.into_iter().chain(paused).collect();
    (!both.is_empty()).then(|| both.join("; "))
}

/// Whether there is no slot that anybody could take.
pub(super) fn are_all_parked(service: &ServiceView) -> bool {
    !service.slots.is_empty() && service.slots.iter().all(|slot| slot.parked.is_some())
}

#[cfg(test)]
mod tests {
    use super::line;
    use decisions::{Reason, SlotPhase, SlotView};
    use model::{Epoch, InstanceId, ServiceName, Timestamp};

    #[test]
    fn a_slot_that_waits_after_promotions_that_failed_says_until_when() {
        let db = ServiceName::new("db").unwrap_or_else(|error| panic!("{error}"));
        let instance = InstanceId::new(db, 1);
        let mut slot = SlotView {
            slot: 0,
            phase: SlotPhase::Vacant,
            instance: None,
            last_holder: Some(instance.clone()),
            epoch: Epoch(5),
            since: Timestamp(0),
            because: Reason::NotPromoted {
                instance,
                what: "exit code 3".into(),
            },
            parked: None,
            next_try: None,
        };
        assert!(
            line(&slot).ends_with("did not come to serve: exit code 3"),
            "{}",
            line(&slot)
        );
        slot.next_try = Some(Timestamp(60_000_000));
        assert!(
            line(&slot).contains("; the next promotion is tried at "),
            "{}",
            line(&slot)
        );
    }
}
