//! Which of the instances on this machine a client is: asked of the kernel when it connects, as often as is cheap.

use crate::area::Area;
use api::proxy::Calls;
use drivers::sockets::{CgroupId, Sockets};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Questions a second and worker; at ten microseconds each, half a percent of its time. Clients beyond are not asked for: those that are
/// stand for them.
const ASKED_A_SECOND: u32 = 500;

/// Callers that are told apart, per service and worker; what calls beyond them is one of the many.
const CALLERS_MAX: usize = 64;

/// A worker's means to ask.
pub(crate) struct Asker {
    /// `None` where the kernel does not answer such questions.
    sockets: Option<Sockets>,
    left: Cell<u32>,
    until: Cell<Instant>,
}

impl Default for Asker {
    fn default() -> Self {
        Self {
            sockets: Sockets::open().ok(),
            left: Cell::new(ASKED_A_SECOND),
            until: Cell::new(Instant::now() + Duration::from_secs(1)),
        }
    }
}

impl Asker {
    /// Where the requests of a new client are summed up; `None` if it was not asked who it is.
    pub(crate) fn area(&self, client: &TcpStream, peer: SocketAddr, callers: &Callers) -> Option<Arc<Area>> {
        let sockets = self.sockets.as_ref()?;
        let now = Instant::now();
        if now >= self.until.get() {
            self.until.set(now + Duration::from_secs(1));
            self.left.set(ASKED_A_SECOND);
        }
        let left = self.left.get().checked_sub(1)?;
        self.left.set(left);
        // What comes from elsewhere is nobody of ours, and so is what has gone already.
        let owner = client
            .local_addr()
            .ok()
            .and_then(|here| sockets.owner(peer, here).ok().flatten());
        callers.area(owner.unwrap_or(0))
    }
}

/// The callers of a service on one worker, by cgroup; 0 for those that are not of this machine.
#[derive(Default)]
pub(crate) struct Callers(Mutex<BTreeMap<CgroupId, Arc<Area>>>);

impl Callers {
    fn area(&self, caller: CgroupId) -> Option<Arc<Area>> {
        let mut areas = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(area) = areas.get(&caller) {
            return Some(Arc::clone(area));
        }
        let caller = if areas.len() < CALLERS_MAX { caller } else { 0 };
        Some(Arc::clone(areas.entry(caller).or_default()))
    }

    /// Adds what was summed up to that of other workers.
    pub(crate) fn add_to(&self, calls: &mut Vec<Calls>, now: Instant) {
        let areas = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (caller, area) in &*areas {
            if !calls.iter().any(|calls| calls.cgroup == *caller) {
                calls.push(Calls {
                    cgroup: *caller,
                    ..Calls::default()
                });
            }
            let Some(sum) = calls.iter_mut().find(|calls| calls.cgroup == *caller) else {
                continue;
            };
            sum.requests += area.done();
            sum.inflight_us += area.sum_us(now);
            // At different moments, so it is an upper bound.
            sum.inflight_max += area.take_most();
        }
    }
}
