//! What an operator wants of a service, and who is told when it is not so.

use crate::Millis;
use serde::{Deserialize, Serialize};

/// A share, in millionths: 99.9 % is 999,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Share(pub u32);

impl Share {
    /// All.
    pub const ALL: u32 = 1_000_000;

    /// Reads `99.9%`: more than 0 and less than 100, with at most four decimals.
    pub fn parse(text: &str) -> Option<Self> {
        let number = text.strip_suffix('%')?.trim_end();
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let fits = !whole.is_empty() && whole.len() <= 3 && fraction.len() <= 4;
        if !fits || !digits(whole) || !digits(fraction) || number.ends_with('.') {
            return None;
        }
        let millionths: u32 = format!("{whole}{fraction:0<4}").parse().ok()?;
        (0 < millionths && millionths < Self::ALL).then_some(Self(millionths))
    }

    /// What it leaves over, 0 to 1.
    pub fn rest(self) -> f64 {
        f64::from(Self::ALL - self.0) / f64::from(Self::ALL)
    }

    /// The share, 0 to 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / f64::from(Self::ALL)
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = format!("{}.{:04}", self.0 / 10_000, self.0 % 10_000);
        write!(f, "{}%", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// What an operator wants of a service. What is not given is not judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objective {
    /// The share of requests that are answered without an error, over 30 days.
    pub availability: Option<Share>,
    /// How long a request may take.
    pub latency: Option<Millis>,
    /// The share of requests that take no longer.
    pub latency_share: Share,
    /// The distance to outage below which somebody is told.
    pub distance: Option<u32>,
    /// How long a failover may take.
    pub failover: Option<Millis>,
}

/// Who is told of alerts, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alerts {
    /// Addresses that get alerts by POST, in the JSON that Alertmanager sends to webhooks.
    pub webhook: Vec<String>,
    /// Alertmanagers.
    pub alertmanager: Vec<String>,
    /// A command that gets the same JSON on its standard input; empty for none.
    pub command: Vec<String>,
    /// A file with a token that is shown to webhooks and Alertmanagers.
    pub token_file: Option<String>,
    /// A file with the authorities that `https` addresses are judged by.
    pub ca_file: Option<String>,
    /// An alert that goes on is told again after this long.
    pub repeat: Millis,
    /// Every so often all are told that alerts would arrive; not at all if not given.
    pub heartbeat: Option<Millis>,
}

impl Alerts {
    /// Whether anybody is told at all.
    pub fn is_silent(&self) -> bool {
        self.webhook.is_empty() && self.alertmanager.is_empty() && self.command.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_exactly_and_shown_as_they_were_written() {
        for (text, millionths) in [
            ("99.9%", 999_000),
            ("99%", 990_000),
            ("99.9999%", 999_999),
            ("0.5%", 5_000),
            ("50 %", 500_000),
        ] {
            assert_eq!(Share::parse(text), Some(Share(millionths)), "{text}");
            assert_eq!(Share(millionths).to_string(), text.replace(' ', ""));
        }
        for text in [
            "",
            "%",
            "99.9",
            "100%",
            "0%",
            "101%",
            "99.99999%",
            "-1%",
            "9e1%",
            "99.%",
            ".9%",
            "0.999",
            "9999%",
        ] {
            assert_eq!(Share::parse(text), None, "{text}");
        }
        assert!((Share(999_000).rest() - 0.001).abs() < 1e-12);
    }
}
