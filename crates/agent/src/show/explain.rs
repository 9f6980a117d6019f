//! `GET /v1/explain/{name}`: why something is as it is, and what happens if it dies now.

use super::status::slot_state;
use crate::clock::shown;
use crate::executor::Executor;
use crate::journal::Journal;
use api::Explanation;
use decisions::{InstanceView, ServiceView, SlotPhase, View};
use model::{Role, ServiceState};

/// Events shown with an explanation.
const EVENTS: usize = 12;

/// Explains a service, an instance or a node; `None` if there is none of that name.
pub(crate) fn explain(name: &str, view: &View, executor: &Executor, journal: &Journal) -> Option<Explanation> {
    let (summary, mut facts, mut if_it_dies) =
        if let Some(service) = view.services.iter().find(|service| service.name.as_str() == name) {
            of_service(service)
        } else if let Some((service, instance)) = find_instance(view, name) {
            of_instance(service, instance, executor)
        } else {
            of_node(view, name)?
        };
    if let Some(since) = view.paused {
        facts.push(format!("automatic actions are paused since {}", shown(since)));
        if_it_dies = vec!["nothing follows while automatic actions are paused; `understudy resume` ends that".into()];
    }
    let events = journal.latest_about(name, EVENTS);
    Some(Explanation {
        version: api::VERSION,
        about: name.into(),
        summary,
        facts,
        if_it_dies,
        events,
    })
}

type Parts = (String, Vec<String>, Vec<String>);

fn find_instance<'a>(view: &'a View, name: &str) -> Option<(&'a ServiceView, &'a InstanceView)> {
    view.services.iter().find_map(|service| {
        let instance = service
            .instances
            .iter()
            .find(|instance| instance.id.to_string() == name)?;
        Some((service, instance))
    })
}

fn of_service(service: &ServiceView) -> Parts {
    let mut facts = Vec::new();
    for slot in &service.slots {
        let who = match (&slot.instance, &slot.last_holder) {
            (Some(holder), _) => format!("held by {holder} at epoch {}", slot.epoch),
            (None, Some(last)) => format!("last held by {last} at epoch {}", slot.epoch),
            (None, None) => "never held".into(),
        };
        facts.push(format!(
            "slot {} is {}, {who}, since {}, because {}",
            slot.slot,
            slot_state(slot.phase),
            shown(slot.since),
            slot.because
        ));
    }
    facts.extend(service.instances.iter().map(instance_line));
    facts.push(match service.failover_order.as_slice() {
        [] => "nobody could take over now".into(),
        order => {
            let names: Vec<String> = order.iter().take(8).map(ToString::to_string).collect();
            format!("failover order: {}", names.join(", "))
        }
    });
    if service.rolling {
        facts.push("a rollout is under way: some processes run from an earlier declaration".into());
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

fn if_an_active_dies(service: &ServiceView) -> Vec<String> {
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
        1 => "distance to outage: 1, the next failure of an active takes it down until it was restarted".into(),
        n => format!("distance to outage: {n}, so many instances must fail at once to take it down"),
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
        Ok(()) => match service.failover_order.iter().position(|id| *id == instance.id) {
            Some(place) => format!(
                "it could take over now; it is number {} in the failover order",
                place + 1
            ),
            None => "it could take over now".into(),
        },
        Err(why) => format!("it could not take over now: {why}"),
    });
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
    if !instance.current {
        facts.push("it runs from an earlier declaration and will be replaced".into());
    }
    let if_it_dies = if slot.is_some() {
        if_an_active_dies(service)
    } else {
        vec![
            "clients notice nothing; it is started again as a standby".into(),
            format!(
                "until then {} of {} other standbys are ready",
                service.failover_order.iter().filter(|id| **id != instance.id).count(),
                service.declared.standby.saturating_sub(1)
            ),
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

fn of_node(view: &View, name: &str) -> Option<Parts> {
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
    let facts = here.map(instance_line).collect();
    let if_it_dies = view
        .services
        .iter()
        .filter_map(|service| what_if_node(service, name))
        .collect();
    Some((summary, facts, if_it_dies))
}

fn what_if_node(service: &ServiceView, node: &str) -> Option<String> {
    let on_it = |instance: &&InstanceView| instance.node.as_str() == node;
    let actives = service
        .instances
        .iter()
        .filter(on_it)
        .filter(|instance| instance.role == Role::Active)
        .count();
    let total = service.instances.iter().filter(on_it).count();
    if total == 0 {
        return None;
    }
    let left = service
        .instances
        .iter()
        .filter(|instance| !on_it(instance) && instance.ready.is_ok())
        .count();
    let need = service.declared.need as usize;
    let verdict = if left >= need {
        "it goes on"
    } else {
        "it is down until instances were started elsewhere"
    };
    Some(format!(
        "{} loses {actives} of its actives ({total} instances); {left} fit ones are left and {need} must serve: {verdict}",
        service.name
    ))
}
