//! Finding an active for one connection or request: the least busy first, another after a failure, and when there is
//! none, waiting for one within the bounds that the operator set.

use crate::front::Front;
use crate::target::{InFlight, Target};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::Instant;

/// When all targets failed, they are tried again after this, doubled each time up to [`PAUSE_MAX`], unless a new route
/// comes first: a target that is being restarted at the same address needs no new route.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Why no active was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("no active was there within {} ms", .0.as_millis())]
    NoTarget(Duration),
    #[error("no active is there and {0} are already waiting")]
    TooMany(u32),
    #[error("{0} attempts failed")]
    GaveUp(u32),
    #[error("the service is being removed")]
    Closing,
}

/// The search of one connection or request.
pub(crate) struct Search {
    front: Rc<Front>,
    /// Those that failed since the last pause or route.
    failed: Vec<Rc<Target>>,
    /// Times that something was sent in vain.
    sent: u32,
    /// Until when it may wait, since it had to: what it tries meanwhile takes no longer.
    deadline: Option<Instant>,
    pause: Duration,
}

impl Search {
    pub(crate) fn new(front: Rc<Front>) -> Self {
        Self {
            front,
            failed: Vec::new(),
            sent: 0,
            deadline: None,
            pause: PAUSE_MIN,
        }
    }

    /// The next active to try.
    pub(crate) async fn next(&mut self) -> Result<InFlight, Refused> {
        match self.try_next() {
            Some(found) => found,
            None => self.wait().await,
        }
    }

    /// The next active to try, if that needs no waiting.
    pub(crate) fn try_next(&mut self) -> Option<Result<InFlight, Refused>> {
        if self.sent > 0 && self.sent as usize > self.front.target_count() + 1 {
            return Some(Err(Refused::GaveUp(self.sent)));
        }
        self.front
            .pick(|target| !self.failed.iter().any(|failed| Rc::ptr_eq(failed, target)))
            .map(Ok)
    }

    /// It could not be reached: nothing was sent.
    pub(crate) fn unreachable(&mut self, tried: InFlight, what: &dyn std::fmt::Display) {
        self.front.counters.retried.add(1);
        tried.target.suspect(what);
        self.failed.push(Rc::clone(&tried.target));
        // It is over, and no longer counts as under way.
        drop(tried);
    }

    /// It died under the request, which is to be repeated.
    pub(crate) fn died(&mut self, tried: InFlight, what: &dyn std::fmt::Display) {
        self.sent += 1;
        self.unreachable(tried, what);
    }

    async fn wait(&mut self) -> Result<InFlight, Refused> {
        let front = Rc::clone(&self.front);
        let settings = front.settings();
        let _held = Held::start(&front, self.deadline.is_none())?;
        let deadline = *self
            .deadline
            .get_or_insert_with(|| Instant::now() + settings.hold_timeout);
        let mut closing = front.watch_closing();
        loop {
            let mut rerouted = std::pin::pin!(front.rerouted.notified());
            rerouted.as_mut().enable();
            if let Some(found) = self.try_next() {
                return found;
            }
            let pause_until = Instant::now() + self.pause;
            tokio::select! {
                biased;
                () = rerouted => self.failed.clear(),
                () = closing.raised() => return Err(Refused::Closing),
                () = tokio::time::sleep_until(deadline) => {
                    front.counters.no_active.add(1);
                    return Err(Refused::NoTarget(settings.hold_timeout));
                }
                () = tokio::time::sleep_until(pause_until), if !self.failed.is_empty() => {
                    self.failed.clear();
                    self.pause = (self.pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }
}

/// Counts one that waits.
struct Held<'a>(&'a Front);

impl<'a> Held<'a> {
    /// One that waits for the `first` time is counted.
    fn start(front: &'a Front, first: bool) -> Result<Self, Refused> {
        let most = front.settings().hold_max;
        if front.is_closing() {
            return Err(Refused::Closing);
        }
        if front.holding.fetch_add(1, Relaxed) >= most {
            front.holding.fetch_sub(1, Relaxed);
            front.counters.crowded.add(1);
            return Err(Refused::TooMany(most));
        }
        front.counters.held.add(u64::from(first));
        front.counters.holding.add(1);
        Ok(Self(front))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.holding.fetch_sub(1, Relaxed);
        self.0.counters.holding.sub(1);
    }
}
