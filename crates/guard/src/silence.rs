//! Whether the agent has said nothing for too long.
//!
//! Only time in which we were scheduled ourselves counts: after a stall of the whole machine the agent gets as long as ever.

use model::Mark;
use std::time::Duration;

/// One look counts for this much at most.
const STEP_MAX: Duration = Duration::from_millis(200);

/// The silence of one agent.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    looked: Option<Mark>,
    silent: Duration,
}

impl Silence {
    /// It was heard; from now on it is watched.
    pub(crate) fn heard(&mut self, now: Mark) {
        self.looked = Some(now);
        self.silent = Duration::ZERO;
    }

    /// It is watched no longer.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.looked.is_some()
    }

    /// Counts the time since the last look; true if it has been silent for `timeout`.
    pub(crate) fn look(&mut self, now: Mark, timeout: Duration) -> bool {
        let Some(looked) = self.looked.replace(now) else {
            self.looked = None;
            return false;
        };
        self.silent += now.held_for(looked).min(STEP_MAX);
        self.silent >= timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn at(ms: u64) -> Mark {
        Mark::default().later(Duration::from_millis(ms))
    }

    #[test]
    fn an_agent_that_was_never_heard_is_not_silent() {
        let mut silence = Silence::default();
        assert!(!(0..100).any(|s| silence.look(at(s * 1_000), TIMEOUT)));
    }

    #[test]
    fn silence_is_counted_from_the_last_word() {
        let mut silence = Silence::default();
        silence.heard(at(0));
        assert!(!(1..40).any(|n| silence.look(at(n * 100), TIMEOUT)));
        silence.heard(at(4_000));
        assert!(!(41..90).any(|n| silence.look(at(n * 100), TIMEOUT)));
        assert!(silence.look(at(9_000), TIMEOUT));
    }

    #[test]
    fn a_stall_of_the_guard_itself_is_not_silence_of_the_agent() {
        let mut silence = Silence::default();
        silence.heard(at(0));
        assert!(!silence.look(at(60_000), TIMEOUT));
        assert!(!silence.look(at(60_100), TIMEOUT));
    }
}
