//! Keeps the time: a thread of its own, because the runtime's timer counts whole milliseconds.

use super::{Seen, Spacing, Stretch};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// Slept at most at once, so that a slow stretch ends soon too.
const NAP: Duration = Duration::from_millis(50);

pub(super) struct Pacer {
    pub(super) began: Instant,
    pub(super) stretch: Stretch,
    /// Unbounded: what it holds is bounded by a stretch of the highest rate, and the sender drops what it cannot send.
    pub(super) due: UnboundedSender<Instant>,
    pub(super) seen: Arc<Seen>,
}

impl Pacer {
    pub(super) fn run(self) {
        let length = self.stretch.settle + self.stretch.measure;
        for planned in times(&self.stretch) {
            if planned >= length {
                return;
            }
            let at = self.began + planned;
            loop {
                if self.seen.stop.load(Relaxed) {
                    return;
                }
                let left = at.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                std::thread::sleep(left.min(NAP));
            }
            if self.due.send(at).is_err() {
                return;
            }
        }
    }
}

/// The planned times, from the beginning.
fn times(stretch: &Stretch) -> impl Iterator<Item = Duration> + use<> {
    let mut random = fastrand::Rng::with_seed(stretch.seed);
    let (rate, spacing) = (stretch.rate, stretch.spacing);
    let mut at = 0.0;
    std::iter::from_fn(move || {
        at += match spacing {
            Spacing::Even => 1.0 / rate,
            Spacing::Poisson => -(1.0 - random.f64()).ln() / rate,
        };
        Some(Duration::from_secs_f64(at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(spacing: Spacing, seed: u64) -> Vec<Duration> {
        let stretch = Stretch {
            rate: 1_000.0,
            settle: Duration::ZERO,
            measure: Duration::from_secs(10),
            spacing,
            seed,
        };
        times(&stretch).take_while(|at| *at < stretch.measure).collect()
    }

    #[test]
    fn times_have_the_rate_that_was_asked_for() {
        let even = planned(Spacing::Even, 1);
        assert!((9_998..=10_000).contains(&even.len()), "{}", even.len());
        let random = planned(Spacing::Poisson, 1);
        // Four standard deviations.
        assert!((9_600..=10_400).contains(&random.len()), "{}", random.len());
        assert_eq!(random, planned(Spacing::Poisson, 1));
        assert_ne!(random, planned(Spacing::Poisson, 2));
        // Of chance a third of the intervals is longer than the mean: e to the minus one.
        let long = random
            .windows(2)
            .filter(|pair| pair[1] - pair[0] > Duration::from_millis(1))
            .count();
        assert!((3_300..=4_100).contains(&long), "{long}");
    }
}
