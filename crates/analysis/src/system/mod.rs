//! What there is and what hangs on what: nodes, zones, feeds, switches, voters, services. The tree of failures is made from it.
//!
//! ```text
//! node fails      = itself, or any part of its zone's path, or all its feeds, or all its switches, or the machine it shares
//! switch fails    = itself, or all its uplinks
//! instance fails  = its process, or its node; a standby also when the store has no majority: nobody could promote it
//! service fails   = too few instances, or its software, or anything it needs, or all of a group of which any one is enough,
//!                   or, if exclusive, no majority of the store; or no proxy through which clients reach it
//! ```
//! More failures never help, so that the least fixpoint is well defined where things depend on each other in a circle.

mod logic;
mod rates;

pub use logic::{Logic, logic};
pub use rates::{Assumed, Rates};

use model::{Rate, Role};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Anything that can fail.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Thing {
    /// A failure domain: its path.
    Zone(String),
    /// A machine that several nodes turned out to share.
    Machine(String),
    /// A disk that several machines turned out to share.
    Disk(String),
    /// A file server that has data of several.
    FileServer(String),
    /// A power feed.
    Feed(String),
    /// A switch.
    Switch(String),
    /// A node.
    Node(String),
    /// The store's member on a node.
    Voter(String),
    /// The proxy on a node.
    Proxy(String),
    /// An instance's process.
    Process(String),
    /// Something that we do not run.
    External(String),
    /// What all instances of a service have in common: a bad release, a certificate that runs out.
    Software(String),
}

impl Thing {
    /// The kind, as in the JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Thing::Zone(_) => "zone",
            Thing::Machine(_) => "machine",
            Thing::Disk(_) => "disk",
            Thing::FileServer(_) => "file-server",
            Thing::Feed(_) => "feed",
            Thing::Switch(_) => "switch",
            Thing::Node(_) => "node",
            Thing::Voter(_) => "voter",
            Thing::Proxy(_) => "proxy",
            Thing::Process(_) => "process",
            Thing::External(_) => "external",
            Thing::Software(_) => "software",
        }
    }

    /// Its name within its kind.
    pub fn name(&self) -> &str {
        match self {
            Thing::Zone(name)
            | Thing::Machine(name)
            | Thing::Disk(name)
            | Thing::FileServer(name)
            | Thing::Feed(name)
            | Thing::Switch(name)
            | Thing::Node(name)
            | Thing::Voter(name)
            | Thing::Proxy(name)
            | Thing::Process(name)
            | Thing::External(name)
            | Thing::Software(name) => name,
        }
    }
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Thing::Voter(node) => write!(f, "the store's member on {node}"),
            Thing::Proxy(node) => write!(f, "the proxy on {node}"),
            Thing::Software(service) => write!(f, "the software of {service}"),
            Thing::Feed(name) => write!(f, "power feed {name}"),
            // On one machine it has no other name.
            Thing::Machine(name) if name == crate::THIS_MACHINE => f.write_str(name),
            // Nor do these need another word.
            Thing::Machine(name) if name.starts_with("host ") || name.starts_with("enclosure ") => f.write_str(name),
            Thing::FileServer(name) => write!(f, "file server {name}"),
            thing => write!(f, "{} {}", thing.kind(), thing.name()),
        }
    }
}

/// A whole system.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct System {
    /// Its name.
    pub name: String,
    /// The nodes.
    pub nodes: BTreeMap<String, Node>,
    /// Switches with their uplinks, of which any one is enough; none: it hangs on nothing.
    pub switches: BTreeMap<String, BTreeSet<String>>,
    /// The services.
    pub services: BTreeMap<String, Service>,
    /// Nodes with a voting member of the store; empty if there is none of its own, as on one machine.
    pub voters: BTreeSet<String>,
    /// Of nodes, store members and processes what lies below them, each of which they need: seen by agents, declared by nobody.
    pub below: BTreeMap<Thing, BTreeSet<Thing>>,
    /// What has failed, or is in maintenance, now.
    pub failed: BTreeSet<Thing>,
    /// How often what fails.
    pub rates: Rates,
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    /// Its path of failure domains, the widest first; empty if it is in none.
    pub zone: Vec<String>,
    /// Power feeds, of which any one is enough; none: it is not known to hang on one.
    pub feeds: BTreeSet<String>,
    /// Switches, likewise.
    pub switches: BTreeSet<String>,
    /// The machine it is on, where several nodes share one.
    pub machine: Option<String>,
    /// Whether instances may be placed there.
    pub runs_services: bool,
}

/// A service.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Its instances.
    pub instances: Vec<Instance>,
    /// How many must work; or, where instances have a `weight`, what their weights must come to.
    pub need: u32,
    /// How many are declared to be active.
    pub active: u32,
    /// Whether an old active is fenced first, which takes a majority of the store.
    pub exclusive: bool,
    /// Whether standbys do not run.
    pub cold: bool,
    /// Services and externals without which it does not work.
    pub needs: BTreeSet<String>,
    /// Groups of which any one is enough.
    pub any_of: Vec<BTreeSet<String>>,
    /// Those without which it works, though not as well.
    pub uses: BTreeSet<String>,
    /// How clients come to it.
    pub reached: Reached,
    /// What happens when an active fails.
    pub failover: Failover,
    /// Whether a fault that all its instances have at once is reckoned with.
    pub common_software: bool,
    /// It may be down for this share of the time.
    pub unavailable_max: Option<f64>,
    /// At least so many failures must be needed.
    pub distance_min: Option<u32>,
    /// How often an instance's process fails.
    pub rate: Rate,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            instances: Vec::new(),
            need: 1,
            active: 1,
            exclusive: false,
            cold: false,
            needs: BTreeSet::new(),
            any_of: Vec::new(),
            uses: BTreeSet::new(),
            reached: Reached::Directly,
            failover: Failover::default(),
            common_software: false,
            unavailable_max: None,
            distance_min: None,
            rate: Rate::default(),
        }
    }
}

/// An instance of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its name.
    pub id: String,
    /// Where it runs.
    pub node: String,
    /// What it is there for.
    pub role: Role,
    /// How much of what is needed it serves: 1, or its capacity in whatever `need` is in.
    pub weight: u32,
}

/// How clients come to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reached {
    /// By themselves.
    Directly,
    /// Through a proxy of any of these nodes.
    AnyProxy(BTreeSet<String>),
    /// Through the proxy of the node that has the active: the address moves with it.
    ProxyOfActive,
}

/// What happens when an active fails.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Failover {
    /// The share of failures that are found and failed over by themselves; `None`: what holds for all.
    pub coverage: Option<f64>,
    /// Hours from the failure of an active's process until a standby serves.
    pub process_hours: f64,
    /// Hours from the loss of an active's node until a standby serves.
    pub node_hours: f64,
    /// Failures of an active per hour, where they are known as a whole.
    pub rate: Option<f64>,
}

impl Default for Failover {
    fn default() -> Self {
        Self {
            coverage: None,
            process_hours: 1.0 / 3_600.0,
            node_hours: 5.0 / 3_600.0,
            rate: None,
        }
    }
}

impl System {
    /// The paths of the zones that a node lies in, the widest first: `dc1`, `dc1/rack3`.
    pub fn zones_of(&self, node: &str) -> Vec<String> {
        let parts = self.nodes.get(node).map_or(&[][..], |node| node.zone.as_slice());
        (1..=parts.len()).map(|end| parts[..end].join("/")).collect()
    }

    /// Everything whose failure is a failure of that thing: of a zone the nodes and zones in it, of a node its instances.
    pub fn behind(&self, thing: &Thing) -> BTreeSet<Thing> {
        let mut behind = BTreeSet::new();
        let nodes: Vec<&String> = match thing {
            Thing::Zone(path) => self
                .nodes
                .keys()
                .filter(|node| self.zones_of(node).contains(path))
                .collect(),
            Thing::Machine(machine) if !self.is_seen_below(thing) => {
                self.nodes_with(|node| node.machine.as_ref() == Some(machine))
            }
            Thing::Machine(_) | Thing::Disk(_) | Thing::FileServer(_) => {
                let above = self.below.iter().filter(|(_, below)| below.contains(thing));
                let above: Vec<&Thing> = above.map(|(above, _)| above).collect();
                let nodes = above.iter().filter(|above| matches!(above, Thing::Node(_)));
                let nodes = nodes.filter_map(|above| self.nodes.get_key_value(above.name()));
                let nodes = nodes.map(|(node, _)| node).collect();
                behind.extend(above.into_iter().cloned());
                nodes
            }
            Thing::Feed(feed) => self.nodes_with(|node| node.feeds.len() == 1 && node.feeds.contains(feed)),
            Thing::Switch(_) => {
                let dark = self.dark_with(thing);
                behind.extend(dark.iter().map(|switch| Thing::Switch(switch.clone())));
                self.nodes_with(|node| !node.switches.is_empty() && node.switches.is_subset(&dark))
            }
            Thing::Node(node) => self
                .nodes
                .get_key_value(node)
                .map(|(node, _)| node)
                .into_iter()
                .collect(),
            _ => Vec::new(),
        };
        for node in nodes {
            behind.insert(Thing::Node(node.clone()));
            if let Thing::Zone(path) = thing {
                let within = |zone: &String| zone.len() > path.len();
                behind.extend(self.zones_of(node).into_iter().filter(within).map(Thing::Zone));
            }
            for instance in self.services.values().flat_map(|service| &service.instances) {
                if instance.node == *node {
                    behind.insert(Thing::Process(instance.id.clone()));
                }
            }
            if self.voters.contains(node) {
                behind.insert(Thing::Voter(node.clone()));
            }
        }
        behind.remove(thing);
        behind
    }

    /// Whether agents saw it, and nobody declared it.
    pub fn is_seen_below(&self, thing: &Thing) -> bool {
        self.below.values().any(|below| below.contains(thing))
    }

    fn nodes_with(&self, holds: impl Fn(&Node) -> bool) -> Vec<&String> {
        self.nodes
            .iter()
            .filter(|(_, node)| holds(node))
            .map(|(name, _)| name)
            .collect()
    }

    /// Switches that are dark when one is.
    fn dark_with(&self, thing: &Thing) -> BTreeSet<String> {
        let mut dark = BTreeSet::from([thing.name().to_owned()]);
        loop {
            let more = self
                .switches
                .iter()
                .filter(|(name, uplinks)| !dark.contains(*name) && !uplinks.is_empty() && uplinks.is_subset(&dark));
            let more: Vec<String> = more.map(|(name, _)| name.clone()).collect();
            if more.is_empty() {
                return dark;
            }
            dark.extend(more);
        }
    }
}
