//! Which declaration is known to work, and from which one a process is started.
//!
//! A declaration worked when everything ran as it says and passed its checks. Until the one in force has, whoever ends unasked and ran from
//! the one that worked last is started from that again: a rollout tries the new one on those that it chooses, and on nobody else. If that is
//! given up, they go back to what worked, but for those that hold a slot.

use super::ends::hear_within;
use crate::instance::{Instance, Phase, Source};
use crate::service::Service;
use crate::slot::Slot;
use crate::{Context, GivenUp, Reason, Trial};
use model::{Health, RunId, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// Another node has heard of a file, and we of what became of its processes, within this.
const HEARD_WITHIN: Duration = Duration::from_secs(2);

impl Service {
    /// Takes in whether everything runs as declared.
    pub(super) fn note_worked(&mut self, cx: &Context<'_>) {
        self.works = !cx.stopping && self.others_know_the_file && self.runs_as_declared();
        self.served |= self.serves_as_declared(self.others_know_the_file);
        if self.works && self.worked.as_ref().is_none_or(|worked| *worked != self.declared) {
            self.worked = Some(Arc::clone(&self.declared));
        }
        if self.unproven().is_some() {
            return;
        }
        let me = self.me.clone();
        let mine = |instance: &&mut Instance| me.as_ref().is_none_or(|me| *me == instance.node);
        for instance in self.instances.values_mut().filter(mine) {
            // Nothing of an earlier declaration is kept for it any more.
            if instance.ran_earlier && !instance.has_process() {
                instance.ran_earlier = false;
                instance.current = true;
            }
        }
    }

    /// Whether every process runs from what is declared and passes its checks, and whoever stands by could take over. Instances for which
    /// there is no node, and slots that are parked, are not the declaration's fault.
    pub(crate) fn runs_as_declared(&self) -> bool {
        let there = || self.instances.values().filter(|instance| !instance.retiring);
        let is_tried = |instance: &Instance| {
            let there = instance.told.as_ref().is_none_or(|told| !told.check_untried);
            instance.check_untried.is_none() && there
        };
        let runs = |instance: &Instance| instance.current && is_tried(instance) && self.readiness(instance).is_ok();
        let served = |slot: &Slot| slot.is_parked() || (slot.serving().is_some() && slot.planned.is_none());
        let slots = self.declared.active as usize;
        !self.removed
            && self.is_up()
            && there().all(runs)
            && (self.told_unplaced || there().count() >= self.declared.wanted() as usize)
            && self.slots.len() >= slots
            && self.slots.iter().take(slots).all(served)
    }

    /// What worked last, if processes of it are other ones than those of what is declared, and none of those serves yet.
    pub(crate) fn unproven(&self) -> Option<&Arc<model::Service>> {
        let worked = self.worked.as_ref()?;
        // Since another file was declared here, `served` tells of other nodes: once they can have heard of it.
        let never_redeclared = self.declared_at.is_none();
        let serves = || self.served || self.serves_as_declared(never_redeclared);
        // Who served for a moment, and not well, proves nothing.
        let proven = worked.launch() == self.declared.launch() || (!self.is_given_up() && serves());
        (!proven).then_some(worked)
    }

    /// What its process was started from. Of another node's it is known whether that is what is declared; else it is what worked last, if none
    /// of the present declaration has served since.
    pub(crate) fn runs_from(&self, instance: &Instance) -> Option<Arc<model::Service>> {
        if !instance.has_process() {
            return None;
        }
        if let Some(from) = instance.launched_from.as_ref().filter(|_| self.is_mine(instance)) {
            return Some(Arc::clone(from));
        }
        match instance.current {
            true => Some(Arc::clone(&self.declared)),
            false => self.unproven().cloned(),
        }
    }

    /// Whether a process serves that runs from what is declared: one of ours, or, if what others tell counts, of another node.
    fn serves_as_declared(&self, others_count: bool) -> bool {
        let serves = |slot: &Slot| {
            let holder = slot.serving().and_then(|holder| self.instances.get(holder));
            let is_known = |holder: &Instance| self.is_mine(holder) || others_count;
            holder.is_some_and(|holder| holder.current && holder.is_fit() && is_known(holder))
        };
        self.slots.iter().any(serves)
    }

    /// Until when nothing is known of what was declared a moment ago: what others tell of their processes may be of the one before.
    pub(super) fn declared_until(&self) -> Option<Timestamp> {
        let checked = self.declared.check.as_ref().map(hear_within).unwrap_or_default();
        let heard = self.me.as_ref().map_or(Duration::ZERO, |_| HEARD_WITHIN);
        let at = self.declared_at? + checked + heard;
        self.instances
            .values()
            .any(|instance| !self.is_mine(instance))
            .then_some(at)
    }

    /// What the next process of an instance is started from.
    pub(super) fn source(&self, instance: &Instance, now: Timestamp) -> Source {
        // If what worked does not work any more either, the two take turns: the new one may be the remedy.
        let takes_turns = !self.goes_back();
        let turn = instance.failed_starts + u32::from(instance.is_flapping(now));
        // Whoever is added while another one tries what is declared does not try it too; nor who comes after it was given up.
        let tries = |other: &Instance| {
            let begun = other.has_process() || other.failed_starts > 0 || matches!(other.phase, Phase::Failed { .. });
            other.current && begun && other.id != instance.id
        };
        let is_tried = || self.is_given_up() || self.instances.values().any(tries);
        let is_added = instance.run == RunId(0) && is_tried();
        match self.unproven() {
            Some(worked) if (instance.ran_earlier || is_added) && !(takes_turns && turn % 2 == 1) => {
                Source::earlier_one(worked)
            }
            _ => Source::declared(&self.declared),
        }
    }

    /// Whether who tried what is declared goes back to what worked: not if it holds a slot all the same. A cold one runs what worked by itself,
    /// unless a rollout wants otherwise.
    pub(crate) fn goes_back(&self) -> bool {
        let holds = |slot: &Slot| {
            let holder = slot.last_holder().and_then(|holder| self.instances.get(holder));
            holder.is_some_and(|holder| holder.current)
        };
        self.is_given_up() && !self.is_cold() && self.unproven().is_some() && !self.slots.iter().any(holds)
    }

    /// Whether standbys do so too that run well: of a version that was given up for not keeping its slots.
    pub(crate) fn stands_back(&self) -> bool {
        let took_slots = |known: &GivenUp| known.trial == Trial::Slot;
        self.giving_up.known.as_ref().is_some_and(took_slots) && self.goes_back()
    }

    /// A place whose tries of what is given up have ended is a standby again: from what worked.
    pub(super) fn go_back(&mut self, cx: &mut Context<'_>) {
        if !self.goes_back() {
            return;
        }
        // Nobody is moved on to it, so there need not be one more for that.
        self.look_again |= std::mem::take(&mut self.surge);
        let me = self.me.clone();
        let mine = |instance: &Instance| me.as_ref().is_none_or(|me| *me == instance.node);
        let tried_in_vain = |instance: &&mut Instance| {
            instance.current && matches!(instance.phase, Phase::Failed { .. }) && mine(instance)
        };
        for instance in self.instances.values_mut().filter(tried_in_vain) {
            instance.ran_earlier = true;
            instance.current = false;
            instance.failed_starts = 0;
            // Its replacements were those of what is given up.
            self.replacements = 0;
            let phase = Phase::Waiting { until: cx.now };
            instance.set(phase, Health::Down, cx.now, Reason::GoesBack);
        }
    }

    /// What a cold standby is started from that takes a slot. That is a try of what is declared only if a rollout wants it.
    pub(super) fn source_of_cold(&self, index: usize) -> Source {
        let tries = |slot: &Slot| {
            slot.takeover
                .as_ref()
                .is_some_and(|takeover| takeover.because.is_rollout())
        };
        match self.unproven() {
            Some(worked) if !tries(&self.slots[index]) => Source::earlier_one(worked),
            _ => Source::declared(&self.declared),
        }
    }

    /// Whose hooks are run for an instance, if not those of what is declared.
    pub(super) fn earlier_hooks(&self, instance: &Instance) -> Option<Arc<model::Service>> {
        self.unproven().filter(|_| !instance.current).cloned()
    }

    /// Who handed its slot over to a new process waits until that serves, or does not: from that follows what it is started from.
    pub(super) fn awaits_the_new(&self, instance: &Instance) -> bool {
        let under_way = |slot: &Slot| {
            let takeover = slot.takeover.as_ref();
            takeover.is_some_and(|takeover| takeover.because.is_rollout() && takeover.promoted.is_none())
                && slot.bound().is_some()
        };
        instance.ran_earlier && self.unproven().is_some() && self.slots.iter().any(under_way)
    }
}

impl Source {
    fn declared(declared: &Arc<model::Service>) -> Self {
        Self {
            declared: Arc::clone(declared),
            is_earlier: false,
        }
    }

    fn earlier_one(worked: &Arc<model::Service>) -> Self {
        Self {
            declared: Arc::clone(worked),
            is_earlier: true,
        }
    }
}

impl Instance {
    /// Nothing of its process runs any more: remembers what that ran from, unless it was ended to be started from another: what is declared,
    /// or if it goes back, what worked. Of a cold one it is decided when it takes a slot.
    pub(crate) fn ended(&mut self, is_cold: bool, goes_back: bool) {
        let never_healthy = !self.was_healthy;
        self.ran_earlier = match (self.renewing, self.current) {
            _ if is_cold => false,
            (true, _) => goes_back,
            (false, false) => true,
            // A try of what is declared, in turn with what worked.
            (false, true) => self.ran_earlier && never_healthy && self.phase != Phase::Running,
        };
        self.renewing = false;
        self.current = !self.ran_earlier;
    }
}

impl Reason {
    /// Whether somebody wanted a slot to be moved, here or on another node, while its holder was well.
    pub(crate) fn is_move(&self) -> bool {
        let moves = [
            Reason::SwitchoverAsked,
            Reason::DrainAsked,
            Reason::RolloutNeeds,
            Reason::RebalanceAsked,
        ];
        match self {
            Reason::HandedOver { because } => moves.iter().any(|reason| *because == reason.to_string()),
            because => moves.contains(because),
        }
    }

    /// Whether a rollout wanted it, here or on another node.
    pub(crate) fn is_rollout(&self) -> bool {
        match self {
            Reason::RolloutNeeds => true,
            Reason::HandedOver { because } => *because == Reason::RolloutNeeds.to_string(),
            _ => false,
        }
    }
}
