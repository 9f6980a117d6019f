//! Of which watch an observation is.
//!
//! Whoever decides sets the scope, others watch accordingly, and they look at it when they get to it: between two of their looks it may have
//! changed twice. By the scope alone it would seem then that it never had: what was forgotten at the first change would not be read again, and a
//! session that was never renewed since would be held against nobody, for ever. So the changes are numbered.
//!
//! ```text
//! whole      0 ─┐                  ┌─ 3 ──────────  everything is watched, since change 3
//! all but renewals └─ 1 ────────────┘
//!   those of b     └─ 1 ────────────┘
//!   those of c     └─ 1 ─┐  ┌─ 2'…                 what is told of c by the watch of change 1 counts no more
//! ```
//! A watch is of the number under which it was opened, all that comes by it says so, and what comes under another number than the present one is
//! held against nobody.

use super::Scope;
use crate::lease::Observer;
use model::{Mark, NodeName};
use std::collections::BTreeMap;

/// A scope, and since which of its changes each part of it is told without a break.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scoped {
    scope: Scope,
    /// How often it changed.
    changes: u64,
    /// By which change it came that everything is watched, or all but renewals.
    opened: u64,
    /// By which change each came in whose renewals are told apart.
    apart: BTreeMap<NodeName, u64>,
}

impl Default for Scoped {
    /// Of everybody, before the first change.
    fn default() -> Self {
        Self {
            scope: Scope::Whole,
            changes: 0,
            opened: 0,
            apart: BTreeMap::new(),
        }
    }
}

impl Scoped {
    /// Whose renewals are told.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// By which change it came that everything is watched, or all but renewals: a watch of another number is to be opened anew, from a list.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// Whose renewals are told apart, and by which change each came in: a watch of another number is to be opened anew, from what is read.
    pub fn apart(&self) -> &BTreeMap<NodeName, u64> {
        &self.apart
    }

    /// Whether what is told of the renewals of a node by a watch of that number counts.
    pub fn tells(&self, node: &NodeName, number: u64) -> bool {
        self.apart.get(node) == Some(&number)
    }

    /// Another scope. `observer` forgets whoever is out of it, and waits for what has to be read anew. Returns whether it is another one.
    pub fn change(&mut self, scope: Scope, observer: &mut Observer) -> bool {
        if scope == self.scope {
            return false;
        }
        self.changes += 1;
        let before = std::mem::replace(&mut self.scope, scope);
        observer.keep(|node| self.scope.has(node));
        if before.has_all() != self.scope.has_all() {
            self.opened = self.changes;
            observer.resync();
        }
        let since = |node: &NodeName| self.apart.get(node).copied().unwrap_or(self.changes);
        self.apart = match &self.scope {
            Scope::Of(nodes) => nodes.iter().map(|node| (node.clone(), since(node))).collect(),
            Scope::Whole | Scope::Controller => BTreeMap::new(),
        };
        true
    }

    /// The watch of everything is lost, or that of everything but renewals.
    pub fn lost(&self, observer: &mut Observer) {
        match self.scope.has_all() {
            true => observer.resync(),
            false => observer.hold(),
        }
    }

    /// Everything was listed, for the watch of change `opened` that begins there, and heard, at `now`.
    pub fn listed(&self, opened: u64, observer: &mut Observer, now: Mark) {
        if opened != self.opened {
            // That watch ends as soon as whoever has it looks at the scope, and another one begins with a list.
            return;
        }
        match self.scope.has_all() {
            true => observer.resynced(now),
            false => observer.go_on(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Why;
    use model::{Millis, Profile, Revision};
    use std::time::Duration;

    #[test]
    fn a_session_that_left_the_scope_and_came_back_is_told_by_another_watch() {
        let (mut scoped, mut observer) = all_are_seen(&["b", "c"]);
        scoped.change(of(&["b", "c"]), &mut observer);
        let first = scoped.apart()[&node("c")];
        for told in ["b", "c"] {
            seen(&mut observer, told, 1);
        }
        scoped.listed(scoped.opened(), &mut observer, at(1));
        scoped.change(of(&["b"]), &mut observer);
        scoped.change(of(&["b", "c"]), &mut observer);
        assert!(!scoped.tells(&node("c"), first), "what that watch says is of before");
        assert!(scoped.tells(&node("b"), first), "it never left");
        assert!(scoped.tells(&node("c"), scoped.apart()[&node("c")]));
        assert_eq!(
            why(&observer, "c", 60),
            Some(Why::NoSession),
            "no timer of before counts"
        );
    }

    #[test]
    fn what_changes_and_changes_back_is_listed_anew() {
        let (mut scoped, mut observer) = all_are_seen(&["b", "c"]);
        let before = scoped.opened();
        scoped.change(of(&["b"]), &mut observer);
        let apart = scoped.opened();
        scoped.change(Scope::Whole, &mut observer);
        assert_ne!(
            scoped.opened(),
            before,
            "the watch of before tells of it, and lists again"
        );
        for old in [before, apart] {
            scoped.listed(old, &mut observer, at(2));
            assert_eq!(
                why(&observer, "b", 60),
                Some(Why::Resyncing),
                "that list was for another watch"
            );
        }
        seen(&mut observer, "b", 2);
        scoped.listed(scoped.opened(), &mut observer, at(2));
        assert_ne!(why(&observer, "b", 60), Some(Why::Resyncing), "nobody waits for ever");
    }

    #[test]
    fn the_controller_of_many_and_one_of_few_watch_the_same() {
        let (mut scoped, mut observer) = all_are_seen(&["b"]);
        assert!(scoped.change(Scope::Controller, &mut observer));
        assert_eq!(scoped.opened(), 0);
        assert!(!scoped.change(Scope::Controller, &mut observer));
    }

    fn all_are_seen(nodes: &[&str]) -> (Scoped, Observer) {
        let mut observer = Observer::new(Profile::Lan.timing());
        for node in nodes {
            seen(&mut observer, node, 1);
        }
        (Scoped::default(), observer)
    }

    fn seen(observer: &mut Observer, name: &str, second: u64) {
        observer.seen(&node(name), Revision(10), Revision(20), Millis(3_000), at(second));
    }

    fn why(observer: &Observer, name: &str, second: u64) -> Option<Why> {
        observer.may_condemn(&node(name), at(second)).err().map(|wait| wait.why)
    }

    fn at(second: u64) -> Mark {
        let ns = Duration::from_secs(second).as_nanos() as u64;
        Mark {
            boot_ns: ns,
            raw_ns: ns,
        }
    }

    fn node(name: &str) -> NodeName {
        NodeName::new(name).expect("a name")
    }

    fn of(nodes: &[&str]) -> Scope {
        Scope::Of(nodes.iter().map(|name| node(name)).collect())
    }
}
