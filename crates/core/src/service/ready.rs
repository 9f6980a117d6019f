//! Who could take over.

use super::Service;
use crate::instance::{Instance, Phase};
use crate::slot::Slot;
use model::{Health, InstanceId, Timestamp};
use std::collections::BTreeMap;

impl Service {
    /// Whether an instance that is not active could take over now; if not, why.
    pub(crate) fn readiness(&self, instance: &Instance) -> Result<(), String> {
        let needed = || self.me.is_some() && self.slots.iter().any(|slot| slot.waits_for_data_of(&instance.id));
        if instance.retiring && !needed() {
            return Err("it is being removed".into());
        }
        if let Some((why, _)) = &instance.unfenced {
            return Err(format!("it may not act on its node: {why}"));
        }
        if self.is_cold() {
            return match &instance.phase {
                Phase::Prepared { .. } => Ok(()),
                Phase::Running if self.bound.contains_key(&instance.id) => Ok(()),
                // It was active and is fit to be so again, unless it is being demoted.
                Phase::Running if instance.acts && instance.demote.is_none() && instance.hook.is_none() => Ok(()),
                _ => Err(instance.because.to_string()),
            };
        }
        if !instance.is_fit() {
            return Err(match instance.health {
                Health::Unhealthy => instance.because.to_string(),
                _ => format!("{}: {}", instance.health, instance.because),
            });
        }
        let slot = self.bound.get(&instance.id).and_then(|index| self.slots.get(*index));
        let needs_nothing = self.declared.on_follow.is_none() && self.declared.standby_check.is_none();
        if needs_nothing || slot.is_some_and(|slot| slot.concerns(&instance.id)) {
            return Ok(());
        }
        // Nobody has newer data.
        if self.slots.iter().any(|slot| slot.waits_for_data_of(&instance.id)) {
            return Ok(());
        }
        self.has_all_data(instance)
    }

    /// Whether an instance may lack what the last active had.
    pub(crate) fn follows(&self) -> bool {
        self.declared.on_follow.is_some() || self.declared.standby_check.is_some()
    }

    /// Whether an instance that was not active has what the last active had; if not, why.
    pub(crate) fn has_all_data(&self, instance: &Instance) -> Result<(), String> {
        // Before there was ever an active there is nothing to follow. And on one machine only the operator takes away who has the data:
        // then he begins anew. Among several, who is not known here may be known elsewhere.
        let served = self.leader().and_then(|leader| leader.data.as_ref());
        let Some((holder, epoch)) =
            served.filter(|(holder, _)| self.me.is_some() || self.instances.contains_key(holder))
        else {
            return Ok(());
        };
        // Whoever served last has it, and nobody else before another one serves: also while one is being promoted who may not succeed.
        if *holder == instance.id {
            return Ok(());
        }
        if self.declared.on_follow.is_some() && instance.followed != Some(*epoch) {
            return Err(format!("it does not follow {holder} yet"));
        }
        if self.declared.standby_check.is_some() {
            return match &instance.standby_check {
                Some(Ok(())) => Ok(()),
                Some(Err(what)) => Err(format!("its standby check fails: {what}")),
                None => Err("its standby check has not answered yet".into()),
            };
        }
        Ok(())
    }

    /// The slot whose holder the standbys follow: the first that is served.
    pub(crate) fn leader(&self) -> Option<&Slot> {
        let served = |slot: &&Slot| slot.serving().is_some() && slot.planned.is_none();
        self.slots.iter().find(served).or_else(|| self.slots.first())
    }

    /// Instances that could take over now, best first. A slot whose claims were not answered clearly may ask its own again.
    pub(crate) fn failover_order(&self, slot: Option<usize>, now: Timestamp) -> Vec<InstanceId> {
        let mut busy: BTreeMap<&model::NodeName, u32> = BTreeMap::new();
        for id in self.bound.keys() {
            if let Some(instance) = self.instances.get(id) {
                *busy.entry(&instance.node).or_default() += 1;
            }
        }
        let mut ready: Vec<&Instance> = self
            .instances
            .values()
            .filter(|instance| self.is_free_for(slot, &instance.id) && self.readiness(instance).is_ok())
            .collect();
        // Until what is declared has worked, whoever runs from what did is the better one.
        let unproven = self.unproven().is_some();
        ready.sort_by_key(|instance| {
            (
                instance.is_flapping(now),
                instance.current == unproven,
                busy.get(&instance.node).copied().unwrap_or(0),
                instance.recent_deaths(now),
                instance.id.number(),
            )
        });
        ready.into_iter().map(|instance| instance.id.clone()).collect()
    }

    fn is_free_for(&self, slot: Option<usize>, id: &InstanceId) -> bool {
        let unclear_here = |index: usize| {
            slot == Some(index)
                && self
                    .slots
                    .get(index)
                    .is_some_and(|slot| slot.unclear.contains(id) && !slot.concerns(id))
        };
        self.bound.get(id).is_none_or(|index| unclear_here(*index)) && !self.acts_for_another(slot, id)
    }

    /// Whether it may still act for a slot that it lost: until it was demoted or has ended it takes no other exclusive one.
    fn acts_for_another(&self, slot: Option<usize>, id: &InstanceId) -> bool {
        let acts = |instance: &Instance| instance.acts && instance.has_process();
        let had = |index: usize| self.slots.get(index).is_some_and(|slot| slot.last_holder() == Some(id));
        self.declared.exclusive && self.instances.get(id).is_some_and(acts) && !slot.is_none_or(had)
    }

    pub(crate) fn unready_standbys(&self) -> Vec<String> {
        self.instances
            .values()
            .filter(|instance| !self.bound.contains_key(&instance.id))
            .filter_map(|instance| Some(format!("{}: {}", instance.id, self.readiness(instance).err()?)))
            .collect()
    }

    /// Slots whose clients reach somebody who passes its checks: during a shared slot's handover, the old holder.
    pub(crate) fn serving(&self) -> u32 {
        let fit = |slot: &&Slot| {
            let holder = slot.routed.as_ref().and_then(|(holder, _)| self.instances.get(holder));
            holder.is_some_and(Instance::is_fit)
        };
        let declared = self.slots.iter().take(self.declared.active as usize);
        u32::try_from(declared.filter(fit).count()).unwrap_or(u32::MAX)
    }

    pub(crate) fn ready_standbys(&self) -> u32 {
        let ready = |instance: &&Instance| !self.bound.contains_key(&instance.id) && self.readiness(instance).is_ok();
        u32::try_from(self.instances.values().filter(ready).count()).unwrap_or(u32::MAX)
    }

    /// Of those that serve or are ready, how many nobody has looked at since the agent came back.
    pub(crate) fn unchecked(&self) -> u32 {
        let serves = |id: &InstanceId| {
            let mut slots = self.slots.iter().take(self.declared.active as usize);
            slots.any(|slot| slot.routed.as_ref().is_some_and(|(routed, _)| routed == id))
        };
        let counts = |instance: &&Instance| {
            if !instance.unchecked && !instance.standby_unchecked {
                return false;
            }
            let waits = !self.bound.contains_key(&instance.id) && self.readiness(instance).is_ok();
            waits || (instance.unchecked && instance.is_fit() && serves(&instance.id))
        };
        u32::try_from(self.instances.values().filter(counts).count()).unwrap_or(u32::MAX)
    }

    /// Smallest number of instances whose failure takes it down, given what has failed already. Who was not looked at since the agent came
    /// back does not count, but for one of those that serve: that they do not was not seen either.
    pub(crate) fn distance(&self) -> u32 {
        let serving = self.serving();
        let need = self.need();
        if serving < need {
            return 0;
        }
        let there = (serving + self.ready_standbys()).saturating_sub(self.unchecked());
        there.saturating_sub(need) + 1
    }
}
