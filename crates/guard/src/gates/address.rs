//! Taking a floating address away: a message prepared when its slot is armed.

use crate::netlink::{ACK, Batch, REQUEST, Socket};
use rustix::io::Errno;
use std::net::IpAddr;

const DELETE_ADDRESS: u16 = 21;
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The message that takes an address away.
#[derive(Debug, Clone)]
pub(crate) struct Removal(Batch);

impl Removal {
    pub(crate) fn new(address: IpAddr, prefix: u8, interface: u32) -> Self {
        let (family, bytes) = match address {
            IpAddr::V4(address) => (AF_INET, address.octets().to_vec()),
            IpAddr::V6(address) => (AF_INET6, address.octets().to_vec()),
        };
        let mut header = vec![family, prefix, 0, 0];
        header.extend(interface.to_ne_bytes());
        let mut batch = Batch::default();
        batch.begin(DELETE_ADDRESS, REQUEST | ACK, &header);
        batch.put(LOCAL, &bytes);
        batch.put(ADDRESS, &bytes);
        Self(batch)
    }

    /// Takes it away; one that is gone is fine.
    pub(crate) fn carry_out(&self, socket: &mut Socket) -> Result<(), Errno> {
        match socket.transact(&self.0) {
            Ok(()) => Ok(()),
            // The address, or its interface.
            Err(refused) if matches!(refused.errno, Errno::ADDRNOTAVAIL | Errno::NODEV) => Ok(()),
            Err(refused) => Err(refused.errno),
        }
    }
}

/// A socket to send removals by.
pub(crate) fn socket() -> Result<Socket, Errno> {
    Socket::open(None)
}
