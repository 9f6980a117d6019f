//! Alerts as others read them: what Alertmanager sends to webhooks (version 4), and what it takes at `/api/v2/alerts`.

use super::book::Firing;
use super::plan::ALERTMANAGER_ENDS_MS;
use api::Severity;
use model::Millis;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The name of the heartbeat.
pub const HEARTBEAT: &str = "UnderstudyHeartbeat";

/// Whether it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It goes on.
    Firing,
    /// It is over.
    Resolved,
}

/// An alert as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// Whether it goes on.
    pub state: State,
    /// Its name that any node makes alike.
    pub fingerprint: String,
    /// What tells it from others.
    pub labels: BTreeMap<String, String>,
    /// What people read.
    pub annotations: BTreeMap<String, String>,
    /// Since when, in milliseconds since 1970.
    pub starts_ms: i64,
    /// Until when; of one that goes on, when it is taken for over if nothing more is heard.
    pub ends_ms: i64,
}

impl Alert {
    /// One that fires.
    pub fn firing(cluster: &str, firing: &Firing, now_ms: i64) -> Self {
        let wrong = &firing.wrong;
        let entry = wrong.code.entry();
        let mut labels = BTreeMap::from([
            ("alertname".to_owned(), format!("Understudy{}", camel(entry.name))),
            ("cluster".into(), cluster.to_owned()),
            ("severity".into(), severity(entry.severity).into()),
            ("about".into(), wrong.about.clone()),
        ]);
        labels.extend(wrong.service.clone().map(|service| ("service".to_owned(), service)));
        let annotations = [
            ("summary", format!("{}: {}", wrong.about, entry.title)),
            ("description", wrong.text.clone()),
            ("meaning", entry.meaning.to_owned()),
            ("manager", wrong.manager()),
            ("action", wrong.action()),
        ];
        Self {
            state: State::Firing,
            fingerprint: firing.fingerprint.clone(),
            labels,
            annotations: annotations.map(|(key, value)| (key.to_owned(), value)).into(),
            starts_ms: firing.since_ms,
            ends_ms: now_ms + ALERTMANAGER_ENDS_MS,
        }
    }

    /// The word that alerts would arrive.
    pub fn heartbeat(cluster: &str, every: Millis, now_ms: i64) -> Self {
        let labels = [("alertname", HEARTBEAT), ("cluster", cluster), ("severity", "none")];
        let text = format!("understudy of {cluster} is alive; this comes every {every}");
        Self {
            state: State::Firing,
            fingerprint: super::fingerprint(HEARTBEAT, cluster),
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            annotations: BTreeMap::from([("summary".to_owned(), text)]),
            starts_ms: now_ms,
            ends_ms: now_ms + i64::try_from(every.0).unwrap_or(i64::MAX / 8) * 3,
        }
    }

    /// Whether it is the heartbeat.
    pub fn is_heartbeat(&self) -> bool {
        self.labels.get("alertname").is_some_and(|name| name == HEARTBEAT)
    }

    /// The same when it is over.
    #[must_use]
    pub fn resolved(mut self, now_ms: i64) -> Self {
        self.state = State::Resolved;
        self.ends_ms = now_ms;
        self
    }
}

/// What a webhook gets.
pub fn webhook(cluster: &str, alerts: &[Alert]) -> Value {
    let any = alerts.iter().any(|alert| alert.state == State::Firing);
    let one = |alert: &Alert| {
        json!({
            "status": alert.state,
            "labels": alert.labels,
            "annotations": alert.annotations,
            "startsAt": shown(alert.starts_ms),
            "endsAt": if alert.state == State::Firing { "0001-01-01T00:00:00Z".to_owned() } else { shown(alert.ends_ms) },
            "generatorURL": "",
            "fingerprint": alert.fingerprint,
        })
    };
    json!({
        "version": "4",
        "groupKey": format!("{{}}:{{cluster=\"{cluster}\"}}"),
        "truncatedAlerts": 0,
        "status": if any { State::Firing } else { State::Resolved },
        "receiver": "understudy",
        "groupLabels": { "cluster": cluster },
        "commonLabels": common(alerts.iter().map(|alert| &alert.labels)),
        "commonAnnotations": common(alerts.iter().map(|alert| &alert.annotations)),
        "externalURL": "",
        "alerts": alerts.iter().map(one).collect::<Vec<_>>(),
    })
}

/// What Alertmanager gets.
pub fn alertmanager(alerts: &[Alert]) -> Value {
    alerts
        .iter()
        .map(|alert| {
            json!({
                "labels": alert.labels,
                "annotations": alert.annotations,
                "startsAt": shown(alert.starts_ms),
                "endsAt": shown(alert.ends_ms),
            })
        })
        .collect()
}

/// How bad it is, in the words that are usual there.
pub fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "critical",
        Severity::Warning => "warning",
        Severity::Info => "info",
    }
}

/// A time as RFC 3339 in UTC.
pub fn shown(ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(at) => format!("{at:.3}"),
        Err(_) => "0001-01-01T00:00:00Z".into(),
    }
}

/// `service-down` as `ServiceDown`.
fn camel(name: &str) -> String {
    let words = name.split('-').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_ascii_uppercase() + rest
    });
    words.collect()
}

fn common<'a>(maps: impl Iterator<Item = &'a BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let mut maps = maps;
    let mut common = maps.next().cloned().unwrap_or_default();
    for map in maps {
        common.retain(|key, value| map.get(key) == Some(value));
    }
    common
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::judge::Stopped;
    use crate::alert::{Code, Wrong};

    #[test]
    fn both_forms_say_the_same() {
        let firing = Firing {
            fingerprint: "00ff".into(),
            wrong: Wrong {
                code: Code::ServiceDown,
                about: "db".into(),
                service: Some("db".into()),
                text: "db is down".into(),
                because_of: None,
                stopped: Stopped::default(),
            },
            since_ms: 1_700_000_000_000,
            explained: false,
            silenced: None,
            quiet_since_ms: None,
        };
        let on = Alert::firing("shop", &firing, 1_700_000_060_000);
        let off = on.clone().resolved(1_700_000_090_000);
        let webhook = webhook("shop", &[on.clone(), off.clone()]);
        assert_eq!(
            (webhook["version"].as_str(), webhook["status"].as_str()),
            (Some("4"), Some("firing"))
        );
        assert_eq!(webhook["commonLabels"]["alertname"], "UnderstudyServiceDown");
        assert_eq!(webhook["alerts"][0]["startsAt"], "2023-11-14T22:13:20.000Z");
        assert_eq!(webhook["alerts"][1]["status"], "resolved");
        assert_eq!(webhook["alerts"][1]["endsAt"], "2023-11-14T22:14:50.000Z");
        let manager = alertmanager(&[on, off]);
        // Told again each minute, and taken for over three and a half minutes after the last word.
        assert_eq!(manager[0]["endsAt"], "2023-11-14T22:17:50.000Z");
        assert_eq!(manager[0]["labels"], webhook["alerts"][0]["labels"]);
        assert_eq!(manager[0]["annotations"]["description"], "db is down");
    }
}
