//! What happened, oldest first; each takeover as a waterfall of its steps.

use super::{Tone, View, clean, hanging, micros, status::severity};
use api::{Event, Failover, Severity, Step};

/// Prints events one after the other and names the day where it changes.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    day: String,
}

impl Journal {
    /// The next event.
    pub(crate) fn event(&mut self, event: &Event, view: &View) -> String {
        let (day, time) = view.day_and_time(&event.at);
        let mut out = String::new();
        if day != self.day {
            out.push_str(&view.paint(Tone::Quiet, &day));
            out.push('\n');
            self.day = day;
        }
        out.push_str(&event_lines(event, &time, view));
        out
    }
}

fn event_lines(event: &Event, time: &str, view: &View) -> String {
    let (tone, word) = severity(event.severity);
    let mut first = format!("{time} ");
    if event.severity != Severity::Info {
        first.push_str(&format!("{word} "));
    }
    let mut text = clean(&event.text);
    if !event.because.is_empty() && event.because != event.text {
        text.push_str(&format!(", because {}", clean(&event.because)));
    }
    let indent = time.chars().count() + 1;
    let mut out = hanging(
        &" ".repeat(indent),
        &format!("{}{text}", &first[indent.min(first.len())..]),
        view.width,
    )
    .replacen(&" ".repeat(indent), &first[..indent.min(first.len())], 1);
    if event.severity != Severity::Info {
        out = out.replacen(word, &view.paint(tone, word), 1);
    }
    if let Some(failover) = &event.failover {
        out.push_str(&waterfall(failover, view));
    }
    out
}

/// A takeover, step by step: when, a bar from the step before to this one, how long that took and its share.
pub(crate) fn waterfall(failover: &Failover, view: &View) -> String {
    let kind = if failover.planned { "switchover" } else { "failover" };
    let to = clean(&failover.to);
    let who = match &failover.from {
        Some(from) if *from == failover.to => format!("back to {to}"),
        Some(from) => format!("{} -> {to}", clean(from)),
        None => format!("nobody -> {to}"),
    };
    let mut out = format!(
        "  {} of {}/{}: {who}, epoch {}, {} in all\n",
        kind,
        clean(&failover.service),
        failover.slot,
        failover.epoch,
        micros(failover.total_us)
    );
    // Label 15, three figures 12 + 12 + 5, spaces and bar marks 9: the bars get the rest.
    let bars = view.width.saturating_sub(53).clamp(10, 60);
    let total = failover
        .total_us
        .max(failover.steps.iter().map(|step| step.at_us).max().unwrap_or(0))
        .max(1);
    let column = |at: u64| (u128::from(at) * bars as u128).div_ceil(u128::from(total)) as usize;
    let mut before = 0;
    // A client may be answered before the agent hears that the proxy has changed its routes.
    let mut steps = failover.steps.clone();
    steps.sort_by_key(|step| step.at_us);
    for step in &steps {
        let took = step.at_us.saturating_sub(before);
        // A step that took any time at all shows at least one block.
        let end = column(step.at_us).max(1);
        let start = column(before).min(end - 1);
        let bar = if took == 0 {
            String::new()
        } else {
            format!("{}{}", " ".repeat(start), "█".repeat(end - start))
        };
        let share = format!("{:.0} %", took as f64 * 100.0 / total as f64);
        let figures = if step.step == Step::Detected && took == 0 {
            String::new()
        } else {
            format!("{:>12} {share:>5}", micros(took))
        };
        let line = format!(
            "    {:<15}{:>12} ▏{bar:<bars$} {figures}",
            words(step.step),
            micros(step.at_us)
        );
        let line = line.trim_end();
        out.push_str(&line.replacen(&bar, &view.paint(Tone::Warn, &bar), usize::from(!bar.trim().is_empty())));
        out.push('\n');
        before = step.at_us;
    }
    out
}

fn words(step: Step) -> &'static str {
    match step {
        Step::Detected => "detected",
        Step::ConfirmedDead => "confirmed dead",
        Step::Claimed => "claimed",
        Step::Promoted => "promoted",
        Step::Routed => "routed",
        Step::FirstAnswer => "first answer",
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{events, failover, plain};
    use super::*;
    use api::FailoverStep;

    #[test]
    fn a_failover_is_a_waterfall_in_eighty_columns() {
        let mut journal = Journal::default();
        let view = plain();
        let text: String = events().iter().map(|event| journal.event(event, &view)).collect();
        insta::assert_snapshot!(text, @r#"
        2026-01-01
        12:00:05.123 warning db-1 died: killed by SIGKILL, because its process ended
        12:00:05.131 warning promoted db-2 to active of db/0 at epoch 4, because db-1
                     died, db-2 is first in the failover order
          failover of db/0: db-1 -> db-2, epoch 4, 8,412 µs in all
            detected               0 µs ▏
            confirmed dead       412 µs ▏██                                412 µs   5 %
            claimed            3,900 µs ▏  ███████████                   3,488 µs  41 %
            promoted           7,150 µs ▏             ██████████         3,250 µs  39 %
            routed             7,480 µs ▏                       ██         330 µs   4 %
            first answer       8,412 µs ▏                         ██       932 µs  11 %
        "#);
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "a line is wider than 80 columns"
        );
    }

    #[test]
    fn the_day_is_named_where_it_changes() {
        let mut journal = Journal::default();
        let [first, mut second] = <[Event; 2]>::try_from(events()).unwrap();
        second.at = "2026-01-02T00:00:00Z".into();
        let text = format!(
            "{}{}{}",
            journal.event(&first, &plain()),
            journal.event(&first, &plain()),
            journal.event(&second, &plain())
        );
        assert_eq!(text.matches("2026-01-01\n").count(), 1);
        assert_eq!(text.matches("2026-01-02\n").count(), 1);
    }

    #[test]
    fn shares_add_up_and_odd_timelines_do_not_break_it() {
        let mut odd = failover();
        odd.total_us = 0;
        odd.from = None;
        odd.steps = vec![
            FailoverStep {
                step: Step::Detected,
                at_us: 0,
            },
            FailoverStep {
                step: Step::Claimed,
                at_us: 100,
            },
            FailoverStep {
                step: Step::Routed,
                at_us: 50,
            },
            FailoverStep {
                step: Step::FirstAnswer,
                at_us: 100,
            },
        ];
        let text = waterfall(&odd, &plain());
        assert!(text.contains("nobody -> db-2"));
        assert_eq!(text.matches("50 %").count(), 2, "{text}");
        let routed_first = text.find("routed").unwrap() < text.find("claimed").unwrap();
        assert!(routed_first, "steps stand in the order in which they happened:\n{text}");
        assert_eq!(
            waterfall(&Failover { steps: vec![], ..odd }, &plain()).lines().count(),
            1
        );
    }
}
