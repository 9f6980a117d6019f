//! Planned changes, step by step, and the claims of slots.

use super::mirror::turn;
use crate::instance::{Instance, Phase, RunningHook};
use crate::peers::{Hold, Peers};
use crate::service::{Change, Service};
use crate::slot::{self, Stage};
use crate::{Action, Condemn, Context, Decision, Note, NoteKind, Parked, Reason, SlotWrite, epoch_after};
use model::{HookKind, InstanceId, NodeName, Revision};

/// What a claim asks of sessions.
pub(super) struct Terms {
    pub(super) session: Option<Revision>,
    pub(super) sessions: Vec<(NodeName, Revision)>,
    pub(super) condemn: Option<Condemn>,
}

impl Terms {
    /// Of a slot that goes to `node`: both we and it must have our sessions, and the last holder's must be gone or end with this.
    pub(super) fn of(peers: Option<&Peers>, node: &NodeName, hold: &Hold, record: Option<&slot::Record>) -> Self {
        let Some(peers) = peers else {
            return Self {
                session: None,
                sessions: Vec::new(),
                condemn: None,
            };
        };
        let mut sessions = vec![(peers.me.clone(), peers.session_of(&peers.me))];
        if *node != peers.me {
            sessions.push((node.clone(), peers.session_of(node)));
        }
        let mut condemn = None;
        if let Hold::Open(open) = hold {
            condemn = open.clone();
            let last = record.filter(|record| record.held && open.is_none());
            // Another session than that under which it was held, or none: exactly the one that we know.
            if let Some(last) = last.filter(|last| sessions.iter().all(|(node, _)| *node != last.node)) {
                sessions.push((last.node.clone(), peers.session_of(&last.node)));
            }
        }
        Self {
            session: Some(peers.session_of(node)),
            sessions,
            condemn,
        }
    }
}

impl Service {
    /// Carries planned changes on, and begins those of slots that are no longer declared.
    pub(super) fn planned(&mut self, cx: &mut Context<'_>) {
        for index in 0..self.slots.len() {
            if !self.is_driven(&self.slots[index]) {
                continue;
            }
            self.prove(index, cx);
            let emptied = self.emptied(index);
            let slot = &self.slots[index];
            // Parking is no automatic action: a pause does not keep from it.
            let due = slot.parked.is_some() || !cx.paused;
            let goes = due && slot.serving().is_some() && slot.planned.is_none();
            if let Some(because) = emptied.clone().filter(|_| goes) {
                self.begin_planned(index, Change::unasked(None, because), cx.now, cx.out);
            }
            if emptied.is_none() && !cx.paused {
                self.let_go(index, cx);
            }
            let slot = &self.slots[index];
            let (Some(planned), Some(holder)) = (slot.planned.clone(), slot.serving().cloned()) else {
                continue;
            };
            if !matches!(planned.stage, Stage::Parting { .. } | Stage::Draining { .. }) {
                continue;
            }
            if !self.still_wanted(index, &holder, cx) {
                self.stay(index, cx.out);
                continue;
            }
            match planned.stage {
                Stage::Parting { shut, until, parted } if parted || cx.now >= until => match shut {
                    false => self.part(index, true, cx.now, cx.out),
                    true => self.begin_draining(index, cx.now),
                },
                Stage::Draining { deadline } if cx.now >= deadline || clients_are_away(&planned, cx) => {
                    self.keep_from_acting(index, &holder, planned.because, cx);
                }
                _ => {}
            }
        }
    }

    /// In a cluster: a holder that shall go away hands its slot over first.
    fn let_go(&mut self, index: usize, cx: &mut Context<'_>) {
        let slot = &self.slots[index];
        // Once the store says so: our own wish may come of old news, and is then not written.
        let goes = |holder: &Instance| holder.retiring && holder.retiring_seen;
        let going = |holder: &InstanceId| self.instances.get(holder).is_some_and(goes);
        if cx.peers.is_none() || slot.planned.is_some() || !slot.serving().is_some_and(going) {
            return;
        }
        if let Some(to) = self.candidate(index, cx) {
            let because = Reason::TooMany {
                wanted: self.declared.wanted(),
            };
            self.begin_planned(index, Change::unasked(Some(to), because), cx.now, cx.out);
        }
    }

    /// Whether a planned change has a reason and a target.
    fn still_wanted(&self, index: usize, holder: &InstanceId, cx: &Context<'_>) -> bool {
        let (Some(planned), Some(holder)) = (&self.slots[index].planned, self.instances.get(holder)) else {
            return false;
        };
        let reason = match planned.because {
            Reason::TooMany { .. } if self.is_surplus(index) => return true,
            // Whatever was begun, it ends without a holder.
            _ if self.slots[index].parked.is_some() => return true,
            Reason::Parked { .. } => false,
            Reason::TooMany { .. } => holder.retiring,
            Reason::DrainAsked => !cx.online(&holder.node) || self.shall_leave(holder) || self.rebalancing,
            Reason::RolloutNeeds => !holder.current,
            _ => true,
        };
        reason && self.candidate(index, cx).is_some()
    }

    /// Why nobody shall hold a slot, if that is so.
    pub(super) fn emptied(&self, index: usize) -> Option<Reason> {
        if self.is_surplus(index) {
            let wanted = self.declared.wanted();
            return Some(Reason::TooMany { wanted });
        }
        self.slots[index].parked.as_ref().map(Parked::reason)
    }

    /// The first parked slot of those that are declared, as a reason for how the service stands.
    pub(super) fn parked_slot(&self) -> Option<Reason> {
        let slot = self.slots.iter().take(self.declared.active as usize);
        let slot = slot.filter_map(|slot| Some((slot.id.slot, slot.parked.as_ref()?)));
        slot.map(|(slot, parked)| Reason::SlotParked {
            slot,
            by: parked.by.clone(),
            why: parked.why.clone(),
        })
        .next()
    }

    pub(super) fn is_surplus(&self, index: usize) -> bool {
        index >= self.declared.active as usize
    }

    /// Clients are away: the holder is demoted by its hook, or stopped where it has none.
    fn keep_from_acting(&mut self, index: usize, holder: &InstanceId, because: Reason, cx: &mut Context<'_>) {
        let epoch = self.slots[index].epoch();
        let demotes = self.declared.on_demote.is_some() && !self.is_cold();
        let stops = self.declared.exclusive || self.is_cold();
        let earlier = self.instances.get(holder).and_then(|holder| self.earlier_hooks(holder));
        let Some(instance) = self.instances.get_mut(holder) else {
            return;
        };
        let stage = if demotes && instance.hook.is_none() {
            instance.hook = Some(RunningHook {
                kind: HookKind::Demote,
                epoch,
            });
            let (instance, run) = (holder.clone(), instance.run);
            cx.decide(
                Action::RunHook {
                    instance,
                    run,
                    hook: HookKind::Demote,
                    epoch,
                    active: None,
                    earlier,
                },
                because,
            );
            Stage::Demoting
        } else if stops {
            self.stop(holder, because, cx.now, cx.out);
            Stage::Stopping
        } else {
            // A shared active without a hook is a standby as soon as clients are away.
            instance.stands_by(None);
            let slot = &mut self.slots[index];
            slot.confirm_dead(cx.now);
            slot.set(slot::Phase::Vacant, cx.now, because);
            Stage::Clear
        };
        if let Some(planned) = &mut self.slots[index].planned {
            planned.stage = stage;
        }
        self.refresh_bound();
    }

    /// Who takes a slot next: whom somebody wants, if he can, or the first in the failover order.
    pub(super) fn candidate(&self, index: usize, cx: &Context<'_>) -> Option<InstanceId> {
        self.candidates(index, cx).into_iter().next()
    }

    /// Who could take a slot now, best first.
    pub(super) fn candidates(&self, index: usize, cx: &Context<'_>) -> Vec<InstanceId> {
        let planned = self.slots[index].planned.as_ref();
        let wanted = planned.and_then(|planned| planned.to.as_ref());
        let order = self.failover_order(Some(index), cx.now);
        let here = |id: &&InstanceId| {
            // Who holds it already is not asked to move, even if its node is emptied.
            let holds = planned.is_none() && self.slots[index].last_holder() == Some(*id);
            // A planned change that goes back to where it came from.
            let returns = planned.is_some_and(|planned| planned.to.as_ref() == Some(*id))
                && self.slots[index].last_holder() == Some(*id);
            let free = |instance: &Instance| cx.can_act(&instance.node) || (holds && instance.acts) || returns;
            // Who was forgotten while its node was away has its record back first, or ends.
            let placed = |instance: &Instance| cx.peers.is_none() || instance.created;
            let found = self.instances.get(*id).filter(|instance| placed(instance));
            found.is_some_and(free) && !self.is_held_for_another(index, id)
        };
        let mut order: Vec<InstanceId> = order.iter().filter(here).cloned().collect();
        // A holder that may act and is fit keeps its slot, unless somebody wants it moved: so it is after a restart of the agent.
        let acts =
            |id: &&InstanceId| planned.is_none() && self.instances.get(*id).is_some_and(|instance| instance.acts);
        let wanted = wanted.or_else(|| self.slots[index].last_holder().filter(acts));
        if let Some(asked) = wanted.and_then(|to| order.iter().position(|id| id == to)) {
            let asked = order.remove(asked);
            order.insert(0, asked);
        }
        order
    }

    /// Who takes a slot, as far as that is for us to say: of an open one the first in line of our node, when those of other nodes
    /// before it had their time.
    fn candidate_of_ours(&mut self, index: usize, hold: &Hold, cx: &Context<'_>) -> Option<InstanceId> {
        let (Some(peers), Hold::Open(_)) = (cx.peers, hold) else {
            return self.candidate(index, cx);
        };
        let order = self.candidates(index, cx);
        let node_of = |id: &InstanceId| self.instances.get(id).map(|instance| instance.node.clone());
        let (id, at) = turn(&order, node_of, peers, self.slots[index].since)?;
        self.slots[index].turn_at = (cx.now < at).then_some(at);
        (cx.now >= at).then_some(id)
    }

    /// Of an exclusive service, somebody without a slot acts and is being ended: nobody is claimed before that is done.
    fn awaits_end_of_another(&self, to: &InstanceId) -> bool {
        let ends = |instance: &Instance| instance.acts && instance.phase == Phase::Stopping && instance.id != *to;
        let free = |instance: &Instance| !self.bound.contains_key(&instance.id);
        self.declared.exclusive && self.instances.values().any(|instance| ends(instance) && free(instance))
    }

    /// Who may still act for an exclusive slot, and must be gone before somebody else has it.
    fn acting_holder(&self, index: usize) -> Option<InstanceId> {
        let record = self.slots[index].record.as_ref().filter(|record| record.held)?;
        let holder = &record.holder;
        let acts = |holder: &Instance| holder.acts && holder.has_process();
        // A process that has another slot by now took it as one that acted for none.
        let elsewhere = |holder: &Instance| self.bound.get(&holder.id).is_some_and(|at| *at != index);
        let holder_acts = |holder: &Instance| acts(holder) && self.is_mine(holder) && !elsewhere(holder);
        (self.declared.exclusive && self.instances.get(holder).is_some_and(holder_acts)).then(|| holder.clone())
    }

    /// Whether a process of ours that stood still until we had our next session, and that an earlier agent would have gone on with, takes its slot
    /// by another start: it was told its epoch when it was started, and no hook tells it the next one.
    fn must_start_anew(&self, hold: &Hold, cx: &Context<'_>) -> bool {
        let hears_of_no_other = self.is_cold() && self.declared.on_promote.is_none();
        cx.peers.is_some() && hears_of_no_other && matches!(hold, Hold::Open(_))
    }

    /// The store says that it holds another slot, which is vacant: it takes that one again, or it is released first (I7).
    pub(super) fn is_held_for_another(&self, index: usize, id: &InstanceId) -> bool {
        self.held
            .get(id)
            .is_some_and(|slots| slots.iter().any(|other| *other != index))
    }

    /// Vacant slots are claimed; surplus ones released.
    pub(super) fn claim(&mut self, cx: &mut Context<'_>) {
        // With a thousand vacant slots and nobody free, nobody is looked for a thousand times.
        let mut free = self.ready_standbys();
        for index in 0..self.slots.len() {
            let hold = self.hold(index, cx);
            if matches!(hold, Hold::Theirs | Hold::Unproven)
                || self.slots[index].marking.is_some()
                || self.slots[index].kept.is_some()
            {
                continue;
            }
            if let Some(because) = self.emptied(index) {
                self.empty(index, because, cx);
                continue;
            }
            if cx.peers.is_some_and(|peers| peers.session.is_none()) {
                continue;
            }
            let slot = &self.slots[index];
            let planned = slot.planned.as_ref();
            let clear = planned.is_none_or(|planned| planned.stage == Stage::Clear);
            let handover = slot.serving().is_some() && planned.is_some() && clear;
            let begun = planned.is_some();
            let open = slot.phase == slot::Phase::Vacant || handover;
            // What was begun before a pause is finished.
            if !open || !clear || (cx.paused && !begun) || !slot.may_write(cx.now) {
                continue;
            }
            let candidate = match free {
                0 if self.slots[index].unclear.is_empty() => None,
                _ => self.candidate_of_ours(index, &hold, cx),
            };
            if let Some(to) = candidate {
                free = free.saturating_sub(1);
                if self.awaits_end_of_another(&to) {
                    continue;
                }
                let renewed = self.must_start_anew(&hold, cx);
                if let Some(holder) = self.acting_holder(index).filter(|holder| *holder != to || renewed) {
                    // Found starting when the agent came back: it answers soon, or its time to start is over soon.
                    if self
                        .instances
                        .get(&holder)
                        .is_some_and(|holder| holder.phase != Phase::Running)
                    {
                        continue;
                    }
                    let because = match holder == to {
                        true => Reason::OwnSessionLost,
                        false => self.why_not_again(index, &holder, cx),
                    };
                    self.slots[index].set(slot::Phase::Releasing, cx.now, because.clone());
                    self.kill(&holder, because, cx.now, cx.out);
                } else {
                    self.write_claim(index, to, cx);
                }
            } else if handover {
                self.stay(index, cx.out);
            } else if let Some(old) = self.slots[index].routed.as_ref().map(|(old, _)| old.clone()) {
                // A handover that did not come about: who serves until now takes the slot again, also under the session that came since.
                let placed = |old: &Instance| cx.peers.is_none() || old.created;
                let serves = |old: &Instance| old.is_fit() && placed(old) && (hold == Hold::Ours || self.is_mine(old));
                if self.instances.get(&old).is_some_and(serves) {
                    self.write_claim(index, old, cx);
                }
            } else if let Some(what) = self.given_to_another_process(index) {
                self.release_if_held(index, Reason::NotReady { what }, cx);
            } else {
                self.tell_held_back(index, cx);
            }
        }
    }

    /// Who gave the slot to an instance of ours meant a process that had ended by then, and wrote that it has the newest data: the others must
    /// hear that it has not, or they end who has. Returns why the present process cannot have it.
    fn given_to_another_process(&self, index: usize) -> Option<String> {
        let slot = &self.slots[index];
        let record = slot.record.as_ref().filter(|record| record.held && !record.served)?;
        let not_it = record.served_before.is_some() && slot.data.as_ref().is_some_and(|(it, _)| *it != record.holder);
        not_it.then(|| format!("{} was started anew before it had the slot", record.holder))
    }

    /// Gives a vacant slot up that nobody shall hold.
    fn empty(&mut self, index: usize, because: Reason, cx: &mut Context<'_>) {
        let slot = &mut self.slots[index];
        if slot.phase != slot::Phase::Vacant {
            return;
        }
        slot.abort(
            match slot.parked {
                Some(_) => "the slot is parked",
                None => "the slot is not declared any more",
            },
            cx.out,
        );
        // The old holder of a handover that was under way has nothing to do any more either.
        let held = slot.record.as_ref().filter(|record| record.held);
        let held = held.map(|record| (record.holder.clone(), record.epoch));
        for (old, epoch) in slot.routed.take().into_iter().chain(held) {
            let shared = |old: &&mut Instance| !self.declared.exclusive && old.acts;
            if let Some(old) = self.instances.get_mut(&old).filter(shared) {
                old.stands_by(self.declared.on_demote.is_some().then_some(epoch));
            }
        }
        if let Some(holder) = self.acting_holder(index) {
            self.slots[index].set(slot::Phase::Releasing, cx.now, because.clone());
            self.stop(&holder, because.clone(), cx.now, cx.out);
        }
        self.release_if_held(index, because, cx);
    }

    fn write_claim(&mut self, index: usize, to: InstanceId, cx: &mut Context<'_>) {
        let Some(instance) = self.instances.get(&to) else {
            return;
        };
        let (node, run, fit, placed) = (instance.node.clone(), instance.run, instance.is_fit(), instance.placed);
        let hold = self.hold(index, cx);
        let terms = Terms::of(cx.peers, &node, &hold, self.slots[index].record.as_ref());
        // Nothing has to be done to it: whoever hears of the claim sends clients there.
        let served = cx.peers.is_some() && fit && self.declared.on_promote.is_none() && !self.is_cold();
        let because = self.why_taken(index, &to, &hold, cx);
        let attempt = cx.next_attempt();
        let epoch = epoch_after(self.epoch, cx.generation);
        self.epoch = epoch;
        let slot = &mut self.slots[index];
        slot.taken = Some((epoch, because.clone()));
        if let Some(takeover) = &mut slot.takeover {
            takeover.to = to.clone();
            takeover.epoch = epoch;
            takeover.confirmed.get_or_insert(cx.now);
        }
        let begun = slot.takeover.as_ref().map(|takeover| takeover.begun(cx.now));
        let held = slot.record.as_ref().filter(|record| record.held);
        // Proxies of other nodes may still send clients to who served last, and one that heard of nothing for long to whoever served before:
        // once such a process is let through again it may have what nobody else has, whatever becomes of its promotion.
        let served_last = slot.data.as_ref().is_some_and(|(holder, _)| *holder == to);
        let served_before = self.instances.get(&to).is_some_and(Instance::has_served) && !served_last;
        let served_before = (cx.peers.is_some() && served_before).then_some(run);
        let data = match cx.peers.is_some() && served_last {
            true => Some((to.clone(), epoch)),
            false => slot.data.clone(),
        };
        let write = SlotWrite {
            slot: slot.id.clone(),
            attempt,
            expect: slot.record.as_ref().map(|record| record.revision).unwrap_or_default(),
            held: true,
            holder: to.clone(),
            placed: cx.peers.is_some().then_some(placed),
            node: node.clone(),
            epoch,
            served,
            data,
            served_before,
            previous: held.map(|record| record.holder.clone()),
            claims: true,
            session: terms.session,
            sessions: terms.sessions,
            condemn: terms.condemn,
            begun,
        };
        slot.claiming = epoch;
        slot.claiming_on = write.expect;
        slot.claiming_at = Some((node, terms.session, served, served_before));
        slot.turn_at = None;
        slot.told_held_back = false;
        slot.set(
            slot::Phase::Claiming {
                to: to.clone(),
                run,
                attempt,
            },
            cx.now,
            because.clone(),
        );
        self.bound.insert(to, index);
        cx.decide(Action::Write(write), because);
    }

    fn tell_held_back(&mut self, index: usize, cx: &mut Context<'_>) {
        let holds_back = self.declared.on_follow.is_some()
            && self
                .instances
                .values()
                .any(|instance| instance.is_fit() && !self.bound.contains_key(&instance.id));
        let slot = &mut self.slots[index];
        // Who held it last may never have served.
        let served = slot.data.as_ref().map(|(holder, _)| holder);
        let Some(instance) = served.or_else(|| slot.last_holder()).cloned() else {
            return;
        };
        if holds_back && !slot.told_held_back {
            slot.told_held_back = true;
            let because = Reason::OnlyLastHolderHasData { instance };
            slot.because = because.clone();
            cx.out.push_back(Decision::note(
                Note::about_service(NoteKind::DataHeldBack, self.name.clone()),
                because,
            ));
        }
    }
}

/// Whether no proxy, ours or another node's, has a client at the holder any more.
fn clients_are_away(planned: &slot::Planned, cx: &Context<'_>) -> bool {
    let left = |peers: &Peers| peers.living_others().all(|node| planned.left.contains(node));
    planned.drained && cx.peers.is_none_or(left)
}
