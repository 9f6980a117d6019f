//! The first packet of a TCP connection, in its Ethernet frame: read, and made ready to be sent on. Without I/O.

use super::frame::{ETHERNET_BYTES, IPV6_BYTES, MacBytes, array, checksum, ethernet};
use socket2::SockFilter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const IPV4_BYTES_MIN: usize = 20;
const TCP_BYTES_MIN: usize = 20;
const TCP: u8 = 6;
const TCP_FLAGS: usize = 13;
const TCP_SUM: usize = 16;
const SYN: u8 = 0x02;
const SYN_ACK_RST_FIN: u8 = 0x17;

/// Who asks for a connection: a client's address and port.
pub(crate) type Asker = (IpAddr, u16);

/// A request for a connection, as an IP packet whose checksums are right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Syn {
    pub(crate) from: Asker,
    /// The port that is asked for.
    pub(crate) to: u16,
    pub(crate) packet: Vec<u8>,
}

impl Syn {
    /// Reads a frame that came for `ip`; `None` if it is anything else.
    ///
    /// What comes from a guest or a namespace on the same host has no checksum yet, so it is made anew.
    pub(crate) fn read(frame: &[u8], ip: IpAddr) -> Option<Self> {
        let body = frame.get(ETHERNET_BYTES..)?;
        let (source, target, header_bytes, bytes) = match array::<2>(frame, 12)? {
            ETHERTYPE_IPV4 => read_ipv4(body)?,
            ETHERTYPE_IPV6 => read_ipv6(body)?,
            _ => return None,
        };
        // Behind it a short frame is padded.
        let mut packet = body.get(..bytes)?.to_vec();
        let segment = packet.get_mut(header_bytes..)?;
        if target != ip || segment.len() < TCP_BYTES_MIN || segment[TCP_FLAGS] & SYN_ACK_RST_FIN != SYN {
            return None;
        }
        let [port, to] = [0, 2].map(|at| u16::from_be_bytes([segment[at], segment[at + 1]]));
        segment[TCP_SUM..TCP_SUM + 2].fill(0);
        let sum = checksum(source, target, TCP, segment);
        segment[TCP_SUM..TCP_SUM + 2].copy_from_slice(&sum);
        Some(Self {
            from: (source, port),
            to,
            packet,
        })
    }

    /// In a frame from one neighbour to another.
    pub(crate) fn frame(&self, to: MacBytes, from: MacBytes) -> Vec<u8> {
        let ethertype = match self.from.0 {
            IpAddr::V4(_) => ETHERTYPE_IPV4,
            IpAddr::V6(_) => ETHERTYPE_IPV6,
        };
        [ethernet(to, from, ethertype).as_slice(), &self.packet].concat()
    }
}

/// Source, target, bytes of the header, and of all.
fn read_ipv4(body: &[u8]) -> Option<(IpAddr, IpAddr, usize, usize)> {
    let first = *body.first()?;
    let header_bytes = usize::from(first & 0xf) * 4;
    let fragment = u16::from_be_bytes(array(body, 6)?) & 0x3fff;
    if first >> 4 != 4 || header_bytes < IPV4_BYTES_MIN || *body.get(9)? != TCP || fragment != 0 {
        return None;
    }
    let [source, target] = [12, 16].map(|at| array::<4>(body, at).map(Ipv4Addr::from));
    let bytes = u16::from_be_bytes(array(body, 2)?).into();
    Some((source?.into(), target?.into(), header_bytes, bytes))
}

fn read_ipv6(body: &[u8]) -> Option<(IpAddr, IpAddr, usize, usize)> {
    // With extension headers before it, which nobody sends, it is asked for again.
    if *body.first()? >> 4 != 6 || *body.get(6)? != TCP {
        return None;
    }
    let [source, target] = [8, 24].map(|at| array::<16>(body, at).map(Ipv6Addr::from));
    let bytes = IPV6_BYTES + usize::from(u16::from_be_bytes(array(body, 4)?));
    Some((source?.into(), target?.into(), IPV6_BYTES, bytes))
}

/// Lets only requests for connections to this address through, so that nothing else wakes us.
pub(crate) fn filter(ip: IpAddr, bytes: u32) -> Vec<SockFilter> {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const LOAD_BYTE_AT_X: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_IND) as u16;
    const LOAD_X_HEADER_BYTES: u16 = (libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH) as u16;
    const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, yes, no, value| SockFilter::new(code, yes, no, value);
    let at = |offset: usize| (ETHERNET_BYTES + offset) as u32;
    match ip {
        IpAddr::V4(ip) => vec![
            step(LOAD_WORD, 0, 0, at(16)),
            step(JUMP_IF_EQUAL, 0, 7, ip.into()),
            step(LOAD_BYTE, 0, 0, at(9)),
            step(JUMP_IF_EQUAL, 0, 5, TCP.into()),
            step(LOAD_X_HEADER_BYTES, 0, 0, at(0)),
            step(LOAD_BYTE_AT_X, 0, 0, at(TCP_FLAGS)),
            step(AND, 0, 0, SYN_ACK_RST_FIN.into()),
            step(JUMP_IF_EQUAL, 0, 1, SYN.into()),
            step(RETURN, 0, 0, bytes),
            step(RETURN, 0, 0, 0),
        ],
        IpAddr::V6(ip) => {
            let [.., a, b, c, d] = ip.octets();
            vec![
                step(LOAD_WORD, 0, 0, at(36)),
                step(JUMP_IF_EQUAL, 0, 6, u32::from_be_bytes([a, b, c, d])),
                step(LOAD_BYTE, 0, 0, at(6)),
                step(JUMP_IF_EQUAL, 0, 4, TCP.into()),
                step(LOAD_BYTE, 0, 0, at(IPV6_BYTES + TCP_FLAGS)),
                step(AND, 0, 0, SYN_ACK_RST_FIN.into()),
                step(JUMP_IF_EQUAL, 0, 1, SYN.into()),
                step(RETURN, 0, 0, bytes),
                step(RETURN, 0, 0, 0),
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: MacBytes = [2, 0, 0, 0, 0, 1];
    const THEIRS: MacBytes = [2, 0, 0, 0, 0, 2];

    /// A frame with this TCP segment, padded as Ethernet does.
    fn frame(source: &str, target: &str, segment: &[u8]) -> Vec<u8> {
        let length = segment.len() as u16;
        let (ethertype, mut packet) = match (source.parse().unwrap(), target.parse().unwrap()) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                let [high, low] = (length + 20).to_be_bytes();
                let mut packet = vec![0x45, 0, high, low, 0, 7, 0x40, 0, 64, TCP, 0, 0];
                packet.extend(source.octets());
                packet.extend(target.octets());
                (ETHERTYPE_IPV4, packet)
            }
            (IpAddr::V6(source), IpAddr::V6(target)) => {
                let [high, low] = length.to_be_bytes();
                let mut packet = vec![0x60, 0, 0, 0, high, low, TCP, 64];
                packet.extend(source.octets());
                packet.extend(target.octets());
                (ETHERTYPE_IPV6, packet)
            }
            _ => unreachable!("of one family"),
        };
        packet.extend(segment);
        [ethernet(OURS, THEIRS, ethertype).as_slice(), &packet, &[0xee; 6]].concat()
    }

    fn segment(flags: u8) -> Vec<u8> {
        let mut segment = vec![
            0x9c, 0x40, 0x00, 0x50, 1, 2, 3, 4, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0,
        ];
        segment[TCP_SUM] = 0x55;
        segment
    }

    #[test]
    fn a_request_for_a_connection_is_read_and_its_sum_made_right() {
        for (client, ip, header) in [("10.0.0.7", "10.0.0.9", 20), ("fd00::7", "fd00::9", 40)] {
            let address: IpAddr = ip.parse().unwrap();
            let syn = Syn::read(&frame(client, ip, &segment(SYN)), address).unwrap();
            assert_eq!((syn.from, syn.to), ((client.parse().unwrap(), 40_000), 80));
            assert_eq!(syn.packet.len(), header + 20, "without the padding");
            assert_eq!(checksum(syn.from.0, address, TCP, &syn.packet[header..]), [0, 0]);
            // What is sent on is the same request, from us.
            let sent = syn.frame(THEIRS, OURS);
            assert_eq!((&sent[..6], &sent[6..12]), (&THEIRS[..], &OURS[..]));
            assert_eq!(Syn::read(&sent, address).unwrap(), syn);
        }
    }

    #[test]
    fn everything_else_is_left_alone() {
        let ip = "10.0.0.9";
        let address: IpAddr = ip.parse().unwrap();
        for flags in [0x12, 0x10, 0x18, 0x04, 0x11] {
            assert_eq!(
                Syn::read(&frame("10.0.0.7", ip, &segment(flags)), address),
                None,
                "{flags:#x}"
            );
        }
        let good = frame("10.0.0.7", ip, &segment(SYN));
        assert_eq!(Syn::read(&good, "10.0.0.8".parse().unwrap()), None);
        for length in 0..good.len() - 6 {
            assert_eq!(Syn::read(&good[..length], address), None, "{length} bytes");
        }
        let mut fragment = good.clone();
        fragment[ETHERNET_BYTES + 7] = 1;
        assert_eq!(Syn::read(&fragment, address), None);
        let mut long = good;
        long[ETHERNET_BYTES] = 0x4f;
        assert_eq!(Syn::read(&long, address), None, "a header longer than the packet");
    }
}
