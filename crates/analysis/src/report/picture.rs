//! Zones, nodes and instances as they lie in each other.

use crate::predict::down_with;
use crate::system::{Logic, Node, System, Thing};
use crate::tree::Ref;
use api::analysis::{IfLost, InstancePicture, NodePicture, ZonePicture};
use model::Role;
use std::collections::{BTreeMap, BTreeSet};

/// Above so many nodes times services, the distance after the loss of each node is not worked out: a report is asked for often.
const PAIRS_MAX: usize = 4_000;

pub(super) fn zones(
    system: &System,
    logic: &Logic,
    singles: &BTreeMap<String, BTreeSet<Thing>>,
    failed: &BTreeMap<u32, bool>,
) -> Vec<ZonePicture> {
    let mut paths: BTreeSet<String> = system.nodes.keys().flat_map(|node| system.zones_of(node)).collect();
    if system.nodes.values().any(|node| node.zone.is_empty()) {
        paths.insert(String::new());
    }
    let mut taken: BTreeMap<&Thing, Vec<String>> = BTreeMap::new();
    for (service, things) in singles {
        for thing in things {
            taken.entry(thing).or_default().push(service.clone());
        }
    }
    let takes = |thing: &Thing| taken.get(thing).cloned().unwrap_or_default();
    let mut there = instances(system);
    let mut inside: BTreeMap<String, Vec<(&String, &Node)>> = BTreeMap::new();
    for (name, node) in &system.nodes {
        inside.entry(node.zone.join("/")).or_default().push((name, node));
    }
    paths
        .into_iter()
        .map(|path| {
            let inside = inside.remove(&path).unwrap_or_default();
            ZonePicture {
                takes: takes(&Thing::Zone(path.clone())),
                nodes: inside
                    .into_iter()
                    .map(|(name, node)| NodePicture {
                        name: name.clone(),
                        failed: system.failed.contains(&Thing::Node(name.clone())),
                        takes: takes(&Thing::Node(name.clone())),
                        feeds: node.feeds.iter().cloned().collect(),
                        switches: node.switches.iter().cloned().collect(),
                        instances: there.remove(name.as_str()).unwrap_or_default(),
                        if_lost: if_lost(system, logic, name, failed),
                    })
                    .collect(),
                path,
            }
        })
        .collect()
}

/// What runs where.
fn instances(system: &System) -> BTreeMap<&str, Vec<InstancePicture>> {
    let mut all: BTreeMap<&str, Vec<InstancePicture>> = BTreeMap::new();
    for (service, of) in &system.services {
        for instance in &of.instances {
            let there = all.entry(instance.node.as_str()).or_default();
            there.push(InstancePicture {
                id: instance.id.clone(),
                service: service.clone(),
                role: match instance.role {
                    Role::Active => "active".into(),
                    Role::Standby => "standby".into(),
                },
                failed: system.failed.contains(&Thing::Process(instance.id.clone())),
            });
        }
    }
    all
}

/// How near each service is to an outage once a node is away: 0, 1, or 2 and more, which is not told.
fn if_lost(system: &System, logic: &Logic, node: &str, failed: &BTreeMap<u32, bool>) -> Vec<IfLost> {
    if system.nodes.len() * system.services.len() > PAIRS_MAX {
        return Vec::new();
    }
    let mut all = system.failed.clone();
    if !all.insert(Thing::Node(node.to_owned())) {
        return Vec::new();
    }
    let down = down_with(logic, &all);
    let Some(event) = logic.event(&Thing::Node(node.to_owned())) else {
        return Vec::new();
    };
    let mut told = Vec::new();
    for (service, top) in &logic.services {
        let runs_there = system.services[service]
            .instances
            .iter()
            .any(|instance| instance.node == node);
        if down[service] {
            told.push(IfLost {
                service: service.clone(),
                distance: 0,
            });
        } else if runs_there {
            let mut failed = failed.clone();
            failed.insert(event, true);
            let (tree, top) = logic.tree.given(*top, &failed);
            if top != Ref::False && !tree.singles(top).is_empty() {
                told.push(IfLost {
                    service: service.clone(),
                    distance: 1,
                });
            }
        }
    }
    told
}
