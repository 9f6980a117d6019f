//! I12: a proxy never sends clients of a slot to a lower epoch than before.

use super::{Invariant, Moment};
use crate::cluster::records::NodeIx;
use crate::cluster::world::World;
use model::{Epoch, ServiceName};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(crate) struct RoutedEpochsRise {
    last: BTreeMap<(NodeIx, u32, ServiceName, u32), Epoch>,
}

impl Invariant for RoutedEpochsRise {
    fn name(&self) -> &'static str {
        "I12"
    }

    fn observe(&mut self, world: &World, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Routed(ix, service) = moment else {
            return Ok(());
        };
        let node = world.node(*ix);
        let Some(route) = node.routes.get(*service) else {
            return Ok(());
        };
        for target in &route.targets {
            let key = (*ix, node.boot, (*service).clone(), target.slot);
            let last = self.last.entry(key).or_default();
            if target.epoch < *last {
                return Err(format!(
                    "the proxy of n{ix:04} sends clients of {service} to epoch {} after {last}",
                    target.epoch
                ));
            }
            *last = target.epoch;
        }
        Ok(())
    }
}
