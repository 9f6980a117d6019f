//! How long a service was away for a client, from its record. Pure.

use crate::client::{Attempt, Outcome};
use std::time::Duration;

/// When a service counts as back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// It is back at the first of so many good answers in a row.
    pub good_in_a_row: usize,
    /// A client whose own lateness was above this in the 99th percentile has measured itself.
    pub late_p99_max: Duration,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            good_in_a_row: 100,
            late_p99_max: Duration::from_millis(20),
        }
    }
}

/// What one fault did to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// From the first request that failed, by planned time, to the first of those that did no more. `None`: it never came back.
    pub length: Option<Duration>,
    /// Requests that failed, in all of the record.
    pub failed: usize,
    /// All requests.
    pub sent: usize,
    /// The client's own lateness, 99th percentile.
    pub late_p99: Duration,
    /// Answers at an epoch below one that had been answered before they were asked for.
    pub backwards: usize,
}

impl Outage {
    /// Whether the client was good enough to judge by.
    pub fn counts(&self, rule: Rule) -> bool {
        self.late_p99 <= rule.late_p99_max
    }
}

/// The outage in a record with one fault, which was planned after `since_ns` (CLOCK_BOOTTIME); failures before it are counted, but are no part of the outage.
pub fn outage(attempts: &[Attempt], since_ns: u64, rule: Rule) -> Outage {
    let mut by_time: Vec<&Attempt> = attempts.iter().collect();
    by_time.sort_by_key(|attempt| attempt.planned_ns);
    // A request that was under way when the fault came fails because of it.
    let concerned = |attempt: &Attempt| attempt.ended_ns() >= since_ns;
    let first = by_time
        .iter()
        .position(|attempt| !attempt.is_good() && concerned(attempt));
    let length = match first {
        None => Some(Duration::ZERO),
        Some(first) => {
            let after = &by_time[first..];
            let last_bad = after.iter().rposition(|attempt| !attempt.is_good()).unwrap_or(0);
            after
                .get(last_bad + 1)
                .filter(|_| after.len() - last_bad > rule.good_in_a_row)
                .map(|back| Duration::from_nanos(back.planned_ns - after[0].planned_ns))
        }
    };
    Outage {
        length,
        failed: attempts.iter().filter(|attempt| !attempt.is_good()).count(),
        sent: attempts.len(),
        late_p99: late(attempts, 0.99),
        backwards: backwards(&by_time),
    }
}

fn late(attempts: &[Attempt], quantile: f64) -> Duration {
    let mut late: Vec<u64> = attempts.iter().map(|attempt| attempt.late_ns).collect();
    late.sort_unstable();
    let place = (late.len() as f64 * quantile).ceil() as usize;
    Duration::from_nanos(late.get(place.saturating_sub(1)).copied().unwrap_or(0))
}

/// Of answers that lie one after the other, so that no order of theirs explains it.
fn backwards(by_time: &[&Attempt]) -> usize {
    let epoch = |attempt: &Attempt| match attempt.outcome {
        Outcome::Answered { epoch, .. } => epoch,
        _ => None,
    };
    let answered = |attempt: &&Attempt| epoch(attempt).map(|epoch| (attempt.ended_ns(), epoch));
    let mut ends: Vec<(u64, u64)> = by_time.iter().filter_map(answered).collect();
    ends.sort_unstable();
    let (mut highest, mut next, mut found) = (0, 0, 0);
    for attempt in by_time {
        while let Some((_, epoch)) = ends.get(next).filter(|(end, _)| *end < attempt.planned_ns) {
            highest = highest.max(*epoch);
            next += 1;
        }
        found += usize::from(epoch(attempt).is_some_and(|epoch| epoch < highest));
    }
    found
}

/// What many tries of one fault came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Outages of tries that count and ended, sorted.
    pub lengths: Vec<Duration>,
    /// Failed requests of tries that count, sorted.
    pub failed: Vec<usize>,
    /// Tries that count, but in which the service never came back.
    pub never_back: usize,
    /// Tries in which the client was late itself.
    pub dropped: usize,
}

impl Summary {
    /// Of so many tries.
    pub fn of(outages: &[Outage], rule: Rule) -> Self {
        let (counting, late): (Vec<&Outage>, Vec<&Outage>) = outages.iter().partition(|outage| outage.counts(rule));
        let mut lengths: Vec<Duration> = counting.iter().filter_map(|outage| outage.length).collect();
        let mut failed: Vec<usize> = counting.iter().map(|outage| outage.failed).collect();
        lengths.sort_unstable();
        failed.sort_unstable();
        Self {
            never_back: counting.len() - lengths.len(),
            lengths,
            failed,
            dropped: late.len(),
        }
    }

    /// A quantile of the outage; `None` without a try.
    pub fn length(&self, quantile: f64) -> Option<Duration> {
        at(&self.lengths, quantile)
    }

    /// A quantile of the failed requests; `None` without a try.
    pub fn failed(&self, quantile: f64) -> Option<usize> {
        at(&self.failed, quantile)
    }
}

/// The nearest rank.
fn at<T: Copy>(sorted: &[T], quantile: f64) -> Option<T> {
    let rank = (sorted.len() as f64 * quantile).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn attempt(at_ms: u64, epoch: Option<u64>) -> Attempt {
        let outcome = match epoch {
            Some(epoch) => Outcome::Answered {
                epoch: Some(epoch),
                name: None,
            },
            None => Outcome::TimedOut,
        };
        let took_ns = if epoch.is_some() { MS } else { 200 * MS };
        Attempt {
            planned_ns: at_ms * MS,
            late_ns: 0,
            took_ns,
            repeated: false,
            outcome,
        }
    }

    /// A request each 5 ms for two seconds; those planned within a span fail.
    fn record(failing: &[(u64, u64)]) -> Vec<Attempt> {
        let fails = |at: &u64| failing.iter().any(|(from, to)| (*from..*to).contains(at));
        (0..2_000)
            .step_by(5)
            .map(|at| attempt(at, (!fails(&at)).then_some(1)))
            .collect()
    }

    #[test]
    fn an_outage_is_from_the_first_failed_plan_to_the_first_of_lasting_success() {
        let found = outage(&record(&[(500, 800)]), 500 * MS, Rule::default());
        assert_eq!(
            (found.length, found.failed, found.sent),
            (Some(Duration::from_millis(300)), 60, 400)
        );
        // A short success in between is no end.
        let found = outage(&record(&[(500, 600), (700, 800)]), 500 * MS, Rule::default());
        assert_eq!((found.length, found.failed), (Some(Duration::from_millis(300)), 40));
    }

    #[test]
    fn what_never_comes_back_has_no_length_and_what_never_went_has_none_to_tell() {
        assert_eq!(outage(&record(&[(500, 2_000)]), 500 * MS, Rule::default()).length, None);
        // Back for too short to say.
        assert_eq!(outage(&record(&[(500, 1_900)]), 500 * MS, Rule::default()).length, None);
        assert_eq!(
            outage(&record(&[]), 500 * MS, Rule::default()).length,
            Some(Duration::ZERO)
        );
    }

    #[test]
    fn a_failure_before_the_fault_is_counted_but_no_part_of_the_outage() {
        let found = outage(&record(&[(100, 105), (500, 600)]), 490 * MS, Rule::default());
        assert_eq!((found.length, found.failed), (Some(Duration::from_millis(100)), 21));
    }

    #[test]
    fn a_request_that_was_under_way_when_the_fault_came_belongs_to_it() {
        assert_eq!(
            outage(&record(&[(495, 600)]), 498 * MS, Rule::default()).length,
            Some(Duration::from_millis(105))
        );
    }

    #[test]
    fn answers_of_an_older_epoch_after_a_newer_one_are_found() {
        let mut attempts = record(&[]);
        attempts[100].outcome = Outcome::Answered {
            epoch: Some(2),
            name: None,
        };
        // All after it are at epoch 1.
        assert_eq!(outage(&attempts, 0, Rule::default()).backwards, 299);
        // One asked for before the newer answer had come proves nothing.
        attempts[100].took_ns = 12 * MS;
        assert_eq!(outage(&attempts, 0, Rule::default()).backwards, 297);
    }

    #[test]
    fn tries_of_a_late_client_are_dropped_and_counted() {
        let rule = Rule::default();
        let good = outage(&record(&[(500, 600)]), 0, rule);
        let longer = outage(&record(&[(500, 900)]), 0, rule);
        let never = outage(&record(&[(500, 2_000)]), 0, rule);
        let late = Outage {
            late_p99: Duration::from_millis(21),
            ..good
        };
        let summary = Summary::of(&[longer, good, late, never, good], rule);
        assert_eq!((summary.lengths.len(), summary.never_back, summary.dropped), (3, 1, 1));
        assert_eq!(summary.length(0.5), Some(Duration::from_millis(100)));
        assert_eq!(summary.length(1.0), Some(Duration::from_millis(400)));
        assert_eq!(Summary::default().length(0.5), None);
    }

    #[test]
    fn lateness_is_the_99th_percentile() {
        let mut attempts = record(&[]);
        attempts[0].late_ns = 500 * MS;
        assert_eq!(outage(&attempts, 0, Rule::default()).late_p99, Duration::ZERO);
        attempts
            .iter_mut()
            .take(5)
            .for_each(|attempt| attempt.late_ns = 500 * MS);
        assert!(!outage(&attempts, 0, Rule::default()).counts(Rule::default()));
    }
}
