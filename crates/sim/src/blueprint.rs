//! Clusters to be broken: a plain service to start from, random ones, and random changes of them.

use fastrand::Rng;
use model::{
    Addressing, Check, CheckKind, Cluster, Hook, Limits, Logs, Millis, NodeName, Protocol, Restart, Service,
    ServiceName, Spread, StandbyMode, Stop, StopSignal,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

/// One active, one standby, checked every 100 ms, behind an address.
pub(crate) fn plain(port: u16) -> Service {
    Service {
        command: vec!["serve".into()],
        active: 1,
        standby: 1,
        need: 1,
        exclusive: false,
        standby_mode: StandbyMode::Warm,
        listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        address: None,
        protocol: Protocol::Tcp,
        addressing: Addressing::Port,
        check: Some(check(100, 100, 2, 1)),
        standby_check: None,
        needs: BTreeSet::new(),
        spread: Spread::Prefer,
        nodes: BTreeSet::new(),
        avoid: BTreeSet::new(),
        reserve: model::Reserve::default(),
        on_promote: None,
        on_demote: None,
        on_follow: None,
        env: BTreeMap::new(),
        dir: None,
        user: None,
        limits: Limits::default(),
        start_timeout: Millis(2_000),
        stop: Stop {
            signal: StopSignal::Term,
            timeout: Millis(500),
        },
        restart: Restart {
            backoff: Millis(100),
            backoff_max: Millis(5_000),
            replace_after: 3,
            give_up_after: 2,
            retry_after: Millis(10_000),
        },
        logs: Logs {
            max_bytes: 1 << 20,
            keep: 1,
        },
        drain_timeout: Millis(500),
        hold_timeout: Millis(2_000),
        hold_max: 1_000,
        objective: None,
        fence: model::FenceBy::default(),
        reliability: model::Reliability::default(),
    }
}

pub(crate) fn check(every: u64, timeout: u64, fail_after: u32, pass_after: u32) -> Check {
    Check {
        kind: CheckKind::Tcp,
        every: Millis(every),
        timeout: Millis(timeout),
        fail_after,
        pass_after,
    }
}

pub(crate) fn hook(name: &str) -> Hook {
    Hook {
        command: vec![name.into()],
        timeout: Millis(1_000),
    }
}

/// A cluster as a seed has it, and its nodes.
pub(crate) fn random(rng: &mut Rng) -> (Cluster, Vec<NodeName>) {
    let nodes: Vec<NodeName> = ["a", "b", "c"]
        .into_iter()
        .take(rng.usize(1..=3))
        .filter_map(|name| NodeName::new(name).ok())
        .collect();
    let mut services: BTreeMap<ServiceName, Service> = BTreeMap::new();
    let names = ["api", "db", "mail", "queue", "web"];
    for (index, name) in names.into_iter().take(rng.usize(1..=5)).enumerate() {
        let Ok(name) = ServiceName::new(name) else {
            continue;
        };
        let mut service = random_service(rng, 7_000 + index as u16, nodes.len());
        let earlier: Vec<ServiceName> = services.keys().cloned().collect();
        service.needs = earlier.into_iter().filter(|_| rng.u32(0..100) < 30).collect();
        services.insert(name, service);
    }
    let cluster = Cluster {
        name: "simulated".into(),
        services,
        alerts: model::Alerts::default(),
        site: model::Site::default(),
    };
    (cluster, nodes)
}

fn random_service(rng: &mut Rng, port: u16, nodes: usize) -> Service {
    let mut service = plain(port);
    let chance = |rng: &mut Rng, percent: u32| rng.u32(0..100) < percent;
    service.exclusive = chance(rng, 50);
    service.active = rng.u32(1..=4).min(rng.u32(1..=4));
    service.standby = rng.u32(0..=3);
    if chance(rng, 25) {
        service.standby_mode = StandbyMode::Cold;
    }
    if chance(rng, 60) {
        service.on_promote = Some(hook("promote"));
    }
    if chance(rng, 40) {
        service.on_demote = Some(hook("demote"));
    }
    if chance(rng, 40) && service.standby_mode == StandbyMode::Warm {
        service.on_follow = Some(hook("follow"));
        service.active = 1;
    }
    if chance(rng, 20) {
        service.standby_check = Some(check(200, 100, 1, 1));
    }
    service.check = random_check(rng);
    if chance(rng, 30) {
        service.listen = None;
    }
    if chance(rng, 15) {
        service.spread = Spread::Node;
        service.active = service.active.min(nodes as u32);
        service.standby = service.standby.min(nodes as u32 - service.active);
    }
    service.need = rng.u32(1..=service.active);
    service.start_timeout = Millis(rng.u64(1_000..=5_000));
    service.stop.timeout = Millis(rng.u64(100..=2_000));
    service.restart = Restart {
        backoff: Millis(rng.u64(50..=500)),
        backoff_max: Millis(rng.u64(500..=3_000)),
        replace_after: rng.u32(1..=5),
        give_up_after: rng.u32(0..=3),
        retry_after: Millis(rng.u64(2_000..=10_000)),
    };
    service.drain_timeout = Millis(rng.u64(50..=1_000));
    service.hold_timeout = Millis(rng.u64(200..=3_000));
    service
}

fn random_check(rng: &mut Rng) -> Option<Check> {
    let every = rng.u64(5..=50) * 10;
    let timeout = rng.u64(every / 2..=every * 2);
    let (fail_after, pass_after) = (rng.u32(1..=3), rng.u32(1..=2));
    (rng.u32(0..100) < 80).then(|| check(every, timeout, fail_after, pass_after))
}

/// Another file, as an operator might apply it next. Services may come and go; `all` has those there ever were.
pub(crate) fn changed(now: &Cluster, nodes: usize, rng: &mut Rng) -> Cluster {
    let mut cluster = now.clone();
    let names: Vec<ServiceName> = cluster.services.keys().cloned().collect();
    let needed = |name: &ServiceName| now.services.values().any(|other| other.needs.contains(name));
    if rng.u32(0..100) < 15 {
        add(&mut cluster, nodes, rng);
    }
    for name in names {
        if rng.u32(0..100) < 8 && cluster.services.len() > 1 && !needed(&name) {
            cluster.services.remove(&name);
            continue;
        }
        let Some(service) = cluster.services.get_mut(&name).filter(|_| rng.bool()) else {
            continue;
        };
        change(service, nodes as u32, rng);
    }
    cluster
}

fn add(cluster: &mut Cluster, nodes: usize, rng: &mut Rng) {
    let name = ["api", "db", "mail", "queue", "web"][rng.usize(0..5)];
    if let Ok(name) = ServiceName::new(name)
        && !cluster.services.contains_key(&name)
    {
        let service = random_service(rng, 7_900, nodes);
        cluster.services.insert(name, service);
    }
}

fn change(service: &mut Service, nodes: u32, rng: &mut Rng) {
    match rng.u32(0..7) {
        // Processes must be replaced.
        0 | 1 => service.command = vec!["serve".into(), format!("--version={}", rng.u32(0..1_000))],
        2 if service.on_follow.is_none() => service.active = rng.u32(1..=4),
        3 => service.standby = rng.u32(0..=3),
        4 => service.check = random_check(rng),
        5 if service.listen.is_some() => service.listen = None,
        5 => service.listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, rng.u16(8_000..9_000)))),
        6 if service.on_follow.is_none() && service.standby_mode == StandbyMode::Warm => {
            service.standby_mode = StandbyMode::Cold;
        }
        6 => service.standby_mode = StandbyMode::Warm,
        _ => {}
    }
    if service.spread == Spread::Node {
        service.active = service.active.min(nodes);
        service.standby = service.standby.min(nodes - service.active);
    }
    service.need = service.need.min(service.active);
}
