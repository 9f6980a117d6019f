//! How long things take: the same each time in a script, drawn from a seed in a random run.

use fastrand::Rng;
use std::time::Duration;

/// Draws spans. Without a generator each is the usual one.
#[derive(Debug)]
pub(crate) struct Pace {
    rng: Option<Rng>,
}

impl Pace {
    pub(crate) fn fixed() -> Self {
        Self { rng: None }
    }

    pub(crate) fn random(seed: u64) -> Self {
        Self {
            rng: Some(Rng::with_seed(seed)),
        }
    }

    /// A span near the usual one; now and then a much longer one.
    pub(crate) fn span(&mut self, usual_us: u64) -> Duration {
        let Some(rng) = &mut self.rng else {
            return Duration::from_micros(usual_us);
        };
        let spread = rng.u64(usual_us / 4..=usual_us * 2);
        let factor = match rng.u32(0..100) {
            0 => 50,
            1..5 => 8,
            _ => 1,
        };
        Duration::from_micros(spread * factor)
    }

    /// A span between two bounds, the lower one in a script.
    pub(crate) fn between(&mut self, low: Duration, high: Duration) -> Duration {
        let (low, high) = (low.as_micros() as u64, high.as_micros() as u64);
        match &mut self.rng {
            Some(rng) => Duration::from_micros(rng.u64(low..=high.max(low))),
            None => Duration::from_micros(low),
        }
    }

    /// A coin; tails in a script.
    pub(crate) fn coin(&mut self) -> bool {
        self.rng.as_mut().is_some_and(Rng::bool)
    }
}
