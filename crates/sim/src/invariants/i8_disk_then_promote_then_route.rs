//! I8: the claim is on disk before the promote hook runs (or an active is started), and that is through before clients come.

use super::{Invariant, Moment};
use crate::world::truth::Truth;
use decisions::{Action, RouteTarget};
use model::{Epoch, HookKind, InstanceId, Role, ServiceName, SlotId};

#[derive(Debug)]
pub(crate) struct DiskThenPromoteThenRoute;

impl Invariant for DiskThenPromoteThenRoute {
    fn name(&self) -> &'static str {
        "I8"
    }

    fn observe(&mut self, truth: &Truth, moment: &Moment<'_>) -> Result<(), String> {
        match moment {
            Moment::Decided(decision) => match &decision.action {
                Action::RunHook {
                    instance,
                    hook: HookKind::Promote,
                    epoch,
                    ..
                }
                | Action::Start {
                    instance,
                    role: Role::Active,
                    epoch: Some(epoch),
                    ..
                } => on_disk(truth, instance, *epoch),
                Action::Route { service, targets, .. } => {
                    targets.iter().try_for_each(|target| promoted(truth, service, target))
                }
                _ => Ok(()),
            },
            Moment::Acts {
                instance, slot, epoch, ..
            } => {
                let claimed = truth.store.claims.get(&((*slot).clone(), *epoch));
                if claimed == Some(instance) {
                    return Ok(());
                }
                Err(format!(
                    "{instance} acts for {slot} at epoch {epoch}, which it never claimed"
                ))
            }
            _ => Ok(()),
        }
    }
}

fn on_disk(truth: &Truth, instance: &InstanceId, epoch: Epoch) -> Result<(), String> {
    if truth.store.held_by(instance).any(|known| known.epoch == epoch) {
        return Ok(());
    }
    Err(format!(
        "{instance} is promoted at epoch {epoch}, but the store does not say that it holds a slot at it"
    ))
}

fn promoted(truth: &Truth, service: &ServiceName, target: &RouteTarget) -> Result<(), String> {
    let (instance, epoch) = (&target.instance, target.epoch);
    let slot = SlotId {
        service: service.clone(),
        slot: target.slot,
    };
    if truth.store.claims.get(&(slot, epoch)) != Some(instance) {
        return Err(format!(
            "clients are sent to {instance} at epoch {epoch}, which it never claimed"
        ));
    }
    let Some(process) = truth.process(instance).filter(|process| process.main) else {
        // It died a moment ago: whoever comes finds nobody.
        return Ok(());
    };
    let Some(declared) = truth.declared.get(service) else {
        return Ok(());
    };
    let by_itself = Truth::was_told(process, declared);
    // Promoted anew in place, it may be further than the news of it.
    let acts = process
        .acting
        .is_some_and(|acting| Truth::acts_for(declared, acting, target.slot, epoch.max(acting.epoch)));
    if acts || !by_itself {
        return Ok(());
    }
    Err(format!(
        "clients are sent to {instance}, which is not promoted at epoch {epoch}"
    ))
}
