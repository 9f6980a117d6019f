//! L1, L2, L8: when faults have stopped, every slot is served at every node's proxy, standbys are ready, and nothing is left over.

use crate::cluster::machine::{acts_by_itself, keeps_history};
use crate::cluster::records::{Key, Value};
use crate::cluster::world::World;
use decisions::SlotKnown;
use model::{InstanceId, Service, ServiceName, SlotId, StandbyMode};
use std::collections::{BTreeMap, BTreeSet};

/// What is not well yet: which promise, and what.
pub(crate) fn missing(world: &World) -> Option<(&'static str, String)> {
    for (name, declared) in &world.declared {
        let held: Vec<&SlotKnown> = world.held(name);
        let problem = unserved(world, name, declared, &held)
            .or_else(|| unready(world, name, declared, &held))
            .or_else(|| misrouted(world, name, &held));
        if problem.is_some() {
            return problem;
        }
    }
    sessions(world)
        .or_else(|| deaf(world))
        .or_else(|| parting(world))
        .or_else(|| binds(world))
        .or_else(|| wishes(world))
}

/// What an operator asked for is done; nothing is moved of a service of which a slot is parked, for nobody knows then who could take over.
fn wishes(world: &World) -> Option<(&'static str, String)> {
    let wished = |service: &ServiceName| world.server.model.get(&Key::Rebalance(service.clone())).is_some();
    let parked = |name, declared: &Service| (0..declared.active).any(|slot| world.is_parked(name, slot));
    let mut services = world.declared.iter();
    let (service, _) = services.find(|(name, declared)| wished(name) && !parked(name, declared))?;
    Some(("L5", format!("{service} is still being rebalanced")))
}

fn unserved(
    world: &World,
    name: &ServiceName,
    declared: &Service,
    held: &[&SlotKnown],
) -> Option<(&'static str, String)> {
    for slot in 0..declared.active {
        if world.is_parked(name, slot) {
            if let Some(known) = held.iter().find(|known| known.slot.slot == slot) {
                return Some((
                    "T11",
                    format!("{} still holds {name}/{slot}, which is parked", known.holder),
                ));
            }
            continue;
        }
        let Some(known) = held.iter().find(|known| known.slot.slot == slot) else {
            return Some(("L1", format!("nobody holds {name}/{slot}")));
        };
        let holder = &known.holder;
        let Some(inst) = world.instances.get(holder) else {
            return Some(("L1", format!("{holder} holds {name}/{slot} and does not exist")));
        };
        if !world.answers(holder) || !known.served {
            return Some(("L2", format!("{holder} holds {name}/{slot} and does not serve")));
        }
        let acting = inst.process.as_ref().and_then(|process| process.acting);
        let acts = acting.is_some_and(|acting| acting.slot == slot && acting.epoch == known.epoch);
        if declared.exclusive && !(acts && world.gate_is_open(holder, inst)) {
            return Some((
                "L2",
                format!(
                    "{holder} holds {name}/{slot} and was not promoted at epoch {}",
                    known.epoch
                ),
            ));
        }
    }
    None
}

fn unready(
    world: &World,
    name: &ServiceName,
    declared: &Service,
    held: &[&SlotKnown],
) -> Option<(&'static str, String)> {
    let assigned = world.assigned(name);
    // Who was active last has the data of a parked slot, and goes, or is moved, only when somebody is active again.
    let parked = (0..declared.active).any(|slot| world.is_parked(name, slot));
    let wanted = declared.wanted() as usize;
    if assigned < wanted || (assigned > wanted && !parked) {
        return Some((
            "L8",
            format!("{name} has {assigned} instances instead of {}", declared.wanted()),
        ));
    }
    let leader = held
        .iter()
        .find(|known| known.slot.slot == 0)
        .map(|known| &known.holder);
    for (id, inst) in world.of(name) {
        let record = world.server.model.get(&Key::Instance(id.clone()));
        let Some(process) = &inst.process else {
            continue;
        };
        if record.is_none() {
            return Some(("L8", format!("{id} runs, and is not declared in the store")));
        }
        let holds = held.iter().any(|known| known.holder == *id);
        let cold = declared.standby_mode == StandbyMode::Cold;
        if cold && !holds {
            return Some(("L8", format!("{id} runs, and it is a cold standby")));
        }
        if !world.answers(id) || process.dying {
            return Some(("L2", format!("{id} does not answer")));
        }
        if !holds && declared.exclusive && process.acting.is_some() && acts_by_itself(declared) {
            return Some(("L8", format!("{id} still acts and holds nothing")));
        }
        let follows = process.in_sync_with.as_ref().map(|(leader, _)| leader);
        if !holds && keeps_history(declared) && follows != leader && !world.is_parked(name, 0) {
            return Some(("L2", format!("{id} does not follow the active")));
        }
    }
    if declared.standby_mode == StandbyMode::Warm {
        let running = world.of(name).filter(|(_, inst)| inst.process.is_some()).count();
        if running != assigned {
            return Some(("L2", format!("{running} of {assigned} instances of {name} run")));
        }
    }
    // What each core thinks of it.
    for (node, ix) in world.nodes.iter().zip(0u16..) {
        let Some(core) = node.agent.as_ref().and_then(|agent| agent.core.as_ref()) else {
            return Some(("L8", format!("n{ix:04} has no agent that decides")));
        };
        let view = core.view(node.clocks.decisions(world.now));
        let view = view.services.into_iter().find(|service| service.name == *name);
        if let Some(why) = not_redundant(view.as_ref()).filter(|_| !parked) {
            return Some(("L8", format!("{name} is not redundant, n{ix:04} says: {why}")));
        }
    }
    None
}

/// How many instances of a service stand by and follow its active.
pub(crate) fn standbys(world: &World, name: &ServiceName) -> usize {
    let held = world.held(name);
    let leader = held.first().map(|slot| &slot.holder);
    let follows = |inst: &crate::cluster::machine::Inst| {
        let process = inst.process.as_ref();
        process.is_some_and(|process| process.in_sync_with.as_ref().map(|(followed, _)| followed) == leader)
    };
    world
        .of(name)
        .filter(|(_, inst)| leader.is_some() && follows(inst))
        .count()
}

fn parting(world: &World) -> Option<(&'static str, String)> {
    let of = |node: &crate::cluster::world::Node| node.parting.keys().next().cloned();
    let left = world
        .nodes
        .iter()
        .zip(0u16..)
        .find_map(|(node, ix)| Some((ix, of(node)?)));
    left.map(|(ix, id)| ("L8", format!("n{ix:04} still keeps clients of {id} away")))
}

fn misrouted(world: &World, name: &ServiceName, held: &[&SlotKnown]) -> Option<(&'static str, String)> {
    let holders: BTreeSet<_> = held
        .iter()
        .map(|known| (known.slot.slot, &known.holder, known.epoch))
        .collect();
    for (node, ix) in world.nodes.iter().zip(0u16..) {
        let targets = node.routes.get(name).map(|route| &route.targets);
        let targets: BTreeSet<_> = targets
            .into_iter()
            .flatten()
            .map(|target| (target.slot, &target.instance, target.epoch))
            .collect();
        if targets != holders {
            return Some((
                "L8",
                format!("n{ix:04} sends clients of {name} to {targets:?} instead of {holders:?}"),
            ));
        }
    }
    None
}

fn sessions(world: &World) -> Option<(&'static str, String)> {
    for ix in 0..world.nodes.len() as u16 {
        let there = world.server.model.get(&Key::Session(ix)).map(|entry| entry.create);
        let agent = world.node(ix).agent.as_ref();
        let ours = agent.and_then(|agent| agent.clustered.session);
        if there.is_none() || there != ours {
            return Some(("L8", format!("n{ix:04} has session {there:?}, and its agent {ours:?}")));
        }
    }
    let controllers = world.nodes.iter().filter(|node| {
        let core = node.agent.as_ref().and_then(|agent| agent.core.as_ref());
        core.is_some_and(decisions::Core::is_controller)
    });
    let count = controllers.count();
    (count != 1).then(|| ("L8", format!("{count} nodes are the controller")))
}

/// Every agent hears of the sessions that it would have to end: one that does not waits for ever.
fn deaf(world: &World) -> Option<(&'static str, String)> {
    for (node, ix) in world.nodes.iter().zip(0u16..) {
        let agent = node.agent.as_ref();
        let Some(clustered) = agent.map(|agent| &agent.clustered) else {
            continue;
        };
        for (other, of) in world.nodes.iter().zip(0u16..).filter(|(_, of)| *of != ix) {
            let there = world.server.model.get(&Key::Session(of)).map(|entry| entry.create);
            let known = clustered.sessions.get(&of).map(|session| session.id);
            let what = if there != known {
                format!(
                    "n{ix:04} knows session {known:?} of {}, which has {there:?}",
                    other.name
                )
            } else if clustered.scoped.scope().has(&other.name) && !clustered.observer.hears(&other.name) {
                format!("n{ix:04} does not hear whether {} renews its session", other.name)
            } else {
                continue;
            };
            return Some(("nobody is deaf", what));
        }
    }
    None
}

/// What is bound is what is held.
fn binds(world: &World) -> Option<(&'static str, String)> {
    let mut bound: BTreeSet<&InstanceId> = BTreeSet::new();
    let mut held: BTreeMap<&InstanceId, &SlotId> = BTreeMap::new();
    for entry in world.server.model.entries() {
        match (&entry.key, &*entry.value) {
            (Key::Bind(id), _) => {
                bound.insert(id);
            }
            (Key::Slot(_), Value::Slot(slot)) if slot.held => {
                held.insert(&slot.holder, &slot.slot);
            }
            _ => {}
        }
    }
    let left = bound.iter().find(|id| !held.contains_key(**id));
    if let Some(left) = left {
        return Some(("L8", format!("{left} is bound and holds nothing")));
    }
    let (id, slot) = held.iter().find(|(id, _)| !bound.contains(**id))?;
    Some(("L8", format!("{id} holds {slot} and is not bound to it")))
}

/// Why a core does not think that a service is redundant.
fn not_redundant(view: Option<&decisions::ServiceView>) -> Option<String> {
    let Some(view) = view else {
        return Some("it does not know it".into());
    };
    if view.state == model::ServiceState::Redundant {
        return None;
    }
    let unready = view
        .instances
        .iter()
        .filter_map(|instance| Some((&instance.id, instance.ready.as_ref().err()?)));
    let unready: Vec<String> = unready.map(|(id, why)| format!("{id}: {why}")).collect();
    let slots: Vec<String> = view.slots.iter().map(|slot| format!("{:?}", slot.phase)).collect();
    Some(format!(
        "{}; {}; {}",
        view.because,
        unready.join(", "),
        slots.join(", ")
    ))
}
