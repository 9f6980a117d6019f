//! What each action does.

use crate::actions::{Action, step_of};
use crate::agent::{condemns, in_whose_name};
use crate::config::{Config, Mutation};
use crate::store::By;
use crate::world::{Agent, Answer, Broken, Flight, Instance, LEASE, Request, SOFT, World, ticks};
use crate::{NodeId, SlotId, Step};
use decisions::lease::HolderEvent;
use decisions::lease::txn::Transition;

impl World {
    /// Carries an action out. Returns the transition that took effect, if one did.
    pub(crate) fn act(&mut self, action: Action, config: &Config) -> Option<Transition> {
        match action {
            Action::Tick { slow, fast } => self.pass_tick(slow, fast, config),
            Action::StoreReturns => self.outage = false,
            Action::CommitSession(node) => {
                self.left.session[usize::from(node)] -= 1;
                let request = self.node_mut(node).request.take()?;
                let taken = self.commit_session(node, request, config);
                let listens = config.quick && self.node(node).brain().is_some();
                let newest = self
                    .node_mut(node)
                    .answers
                    .pop_if(|answer| listens && answers_to(answer, &request));
                if let Some(answer) = newest {
                    self.hear(node, answer, config);
                }
                return taken;
            }
            Action::Overtake(node) => {
                self.left.delayed -= 1;
                let this = self.node_mut(node);
                this.delayed = this.request.take();
            }
            Action::CommitDelayed(node) => {
                let request = self.node_mut(node).delayed.take()?;
                return self.commit_session(node, request, config);
            }
            Action::CommitStep(node, which) => {
                let flight = self.node_mut(node).flights.remove(usize::from(which));
                return self.commit_step(node, flight, config);
            }
            Action::Hear(node, which) => {
                let answer = self.node_mut(node).answers.remove(usize::from(which));
                self.hear(node, answer, config);
            }
            Action::AnswerProbe(node) => {
                self.left.session[usize::from(node)] -= 1;
                if let Some(brain) = self.node_mut(node).brain_mut() {
                    brain.probing = false;
                }
                self.think(node, HolderEvent::ProbeAnswered, config);
            }
            Action::Look(node) => self.look(node, config),
            Action::Send(node, step) => self.send(node, step, config),
            Action::SendAgain(node, which) => {
                self.left.steps[usize::from(node)] -= 1;
                let this = self.node_mut(node);
                let flight = *this.brain()?.pending.get(usize::from(which))?;
                this.flights.push(flight);
            }
            Action::StartHanded(node, slot) => self.start_handed(node, slot, config),
            _ => self.befall(node_of(action)?, action, config),
        }
        None
    }

    fn pass_tick(&mut self, slow: Option<NodeId>, fast: Option<NodeId>, config: &Config) {
        self.tick += 1;
        self.left.slow -= u8::from(slow.is_some());
        self.left.fast -= u8::from(fast.is_some());
        for node in config.node_ids() {
            self.node_mut(node).clock += step_of(node, slow, fast);
        }
        for node in config.node_ids().filter(|node| slow != Some(*node)) {
            self.agent_tick(node, config);
        }
    }

    /// What happens to a machine, its agent or its instance.
    fn befall(&mut self, node: NodeId, action: Action, config: &Config) {
        let view = self.store.clone();
        let this = &mut self.nodes[usize::from(node)];
        match action {
            Action::Freeze(_) => {
                if let Instance::Running(held) = this.instance {
                    this.instance = Instance::Frozen(held);
                }
                self.tell_empty(node, config);
            }
            Action::Kill(_) => self.kill(node, config),
            Action::Die(_) => {
                self.left.ends -= 1;
                this.instance = Instance::None;
                this.guard = None;
                self.tell_empty(node, config);
            }
            Action::Stop(_) => {
                self.left.ends -= 1;
                if let Instance::Running(held) = this.instance {
                    this.instance = Instance::Dying(held);
                }
                self.tell_empty(node, config);
            }
            Action::Crash(_) => {
                self.left.crashes -= 1;
                this.agent = Agent::Down;
                this.answers.clear();
                // What was demoted for a handover is not told apart from a broken one by the next agent.
                if let Instance::Gated(_) = this.instance {
                    this.instance = Instance::None;
                    this.guard = None;
                }
            }
            Action::StartAgent(_) => {
                this.start_agent(&view);
                self.agent_starts(node, config);
            }
            Action::Pause(_) => {
                self.left.pauses -= 1;
                let this = &mut self.nodes[usize::from(node)];
                if let Agent::Up(brain) = &this.agent {
                    this.agent = Agent::Paused(brain.clone());
                }
            }
            Action::Resume(_) => {
                if let Agent::Paused(brain) = &this.agent {
                    this.agent = Agent::Up(brain.clone());
                }
                self.agent_tick(node, config);
            }
            Action::Stall(_) => {
                self.left.stalls -= 1;
                self.nodes[usize::from(node)].stalled = true;
            }
            Action::Wake(_) => {
                this.stalled = false;
                let late = this.age().is_some_and(|age| age >= SOFT);
                if let Instance::Running(held) | Instance::Dying(held) = this.instance
                    && late
                {
                    this.instance = Instance::Stalled(held);
                }
                self.agent_tick(node, config);
            }
            Action::PowerOff(_) => {
                self.left.offs -= 1;
                let this = &mut self.nodes[usize::from(node)];
                this.instance = Instance::None;
                this.guard = None;
                this.saved = None;
                this.truth = None;
                this.boot += 1;
                this.answers.clear();
                this.agent = Agent::Down;
            }
            Action::Reboot(_) => {
                self.left.reboots -= 1;
                let this = &mut self.nodes[usize::from(node)];
                this.instance = Instance::None;
                this.guard = None;
                this.saved = None;
                this.truth = None;
                this.boot += 1;
                this.answers.clear();
                this.start_agent(&view);
                self.agent_starts(node, config);
            }
            _ => {}
        }
    }

    fn agent_starts(&mut self, node: NodeId, config: &Config) {
        self.think(node, HolderEvent::FastWanted(true), config);
        self.think(node, HolderEvent::GuardReady(true), config);
        self.tell_empty(node, config);
        self.agent_tick(node, config);
        self.look(node, config);
    }

    fn kill(&mut self, node: NodeId, config: &Config) {
        let this = self.node_mut(node);
        let killed = this.instance;
        this.instance = Instance::None;
        this.guard = None;
        let by_guard = matches!(killed, Instance::Running(_) | Instance::Stalled(_) | Instance::Gated(_));
        if let Some(held) = killed.held() {
            self.killed.insert((held.slot, held.epoch));
        }
        if !by_guard {
            self.tell_empty(node, config);
            return;
        }
        let this = self.node_mut(node);
        if this.brain().is_none() {
            this.unheard_fire = !matches!(this.agent, Agent::Down);
            return;
        }
        self.think(node, HolderEvent::GuardFired, config);
        self.think(node, HolderEvent::GuardReady(true), config);
    }

    fn send(&mut self, node: NodeId, step: Step, config: &Config) {
        self.left.steps[usize::from(node)] -= 1;
        match step {
            Step::Handover(..) => self.left.handovers -= 1,
            Step::EditLine(_) => self.left.edits -= 1,
            Step::Announce { .. } => self.left.announcements -= 1,
            Step::Close { .. } => self.left.closes -= 1,
            Step::Park { .. } => self.left.parks -= 1,
            Step::Unpark { .. } => self.left.unparks -= 1,
            Step::Force { .. } => self.left.forces -= 1,
            _ => {}
        }
        let this = self.node_mut(node);
        let agent = this.incarnation;
        let epoch = this.instance.held().map_or(0, |held| held.epoch);
        // Demoted and gated before it is handed over.
        if let (Step::Handover(..), Instance::Running(held)) = (step, this.instance) {
            this.instance = Instance::Gated(held);
        }
        let Some(brain) = this.brain_mut() else { return };
        // What was handed over and is given up is not started any more.
        if let (Step::Release(holding), false) = (step, config.is(Mutation::StartAfterRelease)) {
            let slot = usize::from(holding.slot);
            brain.last_epoch[slot] = brain.view.slots[slot].epoch;
        }
        brain.attempts += 1;
        let flight = Flight {
            step,
            attempt: brain.attempts,
            agent,
            epoch,
        };
        brain.pending.push(flight);
        this.flights.push(flight);
    }

    fn start_handed(&mut self, node: NodeId, slot: SlotId, config: &Config) {
        let Some(brain) = self.node(node).brain() else { return };
        let record = brain.view.slots[usize::from(slot)];
        if let Some((_, session)) = record.holder {
            self.begin(node, slot, session, record.epoch, config);
        }
    }

    fn commit_session(&mut self, node: NodeId, request: Request, config: &Config) -> Option<Transition> {
        let ok = self.commit(&request.step, self.by_request(node, &request), config);
        let found = self.store.sessions[usize::from(node)].map(|session| (session.created, session.agent));
        let this = self.node_mut(node);
        if ok && matches!(request.step, Step::Renew { .. }) {
            this.unheard += 1;
            if config.deaf == Some(node) && this.unheard > 2 {
                self.broken.insert(Broken::Unheard);
            }
        }
        let this = self.node_mut(node);
        if request.agent == this.incarnation && !matches!(this.agent, Agent::Down) {
            this.answers.push(Answer::Session { request, ok, found });
        }
        ok.then_some(request.step.transition())
    }

    fn commit_step(&mut self, node: NodeId, flight: Flight, config: &Config) -> Option<Transition> {
        let ok = self.commit(
            &flight.step,
            By {
                agent: flight.agent,
                boot: self.node(node).boot,
                attempt: (node, flight.attempt),
                epoch: flight.epoch,
            },
            config,
        );
        let slot = match flight.step {
            Step::Take { slot, .. } => Some(slot),
            Step::Release(holding)
            | Step::Handover(holding, _)
            | Step::EditLine(holding)
            | Step::Restart(holding)
            | Step::Rebind(holding) => Some(holding.slot),
            _ => None,
        };
        let slot = slot.map(|slot| self.store.slots[usize::from(slot)]);
        let this = self.node_mut(node);
        if flight.agent == this.incarnation && !matches!(this.agent, Agent::Down) {
            this.answers.push(Answer::Step { flight, ok, slot });
        }
        ok.then_some(flight.step.transition())
    }

    fn commit(&mut self, step: &Step, by: By, config: &Config) -> bool {
        if !self.store.allows(step, config) {
            return false;
        }
        if let Some((owner, session)) = in_whose_name(step)
            && self.store.created(owner) != session
        {
            self.broken.insert(Broken::DeadSession);
        }
        let trusted = matches!(step, Step::Force { .. }) && config.is(Mutation::ForcedAlive);
        if let Some((victim, _)) = condemns(step).filter(|_| !trusted) {
            self.judge(victim, config);
        }
        let epochs: Vec<_> = self.store.slots.iter().map(|slot| slot.epoch).collect();
        let parked = self.store.parked.clone();
        self.store.apply(step, by, config);
        for (slot, before) in self.store.slots.iter().zip(epochs.iter().copied()) {
            if slot.epoch < before {
                self.broken.insert(Broken::Epoch);
            }
        }
        let risen = |(slot, before): (&crate::Slot, &u8)| slot.epoch > *before;
        let mut changes = self.store.slots.iter().zip(&epochs).map(risen).zip(&parked);
        if changes.any(|(risen, parked)| risen && parked.is_some()) {
            self.broken.insert(Broken::ParkedTaken);
        }
        for node in config.node_ids().filter(|node| config.sharp[usize::from(*node)]) {
            self.look(node, config);
        }
        true
    }

    pub(crate) fn by_request(&self, node: NodeId, request: &Request) -> By {
        By {
            agent: request.agent,
            boot: self.node(node).boot,
            attempt: (node, 0),
            epoch: 0,
        }
    }

    /// Whatever session the victim has, by now no lease of it may run: neither as the world knows it, nor as its agent does.
    fn judge(&mut self, victim: NodeId, config: &Config) {
        let this = self.node(victim);
        let session = self.store.created(victim);
        let runs = (this.truth).is_some_and(|(of, sent)| of == session && this.clock < sent + LEASE);
        let believes = this
            .brain()
            .is_some_and(|brain| brain.holder.covers_take(session, this.now()));
        let deadline = this.brain().and_then(|brain| brain.holder.acked()).map(ticks);
        let believes = believes && deadline.is_some();
        if session.0 != 0 && !config.is(Mutation::TakeWithoutCondemning) && (runs || believes) {
            self.broken.insert(Broken::CondemnedAlive);
        }
        if config.outage && session.0 != 0 {
            self.broken.insert(Broken::Replaced);
        }
    }

    pub(crate) fn note_start(&mut self, _node: NodeId, slot: SlotId, epoch: u8) {
        if !self.started.insert((slot, epoch)) {
            self.broken.insert(Broken::Epoch);
        }
    }
}

fn answers_to(answer: &Answer, request: &Request) -> bool {
    matches!(answer, Answer::Session { request: of, .. } if of == request)
}

fn node_of(action: Action) -> Option<NodeId> {
    match action {
        Action::Tick { .. } | Action::StoreReturns => None,
        Action::CommitSession(node)
        | Action::Overtake(node)
        | Action::CommitDelayed(node)
        | Action::CommitStep(node, _)
        | Action::Hear(node, _)
        | Action::AnswerProbe(node)
        | Action::Look(node)
        | Action::Send(node, _)
        | Action::SendAgain(node, _)
        | Action::StartHanded(node, _)
        | Action::Freeze(node)
        | Action::Kill(node)
        | Action::Die(node)
        | Action::Stop(node)
        | Action::Crash(node)
        | Action::StartAgent(node)
        | Action::Pause(node)
        | Action::Resume(node)
        | Action::Stall(node)
        | Action::Wake(node)
        | Action::Reboot(node)
        | Action::PowerOff(node) => Some(node),
    }
}
