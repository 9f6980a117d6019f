//! Keeps the database small: what to do next, decided from a view, one step at a time.
//!
//! | when | step |
//! |---|---|
//! | a database is full (NOSPACE) | compact to now, defragment each member once, then end the alarm |
//! | history is older than it has to be | compact to what was current then (etcd does so itself; this notices if it does not) |
//! | half of a database is holes, and every member is well | defragment one follower; a leader first hands over |
//!
//! A member serves nobody while it is defragmented, so it happens to one at a time and, unless the database is full and
//! nothing can be written anyway, only while all others are well.

use super::judge::{Choice, choose_leader};
use super::view::{Seen, View};
use crate::client::Alarm;
use model::{Revision, Timestamp};
use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

/// What is kept, and what is worth a defragmentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The members' quota, in bytes.
    pub quota_bytes: u64,
    /// From this part of it on, people are told; in percent.
    pub tell_at_percent: u64,
    /// How long history is kept.
    pub keep_history: Duration,
    /// Holes of fewer bytes are left alone.
    pub holes_bytes_min: u64,
    /// At least this long between two defragmentations.
    pub defragment_every: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            quota_bytes: super::super::config::QUOTA_BYTES,
            tell_at_percent: 60,
            keep_history: super::super::config::KEEP_HISTORY,
            holes_bytes_min: 32 * 1024 * 1024,
            defragment_every: Duration::from_secs(600),
        }
    }
}

impl Policy {
    /// How full a member's database is, in percent of its quota.
    pub fn percent(&self, bytes: u64) -> u64 {
        bytes.saturating_mul(100) / self.quota_bytes.max(1)
    }
}

/// What was seen and done before.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Revisions, and when they were current; oldest first. Bounded: no two within a tenth of the history that is kept.
    revisions: VecDeque<(Timestamp, Revision)>,
    defragmented: Option<Timestamp>,
    /// To where it was compacted because the database was full.
    emptied: Option<Revision>,
    /// Who was defragmented since then. A small database always has some holes: without this, one would be defragmented for ever, and the alarm never ended.
    given_back: BTreeSet<String>,
    /// The leader was to hand over since then. One that leads again, or still, is defragmented as it is: nothing can be written anyway.
    handed_over: bool,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Rest,
    /// Forget what came before this revision.
    Compact {
        /// The oldest that is kept.
        oldest: Revision,
        /// Whether the space is needed at once.
        physical: bool,
    },
    /// Give this member's holes back to its disk.
    Defragment {
        /// Its name.
        name: String,
        /// Where it is asked.
        endpoint: String,
    },
    /// Let another member lead, so that the leader can be defragmented.
    MoveLeader {
        /// Its id.
        to: u64,
        /// Its name.
        name: String,
    },
    /// End the alarm: there is room again.
    Disarm {
        /// Which.
        alarm: Alarm,
    },
    /// The database is full and nothing is left that could be given back.
    Full,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Rest => f.write_str("nothing has to be done"),
            Step::Compact { oldest, .. } => write!(f, "forget revisions before {}", oldest.0),
            Step::Defragment { name, .. } => write!(f, "defragment `{name}`"),
            Step::MoveLeader { name, .. } => write!(f, "let `{name}` lead, so that the leader can be defragmented"),
            Step::Disarm { .. } => f.write_str("end the alarm, there is room again"),
            Step::Full => {
                f.write_str("the database is full of data in use: delete some, or raise the quota of every member")
            }
        }
    }
}

/// A full database is believed to have room again below this part of its quota, in percent.
const ROOM_PERCENT: u64 = 90;
/// With a full database, holes of this part of it are worth a defragmentation, in percent.
const HOLES_PERCENT_WHEN_FULL: u64 = 10;

impl Memory {
    /// Notes what is current. To be called with every view.
    pub fn note(&mut self, view: &View, policy: &Policy, now: Timestamp) {
        let Some(revision) = newest(view) else { return };
        let between = policy.keep_history / 10;
        if self.revisions.back().is_none_or(|(at, _)| now.since(*at) >= between) {
            self.revisions.push_back((now, revision));
        }
        // Without a majority nobody is asked for alarms: that none is known does not say that it is over. So it is for a moment whenever the
        // leader hands over, and a round that began anew each time would have it hand over again.
        if view.has_quorum() && !view.is_full() {
            self.emptied = None;
            self.given_back.clear();
            self.handed_over = false;
        }
    }

    /// Notes that a step was carried out.
    pub fn done(&mut self, step: &Step, now: Timestamp) {
        match step {
            Step::Compact { oldest, physical } => {
                if *physical {
                    self.emptied = Some(*oldest);
                }
                self.revisions.retain(|(_, revision)| revision > oldest);
            }
            Step::Defragment { name, .. } => {
                self.defragmented = Some(now);
                if self.emptied.is_some() {
                    self.given_back.insert(name.clone());
                }
            }
            Step::MoveLeader { .. } => self.handed_over = self.emptied.is_some(),
            _ => {}
        }
    }
}

/// Decides the next step. Pure: the same view and memory give the same step.
pub fn next_step(view: &View, policy: &Policy, memory: &Memory, now: Timestamp) -> Step {
    // Without a quorum nothing can be compacted, and whoever is left must not stop to tidy up.
    if !view.has_quorum() || view.leader().is_none() {
        return Step::Rest;
    }
    if view.is_full() {
        return make_room(view, policy, memory);
    }
    let old = memory
        .revisions
        .iter()
        .rev()
        .find(|(at, _)| now.since(*at) >= policy.keep_history);
    if let Some((_, revision)) = old {
        return Step::Compact {
            oldest: *revision,
            physical: false,
        };
    }
    let rested = memory
        .defragmented
        .is_none_or(|at| now.since(at) >= policy.defragment_every);
    let all_well = view.members.iter().all(|seen| seen.votes() && view.up_to_date(seen));
    if !rested || !all_well {
        return Step::Rest;
    }
    let worth = |seen: &&Seen| {
        let size = seen.status.as_ref().map_or(0, |status| status.db_bytes);
        seen.reclaimable() >= policy.holes_bytes_min && seen.reclaimable() * 2 >= size
    };
    defragment(view, view.members.iter().filter(worth))
}

fn make_room(view: &View, policy: &Policy, memory: &Memory) -> Step {
    let Some(emptied) = memory.emptied else {
        return Step::Compact {
            oldest: newest(view).unwrap_or_default(),
            physical: true,
        };
    };
    debug_assert!(
        emptied.0 > 0 || newest(view).is_none(),
        "what was compacted was a revision"
    );
    let answering = || view.members.iter().filter(|seen| seen.healthy());
    let size = |seen: &Seen| seen.status.as_ref().map_or(0, |status| status.db_bytes);
    let worth = |seen: &&Seen| {
        seen.reclaimable() > 0
            && seen.reclaimable() * 100 >= size(seen) * HOLES_PERCENT_WHEN_FULL
            && !memory.given_back.contains(seen.name())
    };
    match defragment(view, answering().filter(worth)) {
        Step::Rest => {}
        Step::MoveLeader { .. } if memory.handed_over => {
            let leading = view.leader().and_then(|seen| Some((seen.name(), seen.endpoint()?)));
            return leading.map_or(Step::Rest, |(name, endpoint)| Step::Defragment {
                name: name.to_owned(),
                endpoint: endpoint.to_owned(),
            });
        }
        step => return step,
    }
    let alarm = view
        .alarms
        .iter()
        .find(|alarm| alarm.kind == crate::client::AlarmKind::NoSpace);
    match alarm {
        Some(alarm) if answering().all(|seen| policy.percent(size(seen)) < ROOM_PERCENT) => {
            Step::Disarm { alarm: *alarm }
        }
        _ => Step::Full,
    }
}

/// The follower with the most to give back; the leader only after it has handed over, unless it is alone.
fn defragment<'a>(view: &View, worth: impl Iterator<Item = &'a Seen>) -> Step {
    let leader = view.leader().map(|seen| seen.member.id);
    let (leading, mut following): (Vec<&Seen>, Vec<&Seen>) = worth.partition(|seen| Some(seen.member.id) == leader);
    following.sort_by_key(|seen| (std::cmp::Reverse(seen.reclaimable()), seen.name()));
    let step = |seen: &Seen| {
        seen.endpoint().map(|endpoint| Step::Defragment {
            name: seen.name().to_owned(),
            endpoint: endpoint.to_owned(),
        })
    };
    if let Some(step) = following.first().and_then(|seen| step(seen)) {
        return step;
    }
    let Some(leading) = leading.first() else {
        return Step::Rest;
    };
    match choose_leader(view, &[leading.name().to_owned()].into()) {
        Choice::Move { to, name } => Step::MoveLeader { to, name },
        // It is alone, or the only one that is well: its clients wait a moment, or it stays full.
        _ => step(leading).unwrap_or(Step::Rest),
    }
}

fn newest(view: &View) -> Option<Revision> {
    let answers = view.members.iter().filter_map(|seen| seen.status.as_ref().ok());
    answers.map(|status| status.revision).max()
}

#[cfg(test)]
mod tests {
    use super::super::view::made_up::view;
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn one_follower_at_a_time_then_the_leader_hands_over() {
        let (policy, mut memory) = (Policy::default(), Memory::default());
        let holes = |view: View, name: &str| view.change(name, |status| status.db_bytes = 200 * MIB);
        let step = |view: &View, memory: &Memory, s: u64| next_step(view, &policy, memory, at(s)).to_string();

        assert_eq!(step(&view("a* b c"), &memory, 0), "nothing has to be done");
        let all = holes(holes(holes(view("a* b c"), "a"), "b"), "c");
        assert_eq!(step(&all, &memory, 0), "defragment `b`");
        memory.done(&next_step(&all, &policy, &memory, at(0)), at(0));
        assert_eq!(step(&all, &memory, 599), "nothing has to be done", "not so soon again");
        let two = holes(holes(view("a* b c"), "a"), "c");
        assert_eq!(step(&two, &memory, 600), "defragment `c`");
        let leader = holes(view("a* b c"), "a");
        assert_eq!(
            step(&leader, &memory, 1_300),
            "let `b` lead, so that the leader can be defragmented"
        );
        assert_eq!(step(&holes(view("a*"), "a"), &memory, 1_300), "defragment `a`", "alone");
    }

    #[test]
    fn nobody_is_defragmented_while_a_member_is_unwell_or_still_learns() {
        let (policy, memory) = (Policy::default(), Memory::default());
        for members in ["a* b c!", "a* b c?", "a b c"] {
            let view = view(members).change("b", |status| status.db_bytes = 200 * MIB);
            assert_eq!(next_step(&view, &policy, &memory, at(0)), Step::Rest, "{members}");
        }
        let lagging = view("a* b c")
            .change("b", |status| status.db_bytes = 200 * MIB)
            .change("c", |status| status.raft_applied = 0);
        assert_eq!(next_step(&lagging, &policy, &memory, at(0)), Step::Rest);
    }

    #[test]
    fn history_is_compacted_to_what_was_current_when_it_became_old() {
        let (policy, mut memory) = (Policy::default(), Memory::default());
        let revision = |n| view("a* b c").change("a", |status| status.revision = Revision(n));
        for (s, n) in [(0, 1_000), (10, 1_001), (100, 1_100), (200, 1_200), (299, 1_300)] {
            memory.note(&revision(n), &policy, at(s));
        }
        assert_eq!(next_step(&revision(1_300), &policy, &memory, at(299)), Step::Rest);
        let step = next_step(&revision(1_300), &policy, &memory, at(405));
        assert_eq!(step, compact(1_100, false));
        memory.done(&step, at(405));
        assert_eq!(
            next_step(&revision(1_300), &policy, &memory, at(405)),
            Step::Rest,
            "once"
        );
    }

    #[test]
    fn a_full_database_is_compacted_defragmented_and_only_then_in_use_again() {
        let policy = Policy {
            quota_bytes: 100 * MIB,
            ..Policy::default()
        };
        let mut memory = Memory::default();
        let sizes = |a, b, used| {
            view("a* b c!")
                .change("a", |status| {
                    (status.db_bytes, status.db_used_bytes) = (a * MIB, used * MIB);
                })
                .change("b", |status| {
                    (status.db_bytes, status.db_used_bytes) = (b * MIB, used * MIB);
                })
                .full("b")
        };
        let mut play = |view: &View| {
            memory.note(view, &policy, at(1));
            let step = next_step(view, &policy, &memory, at(1));
            memory.done(&step, at(1));
            step
        };
        assert_eq!(play(&sizes(100, 101, 100)), compact(900, true));
        assert!(matches!(play(&sizes(100, 101, 20)), Step::Defragment { name, .. } if name == "b"));
        assert!(matches!(play(&sizes(100, 21, 20)), Step::MoveLeader { name, .. } if name == "b"));
        assert!(matches!(play(&sizes(21, 21, 20)), Step::Disarm { .. }));
        assert_eq!(play(&sizes(98, 98, 97)), Step::Full, "nothing to give back");
        assert_eq!(play(&view("a* b c!")), Step::Rest, "and it is over");
    }

    #[test]
    fn a_full_database_with_little_in_use_is_in_use_again_although_each_member_keeps_some_holes() {
        let policy = Policy::default();
        let mut memory = Memory::default();
        // 56 KiB, of which 12 KiB are holes however often it is defragmented: seen with etcd 3.4.
        let holes = |view: View, name: &str| {
            view.change(name, |status| {
                (status.db_bytes, status.db_used_bytes) = (56 * 1024, 44 * 1024);
            })
        };
        let full = |leader: &str| holes(holes(holes(view(leader), "a"), "b"), "c").full("b");
        let mut play = |view: &View| {
            memory.note(view, &policy, at(1));
            let step = next_step(view, &policy, &memory, at(1));
            memory.done(&step, at(1));
            step.to_string()
        };
        assert_eq!(play(&full("a b* c")), "forget revisions before 900");
        assert_eq!(play(&full("a b* c")), "defragment `a`");
        assert_eq!(play(&full("a b* c")), "defragment `c`");
        assert!(play(&full("a b* c")).starts_with("let `"), "the leader hands over");
        assert_eq!(play(&full("a* b c")), "defragment `b`");
        assert_eq!(play(&full("a* b c")), "end the alarm, there is room again");
        assert_eq!(play(&holes(view("a* b c"), "a")), "nothing has to be done");
        assert_eq!(
            play(&full("a* b c")),
            "forget revisions before 900",
            "the next time anew"
        );
        assert_eq!(play(&full("a* b c")), "defragment `b`");
        assert_eq!(play(&full("a* b c")), "defragment `c`");
        assert!(play(&full("a* b c")).starts_with("let `"));
        assert_eq!(play(&full("a* b c")), "defragment `a`", "it leads all the same");
        assert_eq!(play(&full("a* b c")), "end the alarm, there is room again");
    }

    #[test]
    fn a_leader_hands_over_once_although_there_is_no_majority_for_a_moment_meanwhile() {
        let policy = Policy::default();
        let mut memory = Memory::default();
        let holes = |view: View, name: &str| {
            view.change(name, |status| {
                (status.db_bytes, status.db_used_bytes) = (56 * 1024, 44 * 1024);
            })
        };
        let full = || holes(holes(holes(view("a b* c"), "a"), "b"), "c").full("b");
        let mut play = |view: &View| {
            memory.note(view, &policy, at(1));
            let step = next_step(view, &policy, &memory, at(1));
            memory.done(&step, at(1));
            step.to_string()
        };
        for step in ["forget", "defragment `a`", "defragment `c`", "let `a` lead"] {
            assert!(play(&full()).starts_with(step), "{step}");
        }
        // As it is seen then: who does not answer yet, and no alarm, for nobody was asked.
        assert_eq!(play(&view("a! b* c!")), "nothing has to be done");
        assert_eq!(play(&full()), "defragment `b`", "it was asked already");
        assert_eq!(play(&full()), "end the alarm, there is room again");
        assert_eq!(play(&view("a b* c")), "nothing has to be done");
        assert!(play(&full()).starts_with("forget"), "the next time anew");
    }

    fn compact(oldest: u64, physical: bool) -> Step {
        Step::Compact {
            oldest: Revision(oldest),
            physical,
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }
}
