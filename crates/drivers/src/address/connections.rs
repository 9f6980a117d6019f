//! TCP connections of an address: which there are, and their reset before it is taken away, since their clients would wait for answers that can
//! not leave any more.

use super::netlink;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

const TCP: u8 = 6;
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER_BYTES: usize = 16;
/// Of `inet_diag_sockid`: ports, both addresses, interface, cookie.
const ID_BYTES: usize = 48;
/// Of `inet_diag_msg`, in which the id comes after four bytes.
const MESSAGE_BYTES: usize = 72;
/// In it: bytes that were received and not read, and those that were written and not received by the peer.
const UNREAD: usize = 56;
const UNSENT: usize = 60;
/// The attribute `tcp_info`, the bit that asks for it, and in it: how many milliseconds ago data were sent, and received, and how many bytes.
const INFO: u16 = 2;
const WITH_INFO: u8 = 1 << (INFO - 1);
const SENT_AGO: usize = 44;
const RECEIVED_AGO: usize = 52;
/// Segments with data that were sent.
const SENT: usize = 156;
const RECEIVED: usize = 128;
/// All but listening ones, those that only wait, and those whose end was sent and received: nobody waits for anything of theirs.
const STATES: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 8 | 1 << 9 | 1 << 11;

const LISTENING: u32 = 1 << 10;

/// A TCP connection of this host, told from any other that there is or was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection(Id);

/// The TCP connections whose own address on this host is `ip`, also those that are being made, and those whose last bytes were not
/// received yet; and whether the peer of each waits for something, as far as the kernel knows: it said something since it was last answered,
/// or nothing so far. Blocks for as long as the kernel takes to go through all its connections.
///
/// # Errors
/// The kernel was built without `CONFIG_INET_DIAG`, or cannot be asked.
pub fn connections(ip: IpAddr) -> io::Result<BTreeMap<Connection, bool>> {
    let socket = netlink::diagnosis()?;
    let mut found = BTreeMap::new();
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        let is_own = |body: &&[u8]| id(body).is_some_and(|id| address(family, &id[4..20]) == Some(ip));
        let own = |body: &[u8]| Some((Connection(id(body)?), waits(body)));
        found.extend(list(&socket, family, (STATES, WITH_INFO), |body| {
            Some(body).filter(is_own).and_then(own)
        })?);
    }
    Ok(found)
}

/// How many more connections to a port may be made at once: the system takes in so many before the service does, and drops whoever comes then.
/// Half of them are left to those who come by themselves. `None` if nobody listens there.
///
/// # Errors
/// The kernel was built without `CONFIG_INET_DIAG`, or cannot be asked.
pub fn room(ip: IpAddr, port: u16) -> io::Result<Option<usize>> {
    let socket = netlink::diagnosis()?;
    let mut rooms = Vec::new();
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        let listens = |id: &Id| {
            let at = address(family, &id[4..20]);
            own_port(id) == port && at.is_some_and(|at| at == ip || at.is_unspecified())
        };
        // Of a listener these are: how many wait, and how many may.
        let left = |body: &[u8]| Some(word(body, UNSENT)?.div_ceil(2).saturating_sub(word(body, UNREAD)?) as usize);
        let read = |body: &[u8]| id(body).filter(listens).and_then(|_| left(body));
        rooms.extend(list(&socket, family, (LISTENING, 0), read)?);
    }
    Ok(rooms.into_iter().max())
}

/// Ends all TCP connections whose own address on this host is `ip`, and tells their peers. Returns how many there were.
///
/// Fails where the kernel was built without `CONFIG_INET_DIAG_DESTROY`.
pub(crate) fn reset_now(ip: IpAddr) -> io::Result<usize> {
    reset_where(|family, id| address(family, &id[4..20]) == Some(ip))
}

fn reset_where(is_meant: impl Fn(u8, &Id) -> bool) -> io::Result<usize> {
    let socket = netlink::diagnosis()?;
    let mut ended = 0;
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        for id in list(&socket, family, (STATES, 0), |body| {
            id(body).filter(|id| is_meant(family, id))
        })? {
            match destroy(&socket, family, &id) {
                Ok(()) => ended += 1,
                // It has ended by itself.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(ended)
}

/// Ends all TCP connections from `peer` to `port` of this host, and tells both ends. Returns how many there were. Blocks for as long as the kernel
/// takes to go through all its connections.
///
/// # Errors
/// The kernel was built without `CONFIG_INET_DIAG_DESTROY`, or this is not allowed: it is to root.
pub fn reset_from(peer: IpAddr, port: u16) -> io::Result<usize> {
    reset_where(|family, id| own_port(id) == port && address(family, &id[20..36]) == Some(peer))
}

type Id = [u8; ID_BYTES];

/// What is made of the messages of the kernel, one for each connection.
fn list<T>(
    socket: &std::os::fd::OwnedFd,
    family: u8,
    (states, with): (u32, u8),
    read: impl Fn(&[u8]) -> Option<T>,
) -> io::Result<Vec<T>> {
    netlink::ask(
        socket,
        &request(BY_FAMILY, REQUEST | DUMP, (family, with), states, &[0; ID_BYTES]),
    )?;
    let mut found = Vec::new();
    loop {
        let answer = netlink::answer(socket)?;
        for (kind, body) in messages(&answer) {
            match kind {
                DONE => return Ok(found),
                ERROR => return outcome(body).map(|()| found),
                _ => found.extend(read(body)),
            }
        }
    }
}

fn destroy(socket: &std::os::fd::OwnedFd, family: u8, id: &Id) -> io::Result<()> {
    netlink::ask(socket, &request(DESTROY, REQUEST | ACK, (family, 0), STATES, id))?;
    loop {
        let answer = netlink::answer(socket)?;
        if let Some((_, body)) = messages(&answer).into_iter().find(|(kind, _)| *kind == ERROR) {
            return outcome(body);
        }
    }
}

fn request(kind: u16, flags: u16, (family, with): (u8, u8), states: u32, id: &Id) -> Vec<u8> {
    let length = (HEADER_BYTES + 8 + ID_BYTES) as u32;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, TCP, with, 0]);
    bytes.extend(states.to_ne_bytes());
    bytes.extend(id);
    bytes
}

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

/// The id of a connection: own port, that of the peer, own address, that of the peer.
fn id(body: &[u8]) -> Option<Id> {
    body.get(..MESSAGE_BYTES)?.get(4..4 + ID_BYTES)?.try_into().ok()
}

/// Whether the peer of a connection waits for something.
fn waits(body: &[u8]) -> bool {
    let queued = [UNREAD, UNSENT].iter().any(|at| word(body, *at) != Some(0));
    // One that is being made has none.
    let Some(info) = info(body) else { return true };
    let received = info
        .get(RECEIVED..RECEIVED + 8)
        .is_none_or(|bytes| bytes.iter().any(|byte| *byte != 0));
    // The first answer may be due within the tick in which the connection was made.
    let never_answered = word(info, SENT) == Some(0);
    queued || !received || never_answered || word(info, RECEIVED_AGO) < word(info, SENT_AGO)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Its `tcp_info`.
fn info(body: &[u8]) -> Option<&[u8]> {
    let mut attributes = body.get(MESSAGE_BYTES..)?;
    loop {
        let [a, b, c, d, ..] = *attributes else { return None };
        let length = usize::from(u16::from_ne_bytes([a, b]));
        if u16::from_ne_bytes([c, d]) == INFO {
            return attributes.get(4..length);
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

fn own_port(id: &Id) -> u16 {
    u16::from_be_bytes([id[0], id[1]])
}

/// On a socket for both families IPv4 stands in IPv6.
fn address(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    let bytes: [u8; 16] = bytes.try_into().ok()?;
    Some(match family == libc::AF_INET as u8 {
        true => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
        false => Ipv6Addr::from(bytes).to_canonical(),
    })
}

fn outcome(body: &[u8]) -> io::Result<()> {
    let number = body
        .get(..4)
        .and_then(|bytes| bytes.try_into().ok())
        .map(i32::from_ne_bytes);
    match number {
        Some(0) => Ok(()),
        Some(number) => Err(io::Error::from_raw_os_error(-number)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    /// Needs root, as what it tests.
    #[test]
    fn the_connections_of_an_address_end_and_others_and_listeners_stay() {
        assert!(rustix::process::geteuid().is_root(), "needs root: run it with `sudo`");
        let (one, other) = ("127.93.41.7", "127.93.41.8");
        let listeners = [one, other].map(|ip| TcpListener::bind((ip, 0)).unwrap());
        let both = TcpListener::bind("[::]:0").unwrap();
        let connect = |listener: &TcpListener, ip: &str| {
            let client = TcpStream::connect((ip, listener.local_addr().unwrap().port())).unwrap();
            (client, listener.accept().unwrap().0)
        };
        let (mut reset, mut kept) = (connect(&listeners[0], one), connect(&listeners[1], other));
        let mut mapped = connect(&both, one);
        let before = connections(one.parse().unwrap()).unwrap();
        assert_eq!(before.len(), 2);
        // One that was ended from here, and whose peer knows: there is nothing left to wait for.
        let (peer, own) = connect(&listeners[0], one);
        assert_eq!(connections(one.parse().unwrap()).unwrap().len(), 3);
        drop(own);
        // The peer's kernel may take some 40 ms to say that it knows.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(2);
        while connections(one.parse().unwrap()).unwrap() != before && std::time::Instant::now() < until {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(connections(one.parse().unwrap()).unwrap(), before);
        let ended = reset_now(one.parse().unwrap()).unwrap();
        drop(peer);
        assert_eq!(ended, 2);
        for client in [&mut reset.0, &mut mapped.0] {
            let error = client.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        kept.1.set_nonblocking(true).unwrap();
        assert_eq!(kept.1.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        connect(&listeners[0], one);
    }

    #[test]
    fn a_service_has_room_for_so_many_before_it_takes_one_in() {
        let ip = "127.93.44.7".parse().unwrap();
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&std::net::SocketAddr::new(ip, 0).into()).unwrap();
        listener.listen(8).unwrap();
        let at = listener.local_addr().unwrap().as_socket().unwrap();
        assert_eq!(room(ip, at.port()).unwrap(), Some(4));
        let _clients = [(); 2].map(|()| TcpStream::connect(at).unwrap());
        let until = std::time::Instant::now() + std::time::Duration::from_secs(2);
        while room(ip, at.port()).unwrap() != Some(2) && std::time::Instant::now() < until {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(room(ip, at.port()).unwrap(), Some(2));
        drop(listener);
        assert_eq!(room(ip, at.port()).unwrap(), None);
    }

    /// Needs root, as what it tests.
    #[test]
    fn a_client_waits_until_it_is_answered() {
        let ip = "127.93.43.7";
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let waits = || connections(ip.parse().unwrap()).unwrap().values().any(|waits| *waits);
        let mut client = TcpStream::connect((ip, listener.local_addr().unwrap().port())).unwrap();
        assert!(waits(), "it has not asked yet");
        let mut own = listener.accept().unwrap().0;
        client.write_all(b"?").unwrap();
        assert!(waits(), "nobody has read it");
        own.read_exact(&mut [0]).unwrap();
        assert!(waits(), "nobody has answered");
        // The kernel counts in ticks of up to 10 ms.
        std::thread::sleep(std::time::Duration::from_millis(30));
        own.write_all(b"!").unwrap();
        client.read_exact(&mut [0]).unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(2);
        while waits() && std::time::Instant::now() < until {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(!waits());
        std::thread::sleep(std::time::Duration::from_millis(30));
        client.write_all(b"?").unwrap();
        own.read_exact(&mut [0]).unwrap();
        assert!(waits(), "it asked again");
    }

    /// Needs root, as what it tests.
    #[test]
    fn the_connections_of_one_peer_to_one_port_end_and_those_of_others_and_to_others_stay() {
        assert!(rustix::process::geteuid().is_root(), "needs root: run it with `sudo`");
        let (server, one, other) = ("127.93.42.1", "127.93.42.7", "127.93.42.8");
        let listeners = [(); 2].map(|()| TcpListener::bind((server, 0)).unwrap());
        let connect = |listener: &TcpListener, from: &str| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            let from: std::net::SocketAddr = (from.parse::<IpAddr>().unwrap(), 0).into();
            socket.bind(&from.into()).unwrap();
            socket.connect(&listener.local_addr().unwrap().into()).unwrap();
            (TcpStream::from(socket), listener.accept().unwrap().0)
        };
        let mut ended = connect(&listeners[0], one);
        let mut stay = [connect(&listeners[0], other), connect(&listeners[1], one)];
        let port = listeners[0].local_addr().unwrap().port();
        assert_eq!(reset_from(one.parse().unwrap(), port).unwrap(), 1);
        assert!(ended.1.read(&mut [0]).is_err(), "the server's end is gone");
        assert!(ended.0.read(&mut [0]).is_err(), "and its peer knows");
        for (client, _) in &mut stay {
            client.set_nonblocking(true).unwrap();
            assert_eq!(client.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
        connect(&listeners[0], one);
    }
}
