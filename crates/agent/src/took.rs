//! How long failovers of each service took, to be told beside what they may take at worst.

use api::Event;
use model::latency::Histogram;
use std::collections::BTreeMap;

/// Of each service, the unplanned takeovers that this node tells of. Services are few, and so are the buckets of a histogram.
#[derive(Debug, Default)]
pub(crate) struct Took(BTreeMap<String, Measured>);

#[derive(Debug, Default)]
struct Measured {
    times: Histogram,
    longest_us: u64,
}

impl Took {
    pub(crate) fn note(&mut self, event: &Event) {
        let Some(failover) = event.failover.as_ref().filter(|failover| !failover.planned) else {
            return;
        };
        let measured = self.0.entry(failover.service.clone()).or_default();
        measured.times.record(failover.total_us);
        measured.longest_us = measured.longest_us.max(failover.total_us);
    }

    /// In words; `None` if none was seen.
    pub(crate) fn words(&self, service: &str) -> Option<String> {
        let measured = self.0.get(service)?;
        let longest = span(measured.longest_us);
        let count = measured.times.count();
        if count == 1 {
            return Some(format!(
                "measured, from the first evidence to the first answer: {longest} (one failover)"
            ));
        }
        let half = measured.times.percentile(0.5).unwrap_or(0).min(measured.longest_us);
        Some(format!(
            "measured, from the first evidence to the first answer: half of {count} failovers within {}, the longest {longest}",
            span(half)
        ))
    }
}

/// As a person says it.
pub(crate) fn span(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takeover(service: &str, planned: bool, total_us: u64) -> Event {
        serde_json::from_value(serde_json::json!({
            "seq": 1, "at": "2026-01-01T00:00:00Z", "severity": "info", "kind": "failover", "text": "", "because": "",
            "service": service, "instance": null, "node": null,
            "failover": {
                "service": service, "slot": 0, "from": null, "to": "db-2", "epoch": 2, "planned": planned, "total_us": total_us, "steps": []
            }
        }))
        .unwrap()
    }

    #[test]
    fn what_was_measured_is_told_of_each_service_and_planned_moves_are_none() {
        let mut took = Took::default();
        assert_eq!(took.words("db"), None);
        took.note(&takeover("db", true, 5));
        took.note(&takeover("web", false, 1));
        assert_eq!(took.words("db"), None);
        took.note(&takeover("db", false, 12_000));
        assert_eq!(
            took.words("db").unwrap(),
            "measured, from the first evidence to the first answer: 12.0 ms (one failover)"
        );
        took.note(&takeover("db", false, 700_000));
        took.note(&takeover("db", false, 14_000));
        let words = took.words("db").unwrap();
        assert!(
            words.contains("half of 3 failovers within 14.") && words.ends_with("the longest 700.0 ms"),
            "{words}"
        );
    }
}
