//! Whether the guard does its duty, and what is done if it does not.
//!
//! ```text
//!            soft deadline passed          GUARD_ACTS later               the hard one passed, or may go on
//!   quiet ────────────────────────▶ overdue ───────────────▶ frozen by us ────────────────────────▶ another guard
//!     ▲                                │                         │
//!     └── all that is armed stands still or has ended, as it says┘            no answer for GUARD_SILENT: another guard
//! ```
//! Freezing what should stand still anyway does no harm. That the guard hangs is only concluded when it had until the hard deadline to do
//! its duty, or when it answers no heartbeat: it has nothing to do that takes longer. What we froze in its place goes on only when a guard
//! that is awake has armed it anew.

use model::{Mark, SlotId, Timing};
use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

/// The guard freezes within microseconds of the soft deadline, and says so. If it has not after this long, we freeze.
pub const GUARD_ACTS: Duration = Duration::from_millis(30);
/// A guard that answers no heartbeat for this long hangs.
pub const GUARD_SILENT: Duration = Duration::from_millis(1_500);

/// Something that has to do with the guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuardEvent {
    /// The moment asked for by [`GuardWatch::next_wakeup`] has come. What the guard said before is handed in first.
    Tick,
    /// It was asked to keep a slot.
    Armed(SlotId),
    /// It need not keep it any more.
    Disarmed(SlotId),
    /// It says that what it keeps of a slot stands still, or has ended.
    Still(SlotId),
    /// It says that it let a slot go on.
    GoesOn(SlotId),
    /// The soft deadline has passed: everything armed must stand still, and the guard say so.
    MustStandStill,
    /// A renewal was acknowledged: what stood still may go on.
    MayGoOn,
    /// The agent goes round, and the guard is asked whether it does.
    Asked,
    /// It answered.
    Answered,
    /// It is gone, or another one is there: nothing is known of it.
    Gone,
}

/// Something for the agent to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardAction {
    /// Freeze everything armed, in the guard's place.
    Freeze,
    /// End it; another one is started. Until that has armed everything anew it stands still.
    Replace(Hangs),
}

/// Why a guard counts as hung.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hangs {
    /// It did not act at the soft deadline.
    DidNotAct,
    /// It answers no heartbeat.
    Silent,
}

impl fmt::Display for Hangs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Hangs::DidNotAct => "the guard did not act at the soft deadline",
            Hangs::Silent => "the guard answers no heartbeat",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overdue {
    /// We freeze then.
    Freeze(Mark),
    /// We froze; then the guard is replaced.
    Replace(Mark),
}

/// Watches one guard after the other.
#[derive(Debug, Clone)]
pub struct GuardWatch {
    /// From the soft deadline to the hard one.
    rest: Duration,
    armed: BTreeSet<SlotId>,
    still: BTreeSet<SlotId>,
    overdue: Option<Overdue>,
    /// Since when a heartbeat is not answered.
    asked: Option<Mark>,
    actions: VecDeque<GuardAction>,
}

impl GuardWatch {
    /// Nothing is armed.
    pub fn new(timing: &Timing) -> Self {
        let (soft, hard) = (timing.soft_deadline.duration(), timing.hard_deadline.duration());
        Self {
            rest: hard.saturating_sub(soft),
            armed: BTreeSet::new(),
            still: BTreeSet::new(),
            overdue: None,
            asked: None,
            actions: VecDeque::new(),
        }
    }

    /// Takes in one event.
    pub fn handle(&mut self, event: GuardEvent, now: Mark) {
        match event {
            GuardEvent::Tick => self.look(now),
            GuardEvent::Armed(slot) => {
                self.still.remove(&slot);
                self.armed.insert(slot);
            }
            GuardEvent::Disarmed(slot) => {
                self.armed.remove(&slot);
                self.still.remove(&slot);
            }
            GuardEvent::Still(slot) => drop(self.still.insert(slot)),
            GuardEvent::GoesOn(slot) => drop(self.still.remove(&slot)),
            GuardEvent::MustStandStill => {
                if !self.all_still() && self.overdue.is_none() {
                    self.overdue = Some(Overdue::Freeze(now.later(GUARD_ACTS)));
                }
            }
            GuardEvent::MayGoOn => {
                if let Some(Overdue::Replace(_)) = self.overdue.take() {
                    self.replace(Hangs::DidNotAct);
                }
            }
            GuardEvent::Asked => match self.asked {
                Some(asked) if now.waited_for(asked) >= GUARD_SILENT => self.replace(Hangs::Silent),
                _ => drop(self.asked.get_or_insert(now)),
            },
            GuardEvent::Answered => self.asked = None,
            GuardEvent::Gone => self.forget(),
        }
    }

    /// The next thing to do, if any.
    pub fn poll(&mut self) -> Option<GuardAction> {
        self.actions.pop_front()
    }

    /// When to hand in [`GuardEvent::Tick`] next: as soon as either clock gets there.
    pub fn next_wakeup(&self) -> Option<Mark> {
        self.overdue.map(|overdue| match overdue {
            Overdue::Freeze(at) | Overdue::Replace(at) => at,
        })
    }

    fn all_still(&self) -> bool {
        self.armed.is_subset(&self.still)
    }

    fn look(&mut self, now: Mark) {
        if self.overdue.is_some() && self.all_still() {
            self.overdue = None;
        }
        match self.overdue {
            Some(Overdue::Freeze(at)) if has_come(at, now) => {
                self.actions.push_back(GuardAction::Freeze);
                self.overdue = Some(Overdue::Replace(at.later(self.rest)));
            }
            Some(Overdue::Replace(at)) if has_come(at, now) => self.replace(Hangs::DidNotAct),
            _ => {}
        }
    }

    fn replace(&mut self, why: Hangs) {
        self.forget();
        self.actions.push_back(GuardAction::Replace(why));
    }

    fn forget(&mut self) {
        self.overdue = None;
        self.asked = None;
        self.still.clear();
    }
}

/// On either clock: acting early does no harm, and late it does.
fn has_come(at: Mark, now: Mark) -> bool {
    now.boot_ns >= at.boot_ns || now.raw_ns >= at.raw_ns
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Profile, ServiceName};

    fn slot(number: u32) -> SlotId {
        let service = ServiceName::new("db").unwrap_or_else(|_| unreachable!("a good name"));
        SlotId { service, slot: number }
    }

    fn at(ms: u64) -> Mark {
        Mark::default().later(Duration::from_millis(ms))
    }

    fn watch() -> (GuardWatch, u64) {
        let timing = Profile::Lan.timing();
        let mut watch = GuardWatch::new(&timing);
        watch.handle(GuardEvent::Armed(slot(0)), at(0));
        watch.handle(GuardEvent::Armed(slot(1)), at(0));
        (watch, timing.hard_deadline.0 - timing.soft_deadline.0)
    }

    fn actions(watch: &mut GuardWatch, now: Mark) -> Vec<GuardAction> {
        watch.handle(GuardEvent::Tick, now);
        std::iter::from_fn(|| watch.poll()).collect()
    }

    #[test]
    fn a_guard_that_says_in_time_that_all_stands_still_is_left_alone() {
        let (mut watch, rest) = watch();
        watch.handle(GuardEvent::MustStandStill, at(1_000));
        assert_eq!(watch.next_wakeup(), Some(at(1_030)));
        watch.handle(GuardEvent::Still(slot(0)), at(1_001));
        watch.handle(GuardEvent::Still(slot(1)), at(1_029));
        assert_eq!(actions(&mut watch, at(1_030)), []);
        assert_eq!(actions(&mut watch, at(1_031 + rest)), []);
        assert_eq!(watch.next_wakeup(), None);
    }

    #[test]
    fn one_that_does_not_is_stood_in_for_and_replaced_at_the_hard_deadline() {
        let (mut watch, rest) = watch();
        watch.handle(GuardEvent::MustStandStill, at(1_000));
        watch.handle(GuardEvent::Still(slot(0)), at(1_001));
        assert_eq!(actions(&mut watch, at(1_029)), []);
        assert_eq!(actions(&mut watch, at(1_030)), [GuardAction::Freeze]);
        assert_eq!(actions(&mut watch, at(1_029 + rest)), []);
        let replace = GuardAction::Replace(Hangs::DidNotAct);
        assert_eq!(actions(&mut watch, at(1_030 + rest)), [replace]);
        assert_eq!(watch.next_wakeup(), None);
    }

    #[test]
    fn one_that_acts_late_stays_and_one_that_was_stood_in_for_does_not_let_go_on() {
        let (mut watch, rest) = watch();
        watch.handle(GuardEvent::MustStandStill, at(1_000));
        assert_eq!(actions(&mut watch, at(1_040)), [GuardAction::Freeze]);
        let mut late = watch.clone();
        late.handle(GuardEvent::Still(slot(0)), at(1_050));
        late.handle(GuardEvent::Still(slot(1)), at(1_050));
        assert_eq!(actions(&mut late, at(2_000 + rest)), []);
        // A renewal came before the hard deadline, and what we froze is known to nobody but us.
        watch.handle(GuardEvent::MayGoOn, at(1_060));
        assert_eq!(actions(&mut watch, at(1_060)), [GuardAction::Replace(Hangs::DidNotAct)]);
    }

    #[test]
    fn one_that_answers_no_heartbeat_is_replaced() {
        let (mut watch, _) = watch();
        for ms in [0, 500, 1_000, 1_499] {
            watch.handle(GuardEvent::Asked, at(ms));
            assert_eq!(actions(&mut watch, at(ms)), []);
        }
        watch.handle(GuardEvent::Answered, at(1_499));
        watch.handle(GuardEvent::Asked, at(2_000));
        watch.handle(GuardEvent::Asked, at(3_499));
        assert_eq!(actions(&mut watch, at(3_499)), []);
        watch.handle(GuardEvent::Asked, at(3_500));
        assert_eq!(actions(&mut watch, at(3_500)), [GuardAction::Replace(Hangs::Silent)]);
    }

    #[test]
    fn where_nothing_is_armed_nothing_is_expected() {
        let mut watch = GuardWatch::new(&Profile::Lan.timing());
        watch.handle(GuardEvent::MustStandStill, at(1_000));
        assert_eq!(watch.next_wakeup(), None);
    }
}
