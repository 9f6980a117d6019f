//! As many instances as declared, on nodes that are there.

use crate::instance::{Instance, Phase};
use crate::peers::WRITE_AGAIN;
use crate::service::{Asked, Service};
use crate::slot::{self, Slot};
use crate::surplus::{Spare, first_to_go};
use crate::{Action, Context, Decision, NodeState, Note, NoteKind, Reason};
use model::{InstanceId, SlotId, Timestamp};
use std::time::Duration;

/// The store says within this that an instance exists, or it is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// That somebody shall go is written within this, or something has changed: then it is judged anew.
const RETIRE_AGAIN: Duration = Duration::from_secs(2);

/// In a cluster: who is one too many for this long goes.
const SURPLUS_FOR: Duration = Duration::from_secs(1);
/// Who looks later than this after that second stood still itself, and the news of that time is still to come.
const LOOKS_LATE: Duration = Duration::from_millis(200);

impl Service {
    /// As many instances as declared, on nodes that are there.
    pub(super) fn count(&mut self, cx: &mut Context<'_>) {
        let active = self.declared.active as usize;
        while self.slots.len() < active {
            let slot = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
            let id = SlotId {
                service: self.name.clone(),
                slot,
            };
            let mut slot = Slot::new(id, cx.now);
            if let Some((record, data)) = self.former_slots.remove(&self.slots.len()) {
                (slot.record, slot.data) = (Some(record), data);
            }
            slot.park_as(cx.parks);
            self.slots.push(slot);
        }
        self.note_freed(active);
        while self.slots.len() > active
            && self
                .slots
                .last()
                .is_some_and(|slot| slot.phase == slot::Phase::Vacant && slot.maybe_held().is_none())
        {
            // Its record stays in the store: should the slot come back, its epochs go on from there.
            if let Some(Slot {
                record: Some(record),
                data,
                ..
            }) = self.slots.pop()
            {
                self.former_slots.insert(self.slots.len(), (record, data));
            }
        }
        self.refresh_bound();
        if cx.stopping {
            return;
        }
        self.leave(cx);
        self.write_again(cx);
        if !cx.places() {
            self.surplus_since = None;
            // Another controller begins anew.
            self.moving = self.moving.take().filter(|_| cx.is_controller());
            return;
        }
        self.leave_nodes(cx);
        let wanted = self.declared.wanted() + u32::from(self.surge);
        let counts = |instance: &Instance, cx: &Context<'_>| {
            !instance.retiring && cx.counts(&instance.node) && !self.shall_leave(instance)
        };
        let mut have =
            u32::try_from(self.instances.values().filter(|instance| counts(instance, cx)).count()).unwrap_or(u32::MAX);
        // One of ours that runs and was replaced while we were away is not in the store: it is no reason for another one to go.
        let unwritten = |instance: &&Instance| cx.peers.is_some() && !instance.created && counts(instance, cx);
        let unwritten = u32::try_from(self.instances.values().filter(unwritten).count()).unwrap_or(u32::MAX);
        // What was asked for is on its way.
        let asked_for = u32::try_from(self.asked_for.len()).unwrap_or(u32::MAX);
        self.wants_load |= have.saturating_add(asked_for) < wanted && cx.load.is_none();
        if self.wants_load {
            return;
        }
        let is_known = cx.load.is_some();
        let mut load = cx.load.take().unwrap_or_default();
        self.ask_again(cx);
        let mut have_soon = have + asked_for;
        while have_soon < wanted {
            let node = match self.place(cx.sites(&load)) {
                Ok(node) => node,
                Err(why) => {
                    self.tell_unplaced(wanted - have_soon, &why, cx);
                    break;
                }
            };
            self.numbers += 1;
            let id = InstanceId::new(self.name.clone(), self.numbers);
            let because = Reason::TooFew {
                have: have_soon,
                wanted,
            };
            load.entry(node.clone()).or_default().add(self.declared.reserve);
            cx.decide(
                Action::Create {
                    instance: id.clone(),
                    node: node.clone(),
                },
                because.clone(),
            );
            have_soon += 1;
            if cx.peers.is_some() {
                // It is there when the store says so: another controller may be at it too.
                let again = cx.now + ASK_AGAIN;
                self.asked_for.insert(id, Asked { node, again });
            } else {
                self.instances
                    .insert(id.clone(), Instance::new(id, node, cx.now, because));
                have += 1;
            }
        }
        // Another pass must not give the same room away once more.
        cx.load = is_known.then_some(load);
        if have >= wanted {
            self.told_unplaced = false;
        }
        let in_store = have.saturating_sub(unwritten);
        if in_store <= wanted {
            self.surplus_since = None;
            self.freed.clear();
        } else if self.surplus_is_settled(cx) {
            let surplus = self.surplus(in_store - wanted, cx);
            for id in surplus {
                self.retire(&id, Reason::TooMany { wanted }, cx);
            }
        }
    }

    /// What the store does not have yet. By another number, or on another node, it would be there twice if the first write is done late, and
    /// it may be done as long as we are the controller: it is asked for until the store says that it is there, or was and is gone.
    fn ask_again(&mut self, cx: &mut Context<'_>) {
        let now = cx.now;
        for (id, asked) in self.asked_for.iter_mut().filter(|(_, asked)| now >= asked.again) {
            asked.again = now + ASK_AGAIN;
            let (instance, node) = (id.clone(), asked.node.clone());
            cx.out.push_back(Decision {
                action: Action::Create { instance, node },
                because: Reason::Declared,
            });
        }
    }

    /// Whether there have been too many for a while. One too many harms nobody, and who says so may have been standing still itself: by old
    /// news an instance would be ended that is needed now.
    fn surplus_is_settled(&mut self, cx: &Context<'_>) -> bool {
        if cx.peers.is_none() {
            return true;
        }
        let settled = *self.surplus_since.get_or_insert(cx.now) + SURPLUS_FOR;
        if cx.now > settled + LOOKS_LATE {
            self.surplus_since = Some(cx.now);
            return false;
        }
        cx.now >= settled
    }

    /// When it will have been.
    pub(super) fn surplus_due(&self, cx: &Context<'_>) -> Option<Timestamp> {
        let due = self.surplus_since.map(|since| since + SURPLUS_FOR);
        due.filter(|at| *at > cx.now)
    }

    /// In a cluster: instances of ours that shall go away do.
    fn leave(&mut self, cx: &mut Context<'_>) {
        if cx.peers.is_none() {
            return;
        }
        let going = self
            .instances
            .values()
            // Once the store says so: our own wish may come of old news, and is then not written.
            .filter(|instance| instance.retiring && instance.retiring_seen)
            .filter(|instance| self.is_mine(instance) && !self.bound.contains_key(&instance.id))
            .filter(|instance| !matches!(instance.phase, Phase::Stopping | Phase::Ended))
            // Who was active last stays until another one is: it may have the only copy of the data.
            .filter(|instance| !self.data_only_with(&instance.id));
        let going: Vec<InstanceId> = going.map(|instance| instance.id.clone()).collect();
        let wanted = self.declared.wanted();
        for id in going {
            self.retire(&id, Reason::TooMany { wanted }, cx);
        }
    }

    /// Instances on lost nodes are replaced elsewhere; those on drained ones stay until their replacement is ready.
    fn leave_nodes(&mut self, cx: &mut Context<'_>) {
        let elsewhere = cx.nodes.values().any(|node| node.state == NodeState::Online);
        if !elsewhere {
            return;
        }
        let ready_elsewhere = self
            .instances
            .values()
            .filter(|instance| {
                cx.online(&instance.node)
                    && !self.shall_leave(instance)
                    && !self.bound.contains_key(&instance.id)
                    && self.readiness(instance).is_ok()
            })
            .count();
        let spare = ready_elsewhere >= self.declared.standby as usize;
        let leaving: Vec<InstanceId> = self
            .instances
            .values()
            .filter(|instance| {
                let leaves = !cx.online(&instance.node) || self.shall_leave(instance);
                !instance.retiring && leaves && !self.bound.contains_key(&instance.id)
            })
            .filter(|instance| {
                cx.peers.is_none()
                    || !cx.counts(&instance.node)
                    || (cx.online(&instance.node) && self.shall_leave(instance))
            })
            .filter(|instance| match cx.nodes.get(&instance.node).map(|node| node.state) {
                Some(NodeState::Drained | NodeState::Online) => {
                    spare
                        && self
                            .slots
                            .iter()
                            .all(|slot| slot.serving().is_some() || slot.is_parked())
                }
                // Whoever was active last may have the only copy of the data: it waits for its node.
                _ => !instance.has_process() && !self.data_only_with(&instance.id),
            })
            .map(|instance| instance.id.clone())
            .collect();
        for id in leaving {
            let Some(node) = self.instances.get(&id).map(|instance| instance.node.clone()) else {
                continue;
            };
            let because = match cx.nodes.get(&node).map(|node| node.state) {
                Some(NodeState::Drained) => Reason::DrainAsked,
                Some(NodeState::Online) if self.declared.may_be_on(&node) => Reason::RebalanceAsked,
                Some(NodeState::Online) => Reason::NotAllowedThere { node },
                _ => Reason::NodeLost { node },
            };
            self.retire(&id, because, cx);
        }
    }

    /// It served last and nobody serves now: it stays until another one does, for it has all the data, or may have.
    pub(super) fn data_only_with(&self, id: &InstanceId) -> bool {
        self.follows()
            && self
                .slots
                .iter()
                .any(|slot| (slot.held_last(id) || slot.served_earlier(id)) && slot.serving().is_none())
    }

    /// The store says that it holds a slot that nobody serves: it is the first to ask.
    fn may_hold_again(&self, id: &InstanceId) -> bool {
        let holds = |slot: &Slot| {
            slot.record
                .as_ref()
                .is_some_and(|record| record.held && record.holder == *id)
        };
        let declared = self.slots.iter().take(self.declared.active as usize);
        declared.filter(|slot| slot.phase == slot::Phase::Vacant).any(holds)
    }

    fn tell_unplaced(&mut self, missing: u32, why: &str, cx: &mut Context<'_>) {
        if !self.told_unplaced {
            self.told_unplaced = true;
            let wanted = format!("{missing} of {} instances find no node: {why}", self.declared.wanted());
            cx.out.push_back(Decision::note(
                Note::about_service(NoteKind::Unplaced, self.name.clone()),
                Reason::NoNodeLeft { wanted },
            ));
        }
    }

    /// Whoever holds a slot that is declared no more: it goes when its clients have finished, and no standby goes in its place.
    fn note_freed(&mut self, active: usize) {
        let of_surplus = self.slots.iter().skip(active);
        let holders = of_surplus.filter_map(|slot| slot.bound().cloned().or_else(|| Some(slot.maybe_held()?.holder)));
        self.freed.extend(holders);
        let (instances, bound) = (&self.instances, &self.bound);
        self.freed
            .retain(|id| instances.contains_key(id) && bound.get(id).is_none_or(|index| *index >= active));
    }

    /// Whom to remove now: of those that are too many, who holds no slot (any more).
    fn surplus(&self, count: u32, cx: &Context<'_>) -> Vec<InstanceId> {
        let is_spare = |instance: &&Instance| {
            let free = !self.bound.contains_key(&instance.id)
                && !self.data_only_with(&instance.id)
                && !self.may_hold_again(&instance.id);
            !instance.retiring && cx.online(&instance.node) && (free || self.freed.contains(&instance.id))
        };
        let spare = self.instances.values().filter(is_spare).map(|instance| Spare {
            id: instance.id.clone(),
            freed: self.freed.contains(&instance.id),
            ready: self.readiness(instance).is_ok(),
            current: instance.current,
        });
        let going = first_to_go(spare.collect(), count as usize).into_iter();
        // Who still serves is waited for.
        let free = |id: &InstanceId| !self.bound.contains_key(id) && !self.data_only_with(id);
        going.map(|spare| spare.id).filter(free).collect()
    }

    fn retire(&mut self, id: &InstanceId, because: Reason, cx: &mut Context<'_>) {
        let Some(instance) = self.instances.get_mut(id) else {
            return;
        };
        let mine = self.me.as_ref().is_none_or(|me| *me == instance.node);
        // Who lives ends its own in order, also while it is emptied.
        let lives = cx.peers.is_some_and(|peers| peers.lives(&instance.node));
        // The write compares that no instance of the service came or went since what we know: who is needed by now does not go.
        let ours_asked = mine && cx.peers.is_some() && instance.created && !instance.retiring_seen;
        if ours_asked || (!mine && (lives || cx.can_act(&instance.node))) {
            if !instance.retiring {
                instance.retiring = true;
                instance.write_again = cx.now + RETIRE_AGAIN;
                let node = instance.node.clone();
                cx.decide(
                    Action::Retire {
                        instance: id.clone(),
                        node,
                    },
                    because,
                );
            }
            return;
        }
        instance.retiring = true;
        if mine && instance.has_process() {
            self.stop(id, because, cx.now, cx.out);
        } else {
            self.forget(id.clone(), because, cx);
        }
    }

    /// In a cluster: what we wrote about instances and do not see in the store is written again.
    fn write_again(&mut self, cx: &mut Context<'_>) {
        if cx.peers.is_none_or(|peers| peers.session.is_none()) {
            return;
        }
        let (now, again) = (cx.now, cx.now + WRITE_AGAIN);
        let controller = cx.is_controller();
        let because = Reason::TooMany {
            wanted: self.declared.wanted(),
        };
        self.take_back(cx);
        let slots = self.judged_by();
        for (id, (gone, at)) in self.forgotten.iter_mut().filter(|(_, (_, at))| now >= *at) {
            *at = again;
            let theirs = self.me.as_ref() != Some(&gone.node);
            let action = Action::Forget {
                instance: id.clone(),
                theirs,
                judged_by: if theirs { slots.clone() } else { Vec::new() },
            };
            cx.decide(action, because.clone());
        }
        if !controller {
            self.as_written();
        }
        self.write_holders_again(cx);
        // Whoever is the controller now knows nothing of what an earlier one did not get written.
        let stray = |instance: &Instance| !instance.created && !controller && !instance.has_process();
        let strays: Vec<InstanceId> = self
            .instances
            .values()
            .filter(|instance| stray(instance))
            .map(|instance| instance.id.clone())
            .collect();
        for id in strays.into_iter().filter(|id| !self.bound.contains_key(id)) {
            self.instances.remove(&id);
        }
        if !controller {
            return;
        }
        for instance in self.instances.values_mut() {
            let unseen = !instance.created || (instance.retiring && !instance.retiring_seen);
            if !unseen || instance.has_process() && !instance.created || cx.now < instance.write_again {
                continue;
            }
            let (id, node, because) = (instance.id.clone(), instance.node.clone(), instance.because.clone());
            instance.write_again = again;
            if !instance.created && !instance.retiring {
                cx.decide(Action::Create { instance: id, node }, because);
            } else if instance.created {
                // It was not written, by what has changed since: whether it shall go is judged anew.
                instance.retiring = false;
            }
        }
    }

    /// Instances of ours that run and whose record is gone: who holds a slot, or is about to, gets it back, and so does who has the data of
    /// one that nobody holds; the others end.
    fn write_holders_again(&mut self, cx: &mut Context<'_>) {
        let me = self.me.clone();
        let slots = &self.slots;
        let has_data = |id: &InstanceId| slots.iter().any(|slot| slot.waits_for_data_of(id));
        for instance in self.instances.values_mut() {
            if me.as_ref() != Some(&instance.node) || instance.created || !instance.has_process() {
                continue;
            }
            let holds = self.bound.contains_key(&instance.id) || self.held.contains_key(&instance.id);
            let holds = holds || has_data(&instance.id);
            // Its end is the business of a step that was taken already.
            self.look_again |= !holds && !instance.retiring;
            instance.retiring |= !holds;
            instance.retiring_seen |= !holds;
            if holds && cx.now >= instance.write_again {
                instance.write_again = cx.now + WRITE_AGAIN;
                let (id, node, because) = (instance.id.clone(), instance.node.clone(), instance.because.clone());
                cx.out.push_back(Decision {
                    action: Action::Create { instance: id, node },
                    because,
                });
            }
        }
    }

    /// Instances of others that were forgotten and whose node lives: it may run them, and others may follow them, so they are not gone
    /// before it says so. Likewise who turned out to have served last: it was forgotten by old news, and that is not written again.
    fn take_back(&mut self, cx: &Context<'_>) {
        let Some(peers) = cx.peers else { return };
        let lives = |gone: &Instance| gone.node != peers.me && (peers.lives(&gone.node) || !peers.controller);
        let has_data = |id: &InstanceId, gone: &Instance| gone.node != peers.me && self.data_only_with(id);
        let back = self
            .forgotten
            .iter()
            .filter(|(id, (gone, _))| lives(gone) || has_data(id, gone));
        let back: Vec<InstanceId> = back.map(|(id, _)| id.clone()).collect();
        for id in back {
            if let Some((mut instance, _)) = self.forgotten.remove(&id) {
                // It is as the store says, and what its node said meanwhile is judged now.
                instance.retiring = instance.retiring_seen;
                instance.write_again = cx.now;
                self.instances.insert(id, *instance);
                self.look_again = true;
            }
        }
    }

    /// What is wished for and not written is for the controller to say: who is it no more goes by what the store has.
    fn as_written(&mut self) {
        for instance in self.instances.values_mut() {
            instance.retiring &= instance.retiring_seen;
        }
    }

    /// When that is due.
    pub(super) fn write_again_at(&self, cx: &Context<'_>) -> Option<Timestamp> {
        cx.peers.filter(|peers| peers.session.is_some())?;
        let unseen = |instance: &&Instance| {
            let wished = cx.is_controller() && (!instance.created || (instance.retiring && !instance.retiring_seen));
            wished || (!instance.created && self.is_mine(instance) && instance.has_process())
        };
        let unseen = self.instances.values().filter(unseen);
        let unseen = unseen.map(|instance| instance.write_again);
        let forgotten = self.forgotten.values().map(|(_, at)| *at);
        forgotten.chain(unseen).filter(|at| *at > cx.now).min()
    }
}
