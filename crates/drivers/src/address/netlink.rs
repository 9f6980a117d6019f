//! Talks to the kernel about links and addresses, and hears of their changes.
//!
//! Own messages on own sockets: five kinds of request, a tenth of what a netlink library costs to build, and the guard
//! needs the bytes of one of them anyway.

use super::message::{self, Addition, DefaultRoute, Entry, Link, Message};
use super::socket;
use crate::sys;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The kernel sends at most 32 KiB at a time of a dump.
const DATAGRAM_BYTES_MAX: usize = 64 * 1024;
/// The kernel answers before `send` returns; this is for a bug, not for waiting.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// A dump that was overtaken by changes so often is taken as it is: the next event looks again.
const DUMPS_MAX: u32 = 5;

/// A request to the kernel that failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {doing}")]
pub struct Error {
    /// What we were doing, as in "add 10.0.0.100/32 to eth0".
    pub doing: String,
    /// Why it failed.
    pub source: io::Error,
}

impl Error {
    /// What can be done about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self.source.raw_os_error()? {
            libc::EPERM => Some(
                "floating addresses need the capability CAP_NET_ADMIN, and CAP_NET_RAW to announce them: run Understudy as \
                 root, or with `AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW` in its unit",
            ),
            libc::EACCES => Some(
                "IPv6 may be switched off there: `sysctl net.ipv6.conf.all.disable_ipv6` and that of the interface",
            ),
            libc::EEXIST => Some("something else put the same address there just now; look with `ip -d address`"),
            _ => None,
        }
    }
}

/// Links and addresses at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    pub(crate) links: Vec<Link>,
    pub(crate) entries: Vec<Entry>,
}

impl Snapshot {
    pub(crate) fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    pub(crate) fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    pub(crate) fn name(&self, index: u32) -> String {
        self.link(index)
            .map_or_else(|| format!("#{index}"), |link| link.name.clone())
    }

    /// The Ethernet addresses of this host.
    pub(crate) fn macs(&self) -> Vec<[u8; 6]> {
        self.links.iter().filter_map(|link| link.mac).collect()
    }

    pub(crate) fn with_ip(&self, ip: IpAddr) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.ip == ip)
    }
}

/// Links and addresses of this network namespace.
pub(crate) async fn snapshot() -> Result<Snapshot, Error> {
    apart("list interfaces and addresses", || {
        let mut snapshot = Snapshot::default();
        for request in [message::dump_links(), message::dump_addresses()] {
            for message in dump(&request)? {
                match message {
                    Message::Link(link) => snapshot.links.push(link),
                    Message::Entry(entry) => snapshot.entries.push(entry),
                    _ => {}
                }
            }
        }
        Ok(snapshot)
    })
    .await
}

/// The default routes of a family.
pub(crate) async fn default_routes(of_v6: bool) -> Result<Vec<DefaultRoute>, Error> {
    let routes = move || {
        let routes = dump(&message::dump_routes(of_v6))?.into_iter();
        Ok(routes
            .filter_map(|message| match message {
                Message::DefaultRoute(route) => Some(route),
                _ => None,
            })
            .collect())
    };
    apart("list default routes", routes).await
}

/// Adds an address, or renews what is said of it if it is there.
pub(crate) async fn add(what: &Addition<'_>) -> Result<(), Error> {
    let doing = format!("add {}/{} to {}", what.ip, what.prefix, what.interface);
    let request = message::addition(what);
    apart(&doing, move || transact(&request)).await
}

/// Takes an address away; it need not be there.
pub(crate) async fn remove(entry: &Entry, interface: &str) -> Result<(), Error> {
    let doing = format!("remove {}/{} from {interface}", entry.ip, entry.prefix);
    let request = message::removal_message(entry.ip, entry.prefix, entry.index);
    apart(&doing, move || remove_now(&request)).await
}

/// The same, and resets the connections of the address right before: in between none comes.
pub(crate) async fn remove_with_connections(entry: &Entry, interface: &str) -> Result<(), Error> {
    let doing = format!("remove {}/{} from {interface}", entry.ip, entry.prefix);
    let request = message::removal_message(entry.ip, entry.prefix, entry.index);
    let ip = entry.ip;
    apart(&doing, move || {
        // Clients that wait for an answer would wait in vain: they are told while that still can be.
        if let Err(error) = super::connections::reset_now(ip) {
            tracing::debug!(%ip, %error, "connections of an address that goes are left to time out");
        }
        remove_now(&request)
    })
    .await
}

fn remove_now(request: &[u8]) -> io::Result<()> {
    match transact(request) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => Ok(()),
        result => result,
    }
}

/// On another thread: the kernel carries requests out while we send, and may wait for a lock of its own meanwhile.
pub(crate) async fn apart<T: Send + 'static>(
    doing: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let result = tokio::task::spawn_blocking(work).await;
    result
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|source| Error {
            doing: doing.into(),
            source,
        })
}

fn transact(request: &[u8]) -> io::Result<()> {
    let socket = open(SocketFlags::CLOEXEC)?;
    rustix::net::send(&socket, request, SendFlags::empty())?;
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        for message in receive(&socket, &mut buffer)?.0 {
            match message {
                Message::Ack(0) => return Ok(()),
                Message::Ack(number) => return Err(io::Error::from_raw_os_error(number)),
                _ => {}
            }
        }
    }
}

fn dump(request: &[u8]) -> io::Result<Vec<Message>> {
    let mut messages = Vec::new();
    for _ in 0..DUMPS_MAX {
        let (of_this, is_stale) = dump_once(request)?;
        messages = of_this;
        if !is_stale {
            break;
        }
    }
    Ok(messages)
}

fn dump_once(request: &[u8]) -> io::Result<(Vec<Message>, bool)> {
    let socket = open(SocketFlags::CLOEXEC)?;
    rustix::net::send(&socket, request, SendFlags::empty())?;
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let mut all = Vec::new();
    let mut was_stale = false;
    loop {
        let (messages, is_stale) = receive(&socket, &mut buffer)?;
        was_stale |= is_stale;
        for message in messages {
            match message {
                Message::Done | Message::Ack(0) => return Ok((all, was_stale)),
                Message::Ack(number) => return Err(io::Error::from_raw_os_error(number)),
                message => all.push(message),
            }
        }
    }
}

fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<(Vec<Message>, bool)> {
    let (length, _) = rustix::net::recv(socket, &mut *buffer, RecvFlags::empty())?;
    Ok(message::read(&buffer[..length]))
}

fn open(flags: SocketFlags) -> io::Result<OwnedFd> {
    // Protocol zero is NETLINK_ROUTE.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT))?;
    Ok(socket)
}

/// A socket for questions about sockets.
pub(crate) fn diagnosis() -> io::Result<OwnedFd> {
    let protocol = Some(rustix::net::netlink::SOCK_DIAG);
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT))?;
    Ok(socket)
}

pub(crate) fn ask(socket: &OwnedFd, request: &[u8]) -> io::Result<()> {
    rustix::net::send(socket, request, SendFlags::empty())?;
    Ok(())
}

pub(crate) fn answer(socket: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let (length, _) = rustix::net::recv(socket, buffer.as_mut_slice(), RecvFlags::empty())?;
    buffer.truncate(length);
    Ok(buffer)
}

/// Hears of changes of links and addresses.
#[derive(Debug)]
pub(crate) struct Monitor {
    socket: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
}

impl Monitor {
    pub(crate) fn open() -> Result<Self, Error> {
        const GROUPS: i32 = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
        let open = || {
            let socket = open(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
            socket::bind_netlink(&socket, GROUPS.cast_unsigned())?;
            sys::watch(socket, Interest::READABLE)
        };
        Ok(Self {
            socket: open().map_err(|source| Error {
                doing: "watch interfaces and addresses".into(),
                source,
            })?,
            buffer: vec![0; DATAGRAM_BYTES_MAX],
        })
    }

    /// Waits for news, and tells whether they may concern this address or interface. News that the kernel had no room for may.
    pub(crate) async fn concerns(&mut self, ip: IpAddr, interface: &str, index: u32) -> io::Result<bool> {
        let mut ready = self.socket.readable().await?;
        let mut concerns = false;
        loop {
            match rustix::net::recv(ready.get_inner(), self.buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((length, _)) => {
                    let (messages, _) = message::read(&self.buffer[..length]);
                    concerns |= messages.iter().any(|message| match message {
                        Message::Link(link) => link.name == interface || link.index == index,
                        Message::LinkGone { index: gone } => *gone == index,
                        Message::Entry(entry) | Message::EntryGone(entry) => entry.ip == ip,
                        _ => false,
                    });
                }
                Err(rustix::io::Errno::AGAIN) => {
                    ready.clear_ready();
                    return Ok(concerns);
                }
                Err(rustix::io::Errno::NOBUFS) => concerns = true,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
