//! Why a decision was taken: logged, shown by `understudy explain`, asserted in tests.

use model::{Epoch, HookKind, InstanceId, Millis, NodeName, ServiceName};
use std::fmt;

/// Why something is done or is as it is. `Display` is written for the person on call.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the sentence of each variant in Display is its documentation"
)]
pub enum Reason {
    AgentStarted,
    Declared,
    NotDeclared,
    TooMany {
        wanted: u32,
    },
    TooFew {
        have: u32,
        wanted: u32,
    },
    ProcessEnded {
        instance: InstanceId,
        how: String,
    },
    ChecksFailed {
        instance: InstanceId,
        times: u32,
        last: String,
    },
    ChecksPass {
        instance: InstanceId,
    },
    LivesWithoutCheck {
        after: Millis,
    },
    StartFailed {
        instance: InstanceId,
        error: String,
    },
    NotHealthyInTime {
        instance: InstanceId,
        limit: Millis,
        last: Option<String>,
    },
    BackOff {
        wait: Millis,
        failures: u32,
    },
    NeverHealthy {
        starts: u32,
    },
    ReplacementsFailed {
        replacements: u32,
    },
    RetryDue,
    RetryAsked,
    WaitsForNeed {
        need: ServiceName,
    },
    NeedsAreUp,
    FirstActive {
        slot: u32,
    },
    SlotReleased {
        slot: u32,
    },
    /// It takes it anew: at which epoch it acted, if it did, is not known.
    HadSlot {
        instance: InstanceId,
    },
    /// It has, or had, the slot, and somebody else takes it.
    CannotGoOn {
        instance: InstanceId,
        what: String,
    },
    Released,
    HolderGone {
        instance: InstanceId,
    },
    HolderUnhealthy {
        instance: InstanceId,
        last: String,
    },
    HookFailed {
        instance: InstanceId,
        hook: HookKind,
        error: String,
    },
    Claimed {
        epoch: Epoch,
    },
    PromotedAt {
        epoch: Epoch,
    },
    NewActive {
        instance: InstanceId,
        epoch: Epoch,
    },
    SwitchoverAsked,
    Parked {
        by: String,
        why: String,
    },
    Paused {
        by: String,
        why: String,
    },
    SlotParked {
        slot: u32,
        by: String,
        why: String,
    },
    RolloutNeeds,
    GoesBack,
    DrainAsked,
    DrillAsked,
    BackAsked,
    DownAsked,
    NodeLost {
        node: NodeName,
    },
    SessionEnded {
        node: NodeName,
    },
    SessionExpired {
        node: NodeName,
    },
    WentDown {
        node: NodeName,
    },
    /// A node is lost, and whether it still writes is not known yet.
    AwaitsPowerOff {
        /// Which.
        node: NodeName,
    },
    OwnSessionLost,
    StoodStill,
    SessionOpen {
        node: NodeName,
    },
    HandedOver {
        because: String,
    },
    LeavesAsPlanned {
        instance: InstanceId,
    },
    NotFenced {
        instance: InstanceId,
        error: String,
    },
    /// It is about to get a slot.
    ProofNeeded {
        instance: InstanceId,
    },
    /// It did not pass a standby check after the demotion.
    NotProven {
        instance: InstanceId,
        what: String,
    },
    Told {
        what: String,
    },
    StandbyByRole,
    ColdStandby,
    NotReady {
        what: String,
    },
    StoreFailed {
        error: String,
    },
    SlotTakenByOther {
        instance: InstanceId,
        epoch: Epoch,
        held: bool,
    },
    SlotUnwritten,
    /// An agent came back, and what ran was not looked at since.
    NotCheckedYet {
        instances: u32,
    },
    NotPromoted {
        instance: InstanceId,
        what: String,
    },
    PromotionsFailed {
        times: u32,
        wait: Millis,
    },
    OnlyLastHolderHasData {
        instance: InstanceId,
    },
    Serving {
        serving: u32,
        active: u32,
        ready: u32,
        standby: u32,
    },
    /// More actives are declared than it had, and some of the new slots were never held.
    Grows {
        from: u32,
        serving: u32,
        active: u32,
        ready: u32,
        standby: u32,
    },
    NotAllowedThere {
        node: NodeName,
    },
    RebalanceAsked,
    NoNodeLeft {
        wanted: String,
    },
    Suspected {
        instance: InstanceId,
    },
    Adopted,
    FoundStopped,
    AllReplaced,
    /// It tried what a new file declares.
    TriedInVain {
        instance: InstanceId,
        because: String,
        last: Option<String>,
    },
    /// Its check was changed while it ran and was well, and it has only failed it since, as all others have.
    CheckNeverPassed {
        instance: InstanceId,
        times: u32,
        last: Option<String>,
    },
    /// It took a slot as what a new file declares, and did not keep it.
    TookAndLost {
        instance: InstanceId,
        times: u32,
        last: Option<String>,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::AgentStarted => f.write_str("the agent started"),
            Reason::Declared => f.write_str("the file declares it"),
            Reason::NotDeclared => f.write_str("the file no longer declares it"),
            Reason::TooMany { wanted } => write!(f, "more instances than the {wanted} declared"),
            Reason::TooFew { have, wanted } => {
                write!(f, "{have} of {wanted} declared instances exist")
            }
            Reason::ProcessEnded { instance, how } => {
                write!(f, "the process of {instance} ended: {how}")
            }
            Reason::ChecksFailed { instance, times, last } => {
                write!(
                    f,
                    "{instance} failed {times} {} in a row: {last}",
                    plural(*times, "check")
                )
            }
            Reason::ChecksPass { instance } => write!(f, "{instance} passes its checks"),
            Reason::LivesWithoutCheck { after } => {
                write!(f, "no check is declared and it lives since {after}")
            }
            Reason::StartFailed { instance, error } => {
                write!(f, "{instance} could not be started: {error}")
            }
            Reason::NotHealthyInTime { instance, limit, last } => {
                write!(f, "{instance} was not healthy within {limit}")?;
                match last {
                    Some(last) => write!(f, ", last check: {last}"),
                    None => Ok(()),
                }
            }
            Reason::BackOff { wait, failures } => {
                write!(f, "waits {wait} after {failures} {}", plural(*failures, "failure"))
            }
            Reason::NeverHealthy { starts } => {
                write!(f, "{starts} starts in a row never became healthy")
            }
            Reason::ReplacementsFailed { replacements } => {
                write!(
                    f,
                    "{replacements} {} never became healthy either",
                    plural(*replacements, "replacement")
                )
            }
            Reason::RetryDue => f.write_str("it was given up and the time for another try has come"),
            Reason::RetryAsked => f.write_str("the operator asked for another try"),
            Reason::WaitsForNeed { need } => {
                write!(f, "waits for {need}, which it needs and which is not up")
            }
            Reason::NeedsAreUp => f.write_str("all that it needs is up"),
            Reason::FirstActive { slot } => write!(f, "it is the first active of slot {slot}"),
            Reason::SlotReleased { slot } => write!(f, "slot {slot} had been released and was free"),
            Reason::HadSlot { instance } => write!(f, "{instance} had the slot already and takes it anew"),
            Reason::CannotGoOn { instance, what } => {
                write!(f, "{instance} had the slot and does not take it again: {what}")
            }
            Reason::Released => f.write_str("it was released"),
            Reason::HolderGone { instance } => write!(f, "nothing of {instance} runs any more"),
            Reason::HolderUnhealthy { instance, last } => {
                write!(f, "{instance} is unhealthy: {last}")
            }
            Reason::HookFailed { instance, hook, error } => write!(f, "{hook} of {instance} failed: {error}"),
            Reason::Claimed { epoch } => write!(f, "it holds the slot at epoch {epoch}"),
            Reason::PromotedAt { epoch } => write!(f, "it was promoted at epoch {epoch}"),
            Reason::NewActive { instance, epoch } => {
                write!(f, "{instance} is active at epoch {epoch}")
            }
            Reason::SwitchoverAsked => f.write_str("the operator asked for a switchover"),
            Reason::Parked { by, why } => write!(f, "{by} parked it{}", reason_given(why)),
            Reason::Paused { by, why } => write!(f, "{by} paused all automatic actions{}", reason_given(why)),
            Reason::SlotParked { slot, by, why } => write!(f, "{by} parked slot {slot}{}", reason_given(why)),
            Reason::RolloutNeeds => f.write_str("it runs from an earlier declaration"),
            Reason::GoesBack => f.write_str("the new version was given up, and it goes back to what worked"),
            Reason::DrainAsked => f.write_str("the operator drains the node"),
            Reason::DrillAsked => f.write_str("the operator drills its loss"),
            Reason::BackAsked => f.write_str("the operator put it back"),
            Reason::DownAsked => f.write_str("the operator takes everything down"),
            Reason::NodeLost { node } => write!(f, "node {node} is lost"),
            Reason::SessionEnded { node } => write!(f, "node {node} has no session"),
            Reason::WentDown { node } => write!(f, "the operator took node {node} down in order (`down`)"),
            Reason::SessionExpired { node } => write!(f, "the session of node {node} ran out"),
            Reason::AwaitsPowerOff { node } => write!(
                f,
                "node {node} is lost, and nobody takes its slot before its power is seen to be off or it is back"
            ),
            Reason::OwnSessionLost => f.write_str("this node's session ran out"),
            Reason::StoodStill => {
                f.write_str("it stood still while this node had no session, and nobody took its slot")
            }
            Reason::SessionOpen { node } => write!(f, "node {node} has its session"),
            Reason::LeavesAsPlanned { instance } => {
                write!(f, "the slot of {instance} is being handed over, as planned")
            }
            Reason::NotFenced { instance, error } => write!(f, "{instance} may not act on its node: {error}"),
            Reason::ProofNeeded { instance } => write!(f, "{instance} is about to take over"),
            Reason::NotProven { instance, what } => write!(f, "{instance} could not take over: {what}"),
            Reason::HandedOver { because } if because.is_empty() => f.write_str("it was handed over"),
            Reason::HandedOver { because } => f.write_str(because),
            Reason::Told { what } if what.is_empty() => f.write_str("its node says so"),
            Reason::Told { what } => f.write_str(what),
            Reason::StandbyByRole => f.write_str("every slot has its active"),
            Reason::ColdStandby => f.write_str("a cold standby starts when it takes a slot"),
            Reason::NotReady { what } => f.write_str(what),
            Reason::StoreFailed { error } => write!(f, "the store could not be written: {error}"),
            Reason::SlotTakenByOther { instance, epoch, held } => {
                let how = if *held { "holds" } else { "held" };
                write!(f, "{instance} {how} the slot at epoch {epoch}")
            }
            Reason::NotCheckedYet { instances: 1 } => {
                f.write_str("the agent came back, and 1 instance was not checked since")
            }
            Reason::NotCheckedYet { instances } => {
                write!(
                    f,
                    "the agent came back, and {instances} instances were not checked since"
                )
            }
            Reason::SlotUnwritten => f.write_str("the store has no record of the slot"),
            Reason::NotPromoted { instance, what } => {
                write!(f, "{instance} took the slot and did not come to serve: {what}")
            }
            Reason::PromotionsFailed { times, wait } => {
                write!(f, "{times} promotions in a row failed, the next one waits {wait}")
            }
            Reason::OnlyLastHolderHasData { instance } => {
                write!(
                    f,
                    "{instance} was active last and no standby is known to have all its data"
                )
            }
            Reason::Serving {
                serving,
                active,
                ready,
                standby,
            } => {
                write!(
                    f,
                    "{serving} of {active} actives serve, {ready} of {standby} standbys are ready"
                )
            }
            Reason::Grows {
                from,
                serving,
                active,
                ready,
                standby,
            } => {
                write!(
                    f,
                    "it grows from {from} to {active} actives: {serving} serve so far, {ready} of {standby} standbys are ready"
                )
            }
            Reason::NotAllowedThere { node } => write!(f, "the file keeps it away from node {node}"),
            Reason::RebalanceAsked => f.write_str("the operator wants it where it would be put today"),
            Reason::NoNodeLeft { wanted } => write!(f, "no node is left for it: {wanted}"),
            Reason::Suspected { instance } => write!(f, "the proxy could not reach {instance}"),
            Reason::Adopted => f.write_str("it ran when the agent came back and was adopted"),
            Reason::FoundStopped => f.write_str("nothing of it ran when the agent came up"),
            Reason::AllReplaced => f.write_str("every process runs from the present declaration"),
            Reason::TriedInVain {
                instance,
                because,
                last,
            } => {
                write!(f, "{instance} never became healthy with the new version")?;
                match last {
                    Some(last) => write!(f, ": {last}; {because}"),
                    None => write!(f, ": {because}"),
                }
            }
            Reason::CheckNeverPassed { instance, times, last } => {
                write!(
                    f,
                    "{instance} was well, and has failed its changed check {times} times and never passed it{}; nothing is done to it, for the check may be wrong",
                    last_one(last.as_deref())
                )
            }
            Reason::TookAndLost { instance, times, last } => {
                write!(
                    f,
                    "{instance} took a slot with the new version and did not keep it, {times} times"
                )?;
                match last {
                    Some(last) => write!(f, ": {last}"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl Reason {
    /// The same, where it is clear which instance is meant.
    pub(crate) fn of_the_instance(&self) -> String {
        match self {
            Reason::NotHealthyInTime { limit, last, .. } => {
                let last = last.as_ref().map(|last| format!(", last check: {last}"));
                format!("not healthy within {limit}{}", last.unwrap_or_default())
            }
            Reason::HolderUnhealthy { last, .. } => format!("unhealthy: {last}"),
            Reason::CannotGoOn { what, .. } => format!("it had the slot and does not take it again: {what}"),
            Reason::HookFailed { hook, error, .. } => format!("{hook} failed: {error}"),
            Reason::NotFenced { error, .. } => format!("it may not act on its node: {error}"),
            other => other.to_string(),
        }
    }
}

fn last_one(failure: Option<&str>) -> String {
    failure
        .map(|last| format!("; its last failure: {last}"))
        .unwrap_or_default()
}

fn reason_given(why: &str) -> String {
    match why {
        "" => String::new(),
        why => format!(": {why}"),
    }
}

fn plural(count: u32, noun: &str) -> String {
    if count == 1 {
        noun.to_owned()
    } else {
        format!("{noun}s")
    }
}
