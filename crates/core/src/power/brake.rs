//! Never too many at once: a fault that takes a rack away must not make the rest take each other's power.

use super::Situation;
use model::{Mark, NodeName};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A node that was fenced counts as lost for this long: those who go together are noticed, and fenced, one after the other.
const COUNTS_FOR: Duration = Duration::from_secs(30);

/// Counts who was lost of late.
#[derive(Debug, Clone, Default)]
pub(super) struct Brake {
    fenced: BTreeMap<NodeName, Mark>,
}

impl Brake {
    /// A node was seen to be off.
    pub(super) fn fenced(&mut self, node: NodeName, now: Mark) {
        self.fenced.insert(node, now);
    }

    /// So many of so many are lost, if that is more than a third. One is never too many: of two or three nodes it is a third or more.
    pub(super) fn holds(&self, situation: &Situation<'_>) -> Option<(usize, usize)> {
        let of_late = self
            .fenced
            .iter()
            .filter(|(_, at)| situation.now.held_for(**at) < COUNTS_FOR);
        let lost: BTreeSet<&NodeName> = situation.unproven.keys().chain(of_late.map(|(node, _)| node)).collect();
        let all: BTreeSet<&NodeName> = situation.sessions.keys().chain(lost.iter().copied()).collect();
        let (lost, of) = (lost.len(), all.len());
        (lost > 1 && 3 * lost > of).then_some((lost, of))
    }
}
