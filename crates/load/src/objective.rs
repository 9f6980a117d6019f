//! What is promised to clients, as an operator writes it: `p99 < 200ms`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A share of requests that must be answered within a time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    /// The share, 0.5 to 0.9999.
    pub quantile: f64,
    /// The time, milliseconds, from when a request was due.
    pub within_ms: f64,
}

/// An objective that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no objective: write it as in `p99 < 200ms`, with p50 to p99.99 and a time up to a minute")]
pub struct NotAnObjective {
    /// As it was given.
    pub given: String,
}

impl Default for Objective {
    /// 99 % within 200 ms.
    fn default() -> Self {
        Self {
            quantile: 0.99,
            within_ms: 200.0,
        }
    }
}

impl Objective {
    /// As a span.
    pub fn within(&self) -> Duration {
        Duration::from_secs_f64(self.within_ms / 1_000.0)
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = format!("{:.2}", self.quantile * 100.0);
        let percent = percent.trim_end_matches('0').trim_end_matches('.');
        write!(f, "p{percent} < {}", milliseconds(self.within_ms))
    }
}

impl FromStr for Objective {
    type Err = NotAnObjective;

    fn from_str(text: &str) -> Result<Self, NotAnObjective> {
        let wrong = || NotAnObjective { given: text.to_owned() };
        let (quantile, within) = text.split_once('<').ok_or_else(wrong)?;
        let percent: f64 = quantile
            .trim()
            .strip_prefix('p')
            .and_then(|p| p.parse().ok())
            .ok_or_else(wrong)?;
        let within: jiff::SignedDuration = within.trim().parse().map_err(|_| wrong())?;
        let within_ms = within.as_secs_f64() * 1_000.0;
        if !(50.0..=99.99).contains(&percent) || !(0.01..=60_000.0).contains(&within_ms) {
            return Err(wrong());
        }
        Ok(Self {
            quantile: percent / 100.0,
            within_ms,
        })
    }
}

/// With as many digits as say something.
pub(crate) fn milliseconds(ms: f64) -> String {
    match ms {
        ms if ms >= 10_000.0 => format!("{:.1} s", ms / 1_000.0),
        ms if ms >= 1_000.0 => format!("{:.2} s", ms / 1_000.0),
        ms if ms >= 100.0 || (ms.fract() == 0.0 && ms >= 1.0) => format!("{ms:.0} ms"),
        ms if ms >= 10.0 => format!("{ms:.1} ms"),
        ms => format!("{ms:.2} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_are_read_as_they_are_written() {
        for (text, quantile, within_ms, shown) in [
            ("p99 < 200ms", 0.99, 200.0, "p99 < 200 ms"),
            ("p99.9<1.5s", 0.999, 1_500.0, "p99.9 < 1.50 s"),
            ("p50 < 2.5ms", 0.5, 2.5, "p50 < 2.50 ms"),
        ] {
            let objective: Objective = text.parse().unwrap();
            assert!((objective.quantile - quantile).abs() < 1e-9 && (objective.within_ms - within_ms).abs() < 1e-6);
            assert_eq!(objective.to_string(), shown);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "p99",
            "99 < 200ms",
            "p99 < soon",
            "p10 < 1ms",
            "p100 < 1ms",
            "p99 < 2h",
            "p99 < -1s",
            "p99 < 0ms",
        ] {
            let error = text.parse::<Objective>().unwrap_err();
            assert!(error.to_string().contains("p99 < 200ms"), "{text}");
        }
    }
}
