//! One frame of the live view. A page that may be out of date never looks as if it were fresh.

use super::{Tone, View, crop, span, status};
use api::Status;
use std::time::Duration;

/// Older than this, data is out of date: the view asks again every second.
const FRESH: Duration = Duration::from_millis(2_500);
/// Older than this, somebody should know.
const OLD: Duration = Duration::from_secs(10);

/// What the frame is made of.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    /// What was last heard.
    pub(crate) status: &'a Status,
    /// Only this service.
    pub(crate) service: Option<&'a str>,
    /// How long ago it was true.
    pub(crate) age: Duration,
    /// Why nothing newer came.
    pub(crate) trouble: Option<&'a str>,
    /// The last line: what the keys do, or what was just asked.
    pub(crate) footer: &'a str,
}

/// The lines of a frame, cut to the window.
pub(crate) fn frame(frame: &Frame<'_>, rows: usize, view: &View) -> Vec<String> {
    let age = span(Duration::from_secs(frame.age.as_secs()));
    let first = if frame.age < FRESH {
        view.paint(Tone::Good, &format!("live, data is {age} old"))
    } else {
        let tone = if frame.age < OLD { Tone::Warn } else { Tone::Bad };
        let why = frame
            .trouble
            .map(|trouble| format!(": {}", super::clean(trouble)))
            .unwrap_or_default();
        view.paint(tone, &format!("OUT OF DATE, data is {age} old{why}"))
    };
    // What may no longer be so is not shown in the colour of what is.
    let view = &View {
        color: view.color && frame.age < FRESH,
        ..view.clone()
    };
    let body = match frame
        .service
        .map(|name| frame.status.services.iter().find(|service| service.name == name))
    {
        None => status::page(frame.status, view),
        Some(Some(service)) => status::one_service(frame.status, service, view),
        Some(None) => "this service is no longer part of the cluster\n".into(),
    };
    let mut lines: Vec<String> = std::iter::once(first)
        .chain(body.lines().map(ToOwned::to_owned))
        .collect();
    let room = rows.saturating_sub(1).max(1);
    if lines.len() > room {
        let hidden = lines.len() - room + 1;
        lines.truncate(room - 1);
        lines.push(view.paint(Tone::Quiet, &format!("… {hidden} more lines: make the window taller")));
    }
    lines.push(view.paint(Tone::Quiet, frame.footer));
    lines.iter().map(|line| crop(line, view.width)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{plain, shop};
    use super::*;

    fn lines(age_ms: u64, rows: usize, color: bool) -> Vec<String> {
        let status = shop();
        let value = Frame {
            status: &status,
            service: None,
            age: Duration::from_millis(age_ms),
            trouble: Some("the agent does not answer"),
            footer: "q quits",
        };
        frame(&value, rows, &View { color, ..plain() })
    }

    #[test]
    fn old_data_is_called_out_of_date_and_never_green() {
        assert_eq!(lines(400, 50, false)[0], "live, data is 0s old");
        assert_eq!(
            lines(3_000, 50, false)[0],
            "OUT OF DATE, data is 3s old: the agent does not answer"
        );
        assert!(lines(400, 50, true)[0].contains("\u{1b}[32m"));
        assert!(!lines(3_000, 50, true).concat().contains("\u{1b}[32m"));
    }

    #[test]
    fn a_small_window_keeps_the_footer_and_says_what_is_missing() {
        let lines = lines(0, 10, false);
        assert_eq!(lines.len(), 10);
        assert_eq!(lines[9], "q quits");
        assert!(lines[8].contains("more lines"));
    }
}
