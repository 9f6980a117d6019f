//! Why something is as it is.

use super::{Tone, View, events::Journal, hanging};
use api::Explanation;

/// The whole answer.
pub(crate) fn page(explanation: &Explanation, view: &View) -> String {
    let mut out = hanging(
        &format!("{}: ", super::clean(&explanation.about)),
        &explanation.summary,
        view.width,
    );
    list(&mut out, "facts", &explanation.facts, view);
    list(&mut out, "if it dies now", &explanation.if_it_dies, view);
    for answer in &explanation.answers {
        list(&mut out, &answer.question, &answer.lines, view);
    }
    if !explanation.events.is_empty() {
        out.push_str(&format!(
            "\n{}\n",
            view.paint(Tone::Strong, "what happened, newest first")
        ));
        let mut journal = Journal::default();
        for event in &explanation.events {
            out.push_str(&journal.event(event, view));
        }
    }
    out
}

fn list(out: &mut String, heading: &str, items: &[String], view: &View) {
    if items.is_empty() {
        return;
    }
    out.push_str(&format!("\n{}\n", view.paint(Tone::Strong, heading)));
    for item in items {
        out.push_str(&hanging("  - ", item, view.width));
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{events, plain};
    use super::*;

    #[test]
    fn it_reads_from_the_sentence_to_the_evidence() {
        let explanation = Explanation {
            version: 1,
            about: "db-2".into(),
            summary: "db-2 is the active of db/0 on node b, because db-1 died and it was first in the failover order"
                .into(),
            facts: vec!["healthy since 12:00:05, because its check passed".into()],
            answers: vec![api::Answer {
                question: "why not on another node".into(),
                lines: vec!["a: it has a copy of db already".into()],
            }],
            if_it_dies: vec!["db is down until db-3 is started: no standby is ready".into()],
            events: vec![events().remove(0)],
        };
        insta::assert_snapshot!(page(&explanation, &plain()), @r#"
        db-2: db-2 is the active of db/0 on node b, because db-1 died and it was first
              in the failover order

        facts
          - healthy since 12:00:05, because its check passed

        if it dies now
          - db is down until db-3 is started: no standby is ready

        why not on another node
          - a: it has a copy of db already

        what happened, newest first
        2026-01-01
        12:00:05.123 warning db-1 died: killed by SIGKILL, because its process ended
        "#);
    }
}
