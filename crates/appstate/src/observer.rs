//! Since when a lock was not renewed, as this agent has seen it. Pure.
//!
//! A holder's time runs from when it sent the renewal that was acknowledged last. Whoever first sees that renewal does so
//! later than it was sent, so a whole wait W from there on, on any clock whose rate is right within ρ, is longer than what
//! the holder has by its own (takeover protocol, section 3, inequality 2). Offsets of clocks do not matter, and the removal
//! itself compares the revision that was watched: a renewal in the last moment makes it fail.

use model::timing::observer_wait;
use model::{Mark, Millis, Revision, ServiceName};
use std::collections::BTreeMap;
use std::time::Duration;

/// Locks that are observed at once. Of more, the one seen longest ago is forgotten, which only makes its waiters wait longer.
const OBSERVED_MAX: usize = 4_096;

/// When each lock that somebody waits for was last seen to change.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    seen: BTreeMap<(ServiceName, String), Sighting>,
}

#[derive(Debug, Clone, Copy)]
struct Sighting {
    /// The revision of the last renewal.
    renewed: Revision,
    /// When it was first seen.
    first: Mark,
    /// When somebody last looked.
    last: Mark,
}

/// What is known about a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its holder may still act for at most so long, unless it renews.
    Wait(Duration),
    /// Its holder has stopped, if it is still at the revision that was told.
    Expired,
}

impl Observer {
    /// Somebody sees that the lock was last renewed at `renewed`, for `ttl`. `now` must be read after the store answered.
    pub(crate) fn see(
        &mut self,
        service: &ServiceName,
        lock: &str,
        renewed: Revision,
        ttl: Millis,
        now: Mark,
    ) -> Verdict {
        let key = (service.clone(), lock.to_owned());
        if !self.seen.contains_key(&key) && self.seen.len() >= OBSERVED_MAX {
            self.forget_oldest();
        }
        let fresh = Sighting {
            renewed,
            first: now,
            last: now,
        };
        let sighting = self.seen.entry(key).or_insert(fresh);
        if sighting.renewed != renewed {
            *sighting = fresh;
        }
        sighting.last = now;
        let wait = observer_wait(ttl);
        let waited = now.waited_for(sighting.first);
        match wait.checked_sub(waited) {
            Some(left) if !left.is_zero() => Verdict::Wait(left),
            _ => Verdict::Expired,
        }
    }

    /// The lock is free.
    pub(crate) fn forget(&mut self, service: &ServiceName, lock: &str) {
        self.seen.remove(&(service.clone(), lock.to_owned()));
    }

    fn forget_oldest(&mut self) {
        let oldest = self.seen.iter().min_by_key(|(_, sighting)| sighting.last.boot_ns);
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.seen.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Millis = Millis(1_000);

    fn at(boot_ms: u64, raw_ms: u64) -> Mark {
        Mark {
            boot_ns: boot_ms * 1_000_000,
            raw_ns: raw_ms * 1_000_000,
        }
    }

    fn see(observer: &mut Observer, renewed: u64, now: Mark) -> Verdict {
        let service = ServiceName::new("db").unwrap();
        observer.see(&service, "leader", Revision(renewed), TTL, now)
    }

    #[test]
    fn expires_a_whole_wait_after_the_first_sight_of_the_last_renewal() {
        let mut observer = Observer::default();
        assert!(matches!(see(&mut observer, 5, at(0, 0)), Verdict::Wait(left) if left > TTL.duration()));
        assert!(matches!(see(&mut observer, 5, at(1_006, 1_006)), Verdict::Wait(_)));
        assert!(matches!(see(&mut observer, 6, at(1_007, 1_007)), Verdict::Wait(left) if left > TTL.duration()));
        assert!(matches!(see(&mut observer, 6, at(2_013, 2_013)), Verdict::Wait(_)));
        assert_eq!(see(&mut observer, 6, at(2_016, 2_016)), Verdict::Expired);
    }

    #[test]
    fn the_slower_clock_counts() {
        let mut observer = Observer::default();
        see(&mut observer, 5, at(0, 0));
        assert!(matches!(see(&mut observer, 5, at(60_000, 900)), Verdict::Wait(_)));
        assert!(matches!(see(&mut observer, 5, at(900, 60_000)), Verdict::Wait(_)));
        assert_eq!(see(&mut observer, 5, at(1_008, 60_000)), Verdict::Expired);
    }

    #[test]
    fn a_lock_that_was_free_starts_anew() {
        let mut observer = Observer::default();
        see(&mut observer, 5, at(0, 0));
        observer.forget(&ServiceName::new("db").unwrap(), "leader");
        assert!(matches!(see(&mut observer, 5, at(5_000, 5_000)), Verdict::Wait(_)));
    }

    #[test]
    fn what_is_observed_is_bounded() {
        let mut observer = Observer::default();
        let service = ServiceName::new("db").unwrap();
        for n in 0..OBSERVED_MAX as u64 + 10 {
            observer.see(&service, &format!("lock-{n}"), Revision(5), TTL, at(n, n));
        }
        assert_eq!(observer.seen.len(), OBSERVED_MAX);
        assert!(!observer.seen.contains_key(&(service, "lock-0".to_owned())));
    }
}
