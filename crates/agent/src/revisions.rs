//! Which applied files are known to have worked, and where a rollback goes.
//!
//! A revision worked when every service ran as its file says and passed its checks. That is written once, by whoever places instances,
//! told to every agent, and read for the history, for a rollback, and by the next agent, which must not start a broken file where a good one
//! is known.

use crate::agent::Agent;
use crate::clock;
use crate::executor::chain;
use crate::input::Input;
use api::Severity;
use api::record::{self, Applied};
use decisions::Event;
use model::{Timestamp, WallTime};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use store::{Compare, Op, Store, Txn};

/// A store that did not take it is asked again after this long.
const WRITE_AGAIN: Duration = Duration::from_secs(5);

/// Whether it is written that the revision in force worked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Worked {
    /// It has not worked yet, as far as is known here.
    NotYet,
    /// It is being written.
    Asked,
    /// It is in the store.
    Written,
}

/// When which revision worked first.
pub(crate) type WorkedAt = BTreeMap<u64, WallTime>;

impl Agent {
    /// Writes down that the revision in force works, once it does.
    pub(crate) fn note_worked(&mut self) {
        let Some(applied) = self.applied.as_ref().filter(|_| self.worked == Worked::NotYet) else {
            return;
        };
        let decides = self.clustered.is_none() || self.core.is_controller();
        if !decides || self.applying || self.down_by.is_some() || !self.core.works() {
            return;
        }
        self.worked = Worked::Asked;
        let revision = applied.revision;
        let (store, inputs) = (Arc::clone(&self.store), self.inputs.clone());
        tokio::spawn(async move {
            let key = record::worked_key(revision);
            let value = clock::wall_now().0.to_string();
            let txn = Txn::new().when(Compare::absent(&*key)).then(Op::put(&*key, value));
            let written = match store.txn(txn).await {
                // Somebody else wrote it before: it worked.
                Ok(result) => Some(result.succeeded),
                Err(error) => {
                    tracing::warn!(revision, error = %chain(&error), "that the file works cannot be written down");
                    tokio::time::sleep(WRITE_AGAIN).await;
                    None
                }
            };
            let _ = inputs.send(Input::Worked { revision, written });
        });
    }

    /// It was written that a revision worked (for the first time, or before), or it could not be.
    pub(crate) fn worked(&mut self, revision: u64, written: Option<bool>) {
        if self.applied.as_ref().is_none_or(|applied| applied.revision != revision) {
            return;
        }
        self.worked = match written {
            // Tried again with whatever happens next.
            None => Worked::NotYet,
            Some(_) => Worked::Written,
        };
        if written == Some(true) {
            let text = format!("revision {revision} works: every service runs as its file says");
            let because = "all of their processes run from it and pass their checks".to_owned();
            self.journal.tell(Severity::Info, "revision-worked", text, because);
        }
    }
}

impl Agent {
    /// The store says that a revision worked, as another agent found out.
    pub(crate) fn worked_seen(&mut self, revision: u64, now: Timestamp) {
        let is_in_force = self
            .applied
            .as_ref()
            .is_some_and(|applied| applied.revision == revision);
        if is_in_force && self.worked != Worked::Written {
            self.worked = Worked::Written;
            self.core.handle(Event::Works, now);
        }
    }
}

/// Reads when which revision worked first.
pub(crate) async fn read_worked(store: &dyn Store) -> Result<WorkedAt, store::Error> {
    let (entries, _) = store.list(record::WORKED).await?;
    let read = |entry: store::Entry| {
        let revision = record::worked_of_key(&entry.key)?;
        let at = String::from_utf8(entry.value).ok()?.parse().ok()?;
        Some((revision, WallTime(at)))
    };
    Ok(entries.into_iter().filter_map(read).collect())
}

/// Where a rollback goes: the last revision that worked and says something else than the one in force. That one is the newest. Whoever
/// rolled back did not want what was in force then: a second rollback does not bring it back.
pub(crate) fn way_back<'a>(history: &'a [Applied], worked: &WorkedAt) -> Option<&'a Applied> {
    let in_force = history.iter().max_by_key(|applied| applied.revision)?;
    history
        .iter()
        .filter(|applied| worked.contains_key(&applied.revision) && !says_the_same(applied, in_force))
        .filter(|applied| !was_left(applied, history, worked))
        .max_by_key(|applied| applied.revision)
}

/// Whether somebody rolled back from what a revision says, after it, to what worked: who went to what did not said nothing of where he came from.
fn was_left(applied: &Applied, history: &[Applied], worked: &WorkedAt) -> bool {
    let works = |one: &Applied| {
        let same = |other: &&Applied| worked.contains_key(&other.revision) && says_the_same(one, other);
        history.iter().any(|other| same(&other))
    };
    let before = |revision: u64| {
        let earlier = history.iter().filter(move |other| other.revision < revision);
        earlier.max_by_key(|other| other.revision)
    };
    history
        .iter()
        .filter(|back| back.how.starts_with("rollback") && back.revision > applied.revision && works(back))
        .filter_map(|back| before(back.revision))
        .any(|left| left.revision >= applied.revision && says_the_same(left, applied))
}

/// Whether two revisions declare the same: a comment more makes no other file.
pub(crate) fn says_the_same(one: &Applied, other: &Applied) -> bool {
    one.cluster == other.cluster && Agent::folder_of(&one.path) == Agent::folder_of(&other.path)
}

/// Why there is no way back.
pub(crate) fn no_way_back(history: &[Applied]) -> (String, Option<String>) {
    if history.len() < 2 {
        return ("there is no earlier revision to go back to".into(), None);
    }
    (
        "no earlier revision is known to have worked and says something else than the one in force".into(),
        Some(
            "`understudy history` lists all of them; `understudy rollback REVISION` goes to one of your choice".into(),
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(revision: u64, marker: &str) -> Applied {
        let text = format!("[service.web]\ncommand = [\"sleep\", \"{marker}\"]\n");
        Applied {
            revision,
            at: WallTime(0),
            by: "ann".into(),
            how: "apply".into(),
            cluster: spec::parse(&text, "web.toml").unwrap().cluster,
            text,
            path: "/etc/web.toml".into(),
            judged: true,
        }
    }

    fn back(history: &[Applied], worked: &[u64]) -> Option<u64> {
        let worked = worked.iter().map(|revision| (*revision, WallTime(1))).collect();
        way_back(history, &worked).map(|applied| applied.revision)
    }

    #[test]
    fn a_rollback_goes_to_the_last_revision_that_worked_and_says_something_else() {
        let broken_and_back = [applied(1, "good"), applied(2, "broken"), applied(3, "good")];
        assert_eq!(back(&broken_and_back[..2], &[1]), Some(1));
        // A second one: what is in force already is no way back, and what never worked is none either.
        assert_eq!(back(&broken_and_back, &[1, 3]), None);
        assert_eq!(back(&broken_and_back, &[1]), None);
        let twice = [applied(1, "one"), applied(2, "two"), applied(3, "broken")];
        assert_eq!(back(&twice, &[1, 2]), Some(2));
        assert_eq!(back(&twice, &[1]), Some(1));
        assert_eq!(back(&twice, &[]), None, "nobody guesses");
    }

    #[test]
    fn a_second_rollback_does_not_bring_back_what_the_first_one_left() {
        let back_to = |revision: u64, to: &str, marker: &str| Applied {
            how: format!("rollback to {to}"),
            ..applied(revision, marker)
        };
        let mut history = vec![applied(1, "one"), applied(2, "two"), back_to(3, "1", "one")];
        assert_eq!(back(&history, &[1, 2, 3]), None);
        // Applied again and well, it is what worked last.
        history.push(applied(4, "two"));
        history.push(applied(5, "broken"));
        assert_eq!(back(&history, &[1, 2, 3, 4]), Some(4));
        history.push(back_to(6, "4", "two"));
        assert_eq!(back(&history, &[1, 2, 3, 4, 6]), Some(3));
    }

    #[test]
    fn who_goes_back_to_what_never_worked_by_name_gets_back_to_what_did() {
        let back_to = |revision: u64, to: &str, marker: &str| Applied {
            how: format!("rollback to {to}"),
            ..applied(revision, marker)
        };
        let mut history = vec![applied(1, "good"), applied(2, "bad"), back_to(3, "1", "good")];
        history.push(back_to(4, "2", "bad"));
        assert_eq!(back(&history, &[1, 3]), Some(3));
        history.push(applied(5, "worse"));
        assert_eq!(back(&history, &[1, 3]), Some(3));
    }

    #[test]
    fn a_comment_more_makes_no_other_file() {
        let mut commented = applied(2, "one");
        commented.text.push_str("# looked at\n");
        assert_eq!(back(&[applied(1, "one"), commented], &[1, 2]), None);
    }
}
