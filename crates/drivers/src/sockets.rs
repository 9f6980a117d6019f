//! Whose TCP connections are whose: asked of the kernel, so that services that know nothing of us need no change.
//!
//! The kernel remembers of each socket the cgroup that made it, and of each TCP connection when it last sent and received. The first
//! tells which instance a client of the proxy is; the second, which connections wait for an answer.

use crate::address::netlink;
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

const TCP: u8 = 6;
const BY_FAMILY: u16 = 20;
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER_BYTES: usize = 16;
/// Of `inet_diag_msg`, before its attributes.
const MESSAGE_BYTES: usize = 72;
/// In it.
const STATE_AT: usize = 1;
const INODE_AT: usize = 68;
const WITH_TIMES: u8 = 1 << 1;
const INFO: u16 = 2;
const CGROUP_ID: u16 = 21;
const ESTABLISHED: u8 = 1;
const CONNECTING: u8 = 2;
const LISTENING: u8 = 10;
/// Of `tcp_info`: segments that the other end has not acknowledged; milliseconds since data was sent, data came, and an acknowledgement came.
const UNACKNOWLEDGED_AT: usize = 24;
const SENT_AT: usize = 44;
const RECEIVED_AT: usize = 52;
const ACKNOWLEDGED_AT: usize = 56;
/// Segments with data that came, and that were sent, since the connection was made.
const SEGMENTS_IN_AT: usize = 152;
const SEGMENTS_OUT_AT: usize = 156;

/// The number of a cgroup, which is that of its folder's inode.
pub type CgroupId = u64;

/// Asks whose connections are whose. Each question takes some ten microseconds and needs no privilege.
#[derive(Debug)]
pub struct Sockets(OwnedFd);

/// A connection that somebody on this machine made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// The cgroup of who made it.
    pub cgroup: CgroupId,
    /// Its own end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Something was sent and nothing received since: a request waits for its answer. Times count in ticks of the kernel, 4 ms or so: where
    /// both are of one tick, what the other end has acknowledged since tells whether the request or the answer was the last, and where it
    /// acknowledged at once, as it does at first, the number of segments.
    pub waits: bool,
}

impl Sockets {
    /// Fails where the kernel was built without `CONFIG_INET_DIAG`.
    pub fn open() -> io::Result<Self> {
        netlink::diagnosis().map(Self)
    }

    /// The cgroup of the end `local` of a connection to `remote`; `None` if there is no such connection on this machine, or the kernel
    /// knows no cgroups of sockets.
    pub fn owner(&self, local: SocketAddr, remote: SocketAddr) -> io::Result<Option<CgroupId>> {
        let owner = self.look_up(local, remote, |body| attribute(body, CGROUP_ID).and_then(number))?;
        Ok(owner.flatten())
    }

    /// What is read of the end `local` of a connection to `remote`, if there is one.
    fn look_up<T>(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        read: impl FnOnce(&[u8]) -> T,
    ) -> io::Result<Option<T>> {
        let family = if local.is_ipv4() && remote.is_ipv4() {
            libc::AF_INET
        } else {
            libc::AF_INET6
        } as u8;
        let request = request(REQUEST, family, 0, u32::MAX, Some((local, remote)));
        netlink::ask(&self.0, &request)?;
        let answer = netlink::answer(&self.0)?;
        let Some((kind, body)) = messages(&answer).into_iter().next() else {
            return Ok(None);
        };
        if kind != ERROR {
            return Ok(Some(read(body)));
        }
        match errno(body) {
            libc::ENOENT => Ok(None),
            number => Err(io::Error::from_raw_os_error(number)),
        }
    }

    /// Whether the connection from `peer` to a service at `service` lies in the kernel's queue still: it was made, and the service has not
    /// taken it. No if there is no such connection in this network namespace.
    pub fn is_queued(&self, service: SocketAddr, peer: SocketAddr) -> io::Result<bool> {
        self.look_up(service, peer, |body| {
            let owner = body.get(INODE_AT..INODE_AT + 4);
            // Whatever was taken has a file, and one of a listener that waits for the first bytes is not made yet.
            body.get(STATE_AT) == Some(&ESTABLISHED) && owner == Some(&[0; 4])
        })
        .map(|found| found.unwrap_or(false))
    }

    /// All connections that were made from this machine, those that it accepted left out.
    pub fn made_here(&self) -> io::Result<Vec<Connection>> {
        let mut connections = Vec::new();
        let mut listening = BTreeSet::new();
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            let states = 1 << ESTABLISHED | 1 << CONNECTING | 1 << LISTENING;
            netlink::ask(&self.0, &request(REQUEST | DUMP, family, WITH_TIMES, states, None))?;
            'dump: loop {
                let answer = netlink::answer(&self.0)?;
                for (kind, body) in messages(&answer) {
                    match kind {
                        DONE => break 'dump,
                        ERROR => return Err(io::Error::from_raw_os_error(errno(body))),
                        _ => {}
                    }
                    let Some((state, local, remote)) = ends(body) else {
                        continue;
                    };
                    if state == LISTENING {
                        listening.insert(local.port());
                    } else if let Some(cgroup) = attribute(body, CGROUP_ID).and_then(number) {
                        let waits = state == CONNECTING || attribute(body, INFO).is_some_and(waits);
                        connections.push(Connection {
                            cgroup,
                            local,
                            remote,
                            waits,
                        });
                    }
                }
            }
        }
        // A port that is listened at is no port to call from.
        connections.retain(|connection| !listening.contains(&connection.local.port()));
        Ok(connections)
    }
}

fn request(flags: u16, family: u8, extensions: u8, states: u32, ends: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let length = (HEADER_BYTES + 8 + 48) as u32;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, TCP, extensions, 0]);
    bytes.extend(states.to_ne_bytes());
    let Some((local, remote)) = ends else {
        bytes.extend([0; 48]);
        return bytes;
    };
    bytes.extend(local.port().to_be_bytes());
    bytes.extend(remote.port().to_be_bytes());
    for end in [local, remote] {
        let mut address = [0; 16];
        match (end.ip(), family == libc::AF_INET as u8) {
            (IpAddr::V4(ip), true) => address[..4].copy_from_slice(&ip.octets()),
            (IpAddr::V4(ip), false) => address = ip.to_ipv6_mapped().octets(),
            (IpAddr::V6(ip), _) => address = ip.octets(),
        }
        bytes.extend(address);
    }
    // Any interface, and the cookie that stands for "whichever".
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend([0xff; 8]);
    bytes
}

/// The messages of a datagram, each with what follows its header.
fn messages(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let Some(header) = bytes.get(..HEADER_BYTES) {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let Some(body) = bytes.get(HEADER_BYTES..length) else {
            break;
        };
        found.push((kind, body));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn ends(body: &[u8]) -> Option<(u8, SocketAddr, SocketAddr)> {
    let head = body.get(..MESSAGE_BYTES)?;
    let port = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let ip = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 16] = head.get(at..at + 16)?.try_into().ok()?;
        Some(if head[0] == libc::AF_INET as u8 {
            IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
        } else {
            Ipv6Addr::from(bytes).to_canonical()
        })
    };
    Some((
        head[1],
        SocketAddr::new(ip(8)?, port(4)),
        SocketAddr::new(ip(24)?, port(6)),
    ))
}

fn attribute(body: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = body.get(MESSAGE_BYTES..)?;
    while let Some(header) = rest.get(..4) {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]);
        let value = rest.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn number(value: &[u8]) -> Option<u64> {
    Some(u64::from_ne_bytes(value.try_into().ok()?))
}

fn waits(info: &[u8]) -> bool {
    let number = |at: usize| {
        info.get(at..at + 4)
            .and_then(|bytes| Some(u32::from_ne_bytes(bytes.try_into().ok()?)))
    };
    let (Some(sent), Some(received)) = (number(SENT_AT), number(RECEIVED_AT)) else {
        return false;
    };
    // An answer acknowledges its request, and nothing comes after it; a request that follows an answer at once is acknowledged later.
    let since_answer = || {
        number(UNACKNOWLEDGED_AT) > Some(0)
            || number(ACKNOWLEDGED_AT).is_some_and(|acknowledged| acknowledged < received)
    };
    // Of a connection that was just made both times begin with it. One request that went out in one piece has no answer yet.
    let is_one_ahead = || {
        number(SEGMENTS_OUT_AT)
            .zip(number(SEGMENTS_IN_AT))
            .is_some_and(|(sent, came)| sent == came.wrapping_add(1) || (came == 0 && sent > 0))
    };
    sent < received || (sent == received && (since_answer() || is_one_ahead()))
}

fn errno(body: &[u8]) -> i32 {
    let number = body
        .get(..4)
        .and_then(|bytes| bytes.try_into().ok())
        .map(i32::from_ne_bytes);
    number.map_or(libc::EPROTO, |number| -number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    fn pair(at: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(at).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = listener.accept().unwrap().0;
        // The listener goes on to listen, as that of a server does.
        std::mem::forget(listener);
        (client, server)
    }

    #[test]
    fn both_ends_of_a_connection_have_an_owner() {
        let sockets = Sockets::open().unwrap();
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let (client, server) = pair(at);
            let (from, to) = (client.local_addr().unwrap(), server.local_addr().unwrap());
            let owner = sockets.owner(from, to).unwrap();
            // All of one process, and so of one cgroup.
            assert!(owner.is_some(), "{at}");
            assert_eq!(owner, sockets.owner(to, from).unwrap());
            let nobody = SocketAddr::new(to.ip(), 1);
            assert_eq!(sockets.owner(from, nobody).unwrap(), None);
        }
    }

    /// As on a connection that is used again as soon as it is free.
    #[test]
    fn a_request_right_after_an_answer_waits() {
        let sockets = Sockets::open().unwrap();
        let (mut client, mut server) = pair("127.0.0.1:0");
        let from = client.local_addr().unwrap();
        let mut one = [0];
        let mut answer = |server: &mut TcpStream, client: &mut TcpStream| {
            server.read_exact(&mut one).unwrap();
            server.write_all(b"!").unwrap();
            client.read_exact(&mut one).unwrap();
        };
        for _ in 0..8 {
            client.write_all(b"?").unwrap();
            answer(&mut server, &mut client);
            client.write_all(b"?").unwrap();
            // Longer than an acknowledgement is held back.
            for pause in [0, 10, 60] {
                std::thread::sleep(Duration::from_millis(pause));
                let all = sockets.made_here().unwrap();
                let seen = all.into_iter().find(|it| it.local == from).unwrap();
                assert!(seen.waits, "after {pause} ms");
            }
            answer(&mut server, &mut client);
            for pause in [0, 10, 60] {
                std::thread::sleep(Duration::from_millis(pause));
                let all = sockets.made_here().unwrap();
                let seen = all.into_iter().find(|it| it.local == from).unwrap();
                assert!(!seen.waits, "{pause} ms after the answer");
            }
        }
    }

    /// As when a service calls another more often at once than ever before: each call has a connection of its own.
    #[test]
    fn the_first_request_of_a_connection_waits() {
        let sockets = Sockets::open().unwrap();
        let mut one = [0];
        for pause in [0, 10, 60] {
            let (mut client, mut server) = pair("127.0.0.1:0");
            let from = client.local_addr().unwrap();
            let seen = || {
                let all = sockets.made_here().unwrap();
                all.into_iter().find(|it| it.local == from).unwrap()
            };
            assert!(!seen().waits, "nothing was asked");
            client.write_all(b"?").unwrap();
            server.read_exact(&mut one).unwrap();
            std::thread::sleep(Duration::from_millis(pause));
            assert!(seen().waits, "after {pause} ms");
            server.write_all(b"!").unwrap();
            client.read_exact(&mut one).unwrap();
            assert!(!seen().waits, "after {pause} ms and the answer");
        }
    }

    #[test]
    fn a_request_without_its_answer_waits() {
        let sockets = Sockets::open().unwrap();
        let (mut client, mut server) = pair("127.0.0.1:0");
        let from = client.local_addr().unwrap();
        let seen = || {
            sockets
                .made_here()
                .unwrap()
                .into_iter()
                .filter(|it| it.local == from)
                .collect::<Vec<_>>()
        };
        let tick = Duration::from_millis(30);
        std::thread::sleep(tick);
        client.write_all(b"?").unwrap();
        server.read_exact(&mut [0]).unwrap();
        std::thread::sleep(tick);
        let [connection] = seen()[..] else {
            panic!("{:?}", seen())
        };
        assert!(connection.waits && connection.remote == server.local_addr().unwrap());
        server.write_all(b"!").unwrap();
        client.read_exact(&mut [0]).unwrap();
        assert!(!seen()[0].waits);
        // The end that was connected to is no caller.
        let to = server.local_addr().unwrap();
        assert!(sockets.made_here().unwrap().iter().all(|it| it.local != to));
    }
}
