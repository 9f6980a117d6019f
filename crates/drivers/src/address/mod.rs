//! Floating addresses: an IP address that is on one host at a time, and moves with the active.
//!
//! ```text
//!            acquire                         release, or the lease ends
//!   free ───────────────▶ held: announced ──────────────────────────────▶ gone, seen to be gone
//!    │                      │   ▲
//!    │ a stranger answers   │   │ put back, announced again
//!    ▼                      ▼   │
//!   refused               removed by others, link down and up
//! ```
//!
//! [`acquire`] asks the neighbours first whether anyone has the address, adds it, and announces it at once. A task then keeps it until
//! [`Held::release`]: it announces it at 0, 0.1, 1, 5 and 10 s and every 60 s, puts it back when others remove it, announces it anew when the link was
//! down, and defends it against a stranger who claims it, for whom it asks from the third announcement on. What happens comes as an [`Event`].
//!
//! With a lease ([`Options::until`], [`Held::refresh`]) the kernel takes the address away when nobody renews it, and nothing here puts it back
//! after its end. [`removal_message`] is for another process, which may have to take it away when this one hangs.
//!
//! An address of ours bears a mark: `IFA_PROTO` 0x55, and for IPv4 a label that ends in `:us`. [`sweep`] finds by it what a dead agent left.
//!
//! Dropping [`Held`] ends the task and leaves the address: so does the death of the agent, and the next one acquires it anew without
//! taking it off in between.

mod choose;
mod connections;
mod decide;
mod error;
mod frame;
mod keeper;
mod latecomers;
mod lease;
mod message;
pub(crate) mod netlink;
mod remove;
mod socket;
mod syn;
mod wire;

pub use connections::{Connection, connections, reset_from, room};
pub use error::{AcquireError, RefreshError, ReleaseError};
pub use latecomers::{Heard, Latecomers};
pub use message::removal_message;
pub use netlink::Error as KernelError;
pub use remove::{Leftovers, Swept, release, sweep};

use choose::Place;
use keeper::{Command, Keeper};
use message::Addition;
use model::{FloatingAddress, Mark};
use netlink::{Monitor, Snapshot};
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use wire::Wire;

/// Events that wait to be taken. One who does not take them loses the latest: they are news, not state.
const EVENTS_MAX: usize = 64;
/// Renewals are one at a time; the rest is slack.
const COMMANDS_MAX: usize = 4;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// How an address is acquired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How long to wait for a stranger's answer before the address is added. `None` asks nobody: for a takeover whose old
    /// holder is known to be fenced, so that an answer could only be an old one.
    pub ask_for: Option<Duration>,
    /// When the right to have the address ends; `None` is never. The kernel takes it away by itself, in whole seconds rounded down (but
    /// after one at least), the task here to the millisecond.
    pub until: Option<Mark>,
}

impl Default for Options {
    /// Asks for 50 ms, and keeps the address until it is released.
    fn default() -> Self {
        Self {
            ask_for: Some(Duration::from_millis(50)),
            until: None,
        }
    }
}

/// Something that happened to a held address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Something else on this host removed it. It is being put back.
    Removed,
    /// It is there again, and announced.
    PutBack,
    /// It could not be put back. It is tried again.
    NotPutBack {
        /// Why.
        problem: String,
    },
    /// The interface was switched off or lost its carrier: nobody reaches the address.
    LinkDown,
    /// The interface can be used again.
    LinkUp,
    /// The interface does not exist any more. When one of its name comes, it gets the address.
    InterfaceGone,
    /// Another host says that it has the address.
    Conflict {
        /// Its Ethernet address.
        mac: Mac,
        /// Whether we have told all neighbours that we have it: once in ten seconds, so that two who claim it do not shout without end.
        defended: bool,
    },
    /// The lease was not renewed in time: the address was taken off, and is not put back.
    LeaseEnded,
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Event::Removed => f.write_str("the address was removed by something else on this host"),
            Event::PutBack => f.write_str("the address was put back"),
            Event::NotPutBack { problem } => write!(f, "the address could not be put back: {problem}"),
            Event::LinkDown => f.write_str("the interface of the address went down"),
            Event::LinkUp => f.write_str("the interface of the address came up"),
            Event::InterfaceGone => f.write_str("the interface of the address is gone"),
            Event::Conflict { mac, .. } => write!(f, "{mac} claims the address"),
            Event::LeaseEnded => f.write_str("the lease of the address ended"),
        }
    }
}

/// An address that this host has.
#[derive(Debug)]
pub struct Held {
    ip: IpAddr,
    interface: String,
    prefix: u8,
    index: watch::Receiver<u32>,
    commands: mpsc::Sender<Command>,
}

/// Puts an address on this host, unless another has it, and keeps it there. Events come by the receiver.
///
/// Must be called within a tokio runtime with I/O and time enabled. Whoever gives up waiting for it calls [`release()`] with the address, which may
/// be there already.
///
/// # Errors
/// See [`AcquireError`]. The address is then not on this host, unless it was set there by others.
pub async fn acquire(
    address: &FloatingAddress,
    options: Options,
) -> Result<(Held, mpsc::Receiver<Event>), AcquireError> {
    let FloatingAddress { ip, prefix, .. } = *address;
    if let Some(problem) = FloatingAddress::problem(ip, prefix) {
        return Err(AcquireError::Impossible { ip, prefix, problem });
    }
    // Before the first look, so that nothing happens unseen between the two.
    let monitor = Monitor::open()?;
    let snapshot = netlink::snapshot().await?;
    let place = place(&snapshot, address).await?;
    let interface = place.link.name.clone();
    refuse_if_set_by_others(&snapshot, ip)?;
    if !place.link.is_up {
        return Err(AcquireError::LinkDown { ip, interface });
    }
    let failed = |doing| {
        let interface = interface.clone();
        move |source| AcquireError::Wire {
            doing,
            interface,
            source,
        }
    };
    let wire = match place.link.mac {
        Some(mac) => {
            let wire = Wire::open(place.link.index, ip, mac);
            Some(wire.map_err(failed("open a socket for ARP or neighbour discovery"))?)
        }
        None => None,
    };
    if let (Some(wire), Some(wait)) = (&wire, options.ask_for) {
        let heard = wire.stranger(&snapshot.macs(), wait).await;
        if let Some(heard) = heard.map_err(failed("ask who has the address"))? {
            let mac = Mac(heard.mac);
            return Err(match heard.has_it {
                true => AcquireError::InUse { ip, mac, interface },
                false => AcquireError::Wanted { ip, mac, interface },
            });
        }
    }
    remove_elsewhere(&snapshot, ip, &place).await?;
    let now = lease::now();
    let addition = addition(ip, &place, options.until, now).ok_or(AcquireError::LeaseEnded { ip })?;
    netlink::add(&addition).await?;
    Ok(keep(ip, place, (options.until, now), &snapshot, (monitor, wire)))
}

/// Where an address is going to be, before it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    /// Name of the interface.
    pub interface: String,
    /// Its index.
    pub index: u32,
    /// The prefix that the address will have there: see [`Held::prefix`].
    pub prefix: u8,
}

/// Finds out where [`acquire`] would put an address, and changes nothing: for whoever has to be able to take it away from the first moment on.
///
/// # Errors
/// There is no such place: see [`AcquireError`].
pub async fn locate(address: &FloatingAddress) -> Result<Spot, AcquireError> {
    let snapshot = netlink::snapshot().await?;
    let place = place(&snapshot, address).await?;
    Ok(Spot {
        interface: place.link.name,
        index: place.link.index,
        prefix: place.prefix,
    })
}

impl Held {
    /// The address.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// The prefix it was added with: 32 or 128 where another address of the interface attaches the network.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The interface it is on.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The bytes with which another process can take it away; see [`removal_message`]. They hold as long as the interface is not made anew.
    pub fn removal_message(&self) -> Vec<u8> {
        removal_message(self.ip, self.prefix, *self.index.borrow())
    }

    /// Extends the lease to this moment, or with `None` for ever.
    ///
    /// # Errors
    /// The lease has ended or the address was released: it must be acquired anew. Or the kernel refuses, or the interface is gone: the
    /// end of the lease is where it was.
    pub async fn refresh(&self, until: Option<Mark>) -> Result<(), RefreshError> {
        let (answer, answered) = oneshot::channel();
        let released = || RefreshError::Released { ip: self.ip };
        let command = Command::Refresh(until, answer);
        self.commands.send(command).await.map_err(|_| released())?;
        answered.await.unwrap_or_else(|_| Err(released()))
    }

    /// Ends the announcements, takes the address off this host, and sees that it is gone. A second time it only looks again.
    ///
    /// # Errors
    /// The address may still be here: see [`ReleaseError`]. Nothing keeps it any more; call again.
    pub async fn release(&self) -> Result<(), ReleaseError> {
        let (answer, answered) = oneshot::channel();
        // The answer is that the task has ended. If it had before, there is nobody who would put the address back.
        if self.commands.send(Command::Stop(answer)).await.is_ok() {
            let _ = answered.await;
        }
        release(self.ip).await
    }
}

/// Where the address belongs.
async fn place(snapshot: &Snapshot, address: &FloatingAddress) -> Result<Place, AcquireError> {
    let FloatingAddress { ip, prefix, .. } = *address;
    let there = || choose::listing(snapshot, ip);
    let link = match &address.interface {
        Some(name) => snapshot.link_named(name).ok_or_else(|| AcquireError::NoSuchInterface {
            ip,
            interface: name.clone(),
            there: there(),
        })?,
        None => match choose::by_network(snapshot, ip) {
            Some(link) => link,
            None => {
                let routes = netlink::default_routes(ip.is_ipv6()).await?;
                let link = choose::by_default_route(snapshot, &routes, ip);
                link.ok_or_else(|| AcquireError::NoInterface { ip, there: there() })?
            }
        },
    };
    Ok(choose::place(snapshot, link, ip, prefix))
}

fn refuse_if_set_by_others(snapshot: &Snapshot, ip: IpAddr) -> Result<(), AcquireError> {
    match snapshot.with_ip(ip).find(|entry| !entry.is_ours) {
        None => Ok(()),
        Some(entry) => Err(AcquireError::SetByOthers {
            ip,
            prefix: entry.prefix,
            interface: snapshot.name(entry.index),
        }),
    }
}

/// What a dead agent left on another interface, or with another prefix.
async fn remove_elsewhere(snapshot: &Snapshot, ip: IpAddr, place: &Place) -> Result<(), netlink::Error> {
    for entry in snapshot.with_ip(ip) {
        if (entry.index, entry.prefix) != (place.link.index, place.prefix) {
            netlink::remove(entry, &snapshot.name(entry.index)).await?;
        }
    }
    Ok(())
}

/// What to ask of the kernel; `None` if the lease has ended.
fn addition(ip: IpAddr, place: &Place, until: Option<Mark>, now: Mark) -> Option<Addition<'_>> {
    let left = until.map(|until| lease::left(until, now));
    (left != Some(Duration::ZERO)).then(|| Addition {
        ip,
        prefix: place.prefix,
        index: place.link.index,
        interface: &place.link.name,
        without_route: place.is_attached,
        seconds: left.map(lease::whole_seconds),
    })
}

fn keep(
    ip: IpAddr,
    place: Place,
    (until, since): (Option<Mark>, Mark),
    snapshot: &Snapshot,
    (monitor, wire): (Monitor, Option<Wire>),
) -> (Held, mpsc::Receiver<Event>) {
    let (events, event_receiver) = mpsc::channel(EVENTS_MAX);
    let (commands, command_receiver) = mpsc::channel(COMMANDS_MAX);
    let (index, index_receiver) = watch::channel(place.link.index);
    let held = Held {
        ip,
        interface: place.link.name.clone(),
        prefix: place.prefix,
        index: index_receiver,
        commands,
    };
    let mut keeper = Keeper::new(ip, place, (until, since), snapshot.macs(), wire, events, index);
    // At once, not when the task has its first turn.
    keeper.announce();
    tokio::spawn(keeper.run(monitor, command_receiver));
    (held, event_receiver)
}
