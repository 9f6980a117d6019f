//! Whether the wall clocks of the nodes agree.
//!
//! Nothing that is decided goes by them. But certificates are judged by them, and whoever compares the logs of two nodes is misled. Each renewal of
//! a session says what the clock of its node showed when it was sent; so nobody asks anybody for it.
//!
//! ```text
//! lead of a clock = what it shows − time since this machine's boot, when that was seen        (ours: read; others': the most of a window)
//!
//!     a ──┐
//!     b ──┼── most of the nodes lie within a minute of each other: these are right
//!     c ──┘                                                                              d: an hour ahead: wrong
//! ```
//! A renewal that is seen late makes its clock seem behind, so the one that was seen soonest counts: one renewal in half a minute that comes at
//! once is enough. Where no majority agrees nobody can know who is right, and that is told.

use model::{Millis, NodeName, Timestamp, WallTime};
use std::collections::BTreeMap;
use std::time::Duration;

/// Clocks that differ by more than this are told of. Any network tells the time more exactly.
const APART_MS: i64 = 60_000;
/// And those that were told of until they differ by less than this.
const AGREE_MS: i64 = 30_000;
/// That has to be so for this long: a clock that is corrected may go there in two steps.
const TOLD_AFTER: Duration = Duration::from_secs(5);
/// What was seen in a window and the one before it counts, and no clock is judged before it was seen for one.
const WINDOW: Duration = Duration::from_secs(15);
/// In which it was seen at least so often: who was stopped reads old renewals first when it goes on.
const SEEN_MIN: u32 = 3;
/// Our own is looked at twice a second, and set if it is off by this much between two looks.
const SET_MS: i64 = 2_000;

/// What is known of the clocks.
#[derive(Debug, Default)]
pub(crate) struct Clocks {
    own_lead_ms: Option<i64>,
    /// Bound: nodes of the cluster.
    others: BTreeMap<NodeName, Seen>,
    /// Since when each is wrong, whether that was told, and what was found last.
    wrong: BTreeMap<NodeName, Wrong>,
}

/// A clock that is not right, or of which nobody knows whether it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) since: Timestamp,
    pub(crate) by: By,
    told: bool,
}

/// What is wrong with a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// It is so many milliseconds ahead of most; behind if that is negative.
    Most(i64),
    /// No majority agrees, and so far apart are those that differ most.
    Nobody(u64),
}

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    /// Our own was set forward by so many milliseconds; back if that is negative.
    Set(i64),
    /// A clock is wrong.
    Wrong(NodeName, By),
    /// It is right again, or nothing is known of it any more.
    Right(NodeName),
}

/// What was seen of another's clock: the most that it led by, in a window and the one before.
#[derive(Debug, Clone, Copy)]
struct Seen {
    began: Timestamp,
    lead_ms: i64,
    times: u32,
    before: Option<(i64, u32)>,
    last: Timestamp,
}

impl Clocks {
    /// A renewal of another was seen right now, which was sent when the clock of its node showed `wall`.
    pub(crate) fn seen(&mut self, node: &NodeName, wall: WallTime, now: Timestamp) {
        let lead_ms = lead(wall, now);
        let fresh = Seen {
            began: now,
            lead_ms,
            times: 0,
            before: None,
            last: now,
        };
        let seen = self.others.entry(node.clone()).or_insert(fresh);
        let age = now.since(seen.began);
        if age >= 2 * WINDOW {
            *seen = fresh;
        } else if age >= WINDOW {
            *seen = Seen {
                before: Some((seen.lead_ms, seen.times)),
                ..fresh
            };
        }
        seen.lead_ms = seen.lead_ms.max(lead_ms);
        seen.times = seen.times.saturating_add(1);
        seen.last = now;
    }

    /// Our own shows `wall` right now: judges all of them, anew. Where not all are heard, few are no majority: only our own is looked at.
    pub(crate) fn look(&mut self, me: &NodeName, wall: WallTime, hears_all: bool, now: Timestamp) -> Vec<News> {
        let mut news = Vec::new();
        let own = lead(wall, now);
        let set = self.own_lead_ms.replace(own).map_or(0, |before| own - before);
        if set.abs() >= SET_MS {
            news.push(News::Set(set));
        }
        self.others.retain(|_, seen| now.since(seen.last) < 4 * WINDOW);
        let heard = self.others.iter().filter(|_| hears_all);
        let others = heard.filter_map(|(node, seen)| Some((node, seen.lead()?)));
        let leads: Vec<(&NodeName, i64)> = others.chain([(me, own)]).collect();
        let found: BTreeMap<NodeName, By> = judge(&leads, |node| self.wrong.get(node).is_some_and(|wrong| wrong.told));
        let over: Vec<NodeName> = self
            .wrong
            .keys()
            .filter(|node| !found.contains_key(*node))
            .cloned()
            .collect();
        for node in over {
            if self.wrong.remove(&node).is_some_and(|wrong| wrong.told) {
                news.push(News::Right(node));
            }
        }
        for (node, by) in found {
            let fresh = Wrong {
                since: now,
                by,
                told: false,
            };
            let wrong = self.wrong.entry(node.clone()).or_insert(fresh);
            wrong.by = by;
            if !wrong.told && now.since(wrong.since) >= TOLD_AFTER {
                wrong.told = true;
                news.push(News::Wrong(node, by));
            }
        }
        news
    }

    /// Clocks that are wrong, and were told to be.
    pub(crate) fn wrong(&self) -> impl Iterator<Item = (&NodeName, &Wrong)> {
        self.wrong.iter().filter(|(_, wrong)| wrong.told)
    }
}

impl By {
    /// By how much, at most.
    pub(crate) fn span(self) -> Duration {
        Duration::from_millis(match self {
            By::Most(ms) => ms.unsigned_abs(),
            By::Nobody(ms) => ms,
        })
    }

    /// What is to be said of that clock.
    pub(crate) fn text(self, node: &NodeName) -> String {
        // To the second: no more is known.
        let span = Millis(self.span().as_secs().saturating_mul(1_000));
        match self {
            By::Most(ms) => {
                let where_to = if ms > 0 { "ahead of" } else { "behind" };
                format!("the clock of node {node} is {span} {where_to} those of most nodes")
            }
            By::Nobody(_) => {
                format!("the clock of node {node} and those of others are up to {span} apart, and no majority agrees")
            }
        }
    }
}

impl Seen {
    fn lead(&self) -> Option<i64> {
        let (lead_ms, times) = self.before?;
        (times.saturating_add(self.times) >= SEEN_MIN).then_some(lead_ms.max(self.lead_ms))
    }
}

fn lead(wall: WallTime, now: Timestamp) -> i64 {
    wall.0 - i64::try_from(now.0 / 1_000).unwrap_or(i64::MAX)
}

/// Which clocks are wrong. One that `was` is measured more strictly.
fn judge(leads: &[(&NodeName, i64)], was: impl Fn(&NodeName) -> bool) -> BTreeMap<NodeName, By> {
    let mut sorted: Vec<i64> = leads.iter().map(|(_, lead)| *lead).collect();
    sorted.sort_unstable();
    let within = |least: i64| {
        sorted
            .iter()
            .filter(move |lead| (least..=least + APART_MS).contains(*lead))
    };
    let most = sorted.iter().max_by_key(|least| within(**least).count());
    let Some(agreeing) = most.map(|least| within(*least).copied().collect::<Vec<_>>()) else {
        return BTreeMap::new();
    };
    let apart = sorted[sorted.len() - 1] - sorted[0];
    if 2 * agreeing.len() <= sorted.len() {
        let by = By::Nobody(apart.unsigned_abs());
        return leads.iter().map(|(node, _)| ((*node).clone(), by)).collect();
    }
    let right = agreeing[agreeing.len() / 2];
    let wrong = |(node, lead): &(&NodeName, i64)| {
        let bound = if was(node) { AGREE_MS } else { APART_MS };
        let by = lead - right;
        (by.abs() > bound).then(|| ((*node).clone(), By::Most(by)))
    };
    leads.iter().filter_map(wrong).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;
    /// What all clocks show at boot, as a rule.
    const THEN: i64 = 1_800_000_000_000;

    /// Node a and others, whose clocks are off by so much, and whose renewals are seen so late.
    struct World {
        clocks: Clocks,
        second: u64,
        own_ms: i64,
        others: Vec<(&'static str, i64, u64)>,
        hears_all: bool,
    }

    impl World {
        fn new(others: &[&'static str]) -> Self {
            Self {
                clocks: Clocks::default(),
                second: 1_000,
                own_ms: 0,
                others: others.iter().map(|name| (*name, 0, 2)).collect(),
                hears_all: true,
            }
        }

        fn pass(&mut self, seconds: u64) -> Vec<News> {
            let mut news = Vec::new();
            for _ in 0..seconds {
                self.second += 1;
                let now = Timestamp(self.second * 1_000_000);
                let right = THEN + self.second as i64 * 1_000;
                for (name, off, late) in &self.others {
                    self.clocks.seen(&node(name), WallTime(right + off - *late as i64), now);
                }
                news.extend(
                    self.clocks
                        .look(&node("a"), WallTime(right + self.own_ms), self.hears_all, now),
                );
            }
            news
        }
    }

    #[test]
    fn clocks_that_agree_and_renewals_that_are_late_for_a_while_are_no_news() {
        let mut world = World::new(&["b", "c"]);
        assert_eq!(world.pass(60), []);
        // b is seen ten minutes late for some seconds: what this agent reads after it stood still.
        world.others[0].2 = 600_000;
        assert_eq!(world.pass(8), []);
        world.others[0].2 = 2;
        assert_eq!(world.pass(60), []);
    }

    #[test]
    fn one_that_is_set_wrong_is_told_with_since_when_and_how_much_and_told_again_when_it_is_right() {
        let mut world = World::new(&["b", "c"]);
        world.pass(60);
        world.others[1].1 = HOUR;
        let ahead = News::Wrong(node("c"), By::Most(HOUR - 2));
        assert_eq!(world.pass(10), [ahead]);
        let (wrong, what) = world.clocks.wrong().next().expect("one is wrong");
        assert_eq!((wrong.as_str(), what.since), ("c", Timestamp(1_061_000_000)));
        assert_eq!(
            what.by.text(wrong),
            "the clock of node c is 3599s ahead of those of most nodes"
        );
        world.others[1].1 = 0;
        assert_eq!(world.pass(60), [News::Right(node("c"))]);
        world.others[1].1 = -HOUR;
        let behind = world.pass(60);
        assert!(
            matches!(behind.as_slice(), [News::Wrong(who, By::Most(by))] if who.as_str() == "c" && *by < -HOUR + 1_000)
        );
    }

    #[test]
    fn who_hears_of_few_judges_nobody_and_not_itself_by_one_wrong_clock() {
        let mut world = World::new(&["b"]);
        world.hears_all = false;
        world.others[0].1 = HOUR;
        assert_eq!(world.pass(60), []);
        world.own_ms = HOUR;
        assert_eq!(world.pass(10), [News::Set(HOUR)]);
    }

    #[test]
    fn ones_own_that_is_set_is_told_at_once_and_known_to_be_the_wrong_one() {
        let mut world = World::new(&["b", "c"]);
        world.pass(60);
        world.own_ms = -HOUR;
        let news = world.pass(10);
        assert_eq!(news, [News::Set(-HOUR), News::Wrong(node("a"), By::Most(-HOUR + 2))]);
    }

    #[test]
    fn of_two_nobody_knows_which_is_right() {
        let mut world = World::new(&["b"]);
        world.pass(60);
        world.others[0].1 = HOUR;
        let news = world.pass(10);
        let apart = By::Nobody((HOUR - 2) as u64);
        assert_eq!(news, [News::Wrong(node("a"), apart), News::Wrong(node("b"), apart)]);
        assert!(apart.text(&node("b")).contains("no majority agrees"));
    }

    #[test]
    fn of_one_that_is_gone_nothing_is_said_any_more() {
        let mut world = World::new(&["b", "c"]);
        world.pass(60);
        world.others[1].1 = HOUR;
        world.pass(10);
        world.others.pop();
        assert_eq!(world.pass(70), [News::Right(node("c"))]);
    }

    #[test]
    fn what_was_seen_once_is_not_judged() {
        let mut clocks = Clocks::default();
        for second in 1..30 {
            let now = Timestamp(second * 1_000_000);
            if second < 3 {
                clocks.seen(&node("b"), WallTime(THEN + HOUR), now);
            }
            assert_eq!(
                clocks.look(&node("a"), WallTime(THEN + second as i64 * 1_000), true, now),
                []
            );
        }
    }

    fn node(name: &str) -> NodeName {
        NodeName::new(name).expect("a name")
    }
}
