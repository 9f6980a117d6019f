//! Whether an objective's budget burns too fast.

use super::ledger::{Counts, Ledger};

/// How soon somebody has to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// In working hours.
    Ticket,
    /// Now.
    Page,
}

/// One pair of windows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// The burn rate that both windows must exceed.
    pub rate: f64,
    /// The long window, in seconds.
    pub long: u64,
    /// The short window, in seconds.
    pub short: u64,
    /// What it calls for.
    pub urgency: Urgency,
}

/// The rules of the SRE workbook for 30 days, the most urgent first: they page when 2 % of the budget is gone in an hour or 5 % in six, and ask for a look when
/// 10 % are gone in three days.
pub const RULES: [Rule; 3] = [
    Rule {
        rate: 14.4,
        long: 3_600,
        short: 300,
        urgency: Urgency::Page,
    },
    Rule {
        rate: 6.0,
        long: 21_600,
        short: 1_800,
        urgency: Urgency::Page,
    },
    Rule {
        rate: 1.0,
        long: 259_200,
        short: 21_600,
        urgency: Urgency::Ticket,
    },
];

/// Fewer bad requests than this are chance.
const BAD_MIN: u64 = 10;
/// An alert that fires stays until its short window has been below this share of the rate: it does not flicker at the edge.
const ENDS_BELOW: f64 = 0.9;
const THIRTY_DAYS: u64 = 30 * 86_400;

/// What is bad in the sense of an objective.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// Requests fail; the share that may, 0 to 1.
    Availability(f64),
    /// Requests are slow; the share that may.
    Latency(f64),
}

impl Budget {
    fn share(self) -> f64 {
        match self {
            Self::Availability(share) | Self::Latency(share) => share,
        }
    }

    /// The share of bad requests, and how many there were. Those that failed have no latency.
    fn bad(self, counts: Counts) -> (f64, u64) {
        let (bad, all) = match self {
            Self::Availability(_) => (counts.failed, counts.all),
            Self::Latency(_) => (counts.slow, counts.all.saturating_sub(counts.failed)),
        };
        if all == 0 {
            return (0.0, 0);
        }
        (bad as f64 / all as f64, bad)
    }
}

/// How fast a budget burns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Burn {
    /// The rule that is broken, if one is.
    pub broken: Option<Rule>,
    /// The burn rate of the last hour.
    pub rate: f64,
    /// The share of bad requests in the last hour.
    pub bad: f64,
    /// What is left of the budget of 30 days, 0 to 1; below 0 when it is overdrawn.
    pub left: f64,
}

/// Judges a budget at a moment. `fires` is the rule that was broken when it was judged last.
pub fn judge(ledger: &Ledger, budget: Budget, second: u64, fires: Option<Rule>) -> Burn {
    let share = budget.share().max(f64::MIN_POSITIVE);
    let rate = |window| {
        let (ratio, bad) = budget.bad(ledger.sum(second, window));
        (ratio / share, bad)
    };
    let is_broken = |rule: &&Rule| {
        let ((long, bad), (short, _)) = (rate(rule.long), rate(rule.short));
        long > rule.rate && short > rule.rate && bad >= BAD_MIN
    };
    let still =
        fires.filter(|rule| rate(rule.short).0 > rule.rate * ENDS_BELOW && rate(rule.long).0 > rule.rate * ENDS_BELOW);
    let broken = RULES.iter().find(is_broken).copied();
    // The more urgent of what is broken now and what goes on.
    let broken = match (broken, still) {
        (Some(broken), Some(still)) if still.rate > broken.rate => Some(still),
        (broken, still) => broken.or(still),
    };
    Burn {
        broken,
        rate: rate(3_600).0,
        bad: budget.bad(ledger.sum(second, 3_600)).0,
        left: 1.0 - rate(THIRTY_DAYS).0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 10_000_000;

    /// A service with 100 requests a second that had no failure for three days.
    fn healthy() -> Ledger {
        let mut ledger = Ledger::default();
        for second in START - 259_200..START {
            ledger.note(second, counts(100, 0));
        }
        ledger
    }

    fn counts(all: u64, failed: u64) -> Counts {
        Counts { all, failed, slow: 0 }
    }

    /// After how many seconds of such counts a rule is broken for the first time.
    fn broken_after(each: Counts, rule: Rule, at_most: u64) -> Option<u64> {
        let mut ledger = healthy();
        (1..=at_most).find(|after| {
            ledger.note(START + after - 1, each);
            let only = |rule: &Rule| {
                let both = [rule.long, rule.short].map(|window| {
                    let (ratio, bad) = Budget::Availability(0.001).bad(ledger.sum(START + after - 1, window));
                    ratio > rule.rate * 0.001 && bad >= BAD_MIN
                });
                both == [true, true]
            };
            only(&rule)
        })
    }

    #[test]
    fn a_total_outage_pages_after_52_and_130_seconds() {
        assert_eq!(broken_after(counts(100, 100), RULES[0], 200), Some(52));
        let six_hours = broken_after(counts(100, 100), RULES[1], 200).expect("it pages");
        // To the width of a step of ten seconds: the window of six hours may have a few more good ones in it.
        assert!((130..=131).contains(&six_hours), "{six_hours}");
    }

    #[test]
    fn judging_finds_the_same_and_stops_when_it_is_over() {
        let mut ledger = healthy();
        let mut fires = None;
        let mut told = Vec::new();
        for after in 0..1_200 {
            let second = START + after;
            ledger.note(second, if after < 60 { counts(100, 100) } else { counts(100, 0) });
            let burn = judge(&ledger, Budget::Availability(0.001), second, fires);
            if burn.broken != fires {
                told.push((after + 1, burn.broken.map(|rule| rule.rate)));
            }
            fires = burn.broken;
        }
        assert_eq!(told[0], (52, Some(14.4)));
        // The short window of five minutes has forgotten it.
        let last = told.last().expect("it ends");
        assert!((300..=365).contains(&last.0) && last.1.is_none(), "{told:?}");
        assert_eq!(told.len(), 2, "{told:?}");
    }

    #[test]
    fn a_slow_burn_asks_for_a_look_and_wakes_nobody() {
        let mut ledger = Ledger::default();
        let mut rng = fastrand::Rng::with_seed(7);
        for second in START - 259_200..START {
            // Two of a thousand fail: twice what a budget of 30 days can bear.
            ledger.note(second, counts(100, u64::from(rng.u32(0..10) < 2)));
        }
        let burn = judge(&ledger, Budget::Availability(0.001), START - 1, None);
        assert_eq!(burn.broken.map(|rule| rule.urgency), Some(Urgency::Ticket));
        assert!((burn.left + 1.0).abs() < 0.1, "{burn:?}");
    }

    #[test]
    fn nine_failures_are_chance_and_no_requests_are_no_failure() {
        let mut ledger = Ledger::default();
        assert_eq!(judge(&ledger, Budget::Availability(0.001), START, None).broken, None);
        for second in 0..9 {
            ledger.note(START + second, counts(1, 1));
            assert_eq!(
                judge(&ledger, Budget::Availability(0.001), START + second, None).broken,
                None
            );
        }
        ledger.note(START + 9, counts(1, 1));
        assert!(
            judge(&ledger, Budget::Availability(0.001), START + 9, None)
                .broken
                .is_some()
        );
    }

    #[test]
    fn slow_requests_burn_their_own_budget() {
        let mut ledger = healthy();
        for second in START..START + 3_600 {
            ledger.note(
                second,
                Counts {
                    all: 100,
                    failed: 0,
                    slow: 20,
                },
            );
        }
        let now = START + 3_599;
        assert_eq!(judge(&ledger, Budget::Availability(0.001), now, None).broken, None);
        // 20 % slow where 1 % may be: a rate of 20.
        let burn = judge(&ledger, Budget::Latency(0.01), now, None);
        assert_eq!(burn.broken, Some(RULES[0]));
        assert!((burn.rate - 20.0).abs() < 0.01);
    }
}
