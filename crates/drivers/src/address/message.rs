//! The few messages of rtnetlink that are needed, as bytes: made and read, without I/O.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `IFA_PROTO` of our addresses, which `ip -d address` shows: who put it there. Kernels before 5.18 forget it.
pub(crate) const PROTO: u8 = 0x55;
/// What ends the label of our IPv4 addresses, after the interface's name: any kernel keeps that.
const LABEL_END: &str = ":us";
/// Room for a label, as for an interface's name, without the NUL.
const LABEL_BYTES_MAX: usize = 15;

const HEADER_BYTES: usize = 16;
const ADDRESS_BYTES: usize = 8;
const LINK_BYTES: usize = 16;
const ROUTE_BYTES: usize = 12;
/// `NLM_F_DUMP_INTR`: the tables changed while they were told.
const DUMP_INTERRUPTED: u16 = 0x10;
const IFA_PROTO: u16 = 11;
/// The carrier is there.
const IFF_LOWER_UP: i32 = 0x1_0000;
const FOREVER: u32 = u32::MAX;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// Switched on, and with a carrier.
    pub(crate) is_up: bool,
    pub(crate) is_loopback: bool,
    /// Its Ethernet address, if neighbours there find each other by ARP or neighbour discovery.
    pub(crate) mac: Option<[u8; 6]>,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) index: u32,
    pub(crate) ip: IpAddr,
    pub(crate) prefix: u8,
    /// Whether it bears our mark.
    pub(crate) is_ours: bool,
}

/// A default route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DefaultRoute {
    pub(crate) index: u32,
    pub(crate) metric: u32,
}

/// An answer of the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Link(Link),
    LinkGone {
        index: u32,
    },
    Entry(Entry),
    EntryGone(Entry),
    DefaultRoute(DefaultRoute),
    /// The request was carried out (0), or failed with this error number.
    Ack(i32),
    /// The last of a dump.
    Done,
    /// Something that nothing here needs.
    Other,
}

/// What is to be added.
#[derive(Debug, Clone)]
pub(crate) struct Addition<'a> {
    pub(crate) ip: IpAddr,
    pub(crate) prefix: u8,
    pub(crate) index: u32,
    pub(crate) interface: &'a str,
    /// Whether the network is attached by another address, so that no route to it is to be made.
    pub(crate) without_route: bool,
    /// The kernel removes it after so many seconds; never if `None`.
    pub(crate) seconds: Option<u32>,
}

/// The request that takes an address from an interface, ready to be sent by any process with CAP_NET_ADMIN on a raw
/// `NETLINK_ROUTE` socket: one `RTM_DELADDR` message, which asks for an acknowledgement.
///
/// `prefix` is the one that the address was added with ([`Held::prefix`](super::Held::prefix)); for IPv4 the kernel
/// does not compare it here. `EADDRNOTAVAIL` is the answer when the address is not there (any more).
pub fn removal_message(ip: IpAddr, prefix: u8, ifindex: u32) -> Vec<u8> {
    let mut message = Writer::new(libc::RTM_DELADDR, libc::NLM_F_ACK);
    message.address_header(ip, prefix, 0, ifindex);
    message.ip(libc::IFA_LOCAL, ip);
    message.finish()
}

pub(crate) fn addition(what: &Addition<'_>) -> Vec<u8> {
    let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let mut message = Writer::new(libc::RTM_NEWADDR, flags);
    let scope = match what.ip.is_loopback() {
        true => libc::RT_SCOPE_HOST,
        false => libc::RT_SCOPE_UNIVERSE,
    };
    message.address_header(what.ip, what.prefix, scope, what.index);
    message.ip(libc::IFA_LOCAL, what.ip);
    message.ip(libc::IFA_ADDRESS, what.ip);
    // The kernel's own duplicate detection would take a second, during which nobody can connect.
    let mut bits = libc::IFA_F_NODAD;
    if what.without_route {
        bits |= libc::IFA_F_NOPREFIXROUTE;
    }
    message.attribute(libc::IFA_FLAGS, &bits.to_ne_bytes());
    message.attribute(IFA_PROTO, &[PROTO]);
    if let (IpAddr::V4(_), Some(label)) = (what.ip, label(what.interface)) {
        message.attribute(libc::IFA_LABEL, format!("{label}\0").as_bytes());
    }
    let valid = what.seconds.map_or(FOREVER, |seconds| seconds.clamp(1, FOREVER - 1));
    // Not preferred: what this host sends of its own accord keeps coming from its own address. IPv4 has no such notion.
    let preferred = if what.ip.is_ipv6() { 0 } else { valid };
    let lifetimes = [preferred, valid, 0, 0].map(u32::to_ne_bytes);
    message.attribute(libc::IFA_CACHEINFO, lifetimes.as_flattened());
    message.finish()
}

pub(crate) fn dump_links() -> Vec<u8> {
    let mut message = Writer::new(libc::RTM_GETLINK, libc::NLM_F_DUMP);
    message.0.extend([0; LINK_BYTES]);
    message.finish()
}

pub(crate) fn dump_addresses() -> Vec<u8> {
    let mut message = Writer::new(libc::RTM_GETADDR, libc::NLM_F_DUMP);
    message.0.extend([0; ADDRESS_BYTES]);
    message.finish()
}

pub(crate) fn dump_routes(of_v6: bool) -> Vec<u8> {
    let mut message = Writer::new(libc::RTM_GETROUTE, libc::NLM_F_DUMP);
    let mut header = [0; ROUTE_BYTES];
    header[0] = family(of_v6);
    message.0.extend(header);
    message.finish()
}

/// The messages of a datagram, and whether the dump they belong to was overtaken by a change.
pub(crate) fn read(mut bytes: &[u8]) -> (Vec<Message>, bool) {
    let mut messages = Vec::new();
    let mut is_stale = false;
    while let Some((kind, flags, body, rest)) = split(bytes) {
        is_stale |= flags & DUMP_INTERRUPTED != 0;
        messages.push(message(kind, body));
        bytes = rest;
    }
    (messages, is_stale)
}

fn split(bytes: &[u8]) -> Option<(u16, u16, &[u8], &[u8])> {
    let length = u32_at(bytes, 0)? as usize;
    let body = bytes.get(HEADER_BYTES..length)?;
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((u16_at(bytes, 4)?, u16_at(bytes, 6)?, body, rest))
}

fn message(kind: u16, body: &[u8]) -> Message {
    let message = match kind {
        libc::RTM_NEWLINK => link(body).map(Message::Link),
        libc::RTM_DELLINK => u32_at(body, 4).map(|index| Message::LinkGone { index }),
        libc::RTM_NEWADDR => entry(body).map(Message::Entry),
        libc::RTM_DELADDR => entry(body).map(Message::EntryGone),
        libc::RTM_NEWROUTE => default_route(body).map(Message::DefaultRoute),
        kind if i32::from(kind) == libc::NLMSG_ERROR => {
            u32_at(body, 0).map(|number| Message::Ack(number.cast_signed().wrapping_neg()))
        }
        kind if i32::from(kind) == libc::NLMSG_DONE => Some(Message::Done),
        _ => None,
    };
    message.unwrap_or(Message::Other)
}

fn link(body: &[u8]) -> Option<Link> {
    let hardware = u16_at(body, 2)?;
    let flags = u32_at(body, 8)?;
    let has = |flag: i32| flags & flag.cast_unsigned() != 0;
    let mut link = Link {
        index: u32_at(body, 4)?,
        name: String::new(),
        // A carrier that is lost shows in the last at once, in the second up to a second later.
        is_up: has(libc::IFF_UP) && has(libc::IFF_RUNNING) && has(IFF_LOWER_UP),
        is_loopback: has(libc::IFF_LOOPBACK),
        mac: None,
    };
    for (kind, value) in attributes(body.get(LINK_BYTES..)?) {
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_ADDRESS if hardware == libc::ARPHRD_ETHER && !has(libc::IFF_NOARP) => {
                link.mac = value.try_into().ok();
            }
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn entry(body: &[u8]) -> Option<Entry> {
    let [family, prefix, ..] = *body else { return None };
    let (mut local, mut address, mut is_ours) = (None, None, false);
    for (kind, value) in attributes(body.get(ADDRESS_BYTES..)?) {
        match kind {
            libc::IFA_LOCAL => local = ip(family, value),
            libc::IFA_ADDRESS => address = ip(family, value),
            libc::IFA_LABEL => is_ours |= text(value).ends_with(LABEL_END),
            IFA_PROTO => is_ours |= value == [PROTO],
            _ => {}
        }
    }
    Some(Entry {
        index: u32_at(body, 4)?,
        ip: local.or(address)?,
        prefix,
        is_ours,
    })
}

fn default_route(body: &[u8]) -> Option<DefaultRoute> {
    let [_, bits, _, _, table, _, _, kind, ..] = *body else {
        return None;
    };
    if bits != 0 || table != libc::RT_TABLE_MAIN || kind != libc::RTN_UNICAST {
        return None;
    }
    let (mut index, mut metric) = (None, 0);
    for (kind, value) in attributes(body.get(ROUTE_BYTES..)?) {
        match kind {
            libc::RTA_OIF => index = u32_at(value, 0),
            libc::RTA_PRIORITY => metric = u32_at(value, 0)?,
            // The first of several hops, each with its length, flags, weight and interface.
            libc::RTA_MULTIPATH => index = index.or(u32_at(value, 4)),
            _ => {}
        }
    }
    index.map(|index| DefaultRoute { index, metric })
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const FLAGS: u16 = 0xc000;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let value = bytes.get(4..length)?;
        let kind = u16_at(bytes, 2)? & !FLAGS;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The label of our address on an interface, where there is room for one.
fn label(interface: &str) -> Option<String> {
    let label = format!("{interface}{LABEL_END}");
    (label.len() <= LABEL_BYTES_MAX).then_some(label)
}

fn ip(family: u8, value: &[u8]) -> Option<IpAddr> {
    if family == self::family(true) {
        <[u8; 16]>::try_from(value)
            .ok()
            .map(|bytes| Ipv6Addr::from(bytes).into())
    } else {
        <[u8; 4]>::try_from(value)
            .ok()
            .map(|bytes| Ipv4Addr::from(bytes).into())
    }
}

fn text(value: &[u8]) -> String {
    let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn family(is_v6: bool) -> u8 {
    const INET: u8 = 2;
    const INET6: u8 = 10;
    if is_v6 { INET6 } else { INET }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A message under way.
struct Writer(Vec<u8>);

impl Writer {
    fn new(kind: u16, flags: i32) -> Self {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST).unwrap_or_default();
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        Self(bytes)
    }

    fn address_header(&mut self, ip: IpAddr, prefix: u8, scope: u8, index: u32) {
        self.0.extend([family(ip.is_ipv6()), prefix, 0, scope]);
        self.0.extend(index.to_ne_bytes());
    }

    fn ip(&mut self, kind: u16, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => self.attribute(kind, &ip.octets()),
            IpAddr::V6(ip) => self.attribute(kind, &ip.octets()),
        }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[0..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_addition_reads_back_as_an_entry_of_ours() {
        for (ip, interface) in [
            ("10.0.0.9", "eth0"),
            ("fd00::9", "eth0"),
            ("10.0.0.9", "a-long-name-it-is"),
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            let bytes = addition(&Addition {
                ip,
                prefix: 24,
                index: 7,
                interface,
                without_route: true,
                seconds: Some(3),
            });
            let entry = Entry {
                index: 7,
                ip,
                prefix: 24,
                is_ours: true,
            };
            assert_eq!(read(&bytes).0, [Message::Entry(entry)]);
        }
    }

    #[test]
    fn a_removal_names_address_prefix_and_interface() {
        let bytes = removal_message("fd00::9".parse().unwrap(), 64, 5);
        let (messages, _) = read(&bytes);
        let [Message::EntryGone(entry)] = messages.as_slice() else {
            panic!("{messages:?}");
        };
        assert_eq!(
            (entry.ip.to_string().as_str(), entry.prefix, entry.index),
            ("fd00::9", 64, 5)
        );
        assert_eq!(bytes.len(), 16 + 8 + 20);
        assert_eq!(u16_at(&bytes, 6), Some(1 | 4), "a request that is acknowledged");
    }

    #[test]
    fn bytes_cut_anywhere_are_read_without_harm() {
        let mut bytes = removal_message("10.0.0.9".parse().unwrap(), 24, 5);
        bytes.extend(dump_links());
        for length in 0..bytes.len() {
            read(&bytes[..length]);
        }
        let mut random = 1u32;
        for _ in 0..20_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = random as usize % bytes.len();
            bytes[at] = (random >> 24) as u8;
            read(&bytes);
        }
    }
}
