//! What nodes and instances turn out to have in common, though nobody declared it: disks, file servers, hosts, enclosures.
//!
//! Only what ties machines together counts. What lies below one machine alone fails with it, and is no cause of its own.

use crate::observe::Observed;
use crate::system::{System, Thing};
use api::Severity;
use api::analysis::Finding;
use model::hardware::{Hardware, Medium};
use std::collections::{BTreeMap, BTreeSet};

/// A thing, and the nodes and processes that fail with it.
type Common = BTreeMap<Thing, BTreeSet<Thing>>;

/// What is shared. Of one machine that pretends to be several, only what is not in that machine.
pub(crate) fn found(observed: &Observed<'_>) -> Common {
    let mut below = Common::new();
    let mut add = |thing: Thing, user: Thing| {
        below.entry(thing).or_default().insert(user);
    };
    let nodes = observed.status.nodes.iter().map(|node| node.name.as_str());
    let nodes: BTreeSet<&str> = nodes.chain(observed.voters.iter().map(String::as_str)).collect();
    for (node, hardware) in observed
        .hardware
        .iter()
        .filter(|(node, _)| nodes.contains(node.as_str()))
    {
        let itself = Thing::Node(node.clone());
        if let Some(host) = &hardware.host {
            add(Thing::Machine(format!("host {host}")), itself.clone());
        }
        if let Some(chassis) = &hardware.chassis {
            add(Thing::Machine(format!("enclosure {chassis}")), itself.clone());
        }
        for thing in things(&hardware.data) {
            add(thing, itself.clone());
        }
        for thing in hardware.store.iter().flat_map(things) {
            add(thing, Thing::Voter(node.clone()));
        }
        let here = observed.status.services.iter().flat_map(|service| &service.instances);
        for instance in here.filter(|instance| instance.node == *node) {
            for thing in hardware.instances.get(&instance.id).into_iter().flat_map(things) {
                add(thing, Thing::Process(instance.id.clone()));
            }
        }
    }
    below.retain(|thing, users| {
        // All nodes of one machine share what is in it; a file server is not.
        if observed.timing.is_none() {
            return matches!(thing, Thing::FileServer(_));
        }
        let machines: BTreeSet<&str> = users.iter().filter_map(|user| machine(observed, user)).collect();
        machines.len() > 1
    });
    below
}

/// On which machine a node or process is: two nodes of one machine share everything anyway.
fn machine<'a>(observed: &'a Observed<'_>, user: &'a Thing) -> Option<&'a str> {
    let node = match user {
        Thing::Process(id) => {
            let mut all = observed.status.services.iter().flat_map(|service| &service.instances);
            all.find(|instance| instance.id == *id)?.node.as_str()
        }
        thing => thing.name(),
    };
    Some(observed.machines.get(node).map_or(node, String::as_str))
}

fn things(medium: &Medium) -> Vec<Thing> {
    // A disk without a name of its own in the world cannot be told from one of another machine.
    let disks = medium.disks.values().flatten().cloned().map(Thing::Disk);
    disks.chain(medium.server.clone().map(Thing::FileServer)).collect()
}

/// Puts it below what fails with it.
pub(crate) fn put_below(system: &mut System, found: Common) {
    for (thing, users) in found {
        for user in users {
            system.below.entry(user).or_default().insert(thing.clone());
        }
    }
}

/// What is to be said of it.
pub(crate) fn findings(observed: &Observed<'_>) -> Vec<Finding> {
    let mut told: Vec<Finding> = found(observed)
        .into_iter()
        .map(|(thing, users)| shared(observed, &thing, &users))
        .collect();
    if observed.timing.is_none() {
        return told;
    }
    let hardware: Vec<(&str, &Hardware)> = observed
        .hardware
        .iter()
        .map(|(node, seen)| (node.as_str(), seen))
        .collect();
    let machine = |node: &str| observed.machines.get(node).cloned().unwrap_or_else(|| node.to_owned());
    let groups = |sign: fn(&Hardware) -> Option<String>| {
        let mut groups: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for (node, seen) in &hardware {
            if let Some(sign) = sign(seen) {
                groups.entry(sign).or_default().push(node);
            }
        }
        groups.retain(|_, nodes| nodes.iter().map(|node| machine(node)).collect::<BTreeSet<_>>().len() > 1);
        groups
    };
    for nodes in groups(|seen| seen.machine_id.clone()).into_values() {
        told.push(finding(
            "cloned-machine-id",
            "machines are copies that think they are one",
            Severity::Warning,
            nodes[0],
            format!(
                "nodes {} have one `/etc/machine-id`: one was copied from another. Whatever tells machines apart by it takes them for one: \
                 addresses by DHCP, logs, licences, other cluster software",
                nodes.join(" and ")
            ),
            "on all but one: empty `/etc/machine-id`, run `systemd-machine-id-setup`, restart",
        ));
    }
    for (router, nodes) in groups(|seen| {
        seen.gateway
            .as_ref()
            .map(|gateway| gateway.address.clone() + " " + &gateway.card)
    }) {
        let address = router.split(' ').next().unwrap_or_default();
        told.push(finding(
            "shared-gateway",
            "one router to other networks",
            Severity::Info,
            address,
            format!(
                "nodes {} reach other networks through one router, {address}: clients that come from there lose all of them at once. \
                 Clients beside the nodes do not, so it is not reckoned with",
                nodes.join(" and ")
            ),
            "if clients come that way, tell of it as an `external` that services need, or double the router (VRRP)",
        ));
    }
    for (node, seen) in hardware.iter().filter(|(node, _)| observed.voters.contains(*node)) {
        let Some(store) = &seen.store else { continue };
        let both: Vec<&str> = store
            .disks
            .keys()
            .filter(|disk| seen.data.disks.contains_key(*disk))
            .map(String::as_str)
            .collect();
        let runs = observed
            .status
            .services
            .iter()
            .flat_map(|service| &service.instances)
            .any(|instance| instance.node == *node);
        if !both.is_empty() && runs {
            told.push(finding(
                "store-beside-data",
                "store and services on one disk",
                Severity::Info,
                node,
                format!(
                    "on node {node} the store's member and the data of services are on one disk, {}: when a service writes much, sessions are \
                     renewed late, and when it fills the disk, both stand still",
                    both.join(" and ")
                ),
                "a disk of its own for the store's folder, at the best a fast one",
            ));
        }
    }
    told
}

fn shared(observed: &Observed<'_>, thing: &Thing, users: &BTreeSet<Thing>) -> Finding {
    let who: Vec<String> = users.iter().map(ToString::to_string).collect();
    let who = match who.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => who.concat(),
    };
    let (code, title, how, hint) = match thing {
        Thing::FileServer(_) => (
            "shared-file-server",
            "data on one file server",
            "keep data on",
            "let each keep its data on a disk of its own machine; replicate between them instead",
        ),
        Thing::Machine(name) if name.starts_with("enclosure") => (
            "shared-enclosure",
            "machines in one enclosure",
            "are in",
            "if its power, cooling or backplane fails, all of them do: spread services over enclosures with `zone`",
        ),
        Thing::Machine(_) => (
            "shared-host",
            "virtual machines on one host",
            "run on",
            "tell the hypervisor to keep them apart (anti-affinity), and tell of the hosts as zones",
        ),
        _ => (
            "shared-disk",
            "data on one disk",
            "keep data on",
            "let each keep its data on a disk of its own",
        ),
    };
    let zones: BTreeSet<&str> = users
        .iter()
        .filter_map(|user| {
            let nodes = &observed.status.nodes;
            nodes
                .iter()
                .find(|node| node.name == user.name())
                .map(|node| node.zone.as_str())
        })
        .collect();
    // As declared they go together anyway; it is still worth knowing of by what.
    let together = zones.len() == 1 && users.iter().all(|user| matches!(user, Thing::Node(_)));
    let severity = if together { Severity::Warning } else { Severity::Error };
    let text = format!("{who} {how} {thing}: they fail together. Nobody declared it; their agents see it");
    finding(code, title, severity, thing.name(), text, hint)
}

fn finding(code: &str, title: &str, severity: Severity, about: &str, text: String, hint: &str) -> Finding {
    Finding {
        code: code.into(),
        title: title.into(),
        severity,
        about: about.into(),
        text,
        hint: hint.into(),
    }
}
