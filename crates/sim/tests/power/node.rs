//! A machine: its power, its processes, its guard, its agent.

use super::device::Mode;
use super::fencing::Task;
use decisions::lease::Observer;
use decisions::power::Fencer;
use model::{AfterFence, Mark, NodeName, Revision, Timing};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use store::session::Session;

/// What a process leaves in the page cache is written within this.
const WRITTEN_BACK_MS: u64 = 30_000;

pub(crate) struct Node {
    pub(crate) name: NodeName,
    /// Whether each of its power supplies has current.
    pub(crate) outlets: Vec<bool>,
    pub(crate) device: Mode,
    pub(crate) after: AfterFence,
    /// Its agent runs, from then on.
    pub(crate) agent_at: Option<u64>,
    /// Which agent it is, over all boots.
    pub(crate) agent: u32,
    /// Agent and guard stand still; processes do not.
    pub(crate) hung: bool,
    /// Since when the store does not hear it.
    pub(crate) cut: Option<u64>,
    /// How much later than the store it sees what is there.
    pub(crate) lag: usize,
    /// Its clock is so many millionths fast.
    pub(crate) fast: i64,
    pub(crate) session: Option<Session>,
    pub(crate) acked: Option<Mark>,
    pub(crate) renew_at: u64,
    /// The newest view it has seen.
    pub(crate) seen: usize,
    /// Slots of which its process writes.
    pub(crate) acts: BTreeSet<usize>,
    /// Slots of which something dead is still in the page cache, until then.
    pub(crate) dirty: BTreeMap<usize, u64>,
    /// When everything is on the disks that is being written back.
    pub(crate) synced_at: Option<u64>,
    pub(crate) observer: Observer,
    pub(crate) fencer: Fencer,
    pub(crate) tasks: BTreeMap<usize, Task>,
    pub(crate) powering: Option<(Revision, Mark)>,
    pub(crate) boots: u32,
}

impl Node {
    pub(crate) fn new(ix: usize, outlets: usize, after: AfterFence, timing: Timing) -> Self {
        let name = NodeName::new(["a", "b", "c", "d", "e", "f", "g", "h", "i"][ix]).unwrap();
        Self {
            outlets: vec![true; outlets],
            device: Mode::Good,
            after,
            agent_at: Some(0),
            agent: 0,
            hung: false,
            cut: None,
            lag: 0,
            fast: 0,
            session: None,
            acked: None,
            renew_at: 0,
            seen: 0,
            acts: BTreeSet::new(),
            dirty: BTreeMap::new(),
            synced_at: None,
            observer: Observer::new(timing),
            fencer: Fencer::new(name.clone()),
            tasks: BTreeMap::new(),
            powering: None,
            boots: 0,
            name,
        }
    }

    pub(crate) fn on(&self) -> bool {
        self.outlets.contains(&true)
    }

    /// Whether its agent does something.
    pub(crate) fn lives(&self, now_ms: u64) -> bool {
        self.on() && !self.hung && self.agent_at.is_some_and(|at| at <= now_ms)
    }

    pub(crate) fn mark(&self, now_ms: u64) -> Mark {
        let ns = i128::from(now_ms) * i128::from(1_000_000 + self.fast);
        let ns = u64::try_from(ns).unwrap();
        Mark {
            boot_ns: ns,
            raw_ns: ns,
        }
    }

    /// Whether its lease runs, by its own clock.
    pub(crate) fn covered(&self, now: Mark, for_: Duration) -> bool {
        self.acked.is_some_and(|acked| now.held_for(acked) < for_)
    }

    /// Whether something of a slot may reach the shared disk from here.
    pub(crate) fn writes(&self, slot: usize, now_ms: u64) -> bool {
        self.on() && (self.acts.contains(&slot) || self.dirty.get(&slot).is_some_and(|until| now_ms < *until))
    }

    /// Its processes are killed.
    pub(crate) fn kill(&mut self, now_ms: u64) {
        for slot in std::mem::take(&mut self.acts) {
            self.dirty.insert(slot, now_ms + WRITTEN_BACK_MS);
        }
    }

    /// No power: what it had under way at devices of others goes its way.
    pub(crate) fn dies(&mut self) {
        (self.hung, self.agent_at, self.session, self.acked) = (false, None, None, None);
        (self.synced_at, self.powering) = (None, None);
        self.agent += 1;
        self.acts.clear();
        self.dirty.clear();
        self.tasks.clear();
    }

    pub(crate) fn boots(&mut self, agent_at: u64, timing: Timing) {
        self.dies();
        self.boots += 1;
        self.agent_at = Some(agent_at);
        self.begins_anew(timing);
    }

    /// The agent dies, and is started again; the guard and the processes live.
    pub(crate) fn crash(&mut self, now_ms: u64, timing: Timing) {
        self.agent_at = self.agent_at.map(|at| at.max(now_ms + 1_000));
        self.agent += 1;
        (self.synced_at, self.powering) = (None, None);
        self.tasks.clear();
        self.begins_anew(timing);
    }

    fn begins_anew(&mut self, timing: Timing) {
        self.observer = Observer::new(timing);
        self.fencer = Fencer::new(self.name.clone());
    }
}
