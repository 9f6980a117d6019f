//! The reconciler: looks at a whole service and decides what is to be done next. Safe to run twice.

use crate::instance::{Instance, Phase, RunningHook, SETTLE};
use crate::service::Service;
use crate::slot::{self, REPORT_AFTER, Slot, Stage};
use crate::{Action, Context, Decision, NodeState, Note, NoteKind, Reason, RouteTarget, SlotWrite, epoch_after};
use model::{Health, HookKind, InstanceId, Millis, NodeName, Role, ServiceState, SlotId, Spread, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// An unhealthy active that nobody can replace is restarted after this many times the span in which it was found unhealthy,
/// and not before [`RESTART_UNHEALTHY_MIN`]: slow is not dead.
const RESTART_UNHEALTHY_FACTOR: u32 = 3;
const RESTART_UNHEALTHY_MIN: Duration = Duration::from_secs(5);
/// So many promotions in a row may fail before the next one waits.
const PROMOTIONS_FREE: u32 = 2;
const PROMOTION_WAIT: Duration = Duration::from_secs(1);
const PROMOTION_WAIT_MAX: Duration = Duration::from_secs(60);

impl Service {
    pub(crate) fn reconcile(&mut self, cx: &mut Context<'_>) {
        self.refresh_bound();
        self.lose_slots(cx);
        self.after_end(cx);
        let winding_down = self.removed || (cx.stopping && !cx.needed);
        if winding_down {
            self.wind_down(cx);
        } else if !cx.paused {
            self.watch(cx);
            self.lose_slots(cx);
            self.count(cx);
            self.planned(cx);
            self.claim(cx);
            self.promote(cx);
            self.follow(cx);
            if !cx.stopping {
                self.move_on(cx);
            }
            self.start(cx);
        }
        if !winding_down {
            self.send_route(cx);
        }
        self.report(cx);
        self.judge(cx);
        self.wakeup = self.next_wakeup(cx);
    }

    /// Slots whose holder does not run any more.
    fn lose_slots(&mut self, cx: &mut Context<'_>) {
        for index in 0..self.slots.len() {
            let (holder, was_promoting) = match &self.slots[index].phase {
                slot::Phase::Serving { holder } => (holder.clone(), false),
                slot::Phase::Promoting { holder } => (holder.clone(), true),
                _ => continue,
            };
            let slot = &mut self.slots[index];
            let instance = self.instances.get(&holder);
            let cold_start_due = was_promoting
                && self.declared.standby_mode == model::StandbyMode::Cold
                && instance.is_some_and(|instance| matches!(instance.phase, Phase::Prepared { .. }));
            if cold_start_due || instance.is_some_and(Instance::is_alive) {
                continue;
            }
            if slot
                .planned
                .as_ref()
                .is_some_and(|planned| planned.stage == Stage::Stopping)
                && instance.is_some_and(|instance| instance.phase == Phase::Stopping)
            {
                continue;
            }
            let because = match instance {
                Some(instance) => instance.because.clone(),
                None => Reason::HolderGone {
                    instance: holder.clone(),
                },
            };
            // Died before it answered anybody: the promotion itself may be what kills.
            let unproven = was_promoting
                || slot
                    .takeover
                    .as_ref()
                    .is_some_and(|takeover| takeover.promoted.is_some());
            slot.begin_takeover(false, because.clone(), cx.now);
            if let Some(takeover) = &mut slot.takeover {
                (takeover.claimed, takeover.promoted, takeover.routed, takeover.answered) = (None, None, None, None);
            }
            slot.report_at = None;
            slot.awaits_route = None;
            slot.routed = None;
            if let Some(planned) = &mut slot.planned {
                planned.stage = Stage::Clear;
            }
            if unproven {
                slot.failed_promotions = slot.failed_promotions.saturating_add(1);
                let over = slot.failed_promotions.saturating_sub(PROMOTIONS_FREE);
                if over > 0 {
                    let factor = 1_u32.checked_shl(over - 1).unwrap_or(u32::MAX);
                    let wait = PROMOTION_WAIT.saturating_mul(factor).min(PROMOTION_WAIT_MAX);
                    slot.claim_after = cx.now + wait;
                    let wait = Millis(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
                    let because = Reason::PromotionsFailed {
                        times: slot.failed_promotions,
                        wait,
                    };
                    cx.out.push_back(Decision::note(
                        Note::about_service(NoteKind::PromotionsFail, self.name.clone()),
                        because,
                    ));
                }
            }
            let still_there = instance.is_some_and(Instance::has_process);
            if self.declared.exclusive && still_there {
                slot.set(slot::Phase::Releasing, cx.now, because);
            } else {
                slot.confirm_dead(cx.now);
                slot.set(slot::Phase::Vacant, cx.now, because);
            }
        }
        self.refresh_bound();
    }

    /// What follows the end of an instance: another start, a replacement, or giving up.
    fn after_end(&mut self, cx: &mut Context<'_>) {
        let ended: Vec<InstanceId> = self
            .instances
            .values()
            .filter(|instance| instance.phase == Phase::Ended)
            .map(|instance| instance.id.clone())
            .collect();
        for id in ended {
            let keeps_data = self.keeps_data(&id);
            let Some(instance) = self.instances.get_mut(&id) else {
                continue;
            };
            if instance.retiring {
                self.instances.remove(&id);
                cx.decide(
                    Action::Forget { instance: id },
                    Reason::TooMany {
                        wanted: self.declared.wanted(),
                    },
                );
                continue;
            }
            if instance.planned_stop || cx.stopping || self.removed {
                let because = instance.because.clone();
                instance.set(Phase::Waiting { until: cx.now }, Health::Down, cx.now, because);
                continue;
            }
            let was_healthy = instance.was_healthy;
            let restart = &self.declared.restart;
            let flapped = instance.is_flapping(cx.now);
            let wait = instance.count_failure(was_healthy, restart, cx.seed, cx.now);
            if !flapped && instance.is_flapping(cx.now) {
                let because = instance.because.clone();
                cx.out.push_back(Decision::note(
                    Note::about_instance(NoteKind::Flapping, &id, &instance.node),
                    because,
                ));
            }
            let starts = instance.failed_starts;
            if starts < restart.replace_after {
                let because = match wait {
                    Duration::ZERO => instance.because.clone(),
                    wait => Reason::BackOff {
                        wait: Millis(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
                        failures: starts.max(u32::try_from(instance.recent_deaths(cx.now)).unwrap_or(u32::MAX)),
                    },
                };
                instance.set(Phase::Waiting { until: cx.now + wait }, Health::Down, cx.now, because);
                continue;
            }
            let because = Reason::NeverHealthy { starts };
            if !keeps_data && self.replacements < restart.give_up_after {
                self.replacements += 1;
                cx.out.push_back(Decision::note(
                    Note::about_instance(NoteKind::Replaced, &id, &instance.node),
                    because.clone(),
                ));
                self.instances.remove(&id);
                cx.decide(Action::Forget { instance: id }, because);
                continue;
            }
            let because = if keeps_data {
                because
            } else {
                Reason::ReplacementsFailed {
                    replacements: self.replacements,
                }
            };
            let retry = cx.now + restart.retry_after.duration();
            // One failed start at that time gives it up again, without five more.
            instance.failed_starts = restart.replace_after - 1;
            instance.set(Phase::Failed { retry }, Health::Down, cx.now, because.clone());
            cx.out.push_back(Decision::note(
                Note::about_instance(NoteKind::GivenUp, &id, &instance.node),
                because,
            ));
        }
    }

    /// A replacement begins with an empty folder, so whoever may have the only copy of the data is never replaced.
    fn keeps_data(&self, id: &InstanceId) -> bool {
        (self.declared.exclusive || self.declared.on_follow.is_some())
            && self.slots.iter().any(|slot| slot.last_holder() == Some(id))
    }

    /// The service goes away, or everything stops.
    fn wind_down(&mut self, cx: &mut Context<'_>) {
        let because = if self.removed {
            Reason::NotDeclared
        } else {
            Reason::DownAsked
        };
        if self.declared.listen.is_some() && !self.unrouted {
            self.unrouted = true;
            self.route = None;
            cx.decide(
                Action::Unroute {
                    service: self.name.clone(),
                },
                because.clone(),
            );
        }
        for slot in &mut self.slots {
            slot.routed = None;
            slot.takeover = None;
            slot.report_at = None;
            if let Some((request, _)) = slot.abort_planned() {
                cx.out.push_back(Decision::answer(
                    request,
                    Err(slot::failed("the service is being stopped")),
                ));
            }
        }
        let ids: Vec<InstanceId> = self.instances.keys().cloned().collect();
        for id in ids {
            self.stop(&id, because.clone(), cx.now, cx.out);
            let idle = self.instances.get(&id).is_some_and(|instance| !instance.has_process());
            if idle && self.removed {
                self.instances.remove(&id);
                cx.decide(Action::Forget { instance: id }, because.clone());
            }
        }
        self.lose_slots_quietly(cx);
        for index in 0..self.slots.len() {
            self.release_if_held(index, cx);
        }
    }

    fn lose_slots_quietly(&mut self, cx: &mut Context<'_>) {
        for slot in &mut self.slots {
            let Some(holder) = slot.bound().cloned() else {
                continue;
            };
            let busy = matches!(slot.phase, slot::Phase::Claiming { .. });
            if !busy && !self.instances.get(&holder).is_some_and(Instance::has_process) {
                slot.takeover = None;
                slot.set(slot::Phase::Vacant, cx.now, Reason::HolderGone { instance: holder });
            }
        }
        self.refresh_bound();
    }

    /// Writes a vacant slot as released (I6: only when nothing of its holder runs or it was demoted).
    fn release_if_held(&mut self, index: usize, cx: &mut Context<'_>) {
        let slot = &self.slots[index];
        if slot.phase != slot::Phase::Vacant || cx.now < slot.claim_after {
            return;
        }
        let Some(record) = slot.record.clone().filter(|record| record.held) else {
            return;
        };
        if self
            .instances
            .get(&record.holder)
            .is_some_and(|holder| holder.has_process() && self.declared.exclusive && holder.promoted.is_some())
        {
            return;
        }
        let Some(node) = self.node_of(&record.holder, cx) else {
            return;
        };
        let attempt = cx.next_attempt();
        let write = SlotWrite {
            slot: self.slots[index].id.clone(),
            attempt,
            expect: record.revision,
            held: false,
            holder: record.holder.clone(),
            node,
            epoch: record.epoch,
        };
        let because = Reason::HolderGone {
            instance: record.holder,
        };
        let slot = &mut self.slots[index];
        slot.set(slot::Phase::Clearing { attempt }, cx.now, because.clone());
        cx.decide(Action::Write(write), because);
    }

    fn node_of(&self, id: &InstanceId, cx: &Context<'_>) -> Option<NodeName> {
        self.instances
            .get(id)
            .map(|instance| &instance.node)
            .or_else(|| cx.nodes.keys().next())
            .cloned()
    }

    /// Time-outs of starts and of unhealthy instances.
    fn watch(&mut self, cx: &mut Context<'_>) {
        let ids: Vec<InstanceId> = self.instances.keys().cloned().collect();
        for id in ids {
            let Some(instance) = self.instances.get_mut(&id) else {
                continue;
            };
            match instance.phase {
                Phase::Starting { started: true, .. } if self.declared.check.is_none() => {
                    if cx.now >= instance.since + SETTLE.duration() {
                        instance.became_healthy(cx.now);
                        instance.because = Reason::LivesWithoutCheck { after: SETTLE };
                        self.replacements = 0;
                    }
                }
                Phase::Starting { deadline, .. } if cx.now >= deadline => {
                    let limit = self.declared.start_timeout;
                    let because = Reason::NotHealthyInTime {
                        instance: id.clone(),
                        limit,
                        last: instance.last_failure.clone(),
                    };
                    cx.out.push_back(Decision::note(
                        Note::about_instance(NoteKind::StartFailed, &id, &instance.node),
                        because.clone(),
                    ));
                    self.kill(&id, because, cx.now, cx.out);
                }
                Phase::Failed { retry } if cx.now >= retry => {
                    instance.set(Phase::Waiting { until: cx.now }, Health::Down, cx.now, Reason::RetryDue);
                }
                Phase::Running if instance.health == Health::Unhealthy => self.watch_unhealthy(&id, cx),
                _ => {}
            }
        }
    }

    fn watch_unhealthy(&mut self, id: &InstanceId, cx: &mut Context<'_>) {
        let Some(instance) = self.instances.get(id) else {
            return;
        };
        let last = instance.last_failure.clone().unwrap_or_default();
        let because = Reason::HolderUnhealthy {
            instance: id.clone(),
            last,
        };
        let holds = self.bound.get(id).copied();
        if let Some(index) = holds {
            // Somebody else can take over: a hung active is as good as dead.
            if self.candidate(index, cx.now, cx).is_some() {
                self.slots[index].begin_takeover(false, because.clone(), cx.now);
                self.kill(id, because, cx.now, cx.out);
                return;
            }
        }
        let due = self.unhealthy_restart_at(id).is_some_and(|at| cx.now >= at);
        // One at a time, and never while what it needs is what fails: a restart would not help.
        let busy = self
            .instances
            .values()
            .any(|other| matches!(other.phase, Phase::Starting { .. } | Phase::Stopping | Phase::Ended));
        if due && !busy && cx.missing.is_none() {
            self.kill(id, because, cx.now, cx.out);
        }
    }

    fn unhealthy_restart_at(&self, id: &InstanceId) -> Option<Timestamp> {
        let since = self.instances.get(id)?.unhealthy_since?;
        let check = self.declared.check.as_ref()?;
        let found_within = check.every.duration() * check.fail_after + check.timeout.duration();
        Some(since + (found_within * RESTART_UNHEALTHY_FACTOR).max(RESTART_UNHEALTHY_MIN))
    }

    /// As many instances as declared, on nodes that are there.
    fn count(&mut self, cx: &mut Context<'_>) {
        let active = self.declared.active as usize;
        while self.slots.len() < active {
            let slot = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
            self.slots.push(Slot::new(
                SlotId {
                    service: self.name.clone(),
                    slot,
                },
                cx.now,
            ));
        }
        while self.slots.len() > active
            && self.slots.last().is_some_and(|slot| {
                slot.phase == slot::Phase::Vacant && slot.record.as_ref().is_none_or(|record| !record.held)
            })
        {
            // Its record stays in the store: should the slot come back, its epochs go on from there.
            self.slots.pop();
        }
        if cx.stopping {
            return;
        }
        self.leave_nodes(cx);
        let wanted = self.declared.wanted() + u32::from(self.surge);
        let counts = |instance: &Instance, cx: &Context<'_>| !instance.retiring && cx.online(&instance.node);
        let mut have =
            u32::try_from(self.instances.values().filter(|instance| counts(instance, cx)).count()).unwrap_or(u32::MAX);
        let mut load: BTreeMap<NodeName, u32> = cx.load.clone();
        while have < wanted {
            let Some(node) = self.place(&load, cx) else {
                self.tell_unplaced(wanted - have, cx);
                break;
            };
            self.numbers += 1;
            let id = InstanceId::new(self.name.clone(), self.numbers);
            let because = Reason::TooFew { have, wanted };
            *load.entry(node.clone()).or_default() += 1;
            let instance = Instance::new(id.clone(), node.clone(), cx.now, because.clone());
            cx.decide(
                Action::Create {
                    instance: id.clone(),
                    node,
                },
                because,
            );
            self.instances.insert(id, instance);
            have += 1;
        }
        if have >= wanted {
            self.told_unplaced = false;
        }
        if have > wanted {
            let surplus = self.surplus(have - wanted, cx);
            for id in surplus {
                self.retire(&id, Reason::TooMany { wanted }, cx);
            }
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
                cx.online(&instance.node) && !self.bound.contains_key(&instance.id) && self.readiness(instance).is_ok()
            })
            .count();
        let spare = ready_elsewhere >= self.declared.standby as usize;
        let leaving: Vec<InstanceId> = self
            .instances
            .values()
            .filter(|instance| {
                !instance.retiring && !cx.online(&instance.node) && !self.bound.contains_key(&instance.id)
            })
            .filter(|instance| match cx.nodes.get(&instance.node).map(|node| node.state) {
                Some(NodeState::Drained) => spare && self.slots.iter().all(|slot| slot.serving().is_some()),
                // Whoever was active last may have the only copy of the data: it waits for its node.
                _ => {
                    !instance.has_process()
                        && !(self.declared.on_follow.is_some() && self.data_only_with(&instance.id, cx.now))
                }
            })
            .map(|instance| instance.id.clone())
            .collect();
        for id in leaving {
            let because = match self.instances.get(&id) {
                Some(instance) => Reason::NodeLost {
                    node: instance.node.clone(),
                },
                None => continue,
            };
            self.retire(&id, because, cx);
        }
    }

    fn data_only_with(&self, id: &InstanceId, now: Timestamp) -> bool {
        self.slots
            .iter()
            .any(|slot| slot.last_holder() == Some(id) && slot.serving().is_none())
            && !self.failover_order(now).iter().any(|other| other != id)
    }

    fn place(&self, load: &BTreeMap<NodeName, u32>, cx: &Context<'_>) -> Option<NodeName> {
        let mut copies: BTreeMap<&NodeName, u32> = BTreeMap::new();
        for instance in self.instances.values().filter(|instance| !instance.retiring) {
            *copies.entry(&instance.node).or_default() += 1;
        }
        let own = |name: &NodeName| copies.get(name).copied().unwrap_or(0);
        cx.nodes
            .keys()
            .filter(|name| cx.online(name))
            .filter(|name| self.declared.spread == Spread::Prefer || own(name) == 0)
            .min_by_key(|name| (own(name), load.get(*name).copied().unwrap_or(0), (*name).clone()))
            .cloned()
    }

    fn tell_unplaced(&mut self, missing: u32, cx: &mut Context<'_>) {
        if !self.told_unplaced {
            self.told_unplaced = true;
            let wanted = format!("{missing} of {} instances find no node", self.declared.wanted());
            cx.out.push_back(Decision::note(
                Note::about_service(NoteKind::Unplaced, self.name.clone()),
                Reason::NoNodeLeft { wanted },
            ));
        }
    }

    /// Whom to remove: who does not run, then outdated ones, then the youngest; never one that holds a slot.
    fn surplus(&self, count: u32, cx: &Context<'_>) -> Vec<InstanceId> {
        let mut free: Vec<&Instance> = self
            .instances
            .values()
            .filter(|instance| {
                !instance.retiring && cx.online(&instance.node) && !self.bound.contains_key(&instance.id)
            })
            .collect();
        free.sort_by_key(|instance| {
            (
                self.readiness(instance).is_ok(),
                instance.current,
                std::cmp::Reverse(instance.id.number()),
            )
        });
        free.into_iter()
            .take(count as usize)
            .map(|instance| instance.id.clone())
            .collect()
    }

    fn retire(&mut self, id: &InstanceId, because: Reason, cx: &mut Context<'_>) {
        let Some(instance) = self.instances.get_mut(id) else {
            return;
        };
        instance.retiring = true;
        if instance.has_process() {
            self.stop(id, because, cx.now, cx.out);
        } else {
            self.instances.remove(id);
            cx.decide(Action::Forget { instance: id.clone() }, because);
        }
    }

    /// Carries planned changes on, and begins those of slots that are no longer declared.
    fn planned(&mut self, cx: &mut Context<'_>) {
        for index in 0..self.slots.len() {
            let surplus = index >= self.declared.active as usize;
            if surplus && self.slots[index].serving().is_some() && self.slots[index].planned.is_none() {
                self.begin_planned(
                    index,
                    None,
                    None,
                    Reason::TooMany {
                        wanted: self.declared.wanted(),
                    },
                    cx.now,
                );
            }
            let slot = &self.slots[index];
            let (Some(planned), Some(holder)) = (slot.planned.clone(), slot.serving().cloned()) else {
                continue;
            };
            if let Stage::Draining { deadline } = planned.stage
                && cx.now >= deadline
            {
                self.keep_from_acting(index, &holder, planned.because, cx);
            }
        }
    }

    /// Clients are away: the holder is demoted by its hook, or stopped where it has none.
    fn keep_from_acting(&mut self, index: usize, holder: &InstanceId, because: Reason, cx: &mut Context<'_>) {
        let epoch = self.slots[index].epoch();
        let demotes = self.declared.on_demote.is_some() && !self.is_cold();
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
                },
                because,
            );
            Stage::Demoting
        } else if self.declared.exclusive || self.is_cold() {
            self.stop(holder, because, cx.now, cx.out);
            Stage::Stopping
        } else {
            // A shared active without a hook is a standby as soon as clients are away.
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

    /// Who takes a slot next.
    fn candidate(&self, index: usize, now: Timestamp, cx: &Context<'_>) -> Option<InstanceId> {
        let wanted = self.slots[index]
            .planned
            .as_ref()
            .and_then(|planned| planned.to.clone());
        let order = self.failover_order(now);
        let here = |id: &&InstanceId| {
            self.instances
                .get(*id)
                .is_some_and(|instance| cx.online(&instance.node))
        };
        let mut order = order.iter().filter(here);
        match wanted {
            Some(to) => order.clone().find(|id| **id == to).or_else(|| order.next()).cloned(),
            None => order.next().cloned(),
        }
    }

    /// Vacant slots are claimed; surplus ones released.
    fn claim(&mut self, cx: &mut Context<'_>) {
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            let surplus = index >= self.declared.active as usize;
            let clear = slot
                .planned
                .as_ref()
                .is_none_or(|planned| planned.stage == Stage::Clear);
            let handover = slot.serving().is_some() && slot.planned.is_some() && clear;
            if surplus && slot.phase == slot::Phase::Vacant {
                self.slots[index].planned = None;
                self.slots[index].takeover = None;
                self.release_if_held(index, cx);
                continue;
            }
            if !(slot.phase == slot::Phase::Vacant || handover) || !clear || cx.now < slot.claim_after {
                continue;
            }
            let Some(to) = self.candidate(index, cx.now, cx) else {
                if handover {
                    self.give_up_handover(index, cx);
                } else if self.slots[index].routed.take().is_some() {
                    // A handover that was not written: who served until now may take the slot again.
                    self.refresh_bound();
                    if let Some(to) = self.candidate(index, cx.now, cx) {
                        self.write_claim(index, to, cx);
                    }
                } else {
                    self.tell_held_back(index, cx);
                }
                continue;
            };
            self.write_claim(index, to, cx);
        }
    }

    fn write_claim(&mut self, index: usize, to: InstanceId, cx: &mut Context<'_>) {
        let Some(node) = self.instances.get(&to).map(|instance| instance.node.clone()) else {
            return;
        };
        let attempt = cx.next_attempt();
        let slot = &mut self.slots[index];
        let epoch = epoch_after(slot.epoch().max(slot.claiming), cx.generation);
        let because = match &slot.takeover {
            Some(takeover) => takeover.because.clone(),
            None => Reason::SlotVacant { slot: slot.id.slot },
        };
        if let Some(takeover) = &mut slot.takeover {
            takeover.to = to.clone();
            takeover.epoch = epoch;
            takeover.confirmed.get_or_insert(cx.now);
        }
        let write = SlotWrite {
            slot: slot.id.clone(),
            attempt,
            expect: slot.record.as_ref().map(|record| record.revision).unwrap_or_default(),
            held: true,
            holder: to.clone(),
            node,
            epoch,
        };
        slot.claiming = epoch;
        slot.told_held_back = false;
        slot.set(
            slot::Phase::Claiming {
                to: to.clone(),
                attempt,
            },
            cx.now,
            because.clone(),
        );
        self.bound.insert(to, index);
        cx.decide(Action::Write(write), because);
    }

    /// The target of a shared slot's switchover is not ready any more; the old holder serves on.
    fn give_up_handover(&mut self, index: usize, cx: &mut Context<'_>) {
        let slot = &mut self.slots[index];
        slot.takeover = None;
        if let Some((request, to)) = slot.abort_planned() {
            let who = to.map_or_else(|| "the target".to_owned(), |to| to.to_string());
            cx.out.push_back(Decision::answer(
                request,
                Err(slot::failed(format!(
                    "{who} is not ready any more; nothing was changed"
                ))),
            ));
        }
    }

    fn tell_held_back(&mut self, index: usize, cx: &mut Context<'_>) {
        let holds_back = self.declared.on_follow.is_some()
            && self
                .instances
                .values()
                .any(|instance| instance.is_fit() && !self.bound.contains_key(&instance.id));
        let slot = &mut self.slots[index];
        let Some(instance) = slot.last_holder().cloned() else {
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

    /// Slots that are held but not promoted yet.
    fn promote(&mut self, cx: &mut Context<'_>) {
        for index in 0..self.slots.len() {
            let slot::Phase::Promoting { holder } = &self.slots[index].phase else {
                continue;
            };
            let holder = holder.clone();
            let epoch = self.slots[index].epoch();
            let declared = Arc::clone(&self.declared);
            let Some(instance) = self.instances.get_mut(&holder) else {
                continue;
            };
            let because = Reason::Claimed { epoch };
            if let Phase::Prepared { .. } = instance.phase {
                instance.begin_run(&declared, cx.now, because.clone());
                let (run, node) = (instance.run, instance.node.clone());
                cx.decide(
                    Action::Start {
                        instance: holder,
                        run,
                        node,
                        role: Role::Active,
                        epoch: Some(epoch),
                    },
                    because,
                );
                continue;
            }
            if !instance.is_fit() || instance.hook.is_some() {
                continue;
            }
            let warm = declared.standby_mode == model::StandbyMode::Warm;
            if declared.on_promote.is_some() && warm && instance.promoted != Some(epoch) {
                instance.hook = Some(RunningHook {
                    kind: HookKind::Promote,
                    epoch,
                });
                let run = instance.run;
                cx.decide(
                    Action::RunHook {
                        instance: holder,
                        run,
                        hook: HookKind::Promote,
                        epoch,
                        active: None,
                    },
                    because,
                );
                continue;
            }
            instance.promoted = Some(epoch);
            self.serve(index, &holder, cx);
        }
    }

    fn serve(&mut self, index: usize, holder: &InstanceId, cx: &mut Context<'_>) {
        let slot = &mut self.slots[index];
        let epoch = slot.epoch();
        let old = slot.routed.replace((holder.clone(), epoch));
        slot.planned = None;
        let because = match &slot.takeover {
            Some(takeover) => takeover.because.clone(),
            None => Reason::PromotedAt { epoch },
        };
        slot.set(slot::Phase::Serving { holder: holder.clone() }, cx.now, because);
        if let Some(takeover) = &mut slot.takeover {
            takeover.promoted = Some(cx.now);
            slot.report_at = Some(cx.now + REPORT_AFTER);
        } else {
            slot.failed_promotions = 0;
        }
        if let Some((old, old_epoch)) = old.filter(|(old, _)| old != holder)
            && self.declared.on_demote.is_some()
            && let Some(old) = self.instances.get_mut(&old)
        {
            old.demote = Some(old_epoch);
        }
        if let Some(instance) = self.instances.get_mut(holder) {
            instance.since = cx.now;
            instance.because = Reason::PromotedAt { epoch };
        }
        if self.declared.check.is_some() {
            cx.decide(
                Action::ProbeNow {
                    instance: holder.clone(),
                },
                Reason::PromotedAt { epoch },
            );
        }
        self.refresh_bound();
    }

    /// Standbys follow the (new) active; old shared actives are demoted when their clients have gone.
    fn follow(&mut self, cx: &mut Context<'_>) {
        let demoted: Vec<InstanceId> = self
            .instances
            .values()
            .filter(|instance| instance.demote.is_some() && instance.is_fit() && instance.hook.is_none())
            .filter(|instance| !self.draining.contains_key(&instance.id) && !self.bound.contains_key(&instance.id))
            .filter(|instance| {
                self.route
                    .as_ref()
                    .is_none_or(|route| route.iter().all(|target| target.instance != instance.id))
            })
            .map(|instance| instance.id.clone())
            .collect();
        for id in demoted {
            let Some(instance) = self.instances.get_mut(&id) else {
                continue;
            };
            let Some(epoch) = instance.demote.take() else {
                continue;
            };
            instance.hook = Some(RunningHook {
                kind: HookKind::Demote,
                epoch,
            });
            let run = instance.run;
            cx.decide(
                Action::RunHook {
                    instance: id,
                    run,
                    hook: HookKind::Demote,
                    epoch,
                    active: None,
                },
                Reason::StandbyByRole,
            );
        }
        if self.declared.on_follow.is_none() || self.is_cold() {
            return;
        }
        let Some(leader) = self.slots.iter().find(|slot| slot.serving().is_some()) else {
            return;
        };
        if leader.planned.is_some() {
            return;
        }
        let Some((active, epoch)) = leader.active().map(|(active, epoch)| (active.clone(), epoch)) else {
            return;
        };
        for instance in self.instances.values_mut() {
            let free = instance.is_fit() && instance.hook.is_none() && instance.demote.is_none() && !instance.retiring;
            if !free
                || self.bound.contains_key(&instance.id)
                || instance.followed == Some(epoch)
                || cx.now < instance.follow_again
            {
                continue;
            }
            instance.hook = Some(RunningHook {
                kind: HookKind::Follow,
                epoch,
            });
            // Its last standby check was about the active before.
            instance.standby_check = None;
            let because = Reason::NewActive {
                instance: active.clone(),
                epoch,
            };
            let action = Action::RunHook {
                instance: instance.id.clone(),
                run: instance.run,
                hook: HookKind::Follow,
                epoch,
                active: Some(active.clone()),
            };
            cx.out.push_back(Decision { action, because });
        }
    }

    /// One step of a rollout, or of emptying a node: one instance at a time, and only from a state that can bear it.
    fn move_on(&mut self, cx: &mut Context<'_>) {
        let outdated: Vec<InstanceId> = self
            .instances
            .values()
            .filter(|i| !i.current && i.is_alive() && !i.retiring)
            .map(|i| i.id.clone())
            .collect();
        if outdated.is_empty() && self.was_rolling {
            self.was_rolling = false;
            self.surge = false;
            cx.out.push_back(Decision::note(
                Note::about_service(NoteKind::RolloutDone, self.name.clone()),
                Reason::AllReplaced,
            ));
        }
        self.was_rolling |= !outdated.is_empty();
        let misplaced = |service: &Self, slot: &Slot| {
            let node = slot
                .serving()
                .and_then(|holder| service.instances.get(holder))
                .map(|instance| &instance.node);
            node.is_some_and(|node| !cx.online(node))
        };
        let moves = (0..self.slots.len()).find(|index| misplaced(self, &self.slots[*index]));
        if outdated.is_empty() && moves.is_none() {
            return;
        }
        let calm = self
            .slots
            .iter()
            .all(|slot| slot.serving().is_some() && slot.planned.is_none() && slot.takeover.is_none())
            && cx.missing.is_none()
            && !self
                .instances
                .values()
                .any(|instance| instance.phase == Phase::Stopping || instance.hook.is_some());
        if !calm {
            return;
        }
        // A broken one loses nothing by being replaced first.
        if let Some(broken) = outdated
            .iter()
            .find(|id| self.instances.get(id).is_some_and(|i| !i.is_fit()) && !self.bound.contains_key(id))
        {
            self.stop(broken, Reason::RolloutNeeds, cx.now, cx.out);
            return;
        }
        let settled = self
            .instances
            .values()
            .filter(|i| i.current && cx.online(&i.node))
            .all(|i| self.bound.contains_key(&i.id) || self.readiness(i).is_ok());
        if !settled {
            return;
        }
        if let Some(index) = moves {
            let to = self.candidate(index, cx.now, cx);
            if to.is_some() {
                self.begin_planned(index, to, None, Reason::DrainAsked, cx.now);
            }
            return;
        }
        if let Some(standby) = outdated.iter().find(|id| !self.bound.contains_key(id)) {
            self.stop(&standby.clone(), Reason::RolloutNeeds, cx.now, cx.out);
            return;
        }
        let Some(index) = outdated.iter().find_map(|id| self.bound.get(id).copied()) else {
            return;
        };
        let ready = self
            .candidate(index, cx.now, cx)
            .filter(|id| self.instances.get(id).is_some_and(|i| i.current));
        match ready {
            Some(to) => self.begin_planned(index, Some(to), None, Reason::RolloutNeeds, cx.now),
            None if self.declared.standby == 0 && !self.surge => {
                self.surge = true;
                self.count(cx);
            }
            None => {}
        }
    }

    /// Starts what waits and may start.
    fn start(&mut self, cx: &mut Context<'_>) {
        if cx.stopping {
            return;
        }
        let declared = Arc::clone(&self.declared);
        let cold = self.is_cold();
        for instance in self.instances.values_mut() {
            let due = match instance.phase {
                Phase::Waiting { until } => cx.now >= until,
                Phase::Prepared { again } => cold && cx.now >= again && !self.bound.contains_key(&instance.id),
                _ => false,
            };
            if !due || instance.retiring || !cx.online(&instance.node) {
                continue;
            }
            if let Some(need) = &cx.missing {
                instance.because = Reason::WaitsForNeed { need: need.clone() };
                continue;
            }
            let (id, node) = (instance.id.clone(), instance.node.clone());
            if cold {
                instance.phase = Phase::Preparing;
                cx.out.push_back(Decision {
                    action: Action::Prepare { instance: id, node },
                    because: Reason::ColdStandby,
                });
                continue;
            }
            let because = match &instance.because {
                Reason::WaitsForNeed { .. } => Reason::NeedsAreUp,
                because => because.clone(),
            };
            instance.begin_run(&declared, cx.now, because.clone());
            let run = instance.run;
            let action = Action::Start {
                instance: id,
                run,
                node,
                role: Role::Standby,
                epoch: None,
            };
            cx.out.push_back(Decision { action, because });
        }
    }

    /// Tells the proxy where clients go, if that changed.
    fn send_route(&mut self, cx: &mut Context<'_>) {
        if self.declared.listen.is_none() {
            return;
        }
        self.unrouted = false;
        let alive = |id: &InstanceId| self.instances.get(id).is_some_and(Instance::is_alive);
        let fit = |id: &InstanceId| self.instances.get(id).is_some_and(Instance::is_fit);
        let any_fit = self
            .slots
            .iter()
            .filter_map(|slot| slot.routed.as_ref())
            .any(|(id, _)| fit(id));
        let targets: Vec<RouteTarget> = self
            .slots
            .iter()
            .filter_map(|slot| Some((slot.id.slot, slot.routed.as_ref()?)))
            // A sick active gets no clients while a fit one can take them.
            .filter(|(_, (id, _))| if any_fit { fit(id) } else { alive(id) })
            .map(|(slot, (instance, epoch))| RouteTarget {
                slot,
                instance: instance.clone(),
                epoch: *epoch,
            })
            .collect();
        if self.route.as_ref() == Some(&targets) {
            return;
        }
        let drain = self.drain();
        for old in self.route.iter().flatten() {
            if targets.iter().all(|target| target.instance != old.instance) {
                let goes_on = fit(&old.instance);
                self.draining
                    .insert(old.instance.clone(), if goes_on { drain } else { Millis(0) });
            }
        }
        self.draining
            .retain(|id, _| targets.iter().all(|target| target.instance != *id));
        self.route_revision += 1;
        for slot in &mut self.slots {
            let carried = slot
                .routed
                .as_ref()
                .is_some_and(|(id, _)| targets.iter().any(|target| target.instance == *id));
            if carried
                && slot
                    .takeover
                    .as_ref()
                    .is_some_and(|takeover| takeover.promoted.is_some() && takeover.routed.is_none())
            {
                slot.awaits_route.get_or_insert(self.route_revision);
            }
        }
        let because = Reason::Serving {
            serving: u32::try_from(targets.len()).unwrap_or(u32::MAX),
            active: self.declared.active,
            ready: self.ready_standbys(),
            standby: self.declared.standby,
        };
        let leaving = self.draining.iter().map(|(id, drain)| (id.clone(), *drain)).collect();
        self.route = Some(targets.clone());
        cx.decide(
            Action::Route {
                service: self.name.clone(),
                revision: self.route_revision,
                targets,
                leaving,
            },
            because,
        );
    }

    /// Tells takeovers that are complete.
    fn report(&mut self, cx: &mut Context<'_>) {
        let has_route = self.declared.listen.is_some();
        let has_answer = has_route || self.declared.check.is_some();
        for slot in &mut self.slots {
            let Some(takeover) = &slot.takeover else {
                continue;
            };
            if slot.serving().is_none() || takeover.promoted.is_none() {
                continue;
            }
            let complete = (takeover.routed.is_some() || !has_route) && (takeover.answered.is_some() || !has_answer);
            if !complete && slot.report_at.is_none_or(|at| cx.now < at) {
                continue;
            }
            let takeover = takeover.clone();
            slot.takeover = None;
            slot.report_at = None;
            slot.awaits_route = None;
            slot.failed_promotions = 0;
            if let Some(request) = slot.takeover_request.take() {
                cx.out.push_back(Decision::answer(request, Ok(takeover.clone())));
            }
            let because = takeover.because.clone();
            cx.out.push_back(Decision {
                action: Action::Report(takeover),
                because,
            });
        }
    }

    /// Whether it is redundant, degraded or down.
    fn judge(&mut self, cx: &mut Context<'_>) {
        let (serving, ready) = (self.serving(), self.ready_standbys());
        let declared = &self.declared;
        let state = if serving < declared.need {
            ServiceState::Down
        } else if serving >= declared.active && ready >= declared.standby {
            ServiceState::Redundant
        } else {
            ServiceState::Degraded
        };
        let because = match &cx.missing {
            Some(need) if state == ServiceState::Down => Reason::WaitsForNeed { need: need.clone() },
            _ => Reason::Serving {
                serving,
                active: declared.active,
                ready: ready.min(declared.standby),
                standby: declared.standby,
            },
        };
        if state != self.state || !self.told_state {
            // Coming up is not news of an outage.
            let news = self.told_state || state != ServiceState::Down;
            self.state = state;
            self.state_since = cx.now;
            if news {
                self.told_state = true;
                cx.out.push_back(Decision::note(
                    Note::about_service(NoteKind::ServiceState(state), self.name.clone()),
                    because.clone(),
                ));
            }
        }
        self.state_because = because;
    }

    /// When this service wants to be looked at again, at the latest.
    fn next_wakeup(&self, cx: &Context<'_>) -> Option<Timestamp> {
        if cx.paused {
            return self.slots.iter().filter_map(|slot| slot.report_at).min();
        }
        let of_instance = |instance: &Instance| match instance.phase {
            Phase::Waiting { until } if cx.missing.is_none() && cx.online(&instance.node) && until > cx.now => {
                Some(until)
            }
            Phase::Prepared { again } if !self.bound.contains_key(&instance.id) && again > cx.now => Some(again),
            Phase::Starting { started: true, .. } if self.declared.check.is_none() => {
                Some(instance.since + SETTLE.duration())
            }
            Phase::Starting { deadline, .. } => Some(deadline),
            Phase::Failed { retry } => Some(retry),
            Phase::Running if instance.health == Health::Unhealthy => self
                .unhealthy_restart_at(&instance.id)
                .map(|at| at.max(cx.now + Duration::from_secs(1))),
            Phase::Running if instance.follow_again > cx.now => Some(instance.follow_again),
            _ => None,
        };
        let of_slot = |slot: &Slot| {
            let draining = slot.planned.as_ref().and_then(|planned| match planned.stage {
                Stage::Draining { deadline } => Some(deadline),
                Stage::Clear if slot.serving().is_some() => Some(cx.now),
                _ => None,
            });
            let claim = (slot.claim_after > cx.now && slot.phase == slot::Phase::Vacant).then_some(slot.claim_after);
            [slot.report_at, draining, claim].into_iter().flatten().min()
        };
        self.instances
            .values()
            .filter_map(of_instance)
            .chain(self.slots.iter().filter_map(of_slot))
            .min()
    }
}
