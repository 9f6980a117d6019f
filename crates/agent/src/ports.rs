//! Ports for instances: each keeps its own over restarts while it stays free, unless it is told to take another one.

use model::InstanceId;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Below the ephemeral ports (32768 to 60999 by default), so that no outgoing connection takes one away.
const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;

/// Which instance has which port.
#[derive(Debug)]
pub(crate) struct Ports {
    of: BTreeMap<InstanceId, u16>,
    given: BTreeSet<u16>,
    /// Ports that seemed free and were not: not for the same instance again.
    doubted: BTreeMap<InstanceId, u16>,
    next: u16,
}

impl Default for Ports {
    fn default() -> Self {
        // Two clusters of one machine begin at different places, so that they seldom try the same port at the same moment.
        let spread = u16::try_from(std::process::id() % 8_000).unwrap_or(0);
        Self {
            of: BTreeMap::new(),
            given: BTreeSet::new(),
            doubted: BTreeMap::new(),
            next: FIRST + spread,
        }
    }
}

impl Ports {
    pub(crate) fn of(&self, instance: &InstanceId) -> Option<u16> {
        self.of.get(instance).copied()
    }

    /// The instance has this port already.
    pub(crate) fn keep(&mut self, instance: &InstanceId, port: u16) {
        if port == 0 {
            return;
        }
        self.free(instance);
        self.of.insert(instance.clone(), port);
        self.given.insert(port);
    }

    pub(crate) fn free(&mut self, instance: &InstanceId) {
        if let Some(port) = self.of.remove(instance) {
            self.given.remove(&port);
        }
        self.doubted.remove(instance);
    }

    /// A start with its port failed: another one is given next time.
    pub(crate) fn doubt(&mut self, instance: &InstanceId) {
        if let Some(port) = self.of(instance) {
            self.free(instance);
            self.doubted.insert(instance.clone(), port);
        }
    }

    /// The port for the next start of an instance: its last one if that is free, else another.
    pub(crate) fn give(&mut self, instance: &InstanceId) -> Result<u16, String> {
        if let Some(port) = self.of(instance) {
            if is_free(port) {
                return Ok(port);
            }
            self.free(instance);
        }
        let doubted = self.doubted.get(instance).copied();
        for _ in FIRST..=LAST {
            let port = self.next;
            self.next = if port >= LAST { FIRST } else { port + 1 };
            if !self.given.contains(&port) && doubted != Some(port) && is_free(port) {
                self.keep(instance, port);
                return Ok(port);
            }
        }
        Err(format!("no port from {FIRST} to {LAST} is free for it"))
    }
}

/// Also on all addresses: a service that binds to `0.0.0.0` must not find it taken.
fn is_free(port: u16) -> bool {
    TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).is_ok()
}
