//! Rules broken on purpose, to see that the invariants notice.
//!
//! Each is broken where the core meets the world, so that to the world it looks exactly as if the core did not keep the rule:
//! the product has no switch to turn its safety off.

use decisions::{Event, ProbeOutcome};
use std::fmt;

/// A rule that is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokenRule {
    /// A slot is claimed while its last holder still runs.
    ClaimWhileOldTreeRuns,
    /// A claim does not raise the epoch.
    EpochNotRaised,
    /// The promote hook runs before the claim is on disk.
    PromoteBeforeCommit,
    /// Clients are sent to an instance before its promote hook is through.
    RouteBeforePromoted,
    /// One standby takes two slots.
    OneStandbyForTwoSlots,
    /// A standby counts as ready before its follow hook is through.
    FollowNotAwaited,
    /// An instance that passes its checks is restarted.
    RestartOfHealthy,
    /// A claim counts although somebody else wrote the slot first.
    ConflictIgnored,
}

impl BrokenRule {
    /// All of them.
    pub const ALL: [BrokenRule; 8] = [
        BrokenRule::ClaimWhileOldTreeRuns,
        BrokenRule::EpochNotRaised,
        BrokenRule::PromoteBeforeCommit,
        BrokenRule::RouteBeforePromoted,
        BrokenRule::OneStandbyForTwoSlots,
        BrokenRule::FollowNotAwaited,
        BrokenRule::RestartOfHealthy,
        BrokenRule::ConflictIgnored,
    ];

    /// The invariants one of which must notice.
    pub fn caught_by(self) -> &'static [&'static str] {
        match self {
            BrokenRule::ClaimWhileOldTreeRuns => &["I6", "I1"],
            BrokenRule::EpochNotRaised => &["I2"],
            BrokenRule::PromoteBeforeCommit | BrokenRule::RouteBeforePromoted | BrokenRule::ConflictIgnored => &["I8"],
            BrokenRule::OneStandbyForTwoSlots => &["I7"],
            BrokenRule::FollowNotAwaited => &["I9"],
            BrokenRule::RestartOfHealthy => &["no unasked restart"],
        }
    }

    /// What the core is told instead of what happened.
    pub(crate) fn bend_event(self, event: &mut Event) {
        if let (
            BrokenRule::RestartOfHealthy,
            Event::Probed {
                instance,
                standby: false,
                outcome,
                ..
            },
        ) = (self, event)
            && instance.number() == 1
            && *outcome == ProbeOutcome::Pass
        {
            *outcome = ProbeOutcome::Fail("so it is claimed".into());
        }
    }
}

impl fmt::Display for BrokenRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BrokenRule::ClaimWhileOldTreeRuns => "a slot is claimed while its last holder still runs",
            BrokenRule::EpochNotRaised => "a claim does not raise the epoch",
            BrokenRule::PromoteBeforeCommit => "the promote hook runs before the claim is on disk",
            BrokenRule::RouteBeforePromoted => "clients are sent to an instance before its promote hook is through",
            BrokenRule::OneStandbyForTwoSlots => "one standby takes two slots",
            BrokenRule::FollowNotAwaited => "a standby counts as ready before its follow hook is through",
            BrokenRule::RestartOfHealthy => "an instance that passes its checks is restarted",
            BrokenRule::ConflictIgnored => "a claim counts although somebody else wrote the slot first",
        })
    }
}
