//! One run of several machines: faults, healing, quiet. All of it follows from the seed.

use super::faults::{self, ClusterFault, Draw};
use super::invariants::healed;
use super::records::{Key, NodeIx, Value};
use super::sabotage::ClusterRule;
use super::world::{Setup, World};
use super::{Tally, blueprint};
use crate::Violation;
use decisions::SlotKnown;
use fastrand::Rng;
use model::{InstanceId, ServiceName, SlotId, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

/// After the last fault everything must be well within this time. The longest waits add up to about half of it: a minute after failed
/// promotions, half a minute after failed follow hooks, ten seconds and more until an instance that was given up is tried again.
pub(crate) const HEAL_WITHIN: Duration = Duration::from_secs(240);
const LOOK_EVERY: Duration = Duration::from_millis(500);
const QUIET: Duration = Duration::from_secs(8);

/// What a run is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterMode {
    /// Faults of all kinds, healing, quiet.
    Storm,
    /// The store is away for up to ten minutes, and nothing else is wrong: no healthy service stops or moves.
    StoreOutage,
}

/// How a run is made, beside its seed.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// What it is about.
    pub mode: ClusterMode,
    /// How many faults are drawn.
    pub faults: usize,
    /// Of them only these, by their number from 0; all if not given.
    pub only: Option<Vec<usize>>,
    /// A rule to be broken.
    pub broken: Option<ClusterRule>,
    /// Half of the clusters have zones, and wishes about where instances are.
    pub placed: bool,
    /// Up to so many nodes every agent is told every renewal; none if it is 0.
    pub whole_up_to: usize,
    /// One node has an agent of before, which tells nobody that it is there.
    pub of_before: bool,
    /// In half of the runs operators do something by hand meanwhile.
    pub operated: bool,
    /// Keep what happened in words.
    pub transcript: bool,
    /// And what each core was told.
    pub events: bool,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            mode: ClusterMode::Storm,
            faults: crate::FAULTS,
            only: None,
            broken: None,
            placed: true,
            whole_up_to: decisions::WHOLE_UP_TO,
            of_before: false,
            operated: true,
            transcript: false,
            events: false,
        }
    }
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct ClusterReport {
    /// Of the run.
    pub seed: u64,
    /// How often each kind happened.
    pub faults: BTreeMap<ClusterFault, u64>,
    /// Things that happened.
    pub steps: u64,
    /// Decisions of the cores.
    pub decisions: u64,
    /// Unplanned takeovers that were completed, as their nodes tell.
    pub failovers: u64,
    /// Planned ones.
    pub switchovers: u64,
    /// Actives that stood still, sessions that were lost, and actives that guards ended.
    pub freezes: u64,
    /// See above.
    pub fenced: u64,
    /// See above.
    pub fired: u64,
    /// From the last fault until all was well.
    pub healed_after: Duration,
    /// How much virtual time passed.
    pub lasted: Duration,
    /// The promise that was broken, if one was.
    pub violation: Option<Violation>,
    /// What happened, if it was kept.
    pub transcript: Vec<String>,
}

/// Carries a run out.
pub fn run_cluster(seed: u64, options: &ClusterOptions) -> ClusterReport {
    let mut rng = Rng::with_seed(seed);
    let (mut cluster, nodes, timing) = blueprint::random(&mut rng);
    let places = match options.placed {
        true => blueprint::places(seed, &mut cluster, nodes),
        false => Vec::new(),
    };
    let schedule = only(schedule(seed, &mut rng, options), options.only.as_deref());
    let ends = schedule.iter().map(|draw| draw.at).max().unwrap_or(Timestamp(1));
    let mut world = World::new(Setup {
        seed,
        cluster,
        nodes,
        places,
        timing,
        schedule,
        broken: options.broken,
        transcript: options.transcript,
        events: options.events,
        drift: true,
        whole_up_to: options.whole_up_to,
        of_before: options.of_before.then(|| (seed % nodes as u64) as NodeIx),
    });
    match options.mode {
        ClusterMode::Storm => world.run_until(ends + Duration::from_millis(200)),
        ClusterMode::StoreOutage => {
            settle(&mut world);
            outage(&mut world, &mut rng);
        }
    }
    let mut healed_after = Duration::ZERO;
    if world.violation.is_none() {
        world.heal();
        let healed = world.now;
        settle(&mut world);
        healed_after = world.now.since(healed);
    }
    // What is parked stays so until somebody asks for it; then it is as all others.
    if world.violation.is_none() && world.unpark_all() {
        settle(&mut world);
    }
    if world.violation.is_none() {
        stay_quiet(&mut world);
    }
    let Tally {
        faults,
        steps,
        decisions,
        failovers,
        switchovers,
        freezes,
        fenced,
        fired,
        ..
    } = world.tally.clone();
    ClusterReport {
        seed,
        faults,
        steps,
        decisions,
        failovers,
        switchovers,
        freezes,
        fenced,
        fired,
        healed_after,
        lasted: world.now.since(Timestamp(0)),
        violation: world.violation.clone(),
        transcript: world.transcript.take().unwrap_or_default().into(),
    }
}

/// How many faults and acts of operators are drawn for a run: those of [`ClusterOptions::only`] are numbered from 0 to one less.
pub fn cluster_drawn(seed: u64, options: &ClusterOptions) -> usize {
    let mut rng = Rng::with_seed(seed);
    let _ = blueprint::random(&mut rng);
    schedule(seed, &mut rng, options).len()
}

fn schedule(seed: u64, rng: &mut Rng, options: &ClusterOptions) -> Vec<Draw> {
    match options.mode {
        ClusterMode::Storm => {
            let mut faults = faults::random(rng, options.faults);
            if options.operated {
                faults.extend(faults::by_hand(seed, &faults));
            }
            faults
        }
        ClusterMode::StoreOutage => Vec::new(),
    }
}

fn only(schedule: Vec<Draw>, only: Option<&[usize]>) -> Vec<Draw> {
    let Some(only) = only else { return schedule };
    let kept = schedule
        .into_iter()
        .enumerate()
        .filter(|(index, _)| only.contains(index));
    kept.map(|(_, draw)| draw).collect()
}

/// Waits until all is well.
pub(crate) fn settle(world: &mut World) {
    let deadline = world.now + HEAL_WITHIN;
    loop {
        world.run_until(world.now + LOOK_EVERY);
        if world.violation.is_some() {
            return;
        }
        let Some((promise, what)) = healed::missing(world) else {
            return;
        };
        if world.now >= deadline {
            world.violate(
                promise,
                format!("{}s after the last fault: {what}", HEAL_WITHIN.as_secs()),
            );
            return;
        }
    }
}

/// Nobody else is to blame: whoever serves goes on, or stands still by its policy and then goes on.
fn outage(world: &mut World, rng: &mut Rng) {
    if world.violation.is_some() {
        return;
    }
    // What was begun a moment ago may be completed.
    world.run_until(world.now + Duration::from_secs(3));
    let spans = [500, 1_000, 3_000, 6_000, 20_000, 90_000, 590_000];
    let span = Duration::from_millis(spans[rng.usize(0..spans.len())]).mul_f64(0.5 + rng.f64() / 2.0);
    // A freeze that takes longer than from A to G ends in a kill, as it must.
    world.unloaded = true;
    world.invariants.expect_quiet("L4");
    world.store_goes(span, rng.bool());
    world.say(|| format!("FAULT  the store is away for {} ms", span.as_millis()));
    let kind = if span < Duration::from_secs(2) {
        ClusterFault::Election
    } else {
        ClusterFault::QuorumLost
    };
    world.count(kind);
    world.run_until(world.now + span + Duration::from_secs(10));
    world.invariants.expect_unrest();
}

fn stay_quiet(world: &mut World) {
    // What was begun a moment ago may be completed, and what was lost on the way be written again.
    world.run_until(world.now + Duration::from_secs(7));
    settle(world);
    if world.violation.is_some() {
        return;
    }
    world.run_until(world.now + Duration::from_secs(3));
    let (freezes, fenced) = (world.tally.freezes, world.tally.fenced);
    world.invariants.expect_quiet("L3");
    world.run_until(world.now + QUIET);
    if world.violation.is_some() {
        return;
    }
    if (freezes, fenced) != (world.tally.freezes, world.tally.fenced) {
        world.violate("L3", "all is well, and a node stood still or lost its session".into());
    } else if let Some((promise, what)) = healed::missing(world) {
        world.violate(promise, format!("it was well and is not any more: {what}"));
    }
}

impl World {
    /// Slots of a service that somebody holds.
    pub(crate) fn held(&self, service: &ServiceName) -> Vec<&SlotKnown> {
        let first = Key::Slot(SlotId {
            service: service.clone(),
            slot: 0,
        });
        let slots = self
            .server
            .model
            .entries_from(&first)
            .map_while(|entry| match &*entry.value {
                Value::Slot(slot) if slot.slot.service == *service => Some(slot),
                _ => None,
            });
        slots.filter(|slot| slot.held).collect()
    }

    /// All instances of which the store says that they shall exist: where, and whether they shall go away.
    pub(crate) fn placed(&self) -> Vec<(InstanceId, NodeIx, bool)> {
        let entries = self.server.model.entries_from(&Key::Drained(NodeIx::MAX));
        let placed = entries.filter_map(|entry| match (&entry.key, &*entry.value) {
            (Key::Instance(id), Value::Instance { node, retiring }) => Some((id.clone(), *node, *retiring)),
            _ => None,
        });
        placed.collect()
    }

    /// How many instances of a service shall exist.
    pub(crate) fn assigned(&self, service: &ServiceName) -> usize {
        let first = Key::Instance(model::InstanceId::new(service.clone(), 0));
        let records = self
            .server
            .model
            .entries_from(&first)
            .take_while(|entry| match &entry.key {
                Key::Instance(id) => id.service() == service,
                _ => false,
            });
        records.count()
    }
}
