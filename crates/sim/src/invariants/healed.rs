//! L2, L5, L8: when faults have stopped, every declared slot is served, standbys are ready, requests are answered, and nothing
//! is left over.

use crate::world::truth::{Instance, Truth};
use decisions::View;
use model::{InstanceId, Service, ServiceName, ServiceState, SlotId, StandbyMode};
use std::collections::BTreeSet;

/// What is not well yet: which promise, and what.
pub(crate) fn missing(truth: &Truth, view: Option<&View>) -> Option<(&'static str, String)> {
    let services = truth.known_services();
    for name in &services {
        let problem = match truth.declared.get(name) {
            Some(declared) => unserved(truth, name, declared)
                .or_else(|| unready(truth, name, declared, view))
                .or_else(|| misrouted(truth, name, declared)),
            None => truth
                .of(name)
                .next()
                .map(|(id, _)| ("L8", format!("{id} is left over"))),
        };
        if problem.is_some() {
            return problem;
        }
    }
    if let Some(name) = truth
        .proxy
        .routes
        .keys()
        .find(|name| !truth.declared.contains_key(*name))
    {
        return Some(("L8", format!("the address of {name} is left over")));
    }
    let left = view.and_then(|view| view.services.iter().find(|service| service.removed));
    if let Some(left) = left {
        return Some(("L8", format!("{} is not removed yet, the core says", left.name)));
    }
    left_held(truth).or_else(|| {
        let waiting = truth.switchovers.keys().next()?;
        Some(("L5", format!("request {waiting} of the operator was never answered")))
    })
}

fn unserved(truth: &Truth, name: &ServiceName, declared: &Service) -> Option<(&'static str, String)> {
    for slot in slots(name, declared) {
        let Some(known) = truth.store.slots.get(&slot).filter(|known| known.held) else {
            return Some(("L2", format!("nobody holds {slot}")));
        };
        let holder = &known.holder;
        if !truth.answers(holder) {
            return Some(("L2", format!("{holder} holds {slot} and does not answer")));
        }
        let process = truth.process(holder);
        let acts = process.and_then(|process| process.acting);
        let knows = process.is_some_and(|process| Truth::was_told(process, declared));
        if knows && !acts.is_some_and(|acting| Truth::acts_for(declared, acting, slot.slot, known.epoch)) {
            return Some((
                "L2",
                format!("{holder} holds {slot} and was not promoted at epoch {}", known.epoch),
            ));
        }
    }
    None
}

fn unready(
    truth: &Truth,
    name: &ServiceName,
    declared: &Service,
    view: Option<&View>,
) -> Option<(&'static str, String)> {
    let all: Vec<(&InstanceId, &Instance)> = truth.of(name).collect();
    let (have, wanted) = (all.len(), declared.wanted() as usize);
    if have != wanted {
        return Some(("L8", format!("{name} has {have} instances instead of {wanted}")));
    }
    let view = view.and_then(|view| view.services.iter().find(|service| service.name == *name));
    let slots = declared.active as usize;
    if view.is_none_or(|view| view.state != ServiceState::Redundant || view.slots.len() != slots) {
        return Some(("L2", format!("{name} is not redundant, the core says")));
    }
    let leader = truth
        .store
        .of(name)
        .find(|known| known.slot.slot == 0)
        .map(|known| &known.holder);
    for (id, instance) in all {
        let holds = truth.store.held_by(id).next().is_some();
        let cold = declared.standby_mode == StandbyMode::Cold;
        let Some(process) = &instance.process else {
            if !cold || holds {
                return Some(("L2", format!("{id} does not run")));
            }
            let prepared = view.is_some_and(|view| view.failover_order.contains(id));
            if !prepared {
                return Some(("L2", format!("{id} is not prepared")));
            }
            continue;
        };
        if cold && !holds {
            return Some(("L8", format!("{id} runs, and it is a cold standby")));
        }
        if !truth.answers(id) || process.dying {
            return Some(("L2", format!("{id} does not answer")));
        }
        if process.from.launch() != declared.launch() {
            return Some(("L2", format!("{id} runs from an earlier declaration")));
        }
        let follows = process.in_sync_with.as_ref().map(|(leader, _)| leader);
        if !holds && Truth::keeps_history(declared) && follows != leader {
            return Some(("L2", format!("{id} does not follow the active")));
        }
        // A shared one whose demote hook the agent did not live to see is a standby all the same: it gets no clients.
        if !holds && declared.exclusive && process.acting.is_some() {
            return Some(("L8", format!("{id} still acts and holds nothing")));
        }
        if !holds && view.is_none_or(|view| !view.failover_order.contains(id)) {
            return Some(("L2", format!("{id} could take over and is not in the failover order")));
        }
    }
    None
}

fn misrouted(truth: &Truth, name: &ServiceName, declared: &Service) -> Option<(&'static str, String)> {
    let Some(route) = truth.proxy.routes.get(name) else {
        return declared
            .listen
            .is_some()
            .then(|| ("L8", format!("clients of {name} are sent nowhere")));
    };
    if declared.listen.is_none() {
        return Some(("L8", format!("the address of {name} is left over")));
    }
    let targets = route
        .targets
        .iter()
        .map(|target| (target.slot, &target.instance, target.epoch));
    let targets: BTreeSet<_> = targets.collect();
    let held = truth.store.of(name).filter(|known| known.held);
    let holders: BTreeSet<_> = held
        .map(|known| (known.slot.slot, &known.holder, known.epoch))
        .collect();
    (targets != holders).then(|| {
        (
            "L8",
            format!("clients of {name} are sent to {targets:?} instead of {holders:?}"),
        )
    })
}

/// No slot is held that is not declared.
fn left_held(truth: &Truth) -> Option<(&'static str, String)> {
    let stale = truth.store.slots.values().find(|known| {
        let declared = truth.declared.get(&known.slot.service);
        known.held && declared.is_none_or(|declared| known.slot.slot >= declared.active)
    })?;
    Some(("L8", format!("{} is still held by {}", stale.slot, stale.holder)))
}

fn slots(name: &ServiceName, declared: &Service) -> impl Iterator<Item = SlotId> {
    (0..declared.active).map(|slot| SlotId {
        service: name.clone(),
        slot,
    })
}
