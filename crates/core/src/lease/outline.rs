//! What the future of a lease depends on, relative to now: lets an exhaustive search tell states apart that differ in more
//! than the time of day.

use super::holder::{Holder, Lease, Outstanding, Probe, State};
use super::observer::{Observer, Seen, Writes};
use model::Mark;
use std::hash::{Hash, Hasher};
use std::time::Duration;

/// A session with more attempts than this has no answers to earlier ones on their way.
const ATTEMPTS_MAX: u64 = 8;

/// Spans and counts are relative to this.
struct From<'a, H> {
    now: Mark,
    /// Longer spans count as this long: longer than any that is waited for.
    horizon_ns: u64,
    hasher: &'a mut H,
}

impl Holder {
    /// Feeds `hasher` all that the holder's answers from `now` on depend on, apart from timing and options. Holders that
    /// feed the same behave the same, if answers to their requests are told apart by how many attempts ago they were sent.
    /// Spans beyond `horizon` count as equal: choose one of at least D, and for an observer W and H.
    ///
    /// Being late is left out unless it can be noticed at all.
    pub fn outline(&self, now: Mark, horizon: Duration, hasher: &mut impl Hasher) {
        let Self {
            timing,
            options,
            state,
            guard_ready,
            fired,
            empty,
            fast,
            healthy,
            attempts,
            last_open,
            actions,
            asked,
        } = self;
        let mut from = From::new(now, horizon, hasher);
        (guard_ready, fired, empty, fast, actions.len()).hash(from.hasher);
        let (renew, timeout) = (timing.renew.duration(), timing.request_timeout.duration());
        from.mark_within(*healthy, timing.soft_deadline.duration());
        from.mark_within(*last_open, renew);
        if options.late_after != Duration::MAX {
            from.mark(asked.map(|(from, _)| from));
            asked.map(|(_, wait)| wait).hash(from.hasher);
        }
        match state {
            State::Absent => 0u8.hash(from.hasher),
            State::Opening { attempt, sent } => {
                (1u8, attempts - attempt).hash(from.hasher);
                from.mark_within(Some(*sent), timeout);
            }
            State::Open(lease) => {
                2u8.hash(from.hasher);
                let renew = renew.max(options.idle_renew.duration());
                lease.outline(*attempts, renew, timeout, &mut from);
            }
            State::Emptying => 3u8.hash(from.hasher),
            State::Closed => 4u8.hash(from.hasher),
        }
    }

    /// How many requests it has made; an answer to number `n` is to be told apart by `attempts() - n`.
    pub fn attempts(&self) -> u64 {
        self.attempts
    }
}

impl Lease {
    fn outline<H: Hasher>(&self, attempts: u64, renew: Duration, timeout: Duration, from: &mut From<'_, H>) {
        let Self {
            id,
            // Only ever written.
            seq: _,
            first_attempt,
            acked,
            outstanding,
            last_renew,
            hurry,
            doubt,
            probe,
            last_probe,
            frozen,
        } = self;
        (id, (attempts - first_attempt).min(ATTEMPTS_MAX), hurry, doubt, frozen).hash(from.hasher);
        from.mark(*acked);
        from.mark_within(*last_renew, renew);
        from.mark_within(*last_probe, renew);
        match outstanding {
            None => 0u8.hash(from.hasher),
            Some(Outstanding { attempt, sent, hedged }) => {
                (1u8, attempts - attempt, hedged).hash(from.hasher);
                from.mark_within(Some(*sent), timeout);
            }
        }
        match probe {
            Probe::None => 0u8.hash(from.hasher),
            Probe::Answered => 1u8.hash(from.hasher),
            Probe::Sent(sent) => {
                2u8.hash(from.hasher);
                from.mark_within(Some(*sent), timeout);
            }
        }
    }
}

impl Observer {
    /// As [`Holder::outline`].
    pub fn outline(&self, now: Mark, horizon: Duration, hasher: &mut impl Hasher) {
        let Self {
            timing,
            sessions,
            lost,
            writes: Writes { since, last },
            resyncing,
            let_on,
        } = self;
        let mut from = From::new(now, horizon, hasher);
        (resyncing, sessions.len(), lost.len()).hash(from.hasher);
        for mark in lost.iter().map(|mark| Some(*mark)).chain([*let_on]) {
            from.mark(mark);
        }
        from.mark_within(*since, timing.hold_off());
        from.mark_within(*last, timing.soft_deadline.duration());
        for (node, seen) in sessions {
            let Seen {
                id,
                modified,
                lease,
                since,
                confirmed,
            } = seen;
            (node, id, modified, lease, confirmed).hash(from.hasher);
            from.mark(Some(*since));
        }
    }
}

impl<'a, H: Hasher> From<'a, H> {
    fn new(now: Mark, horizon: Duration, hasher: &'a mut H) -> Self {
        let horizon_ns = u64::try_from(horizon.as_nanos()).unwrap_or(u64::MAX);
        Self {
            now,
            horizon_ns,
            hasher,
        }
    }

    fn mark(&mut self, mark: Option<Mark>) {
        self.mark_up_to(mark, self.horizon_ns);
    }

    /// A mark whose age matters only up to `limit`.
    fn mark_within(&mut self, mark: Option<Mark>, limit: Duration) {
        self.mark_up_to(mark, u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX));
    }

    fn mark_up_to(&mut self, mark: Option<Mark>, limit_ns: u64) {
        let age = |now: u64, then: u64| now.saturating_sub(then).min(limit_ns);
        let ages = mark.map(|mark| (age(self.now.boot_ns, mark.boot_ns), age(self.now.raw_ns, mark.raw_ns)));
        ages.hash(self.hasher);
    }
}
