//! Requests for connections that come to a host whose address is about to move: kept, and passed on to the host that has it next.
//!
//! ```text
//!   SYN ──► kept back by the gate, a copy kept here ──► the address moves ──► "I have it", says B ──► all copies to B, by Ethernet
//!                                                  └──► the address stays ──► all copies to our own system
//! ```
//! The client's own system would repeat its request, but only after a second. It gets its answer from whoever has the address, as if it had
//! asked there. Where a network lets nobody send what comes from another address it is lost, and the client repeats it after all.

use super::frame::MacBytes;
use super::syn::{self, Asker, Syn};
use super::wire::Wire;
use super::{AcquireError, Mac, netlink, place, socket};
use crate::sys;
use model::FloatingAddress;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A SYN has no more, not even with all options and data of a fast open.
const FRAME_BYTES_MAX: usize = 1_514;
/// Kept at a time. A flood is not worth more memory; who comes after that asks again.
const KEPT_MAX: usize = 4_096;
/// Taken in at a time.
const FRAMES_MAX: usize = 256;

/// What was heard while waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Another client asks for a connection. It is kept, or passed on if it is known where to.
    Asker,
    /// Another host says that it has the address.
    Holder(Mac),
}

/// Clients that ask for a connection to an address while that moves.
#[derive(Debug)]
pub struct Latecomers {
    ip: IpAddr,
    mac: MacBytes,
    /// Of all interfaces of this host: what they say is no news.
    ours: Vec<MacBytes>,
    frames: AsyncFd<OwnedFd>,
    wire: Wire,
    /// There may be frames that were not read yet.
    unread: bool,
    /// With their number, in the order in which they came.
    kept: BTreeMap<Asker, (u64, Syn)>,
    number: u64,
    /// Who has the address now.
    to: Option<MacBytes>,
}

impl Latecomers {
    /// Begins to keep them. The address has to be kept back by a gate, or they are served here too.
    ///
    /// # Errors
    /// There is no place for the address, or no right to listen there. An interface without Ethernet has no way to pass anything on.
    pub async fn open(address: &FloatingAddress) -> Result<Self, AcquireError> {
        let ip = address.ip;
        let snapshot = netlink::snapshot().await?;
        let place = place(&snapshot, address).await?;
        let interface = place.link.name;
        let failed = |source| AcquireError::Wire {
            doing: "listen to clients that come while an address moves",
            interface: interface.clone(),
            source,
        };
        let mac = place
            .link
            .mac
            .ok_or_else(|| failed(io::ErrorKind::Unsupported.into()))?;
        let protocol = if ip.is_ipv6() { libc::ETH_P_IPV6 } else { libc::ETH_P_IP };
        let filter = syn::filter(ip, FRAME_BYTES_MAX as u32);
        let frames = socket::packet_socket(place.link.index, protocol, &filter)
            .and_then(|socket| sys::watch(socket, Interest::READABLE))
            .map_err(failed)?;
        Ok(Self {
            ip,
            mac,
            ours: snapshot.macs(),
            frames,
            wire: Wire::open(place.link.index, ip, mac).map_err(failed)?,
            unread: false,
            kept: BTreeMap::new(),
            number: 0,
            to: None,
        })
    }

    /// Those who came until now were let in.
    ///
    /// # Errors
    /// The socket cannot be read.
    pub fn forget(&mut self) -> io::Result<()> {
        self.take_in()?;
        self.kept.clear();
        Ok(())
    }

    /// Waits for the next client, or for another host that says it has the address. May be given up at any time.
    ///
    /// # Errors
    /// A socket cannot be read: the interface is gone.
    pub async fn hear(&mut self) -> io::Result<Heard> {
        loop {
            if self.unread && self.take_in()? {
                return Ok(Heard::Asker);
            }
            tokio::select! {
                ready = self.frames.readable() => {
                    ready?.clear_ready();
                    self.unread = true;
                }
                heard = self.wire.hear(&self.ours) => {
                    if let Some(heard) = heard?.filter(|heard| heard.has_it) {
                        return Ok(Heard::Holder(Mac(heard.mac)));
                    }
                }
            }
        }
    }

    /// Passes those who are kept on to the host that has the address now, and all who come from now on at once. Returns how many there were.
    ///
    /// # Errors
    /// The frames cannot be sent.
    pub fn hand_to(&mut self, holder: Mac) -> io::Result<usize> {
        self.to = Some(holder.0);
        let kept = std::mem::take(&mut self.kept);
        kept.values().try_for_each(|(_, syn)| self.send(syn, holder.0))?;
        Ok(kept.len())
    }

    /// Takes note of those who came and were not heard yet.
    ///
    /// # Errors
    /// The socket cannot be read.
    pub fn note(&mut self) -> io::Result<()> {
        self.take_in().map(drop)
    }

    /// The ports that those ask for who are kept.
    pub fn asked(&self) -> BTreeSet<u16> {
        self.kept.values().map(|(_, syn)| syn.to).collect()
    }

    /// Lets those in who came first, where the address is here after all: so many for each port, and all for one that is not named. Leaves how
    /// many more may come, and returns how many there were.
    ///
    /// # Errors
    /// There is no right to raw sockets, or the address is not here.
    pub fn let_in(&mut self, room: &mut BTreeMap<u16, usize>) -> io::Result<usize> {
        let mut first: Vec<(u64, Asker)> = self.kept.iter().map(|(from, (number, _))| (*number, *from)).collect();
        first.sort_unstable();
        let at = SocketAddr::new(self.ip, 0);
        let raw = Some(socket2::Protocol::from(libc::IPPROTO_RAW));
        let mut socket = None;
        let mut count = 0;
        for (_, from) in first {
            let left = self.kept.get(&from).and_then(|(_, syn)| room.get_mut(&syn.to));
            match left {
                Some(0) => continue,
                Some(left) => *left -= 1,
                None => {}
            }
            let Some((_, syn)) = self.kept.remove(&from) else {
                continue;
            };
            let socket = match &mut socket {
                Some(socket) => socket,
                none => none.insert(socket2::Socket::new(
                    socket2::Domain::for_address(at),
                    socket2::Type::RAW.nonblocking(),
                    raw,
                )?),
            };
            socket.send_to(&syn.packet, &at.into())?;
            count += 1;
        }
        Ok(count)
    }

    /// Reads what lies ready, and says whether there was anything.
    fn take_in(&mut self) -> io::Result<bool> {
        let mut buffer = [0; FRAME_BYTES_MAX];
        let mut any = false;
        for _ in 0..FRAMES_MAX {
            match rustix::net::recv(self.frames.get_ref(), &mut buffer, RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    any = true;
                    if let Some(syn) = Syn::read(&buffer[..length], self.ip) {
                        self.take(syn)?;
                    }
                }
                Err(Errno::AGAIN) => {
                    self.unread = false;
                    break;
                }
                // Told once when the interface goes down.
                Err(Errno::NETDOWN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(any)
    }

    fn take(&mut self, syn: Syn) -> io::Result<()> {
        if let Some(to) = self.to {
            return self.send(&syn, to);
        }
        let known = self.kept.get(&syn.from).map(|(number, _)| *number);
        if self.kept.len() < KEPT_MAX || known.is_some() {
            self.number += 1;
            self.kept.insert(syn.from, (known.unwrap_or(self.number), syn));
        }
        Ok(())
    }

    fn send(&self, syn: &Syn, to: MacBytes) -> io::Result<()> {
        rustix::net::send(self.frames.get_ref(), &syn.frame(to, self.mac), SendFlags::empty())?;
        Ok(())
    }
}
