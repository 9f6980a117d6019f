//! How long writes of the store take, as this node sees it: of each acknowledged renewal, from its send to the answer.

use model::Timestamp;
use std::time::Duration;

/// What is older than two of these is forgotten: a store that was slow for once is not called slow for ever.
const SPAN: Duration = Duration::from_secs(600);

/// The longest of the last ten to twenty minutes. Two numbers, however often the session is renewed.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    /// When the present span began, and the longest write in it.
    present: Option<(Timestamp, Duration)>,
    /// The longest of the span before.
    before: Duration,
}

impl Commits {
    /// A write was acknowledged that took so long.
    pub(crate) fn took(&mut self, took: Duration, now: Timestamp) {
        match &mut self.present {
            Some((since, longest)) if now.since(*since) < SPAN => *longest = (*longest).max(took),
            present => {
                self.before = present.map_or(Duration::ZERO, |(_, longest)| longest);
                *present = Some((now, took));
            }
        }
    }

    /// The longest, if any was acknowledged.
    pub(crate) fn longest(&self) -> Option<Duration> {
        self.present.map(|(_, longest)| longest.max(self.before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_is_known_for_ten_minutes_at_least_and_twenty_at_most() {
        let (ms, at) = (Duration::from_millis, |s: u64| Timestamp(0) + Duration::from_secs(s));
        let mut commits = Commits::default();
        assert_eq!(commits.longest(), None);
        commits.took(ms(3), at(0));
        commits.took(ms(40), at(599));
        commits.took(ms(2), at(599));
        assert_eq!(commits.longest(), Some(ms(40)), "no less than was measured");
        commits.took(ms(4), at(600));
        commits.took(ms(5), at(1_199));
        assert_eq!(commits.longest(), Some(ms(40)));
        commits.took(ms(1), at(1_200));
        assert_eq!(commits.longest(), Some(ms(5)));
    }
}
