//! All probes of one instance, one after the other, at their times.
//!
//! ```text
//! spawn ─▶ probes in quick succession ── first pass ─▶ one probe each `every`, at this instance's own phase
//!            10 ms, 15, 22 … 100 ms                       ▲ probe_now(): one more, at once
//! ```

use super::patience::since_boot;
use super::{ExecEnv, ProbeResult, probe};
use crate::process::Process;
use model::Check;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// The first wait after a start: a small program is up by then.
const STARTING_EVERY: Duration = Duration::from_millis(10);
/// The longest wait while an instance starts: nobody notices that much more.
const STARTING_EVERY_MAX: Duration = Duration::from_millis(100);
/// Extra probes are at least this far apart: a proxy may suspect an instance a thousand times a second.
const EXTRA_EVERY: Duration = Duration::from_millis(10);

/// A period is cut into this many turns, and all instances of one turn are probed together: waking up costs as much as a
/// probe does, so a hundred instances that each wake us at a moment of their own cost twice as much.
const TURNS: u32 = 12;
/// Turns are at least this far apart, however short the period.
const TURN_MIN: Duration = Duration::from_millis(10);

/// Makes probers.
#[derive(Debug)]
pub struct Prober;

/// A running prober. Dropping it stops the probes.
#[derive(Debug)]
pub struct ProberHandle {
    task: AbortHandle,
    extra: Arc<Notify>,
}

impl Prober {
    /// Probes an instance from now on, at first at once, and gives each result to `sink`.
    ///
    /// From the start of one probe to the start of the next it takes `check.every`, longer if a probe takes longer: they never
    /// overlap. Until the first pass the pace is quicker, so that an instance serves as soon as it can.
    /// `jitter_seed` chooses when within `every` this instance has its turn; give each another, so that they spread.
    ///
    /// Must be called within a tokio runtime.
    pub fn spawn(
        check: Check,
        target: Option<SocketAddr>,
        exec_env: ExecEnv,
        process: Option<Process>,
        jitter_seed: u64,
        sink: impl Fn(ProbeResult) + Send + 'static,
    ) -> ProberHandle {
        let extra = Arc::new(Notify::new());
        let pace = Pace::new(check.every.duration(), jitter_seed);
        let subject = Subject {
            check,
            target,
            exec_env,
            process,
        };
        let rounds = rounds(subject, pace, Arc::clone(&extra), sink);
        ProberHandle {
            task: tokio::spawn(rounds).abort_handle(),
            extra,
        }
    }
}

impl ProberHandle {
    /// Asks for one more probe at once, or right after the one under way: that one may have begun before the cause to doubt.
    pub fn probe_now(&self) {
        self.extra.notify_one();
    }

    /// Stops the probes. A result that is on its way may still arrive; then no more.
    pub fn stop(self) {}
}

impl Drop for ProberHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is probed, and how.
struct Subject {
    check: Check,
    target: Option<SocketAddr>,
    exec_env: ExecEnv,
    process: Option<Process>,
}

async fn rounds(subject: Subject, mut pace: Pace, extra: Arc<Notify>, sink: impl Fn(ProbeResult) + Send + 'static) {
    let Subject {
        check,
        target,
        exec_env,
        process,
    } = subject;
    loop {
        // What was asked for up to here, this probe answers.
        pin!(extra.notified()).enable();
        let begun = Instant::now();
        // Boxed, so that a prober that waits, as nearly all do nearly always, is small.
        let result = Box::pin(probe(
            &check.kind,
            target,
            check.timeout.duration(),
            &exec_env,
            process.as_ref(),
        ))
        .await;
        let passed = matches!(result, ProbeResult::Pass { .. });
        sink(result);
        let next = pace.next(since_boot(), begun.elapsed(), passed);
        tokio::select! {
            () = tokio::time::sleep(next) => {}
            () = extra.notified() => {
                tokio::time::sleep_until(begun + EXTRA_EVERY).await;
                pace.was_extra();
            }
        }
    }
}

/// When the next probe is due. Knows no clock: it is told the time.
#[derive(Debug)]
struct Pace {
    every: Duration,
    phase: Duration,
    /// The wait between two probes until the first pass; then `None`.
    starting: Option<Duration>,
    extra: bool,
}

impl Pace {
    fn new(every: Duration, jitter_seed: u64) -> Self {
        let turn = (every / TURNS).max(TURN_MIN);
        let turns = (every.as_nanos() / turn.as_nanos()).max(1);
        let ours = u128::from(spread(jitter_seed)) % turns;
        Self {
            every,
            phase: turn * u32::try_from(ours).unwrap_or(0),
            starting: Some(STARTING_EVERY.min(every)),
            extra: false,
        }
    }

    fn was_extra(&mut self) {
        self.extra = true;
    }

    /// The wait from `now` until the next probe is due, after one that `took` so long and passed or not.
    fn next(&mut self, now: Duration, took: Duration, passed: bool) -> Duration {
        let extra = std::mem::take(&mut self.extra);
        match self.starting {
            Some(wait) if !passed => {
                self.starting = Some((wait * 3 / 2).min(STARTING_EVERY_MAX).min(self.every));
                wait.saturating_sub(took)
            }
            _ => {
                self.starting = None;
                let turn = self.until_turn(now);
                if extra {
                    // It came on top: the others stay where they were.
                    turn
                } else if took >= self.every {
                    Duration::ZERO
                } else if turn + took < self.every / 2 {
                    // Two so close together would count twice for one and the same moment.
                    turn + self.every
                } else {
                    turn
                }
            }
        }
    }

    /// The wait until the next moment of this instance's phase: the same for all instances that stall together,
    /// so that they do not all probe in the same moment afterwards.
    fn until_turn(&self, now: Duration) -> Duration {
        let every = self.every.as_nanos().max(1);
        let into = (now.as_nanos() + every - self.phase.as_nanos()) % every;
        Duration::from_nanos(u64::try_from(every - into).unwrap_or(u64::MAX))
    }
}

/// Makes neighbouring seeds differ in all bits (the finisher of MurmurHash3).
fn spread(seed: u64) -> u64 {
    let mut bits = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const EVERY: Duration = Duration::from_millis(1000);
    const NO_TIME: Duration = Duration::ZERO;

    #[test]
    fn until_the_first_pass_the_pace_is_quick_and_slows_down() {
        let mut pace = Pace::new(EVERY, 1);
        let waits: Vec<u128> = (0..8).map(|_| pace.next(NO_TIME, NO_TIME, false).as_millis()).collect();
        assert_eq!(waits, [10, 15, 22, 33, 50, 75, 100, 100]);
        let mut pace = Pace::new(Duration::from_millis(20), 1);
        let waits: Vec<u128> = (0..4).map(|_| pace.next(NO_TIME, NO_TIME, false).as_millis()).collect();
        assert_eq!(waits, [10, 15, 20, 20]);
        let took = Duration::from_millis(500);
        assert_eq!(
            pace.next(NO_TIME, took, false),
            NO_TIME,
            "a slow failure is followed at once"
        );
    }

    #[test]
    fn after_it_the_turns_are_a_period_apart_whatever_the_probes_take() {
        let mut pace = Pace::new(EVERY, 42);
        let mut now = Duration::from_secs(1000);
        let first = pace.next(now, NO_TIME, true);
        assert!(first >= EVERY / 2 && first <= EVERY * 3 / 2, "{first:?}");
        now += first;
        for took in [1, 300, 999].map(Duration::from_millis) {
            assert_eq!(pace.next(now + took, took, false) + took, EVERY);
            now += EVERY;
        }
        let took = Duration::from_millis(1700);
        assert_eq!(pace.next(now + took, took, false), NO_TIME, "it is over time");
    }

    #[test]
    fn an_extra_probe_leaves_the_turns_where_they_are() {
        let mut pace = Pace::new(EVERY, 42);
        let now = Duration::from_secs(1000);
        let turn = now + pace.next(now, NO_TIME, true);
        for before in [900, 500, 10].map(Duration::from_millis) {
            pace.was_extra();
            let took = Duration::from_millis(1);
            assert_eq!(pace.next(turn - before, took, true), before);
        }
    }

    #[test]
    fn a_thousand_instances_spread_over_the_turns_of_the_period() {
        for (every, turns) in [
            (EVERY, 12),
            (Duration::from_millis(50), 5),
            (Duration::from_millis(10), 1),
        ] {
            let mut instances = BTreeMap::new();
            for seed in 0..1000 {
                *instances.entry(Pace::new(every, seed).phase).or_insert(0) += 1;
            }
            assert_eq!(instances.len(), turns, "{instances:?}");
            let fair = 1000 / turns;
            assert!(
                instances
                    .values()
                    .all(|count| (fair * 7 / 10..=fair * 13 / 10).contains(count)),
                "{instances:?}"
            );
        }
    }
}
