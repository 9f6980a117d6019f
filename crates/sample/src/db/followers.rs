//! The followers of an active, and which of them are in sync.
//!
//! A follower is *in sync* once it has, on its disk, all that the active has; from then on no write is acknowledged
//! without it. One that does not confirm in time is dropped from the set, told so, and has to catch up again: a write is
//! never held up for longer than [`PATIENCE`]. So a single hanging follower costs one pause, not the service, and the
//! price is that writes acknowledged after it was dropped exist once until it is back (`GET /role` shows the set).

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long a write waits for the followers that are in sync. Many times a healthy confirmation (an fsync and a loopback
/// round trip, below a millisecond), and short enough that clients take it for a slow answer.
pub(crate) const PATIENCE: Duration = Duration::from_millis(200);

/// How a follower stands; whoever feeds it passes it on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    CatchingUp,
    InSync,
    /// Out of sync from now on, and why.
    Dropped(&'static str),
    /// There is no active to follow any more, and it has all that was acknowledged.
    Complete,
}

/// A follower as `GET /role` shows it.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct FollowerView {
    peer: String,
    position: u64,
    in_sync: bool,
}

pub(crate) struct Followers {
    inner: Mutex<Inner>,
    confirmed: Condvar,
    end: watch::Sender<u64>,
}

struct Inner {
    members: BTreeMap<u64, Member>,
    next: u64,
}

struct Member {
    peer: String,
    position: u64,
    standing: watch::Sender<Standing>,
}

impl Member {
    fn in_sync(&self) -> bool {
        *self.standing.borrow() == Standing::InSync
    }
}

/// What feeds one follower. It leaves the set when this goes.
pub(crate) struct Membership {
    pub(crate) id: u64,
    pub(crate) standing: watch::Receiver<Standing>,
    /// How far the log of the active is durable.
    pub(crate) end: watch::Receiver<u64>,
}

impl Followers {
    pub(crate) fn new(end: u64) -> Self {
        Self {
            inner: Mutex::new(Inner {
                members: BTreeMap::new(),
                next: 1,
            }),
            confirmed: Condvar::new(),
            end: watch::Sender::new(end),
        }
    }

    pub(crate) fn join(&self, peer: String) -> Membership {
        let mut inner = self.lock();
        let id = inner.next;
        inner.next += 1;
        let (standing, receiver) = watch::channel(Standing::CatchingUp);
        inner.members.insert(
            id,
            Member {
                peer,
                position: 0,
                standing,
            },
        );
        Membership {
            id,
            standing: receiver,
            end: self.end.subscribe(),
        }
    }

    pub(crate) fn leave(&self, id: u64) {
        self.lock().members.remove(&id);
        self.confirmed.notify_all();
    }

    /// A follower has everything up to `position` on its disk.
    pub(crate) fn confirm(&self, id: u64, position: u64) {
        let mut inner = self.lock();
        // Under the lock `end` does not move, so one that is level with it now misses nothing later.
        let end = *self.end.borrow();
        let Some(member) = inner.members.get_mut(&id) else {
            return;
        };
        member.position = position;
        if position >= end {
            member.standing.send_if_modified(|standing| {
                let caught_up = *standing == Standing::CatchingUp;
                if caught_up {
                    *standing = Standing::InSync;
                }
                caught_up
            });
        }
        drop(inner);
        self.confirmed.notify_all();
    }

    /// The log is durable up to `end`: waits until all in sync have it too, and drops those that take too long.
    /// Returns who was dropped.
    pub(crate) fn commit(&self, end: u64) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut inner = self.lock();
        self.end.send_replace(end);
        loop {
            let late = |member: &&Member| member.in_sync() && member.position < end;
            if inner.members.values().find(late).is_none() {
                return Vec::new();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let late = inner.members.values().filter(late);
                return late
                    .map(|member| {
                        let why = Standing::Dropped("it did not confirm a write in time");
                        member.standing.send_replace(why);
                        member.peer.clone()
                    })
                    .collect();
            }
            let waited = self.confirmed.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Nothing will be acknowledged here any more: those in sync are complete, the others can get no further.
    pub(crate) fn dismiss(&self) {
        for member in self.lock().members.values() {
            member.standing.send_modify(|standing| {
                *standing = match standing {
                    Standing::InSync => Standing::Complete,
                    _ => Standing::Dropped("this db is no longer the active"),
                };
            });
        }
    }

    pub(crate) fn view(&self) -> Vec<FollowerView> {
        let inner = self.lock();
        let members = inner.members.values();
        members
            .map(|member| FollowerView {
                peer: member.peer.clone(),
                position: member.position,
                in_sync: member.in_sync(),
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_waits_for_who_is_in_sync_and_for_nobody_else() {
        let followers = Followers::new(100);
        let catching_up = followers.join("a".into());
        let in_sync = followers.join("b".into());
        followers.confirm(in_sync.id, 100);
        assert_eq!(*catching_up.standing.borrow(), Standing::CatchingUp);
        assert_eq!(*in_sync.standing.borrow(), Standing::InSync);

        let begun = Instant::now();
        std::thread::scope(|scope| {
            let commit = scope.spawn(|| followers.commit(150));
            // Confirming less than was written is not enough.
            followers.confirm(in_sync.id, 149);
            assert!(!commit.is_finished());
            followers.confirm(in_sync.id, 150);
            assert_eq!(commit.join().unwrap(), Vec::<String>::new());
        });
        assert!(begun.elapsed() < PATIENCE);
    }

    #[test]
    fn one_that_does_not_confirm_is_dropped_and_does_not_hold_up_the_next_write() {
        let followers = Followers::new(100);
        let hanging = followers.join("a".into());
        followers.confirm(hanging.id, 100);
        let begun = Instant::now();
        assert_eq!(followers.commit(150), ["a"]);
        assert!(begun.elapsed() >= PATIENCE);
        assert!(matches!(*hanging.standing.borrow(), Standing::Dropped(_)));

        let begun = Instant::now();
        assert_eq!(followers.commit(200), Vec::<String>::new());
        assert!(begun.elapsed() < PATIENCE);
        // What was dropped cannot talk itself back in.
        followers.confirm(hanging.id, 200);
        assert!(matches!(*hanging.standing.borrow(), Standing::Dropped(_)));
    }

    #[test]
    fn when_the_active_steps_down_only_those_in_sync_are_complete() {
        let followers = Followers::new(100);
        let (level, behind) = (followers.join("a".into()), followers.join("b".into()));
        followers.confirm(level.id, 100);
        followers.confirm(behind.id, 99);
        followers.dismiss();
        assert_eq!(*level.standing.borrow(), Standing::Complete);
        assert!(matches!(*behind.standing.borrow(), Standing::Dropped(_)));
    }

    #[test]
    fn one_that_goes_away_holds_up_nothing() {
        let followers = Followers::new(100);
        let gone = followers.join("a".into());
        followers.confirm(gone.id, 100);
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let commit = scope.spawn(|| followers.commit(150));
            followers.leave(gone.id);
            commit.join().unwrap();
        });
        assert!(begun.elapsed() < PATIENCE);
        assert!(followers.view().is_empty());
    }
}
