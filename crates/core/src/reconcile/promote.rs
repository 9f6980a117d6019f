//! Who holds a slot is promoted, then serves.

use super::claim::Terms;
use crate::instance::{Phase, RunningHook};
use crate::peers::Hold;
use crate::service::Service;
use crate::slot::{self, REPORT_AFTER};
use crate::{Action, Context, Reason, SlotWrite};
use model::{HookKind, InstanceId, Role, RunId};
use std::sync::Arc;

impl Service {
    /// Slots that are held but not promoted yet.
    pub(super) fn promote(&mut self, cx: &mut Context<'_>) {
        for index in 0..self.slots.len() {
            self.arm_adopted(index, cx);
            let slot::Phase::Promoting { holder } = &self.slots[index].phase else {
                continue;
            };
            if !self.is_driven(&self.slots[index]) {
                continue;
            }
            let holder = holder.clone();
            let epoch = self.slots[index].epoch();
            let declared = Arc::clone(&self.declared);
            let source = self.source_of_cold(index);
            let hooks = self
                .instances
                .get(&holder)
                .and_then(|holder| self.earlier_hooks(holder));
            let Some(instance) = self.instances.get_mut(&holder) else {
                continue;
            };
            let because = Reason::Claimed { epoch };
            let cold_start = matches!(instance.phase, Phase::Prepared { .. });
            if is_armed(&declared, cx) && (cold_start || instance.is_fit()) {
                let slot = &mut self.slots[index];
                if slot.armed != Some((epoch, true)) {
                    if slot.armed.is_none_or(|(asked, _)| asked != epoch) {
                        slot.armed = Some((epoch, false));
                        let run = RunId(instance.run.0 + u64::from(cold_start));
                        let action = Action::Arm {
                            instance: holder,
                            run,
                            slot: slot.id.clone(),
                            epoch,
                            // Who only claimed it may never have had its address.
                            takes_over: slot.before.is_some() && slot.data.is_some(),
                            moves: slot
                                .takeover
                                .as_ref()
                                .is_some_and(|takeover| takeover.because.is_move()),
                        };
                        cx.decide(action, because);
                    }
                    continue;
                }
            }
            if let Phase::Prepared { .. } = instance.phase {
                instance.begin_run(&source, cx.now, because.clone());
                instance.started_at = Some(epoch);
                instance.acts = true;
                let (run, node) = (instance.run, instance.node.clone());
                cx.decide(
                    Action::Start {
                        instance: holder,
                        run,
                        node,
                        role: Role::Active,
                        epoch: Some(epoch),
                        earlier: source.earlier(),
                    },
                    because,
                );
                continue;
            }
            if !instance.is_fit() || instance.hook.is_some() {
                continue;
            }
            instance.demote = None;
            let by_hook = declared.on_promote.is_some() && instance.started_at != Some(epoch);
            if by_hook && instance.promoted != Some(epoch) {
                instance.acts = true;
                instance.hook = Some(RunningHook {
                    kind: HookKind::Promote,
                    epoch,
                });
                // Whoever knows its address may write to it from here on, whatever becomes of the hook.
                if declared.listen.is_none() {
                    self.slots[index].data = Some((holder.clone(), epoch));
                }
                let run = instance.run;
                cx.decide(
                    Action::RunHook {
                        instance: holder,
                        run,
                        hook: HookKind::Promote,
                        epoch,
                        active: None,
                        earlier: hooks,
                    },
                    because,
                );
                continue;
            }
            instance.promoted = Some(epoch);
            instance.acts = true;
            if self.is_marked(index, cx) {
                self.serve(index, &holder, cx);
            }
        }
    }

    /// An active that an earlier agent promoted is armed anew: the guard may be another one by now.
    fn arm_adopted(&mut self, index: usize, cx: &mut Context<'_>) {
        let slot = &mut self.slots[index];
        let (Some(holder), epoch) = (slot.serving().cloned(), slot.epoch()) else {
            return;
        };
        let asked = slot.armed.is_some_and(|(asked, _)| asked == epoch);
        let undriven = cx.peers.is_some() && slot.driven.is_none();
        if undriven || asked || cx.now < slot.arm_again.1 || !is_armed(&self.declared, cx) {
            return;
        }
        let Some(run) = self.instances.get(&holder).map(|instance| instance.run) else {
            return;
        };
        slot.armed = Some((epoch, false));
        let action = Action::Arm {
            instance: holder,
            run,
            slot: slot.id.clone(),
            epoch,
            takes_over: true,
            moves: false,
        };
        cx.decide(action, Reason::Adopted);
    }

    /// In a cluster it is written that the holder was promoted before clients reach it: from then on it may have what nobody else has,
    /// and should its node be lost, others must know.
    fn is_marked(&mut self, index: usize, cx: &mut Context<'_>) -> bool {
        let Some(peers) = cx.peers else {
            return true;
        };
        let Some(record) = self.slots[index].record.clone() else {
            return false;
        };
        if record.served {
            return true;
        }
        if self.slots[index].marking.is_some() || !self.slots[index].may_write(cx.now) || peers.session.is_none() {
            return false;
        }
        let terms = Terms::of(cx.peers, &record.node, &Hold::Ours, Some(&record));
        let attempt = cx.next_attempt();
        let slot = &mut self.slots[index];
        slot.marking = Some(attempt);
        let write = SlotWrite {
            slot: slot.id.clone(),
            attempt,
            expect: record.revision,
            held: true,
            holder: record.holder.clone(),
            placed: None,
            node: record.node,
            epoch: record.epoch,
            served: true,
            data: slot.data.clone(),
            served_before: None,
            previous: Some(record.holder),
            claims: false,
            session: record.session,
            sessions: terms.sessions,
            condemn: None,
            begun: match &slot.takeover {
                Some(takeover) => Some(takeover.begun(cx.now)),
                None => slot.told.as_ref().map(|(_, begun)| begun.clone()),
            },
        };
        let because = slot.taken_because().unwrap_or(&slot.because).clone();
        cx.decide(Action::Write(write), because);
        false
    }

    fn serve(&mut self, index: usize, holder: &InstanceId, cx: &mut Context<'_>) {
        let slot = &mut self.slots[index];
        let epoch = slot.epoch();
        let old = slot.routed.replace((holder.clone(), epoch));
        slot.planned = None;
        slot.data = Some((holder.clone(), epoch));
        let because = slot.taken_because().cloned().unwrap_or(Reason::PromotedAt { epoch });
        slot.set(slot::Phase::Serving { holder: holder.clone() }, cx.now, because);
        if let Some(takeover) = &mut slot.takeover {
            takeover.promoted = Some(cx.now);
            slot.report_at = Some(cx.now + REPORT_AFTER);
        } else {
            slot.promotion_went_well();
        }
        if let Some((old, old_epoch)) = old.filter(|(old, _)| old != holder)
            && (self.declared.on_demote.is_some() || !self.declared.exclusive)
            && let Some(old) = self.instances.get_mut(&old)
        {
            old.stands_by(self.declared.on_demote.is_some().then_some(old_epoch));
        }
        if let Some(instance) = self.instances.get_mut(holder) {
            instance.since = cx.now;
            instance.because = Reason::PromotedAt { epoch };
        }
        if self.declared.check.is_some() {
            cx.decide(
                Action::ProbeNow {
                    instance: holder.clone(),
                    standby: false,
                },
                Reason::PromotedAt { epoch },
            );
        }
        self.refresh_bound();
        self.look_again = true;
    }
}

/// Whether something has to be done for an active before it acts: the guard of a cluster, a floating address.
fn is_armed(declared: &model::Service, cx: &Context<'_>) -> bool {
    declared.exclusive && (cx.peers.is_some() || declared.address.is_some())
}
