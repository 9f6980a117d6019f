//! What an agent that came (back) up finds of a service.

use super::Service;
use crate::instance::{Instance, Phase};
use crate::slot;
use crate::{Adopted, Decision, Reason, SlotKnown};
use model::{
    Addressing, Health, InstanceId, Limits, Logs, Millis, Protocol, Restart, ServiceName, Spread, StandbyMode, Stop,
    StopSignal, Timestamp,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

impl Service {
    /// A service that is no longer declared, and of which something is left: an earlier agent died while it took it away.
    pub(crate) fn left_over(name: ServiceName, now: Timestamp) -> Self {
        let mut service = Self::new(name, undeclared(), now);
        service.removed = true;
        service
    }

    pub(crate) fn recover_slot(&mut self, known: SlotKnown, now: Timestamp) {
        let index = known.slot.slot as usize;
        self.grow_slots(index, now);
        self.epoch = self.epoch.max(known.epoch);
        let slot = &mut self.slots[index];
        // What runs of its holder is compared with it when that is found.
        slot.driven = (known.held && self.me.as_ref() == Some(&known.node)).then_some(known.epoch);
        slot.told = Some((known.because.clone(), known.begun.clone().unwrap_or_default()));
        slot.know(known);
        self.is_new = false;
    }

    pub(crate) fn route_known(&mut self, revision: u64) {
        self.route_revision = self.route_revision.max(revision);
        self.fronted = true;
    }

    pub(crate) fn recover_instance(&mut self, adopted: Adopted, now: Timestamp) {
        self.numbers_used(adopted.instance.number());
        let id = adopted.instance.clone();
        let (running, promoted, healthy) = (adopted.running, adopted.promoted, adopted.healthy);
        let acted = adopted.acts.or(promoted);
        let mut instance = Instance::adopted(adopted, now);
        if !running && self.is_cold() {
            instance.current = true;
            instance.ran_earlier = false;
        }
        if running && instance.current {
            instance.launched_from = Some(Arc::clone(&self.declared));
        }
        let check_worked = self
            .worked
            .as_ref()
            .is_none_or(|worked| worked.check == self.declared.check);
        if running && healthy && self.declared.check.is_some() && !check_worked {
            instance.check_untried = Some(now);
        }
        if running && healthy {
            instance.unchecked = self.declared.check.is_some();
            instance.standby_unchecked =
                promoted.is_none() && instance.standby_check.is_some() && self.declared.standby_check.is_some();
            instance.because = match &self.declared.check {
                _ if promoted.is_some() => Reason::PromotedAt {
                    epoch: promoted.unwrap_or_default(),
                },
                Some(_) => Reason::ChecksPass { instance: id.clone() },
                None => Reason::LivesWithoutCheck {
                    after: crate::instance::SETTLE,
                },
            };
        }
        if running && !healthy {
            let deadline = now + self.declared.start_timeout.duration();
            let started = Phase::Starting {
                started: true,
                deadline,
            };
            instance.set(started, Health::Starting, now, Reason::Adopted);
        }
        instance.acts = promoted.is_some();
        // A hook told it its epoch, or others follow it at that epoch.
        let epoch_matters = self.declared.on_promote.is_some() || self.declared.on_follow.is_some();
        let mut holds = false;
        for slot in &mut self.slots {
            let Some(record) = slot.record.clone().filter(|record| record.held && record.holder == id) else {
                continue;
            };
            if running && record.served {
                // Others were sent to it when that was written, whatever the earlier agent noted.
                instance.served_as = Some(instance.run);
            }
            if !running {
                slot.begin_takeover(false, Reason::HolderGone { instance: id.clone() }, now);
                slot.confirm_dead(now);
            } else if promoted == Some(record.epoch) && healthy && self.me.is_some() && !record.served {
                // Among several machines clients are sent to it when it is written that it was promoted.
                holds = true;
                slot.set(slot::Phase::Promoting { holder: id.clone() }, now, Reason::Adopted);
            } else if promoted == Some(record.epoch) && !healthy {
                // A cold start that the earlier agent began.
                holds = true;
                slot.set(slot::Phase::Promoting { holder: id.clone() }, now, Reason::Adopted);
            } else if promoted == Some(record.epoch) {
                holds = true;
                slot.routed = Some((id.clone(), record.epoch));
                // As it was written: since then, and because of that. Agents of before wrote only that it was free.
                let vacant = format!("slot {} is vacant", slot.id.slot);
                let told = slot.told.as_ref().map(|(what, _)| what.clone());
                let because = match told.filter(|what| !what.is_empty() && *what != vacant) {
                    Some(what) => Reason::Told { what },
                    None => Reason::PromotedAt { epoch: record.epoch },
                };
                let serving = slot::Phase::Serving { holder: id.clone() };
                slot.set(serving, record.since.min(now), because);
            } else if !healthy {
                // It seems to have been started as a standby after it had lost its slot, and never to have been fit to be promoted.
                // But a cold one acts from its first instruction, and checks come and go with files: before somebody else has an
                // exclusive slot, it is waited for.
                slot.begin_takeover(false, Reason::HolderGone { instance: id.clone() }, now);
                if self.declared.exclusive {
                    holds = true;
                    instance.acts = true;
                } else {
                    slot.confirm_dead(now);
                }
            } else if epoch_matters || (self.me.is_some() && self.declared.exclusive) {
                // Its hook was not begun, or nobody noted that it was through; or it is another process than the one that
                // was promoted. It claims its slot anew, for no epoch reaches two processes.
                holds = true;
                instance.acts = true;
                slot.set(slot::Phase::Vacant, now, Reason::Adopted);
            } else {
                holds = true;
                instance.acts = true;
                slot.set(slot::Phase::Promoting { holder: id.clone() }, now, Reason::Adopted);
            }
        }
        // It lost its slot, and the earlier agent died before it was demoted: or within the hook that would have promoted it.
        if !holds && instance.phase == Phase::Running && self.declared.on_demote.is_some() {
            instance.demote = acted;
        }
        if !holds {
            // Among several machines its slot may have been taken elsewhere while no agent was here: it is an active nevertheless.
            let stray = self.me.is_some() && self.declared.exclusive && running && acted.is_some();
            instance.promoted = None;
            instance.acts = instance.demote.is_some() || stray;
        }
        self.instances.insert(id, instance);
    }

    /// In a cluster: what an earlier agent promoted, and what holds no slot any more, is ended where no hook demotes it.
    pub(crate) fn end_strays(&mut self, now: Timestamp, out: &mut VecDeque<Decision>) {
        if self.me.is_none() || !self.declared.exclusive {
            return;
        }
        let holds = |id: &InstanceId| {
            let held = |slot: &slot::Slot| {
                slot.record
                    .as_ref()
                    .is_some_and(|record| record.held && record.holder == *id)
            };
            self.slots.iter().any(held)
        };
        let strays = self
            .instances
            .values()
            .filter(|instance| self.is_mine(instance) && instance.is_alive());
        let strays = strays.filter(|instance| instance.acts && instance.demote.is_none() && !holds(&instance.id));
        let strays: Vec<InstanceId> = strays.map(|instance| instance.id.clone()).collect();
        for id in strays {
            self.kill(&id, Reason::OwnSessionLost, now, out);
        }
    }
}

/// What is assumed of a service of which nothing is known but that it shall go away: the careful choice each time.
fn undeclared() -> model::Service {
    model::Service {
        command: Vec::new(),
        active: 1,
        standby: 0,
        need: 1,
        exclusive: true,
        standby_mode: StandbyMode::Warm,
        listen: None,
        address: None,
        protocol: Protocol::Tcp,
        addressing: Addressing::None,
        check: None,
        standby_check: None,
        needs: BTreeSet::new(),
        spread: Spread::Prefer,
        nodes: BTreeSet::new(),
        avoid: BTreeSet::new(),
        reserve: model::Reserve::default(),
        on_promote: None,
        on_demote: None,
        on_follow: None,
        env: BTreeMap::new(),
        dir: None,
        user: None,
        limits: Limits::default(),
        start_timeout: Millis(30_000),
        stop: Stop {
            signal: StopSignal::Term,
            timeout: Millis(10_000),
        },
        restart: Restart {
            backoff: Millis(1_000),
            backoff_max: Millis(60_000),
            replace_after: 5,
            give_up_after: 3,
            retry_after: Millis(600_000),
        },
        logs: Logs { max_bytes: 0, keep: 0 },
        drain_timeout: Millis(5_000),
        hold_timeout: Millis(5_000),
        hold_max: 0,
        objective: None,
        fence: model::FenceBy::default(),
        reliability: model::Reliability::default(),
    }
}
