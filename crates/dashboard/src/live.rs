//! What changed between two looks at everything.

use api::{Delta, Event, InstanceStatus, ServiceDelta, ServiceStatus, Status};
use std::collections::BTreeMap;

/// Since when something is so is reckoned back from two clocks at each look, and may differ by this much without any news.
const SINCE_JITTER_MS: u64 = 20;

/// What is different in `after`; nothing if nothing is. Counters of the proxy do not count: they are told once a second anyway.
pub fn delta(before: &Status, after: &Status, seq: u64, events: Vec<Event>) -> Option<Delta> {
    let old: BTreeMap<&str, &ServiceStatus> = before
        .services
        .iter()
        .map(|service| (service.name.as_str(), service))
        .collect();
    let services: Vec<ServiceDelta> = after
        .services
        .iter()
        .filter_map(|service| service_delta(old.get(service.name.as_str()).copied(), service))
        .collect();
    let gone: Vec<String> = before
        .services
        .iter()
        .filter(|service| after.services.iter().all(|other| other.name != service.name))
        .map(|service| service.name.clone())
        .collect();
    let nodes_differ = before.nodes.len() != after.nodes.len()
        || before.nodes.iter().zip(&after.nodes).any(|(old, new)| {
            !is_same_since(&old.since, &new.since)
                || blank_since(new.clone(), |node| &mut node.since) != blank_since(old.clone(), |node| &mut node.since)
        });
    let problems_differ = before.problems.len() != after.problems.len()
        || before.problems.iter().zip(&after.problems).any(|(old, new)| {
            // Our own problems are said to begin whenever one looks.
            blank_since(new.clone(), |problem| &mut problem.since)
                != blank_since(old.clone(), |problem| &mut problem.since)
        });
    let paused_differs = before.pause != after.pause || before.paused.is_some() != after.paused.is_some();
    let news = !services.is_empty()
        || !gone.is_empty()
        || nodes_differ
        || problems_differ
        || paused_differs
        || before.revision != after.revision
        || !events.is_empty();
    news.then(|| Delta {
        seq,
        at: after.at.clone(),
        revision: after.revision,
        paused: after.paused.clone(),
        pause: after.pause.clone(),
        services,
        gone,
        nodes: nodes_differ.then(|| after.nodes.clone()),
        problems: problems_differ.then(|| after.problems.clone()),
        events,
    })
}

fn service_delta(before: Option<&ServiceStatus>, after: &ServiceStatus) -> Option<ServiceDelta> {
    let old: BTreeMap<&str, &InstanceStatus> = before
        .map(|before| {
            before
                .instances
                .iter()
                .map(|instance| (instance.id.as_str(), instance))
                .collect()
        })
        .unwrap_or_default();
    let instances: Vec<InstanceStatus> = after
        .instances
        .iter()
        .filter(|instance| {
            !old.get(instance.id.as_str())
                .is_some_and(|old| is_same_instance(old, instance))
        })
        .cloned()
        .collect();
    let still: std::collections::BTreeSet<&str> = after.instances.iter().map(|instance| instance.id.as_str()).collect();
    let gone: Vec<String> = old
        .keys()
        .filter(|id| !still.contains(*id))
        .map(|id| (*id).to_owned())
        .collect();
    let head_differs = before.is_none_or(|before| !is_same_head(before, after));
    (head_differs || !instances.is_empty() || !gone.is_empty()).then(|| ServiceDelta {
        service: head(after),
        instances,
        gone,
    })
}

/// A service without its instances and its traffic.
fn head(service: &ServiceStatus) -> ServiceStatus {
    ServiceStatus {
        name: service.name.clone(),
        rollout: service.rollout.clone(),
        waits_for: service.waits_for.clone(),
        unplaced: service.unplaced.clone(),
        state: service.state.clone(),
        since: service.since.clone(),
        because: service.because.clone(),
        protection: service.protection.clone(),
        outage: service.outage.clone(),
        listen: service.listen.clone(),
        floating: service.floating.clone(),
        slots: service.slots.clone(),
        instances: Vec::new(),
        failover_order: service.failover_order.clone(),
        traffic: None,
        ..*service
    }
}

fn is_same_head(before: &ServiceStatus, after: &ServiceStatus) -> bool {
    let timeless = |service: &ServiceStatus| {
        let mut service = head(service);
        service.since.clear();
        service.slots.iter_mut().for_each(|slot| slot.since.clear());
        service
    };
    let slots = before.slots.iter().zip(&after.slots);
    is_same_since(&before.since, &after.since)
        && slots.clone().all(|(old, new)| is_same_since(&old.since, &new.since))
        && timeless(before) == timeless(after)
}

fn is_same_instance(before: &InstanceStatus, after: &InstanceStatus) -> bool {
    // All fields by name: a new one that is forgotten here would be told to nobody.
    let InstanceStatus {
        id,
        node,
        role,
        health,
        state,
        ready,
        since,
        because,
        pid,
        address,
        restarts,
        last_failure,
    } = before;
    is_same_since(since, &after.since)
        && (id, node, role, health) == (&after.id, &after.node, &after.role, &after.health)
        && (state, ready, because, pid) == (&after.state, &after.ready, &after.because, &after.pid)
        && (address, restarts, last_failure) == (&after.address, &after.restarts, &after.last_failure)
}

fn blank_since<T>(mut of: T, since: impl Fn(&mut T) -> &mut String) -> T {
    since(&mut of).clear();
    of
}

/// Whether two moments, as RFC 3339 in UTC with milliseconds, are the same within what the clocks allow.
fn is_same_since(before: &str, after: &str) -> bool {
    if before == after {
        return true;
    }
    // Those that differ are of one day almost always; at midnight one more message is sent.
    match (millis_of_day(before), millis_of_day(after)) {
        (Some(old), Some(new)) => before.get(..10) == after.get(..10) && old.abs_diff(new) <= SINCE_JITTER_MS,
        _ => false,
    }
}

fn millis_of_day(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    Some(((number(11, 13)? * 60 + number(14, 16)?) * 60 + number(17, 19)?) * 1_000 + number(20, 23)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{NodeState, NodeStatus, SlotStatus, Traffic};

    fn instance(id: &str, state: &str) -> InstanceStatus {
        InstanceStatus {
            id: id.into(),
            node: "a".into(),
            role: "active".into(),
            health: "healthy".into(),
            state: state.into(),
            ready: true,
            since: "2026-01-01T12:00:00.123Z".into(),
            because: "its check passed".into(),
            pid: Some(1),
            address: None,
            restarts: 0,
            last_failure: None,
        }
    }

    fn status() -> Status {
        let service = |name: &str| ServiceStatus {
            name: name.into(),
            state: "redundant".into(),
            since: "2026-01-01T12:00:00.123Z".into(),
            because: "all are there".into(),
            active: 1,
            standby: 1,
            need: 1,
            exclusive: false,
            distance_to_outage: 2,
            outage: None,
            protection: String::new(),
            listen: None,
            floating: None,
            slots: vec![SlotStatus {
                parked: None,
                slot: 0,
                state: "serving".into(),
                instance: Some(format!("{name}-1")),
                node: Some("a".into()),
                epoch: 1,
                since: "2026-01-01T12:00:00.123Z".into(),
                because: String::new(),
            }],
            instances: vec![
                instance(&format!("{name}-1"), "running"),
                instance(&format!("{name}-2"), "running"),
            ],
            rolling: false,
            rollout: None,
            waits_for: None,
            unplaced: None,
            failover_order: vec![format!("{name}-2")],
            traffic: Some(Traffic::default()),
        };
        Status {
            version: 1,
            cluster: "shop".into(),
            at: "2026-01-01T12:00:01.000Z".into(),
            revision: 1,
            services: vec![service("db"), service("web")],
            nodes: vec![NodeStatus {
                name: "a".into(),
                zone: "a".into(),
                state: NodeState::Online,
                since: "2026-01-01T12:00:00.000Z".into(),
                because: String::new(),
            }],
            problems: Vec::new(),
            paused: None,
            pause: None,
            distances_at: None,
        }
    }

    #[test]
    fn the_tick_of_clocks_and_counters_is_no_news() {
        let before = status();
        let mut after = status();
        after.at = "2026-01-01T12:00:02.000Z".into();
        after.services[0].since = "2026-01-01T12:00:00.122Z".into();
        after.services[0].slots[0].since = "2026-01-01T12:00:00.124Z".into();
        after.services[1].instances[0].since = "2026-01-01T12:00:00.140Z".into();
        after.nodes[0].since = "2026-01-01T11:59:59.990Z".into();
        if let Some(traffic) = &mut after.services[0].traffic {
            traffic.requests += 1;
        }
        assert_eq!(delta(&before, &after, 2, Vec::new()), None);
    }

    #[test]
    fn what_is_different_is_told_and_nothing_else() -> Result<(), &'static str> {
        let before = status();
        let mut after = status();
        after.services[0].instances[1].state = "starting".into();
        after.services[0].instances[0] = instance("db-3", "running");
        after.services.remove(1);
        after.nodes[0].state = NodeState::Offline;
        let delta = delta(&before, &after, 7, Vec::new()).ok_or("nothing is told")?;
        assert_eq!(delta.seq, 7);
        assert_eq!(delta.gone, ["web"]);
        assert_eq!(delta.services.len(), 1);
        let db = &delta.services[0];
        let told: Vec<&str> = db.instances.iter().map(|instance| instance.id.as_str()).collect();
        assert_eq!(told, ["db-3", "db-2"]);
        assert_eq!(db.gone, ["db-1"]);
        assert!(db.service.instances.is_empty() && db.service.traffic.is_none());
        assert_eq!(delta.nodes.as_ref().map(Vec::len), Some(1));
        assert_eq!(delta.problems, None);
        Ok(())
    }

    #[test]
    fn a_state_that_began_anew_is_news_although_it_is_the_same() {
        let before = status();
        let mut after = status();
        after.services[1].slots[0].since = "2026-01-01T12:00:00.900Z".into();
        let told = delta(&before, &after, 2, Vec::new());
        assert_eq!(told.map(|delta| delta.services.len()), Some(1));
    }

    #[test]
    fn a_pause_and_a_new_file_are_news() {
        let before = status();
        let mut paused = status();
        paused.paused = Some("2026-01-01T12:00:00.000Z".into());
        assert!(delta(&before, &paused, 2, Vec::new()).is_some());
        let mut applied = status();
        applied.revision = 2;
        assert!(delta(&before, &applied, 2, Vec::new()).is_some());
    }
}
