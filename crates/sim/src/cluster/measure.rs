//! Measurements in virtual time: how long a slot is nobody's after one loss, and what many nodes cost.

use super::blueprint;
use super::faults::Undo;
use super::invariants::healed;
use super::many::Interest;
use super::records::NodeIx;
use super::run::settle;
use super::world::{Due, Setup, World};
use decisions::{Adopted, ClusterEvent, Core, Event, InstancePhase, Recovered, Report, SlotKnown};
use model::{
    Cluster, Epoch, Health, InstanceId, NodeName, Profile, Revision, RunId, Service, ServiceName, SlotId, Timestamp,
};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What happens to the node of the active, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Its machine loses power.
    Power,
    /// It reaches nobody.
    Isolated,
    /// Its requests do not reach the store.
    Requests,
    /// The store's answers do not reach it.
    Answers,
    /// The process of the active dies.
    Process,
    /// Its agent dies and is started again.
    Agent,
    /// Its guard dies and is started again.
    Guard,
    /// The machine stands still for less than A - R.
    ShortPause,
    /// A clock is slewed by a tenth.
    Slew,
    /// Wall time jumps back by an hour.
    WallJump,
    /// The store elects a leader, within g.
    Election,
}

impl Loss {
    /// All of them.
    pub const ALL: [Loss; 11] = [
        Loss::Power,
        Loss::Isolated,
        Loss::Requests,
        Loss::Answers,
        Loss::Process,
        Loss::Agent,
        Loss::Guard,
        Loss::ShortPause,
        Loss::Slew,
        Loss::WallJump,
        Loss::Election,
    ];

    /// Within what time another instance must hold the slot, by section 3 of the takeover protocol; none if it must not change hands.
    /// A commit counts as 20 ms, the watch included, a rank as in the timing, a kill as 10 ms.
    pub fn bound(self, profile: Profile) -> Option<Duration> {
        let timing = profile.timing();
        let (renew, timeout) = (timing.renew.duration(), timing.request_timeout.duration());
        let wait = timing.observer_wait() + 2 * timing.rank_stagger.duration() + Duration::from_millis(40);
        match self {
            Loss::Power | Loss::Isolated => Some(wait),
            Loss::Requests => Some(renew + wait),
            Loss::Answers => Some(renew + timeout + wait),
            Loss::Process => Some(Duration::from_millis(60)),
            Loss::Agent | Loss::Guard | Loss::ShortPause | Loss::Slew | Loss::WallJump | Loss::Election => None,
        }
    }
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Loss::Power => "its machine loses power",
            Loss::Isolated => "it reaches nobody",
            Loss::Requests => "its requests do not reach the store",
            Loss::Answers => "the store's answers do not reach it",
            Loss::Process => "the process of the active dies",
            Loss::Agent => "its agent dies and comes back",
            Loss::Guard => "its guard dies and comes back",
            Loss::ShortPause => "its machine stands still for a moment",
            Loss::Slew => "clocks are slewed by a tenth",
            Loss::WallJump => "wall time jumps by an hour",
            Loss::Election => "the store elects a leader",
        })
    }
}

/// What came of a loss.
#[derive(Debug, Clone)]
pub struct Measured {
    /// From the loss until another instance held the slot; none if it did not change hands within the time that it would take.
    pub taken: Option<Duration>,
    /// From the loss until that was promoted and noted as serving.
    pub served: Option<Duration>,
    /// A promise that was broken.
    pub violation: Option<crate::Violation>,
}

/// Lets a cluster of three machines with a database come up, and one thing happen to its active.
pub fn measure(loss: Loss, profile: Profile, seed: u64) -> Measured {
    let mut services = BTreeMap::new();
    let name = ServiceName::new("db").ok();
    services.extend(name.clone().map(|name| (name, blueprint::database(7_000))));
    let mut world = world(seed, services, 3, profile, true);
    settle(&mut world);
    let nothing = |world: &World| Measured {
        taken: None,
        served: None,
        violation: world.violation.clone(),
    };
    let Some(name) = name.filter(|_| world.violation.is_none()) else {
        return nothing(&world);
    };
    let pause = Duration::from_millis(3_000 + world.rng.u64(0..1_000));
    world.run_until(world.now + pause);
    let Some(held) = world.held(&name).first().map(|slot| (slot.holder.clone(), slot.epoch)) else {
        return nothing(&world);
    };
    let Some(ix) = world.instances.get(&held.0).map(|inst| inst.node) else {
        return nothing(&world);
    };
    hit(&mut world, loss, ix, &held.0);
    let began = world.now;
    let timing = profile.timing();
    let until = began + timing.observer_wait() * 2 + Duration::from_secs(3);
    let (mut taken, mut served) = (None, None);
    while world.now < until && world.violation.is_none() && served.is_none() {
        world.run_until(world.now + Duration::from_millis(1));
        let Some(slot) = world
            .held(&name)
            .first()
            .map(|slot| (slot.holder.clone(), slot.epoch, slot.served))
        else {
            continue;
        };
        if (slot.0, slot.1) != held {
            taken.get_or_insert(world.now.since(began));
            served = slot.2.then(|| world.now.since(began));
        }
    }
    Measured {
        taken,
        served,
        violation: world.violation.clone(),
    }
}

fn hit(world: &mut World, loss: Loss, ix: u16, id: &InstanceId) {
    let long = Duration::from_secs(600);
    let timing = world.timing;
    match loss {
        Loss::Power => {
            world.power_loss(ix, long);
        }
        Loss::Isolated => {
            world.net.to_store[ix as usize] += 1;
            world.net.from_store[ix as usize] += 1;
            world.net.between.extend(
                (0..3)
                    .filter(|other| *other != ix)
                    .map(|other| (ix.min(other), ix.max(other))),
            );
        }
        Loss::Requests => world.net.to_store[ix as usize] += 1,
        Loss::Answers => world.net.from_store[ix as usize] += 1,
        Loss::Process => {
            if let Some(run) = world.process(id).map(|process| process.run) {
                world.before(id.service());
                world.main_ends(id, run, "killed by SIGKILL");
            }
        }
        Loss::Agent => {
            world.node_mut(ix).agent = None;
            world.plan(Duration::from_millis(20), Due::AgentStarts(ix));
        }
        Loss::Guard => {
            let mut rng = fastrand::Rng::with_seed(u64::from(ix));
            world.kill_guard(ix, &mut rng);
        }
        Loss::ShortPause => {
            let span = (timing.soft_deadline.duration() - timing.renew.duration() - timing.request_timeout.duration())
                .mul_f64(0.9);
            world.pause_node(ix, span);
        }
        Loss::Slew => {
            for ix in 0..3 {
                let slew = if world.rng.bool() { 1.1 } else { 0.9 };
                let now = world.now;
                world.node_mut(ix).clocks.change(now, 1.0, slew);
                world.plan(long, Due::Undo(Undo::Slew(ix)));
            }
        }
        Loss::WallJump => world.node_mut(ix).clocks.wall_ns -= 3_600_000_000_000,
        Loss::Election => {
            let away = timing.gap.duration() - timing.renew.duration() - timing.request_timeout.duration();
            world.store_goes(away, true);
        }
    }
}

pub(super) fn world(
    seed: u64,
    services: BTreeMap<ServiceName, Service>,
    nodes: usize,
    profile: Profile,
    drift: bool,
) -> World {
    World::new(Setup {
        seed,
        cluster: Cluster {
            name: "measured".into(),
            services,
            alerts: model::Alerts::default(),
            site: model::Site::default(),
        },
        nodes,
        places: Vec::new(),
        timing: profile.timing(),
        schedule: Vec::new(),
        broken: None,
        transcript: false,
        events: false,
        drift,
        whole_up_to: decisions::WHOLE_UP_TO,
        of_before: None,
    })
}

/// What a cluster of some size costs.
#[derive(Debug, Clone, Default)]
pub struct Scale {
    /// Nodes, and instances on all of them.
    pub nodes: usize,
    /// See above.
    pub instances: usize,
    /// Writes of the store a second while nothing happens.
    pub writes_at_rest: f64,
    /// Changes told to all agents a second meanwhile.
    pub told_at_rest: f64,
    /// What all agents were told of them.
    pub told_of_loss: u64,
    /// Writes of the store because of a node loss, until all is redundant again: all but renewals.
    pub writes_of_loss: u64,
    /// Slots that the lost node held.
    pub slots_lost: usize,
    /// From the loss until the first and the last of them was held and served again.
    pub first_served: Duration,
    /// See above.
    pub last_served: Duration,
    /// From the loss until all was redundant again.
    pub redundant: Duration,
    /// Real time that one core worked a second while nothing happens, on average.
    pub core_at_rest: Duration,
    /// Real time that one core worked because of the node loss, on average and at most.
    pub core_of_loss: Duration,
    /// See above.
    pub core_of_loss_max: Duration,
}

/// So many cores that know everything fit into one machine; of more, each is told of the services of which its node has instances.
const KNOW_ALL: usize = 100;

/// Runs a cluster of that many nodes with twenty instances each, ten of them exclusive actives with one standby elsewhere.
/// Nothing if it does not come up within the bound of healing.
pub fn scale(nodes: usize, per_node: usize) -> Option<Scale> {
    let instances = nodes * per_node;
    let mut services = BTreeMap::new();
    for number in 0..instances / 2 {
        let mut service = blueprint::database(7_000);
        service.standby = 1;
        // Their checks are the node's own affair.
        service.check = None;
        service.standby_check = None;
        services.insert(ServiceName::new(format!("s{number:05}")).ok()?, service);
    }
    let mut world = world(1, services, nodes, Profile::Lan, true);
    world.invariants = super::invariants::Invariants::default();
    world.timed = true;
    world.interest = (nodes > KNOW_ALL).then(Interest::default);
    // The file is put in force when all nodes are there.
    let services = std::mem::take(&mut world.cluster.services);
    world.run_until(Timestamp(3_000_000));
    world.put_in_force(services);
    let names: Vec<ServiceName> = world.declared.keys().cloned().collect();
    let is_well = |world: &World, name: &ServiceName| {
        let served = world
            .held(name)
            .iter()
            .any(|slot| slot.served && world.node(world.ix(&slot.node)).up);
        served && healed::standbys(world, name) >= 1
    };
    while world.now < Timestamp(120_000_000) && !names.iter().all(|name| is_well(&world, name)) {
        world.run_until(world.now + Duration::from_millis(500));
    }
    // Idle nodes renew less often once nothing happens.
    world.run_until(world.now + Duration::from_secs(5));
    let rest = Duration::from_secs(5);
    let (writes, watched, busy) = (world.tally.writes, world.tally.watched, world.tally.busy);
    world.run_until(world.now + rest);
    let seconds = rest.as_secs_f64();
    let mut scale = Scale {
        nodes,
        instances,
        writes_at_rest: (world.tally.writes - writes) as f64 / seconds,
        told_at_rest: (world.tally.watched - watched) as f64 / seconds,
        core_at_rest: (world.tally.busy - busy).div_f64(seconds * nodes as f64),
        ..Scale::default()
    };
    // A node like the others: not the controller, and with about as many actives as standbys.
    let controls = |ix: NodeIx| {
        let agent = world.node(ix).agent.as_ref();
        agent
            .and_then(|agent| agent.core.as_ref())
            .is_some_and(decisions::Core::is_controller)
    };
    let held_at = |ix: NodeIx| {
        let held = |name: &&ServiceName| world.held(name).iter().any(|slot| world.ix(&slot.node) == ix);
        names.iter().filter(held).cloned().collect::<Vec<_>>()
    };
    let few = (0..nodes.min(20) as NodeIx).filter(|ix| !controls(*ix));
    let (victim, lost) = few
        .map(|ix| (ix, held_at(ix)))
        .min_by_key(|(_, held)| held.len().abs_diff(per_node / 2))?;
    let touched = |name: &&ServiceName| world.of(name).any(|(_, inst)| inst.node == victim);
    let touched: Vec<ServiceName> = names.iter().filter(touched).cloned().collect();
    scale.slots_lost = lost.len();
    for node in &mut world.nodes {
        node.busy = Duration::ZERO;
    }
    world.power_loss(victim, Duration::from_secs(3_600));
    let began = world.now;
    let beside = |tally: &super::Tally| (tally.writes - tally.renewals, tally.watched - tally.renewals_told);
    let (writes, told) = beside(&world.tally);
    let mut left = lost.len();
    let mut well = false;
    while world.now < began + Duration::from_secs(60) && !(left == 0 && well) {
        world.run_until(world.now + Duration::from_millis(20));
        let open = |name: &&ServiceName| {
            let held = world.held(name);
            !held.iter().any(|slot| slot.served && world.ix(&slot.node) != victim)
        };
        let now_left = lost.iter().filter(open).count();
        if now_left < lost.len() && scale.first_served.is_zero() {
            scale.first_served = world.now.since(began);
        }
        if now_left == 0 && left > 0 {
            scale.last_served = world.now.since(began);
        }
        left = now_left;
        well = left == 0 && touched.iter().all(|name| is_well(&world, name));
    }
    scale.redundant = world.now.since(began);
    let (writes_after, told_after) = beside(&world.tally);
    scale.writes_of_loss = writes_after - writes;
    scale.told_of_loss = told_after - told;
    let busy = world.nodes.iter().map(|node| node.busy);
    scale.core_of_loss = busy.clone().sum::<Duration>() / u32::try_from(nodes).unwrap_or(1);
    scale.core_of_loss_max = busy.max().unwrap_or_default();
    well.then_some(scale)
}

/// Real time of one core that knows a cluster of that size: to take in all of it, one report, and the loss of a node. A whole cluster of
/// such cores does not fit into one machine.
pub fn core_alone(nodes: usize, per_node: usize) -> Option<(Duration, Duration, Duration)> {
    let names: Vec<NodeName> = (0..nodes).filter_map(super::world::node_name).collect();
    let me = names.first()?.clone();
    let count = nodes * per_node / 2;
    let mut services = BTreeMap::new();
    let mut slots = Vec::new();
    let mut elsewhere: Vec<ClusterEvent> = Vec::new();
    let mut adopted = Vec::new();
    for (number, name) in names.iter().enumerate() {
        elsewhere.push(ClusterEvent::Member {
            node: name.clone(),
            runs_services: true,
            member: true,
            place: decisions::Place::default(),
        });
        if number > 0 {
            elsewhere.push(ClusterEvent::Session {
                node: name.clone(),
                session: Some(Revision(number as u64 + 10)),
            });
        }
    }
    let session = |ix: usize| Revision(ix as u64 + 10);
    let mut reports = Vec::new();
    for number in 0..count {
        let service = ServiceName::new(format!("s{number:05}")).ok()?;
        let mut declared = blueprint::database(7_000);
        declared.standby = 1;
        declared.check = None;
        declared.standby_check = None;
        services.insert(service.clone(), declared);
        for (which, ix) in [number % nodes, (number + 1) % nodes].into_iter().enumerate() {
            let id = InstanceId::new(service.clone(), which as u32 + 1);
            let active = which == 0;
            elsewhere.push(ClusterEvent::Assigned {
                instance: id.clone(),
                node: names[ix].clone(),
                retiring: false,
                placed: Revision(1),
            });
            if ix == 0 {
                adopted.push(Adopted {
                    instance: id,
                    node: me.clone(),
                    run: RunId(1),
                    running: true,
                    current: true,
                    promoted: active.then_some(Epoch(1)),
                    acts: active.then_some(Epoch(1)),
                    served: active,
                    followed: (!active).then_some(Epoch(1)),
                    stands_by: None,
                    healthy: true,
                    since: None,
                });
            } else {
                reports.push(Report {
                    instance: id,
                    node: names[ix].clone(),
                    session: session(ix),
                    run: RunId(1),
                    phase: InstancePhase::Running,
                    health: Health::Healthy,
                    acts: active,
                    promoted: active.then_some(Epoch(1)),
                    served: active,
                    followed: (!active).then_some(Epoch(1)),
                    stands_by: None,
                    proved: None,
                    unfenced: None,
                    busy: false,
                    leaving: false,
                    current: true,
                    check_untried: false,
                    deaths: 0,
                    restarts: 0,
                    since: Timestamp(0),
                    because: String::new(),
                    last_failure: None,
                    last_end: None,
                    not_promoted: None,
                });
            }
        }
        let ix = number % nodes;
        slots.push(SlotKnown {
            slot: SlotId {
                service: service.clone(),
                slot: 0,
            },
            held: true,
            holder: InstanceId::new(service, 1),
            epoch: Epoch(1),
            revision: Revision(10_000 + number as u64),
            attempt: 1,
            node: names[ix].clone(),
            session: Some(session(ix)),
            served: true,
            data: None,
            served_before: None,
            because: String::new(),
            begun: None,
            since: Timestamp(0),
        });
    }
    elsewhere.extend(reports.iter().cloned().map(ClusterEvent::Reported));
    let mut core = Core::clustered(1, 1, 0, me, Duration::from_millis(80));
    let mut now = Timestamp(1_000_000);
    core.handle(Event::Cluster(ClusterEvent::OwnSession(Some(session(0)))), now);
    let recovered = Recovered {
        worked: None,
        cluster: Cluster {
            name: "measured".into(),
            services,
            alerts: model::Alerts::default(),
            site: model::Site::default(),
        },
        slots,
        instances: adopted,
        numbers: Vec::new(),
        routes: Vec::new(),
        elsewhere,
    };
    let mut timed = |event: Event| {
        now = now + Duration::from_millis(1);
        let began = Instant::now();
        core.handle(event, now);
        while core.poll_decision().is_some() {}
        began.elapsed()
    };
    let all = timed(Event::Recovered(recovered));
    let report = reports.pop()?;
    let one = timed(Event::Cluster(ClusterEvent::Reported(report)));
    let (node, lost) = (names.get(1)?.clone(), session(1));
    let modified = Revision(20_000_000);
    let loss = timed(Event::Cluster(ClusterEvent::Expired {
        node: node.clone(),
        session: lost,
        modified,
    }));
    let gone = timed(Event::Cluster(ClusterEvent::Session { node, session: None }));
    Some((all, one, loss + gone))
}
