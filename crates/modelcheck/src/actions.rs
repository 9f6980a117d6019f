//! Everything that may happen next.

use crate::config::{Config, Mutation};
use crate::store::Slot;
use crate::world::{Agent, Brain, Instance, LEASE, SOFT, World, name};
use crate::{NodeId, SlotId, Step};
use decisions::lease::txn::{From, Ground, Holding, Member};
use model::Revision;

/// Something that may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// A tick passes; one clock may stand still, and one make two.
    Tick {
        /// The clock that stands still.
        slow: Option<NodeId>,
        /// The clock that makes two.
        fast: Option<NodeId>,
    },
    /// The store comes back.
    StoreReturns,
    /// A request about the node's own session takes effect.
    CommitSession(NodeId),
    /// It is overtaken by the next, and on its way still.
    Overtake(NodeId),
    /// And takes effect.
    CommitDelayed(NodeId),
    /// A transaction takes effect.
    CommitStep(NodeId, u8),
    /// An answer arrives.
    Hear(NodeId, u8),
    /// A read probe is answered.
    AnswerProbe(NodeId),
    /// The node's watch catches up.
    Look(NodeId),
    /// The node sends a transaction.
    Send(NodeId, Step),
    /// And once more, since it has heard nothing.
    SendAgain(NodeId, u8),
    /// The node starts what was handed to it.
    StartHanded(NodeId, SlotId),
    /// The guard freezes.
    Freeze(NodeId),
    /// The instance is killed, by its guard or its agent.
    Kill(NodeId),
    /// The instance dies.
    Die(NodeId),
    /// The agent begins to stop its instance.
    Stop(NodeId),
    /// The agent crashes.
    Crash(NodeId),
    /// It is started again.
    StartAgent(NodeId),
    /// The agent stands still.
    Pause(NodeId),
    /// And goes on.
    Resume(NodeId),
    /// The whole machine stands still.
    Stall(NodeId),
    /// And goes on.
    Wake(NodeId),
    /// The machine boots.
    Reboot(NodeId),
    /// The machine loses its power.
    PowerOff(NodeId),
}

impl World {
    /// All that may happen now.
    pub(crate) fn possible(&self, config: &Config, out: &mut Vec<Action>) {
        let before = out.len();
        for node in config.node_ids() {
            self.messages(node, config, out);
        }
        // What is prompt comes before all else.
        if config.prompt && out.len() > before {
            return;
        }
        if self.outage {
            out.push(Action::StoreReturns);
        }
        for node in config.node_ids() {
            self.local(node, config, out);
            self.sends(node, config, out);
        }
        self.time(config, out);
    }

    fn messages(&self, node: NodeId, config: &Config, out: &mut Vec<Action>) {
        let this = self.node(node);
        if self.outage {
            return;
        }
        let budget = self.left.session[usize::from(node)];
        if this.request.is_some() && budget > 0 {
            out.push(Action::CommitSession(node));
        }
        if this.delayed.is_some() {
            out.push(Action::CommitDelayed(node));
        }
        out.extend(
            (0u8..)
                .zip(&this.flights)
                .map(|(which, _)| Action::CommitStep(node, which)),
        );
        let Some(brain) = this.brain() else { return };
        if config.deaf != Some(node) {
            out.extend((0u8..).zip(&this.answers).map(|(which, _)| Action::Hear(node, which)));
            if brain.probing && budget > 0 {
                out.push(Action::AnswerProbe(node));
            }
        }
        if brain.view.revision < self.store.revision {
            out.push(Action::Look(node));
        }
    }

    fn local(&self, node: NodeId, config: &Config, out: &mut Vec<Action>) {
        let this = self.node(node);
        let left = &self.left;
        if this.request.is_some() && this.delayed.is_none() && left.delayed > 0 {
            out.push(Action::Overtake(node));
        }
        match this.agent {
            Agent::Down if !this.stalled => out.push(Action::StartAgent(node)),
            Agent::Paused(_) if !this.stalled => out.push(Action::Resume(node)),
            Agent::Up(_) if !this.stalled => {
                if left.crashes > 0 {
                    out.push(Action::Crash(node));
                }
                if left.pauses > 0 {
                    out.push(Action::Pause(node));
                }
            }
            _ => {}
        }
        if this.stalled {
            out.push(Action::Wake(node));
            return;
        }
        if left.stalls > 0 {
            out.push(Action::Stall(node));
        }
        if left.reboots > 0 {
            out.push(Action::Reboot(node));
        }
        if left.offs > 0 && !this.is_off() {
            out.push(Action::PowerOff(node));
        }
        let old = this.age().is_some_and(|age| age >= SOFT);
        match this.instance {
            Instance::Running(_) => {
                if old {
                    out.extend([Action::Freeze(node), Action::Kill(node)]);
                }
                if left.ends > 0 {
                    out.push(Action::Die(node));
                    if this.brain().is_some() {
                        out.push(Action::Stop(node));
                    }
                }
            }
            Instance::Dying(_) | Instance::Frozen(_) | Instance::Stalled(_) => out.push(Action::Kill(node)),
            Instance::Gated(_) if old => out.push(Action::Kill(node)),
            Instance::None | Instance::Gated(_) => {}
        }
        for (slot, record) in (0..config.slots).zip(this.brain().map_or(&[][..], |brain| &brain.view.slots)) {
            if self.is_handed(node, slot, record) {
                out.push(Action::StartHanded(node, slot));
            }
        }
    }

    /// The view says that this node holds the slot, under its session, at an epoch that this process has not seen.
    fn is_handed(&self, node: NodeId, slot: SlotId, record: &Slot) -> bool {
        let this = self.node(node);
        let Some(brain) = this.brain() else { return false };
        let Some((holder, session)) = record.holder else {
            return false;
        };
        holder == node
            && record.attempt.0 != node
            && brain.holder.session() == Some(session)
            && record.epoch > brain.last_epoch[usize::from(slot)]
            && this.instance == Instance::None
    }

    fn sends(&self, node: NodeId, config: &Config, out: &mut Vec<Action>) {
        let this = self.node(node);
        let Some(brain) = this.brain() else { return };
        if self.left.steps[usize::from(node)] == 0 {
            return;
        }
        let unsent = |which: &usize| !this.flights.contains(&brain.pending[*which]);
        let again = (0..brain.pending.len()).filter(unsent);
        out.extend(again.map(|which| Action::SendAgain(node, u8::try_from(which).unwrap_or(u8::MAX))));

        let mut steps = Vec::new();
        let view = &brain.view;
        let session = brain.holder.session();
        if let (Some(session), Some(record)) = (session, view.instances.get(usize::from(node)))
            && brain.pending.is_empty()
            && this.instance == Instance::None
        {
            if self.left.closes > 0 {
                steps.push(Step::Close { node, session });
            }
            // Bound to a slot that it still holds, it gives that up first: the comparison would not stop it.
            let holds = |slot: SlotId| view.slots[usize::from(slot)].holder == Some((node, session));
            let holds = record.bound.is_some_and(holds) && !config.is(Mutation::AnnounceWhileHolding);
            if self.left.announcements > 0 && !holds {
                steps.push(Step::Announce {
                    node,
                    session,
                    instance: node,
                    seen: record.modified,
                });
            }
        }
        for other in config.node_ids() {
            steps.extend(self.condemnations(node, other, brain, config));
        }
        for slot in 0..config.slots {
            let busy = brain.pending.iter().any(|pending| slot_of(&pending.step) == Some(slot));
            if !busy {
                self.slot_steps(node, slot, brain, config, &mut steps);
            }
        }
        self.operators(node, brain, config, &mut steps);
        out.extend(steps.into_iter().map(|step| Action::Send(node, step)));
    }

    /// What an operator asks this agent for.
    fn operators(&self, node: NodeId, brain: &Brain, config: &Config, steps: &mut Vec<Step>) {
        for (slot, record) in (0..config.slots).zip(&brain.view.slots) {
            let parked = brain.view.parked[usize::from(slot)].is_some();
            if self.left.parks > 0 && !parked {
                steps.push(Step::Park { slot });
            }
            if self.left.unparks > 0 && parked {
                steps.push(Step::Unpark { slot });
            }
            let Some((holder, session)) = record.holder.filter(|(holder, _)| *holder != node) else {
                continue;
            };
            let known = brain.view.sessions[usize::from(holder)].filter(|known| known.created == session);
            // Whoever states it has gone to look.
            let off = self.node(holder).is_off() || config.is(Mutation::ForcedAlive);
            if let Some(known) = known.filter(|_| self.left.forces > 0 && off) {
                steps.push(Step::Force {
                    slot,
                    seen: record.modified,
                    node: holder,
                    session,
                    modified: known.modified,
                });
            }
        }
    }

    fn condemnations(&self, node: NodeId, other: NodeId, brain: &Brain, config: &Config) -> Option<Step> {
        let now = self.node(node).now();
        let pending = |pending: &crate::world::Flight| matches!(pending.step, Step::Condemn { .. });
        if brain.pending.iter().any(pending) {
            return None;
        }
        let condemn = if other == node {
            let session = brain.view.sessions[usize::from(node)]?;
            (session.boot != self.node(node).boot && brain.holder.session().is_none()).then_some(())?;
            brain.observer.may_condemn_rebooted(name(other), now).ok()?
        } else {
            (config.condemn && !config.steady[usize::from(other)]).then_some(())?;
            brain.observer.may_condemn(name(other), now).ok()?
        };
        let modified = condemn.modified;
        // Only a machine that has booted may end its own session so soon.
        let ground = if other == node {
            Ground::Rebooted { modified }
        } else {
            Ground::Expired { modified }
        };
        Some(Step::Condemn {
            node: other,
            session: condemn.session,
            ground,
        })
    }

    fn slot_steps(&self, node: NodeId, slot: SlotId, brain: &Brain, config: &Config, steps: &mut Vec<Step>) {
        let this = self.node(node);
        let record = &brain.view.slots[usize::from(slot)];
        let Some(session) = brain.holder.session() else { return };
        let holding = Holding {
            slot,
            seen: record.modified,
            node,
            session,
        };
        match record.holder {
            Some((holder, under)) if holder == node && under == session => {
                let may_release = match this.instance {
                    Instance::None => true,
                    Instance::Dying(_) => config.is(Mutation::ReleaseBeforeEmpty),
                    _ => false,
                };
                if may_release {
                    steps.push(Step::Release(holding));
                }
                if this.instance == Instance::None {
                    steps.push(Step::Restart(holding));
                }
                if let Instance::Running(_) = this.instance {
                    if self.left.edits > 0 {
                        steps.push(Step::EditLine(holding));
                    }
                    if self.left.handovers > 0 {
                        let others = config.node_ids().filter(|other| *other != node);
                        let free = others.filter_map(|other| free_member(brain, other));
                        steps.extend(free.map(|member| Step::Handover(holding, member)));
                    }
                }
            }
            holder => {
                // Frozen since before its old session ended.
                if let Instance::Frozen(held) = this.instance
                    && held.slot == slot
                    && held.session != session
                    && (holder == Some((node, held.session)) || config.is(Mutation::RebindWithoutSlot))
                {
                    steps.push(Step::Rebind(holding));
                }
                steps.extend(self.takes(node, slot, record, brain, session, config));
            }
        }
    }

    fn takes(
        &self,
        node: NodeId,
        slot: SlotId,
        record: &Slot,
        brain: &Brain,
        session: Revision,
        config: &Config,
    ) -> Vec<Step> {
        let this = self.node(node);
        let Some(taker) = free_member(brain, node) else {
            return Vec::new();
        };
        if taker.session != session || this.instance != Instance::None {
            return Vec::new();
        }
        let take = |from| Step::Take {
            slot,
            seen: record.modified,
            taker,
            from,
        };
        let Some((holder, under)) = record.holder else {
            return vec![take(From::Released)];
        };
        let mut takes = Vec::new();
        if brain.view.created(holder) != under {
            takes.push(take(From::Gone {
                node: holder,
                session: under,
            }));
        }
        if holder != node
            && !config.steady[usize::from(holder)]
            && let Ok(condemn) = brain.observer.may_condemn(name(holder), this.now())
            && condemn.session == under
        {
            takes.push(take(From::Expired {
                node: holder,
                session: under,
                modified: condemn.modified,
            }));
        }
        takes
    }

    fn time(&self, config: &Config, out: &mut Vec<Action>) {
        let mut ticks = vec![Action::Tick { slow: None, fast: None }];
        // A slow clock matters to whoever is watched, a fast one to whoever watches.
        let steady = |node: &NodeId| config.steady[usize::from(*node)];
        let any_steady = config.node_ids().any(|node| steady(&node));
        let slow = config.node_ids().filter(|node| self.left.slow > 0 && !steady(node));
        for slow in slow.map(Some).chain([None]) {
            let fast = config
                .node_ids()
                .filter(|node| self.left.fast > 0 && (steady(node) || !any_steady));
            for fast in fast.map(Some).chain([None]) {
                if slow != fast {
                    ticks.push(Action::Tick { slow, fast });
                }
            }
        }
        out.extend(ticks.into_iter().filter(|tick| self.guards_are_in_time(tick, config)));
    }

    /// The guard kills within G + K, and what survived a standstill of its machine within J + K.
    fn guards_are_in_time(&self, tick: &Action, config: &Config) -> bool {
        let Action::Tick { slow, fast } = *tick else {
            return true;
        };
        config.node_ids().all(|node| {
            let this = self.node(node);
            if this.stalled {
                return true;
            }
            let after = this.age().map(|age| age + step_of(node, slow, fast));
            match this.instance {
                // Killed before D is over on the way to the next tick.
                Instance::Running(_) | Instance::Dying(_) => after.is_none_or(|after| after < LEASE),
                Instance::Stalled(_) => false,
                Instance::None | Instance::Frozen(_) | Instance::Gated(_) => true,
            }
        })
    }
}

/// How far a clock goes in a tick.
pub(crate) fn step_of(node: NodeId, slow: Option<NodeId>, fast: Option<NodeId>) -> u64 {
    match Some(node) {
        this if this == slow => 0,
        this if this == fast => 2,
        _ => 1,
    }
}

fn slot_of(step: &Step) -> Option<SlotId> {
    match step {
        Step::Take { slot, .. } => Some(*slot),
        Step::Release(holding)
        | Step::Handover(holding, _)
        | Step::EditLine(holding)
        | Step::Restart(holding)
        | Step::Rebind(holding) => Some(holding.slot),
        _ => None,
    }
}

/// The instance of `node`, if it is announced under the session that the node has, and holds nothing.
fn free_member(brain: &Brain, node: NodeId) -> Option<Member<NodeId, NodeId>> {
    let record = brain.view.instances[usize::from(node)];
    let session = brain.view.created(node);
    let free = session != Revision(0) && record.session == session && record.bound.is_none();
    free.then_some(Member {
        node,
        session,
        instance: node,
        seen: record.modified,
    })
}
