//! The session thread of an agent: the real holder, and the link to the guard.

use super::agent::{Purpose, Task};
use super::invariants::Moment;
use super::records::{self, Compare, Key, NodeIx, Op, Outcome, Txn, Value};
use super::sabotage::ClusterRule;
use super::wire::Ask as Asked;
use super::world::{Due, Noted, World};
use decisions::Event;
use decisions::lease::{
    Covered, GuardAction, GuardEvent, GuardWatch, Holder, HolderAction, HolderEvent, HolderOptions, Lost, Still,
};
use guard::fence::words::{Act, Told};
use model::{Epoch, InstanceId, Mark, Millis, Revision, RunId, SlotId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// Something for the thread to do.
#[derive(Debug)]
pub(crate) enum Order {
    Fast(bool),
    Empty(bool),
    Arm {
        instance: InstanceId,
        run: RunId,
        slot: SlotId,
        epoch: Epoch,
        /// The session under which the slot was taken: another one that is open by now covers nothing of it.
        session: Option<Revision>,
    },
    Disarm(InstanceId),
    /// What stood still under an earlier session goes on under this one, which its slot is bound to now.
    Rebind {
        slot: SlotId,
        epoch: Epoch,
        session: Option<Revision>,
    },
}

/// What the main loop hears of it.
#[derive(Debug)]
pub(crate) enum News {
    Renewed { session: Revision, sent: Mark },
    Failed,
    Lost { kept: bool },
    Frozen(Option<Still>),
    Late,
    Taken(super::agent::Seen),
}

/// What the guard says.
#[derive(Debug)]
pub(crate) enum Fenced {
    /// It is there: another process than before, or to another agent.
    Up,
    /// It ended what it kept for a slot.
    Fired(SlotId),
}

/// What a guard that stands still has not read yet.
#[derive(Debug)]
pub(crate) enum ToGuard {
    Session(Revision, Mark),
    Renewed(Revision, Mark),
    Arm {
        slot: SlotId,
        member: (InstanceId, RunId),
        epoch: Epoch,
    },
    Rebind(SlotId, Epoch),
    Disarm(SlotId),
    /// Whether it is there.
    Beat,
}

/// As in the agent: how often its main loop has the guard asked.
const BEAT_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Armed {
    member: (InstanceId, RunId),
    epoch: Epoch,
    /// Somebody waits to hear that it is.
    waiting: bool,
    /// It is being ended, with the session that it was armed in: no other guard may arm it again.
    over: bool,
}

#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) holder: Holder,
    record: records::Session,
    seq: u64,
    last_noted: Option<Noted>,
    wakes: Option<Timestamp>,
    armed: BTreeMap<SlotId, Armed>,
    /// Of these, what waits for its slot to be bound to the next session.
    kept: BTreeSet<SlotId>,
    /// What an earlier agent armed and this one did not.
    inherited: BTreeSet<SlotId>,
    /// Nothing exclusive of this node runs.
    empty: bool,
    /// The session that the guard knows, and the newest renewal.
    told_guard: Option<(Revision, Mark)>,
    pub(crate) ready: bool,
    /// Whether the guard does its duty.
    watch: GuardWatch,
    watch_wakes: Option<Timestamp>,
}

impl Keeper {
    /// Whether the guard was asked to keep that process.
    pub(crate) fn keeps(&self, id: &InstanceId, run: RunId) -> bool {
        let kept = |armed: &Armed| armed.member.0 == *id && armed.member.1 == run && !armed.waiting;
        self.ready && self.armed.values().any(kept)
    }
}

impl World {
    pub(crate) fn session_starts(&mut self, ix: NodeIx) {
        let now = self.mark(ix);
        let timing = self.timing;
        let node = self.node(ix);
        let (boot, agents, noted) = (node.boot, node.agents, node.noted);
        let guard_runs = node.guard.runs;
        let tells = self.of_before != Some(ix);
        let record = records::Session {
            boot,
            agent: u64::from(boot) << 32 | u64::from(agents),
            lease: timing.lease,
            seq: 0,
            tells,
        };
        let options = HolderOptions::of(&timing);
        let attempts = now.boot_ns;
        let (holder, seq) = match noted {
            Some(noted) => {
                let holder = Holder::adopt(timing, options, attempts, noted.session, noted.seq, noted.acked);
                (holder, noted.seq)
            }
            None => (Holder::new(timing, options, attempts), 0),
        };
        let Some(agent) = self.agent(ix) else { return };
        agent.keeper = Some(Keeper {
            holder,
            record,
            seq,
            last_noted: noted,
            wakes: None,
            armed: BTreeMap::new(),
            kept: BTreeSet::new(),
            inherited: BTreeSet::new(),
            empty: false,
            told_guard: None,
            ready: false,
            watch: GuardWatch::new(&timing),
            watch_wakes: None,
        });
        self.plan_task(ix, BEAT_EVERY, Task::Beat);
        if guard_runs {
            let after = self.pace.span(3_000);
            self.plan_task(ix, after, Task::Guard(Fenced::Up));
        }
        self.plan_task(ix, Duration::ZERO, Task::DiskProbe(None));
        self.session_tell(ix, HolderEvent::Tick);
    }

    fn keeper(&mut self, ix: NodeIx) -> Option<&mut Keeper> {
        self.agent(ix)?.keeper.as_mut()
    }

    fn session_tell(&mut self, ix: NodeIx, event: HolderEvent) {
        let now = self.mark(ix);
        let Some(keeper) = self.keeper(ix) else { return };
        keeper.holder.handle(event, now);
        while let Some(action) = self.keeper(ix).and_then(|keeper| keeper.holder.poll()) {
            self.session_carry_out(ix, action);
        }
        let now = self.now;
        let Some(wanted) = self.keeper(ix).and_then(|keeper| keeper.holder.next_wakeup()) else {
            return;
        };
        let wait = self.wait_for(ix, wanted);
        let at = now + wait;
        let Some(keeper) = self.keeper(ix) else { return };
        if keeper.wakes.is_some_and(|planned| planned <= at && planned >= now) {
            return;
        }
        keeper.wakes = Some(at);
        self.plan_task(ix, wait, Task::SessionWake(at));
    }

    pub(crate) fn session_wakes(&mut self, ix: NodeIx, at: Timestamp) {
        let Some(keeper) = self.keeper(ix).filter(|keeper| keeper.wakes == Some(at)) else {
            return;
        };
        keeper.wakes = None;
        self.session_tell(ix, HolderEvent::Tick);
    }

    /// How long it really takes until either clock of a machine reads that.
    fn wait_for(&self, ix: NodeIx, at: Mark) -> Duration {
        if self.broken == Some(ClusterRule::WallClock) {
            let mark = self.mark(ix);
            return Duration::from_nanos(at.boot_ns.saturating_sub(mark.boot_ns)) + Duration::from_micros(1);
        }
        self.node(ix).clocks.until(self.now, at)
    }

    /// Timers follow the clocks, which run at another rate from now on.
    pub(crate) fn session_replan(&mut self, ix: NodeIx) {
        if self.node(ix).paused || self.agent(ix).is_some_and(|agent| agent.stopped) {
            return;
        }
        if let Some(keeper) = self.keeper(ix) {
            keeper.wakes = None;
            self.session_tell(ix, HolderEvent::Tick);
        }
    }

    fn news(&mut self, ix: NodeIx, news: News) {
        self.plan_task(ix, Duration::from_micros(20), Task::News(news));
    }

    fn session_carry_out(&mut self, ix: NodeIx, action: HolderAction) {
        let timeout = self.timing.request_timeout.duration();
        match action {
            HolderAction::Open { attempt } => {
                let Some(record) = self.keeper(ix).map(|keeper| keeper.record) else {
                    return;
                };
                let key = Key::Session(ix);
                let mut txn = Txn::new()
                    .when(Compare::Created(key.clone(), Revision(0)))
                    .then(records::put(key.clone(), Value::Session(record)));
                if record.tells {
                    txn = txn.then(records::put(Key::There(ix), Value::Session(record)));
                }
                let txn = txn.then(Op::Get(key.clone())).otherwise(Op::Get(key));
                self.call(ix, Purpose::Open { attempt }, Asked::Txn(Rc::new(txn)), timeout);
            }
            HolderAction::Renew {
                attempt,
                session,
                seq,
                lease,
                sent,
            } => self.renew(ix, attempt, session, seq, lease, sent),
            // There is one store here.
            HolderAction::Hedge { .. } => {}
            HolderAction::Probe => {
                let txn = Txn::new().then(Op::Get(Key::Session(ix)));
                self.call(ix, Purpose::Probe, Asked::Txn(Rc::new(txn)), timeout);
            }
            HolderAction::TellGuard { mark } => {
                let Some(keeper) = self.keeper(ix) else { return };
                let Some(session) = keeper.holder.session() else { return };
                let known = keeper.told_guard.is_some_and(|(known, _)| known == session);
                keeper.told_guard = Some((session, mark));
                if !known {
                    self.tell_guard(ix, ToGuard::Session(session, mark));
                }
                self.tell_guard(ix, ToGuard::Renewed(session, mark));
            }
            HolderAction::Fenced { why, was_frozen } => {
                if let Lost::Session(_) = why {
                    self.node_mut(ix).noted = None;
                    if let Some(keeper) = self.keeper(ix) {
                        keeper.last_noted = None;
                    }
                }
                self.tally.fenced += 1;
                self.say(|| format!("n{ix:04}  is fenced: {why}"));
                let session = matches!(why, Lost::Session(_));
                let kept = was_frozen && session && self.keeps_all(ix);
                if !kept {
                    self.kill_all(ix);
                }
                self.news(ix, News::Lost { kept });
            }
            HolderAction::Frozen { why } => {
                self.tally.freezes += 1;
                self.say(|| format!("n{ix:04}  stands still: {why}"));
                if why == Still::NoGuard {
                    self.freeze_all(ix);
                } else {
                    self.watch_tell(ix, GuardEvent::MustStandStill);
                }
                self.news(ix, News::Frozen(Some(why)));
            }
            HolderAction::Thawed => {
                self.watch_tell(ix, GuardEvent::MayGoOn);
                self.say(|| format!("n{ix:04}  goes on"));
                self.news(ix, News::Frozen(None));
            }
            HolderAction::Late { .. } => self.news(ix, News::Late),
        }
    }

    fn renew(&mut self, ix: NodeIx, attempt: u64, session: Revision, seq: u64, lease: Millis, sent: Mark) {
        let timeout = self.timing.request_timeout.duration();
        let Some(keeper) = self.keeper(ix) else { return };
        keeper.seq = seq;
        let record = records::Session {
            seq,
            lease,
            ..keeper.record
        };
        let key = Key::Session(ix);
        let txn = Txn::new()
            .when(Compare::Created(key.clone(), session))
            .then(records::put(key, Value::Session(record)))
            .otherwise(Op::Get(Key::Grave(ix, session)));
        let purpose = Purpose::Renew { attempt, session, sent };
        self.call(ix, purpose, Asked::Txn(Rc::new(txn)), timeout);
    }

    pub(crate) fn session_opened(&mut self, ix: NodeIx, attempt: u64, outcome: &Outcome) {
        let Some(entry) = outcome.reads.iter().flatten().next() else {
            return;
        };
        let Value::Session(found) = &*entry.value else { return };
        let Some(keeper) = self.keeper(ix) else { return };
        if outcome.succeeded || *found == keeper.record {
            keeper.seq = found.seq;
            let (id, seq) = (entry.create, found.seq);
            self.session_tell(ix, HolderEvent::Opened { attempt, id, seq });
        } else {
            let seen = super::agent::Seen {
                id: entry.create,
                modified: entry.modified,
                record: *found,
            };
            self.news(ix, News::Taken(seen));
            self.session_tell(ix, HolderEvent::OpenTaken { attempt });
        }
    }

    pub(crate) fn session_not_opened(&mut self, ix: NodeIx, attempt: u64) {
        self.news(ix, News::Failed);
        self.session_tell(ix, HolderEvent::OpenFailed { attempt });
    }

    pub(crate) fn session_renewed(
        &mut self,
        ix: NodeIx,
        attempt: u64,
        session: Revision,
        mut sent: Mark,
        outcome: &Outcome,
    ) {
        if !outcome.succeeded {
            self.session_tell(ix, HolderEvent::RenewalFenced { attempt });
            return;
        }
        let node = self.node_mut(ix);
        node.acked = Some(
            node.acked
                .map_or(sent, |acked| if acked.boot_ns > sent.boot_ns { acked } else { sent }),
        );
        if self.broken == Some(ClusterRule::DeadlineFromAck) {
            sent = self.mark(ix);
        }
        self.session_tell(ix, HolderEvent::Renewed { attempt, sent });
        self.news(ix, News::Renewed { session, sent });
        self.note(ix);
    }

    pub(crate) fn session_not_renewed(&mut self, ix: NodeIx, attempt: u64) {
        self.news(ix, News::Failed);
        self.session_tell(ix, HolderEvent::RenewalFailed { attempt });
    }

    pub(crate) fn session_probed(&mut self, ix: NodeIx, answered: bool) {
        self.session_tell(
            ix,
            if answered {
                HolderEvent::ProbeAnswered
            } else {
                HolderEvent::ProbeFailed
            },
        );
    }

    fn note(&mut self, ix: NodeIx) {
        let every = self.timing.soft_deadline.duration() / 10;
        let Some(keeper) = self.keeper(ix) else { return };
        let Some(session) = keeper.holder.session() else { return };
        let noted = Noted {
            session,
            seq: keeper.seq,
            acked: keeper.holder.acked(),
        };
        let fresh = |last: Noted| {
            let young = |(last, now): (Mark, Mark)| now.held_for(last) < every;
            last.session == session && last.acked.zip(noted.acked).is_some_and(young)
        };
        if keeper.last_noted.is_some_and(fresh) {
            return;
        }
        keeper.last_noted = Some(noted);
        self.node_mut(ix).noted = Some(noted);
    }

    /// Writes and syncs, again and again; a disk that stalls takes it when it does so no more. A full one harms no byte that is there:
    /// it counts as one that works.
    pub(crate) fn disk_probe(&mut self, ix: NodeIx, began: Option<Mark>) {
        let at = began.unwrap_or_else(|| self.mark(ix));
        if self.node(ix).disk_stalls_until > self.now {
            self.plan_task(ix, Duration::from_millis(20), Task::DiskProbe(Some(at)));
            return;
        }
        let every = (self.timing.soft_deadline.duration() / 4).min(Duration::from_secs(2));
        let takes = self.pace.span(1_000);
        self.plan_task(ix, takes, Task::Health { ok: true, at });
        self.plan_task(ix, takes + every, Task::DiskProbe(None));
    }

    pub(crate) fn session_health(&mut self, ix: NodeIx, ok: bool, at: Mark) {
        self.session_tell(ix, HolderEvent::NodeHealth { ok, at });
    }

    pub(crate) fn session_order(&mut self, ix: NodeIx, order: Order) {
        match order {
            Order::Fast(fast) => self.session_tell(ix, HolderEvent::FastWanted(fast)),
            Order::Empty(empty) => {
                if let Some(keeper) = self.keeper(ix) {
                    keeper.empty = empty;
                }
                self.give_up_inherited(ix);
                self.session_tell(ix, HolderEvent::AllExclusiveEmpty(empty));
            }
            Order::Arm {
                instance,
                run,
                slot,
                epoch,
                session: under,
            } => {
                self.session_tell(ix, HolderEvent::AllExclusiveEmpty(false));
                let now = self.mark(ix);
                let unchecked = self.broken == Some(ClusterRule::DeadlineNotChecked);
                let Some(keeper) = self.keeper(ix) else { return };
                let covered = keeper.holder.covered(now);
                if unchecked && let Some((session, _)) = keeper.told_guard {
                    self.tell_guard(ix, ToGuard::Renewed(session, now));
                } else if covered != Covered::Yes || !keeper.ready || keeper.holder.session() != under {
                    let result = Err(format!("{covered:?}"));
                    self.tell(
                        ix,
                        Event::Armed {
                            instance,
                            epoch,
                            result,
                        },
                    );
                    return;
                }
                let Some(keeper) = self.keeper(ix) else { return };
                let member = (instance, run);
                let armed = Armed {
                    member: member.clone(),
                    epoch,
                    waiting: true,
                    over: false,
                };
                keeper.kept.remove(&slot);
                keeper.inherited.remove(&slot);
                keeper.armed.insert(slot.clone(), armed);
                self.watch_tell(ix, GuardEvent::Armed(slot.clone()));
                self.tell_guard(ix, ToGuard::Arm { slot, member, epoch });
            }
            Order::Rebind { slot, epoch, session } => {
                self.session_tell(ix, HolderEvent::AllExclusiveEmpty(false));
                let now = self.mark(ix);
                let Some(keeper) = self.keeper(ix) else { return };
                let covered = keeper.holder.covered(now) == Covered::Yes && keeper.holder.session() == session;
                let waits = keeper.ready && keeper.kept.remove(&slot);
                let Some(armed) = keeper
                    .armed
                    .get_mut(&slot)
                    .filter(|armed| armed.epoch == epoch && !armed.over)
                else {
                    return;
                };
                if covered && waits {
                    armed.waiting = true;
                    self.tell_guard(ix, ToGuard::Rebind(slot, epoch));
                } else {
                    let (instance, result) = (armed.member.0.clone(), Err("it cannot go on".into()));
                    self.tell(
                        ix,
                        Event::Armed {
                            instance,
                            epoch,
                            result,
                        },
                    );
                }
            }
            Order::Disarm(instance) => {
                let Some(keeper) = self.keeper(ix) else { return };
                let of_it = keeper.armed.iter().filter(|(_, armed)| armed.member.0 == instance);
                let slots: Vec<SlotId> = of_it.map(|(slot, _)| slot.clone()).collect();
                for slot in slots {
                    if let Some(keeper) = self.keeper(ix) {
                        keeper.armed.remove(&slot);
                        keeper.kept.remove(&slot);
                    }
                    self.watch_tell(ix, GuardEvent::Disarmed(slot.clone()));
                    self.tell_guard(ix, ToGuard::Disarm(slot));
                }
            }
        }
    }

    /// The guard is there, or has done something.
    pub(crate) fn hear_fence(&mut self, ix: NodeIx, fenced: Fenced) {
        match fenced {
            Fenced::Up => {
                if !self.node(ix).guard.works() {
                    return;
                }
                let (now, timing) = (self.mark(ix), self.timing);
                let known = self.node_mut(ix).guard.register(&timing, now);
                let slots: Vec<SlotId> = self.node(ix).guard.slots().cloned().collect();
                let Some(keeper) = self.keeper(ix) else { return };
                let ours = |slot: &SlotId| keeper.armed.contains_key(slot);
                keeper.inherited = slots.into_iter().filter(|slot| !ours(slot)).collect();
                self.give_up_inherited(ix);
                let Some(keeper) = self.keeper(ix) else { return };
                match keeper.told_guard {
                    Some((session, mark)) if known != Some(session) => {
                        self.tell_guard(ix, ToGuard::Session(session, mark));
                        self.tell_guard(ix, ToGuard::Renewed(session, mark));
                    }
                    Some(_) => {}
                    None => keeper.told_guard = known.map(|session| (session, Mark::default())),
                }
                self.watch_tell(ix, GuardEvent::Gone);
                let Some(keeper) = self.keeper(ix) else { return };
                keeper.ready = true;
                let armed = keeper.armed.iter().filter(|(_, armed)| !armed.over);
                let armed: Vec<_> = armed
                    .map(|(slot, armed)| (slot.clone(), armed.member.clone(), armed.epoch))
                    .collect();
                for (slot, member, epoch) in armed {
                    self.tell_guard(ix, ToGuard::Arm { slot, member, epoch });
                }
                self.session_tell(ix, HolderEvent::GuardReady(true));
            }
            Fenced::Fired(slot) => {
                // What an earlier agent had armed, and has ended since, is none of this one's.
                if self.keeper(ix).is_none_or(|keeper| !keeper.armed.contains_key(&slot)) {
                    return;
                }
                self.session_tell(ix, HolderEvent::GuardFired);
                // It is there as before, for what comes next.
                self.session_tell(ix, HolderEvent::GuardReady(true));
            }
        }
    }

    /// As in the agent: what an earlier one armed is given up when nothing exclusive runs here.
    fn give_up_inherited(&mut self, ix: NodeIx) {
        let Some(keeper) = self.keeper(ix).filter(|keeper| keeper.empty) else {
            return;
        };
        for slot in std::mem::take(&mut keeper.inherited) {
            self.tell_guard(ix, ToGuard::Disarm(slot));
        }
    }

    /// The agent notices that its guard is gone.
    pub(crate) fn fence_lost(&mut self, ix: NodeIx) {
        let Some(keeper) = self.keeper(ix) else { return };
        if !keeper.ready {
            return;
        }
        keeper.ready = false;
        // The next guard would let it go on as soon as it is armed.
        let kept = std::mem::take(&mut keeper.kept);
        let ended: Vec<_> = kept.iter().filter_map(|slot| keeper.armed.remove(slot)).collect();
        let mut refused = Vec::new();
        let mut disarmed = Vec::new();
        // Who is told that it is not armed must not be armed by the next guard: its slot may be another's by then.
        keeper.armed.retain(|slot, armed| {
            if armed.waiting {
                disarmed.push(slot.clone());
                refused.push((armed.member.0.clone(), armed.epoch));
            }
            !armed.waiting
        });
        self.watch_tell(ix, GuardEvent::Gone);
        for armed in ended {
            self.kill_at_once(&armed.member.0, armed.member.1);
        }
        for slot in kept {
            self.watch_tell(ix, GuardEvent::Disarmed(slot));
        }
        self.freeze_all(ix);
        for slot in disarmed {
            self.watch_tell(ix, GuardEvent::Disarmed(slot));
        }
        for (instance, epoch) in refused {
            let result = Err("the guard is gone".into());
            self.tell(
                ix,
                Event::Armed {
                    instance,
                    epoch,
                    result,
                },
            );
        }
        self.session_tell(ix, HolderEvent::GuardReady(false));
    }

    /// What has to do with the guard, and what is done about it.
    pub(crate) fn watch_tell(&mut self, ix: NodeIx, event: GuardEvent) {
        if self.broken == Some(ClusterRule::HungGuardNotNoticed) {
            return;
        }
        let now = self.mark(ix);
        let Some(keeper) = self.keeper(ix) else { return };
        keeper.watch.handle(event, now);
        while let Some(action) = self.keeper(ix).and_then(|keeper| keeper.watch.poll()) {
            match action {
                GuardAction::Freeze => {
                    self.say(|| format!("n{ix:04}  its agent freezes in the guard's place"));
                    self.freeze_all(ix);
                }
                GuardAction::Replace(why) => {
                    self.say(|| format!("n{ix:04}  its agent ends the guard: {why}"));
                    self.replace_guard(ix);
                }
            }
        }
        let now = self.now;
        let Some(wanted) = self.keeper(ix).and_then(|keeper| keeper.watch.next_wakeup()) else {
            return;
        };
        let wait = self.wait_for(ix, wanted);
        let at = now + wait;
        let Some(keeper) = self.keeper(ix) else { return };
        if keeper
            .watch_wakes
            .is_some_and(|planned| planned <= at && planned >= now)
        {
            return;
        }
        keeper.watch_wakes = Some(at);
        self.plan_task(ix, wait, Task::WatchWake(at));
    }

    pub(crate) fn watch_wakes(&mut self, ix: NodeIx, at: Timestamp) {
        if let Some(keeper) = self.keeper(ix).filter(|keeper| keeper.watch_wakes == Some(at)) {
            keeper.watch_wakes = None;
            self.watch_tell(ix, GuardEvent::Tick);
        }
    }

    /// The main loop goes round, and the guard is asked whether it does.
    pub(crate) fn beat(&mut self, ix: NodeIx) {
        self.plan_task(ix, BEAT_EVERY, Task::Beat);
        if self.agent(ix).is_none_or(|agent| agent.core.is_none()) {
            return;
        }
        if self.keeper(ix).is_some_and(|keeper| keeper.ready) {
            self.watch_tell(ix, GuardEvent::Asked);
        }
        self.tell_guard(ix, ToGuard::Beat);
    }

    /// SIGKILL of a guard that hangs: whoever did it knows it at once.
    fn replace_guard(&mut self, ix: NodeIx) {
        let starts = Duration::from_micros(self.rng.u64(10_000..300_000));
        let node = self.node_mut(ix);
        node.guard.runs = false;
        node.unread.clear();
        self.fence_lost(ix);
        self.plan(starts, Due::GuardStarts(ix));
    }

    fn members(&self, ix: NodeIx) -> Vec<(InstanceId, RunId)> {
        let keeper = self.node(ix).agent.as_ref().and_then(|agent| agent.keeper.as_ref());
        keeper.map_or(Vec::new(), |keeper| {
            keeper.armed.values().map(|armed| armed.member.clone()).collect()
        })
    }

    /// Whether all that is armed stands still for certain, past the hard deadline, and so may wait for the next session.
    fn keeps_all(&mut self, ix: NodeIx) -> bool {
        let (now, hard) = (self.mark(ix), self.timing.hard_deadline.duration());
        let guard = &self.node(ix).guard;
        let guarded = guard.works();
        let frozen: Vec<SlotId> = guard.frozen().cloned().collect();
        let Some(keeper) = self.keeper(ix) else { return false };
        let late = Duration::from_millis(30);
        let settled = keeper
            .told_guard
            .is_some_and(|(_, mark)| now.held_for(mark) >= hard + late);
        let still = |(slot, armed): (&SlotId, &Armed)| frozen.contains(slot) && !armed.waiting && !armed.over;
        if !(guarded && keeper.ready && settled && !keeper.armed.is_empty() && keeper.armed.iter().all(still)) {
            return false;
        }
        keeper.kept = keeper.armed.keys().cloned().collect();
        true
    }

    fn kill_all(&mut self, ix: NodeIx) {
        if let Some(keeper) = self.keeper(ix) {
            keeper.armed.values_mut().for_each(|armed| armed.over = true);
            keeper.kept.clear();
        }
        for (instance, run) in self.members(ix) {
            self.kill_at_once(&instance, run);
        }
    }

    fn freeze_all(&mut self, ix: NodeIx) {
        for (instance, run) in self.members(ix) {
            self.freeze(instance, run);
        }
    }

    /// A guard that stands still reads it later, one that is gone never.
    fn tell_guard(&mut self, ix: NodeIx, message: ToGuard) {
        let node = self.node_mut(ix);
        if !node.guard.runs {
            return;
        }
        if node.guard.stopped {
            node.unread.push(message);
            return;
        }
        self.guard_hears(ix, message);
    }

    pub(crate) fn guard_hears(&mut self, ix: NodeIx, message: ToGuard) {
        let now = self.mark(ix);
        match message {
            ToGuard::Session(session, mark) => self.node_mut(ix).guard.session(session, mark, now),
            ToGuard::Renewed(session, mark) => self.node_mut(ix).guard.renewed(session, mark, now),
            ToGuard::Beat => self.guard_says(ix, GuardEvent::Answered),
            ToGuard::Arm { slot, member, epoch } => {
                let mut guard = std::mem::take(&mut self.node_mut(ix).guard);
                let result = guard.arm(&slot, member, epoch, now, |member| self.is_empty(member));
                self.node_mut(ix).guard = guard;
                self.armed(ix, slot, epoch, result.err().map(|error| error.to_string()));
            }
            ToGuard::Rebind(slot, epoch) => {
                let result = self.node_mut(ix).guard.rebind(&slot, epoch, now);
                self.armed(ix, slot, epoch, result.err().map(|error| error.to_string()));
            }
            ToGuard::Disarm(slot) => {
                let mut guard = std::mem::take(&mut self.node_mut(ix).guard);
                let gated = guard.gated(&slot);
                guard.disarm(&slot, now, |member| self.is_empty(member));
                self.node_mut(ix).guard = guard;
                if let Some(instance) = gated {
                    self.node_mut(ix).gates.remove(&instance);
                }
            }
        }
        self.guard_acts(ix);
    }

    /// What the guard answered to being asked to arm.
    fn armed(&mut self, ix: NodeIx, slot: SlotId, epoch: Epoch, refused: Option<String>) {
        let Some(keeper) = self.keeper(ix) else { return };
        let Some(armed) = keeper
            .armed
            .get_mut(&slot)
            .filter(|armed| armed.epoch == epoch && !armed.over)
        else {
            return;
        };
        let (instance, run) = armed.member.clone();
        let waited = std::mem::take(&mut armed.waiting);
        let Some(why) = refused else {
            if waited {
                let result = Ok(());
                self.tell(
                    ix,
                    Event::Armed {
                        instance,
                        epoch,
                        result,
                    },
                );
            }
            return;
        };
        keeper.armed.remove(&slot);
        self.watch_tell(ix, GuardEvent::Disarmed(slot));
        if waited {
            let result = Err(why);
            self.tell(
                ix,
                Event::Armed {
                    instance,
                    epoch,
                    result,
                },
            );
        } else {
            // Armed before, and not any more: it must not go on.
            self.kill_at_once(&instance, run);
        }
    }

    fn is_empty(&self, (instance, run): &(InstanceId, RunId)) -> bool {
        self.process(instance).is_none_or(|process| process.run != *run)
    }

    pub(crate) fn guard_wakes(&mut self, ix: NodeIx, life: u32) {
        let node = self.node(ix);
        if node.guard.life != life || !node.guard.works() || node.guard.wakes.is_none_or(|at| at > self.now) {
            return;
        }
        self.guard_looks(ix);
    }

    pub(crate) fn guard_looks(&mut self, ix: NodeIx) {
        self.node_mut(ix).guard.wakes = None;
        if self.broken == Some(ClusterRule::NoGuard) {
            return;
        }
        let now = self.mark(ix);
        let mut guard = std::mem::take(&mut self.node_mut(ix).guard);
        guard.tick(now, |(instance, run)| {
            self.process(instance)
                .is_none_or(|process| process.run != *run || process.frozen)
        });
        self.node_mut(ix).guard = guard;
        self.guard_acts(ix);
    }

    fn guard_acts(&mut self, ix: NodeIx) {
        while let Some((slot, epoch, (instance, run), act)) = self.node_mut(ix).guard.poll() {
            match act {
                Act::OpenGate { renewed, hard } => {
                    let left = hard.saturating_sub(self.mark(ix).held_for(renewed));
                    let raw_ns = self.node(ix).clocks.mark(self.now).raw_ns;
                    let until = raw_ns + u64::try_from(left.as_nanos()).unwrap_or(0);
                    self.node_mut(ix).gates.insert(instance.clone(), until);
                    self.gate_opens(&instance, run, &slot, epoch);
                }
                Act::CloseGate => {
                    self.before(instance.service());
                    self.node_mut(ix).gates.remove(&instance);
                }
                Act::Freeze => self.freeze(instance, run),
                Act::Thaw => self.thaw(&instance, run),
                Act::Kill => {
                    self.observe(&Moment::Fires(&slot, &instance, run));
                    self.kill_at_once(&instance, run);
                }
                Act::RemoveAddress => {}
                Act::Tell(Told::Fired { .. }) => {
                    self.tally.fired += 1;
                    self.say(|| format!("n{ix:04}  the guard fires at {instance}, epoch {epoch}"));
                    self.guard_says(ix, GuardEvent::Still(slot.clone()));
                    self.fired.insert((slot.clone(), epoch));
                    let after = self.pace.span(500);
                    self.plan_task(ix, after, Task::Guard(Fenced::Fired(slot)));
                }
                Act::Tell(Told::Frozen { .. }) => self.guard_says(ix, GuardEvent::Still(slot)),
                Act::Tell(Told::Thawed { .. } | Told::Resumed) => self.guard_says(ix, GuardEvent::GoesOn(slot)),
                Act::Tell(_) => {}
            }
        }
        self.plan_guard(ix);
    }

    fn guard_says(&mut self, ix: NodeIx, event: GuardEvent) {
        let after = self.pace.span(500);
        self.plan_task(ix, after, Task::GuardSays(event));
    }

    /// It wakes a little late: it counts in ticks, and may have to wait for a processor.
    pub(crate) fn plan_guard(&mut self, ix: NodeIx) {
        let now = self.mark(ix);
        let Some(at) = self.node(ix).guard.next_wakeup(now) else {
            return;
        };
        let jitter = self.timing.guard_jitter.0 * 1_000;
        let late = match self.rng.u32(0..10) {
            0 => self.rng.u64(0..=jitter),
            _ => self.rng.u64(0..=jitter / 4),
        };
        let clocks = &self.node(ix).clocks;
        let wait = self.wait_for(ix, at) + clocks.really(Duration::from_micros(late));
        let at = self.now + wait;
        let guard = &mut self.node_mut(ix).guard;
        if guard.wakes.is_some_and(|planned| planned <= at) {
            return;
        }
        guard.wakes = Some(at);
        let life = guard.life;
        self.plan_at(at, Due::Guard { node: ix, life });
    }

    pub(crate) fn guard_starts(&mut self, ix: NodeIx) {
        if self.node(ix).guard.runs {
            return;
        }
        let life = self.node(ix).guard.life;
        self.node_mut(ix).guard = super::guard::Guard::start(life);
        self.node_mut(ix).unread.clear();
        let after = self.pace.span(3_000);
        self.plan_task(ix, after, Task::Guard(Fenced::Up));
    }
}
