//! A pause of all automatic actions: who wants it, since when and why is written before it is answered, and told wherever a failover
//! would be promised.

use crate::agent::Agent;
use crate::clock;
use crate::input::{Input, done, refused};
use crate::wishes::{self, Wish};
use api::record::{self, Paused};
use api::{Outcome, PauseRequest, Severity};
use decisions::Event;
use model::Timestamp;
use tokio::sync::oneshot;

impl Agent {
    /// Stops all automatic actions, or lets them go on.
    pub(crate) fn pause(
        &mut self,
        request: &PauseRequest,
        pauses: bool,
        answer: oneshot::Sender<Result<Outcome, Outcome>>,
        now: Timestamp,
    ) {
        let before = self.core.view(now).paused;
        let answered = match (&before, pauses) {
            (Some(paused), true) => Some(Err(refused(
                format!(
                    "automatic actions are paused already: {} since {}",
                    paused.reason(),
                    clock::shown(paused.since)
                ),
                Some("`understudy resume` ends that".into()),
            ))),
            (None, false) => Some(Ok(done("nothing to do: automatic actions are not paused"))),
            _ => self.not_begun().map(Err),
        };
        if let Some(answered) = answered {
            return drop(answer.send(answered));
        }
        let at = clock::wall_now();
        let paused = Paused {
            since: at,
            by: request.by.clone(),
            why: request.why.clone(),
        };
        let (what, text, done) = match pauses {
            true => (
                "pause",
                "paused all automatic actions",
                "automatic actions are paused: nothing is failed over, started again or rolled out before `understudy resume`",
            ),
            false => ("resume", "let automatic actions go on", "automatic actions go on"),
        };
        let text = text.to_owned() + &wishes::said(&request.why);
        let wish = Wish {
            key: record::PAUSED.into(),
            kept: pauses.then(|| serde_json::to_value(&paused)),
            deed: self.deed(at, &request.by, what, &self.name, text),
            done: done.into(),
            already: "automatic actions are paused already".into(),
            told: Input::Paused(pauses.then_some(paused)),
        };
        self.write_wish(wish, answer);
    }

    /// The store says that automatic actions are paused, or not any more.
    pub(crate) fn pause_seen(&mut self, paused: Option<&Paused>, now: Timestamp) {
        if let Some(cluster) = &mut self.clustered {
            cluster.paused = paused.is_some();
        }
        let known = paused.map(known_pause);
        let before = self.core.view(now).paused;
        let same = |before: &decisions::Paused, after: &decisions::Paused| {
            (&before.by, &before.why) == (&after.by, &after.why)
        };
        match (&before, &known) {
            (None, None) => return,
            (Some(before), Some(after)) if same(before, after) => return,
            (_, Some(paused)) => {
                let text = "automatic actions are paused: nothing is failed over, started again or rolled out".into();
                self.journal
                    .tell(Severity::Warning, "paused", text, paused.reason().to_string());
            }
            (Some(_), None) => {
                let text = "automatic actions go on".into();
                self.journal
                    .tell(Severity::Warning, "resumed", text, "the operator asked for it".into());
            }
        }
        self.core.handle(Event::Paused(known), now);
    }
}

/// As the store keeps it. Programs of before kept no more than that it is so.
pub(crate) fn read_pause(value: &[u8]) -> Paused {
    serde_json::from_slice(value).unwrap_or_else(|_| Paused {
        since: clock::wall_now(),
        by: "somebody".into(),
        why: String::new(),
    })
}

/// As the decisions know it.
pub(crate) fn known_pause(paused: &Paused) -> decisions::Paused {
    decisions::Paused {
        since: clock::ago(paused.since),
        by: paused.by.clone(),
        why: paused.why.clone(),
    }
}
