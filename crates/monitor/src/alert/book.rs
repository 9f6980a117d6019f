//! Which alerts fire, since when, and which an operator has silenced.

use super::catalogue::Code;
use super::fingerprint;
use super::judge::Wrong;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What is over for so long in seconds is over: an alert that comes and goes is one that goes on.
const OVER_AFTER_S: u64 = 10;
/// At most so many alerts at a time: in a bigger disaster the first tell enough.
const FIRING_MAX: usize = 1_000;

/// An alert that fires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firing {
    /// Its name that any node makes alike.
    pub fingerprint: String,
    /// What is wrong.
    pub wrong: Wrong,
    /// Since when, in milliseconds since 1970.
    pub since_ms: i64,
    /// It is explained by another one that fires, so nobody is told.
    pub explained: bool,
    /// Until when it is silenced, and by whom and why.
    pub silenced: Option<Silence>,
    /// It has not been so any more since then, in milliseconds since 1970: over, if it does not come back within a few seconds.
    pub quiet_since_ms: Option<i64>,
}

/// An operator's word that an alert, or all of a code, is known for now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// Which code; all if not given.
    pub code: Option<String>,
    /// About what; all if not given.
    pub about: Option<String>,
    /// Until when, in milliseconds since 1970.
    pub until_ms: i64,
    /// Who says so.
    pub by: String,
    /// Why.
    pub because: String,
}

impl Silence {
    /// Whether it covers an alert at a moment.
    pub fn covers(&self, code: &str, about: &str, now_ms: i64) -> bool {
        let fits = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        self.until_ms > now_ms && fits(&self.code, code) && fits(&self.about, about)
    }
}

/// What became of an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It fires now.
    Fired(Firing),
    /// It is over.
    Resolved(Firing),
}

/// What is kept of an alert in the store, so that whoever judges next goes on from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its code.
    pub code: String,
    /// What it is about.
    pub about: String,
    /// Since when, in milliseconds since 1970.
    pub since_ms: i64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Book {
    entries: BTreeMap<(Code, String), State>,
    /// Of another agent that judged before: since when what fires did so.
    before: BTreeMap<String, i64>,
    /// When it was judged last.
    judged_ms: i64,
}

#[derive(Debug)]
struct State {
    wrong: Wrong,
    /// When it was first wrong, in milliseconds since 1970.
    since_ms: i64,
    /// When it was last wrong.
    last_ms: i64,
    fires: bool,
}

impl Book {
    /// Goes on from what another agent kept: what was told as firing is not told anew.
    pub fn go_on(&mut self, kept: impl IntoIterator<Item = Kept>) {
        for one in kept {
            self.before.insert(fingerprint(&one.code, &one.about), one.since_ms);
        }
    }

    /// What another agent kept and has not been seen since is over.
    pub fn settle(&mut self) {
        self.before.clear();
    }

    /// How these services are cannot be known now: what was wrong with them is not over for that.
    pub fn hold(&mut self, services: &BTreeSet<&str>, now_ms: i64) {
        for state in self.entries.values_mut().filter(|state| state.fires) {
            if state
                .wrong
                .service
                .as_deref()
                .is_some_and(|service| services.contains(service))
            {
                state.last_ms = now_ms;
            }
        }
    }

    /// Takes in what is wrong now.
    pub fn update(&mut self, wrong: Vec<Wrong>, now_ms: i64) -> Vec<Change> {
        let mut changes = Vec::new();
        self.judged_ms = now_ms;
        for one in wrong {
            let key = (one.code, one.about.clone());
            if self.entries.len() >= FIRING_MAX && !self.entries.contains_key(&key) {
                continue;
            }
            let fingerprint = fingerprint(one.code.name(), &one.about);
            let state = self.entries.entry(key).or_insert_with(|| State {
                since_ms: now_ms,
                last_ms: now_ms,
                fires: false,
                wrong: one.clone(),
            });
            state.wrong = one;
            state.last_ms = now_ms;
            let known = self.before.remove(&fingerprint);
            let waited = now_ms - state.since_ms;
            if !state.fires && (known.is_some() || waited >= seconds(state.wrong.code.entry().after_s)) {
                state.fires = true;
                state.since_ms = known.unwrap_or(state.since_ms).min(state.since_ms);
                changes.push(Change::Fired(firing(state)));
            }
        }
        self.entries.retain(|_, state| {
            let quiet = now_ms - state.last_ms;
            // One that never fired was nothing; it begins anew when it comes again.
            let over = if state.fires {
                quiet >= seconds(OVER_AFTER_S)
            } else {
                quiet > 0
            };
            if over && state.fires {
                changes.push(Change::Resolved(firing(state)));
            }
            !over
        });
        changes
    }

    /// What fires, the worst first.
    pub fn firing(&self, silences: &[Silence], now_ms: i64) -> Vec<Firing> {
        let keys: BTreeSet<(Code, &str)> = self
            .entries
            .values()
            .filter(|state| state.fires)
            .map(|state| (state.wrong.code, state.wrong.about.as_str()))
            .collect();
        let mut all: Vec<Firing> = self
            .entries
            .values()
            .filter(|state| state.fires)
            .map(|state| {
                let because_of = state.wrong.because_of.as_ref();
                let name = state.wrong.code.name();
                Firing {
                    explained: because_of.is_some_and(|(code, about)| keys.contains(&(*code, about.as_str()))),
                    silenced: silences
                        .iter()
                        .filter(|silence| silence.covers(name, &state.wrong.about, now_ms))
                        .max_by_key(|silence| silence.until_ms)
                        .cloned(),
                    quiet_since_ms: (state.last_ms < self.judged_ms).then_some(state.last_ms),
                    ..firing(state)
                }
            })
            .collect();
        all.sort_by_key(|one| (std::cmp::Reverse(one.wrong.code.entry().severity), one.since_ms));
        all
    }

    /// What is to be kept for whoever judges next.
    pub fn kept(&self) -> Vec<Kept> {
        let firing = self.entries.values().filter(|state| state.fires);
        firing
            .map(|state| Kept {
                code: state.wrong.code.name().to_owned(),
                about: state.wrong.about.clone(),
                since_ms: state.since_ms,
            })
            .collect()
    }
}

fn firing(state: &State) -> Firing {
    Firing {
        fingerprint: fingerprint(state.wrong.code.name(), &state.wrong.about),
        wrong: state.wrong.clone(),
        since_ms: state.since_ms,
        explained: false,
        silenced: None,
        quiet_since_ms: None,
    }
}

fn seconds(seconds: u64) -> i64 {
    i64::try_from(seconds * 1_000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::judge::Stopped;

    fn wrong(code: Code, about: &str, because_of: Option<(Code, &str)>) -> Wrong {
        Wrong {
            code,
            about: about.into(),
            service: Some(about.into()),
            text: format!("{about} is wrong"),
            because_of: because_of.map(|(code, about)| (code, about.to_owned())),
            stopped: Stopped::default(),
        }
    }

    fn words(changes: &[Change]) -> Vec<String> {
        changes
            .iter()
            .map(|change| match change {
                Change::Fired(one) => format!("fired {} since {}", one.wrong.about, one.since_ms),
                Change::Resolved(one) => format!("resolved {}", one.wrong.about),
            })
            .collect()
    }

    #[test]
    fn an_alert_waits_fires_once_and_ends_once() {
        let mut book = Book::default();
        let mut told = Vec::new();
        for second in 0..40 {
            // Down from 5 to 15, with one second of hope.
            let down = (5..15).contains(&second) && second != 12;
            let now = down.then(|| wrong(Code::ServiceDown, "db", None));
            let changes = book.update(now.into_iter().collect(), second * 1_000);
            told.extend(words(&changes).into_iter().map(|word| format!("{second} {word}")));
        }
        assert_eq!(told, ["8 fired db since 5000", "24 resolved db"]);
    }

    #[test]
    fn what_cannot_be_known_now_is_not_over() {
        let mut book = Book::default();
        for second in 0..5 {
            book.update(vec![wrong(Code::ServiceDown, "db", None)], second * 1_000);
        }
        let unknown = book.firing(&[], 5_000)[0].wrong.service.clone().unwrap_or_default();
        for second in 5..60 {
            book.hold(&[unknown.as_str()].into(), second * 1_000);
            assert_eq!(book.update(Vec::new(), second * 1_000), []);
        }
        book.update(Vec::new(), 69_000);
        assert_eq!(book.firing(&[], 69_000), []);
    }

    #[test]
    fn what_is_not_so_any_more_says_so_before_it_is_over() {
        let mut book = Book::default();
        for second in 0..5 {
            book.update(vec![wrong(Code::ServiceDown, "db", None)], second * 1_000);
        }
        assert_eq!(book.firing(&[], 4_500)[0].quiet_since_ms, None);
        assert_eq!(book.update(Vec::new(), 5_000), [], "it may come back");
        assert_eq!(book.firing(&[], 5_500)[0].quiet_since_ms, Some(4_000));
        book.update(vec![wrong(Code::ServiceDown, "db", None)], 6_000);
        assert_eq!(book.firing(&[], 6_500)[0].quiet_since_ms, None);
    }

    #[test]
    fn what_heals_in_time_is_never_told() {
        let mut book = Book::default();
        for second in 0..40 {
            let now = (second % 4 < 3).then(|| wrong(Code::ServiceDown, "db", None));
            assert_eq!(book.update(now.into_iter().collect(), second * 1_000), []);
        }
    }

    #[test]
    fn the_next_one_who_judges_goes_on_without_telling_anew() {
        let mut book = Book::default();
        for second in 0..100 {
            book.update(vec![wrong(Code::NodeLost, "b", None)], second * 1_000);
        }
        let mut next = Book::default();
        next.go_on(book.kept());
        let changes = next.update(
            vec![wrong(Code::NodeLost, "b", None), wrong(Code::NodeLost, "c", None)],
            100_000,
        );
        // It is known to fire, since when it did for the first one; `c` is new and waits.
        assert_eq!(words(&changes), ["fired b since 0"]);
        assert_eq!(next.kept(), book.kept());
    }

    #[test]
    fn silences_have_an_end_and_explained_alerts_say_so() {
        let mut book = Book::default();
        let all = || {
            vec![
                wrong(Code::ServiceDown, "db", None),
                wrong(Code::ServiceDown, "web", Some((Code::ServiceDown, "db"))),
            ]
        };
        for second in 0..5 {
            book.update(all(), second * 1_000);
        }
        let silence = Silence {
            code: Some("service-down".into()),
            about: Some("db".into()),
            until_ms: 60_000,
            by: "ann".into(),
            because: "known".into(),
        };
        let firing = book.firing(std::slice::from_ref(&silence), 5_000);
        let seen: Vec<_> = firing
            .iter()
            .map(|one| (one.wrong.about.as_str(), one.explained, one.silenced.is_some()))
            .collect();
        assert_eq!(seen, [("db", false, true), ("web", true, false)]);
        assert!(book.firing(&[silence], 60_000)[0].silenced.is_none());
    }
}
