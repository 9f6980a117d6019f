//! A plan as a diff: what is added, changed, rolled, removed, and what clients notice.

use super::{Tone, View, clean, hanging, plural};
use api::{Change, ChangeKind, Plan};

/// The whole plan.
pub(crate) fn plan(plan: &Plan, view: &View) -> String {
    if plan.changes.is_empty() && plan.warnings.is_empty() {
        return format!("nothing to do: revision {} already says the same\n", plan.against);
    }
    if plan.changes.is_empty() {
        return format!("against revision {}: no service changes\n", plan.against) + &warnings(plan, view);
    }
    let mut out = format!("against revision {}, in this order:\n\n", plan.against);
    for change in &plan.changes {
        out.push_str(&one(change, view));
    }
    let total = |count: fn(&Change) -> u32| plan.changes.iter().map(|change| u64::from(count(change))).sum::<u64>();
    let at_risk = plan.changes.iter().filter(|change| change.risk.is_some()).count() as u64;
    out.push_str(&format!(
        "\n{} changed, {} started, {} stopped; {}\n",
        plural(plan.changes.len() as u64, "service"),
        plural(total(|change| change.starts), "instance"),
        total(|change| change.stops),
        match at_risk {
            0 => "clients notice nothing".to_owned(),
            number => format!("clients may notice something at {}", plural(number, "service")),
        }
    ));
    out.push_str(&warnings(plan, view));
    out
}

/// What the change makes worse.
fn warnings(plan: &Plan, view: &View) -> String {
    let one = |warning: &String| {
        let block = hanging("warning: ", &clean(warning), view.width);
        view.paint(Tone::Warn, block.trim_end()) + "\n"
    };
    plan.warnings.iter().map(one).collect()
}

fn one(change: &Change, view: &View) -> String {
    let (tone, sign, words) = match change.kind {
        ChangeKind::Add => (Tone::Good, "+", "new"),
        ChangeKind::Remove => (Tone::Bad, "-", "goes away"),
        ChangeKind::Update => (Tone::Warn, "~", "changed without touching a running process"),
        ChangeKind::Roll => (Tone::Warn, "-/+", "processes replaced one by one"),
    };
    let mut said = words.to_owned();
    for (number, verb) in [(change.starts, "starts"), (change.stops, "stops")] {
        if number > 0 {
            said.push_str(&format!(", {verb} {number}"));
        }
    }
    let mut out = format!(
        "{} {}: {said}\n",
        view.paint(tone, &format!("{sign:<3}")),
        view.paint(Tone::Strong, &clean(&change.service))
    );
    for detail in &change.details {
        out.push_str(&hanging("      ", detail, view.width));
    }
    if let Some(risk) = &change.risk {
        let block = hanging("      risk: ", risk, view.width);
        out.push_str(&view.paint(Tone::Warn, block.trim_end()));
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::testing::plain;
    use super::*;

    #[test]
    fn a_plan_reads_as_a_diff_with_its_risk() {
        let change = |service: &str, kind, details: &[&str], starts, stops, risk: Option<&str>| Change {
            service: service.into(),
            kind,
            details: details.iter().map(ToString::to_string).collect(),
            starts,
            stops,
            risk: risk.map(Into::into),
        };
        let value = Plan {
            version: 1,
            against: 3,
            changes: vec![
                change("cache", ChangeKind::Add, &["1 active, 1 standby"], 2, 0, None),
                change(
                    "db",
                    ChangeKind::Roll,
                    &["command: db --port {port} -> db --port {port} --sync"],
                    2,
                    2,
                    Some("requests to db wait while its slot changes hands, up to 2 s"),
                ),
                change("web", ChangeKind::Update, &["active: 2 -> 3"], 1, 0, None),
                change(
                    "old",
                    ChangeKind::Remove,
                    &[],
                    0,
                    3,
                    Some("127.0.0.1:9000 stops answering"),
                ),
            ],
            warnings: vec!["node a becomes a single point of failure of web".into()],
        };
        insta::assert_snapshot!(plan(&value, &plain()), @r#"
        against revision 3, in this order:

        +   cache: new, starts 2
              1 active, 1 standby
        -/+ db: processes replaced one by one, starts 2, stops 2
              command: db --port {port} -> db --port {port} --sync
              risk: requests to db wait while its slot changes hands, up to 2 s
        ~   web: changed without touching a running process, starts 1
              active: 2 -> 3
        -   old: goes away, stops 3
              risk: 127.0.0.1:9000 stops answering

        4 services changed, 5 instances started, 5 stopped; clients may notice something at 2 services
        warning: node a becomes a single point of failure of web
        "#);
    }

    #[test]
    fn an_empty_plan_says_so() {
        let nothing = Plan {
            version: 1,
            against: 3,
            changes: vec![],
            warnings: vec![],
        };
        assert_eq!(
            plan(&nothing, &plain()),
            "nothing to do: revision 3 already says the same\n"
        );
    }
}
