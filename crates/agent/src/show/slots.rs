//! A slot in words: who holds it, and why nobody does.

use super::status::slot_state;
use crate::clock::shown;
use decisions::{ServiceView, SlotView, View};

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
        slot.because
    )
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

/// Whether there is no slot that anybody could take.
pub(super) fn are_all_parked(service: &ServiceView) -> bool {
    !service.slots.is_empty() && service.slots.iter().all(|slot| slot.parked.is_some())
}
