//! A node that reaches nobody for longer than its session lives, and whose slot nobody could take: the same process goes on.

use super::measure::world;
use super::records::Key;
use super::run::settle;
use super::world::World;
use model::{Epoch, Profile, Revision, RunId, ServiceName, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

/// What became of an active whose node was cut off.
#[derive(Debug, Clone)]
pub struct CutOff {
    /// Its session was ended by others.
    pub condemned: bool,
    /// The process and epoch that served before, and that do after.
    pub before: (RunId, Epoch),
    /// See above; nothing if nobody serves.
    pub after: Option<(RunId, Epoch)>,
    /// From the end of the cut until clients could be answered again.
    pub back: Option<Duration>,
    /// A promise that was broken.
    pub violation: Option<crate::Violation>,
}

/// Cuts the node of the only copy of a database off for `span`, and looks what becomes of it. Nothing if it did not even come up.
pub fn cut_off(profile: Profile, span: Duration, seed: u64) -> Option<CutOff> {
    let name = ServiceName::new("db").ok()?;
    let only = model::Service {
        standby: 0,
        ..super::blueprint::database(7_000)
    };
    let mut world = world(seed, BTreeMap::from([(name.clone(), only)]), 3, profile, true);
    settle(&mut world);
    let pause = Duration::from_millis(3_000 + world.rng.u64(0..1_000));
    world.run_until(world.now + pause);
    let (ix, before) = serving(&world, &name)?;
    let session = world.held(&name).first()?.session;
    cut(&mut world, ix, true);
    world.run_until(world.now + span);
    let condemned =
        world.held(&name).first().is_some_and(|slot| slot.session == session) && !lives(&world, ix, session);
    cut(&mut world, ix, false);
    let began = world.now;
    let back = until_served(&mut world, &name, began);
    Some(CutOff {
        condemned,
        before,
        after: serving(&world, &name).map(|(_, after)| after),
        back,
        violation: world.violation.clone(),
    })
}

fn until_served(world: &mut World, name: &ServiceName, began: Timestamp) -> Option<Duration> {
    while world.now < began + Duration::from_secs(30) && world.violation.is_none() {
        world.run_until(world.now + Duration::from_millis(1));
        let answers = |(ix, _): (u16, _)| {
            let slot = world.held(name).first().map(|slot| slot.session);
            let bound = slot.is_some_and(|session| lives(world, ix, session));
            let holder = world.held(name).first().map(|slot| slot.holder.clone());
            let process = holder.as_ref().and_then(|holder| world.process(holder));
            bound && process.is_some_and(|process| process.main && !process.frozen)
        };
        if serving(world, name).is_some_and(answers) {
            return Some(world.now.since(began));
        }
    }
    None
}

/// Where the slot is held, and by which process at which epoch, if it was promoted.
fn serving(world: &World, name: &ServiceName) -> Option<(u16, (RunId, Epoch))> {
    let slot = world.held(name).into_iter().find(|slot| slot.served)?;
    let process = world.process(&slot.holder).filter(|process| process.main)?;
    let ix = world.instances.get(&slot.holder)?.node;
    Some((ix, (process.run, slot.epoch)))
}

/// Whether a node has exactly this session.
fn lives(world: &World, ix: u16, session: Option<Revision>) -> bool {
    let found = world.server.model.get(&Key::Session(ix));
    found.is_some_and(|entry| Some(entry.create) == session)
}

fn cut(world: &mut World, ix: u16, cut: bool) {
    let pair = |other: u16| (ix.min(other), ix.max(other));
    for other in (0..3).filter(|other| *other != ix) {
        if cut {
            world.net.between.extend([pair(other)]);
        } else {
            world.net.between.retain(|known| *known != pair(other));
        }
    }
    let (to, from) = (
        &mut world.net.to_store[ix as usize],
        &mut world.net.from_store[ix as usize],
    );
    match cut {
        true => (*to, *from) = (*to + 1, *from + 1),
        false => (*to, *from) = (to.saturating_sub(1), from.saturating_sub(1)),
    }
}
