//! The failure logic against a second one: a plain walk over the system for every set of failures.

use analysis::Options;
use analysis::report::report;
use analysis::solve::{Limits, solve};
use analysis::system::{Instance, Node, Reached, Service, System, Thing, logic};
use fastrand::Rng;
use model::Role;
use std::collections::{BTreeMap, BTreeSet};

/// Whether a service is down once these have failed: by the sentences of the design, not by gates.
fn down(system: &System, failed: &BTreeSet<Thing>) -> BTreeMap<String, bool> {
    // What agents saw below a thing takes it along.
    let has = |thing: Thing| {
        let below = system.below.get(&thing).into_iter().flatten();
        failed.contains(&thing) || below.into_iter().any(|below| failed.contains(below))
    };
    let mut dark: BTreeSet<&String> = BTreeSet::new();
    let switches: BTreeSet<&String> = system
        .switches
        .keys()
        .chain(system.nodes.values().flat_map(|node| &node.switches))
        .chain(system.switches.values().flatten())
        .collect();
    loop {
        let more: Vec<&String> = switches
            .iter()
            .copied()
            .filter(|name| !dark.contains(name))
            .filter(|name| {
                let uplinks = system.switches.get(*name).filter(|uplinks| !uplinks.is_empty());
                has(Thing::Switch((*name).clone()))
                    || uplinks.is_some_and(|uplinks| uplinks.iter().all(|up| dark.contains(up)))
            })
            .collect();
        if more.is_empty() {
            break;
        }
        dark.extend(more);
    }
    let node_down = |name: &String| {
        let node = &system.nodes[name];
        has(Thing::Node(name.clone()))
            || system.zones_of(name).into_iter().any(|zone| has(Thing::Zone(zone)))
            || (!node.feeds.is_empty() && node.feeds.iter().all(|feed| has(Thing::Feed(feed.clone()))))
            || (!node.switches.is_empty() && node.switches.iter().all(|switch| dark.contains(switch)))
            || node.machine.clone().is_some_and(|machine| has(Thing::Machine(machine)))
    };
    let votes = system
        .voters
        .iter()
        .filter(|node| !has(Thing::Voter((*node).clone())) && !node_down(node))
        .count();
    let majority = system.voters.is_empty() || votes * 2 > system.voters.len();
    let mut down: BTreeMap<String, bool> = system.services.keys().map(|name| (name.clone(), false)).collect();
    loop {
        let is_down = |name: &String| {
            down.get(name)
                .copied()
                .unwrap_or_else(|| has(Thing::External(name.clone())))
        };
        let next: BTreeMap<String, bool> = system
            .services
            .iter()
            .map(|(name, service)| {
                let works = |instance: &&Instance| {
                    !has(Thing::Process(instance.id.clone()))
                        && !node_down(&instance.node)
                        && (service.reached != Reached::ProxyOfActive || !has(Thing::Proxy(instance.node.clone())))
                        && (service.exclusive || instance.role == Role::Active || majority)
                };
                let left: u32 = service
                    .instances
                    .iter()
                    .filter(works)
                    .map(|instance| instance.weight)
                    .sum();
                let reached = match &service.reached {
                    Reached::AnyProxy(nodes) if !nodes.is_empty() => nodes
                        .iter()
                        .any(|node| !has(Thing::Proxy(node.clone())) && !node_down(node)),
                    _ => true,
                };
                let is = left < service.need
                    || !reached
                    || (service.exclusive && !majority)
                    || service.needs.iter().any(is_down)
                    || service.any_of.iter().any(|group| group.iter().all(is_down));
                (name.clone(), is)
            })
            .collect();
        if next == down {
            return down;
        }
        down = next;
    }
}

fn random(rng: &mut Rng) -> System {
    let mut system = System::default();
    let nodes = rng.usize(1..=4);
    let pick = |rng: &mut Rng, names: &[&str]| -> BTreeSet<String> {
        names
            .iter()
            .filter(|_| rng.u32(0..3) == 0)
            .map(|name| (*name).to_owned())
            .collect()
    };
    for node in 0..nodes {
        let zone = match rng.u32(0..4) {
            0 => vec![],
            n => vec!["dc".to_owned(), format!("r{n}")],
        };
        let node_of = Node {
            zone,
            feeds: pick(rng, &["f1", "f2"]),
            switches: pick(rng, &["s1", "s2"]),
            machine: (rng.u32(0..8) == 0).then(|| "m".to_owned()),
            runs_services: true,
        };
        system.nodes.insert(format!("n{node}"), node_of);
    }
    // Switches may hang on each other in a circle.
    for switch in ["s1", "s2"] {
        system.switches.insert(switch.into(), pick(rng, &["s1", "s2", "core"]));
    }
    for node in system.nodes.keys() {
        if rng.bool() {
            system.voters.insert(node.clone());
        }
    }
    let names = ["a", "b", "c"];
    for name in &names[..rng.usize(1..=3)] {
        let count = rng.u32(1..=3);
        let instances = (0..count).map(|number| Instance {
            id: format!("{name}-{number}"),
            node: format!("n{}", rng.usize(0..nodes)),
            role: if number == 0 { Role::Active } else { Role::Standby },
            weight: rng.u32(1..=2),
        });
        let instances: Vec<Instance> = instances.collect();
        let all: u32 = instances.iter().map(|instance| instance.weight).sum();
        let service = Service {
            instances,
            need: rng.u32(1..=all),
            exclusive: rng.bool(),
            needs: pick(rng, &["a", "b", "c", "x"]),
            any_of: if rng.bool() {
                vec![pick(rng, &["a", "b", "c", "x", "y"])]
                    .into_iter()
                    .filter(|group| !group.is_empty())
                    .collect()
            } else {
                vec![]
            },
            reached: match rng.u32(0..3) {
                0 => Reached::Directly,
                1 => Reached::ProxyOfActive,
                _ => Reached::AnyProxy(system.nodes.keys().filter(|_| rng.bool()).cloned().collect()),
            },
            ..Service::default()
        };
        system.services.insert((*name).to_owned(), service);
    }
    // What agents saw: one disk below some nodes and store members, one file server below some instances.
    let mut users: Vec<Thing> = system.nodes.keys().cloned().map(Thing::Node).collect();
    users.extend(system.voters.iter().cloned().map(Thing::Voter));
    let all = system.services.values().flat_map(|service| &service.instances);
    users.extend(all.map(|instance| Thing::Process(instance.id.clone())));
    for user in users.into_iter().filter(|_| rng.u32(0..5) == 0) {
        let below = match user {
            Thing::Process(_) => Thing::FileServer("nas".into()),
            _ => Thing::Disk("lun".into()),
        };
        system.below.insert(user, BTreeSet::from([below]));
    }
    system
}

#[test]
fn a_thousand_random_systems_fail_as_the_design_says() {
    for seed in 0..1_000 {
        let mut rng = Rng::with_seed(seed);
        let system = random(&mut rng);
        let logic = logic(&system);
        for (service, top) in &logic.services {
            let limits = Limits {
                order: 2,
                ..Limits::default()
            };
            let sets: BTreeSet<BTreeSet<&Thing>> = solve(&logic.tree, *top, &limits)
                .sets
                .iter()
                .filter(|set| set.events.len() <= 2)
                .map(|set| set.events.iter().map(|event| logic.thing(*event)).collect())
                .collect();
            let mut truth: BTreeSet<BTreeSet<&Thing>> = BTreeSet::new();
            let is_down =
                |failed: &[&Thing]| down(&system, &failed.iter().map(|thing| (*thing).clone()).collect())[service];
            if is_down(&[]) {
                truth.insert(BTreeSet::new());
            } else {
                let (alone, others): (Vec<&Thing>, Vec<&Thing>) =
                    logic.things.iter().partition(|thing| is_down(&[thing]));
                truth.extend(alone.into_iter().map(|thing| BTreeSet::from([thing])));
                for (at, first) in others.iter().enumerate() {
                    let second = others[at + 1..].iter().filter(|second| is_down(&[first, second]));
                    truth.extend(second.map(|second| BTreeSet::from([*first, *second])));
                }
            }
            assert_eq!(sets, truth, "seed {seed}, service {service}: {system:#?}");
        }
    }
}

/// What `status` shows is what `analyze` finds.
#[test]
fn the_quick_distance_is_that_of_the_cut_sets() {
    for seed in 7_000..7_400 {
        let mut rng = Rng::with_seed(seed);
        let mut system = random(&mut rng);
        let things = logic(&system).things;
        system.failed = things.iter().filter(|_| rng.u32(0..8) == 0).cloned().collect();
        let options = Options {
            budget: analysis::Budget {
                evaluations: 0,
                ..analysis::Budget::default()
            },
            ..Options::default()
        };
        let nearest = analysis::distance::nearest(&system);
        for service in report(&system, "running", &options).services {
            let found = &nearest[&service.name];
            assert_eq!(
                found.failures, service.distance,
                "seed {seed}, {}: {system:#?}",
                service.name
            );
            let listed = service.cut_sets.iter().map(|set| &set.things);
            let told = |set: &Vec<String>| {
                let set: BTreeSet<&String> = set.iter().collect();
                set == found.things.iter().collect::<BTreeSet<&String>>()
            };
            assert!(
                service.distance.is_none() || listed.into_iter().any(told),
                "seed {seed}: {found:?}"
            );
        }
    }
}

#[test]
fn what_has_failed_already_counts() {
    for seed in 5_000..5_200 {
        let mut rng = Rng::with_seed(seed);
        let mut system = random(&mut rng);
        let things = logic(&system).things;
        let failed = things.iter().filter(|_| rng.u32(0..5) == 0).cloned();
        system.failed = failed.collect();
        let options = Options {
            budget: analysis::Budget {
                evaluations: 0,
                ..analysis::Budget::default()
            },
            ..Options::default()
        };
        let report = report(&system, "running", &options);
        let now = down(&system, &system.failed);
        for service in &report.services {
            assert_eq!(
                service.distance == Some(0),
                now[&service.name],
                "seed {seed}, {}",
                service.name
            );
            let one_away = things
                .iter()
                .filter(|thing| !system.failed.contains(thing))
                .any(|thing| {
                    let mut failed = system.failed.clone();
                    failed.insert(thing.clone());
                    down(&system, &failed)[&service.name]
                });
            if service.distance != Some(0) {
                assert_eq!(service.distance == Some(1), one_away, "seed {seed}, {}", service.name);
            }
        }
    }
}

#[test]
fn every_fix_that_is_told_mends_it() {
    let mut fixes = 0;
    for seed in 7_000..7_150 {
        let mut rng = Rng::with_seed(seed);
        let system = random(&mut rng);
        let options = Options {
            budget: analysis::Budget {
                evaluations: 400,
                depth: 1,
                ..analysis::Budget::default()
            },
            ..Options::default()
        };
        let report = report(&system, "declared", &options);
        for spof in report.spofs.iter().filter(|spof| spof.fix.is_some()) {
            let fix = spof.fix.as_ref().unwrap();
            assert!(fix.cost > 0.0 && !fix.actions.is_empty(), "seed {seed}");
            fixes += 1;
        }
        let before = down(&system, &BTreeSet::new());
        for spof in &report.spofs {
            // What is told to take services down does, by the other logic.
            let thing = logic(&system)
                .things
                .into_iter()
                .find(|thing| thing.to_string() == spof.thing)
                .unwrap();
            let after = down(&system, &BTreeSet::from([thing]));
            let takes: Vec<&String> = after
                .iter()
                .filter(|(name, is)| **is && !before[*name])
                .map(|(name, _)| name)
                .collect();
            assert_eq!(
                takes,
                spof.takes.iter().collect::<Vec<_>>(),
                "seed {seed}, {}",
                spof.thing
            );
        }
    }
    assert!(fixes > 100, "only {fixes} fixes");
}
