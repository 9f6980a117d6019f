//! A declared system, placed as the product would place it: by asking the decisions themselves.

use crate::system::{Failover, Instance, Node, Reached, Service, System, Thing};
use decisions::{Action, ClusterEvent, Core, Event, Place};
use model::{Cluster, NodeName, Revision, Role, Timestamp, Timing};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The name under which all nodes of one machine share it.
pub const THIS_MACHINE: &str = "this machine";

/// Hours in a duration.
pub(crate) fn hours(span: Duration) -> f64 {
    span.as_secs_f64() / 3_600.0
}

/// A file as it would run: on the nodes that it tells of, each a machine of its own with a vote in the store; on one machine if it tells of none.
pub fn declared(cluster: &Cluster) -> System {
    let alone = cluster.site.nodes.is_empty();
    let names: Vec<NodeName> = if alone {
        NodeName::new("local").into_iter().collect()
    } else {
        cluster.site.nodes.keys().cloned().collect()
    };
    let mut system = site(cluster, names.iter().map(NodeName::as_str));
    for node in system.nodes.values_mut() {
        node.machine = alone.then(|| THIS_MACHINE.to_owned());
        node.runs_services = true;
    }
    if !alone && names.len() > 1 {
        system.voters = voters(&names);
    }
    placed(cluster, system, None)
}

/// A file on nodes that are there.
pub(crate) fn placed(cluster: &Cluster, mut system: System, timing: Option<&Timing>) -> System {
    let is_lost = |name: &str| system.failed.contains(&Thing::Node(name.to_owned()));
    let nodes = system
        .nodes
        .iter()
        .filter(|(name, node)| node.runs_services && !is_lost(name));
    let zone = |node: &Node| Place {
        zone: node.zone.join("/"),
        ..Place::default()
    };
    let nodes: Vec<(NodeName, Place)> = nodes
        .filter_map(|(name, node)| Some((NodeName::new(name).ok()?, zone(node))))
        .collect();
    let placed = place(cluster, &nodes);
    system.services.clear();
    for (name, declared) in &cluster.services {
        let at = placed.get(name.as_str()).map_or(&[][..], Vec::as_slice);
        let instances = (0..).zip(at).map(|(rank, (id, node))| Instance {
            id: id.clone(),
            node: node.clone(),
            role: if rank < declared.active {
                Role::Active
            } else {
                Role::Standby
            },
            weight: 1,
        });
        let mut service = service(declared, &system, timing);
        service.instances = instances.collect();
        system.services.insert(name.to_string(), service);
    }
    system
}

/// An odd number of voters outlives as many losses as the next even one; more than five make every write slower.
fn voters(nodes: &[NodeName]) -> BTreeSet<String> {
    const VOTERS_MAX: usize = 5;
    let most = nodes.len().min(VOTERS_MAX);
    let odd = if most.is_multiple_of(2) { most - 1 } else { most };
    nodes.iter().take(odd.max(1)).map(ToString::to_string).collect()
}

/// The nodes as the file tells of them.
pub(crate) fn site<'a>(cluster: &Cluster, nodes: impl Iterator<Item = &'a str>) -> System {
    let site = &cluster.site;
    let mut system = System {
        name: cluster.name.clone(),
        ..System::default()
    };
    for name in nodes {
        let told = site
            .nodes
            .iter()
            .find(|(node, _)| node.as_str() == name)
            .map(|(_, place)| place);
        let node = Node {
            zone: told
                .and_then(|place| place.zone.as_deref())
                .map(path)
                .unwrap_or_default(),
            feeds: told.map(|place| place.feeds.clone()).unwrap_or_default(),
            switches: told.map(|place| place.switches.clone()).unwrap_or_default(),
            ..Node::default()
        };
        system.nodes.insert(name.to_owned(), node);
        if let Some(place) = told {
            system.rate(Thing::Node(name.to_owned()), place.rate);
        }
    }
    for (path, rate) in &site.zones {
        system.rate(Thing::Zone(path.clone()), *rate);
    }
    for (name, rate) in &site.feeds {
        system.rate(Thing::Feed(name.clone()), *rate);
    }
    for (name, switch) in &site.switches {
        system.switches.insert(name.clone(), switch.uplinks.clone());
        system.rate(Thing::Switch(name.clone()), switch.rate);
    }
    for (name, rate) in &site.externals {
        system.rate(Thing::External(name.clone()), *rate);
    }
    for (name, declared) in &cluster.services {
        let rate = declared.reliability.rate;
        for number in 0..declared.wanted() {
            system.rate(Thing::Process(format!("{name}-{}", number + 1)), rate);
        }
    }
    system.rates.kinds = site.rates.clone();
    system.rates.coverage = site.coverage_ppm.map(|ppm| f64::from(ppm) / 1e6);
    system.rates.by_hand = site.by_hand;
    system
}

pub(crate) fn path(zone: &str) -> Vec<String> {
    zone.split('/')
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

/// A service as it is declared, without its instances.
pub(crate) fn service(declared: &model::Service, system: &System, timing: Option<&Timing>) -> Service {
    let reliability = &declared.reliability;
    let externals = reliability.externals.iter().cloned();
    let reached = match declared.listen {
        None => Reached::Directly,
        Some(_) if declared.listens_on_floating() => Reached::ProxyOfActive,
        Some(_) => Reached::AnyProxy(proxies(system)),
    };
    let hook = declared
        .on_promote
        .as_ref()
        .map_or(Duration::ZERO, |hook| hook.timeout.duration() / 10);
    let start = match declared.standby_mode {
        model::StandbyMode::Cold => declared.start_timeout.duration() / 3,
        model::StandbyMode::Warm => Duration::ZERO,
    };
    let after = hook + start;
    let lost = timing.map_or(Duration::from_secs(4), |timing| {
        timing.node_loss_worst(Duration::from_millis(20), true)
    });
    Service {
        instances: Vec::new(),
        need: declared.need,
        active: declared.active,
        exclusive: declared.exclusive,
        cold: declared.standby_mode == model::StandbyMode::Cold,
        needs: declared
            .needs
            .iter()
            .map(ToString::to_string)
            .chain(externals)
            .collect(),
        any_of: reliability.any_of.clone(),
        uses: reliability.uses.clone(),
        reached,
        failover: Failover {
            coverage: None,
            process_hours: hours(Duration::from_millis(100) + after),
            node_hours: hours(lost + after),
            rate: None,
        },
        common_software: system.rates.kinds.contains_key(&model::RateKind::Software),
        unavailable_max: reliability.unavailable_ppb_max.map(|ppb| ppb as f64 / 1e9),
        distance_min: reliability.distance_min,
        rate: reliability.rate,
    }
}

/// On one machine there is one proxy, however many nodes it pretends to be.
fn proxies(system: &System) -> BTreeSet<String> {
    let mut proxies = BTreeSet::new();
    for (name, node) in system.nodes.iter().filter(|(_, node)| node.runs_services) {
        proxies.insert(node.machine.clone().unwrap_or_else(|| name.clone()));
    }
    proxies
}

/// Which instances the product would make, and where: in the order in which it makes them. The controller of a cluster is asked whose
/// nodes joined with these zones.
fn place(cluster: &Cluster, nodes: &[(NodeName, Place)]) -> BTreeMap<String, Vec<(String, String)>> {
    let mut placed: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let Some((me, _)) = nodes.first() else { return placed };
    let now = Timestamp(0);
    let mut core = Core::clustered(0, 0, 0, me.clone(), Duration::ZERO);
    // All is known before anything is decided, as when an agent reads the store.
    core.hear_on();
    for (node, place) in nodes {
        let session = Some(Revision(1));
        let lives = match node == me {
            true => ClusterEvent::OwnSession(session),
            false => ClusterEvent::Session {
                node: node.clone(),
                session,
            },
        };
        let member = ClusterEvent::Member {
            node: node.clone(),
            runs_services: true,
            member: true,
            place: place.clone(),
        };
        core.handle(Event::Cluster(member), now);
        core.handle(Event::Cluster(lives), now);
    }
    core.handle(Event::Cluster(ClusterEvent::Controller(true)), now);
    core.handle(Event::Applied(cluster.clone()), now);
    core.all_heard(now);
    while let Some(decision) = core.poll_decision() {
        if let Action::Create { instance, node } = decision.action {
            let of = placed.entry(instance.service().to_string()).or_default();
            of.push((instance.to_string(), node.to_string()));
        }
    }
    placed
}
