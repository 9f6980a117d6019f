//! The sessions of others: since when each is silent, and whether it may be ended.

#[cfg(test)]
mod tests;
mod words;

use model::{Mark, Millis, NodeName, Revision, Timing, timing::observer_wait};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Leave to end the session of a node (T4e, T6c). The transaction compares `modified`: if the node has renewed
/// meanwhile, nothing happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Condemn {
    /// σ of the session.
    pub session: Revision,
    /// The revision that was seen for all of W.
    pub modified: Revision,
}

/// The session may not be ended yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// When to ask again, if time alone may change the answer: as soon as *both* clocks got there.
    pub until: Option<Mark>,
    /// Why.
    pub why: Why,
}

/// Why a session may not be ended yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The node has no session that is known here.
    NoSession,
    /// Its last renewal was seen too short a time ago.
    Fresh {
        /// For how long it was seen.
        silent: Duration,
        /// W, or 3R after a reboot.
        wait: Duration,
    },
    /// This node's own writes do not succeed: the store may be what is gone.
    NoWrites,
    /// They succeed again, but not yet for H: the others need time to renew.
    HoldOff {
        /// For how long they succeed.
        writing: Duration,
        /// H.
        hold_off: Duration,
    },
    /// The watch was lost, and the sessions are not read again yet.
    Resyncing,
    /// More than a third of the sessions fall silent at once: more likely a fault of the network than of so many nodes.
    TooMany {
        /// Sessions that fell silent within W.
        silent: usize,
        /// Sessions, this node's own included.
        of: usize,
    },
}

/// One node's view of the sessions of others. A restarted observer starts afresh: it knows nothing, so it waits for all
/// of W before it ends anything.
#[derive(Debug, Clone)]
pub struct Observer {
    pub(super) timing: Timing,
    pub(super) sessions: BTreeMap<NodeName, Seen>,
    /// When sessions went away that had been silent before.
    pub(super) lost: VecDeque<Mark>,
    pub(super) writes: Writes,
    pub(super) resyncing: bool,
    /// The operator let takeovers go on in spite of the brake.
    pub(super) let_on: Option<Mark>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) id: Revision,
    pub(super) modified: Revision,
    pub(super) lease: Millis,
    pub(super) since: Mark,
    /// Read again since the watch was lost.
    pub(super) confirmed: bool,
}

/// The node's own writes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Writes {
    /// When the first of the unbroken row was answered.
    pub(super) since: Option<Mark>,
    pub(super) last: Option<Mark>,
}

impl Observer {
    /// An observer that has seen nothing yet.
    pub fn new(timing: Timing) -> Self {
        Self {
            timing,
            sessions: BTreeMap::new(),
            lost: VecDeque::new(),
            writes: Writes::default(),
            resyncing: false,
            let_on: None,
        }
    }

    /// The session of `node` was read or watched at `now`, as renewed by `modified` with `lease` as its D.
    /// The timer starts when a revision is *first* seen; older news than known is dropped.
    pub fn seen(&mut self, node: &NodeName, session: Revision, modified: Revision, lease: Millis, now: Mark) {
        match self.sessions.get_mut(node) {
            Some(known) if modified < known.modified => {}
            Some(known) if modified == known.modified => known.confirmed = true,
            _ => {
                let seen = Seen {
                    id: session,
                    modified,
                    lease,
                    since: now,
                    confirmed: true,
                };
                self.sessions.insert(node.clone(), seen);
            }
        }
    }

    /// The session of `node` has ended. If it had been silent before, it counts for the brake until W is over.
    pub fn gone(&mut self, node: &NodeName, now: Mark) {
        if let Some(seen) = self.sessions.remove(node)
            && seen.is_silent(now)
        {
            self.lost.push_back(now);
        }
        self.forget_lost(now);
    }

    /// The session of `node` is this node's own: the [`Holder`](super::Holder) looks after it. To be told whenever one is
    /// opened, since the watch may have shown it first, and its silence would count for the brake.
    pub fn own(&mut self, node: &NodeName) {
        self.sessions.remove(node);
    }

    /// Renewals of others than these nodes are told no more: nothing can be held against those until they are [`seen`](Self::seen) anew.
    pub fn keep(&mut self, is_told: impl Fn(&NodeName) -> bool) {
        self.sessions.retain(|node, _| is_told(node));
    }

    /// The watch of the session of `node` alone was lost: it is not ended until it is read again, as after [`resync`](Self::resync).
    pub fn unheard(&mut self, node: &NodeName) {
        if let Some(seen) = self.sessions.get_mut(node) {
            seen.confirmed = false;
        }
    }

    /// A write of this node, a renewal for one, was sent at `sent` and acknowledged at `now`.
    pub fn write_ok(&mut self, sent: Mark, now: Mark) {
        let unbroken = self.writes.last.is_some_and(|last| now.held_for(last) < self.gap_max());
        if self.writes.since.is_none() || !unbroken {
            self.writes.since = Some(now);
        }
        self.writes.last = Some(sent);
    }

    /// A write of this node failed or was not answered in time.
    pub fn write_failed(&mut self) {
        self.writes = Writes::default();
    }

    /// This agent itself woke up late, at `now`: it knows what was, not what is, so H begins anew.
    pub fn late(&mut self) {
        self.writes = Writes::default();
    }

    /// The watch was lost: nothing is ended until all sessions are read again. Timers of unchanged revisions are kept.
    pub fn resync(&mut self) {
        self.resyncing = true;
        for seen in self.sessions.values_mut() {
            seen.confirmed = false;
        }
    }

    /// Where sessions are told apart, what tells of everything else was lost: nothing is ended until that was read again, but what is known of
    /// sessions stands.
    pub fn hold(&mut self) {
        self.resyncing = true;
    }

    /// Everything else was read again since [`hold`](Self::hold) or [`resync`](Self::resync); of each session told apart its own watch says when
    /// it may be held against its node.
    pub fn go_on(&mut self) {
        self.resyncing = false;
    }

    /// All sessions there are have been [`seen`](Self::seen) since [`resync`](Self::resync); the others are gone.
    pub fn resynced(&mut self, now: Mark) {
        self.resyncing = false;
        let absent = |(node, seen): (&NodeName, &Seen)| (!seen.confirmed).then(|| node.clone());
        let gone: Vec<_> = self.sessions.iter().filter_map(absent).collect();
        for node in gone {
            self.gone(&node, now);
        }
    }

    /// The operator says that the many silent nodes are dead indeed: the brake is off for W.
    pub fn let_on(&mut self, now: Mark) {
        self.let_on = Some(now);
    }

    /// Whether the session of `node` may be ended because it has expired (T4e, T6c): no renewal was seen for W, counted
    /// from the D in its record; this node's own writes succeed for H; and not too many fell silent at once.
    pub fn may_condemn(&self, node: &NodeName, now: Mark) -> Result<Condemn, Wait> {
        let seen = self.fresh_enough(node)?;
        let wait = observer_wait(seen.lease);
        seen.silent_for(wait, now)?;
        self.held_off(now)?;
        self.brake(now)?;
        Ok(seen.condemn())
    }

    /// Whether this node may end its own session of before a reboot (T4r): the boot id of the record is another, the
    /// machine's identity is ours, and no renewal was seen for 3R, so no twin of this machine is alive.
    pub fn may_condemn_rebooted(&self, node: &NodeName, now: Mark) -> Result<Condemn, Wait> {
        let seen = self.fresh_enough(node)?;
        seen.silent_for(3 * self.timing.renew.duration(), now)?;
        Ok(seen.condemn())
    }

    /// Whether this node may end its own session of an earlier agent of this boot, of which it knows nothing any more: when it has been
    /// silent for W. No hold-off: it takes nothing from anybody else.
    pub fn may_condemn_own(&self, node: &NodeName, now: Mark) -> Result<Condemn, Wait> {
        let seen = self.fresh_enough(node)?;
        seen.silent_for(observer_wait(seen.lease), now)?;
        Ok(seen.condemn())
    }

    /// When the member of `rank` (0 is the first) may try to take a slot that became free to take at `eligible`:
    /// as soon as *both* clocks got there.
    pub fn eligible_at(&self, rank: u32, eligible: Mark) -> Mark {
        eligible.later(rank * self.timing.rank_stagger.duration())
    }

    /// Whether somebody has been silent for so long that his session is about to run out: then this node renews its own often, for whoever
    /// condemns must have written for H.
    pub fn is_anyone_silent(&self, now: Mark) -> bool {
        self.sessions.values().any(|seen| seen.is_silent(now))
    }

    /// Whether renewals of `node` are heard: its session could be ended if none came.
    pub fn hears(&self, node: &NodeName) -> bool {
        self.fresh_enough(node).is_ok()
    }

    /// How long no renewal of `node` was seen, at least.
    pub fn silent_for(&self, node: &NodeName, now: Mark) -> Option<Duration> {
        Some(now.waited_for(self.sessions.get(node)?.since))
    }

    /// When the session of `node` will have been silent for W, if no renewal comes.
    pub fn expires_at(&self, node: &NodeName) -> Option<Mark> {
        let seen = self.sessions.get(node)?;
        Some(seen.since.later(observer_wait(seen.lease)))
    }

    /// When to look again: a session has been silent for ¾ W and should be read, or for W. As soon as *both* clocks got there.
    pub fn next_wakeup(&self, now: Mark) -> Option<Mark> {
        let next = |seen: &Seen| {
            let (wait, silent) = (observer_wait(seen.lease), now.waited_for(seen.since));
            [wait.mul_f64(0.75), wait]
                .into_iter()
                .filter_map(|at| at.checked_sub(silent).filter(|left| !left.is_zero()))
                .min()
        };
        let hold_off = self.writes.since.and_then(|since| {
            let left = self.timing.hold_off().checked_sub(now.waited_for(since));
            left.filter(|left| !left.is_zero())
        });
        let nearest = self.sessions.values().filter_map(next).chain(hold_off).min();
        nearest.map(|wait| now.later(wait))
    }

    fn fresh_enough(&self, node: &NodeName) -> Result<&Seen, Wait> {
        if self.resyncing {
            return Err(Wait::for_news(Why::Resyncing));
        }
        let seen = self.sessions.get(node).ok_or(Wait::for_news(Why::NoSession))?;
        match seen.confirmed {
            true => Ok(seen),
            false => Err(Wait::for_news(Why::Resyncing)),
        }
    }

    fn held_off(&self, now: Mark) -> Result<(), Wait> {
        let Writes {
            since: Some(since),
            last: Some(last),
        } = self.writes
        else {
            return Err(Wait::for_news(Why::NoWrites));
        };
        if now.held_for(last) >= self.gap_max() {
            return Err(Wait::for_news(Why::NoWrites));
        }
        let (hold_off, writing) = (self.timing.hold_off(), now.waited_for(since));
        if writing < hold_off {
            return Err(Wait {
                until: Some(since.later(hold_off)),
                why: Why::HoldOff { writing, hold_off },
            });
        }
        Ok(())
    }

    /// One loss is never too many: of two or three nodes it is a third or more.
    fn brake(&self, now: Mark) -> Result<(), Wait> {
        let let_on = |at: Mark| now.held_for(at) < self.timing.observer_wait();
        if self.let_on.is_some_and(let_on) {
            return Ok(());
        }
        let ended = self.lost.iter().filter(|at| let_on(**at)).count();
        let silent = ended + self.sessions.values().filter(|seen| seen.is_silent(now)).count();
        let of = 1 + ended + self.sessions.len();
        if silent > 1 && 3 * silent > of {
            return Err(Wait::for_news(Why::TooMany { silent, of }));
        }
        Ok(())
    }

    /// Between two acknowledged writes of a row lies less than this: a store that was away for less than A froze nobody.
    fn gap_max(&self) -> Duration {
        self.timing.soft_deadline.duration()
    }

    fn forget_lost(&mut self, now: Mark) {
        let wait = self.timing.observer_wait();
        // Bound: one entry for each session that ended within W.
        self.lost.retain(|at| now.held_for(*at) < wait);
    }
}

impl Seen {
    /// Silent long enough to be about to expire: those who go together do not expire in the same instant.
    fn is_silent(&self, now: Mark) -> bool {
        now.waited_for(self.since) >= observer_wait(self.lease).mul_f64(0.75)
    }

    fn silent_for(&self, wait: Duration, now: Mark) -> Result<(), Wait> {
        let silent = now.waited_for(self.since);
        if silent >= wait {
            return Ok(());
        }
        Err(Wait {
            until: Some(self.since.later(wait)),
            why: Why::Fresh { silent, wait },
        })
    }

    fn condemn(&self) -> Condemn {
        Condemn {
            session: self.id,
            modified: self.modified,
        }
    }
}

impl Wait {
    fn for_news(why: Why) -> Self {
        Self { until: None, why }
    }
}
