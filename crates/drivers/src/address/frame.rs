//! Ethernet frames by which neighbours learn who has an address: ARP (RFC 826, 5227) and neighbour discovery (RFC 4861).
//! Made and read, without I/O.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An Ethernet address.
pub(crate) type MacBytes = [u8; 6];

const BROADCAST: MacBytes = [0xff; 6];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ARP_REQUEST: u8 = 1;
const ARP_REPLY: u8 = 2;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const ICMPV6: u8 = 58;
const TARGET_LINK_ADDRESS: u8 = 2;
/// What has crossed no router: others cannot be told from outside the network.
const HOP_LIMIT: u8 = 255;

pub(crate) const ETHERNET_BYTES: usize = 14;
pub(crate) const IPV6_BYTES: usize = 40;

/// Where things stand in an IPv6 frame, for the kernel's filter.
pub(crate) mod offset {
    /// Sender of an ARP packet.
    pub(crate) const ARP_SENDER: u32 = 28;
    /// Target of an ARP packet.
    pub(crate) const ARP_TARGET: u32 = 38;
    /// The protocol in an IPv6 packet.
    pub(crate) const NEXT_HEADER: u32 = 20;
    /// The last four bytes of its source.
    pub(crate) const SOURCE_END: u32 = 34;
    /// The type of its ICMPv6 message.
    pub(crate) const ICMP_TYPE: u32 = 54;
    /// The last four bytes of the target of neighbour discovery.
    pub(crate) const TARGET_END: u32 = 74;
}

/// What a frame says about an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) ip: IpAddr,
    pub(crate) mac: MacBytes,
    /// It has the address; else it asks whether the address is free, to have it next.
    pub(crate) has_it: bool,
}

/// Asks whether anyone has an address, without saying that we do.
pub(crate) fn probe(ip: IpAddr, mac: MacBytes) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => arp(ARP_REQUEST, (mac, Ipv4Addr::UNSPECIFIED), ([0; 6], ip)),
        IpAddr::V6(ip) => {
            let [.., a, b, c] = ip.octets();
            let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
            let mut icmp = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
            icmp.extend(ip.octets());
            ipv6(mac, Ipv6Addr::UNSPECIFIED, group, icmp)
        }
    }
}

/// Tells all neighbours that we have an address: each frame in a form that some of them heed and others do not.
pub(crate) fn announcements(ip: IpAddr, mac: MacBytes) -> Vec<Vec<u8>> {
    match ip {
        IpAddr::V4(ip) => vec![
            arp(ARP_REQUEST, (mac, ip), ([0; 6], ip)),
            arp(ARP_REPLY, (mac, ip), (BROADCAST, ip)),
        ],
        IpAddr::V6(ip) => {
            const OVERRIDE: u8 = 0x20;
            let mut icmp = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
            icmp.extend(ip.octets());
            icmp.extend([TARGET_LINK_ADDRESS, 1]);
            icmp.extend(mac);
            vec![ipv6(mac, ip, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), icmp)]
        }
    }
}

/// Reads what a frame says about who has an address, or wants it.
pub(crate) fn read(frame: &[u8]) -> Option<Heard> {
    let sender: MacBytes = array(frame, 6)?;
    let body = frame.get(ETHERNET_BYTES..)?;
    match array::<2>(frame, 12)? {
        ETHERTYPE_ARP => read_arp(body),
        ETHERTYPE_IPV6 => read_ipv6(sender, body),
        _ => None,
    }
}

fn read_arp(body: &[u8]) -> Option<Heard> {
    let [0, 1, 0x08, 0, 6, 4, 0, ARP_REQUEST | ARP_REPLY, ..] = *body else {
        return None;
    };
    let mac = array(body, 8)?;
    let [from, to] = [14, 24].map(|at| array::<4>(body, at).map(Ipv4Addr::from));
    let (from, to) = (from?, to?);
    let has_it = !from.is_unspecified();
    Some(Heard {
        ip: if has_it { from } else { to }.into(),
        mac,
        has_it,
    })
}

fn read_ipv6(sender: MacBytes, body: &[u8]) -> Option<Heard> {
    if *body.get(6)? != ICMPV6 || *body.get(7)? != HOP_LIMIT {
        return None;
    }
    let source = Ipv6Addr::from(array::<16>(body, 8)?);
    let icmp = body.get(IPV6_BYTES..)?;
    let target = Ipv6Addr::from(array::<16>(icmp, 8)?);
    let (ip, mac, has_it) = match *icmp.first()? {
        NEIGHBOUR_ADVERTISEMENT => (target, target_link_address(icmp).unwrap_or(sender), true),
        NEIGHBOUR_SOLICITATION if source.is_unspecified() => (target, sender, false),
        NEIGHBOUR_SOLICITATION => (source, sender, true),
        _ => return None,
    };
    Some(Heard {
        ip: ip.into(),
        mac,
        has_it,
    })
}

fn target_link_address(icmp: &[u8]) -> Option<MacBytes> {
    let mut options = icmp.get(24..)?;
    loop {
        let [kind, eights, ..] = *options else { return None };
        if kind == TARGET_LINK_ADDRESS && eights == 1 {
            return array(options, 2);
        }
        // One of length zero would be read for ever.
        options = options.get(usize::from(eights.max(1)) * 8..)?;
    }
}

fn arp(operation: u8, sender: (MacBytes, Ipv4Addr), target: (MacBytes, Ipv4Addr)) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, sender.0, ETHERTYPE_ARP);
    frame.extend([0, 1, 0x08, 0, 6, 4, 0, operation]);
    for (mac, ip) in [sender, target] {
        frame.extend(mac);
        frame.extend(ip.octets());
    }
    frame
}

fn ipv6(mac: MacBytes, source: Ipv6Addr, group: Ipv6Addr, mut icmp: Vec<u8>) -> Vec<u8> {
    let [.., a, b, c, d] = group.octets();
    let mut frame = ethernet([0x33, 0x33, a, b, c, d], mac, ETHERTYPE_IPV6);
    let length = u16::try_from(icmp.len()).unwrap_or(u16::MAX).to_be_bytes();
    let sum = checksum(source.into(), group.into(), ICMPV6, &icmp);
    icmp[2..4].copy_from_slice(&sum);
    frame.extend([0x60, 0, 0, 0, length[0], length[1], ICMPV6, HOP_LIMIT]);
    frame.extend(source.octets());
    frame.extend(group.octets());
    frame.extend(icmp);
    frame
}

pub(crate) fn ethernet(to: MacBytes, from: MacBytes, ethertype: [u8; 2]) -> Vec<u8> {
    [to.as_slice(), from.as_slice(), ethertype.as_slice()].concat()
}

/// The sum over pseudo-header and message, whose own field for it is zero.
pub(crate) fn checksum(source: IpAddr, target: IpAddr, protocol: u8, message: &[u8]) -> [u8; 2] {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    // That of IPv4 has other places for the same, which makes no difference to a sum.
    let mut header = Vec::with_capacity(40);
    for ip in [source, target] {
        match ip {
            IpAddr::V4(ip) => header.extend(ip.octets()),
            IpAddr::V6(ip) => header.extend(ip.octets()),
        }
    }
    header.extend(length);
    header.extend([0, 0, 0, protocol]);
    let words = header.chunks(2).chain(message.chunks(2));
    let mut sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacBytes = [2, 0, 0, 0, 0, 7];

    #[test]
    fn announcements_and_probes_are_read_as_what_they_are() {
        for ip in ["10.0.0.9", "fd00::1:2"] {
            let ip: IpAddr = ip.parse().unwrap();
            let heard = |has_it| Some(Heard { ip, mac: MAC, has_it });
            assert_eq!(read(&probe(ip, MAC)), heard(false));
            for frame in announcements(ip, MAC) {
                assert_eq!(read(&frame), heard(true));
                assert!((0..frame.len()).all(|length| read(&frame[..length]) != heard(false)));
            }
        }
    }

    #[test]
    fn the_checksum_makes_the_sum_over_all_come_out_as_zero() {
        let ip: Ipv6Addr = "fd00::1:2".parse().unwrap();
        let frame = &announcements(ip.into(), MAC)[0];
        let icmp = &frame[ETHERNET_BYTES + IPV6_BYTES..];
        assert_eq!(checksum(ip.into(), "ff02::1".parse().unwrap(), ICMPV6, icmp), [0, 0]);
    }

    #[test]
    fn what_came_through_a_router_is_not_believed() {
        let mut frame = announcements("fd00::1".parse().unwrap(), MAC).remove(0);
        frame[ETHERNET_BYTES + 7] = 254;
        assert_eq!(read(&frame), None);
    }

    #[test]
    fn options_of_length_zero_end() {
        let mut frame = announcements("fd00::1".parse().unwrap(), MAC).remove(0);
        let options = ETHERNET_BYTES + IPV6_BYTES + 24;
        frame[options] = 9;
        frame[options + 1] = 0;
        assert_eq!(read(&frame).unwrap().mac, MAC, "the sender of the frame");
    }
}
