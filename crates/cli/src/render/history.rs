//! The applied files.

use super::{Cell, Tone, View, clean, hanging, table};
use api::{Deed, HistoryEntry};

/// The list, oldest first.
pub(crate) fn list(entries: &[HistoryEntry], view: &View) -> String {
    if entries.is_empty() {
        return "no file was applied yet\n".into();
    }
    let last = entries.iter().map(|entry| entry.revision).max();
    let rows: Vec<Vec<Cell>> = entries
        .iter()
        .map(|entry| {
            let in_force = Some(entry.revision) == last;
            let (tone, state) = match (in_force, entry.worked.is_some(), entry.never_worked) {
                (true, _, true) => (Tone::Warn, "in force, not healthy yet"),
                (true, _, false) => (Tone::Good, "in force"),
                // Nobody waited until it was: another file took its place first.
                (false, _, true) if entry.given_up.is_empty() => (Tone::Warn, "replaced before all of it was healthy"),
                (false, _, true) => (Tone::Bad, "never became healthy"),
                (false, true, false) if entry.back => (Tone::Plain, "worked; `rollback` goes here"),
                (false, true, false) => (Tone::Quiet, "worked"),
                (false, false, false) => (Tone::Quiet, ""),
            };
            vec![
                Cell::new(Tone::Strong, format!("revision {}", entry.revision)),
                Cell::plain(view.moment(&entry.at)),
                Cell::plain(format!("{} by {}", clean(&entry.how), clean(&entry.by))),
                Cell::new(tone, state),
            ]
        })
        .collect();
    let mut out = String::new();
    for (line, entry) in table(view, 0, &rows).into_iter().zip(entries) {
        out.push_str(&line);
        out.push('\n');
        for change in &entry.changes {
            out.push_str(&hanging("    ", change, view.width));
        }
        for version in &entry.given_up {
            let text = format!(
                "{} was given up {}: {}",
                clean(&version.service),
                view.moment(&version.since),
                clean(&version.why)
            );
            out.push_str(&hanging("    ", &text, view.width));
        }
    }
    out
}

/// What operators did by hand, oldest first.
pub(crate) fn deeds(deeds: &[Deed], view: &View) -> String {
    if deeds.is_empty() {
        return "nothing was done by hand yet\n".into();
    }
    let row = |deed: &Deed| {
        let tone = if deed.what == "force" { Tone::Bad } else { Tone::Strong };
        vec![
            Cell::new(tone, clean(&deed.what)),
            Cell::plain(clean(&deed.about)),
            Cell::plain(view.moment(&deed.at)),
            Cell::plain(format!("by {}", clean(&deed.by))),
            Cell::new(Tone::Quiet, format!("through {}", clean(&deed.through))),
        ]
    };
    let rows: Vec<Vec<Cell>> = deeds.iter().map(row).collect();
    let mut out = String::new();
    for (line, deed) in table(view, 0, &rows).into_iter().zip(deeds) {
        out.push_str(&line);
        out.push('\n');
        out.push_str(&hanging("    ", &deed.text, view.width));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::testing::plain;
    use super::*;

    #[test]
    fn who_when_how_and_what() {
        let entry = |revision, how: &str, changes: &[&str]| HistoryEntry {
            revision,
            at: "2026-01-01T12:00:00Z".into(),
            by: "ann".into(),
            how: how.into(),
            changes: changes.iter().map(ToString::to_string).collect(),
            text: String::new(),
            worked: (revision < 3).then(|| "2026-01-01T12:01:00Z".into()),
            never_worked: revision >= 3,
            back: revision == 2,
            given_up: Vec::new(),
        };
        let mut entries = [
            entry(1, "up", &["db: new", "web: new"]),
            entry(2, "apply", &["web: active: 2 -> 3"]),
            entry(3, "apply", &["web: command changed"]),
            entry(4, "apply", &["web: command changed"]),
            entry(5, "apply", &["web: command changed"]),
        ];
        entries[2].given_up = vec![api::GivenUpVersion {
            service: "web".into(),
            since: "2026-01-01T12:02:00Z".into(),
            why: "web-3 never became healthy with the new version: exit code 2; 5 starts in a row never became healthy"
                .into(),
            tries: 5,
            by: Some("b".into()),
        }];
        insta::assert_snapshot!(list(&entries, &plain()), @r#"
        revision 1  2026-01-01 12:00:00 UTC  up by ann     worked
            db: new
            web: new
        revision 2  2026-01-01 12:00:00 UTC  apply by ann  worked; `rollback` goes here
            web: active: 2 -> 3
        revision 3  2026-01-01 12:00:00 UTC  apply by ann  never became healthy
            web: command changed
            web was given up 2026-01-01 12:02:00 UTC: web-3 never became healthy with
            the new version: exit code 2; 5 starts in a row never became healthy
        revision 4  2026-01-01 12:00:00 UTC  apply by ann  replaced before all of it was healthy
            web: command changed
        revision 5  2026-01-01 12:00:00 UTC  apply by ann  in force, not healthy yet
            web: command changed
        "#);
    }
}
