//! What one agent remembers: an hour of what it measured itself, in bounded memory.

use crate::latencies::Latencies;
use crate::ring::{Ring, SECONDS};
use api::{Measure, Part, Series, Subject};
use model::latency::Histogram;
use std::collections::BTreeMap;

/// Series with an hour of history: 64 MiB at most. Of what comes beyond them only the newest value is known.
const SERIES_MAX: usize = 4_096;
/// All latencies together; beyond that the services that come last have percentiles of each node alone.
const LATENCY_BYTES_MAX: usize = 32 << 20;
const STEP_MS: u64 = 1_000;

/// What something measured is about, without what was measured.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct About {
    /// The service.
    pub service: Option<String>,
    /// The instance.
    pub instance: Option<String>,
    /// The node.
    pub node: Option<String>,
}

/// Which part of the memory is wanted.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Only of this service.
    pub service: Option<String>,
    /// Only of this node.
    pub node: Option<String>,
    /// Only this measure.
    pub name: Option<Measure>,
    /// Only from this second on, in seconds since boot.
    pub since: u64,
}

impl Wanted {
    fn wants(&self, about: &About) -> bool {
        let fits = |wanted: &Option<String>, is: &Option<String>| wanted.is_none() || wanted == is;
        fits(&self.service, &about.service) && fits(&self.node, &about.node)
    }
}

/// A moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Milliseconds since boot.
    pub boot_ms: u64,
    /// Milliseconds since 1970.
    pub wall_ms: i64,
}

impl Moment {
    /// The second that it is in, in seconds since boot.
    pub fn second(&self) -> u64 {
        self.boot_ms / 1_000
    }

    /// When a second of this boot was over, in milliseconds since 1970.
    pub fn wall_of(&self, second: u64) -> i64 {
        self.wall_ms - i64::try_from(self.boot_ms).unwrap_or(0) + i64::try_from((second + 1) * 1_000).unwrap_or(0)
    }

    /// The first second that was over after `wall_ms`.
    pub fn second_after(&self, wall_ms: i64) -> u64 {
        let ago = self.wall_ms.saturating_sub(wall_ms).max(0);
        self.boot_ms.saturating_sub(u64::try_from(ago).unwrap_or(0)) / 1_000
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Memory {
    lines: BTreeMap<About, BTreeMap<Measure, Line>>,
    rings: usize,
    latencies: BTreeMap<String, Latencies>,
    newest: BTreeMap<String, (u64, Histogram)>,
}

#[derive(Debug)]
struct Line {
    second: u64,
    value: f64,
    ring: Option<Ring>,
}

impl Memory {
    /// Notes what was measured of something in a second, in seconds since boot.
    pub fn note(&mut self, about: &About, second: u64, values: &[(Measure, f64)]) {
        if !self.lines.contains_key(about) {
            self.lines.insert(about.clone(), BTreeMap::new());
        }
        let Some(lines) = self.lines.get_mut(about) else { return };
        for (measure, value) in values {
            let line = lines.entry(*measure).or_insert_with(|| {
                let ring = (self.rings < SERIES_MAX).then(Ring::default);
                self.rings += usize::from(ring.is_some());
                Line {
                    second,
                    value: *value,
                    ring,
                }
            });
            if second >= line.second {
                (line.second, line.value) = (second, *value);
            }
            if let Some(ring) = &mut line.ring {
                ring.push(second, *value);
            }
        }
    }

    /// Notes how long the requests of a second took.
    pub fn note_latencies(&mut self, service: &str, second: u64, histogram: &Histogram) {
        self.newest.insert(service.to_owned(), (second, histogram.clone()));
        let taken: usize = self.latencies.values().map(Latencies::bytes).sum();
        if taken < LATENCY_BYTES_MAX || self.latencies.contains_key(service) && histogram.is_empty() {
            self.latencies
                .entry(service.to_owned())
                .or_default()
                .push(second, histogram);
        }
    }

    /// Forgets what was not measured for an hour.
    pub fn forget(&mut self, second: u64) {
        let old = second.saturating_sub(SECONDS as u64);
        let mut dropped = 0;
        for lines in self.lines.values_mut() {
            lines.retain(|_, line| {
                let stays = line.second >= old;
                dropped += usize::from(!stays && line.ring.is_some());
                stays
            });
        }
        self.rings -= dropped;
        self.lines.retain(|_, lines| !lines.is_empty());
        self.newest.retain(|_, (at, _)| *at >= old);
        let newest = &self.newest;
        self.latencies.retain(|service, _| newest.contains_key(service));
    }

    /// An hour of what is wanted.
    pub fn history(&self, node: &str, wanted: &Wanted, now: Moment) -> Part {
        let mut part = self.empty(node, now);
        for (subject, line) in self.wanted(wanted) {
            let Some(ring) = &line.ring else {
                part.without_history += 1;
                continue;
            };
            let (first, values) = ring.since(wanted.since);
            if !values.is_empty() {
                part.series.push(series(subject, now.wall_of(first), values));
            }
        }
        for (service, latencies) in &self.latencies {
            if wanted.service.as_ref().is_some_and(|wanted| wanted != service) {
                continue;
            }
            let (first, seconds) = latencies.since(wanted.since);
            if !seconds.is_empty() {
                part.latencies.push(api::Latencies {
                    service: service.clone(),
                    start_ms: now.wall_of(first),
                    seconds,
                });
            }
        }
        part
    }

    /// The newest of what is wanted: series of one value each.
    pub fn newest(&self, node: &str, wanted: &Wanted, now: Moment) -> Part {
        let mut part = self.empty(node, now);
        for (subject, line) in self.wanted(wanted) {
            part.series
                .push(series(subject, now.wall_of(line.second), vec![Some(line.value)]));
        }
        for (service, (second, histogram)) in &self.newest {
            if wanted.service.as_ref().is_none_or(|wanted| wanted == service) {
                part.latencies.push(api::Latencies {
                    service: service.clone(),
                    start_ms: now.wall_of(*second),
                    seconds: vec![histogram.clone()],
                });
            }
        }
        part
    }

    /// The newest value of a subject and its second.
    pub fn value(&self, about: &About, measure: Measure) -> Option<(u64, f64)> {
        let line = self.lines.get(about)?.get(&measure)?;
        Some((line.second, line.value))
    }

    /// All that is known now: for the metrics.
    pub fn values(&self) -> impl Iterator<Item = (&About, Measure, u64, f64)> {
        self.lines.iter().flat_map(|(about, lines)| {
            lines
                .iter()
                .map(move |(measure, line)| (about, *measure, line.second, line.value))
        })
    }

    fn empty(&self, node: &str, now: Moment) -> Part {
        Part {
            node: node.to_owned(),
            now_ms: now.wall_ms,
            series: Vec::new(),
            latencies: Vec::new(),
            without_history: 0,
        }
    }

    fn wanted(&self, wanted: &Wanted) -> impl Iterator<Item = (Subject, &Line)> {
        let lines = self.lines.iter().filter(|(about, _)| wanted.wants(about));
        lines.flat_map(|(about, lines)| {
            let named = lines
                .iter()
                .filter(|(measure, _)| wanted.name.is_none_or(|name| name == **measure));
            named.map(|(measure, line)| (subject(about, *measure), line))
        })
    }
}

fn subject(about: &About, name: Measure) -> Subject {
    Subject {
        service: about.service.clone(),
        instance: about.instance.clone(),
        node: about.node.clone(),
        name,
    }
}

fn series(subject: Subject, start_ms: i64, values: Vec<Option<f64>>) -> Series {
    Series {
        subject,
        start_ms,
        step_ms: STEP_MS,
        values: values.into_iter().map(|value| value.map(shortened)).collect(),
    }
}

/// Six digits: what is beyond them was never measured, and would treble the size of an answer.
fn shortened(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a logarithm of a finite number is between -324 and 309"
    )]
    let places = 5 - value.abs().log10().floor() as i32;
    if places <= 0 {
        return value.round();
    }
    let scale = 10_f64.powi(places);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_instance(name: &str) -> About {
        About {
            service: Some("web".into()),
            instance: Some(name.into()),
            node: Some("a".into()),
        }
    }

    const NOW: Moment = Moment {
        boot_ms: 100_500,
        wall_ms: 1_000_000_500,
    };

    #[test]
    fn what_was_noted_is_found_again_with_its_time() {
        let mut memory = Memory::default();
        memory.note(
            &of_instance("web-1"),
            98,
            &[(Measure::CpuCores, 0.1 + 0.2), (Measure::MemoryBytes, 12_345_678.0)],
        );
        memory.note(&of_instance("web-1"), 99, &[(Measure::CpuCores, 1.0 / 3.0)]);
        memory.note(&of_instance("db-1"), 99, &[(Measure::CpuCores, 1.0)]);
        let wanted = Wanted {
            name: Some(Measure::CpuCores),
            ..Wanted::default()
        };
        let part = memory.history("a", &wanted, NOW);
        assert_eq!(part.series.len(), 2);
        let web = &part.series[1];
        assert_eq!(web.values, [Some(0.3), Some(0.333_333)]);
        // Second 98 was over 1.5 s ago.
        assert_eq!((web.start_ms, NOW.wall_ms - web.start_ms), (999_999_000, 1_500));
        assert_eq!(NOW.second_after(web.start_ms), 99);
        let newest = memory.newest("a", &Wanted::default(), NOW);
        assert_eq!(newest.series.len(), 3);
        assert_eq!(
            memory.value(&of_instance("web-1"), Measure::MemoryBytes),
            Some((98, 12_345_678.0))
        );
    }

    #[test]
    fn memory_is_bounded_and_what_is_beyond_has_no_history_but_its_newest_value() {
        let mut memory = Memory::default();
        for number in 0..SERIES_MAX + 10 {
            memory.note(&of_instance(&format!("web-{number}")), 99, &[(Measure::CpuCores, 1.0)]);
        }
        let part = memory.history("a", &Wanted::default(), NOW);
        assert_eq!((part.series.len(), part.without_history), (SERIES_MAX, 10));
        assert_eq!(
            memory.newest("a", &Wanted::default(), NOW).series.len(),
            SERIES_MAX + 10
        );
        memory.forget(99 + SECONDS as u64 + 1);
        assert_eq!(memory.rings, 0);
        assert!(memory.lines.is_empty());
    }

    #[test]
    fn numbers_are_short() {
        for (value, short) in [
            (0.0, 0.0),
            (1.0 / 3.0, 0.333_333),
            (123_456_789.4, 123_456_789.0),
            (-2.000_000_4, -2.0),
            (12.345_678, 12.3457),
        ] {
            assert_eq!(shortened(value), short);
        }
    }
}
