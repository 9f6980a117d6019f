//! An address that moves with the active.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// An address that whoever is active has, so that clients find it there without a proxy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FloatingAddress {
    /// The address: one that a host can have, see [`FloatingAddress::problem`].
    pub ip: IpAddr,
    /// Bits of its network: 1 to 32, with IPv6 to 128.
    pub prefix: u8,
    /// The network interface that it is put on; found by the address if not given.
    pub interface: Option<String>,
}

impl FloatingAddress {
    /// Why an address with this prefix cannot be given to a host, as a sentence without a subject.
    pub fn problem(ip: IpAddr, prefix: u8) -> Option<&'static str> {
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        if prefix == 0 || prefix > bits {
            return Some(match bits {
                32 => "must have a prefix from 1 to 32",
                _ => "must have a prefix from 1 to 128",
            });
        }
        if ip.is_unspecified() {
            return Some("must be an address, not the word for all of them");
        }
        if ip.is_multicast() {
            return Some("must not be a multicast address");
        }
        match ip {
            IpAddr::V4(ip) => {
                let host = u32::from(ip) & u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
                let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
                match prefix {
                    _ if ip.is_broadcast() => Some("must not be a broadcast address"),
                    31.. => None,
                    _ if host == 0 => Some("is the address of the network itself, which no host can have"),
                    _ if host == hosts => Some("is the broadcast address of its network, which no host can have"),
                    _ => None,
                }
            }
            IpAddr::V6(ip) => ip
                .to_ipv4_mapped()
                .map(|_| "is an IPv4 address in IPv6 form: write it as IPv4"),
        }
    }
}

impl std::fmt::Display for FloatingAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_a_host_can_have_are_taken() {
        let problem = |ip: &str, prefix| FloatingAddress::problem(ip.parse().unwrap(), prefix);
        for (ip, prefix) in [
            ("10.0.0.100", 24),
            ("10.0.0.0", 31),
            ("10.0.0.255", 32),
            ("10.0.0.255", 16),
            ("fd00::1", 64),
            ("fd00::1", 128),
            ("127.0.0.9", 8),
        ] {
            assert_eq!(problem(ip, prefix), None, "{ip}/{prefix}");
        }
        for (ip, prefix) in [
            ("10.0.0.1", 0),
            ("10.0.0.1", 33),
            ("fd00::1", 0),
            ("fd00::1", 129),
            ("0.0.0.0", 24),
            ("::", 64),
            ("224.0.0.1", 24),
            ("ff02::1", 64),
            ("255.255.255.255", 32),
            ("10.0.0.0", 24),
            ("10.0.0.255", 24),
            ("::ffff:10.0.0.1", 96),
        ] {
            assert!(problem(ip, prefix).is_some(), "{ip}/{prefix}");
        }
    }
}
