//! The JSON of alerts.

use crate::Severity;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An alert that fires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Alert {
    /// Its name that every node makes alike.
    pub fingerprint: String,
    /// Name in the catalogue: `service-down`.
    pub code: String,
    /// In a few words.
    pub title: String,
    /// How bad: `error` is worth waking someone.
    pub severity: Severity,
    /// What it is about: a service, instance or node.
    pub about: String,
    /// The service that it belongs to, if it does.
    pub service: Option<String>,
    /// What is wrong, with figures.
    pub text: String,
    /// Since when.
    pub since: String,
    /// What it means for users.
    pub meaning: String,
    /// What the manager does about it.
    pub manager: String,
    /// What to do.
    pub action: String,
    /// Another alert that fires explains this one: nobody is told of it.
    pub explained: bool,
    /// It is silenced: nobody is told of it until then.
    pub silenced: Option<Silence>,
    /// It has not been so any more since then: over, if it does not come back within ten seconds.
    #[serde(default)]
    pub quiet_since: Option<String>,
}

/// An operator's word that alerts are known for now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Silence {
    /// Its number.
    pub id: String,
    /// Of which code; any if not given.
    pub code: Option<String>,
    /// About what; anything if not given.
    pub about: Option<String>,
    /// Until when.
    pub until: String,
    /// Who said so.
    pub by: String,
    /// Why.
    pub because: String,
}

/// `GET /v1/alerts`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Alerts {
    /// Version of this JSON.
    pub version: u32,
    /// When this was so.
    pub at: String,
    /// The node that judged.
    pub judged_by: String,
    /// Whether it is the one that sees all nodes' traffic and tells; else it only says what it sees itself.
    pub sees_all: bool,
    /// What fires, the worst first.
    pub alerts: Vec<Alert>,
    /// What operators silenced.
    pub silences: Vec<Silence>,
    /// Who is told, and whether that works.
    pub receivers: Vec<ReceiverStatus>,
}

/// Somebody who is told of alerts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReceiverStatus {
    /// `webhook`, `alertmanager` or `command`.
    pub kind: String,
    /// Where.
    pub to: String,
    /// Why the last try failed; absent if it did not.
    pub failing: Option<String>,
}

/// `POST /v1/silences`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SilenceRequest {
    /// Of which code; any if not given.
    pub code: Option<String>,
    /// About what; anything if not given.
    pub about: Option<String>,
    /// For how long, 1 s to 7 days.
    pub for_ms: u64,
    /// Who asks.
    pub by: String,
    /// Why.
    pub because: String,
}
