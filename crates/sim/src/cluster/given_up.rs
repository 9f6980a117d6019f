//! A new version that does not work, while controllers die at any step: what is given up is written down, and left alone by all that follow.

use super::invariants::healed;
use super::measure::world;
use super::records::{self, Compare, Entry, Key, NodeIx, Op, Txn, Value};
use super::run::settle;
use super::world::World;
use decisions::{Event, GivenUp, RolloutState};
use model::{InstanceId, Profile, Revision, Service, ServiceName};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What does not work of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// It never becomes healthy.
    Start,
    /// It becomes healthy, and cannot be promoted.
    Promotion,
}

/// What became of a version that does not work.
#[derive(Debug, Clone)]
pub struct BrokenVersion {
    /// Why it was given up, if it was.
    pub why: Option<String>,
    /// How often the rollout handed a slot to it before that was written.
    pub tried_before: usize,
    /// And while three more agents died, one after the other.
    pub tried_after: usize,
    /// Nodes that tell that it is given up, in the end.
    pub told_by: usize,
    /// The version before it serves, in the end.
    pub serves: bool,
    /// Every place runs the version before it again, in the end.
    pub went_back: bool,
    /// A promise that was broken.
    pub violation: Option<crate::Violation>,
}

const NODES: NodeIx = 3;
const VARIABLE: &str = "BROKEN";

/// Whether a process of this version fails so.
pub(super) fn is_broken(version: &Service, broken: Broken) -> bool {
    let value = match broken {
        Broken::Start => "start",
        Broken::Promotion => "promotion",
    };
    version.env.get(VARIABLE).is_some_and(|found| found == value)
}

/// Puts a version of a database in force that does not work. The agent of the controller dies after so many decisions, if that is said; and
/// once the version is given up, all three, one after the other. With `forgets` no agent hears what was given up.
pub fn broken_version(broken: Broken, seed: u64, dies_after: Option<u32>, forgets: bool) -> Option<BrokenVersion> {
    let name = ServiceName::new("db").ok()?;
    let works = super::blueprint::database(7_000);
    let mut world = world(
        seed,
        BTreeMap::from([(name.clone(), works.clone())]),
        NODES.into(),
        Profile::Lan,
        true,
    );
    world.forgets = forgets;
    settle(&mut world);
    world.run_until(world.now + Duration::from_secs(3));
    if healed::missing(&world).is_some() {
        return None;
    }
    world.worked = Some(world.cluster.clone());
    let controller = controller(&world)?;
    world.agent(controller)?.dies_after = dies_after;

    let mut fails = works;
    let value = match broken {
        Broken::Start => "start",
        Broken::Promotion => "promotion",
    };
    fails.env.insert(VARIABLE.into(), value.into());
    world.declared.insert(name.clone(), Arc::new(fails.clone()));
    world.put_in_force(BTreeMap::from([(name.clone(), fails)]));
    let key = Key::GivenUp(world.file, name.clone());
    let deadline = world.now + Duration::from_secs(120);
    while world.now < deadline && world.violation.is_none() && world.server.model.get(&key).is_none() {
        world.run_until(world.now + Duration::from_millis(20));
    }
    let tried_before = world.tried;
    for ix in 0..NODES {
        world.agent_dies(ix);
        // Longer than an agent is away, and than its session lives.
        world.run_until(world.now + Duration::from_secs(15));
    }
    let why = world.server.model.get(&key).and_then(|entry| match &*entry.value {
        Value::GivenUp(given_up) => Some(given_up.why.clone()),
        _ => None,
    });
    Some(BrokenVersion {
        why,
        tried_before,
        tried_after: world.tried - tried_before,
        told_by: (0..NODES).filter(|ix| tells(&world, *ix, &name)).count(),
        serves: world.held(&name).into_iter().any(|slot| {
            let process = world.process(&slot.holder);
            slot.served && process.is_some_and(|process| process.main && !process.from.env.contains_key(VARIABLE))
        }),
        went_back: runs_before(&world, &name),
        violation: world.violation.clone(),
    })
}

/// Whether as many processes as are declared run, all of the version before.
fn runs_before(world: &World, name: &ServiceName) -> bool {
    let processes: Vec<_> = world
        .of(name)
        .filter_map(|(_, instance)| instance.process.as_ref())
        .collect();
    let wanted = world.declared.get(name).map_or(0, |service| service.wanted() as usize);
    processes.iter().filter(|process| process.main).count() == wanted
        && processes.iter().all(|process| !process.from.env.contains_key(VARIABLE))
}

fn controller(world: &World) -> Option<NodeIx> {
    match &*world.server.model.get(&Key::Controller)?.value {
        Value::Controller { node, .. } => Some(*node),
        _ => None,
    }
}

/// Whether the core of a node tells that a version is given up.
fn tells(world: &World, ix: NodeIx, name: &ServiceName) -> bool {
    let core = world.node(ix).agent.as_ref().and_then(|agent| agent.core.as_ref());
    let view = core.and_then(|core| core.service_view(name, world.now));
    let rollout = view.and_then(|view| view.rollout);
    rollout.is_some_and(|rollout| rollout.state == RolloutState::GivenUp)
}

impl World {
    /// A rollout hands a slot over.
    pub(super) fn note_trial(&mut self, to: &InstanceId) {
        let process = self.process(to);
        self.tried += usize::from(process.is_some_and(|process| is_broken(&process.from, Broken::Promotion)));
    }

    /// As the agent does it; so is what follows.
    pub(super) fn give_up(&mut self, ix: NodeIx, service: ServiceName, given_up: GivenUp) {
        let key = Key::GivenUp(self.file, service);
        let Some(ours) = self.as_controller(ix, Txn::new()) else {
            return;
        };
        let txn = ours
            .when(Compare::Created(key.clone(), Revision(0)))
            .then(records::put(key, Value::GivenUp(Box::new(given_up))));
        self.write_loose(ix, txn);
    }

    pub(super) fn may_try_again(&mut self, ix: NodeIx, service: ServiceName) {
        let file = self.file;
        let known = self.agent(ix).and_then(|agent| {
            let entry = agent.clustered.given_up.get(&(file, service.clone()))?;
            Some(entry.modified)
        });
        let Some(known) = known else { return };
        let key = Key::GivenUp(file, service);
        let txn = Txn::new()
            .when(Compare::Modified(key.clone(), known))
            .then(Op::Delete(key));
        self.write_loose(ix, txn);
    }

    pub(super) fn given_up_seen(&mut self, ix: NodeIx, entry: &Entry) {
        let (Key::GivenUp(file, service), false) = (&entry.key, self.forgets) else {
            return;
        };
        if let Some(agent) = self.agent(ix) {
            let key = (*file, service.clone());
            agent.clustered.given_up.insert(key, entry.clone());
        }
        if *file == self.file {
            self.hear_given_up(ix, entry);
        }
    }

    pub(super) fn given_up_gone(&mut self, ix: NodeIx, file: u64, service: &ServiceName) {
        let known = self.agent(ix).and_then(|agent| {
            let key = (file, service.clone());
            agent.clustered.given_up.remove(&key)
        });
        if known.is_some() && file == self.file {
            let (service, given_up) = (service.clone(), None);
            self.handle(ix, Event::GivenUp { service, given_up });
        }
    }

    /// After a file was put in force.
    pub(super) fn tell_given_up(&mut self, ix: NodeIx) {
        let file = self.file;
        let known = self.agent(ix).map(|agent| agent.clustered.given_up.clone());
        for ((of, _), entry) in known.unwrap_or_default() {
            if of == file {
                self.hear_given_up(ix, &entry);
            }
        }
    }

    fn hear_given_up(&mut self, ix: NodeIx, entry: &Entry) {
        if let (Key::GivenUp(_, service), Value::GivenUp(given_up)) = (&entry.key, &*entry.value) {
            let (service, given_up) = (service.clone(), Some((**given_up).clone()));
            self.handle(ix, Event::GivenUp { service, given_up });
        }
    }
}
