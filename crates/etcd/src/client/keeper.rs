//! Keeps the connections warm, and knows who leads: both are needed most when there is no time for them.

use super::Shared;
use super::failure::Cause;
use super::link::Link;
use super::wire::{Rpc, Wire};
use crate::pb::StatusRequest;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

// A status costs a member next to nothing, but a thousand agents ask each of them.
const LOOK_EVERY: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(crate) struct Keeper {
    started: AtomicBool,
    bell: Arc<Bell>,
}

/// Rung when something is not as it was.
#[derive(Default)]
pub(crate) struct Bell {
    rung: AtomicBool,
    heard: Notify,
}

impl Bell {
    pub(crate) fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        self.heard.notify_one();
    }
}

impl Keeper {
    /// Starts looking after `shared`, if nobody does. It ends with `shared`.
    pub(crate) fn ensure(&self, shared: &Arc<Shared>) {
        if !self.started.swap(true, Ordering::AcqRel) {
            tokio::spawn(keep(Arc::downgrade(shared), self.bell()));
        }
    }

    /// Something is not as it was: look now.
    pub(crate) fn look(&self) {
        self.bell.ring();
    }

    pub(crate) fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // So that the task notices now that it has nothing to keep.
        self.bell.ring();
    }
}

async fn keep(shared: Weak<Shared>, bell: Arc<Bell>) {
    let mut looked = None;
    loop {
        let Some(alive) = shared.upgrade() else { return };
        let pause = alive.options.reconnect;
        // One that is down is tried again and again, but the others are not asked more often for it.
        let due = looked.is_none_or(|looked: Instant| looked.elapsed() >= LOOK_EVERY);
        let told = bell.rung.swap(false, Ordering::AcqRel);
        if due || told {
            looked = Some(Instant::now());
        }
        let all_fine = look_at_all(&alive, due || told).await;
        drop(alive);
        // However often something happens, members are not asked more often than that.
        tokio::time::sleep(pause).await;
        let every = if all_fine { LOOK_EVERY } else { Duration::ZERO };
        let _ = timeout(every, bell.heard.notified()).await;
    }
}

async fn look_at_all(shared: &Arc<Shared>, all: bool) -> bool {
    let looks = shared.links.iter().map(|link| look_at(shared, link, all));
    let fine = futures_util::future::join_all(looks).await;
    fine.into_iter().all(|fine| fine)
}

/// Asks a member how it is. One that does not answer loses its connection, which may be dead.
async fn look_at(shared: &Arc<Shared>, link: &Link, anyway: bool) -> bool {
    let Ok(up) = shared.connect(link).await else {
        return false;
    };
    if !anyway && !link.standing().suspect {
        return true;
    }
    let limit = shared.connect_limit();
    let wire = Wire::new(up.line.channel.clone(), None, Some(Instant::now() + limit));
    let refused = match timeout(limit, StatusRequest {}.send(&wire)).await {
        Ok(Ok(status)) => {
            let status = status.into_inner();
            match shared.identify(link, &status) {
                // It answers, but can do nothing without a leader.
                Ok(()) if status.leader == 0 => return false,
                Ok(()) => {
                    link.fine();
                    return true;
                }
                Err(error) => Cause::Server(error).to_string(),
            }
        }
        Ok(Err(status)) => status.message().to_owned(),
        Err(_) => Cause::TimedOut.to_string(),
    };
    tracing::debug!(
        endpoint = link.target.name,
        reason = refused,
        "a connection to etcd is given up"
    );
    up.line.condemn();
    false
}
