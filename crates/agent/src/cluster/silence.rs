//! Whether the store answers this node.
//!
//! A watch cannot tell: where nothing changes it has nothing to say, and one whose member knows no leader looks for another member for as long as
//! it takes. So what was asked counts: renewals of the session, and the probes that follow one that was missed.
//!
//! ```text
//! answers ──asked, and nothing answered for A──► lost ──an answer──► answers
//!    └──────────the watch has ended────────────► lost ──all listed, or told of a change──► answers
//! ```

use model::{Millis, Timestamp};
use std::time::Duration;

/// What is known of it.
#[derive(Debug)]
pub(crate) struct Answering {
    /// When it answered last, or told something unasked.
    last: Timestamp,
    /// The watch has ended, and nothing was listed since.
    watch_ended: bool,
    lost: Option<(Timestamp, String)>,
}

impl Answering {
    /// It has answered right now.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            last: now,
            watch_ended: false,
            lost: None,
        }
    }

    /// Since when it does not answer, and how that shows; `None` while it answers.
    pub(crate) fn lost(&self) -> Option<&(Timestamp, String)> {
        self.lost.as_ref()
    }

    /// It answered something. Whether that ends a loss: changes that are not heard stay unheard.
    pub(crate) fn answered(&mut self, now: Timestamp) -> bool {
        self.last = now;
        !self.watch_ended && self.lost.take().is_some()
    }

    /// It did not answer something that was asked; `patience` is how long that may be so. Whether it counts as lost only now.
    pub(crate) fn unanswered(&mut self, now: Timestamp, patience: Duration) -> bool {
        let silent = now.since(self.last);
        if self.lost.is_some() || silent < patience {
            return false;
        }
        let patience = Millis(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX));
        self.lost = Some((self.last, format!("nothing that was asked was answered for {patience}")));
        true
    }

    /// Its changes are not heard any more. Whether it counts as lost only now.
    pub(crate) fn watch_ended(&mut self, now: Timestamp, why: &str) -> bool {
        self.watch_ended = true;
        let first = self.lost.is_none();
        self.lost.get_or_insert_with(|| (now, why.to_owned()));
        first
    }

    /// Its changes are heard. Whether that ends a loss.
    pub(crate) fn heard(&mut self, now: Timestamp) -> bool {
        self.watch_ended = false;
        self.answered(now)
    }
}

#[cfg(test)]
mod tests {
    use super::Answering;
    use model::Timestamp;
    use std::time::Duration;

    const A: Duration = Duration::from_secs(2);

    fn at(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    #[test]
    fn a_store_that_answers_nothing_is_lost_although_its_watch_goes_on() {
        let mut store = Answering::new(at(10));
        assert!(!store.unanswered(at(11), A), "one answer may be late");
        assert!(store.unanswered(at(12), A));
        assert!(!store.unanswered(at(13), A), "it is told once");
        assert_eq!(store.lost().map(|(since, _)| *since), Some(at(10)));
        assert!(store.answered(at(14)));
        assert!(store.lost().is_none());
        assert!(!store.unanswered(at(15), A), "it is counted from the last answer");
    }

    #[test]
    fn changes_that_are_not_heard_are_a_loss_although_something_is_answered() {
        let mut store = Answering::new(at(0));
        assert!(store.watch_ended(at(1), "denied"));
        assert!(!store.answered(at(2)));
        assert!(store.lost().is_some_and(|(_, why)| why == "denied"));
        assert!(store.heard(at(3)));
        assert!(store.lost().is_none());
    }
}
