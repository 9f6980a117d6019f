//! The semantics: what a transaction does to keys and revisions, and how much of the past is kept. No I/O.
//!
//! ```text
//! requests ──plan──► results + steps ──(made durable)──► publish ──► readers, watches
//! ```
//! A plan is worked out on top of the published state and changes nothing; if its steps cannot be made durable it is
//! dropped, and nobody has seen it.

use crate::{Change, Changes, Entry, Op, Txn, TxnResult};
use model::Revision;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Bytes of past values kept for watches at most, whatever the number of revisions: they are in memory.
const HISTORY_BYTES_MAX: usize = 16 << 20;

/// Everything that is durable.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) entries: BTreeMap<String, Arc<Entry>>,
    /// Of the latest change; 1 when there was none yet, as in etcd.
    pub(crate) revision: Revision,
    /// The latest revisions, without a gap, oldest first.
    pub(crate) history: VecDeque<Arc<Changes>>,
    history_bytes: usize,
}

/// What a row of transactions comes to.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// One for each transaction.
    pub(crate) results: Vec<TxnResult>,
    /// One for each revision that they make.
    pub(crate) steps: Vec<Arc<Changes>>,
}

impl Default for State {
    fn default() -> Self {
        Self::new(BTreeMap::new(), Revision(1), VecDeque::new())
    }
}

impl State {
    pub(crate) fn new(
        entries: BTreeMap<String, Arc<Entry>>,
        revision: Revision,
        history: VecDeque<Arc<Changes>>,
    ) -> Self {
        let history_bytes = history.iter().map(|step| bytes(step)).sum();
        Self {
            entries,
            revision,
            history,
            history_bytes,
        }
    }

    /// Works out what the transactions do, one after the other, each seeing what those before it did.
    pub(crate) fn plan<'a>(&self, txns: impl IntoIterator<Item = &'a Txn>) -> Plan {
        let mut draft = Draft {
            base: self,
            changed: BTreeMap::new(),
            revision: self.revision,
        };
        let mut plan = Plan::default();
        for txn in txns {
            let (result, step) = draft.carry_out(txn);
            plan.results.push(result);
            plan.steps.extend(step.map(Arc::new));
        }
        plan
    }

    /// The first revision that stays in the history when `steps` are added, if older ones have to go.
    ///
    /// They go a tenth at a time: removing one with every write would double the work on disk.
    pub(crate) fn trim(&self, steps: &[Arc<Changes>], keep: usize) -> Option<Revision> {
        let total = self.history.len() + steps.len();
        let mut held = self.history_bytes + steps.iter().map(|step| bytes(step)).sum::<usize>();
        let over = total > keep + keep / 10 || held > HISTORY_BYTES_MAX;
        if !over {
            return None;
        }
        for (gone, step) in self.history.iter().chain(steps).enumerate() {
            let enough = total - gone <= keep && held <= HISTORY_BYTES_MAX / 10 * 9;
            // The latest revision always stays: the store's own revision is read from it.
            if enough || gone + 1 >= total {
                return Some(step.revision);
            }
            held -= bytes(step);
        }
        None
    }

    /// Takes in what is durable now.
    pub(crate) fn publish(&mut self, steps: Vec<Arc<Changes>>, trim: Option<Revision>) {
        for step in steps {
            self.revision = step.revision;
            for change in &step.changes {
                match change {
                    Change::Put(entry) => {
                        self.entries.insert(entry.key.clone(), Arc::new(entry.clone()));
                    }
                    Change::Delete { key } => {
                        self.entries.remove(key);
                    }
                }
            }
            self.history_bytes += bytes(&step);
            self.history.push_back(step);
        }
        while let (Some(first), Some(trim)) = (self.history.front(), trim)
            && first.revision < trim
        {
            self.history_bytes -= bytes(first);
            self.history.pop_front();
        }
    }

    /// The first revision from which on every change is known.
    pub(crate) fn oldest(&self) -> Revision {
        match self.history.front() {
            // Nothing came before the first change there can be, so all of the past is known.
            Some(first) if first.revision > Revision(2) => first.revision,
            Some(_) => Revision(0),
            None if self.revision > Revision(1) => Revision(self.revision.0 + 1),
            None => Revision(0),
        }
    }

    /// The first revision since `from` that changed a key under `prefix`, with those changes only.
    pub(crate) fn changes_since(&self, from: Revision, prefix: &str) -> Option<Changes> {
        let first = self.history.front()?.revision;
        let skip = usize::try_from(from.0.saturating_sub(first.0)).ok()?;
        self.history.iter().skip(skip).find_map(|step| {
            let changes: Vec<_> = step
                .changes
                .iter()
                .filter(|change| change.key().starts_with(prefix))
                .cloned()
                .collect();
            (!changes.is_empty()).then_some(Changes {
                revision: step.revision,
                changes,
            })
        })
    }

    /// All entries under `prefix`, by key.
    pub(crate) fn list(&self, prefix: &str) -> Vec<Entry> {
        self.entries
            .range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, entry)| Entry::clone(entry))
            .collect()
    }
}

/// The published state, and on top of it what was planned so far.
struct Draft<'a> {
    base: &'a State,
    changed: BTreeMap<String, Option<Arc<Entry>>>,
    revision: Revision,
}

impl Draft<'_> {
    fn carry_out(&mut self, txn: &Txn) -> (TxnResult, Option<Changes>) {
        let succeeded = txn
            .compares
            .iter()
            .all(|compare| compare.holds(self.get(compare.key())));
        let next = Revision(self.revision.0 + 1);
        let mut changes = Vec::new();
        let mut reads = Vec::new();
        for op in if succeeded { &txn.then } else { &txn.otherwise } {
            match op {
                Op::Get { key } => reads.push(self.get(key).cloned()),
                Op::Put { key, value } => {
                    let before = self.get(key);
                    let entry = Entry {
                        key: key.clone(),
                        value: value.clone(),
                        create: before.map_or(next, |before| before.create),
                        modified: next,
                        version: before.map_or(1, |before| before.version + 1),
                    };
                    self.changed.insert(key.clone(), Some(Arc::new(entry.clone())));
                    changes.push(Change::Put(entry));
                }
                Op::Delete { key } if self.get(key).is_some() => {
                    self.changed.insert(key.clone(), None);
                    changes.push(Change::Delete { key: key.clone() });
                }
                Op::Delete { .. } => {}
            }
        }
        let step = (!changes.is_empty()).then_some(Changes {
            revision: next,
            changes,
        });
        if step.is_some() {
            self.revision = next;
        }
        (
            TxnResult {
                succeeded,
                revision: self.revision,
                reads,
            },
            step,
        )
    }

    fn get(&self, key: &str) -> Option<&Entry> {
        match self.changed.get(key) {
            Some(changed) => changed.as_deref(),
            None => self.base.entries.get(key).map(AsRef::as_ref),
        }
    }
}

impl Change {
    /// The key it is about.
    pub fn key(&self) -> &str {
        match self {
            Change::Put(entry) => &entry.key,
            Change::Delete { key } => key,
        }
    }
}

/// What a revision costs to keep.
fn bytes(step: &Changes) -> usize {
    // Keys, counters and the allocations around them.
    const OVERHEAD: usize = 128;
    step.changes
        .iter()
        .map(|change| match change {
            Change::Put(entry) => OVERHEAD + 2 * entry.key.len() + entry.value.len(),
            Change::Delete { key } => OVERHEAD + key.len(),
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(state: &mut State, size: usize, keep: usize) {
        let plan = state.plan([&Txn::new().then(Op::put("a", vec![0; size]))]);
        let trim = state.trim(&plan.steps, keep);
        state.publish(plan.steps, trim);
    }

    #[test]
    fn history_is_bounded_in_number() {
        let mut state = State::default();
        for n in 1..1_000 {
            put(&mut state, 10, 50);
            assert!(state.history.len() <= 55, "{}", state.history.len());
            assert!(state.history.len() >= 50.min(n), "{} after {n}", state.history.len());
            assert_eq!(state.history.back().unwrap().revision, state.revision);
        }
    }

    #[test]
    fn history_is_bounded_in_bytes() {
        let mut state = State::default();
        for _ in 0..60 {
            put(&mut state, 1 << 20, 10_000);
            let held: usize = state.history.iter().map(|step| bytes(step)).sum();
            assert_eq!(held, state.history_bytes);
            assert!(held <= HISTORY_BYTES_MAX, "{held}");
        }
        assert!(state.history.len() > 10);
        // However much one revision weighs, the latest stays.
        put(&mut state, HISTORY_BYTES_MAX + 1, 10_000);
        assert_eq!(state.history.len(), 1);
        assert_eq!(state.history[0].revision, state.revision);
    }
}
