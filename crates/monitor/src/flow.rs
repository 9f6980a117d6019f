//! From the proxy's totals to what happened in a second.

use api::proxy::{Measured, Totals};
use model::latency::Histogram;
use std::collections::BTreeMap;

/// What went through a proxy for one service between two of its reports.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Passed {
    /// The second in which it was reported, in seconds since boot.
    pub second: u64,
    /// The time between the reports in microseconds; 0 if there is none before.
    pub span_us: u64,
    /// Requests (http) or connections (tcp) that came to an end, or were refused.
    pub requests: u64,
    /// Of them, those that failed: 5xx, refused, broken off, or left by a client that had waited.
    pub errors: u64,
    /// How long the answered ones took.
    pub latency: Histogram,
    /// How many were under way, the mean.
    pub inflight: f64,
    /// How many wait for an active now.
    pub held: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Connections open now.
    pub connections: u64,
}

impl Passed {
    /// A count of it per second.
    pub fn per_second(&self, count: u64) -> f64 {
        if self.span_us == 0 {
            return 0.0;
        }
        count as f64 * 1e6 / self.span_us as f64
    }
}

/// The last report of each service.
#[derive(Debug, Default)]
pub struct Flow {
    last: BTreeMap<String, (Totals, Measured)>,
}

impl Flow {
    /// Takes a report in. `None` for the first of a service that has been counting for longer than we know of: its totals say nothing of now.
    /// The first of a proxy that only began to count is all new.
    pub fn take(&mut self, service: &str, totals: Totals, measured: &Measured) -> Option<Passed> {
        let before = self.last.insert(service.to_owned(), (totals, measured.clone()));
        let before = before.filter(|(last, was)| {
            was.pid == measured.pid && was.at_us <= measured.at_us && last.connections <= totals.connections
        });
        let began_unseen = measured.begun_us > 0 && measured.begun_us >= measured.since_us;
        let (last, was) = before.or_else(|| {
            let was = Measured {
                at_us: measured.begun_us,
                pid: measured.pid,
                ..Measured::default()
            };
            began_unseen.then(|| (Totals::default(), was))
        })?;
        let seen = |totals: &Totals, measured: &Measured| {
            totals.requests + measured.no_active + measured.crowded + measured.left
        };
        let bad = |totals: &Totals, measured: &Measured| totals.errors + totals.failed + measured.left;
        let errors = bad(&totals, measured).saturating_sub(bad(&last, &was));
        // After a time without traffic all of it came since the proxy looked last.
        let begun_us = was.at_us.max(measured.since_us.min(measured.at_us));
        let span_us = measured.at_us - begun_us;
        let inflight_us = measured.inflight_us.saturating_sub(was.inflight_us);
        Some(Passed {
            second: measured.at_us / 1_000_000,
            span_us,
            // What failed has been seen, also where it is counted in no other way: a socket that could not be accepted.
            requests: seen(&totals, measured).saturating_sub(seen(&last, &was)).max(errors),
            errors,
            latency: measured.latency.since(&was.latency),
            inflight: inflight_us as f64 / span_us.max(1) as f64,
            held: totals.holding,
            bytes_in: measured.bytes_in.saturating_sub(was.bytes_in),
            bytes_out: measured.bytes_out.saturating_sub(was.bytes_out),
            connections: totals.open,
        })
    }

    /// Forgets the services that `keep` does not want.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.last.retain(|service, _| keep(service));
    }

    /// The last report of a service.
    pub fn last(&self, service: &str) -> Option<&(Totals, Measured)> {
        self.last.get(service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(at_us: u64, requests: u64, failed: u64) -> (Totals, Measured) {
        let totals = Totals {
            connections: 1,
            open: 1,
            requests,
            failed,
            ..Totals::default()
        };
        let mut latency = Histogram::default();
        latency.add(100, requests);
        let measured = Measured {
            at_us,
            pid: 7,
            inflight_us: at_us / 2,
            latency,
            ..Measured::default()
        };
        (totals, measured)
    }

    #[test]
    fn two_reports_make_rates() {
        let mut flow = Flow::default();
        let (totals, measured) = report(5_500_000, 1_000, 0);
        assert_eq!(flow.take("web", totals, &measured), None);
        let (totals, measured) = report(7_500_000, 1_300, 10);
        let passed = flow.take("web", totals, &measured).expect("two reports");
        assert_eq!((passed.second, passed.requests, passed.errors), (7, 300, 10));
        assert!((passed.per_second(passed.requests) - 150.0).abs() < 1e-9);
        assert!((passed.inflight - 0.5).abs() < 1e-9);
        assert_eq!(passed.latency.count(), 300);
    }

    #[test]
    fn what_follows_a_quiet_time_is_of_the_last_second() {
        let mut flow = Flow::default();
        let (totals, measured) = report(5_500_000, 1_000, 0);
        flow.take("web", totals, &measured);
        let (totals, mut measured) = report(65_500_000, 1_100, 0);
        measured.since_us = 64_500_000;
        let passed = flow.take("web", totals, &measured).expect("two reports");
        assert!((passed.per_second(passed.requests) - 100.0).abs() < 1e-9, "{passed:?}");
    }

    #[test]
    fn the_first_requests_of_a_new_proxy_are_counted() {
        let mut flow = Flow::default();
        let (totals, measured) = report(5_500_000, 1_000, 0);
        flow.take("web", totals, &measured);
        let (totals, mut measured) = report(7_500_000, 120, 3);
        measured.pid = 8;
        (measured.since_us, measured.begun_us) = (6_200_000, 6_300_000);
        let passed = flow.take("web", totals, &measured).expect("all of it is new");
        assert_eq!((passed.requests, passed.errors, passed.span_us), (120, 3, 1_200_000));
        // To an agent that is new, one that was looked at before tells what it had told already.
        measured.since_us = 6_500_000;
        assert_eq!(Flow::default().take("web", totals, &measured), None);
    }

    #[test]
    fn a_new_proxy_is_not_compared_with_the_one_before() {
        let mut flow = Flow::default();
        let (totals, measured) = report(5_500_000, 1_000, 0);
        flow.take("web", totals, &measured);
        let (totals, mut measured) = report(6_500_000, 3, 0);
        measured.pid = 8;
        assert_eq!(flow.take("web", totals, &measured), None);
    }

    #[test]
    fn clients_that_gave_up_waiting_have_failed() {
        let mut flow = Flow::default();
        let (totals, mut measured) = report(1_000_000, 10, 0);
        flow.take("web", totals, &measured);
        measured.at_us = 2_000_000;
        measured.left = 4;
        measured.no_active = 1;
        let totals = Totals { failed: 1, ..totals };
        let passed = flow.take("web", totals, &measured).expect("two reports");
        assert_eq!((passed.requests, passed.errors), (5, 5));
    }
}
