//! Who is told to go for being one too many is one too many: by what the store says when that is written, as many are left as the file declares.

use super::{Invariant, Moment};
use crate::cluster::records::{Change, Key, Value};
use crate::cluster::world::World;
use decisions::{Action, Reason};
use model::InstanceId;
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub(crate) struct EnoughAreLeft {
    too_many: BTreeSet<InstanceId>,
}

impl Invariant for EnoughAreLeft {
    fn name(&self) -> &'static str {
        "enough are left"
    }

    fn observe(&mut self, world: &World, moment: &Moment<'_>) -> Result<(), String> {
        match moment {
            Moment::Decided(_, decision) => {
                if let (Action::Retire { instance, .. }, because) = (&decision.action, &decision.because) {
                    match because {
                        Reason::TooMany { .. } => self.too_many.insert(instance.clone()),
                        // It is to leave its node, or was replaced while that was away.
                        _ => self.too_many.remove(instance),
                    };
                }
                Ok(())
            }
            Moment::Committed(Change::Put(entry)) => match (&entry.key, &*entry.value) {
                (Key::Instance(id), Value::Instance { retiring: true, .. }) if self.too_many.remove(id) => {
                    judge(world, id)
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

fn judge(world: &World, id: &InstanceId) -> Result<(), String> {
    let Some(declared) = world.declared.get(id.service()) else {
        return Ok(());
    };
    let placed = world.placed();
    let left = placed
        .iter()
        .filter(|(other, _, retiring)| other.service() == id.service() && !retiring);
    let (left, wanted) = (left.count(), declared.wanted() as usize);
    match left < wanted {
        true => Err(format!(
            "{id} is told to go as one too many, and {left} of {wanted} are left"
        )),
        false => Ok(()),
    }
}
