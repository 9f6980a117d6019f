//! An agent: carries out what the product's [`Holder`] asks for, and tells it what comes of it.

use crate::config::{Config, Mutation};
use crate::store::Slot;
use crate::world::{
    Agent, Answer, Brain, Flight, Held, Instance, LEASE, Node, Request, World, mark, name, ticks, timing,
};
use crate::{NodeId, SlotId, Step};
use decisions::lease::txn::{From, Transition};
use decisions::lease::{Holder, HolderAction, HolderEvent, HolderOptions, Lost, Observer};
use model::{Millis, Revision};
use std::time::Duration;

impl HolderSetup {
    pub(crate) fn options() -> HolderOptions {
        HolderOptions {
            // Lateness steers liveness only, and the world's pauses are arbitrary.
            late_after: Duration::MAX,
            idle_renew: timing().renew,
            ..HolderOptions::of(&timing())
        }
    }
}

/// How the model sets up a holder.
pub(crate) struct HolderSetup;

impl World {
    /// The agent takes in an event and carries out all that follows.
    pub(crate) fn think(&mut self, node: NodeId, event: HolderEvent, config: &Config) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let this = self.node_mut(node);
            let now = this.now();
            let Some(brain) = this.brain_mut() else { return };
            brain.holder.handle(event, now);
            while let Some(action) = self.node_mut(node).brain_mut().and_then(|brain| brain.holder.poll()) {
                self.node_mut(node).perform(action, node, config, &mut events);
            }
            let this = self.node_mut(node);
            events.extend(this.emptiness());
        }
        self.node_mut(node).save();
        if config.steady[usize::from(node)] && !self.beginning {
            self.answer_at_once(node, config);
        }
    }

    /// The store is as good as in the same box.
    fn answer_at_once(&mut self, node: NodeId, config: &Config) {
        let this = self.node_mut(node);
        let probing = this.brain_mut().is_some_and(|brain| std::mem::take(&mut brain.probing));
        if let Some(request) = this.request.take() {
            let ok = match request.step {
                Step::Renew { session, .. } => self.store.created(node) == session,
                step => {
                    let ok = self.store.allows(&step, config);
                    if ok {
                        self.store.apply(&step, self.by_request(node, &request), config);
                    }
                    ok
                }
            };
            let found = self.store.sessions[usize::from(node)].map(|session| (session.created, session.agent));
            self.hear_of_session(node, request, ok, found, config);
        } else if probing {
            self.think(node, HolderEvent::ProbeAnswered, config);
        }
    }

    /// A tick of the agent's clock.
    pub(crate) fn agent_tick(&mut self, node: NodeId, config: &Config) {
        let this = self.node_mut(node);
        let clock = this.clock;
        let unanswered = this.request.is_some_and(|request| clock > request.sent);
        let fired = std::mem::take(&mut this.unheard_fire);
        let Some(brain) = this.brain_mut() else {
            this.unheard_fire = fired;
            return;
        };
        brain.probing = false;
        if !config.real_hold_off || config.is(Mutation::NoHoldOff) {
            brain.observer.write_ok(mark(clock), mark(clock));
        } else if unanswered {
            brain.observer.write_failed();
        }
        if fired {
            self.think(node, HolderEvent::GuardFired, config);
            self.think(node, HolderEvent::GuardReady(true), config);
        }
        let healthy = HolderEvent::NodeHealth {
            ok: true,
            at: mark(clock),
        };
        self.think(node, healthy, config);
    }

    /// The watch catches up with the store.
    pub(crate) fn look(&mut self, node: NodeId, config: &Config) {
        let store = self.store.clone();
        let clock = self.node(node).clock;
        let Some(brain) = self.node_mut(node).brain_mut() else {
            return;
        };
        let own = brain.holder.session();
        for other in config.node_ids() {
            match store.sessions[usize::from(other)] {
                Some(session) if own == Some(session.created) => brain.observer.own(name(other)),
                // Its renewals leave no trace.
                Some(_) if config.steady[usize::from(other)] && other != node => {}
                Some(session) => {
                    // The product's W for a lease of 3 ms is 3 ticks, that is D.
                    let lease = if config.is(Mutation::WaitIsLease) { 3 } else { LEASE * 3 };
                    let at = if config.is(Mutation::TimerBeforeSight) {
                        brain.looked
                    } else {
                        clock
                    };
                    let lease = Millis(lease);
                    (brain.observer).seen(name(other), session.created, session.modified, lease, mark(at));
                }
                None => brain.observer.gone(name(other), mark(clock)),
            }
        }
        brain.view = store;
        brain.looked = clock;
    }

    /// An answer reaches the agent.
    pub(crate) fn hear(&mut self, node: NodeId, answer: Answer, config: &Config) {
        match answer {
            Answer::Session { request, ok, found } => self.hear_of_session(node, request, ok, found, config),
            Answer::Step { flight, ok, slot } => self.hear_of_step(node, flight, ok, slot, config),
        }
    }

    fn hear_of_session(
        &mut self,
        node: NodeId,
        request: Request,
        ok: bool,
        found: Option<(Revision, u8)>,
        config: &Config,
    ) {
        let this = self.node_mut(node);
        let (now, attempt, agent) = (this.now(), request.attempt, request.agent);
        let Some(brain) = this.brain_mut() else { return };
        let event = match (request.step, found) {
            (Step::Renew { session, .. }, _) if ok => {
                brain.observer.write_ok(mark(request.sent), now);
                this.unheard = 0;
                let truth = this.truth.filter(|(of, _)| *of == session).map_or(0, |(_, sent)| sent);
                this.truth = Some((session, truth.max(request.sent)));
                let sent = if config.is(Mutation::LeaseFromAnswer) {
                    now
                } else {
                    mark(request.sent)
                };
                HolderEvent::Renewed { attempt, sent }
            }
            (Step::Renew { .. }, _) => HolderEvent::RenewalFenced { attempt },
            // Created by this request, or by an earlier one of this process.
            (_, Some((id, by))) if by == agent => HolderEvent::Opened { attempt, id, seq: 0 },
            _ => HolderEvent::OpenTaken { attempt },
        };
        self.think(node, event, config);
    }

    fn hear_of_step(&mut self, node: NodeId, flight: Flight, ok: bool, slot: Option<Slot>, config: &Config) {
        let this = self.node_mut(node);
        let Some(brain) = this.brain_mut() else { return };
        if !brain.pending.contains(&flight) {
            return;
        }
        brain.pending.retain(|pending| *pending != flight);
        // Of a transaction that was sent again, the first may have committed.
        let ours = slot.is_some_and(|slot| slot.attempt == (node, flight.attempt));
        let ok = ok || ours;
        match flight.step {
            Step::Take { slot: which, taker, .. } if ok => {
                self.begin(node, which, taker.session, slot.map_or(0, |slot| slot.epoch), config);
            }
            Step::Restart(holding) if ok => {
                let epoch = slot.map_or(0, |slot| slot.epoch);
                self.begin(node, holding.slot, holding.session, epoch, config);
            }
            Step::Rebind(holding) => self.rebound(node, ok, holding.session, config),
            Step::Handover(..) => {
                // Handed over, or not: what was demoted ends; its slot is given up or started anew.
                this.instance = Instance::None;
                this.guard = None;
                self.tell_empty(node, config);
            }
            Step::Close { .. } if ok => self.think(node, HolderEvent::Closed, config),
            _ => {}
        }
    }

    /// After a take has committed: own clock < A? Then the guard arms, then the gate opens, then the hook runs.
    pub(crate) fn begin(&mut self, node: NodeId, slot: SlotId, session: Revision, epoch: u8, config: &Config) {
        let this = self.node_mut(node);
        let (now, occupied) = (this.now(), this.instance != Instance::None);
        let Some(brain) = this.brain_mut() else { return };
        brain.last_epoch[usize::from(slot)] = epoch;
        let covered = if config.is(Mutation::NoDeadlineCheck) {
            true
        } else if config.is(Mutation::AnySessionCovers) {
            brain.holder.covers(now)
        } else {
            brain.holder.covers_take(session, now)
        };
        if !covered || occupied {
            return;
        }
        this.guard = brain.holder.acked().map(ticks).or(Some(this.clock));
        if config.is(Mutation::NoDeadlineCheck) {
            // A guard that was told a deadline of the past would not open the gate.
            this.guard = Some(this.clock);
        }
        this.instance = Instance::Running(Held { slot, epoch, session });
        self.note_start(node, slot, epoch);
        self.tell_empty(node, config);
    }

    fn rebound(&mut self, node: NodeId, ok: bool, session: Revision, config: &Config) {
        let this = self.node_mut(node);
        let now = this.now();
        let Instance::Frozen(held) = this.instance else { return };
        let Some(brain) = this.brain_mut() else { return };
        if !ok {
            this.instance = Instance::None;
        } else if brain.holder.covers_take(session, now) {
            this.guard = brain.holder.acked().map(ticks);
            this.instance = Instance::Running(Held { session, ..held });
        } else {
            this.instance = Instance::Frozen(Held { session, ..held });
        }
        self.tell_empty(node, config);
    }

    /// The agent looks at its cgroups.
    pub(crate) fn tell_empty(&mut self, node: NodeId, config: &Config) {
        if let Some(event) = self.node_mut(node).emptiness() {
            self.think(node, event, config);
        }
    }
}

impl Node {
    fn perform(&mut self, action: HolderAction, node: NodeId, config: &Config, events: &mut Vec<HolderEvent>) {
        let (clock, agent) = (self.clock, self.incarnation);
        let request = |step, attempt| {
            Some(Request {
                step,
                attempt,
                sent: clock,
                agent,
            })
        };
        match action {
            HolderAction::Open { attempt } => self.request = request(Step::Open { node }, attempt),
            HolderAction::Renew { attempt, session, .. } => {
                self.request = request(Step::Renew { node, session }, attempt);
            }
            HolderAction::Probe => {
                if config.is(Mutation::RenewWithoutProbe) {
                    events.push(HolderEvent::ProbeAnswered);
                } else if let Some(brain) = self.brain_mut() {
                    brain.probing = true;
                }
            }
            HolderAction::TellGuard { mark } => {
                let session = self.brain().and_then(|brain| brain.holder.session());
                let held = self.instance.held();
                if held.is_some_and(|held| Some(held.session) == session) && self.guard.is_some() {
                    self.guard = Some(ticks(mark));
                }
            }
            HolderAction::Fenced { why, was_frozen } => {
                self.fenced(matches!(why, Lost::Session(_)), was_frozen);
            }
            HolderAction::Thawed => {
                let session = self.brain().and_then(|brain| brain.holder.session());
                if let Instance::Frozen(held) = self.instance
                    && Some(held.session) == session
                {
                    self.instance = Instance::Running(held);
                }
            }
            HolderAction::Late { .. } => {
                if let Some(brain) = self.brain_mut() {
                    brain.observer.late();
                }
            }
            // The guard freezes by itself; a hedge is the same request once more.
            HolderAction::Frozen { .. } | HolderAction::Hedge { .. } => {}
        }
    }

    fn fenced(&mut self, session_lost: bool, was_frozen: bool) {
        self.instance = match self.instance {
            Instance::Running(held) => Instance::Dying(held),
            Instance::Frozen(held) if session_lost && was_frozen => Instance::Frozen(held),
            Instance::Frozen(_) | Instance::Gated(_) => Instance::None,
            other => other,
        };
        if let Some(brain) = self.brain_mut() {
            brain.told_empty = None;
        }
    }

    /// What the agent has to tell about its cgroups, if it has not yet.
    fn emptiness(&mut self) -> Option<HolderEvent> {
        let instance = self.instance;
        let brain = self.brain_mut()?;
        let empty = match instance {
            Instance::None => true,
            // Waits for its next session.
            Instance::Frozen(held) => Some(held.session) != brain.holder.session(),
            _ => false,
        };
        if brain.told_empty == Some(empty) {
            return None;
        }
        brain.told_empty = Some(empty);
        Some(HolderEvent::AllExclusiveEmpty(empty))
    }

    fn save(&mut self) {
        if let Some(brain) = self.brain() {
            self.saved = brain
                .holder
                .session()
                .map(|session| (session, brain.holder.acked().map(ticks)));
        }
    }

    /// A new process of the agent, which finds what the old one left on tmpfs.
    pub(crate) fn start_agent(&mut self, view: &crate::Store) {
        self.incarnation += 1;
        let (timing, options) = (timing(), HolderSetup::options());
        let holder = match self.saved {
            Some((session, acked)) => Holder::adopt(timing, options, 0, session, 0, acked.map(mark)),
            None => Holder::new(timing, options, 0),
        };
        let running = self.instance.held();
        let last_epoch = (view.slots.iter().enumerate())
            .map(|(slot, _)| {
                running
                    .filter(|held| usize::from(held.slot) == slot)
                    .map_or(0, |held| held.epoch)
            })
            .collect();
        self.agent = Agent::Up(Box::new(Brain {
            holder,
            observer: Observer::new(timing),
            view: view.clone(),
            looked: self.clock,
            probing: false,
            told_empty: None,
            pending: Vec::new(),
            attempts: 0,
            last_epoch,
        }));
    }
}

/// Whether the step is by a node in its own name, and which session it rests on.
pub(crate) fn in_whose_name(step: &Step) -> Option<(NodeId, Revision)> {
    match *step {
        // An operator asks for the last three, through whichever agent.
        Step::Open { .. } | Step::Condemn { .. } | Step::Park { .. } | Step::Unpark { .. } | Step::Force { .. } => None,
        Step::Renew { node, session } | Step::Close { node, session } | Step::Announce { node, session, .. } => {
            Some((node, session))
        }
        Step::Take { taker, .. } => Some((taker.node, taker.session)),
        Step::Release(holding)
        | Step::Handover(holding, _)
        | Step::EditLine(holding)
        | Step::Restart(holding)
        | Step::Rebind(holding) => Some((holding.node, holding.session)),
    }
}

/// Whose session it ends because it has expired.
pub(crate) fn condemns(step: &Step) -> Option<(NodeId, Revision)> {
    match *step {
        Step::Condemn { node, session, .. } if step.transition() == Transition::T4e => Some((node, session)),
        Step::Force { node, session, .. } => Some((node, session)),
        Step::Take {
            from: From::Expired { node, session, .. },
            ..
        } => Some((node, session)),
        _ => None,
    }
}
