//! How everything stands: services first, then their instances, nodes, and what needs attention.

use super::{Cell, Tone, View, ago, clean, count, hanging, plural, table};
use api::{InstanceStatus, NodeState, NodeStatus, Problem, ServiceStatus, Severity, Status};

/// Services with more instances than this show only those that are not well, unless asked for by name.
const INSTANCES_LISTED_MAX: usize = 12;

/// The whole page.
pub(crate) fn page(status: &Status, view: &View) -> String {
    let mut out = heading(status, view);
    if status.services.is_empty() {
        out.push_str("\nno services; `understudy apply FILE` adds some\n");
    } else {
        out.push('\n');
        out.push_str(&summary(status, &status.services, view));
    }
    for service in &status.services {
        out.push('\n');
        out.push_str(&instances(status, service, view, false));
    }
    out.push('\n');
    out.push_str(&nodes(status, &status.nodes, view));
    out.push_str(&problems(status, status.problems.iter().collect(), view));
    out
}

/// One service, with every instance and what is wrong with it.
pub(crate) fn one_service(status: &Status, service: &ServiceStatus, view: &View) -> String {
    let mut out = paused(status, view);
    out.push_str(&summary(status, std::slice::from_ref(service), view));
    out.push('\n');
    out.push_str(&instances(status, service, view, true));
    let about: Vec<&Problem> = status
        .problems
        .iter()
        .filter(|problem| {
            problem.about == service.name || service.instances.iter().any(|instance| instance.id == problem.about)
        })
        .collect();
    out.push_str(&problems(status, about, view));
    out
}

/// The tone of a service's state, and the sign that repeats it.
pub(crate) fn state_sign(state: &str) -> (Tone, &'static str) {
    match state {
        "redundant" => (Tone::Good, "●"),
        "degraded" => (Tone::Warn, "◐"),
        "unknown" => (Tone::Warn, "?"),
        _ => (Tone::Bad, "○"),
    }
}

/// Actives that serve, and declared.
pub(crate) fn actives(service: &ServiceStatus) -> String {
    let serving = service.slots.iter().filter(|slot| slot.state == "serving").count();
    format!("{serving}/{}", service.active)
}

/// Standbys that could take over now, and declared.
pub(crate) fn standbys(service: &ServiceStatus) -> String {
    let ready = service
        .instances
        .iter()
        .filter(|instance| instance.role == "standby" && instance.ready)
        .count();
    format!("{ready}/{}", service.standby)
}

fn heading(status: &Status, view: &View) -> String {
    let mut out = view.paint(Tone::Strong, &clean(&status.cluster));
    let outages = match &status.distances_at {
        Some(at) => format!(", outages reckoned {} ago", ago(at, &status.at)),
        None => String::new(),
    };
    out.push_str(&format!(
        ", revision {}, {}{outages}\n",
        status.revision,
        view.moment(&status.at)
    ));
    out.push_str(&paused(status, view));
    out
}

/// That nothing follows whatever fails: said wherever a failover would be promised.
pub(crate) fn paused(status: &Status, view: &View) -> String {
    let Some(since) = &status.paused else {
        return String::new();
    };
    let by = match &status.pause {
        Some(pause) if pause.why.is_empty() => format!(" by {}", clean(&pause.by)),
        Some(pause) => format!(" by {}: {}", clean(&pause.by), clean(&pause.why)),
        None => String::new(),
    };
    let text = format!(
        "since {}{by}; nothing is failed over or started again; `understudy resume` ends it",
        ago(since, &status.at)
    );
    let line = hanging("PAUSED ", &text, view.width);
    format!("{}\n", view.paint(Tone::Warn, line.trim_end()))
}

fn summary(status: &Status, services: &[ServiceStatus], view: &View) -> String {
    let heads = [
        "SERVICE",
        "STATE",
        "ACTIVE",
        "STANDBY",
        "OUTAGE AFTER",
        "SINCE",
        "CLIENTS",
    ];
    let mut rows = vec![heads.map(|head| Cell::new(Tone::Quiet, head)).to_vec()];
    for service in services {
        let (tone, sign) = state_sign(&service.state);
        // Figures of what cannot be known now would be read as if they were of now.
        let known = service.state != "unknown";
        let outage = match service.distance_to_outage {
            _ if !known => Cell::plain("?"),
            0 => Cell::new(Tone::Bad, "it is down"),
            distance => Cell::plain(plural(u64::from(distance), "failure")),
        };
        rows.push(vec![
            Cell::new(Tone::Strong, clean(&service.name)),
            Cell::new(tone, format!("{sign} {}", clean(&service.state))),
            Cell::plain(if known { actives(service) } else { "?".into() }),
            Cell::plain(if known { standbys(service) } else { "?".into() }),
            outage,
            Cell::plain(ago(&service.since, &status.at)),
            Cell::plain(service.listen.as_deref().map(clean).unwrap_or_default()),
        ]);
    }
    let mut lines = table(view, 0, &rows).into_iter();
    let mut out = lines.next().unwrap_or_default() + "\n";
    for (line, service) in lines.zip(services) {
        out.push_str(&line);
        out.push('\n');
        out.push_str(&hanging("  because ", &service.because, view.width));
        let outage = service.outage.as_ref().filter(|_| service.state != "unknown");
        if let Some(outage) = outage.filter(|outage| !outage.by.is_empty()) {
            let text = format!(
                "{}; of its instances alone {}",
                outage.by.join(" and "),
                plural(u64::from(outage.instances), "failure")
            );
            out.push_str(&hanging("  outage by ", &text, view.width));
        }
        if let Some(traffic) = &service.traffic {
            let mut text = format!("{}, {} open", plural(traffic.requests, "request"), count(traffic.open));
            for (number, word) in [
                (traffic.held, "waited"),
                (traffic.retried, "repeated"),
                (traffic.errors, "answered 5xx"),
            ] {
                if number > 0 {
                    text.push_str(&format!(", {} {word}", count(number)));
                }
            }
            text.push_str(&format!(", {} failed", count(traffic.failed)));
            let tone = if traffic.failed > 0 { Tone::Warn } else { Tone::Quiet };
            out.push_str(&view.paint(tone, hanging("  traffic ", &text, view.width).trim_end()));
            out.push('\n');
        }
    }
    out
}

fn instances(status: &Status, service: &ServiceStatus, view: &View, all: bool) -> String {
    let kind = if service.exclusive { ", exclusive" } else { "" };
    let name = clean(&service.name);
    let heading = hanging(&format!("{name}{kind}: "), &service.protection, view.width);
    let mut out = heading.replacen(&name, &view.paint(Tone::Strong, &name), 1);
    let well =
        |instance: &&InstanceStatus| instance.health == "healthy" && (instance.role == "active" || instance.ready);
    let short = !all && service.instances.len() > INSTANCES_LISTED_MAX;
    let shown: Vec<&InstanceStatus> = service
        .instances
        .iter()
        .filter(|instance| !short || !well(instance))
        .collect();
    let rows: Vec<Vec<Cell>> = shown.iter().map(|instance| row(status, service, instance)).collect();
    for (line, instance) in table(view, 2, &rows).into_iter().zip(&shown) {
        out.push_str(&line);
        out.push('\n');
        for (first, text) in reasons(service, instance) {
            out.push_str(&hanging(first, &text, view.width));
        }
    }
    if short {
        let well = service.instances.iter().filter(well).count() as u64;
        out.push_str(&format!(
            "  {}{}, all healthy; `understudy status {}` lists them\n",
            if shown.is_empty() { "" } else { "and " },
            plural(well, "instance"),
            service.name
        ));
    }
    for slot in service.slots.iter().filter(|slot| slot.instance.is_none()) {
        let text = format!("{} for {}: {}", slot.state, ago(&slot.since, &status.at), slot.because);
        let line = hanging(&format!("  slot {} ", slot.slot), &text, view.width);
        out.push_str(&view.paint(Tone::Bad, line.trim_end()));
        out.push('\n');
    }
    out
}

fn row(status: &Status, service: &ServiceStatus, instance: &InstanceStatus) -> Vec<Cell> {
    let word = match (instance.state.as_str(), instance.health.as_str()) {
        ("running", health) => health,
        (state, _) => state,
    };
    let takes_over = service.failover_order.iter().position(|id| *id == instance.id);
    // Nobody is next where nothing may be taken.
    let is_next =
        takes_over == Some(0) && status.paused.is_none() && service.slots.iter().any(|slot| slot.parked.is_none());
    let (tone, sign, note) = match (word, instance.role.as_str()) {
        ("healthy" | "prepared", "standby") if !instance.ready => (Tone::Warn, "◐", ", not ready".to_owned()),
        ("healthy", "standby") if is_next => (Tone::Good, "●", ", next".to_owned()),
        ("healthy" | "prepared", _) => (Tone::Good, "●", String::new()),
        ("starting" | "waiting" | "stopping", _) => (Tone::Warn, "◌", String::new()),
        ("unknown", _) => (Tone::Warn, "?", String::new()),
        _ => (Tone::Bad, "○", String::new()),
    };
    vec![
        Cell::plain(clean(&instance.role)),
        Cell::new(Tone::Strong, clean(&instance.id)),
        Cell::new(tone, format!("{sign} {}{note}", clean(word))),
        Cell::plain(ago(&instance.since, &status.at)),
        Cell::plain(format!("on {}", clean(&instance.node))),
        Cell::plain(instance.address.as_deref().map(clean).unwrap_or_default()),
        Cell::new(
            Tone::Quiet,
            instance.pid.map(|pid| format!("pid {pid}")).unwrap_or_default(),
        ),
    ]
}

/// What is said below an instance: its slot and why it holds it, why it is as it is, what its last failed check said.
fn reasons(service: &ServiceStatus, instance: &InstanceStatus) -> Vec<(&'static str, String)> {
    let mut said = Vec::new();
    for slot in service
        .slots
        .iter()
        .filter(|slot| slot.instance.as_deref() == Some(&instance.id))
    {
        let state = if slot.state == "serving" {
            String::new()
        } else {
            format!(", {}", slot.state)
        };
        said.push((
            "    ",
            format!("slot {} at epoch {}{state}: {}", slot.slot, slot.epoch, slot.because),
        ));
    }
    let told = said.iter().any(|(_, text)| text.ends_with(&instance.because));
    if !instance.because.is_empty() && !told {
        said.push(("    because ", instance.because.clone()));
    }
    if instance.restarts > 0 {
        said.push((
            "    ",
            format!("started again {}", plural(u64::from(instance.restarts), "time")),
        ));
    }
    if let Some(failure) = &instance.last_failure
        && (instance.health != "healthy" || !instance.ready)
    {
        said.push(("    last failed check: ", failure.clone()));
    }
    said
}

fn nodes(status: &Status, nodes: &[NodeStatus], view: &View) -> String {
    let mut out = format!("{}\n", view.paint(Tone::Strong, "nodes"));
    let rows: Vec<Vec<Cell>> = nodes
        .iter()
        .map(|node| {
            let (tone, word) = match node.state {
                NodeState::Online => (Tone::Good, "● online"),
                NodeState::Drained => (Tone::Warn, "◌ drained"),
                NodeState::Offline => (Tone::Bad, "○ offline"),
                NodeState::Unknown => (Tone::Warn, "? unknown"),
            };
            let runs = status
                .services
                .iter()
                .flat_map(|service| &service.instances)
                .filter(|instance| instance.node == node.name)
                .count() as u64;
            vec![
                Cell::new(Tone::Strong, clean(&node.name)),
                Cell::new(tone, word),
                Cell::plain(ago(&node.since, &status.at)),
                Cell::plain(plural(runs, "instance")),
                // Where nobody said more, a node is its own zone.
                Cell::plain(if node.zone == node.name {
                    String::new()
                } else {
                    clean(&node.zone)
                }),
            ]
        })
        .collect();
    for (line, node) in table(view, 2, &rows).into_iter().zip(nodes) {
        out.push_str(&line);
        out.push('\n');
        if node.state != NodeState::Online {
            out.push_str(&hanging("    because ", &node.because, view.width));
        }
    }
    out
}

fn problems(status: &Status, problems: Vec<&Problem>, view: &View) -> String {
    if problems.is_empty() {
        return String::new();
    }
    let mut out = format!("\n{}\n", view.paint(Tone::Strong, "needs attention"));
    for problem in problems {
        let (tone, word) = severity(problem.severity);
        let text = format!(
            "{} ({}, for {})",
            problem.text,
            problem.code,
            ago(&problem.since, &status.at)
        );
        let block = hanging(&format!("  {word} "), &text, view.width);
        out.push_str(&block.replacen(word, &view.paint(tone, word), 1));
        if !problem.hint.is_empty() {
            out.push_str(&hanging("    hint: ", &problem.hint, view.width));
        }
    }
    out
}

/// The tone and the word of a severity.
pub(crate) fn severity(severity: Severity) -> (Tone, &'static str) {
    match severity {
        Severity::Info => (Tone::Quiet, "info"),
        Severity::Warning => (Tone::Warn, "warning"),
        Severity::Error => (Tone::Bad, "error"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{instance, plain, shop};
    use super::*;

    #[test]
    fn the_page_says_state_since_and_because_in_eighty_columns() {
        let page = page(&shop(), &plain());
        insta::assert_snapshot!(page, @r#"
        shop, revision 3, 2026-01-01 12:03:12 UTC

        SERVICE  STATE        ACTIVE  STANDBY  OUTAGE AFTER  SINCE  CLIENTS
        db       ● redundant  1/1     1/1      2 failures    3m12s  127.0.0.1:6380
          because all actives and standbys are there and fit
          outage by node a and node b; of its instances alone 2 failures
          traffic 1,204 requests, 4 open, 1 waited, 2 repeated, 0 failed
        web      ◐ degraded   1/2     0/1      1 failure     12s    127.0.0.1:8080
          because web-3 failed 2 checks in a row, and no other standby of web is fit to
                  take over from an active
          outage by zone dc1/rack1; of its instances alone 2 failures
          traffic 10 requests, 0 open, 1 answered 5xx, 3 failed

        db, exclusive: process death: an event, milliseconds
          active   db-1  ● healthy        3m12s  on a  127.0.0.1:40001  pid 4012
            slot 0 at epoch 3: first in the failover order
          standby  db-2  ● healthy, next  3m12s  on b  127.0.0.1:40001  pid 4012

        web: process death: an event, milliseconds
          active   web-1  ● healthy    3m12s  on a  127.0.0.1:40001  pid 4012
            slot 0 at epoch 1: first in the failover order
          standby  web-3  ○ unhealthy  3m12s  on b  127.0.0.1:40001  pid 4012
            because failed 2 checks in a row
            started again 2 times
            last failed check: GET /healthz: status 503
          slot 1 vacant for 3m12s: web-2 died: killed by SIGKILL

        nodes
          a  ● online   1h3m  2 instances
          b  ◌ drained  1h3m  2 instances
            because drained by ann

        needs attention
          warning web has 0 of 1 standbys that could take over (service-degraded, for
                  12s)
            hint: understudy explain web-3
        "#);
        let wide: Vec<&str> = page.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(wide.is_empty(), "wider than 80 columns: {wide:#?}");
    }

    #[test]
    fn one_service_shows_its_own_problems_only() {
        let status = shop();
        assert!(!one_service(&status, &status.services[0], &plain()).contains("needs attention"));
        assert!(one_service(&status, &status.services[1], &plain()).contains("hint: understudy explain web-3"));
    }

    #[test]
    fn nobody_is_next_where_nothing_may_be_taken() {
        let status = shop();
        let next = |status: &Status| one_service(status, &status.services[0], &plain()).contains(", next");
        assert!(next(&status));
        let mut parked = status.clone();
        parked.services[0].slots[0].parked = Some(api::Parked {
            since: "2026-01-01T12:00:00Z".into(),
            by: "ann".into(),
            why: String::new(),
        });
        assert!(!next(&parked));
        let paused = Status {
            paused: Some("2026-01-01T12:01:00Z".into()),
            ..status
        };
        assert!(!next(&paused));
    }

    #[test]
    fn colour_only_repeats_words() {
        let status = Status {
            paused: Some("2026-01-01T12:01:00Z".into()),
            ..shop()
        };
        let coloured = page(&status, &View { color: true, ..plain() });
        assert!(coloured.contains("\u{1b}[32m● redundant\u{1b}[0m"), "{coloured}");
        let mut stripped = String::new();
        let mut rest = coloured.as_str();
        while let Some((before, after)) = rest.split_once("\u{1b}[") {
            stripped.push_str(before);
            rest = after.split_once('m').unwrap().1;
        }
        stripped.push_str(rest);
        assert_eq!(stripped, page(&status, &plain()));
    }

    #[test]
    fn a_thousand_instances_are_summed_up_except_those_that_are_not_well() {
        let mut status = shop();
        status.services[1].instances = (1..=1_000)
            .map(|number| instance(&format!("web-{number}"), "a", "active"))
            .collect();
        status.services[1].instances[6].health = "unhealthy".into();
        let page = page(&status, &plain());
        assert!(page.contains("web-7 "), "{page}");
        assert!(
            page.contains("and 999 instances, all healthy; `understudy status web` lists them"),
            "{page}"
        );
        assert!(page.lines().count() < 40);
        assert!(one_service(&status, &status.services[1], &plain()).lines().count() > 1_000);
    }

    #[test]
    fn a_service_that_is_down_says_so_instead_of_zero_failures() {
        let mut status = shop();
        status.services[1].state = "down".into();
        status.services[1].distance_to_outage = 0;
        assert!(page(&status, &plain()).contains("○ down  "));
        assert!(page(&status, &plain()).contains("it is down"));
    }
}
