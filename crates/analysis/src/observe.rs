//! The running cluster as its status shows it, and where that differs from what was declared.

use crate::common;
use crate::history::History;
use crate::place::{self, THIS_MACHINE};
use crate::system::{Instance, System, Thing};
use api::analysis::Finding;
use api::{InstanceStatus, NodeState, ServiceStatus, Severity, Status};
use model::hardware::Hardware;
use model::{Cluster, Role, Timing};
use std::collections::{BTreeMap, BTreeSet};

/// All that is known of a running cluster.
#[derive(Debug, Clone)]
pub struct Observed<'a> {
    /// How it stands.
    pub status: &'a Status,
    /// The file in force.
    pub cluster: &'a Cluster,
    /// Its timing; `None` on one machine.
    pub timing: Option<&'a Timing>,
    /// Nodes that vote in the store; none on one machine.
    pub voters: BTreeSet<String>,
    /// Nodes that vote and run nothing.
    pub witnesses: BTreeSet<String>,
    /// Which machine each node is, by whatever tells machines apart: two with the same are one.
    pub machines: BTreeMap<String, String>,
    /// What their agents see below each node.
    pub hardware: BTreeMap<String, Hardware>,
    /// What was seen of failures; `None`: nothing.
    pub history: Option<&'a History>,
}

/// The system as it runs now.
pub fn observed(observed: &Observed<'_>) -> System {
    let mut system = base(observed);
    for seen in &observed.status.services {
        let declared = observed
            .cluster
            .services
            .iter()
            .find(|(name, _)| name.as_str() == seen.name);
        let Some((_, declared)) = declared else { continue };
        let mut service = place::service(declared, &system, observed.timing);
        // While it grows that is less than declared.
        service.need = service.need.min(seen.need.max(1));
        for instance in &seen.instances {
            system.rate(Thing::Process(instance.id.clone()), service.rate);
            service.instances.push(Instance {
                id: instance.id.clone(),
                node: instance.node.clone(),
                role: if instance.role == "active" {
                    Role::Active
                } else {
                    Role::Standby
                },
                weight: 1,
            });
            if !works(seen, instance) {
                system.failed.insert(Thing::Process(instance.id.clone()));
            }
        }
        if let Some(measured) = observed.history.and_then(|history| {
            let looked_at =
                |instance: &&InstanceStatus| history.node.as_ref().is_none_or(|node| *node == instance.node);
            history.process(&seen.name, seen.instances.iter().filter(looked_at).count())
        }) {
            let all = seen
                .instances
                .iter()
                .map(|instance| (Thing::Process(instance.id.clone()), measured));
            system.rates.measured.extend(all);
        }
        system.services.insert(seen.name.clone(), service);
    }
    system
}

/// Its machines, without the services.
pub(crate) fn base(observed: &Observed<'_>) -> System {
    let status = observed.status;
    let mut names: BTreeSet<&str> = status.nodes.iter().map(|node| node.name.as_str()).collect();
    names.extend(observed.voters.iter().map(String::as_str));
    let mut system = place::site(observed.cluster, names.into_iter());
    let alone = observed.timing.is_none();
    for (name, node) in &mut system.nodes {
        let seen = status.nodes.iter().find(|seen| seen.name == *name);
        // Where nobody said more, a node is its own zone.
        if let Some(seen) = seen.filter(|seen| seen.zone != seen.name && !seen.zone.is_empty()) {
            node.zone = place::path(&seen.zone);
        }
        // Nothing is put on one that is emptied.
        let takes = seen.is_some_and(|seen| seen.state != NodeState::Drained);
        node.runs_services = takes && !observed.witnesses.contains(name);
        node.machine = match alone {
            true => Some(THIS_MACHINE.to_owned()),
            false => shared(name, &observed.machines),
        };
    }
    let nodes = system
        .nodes
        .keys()
        .filter_map(|node| Some((Thing::Node(node.clone()), observed.history?.node(node)?)));
    system.rates.measured = nodes.collect();
    common::put_below(&mut system, common::found(observed));
    system.voters = observed.voters.clone();
    // Of whom nothing is heard nobody knows that it failed. Who is emptied is there, and votes.
    let is_there =
        |node: &&api::NodeStatus| matches!(node.state, NodeState::Online | NodeState::Unknown | NodeState::Drained);
    for node in status.nodes.iter().filter(|node| !is_there(node)) {
        system.failed.insert(Thing::Node(node.name.clone()));
    }
    system
}

fn shared(name: &str, of: &BTreeMap<String, String>) -> Option<String> {
    let own = of.get(name)?;
    (of.values().filter(|other| *other == own).count() > 1).then(|| own.clone())
}

/// Whether an instance serves, or could take over.
fn works(service: &ServiceStatus, instance: &InstanceStatus) -> bool {
    let serves = service.slots.iter().any(|slot| {
        slot.instance.as_ref() == Some(&instance.id) && matches!(slot.state.as_str(), "serving" | "promoting")
    });
    match instance.role.as_str() {
        "active" => serves && instance.health != "unhealthy" && instance.health != "down",
        _ => instance.ready,
    }
}

/// Where what runs is not what was declared.
pub fn differences(observed: &Observed<'_>) -> Vec<Finding> {
    let (status, cluster) = (observed.status, observed.cluster);
    let mut findings = Vec::new();
    let mut add = |code: &str, title: &str, severity, about: &str, text: String, hint: &str| {
        findings.push(Finding {
            code: code.into(),
            title: title.into(),
            severity,
            about: about.into(),
            text,
            hint: hint.into(),
        });
    };
    if let Some(unheard) = status.nodes.iter().find(|node| node.state == NodeState::Unknown) {
        add(
            "store-silent",
            "the store does not answer",
            Severity::Error,
            "store",
            format!(
                "of node {} nothing is known now: {}. What follows goes by what was known before, and nobody takes anything over",
                unheard.name, unheard.because
            ),
            "`understudy cluster status` says which members answer, and what to do",
        );
    }
    for (name, place) in &cluster.site.nodes {
        match status.nodes.iter().find(|node| node.name == name.as_str()) {
            None if !observed.voters.contains(name.as_str()) => add(
                "declared-node-missing",
                "a declared node is not in the cluster",
                Severity::Warning,
                name.as_str(),
                format!("the file tells of node {name}, and no such node has joined"),
                "join it with `understudy cluster join`, or take it out of the file",
            ),
            Some(node) if node.zone != node.name && place.zone.as_ref().is_some_and(|zone| *zone != node.zone) => add(
                "zone-differs",
                "a node is not where the file says",
                Severity::Warning,
                name.as_str(),
                format!(
                    "node {name} joined in zone {}, and the file says {}; the zone it joined with counts",
                    node.zone,
                    place.zone.as_deref().unwrap_or_default()
                ),
                "correct the file, or let the node leave and join with its right `--zone`",
            ),
            _ => {}
        }
    }
    for (name, declared) in &cluster.services {
        let Some(seen) = status.services.iter().find(|seen| seen.name == name.as_str()) else {
            add(
                "declared-service-missing",
                "a declared service does not run",
                Severity::Error,
                name.as_str(),
                format!("{name} is declared and no agent tells of it"),
                "`understudy apply` the file again",
            );
            continue;
        };
        let fit = seen.instances.iter().filter(|instance| works(seen, instance)).count();
        let wanted = declared.wanted() as usize;
        if fit < wanted {
            add(
                "fewer-than-declared",
                "fewer instances than declared",
                Severity::Warning,
                name.as_str(),
                format!(
                    "{name} has {fit} fit instances of {wanted} that are declared; what follows counts those that are fit"
                ),
                "`understudy explain` says what keeps the others from being fit",
            );
        }
        for instance in seen
            .instances
            .iter()
            .filter(|instance| instance.role == "standby" && !instance.ready)
        {
            add(
                "standby-not-ready",
                "a standby could not take over",
                Severity::Warning,
                &instance.id,
                format!(
                    "{} stands by and could not take over: {}",
                    instance.id, instance.because
                ),
                "`understudy explain` says what it waits for",
            );
        }
    }
    let mut by: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (node, id) in &observed.machines {
        by.entry(id).or_default().push(node);
    }
    for (id, nodes) in by.into_iter().filter(|(_, nodes)| nodes.len() > 1) {
        add(
            "shared-machine",
            "nodes are one machine",
            Severity::Error,
            id,
            format!(
                "nodes {} were declared to be machines of their own, and are one: they have one address, one kernel, or one identity of the \
                 firmware. They fail together",
                nodes.join(" and ")
            ),
            "run them on machines of their own; if they are copies of one virtual machine, give each an identity of its own",
        );
    }
    findings.extend(common::findings(observed));
    findings
}
