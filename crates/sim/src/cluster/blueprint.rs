//! Clusters of several machines to be broken.

use crate::blueprint::{check, hook, plain};
use decisions::Place;
use fastrand::Rng;
use model::{Cluster, FloatingAddress, Millis, Profile, Service, ServiceName, Spread, StandbyMode, Timing};
use std::collections::BTreeMap;

/// A cluster as a seed has it: its services, how many nodes, and the timing of sessions.
pub(crate) fn random(rng: &mut Rng) -> (Cluster, usize, Timing) {
    let nodes = rng.usize(3..=5);
    let profile = [Profile::Fast, Profile::Fast, Profile::Lan, Profile::Lan, Profile::Stock][rng.usize(0..5)];
    let mut services = BTreeMap::new();
    let names = ["db", "queue", "web"];
    for (index, name) in names.into_iter().take(rng.usize(1..=3)).enumerate() {
        if let Ok(name) = ServiceName::new(name) {
            services.insert(name, random_service(rng, 7_000 + index as u16, index == 0));
        }
    }
    let cluster = Cluster {
        name: "simulated".into(),
        services,
        alerts: model::Alerts::default(),
        site: model::Site::default(),
    };
    (cluster, nodes, profile.timing())
}

/// Gives some clusters zones, and some of their services wishes about where they are; such that everything finds a place when all nodes are
/// there. By numbers of its own: what a seed is otherwise stays so.
pub(crate) fn places(seed: u64, cluster: &mut Cluster, nodes: usize) -> Vec<Place> {
    let rng = &mut Rng::with_seed(seed ^ 0x0020_7ace);
    if rng.u32(0..100) < 50 {
        return Vec::new();
    }
    let zones = rng.usize(2..=nodes);
    let names = ["east/r1", "east/r2", "west/r1", "west/r2", "north"];
    let room = 200;
    let place = |ix: usize| Place {
        zone: names[ix % zones].into(),
        cpu_percent: 0,
        memory_bytes: room,
    };
    let mut keeps = true;
    for service in cluster.services.values_mut() {
        let wanted = service.wanted() as usize;
        service.spread = match rng.u32(0..3) {
            0 if wanted <= zones => Spread::Zone,
            1 if wanted <= nodes => Spread::Node,
            _ => Spread::Prefer,
        };
        let free = match service.spread {
            Spread::Zone => zones == nodes && wanted < zones,
            _ => wanted < nodes,
        };
        if free && rng.bool() {
            service.avoid.extend(super::world::node_name(rng.usize(0..nodes)));
        } else if keeps && rng.bool() && service.spread != Spread::Prefer {
            keeps = false;
            service.reserve.memory_bytes = room / 2 + 1;
        } else if keeps && wanted <= nodes && rng.bool() {
            keeps = false;
            service.reserve.memory_bytes = room / 2;
        }
    }
    (0..nodes).map(place).collect()
}

/// One exclusive active with a database's hooks, two standbys.
pub(crate) fn database(port: u16) -> Service {
    let mut service = plain(port);
    service.exclusive = true;
    service.standby = 2;
    service.check = Some(check(500, 200, 2, 1));
    service.on_promote = Some(hook("promote"));
    service.on_demote = Some(hook("demote"));
    service.on_follow = Some(hook("follow"));
    service.standby_check = Some(check(500, 200, 1, 1));
    service
}

fn random_service(rng: &mut Rng, port: u16, first: bool) -> Service {
    let mut service = plain(port);
    let chance = |rng: &mut Rng, percent: u32| rng.u32(0..100) < percent;
    // What is exclusive is what all this is about.
    service.exclusive = first || chance(rng, 60);
    service.active = if chance(rng, 70) { 1 } else { rng.u32(2..=3) };
    service.standby = rng.u32(1..=2);
    service.check = chance(rng, 85).then(|| check(500, 200, 2, 1));
    service.start_timeout = Millis(3_000);
    if chance(rng, 15) {
        service.standby_mode = StandbyMode::Cold;
    } else {
        if chance(rng, 70) {
            service.on_promote = Some(hook("promote"));
        }
        if service.on_promote.is_some() && chance(rng, 50) {
            service.on_demote = Some(hook("demote"));
        }
        if service.active == 1 && service.on_promote.is_some() && chance(rng, 60) {
            service.on_follow = Some(hook("follow"));
            service.standby_check = chance(rng, 70).then(|| check(500, 200, 1, 1));
        }
    }
    service.drain_timeout = Millis(200);
    // Some have clients who come to an address that moves; which is not for the generator to say, so that seeds mean what they did.
    if service.exclusive && service.active == 1 && service.standby == 2 {
        service.address = service.listen.map(|listen| FloatingAddress {
            ip: listen.ip(),
            prefix: 32,
            interface: None,
        });
    }
    service
}
