//! API types to text. Everything below is pure: the same value and the same [`View`] give the same text.
//!
//! Colour only repeats what words say. Lines fit [`View::width`] wherever names allow it: a name is never cut,
//! since somebody may have to type it.

pub(crate) mod alerts;
pub(crate) mod analysis;
pub(crate) mod change;
pub(crate) mod check;
pub(crate) mod drill;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod history;
pub(crate) mod status;
mod table;
#[cfg(test)]
pub(crate) mod testing;
mod text;
pub(crate) mod watch;
pub(crate) mod welcome;

#[cfg(test)]
pub(crate) use testing::{plain as plain_view, shop as sample_status};

pub(crate) use table::{Cell, table};
pub(crate) use text::{clean, clean_log, count, crop, elide, hanging, micros, pretty_json, span};

use anstyle::{AnsiColor, Style};
use jiff::{Timestamp, tz::TimeZone};

/// How the reader sees it.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// Whether to colour.
    pub(crate) color: bool,
    /// Columns.
    pub(crate) width: usize,
    /// In which zone times are told.
    pub(crate) zone: TimeZone,
}

/// What a piece of text stands for; decides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it comes.
    Plain,
    /// All is well.
    Good,
    /// Somebody should look.
    Warn,
    /// It is bad.
    Bad,
    /// Less important than what stands beside it.
    Quiet,
    /// A heading.
    Strong,
}

impl View {
    /// The text in its tone.
    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.color || text.is_empty() {
            return text.to_owned();
        }
        let style = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Good => AnsiColor::Green.on_default(),
            Tone::Warn => AnsiColor::Yellow.on_default(),
            Tone::Bad => AnsiColor::Red.on_default().bold(),
            Tone::Quiet => Style::new().dimmed(),
            Tone::Strong => Style::new().bold(),
        };
        format!("{style}{text}{style:#}")
    }

    /// A moment of the API as a time of day with milliseconds, and its day.
    fn day_and_time(&self, at: &str) -> (String, String) {
        match at.parse::<Timestamp>() {
            Ok(at) => {
                let at = at.to_zoned_datetime(self.zone.clone());
                (
                    at.strftime("%Y-%m-%d").to_string(),
                    at.strftime("%H:%M:%S%.3f").to_string(),
                )
            }
            Err(_) => (String::new(), clean(at)),
        }
    }

    /// A moment of the API as a day and a time to the second.
    pub(crate) fn moment(&self, at: &str) -> String {
        match at.parse::<Timestamp>() {
            Ok(at) => at
                .to_zoned_datetime(self.zone.clone())
                .strftime("%Y-%m-%d %H:%M:%S %Z")
                .to_string(),
            Err(_) => clean(at),
        }
    }
}

/// How long before `at` something has been so, both in RFC 3339: `3m12s`; as it stands where it cannot be read.
pub(crate) fn ago(since: &str, at: &str) -> String {
    match (since.parse::<Timestamp>(), at.parse::<Timestamp>()) {
        (Ok(since), Ok(at)) => span(at.duration_since(since).unsigned_abs()),
        _ => clean(since),
    }
}

/// `1 failure`, `2 failures`.
pub(crate) fn plural(number: u64, noun: &str) -> String {
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{} {noun}s", count(number))
    }
}
