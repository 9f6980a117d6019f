//! Where an instance may be, and where it is best.
//!
//! A node is out of the question when it cannot run anything now, when the service may not be there, when a copy that has to keep apart is
//! there already, or when not enough is left of it. Of the others that one is best which has the least in common with the nodes of the
//! other copies, and runs the fewest instances.

use crate::instance::Instance;
use crate::peers::Peers;
use crate::service::Service;
use crate::{Core, Node, NodeState};
use model::{InstanceId, NodeName, Reserve, Spread};
use std::collections::BTreeMap;
use std::fmt;

/// Where a node stands, and what it has to give.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// A path of failure domains such as `dc1/rack3`, the largest first. Empty: the node is a zone of its own.
    pub zone: String,
    /// Processors, in percent of one; 0 if not known, and then without a bound.
    pub cpu_percent: u32,
    /// Bytes of memory; 0 if not known, and then without a bound.
    pub memory_bytes: u64,
}

/// What the instances on a node are and keep together.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Load {
    pub(crate) instances: u32,
    pub(crate) cpu_percent: u64,
    pub(crate) memory_bytes: u64,
}

impl Load {
    pub(crate) fn add(&mut self, reserve: Reserve) {
        self.instances += 1;
        self.cpu_percent += u64::from(reserve.cpu_percent);
        self.memory_bytes = self.memory_bytes.saturating_add(reserve.memory_bytes);
    }
}

/// How much runs on each node.
pub(crate) type Loads = BTreeMap<NodeName, Load>;

/// The nodes among which is chosen.
#[derive(Clone, Copy)]
pub(crate) struct Sites<'a> {
    pub(crate) nodes: &'a BTreeMap<NodeName, Node>,
    pub(crate) peers: Option<&'a Peers>,
    pub(crate) loads: &'a Loads,
}

/// Why an instance cannot be on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Unfit {
    Away,
    Drained,
    NotNamed,
    Avoided,
    Shared { with: InstanceId },
    SameZone { zone: String, with: InstanceId },
    FewProcessors { left: u64, wanted: u32 },
    LittleMemory { left: u64, wanted: u64 },
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::Away => f.write_str("is not there"),
            Unfit::Drained => f.write_str("is drained"),
            Unfit::NotNamed => f.write_str("is not in `nodes`"),
            Unfit::Avoided => f.write_str("is in `avoid`"),
            Unfit::Shared { with } => write!(f, "has {with}"),
            Unfit::SameZone { zone, with } => write!(f, "is in zone {zone} with {with}"),
            Unfit::FewProcessors { left, wanted } => {
                write!(f, "has {left} % of a processor left, {wanted} % are wanted")
            }
            Unfit::LittleMemory { left, wanted } => {
                write!(f, "has {left} bytes of memory left, {wanted} are wanted")
            }
        }
    }
}

/// How good a node is, the smaller the better: copies there, copies in its zone, what its zone's path has in common with those of the
/// copies, and instances of any service there.
type Worth = (u32, u32, u32, u32);

/// The other copies of a service, and where they are.
type Copies<'a> = Vec<(&'a InstanceId, &'a NodeName)>;

impl Sites<'_> {
    fn can_act(&self, name: &NodeName) -> bool {
        self.nodes.get(name).is_some_and(|node| node.state == NodeState::Online)
            && self.peers.is_none_or(|peers| peers.lives(name))
    }

    /// A node that nobody gave a zone is one by itself.
    pub(crate) fn zone<'n>(&'n self, name: &'n NodeName) -> &'n str {
        let zone = self.nodes.get(name).map_or("", |node| node.place.zone.as_str());
        if zone.is_empty() { name.as_str() } else { zone }
    }

    fn load(&self, name: &NodeName) -> Load {
        self.loads.get(name).copied().unwrap_or_default()
    }

    fn judge(&self, service: &model::Service, name: &NodeName, copies: &Copies<'_>) -> Result<(), Unfit> {
        if !self.can_act(name) {
            let drained = self
                .nodes
                .get(name)
                .is_some_and(|node| node.state == NodeState::Drained);
            return Err(if drained { Unfit::Drained } else { Unfit::Away });
        }
        if service.avoid.contains(name) {
            return Err(Unfit::Avoided);
        }
        if !service.may_be_on(name) {
            return Err(Unfit::NotNamed);
        }
        let with = |found: Option<&(&InstanceId, &NodeName)>| found.map(|(id, _)| (*id).clone());
        if service.spread != Spread::Prefer
            && let Some(with) = with(copies.iter().find(|(_, node)| *node == name))
        {
            return Err(Unfit::Shared { with });
        }
        let zone = self.zone(name);
        if service.spread == Spread::Zone
            && let Some(with) = with(copies.iter().find(|(_, node)| self.zone(node) == zone))
        {
            let zone = zone.to_owned();
            return Err(Unfit::SameZone { zone, with });
        }
        self.has_room(service.reserve, name)
    }

    fn has_room(&self, reserve: Reserve, name: &NodeName) -> Result<(), Unfit> {
        let Some(place) = self.nodes.get(name).map(|node| &node.place) else {
            return Ok(());
        };
        let load = self.load(name);
        let left = u64::from(place.cpu_percent).saturating_sub(load.cpu_percent);
        if place.cpu_percent > 0 && u64::from(reserve.cpu_percent) > left {
            let wanted = reserve.cpu_percent;
            return Err(Unfit::FewProcessors { left, wanted });
        }
        let left = place.memory_bytes.saturating_sub(load.memory_bytes);
        if place.memory_bytes > 0 && reserve.memory_bytes > left {
            let wanted = reserve.memory_bytes;
            return Err(Unfit::LittleMemory { left, wanted });
        }
        Ok(())
    }

    fn worth(&self, name: &NodeName, copies: &Copies<'_>) -> Worth {
        let zone = self.zone(name);
        let count = |found: usize| u32::try_from(found).unwrap_or(u32::MAX);
        let here = copies.iter().filter(|(_, node)| *node == name).count();
        let near = copies.iter().filter(|(_, node)| self.zone(node) == zone).count();
        let shared = copies.iter().map(|(_, node)| in_common(self.zone(node), zone)).sum();
        (count(here), count(near), count(shared), self.load(name).instances)
    }
}

/// How many first parts two paths share.
fn in_common(one: &str, other: &str) -> usize {
    let parts = one.split('/').zip(other.split('/'));
    parts.take_while(|(one, other)| one == other).count()
}

impl Service {
    /// It may not be where it is, or is being moved: a replacement is there first.
    pub(crate) fn shall_leave(&self, instance: &Instance) -> bool {
        !self.declared.may_be_on(&instance.node) || self.moving.as_ref() == Some(&instance.id)
    }

    /// All that keep others away; `without` that one. Where two must not meet, those count that the store still has.
    fn copies(&self, without: Option<&InstanceId>) -> Copies<'_> {
        let strict = self.me.is_some() && self.declared.spread != Spread::Prefer;
        let counts = |instance: &&Instance| !instance.retiring || (strict && !instance.retiring_seen);
        let forgotten = self.forgotten.values().filter(|_| strict);
        let there = self.instances.values().filter(counts);
        let there = there.chain(forgotten.map(|(gone, _)| gone.as_ref()));
        let there = there.map(|instance| (&instance.id, &instance.node));
        let asked = self.asked_for.iter().map(|(id, asked)| (id, &asked.node));
        there.chain(asked).filter(|(id, _)| Some(*id) != without).collect()
    }

    /// The best node for one more instance, or why there is none.
    pub(crate) fn place(&self, sites: Sites<'_>) -> Result<NodeName, String> {
        // Who is moved away makes room, but keeps those apart that have to be.
        let without = self.moving.as_ref().filter(|_| self.declared.spread == Spread::Prefer);
        let copies = self.copies(without);
        let mut unfit = Vec::new();
        let mut best: Option<(Worth, &NodeName)> = None;
        let leaves = self.moving.as_ref().and_then(|id| self.instances.get(id));
        for name in sites.nodes.keys() {
            if leaves.is_some_and(|leaves| leaves.node == *name) {
                continue;
            }
            match sites.judge(&self.declared, name, &copies) {
                Ok(()) => {
                    let worth = (sites.worth(name, &copies), name);
                    best = Some(best.map_or(worth, |best| best.min(worth)));
                }
                Err(why) => unfit.push(format!("{name} {why}")),
            }
        }
        best.map(|(_, name)| name.clone())
            .ok_or_else(|| match unfit.is_empty() {
                true => "there is no other node".into(),
                false => unfit.join("; "),
            })
    }

    /// Whether it would be better off elsewhere: the copies further apart, or the nodes more evenly used.
    pub(crate) fn is_better_elsewhere(&self, id: &InstanceId, sites: Sites<'_>) -> bool {
        let Some(instance) = self.instances.get(id) else {
            return false;
        };
        let others = self.copies(Some(id));
        let apart = match self.declared.spread {
            Spread::Prefer => others.clone(),
            _ => self.copies(None),
        };
        let mut now = sites.worth(&instance.node, &others);
        now.3 = now.3.saturating_sub(1);
        let elsewhere = sites.nodes.keys().filter(|name| **name != instance.node);
        elsewhere
            .filter(|name| sites.judge(&self.declared, name, &apart).is_ok())
            .any(|name| sites.worth(name, &others) < now)
    }

    /// In a few words, why instances are missing that the file declares; nothing if none are, or if they are on their way.
    pub(crate) fn unplaced(&self, sites: Sites<'_>) -> Option<String> {
        let stays =
            |instance: &&Instance| !instance.retiring && !self.shall_leave(instance) && sites.can_act(&instance.node);
        let have = self.instances.values().filter(stays).count() + self.asked_for.len();
        let missing = (self.declared.wanted() as usize).saturating_sub(have);
        if self.removed || missing == 0 {
            return None;
        }
        let why = self.place(sites).err()?;
        Some(format!(
            "{missing} of {} instances find no node: {why}",
            self.declared.wanted()
        ))
    }
}

impl Core {
    /// How much is on each node, of all services.
    pub(crate) fn loads(&self) -> Loads {
        let mut loads: Loads = self.nodes.keys().map(|node| (node.clone(), Load::default())).collect();
        for service in self.services.values() {
            let reserve = service.declared.reserve;
            let there = service.instances.values();
            let there = there.chain(service.forgotten.values().map(|(gone, _)| gone.as_ref()));
            let there = there.map(|instance| &instance.node);
            // What was asked for and is not there yet counts, too: else all of it would go to one node.
            for node in there.chain(service.asked_for.values().map(|asked| &asked.node)) {
                loads.entry(node.clone()).or_default().add(reserve);
            }
        }
        loads
    }
}

#[cfg(test)]
mod tests {
    use super::in_common;

    #[test]
    fn zones_have_their_first_parts_in_common() {
        assert_eq!(in_common("dc1/rack3", "dc1/rack3"), 2);
        assert_eq!(in_common("dc1/rack3", "dc1/rack4"), 1);
        assert_eq!(in_common("dc1/rack3", "dc2/rack3"), 0);
        assert_eq!(in_common("dc1", "dc1/rack3"), 1);
        assert_eq!(in_common("dc1", "dc11"), 0);
    }
}
