//! What `up` says while services come up.

use super::up::{Signals, second_ctrl_c};
use super::view::{End, SECOND_CTRL_C};
use super::{Error, Session, blocked};
use crate::client::Client;
use crate::feed::{self, News};
use crate::place::{Life, life};
use crate::render::{clean, span};
use api::Status;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Without anything new for so long, it is said what is being waited for.
const SAY_WAITING_EVERY: Duration = Duration::from_secs(5);
/// A problem that stands so long is not just the start.
const PROBLEM_LASTS: Duration = Duration::from_secs(3);

/// How the wait for redundancy ended.
pub(super) enum Progress {
    Redundant(Box<Status>),
    TimedOut(Box<Status>),
    /// What is lacking does not come before somebody does something.
    Blocked(Box<Status>),
    Ended(End),
}

/// Tells each service as it becomes redundant, until all are.
pub(super) async fn until_redundant(
    session: &Session,
    client: &Client,
    signals: &mut Signals,
    limit: Duration,
    ran_before: bool,
) -> Result<Progress, Error> {
    let begun = Instant::now();
    let layout = session.place.layout(client.cluster());
    let mut news = feed::follow(client.clone());
    let mut told = Told::default();
    let mut last: Option<Box<Status>> = None;
    let mut asked: Option<Instant> = None;
    loop {
        tokio::select! {
            news = news.recv() => match news {
                Some(News::Status(answer, _)) => {
                    told.progress(session, &answer.value, begun);
                    if !answer.value.services.iter().any(blocked::is_behind) {
                        return Ok(Progress::Redundant(Box::new(answer.value)));
                    }
                    let stopped = blocked::blocked(&answer.value);
                    told.blocked(session, &stopped);
                    if blocked::all_blocked(&answer.value, &stopped) {
                        return Ok(Progress::Blocked(Box::new(answer.value)));
                    }
                    last = Some(Box::new(answer.value));
                }
                Some(News::Trouble(_)) if life(&layout) == Life::Stopped => return Ok(Progress::Ended(End::Gone)),
                Some(News::Trouble(_)) => {}
                Some(News::Failed(error)) => return Err(error.into()),
                None => return Ok(Progress::Ended(End::Gone)),
            },
            () = signals.any() => {
                // What ran before this program goes on after it.
                if ran_before {
                    return Ok(Progress::Ended(End::Detach));
                }
                if !io::stdin().is_terminal() || asked.is_some() {
                    return Ok(Progress::Ended(End::Stop));
                }
                session.output.say(&second_ctrl_c(session));
                asked = Some(Instant::now());
            }
            () = sleep(Duration::from_millis(200)) => {}
        }
        if asked.is_some_and(|asked| asked.elapsed() >= SECOND_CTRL_C) {
            return Ok(Progress::Ended(End::Detach));
        }
        if let Some(status) = &last {
            told.waiting(session, status);
            if begun.elapsed() >= limit {
                return Ok(Progress::TimedOut(status.clone()));
            }
        }
    }
}

/// What was said already, so that nothing is said twice.
#[derive(Default)]
struct Told {
    redundant: BTreeSet<String>,
    /// Since when each stands, and whether it was told.
    problems: BTreeMap<String, (Instant, bool)>,
    blocked: BTreeSet<String>,
    waiting: String,
    last: Option<Instant>,
}

impl Told {
    fn progress(&mut self, session: &Session, status: &Status, begun: Instant) {
        for service in &status.services {
            if service.state == "redundant" && self.redundant.insert(service.name.clone()) {
                session.output.say(&format!(
                    "  {} is redundant after {}",
                    clean(&service.name),
                    span(begun.elapsed())
                ));
                self.last = Some(Instant::now());
            }
        }
    }

    /// What does not come by itself is said at once.
    fn blocked(&mut self, session: &Session, blocked: &BTreeMap<&str, String>) {
        for line in blocked.values() {
            if self.blocked.insert(line.clone()) {
                session.output.say(&format!("  {line}"));
            }
        }
    }

    /// What keeps it from being redundant, once that has lasted a while, and again when it is something else.
    fn waiting(&mut self, session: &Session, status: &Status) {
        let now = Instant::now();
        for problem in status
            .problems
            .iter()
            .filter(|problem| problem.severity >= api::Severity::Error)
        {
            let text = format!("  problem: {} (hint: {})", clean(&problem.text), clean(&problem.hint));
            let (since, told) = self.problems.entry(text.clone()).or_insert((now, false));
            // Whatever starts is down at first.
            if !*told && now - *since >= PROBLEM_LASTS {
                *told = true;
                session.output.say(&text);
            }
        }
        let last = *self.last.get_or_insert(now);
        if now - last < SAY_WAITING_EVERY {
            return;
        }
        self.last = Some(now);
        let lines: Vec<String> = status
            .services
            .iter()
            .filter(|service| service.state != "redundant")
            .map(|service| {
                format!(
                    "  waiting for {}: {}, {}",
                    clean(&service.name),
                    clean(&service.state),
                    clean(&service.because)
                )
            })
            .collect();
        let text = lines.join("\n");
        if text != self.waiting {
            session.output.say(&text);
            self.waiting = text;
        }
    }
}
