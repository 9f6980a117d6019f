//! What happened, in the operator's words: time, what was done, because of what.

use crate::fault::Fault;
use decisions::{Action, Decision, Event, Note, NoteKind, ProbeOutcome, Takeover};
use model::{HookKind, Role, Timestamp};
use std::collections::VecDeque;
use std::fmt::Write as _;

/// The lines of a run, at most so many of the last ones.
#[derive(Debug)]
pub(crate) struct Transcript {
    lines: VecDeque<(Timestamp, Line)>,
    keep: usize,
    /// What the core was told is written down too.
    events: bool,
    /// Time is shown from here.
    pub(crate) zero: Timestamp,
}

#[derive(Debug)]
enum Line {
    Fault(String),
    Note(String),
    Event(Event),
    Decision(Decision),
}

impl Transcript {
    pub(crate) fn new(keep: usize, events: bool) -> Self {
        Self {
            lines: VecDeque::new(),
            keep,
            events,
            zero: Timestamp(0),
        }
    }

    pub(crate) fn injected(&mut self, now: Timestamp, fault: &Fault) {
        self.push(now, Line::Fault(fault.to_string()));
    }

    pub(crate) fn told(&mut self, now: Timestamp, event: &Event) {
        let routine = matches!(
            event,
            Event::Tick
                | Event::Probed {
                    outcome: ProbeOutcome::Pass,
                    ..
                }
        );
        if self.events && !routine {
            self.push(now, Line::Event(event.clone()));
        }
    }

    pub(crate) fn decided(&mut self, now: Timestamp, decision: Decision) {
        // An extra check is nothing that anybody notices.
        if !matches!(decision.action, Action::ProbeNow { standby: false, .. }) {
            self.push(now, Line::Decision(decision));
        }
    }

    /// Somebody looked.
    pub(crate) fn note(&mut self, now: Timestamp, what: String) {
        self.push(now, Line::Note(what));
    }

    /// Forgets what was, and counts time from now on.
    pub(crate) fn begin_here(&mut self, now: Timestamp) {
        self.lines.clear();
        self.zero = now;
    }

    /// The last lines.
    pub(crate) fn last(&self, count: usize) -> Vec<String> {
        let skip = self.lines.len().saturating_sub(count);
        self.lines
            .iter()
            .skip(skip)
            .map(|(at, line)| self.words(*at, line))
            .collect()
    }

    fn push(&mut self, now: Timestamp, line: Line) {
        if self.lines.len() == self.keep {
            self.lines.pop_front();
        }
        self.lines.push_back((now, line));
    }

    fn words(&self, at: Timestamp, line: &Line) -> String {
        let micros = at.since(self.zero).as_micros();
        let time = format!("{}.{:03}s", micros / 1_000_000, micros % 1_000_000 / 1_000);
        match line {
            Line::Fault(what) => format!("{time:<8} * {what}"),
            Line::Note(what) => format!("{time:<8} = {what}"),
            Line::Event(event) => format!("{time:<8}   ({event:?})"),
            Line::Decision(decision) => format!("{time:<8}   {}", decision_in_words(decision)),
        }
    }
}

fn decision_in_words(decision: &Decision) -> String {
    let because = &decision.because;
    match &decision.action {
        Action::Report(takeover) => takeover_in_words(takeover),
        Action::Answer { request, answer } => match answer {
            Ok(takeover) => format!("answer {request}: {} holds {}", takeover.to, takeover.slot),
            Err(refusal) => format!("answer {request}: {refusal}"),
        },
        action => format!("{}  because {because}", action_in_words(action)),
    }
}

fn action_in_words(action: &Action) -> String {
    match action {
        Action::Create { instance, node } => format!("create {instance} on {node}"),
        Action::Forget { instance, .. } => format!("forget {instance}"),
        Action::Start {
            instance,
            node,
            role: Role::Active,
            epoch,
            ..
        } => format!(
            "start {instance} on {node} as active, epoch {}",
            epoch.unwrap_or_default()
        ),
        Action::Start {
            instance,
            node,
            earlier: Some(_),
            ..
        } => format!("start {instance} on {node} as what worked last"),
        Action::Start { instance, node, .. } => format!("start {instance} on {node}"),
        Action::Prepare { instance, .. } => format!("look {instance} over"),
        Action::Stop {
            instance, polite: true, ..
        } => format!("stop {instance}"),
        Action::Stop { instance, .. } => format!("kill {instance}"),
        Action::RunHook {
            instance,
            hook,
            epoch,
            active,
            ..
        } => match (hook, active) {
            (HookKind::Promote, _) => format!("promote {instance}, epoch {epoch}"),
            (HookKind::Demote, _) => format!("demote {instance}, epoch {epoch}"),
            (HookKind::Follow, Some(active)) => format!("let {instance} follow {active}, epoch {epoch}"),
            (HookKind::Follow, None) => format!("let {instance} follow, epoch {epoch}"),
        },
        Action::ProbeNow {
            instance,
            standby: false,
        } => format!("check {instance}"),
        Action::ProbeNow {
            instance,
            standby: true,
        } => format!("ask whether {instance} can take over"),
        Action::AskProof { instance, .. } => format!("ask for a check of {instance}"),
        Action::Rebind { instance, epoch, .. } => format!("let {instance} go on, epoch {epoch}"),
        Action::Arm { instance, epoch, .. } => format!("arm the guard for {instance}, epoch {epoch}"),
        Action::Retire { instance, node } => format!("ask node {node} to take {instance} away"),
        Action::TellLeft { instance, node } => format!("tell node {node} that no client is at {instance}"),
        Action::AskRenew { instance, node } => format!("ask node {node} to start {instance} anew"),
        Action::AskMove { slot, node, .. } => format!("ask node {node} to move {slot} on"),
        Action::Part { instance, shut: false } => {
            format!("ask the clients of {instance} to come back on new connections")
        }
        Action::Part { instance, shut: true } => format!("keep new connections to the address of {instance} back"),
        Action::Rejoin { instance } => format!("let new connections to {instance} in again"),
        Action::Write(write) if write.held && write.previous.as_ref() == Some(&write.holder) && write.served => {
            format!(
                "note that {} serves {}, epoch {}",
                write.holder, write.slot, write.epoch
            )
        }
        Action::Write(write) if write.held => {
            format!("claim {} for {}, epoch {}", write.slot, write.holder, write.epoch)
        }
        Action::Write(write) => format!("release {}, last held by {}", write.slot, write.holder),
        Action::Route { service, targets, .. } if targets.is_empty() => format!("hold the clients of {service}"),
        Action::Route { service, targets, .. } => {
            let names: Vec<String> = targets.iter().map(|target| target.instance.to_string()).collect();
            format!("send the clients of {service} to {}", names.join(" "))
        }
        Action::Unroute { service } => format!("close the address of {service}"),
        Action::Note(note) => note_in_words(note),
        Action::AllStopped => "everything is stopped".into(),
        Action::GiveUp { service, .. } => format!("write that this version of {service} is given up"),
        Action::TryAgain { service } => format!("write that this version of {service} may be tried again"),
        Action::Rebalanced { service } => format!("{service} is where it would be put today"),
        Action::Report(_) | Action::Answer { .. } => String::new(),
    }
}

fn note_in_words(note: &Note) -> String {
    let mut who = String::new();
    if let Some(instance) = &note.instance {
        let _ = write!(who, "{instance}");
    } else if let Some(service) = &note.service {
        let _ = write!(who, "{service}");
    } else if let Some(node) = &note.node {
        let _ = write!(who, "node {node}");
    }
    let what = match &note.kind {
        NoteKind::InstanceDied => "died".into(),
        NoteKind::InstanceUnhealthy => "is unhealthy".into(),
        NoteKind::InstanceHealthy => "is healthy".into(),
        NoteKind::StartFailed => "did not start".into(),
        NoteKind::Flapping => "flaps".into(),
        NoteKind::Replaced => "is replaced".into(),
        NoteKind::GivenUp => "is given up".into(),
        NoteKind::HookFailed => "has a failed hook".into(),
        NoteKind::HandedBack => "is handed back".into(),
        NoteKind::NotArmed => "is not let act".into(),
        NoteKind::SlotReread => "is written by what the store has".into(),
        NoteKind::StoreFails => "could not be written yet".into(),
        NoteKind::StoreFailed => "could not be written".into(),
        NoteKind::PromotionsFail => "cannot be promoted".into(),
        NoteKind::DataHeldBack => "is held back".into(),
        NoteKind::ServiceState(state) => format!("is {state}"),
        NoteKind::RolloutDone => "is rolled out".into(),
        NoteKind::RolloutStuck => "cannot be rolled out further".into(),
        NoteKind::RolloutGivenUp => "is rolled out no further".into(),
        NoteKind::ServiceRemoved => "is removed".into(),
        NoteKind::NodeLost => "is lost".into(),
        NoteKind::NodeDrained => "is being emptied".into(),
        NoteKind::NodeBack => "is back".into(),
        NoteKind::Unplaced => "has no node for an instance".into(),
    };
    format!("{who} {what}")
}

fn takeover_in_words(takeover: &Takeover) -> String {
    let end = takeover.answered.or(takeover.routed).or(takeover.promoted);
    let took = end.unwrap_or(takeover.detected).since(takeover.detected);
    let kind = if takeover.planned { "switchover" } else { "failover" };
    let from = match &takeover.from {
        Some(from) if *from != takeover.to => format!(" from {from}"),
        _ => String::new(),
    };
    format!(
        "{kind} of {}{from} to {} took {}.{:01}ms  because {}",
        takeover.slot,
        takeover.to,
        took.as_millis(),
        took.as_micros() % 1_000 / 100,
        takeover.because
    )
}
