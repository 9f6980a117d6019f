//! What `up` says when all is well, and when it is not yet.

use super::{clean, plural, span};
use api::{ServiceStatus, Status};
use std::time::Duration;

/// Where to go from here.
pub(crate) fn welcome(program: &str, status: &Status, dashboard: Option<&str>) -> String {
    let mut out = format!(
        "{} is up: {}, all redundant\n\n",
        clean(&status.cluster),
        plural(status.services.len() as u64, "service")
    );
    let widest = |of: fn(&ServiceStatus) -> usize| status.services.iter().map(of).max().unwrap_or(0);
    let name = widest(|service| service.name.len());
    let listen = widest(|service| service.listen.as_deref().unwrap_or("-").len());
    // More than this many names say less than their number.
    const NAMED_MAX: usize = 4;
    for service in &status.services {
        let names = |role: &str| {
            let names: Vec<&str> = service
                .instances
                .iter()
                .filter(|instance| instance.role == role)
                .map(|instance| instance.id.as_str())
                .collect();
            match names.len() {
                0 => String::new(),
                1..=NAMED_MAX => format!("{role} {}", names.join(", ")),
                many => format!("{many} {role}"),
            }
        };
        let roles: Vec<String> = [names("active"), names("standby")]
            .into_iter()
            .filter(|names| !names.is_empty())
            .collect();
        out.push_str(&format!(
            "  {:name$}  {:listen$}  {}\n",
            service.name,
            service.listen.as_deref().unwrap_or("-"),
            roles.join("; ")
        ));
    }
    if let Some(since) = &status.paused {
        let by = status
            .pause
            .as_ref()
            .map_or_else(String::new, |pause| match pause.why.as_str() {
                "" => format!(" by {}", clean(&pause.by)),
                why => format!(" by {}: {}", clean(&pause.by), clean(why)),
            });
        out.push_str(&format!(
            "\n  PAUSED since {}{by}: nothing is failed over or started again before `{program} resume`\n",
            clean(since)
        ));
    }
    let mut next = vec![(format!("{program} status"), "how everything stands".to_owned())];
    // Nobody would take over while everything is paused.
    let services = status.services.iter().filter(|_| status.paused.is_none());
    if let Some((service, victim)) = services.into_iter().find_map(|service| {
        let victim = service
            .instances
            .iter()
            .find(|instance| instance.role == "active" && instance.pid.is_some())?;
        (!service.failover_order.is_empty()).then_some((service, victim))
    }) {
        let heir = service.failover_order.first().map_or("a standby", String::as_str);
        next.push((
            format!("kill -9 {}", victim.pid.unwrap_or_default()),
            format!("kill {} and see {heir} take over", victim.id),
        ));
    }
    if let Some(node) = status.nodes.get(1).filter(|_| status.paused.is_none()) {
        next.push((
            format!("{program} drill node {} --for 30s", node.name),
            "take a node away for a while".to_owned(),
        ));
    }
    if let Some(url) = dashboard {
        next.push((
            clean(url),
            format!("see it live; `{program} dashboard` signs you in to act"),
        ));
    }
    next.push((
        format!("{program} events --failovers"),
        "each takeover, step by step".to_owned(),
    ));
    next.push((format!("{program} down"), "stop it all".to_owned()));
    let command = next
        .iter()
        .map(|(command, _)| command.chars().count())
        .max()
        .unwrap_or(0);
    out.push('\n');
    for (typed, what) in next {
        out.push_str(&format!("  {typed:command$}  {what}\n"));
    }
    out
}

/// What is lacking comes only when somebody does something: what that is was said.
pub(crate) fn blocked_for_now(program: &str, status: &Status) -> String {
    let lacking = status
        .services
        .iter()
        .filter(|service| service.state != "redundant" || service.rolling);
    let lacking: Vec<String> = lacking.map(|service| clean(&service.name)).collect();
    format!(
        "not waiting for {}: nothing more happens by itself. The cluster keeps running; `{program} status` shows how it stands",
        lacking.join(", ")
    )
}

/// What is lacking after the time that was given.
pub(crate) fn not_redundant(program: &str, status: &Status, limit: Duration) -> String {
    let mut out = format!("not everything is redundant after {}:", span(limit));
    for service in status.services.iter().filter(|service| service.state != "redundant") {
        out.push_str(&format!(
            "\n  {} is {}: {}",
            clean(&service.name),
            clean(&service.state),
            clean(&service.because)
        ));
    }
    out.push_str(&format!("\nit is tried on; `{} status` shows how it goes", program));
    out
}

#[cfg(test)]
mod tests {
    use super::super::testing::shop;
    use super::*;

    #[test]
    fn it_says_where_clients_go_and_what_to_type_next() {
        insta::assert_snapshot!(welcome("understudy", &shop(), Some("http://127.0.0.1:7400")), @r#"
        shop is up: 2 services, all redundant

          db   127.0.0.1:6380  active db-1; standby db-2
          web  127.0.0.1:8080  active web-1; standby web-3

          understudy status                  how everything stands
          kill -9 4012                       kill db-1 and see db-2 take over
          understudy drill node b --for 30s  take a node away for a while
          http://127.0.0.1:7400              see it live; `understudy dashboard` signs you in to act
          understudy events --failovers      each takeover, step by step
          understudy down                    stop it all
        "#);
    }

    #[test]
    fn it_promises_no_failover_while_everything_is_paused() {
        let mut status = shop();
        status.paused = Some("2026-01-01T12:01:00Z".into());
        status.pause = Some(api::Pause {
            since: "2026-01-01T12:01:00Z".into(),
            by: "ann".into(),
            why: "the switch is replaced".into(),
        });
        let said = welcome("understudy", &status, None);
        assert!(
            said.contains("PAUSED since 2026-01-01T12:01:00Z by ann: the switch is replaced"),
            "{said}"
        );
        assert!(!said.contains("take over") && !said.contains("drill"), "{said}");
    }

    #[test]
    fn it_says_what_is_lacking_and_why() {
        insta::assert_snapshot!(not_redundant("understudy", &shop(), Duration::from_secs(120)), @r#"
        not everything is redundant after 2m:
          web is degraded: web-3 failed 2 checks in a row, and no other standby of web is fit to take over from an active
        it is tried on; `understudy status` shows how it goes
        "#);
    }
}
