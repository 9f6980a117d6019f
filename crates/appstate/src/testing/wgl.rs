//! Whether a history is linearizable: the search of Wing and Gong with Lowe's memory of what was tried.
//!
//! An operation whose outcome is unknown may take effect at any time after it was called, or never: it has no end, and the
//! search may leave it out. Of two ways to the same state that leave the same answers to be explained, the one that used up
//! fewer of those is at least as good, so the other is not followed; without this they would double the search each.

use std::collections::BTreeMap;

/// How many keys there are.
pub const KEYS: usize = 3;

/// What stands under each key. No value is written twice.
type State = [Option<u32>; KEYS];

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// The value of a key.
    Get(usize),
    /// All values.
    List,
    /// Write a value.
    Put(usize, u32),
    /// Remove a key.
    Delete(usize),
    /// Write a value if the present one is that one (none: absent).
    Cas(usize, Option<u32>, u32),
    /// If the first key has that value: remove it, write the value under the second, read the third. Else read all three.
    Move([usize; 3], u32, u32),
}

/// What it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To `Get`.
    Value(Option<u32>),
    /// To `List`, and to a `Move` whose condition did not hold: the values in the order of the keys.
    All(State),
    /// To `Put`; to a `Cas` whose condition held.
    Done,
    /// To `Delete`: whether it was there.
    Deleted(bool),
    /// To a `Cas` whose condition did not hold.
    Mismatch,
    /// To a `Move` whose condition held: the value of the third key.
    Moved(Option<u32>),
}

/// A call, when it was made, when it was answered and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// By whom.
    pub client: usize,
    /// Place of the call in the order of all calls and answers.
    pub called: u64,
    /// Place of the answer; none if the outcome is unknown.
    pub answered: Option<u64>,
    /// What was asked for.
    pub call: Call,
    /// What was answered; none if the outcome is unknown.
    pub reply: Option<Reply>,
}

/// What happened.
pub type History = Vec<Operation>;

/// What the search found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// An order that explains every answer.
    Linearizable,
    /// There is none.
    Broken,
    /// The search was given up.
    TooHard,
}

/// States tried before the search is given up: about a hundred megabytes of memory.
const TRIED_MAX: usize = 1_000_000;

/// Looks for an order.
pub fn check(history: &[Operation]) -> Verdict {
    let mut operations = history.to_vec();
    operations.sort_by_key(|operation| operation.called);
    let answered = operations.iter().filter(|operation| operation.reply.is_some()).count();
    let mut search = Search {
        done: vec![0; operations.len().div_ceil(64)],
        used: vec![0; operations.len().div_ceil(64)],
        tried: BTreeMap::new(),
        steps: 0,
        left: answered,
        operations,
    };
    match search.from([None; KEYS], 0) {
        Some(true) => Verdict::Linearizable,
        Some(false) => Verdict::Broken,
        None => Verdict::TooHard,
    }
}

struct Search {
    operations: Vec<Operation>,
    /// A bit for each answered operation that has its place in the order.
    done: Vec<u64>,
    /// The same for those whose outcome is unknown.
    used: Vec<u64>,
    /// Answered operations that have none yet.
    left: usize,
    /// What was used on the ways that were followed.
    tried: BTreeMap<(Vec<u64>, State), Vec<Vec<u64>>>,
    steps: usize,
}

impl Search {
    /// Whether the rest can be ordered from this state on. No operation before `first` is left; nothing if given up.
    fn from(&mut self, state: State, first: usize) -> Option<bool> {
        if self.left == 0 {
            return Some(true);
        }
        if self.steps >= TRIED_MAX {
            return None;
        }
        self.steps += 1;
        let used = self.tried.entry((self.done.clone(), state)).or_default();
        let better = |earlier: &Vec<u64>| earlier.iter().zip(&self.used).all(|(earlier, now)| earlier & !now == 0);
        if used.iter().any(better) {
            return Some(false);
        }
        used.push(self.used.clone());
        let first = (first..self.operations.len())
            .find(|at| !self.is_done(*at))
            .unwrap_or(first);
        // Whoever was called after an answer comes after what was answered.
        let mut end = u64::MAX;
        let mut candidates = Vec::new();
        for at in first..self.operations.len() {
            let operation = &self.operations[at];
            if operation.called > end {
                break;
            }
            if self.is_done(at) {
                continue;
            }
            end = end.min(operation.answered.unwrap_or(u64::MAX));
            candidates.push(at);
        }
        // Those that were answered first are tried first: it is the order most likely to be right.
        candidates.sort_by_key(|at| self.operations[*at].answered.unwrap_or(u64::MAX));
        for at in candidates {
            let operation = &self.operations[at];
            if operation.called > end {
                continue;
            }
            let (after, reply) = carry_out(&operation.call, state);
            let known = operation.reply.is_some();
            match &operation.reply {
                Some(expected) if *expected != reply => continue,
                // Left out or without effect is the same.
                None if after == state => continue,
                _ => {}
            }
            self.mark(at, known);
            self.left -= usize::from(known);
            match self.from(after, first) {
                Some(false) => {}
                found => return found,
            }
            self.mark(at, known);
            self.left += usize::from(known);
        }
        Some(false)
    }

    /// Gives an operation its place, or takes it away again.
    fn mark(&mut self, at: usize, known: bool) {
        let bits = if known { &mut self.done } else { &mut self.used };
        bits[at / 64] ^= 1 << (at % 64);
    }

    fn is_done(&self, at: usize) -> bool {
        (self.done[at / 64] | self.used[at / 64]) & (1 << (at % 64)) != 0
    }
}

/// What a map that one client has for itself would do.
fn carry_out(call: &Call, mut state: State) -> (State, Reply) {
    let reply = match call {
        Call::Get(key) => Reply::Value(state[*key]),
        Call::List => Reply::All(state),
        Call::Put(key, value) => {
            state[*key] = Some(*value);
            Reply::Done
        }
        Call::Delete(key) => Reply::Deleted(state[*key].take().is_some()),
        Call::Cas(key, was, value) if state[*key] == *was => {
            state[*key] = Some(*value);
            Reply::Done
        }
        Call::Cas(..) => Reply::Mismatch,
        Call::Move([from, to, other], was, value) if state[*from] == Some(*was) => {
            state[*from] = None;
            state[*to] = Some(*value);
            Reply::Moved(state[*other])
        }
        Call::Move(..) => Reply::All(state),
    };
    (state, reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(called: u64, answered: u64, call: Call, reply: Reply) -> Operation {
        Operation {
            client: 0,
            called,
            answered: Some(answered),
            call,
            reply: Some(reply),
        }
    }

    fn unknown(called: u64, call: Call) -> Operation {
        Operation {
            client: 0,
            called,
            answered: None,
            call,
            reply: None,
        }
    }

    #[test]
    fn one_after_the_other_is_judged_by_the_order() {
        let put = operation(0, 1, Call::Put(0, 7), Reply::Done);
        let fresh = operation(2, 3, Call::Get(0), Reply::Value(Some(7)));
        let stale = operation(2, 3, Call::Get(0), Reply::Value(None));
        assert_eq!(check(&[put.clone(), fresh]), Verdict::Linearizable);
        assert_eq!(check(&[put, stale]), Verdict::Broken);
    }

    #[test]
    fn at_the_same_time_either_order_will_do_but_only_one() {
        let put = operation(0, 9, Call::Put(0, 7), Reply::Done);
        let new = operation(1, 2, Call::Get(0), Reply::Value(Some(7)));
        let old = operation(3, 4, Call::Get(0), Reply::Value(None));
        assert_eq!(check(&[put.clone(), new.clone()]), Verdict::Linearizable);
        assert_eq!(check(&[put.clone(), old.clone()]), Verdict::Linearizable);
        assert_eq!(check(&[put, new, old]), Verdict::Broken);
    }

    #[test]
    fn an_unknown_write_may_happen_late_or_never_but_once() {
        let put = unknown(0, Call::Put(0, 7));
        let before = operation(1, 2, Call::Get(0), Reply::Value(None));
        let after = operation(3, 4, Call::Get(0), Reply::Value(Some(7)));
        let gone = operation(5, 6, Call::Delete(0), Reply::Deleted(true));
        let again = operation(7, 8, Call::Get(0), Reply::Value(Some(7)));
        assert_eq!(check(&[put.clone(), before.clone()]), Verdict::Linearizable);
        assert_eq!(
            check(&[put.clone(), before.clone(), after.clone()]),
            Verdict::Linearizable
        );
        assert_eq!(
            check(&[put.clone(), before, after.clone(), gone.clone()]),
            Verdict::Linearizable
        );
        assert_eq!(check(&[put, after, gone, again]), Verdict::Broken);
    }

    #[test]
    fn two_swaps_of_one_value_cannot_both_succeed() {
        let put = operation(0, 1, Call::Put(0, 7), Reply::Done);
        let swap = |value| operation(2, 9, Call::Cas(0, Some(7), value), Reply::Done);
        assert_eq!(check(&[put.clone(), swap(8)]), Verdict::Linearizable);
        assert_eq!(check(&[put, swap(8), swap(9)]), Verdict::Broken);
    }

    #[test]
    fn a_move_is_seen_whole_or_not_at_all() {
        let put = operation(0, 1, Call::Put(0, 7), Reply::Done);
        let moved = operation(2, 9, Call::Move([0, 1, 2], 7, 8), Reply::Moved(None));
        let half = operation(3, 4, Call::List, Reply::All([Some(7), Some(8), None]));
        let whole = operation(3, 4, Call::List, Reply::All([None, Some(8), None]));
        assert_eq!(check(&[put.clone(), moved.clone(), whole]), Verdict::Linearizable);
        assert_eq!(check(&[put, moved, half]), Verdict::Broken);
    }
}
