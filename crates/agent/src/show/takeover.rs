//! How long it takes at worst until the slots of a lost node are held elsewhere, and what that is made of.

use model::Timing;
use std::time::Duration;

/// A write of the store takes no longer than this where its timing fits: for as long as none was measured.
const COMMIT_ASSUMED: Duration = Duration::from_millis(20);

/// What it is reckoned from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace<'a> {
    pub(crate) timing: &'a Timing,
    /// The longest that a write of this node took lately, if any was acknowledged.
    pub(crate) commit: Option<Duration>,
}

/// Within how long somebody of `in_line` nodes has taken the slots of a lost node, in a clause: `within 752ms, promotion on top (…)`.
pub(super) fn within(pace: Pace<'_>, in_line: u32) -> String {
    let Pace { timing, commit } = pace;
    // In whole milliseconds, so that whoever adds up what is said comes to the same.
    let write = millis(commit.unwrap_or(COMMIT_ASSUMED)).duration();
    let first = timing.node_loss_worst(write, true);
    let last = match in_line {
        0 | 1 => String::new(),
        n => format!(
            " by the first in line, {} by the last of {n}",
            millis(first + timing.turn_of(n - 1))
        ),
    };
    let (election, silence) = (timing.after_election(), write + timing.observer_wait());
    let (wait, writes) = if election > silence {
        let election = millis(election);
        (
            format!("{election} for an election of the store, if its leader is lost with it"),
            "a write",
        )
    } else {
        (format!("{} of silence", millis(timing.observer_wait())), "two writes")
    };
    let each = if writes == "a write" { "" } else { " each" };
    let write = match commit {
        Some(longest) => format!("{}{each}, the longest that this node measured lately", millis(longest)),
        None => format!("{}{each}, assumed, for this node measured none yet", millis(write)),
    };
    let stagger = match in_line {
        0 | 1 => String::new(),
        _ => format!(", {} for each who is before one in line", timing.rank_stagger),
    };
    format!(
        "within {}{last}, promotion on top ({wait}, {writes} of {write}{stagger})",
        millis(first)
    )
}

/// Never less than it is: what is begun counts as whole.
fn millis(span: Duration) -> model::Millis {
    model::Millis(u64::try_from(span.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Millis;
    use model::timing::Profile;

    fn said(timing: &Timing, commit_us: Option<u64>, in_line: u32) -> String {
        let commit = commit_us.map(Duration::from_micros);
        within(Pace { timing, commit }, in_line)
    }

    #[test]
    fn what_was_measured_counts_and_not_what_is_assumed() {
        let fast = Profile::Fast.timing();
        // W of `fast` is 706.4 ms: 700 ms on a clock that is a thousandth too slow, by one that is a thousandth too fast, and 5 ms.
        assert_eq!(
            said(&fast, Some(38_000), 1),
            "within 783ms, promotion on top (707ms of silence, two writes of 38ms each, the longest that this node measured lately)"
        );
        assert_eq!(
            said(&fast, None, 1),
            "within 747ms, promotion on top (707ms of silence, two writes of 20ms each, assumed, for this node measured none yet)"
        );
    }

    #[test]
    fn each_who_is_before_one_in_line_has_its_time() {
        let fast = Profile::Fast.timing();
        assert_eq!(
            said(&fast, Some(1_200), 3),
            "within 711ms by the first in line, 831ms by the last of 3, promotion on top (707ms of silence, two writes of 2ms each, \
             the longest that this node measured lately, 60ms for each who is before one in line)"
        );
    }

    #[test]
    fn an_election_that_takes_longer_than_the_silence_is_named() {
        let slow = Timing {
            election: Millis(1_000),
            ..Profile::Fast.timing()
        };
        assert_eq!(
            said(&slow, Some(10_000), 2),
            "within 1.25s by the first in line, 1.31s by the last of 2, promotion on top (1.24s for an election of the store, if its leader is \
             lost with it, a write of 10ms, the longest that this node measured lately, 60ms for each who is before one in line)"
        );
    }
}
