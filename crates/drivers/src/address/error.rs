//! What goes wrong with floating addresses, and what to do about it.

use super::{Mac, netlink};
use std::io;
use std::net::IpAddr;

/// Why an address was not taken.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// No host can have it.
    #[error("{ip}/{prefix} {problem}")]
    Impossible {
        /// The address.
        ip: IpAddr,
        /// Its prefix.
        prefix: u8,
        /// Why, as a sentence without a subject.
        problem: &'static str,
    },
    /// The interface that was given does not exist.
    #[error("there is no interface `{interface}` for {ip}; there are: {there}")]
    NoSuchInterface {
        /// The address.
        ip: IpAddr,
        /// The interface.
        interface: String,
        /// Those that exist, with their networks.
        there: String,
    },
    /// Neither a network of this host holds the address, nor is there a default route.
    #[error("no interface has the network of {ip}, and there is no default route; there are: {there}")]
    NoInterface {
        /// The address.
        ip: IpAddr,
        /// The interfaces that exist, with their networks.
        there: String,
    },
    /// The interface is switched off, or has no carrier: nobody would reach the address.
    #[error("interface `{interface}` is down, so that nobody would reach {ip} there")]
    LinkDown {
        /// The address.
        ip: IpAddr,
        /// The interface.
        interface: String,
    },
    /// Something on this host other than Understudy has set the address.
    #[error("{ip}/{prefix} is on `{interface}` of this host already, and not by Understudy")]
    SetByOthers {
        /// The address.
        ip: IpAddr,
        /// The prefix it has there.
        prefix: u8,
        /// The interface.
        interface: String,
    },
    /// Another host has the address.
    #[error("{ip} is in use: {mac} answers for it on `{interface}`")]
    InUse {
        /// The address.
        ip: IpAddr,
        /// The Ethernet address of the other host.
        mac: Mac,
        /// The interface on which it answered.
        interface: String,
    },
    /// Another host is about to take the address.
    #[error("{ip} is about to be taken by {mac}, which asks for it on `{interface}`")]
    Wanted {
        /// The address.
        ip: IpAddr,
        /// The Ethernet address of the other host.
        mac: Mac,
        /// The interface on which it asks.
        interface: String,
    },
    /// The lease had ended before the address was there.
    #[error("the time for which {ip} may be kept has passed")]
    LeaseEnded {
        /// The address.
        ip: IpAddr,
    },
    /// The kernel refused a request.
    #[error(transparent)]
    Kernel(#[from] netlink::Error),
    /// No socket for ARP or neighbour discovery, or it failed.
    #[error("failed to {doing} on `{interface}`")]
    Wire {
        /// What we were doing.
        doing: &'static str,
        /// The interface.
        interface: String,
        /// Why.
        source: io::Error,
    },
}

impl AcquireError {
    /// What can be done about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            AcquireError::Impossible { .. } => Some("give an address as a host has it, as in `10.0.0.100/24`".into()),
            AcquireError::NoSuchInterface { .. } => {
                Some("name one of these, or leave `interface` out to have it found by the address".into())
            }
            AcquireError::NoInterface { .. } => {
                Some("name the interface that clients come in by, with `interface`".into())
            }
            AcquireError::LinkDown { interface, .. } => Some(format!(
                "`ip link set {interface} up`, and look whether the cable is in"
            )),
            AcquireError::SetByOthers { ip, prefix, interface } => Some(format!(
                "an address that moves must not be part of a host's own configuration: take it out there, and \
                 `ip address delete {ip}/{prefix} dev {interface}`"
            )),
            AcquireError::InUse { ip, mac, .. } | AcquireError::Wanted { ip, mac, .. } => Some(format!(
                "find the host with {mac} (`ip neighbour`, the table of the switch) and take {ip} from it, or choose another \
                 address; if it is a former holder that is known to be off or cut off, take over without asking"
            )),
            AcquireError::LeaseEnded { .. } => None,
            AcquireError::Kernel(error) => error.hint().map(Into::into),
            AcquireError::Wire { source, .. } => (source.raw_os_error() == Some(libc::EPERM)).then(|| {
                "asking and telling neighbours needs the capability CAP_NET_RAW: run Understudy as root, or with \
                 `AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW` in its unit"
                    .into()
            }),
        }
    }
}

/// Why a lease was not renewed.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// It had ended: the address is gone, and must be acquired anew.
    #[error("the lease of {ip} has ended")]
    LeaseEnded {
        /// The address.
        ip: IpAddr,
    },
    /// The address was released.
    #[error("{ip} has been released")]
    Released {
        /// The address.
        ip: IpAddr,
    },
    /// The interface has gone.
    #[error("interface `{interface}` of {ip} is gone")]
    InterfaceGone {
        /// The address.
        ip: IpAddr,
        /// The interface.
        interface: String,
    },
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] netlink::Error),
}

/// Why an address may still be here.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// It was removed, and is there again each time.
    #[error("{ip} is on `{interface}` again each time it is removed")]
    ComesBack {
        /// The address.
        ip: IpAddr,
        /// The interface.
        interface: String,
    },
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] netlink::Error),
}

impl ReleaseError {
    /// What can be done about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            ReleaseError::ComesBack { ip, .. } => Some(format!(
                "something else sets it: look for {ip} in the network configuration of this host"
            )),
            ReleaseError::Kernel(error) => error.hint().map(Into::into),
        }
    }
}
