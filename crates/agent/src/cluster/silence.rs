//! Whether the store answers this node, and whether it does what it is asked to.
//!
//! A watch cannot tell: where nothing changes it has nothing to say, and one whose member knows no leader looks for another member for as long as
//! it takes. So what was asked counts: renewals of the session, and the probes that follow one that was missed.
//!
//! ```text
//! answers ──asked, and nothing answered for A──► lost ──an answer──► answers
//!    └──────────the watch has ended────────────► lost ──all listed, or told of a change──► answers
//! ```
//! One that says no has answered: it is not looked for, and its own words say what is to be done about it. A renewal that it refused is none all the
//! same: what counts from renewals goes on as if nothing had come.

use crate::executor::chain;
use crate::show::Silence;
use model::{Millis, Timestamp};
use std::time::Duration;
use store::session::SessionError;
use store::{ServerError, TlsProblem};

/// An answer by which nothing was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What was said.
    pub(crate) why: String,
    /// What to do about it.
    pub(crate) hint: String,
}

impl Refusal {
    /// What was answered, if this is an answer: no answer in time is none, nor is a connection that broke, nor a member that knows no leader.
    pub(crate) fn of(error: &SessionError) -> Option<Self> {
        let hint = match error {
            SessionError::Store(store::Error::Server(error)) => match error {
                ServerError::NoSpace { .. } => NO_SPACE,
                ServerError::Tls {
                    problem: TlsProblem::OurCertificate,
                    ..
                } => OUR_CERTIFICATE,
                other => other.hint(),
            },
            SessionError::Store(error @ (store::Error::Invalid(_) | store::Error::File(_))) => {
                error.hint().unwrap_or(LOOK)
            }
            SessionError::Unreadable { .. } => {
                "a newer version wrote it, or not one of us: run that version here, or see who writes to the store"
            }
            SessionError::Store(_) => return None,
        };
        Some(Self {
            why: chain(error),
            hint: hint.into(),
        })
    }
}

/// What came of something that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Nothing came in time, or the connection broke.
    Answer,
    /// It was refused.
    Consent(Refusal),
}

impl Missing {
    /// Which of both it is.
    pub(crate) fn of(error: &SessionError) -> Self {
        Refusal::of(error).map_or(Missing::Answer, Missing::Consent)
    }
}

const NO_SPACE: &str = "the controller compacts and defragments an etcd of ours by itself; if this stays, delete what fills it (`understudy cluster status` \
                        shows its size) or raise --quota-backend-bytes of every member, then `etcdctl compact`, `etcdctl defrag --cluster` and \
                        `etcdctl alarm disarm`";
const OUR_CERTIFICATE: &str = "see with `understudy cluster status` whether this node was taken out or its certificate has ended; `understudy cluster \
                               join` with a new token gives it another one";
const LOOK: &str = "`run/agent.log` says more";

/// What is known of it.
#[derive(Debug)]
pub(crate) struct Answering {
    /// When it answered last, or told something unasked.
    last: Timestamp,
    /// The watch has ended, and nothing was listed since.
    watch_ended: bool,
    lost: Option<(Timestamp, String)>,
    /// It refuses this node's renewals, since when, and in which words.
    refuses: Option<(Timestamp, Refusal)>,
    /// That it is lost was told, and not yet that it is back.
    told: bool,
}

/// What is told of it, once each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    /// It does not answer, and how that shows.
    Lost(String),
    /// It answers again.
    Back,
}

impl Answering {
    /// It has answered right now.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            last: now,
            watch_ended: false,
            lost: None,
            refuses: None,
            told: false,
        }
    }

    /// What there is to be told. A watch that breaks off and is opened again within `patience` is no loss.
    pub(crate) fn news(&mut self, now: Timestamp, patience: Duration) -> Option<News> {
        let lost = self.lost().filter(|(since, _)| now.since(*since) >= patience);
        let lost = lost.map(|(_, why)| why.clone());
        match (lost, self.told) {
            (Some(why), false) => {
                self.told = true;
                Some(News::Lost(why))
            }
            // One that only may be lost is not back.
            (None, true) if self.lost().is_none() => {
                self.told = false;
                Some(News::Back)
            }
            _ => None,
        }
    }

    /// Since when it does not answer, and how that shows; `None` while it answers, if only to refuse.
    pub(crate) fn lost(&self) -> Option<&(Timestamp, String)> {
        self.lost.as_ref().filter(|_| self.refuses.is_none())
    }

    /// Since when nothing is heard of what others do, whether it is silent or refuses to tell.
    pub(crate) fn unheard(&self) -> Option<Timestamp> {
        self.lost.as_ref().map(|(since, _)| *since)
    }

    /// Why others may not be heard of, and since when; `None` while the store does all that it is asked to.
    pub(crate) fn silence(&self) -> Option<(Silence, Timestamp)> {
        let refuses = self.refuses.as_ref().map(|(since, _)| (Silence::Refuses, *since));
        refuses.or_else(|| self.unheard().map(|since| (Silence::Lost, since)))
    }

    /// Since when this node can neither decide nor tell anything by it.
    pub(crate) fn of_no_use(&self) -> Option<Timestamp> {
        let refuses = self.refuses.as_ref().map(|(since, _)| *since);
        self.unheard().into_iter().chain(refuses).min()
    }

    /// Since when it refuses what this node has to write, and in which words; `None` while it does it, or nothing is known.
    pub(crate) fn refuses(&self) -> Option<&(Timestamp, Refusal)> {
        self.refuses.as_ref()
    }

    /// Whether what this node writes is written, as far as is known.
    pub(crate) fn takes_writes(&self) -> bool {
        self.of_no_use().is_none()
    }

    /// It wrote what it was asked to. Whether it refused that before.
    pub(crate) fn wrote(&mut self) -> bool {
        self.refuses.take().is_some()
    }

    /// It answered, and refused. Whether it does so only now, and whether that ends a loss.
    pub(crate) fn refused(&mut self, now: Timestamp, refusal: Refusal) -> (bool, bool) {
        let again = self.answered(now);
        let since = self.refuses.as_ref().map_or(now, |(since, _)| *since);
        let news = self
            .refuses
            .as_ref()
            .is_none_or(|(_, before)| before.hint != refusal.hint);
        self.refuses = Some((since, refusal));
        (news, again)
    }

    /// It answered something. Whether that ends a loss: changes that are not heard stay unheard.
    pub(crate) fn answered(&mut self, now: Timestamp) -> bool {
        self.last = now;
        !self.watch_ended && self.lost.take().is_some()
    }

    /// It did not answer something that was asked; `patience` is how long that may be so. Whether it counts as lost only now.
    pub(crate) fn unanswered(&mut self, now: Timestamp, patience: Duration) -> bool {
        let silent = now.since(self.last);
        if self.lost().is_some() || silent < patience {
            return false;
        }
        self.refuses = None;
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
    use super::{Answering, Missing, News, Refusal};
    use model::Timestamp;
    use std::time::Duration;
    use store::session::SessionError;
    use store::{Error, ServerError};

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

    #[test]
    fn a_loss_is_told_once_and_so_is_its_end_and_a_watch_that_broke_off_is_none() {
        let mut store = Answering::new(at(0));
        store.watch_ended(at(10), "it broke off");
        assert_eq!(store.news(at(11), A), None);
        store.heard(at(11));
        assert_eq!(store.news(at(20), A), None);
        assert!(store.unanswered(at(20), A));
        let why = "nothing that was asked was answered for 2s".to_owned();
        assert_eq!(store.news(at(20), A), Some(News::Lost(why)));
        assert_eq!(store.news(at(30), A), None);
        store.answered(at(30));
        assert_eq!(store.news(at(30), A), Some(News::Back));
        assert_eq!(store.news(at(31), A), None);
    }

    fn server(error: ServerError) -> SessionError {
        SessionError::Store(Error::Server(error))
    }

    #[test]
    fn a_store_that_says_no_has_answered_and_is_told_in_its_own_words() {
        let denied = server(ServerError::Denied {
            endpoint: "https://10.0.0.1:2379".into(),
            user: Some("shop".into()),
        });
        let full = server(ServerError::NoSpace {
            endpoint: "https://10.0.0.1:2379".into(),
        });
        for (error, why, hint) in [
            (denied, "does not permit this to user `shop`", "grant the user a role"),
            (full, "has reached its quota", "etcdctl alarm disarm"),
        ] {
            let mut store = Answering::new(at(0));
            let Missing::Consent(refusal) = Missing::of(&error) else {
                panic!("{error} is an answer")
            };
            assert!(refusal.why.contains(why) && refusal.hint.contains(hint), "{refusal:?}");
            for second in 1..100 {
                assert_eq!(store.refused(at(second), refusal.clone()), (second == 1, false));
                // Between them a call that was not answered in time: it is not silent for long.
                assert!(!store.unanswered(at(second), A));
            }
            assert!(store.lost().is_none(), "it answers");
            assert_eq!(store.refuses(), Some(&(at(1), refusal)), "since the first");
            assert!(!store.takes_writes());
            store.answered(at(100));
            assert!(!store.takes_writes(), "that it may be read says nothing of writing");
            assert!(store.wrote() && store.takes_writes());
        }
    }

    #[test]
    fn no_answer_in_time_and_a_broken_connection_are_no_answers() {
        let reason = || "no answer in time".to_owned();
        for error in [
            Error::Unknown { reason: reason() },
            Error::Unavailable { reason: reason() },
            Error::Unsettled { reason: reason() },
            Error::Closed,
        ] {
            assert_eq!(Missing::of(&SessionError::Store(error)), Missing::Answer);
        }
    }

    #[test]
    fn who_may_not_even_watch_is_refused_and_not_unanswered_until_nothing_comes_any_more() {
        let mut store = Answering::new(at(0));
        assert!(store.watch_ended(at(1), "not permitted"));
        let refusal = Refusal {
            why: "not permitted".into(),
            hint: "ask".into(),
        };
        store.refused(at(1), refusal);
        assert!(store.lost().is_none() && store.refuses().is_some() && !store.takes_writes());
        assert_eq!(store.unheard(), Some(at(1)), "what others do is not heard all the same");
        assert_eq!(store.of_no_use(), Some(at(1)));
        assert!(!store.unanswered(at(2), A));
        assert!(store.unanswered(at(3), A), "now it does not even refuse");
        assert!(store.lost().is_some() && store.refuses().is_none());
    }

    #[test]
    fn a_refusal_ends_a_silence() {
        let mut store = Answering::new(at(0));
        assert!(store.unanswered(at(2), A));
        let refusal = Refusal {
            why: "no".into(),
            hint: "ask".into(),
        };
        assert_eq!(store.refused(at(3), refusal), (true, true));
        assert!(store.lost().is_none());
    }
}
