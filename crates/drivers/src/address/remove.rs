//! Takes addresses off this host, and sees that they are gone.

use super::error::ReleaseError;
use super::message::Entry;
use super::netlink::{self, Snapshot};
use std::net::IpAddr;

/// One removal and a look; what is there then was set anew by somebody meanwhile.
const ROUNDS_MAX: u32 = 5;

/// What a dead agent left behind.
#[derive(Debug, Clone, Copy, Default)]
pub struct Leftovers<'a> {
    /// Addresses that the caller knows to have been its own, whatever mark they bear.
    pub named: &'a [IpAddr],
    /// Also all that bear Understudy's mark. Not where agents of several clusters share a host: the mark is the same.
    pub marked: bool,
}

/// An address that was removed by [`sweep`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swept {
    /// The address.
    pub ip: IpAddr,
    /// Its prefix.
    pub prefix: u8,
    /// The interface it was on.
    pub interface: String,
}

/// Takes an address off this host, from every interface that has it, and sees that it is gone. It need not be there.
///
/// For an address that this process holds, use [`Held::release`](super::Held::release): else its task puts it back.
///
/// # Errors
/// The address may still be here: see [`ReleaseError`].
pub async fn release(ip: IpAddr) -> Result<(), ReleaseError> {
    remove_all(|entry| entry.ip == ip).await.map(drop)
}

/// Removes what a dead agent left behind, sees that it is gone, and tells what there was.
///
/// # Errors
/// Some of it may still be here: see [`ReleaseError`].
pub async fn sweep(leftovers: Leftovers<'_>) -> Result<Vec<Swept>, ReleaseError> {
    let removed =
        remove_all(|entry| leftovers.named.contains(&entry.ip) || (leftovers.marked && entry.is_ours)).await?;
    for Swept { ip, prefix, interface } in &removed {
        tracing::warn!(%ip, prefix, interface, "removed an address that was left over");
    }
    Ok(removed)
}

async fn remove_all(is_meant: impl Fn(&Entry) -> bool) -> Result<Vec<Swept>, ReleaseError> {
    let mut removed: Vec<Swept> = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let snapshot = netlink::snapshot().await?;
        let mut is_clean = true;
        for entry in snapshot.entries.iter().filter(|entry| is_meant(entry)) {
            is_clean = false;
            let swept = swept(&snapshot, entry);
            netlink::remove_with_connections(entry, &swept.interface).await?;
            if !removed.contains(&swept) {
                removed.push(swept);
            }
        }
        if is_clean {
            return Ok(removed);
        }
    }
    let snapshot = netlink::snapshot().await?;
    match snapshot.entries.iter().find(|entry| is_meant(entry)) {
        None => Ok(removed),
        Some(entry) => Err(ReleaseError::ComesBack {
            ip: entry.ip,
            interface: snapshot.name(entry.index),
        }),
    }
}

fn swept(snapshot: &Snapshot, entry: &Entry) -> Swept {
    Swept {
        ip: entry.ip,
        prefix: entry.prefix,
        interface: snapshot.name(entry.index),
    }
}
