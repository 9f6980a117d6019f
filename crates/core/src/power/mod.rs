//! Power fencing (T4f): which node's power is taken away, by whom, when; and what has to be seen before it counts as off.
//!
//! ```text
//!   lost, unproven ──► Begin: intent by compare-and-swap ──► Job: off, off, … status, status, … ──► confirmed ──► session ended, power back
//!                        ▲                                     │
//!                        └──── later, by whoever lives ────────┘ failed
//! ```
//! [`Fencer`] looks at everything and says whose power this node is to take away now; [`Job`] is the order of calls to the devices. Both are
//! pure: the agent and the simulator carry out what they say. Three rules are the store's to keep, so every [`Begin`] names what its
//! transaction compares:
//!
//! - There is one record per node, and who writes the intent compares it: one fencer, and only one who reaches the store's majority.
//! - The intent compares the session that is meant, and that it was not renewed since. A node opens a session only when nobody is at its power,
//!   and takes an intent back with it: no later incarnation is ever hit.
//! - Another fencer goes on only when the session of the first is gone, and the time of an attempt is over since.

mod brake;
mod job;
#[cfg(test)]
mod tests;

pub use job::{Call, GiveBack, Job, Next, SETTLE};

use crate::lease::Condemn;
use model::{FenceRecord, FenceState, Mark, Millis, NodeName, Revision, timing::observer_wait};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The first wait after a failed attempt; doubles with each, up to a minute.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(60);
/// Others leave the next attempt to who failed for this long: what it learned of the device is shown in one place.
const OTHERS_LATER: Duration = Duration::from_secs(5);

/// What one agent knows of the fencing of all nodes.
#[derive(Debug, Clone)]
pub struct Fencer {
    me: NodeName,
    records: BTreeMap<NodeName, Known>,
    /// Lost nodes, and since when we know.
    lost: BTreeMap<NodeName, (Revision, Mark)>,
    /// At whose power we are ourselves.
    ours: BTreeSet<NodeName>,
    brake: brake::Brake,
}

#[derive(Debug, Clone)]
struct Known {
    record: FenceRecord,
    revision: Revision,
    seen: Mark,
}

/// What the fencer looks at.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// Now.
    pub now: Mark,
    /// Our own session; without one nobody is fenced.
    pub session: Option<Revision>,
    /// The sessions that are open, of all nodes.
    pub sessions: &'a BTreeMap<NodeName, Revision>,
    /// Nodes that must be known to be off, with the latest session that matters.
    pub unproven: &'a BTreeMap<NodeName, Revision>,
    /// Of those of them that still have that session: leave to end it, as the observer gave it.
    pub leaves: &'a BTreeMap<NodeName, Condemn>,
    /// How long an attempt takes at most, of nodes that have a device.
    pub bounds: &'a BTreeMap<NodeName, Millis>,
    /// Nodes without which the store has no majority: nobody could note that they are off.
    pub needed: &'a BTreeSet<NodeName>,
    /// Living nodes that are asked before us.
    pub rank: u32,
    /// What each of them is given.
    pub stagger: Duration,
}

/// An intent to be written: `fence/NODE`, if all that it compares holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    /// Whose power is to be taken away.
    pub node: NodeName,
    /// The session that is meant.
    pub session: Revision,
    /// It must be open and not renewed since this revision; nothing: the node must have no session.
    pub modified: Option<Revision>,
    /// The record must be of this revision; 0: there must be none.
    pub expect: Revision,
    /// This node must have this session (0: none): the fencer of before, which is gone.
    pub gone: Option<(NodeName, Revision)>,
    /// Which attempt it is, from 1.
    pub tries: u32,
    /// What was proven before.
    pub proven: Revision,
    /// How long it may take.
    pub bound: Millis,
}

/// What the fencer wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write the intent, then take the power away.
    Begin(Begin),
    /// Give a node its power back, whose fencer is gone: note that we do, then do it.
    GiveBack {
        /// Whose.
        node: NodeName,
        /// The record as it was seen.
        record: FenceRecord,
        /// Its revision.
        revision: Revision,
    },
    /// Note that an attempt of this node's own has failed, which an agent of before did not end.
    GiveUp {
        /// Of whose power.
        node: NodeName,
        /// The record as it was seen.
        record: FenceRecord,
        /// Its revision.
        revision: Revision,
    },
}

/// Why a lost node is not fenced now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holdup {
    /// No device is declared for it.
    NoDevice,
    /// Without it the store has no majority.
    Needed,
    /// Too many are lost at once.
    Braked {
        /// So many.
        lost: usize,
        /// Of so many.
        of: usize,
    },
    /// Its devices did not do it.
    Failed {
        /// What happened last.
        why: String,
        /// Attempts so far.
        tries: u32,
    },
    /// Somebody is at it.
    Powering {
        /// Who.
        by: NodeName,
    },
    /// It is about to be.
    Soon,
}

impl Fencer {
    /// A fencer of node `me` that knows nothing yet.
    pub fn new(me: NodeName) -> Self {
        Self {
            me,
            records: BTreeMap::new(),
            lost: BTreeMap::new(),
            ours: BTreeSet::new(),
            brake: brake::Brake::default(),
        }
    }

    /// The record of a node, as the store has it now. Older news than known is dropped.
    pub fn hear(&mut self, node: NodeName, record: FenceRecord, revision: Revision, now: Mark) {
        if self.records.get(&node).is_some_and(|known| known.revision >= revision) {
            return;
        }
        // Whoever looks for the first time does not know how long ago that was: it counts as now, lest a node that has just come back fences too many.
        let before = self.records.get(&node).map(|known| known.record.proven);
        let is_off = matches!(record.state, FenceState::Off | FenceState::Done)
            && before.is_none_or(|before| before < record.proven || record.state == FenceState::Off);
        if is_off {
            self.brake.fenced(node.clone(), now);
        }
        let known = Known {
            record,
            revision,
            seen: now,
        };
        self.records.insert(node, known);
    }

    /// There is no record of a node any more.
    pub fn forget(&mut self, node: &NodeName) {
        self.records.remove(node);
    }

    /// The record of a node, and its revision.
    pub fn record(&self, node: &NodeName) -> Option<(&FenceRecord, Revision)> {
        let known = self.records.get(node)?;
        Some((&known.record, known.revision))
    }

    /// What we began at a node's power is over, whatever came of it.
    pub fn ended(&mut self, node: &NodeName) {
        self.ours.remove(node);
    }

    /// Whether we are at some node's power ourselves.
    pub fn is_busy(&self, node: &NodeName) -> bool {
        self.ours.contains(node)
    }

    /// What is to be done now. Each step is begun once: [`Self::ended`] says that it is over.
    pub fn look(&mut self, situation: &Situation<'_>) -> Vec<Step> {
        let now = situation.now;
        self.lost.retain(|node, _| situation.unproven.contains_key(node));
        for (node, session) in situation.unproven {
            let known = self.lost.entry(node.clone()).or_insert((*session, now));
            if known.0 != *session {
                *known = (*session, now);
            }
        }
        if situation.session.is_none() {
            return Vec::new();
        }
        let mut steps = Vec::new();
        for (node, session) in situation.unproven {
            if let Some(begin) = self.may_begin(node, *session, situation) {
                steps.push(Step::Begin(begin));
            }
        }
        for (node, known) in &self.records {
            if !self.ours.contains(node)
                && let Some(step) = self.left_behind(node, known, situation)
            {
                steps.push(step);
            }
        }
        for step in &steps {
            let (Step::Begin(Begin { node, .. }) | Step::GiveBack { node, .. } | Step::GiveUp { node, .. }) = step;
            self.ours.insert(node.clone());
        }
        steps
    }

    /// What somebody left behind who was at a node's power.
    fn left_behind(&self, node: &NodeName, known: &Known, situation: &Situation<'_>) -> Option<Step> {
        self.gone_fencer(known, situation)?;
        let (node, record, revision) = (node.clone(), known.record.clone(), known.revision);
        let over = situation
            .now
            .waited_for(known.seen)
            .saturating_sub(observer_wait(record.bound));
        match record.state {
            FenceState::Off if over >= situation.stagger * situation.rank => {
                Some(Step::GiveBack { node, record, revision })
            }
            // Of a node that is lost it is tried again, by whoever is first.
            FenceState::Powering if record.by == self.me && !situation.unproven.contains_key(&node) => {
                Some(Step::GiveUp { node, record, revision })
            }
            _ => None,
        }
    }

    /// What an operator asks for: no brake, no waiting for a turn, and a node that lives is hit too.
    pub fn by_hand(&mut self, node: &NodeName, situation: &Situation<'_>) -> Result<Begin, Holdup> {
        let open = situation.sessions.get(node).copied();
        let session = open.or_else(|| situation.unproven.get(node).copied());
        let bound = *situation.bounds.get(node).ok_or(Holdup::NoDevice)?;
        let known = self.records.get(node);
        if self.ours.contains(node) {
            return Err(Holdup::Powering { by: self.me.clone() });
        }
        let gone = match known.filter(|known| known.record.is_under_way()) {
            Some(known) => Some(self.gone_fencer(known, situation).ok_or(Holdup::Powering {
                by: known.record.by.clone(),
            })?),
            None => None,
        };
        let begin = Begin {
            node: node.clone(),
            session: session.unwrap_or_default(),
            modified: None,
            expect: known.map(|known| known.revision).unwrap_or_default(),
            gone,
            tries: 1,
            proven: known.map(|known| known.record.proven).unwrap_or_default(),
            bound,
        };
        self.ours.insert(node.clone());
        Ok(begin)
    }

    /// Why a lost node is not known to be off.
    pub fn holdup(&self, node: &NodeName, situation: &Situation<'_>) -> Holdup {
        if !situation.bounds.contains_key(node) {
            return Holdup::NoDevice;
        }
        match self.records.get(node).map(|known| &known.record) {
            Some(record) if record.is_under_way() => {
                return Holdup::Powering { by: record.by.clone() };
            }
            Some(FenceRecord {
                state: FenceState::Failed(why),
                tries,
                ..
            }) => {
                return Holdup::Failed {
                    why: why.clone(),
                    tries: *tries,
                };
            }
            _ => {}
        }
        match self.brake.holds(situation) {
            _ if situation.needed.contains(node) => Holdup::Needed,
            Some((lost, of)) => Holdup::Braked { lost, of },
            None => Holdup::Soon,
        }
    }

    /// When to look again, if nothing is heard before: as soon as both clocks got there.
    pub fn next_wakeup(&self, now: Mark) -> Option<Mark> {
        let busy = self.records.values().any(|known| known.record.is_under_way());
        let waits = busy || !self.lost.is_empty();
        waits.then(|| now.later(Duration::from_millis(250)))
    }

    fn may_begin(&self, node: &NodeName, session: Revision, situation: &Situation<'_>) -> Option<Begin> {
        let bound = *situation.bounds.get(node)?;
        let kept = situation.needed.contains(node) || self.brake.holds(situation).is_some();
        if *node == self.me || self.ours.contains(node) || kept {
            return None;
        }
        // One that still has the session is hit only with the observer's leave, by the renewal that was seen for all of W.
        let modified = match situation.sessions.get(node) {
            Some(open) => {
                let leave = situation.leaves.get(node).filter(|leave| leave.session == *open)?;
                Some(leave.modified)
            }
            None => None,
        };
        let known = self.records.get(node);
        let (_, since) = self.lost.get(node)?;
        let turn = situation.stagger * situation.rank;
        let (mut gone, mut tries) = (None, 1);
        match known.map(|known| (&known.record.state, known)) {
            Some((FenceState::Powering | FenceState::Off, known)) => {
                gone = Some(self.gone_fencer(known, situation)?);
                tries = known.record.tries + 1;
            }
            Some((FenceState::Failed(_), known)) if known.record.session == session => {
                tries = known.record.tries + 1;
                let own = known.record.by == self.me;
                let others = if own { Duration::ZERO } else { OTHERS_LATER + turn };
                if situation.now.waited_for(known.seen) < again_after(known.record.tries) + others {
                    return None;
                }
            }
            _ if situation.now.waited_for(*since) < turn => return None,
            _ => {}
        }
        Some(Begin {
            node: node.clone(),
            session,
            modified,
            expect: known.map(|known| known.revision).unwrap_or_default(),
            gone,
            tries,
            proven: known.map(|known| known.record.proven).unwrap_or_default(),
            bound,
        })
    }

    /// Of a node at whose power somebody is: that he is gone for good, and what he began is over.
    fn gone_fencer(&self, known: &Known, situation: &Situation<'_>) -> Option<(NodeName, Revision)> {
        let now = situation.sessions.get(&known.record.by).copied().unwrap_or_default();
        let gone = now != known.record.under || known.record.by == self.me;
        let over = situation.now.waited_for(known.seen) >= observer_wait(known.record.bound);
        (gone && over).then(|| (known.record.by.clone(), now))
    }
}

/// How long after so many failed attempts the next one begins.
fn again_after(tries: u32) -> Duration {
    let doubled = AGAIN_AFTER.saturating_mul(1 << tries.saturating_sub(1).min(10));
    doubled.min(AGAIN_AFTER_MAX)
}
