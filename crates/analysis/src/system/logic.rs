//! The tree of failures of a system.

use super::{Node, Reached, Service, System, Thing};
use crate::tree::{Ref, Tree};
use model::Role;
use std::collections::{BTreeMap, BTreeSet};

/// The tree, which event is which thing, and the top of each service.
#[derive(Debug, Clone)]
pub struct Logic {
    /// The gates.
    pub tree: Tree,
    /// The things, by the numbers of their events.
    pub things: Vec<Thing>,
    /// When each service fails.
    pub services: BTreeMap<String, Ref>,
    /// When each service is impaired: something it only uses has failed.
    pub impaired: BTreeMap<String, Ref>,
    known: BTreeMap<Thing, Ref>,
}

impl Logic {
    /// The event of a thing; `None` if nothing depends on it.
    pub fn event(&self, thing: &Thing) -> Option<u32> {
        match self.known.get(thing) {
            Some(Ref::Event(event)) => Some(*event),
            _ => None,
        }
    }

    /// The thing of an event.
    pub fn thing(&self, event: u32) -> &Thing {
        &self.things[event as usize]
    }
}

/// Makes the tree of a system. What has failed now is not yet put in: see [`Tree::given`].
pub fn logic(system: &System) -> Logic {
    let mut maker = Maker {
        system,
        logic: Logic {
            tree: Tree::new(),
            things: Vec::new(),
            services: BTreeMap::new(),
            impaired: BTreeMap::new(),
            known: BTreeMap::new(),
        },
        switches: BTreeMap::new(),
        nodes: BTreeMap::new(),
    };
    maker.switches();
    for (name, node) in &system.nodes {
        let failed = maker.node(name, node);
        maker.nodes.insert(name.clone(), failed);
    }
    let quorum = maker.no_majority();
    let own: BTreeMap<String, Ref> = system
        .services
        .iter()
        .map(|(name, service)| (name.clone(), maker.service_itself(name, service, quorum)))
        .collect();
    maker.dependencies(&own);
    maker.logic
}

struct Maker<'a> {
    system: &'a System,
    logic: Logic,
    switches: BTreeMap<String, Ref>,
    nodes: BTreeMap<String, Ref>,
}

impl Maker<'_> {
    fn thing(&mut self, thing: Thing) -> Ref {
        if let Some(known) = self.logic.known.get(&thing) {
            return *known;
        }
        let event = self.logic.tree.event(self.system.rates.unavailability(&thing).value);
        self.logic.things.push(thing.clone());
        self.logic.known.insert(thing, event);
        event
    }

    /// Switches may hang on each other in a circle: none fails by that alone.
    fn switches(&mut self) {
        let mut names: BTreeSet<&String> = self.system.switches.keys().collect();
        names.extend(self.system.nodes.values().flat_map(|node| &node.switches));
        names.extend(self.system.switches.values().flatten());
        let own: BTreeMap<String, Ref> = names
            .into_iter()
            .map(|name| (name.clone(), self.thing(Thing::Switch(name.clone()))))
            .collect();
        let uplinks = |name: &str| self.system.switches.get(name).filter(|uplinks| !uplinks.is_empty());
        let tree = &mut self.logic.tree;
        self.switches = least_fixpoint(&own, |name, known| {
            let Some(uplinks) = uplinks(name) else { return own[name] };
            let dark = tree.and(uplinks.iter().map(|uplink| known[uplink]));
            tree.or([own[name], dark])
        });
    }

    fn node(&mut self, name: &str, node: &Node) -> Ref {
        let mut causes = vec![self.thing(Thing::Node(name.to_owned()))];
        if let Some(machine) = &node.machine {
            causes.push(self.thing(Thing::Machine(machine.clone())));
        }
        causes.extend(self.below(&Thing::Node(name.to_owned())));
        for zone in self.system.zones_of(name) {
            causes.push(self.thing(Thing::Zone(zone)));
        }
        if !node.feeds.is_empty() {
            let feeds: Vec<Ref> = node
                .feeds
                .iter()
                .map(|feed| self.thing(Thing::Feed(feed.clone())))
                .collect();
            causes.push(self.logic.tree.and(feeds));
        }
        if !node.switches.is_empty() {
            let switches: Vec<Ref> = node.switches.iter().map(|switch| self.switches[switch]).collect();
            causes.push(self.logic.tree.and(switches));
        }
        self.logic.tree.or(causes)
    }

    /// What was seen below a thing.
    fn below(&mut self, thing: &Thing) -> Vec<Ref> {
        let below = self.system.below.get(thing).into_iter().flatten();
        below.map(|below| self.thing(below.clone())).collect()
    }

    fn node_failed(&mut self, name: &str) -> Ref {
        match self.nodes.get(name) {
            Some(failed) => *failed,
            None => self.thing(Thing::Node(name.to_owned())),
        }
    }

    /// The store has no majority any more.
    fn no_majority(&mut self) -> Ref {
        let voters: Vec<Ref> = self
            .system
            .voters
            .iter()
            .map(|node| {
                let voter = Thing::Voter(node.clone());
                let mut causes = self.below(&voter);
                causes.extend([self.thing(voter), self.node_failed(node)]);
                self.logic.tree.or(causes)
            })
            .collect();
        let lost = voters.len().div_ceil(2);
        match voters.len() {
            0 => Ref::False,
            _ => self
                .logic
                .tree
                .at_least(u32::try_from(lost).unwrap_or(u32::MAX), voters),
        }
    }

    /// When a service fails, all it depends on being sound.
    fn service_itself(&mut self, name: &str, service: &Service, no_majority: Ref) -> Ref {
        let mut instances = Vec::new();
        for instance in &service.instances {
            let mut causes = vec![
                self.thing(Thing::Process(instance.id.clone())),
                self.node_failed(&instance.node),
            ];
            causes.extend(self.below(&Thing::Process(instance.id.clone())));
            if service.reached == Reached::ProxyOfActive {
                causes.push(self.thing(Thing::Proxy(instance.node.clone())));
            }
            if instance.role == Role::Standby && !service.exclusive {
                causes.push(no_majority);
            }
            let failed = self.logic.tree.or(causes);
            instances.extend(std::iter::repeat_n(failed, instance.weight as usize));
        }
        let there = u32::try_from(instances.len()).unwrap_or(u32::MAX);
        let too_few = match (there + 1).checked_sub(service.need) {
            Some(lost) => self.logic.tree.at_least(lost, instances),
            None => Ref::True,
        };
        let mut causes = vec![too_few];
        if service.exclusive {
            causes.push(no_majority);
        }
        if let Reached::AnyProxy(nodes) = &service.reached {
            let proxies: Vec<Ref> = nodes
                .iter()
                .map(|node| {
                    let own = self.thing(Thing::Proxy(node.clone()));
                    // On one machine there is one proxy for all its pretended nodes.
                    let node = self.nodes.get(node).copied().unwrap_or(Ref::False);
                    self.logic.tree.or([own, node])
                })
                .collect();
            if !proxies.is_empty() {
                causes.push(self.logic.tree.and(proxies));
            }
        }
        if service.common_software {
            causes.push(self.thing(Thing::Software(name.to_owned())));
        }
        self.logic.tree.or(causes)
    }

    /// Adds what services need: the least fixpoint, so that a circle alone fails nobody.
    fn dependencies(&mut self, own: &BTreeMap<String, Ref>) {
        let system = self.system;
        let named = system.services.values().flat_map(|service| {
            let groups = service.any_of.iter().flatten();
            service.needs.iter().chain(groups).chain(&service.uses)
        });
        let externals: BTreeSet<&String> = named.filter(|name| !system.services.contains_key(*name)).collect();
        let externals: BTreeMap<String, Ref> = externals
            .into_iter()
            .map(|name| (name.clone(), self.thing(Thing::External(name.clone()))))
            .collect();
        let tree = &mut self.logic.tree;
        let services = least_fixpoint(own, |name, known| {
            let service = &system.services[name];
            let of = |other: &String| {
                known
                    .get(other)
                    .or_else(|| externals.get(other))
                    .copied()
                    .unwrap_or(Ref::False)
            };
            let mut causes = vec![own[name]];
            causes.extend(service.needs.iter().map(of));
            for group in &service.any_of {
                causes.push(tree.and(group.iter().map(of)));
            }
            tree.or(causes)
        });
        for (name, service) in &system.services {
            let of = |other: &String| {
                services
                    .get(other)
                    .or_else(|| externals.get(other))
                    .copied()
                    .unwrap_or(Ref::False)
            };
            let used: Vec<Ref> = service.uses.iter().map(of).collect();
            let impaired = tree.or(used);
            self.logic.impaired.insert(name.clone(), impaired);
        }
        self.logic.services = services;
    }
}

/// Repeats `step` from "nothing has failed by another" until nothing changes. Monotone over as many booleans as there are names, it is stable
/// after as many rounds; where nothing is in a circle, after as many as the longest chain has.
fn least_fixpoint(
    own: &BTreeMap<String, Ref>,
    mut step: impl FnMut(&str, &BTreeMap<String, Ref>) -> Ref,
) -> BTreeMap<String, Ref> {
    let mut known: BTreeMap<String, Ref> = own.keys().map(|name| (name.clone(), Ref::False)).collect();
    for _ in 0..=own.len() {
        let next: BTreeMap<String, Ref> = own.keys().map(|name| (name.clone(), step(name, &known))).collect();
        if next == known {
            break;
        }
        known = next;
    }
    known
}
