//! What happened, for people: the latest events in memory, and a file that outlives the agent.

use crate::clock;
use crate::took::{Took, span};
use api::{Event, EventPage, Failover, FailoverStep, Severity, Step};
use decisions::{Action, Decision, NoteKind, Reason, Takeover};
use model::{ServiceName, ServiceState, Timestamp, WallTime};
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// Events kept in memory: at a failover a minute, a week.
const KEPT: usize = 10_000;
/// The file begins anew past this size; the one before is kept beside it.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// As logs of instances: what happened is told to whoever may ask the agent, not to every user of the machine.
const LOG_MODE: u32 = 0o640;

/// The events of a cluster.
pub(crate) struct Journal {
    events: VecDeque<Event>,
    /// What a write that is under way will mean, by its attempt: several nodes may try at once, and one of them succeeds.
    asked: BTreeMap<u64, Event>,
    took: Took,
    next_seq: u64,
    to_file: std::sync::mpsc::Sender<Vec<u8>>,
    news: tokio::sync::watch::Sender<u64>,
}

impl Journal {
    /// Goes on where the file ends. A file that cannot be read or written costs the memory of a restart, nothing else.
    pub(crate) fn open(path: PathBuf) -> Self {
        let events = read(&path);
        let next_seq = events.back().map_or(1, |event| event.seq + 1);
        let mut took = Took::default();
        events.iter().for_each(|event| took.note(event));
        let (to_file, lines) = std::sync::mpsc::channel();
        let spawned = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || write_lines(&path, &lines));
        if let Err(error) = spawned {
            tracing::warn!(%error, "events are not kept on disk: no thread for it");
        }
        Self {
            events,
            asked: BTreeMap::new(),
            took,
            next_seq,
            to_file,
            news: tokio::sync::watch::Sender::new(next_seq),
        }
    }

    /// How long its failovers took, in words; `None` if none is known.
    pub(crate) fn took(&self, service: &str) -> Option<String> {
        self.took.words(service)
    }

    /// Tells when there are new events: the number that the next one will have.
    pub(crate) fn news(&self) -> tokio::sync::watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Notes a decision, if it is one that people want to read of.
    pub(crate) fn note(&mut self, decision: &Decision) {
        let because = decision.because.to_string();
        let event = match &decision.action {
            Action::Note(note) => {
                let (severity, kind, text) = match (&note.kind, &decision.because) {
                    (NoteKind::NodeLost, Reason::WentDown { node }) => (
                        Severity::Info,
                        "node-down",
                        format!("node {node} was stopped in order (`down`)"),
                    ),
                    _ => sentence(note),
                };
                Event {
                    severity,
                    kind: kind.into(),
                    service: note.service.as_ref().map(ToString::to_string),
                    instance: note.instance.as_ref().map(ToString::to_string),
                    node: note.node.as_ref().map(ToString::to_string),
                    ..self.blank(text, because)
                }
            }
            Action::Start {
                instance,
                node,
                role,
                epoch,
                run,
                earlier,
            } => {
                let how = if run.0 > 1 { "starting again" } else { "starting" };
                let at = epoch.map_or_else(String::new, |epoch| format!(" at epoch {epoch}"));
                let from = match earlier {
                    Some(_) => ", from the declaration that worked last: the one in force has not worked yet",
                    None => "",
                };
                let text = format!("{how} {instance} as {role}{at}{from}");
                self.about(instance, node, "instance-start", text, because)
            }
            Action::Stop { instance, polite, .. } => {
                let text = format!("{} {instance}", if *polite { "stopping" } else { "killing" });
                let mut event = self.blank(text, because);
                event.kind = "instance-stop".into();
                event.service = Some(instance.service().to_string());
                event.instance = Some(instance.to_string());
                event
            }
            // That its holder was promoted, or goes on, says the promotion.
            Action::Write(write) if write.held && !write.claims => return,
            Action::Write(write) => {
                let text = if write.held {
                    format!("{} takes slot {} at epoch {}", write.holder, write.slot, write.epoch)
                } else {
                    format!(
                        "slot {} is released by {} at epoch {}",
                        write.slot, write.holder, write.epoch
                    )
                };
                let kind = if write.held { "slot-taken" } else { "slot-released" };
                let event = self.about(&write.holder, &write.node, kind, text, because);
                self.asked.insert(write.attempt, event);
                return;
            }
            Action::RunHook {
                instance,
                hook,
                epoch,
                active,
                ..
            } => {
                let text = match active {
                    Some(active) => format!("running {hook} of {instance}: {active} is active at epoch {epoch}"),
                    None => format!("running {hook} of {instance} at epoch {epoch}"),
                };
                let mut event = self.blank(text, because);
                event.kind = "hook".into();
                event.service = Some(instance.service().to_string());
                event.instance = Some(instance.to_string());
                event
            }
            Action::Report(takeover) => self.takeover(takeover, because),
            _ => return,
        };
        self.push(event);
    }

    /// Notes something that was not decided by the core: an operator's action, our own processes.
    pub(crate) fn tell(&mut self, severity: Severity, kind: &str, text: String, because: String) {
        let mut event = self.blank(text, because);
        event.severity = severity;
        event.kind = kind.into();
        self.push(event);
    }

    /// Notes what happened to a floating address.
    pub(crate) fn tell_of(&mut self, news: crate::addresses::News) {
        let mut event = self.blank(news.text, news.because);
        event.severity = news.severity;
        event.kind = news.kind.into();
        event.service = Some(news.instance.service().to_string());
        event.instance = Some(news.instance.to_string());
        self.push(event);
    }

    /// A write was answered.
    pub(crate) fn answered(&mut self, attempt: u64, is_written: bool) {
        if let Some(event) = self.asked.remove(&attempt).filter(|_| is_written) {
            self.push(event);
        }
    }

    /// The number of the newest event.
    pub(crate) fn last(&self) -> u64 {
        self.next_seq - 1
    }

    /// Events after a given one, at most `limit` of the oldest of them.
    pub(crate) fn after(&self, after: u64, limit: usize, service: Option<&str>) -> EventPage {
        let wanted =
            |event: &&Event| event.seq > after && service.is_none_or(|name| event.service.as_deref() == Some(name));
        EventPage {
            version: api::VERSION,
            events: self.events.iter().filter(wanted).take(limit).cloned().collect(),
            first_seq: self.events.front().map_or(self.next_seq, |event| event.seq),
        }
    }

    /// What all of them say of failures; `node`: of which node's instances this agent tells, if not of all.
    pub(crate) fn failures(&self, node: Option<&str>) -> analysis::history::History {
        let at = |event: &Event| Some(event.at.parse::<jiff::Timestamp>().ok()?.as_millisecond());
        let events = self.events.iter().filter_map(|event| Some((at(event)?, event)));
        analysis::history::History::of(events, node, clock::wall_now().0)
    }

    /// How each service stood last, as far as events tell, and since when.
    pub(crate) fn stood(&self) -> BTreeMap<ServiceName, (ServiceState, Timestamp)> {
        let mut stood = BTreeMap::new();
        for event in self.events.iter().filter(|event| event.kind == STATE) {
            let Some(service) = event.service.as_ref().and_then(|name| name.parse::<ServiceName>().ok()) else {
                continue;
            };
            let states = [ServiceState::Redundant, ServiceState::Degraded, ServiceState::Down];
            let is = |state: &ServiceState| event.text == state_sentence(service.as_str(), *state);
            let at = event.at.parse::<jiff::Timestamp>().ok();
            let at = at.map(|at| clock::ago(WallTime(at.as_millisecond())));
            if let Some((state, at)) = states.into_iter().find(is).zip(at) {
                stood.insert(service, (state, at));
            }
        }
        stood
    }

    /// The latest events about a name, newest first.
    pub(crate) fn latest_about(&self, name: &str, limit: usize) -> Vec<Event> {
        let is = |field: &Option<String>| field.as_deref() == Some(name);
        let about = |event: &&Event| is(&event.instance) || is(&event.service) || is(&event.node);
        self.events.iter().rev().filter(about).take(limit).cloned().collect()
    }

    fn about(
        &self,
        instance: &model::InstanceId,
        node: &model::NodeName,
        kind: &str,
        text: String,
        because: String,
    ) -> Event {
        Event {
            kind: kind.into(),
            service: Some(instance.service().to_string()),
            instance: Some(instance.to_string()),
            node: Some(node.to_string()),
            ..self.blank(text, because)
        }
    }

    fn blank(&self, text: String, because: String) -> Event {
        Event {
            seq: 0,
            at: clock::shown_wall(clock::wall_now()),
            severity: Severity::Info,
            kind: String::new(),
            service: None,
            instance: None,
            node: None,
            text,
            because,
            failover: None,
        }
    }

    fn takeover(&self, takeover: &Takeover, because: String) -> Event {
        let failover = timeline(takeover);
        let kind = if takeover.planned { "switchover" } else { "failover" };
        let to = &takeover.to;
        let who = match &takeover.from {
            Some(from) if from == to => format!("back to {to}"),
            Some(from) => format!("from {from} to {to}"),
            None => format!("to {to}"),
        };
        let text = format!(
            "{kind} of slot {} {who} at epoch {} took {}",
            takeover.slot,
            takeover.epoch,
            span(failover.total_us)
        );
        Event {
            kind: kind.into(),
            severity: if takeover.planned {
                Severity::Info
            } else {
                Severity::Warning
            },
            service: Some(failover.service.clone()),
            instance: Some(failover.to.clone()),
            failover: Some(failover),
            ..self.blank(text, because)
        }
    }

    fn push(&mut self, mut event: Event) {
        event.seq = self.next_seq;
        self.next_seq += 1;
        match serde_json::to_vec(&event) {
            Ok(mut line) => {
                line.push(b'\n');
                // A writer that died has said so; the events in memory go on.
                let _ = self.to_file.send(line);
            }
            Err(error) => tracing::error!(%error, "an event cannot be written as JSON"),
        }
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        self.took.note(&event);
        self.events.push_back(event);
        self.news.send_replace(self.next_seq);
    }
}

/// A takeover as people see it: steps in microseconds since the first.
pub(crate) fn timeline(takeover: &Takeover) -> Failover {
    let moments = [
        (Step::Detected, Some(takeover.detected)),
        (Step::ConfirmedDead, takeover.confirmed),
        (Step::Claimed, takeover.claimed),
        (Step::Promoted, takeover.promoted),
        (Step::Routed, takeover.routed),
        (Step::FirstAnswer, takeover.answered),
    ];
    let mut steps: Vec<FailoverStep> = moments
        .into_iter()
        .filter_map(|(step, at)| {
            Some(FailoverStep {
                step,
                at_us: at?.0.saturating_sub(takeover.detected.0),
            })
        })
        .collect();
    // One worker of the proxy may serve the first client before the last one has heard of the route.
    steps.sort_by_key(|step| step.at_us);
    Failover {
        service: takeover.slot.service.to_string(),
        slot: takeover.slot.slot,
        from: takeover.from.as_ref().map(ToString::to_string),
        to: takeover.to.to_string(),
        epoch: takeover.epoch.0,
        planned: takeover.planned,
        total_us: steps.iter().map(|step| step.at_us).max().unwrap_or(0),
        steps,
    }
}

/// Events of how a service stands.
const STATE: &str = "service-state";

fn state_sentence(service: &str, state: ServiceState) -> String {
    format!("{service} is {state}")
}

/// The catalogue: severity, name and sentence of each kind of note.
fn sentence(note: &decisions::Note) -> (Severity, &'static str, String) {
    let who = note
        .instance
        .as_ref()
        .map(ToString::to_string)
        .or_else(|| note.service.as_ref().map(ToString::to_string));
    let who = who
        .or_else(|| note.node.as_ref().map(ToString::to_string))
        .unwrap_or_default();
    match &note.kind {
        NoteKind::InstanceDied => (Severity::Warning, "instance-died", format!("{who} died")),
        NoteKind::InstanceUnhealthy => (Severity::Warning, "instance-unhealthy", format!("{who} is unhealthy")),
        NoteKind::InstanceHealthy => (Severity::Info, "instance-healthy", format!("{who} is healthy")),
        NoteKind::StartFailed => (Severity::Warning, "start-failed", format!("a start of {who} failed")),
        NoteKind::Flapping => (
            Severity::Warning,
            "flapping",
            format!(
                "{who} does not stay up: it ended or was ended three times within a minute; it is last in the failover order"
            ),
        ),
        NoteKind::Replaced => (
            Severity::Warning,
            "replaced",
            format!("{who} is replaced by a new instance"),
        ),
        NoteKind::GivenUp => (Severity::Error, "given-up", format!("{who} is given up for now")),
        NoteKind::HookFailed => (Severity::Warning, "hook-failed", format!("a hook of {who} failed")),
        NoteKind::HandedBack => (
            Severity::Error,
            "handed-back",
            format!("a planned change of {who} was taken back: the old active is promoted again"),
        ),
        NoteKind::NotArmed => (Severity::Error, "not-armed", format!("{who} is not let act")),
        NoteKind::SlotReread => (
            Severity::Info,
            "slot-reread",
            format!("the store had a newer record of a slot of {who}: it is written again by that"),
        ),
        NoteKind::StoreFails => (
            Severity::Warning,
            "store-fails",
            format!("a slot of {who} could not be written yet; it is tried again"),
        ),
        NoteKind::StoreFailed => (
            Severity::Error,
            "store-failed",
            format!("a slot of {who} could not be written several times in a row; it is tried again"),
        ),
        NoteKind::PromotionsFail => (Severity::Error, "promotions-fail", format!("promotions of {who} fail")),
        NoteKind::DataHeldBack => (
            Severity::Error,
            "data-held-back",
            format!("{who} waits for the instance that has the data"),
        ),
        NoteKind::ServiceState(state) => {
            let severity = match state {
                ServiceState::Redundant => Severity::Info,
                ServiceState::Degraded => Severity::Warning,
                ServiceState::Down => Severity::Error,
            };
            (severity, STATE, state_sentence(&who, *state))
        }
        NoteKind::RolloutDone => (Severity::Info, "rollout-done", format!("{who} runs as declared")),
        NoteKind::RolloutGivenUp => (
            Severity::Error,
            "rollout-given-up",
            format!(
                "the rollout of {who} was given up; what ran before serves on, and `understudy rollback` goes back"
            ),
        ),
        NoteKind::RolloutStuck => (
            Severity::Warning,
            "rollout-stuck",
            format!("the rollout of {who} waits"),
        ),
        NoteKind::ServiceRemoved => (Severity::Info, "service-removed", format!("{who} is removed")),
        NoteKind::NodeLost => (Severity::Error, "node-lost", format!("node {who} is lost")),
        NoteKind::NodeDrained => (Severity::Info, "node-drained", format!("node {who} is being drained")),
        NoteKind::NodeBack => (Severity::Info, "node-back", format!("node {who} is back")),
        NoteKind::Unplaced => (Severity::Warning, "unplaced", format!("{who} lacks instances")),
    }
}

fn read(path: &Path) -> VecDeque<Event> {
    let mut events = VecDeque::new();
    for path in [previous(path), path.to_owned()] {
        let Ok(file) = std::fs::File::open(&path) else { continue };
        // A torn last line of an agent that was killed is no event.
        let lines = BufReader::new(file).split(b'\n').map_while(Result::ok);
        events.extend(lines.filter_map(|line| serde_json::from_slice::<Event>(&line).ok()));
    }
    while events.len() > KEPT {
        events.pop_front();
    }
    events
}

fn previous(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

fn write_lines(path: &Path, lines: &std::sync::mpsc::Receiver<Vec<u8>>) {
    let open = || {
        let mut options = std::fs::OpenOptions::new();
        options.create(true).append(true).mode(LOG_MODE).open(path)
    };
    let mut told = false;
    let mut file = open().ok();
    while let Ok(line) = lines.recv() {
        if file
            .as_ref()
            .and_then(|file| file.metadata().ok())
            .is_some_and(|meta| meta.len() > FILE_BYTES_MAX)
        {
            let _ = std::fs::rename(path, previous(path));
            file = open().ok();
        }
        let written = match &mut file {
            Some(file) => file.write_all(&line),
            None => Err(std::io::Error::other("it cannot be opened")),
        };
        if let Err(error) = written
            && !told
        {
            told = true;
            tracing::warn!(path = %path.display(), %error, "events are not kept on disk");
        }
    }
}

/// A channel into the main loop.
pub(crate) type Inputs = mpsc::UnboundedSender<crate::input::Input>;

#[cfg(test)]
mod tests {
    use super::Journal;
    use decisions::{Action, Decision, Note, NoteKind, Reason};
    use model::NodeName;

    #[test]
    fn a_node_that_was_taken_down_is_not_told_as_lost() {
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        let mut journal = Journal::open(folder.path().join("events.jsonl"));
        let node = NodeName::new("b").unwrap_or_else(|error| panic!("{error}"));
        for because in [
            Reason::WentDown { node: node.clone() },
            Reason::SessionExpired { node: node.clone() },
        ] {
            let note = Note {
                kind: NoteKind::NodeLost,
                service: None,
                instance: None,
                node: Some(node.clone()),
            };
            journal.note(&Decision {
                action: Action::Note(note),
                because,
            });
        }
        let told = journal.after(0, 10, None).events;
        let told: Vec<(&str, &str)> = told.iter().map(|event| (&*event.kind, &*event.text)).collect();
        assert_eq!(
            told,
            [
                ("node-down", "node b was stopped in order (`down`)"),
                ("node-lost", "node b is lost"),
            ]
        );
    }
}
