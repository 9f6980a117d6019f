//! "why slow": what can be seen from here.

use super::Known;
use api::Answer;
use decisions::{InstanceView, ServiceView, SlotPhase};
use model::Health;

/// What slows a service down, of what is known; that nothing is known is said.
pub(crate) fn answer(service: &ServiceView, known: &Known<'_>) -> Answer {
    let mut lines = Vec::new();
    let moving = service.slots.iter().filter(|slot| slot.phase != SlotPhase::Serving);
    for slot in moving {
        if slot.parked.is_some() {
            lines.push(format!(
                "slot {} is parked: nobody serves in it before `understudy unpark {}/{}`",
                slot.slot, service.name, slot.slot
            ));
            continue;
        }
        lines.push(format!(
            "slot {} is {}: its clients wait up to {} for whoever takes it",
            slot.slot,
            super::status::slot_state(slot.phase),
            service.declared.hold_timeout
        ));
    }
    let failing = |instance: &&InstanceView| instance.health == Health::Unhealthy;
    for instance in service.instances.iter().filter(failing) {
        let last = instance.last_failure.as_deref().unwrap_or("its checks fail");
        lines.push(format!("{} is unhealthy: {last}", instance.id));
    }
    if let Some(totals) = known.fronts.totals(&service.name) {
        // Who waited in vain was sent to nobody.
        let part = |some: u64| match totals.requests + totals.failed {
            0 => 0.0,
            all => some as f64 * 100.0 / all as f64,
        };
        lines.push(format!(
            "this node's proxy since it started: {} requests, {} had to wait for an active ({:.2} %), {} failed; {} tries at an active were repeated; {} connections \
             are open now",
            totals.requests,
            totals.held,
            part(totals.held),
            totals.failed,
            totals.retried,
            totals.open
        ));
        if totals.requests == 0 {
            lines.push("so nothing came through here: look on the node where the clients come".into());
        }
    } else {
        lines.push("clients do not come through a proxy of ours: how long they wait is not known here".into());
    }
    let needs: Vec<&ServiceView> = known
        .view
        .services
        .iter()
        .filter(|other| service.declared.needs.contains(&other.name))
        .filter(|other| other.state != model::ServiceState::Redundant)
        .collect();
    for other in needs {
        lines.push(format!(
            "it needs {}, which is {}: {}",
            other.name, other.state, other.because
        ));
    }
    Answer {
        question: "why slow".into(),
        lines,
    }
}
