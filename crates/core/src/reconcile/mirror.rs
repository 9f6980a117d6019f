//! In a cluster: slots and instances of other nodes are as the store says, and what is lost with a session is open.

use crate::instance::{Instance, Phase, RunningHook};
use crate::peers::{Hold, Peers, lost_because};
use crate::service::Service;
use crate::slot::{self, REPORT_AFTER};
use crate::view::InstancePhase;
use crate::{Context, Reason, Report, Takeover};
use model::{FenceBy, Health, HookKind, NodeName, Timestamp};

impl Service {
    /// How we stand to a slot.
    pub(crate) fn hold(&self, index: usize, cx: &Context<'_>) -> Hold {
        let Some(peers) = cx.peers else {
            return Hold::Ours;
        };
        match self.slots[index].record.as_ref().filter(|record| record.held) {
            Some(record) => {
                let session = record.session.unwrap_or_default();
                match self.declared.fence {
                    FenceBy::Lease => peers.hold(&record.node, session),
                    FenceBy::Power => peers.hold_proven(&record.node, session),
                }
            }
            None => Hold::Open(None),
        }
    }

    /// Brings what others decide about up to date.
    pub(super) fn mirror(&mut self, cx: &mut Context<'_>) {
        for instance in self.instances.values_mut() {
            if instance.unfenced.as_ref().is_some_and(|(_, until)| cx.now >= *until) {
                instance.unfenced = None;
            }
        }
        let Some(peers) = cx.peers else {
            return;
        };
        for instance in self.instances.values_mut().filter(|instance| instance.node != peers.me) {
            hear_of(instance, peers, cx.now);
        }
        // Who gave it to us went by what it had heard: since then our instance may have been started anew, without the data.
        for slot in &mut self.slots {
            let given = slot.record.as_ref().filter(|record| record.node == peers.me);
            if let Some(holder) = given.map(|record| record.holder.clone()) {
                let process = self.instances.get(&holder).filter(|holder| holder.has_process());
                slot.compare_process(process.map(|holder| holder.run));
            }
        }
        for index in 0..self.slots.len() {
            if matches!(
                self.slots[index].phase,
                slot::Phase::Claiming { .. } | slot::Phase::Clearing { .. }
            ) {
                continue;
            }
            let Some(record) = self.slots[index].record.clone() else {
                continue;
            };
            match self.hold(index, cx) {
                _ if !record.held => self.slot_is_open(index, Reason::Released, cx.now),
                Hold::Ours => self.slot_is_ours(index, cx.now),
                Hold::Theirs => self.slot_is_theirs(index, cx.now),
                Hold::Unproven => self.slot_is_unproven(index, record.node, cx.now),
                Hold::Open(_) => {
                    let since = peers.silent_since(&record.node, record.session);
                    if let Some(since) = since.filter(|_| index == 0 && self.slots[index].phase != slot::Phase::Vacant)
                    {
                        self.judge_as_of(since);
                    }
                    let because = if record.node == peers.me {
                        Reason::OwnSessionLost
                    } else {
                        lost_because(peers, &record.node)
                    };
                    self.slot_is_open(index, because, cx.now);
                }
            }
        }
        self.refresh_bound();
        self.stand_by();
    }

    /// A shared active of ours whose slot is held elsewhere by now is a standby.
    fn stand_by(&mut self) {
        if self.declared.exclusive {
            return;
        }
        let (me, demotes) = (self.me.clone(), self.declared.on_demote.is_some());
        for instance in self
            .instances
            .values_mut()
            .filter(|instance| instance.acts && instance.is_alive())
        {
            let free = !self.bound.contains_key(&instance.id) && !self.held.contains_key(&instance.id);
            if free && me.as_ref() == Some(&instance.node) && instance.demote.is_none() && instance.hook.is_none() {
                instance.stands_by(instance.promoted.filter(|_| demotes));
            }
        }
    }

    /// Somebody gave it to an instance of ours, if we do not know it yet.
    fn slot_is_ours(&mut self, index: usize, now: Timestamp) {
        let slot = &mut self.slots[index];
        let Some(record) = slot.record.clone().filter(|record| slot.driven != Some(record.epoch)) else {
            return;
        };
        slot.driven = Some(record.epoch);
        slot.planned = None;
        if slot.spent == Some(record.epoch) {
            // We have our session again before anybody else took the slot: it is claimed anew, for no epoch reaches two processes.
            slot.set(slot::Phase::Vacant, now, Reason::OwnSessionLost);
            return;
        }
        let had = slot.data.as_ref().is_some_and(|(holder, _)| *holder == record.holder) || record.served;
        if self.follows() && !had && !self.is_cold() {
            let holder = self.instances.get(&record.holder);
            if let Some(what) = holder.and_then(|holder| self.has_all_data(holder).err()) {
                self.slots[index].set(slot::Phase::Vacant, now, Reason::NotReady { what });
                return;
            }
        }
        let slot = &mut self.slots[index];
        let (what, begun) = slot.told.clone().unwrap_or_default();
        let because = Reason::HandedOver { because: what };
        slot.takeover = None;
        slot.begin_takeover(begun.planned, because.clone(), now - begun.ago.duration());
        if let Some(takeover) = &mut slot.takeover {
            takeover.to = record.holder.clone();
            takeover.epoch = record.epoch;
            takeover.confirmed = Some(now);
            takeover.claimed = Some(now);
            takeover.from = begun.from;
        }
        let holder = record.holder;
        if slot.routed.as_ref().is_some_and(|(routed, _)| *routed != holder) && self.declared.exclusive {
            slot.routed = None;
        }
        slot.set(slot::Phase::Promoting { holder }, now, because);
    }

    /// Held elsewhere: clients are sent to it when it was promoted.
    fn slot_is_theirs(&mut self, index: usize, now: Timestamp) {
        let exclusive = self.declared.exclusive;
        let demotes = self.declared.on_demote.is_some();
        let slot = &mut self.slots[index];
        let Some(record) = slot.record.clone() else {
            return;
        };
        slot.driven = None;
        slot.planned = None;
        slot.turn_at = None;
        // A claim that was not answered said that its holder's session is gone. It is there: so the claim was refused, or comes so late that it
        // will be heard of as that of another. Meanwhile the store refuses whom it was for a second slot.
        slot.unclear.clear();
        let holder = record.holder;
        let acts = record.served && self.instances.get(&holder).is_some_and(Instance::is_alive);
        let (what, begun) = slot.told.clone().unwrap_or_default();
        if !acts {
            if begun.planned {
                slot.begin_takeover(true, Reason::Told { what: what.clone() }, now);
            }
            if slot.bound() != Some(&holder) || slot.serving().is_some() {
                slot.set(slot::Phase::Promoting { holder }, now, Reason::Told { what });
            }
            if exclusive {
                slot.routed = None;
            }
            return;
        }
        if self.instances.get(&holder).is_some_and(|holder| holder.leaving) {
            // It is about to be handed over: new requests wait here as they do there.
            slot.routed = None;
            slot.begin_takeover(true, Reason::LeavesAsPlanned { instance: holder }, now);
            return;
        }
        if slot.serving() == Some(&holder) && slot.routed.as_ref() == Some(&(holder.clone(), record.epoch)) {
            return;
        }
        // Who stands still for want of a session has no role to give up: it goes on, or it is ended.
        let kept = slot.kept.as_ref().map(|kept| kept.instance.clone());
        let old = slot.routed.replace((holder.clone(), record.epoch));
        slot.set(
            slot::Phase::Serving { holder: holder.clone() },
            record.since.min(now),
            Reason::Told { what },
        );
        // It was about to be handed over, and its holder keeps it.
        let stays = |takeover: &mut Takeover| takeover.planned && takeover.from.as_ref() == Some(&holder);
        slot.takeover.take_if(stays);
        if let Some(takeover) = &mut slot.takeover {
            takeover.to = holder.clone();
            takeover.epoch = record.epoch;
            takeover.planned = begun.planned;
            takeover.from = begun.from;
            takeover.promoted.get_or_insert(now);
            slot.report_at.get_or_insert(now + REPORT_AFTER);
        }
        slot.promotion_went_well();
        if let Some((old, old_epoch)) = old.filter(|(old, _)| *old != holder && kept.as_ref() != Some(old))
            && let Some(old) = self.instances.get_mut(&old).filter(|old| old.acts)
            && self.me.as_ref() == Some(&old.node)
            // Without a hook nothing makes a standby of it: it acts until it has ended, with our session or before.
            && (demotes || !exclusive)
        {
            old.stands_by(demotes.then_some(old_epoch));
        }
    }

    /// Its holder is lost with its node, which may still write: clients wait, and so do we.
    fn slot_is_unproven(&mut self, index: usize, node: NodeName, now: Timestamp) {
        let slot = &mut self.slots[index];
        let because = Reason::AwaitsPowerOff { node };
        slot.driven = None;
        slot.planned = None;
        slot.turn_at = None;
        slot.routed = None;
        let Some(holder) = slot.record.as_ref().map(|record| record.holder.clone()) else {
            return;
        };
        if slot.because != because {
            slot.begin_takeover(false, because.clone(), now);
            slot.set(slot::Phase::Promoting { holder }, now, because);
        }
    }

    /// Nobody may act for it any more.
    fn slot_is_open(&mut self, index: usize, because: Reason, now: Timestamp) {
        let slot = &mut self.slots[index];
        slot.spent = slot.driven.take().or(slot.spent);
        if slot.phase == slot::Phase::Vacant {
            return;
        }
        let released = because == Reason::Released;
        slot.begin_takeover(false, because.clone(), now);
        slot.confirm_dead(now);
        slot.planned = None;
        slot.turn_at = None;
        if !released || self.declared.exclusive {
            slot.routed = None;
        }
        slot.set(slot::Phase::Vacant, now, because);
    }
}

/// An instance of another node is what its node says, as long as that has its session.
fn hear_of(instance: &mut Instance, peers: &Peers, now: Timestamp) {
    let told = instance.told.take();
    let holds = told
        .as_ref()
        .filter(|told| peers.lives(&instance.node) && told.session == peers.session_of(&instance.node));
    match holds {
        Some(told) => hear(instance, told),
        None if !peers.lives(&instance.node) => lose(instance, peers, now),
        None => {
            if instance.is_alive() {
                lose(instance, peers, now);
            }
        }
    }
    instance.told = told;
}

fn lose(instance: &mut Instance, peers: &Peers, now: Timestamp) {
    let phase = Phase::Waiting {
        until: Timestamp::NEVER,
    };
    if instance.phase == phase && instance.health == Health::Down && instance.lost_with_node {
        return;
    }
    instance.lost_with_node = true;
    instance.leaving = false;
    instance.acts = false;
    instance.promoted = None;
    instance.followed = instance.followed.take();
    instance.hook = None;
    instance.standby_check = None;
    instance.proved = None;
    instance.set(phase, Health::Down, now, lost_because(peers, &instance.node));
}

fn hear(instance: &mut Instance, told: &Report) {
    let never = Timestamp::NEVER;
    instance.lost_with_node = false;
    instance.leaving = told.leaving;
    instance.run = told.run;
    instance.phase = match told.phase {
        InstancePhase::Waiting => Phase::Waiting { until: never },
        InstancePhase::Prepared => Phase::Prepared { again: never },
        InstancePhase::Starting => Phase::Starting {
            started: true,
            deadline: never,
        },
        InstancePhase::Running => Phase::Running,
        InstancePhase::Stopping => Phase::Stopping,
        InstancePhase::Failed => Phase::Failed { retry: never },
    };
    instance.health = told.health;
    instance.acts = told.acts;
    instance.promoted = told.promoted;
    if told.served {
        instance.served_as = Some(told.run);
    }
    instance.followed = told.followed;
    instance.standby_check = told.stands_by.clone();
    instance.proved = told.proved.clone();
    instance.hook = told.busy.then(|| RunningHook {
        kind: HookKind::Follow,
        epoch: told.followed.unwrap_or_default(),
    });
    instance.unfenced = told.unfenced.clone().map(|why| (why, never));
    instance.current = told.current;
    instance.told_deaths = told.deaths as usize;
    instance.restarts = told.restarts;
    instance.since = told.since;
    instance.because = Reason::Told {
        what: told.because.clone(),
    };
    instance.last_failure = told.last_failure.clone();
    instance.last_end = told.last_end.clone();
}

/// Which node may claim an open slot now, and until when the others wait for it.
pub(super) fn turn(
    order: &[model::InstanceId],
    node_of: impl Fn(&model::InstanceId) -> Option<NodeName>,
    peers: &Peers,
    since: Timestamp,
) -> Option<(model::InstanceId, Timestamp)> {
    // A node of which several instances are in line has its turn with the first of them.
    let mut before: Vec<NodeName> = Vec::new();
    for id in order {
        let Some(node) = node_of(id) else { continue };
        if node == peers.me {
            let rank = u32::try_from(before.len()).unwrap_or(u32::MAX);
            return Some((id.clone(), since + peers.stagger.saturating_mul(rank)));
        }
        if !before.contains(&node) {
            before.push(node);
        }
    }
    None
}
