//! Never too many at once: a fault that takes a rack away must not make the rest take each other's power.

use super::Situation;
use model::Mark;
use std::collections::VecDeque;
use std::time::Duration;

/// A node that was fenced counts as lost for this long: those who go together are noticed, and fenced, one after the other.
const COUNTS_FOR: Duration = Duration::from_secs(30);

/// Counts who was lost of late.
#[derive(Debug, Clone, Default)]
pub(super) struct Brake {
    fenced: VecDeque<Mark>,
}

impl Brake {
    /// A node was seen to be off.
    pub(super) fn fenced(&mut self, now: Mark) {
        // Bound: an entry for each node that was fenced within half a minute.
        self.fenced.retain(|at| now.held_for(*at) < COUNTS_FOR);
        self.fenced.push_back(now);
    }

    /// So many of so many are lost, if that is more than a third. One is never too many: of two or three nodes it is a third or more.
    pub(super) fn holds(&self, situation: &Situation<'_>) -> Option<(usize, usize)> {
        let fenced = self
            .fenced
            .iter()
            .filter(|at| situation.now.held_for(**at) < COUNTS_FOR);
        let lost = situation.unproven.len() + fenced.count();
        let living = situation
            .sessions
            .keys()
            .filter(|node| !situation.unproven.contains_key(*node));
        let of = living.count() + lost;
        (lost > 1 && 3 * lost > of).then_some((lost, of))
    }
}
