//! Floating addresses on real interfaces: hosts in network namespaces, joined by a switch.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod acquires;
mod ear;
mod keeps;
mod lan;
mod leaves;
mod moves;

use drivers::address::{AcquireError, Event, Held, Options, acquire};
use lan::Host;
use model::FloatingAddress;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::mpsc::Receiver;

/// The address of these tests, in both families.
fn both() -> [IpAddr; 2] {
    ["10.77.0.100".parse().unwrap(), "fd77::100".parse().unwrap()]
}

fn address(ip: IpAddr) -> FloatingAddress {
    FloatingAddress {
        ip,
        prefix: if ip.is_ipv4() { 24 } else { 64 },
        interface: None,
    }
}

const UNASKED: Options = Options {
    ask_for: None,
    until: None,
};

/// Acquires on a host; within its namespace.
fn acquire_on(host: &Host, ip: IpAddr, options: Options) -> Result<(Held, Receiver<Event>), AcquireError> {
    host.run(async move { acquire(&address(ip), options).await })
}

/// Waits for events, as many as given.
fn next(host: &Host, events: Receiver<Event>, count: usize) -> (Vec<Event>, Receiver<Event>) {
    host.run(async move {
        let mut events = events;
        let mut got = Vec::new();
        let enough = async {
            while got.len() < count {
                got.push(events.recv().await.expect("the keeper has ended"));
            }
        };
        let result = tokio::time::timeout(Duration::from_secs(10), enough).await;
        assert!(result.is_ok(), "{count} events expected, came: {got:?}");
        (got, events)
    })
}
