//! I1: per slot of an exclusive service at most one active is reached by clients, and at most one runs. After its machine or its guard
//! stood still, user code may run on for J + K; traffic never.

use super::{Invariant, Moment};
use crate::cluster::machine::acts_by_itself;
use crate::cluster::world::World;
use model::{InstanceId, ServiceName};

#[derive(Debug)]
pub(crate) struct OneActive;

impl Invariant for OneActive {
    fn name(&self) -> &'static str {
        "I1"
    }

    fn observe(&mut self, world: &World, moment: &Moment<'_>) -> Result<(), String> {
        match moment {
            Moment::Acts(id) => judge(world, id.service()),
            Moment::Look => world.declared.keys().try_for_each(|service| judge(world, service)),
            _ => Ok(()),
        }
    }
}

fn judge(world: &World, service: &ServiceName) -> Result<(), String> {
    if world.declared.get(service).is_none_or(|declared| !declared.exclusive) {
        return Ok(());
    }
    let mut reached: Vec<(u32, &InstanceId)> = Vec::new();
    let mut running: Vec<(u32, &InstanceId)> = Vec::new();
    for (id, inst) in world.of(service) {
        let Some(process) = &inst.process else { continue };
        let Some(acting) = process.acting else { continue };
        let node = world.node(inst.node);
        if !node.paused && world.gate_is_open(id, inst) {
            if let Some((_, other)) = reached.iter().find(|(slot, _)| *slot == acting.slot) {
                return Err(format!(
                    "clients reach both {other} and {id} as slot {} of {service}",
                    acting.slot
                ));
            }
            reached.push((acting.slot, id));
        }
        if world.executes(inst) && acts_by_itself(&process.from) && !world.is_excused(id, inst) {
            if let Some((_, other)) = running.iter().find(|(slot, _)| *slot == acting.slot) {
                return Err(format!(
                    "both {other} and {id} run as slot {} of {service}",
                    acting.slot
                ));
            }
            running.push((acting.slot, id));
        }
    }
    Ok(())
}
