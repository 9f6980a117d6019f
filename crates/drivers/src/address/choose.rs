//! Which interface a floating address belongs on.

use super::message::{DefaultRoute, Entry, Link};
use super::netlink::Snapshot;
use std::net::IpAddr;

/// Where to put an address, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) link: Link,
    /// The prefix to add it with.
    pub(crate) prefix: u8,
    /// Whether another address of the interface attaches the network already.
    pub(crate) is_attached: bool,
}

/// The interface whose network holds the address; of several the most specific network, then the first that is up.
pub(crate) fn by_network(snapshot: &Snapshot, ip: IpAddr) -> Option<&Link> {
    let holding = snapshot.entries.iter().filter(|entry| holds(entry, ip));
    let links = holding.filter_map(|entry| Some((entry, snapshot.link(entry.index)?)));
    let best = links.min_by_key(|(entry, link)| (u8::MAX - entry.prefix, !link.is_up, link.index));
    best.map(|(_, link)| link).filter(|_| !is_link_local(ip))
}

/// The interface of the default route with the smallest metric.
pub(crate) fn by_default_route<'a>(snapshot: &'a Snapshot, routes: &[DefaultRoute], ip: IpAddr) -> Option<&'a Link> {
    let best = routes.iter().min_by_key(|route| route.metric)?;
    snapshot
        .link(best.index)
        .filter(|_| !is_link_local(ip) && !ip.is_loopback())
}

/// How the address is put on an interface.
///
/// Where the network is attached already, the address is added on its own, as /32 or /128: with the prefix of the
/// network, IPv4 would make it a secondary of the host's address, or the host's address a secondary of it after a
/// restart of the network, and then removing the one removes the other.
pub(crate) fn place(snapshot: &Snapshot, link: &Link, ip: IpAddr, prefix: u8) -> Place {
    let is_attached = snapshot
        .entries
        .iter()
        .any(|entry| entry.index == link.index && holds(entry, ip));
    let alone = if ip.is_ipv4() { 32 } else { 128 };
    Place {
        link: link.clone(),
        prefix: if is_attached { alone } else { prefix },
        is_attached,
    }
}

/// What there is to choose from, for an error: `eth0 (10.0.0.5/24), eth1 (down)`.
pub(crate) fn listing(snapshot: &Snapshot, ip: IpAddr) -> String {
    // A host of containers has hundreds of them.
    const SHOWN_MAX: usize = 12;
    let shown = snapshot.links.iter().take(SHOWN_MAX).map(|link| {
        let entries = snapshot
            .entries
            .iter()
            .filter(|entry| entry.index == link.index && entry.ip.is_ipv4() == ip.is_ipv4());
        let mut facts: Vec<String> = entries.map(|entry| format!("{}/{}", entry.ip, entry.prefix)).collect();
        if !link.is_up {
            facts.push("down".into());
        }
        match facts.is_empty() {
            true => link.name.clone(),
            false => format!("{} ({})", link.name, facts.join(", ")),
        }
    });
    let mut all: Vec<String> = shown.collect();
    if snapshot.links.len() > SHOWN_MAX {
        all.push(format!("{} more", snapshot.links.len() - SHOWN_MAX));
    }
    all.join(", ")
}

/// Whether the network of an address, other than our own, holds another.
fn holds(entry: &Entry, ip: IpAddr) -> bool {
    !entry.is_ours && entry.ip != ip && is_in_network(entry.ip, entry.prefix, ip)
}

fn is_in_network(network: IpAddr, prefix: u8, ip: IpAddr) -> bool {
    match (network, ip) {
        (IpAddr::V4(network), IpAddr::V4(ip)) => {
            let differing = u32::from(network) ^ u32::from(ip);
            prefix > 0 && prefix <= 32 && differing.leading_zeros() >= prefix.into()
        }
        (IpAddr::V6(network), IpAddr::V6(ip)) => {
            let differing = u128::from(network) ^ u128::from(ip);
            prefix > 0 && prefix <= 128 && differing.leading_zeros() >= prefix.into()
        }
        _ => false,
    }
}

/// Every interface has the network fe80::/64, so the address says nothing about where it belongs.
fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Snapshot {
        let link = |index, name: &str, is_up| Link {
            index,
            name: name.into(),
            is_up,
            is_loopback: name == "lo",
            mac: Some([2, 0, 0, 0, 0, index as u8]),
        };
        let entry = |index, ip: &str, prefix, is_ours| Entry {
            index,
            ip: ip.parse().unwrap(),
            prefix,
            is_ours,
        };
        Snapshot {
            links: vec![
                link(1, "lo", true),
                link(2, "eth0", true),
                link(3, "eth1", false),
                link(4, "eth2", true),
            ],
            entries: vec![
                entry(1, "127.0.0.1", 8, false),
                entry(2, "10.0.0.5", 24, false),
                entry(2, "fe80::5", 64, false),
                entry(3, "10.0.1.5", 24, false),
                entry(4, "10.0.1.6", 24, false),
                entry(4, "10.0.0.66", 16, true),
                entry(4, "fd00::6", 64, false),
            ],
        }
    }

    fn by_network_of(ip: &str) -> Option<String> {
        by_network(&host(), ip.parse().unwrap()).map(|link| link.name.clone())
    }

    #[test]
    fn the_interface_of_the_network_is_chosen() {
        assert_eq!(by_network_of("10.0.0.100").as_deref(), Some("eth0"));
        assert_eq!(
            by_network_of("10.0.1.100").as_deref(),
            Some("eth2"),
            "the one that is up"
        );
        assert_eq!(by_network_of("fd00::100").as_deref(), Some("eth2"));
        assert_eq!(by_network_of("127.0.0.9").as_deref(), Some("lo"));
        assert_eq!(by_network_of("10.0.7.1"), None, "a leftover of ours attaches nothing");
        assert_eq!(by_network_of("fe80::9"), None, "every interface has that network");
    }

    #[test]
    fn else_the_interface_of_the_default_route_with_the_smallest_metric() {
        let routes = [
            DefaultRoute { index: 4, metric: 600 },
            DefaultRoute { index: 2, metric: 100 },
        ];
        let host = host();
        let name = |ip: &str| by_default_route(&host, &routes, ip.parse().unwrap()).map(|link| link.name.as_str());
        assert_eq!(name("192.168.0.1"), Some("eth0"));
        assert_eq!(name("fe80::9"), None);
        assert_eq!(by_default_route(&host, &[], "192.168.0.1".parse().unwrap()), None);
    }

    #[test]
    fn an_address_in_an_attached_network_stands_alone() {
        let host = host();
        let place_of = |ip: &str, prefix| {
            let place = place(&host, host.link(2).unwrap(), ip.parse().unwrap(), prefix);
            (place.prefix, place.is_attached)
        };
        assert_eq!(place_of("10.0.0.100", 24), (32, true));
        assert_eq!(place_of("192.168.0.1", 24), (24, false));
        assert_eq!(place_of("fd00::1", 64), (64, false));
        assert_eq!(place_of("fe80::1", 64), (128, true));
    }

    #[test]
    fn the_listing_names_each_interface_with_its_networks() {
        let listing = listing(&host(), "192.168.0.1".parse().unwrap());
        assert_eq!(
            listing,
            "lo (127.0.0.1/8), eth0 (10.0.0.5/24), eth1 (10.0.1.5/24, down), eth2 (10.0.1.6/24, 10.0.0.66/16)"
        );
    }
}
