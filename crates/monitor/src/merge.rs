//! What the agents of all nodes remember, put together.
//!
//! Counts are added; percentiles are taken of all requests together, never of other percentiles. Parts are laid beside each other by their
//! age: the clocks of the nodes need not agree.

use api::{History, Measure, Part, Sample, Samples, Series, Silent, Subject};
use model::latency::Histogram;
use std::collections::BTreeMap;

/// A value that is older says nothing of a whole that has newer ones.
const FRESH_MS: u64 = 3_000;
/// The step of all series.
const STEP_MS: i64 = 1_000;

const SHARES: [(Measure, f64); 3] = [
    (Measure::LatencyP50Ms, 0.50),
    (Measure::LatencyP95Ms, 0.95),
    (Measure::LatencyP99Ms, 0.99),
];

/// What is added over nodes.
const SUMS: [Measure; 7] = [
    Measure::RequestsPerSecond,
    Measure::ErrorsPerSecond,
    Measure::Inflight,
    Measure::Held,
    Measure::BytesInPerSecond,
    Measure::BytesOutPerSecond,
    Measure::Connections,
];

/// The percentiles of a histogram, in milliseconds.
pub fn percentiles(histogram: &Histogram) -> impl Iterator<Item = (Measure, f64)> + '_ {
    SHARES
        .into_iter()
        .filter_map(|(measure, share)| Some((measure, histogram.percentile(share)? as f64 / 1e3)))
}

/// One history of all parts. `name` is the measure that was asked for, if only one was.
pub fn history(now_ms: i64, parts: Vec<Part>, silent: Vec<Silent>, name: Option<Measure>) -> History {
    let without_history = parts.iter().map(|part| part.without_history).sum();
    let mut series = Vec::new();
    let mut sums: BTreeMap<Subject, BTreeMap<i64, f64>> = BTreeMap::new();
    let mut latencies: BTreeMap<String, BTreeMap<i64, Histogram>> = BTreeMap::new();
    for part in parts {
        let shift = now_ms - part.now_ms;
        for mut one in part.series {
            one.start_ms += shift;
            if let Some(whole) = whole_of(&one.subject) {
                let sum = sums.entry(whole).or_default();
                for (step, value) in one.values.iter().enumerate() {
                    if let Some(value) = value {
                        *sum.entry(second(one.start_ms) + step as i64).or_default() += value;
                    }
                }
            }
            series.push(one);
        }
        for of_service in part.latencies {
            let merged = latencies.entry(of_service.service).or_default();
            for (step, histogram) in of_service.seconds.iter().enumerate() {
                merged
                    .entry(second(of_service.start_ms + shift) + step as i64)
                    .or_default()
                    .merge(histogram);
            }
        }
    }
    for (service, seconds) in latencies {
        for (measure, share) in SHARES
            .into_iter()
            .filter(|(measure, _)| name.is_none_or(|name| name == *measure))
        {
            let value = |histogram: &Histogram| Some(histogram.percentile(share)? as f64 / 1e3);
            let values = seconds
                .iter()
                .filter_map(|(at, histogram)| Some((*at, value(histogram)?)));
            series.extend(lined_up(of_service(&service, measure), &values.collect()));
        }
    }
    series.extend(
        sums.into_iter()
            .filter_map(|(subject, values)| lined_up(subject, &values)),
    );
    series.sort_by(|a, b| a.subject.cmp(&b.subject));
    History {
        version: api::VERSION,
        now_ms,
        series,
        silent,
        without_history,
    }
}

/// The newest second of all parts.
pub fn samples(now_ms: i64, parts: Vec<Part>, silent: Vec<Silent>, name: Option<Measure>) -> Samples {
    let mut samples = Vec::new();
    let mut sums: BTreeMap<Subject, (f64, u64)> = BTreeMap::new();
    let mut latencies: BTreeMap<String, (Histogram, u64)> = BTreeMap::new();
    for part in parts {
        let age = |at: i64| u64::try_from(part.now_ms - at).unwrap_or(0);
        for one in part.series {
            let Some(value) = one.values.last().copied().flatten() else {
                continue;
            };
            let age_ms = age(one.start_ms);
            if let Some(whole) = whole_of(&one.subject).filter(|_| age_ms <= FRESH_MS) {
                let (sum, oldest) = sums.entry(whole).or_default();
                *sum += value;
                *oldest = age_ms.max(*oldest);
            }
            samples.push(Sample {
                subject: one.subject,
                value,
                age_ms,
            });
        }
        for of_service in part.latencies {
            let age_ms = age(of_service.start_ms);
            if let (Some(histogram), true) = (of_service.seconds.last(), age_ms <= FRESH_MS) {
                let (sum, oldest) = latencies.entry(of_service.service).or_default();
                sum.merge(histogram);
                *oldest = age_ms.max(*oldest);
            }
        }
    }
    for (service, (histogram, age_ms)) in &latencies {
        samples.extend(
            percentiles(histogram)
                .filter(|(measure, _)| name.is_none_or(|name| name == *measure))
                .map(|(measure, value)| Sample {
                    subject: of_service(service, measure),
                    value,
                    age_ms: *age_ms,
                }),
        );
    }
    samples.extend(
        sums.into_iter()
            .map(|(subject, (value, age_ms))| Sample { subject, value, age_ms }),
    );
    samples.sort_by(|a, b| a.subject.cmp(&b.subject));
    Samples {
        version: api::VERSION,
        now_ms,
        samples,
        silent,
    }
}

/// The whole that a node's part of a service is added to, if it is.
fn whole_of(subject: &Subject) -> Option<Subject> {
    let is_part = subject.node.is_some() && subject.instance.is_none() && SUMS.contains(&subject.name);
    let service = subject.service.as_ref().filter(|_| is_part)?;
    Some(of_service(service, subject.name))
}

fn of_service(service: &str, name: Measure) -> Subject {
    Subject {
        service: Some(service.to_owned()),
        instance: None,
        node: None,
        name,
    }
}

fn second(at_ms: i64) -> i64 {
    (at_ms + STEP_MS / 2).div_euclid(STEP_MS)
}

fn lined_up(subject: Subject, values: &BTreeMap<i64, f64>) -> Option<Series> {
    let (first, last) = (*values.first_key_value()?.0, *values.last_key_value()?.0);
    Some(Series {
        subject,
        start_ms: first * STEP_MS,
        step_ms: STEP_MS.unsigned_abs(),
        values: (first..=last).map(|at| values.get(&at).copied()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{About, Memory, Moment, Wanted};

    fn part(node: &str, moment: Moment, requests: f64, took_us: u64) -> Memory {
        let mut memory = Memory::default();
        let about = About {
            service: Some("web".into()),
            instance: None,
            node: Some(node.into()),
        };
        let mut histogram = Histogram::default();
        histogram.add(model::latency::bucket(took_us), requests as u64);
        let second = moment.second() - 1;
        memory.note(&about, second, &[(Measure::RequestsPerSecond, requests)]);
        memory.note_latencies("web", second, &histogram);
        memory
    }

    /// Two nodes whose clocks differ by an hour and which were booted at different times.
    fn two() -> [Part; 2] {
        let a = Moment {
            boot_ms: 500_400,
            wall_ms: 10_000_000,
        };
        let b = Moment {
            boot_ms: 90_400,
            wall_ms: 13_600_000,
        };
        [("a", a, 90.0, 1_000), ("b", b, 10.0, 1_000_000)].map(|(node, moment, requests, took)| {
            part(node, moment, requests, took).history(node, &Wanted::default(), moment)
        })
    }

    fn found(series: &[Series], measure: Measure) -> Vec<Option<f64>> {
        let mut named = series.iter().filter(|one| one.subject == of_service("web", measure));
        named.next().expect("it is there").values.clone()
    }

    #[test]
    fn requests_add_up_and_percentiles_are_of_all_requests() {
        let history = history(10_000_000, two().into(), Vec::new(), None);
        assert_eq!(found(&history.series, Measure::RequestsPerSecond), [Some(100.0)]);
        // Nine of ten took 1 ms: the mean of both nodes' percentiles would be 500 ms.
        let p50 = found(&history.series, Measure::LatencyP50Ms)[0].expect("a value");
        assert!((p50 - 1.0).abs() < 0.05, "{p50}");
        let p95 = found(&history.series, Measure::LatencyP95Ms)[0].expect("a value");
        assert!((p95 - 1_000.0).abs() < 50.0, "{p95}");
        let nodes: Vec<_> = history
            .series
            .iter()
            .filter_map(|one| one.subject.node.clone())
            .collect();
        assert_eq!(nodes, ["a", "b"]);
    }

    #[test]
    fn what_is_stale_is_not_part_of_the_whole_and_its_age_is_told() {
        let [a, mut b] = two();
        b.now_ms += 60_000;
        let samples = samples(10_000_000, vec![a, b], Vec::new(), None);
        let of = |node: Option<&str>| {
            let is = |sample: &&Sample| {
                sample.subject.node.as_deref() == node && sample.subject.name == Measure::RequestsPerSecond
            };
            let sample = samples.samples.iter().find(is).expect("it is there");
            (sample.value, sample.age_ms)
        };
        assert_eq!(of(None), (90.0, 400));
        assert_eq!(of(Some("b")), (10.0, 60_400));
    }
}
