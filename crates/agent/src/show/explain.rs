//! `GET /v1/explain/{name}`: why something is as it is, and what happens if it dies now.

use super::status::slot_state;
use super::{Known, alias, loss, placement, slots, slow};
use crate::clock::shown;
use crate::executor::Executor;
use api::{Answer, Explanation};
use decisions::{InstanceView, ServiceView, SlotPhase, SlotView, View};
use model::{Role, ServiceState};

/// Events shown with an explanation.
const EVENTS: usize = 12;

/// Explains a service, a slot (`db/0`), an instance, a node, what is at an address, or the cluster; and what follows if a node dies.
/// `None` if there is nothing of that name.
pub(crate) fn explain(name: &str, if_dies: Option<&str>, known: &Known<'_>) -> Option<Explanation> {
    if let Some(explanation) = explain_thing(name, if_dies, known) {
        return Some(explanation);
    }
    let (summary, facts) = match alias::of_address(name, known) {
        Some(alias::Meant::Thing { name: thing, how }) => {
            let mut explanation = explain_thing(&thing, if_dies, known)?;
            explanation.summary = format!("{how}; {}", explanation.summary);
            return Some(explanation);
        }
        Some(alias::Meant::Several(lines)) => (
            format!("{} services and instances are reached at {name}", lines.len()),
            lines,
        ),
        None if name == known.cluster => alias::of_cluster(name, known.view),
        None => return None,
    };
    let what_if = |node| if_node_dies(node, known.view.services.iter().collect(), known);
    let answers = match if_dies {
        Some(node) => vec![what_if(node)?],
        None => Vec::new(),
    };
    Some(Explanation {
        version: api::VERSION,
        about: name.into(),
        summary,
        facts,
        if_it_dies: Vec::new(),
        answers,
        events: known.journal.latest_about(name, EVENTS),
    })
}

fn explain_thing(name: &str, if_dies: Option<&str>, known: &Known<'_>) -> Option<Explanation> {
    let view = known.view;
    let mut answers = Vec::new();
    let (summary, mut facts, mut if_it_dies) =
        if let Some(service) = view.services.iter().find(|service| service.name.as_str() == name) {
            answers.push(why_not_failed_over(service, &all(service), view));
            answers.push(slow::answer(service, known));
            of_service(service)
        } else if let Some((service, slot)) = slots::find(view, name) {
            answers.push(why_not_failed_over(service, &[slot], view));
            of_slot(service, slot)
        } else if let Some((service, instance)) = find_instance(view, name) {
            answers.extend(placement::answers(service, instance, known));
            answers.extend(holds_slot(service, instance).then(|| why_not_failed_over(service, &all(service), view)));
            of_instance(service, instance, known.executor)
        } else {
            of_node(known, name)?
        };
    if let Some(node) = if_dies {
        let of = |service: &&ServiceView| {
            service.name.as_str() == name
                || find_instance(view, name).is_some_and(|(of, _)| of.name == service.name)
                || slots::find(view, name).is_some_and(|(of, _)| of.name == service.name)
        };
        let named: Vec<&ServiceView> = view.services.iter().filter(of).collect();
        let all = view.services.iter().collect();
        answers.insert(
            0,
            if_node_dies(node, if named.is_empty() { all } else { named }, known)?,
        );
    }
    if let Some(paused) = &view.paused {
        let told = format!("{}, since {}", paused.reason(), shown(paused.since));
        facts.push(told.clone());
        if_it_dies = vec![format!("nothing follows: {told}; `understudy resume` ends that")];
    }
    // Events tell of a service's slots, not of each.
    let told_of = slots::find(view, name).map(|(service, _)| service.name.to_string());
    let events = known.journal.latest_about(told_of.as_deref().unwrap_or(name), EVENTS);
    Some(Explanation {
        version: api::VERSION,
        about: name.into(),
        summary,
        facts,
        if_it_dies,
        answers,
        events,
    })
}

/// "what if node b dies now", for some services; `None` if there is no such node.
fn if_node_dies(node: &str, services: Vec<&ServiceView>, known: &Known<'_>) -> Option<Answer> {
    known.view.nodes.iter().find(|other| other.name.as_str() == node)?;
    let mut lines: Vec<String> = services
        .into_iter()
        .map(|service| {
            let untouched = || format!("{} has nothing on {node}", service.name);
            what_if_node(service, node).unwrap_or_else(untouched)
        })
        .collect();
    lines.extend(noticed(known));
    lines.extend(loss::of_voters(&known.voters, node));
    if let Some(paused) = &known.view.paused {
        lines.insert(
            0,
            format!(
                "nobody takes over: {}, since {}; without that:",
                paused.reason(),
                shown(paused.since)
            ),
        );
    }
    Some(Answer {
        question: format!("what if node {node} dies now"),
        lines,
    })
}

/// When the loss of a node is noticed.
fn noticed(known: &Known<'_>) -> Option<String> {
    let within = super::takeover::within(known.pace?, 1);
    Some(format!(
        "it is noticed when its session is not renewed: its slots are taken elsewhere {within}"
    ))
}

/// "why not failed over": who keeps his slot, and why nobody takes what is free.
fn why_not_failed_over(service: &ServiceView, of: &[&SlotView], view: &View) -> Answer {
    let mut lines = Vec::new();
    for slot in of {
        if let Some(parked) = slots::parked(service, slot) {
            lines.push(parked);
            continue;
        }
        let holder = slot
            .instance
            .as_ref()
            .and_then(|id| service.instances.iter().find(|instance| instance.id == *id));
        lines.push(match (slot.phase, holder) {
            (SlotPhase::Serving, Some(holder)) if holder.ready.is_ok() => format!(
                "slot {}: {} keeps it, for it is {} and serves; nothing moves without a reason, and nothing moves back",
                slot.slot, holder.id, holder.health
            ),
            (SlotPhase::Serving, Some(holder)) => format!(
                "slot {}: {} still has it and is {}: {}",
                slot.slot,
                holder.id,
                holder.health,
                holder
                    .last_failure
                    .as_deref()
                    .unwrap_or("its checks have not failed often enough in a row")
            ),
            (phase, _) => format!(
                "slot {} is {}, because {}",
                slot.slot,
                slot_state(phase),
                slots::because(slot)
            ),
        });
    }
    if let Some(paused) = &view.paused {
        lines.push(format!(
            "nobody takes over: {}, since {}",
            paused.reason(),
            shown(paused.since)
        ));
    }
    let waiting = service
        .instances
        .iter()
        .filter(|instance| instance.role == Role::Standby);
    for standby in waiting {
        lines.push(match &standby.ready {
            Ok(()) if of.iter().all(|slot| slot.parked.is_some()) => {
                format!("{} is ready, and takes nothing that is parked", standby.id)
            }
            Ok(()) => match &standby.not_promoted {
                Some(what) => format!("{} is tried again, and its last promotion failed: {what}", standby.id),
                None => format!("{} could take over", standby.id),
            },
            Err(why) => format!("{} could not take over: {why}", standby.id),
        });
    }
    if service.declared.standby == 0 {
        lines.push("no standby is declared: there is nobody to fail over to".into());
    }
    Answer {
        question: "why not failed over".into(),
        lines,
    }
}

fn all(service: &ServiceView) -> Vec<&SlotView> {
    service.slots.iter().collect()
}

fn holds_slot(service: &ServiceView, instance: &InstanceView) -> bool {
    service
        .slots
        .iter()
        .any(|slot| slot.instance.as_ref() == Some(&instance.id))
}

type Parts = (String, Vec<String>, Vec<String>);

pub(super) fn find_instance<'a>(view: &'a View, name: &str) -> Option<(&'a ServiceView, &'a InstanceView)> {
    view.services.iter().find_map(|service| {
        let instance = service
            .instances
            .iter()
            .find(|instance| instance.id.to_string() == name)?;
        Some((service, instance))
    })
}

fn of_service(service: &ServiceView) -> Parts {
    let mut facts: Vec<String> = service.slots.iter().map(slots::line).collect();
    facts.extend(service.instances.iter().map(instance_line));
    facts.push(failover_order(service));
    if let Some(rollout) = super::status::rollout(service) {
        let words = super::status::rollout_in_words(&rollout);
        let some = if service.instances.iter().any(|instance| !instance.current) {
            "some processes run from an earlier declaration; "
        } else {
            ""
        };
        facts.push(format!("{some}{words}"));
        facts.extend((!rollout.hint.is_empty()).then_some(rollout.hint));
    }
    facts.extend(service.unplaced.clone());
    if service.rebalancing {
        facts.push("its instances move to where they would be put today, as the operator asked".into());
    }
    let summary = format!(
        "{} is {} since {}, because {}",
        service.name,
        service.state,
        shown(service.since),
        service.because
    );
    (summary, facts, if_an_active_dies(service))
}

fn failover_order(service: &ServiceView) -> String {
    let names = super::names(&service.failover_order);
    match service.failover_order.as_slice() {
        [] => "nobody could take over now".into(),
        _ if slots::are_all_parked(service) => {
            format!("nobody takes over, for every slot is parked; ready would be {names}")
        }
        _ => format!("failover order: {names}"),
    }
}

fn of_slot(service: &ServiceView, slot: &SlotView) -> Parts {
    let mut facts = vec![format!("it is {}", slots::holder(slot))];
    let holder = slot.instance.as_ref().or(slot.last_holder.as_ref());
    let holder = service.instances.iter().find(|instance| Some(&instance.id) == holder);
    facts.extend(holder.map(instance_line));
    facts.push(match slot.parked {
        Some(_) if !service.failover_order.is_empty() => format!(
            "unparked, it would be taken by {}, the first that is ready",
            service.failover_order[0]
        ),
        _ => failover_order(service),
    });
    let name = format!("slot {} of {}", slot.slot, service.name);
    let if_it_dies = match (&slot.parked, &slot.instance) {
        (Some(_), None) => vec!["nobody holds it, so nobody can die in it".into()],
        (Some(_), Some(holder)) => vec![format!("{holder} is giving it up; nobody takes it after that")],
        (None, _) => if_an_active_dies(service),
    };
    let summary = slots::parked(service, slot).unwrap_or_else(|| {
        format!(
            "{name} is {} since {}, because {}",
            slot_state(slot.phase),
            shown(slot.since),
            slots::because(slot)
        )
    });
    (summary, facts, if_it_dies)
}

fn if_an_active_dies(service: &ServiceView) -> Vec<String> {
    if slots::are_all_parked(service) {
        return vec![format!(
            "nothing follows: every slot is parked, and nobody takes one before `understudy unpark {}`",
            service.name
        )];
    }
    let hold = service.declared.hold_timeout;
    let has_clients = service.declared.listen.is_some();
    let serving = service
        .slots
        .iter()
        .filter(|slot| slot.phase == SlotPhase::Serving)
        .count();
    let mut lines = Vec::new();
    match (service.state, service.failover_order.first()) {
        (ServiceState::Down, _) => lines.push("it is down already".into()),
        (_, Some(next)) => {
            let waiting = match has_clients {
                true => format!("; new connections wait up to {hold} meanwhile"),
                false => String::new(),
            };
            lines.push(format!("{next} takes the slot at the next epoch{waiting}"));
            lines.push("the one that died is started again and becomes a standby; nothing moves back".into());
        }
        (_, None) if serving > 1 => {
            lines.push(format!(
                "the other {} go on serving; the one that died is started again",
                serving - 1
            ));
        }
        (_, None) if has_clients => lines.push(format!(
            "it is down until it was started again; new connections wait up to {hold}, then fail"
        )),
        (_, None) => lines.push("it is down until it was started again".into()),
    }
    lines.push(match service.distance {
        0 => "distance to outage: 0, it is down".into(),
        1 => "of its instances, the next active that fails takes it down until it was restarted".into(),
        n => {
            format!("of its instances, {n} must fail at once to take it down; `understudy status` counts all else, too")
        }
    });
    lines
}

fn of_instance(service: &ServiceView, instance: &InstanceView, executor: &Executor) -> Parts {
    let mut facts = vec![instance_line(instance)];
    let slot = service
        .slots
        .iter()
        .find(|slot| slot.instance.as_ref() == Some(&instance.id));
    if let Some(slot) = slot {
        facts.push(format!(
            "it holds slot {} at epoch {} since {}, because {}",
            slot.slot,
            slot.epoch,
            shown(slot.since),
            slot.because
        ));
    }
    facts.push(match &instance.ready {
        Ok(()) if instance.role == Role::Active => "it serves clients".into(),
        Ok(()) if slots::are_all_parked(service) => "it is ready, and takes nothing: every slot is parked".into(),
        Ok(()) => match service.failover_order.iter().position(|id| *id == instance.id) {
            Some(place) => format!(
                "it could take over now; it is number {} in the failover order",
                place + 1
            ),
            None => "it could take over now".into(),
        },
        Err(why) => format!("it could not take over now: {why}"),
    });
    if let Some(what) = &instance.not_promoted {
        facts.push(format!("its last promotion failed: {what}"));
    }
    if let Some(pid) = executor.pid(&instance.id) {
        facts.push(format!(
            "its process is {pid}, started {} times before",
            instance.restarts
        ));
    }
    if let Some(at) = instance.next_try.filter(|at| *at != model::Timestamp::NEVER) {
        facts.push(format!("it is tried again at {}", shown(at)));
    }
    if let Some(last) = &instance.last_failure {
        facts.push(format!("its last failure: {last}"));
    }
    let is_given_up = || {
        let rollout = service.rollout.as_ref();
        rollout.is_some_and(|rollout| rollout.state == decisions::RolloutState::GivenUp)
    };
    if !instance.current && is_given_up() {
        facts.push("it runs what worked before: the new version was given up".into());
    } else if !instance.current {
        facts.push("it runs from an earlier declaration and will be replaced".into());
    }
    let if_it_dies = if slot.is_some() {
        if_an_active_dies(service)
    } else {
        vec![
            "clients notice nothing; it is started again as a standby".into(),
            other_standbys(service, instance),
        ]
    };
    let summary = format!(
        "{} is {} {} since {}, because {}",
        instance.id,
        article(instance.role),
        instance.health,
        shown(instance.since),
        instance.because
    );
    (summary, facts, if_it_dies)
}

fn other_standbys(service: &ServiceView, instance: &InstanceView) -> String {
    let others = service.instances.iter();
    let others = others.filter(|other| other.role == Role::Standby && other.id != instance.id);
    let ready = service.failover_order.iter().filter(|id| **id != instance.id).count();
    match others.count() {
        0 => "until then there is no other standby".into(),
        1 => format!(
            "until then the other standby is {}",
            if ready == 0 { "not ready" } else { "there, and ready" }
        ),
        others => format!("until then {ready} of {others} other standbys are ready"),
    }
}

fn article(role: Role) -> &'static str {
    match role {
        Role::Active => "an active,",
        Role::Standby => "a standby,",
    }
}

fn instance_line(instance: &InstanceView) -> String {
    format!(
        "{} on {} is {} and {}, since {}, because {}",
        instance.id,
        instance.node,
        instance.role,
        instance.health,
        shown(instance.since),
        instance.because
    )
}

fn of_node(known: &Known<'_>, name: &str) -> Option<Parts> {
    let view = known.view;
    let node = view.nodes.iter().find(|node| node.name.as_str() == name)?;
    let state = match node.state {
        decisions::NodeState::Online => "online",
        decisions::NodeState::Drained => "drained",
        decisions::NodeState::Offline => "offline",
    };
    let summary = format!(
        "node {name} is {state} since {}, because {}",
        shown(node.since),
        node.because
    );
    let here = view
        .services
        .iter()
        .flat_map(|service| &service.instances)
        .filter(|instance| instance.node.as_str() == name);
    let amiss = known.amiss.iter().filter(|(node, _)| node.as_str() == name);
    let facts = amiss
        .map(|(_, what)| what.clone())
        .chain(here.map(instance_line))
        .collect();
    let mut if_it_dies: Vec<String> = view
        .services
        .iter()
        .filter_map(|service| what_if_node(service, name))
        .collect();
    if if_it_dies.is_empty() {
        if_it_dies.push("nothing runs there: no service notices".into());
    }
    if_it_dies.extend(noticed(known));
    if_it_dies.extend(loss::of_voters(&known.voters, name));
    Some((summary, facts, if_it_dies))
}

fn what_if_node(service: &ServiceView, node: &str) -> Option<String> {
    let effect = loss::after_loss(service, |instance| instance.node.as_str() == node)?;
    let hold = service.declared.listen.map(|_| service.declared.hold_timeout);
    Some(loss::sentence(&effect, hold))
}
