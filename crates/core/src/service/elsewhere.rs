//! What a service is told of other nodes.

use super::Service;
use crate::instance::{Instance, Phase};
use crate::service::Change;
use crate::slot::{self, Slot};
use crate::{Action, Decision, NotPromoted, Note, NoteKind, Reason, Report, SlotKnown};
use model::{Health, InstanceId, NodeName, Revision, SlotId, Timestamp};
use std::collections::{BTreeSet, VecDeque};

/// An instance that its node could not fence is asked again after this long.
const UNFENCED_FOR: std::time::Duration = std::time::Duration::from_secs(10);

/// An active that an earlier agent promoted is armed again this often, this far apart, before it is ended for want of a guard.
const ARM_TRIES: u32 = 20;
const ARM_AGAIN: std::time::Duration = std::time::Duration::from_millis(50);

impl Service {
    /// Whether we decide for an instance.
    pub(crate) fn is_mine(&self, instance: &Instance) -> bool {
        self.me.as_ref().is_none_or(|me| *me == instance.node)
    }

    /// Whether a slot is held by an instance of ours that we decide for.
    pub(crate) fn is_driven(&self, slot: &Slot) -> bool {
        self.me.is_none() || slot.driven.is_some()
    }

    /// Whether it matters for it if a node lives.
    pub(crate) fn concerns(&self, node: &NodeName) -> bool {
        let is_there = |instance: &Instance| instance.node == *node;
        let held_there = |slot: &Slot| {
            let record = slot.record.as_ref().is_some_and(|record| record.node == *node);
            // A holder that hands its slot over waits for the clients of all nodes.
            record || slot.planned.is_some()
        };
        let forgotten = self.forgotten.values().map(|(gone, _)| gone.as_ref());
        self.slots.iter().any(held_there) || self.instances.values().chain(forgotten).any(is_there)
    }

    pub(crate) fn grow_slots(&mut self, index: usize, now: Timestamp) {
        while self.slots.len() <= index {
            let id = SlotId {
                service: self.name.clone(),
                slot: u32::try_from(self.slots.len()).unwrap_or(u32::MAX),
            };
            self.slots.push(Slot::new(id, now));
        }
    }

    /// The store has something new of a slot. Returns true if the service must be looked at.
    pub(crate) fn slot_seen(&mut self, known: SlotKnown, now: Timestamp) -> bool {
        let index = known.slot.slot as usize;
        self.grow_slots(index, now);
        self.epoch = self.epoch.max(known.epoch);
        let slot = &mut self.slots[index];
        if slot
            .record
            .as_ref()
            .is_some_and(|record| record.revision >= known.revision)
        {
            return false;
        }
        self.is_new = false;
        // The answer to our own write comes by itself.
        if slot.attempt() == Some(known.attempt) || slot.is_rebound_by(known.attempt) {
            return false;
        }
        if slot.marking == Some(known.attempt) {
            slot.marking = None;
        }
        // Whatever we asked for and heard nothing of expected an older revision: it can not be written any more.
        slot.unclear.clear();
        slot.told = Some((known.because.clone(), known.begun.clone().unwrap_or_default()));
        let held = slot.record.as_ref().filter(|record| record.held);
        slot.before = held.map(|record| record.holder.clone());
        slot.know(known);
        true
    }

    pub(crate) fn assigned(
        &mut self,
        id: InstanceId,
        node: NodeName,
        (retiring, placed): (bool, Revision),
        now: Timestamp,
    ) -> bool {
        self.numbers_used(id.number());
        // That it shall exist was written before that it is no more.
        if let Some((gone, _)) = self.forgotten.get_mut(&id) {
            gone.retiring_seen = retiring;
            gone.placed = placed;
            return false;
        }
        self.asked_for.remove(&id);
        if let Some(instance) = self.instances.get_mut(&id) {
            if !instance.created && instance.has_process() {
                // It was gone from the store, and is there again.
                instance.retiring = retiring;
            }
            // Without its record it could not take a slot.
            let was_placed = std::mem::replace(&mut instance.created, true);
            instance.placed = placed;
            let was_seen = std::mem::replace(&mut instance.retiring_seen, retiring);
            let moved = instance.node != node && !instance.has_process();
            if !moved {
                // Only what is written ends it.
                let changed = instance.retiring != retiring || was_seen != retiring || !was_placed;
                // Our own wish to see it go comes back before it is written.
                instance.retiring |= retiring;
                return changed;
            }
            // Two controllers gave the same number, and the other one's was written.
        }
        let mine = self.me.as_ref().is_none_or(|me| *me == node);
        let mut instance = Instance::new(id.clone(), node, now, Reason::Declared);
        instance.retiring = retiring;
        instance.retiring_seen = retiring;
        instance.created = true;
        instance.placed = placed;
        if !mine {
            let until = Timestamp::NEVER;
            instance.set(Phase::Waiting { until }, Health::Down, now, Reason::Declared);
        }
        self.instances.insert(id, instance);
        true
    }

    pub(crate) fn unassigned(&mut self, id: &InstanceId) -> bool {
        self.forgotten.remove(id);
        let asked = self.asked_for.remove(id).is_some();
        let Some(instance) = self.instances.get(id) else {
            return asked;
        };
        if self.is_mine(instance) && instance.has_process() {
            // Replaced elsewhere while we were away: it ends here, unless it holds a slot. Then its record is written again, for others
            // must know who has the data.
            if let Some(instance) = self.instances.get_mut(id) {
                instance.created = false;
                instance.retiring_seen = false;
            }
        } else {
            self.instances.remove(id);
        }
        true
    }

    pub(crate) fn reported(&mut self, report: Report) -> bool {
        if let Some((gone, _)) = self.forgotten.get_mut(&report.instance) {
            gone.told = Some(Box::new(report));
            return false;
        }
        let Some(instance) = self.instances.get_mut(&report.instance) else {
            return false;
        };
        if self.me.as_ref() == Some(&instance.node) || instance.node != report.node {
            return false;
        }
        // What others see of a promotion that failed is what follows from it: that its instance is ended, and does not answer.
        let id = report.instance.clone();
        if let Some(failed) = report.not_promoted.clone()
            && let Some(slot) = self.slots.get_mut(failed.slot as usize)
            && slot.epoch() <= failed.epoch
        {
            slot.not_promoted.insert(id, failed);
        }
        instance.told = Some(Box::new(report));
        true
    }

    pub(crate) fn renew_asked(&mut self, id: &InstanceId, now: Timestamp, out: &mut VecDeque<Decision>) -> bool {
        // Who runs what was given up goes back; whoever was asked to try it before that was known does not any more.
        let (is_given_up, goes_back) = (self.is_given_up(), self.stands_back());
        let wanted = |instance: &Instance| if instance.current { goes_back } else { !is_given_up };
        let due = |instance: &Instance| self.is_mine(instance) && wanted(instance) && instance.is_alive();
        if !self.instances.get(id).is_some_and(due) || self.slots.iter().any(|slot| slot.concerns(id)) {
            return false;
        }
        if let Some(instance) = self.instances.get_mut(id) {
            instance.renewing = true;
        }
        let because = if goes_back {
            Reason::GoesBack
        } else {
            Reason::RolloutNeeds
        };
        self.stop(id, because, now, out);
        true
    }

    /// Whether its standby check passes from now on, whatever it said before.
    pub(crate) fn proof_asked(
        &mut self,
        id: &InstanceId,
        number: u64,
        now: Timestamp,
        out: &mut VecDeque<Decision>,
    ) -> bool {
        let mine = self.instances.get(id).is_some_and(|instance| self.is_mine(instance));
        let Some(instance) = self.instances.get_mut(id).filter(|_| mine) else {
            return false;
        };
        instance.proving = Some((number, now));
        let action = Action::ProbeNow {
            instance: id.clone(),
            standby: true,
        };
        let because = Reason::ProofNeeded { instance: id.clone() };
        out.push_back(Decision { action, because });
        false
    }

    pub(crate) fn move_asked(
        &mut self,
        index: usize,
        to: Option<InstanceId>,
        drain: bool,
        now: Timestamp,
        out: &mut VecDeque<Decision>,
    ) -> bool {
        self.refresh_bound();
        let Some(slot) = self.slots.get(index) else {
            return false;
        };
        // Likewise.
        let late = !drain && self.is_given_up();
        if late || !self.is_driven(slot) || slot.serving().is_none() || slot.planned.is_some() {
            return false;
        }
        let order = self.failover_order(None, now);
        let to = match to {
            Some(to) => order.into_iter().find(|id| *id == to),
            None => order.into_iter().next(),
        };
        if to.is_none() {
            return false;
        }
        let because = if drain {
            Reason::DrainAsked
        } else {
            Reason::RolloutNeeds
        };
        self.begin_planned(index, Change::unasked(to, because), now, out);
        true
    }

    /// The guard answered. Who cannot be fenced must not act: somebody else is asked.
    pub(crate) fn armed(
        &mut self,
        id: &InstanceId,
        epoch: model::Epoch,
        result: Result<(), String>,
        now: Timestamp,
        out: &mut VecDeque<Decision>,
    ) -> bool {
        // The epoch alone does not tell which slot: two nodes may have given two slots the same one.
        let holds = |slot: &&mut Slot| {
            let holder = match &slot.phase {
                slot::Phase::Promoting { holder } | slot::Phase::Serving { holder } => Some(holder),
                _ => None,
            };
            slot.armed == Some((epoch, false)) && slot.epoch() == epoch && holder == Some(id)
        };
        let Some(slot) = self.slots.iter_mut().find(holds) else {
            return false;
        };
        let Err(error) = result else {
            slot.armed = Some((epoch, true));
            slot.arm_again = (0, now);
            if slot.planned.is_none() && slot.routed.is_none() {
                // It stood still until now.
                slot.routed = slot.active().map(|(holder, epoch)| (holder.clone(), epoch));
            }
            return true;
        };
        // An agent that has just come back may be quicker than its guard, which keeps what the earlier one armed meanwhile.
        if slot.serving() == Some(id) && slot.arm_again.0 < ARM_TRIES {
            slot.armed = None;
            slot.arm_again = (slot.arm_again.0 + 1, now + ARM_AGAIN);
            return true;
        }
        slot.armed = None;
        let because = Reason::NotFenced {
            instance: id.clone(),
            error: error.clone(),
        };
        let acts = |instance: &Instance| instance.acts && instance.has_process();
        if self.instances.get(id).is_some_and(acts) {
            slot.begin_takeover(false, because.clone(), now);
            slot.set(slot::Phase::Releasing, now, because.clone());
            self.kill(id, because.clone(), now, out);
        } else {
            slot.confirm_dead(now);
            slot.set(slot::Phase::Vacant, now, because.clone());
        }
        if let Some(instance) = self.instances.get_mut(id) {
            instance.unfenced = Some((error, now + UNFENCED_FOR));
            let note = Note::about_instance(NoteKind::NotArmed, id, &instance.node);
            out.push_back(Decision::note(note, because));
        }
        true
    }

    /// Our session is lost: nothing exclusive of ours may act.
    pub(crate) fn fence(&mut self, now: Timestamp, out: &mut VecDeque<Decision>) {
        self.fence_but(&BTreeSet::new(), now, out);
    }

    /// The same, but for some that stand still.
    pub(crate) fn fence_but(&mut self, still: &BTreeSet<InstanceId>, now: Timestamp, out: &mut VecDeque<Decision>) {
        for slot in &mut self.slots {
            slot.kept = None;
        }
        if !self.declared.exclusive {
            return;
        }
        let acting: Vec<InstanceId> = self
            .instances
            .values()
            .filter(|instance| self.is_mine(instance) && instance.acts && instance.is_alive())
            .filter(|instance| !still.contains(&instance.id))
            .map(|instance| instance.id.clone())
            .collect();
        for id in acting {
            self.kill(&id, Reason::OwnSessionLost, now, out);
        }
    }

    /// The last promotion of an instance, if it failed and none went well since.
    pub(crate) fn not_promoted(&self, id: &InstanceId) -> Option<NotPromoted> {
        let failed = self.slots.iter().filter_map(|slot| slot.not_promoted.get(id));
        let mut actives = self.slots.iter().filter_map(Slot::active);
        let served_at = actives.find(|(active, _)| *active == id).map(|(_, epoch)| epoch);
        failed
            .max_by_key(|failed| failed.epoch)
            .filter(|failed| served_at.is_none_or(|epoch| epoch < failed.epoch))
            .cloned()
    }

    /// What we tell of an instance of ours, under our session.
    pub(crate) fn report_of(&self, id: &InstanceId, now: Timestamp) -> Option<Report> {
        let instance = self.instances.get(id).filter(|instance| self.is_mine(instance))?;
        Some(Report {
            instance: id.clone(),
            node: instance.node.clone(),
            session: model::Revision(0),
            run: instance.run,
            phase: instance.shown_phase(),
            health: instance.health,
            acts: instance.acts,
            promoted: instance.promoted,
            served: instance.has_served(),
            followed: instance.followed,
            stands_by: instance.standby_check.clone(),
            proved: instance.proved.clone(),
            unfenced: instance.unfenced.as_ref().map(|(why, _)| why.clone()),
            busy: instance.hook.is_some(),
            leaving: self.is_leaving(id),
            current: instance.current,
            check_untried: instance.check_untried.is_some(),
            deaths: u32::try_from(instance.recent_deaths(now)).unwrap_or(u32::MAX),
            restarts: instance.restarts,
            since: instance.since,
            because: instance.because.to_string(),
            last_failure: instance.last_failure.clone(),
            last_end: instance.last_end.clone(),
            not_promoted: self.not_promoted(id),
        })
    }
}
