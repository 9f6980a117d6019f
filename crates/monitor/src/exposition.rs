//! Metrics as text, for Prometheus (0.0.4) and OpenMetrics (1.0).

use model::latency::{self, Histogram};
use std::fmt::Write;

/// How the text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `text/plain; version=0.0.4`
    Prometheus,
    /// `application/openmetrics-text; version=1.0.0`
    OpenMetrics,
}

impl Format {
    /// The one that a client wants, by its `Accept` header.
    pub fn wanted(accept: &str) -> Self {
        match accept
            .split(',')
            .any(|kind| kind.trim_start().starts_with("application/openmetrics-text"))
        {
            true => Self::OpenMetrics,
            false => Self::Prometheus,
        }
    }

    /// Its content type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What kind of number a family has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises; its name ends with `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Times by bucket; its name ends with `_seconds`.
    Histogram,
}

/// Labels and their values.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// Writes one metrics page.
#[derive(Debug)]
pub struct Page {
    format: Format,
    text: String,
    family: String,
}

/// The first bucket of a histogram that is shown ends at 2^8 µs, each next one at twice that, the last at 2^26 µs: 67 s.
const DOUBLINGS: std::ops::RangeInclusive<u32> = 8..=26;

impl Page {
    /// An empty page.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            text: String::new(),
            family: String::new(),
        }
    }

    /// Begins a family: all its samples follow before the next begins. `help` is one line.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        name.clone_into(&mut self.family);
        // OpenMetrics names a counter's family without the ending of its samples.
        let named = match (self.format, kind) {
            (Format::OpenMetrics, Kind::Counter) => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing to a String never fails.
        let _ = writeln!(self.text, "# HELP {named} {help}\n# TYPE {named} {kind}");
    }

    /// A sample of the family that was begun last.
    pub fn sample(&mut self, labels: Labels<'_>, value: f64) {
        let family = std::mem::take(&mut self.family);
        self.line(&family, "", labels, None, value);
        self.family = family;
    }

    /// A histogram of the family that was begun last. `sum_us` is the sum of all times, in microseconds.
    pub fn histogram(&mut self, labels: Labels<'_>, histogram: &Histogram, sum_us: f64) {
        let family = std::mem::take(&mut self.family);
        let all = histogram.count();
        for doubling in DOUBLINGS {
            let end_us = 1_u64 << doubling;
            let below = all - histogram.at_least(end_us);
            self.line(
                &family,
                "_bucket",
                labels,
                Some(&number(end_us as f64 / 1e6)),
                below as f64,
            );
        }
        self.line(&family, "_bucket", labels, Some("+Inf"), all as f64);
        self.line(&family, "_sum", labels, None, sum_us / 1e6);
        self.line(&family, "_count", labels, None, all as f64);
        self.family = family;
    }

    fn line(&mut self, family: &str, ending: &str, labels: Labels<'_>, le: Option<&str>, value: f64) {
        self.text.push_str(family);
        self.text.push_str(ending);
        let all = labels.iter().copied().chain(le.map(|le| ("le", le)));
        let mut open = false;
        for (name, value) in all {
            self.text.push(if open { ',' } else { '{' });
            open = true;
            let _ = write!(self.text, "{name}=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    c => self.text.push(c),
                }
            }
            self.text.push('"');
        }
        if open {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {}", number(value));
    }

    /// The whole page.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

fn number(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.into();
    }
    format!("{value}")
}

/// About how long all of a histogram took together, in microseconds: each counts as the middle of its bucket.
pub fn about_sum_us(histogram: &Histogram) -> f64 {
    let middle = |bucket: usize| (latency::lower_us(bucket) + latency::lower_us(bucket + 1)) as f64 / 2.0;
    histogram
        .buckets()
        .map(|(bucket, times)| middle(bucket) * times as f64)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(format: Format) -> String {
        let mut page = Page::new(format);
        page.family("understudy_test_things_total", Kind::Counter, "Things.");
        page.sample(&[("service", "a\"b\\c\nd")], 3.0);
        page.family("understudy_test_wait_seconds", Kind::Histogram, "Waits.");
        let mut histogram = Histogram::default();
        for us in [100, 256, 1_000_000, 200_000_000] {
            histogram.record(us);
        }
        page.histogram(&[], &histogram, about_sum_us(&histogram));
        page.finish()
    }

    #[test]
    fn counters_and_histograms_are_written_in_both_ways() {
        let text = page(Format::Prometheus);
        assert!(text.contains("# TYPE understudy_test_things_total counter\nunderstudy_test_things_total{service=\"a\\\"b\\\\c\\nd\"} 3\n"), "{text}");
        assert!(
            text.contains("understudy_test_wait_seconds_bucket{le=\"0.000256\"} 1\n"),
            "{text}"
        );
        assert!(
            text.contains("understudy_test_wait_seconds_bucket{le=\"0.000512\"} 2\n"),
            "{text}"
        );
        assert!(
            text.contains("understudy_test_wait_seconds_bucket{le=\"67.108864\"} 3\n"),
            "{text}"
        );
        assert!(
            text.contains("understudy_test_wait_seconds_bucket{le=\"+Inf\"} 4\n"),
            "{text}"
        );
        assert!(text.contains("understudy_test_wait_seconds_count 4\n"), "{text}");
        let open = page(Format::OpenMetrics);
        assert!(
            open.contains("# TYPE understudy_test_things counter\nunderstudy_test_things_total{"),
            "{open}"
        );
        assert!(open.ends_with("# EOF\n"));
    }

    #[test]
    fn the_accept_header_decides() {
        let wants = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::wanted(wants), Format::OpenMetrics);
        assert_eq!(Format::wanted("text/plain, */*"), Format::Prometheus);
        assert_eq!(Format::wanted(""), Format::Prometheus);
    }
}
