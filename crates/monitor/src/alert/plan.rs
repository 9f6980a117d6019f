//! Who is to be told what now.
//!
//! An alert is told to each receiver once when it fires, again after `repeat`, and once when it is over. What was told is kept in the store: if the
//! node that tells is lost, the next one goes on. It may tell once more what was told in the very second before the loss, and never leaves anything out.

use super::book::Firing;
use super::payload::{Alert, State};
use model::Alerts;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Alertmanager forgets what is not told again; it is told this often.
const ALERTMANAGER_EVERY_MS: i64 = 60_000;
/// It would take an alert for over after this long without a word.
pub(super) const ALERTMANAGER_ENDS_MS: i64 = 3 * ALERTMANAGER_EVERY_MS + ALERTMANAGER_EVERY_MS / 2;
/// After a failed try, doubled each time up to the maximum.
const RETRY_MS: i64 = 2_000;
const RETRY_MS_MAX: i64 = 5 * 60_000;

/// Somebody who is told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Receiver {
    /// By `POST` to an address.
    Webhook(String),
    /// By its API at an address.
    Alertmanager(String),
    /// By a command.
    Command,
}

impl Receiver {
    /// All that are declared.
    pub fn all(alerts: &Alerts) -> Vec<Self> {
        let webhooks = alerts.webhook.iter().cloned().map(Self::Webhook);
        let managers = alerts.alertmanager.iter().cloned().map(Self::Alertmanager);
        let command = (!alerts.command.is_empty()).then_some(Self::Command);
        webhooks.chain(managers).chain(command).collect()
    }

    /// Its name where what was sent is kept.
    pub fn key(&self) -> String {
        match self {
            Self::Webhook(url) => format!("webhook {url}"),
            Self::Alertmanager(url) => format!("alertmanager {url}"),
            Self::Command => "command".into(),
        }
    }

    /// Its kind, for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Webhook(_) => "webhook",
            Self::Alertmanager(_) => "alertmanager",
            Self::Command => "command",
        }
    }
}

/// What each receiver was told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sent {
    /// By receiver and fingerprint.
    told: BTreeMap<String, BTreeMap<String, Told>>,
    /// When each had its last heartbeat, in milliseconds since 1970.
    beats: BTreeMap<String, i64>,
    /// Failed tries in a row and when the next is due; not kept.
    #[serde(skip)]
    waits: BTreeMap<String, (u32, i64)>,
}

/// What a receiver was told of an alert that it has not been told the end of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    /// When last, in milliseconds since 1970.
    at_ms: i64,
    /// As it was told, for the word that it is over.
    alert: Alert,
}

/// Something to be sent now.
#[derive(Debug, Clone, PartialEq)]
pub struct Due {
    /// To whom.
    pub receiver: Receiver,
    /// What fires or is over.
    pub alerts: Vec<Alert>,
    /// It is about something that is new, or must not be told twice: to be kept when it was sent.
    pub keep: bool,
    /// The heartbeat is among it.
    pub beat: bool,
}

/// Says who is to be told what at a moment, in milliseconds since 1970. `settled` is false for one who has just begun and may not have seen yet what goes on:
/// then nothing is told as over.
pub fn plan(cluster: &str, alerts: &Alerts, firing: &[Firing], sent: &Sent, settled: bool, now_ms: i64) -> Vec<Due> {
    let all: BTreeSet<&str> = firing.iter().map(|one| one.fingerprint.as_str()).collect();
    let mut dues = Vec::new();
    for receiver in Receiver::all(alerts) {
        let key = receiver.key();
        if sent.waits.get(&key).is_some_and(|(_, next)| *next > now_ms) {
            continue;
        }
        let nothing = BTreeMap::new();
        let told = sent.told.get(&key).unwrap_or(&nothing);
        let manager = matches!(receiver, Receiver::Alertmanager(_));
        let every = if manager {
            ALERTMANAGER_EVERY_MS
        } else {
            ms(alerts.repeat.0)
        };
        let mut due = Due {
            alerts: Vec::new(),
            keep: false,
            beat: false,
            receiver,
        };
        for one in firing.iter().filter(|one| !one.explained && one.silenced.is_none()) {
            let last = told.get(&one.fingerprint);
            if last.is_none_or(|last| now_ms - last.at_ms >= every) {
                due.keep |= last.is_none() || !manager;
                due.alerts.push(Alert::firing(cluster, one, now_ms));
            }
        }
        for (_, over) in told
            .iter()
            .filter(|(fingerprint, _)| settled && !all.contains(fingerprint.as_str()))
        {
            due.keep = true;
            due.alerts.push(over.alert.clone().resolved(now_ms));
        }
        if let Some(every) = alerts.heartbeat
            && sent.beats.get(&key).is_none_or(|last| now_ms - last >= ms(every.0))
        {
            due.beat = true;
            due.alerts.push(Alert::heartbeat(cluster, every, now_ms));
        }
        if !due.alerts.is_empty() {
            dues.push(due);
        }
    }
    dues
}

impl Sent {
    /// Notes that something was sent.
    pub fn done(&mut self, due: &Due, now_ms: i64) {
        let key = due.receiver.key();
        self.waits.remove(&key);
        if due.beat {
            self.beats.insert(key.clone(), now_ms);
        }
        let told = self.told.entry(key).or_default();
        for alert in due.alerts.iter().filter(|alert| !alert.is_heartbeat()) {
            match alert.state {
                State::Firing => {
                    let one = Told {
                        at_ms: now_ms,
                        alert: alert.clone(),
                    };
                    told.insert(alert.fingerprint.clone(), one);
                }
                State::Resolved => drop(told.remove(&alert.fingerprint)),
            }
        }
    }

    /// Notes that something could not be sent; says how many tries in a row failed. It is tried again later, each time after twice as long.
    pub fn failed(&mut self, receiver: &Receiver, now_ms: i64) -> u32 {
        let (tries, next) = self.waits.entry(receiver.key()).or_default();
        *tries += 1;
        let wait = RETRY_MS.saturating_mul(1 << (*tries - 1).min(16)).min(RETRY_MS_MAX);
        *next = now_ms + wait;
        *tries
    }

    /// Forgets receivers that are no longer declared.
    pub fn retain(&mut self, alerts: &Alerts) {
        let keys: BTreeSet<String> = Receiver::all(alerts).iter().map(Receiver::key).collect();
        self.told.retain(|key, _| keys.contains(key));
        self.beats.retain(|key, _| keys.contains(key));
        self.waits.retain(|key, _| keys.contains(key));
    }
}

fn ms(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::judge::Stopped;
    use crate::alert::{Code, Wrong, fingerprint};
    use model::Millis;

    fn one(about: &str) -> Firing {
        Firing {
            fingerprint: fingerprint("service-down", about),
            wrong: Wrong {
                code: Code::ServiceDown,
                about: about.into(),
                service: Some(about.into()),
                text: "it is down".into(),
                because_of: None,
                stopped: Stopped::default(),
            },
            since_ms: 1_000,
            explained: false,
            silenced: None,
            quiet_since_ms: None,
        }
    }

    fn alerts() -> Alerts {
        Alerts {
            webhook: vec!["http://h/".into()],
            alertmanager: vec!["http://m".into()],
            repeat: Millis(600_000),
            ..Alerts::default()
        }
    }

    fn words(dues: &[Due]) -> Vec<String> {
        let alert = |alert: &Alert| {
            format!(
                "{}:{}",
                alert.labels["about"],
                if alert.state == State::Firing { "on" } else { "off" }
            )
        };
        dues.iter()
            .map(|due| {
                format!(
                    "{} {}",
                    due.receiver.kind(),
                    due.alerts.iter().map(alert).collect::<Vec<_>>().join(" ")
                )
            })
            .collect()
    }

    /// Plays minutes; all is sent. Says what was, by minute.
    fn play(sent: &mut Sent, minutes: std::ops::Range<i64>, firing: &[Firing]) -> Vec<String> {
        let mut all = Vec::new();
        for minute in minutes {
            let now = minute * 60_000;
            for due in plan("shop", &alerts(), firing, sent, true, now) {
                all.extend(
                    words(std::slice::from_ref(&due))
                        .into_iter()
                        .map(|word| format!("{minute} {word}")),
                );
                sent.done(&due, now);
            }
        }
        all
    }

    #[test]
    fn a_webhook_is_told_once_and_again_after_a_while_and_alertmanager_each_minute() {
        let mut sent = Sent::default();
        let firing = [one("db")];
        let webhook = |told: Vec<String>| {
            told.into_iter()
                .filter(|word| word.contains("webhook"))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            webhook(play(&mut sent, 0..21, &firing)),
            ["0 webhook db:on", "10 webhook db:on", "20 webhook db:on"]
        );
        assert_eq!(
            play(&mut sent, 21..23, &firing),
            ["21 alertmanager db:on", "22 alertmanager db:on"]
        );
        assert_eq!(
            play(&mut sent, 23..30, &[]),
            ["23 webhook db:off", "23 alertmanager db:off"]
        );
    }

    #[test]
    fn the_next_node_goes_on_from_what_was_kept() {
        let mut sent = Sent::default();
        play(&mut sent, 0..2, &[one("db"), one("web")]);
        let kept = serde_json::to_string(&sent).expect("is written");
        let mut next: Sent = serde_json::from_str(&kept).expect("is read");
        let told = play(&mut next, 2..3, &[one("db")]);
        assert_eq!(told, ["2 webhook web:off", "2 alertmanager db:on web:off"]);
    }

    #[test]
    fn silenced_and_explained_alerts_are_not_told_and_not_told_as_over() {
        let mut sent = Sent::default();
        play(&mut sent, 0..1, &[one("db")]);
        let explained = Firing {
            explained: true,
            ..one("db")
        };
        assert_eq!(play(&mut sent, 1..9, &[explained]), Vec::<String>::new());
    }

    #[test]
    fn what_cannot_be_sent_is_tried_again_ever_less_often() {
        let mut sent = Sent::default();
        let firing = [one("db")];
        let mut tries = Vec::new();
        for second in 0..3_600 {
            let now = second * 1_000;
            for due in plan("shop", &alerts(), &firing, &sent, true, now) {
                if due.receiver.kind() == "webhook" {
                    tries.push(second);
                    sent.failed(&due.receiver, now);
                } else {
                    sent.done(&due, now);
                }
            }
        }
        assert_eq!(tries[..6], [0, 2, 6, 14, 30, 62]);
        assert!(
            tries.windows(2).all(|pair| pair[1] - pair[0] <= 300) && tries.len() < 25,
            "{tries:?}"
        );
        let mut due = plan("shop", &alerts(), &firing, &sent, true, 4_000_000);
        sent.done(&due.remove(0), 4_000_000);
        assert!(
            !words(&plan("shop", &alerts(), &firing, &sent, true, 4_000_001))
                .iter()
                .any(|word| word.contains("webhook"))
        );
    }

    #[test]
    fn who_has_just_begun_says_of_nothing_that_it_is_over() {
        let mut sent = Sent::default();
        play(&mut sent, 0..1, &[one("db")]);
        let over = |settled| words(&plan("shop", &alerts(), &[], &sent, settled, 30_000));
        assert_eq!(over(false), Vec::<String>::new());
        assert_eq!(over(true), ["webhook db:off", "alertmanager db:off"]);
    }

    #[test]
    fn heartbeats_come_as_often_as_was_asked_for() {
        let alerts = Alerts {
            heartbeat: Some(Millis(60_000)),
            ..alerts()
        };
        let mut sent = Sent::default();
        let mut beats = 0;
        for second in 0..600 {
            for due in plan("shop", &alerts, &[], &sent, true, second * 1_000) {
                beats += usize::from(due.beat);
                assert!(!due.keep);
                sent.done(&due, second * 1_000);
            }
        }
        assert_eq!(beats, 20);
    }
}
