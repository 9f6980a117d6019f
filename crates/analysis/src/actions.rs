//! What an operator could do, what it costs, and what the system would then be.

use crate::system::{Instance, Node, Reached, System, Thing};
use model::Role;
use std::collections::BTreeSet;
use std::fmt;

/// A change to a system.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Let an instance run on another node.
    Move {
        /// Which.
        instance: String,
        /// Where to.
        node: String,
    },
    /// One more instance on a node that is there.
    Add {
        /// Of which service.
        service: String,
        /// Where.
        node: String,
    },
    /// A new node, with one more instance of a service on it.
    NewNode {
        /// Of which service.
        service: String,
        /// Its zone; empty for none that is known.
        zone: Vec<String>,
    },
    /// A second power feed for a node.
    SecondFeed(String),
    /// A second switch for a node.
    SecondSwitch(String),
    /// A second uplink for a switch.
    SecondUplink(String),
    /// Another machine votes in the store.
    MoveVote {
        /// In the place of that one.
        from: String,
        /// Which.
        to: String,
    },
    /// A second way to what a service needs: any one of two is enough.
    SecondProvider {
        /// Which service.
        service: String,
        /// What it needs.
        need: String,
    },
    /// Standbys run, and are rehearsed.
    Warm(String),
    /// A drill for a service: takeovers that do not work are found before they are needed.
    Drill(String),
    /// What is needed less often: found and taken over in a fifth of the time.
    Faster(String),
}

impl Action {
    /// 1 is the move of an instance; a new machine is 10.
    pub fn cost(&self) -> f64 {
        match self {
            Action::Drill(_) | Action::Faster(_) => 0.5,
            Action::Move { .. } | Action::Warm(_) | Action::MoveVote { .. } => 1.0,
            Action::Add { .. } => 2.0,
            Action::SecondFeed(_) | Action::SecondSwitch(_) | Action::SecondUplink(_) => 5.0,
            Action::NewNode { .. } => 10.0,
            Action::SecondProvider { .. } => 15.0,
        }
    }

    /// The system as it would be.
    pub fn applied(&self, system: &System) -> System {
        let mut new = system.clone();
        match self {
            Action::Move { instance, node } => {
                let all = new.services.values_mut().flat_map(|service| &mut service.instances);
                for found in all.filter(|found| found.id == *instance) {
                    found.node.clone_from(node);
                }
                new.failed.remove(&Thing::Process(instance.clone()));
            }
            Action::Add { service, node } => add(&mut new, service, node),
            Action::NewNode { service, zone } => {
                let name = new_name(&new);
                let node = Node {
                    zone: zone.clone(),
                    runs_services: true,
                    ..Node::default()
                };
                new.nodes.insert(name.clone(), node);
                add(&mut new, service, &name);
            }
            Action::SecondFeed(node) => {
                if let Some(found) = new.nodes.get_mut(node) {
                    found.feeds.insert(format!("second feed of {node}"));
                }
            }
            Action::SecondSwitch(node) => {
                if let Some(found) = new.nodes.get_mut(node) {
                    found.switches.insert(format!("second switch of {node}"));
                }
            }
            Action::SecondUplink(switch) => {
                new.switches
                    .entry(switch.clone())
                    .or_default()
                    .insert(format!("second uplink of {switch}"));
            }
            Action::MoveVote { from, to } => {
                new.voters.remove(from);
                new.voters.insert(to.clone());
            }
            Action::SecondProvider { service, need } => {
                if let Some(found) = new.services.get_mut(service) {
                    found.needs.remove(need);
                    found
                        .any_of
                        .push(BTreeSet::from([need.clone(), format!("second {need}")]));
                }
            }
            Action::Warm(service) => {
                if let Some(found) = new.services.get_mut(service) {
                    found.cold = false;
                    found.failover.process_hours = found.failover.process_hours.min(1.0 / 3_600.0);
                    found.failover.node_hours = found.failover.node_hours.min(5.0 / 3_600.0);
                }
            }
            Action::Drill(service) => {
                let all = new.rates.coverage().value;
                if let Some(found) = new.services.get_mut(service) {
                    let now = found.failover.coverage.unwrap_or(all);
                    found.failover.coverage = Some(now.max(0.99));
                }
            }
            Action::Faster(service) => {
                if let Some(found) = new.services.get_mut(service) {
                    found.failover.process_hours /= 5.0;
                    found.failover.node_hours /= 5.0;
                }
            }
        }
        new
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Move { instance, node } => write!(f, "move {instance} to node {node}"),
            Action::Add { service, node } => write!(f, "one more instance of {service} on node {node}"),
            Action::NewNode { service, zone } if zone.is_empty() => {
                write!(f, "a new node of its own with one more instance of {service}")
            }
            Action::NewNode { service, zone } => {
                write!(
                    f,
                    "a new node in zone {} with one more instance of {service}",
                    zone.join("/")
                )
            }
            Action::SecondFeed(node) => write!(f, "a second power feed for node {node}"),
            Action::SecondSwitch(node) => write!(f, "a second switch for node {node}"),
            Action::SecondUplink(switch) => write!(f, "a second uplink for switch {switch}"),
            Action::MoveVote { from, to } => write!(f, "a voting member of the store on {to} in the place of {from}"),
            Action::SecondProvider { service, need } => {
                write!(f, "a second {need} for {service}, of which either is enough")
            }
            Action::Warm(service) => write!(f, "warm standbys for {service}"),
            Action::Drill(service) => write!(f, "regular drills of {service}, until 99% of its takeovers work"),
            Action::Faster(service) => write!(f, "checks and promotion of {service} five times as fast"),
        }
    }
}

fn add(system: &mut System, service: &str, node: &str) {
    let Some(found) = system.services.get_mut(service) else {
        return;
    };
    let number = found.instances.len() + 1;
    let known = found.instances.first().map(|first| Thing::Process(first.id.clone()));
    let id = format!("{service}-new-{number}");
    found.instances.push(Instance {
        id: id.clone(),
        node: node.to_owned(),
        role: Role::Standby,
        weight: found.instances.first().map_or(1, |first| first.weight),
    });
    if let Reached::AnyProxy(nodes) = &mut found.reached
        && !nodes.is_empty()
        && system.nodes.get(node).is_some_and(|node| node.machine.is_none())
    {
        nodes.insert(node.to_owned());
    }
    if let Some(rate) = known.and_then(|known| system.rates.of.get(&known).copied()) {
        system.rates.of.insert(Thing::Process(id), rate);
    }
}

fn new_name(system: &System) -> String {
    let mut number = 1;
    while system.nodes.contains_key(&format!("new-{number}")) {
        number += 1;
    }
    format!("new-{number}")
}

/// What could be done for these services: where instances could go, and what stands behind them could be doubled.
pub fn candidates(system: &System, services: &BTreeSet<String>) -> Vec<Action> {
    let online = |name: &String| !system.failed.contains(&Thing::Node(name.clone()));
    let nodes: Vec<&String> = system
        .nodes
        .iter()
        .filter(|(name, node)| node.runs_services && online(name))
        .map(|(name, _)| name)
        .collect();
    let mut actions = Vec::new();
    for name in services {
        let Some(service) = system.services.get(name) else {
            continue;
        };
        let used: BTreeSet<&str> = service
            .instances
            .iter()
            .map(|instance| instance.node.as_str())
            .collect();
        // Nodes that differ only by name are as good as each other: of each place the first free one is enough.
        for node in one_of_each_place(system, &nodes, &used) {
            actions.extend(
                service
                    .instances
                    .iter()
                    .filter(|instance| instance.node != *node)
                    .map(|instance| Action::Move {
                        instance: instance.id.clone(),
                        node: node.clone(),
                    }),
            );
            actions.push(Action::Add {
                service: name.clone(),
                node: node.clone(),
            });
        }
        for zone in zones_to_grow(system) {
            actions.push(Action::NewNode {
                service: name.clone(),
                zone,
            });
        }
        for need in service.needs.iter().filter(|need| !system.services.contains_key(*need)) {
            actions.push(Action::SecondProvider {
                service: name.clone(),
                need: need.clone(),
            });
        }
        if service.instances.len() as u32 > service.active {
            actions.push(Action::Drill(name.clone()));
            actions.push(Action::Faster(name.clone()));
            if service.cold {
                actions.push(Action::Warm(name.clone()));
            }
        }
        let behind = used.iter().filter_map(|node| Some((*node, system.nodes.get(*node)?)));
        for (name, node) in behind {
            if node.feeds.len() == 1 {
                actions.push(Action::SecondFeed(name.to_owned()));
            }
            if node.switches.len() == 1 {
                actions.push(Action::SecondSwitch(name.to_owned()));
            }
            let hanging = node
                .switches
                .iter()
                .filter(|switch| system.switches.get(*switch).is_some_and(|uplinks| uplinks.len() == 1));
            actions.extend(hanging.cloned().map(Action::SecondUplink));
        }
    }
    for from in &system.voters {
        for to in nodes.iter().filter(|node| !system.voters.contains(**node)) {
            actions.push(Action::MoveVote {
                from: from.clone(),
                to: (*to).clone(),
            });
        }
    }
    let mut seen: Vec<Action> = Vec::with_capacity(actions.len());
    for action in actions {
        if !seen.contains(&action) {
            seen.push(action);
        }
    }
    seen
}

/// Free nodes first; of those in the same zone, on the same feeds and switches, and with as many instances of the service, one.
fn one_of_each_place<'a>(system: &System, nodes: &[&'a String], used: &BTreeSet<&str>) -> Vec<&'a String> {
    let mut seen = BTreeSet::new();
    let mut sorted: Vec<&&String> = nodes.iter().collect();
    sorted.sort_by_key(|node| used.contains(node.as_str()));
    sorted
        .into_iter()
        .filter(|name| {
            let Some(node) = system.nodes.get(**name) else {
                return false;
            };
            !used.contains(name.as_str())
                && seen.insert((
                    node.zone.clone(),
                    node.feeds.clone(),
                    node.switches.clone(),
                    node.machine.clone(),
                ))
        })
        .copied()
        .collect()
}

/// Each zone that has nodes, and one beside them all.
fn zones_to_grow(system: &System) -> Vec<Vec<String>> {
    let mut zones: BTreeSet<Vec<String>> = system.nodes.values().map(|node| node.zone.clone()).collect();
    zones.insert(Vec::new());
    zones.into_iter().collect()
}
