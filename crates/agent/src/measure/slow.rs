//! "why slow", from what was measured in the newest second.

use api::{Measure, Sample};
use std::collections::BTreeMap;

/// What is older says nothing of now.
const FRESH_MS: u64 = 5_000;
/// Of a second: an instance that waits longer than this is told of.
const STALLED: [(Measure, f64, &str); 4] = [
    (Measure::CpuStall, 0.10, "waits for a processor"),
    (
        Measure::CpuThrottled,
        0.05,
        "is kept from running by its processor limit",
    ),
    (Measure::MemoryStall, 0.05, "waits for memory"),
    (Measure::IoStall, 0.10, "waits for a disk"),
];

/// What the newest second says of a service, over all nodes that answer.
pub(crate) fn lines(service: &str, samples: &[Sample]) -> Vec<String> {
    let ours = || {
        let fresh = samples.iter().filter(|sample| sample.age_ms <= FRESH_MS);
        fresh.filter(|sample| sample.subject.service.as_deref() == Some(service))
    };
    let whole: BTreeMap<Measure, f64> = ours()
        .filter(|sample| sample.subject.instance.is_none() && sample.subject.node.is_none())
        .map(|sample| (sample.subject.name, sample.value))
        .collect();
    let mut lines = Vec::new();
    if let (Some(half), Some(most)) = (whole.get(&Measure::LatencyP50Ms), whole.get(&Measure::LatencyP99Ms)) {
        let requests = whole.get(&Measure::RequestsPerSecond).copied().unwrap_or(0.0);
        let inflight = whole.get(&Measure::Inflight).copied().unwrap_or(0.0);
        lines.push(format!(
            "in the last second, all nodes together: half of {requests:.0} requests took at most {half:.1} ms, 99 % at most {most:.1} ms; {inflight:.1} were \
             under way in the mean"
        ));
    }
    if let Some(held) = whole.get(&Measure::Held).filter(|held| **held >= 0.5) {
        lines.push(format!("{held:.0} requests wait for an active now"));
    }
    let mut stalled = false;
    let mut looked_at = false;
    for sample in ours() {
        let Some(instance) = &sample.subject.instance else {
            continue;
        };
        let Some((_, bound, what)) = STALLED.iter().find(|(measure, ..)| *measure == sample.subject.name) else {
            continue;
        };
        looked_at = true;
        if sample.value >= *bound {
            stalled = true;
            lines.push(format!("{instance} {what} {:.0} % of the time", sample.value * 100.0));
        }
    }
    if looked_at && !stalled {
        lines.push(
            "no instance waits for a processor, memory or a disk worth mentioning: if it is slow, it is by its own work or by what it calls".into(),
        );
    }
    if lines.is_empty() {
        lines.push("nothing was measured of it in the last seconds".into());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Subject;

    fn sample(instance: Option<&str>, name: Measure, value: f64, age_ms: u64) -> Sample {
        Sample {
            subject: Subject {
                service: Some("web".into()),
                instance: instance.map(Into::into),
                node: instance.map(|_| "a".into()),
                name,
            },
            value,
            age_ms,
        }
    }

    #[test]
    fn who_waits_is_named_and_old_news_is_left_out() {
        let samples = [
            sample(None, Measure::LatencyP50Ms, 3.0, 100),
            sample(None, Measure::LatencyP99Ms, 250.0, 100),
            sample(Some("web-1"), Measure::CpuStall, 0.42, 100),
            sample(Some("web-2"), Measure::CpuStall, 0.01, 100),
            sample(Some("web-3"), Measure::IoStall, 0.9, 60_000),
        ];
        let said = lines("web", &samples);
        assert!(said[0].contains("99 % at most 250.0 ms"), "{said:?}");
        assert_eq!(said[1], "web-1 waits for a processor 42 % of the time");
        assert_eq!(said.len(), 2, "{said:?}");
    }

    #[test]
    fn that_nobody_waits_is_worth_saying_and_that_nothing_is_known_too() {
        let calm = [sample(Some("web-1"), Measure::CpuStall, 0.0, 100)];
        assert!(lines("web", &calm)[0].contains("its own work or by what it calls"));
        assert_eq!(lines("db", &calm), ["nothing was measured of it in the last seconds"]);
    }
}
