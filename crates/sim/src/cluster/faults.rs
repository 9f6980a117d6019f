//! What goes wrong, drawn from a seed. A draw names nobody: whom it hits is decided when it happens, so that leaving some out of a
//! schedule leaves the others meaningful.

use super::invariants::Moment;
use super::machine::{Ailing, Ailment};
use super::records::{self, Key, NodeIx, Op, Txn, Value};
use super::world::{Due, Noted, World};
use fastrand::Rng;
use model::{InstanceId, SlotId, Timestamp};
use std::fmt;
use std::time::Duration;

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident: $words:literal,)*) => {
        /// Kinds of faults of a cluster.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ClusterFault {
            $($(#[$doc])* $name,)*
        }

        impl ClusterFault {
            /// All of them.
            pub const ALL: &'static [ClusterFault] = &[$(ClusterFault::$name,)*];
        }

        impl fmt::Display for ClusterFault {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self {
                    $(ClusterFault::$name => $words,)*
                })
            }
        }
    };
}

faults! {
    /// SIGKILL of an instance.
    Kill: "an instance is killed",
    /// Its main process dies, a child lives on.
    KillMain: "a main process dies and a child lives on",
    /// SIGSTOP of an instance.
    Hang: "an instance hangs",
    /// It fails its checks for a while.
    Sick: "an instance fails its checks",
    /// Its standby check fails for a while.
    StandbyCheckFails: "standby checks fail",
    /// Hooks fail for a while.
    HookFails: "hooks fail",
    /// Hooks are slow for a while.
    HookSlow: "hooks are slow",
    /// Starts fail for a while.
    StartFails: "starts fail",
    /// What is killed takes long to be gone.
    SlowKill: "kills are slow",
    /// SIGKILL of an agent, at any step.
    AgentDies: "an agent dies",
    /// SIGSTOP of an agent, and late SIGCONT.
    AgentStops: "an agent is stopped",
    /// SIGKILL of a guard.
    GuardDies: "a guard dies",
    /// SIGSTOP of a guard.
    GuardStops: "a guard is stopped",
    /// Agent and guard at once.
    BothStop: "agent and guard are stopped",
    /// A machine loses power and boots again.
    PowerLoss: "a machine loses power",
    /// All of a machine stands still, its clocks do not.
    NodePauses: "a machine stands still",
    /// A node and the store do not reach each other.
    CutBoth: "a node is cut from the store",
    /// Its requests do not reach the store.
    CutToStore: "requests of a node are lost",
    /// The store's answers do not reach it.
    CutFromStore: "answers to a node are lost",
    /// Two nodes do not reach each other.
    CutPair: "two nodes do not reach each other",
    /// A node reaches neither store nor other nodes.
    Isolated: "a node is isolated",
    /// A third of a node's messages is lost.
    Loss: "a node loses messages",
    /// The store stands still for less than A.
    StoreStalls: "the store stands still",
    /// Its leader is elected anew.
    Election: "the store elects a leader",
    /// It has no quorum for a long time.
    QuorumLost: "the store has no quorum",
    /// Answers are lost after the commit.
    AnswersLost: "answers are lost after the commit",
    /// Requests arrive twice, the second time late.
    Doubled: "requests arrive twice",
    /// The past is compacted.
    Compacted: "the store is compacted",
    /// All watches break.
    WatchesBreak: "all watches break",
    /// An oscillator changes its rate.
    Drift: "a clock drifts",
    /// NTP slews BOOTTIME by up to a tenth.
    Slew: "a clock is slewed",
    /// Wall time jumps.
    WallJump: "wall time jumps",
    /// fsync hangs.
    DiskStalls: "a disk stalls",
    /// It is full.
    DiskFull: "a disk is full",
    /// An operator drains a node, and takes that back.
    Drain: "an operator drains a node",
    /// SIGSTOP of a guard, and its node does not reach the store.
    GuardStopsAndCut: "a guard is stopped and its node cut off",
    /// T11, taken back after a while.
    Park: "an operator parks a slot",
    /// Taken back after a while.
    Pause: "an operator pauses automatic actions",
    /// Everything where it would be put today.
    Rebalance: "an operator has a service rebalanced",
    /// T12, of a machine that lost power.
    Force: "an operator takes a slot by force",
}

impl ClusterFault {
    /// What only operators do; drawn apart from all else, by numbers of its own.
    fn is_by_hand(self) -> bool {
        matches!(
            self,
            ClusterFault::Park | ClusterFault::Pause | ClusterFault::Rebalance | ClusterFault::Force
        )
    }
}

/// A fault to come.
#[derive(Debug, Clone)]
pub(crate) struct Draw {
    pub(crate) at: Timestamp,
    pub(crate) kind: ClusterFault,
    /// Decides whom it hits and how long.
    pub(crate) dice: u64,
}

/// The end of a fault.
#[derive(Debug)]
pub(crate) enum Undo {
    AgentContinues(NodeIx, u32),
    GuardContinues(NodeIx, u32),
    NodeReturns(NodeIx),
    NodeResumes(NodeIx, u32),
    ToStore(NodeIx),
    FromStore(NodeIx),
    Between(NodeIx, NodeIx),
    Loss(NodeIx),
    StoreBack,
    AnswersLost,
    Doubled,
    Slew(NodeIx),
    Undrain(NodeIx),
    Unpark(SlotId),
    Unpause,
    Force(super::operator::Forced),
}

/// A schedule of so many faults, of a random choice of kinds and at a random pace.
pub(crate) fn random(rng: &mut Rng, faults: usize) -> Vec<Draw> {
    let mut kinds: Vec<ClusterFault> = ClusterFault::ALL
        .iter()
        .copied()
        .filter(|kind| !kind.is_by_hand() && rng.u32(0..5) < 2)
        .collect();
    if kinds.is_empty() {
        kinds.push(ClusterFault::PowerLoss);
    }
    // Some runs are stormy, some give each fault the time to be dealt with.
    let gap_us = [5_000, 20_000, 50_000, 100_000, 300_000, 1_500_000][rng.usize(0..6)];
    // Some begin while everything is still being started.
    let mut at = if rng.u32(0..4) == 0 { 1_000 } else { 4_000_000 };
    (0..faults)
        .map(|_| {
            if rng.u32(0..4) > 0 {
                at += rng.u64(0..=gap_us * 2);
            }
            Draw {
                at: Timestamp(at),
                kind: kinds[rng.usize(0..kinds.len())],
                dice: rng.u64(..),
            }
        })
        .collect()
}

/// What operators do meanwhile, in half of the runs: a few acts for a hundred faults. What a seed is otherwise stays so.
pub(crate) fn by_hand(seed: u64, faults: &[Draw]) -> Vec<Draw> {
    let rng = &mut Rng::with_seed(seed ^ 0x00be_4a9d);
    let (Some(first), Some(last)) = (faults.first(), faults.last()) else {
        return Vec::new();
    };
    if rng.bool() {
        return Vec::new();
    }
    let by_hand = ClusterFault::ALL.iter().copied().filter(|kind| kind.is_by_hand());
    let mut kinds: Vec<ClusterFault> = by_hand.filter(|_| rng.bool()).collect();
    if kinds.is_empty() {
        kinds.push(ClusterFault::Park);
    }
    let acts = (0..faults.len().div_ceil(30)).map(|_| Draw {
        at: Timestamp(rng.u64(first.at.0..=last.at.0)),
        kind: kinds[rng.usize(0..kinds.len())],
        dice: rng.u64(..),
    });
    acts.collect()
}

impl World {
    pub(crate) fn inject_drawn(&mut self, index: usize) {
        let draw = self.schedule[index].clone();
        if self.inject(draw.kind, draw.dice) {
            self.count(draw.kind);
        }
    }

    /// Does it. False if there is nobody whom it could hit.
    pub(crate) fn inject(&mut self, kind: ClusterFault, dice: u64) -> bool {
        let rng = &mut Rng::with_seed(dice);
        let span = Duration::from_millis([20, 100, 400, 1_500, 4_000, 9_000][rng.usize(0..6)]);
        let span = span.mul_f64(0.5 + rng.f64());
        let ix = rng.u16(0..self.nodes.len() as u16);
        let is_up = self.node(ix).up && !self.node(ix).paused;
        let name = self.node(ix).name.clone();
        let done = self.inject_at(kind, rng, span, ix, is_up);
        if done {
            self.say(|| format!("FAULT  {kind} ({name}, {} ms)", span.as_millis()));
        }
        done
    }

    fn inject_at(&mut self, kind: ClusterFault, rng: &mut Rng, span: Duration, ix: NodeIx, is_up: bool) -> bool {
        match kind {
            ClusterFault::Kill | ClusterFault::KillMain | ClusterFault::Hang => self.hit_process(kind, rng),
            ClusterFault::Sick => self.ail(rng, Ailment::Sick, true, span),
            ClusterFault::StandbyCheckFails => self.ail(rng, Ailment::StandbyCheckFails, true, span),
            ClusterFault::HookFails => self.ail(rng, Ailment::HookFails, false, span),
            ClusterFault::HookSlow => self.ail(rng, Ailment::HookSlow, false, span),
            ClusterFault::StartFails => self.ail(rng, Ailment::StartFails, true, span),
            ClusterFault::SlowKill => self.ail(rng, Ailment::SlowKill, false, span),
            ClusterFault::AgentDies => {
                if !is_up {
                    return false;
                }
                let Some(agent) = self.agent(ix) else { return false };
                match rng.u32(0..3) {
                    0 => self.agent_dies(ix),
                    _ => agent.dies_after = Some(rng.u32(0..8)),
                }
                true
            }
            ClusterFault::AgentStops => is_up && self.stop_agent(ix, span),
            ClusterFault::GuardDies => is_up && self.kill_guard(ix, rng),
            ClusterFault::GuardStops => is_up && self.stop_guard(ix, span),
            ClusterFault::BothStop => {
                is_up && {
                    let agent = self.stop_agent(ix, span);
                    self.stop_guard(ix, span) || agent
                }
            }
            ClusterFault::GuardStopsAndCut => {
                // Where something is kept it hurts.
                let ix = self.running(rng).map_or(ix, |id| self.instances[&id].node);
                let stops = self.node(ix).up && !self.node(ix).paused && self.stop_guard(ix, span);
                if stops {
                    self.cut_to_store(ix, span);
                    self.cut_from_store(ix, span);
                }
                stops
            }
            ClusterFault::PowerLoss => self.node(ix).up && self.power_loss(ix, Duration::from_millis(300) + span),
            ClusterFault::NodePauses => is_up && self.pause_node(ix, span),
            ClusterFault::CutBoth | ClusterFault::Isolated => {
                self.cut_to_store(ix, span);
                self.cut_from_store(ix, span);
                if kind == ClusterFault::Isolated {
                    for other in 0..self.nodes.len() as NodeIx {
                        self.cut_pair(ix, other, span);
                    }
                }
                true
            }
            ClusterFault::CutToStore => {
                self.cut_to_store(ix, span);
                true
            }
            ClusterFault::CutFromStore => {
                self.cut_from_store(ix, span);
                true
            }
            ClusterFault::CutPair => {
                let other = rng.u16(0..self.nodes.len() as u16);
                other != ix && {
                    self.cut_pair(ix, other, span);
                    true
                }
            }
            ClusterFault::Loss => {
                self.net.loss[ix as usize] = rng.u32(50..350);
                self.plan(span, Due::Undo(Undo::Loss(ix)));
                true
            }
            ClusterFault::StoreStalls => {
                let span = span.min(self.timing.soft_deadline.duration() / 2);
                self.store_goes(span, false)
            }
            ClusterFault::Election => {
                let span = self.timing.gap.duration().mul_f64(0.3 + 0.6 * rng.f64());
                self.store_goes(span, rng.bool())
            }
            ClusterFault::QuorumLost => {
                let span = if rng.u32(0..20) == 0 {
                    Duration::from_secs(rng.u64(20..120))
                } else {
                    span
                };
                self.store_goes(span, true)
            }
            ClusterFault::AnswersLost => {
                self.net.answers_lost = rng.u32(10..80);
                self.plan(span, Due::Undo(Undo::AnswersLost));
                true
            }
            ClusterFault::Doubled => {
                self.net.doubled = rng.u32(10..80);
                self.plan(span, Due::Undo(Undo::Doubled));
                true
            }
            ClusterFault::Compacted => {
                self.server.model.compact();
                true
            }
            ClusterFault::WatchesBreak => {
                for ix in 0..self.nodes.len() as NodeIx {
                    if self.node(ix).up
                        && self
                            .agent(ix)
                            .is_some_and(|agent| agent.watch.open.is_some() && !agent.stopped)
                    {
                        self.watch_lost(ix, "it breaks");
                    }
                }
                true
            }
            ClusterFault::Drift => {
                let rate = 1.0 + (rng.f64() - 0.5) * 0.002;
                self.change_clocks(ix, rate, 1.0)
            }
            ClusterFault::Slew => {
                let slew = 1.0 + (rng.f64() - 0.5) * 0.2;
                self.plan(span * 4, Due::Undo(Undo::Slew(ix)));
                self.change_clocks(ix, 1.0 + (rng.f64() - 0.5) * 0.002, slew)
            }
            ClusterFault::WallJump => {
                let seconds = [-86_400, -3_600, -5, -1, 1, 5, 3_600][rng.usize(0..7)];
                self.node_mut(ix).clocks.wall_ns += seconds * 1_000_000_000;
                true
            }
            ClusterFault::DiskStalls => {
                is_up && {
                    let until = self.now + span;
                    self.node_mut(ix).disk_stalls_until = until;
                    true
                }
            }
            ClusterFault::DiskFull => {
                is_up && {
                    let until = self.now + span;
                    self.node_mut(ix).disk_full_until = until;
                    true
                }
            }
            ClusterFault::Drain => {
                self.tally.drained = true;
                let txn = Txn::new().then(records::put(Key::Drained(ix), Value::Drained));
                self.operator(&txn);
                self.plan(span * 3, Due::Undo(Undo::Undrain(ix)));
                true
            }
            ClusterFault::Park => self.park(rng, span * 3),
            ClusterFault::Pause => self.pause(span * 2),
            ClusterFault::Rebalance => self.rebalance(rng),
            ClusterFault::Force => self.lose_one_to_be_forced(rng, span),
        }
    }

    pub(crate) fn operator(&mut self, txn: &Txn) -> bool {
        let (outcome, changes) = self.server.model.txn(txn);
        if let Some(changes) = changes {
            self.committed(&changes);
        }
        outcome.succeeded
    }

    fn running(&self, rng: &mut Rng) -> Option<InstanceId> {
        let runs = |inst: &super::machine::Inst| {
            inst.process.as_ref().is_some_and(|process| process.main) && !self.node(inst.node).paused
        };
        let acting: Vec<&InstanceId> = self
            .instances
            .iter()
            .filter(|(_, inst)| runs(inst) && inst.process.as_ref().is_some_and(|process| process.acting.is_some()))
            .map(|(id, _)| id)
            .collect();
        // Actives are where it hurts.
        if !acting.is_empty() && rng.bool() {
            return Some(acting[rng.usize(0..acting.len())].clone());
        }
        let all: Vec<&InstanceId> = self
            .instances
            .iter()
            .filter(|(_, inst)| runs(inst))
            .map(|(id, _)| id)
            .collect();
        (!all.is_empty()).then(|| all[rng.usize(0..all.len())].clone())
    }

    fn hit_process(&mut self, kind: ClusterFault, rng: &mut Rng) -> bool {
        let Some(id) = self.running(rng) else { return false };
        self.before(id.service());
        let Some(run) = self.process(&id).map(|process| process.run) else {
            return false;
        };
        let Some(process) = self.process_mut(&id, run) else {
            return false;
        };
        match kind {
            ClusterFault::Hang => process.hung = true,
            _ => {
                process.children = kind == ClusterFault::KillMain;
                self.main_ends(&id, run, "killed by SIGKILL");
            }
        }
        true
    }

    fn ail(&mut self, rng: &mut Rng, what: Ailment, one: bool, span: Duration) -> bool {
        let Some(id) = self.running(rng) else { return false };
        let until = self.now + span;
        self.before(id.service());
        let now = self.now;
        self.ailing.retain(|ailing| ailing.until > now);
        self.ailing.push(Ailing {
            service: id.service().clone(),
            instance: one.then_some(id),
            what,
            until,
        });
        true
    }

    fn stop_agent(&mut self, ix: NodeIx, span: Duration) -> bool {
        let Some(agent) = self.agent(ix).filter(|agent| !agent.stopped) else {
            return false;
        };
        agent.stopped = true;
        let life = agent.life;
        self.plan(span, Due::Undo(Undo::AgentContinues(ix, life)));
        true
    }

    pub(crate) fn kill_guard(&mut self, ix: NodeIx, rng: &mut Rng) -> bool {
        if !self.node(ix).guard.runs {
            return false;
        }
        self.node_mut(ix).guard.runs = false;
        let (notices, starts) = (rng.u64(100..40_000), rng.u64(10_000..300_000));
        self.plan_task(ix, Duration::from_micros(notices), super::agent::Task::GuardLost);
        self.plan(Duration::from_micros(starts.max(notices + 1)), Due::GuardStarts(ix));
        true
    }

    fn stop_guard(&mut self, ix: NodeIx, span: Duration) -> bool {
        let guard = &mut self.node_mut(ix).guard;
        if !guard.works() {
            return false;
        }
        guard.stopped = true;
        let life = guard.life;
        self.plan(span, Due::Undo(Undo::GuardContinues(ix, life)));
        true
    }

    pub(crate) fn power_loss(&mut self, ix: NodeIx, span: Duration) -> bool {
        let services: Vec<_> = self.declared.keys().cloned().collect();
        for service in &services {
            self.before(service);
        }
        let node = self.node_mut(ix);
        node.up = false;
        node.paused = false;
        node.deferred.clear();
        node.agent = None;
        node.noted = None::<Noted>;
        node.routes.clear();
        node.parting.clear();
        node.gates.clear();
        node.unread.clear();
        node.acked = None;
        node.disk_stalls_until = Timestamp(0);
        node.guard.runs = false;
        for inst in self.instances.values_mut().filter(|inst| inst.node == ix) {
            inst.lose_power();
        }
        self.plan(span, Due::Undo(Undo::NodeReturns(ix)));
        true
    }

    pub(crate) fn pause_node(&mut self, ix: NodeIx, span: Duration) -> bool {
        let services: Vec<_> = self.declared.keys().cloned().collect();
        for service in &services {
            self.before(service);
        }
        self.node_mut(ix).paused = true;
        let boot = self.node(ix).boot;
        self.plan(span, Due::Undo(Undo::NodeResumes(ix, boot)));
        true
    }

    pub(crate) fn cut(&mut self, ix: NodeIx, span: Duration) {
        self.cut_to_store(ix, span);
        self.cut_from_store(ix, span);
    }

    fn cut_to_store(&mut self, ix: NodeIx, span: Duration) {
        self.net.to_store[ix as usize] += 1;
        self.plan(span, Due::Undo(Undo::ToStore(ix)));
    }

    fn cut_from_store(&mut self, ix: NodeIx, span: Duration) {
        self.net.from_store[ix as usize] += 1;
        self.plan(span, Due::Undo(Undo::FromStore(ix)));
    }

    fn cut_pair(&mut self, one: NodeIx, other: NodeIx, span: Duration) {
        if one == other {
            return;
        }
        let services: Vec<_> = self.declared.keys().cloned().collect();
        for service in &services {
            self.before(service);
        }
        self.net.between.insert((one.min(other), one.max(other)));
        self.plan(span, Due::Undo(Undo::Between(one.min(other), one.max(other))));
    }

    pub(crate) fn store_goes(&mut self, span: Duration, watches: bool) -> bool {
        let until = self.now + span;
        if until > self.server.away_until {
            self.server.away_until = until;
            self.plan_at(until, Due::Undo(Undo::StoreBack));
        }
        if watches {
            // Watches ask for a leader.
            for ix in 0..self.nodes.len() as NodeIx {
                let hears = self.net.from_store[ix as usize] == 0 && self.node(ix).up && !self.node(ix).paused;
                if hears
                    && self
                        .agent(ix)
                        .is_some_and(|agent| agent.watch.open.is_some() && !agent.stopped)
                {
                    self.watch_lost(ix, "the store has no leader");
                }
            }
        }
        true
    }

    fn change_clocks(&mut self, ix: NodeIx, rate: f64, slew: f64) -> bool {
        let now = self.now;
        if !self.node(ix).up {
            return false;
        }
        self.node_mut(ix).clocks.change(now, rate, slew);
        self.replan(ix);
        true
    }

    /// Timers follow the clocks.
    fn replan(&mut self, ix: NodeIx) {
        self.node_mut(ix).guard.wakes = None;
        if self.node(ix).guard.works() {
            self.plan_guard(ix);
        }
        self.session_replan(ix);
    }

    pub(crate) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::AgentContinues(ix, life) => {
                let now = self.now;
                let Some(agent) = self.agent(ix).filter(|agent| agent.life == life && agent.stopped) else {
                    return;
                };
                agent.stopped = false;
                let late = self.timing.guard_jitter.0 + self.timing.kill_budget.0;
                let node = self.node_mut(ix);
                // It has yet to act in the place of a guard that stands still, too.
                node.excused = node
                    .excused
                    .max(now + Duration::from_millis(late) + decisions::lease::GUARD_ACTS);
                let Some(agent) = self.agent(ix) else { return };
                let waited = std::mem::take(&mut agent.deferred);
                let node = self.node_mut(ix);
                if node.paused {
                    // What came while it stood still by itself comes before what came while the whole machine did.
                    node.deferred.splice(0..0, waited);
                } else {
                    for due in waited {
                        self.plan_at(now, due);
                    }
                }
                self.say(|| format!("n{ix:04}  its agent continues"));
            }
            Undo::GuardContinues(ix, life) => self.guard_continues(ix, life),
            Undo::NodeReturns(ix) => self.node_returns(ix),
            Undo::NodeResumes(ix, boot) => {
                if self.node(ix).boot == boot {
                    self.node_resumes(ix);
                }
            }
            Undo::ToStore(ix) => {
                let cuts = &mut self.net.to_store[ix as usize];
                *cuts = cuts.saturating_sub(1);
            }
            Undo::FromStore(ix) => {
                let cuts = &mut self.net.from_store[ix as usize];
                *cuts = cuts.saturating_sub(1);
            }
            Undo::Between(one, other) => {
                let services: Vec<_> = self.declared.keys().cloned().collect();
                for service in &services {
                    self.before(service);
                }
                self.net.between.remove(&(one, other));
            }
            Undo::Loss(ix) => self.net.loss[ix as usize] = 0,
            Undo::StoreBack => {
                if self.now >= self.server.away_until {
                    self.say(|| "store  it answers again".into());
                    self.store_returns();
                }
            }
            Undo::AnswersLost => self.net.answers_lost = 0,
            Undo::Doubled => self.net.doubled = 0,
            Undo::Slew(ix) => {
                self.change_clocks(ix, 1.0, 1.0);
            }
            Undo::Unpark(slot) => self.unpark(&slot),
            Undo::Unpause => self.unpause(),
            Undo::Force(forced) => self.force(forced),
            Undo::Undrain(ix) => {
                let was_drained = self.server.model.get(&Key::Drained(ix)).is_some();
                let mut txn = Txn::new().then(Op::Delete(Key::Drained(ix)));
                // Nothing comes back by itself; where places matter somebody asks for it.
                if was_drained && !self.node(ix).place.zone.is_empty() {
                    self.tally.rebalanced = true;
                    for service in self.declared.keys() {
                        txn = txn.then(records::put(Key::Rebalance(service.clone()), records::Value::Rebalance));
                    }
                }
                self.operator(&txn);
            }
        }
    }

    fn guard_continues(&mut self, ix: NodeIx, life: u32) {
        let guard = &self.node(ix).guard;
        if guard.life != life || !guard.stopped || !guard.runs {
            return;
        }
        let late = Duration::from_millis(self.timing.guard_jitter.0 + self.timing.kill_budget.0);
        let until = self.now + late;
        let node = self.node_mut(ix);
        node.guard.stopped = false;
        node.excused = node.excused.max(until);
        for message in std::mem::take(&mut self.node_mut(ix).unread) {
            self.guard_hears(ix, message);
        }
        self.guard_looks(ix);
        self.plan_at(Timestamp(until.0 + 1), Due::Recheck);
        // An agent that came up meanwhile waits to be registered.
        if self
            .agent(ix)
            .is_some_and(|agent| agent.keeper.as_ref().is_some_and(|keeper| !keeper.ready))
        {
            self.plan_task(
                ix,
                Duration::from_millis(1),
                super::agent::Task::Guard(super::session::Fenced::Up),
            );
        }
    }

    fn node_returns(&mut self, ix: NodeIx) {
        if self.node(ix).up {
            return;
        }
        let (now, rate) = (self.now, 1.0 + (self.rng.f64() - 0.5) * 0.002);
        let node = self.node_mut(ix);
        node.up = true;
        node.boot += 1;
        node.clocks = super::clocks::Clocks::boot(now, rate, node.clocks.wall_ns);
        node.guard = super::guard::Guard::start(node.guard.life);
        let after = Duration::from_micros(self.rng.u64(10_000..500_000));
        self.say(|| format!("n{ix:04}  is up again"));
        self.plan(after, Due::AgentStarts(ix));
    }

    fn node_resumes(&mut self, ix: NodeIx) {
        if !self.node(ix).paused {
            return;
        }
        let late = Duration::from_millis(self.timing.guard_jitter.0 + self.timing.kill_budget.0);
        let until = self.now + late;
        let jitter = self.timing.guard_jitter.0 * 1_000;
        let node = self.node_mut(ix);
        node.paused = false;
        node.excused = node.excused.max(until);
        for due in std::mem::take(&mut self.node_mut(ix).deferred) {
            // An agent that stands still by itself takes it in later, in the order in which it came.
            let stopped = self.agent(ix).filter(|agent| agent.stopped);
            if let (Due::Agent { .. } | Due::Watch { .. }, Some(agent)) = (&due, stopped) {
                agent.deferred.push(due);
                continue;
            }
            let after = match due {
                Due::Guard { .. } => self.rng.u64(0..jitter),
                _ => 0,
            };
            self.plan(Duration::from_micros(after), due);
        }
        self.say(|| format!("n{ix:04}  goes on"));
        self.observe(&Moment::Look);
        self.plan_at(Timestamp(until.0 + 1), Due::Recheck);
    }

    /// Everything that was wrong is put right.
    pub(crate) fn heal(&mut self) {
        let nodes = self.nodes.len() as NodeIx;
        self.ailing.clear();
        self.net.to_store.fill(0);
        self.net.from_store.fill(0);
        self.net.loss.fill(0);
        self.net.answers_lost = 0;
        self.net.doubled = 0;
        let services: Vec<_> = self.declared.keys().cloned().collect();
        for service in &services {
            self.before(service);
        }
        self.net.between.clear();
        if self.server.away_until > self.now {
            self.server.away_until = self.now;
            self.undo(Undo::StoreBack);
        }
        for ix in 0..nodes {
            self.node_returns(ix);
            self.node_resumes(ix);
            self.node_mut(ix).disk_full_until = Timestamp(0);
            self.node_mut(ix).disk_stalls_until = Timestamp(0);
            self.guard_continues(ix, self.node(ix).guard.life);
            if let Some(life) = self.agent(ix).map(|agent| agent.life) {
                self.undo(Undo::AgentContinues(ix, life));
            }
            if let Some(agent) = self.agent(ix) {
                agent.dies_after = None;
            }
            self.undo(Undo::Undrain(ix));
            self.unpause();
            let rate = 1.0 + (self.rng.f64() - 0.5) * 0.002;
            self.change_clocks(ix, rate, 1.0);
        }
        // Who hangs stays so until somebody ends it: that is for the agents to do, where a check tells them.
        for inst in self.instances.values_mut() {
            if let Some(process) = inst.process.as_mut().filter(|process| process.from.check.is_none()) {
                process.hung = false;
            }
        }
        self.healed = true;
        self.say(|| "HEALED".into());
    }
}
