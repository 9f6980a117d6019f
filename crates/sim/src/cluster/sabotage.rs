//! Rules of several machines that are broken on purpose, to see that somebody notices.

use std::fmt;

/// A rule of the takeover protocol to be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterRule {
    /// Nobody stops an active whose session has run out.
    NoGuard,
    /// W is half of D.
    ClaimTooEarly,
    /// A claim takes the epoch over.
    EpochNotRaised,
    /// Deadlines are measured by wall time.
    WallClock,
    /// A deadline runs from the acknowledgement.
    DeadlineFromAck,
    /// Whoever sees a silent session ends it, whether its own writes succeed or not.
    NoHoldOff,
    /// A claim compares no sessions.
    SessionsNotCompared,
    /// A claim does not end the session of the holder that has run out.
    TakeWithoutCondemn,
    /// A renewal is written whatever is there.
    RenewPlainPut,
    /// A holder counts as gone as soon as it is told to stop.
    ReleaseBeforeDead,
    /// An instance may be bound twice.
    BindNotCompared,
    /// After a claim nobody looks whether the own session still covers it.
    DeadlineNotChecked,
    /// Nobody acts in the place of a guard that stands still.
    HungGuardNotNoticed,
    /// A claim does not compare that its slot is not parked.
    ParkNotCompared,
    /// Who is one too many is ended whatever has changed since that was seen.
    CountNotCompared,
    /// Whoever watches goes by whose renewals are to be told, and not by whether that changed meanwhile.
    ScopesNotNumbered,
    /// Nobody is told of an agent that does not tell itself that it is there.
    NewcomersNotTold,
    /// The operator says of a host that is cut off that it is off.
    OperatorLies,
}

impl ClusterRule {
    /// All of them.
    pub const ALL: [ClusterRule; 18] = [
        ClusterRule::NoGuard,
        ClusterRule::ClaimTooEarly,
        ClusterRule::EpochNotRaised,
        ClusterRule::WallClock,
        ClusterRule::DeadlineFromAck,
        ClusterRule::NoHoldOff,
        ClusterRule::SessionsNotCompared,
        ClusterRule::TakeWithoutCondemn,
        ClusterRule::RenewPlainPut,
        ClusterRule::ReleaseBeforeDead,
        ClusterRule::BindNotCompared,
        ClusterRule::DeadlineNotChecked,
        ClusterRule::HungGuardNotNoticed,
        ClusterRule::ParkNotCompared,
        ClusterRule::CountNotCompared,
        ClusterRule::ScopesNotNumbered,
        ClusterRule::NewcomersNotTold,
        ClusterRule::OperatorLies,
    ];

    /// The promises that notice.
    pub fn caught_by(self) -> &'static [&'static str] {
        match self {
            ClusterRule::EpochNotRaised => &["I2"],
            ClusterRule::NoHoldOff => &["L4"],
            ClusterRule::RenewPlainPut => &["I5"],
            ClusterRule::BindNotCompared => &["I7"],
            ClusterRule::ParkNotCompared => &["T11"],
            ClusterRule::CountNotCompared => &["enough are left"],
            ClusterRule::ScopesNotNumbered | ClusterRule::NewcomersNotTold => &["nobody is deaf"],
            ClusterRule::OperatorLies => &["I1", "I6"],
            ClusterRule::NoGuard
            | ClusterRule::ClaimTooEarly
            | ClusterRule::WallClock
            | ClusterRule::DeadlineFromAck
            | ClusterRule::SessionsNotCompared
            | ClusterRule::TakeWithoutCondemn
            | ClusterRule::ReleaseBeforeDead
            | ClusterRule::DeadlineNotChecked
            | ClusterRule::HungGuardNotNoticed => &["I1", "I4", "I6", "I11"],
        }
    }
}

impl fmt::Display for ClusterRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ClusterRule::NoGuard => "there is no guard",
            ClusterRule::ClaimTooEarly => "claims come too early",
            ClusterRule::EpochNotRaised => "a claim does not raise the epoch",
            ClusterRule::WallClock => "deadlines are measured by wall time",
            ClusterRule::DeadlineFromAck => "deadlines run from the acknowledgement",
            ClusterRule::NoHoldOff => "there is no hold-off",
            ClusterRule::SessionsNotCompared => "a claim compares no sessions",
            ClusterRule::TakeWithoutCondemn => "a claim ends no session",
            ClusterRule::RenewPlainPut => "a renewal is a plain put",
            ClusterRule::ReleaseBeforeDead => "a slot is released before its holder is dead",
            ClusterRule::BindNotCompared => "an instance may be bound twice",
            ClusterRule::HungGuardNotNoticed => "a guard that hangs is not noticed",
            ClusterRule::ParkNotCompared => "a claim does not look whether its slot is parked",
            ClusterRule::CountNotCompared => "who is one too many is ended on old news",
            ClusterRule::ScopesNotNumbered => "a scope that changed and changed back is not looked at anew",
            ClusterRule::NewcomersNotTold => "an agent of before is not told of",
            ClusterRule::OperatorLies => "an operator says of a host that it is off, and it is not",
            ClusterRule::DeadlineNotChecked => "the own deadline is not checked after a claim",
        })
    }
}
