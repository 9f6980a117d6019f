//! No two copies where one must be, none where the file keeps it away, and no node with more than it has: by what the store says.

use super::{Invariant, Moment};
use crate::cluster::records::{Change, Key, NodeIx, Value};
use crate::cluster::world::World;
use model::{InstanceId, Spread};

#[derive(Debug)]
pub(crate) struct PlacedAsDeclared;

impl Invariant for PlacedAsDeclared {
    fn name(&self) -> &'static str {
        "placed as declared"
    }

    fn observe(&mut self, world: &World, moment: &Moment<'_>) -> Result<(), String> {
        let Moment::Committed(Change::Put(entry)) = moment else {
            return Ok(());
        };
        let (Key::Instance(id), Value::Instance { node, retiring: false }) = (&entry.key, &*entry.value) else {
            return Ok(());
        };
        let Some(declared) = world.declared.get(id.service()) else {
            return Ok(());
        };
        // It was placed before, and forgotten while its node was away. A node writes such a record again for a process of its own that has
        // a slot, or may have one: that says what runs and has the data, and places nothing. No controller can, for the number is gone. Nor
        // does it stand against what a controller places who has not heard of it yet.
        let came_back = |id: &InstanceId| world.server.model.get(&Key::Gone(id.clone())).is_some();
        if came_back(id) {
            return Ok(());
        }
        let placed: Vec<_> = world.placed().into_iter().filter(|(id, ..)| !came_back(id)).collect();
        let name = &world.node(*node).name;
        if !declared.may_be_on(name) {
            return Err(format!("{id} is placed on {name}, where the file does not want it"));
        }
        let zone = |ix: NodeIx| match declared.spread {
            Spread::Zone if !world.node(ix).place.zone.is_empty() => world.node(ix).place.zone.clone(),
            _ => world.node(ix).name.to_string(),
        };
        if declared.spread != Spread::Prefer {
            let near = |(other, ix, retiring): &(InstanceId, NodeIx, bool)| {
                other.service() == id.service() && other != id && !retiring && zone(*ix) == zone(*node)
            };
            if let Some((other, ..)) = placed.iter().find(|other| near(other)) {
                return Err(format!("{id} and {other} are both placed in {}", zone(*node)));
            }
        }
        let room = world.node(*node).place.memory_bytes;
        let here = placed.iter().filter(|(_, ix, _)| ix == node);
        let kept: u64 = here
            .filter_map(|(other, ..)| Some(world.declared.get(other.service())?.reserve.memory_bytes))
            .sum();
        if room > 0 && declared.reserve.memory_bytes > 0 && kept > room {
            return Err(format!("with {id} instances on {name} reserve {kept} of {room} bytes"));
        }
        Ok(())
    }
}
