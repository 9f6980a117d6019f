//! What is wrong, and what to do.

use super::{Tone, View, ago, clean, hanging};
use api::{Alert, Alerts, Severity, Silence};

/// The whole answer, or what is about one name.
pub(crate) fn page(alerts: &Alerts, about: Option<&str>, view: &View) -> String {
    let wanted =
        |alert: &&Alert| about.is_none_or(|about| alert.about == about || alert.service.as_deref() == Some(about));
    let firing: Vec<&Alert> = alerts.alerts.iter().filter(wanted).collect();
    let mut out = String::new();
    if firing.is_empty() {
        out.push_str(&format!("{}\n", view.paint(Tone::Good, "no alert")));
    }
    for alert in firing {
        one(&mut out, alert, alerts, view);
    }
    for silence in &alerts.silences {
        out.push_str(&format!("\n{}\n", line_of(silence, view)));
    }
    for receiver in &alerts.receivers {
        if let Some(why) = &receiver.failing {
            let text = format!(
                "{} {} cannot be told: {}",
                receiver.kind,
                clean(&receiver.to),
                clean(why)
            );
            out.push_str(&format!("\n{}", hanging("! ", &text, view.width)));
        }
    }
    if alerts.receivers.is_empty() && !alerts.alerts.is_empty() {
        out.push_str("\nnobody is told: the file has no `[alerts]`\n");
    }
    if !alerts.sees_all {
        let text = format!(
            "as node {} sees it alone; the controller does not answer",
            clean(&alerts.judged_by)
        );
        out.push_str(&format!("\n{}", hanging("! ", &text, view.width)));
    }
    out
}

fn one(out: &mut String, alert: &Alert, alerts: &Alerts, view: &View) {
    let (tone, word) = match alert.severity {
        Severity::Error => (Tone::Bad, "critical"),
        Severity::Warning => (Tone::Warn, "warning"),
        Severity::Info => (Tone::Plain, "info"),
    };
    if !out.is_empty() {
        out.push('\n');
    }
    let head = format!("{word} {}  {}", alert.code, clean(&alert.about));
    out.push_str(&format!(
        "{}  since {}\n",
        view.paint(tone, &head),
        ago(&alert.since, &alerts.at)
    ));
    out.push_str(&hanging("  ", &alert.text, view.width));
    for (name, text) in [
        ("  users:   ", &alert.meaning),
        ("  manager: ", &alert.manager),
        ("  do:      ", &alert.action),
    ] {
        out.push_str(&hanging(name, text, view.width));
    }
    if let Some(quiet) = &alert.quiet_since {
        out.push_str(&format!(
            "  not so any more for {}: over, if it does not come back within seconds\n",
            ago(quiet, &alerts.at)
        ));
    }
    if alert.explained {
        out.push_str("  explained by another alert: nobody is told of it\n");
    }
    if let Some(silence) = &alert.silenced {
        out.push_str(&hanging("  ", &line_of(silence, view), view.width));
    }
}

fn line_of(silence: &Silence, view: &View) -> String {
    let what = silence.code.as_deref().unwrap_or("every alert");
    let about = silence
        .about
        .as_ref()
        .map(|about| format!(" about {}", clean(about)))
        .unwrap_or_default();
    format!(
        "silence {}: {what}{about} until {} by {}, because {}",
        silence.id,
        view.moment(&silence.until),
        clean(&silence.by),
        clean(&silence.because)
    )
}

#[cfg(test)]
mod tests {
    use super::super::testing::plain;
    use super::*;

    fn alerts() -> Alerts {
        let silence = Silence {
            id: "18c".into(),
            code: Some("not-redundant".into()),
            about: None,
            until: "2026-01-01T13:00:00Z".into(),
            by: "ann".into(),
            because: "new disks".into(),
        };
        let alert = |code: &str, about: &str, severity, silenced| Alert {
            fingerprint: "0".into(),
            code: code.into(),
            title: "service is down".into(),
            severity,
            about: about.into(),
            service: Some(about.into()),
            text: format!("{about} is wrong"),
            since: "2026-01-01T12:00:00Z".into(),
            meaning: "Its clients wait.".into(),
            manager: "It tries.".into(),
            action: "Look.".into(),
            explained: false,
            silenced,
            quiet_since: None,
        };
        Alerts {
            version: 1,
            at: "2026-01-01T12:03:12Z".into(),
            judged_by: "a".into(),
            sees_all: true,
            alerts: vec![
                alert("service-down", "db", Severity::Error, None),
                alert("not-redundant", "web", Severity::Warning, Some(silence.clone())),
            ],
            silences: vec![silence],
            receivers: vec![api::ReceiverStatus {
                kind: "webhook".into(),
                to: "http://h/".into(),
                failing: Some("connection refused".into()),
            }],
        }
    }

    #[test]
    fn each_alert_says_what_it_means_and_what_to_do() {
        insta::assert_snapshot!(page(&alerts(), None, &plain()), @r"
        critical service-down  db  since 3m12s
          db is wrong
          users:   Its clients wait.
          manager: It tries.
          do:      Look.

        warning not-redundant  web  since 3m12s
          web is wrong
          users:   Its clients wait.
          manager: It tries.
          do:      Look.
          silence 18c: not-redundant until 2026-01-01 13:00:00 UTC by ann, because new
          disks

        silence 18c: not-redundant until 2026-01-01 13:00:00 UTC by ann, because new disks

        ! webhook http://h/ cannot be told: connection refused
        ");
    }

    #[test]
    fn an_alert_that_is_nearly_over_says_so() {
        let mut alerts = alerts();
        alerts.alerts[0].quiet_since = Some("2026-01-01T12:03:09Z".into());
        let page = page(&alerts, Some("db"), &plain());
        assert!(page.contains("\n  not so any more for 3s: over, if"), "{page}");
    }

    #[test]
    fn one_name_is_asked_for() {
        let page = page(&alerts(), Some("web"), &plain());
        assert!(
            page.contains("not-redundant") && !page.contains("service-down"),
            "{page}"
        );
        let none = super::page(&alerts(), Some("x"), &plain());
        assert!(none.starts_with("no alert\n"), "{none}");
    }
}
