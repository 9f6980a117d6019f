//! What must always hold.

use crate::NodeId;
use crate::world::{Broken, Instance, LEASE, Node, World};

/// A property and its name.
pub type Named = (&'static str, fn(&World) -> bool);

/// All of safety, and what of liveness can be said of a single state.
pub const ALWAYS: [Named; 14] = [
    ("I1n: at most one active per slot with its gate open", one_acts),
    ("I1x: at most one active per slot executes", one_executes),
    ("I2: epochs rise, and each is started once", |world| {
        !world.has(Broken::Epoch)
    }),
    ("I4: what acts is covered by an acknowledged renewal", acting_is_covered),
    ("I5: nothing is committed for a session that has ended", |world| {
        !world.has(Broken::DeadSession)
    }),
    (
        "I5: a session is ended by others only when its lease is over",
        |world| !world.has(Broken::CondemnedAlive),
    ),
    ("I6: what is released is silent", released_is_silent),
    ("I7: an instance holds at most one slot", one_slot_each),
    ("I8: what acts is armed", acting_is_armed),
    (
        "I11: what the guard has killed acts only at a new epoch",
        killed_stays_killed,
    ),
    ("T11: a parked slot gets no holder", |world| {
        !world.has(Broken::ParkedTaken)
    }),
    (
        "store: epochs of the store and of what acts agree",
        acting_epoch_is_known,
    ),
    ("L1: a holder that hears no answer stops renewing", |world| {
        !world.has(Broken::Unheard)
    }),
    ("L4: after an outage nobody who can renew is replaced", |world| {
        !world.has(Broken::Replaced)
    }),
];

fn one_acts(world: &World) -> bool {
    let acting: Vec<_> = world.nodes.iter().filter_map(Node::acting).collect();
    (acting.iter().enumerate()).all(|(at, held)| acting[..at].iter().all(|other| other.slot != held.slot))
}

/// What stood still with its whole machine may overlap until its guard gets at it, within J + K.
fn one_executes(world: &World) -> bool {
    let executing: Vec<_> = world.nodes.iter().filter_map(Node::executing).collect();
    (executing.iter().enumerate()).all(|(at, (held, stood))| {
        (executing[..at].iter()).all(|(other, other_stood)| other.slot != held.slot || *stood || *other_stood)
    })
}

fn acting_is_covered(world: &World) -> bool {
    world.nodes.iter().all(|node| {
        node.acting().is_none_or(|held| {
            (node.truth).is_some_and(|(session, sent)| session == held.session && node.clock < sent + LEASE)
        })
    })
}

fn released_is_silent(world: &World) -> bool {
    world.nodes.iter().filter_map(Node::executing).all(|(held, stood)| {
        let slot = &world.store.slots[usize::from(held.slot)];
        stood || slot.holder.is_some() || held.epoch > slot.epoch
    })
}

fn one_slot_each(world: &World) -> bool {
    (0..).zip(&world.store.sessions).all(|(node, session): (NodeId, _)| {
        let Some(session) = session else { return true };
        let holds = |slot: &&crate::Slot| slot.holder == Some((node, session.created));
        world.store.slots.iter().filter(holds).count() <= 1
    })
}

fn acting_is_armed(world: &World) -> bool {
    world
        .nodes
        .iter()
        .all(|node| node.acting().is_none() || node.guard.is_some())
}

fn killed_stays_killed(world: &World) -> bool {
    world.nodes.iter().all(|node| match node.instance {
        Instance::Running(held) => !world.killed.contains(&(held.slot, held.epoch)),
        _ => true,
    })
}

fn acting_epoch_is_known(world: &World) -> bool {
    (world.nodes.iter().filter_map(Node::acting))
        .all(|held| held.epoch <= world.store.slots[usize::from(held.slot)].epoch)
}
