//! One random run: a cluster, faults, healing, quiet. All of it follows from the seed.

use crate::fault::{Fault, FaultKind};
use crate::invariants::healed;
use crate::pace::Pace;
use crate::sabotage::BrokenRule;
use crate::schedule::{self, Draw};
use crate::transcript::Transcript;
use crate::world::{Setup, World};
use crate::{Violation, blueprint};
use fastrand::Rng;
use model::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// Faults of a run, if not told otherwise: enough that they overlap, few enough to read.
pub const FAULTS: usize = 100;
/// After the last fault everything must be well within this time. The longest waits of the core add up to about half of it:
/// a minute after failed promotions, half a minute after failed follow hooks, rollouts instance by instance.
const HEAL_WITHIN: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(500);
const QUIET: Duration = Duration::from_secs(10);
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// How a run is made, beside its seed.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many faults and operators' acts are drawn.
    pub faults: usize,
    /// Of them only these, by their number from 0; all if not given.
    pub only: Option<Vec<usize>>,
    /// A rule to be broken.
    pub broken: Option<BrokenRule>,
    /// Write down too what the core was told.
    pub events: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            faults: FAULTS,
            only: None,
            broken: None,
            events: false,
        }
    }
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// Of the run.
    pub seed: u64,
    /// How often each kind happened.
    pub faults: BTreeMap<FaultKind, u64>,
    /// Things that happened.
    pub steps: u64,
    /// Decisions of the core.
    pub decisions: u64,
    /// Unplanned takeovers that were completed.
    pub failovers: u64,
    /// Planned ones.
    pub switchovers: u64,
    /// The longest failover, from the first evidence to the route.
    pub worst_failover: Duration,
    /// How much virtual time passed.
    pub lasted: Duration,
    /// The promise that was broken, if one was.
    pub violation: Option<Violation>,
    /// The last lines before that.
    pub transcript: Vec<String>,
}

/// Lines of the transcript that a report has.
const LINES: usize = 40;
/// The same when what the core was told is shown too.
const EVENT_LINES: usize = 10_000;

/// Carries a run out.
pub fn run(seed: u64, options: &Options) -> Report {
    let mut rng = Rng::with_seed(seed);
    let (cluster, nodes) = blueprint::random(&mut rng);
    let schedule = only(schedule::random(&mut rng, options.faults), options.only.as_deref());
    let ends = schedule.last().map_or(Timestamp(0), |draw| draw.at);
    let goes_down = rng.u32(0..8) == 0;
    let mut world = World::new(Setup {
        seed,
        cluster,
        nodes,
        pace: Pace::random(rng.u64(..)),
        schedule,
        broken: options.broken,
        transcript: Transcript::new(if options.events { EVENT_LINES } else { LINES }, options.events),
    });
    world.run_until(ends + Duration::from_millis(100));
    if world.violation.is_none() {
        world.heal();
        recover(&mut world);
    }
    if world.violation.is_none() {
        if goes_down {
            take_down(&mut world);
        } else {
            stay_quiet(&mut world);
        }
    }
    report(seed, &world)
}

/// How many faults are drawn for a run: those of [`Options::only`] are numbered from 0 to one less.
pub fn drawn(seed: u64, options: &Options) -> usize {
    let mut rng = Rng::with_seed(seed);
    let _ = blueprint::random(&mut rng);
    schedule::random(&mut rng, options.faults).len()
}

fn only(schedule: Vec<Draw>, only: Option<&[usize]>) -> Vec<Draw> {
    let Some(only) = only else {
        return schedule;
    };
    let kept = schedule
        .into_iter()
        .enumerate()
        .filter(|(index, _)| only.contains(index));
    kept.map(|(_, draw)| draw).collect()
}

/// Faults have stopped: waits until all is well.
fn recover(world: &mut World) {
    let deadline = world.truth.now + HEAL_WITHIN;
    loop {
        world.run_until(world.truth.now + LOOK_EVERY);
        if world.violation.is_some() {
            return;
        }
        world.retry_given_up();
        let Some((promise, what)) = healed::missing(&world.truth, world.view().as_ref()) else {
            return;
        };
        if world.truth.now >= deadline {
            world.violate(
                promise,
                format!("{}s after the last fault: {what}", HEAL_WITHIN.as_secs()),
            );
            return;
        }
    }
}

fn stay_quiet(world: &mut World) {
    // What was begun a moment ago may be completed.
    world.run_until(world.truth.now + Duration::from_secs(3));
    world.expect_quiet();
    world.run_until(world.truth.now + QUIET);
    if let (None, Some((promise, what))) = (&world.violation, healed::missing(&world.truth, world.view().as_ref())) {
        world.violate(promise, format!("it was well and is not any more: {what}"));
    }
}

fn take_down(world: &mut World) {
    world.inject(Fault::Shutdown);
    let deadline = world.truth.now + STOP_WITHIN;
    while world.violation.is_none() && !world.tally.all_stopped && world.truth.now < deadline {
        world.run_until(world.truth.now + LOOK_EVERY);
    }
    if world.violation.is_some() {
        return;
    }
    let running = world
        .truth
        .instances
        .iter()
        .find(|(_, instance)| instance.process.is_some());
    let held = world.truth.store.slots.values().find(|known| known.held);
    let what = match (running, held) {
        _ if !world.tally.all_stopped => "the core never says that everything is stopped".to_owned(),
        (Some((id, _)), _) => format!("everything is said to be stopped, and {id} runs"),
        (None, Some(slot)) => format!("everything is said to be stopped, and {} is held", slot.slot),
        (None, None) => return,
    };
    world.violate("L8", what);
}

fn report(seed: u64, world: &World) -> Report {
    let tally = world.tally.clone();
    let lines = if world.violation.is_some() { usize::MAX } else { 0 };
    Report {
        seed,
        faults: tally.faults,
        steps: tally.steps,
        decisions: tally.decisions,
        failovers: tally.failovers,
        switchovers: tally.switchovers,
        worst_failover: tally.worst_failover,
        lasted: world.truth.now.since(Timestamp(0)),
        violation: world.violation.clone(),
        transcript: world.transcript.last(lines),
    }
}
