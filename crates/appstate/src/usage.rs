//! The record that every write of a service goes through: how much there is, and who wrote last. Pure.
//!
//! It is written with each write under a compare on its own revision. Three things follow:
//! - *The quota holds*: nobody adds to an amount that somebody else has changed meanwhile.
//! - *An answer that was lost is found again*: the record remembers the latest writes, so that the sender of one can
//!   tell whether it was carried out, even when others wrote after it.
//! - *A list can be told fresh from stale*: it must not be older than this record.

use crate::Error;
use model::Revision;
use serde::{Deserialize, Serialize};

/// How many of the latest writes are remembered: so many others may write between a lost answer and the question after
/// it. Of one agent only one write is under way per service, so this is the number of agents that may get in between.
const RECENT: usize = 8;

/// What a service keeps, and its latest writes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Values.
    pub(crate) keys: u64,
    /// Bytes of their keys and of themselves.
    pub(crate) bytes: u64,
    /// Locks that are held.
    pub(crate) locks: u64,
    /// Number of the latest write.
    seq: u64,
    /// The latest writes, oldest first; the last one is number `seq`.
    recent: Vec<Written>,
}

/// A write that was carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    /// Its attempt.
    id: u64,
    /// Its revision: filled in by the one after it, who knows it from its compare.
    at: u64,
}

/// A write about to be made: it goes through only if the record was not changed since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempt {
    seq: u64,
    id: u64,
}

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Carried out, at this revision.
    Done(Revision),
    /// Not carried out, and it cannot be any more unless the record is still the one that it was made for.
    NotDone,
    /// So many others wrote since that it is not known.
    Forgotten,
}

impl Usage {
    /// The record as attempt `id` writes it, given that the present one was written at `modified`. The amounts are the
    /// caller's to change.
    pub(crate) fn next(&self, id: u64, modified: Revision) -> (Usage, Attempt) {
        let mut next = self.clone();
        if let Some(last) = next.recent.last_mut() {
            last.at = modified.0;
        }
        next.recent.push(Written { id, at: 0 });
        if next.recent.len() > RECENT {
            next.recent.remove(0);
        }
        next.seq += 1;
        let attempt = Attempt { seq: next.seq, id };
        (next, attempt)
    }

    /// What became of `attempt`, as this record, written at `modified`, tells.
    pub(crate) fn fate(&self, attempt: &Attempt, modified: Revision) -> Fate {
        let Some(back) = self.seq.checked_sub(attempt.seq) else {
            return Fate::NotDone;
        };
        let place = usize::try_from(back)
            .ok()
            .and_then(|back| self.recent.len().checked_sub(back + 1));
        match place.and_then(|place| self.recent.get(place)) {
            None => Fate::Forgotten,
            Some(written) if written.id != attempt.id => Fate::NotDone,
            Some(_) if back == 0 => Fate::Done(modified),
            Some(written) => Fate::Done(Revision(written.at)),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        // Numbers in a struct: this cannot fail, and an empty record would be told as damaged.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(crate) fn decode(key: &str, value: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(value).map_err(|error| Error::Damaged {
            key: key.into(),
            problem: error.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes `count` more, at revisions from `from` on, and returns the record and its revision.
    fn write(mut usage: Usage, mut modified: Revision, count: u64) -> (Usage, Revision) {
        for n in 0..count {
            usage = usage.next(1_000 + n, modified).0;
            modified = Revision(modified.0 + 10);
        }
        (usage, modified)
    }

    #[test]
    fn every_write_is_found_again_at_its_revision_until_it_is_forgotten() {
        let (before, modified) = write(Usage::default(), Revision(0), 5);
        let (after, ours) = before.next(7, modified);
        let at = Revision(77);
        assert_eq!(before.fate(&ours, modified), Fate::NotDone);
        for others in 0..RECENT as u64 {
            let (later, modified) = write(after.clone(), at, others);
            assert_eq!(later.fate(&ours, modified), Fate::Done(at), "after {others}");
        }
        let (later, modified) = write(after, at, RECENT as u64);
        assert_eq!(later.fate(&ours, modified), Fate::Forgotten);
    }

    #[test]
    fn whose_place_another_took_was_not_carried_out() {
        let (before, modified) = write(Usage::default(), Revision(0), 5);
        let (_, ours) = before.next(7, modified);
        for others in 1..=RECENT as u64 {
            let (later, modified) = write(before.clone(), modified, others);
            assert_eq!(later.fate(&ours, modified), Fate::NotDone, "after {others}");
        }
    }
}
