//! Opening and closing gates: one transaction each, without starting a program.

use super::table::{self, ARP, Family, PORTS, Sets, V4, V6};
use crate::netlink::{ACK, Batch, CREATE, DUMP, Refused, Socket, attributes};
use rustix::io::Errno;
use rustix::net::netlink;
use std::net::IpAddr;
use std::time::Duration;

/// Raised when the rules change: a guard of a newer program makes a table of its own beside the old one.
const LAYOUT: u32 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// A port that is nobody's, for trying how the kernel refreshes an element.
const TRIAL_PORT: u16 = 0;
/// Within this, in-place refreshing has replaced a timeout of [`TRIAL_SHORT`] by one of [`TRIAL_LONG`].
const TRIAL_SHORT: Duration = Duration::from_secs(10);
const TRIAL_LONG: Duration = Duration::from_secs(100);

/// Why there are no gates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No netlink, or none for packets.
    #[error(
        "cannot speak to the packet filter: {0}; load the module nf_tables, and run the guard as root or with CAP_NET_ADMIN"
    )]
    Socket(Errno),
    /// The table cannot be made.
    #[error(
        "the packet filter refuses our table: {0}; load the module nf_tables, and run the guard as root or with CAP_NET_ADMIN"
    )]
    Table(Errno),
    /// A gate cannot be moved.
    #[error("the packet filter refuses to {what} a gate: {errno}")]
    Element {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
}

/// What a gate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Member {
    /// A port of this machine, TCP and UDP.
    Port(u16),
    /// An address of this machine.
    Address(IpAddr),
}

/// The gates of one cluster on this machine.
#[derive(Debug)]
pub struct Gates {
    socket: Socket,
    table: String,
    /// Whether adding an element that is there moves its timeout (Linux since 6.12).
    in_place: bool,
    /// Whether the kernel can drop ARP packets.
    arp: bool,
}

impl Gates {
    /// Finds the table of this cluster in this network namespace, or makes it, and tries it.
    pub fn open(cluster: &str) -> Result<Self, Error> {
        let mut socket = Socket::open(Some(netlink::NETFILTER)).map_err(Error::Socket)?;
        let table = format!("understudy_{cluster}_{LAYOUT}");
        made(socket.transact(&table::create(&table, Family::Inet))).map_err(|refused| Error::Table(refused.errno))?;
        // Some kernels are built without it; then only the announcements of the new holder move the address.
        let arp = made(socket.transact(&table::create(&table, Family::Arp))).is_ok();
        let mut gates = Self {
            socket,
            table,
            in_place: false,
            arp,
        };
        gates.in_place = gates.try_in_place()?;
        Ok(gates)
    }

    /// Removes the table of a cluster that is no more. None there is fine.
    pub fn remove(cluster: &str) -> Result<(), Error> {
        let mut socket = Socket::open(Some(netlink::NETFILTER)).map_err(Error::Socket)?;
        let table = format!("understudy_{cluster}_{LAYOUT}");
        for family in [Family::Inet, Family::Arp] {
            let mut batch = table::begin();
            table::message(&mut batch, table::DELETE_TABLE, ACK, family);
            batch.put_text(1, &table);
            match socket.transact(&table::end(batch)) {
                Ok(()) => {}
                Err(refused) if refused.errno == Errno::NOENT => {}
                Err(refused) => return Err(Error::Table(refused.errno)),
            }
        }
        Ok(())
    }

    /// Drops what belongs to these from now on, unless they are open.
    pub fn gate(&mut self, members: &[Member]) -> Result<(), Error> {
        let mut batch = table::begin();
        self.each(members, |table, sets, key| {
            put_element(
                &mut batch,
                table::NEW_ELEMENT,
                CREATE,
                table,
                sets.family,
                sets.gated,
                key,
                None,
            );
        });
        self.done("add", batch)
    }

    /// Lets these through for this long; one that is open already is given the new time.
    pub fn let_through(&mut self, members: &[Member], timeout: Duration) -> Result<(), Error> {
        if !self.in_place {
            match self.replace(members, timeout) {
                // One of them timed out a moment ago: nothing of the transaction was done, and none is in the way after this.
                Err(Error::Element {
                    errno: Errno::NOENT, ..
                }) => self.close(members)?,
                other => return other,
            }
        }
        let mut batch = table::begin();
        self.each(members, |table, sets, key| {
            put_element(
                &mut batch,
                table::NEW_ELEMENT,
                CREATE,
                table,
                sets.family,
                sets.open,
                key,
                Some(timeout),
            );
        });
        self.done("open", batch)
    }

    /// Drops what belongs to these from now on.
    pub fn close(&mut self, members: &[Member]) -> Result<(), Error> {
        let mut result = Ok(());
        // Each for itself: one that timed out already would undo the transaction.
        for sets_and_keys in self.keys(members) {
            let (sets, key) = sets_and_keys;
            let closed = self.delete(sets.family, sets.open, &key);
            result = result.and(closed);
        }
        result
    }

    /// These are gated no longer: everything passes.
    pub fn forget(&mut self, members: &[Member]) -> Result<(), Error> {
        let mut result = self.close(members);
        for (sets, key) in self.keys(members) {
            result = result.and(self.delete(sets.family, sets.gated, &key));
        }
        result
    }

    fn replace(&mut self, members: &[Member], timeout: Duration) -> Result<(), Error> {
        let mut batch = table::begin();
        self.each(members, |table, sets, key| {
            put_element(
                &mut batch,
                table::DELETE_ELEMENT,
                0,
                table,
                sets.family,
                sets.open,
                key,
                None,
            );
            put_element(
                &mut batch,
                table::NEW_ELEMENT,
                CREATE,
                table,
                sets.family,
                sets.open,
                key,
                Some(timeout),
            );
        });
        self.done("refresh", batch)
    }

    fn delete(&mut self, family: Family, set: &str, key: &[u8]) -> Result<(), Error> {
        let mut batch = table::begin();
        put_element(
            &mut batch,
            table::DELETE_ELEMENT,
            ACK,
            &self.table,
            family,
            set,
            key,
            None,
        );
        match self.done("close", batch) {
            Err(Error::Element {
                errno: Errno::NOENT, ..
            }) => Ok(()),
            other => other,
        }
    }

    fn done(&mut self, what: &'static str, batch: Batch) -> Result<(), Error> {
        let failed = |refused: Refused| Error::Element {
            what,
            errno: refused.errno,
        };
        self.socket.transact(&table::end(batch)).map_err(failed)
    }

    fn each(&self, members: &[Member], mut put: impl FnMut(&str, Sets, &[u8])) {
        for (sets, key) in self.keys(members) {
            put(&self.table, sets, &key);
        }
    }

    fn keys(&self, members: &[Member]) -> Vec<(Sets, Vec<u8>)> {
        let mut keys = Vec::new();
        for member in members {
            match member {
                Member::Port(port) => {
                    for protocol in [TCP, UDP] {
                        keys.push((PORTS, port_key(protocol, *port)));
                    }
                }
                Member::Address(IpAddr::V4(address)) => {
                    keys.push((V4, address.octets().to_vec()));
                    if self.arp {
                        keys.push((ARP, address.octets().to_vec()));
                    }
                }
                Member::Address(IpAddr::V6(address)) => keys.push((V6, address.octets().to_vec())),
            }
        }
        keys
    }

    /// Whether the kernel moves the timeout of an element that is there. Older ones say yes and do nothing.
    fn try_in_place(&mut self) -> Result<bool, Error> {
        let key = port_key(TCP, TRIAL_PORT);
        self.delete(Family::Inet, PORTS.open, &key)?;
        for timeout in [TRIAL_SHORT, TRIAL_LONG] {
            let mut batch = table::begin();
            let (table, family) = (&self.table, Family::Inet);
            put_element(
                &mut batch,
                table::NEW_ELEMENT,
                CREATE,
                table,
                family,
                PORTS.open,
                &key,
                Some(timeout),
            );
            match self.done("try", batch) {
                Ok(()) => {}
                Err(_) if timeout == TRIAL_LONG => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        let left = self.time_left(&key);
        self.delete(Family::Inet, PORTS.open, &key)?;
        Ok(left.is_some_and(|left| left > TRIAL_SHORT))
    }

    /// How long a port stays open.
    fn time_left(&mut self, key: &[u8]) -> Option<Duration> {
        const ELEMENTS: u16 = 3;
        const KEY: u16 = 1;
        const EXPIRATION: u16 = 5;
        const VALUE: u16 = 1;
        let mut batch = Batch::default();
        table::message(&mut batch, table::GET_ELEMENT, DUMP, Family::Inet);
        batch.put_text(1, &self.table);
        batch.put_text(2, PORTS.open);
        let mut left = None;
        let read = |_, body: &[u8]| {
            let body = body.get(4..).unwrap_or_default();
            let lists = attributes(body).filter(|(kind, _)| *kind == ELEMENTS);
            for (_, element) in lists.flat_map(|(_, list)| attributes(list)) {
                let find = |wanted| {
                    attributes(element)
                        .find(|(kind, _)| *kind == wanted)
                        .map(|(_, value)| value)
                };
                let found = find(KEY).and_then(|data| attributes(data).find(|(kind, _)| *kind == VALUE));
                if found.is_some_and(|(_, value)| value == key) {
                    let ms = find(EXPIRATION).and_then(|value| value.first_chunk());
                    left = ms.map(|ms| Duration::from_millis(u64::from_be_bytes(*ms)));
                }
            }
        };
        self.socket.exchange(&batch, read).ok()?;
        left
    }
}

/// A table that is there already was made by an earlier guard, in one transaction with all that belongs into it.
pub(super) fn made(result: Result<(), Refused>) -> Result<(), Refused> {
    match result {
        Err(refused) if refused.errno == Errno::EXIST => Ok(()),
        other => other,
    }
}

fn port_key(protocol: u8, port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![protocol, 0, 0, 0, high, low, 0, 0]
}

#[expect(clippy::too_many_arguments, reason = "these are the fields of one netlink message")]
pub(super) fn put_element(
    batch: &mut Batch,
    kind: u16,
    flags: u16,
    table: &str,
    family: Family,
    set: &str,
    key: &[u8],
    timeout: Option<Duration>,
) {
    table::message(batch, kind, flags | ACK, family);
    batch.put_text(1, table);
    batch.put_text(2, set);
    batch.nest(3, |list| {
        list.nest(1, |element| {
            element.nest(1, |data| data.put(1, key));
            if let Some(timeout) = timeout {
                let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                // The one it has when it is added anew, and what is left of it now.
                element.put(4, &ms.to_be_bytes());
                element.put(5, &ms.to_be_bytes());
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::{UnshareFlags, unshare_unsafe};

    const PORT: u16 = 4711;

    /// Gates in a network of our own, with their names.
    fn with_gates(test: impl FnOnce(&mut Gates) + Send + 'static) {
        let thread = std::thread::spawn(|| {
            #[expect(unsafe_code, reason = "leaving a network has no safe wrapper")]
            // SAFETY: only this thread changes its network; no descriptor is affected.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("a network of our own: this test needs root");
            let mut gates = Gates::open("unit").expect("gates");
            gates.gate(&[Member::Port(PORT)]).expect("gated");
            test(&mut gates);
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    fn left(gates: &mut Gates) -> Option<u64> {
        // In steps of three seconds: some milliseconds have passed since, and on a very busy machine a second.
        let left = gates.time_left(&port_key(UDP, PORT))?;
        Some(left.as_millis().div_ceil(3_000) as u64 * 3)
    }

    #[test]
    fn a_new_time_replaces_the_old_one_in_place_and_by_delete_and_add() {
        with_gates(|gates| {
            for in_place in [gates.in_place, false] {
                gates.in_place = in_place;
                for given in [60, 9, 120] {
                    gates
                        .let_through(&[Member::Port(PORT)], Duration::from_secs(given))
                        .expect("open");
                    assert_eq!(left(gates), Some(given), "in place: {in_place}");
                }
                gates.close(&[Member::Port(PORT)]).expect("closed");
                assert_eq!(left(gates), None);
            }
        });
    }

    #[test]
    fn without_in_place_refreshing_a_mixture_of_open_and_timed_out_is_opened() {
        with_gates(|gates| {
            gates.in_place = false;
            let other = Member::Port(PORT + 1);
            gates.let_through(&[other], Duration::from_secs(60)).expect("open");
            gates
                .let_through(&[Member::Port(PORT), other], Duration::from_secs(90))
                .expect("open");
            assert_eq!(left(gates), Some(90));
        });
    }

    #[test]
    fn a_second_guard_finds_the_table_and_what_is_open() {
        with_gates(|gates| {
            gates
                .let_through(&[Member::Port(PORT)], Duration::from_secs(60))
                .expect("open");
            let mut second = Gates::open("unit").expect("the table is there");
            assert_eq!(left(&mut second), Some(60));
        });
    }
}
