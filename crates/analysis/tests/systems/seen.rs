//! A running cluster whose machines turn out to have something in common.

use analysis::history::{History, Incidents};
use analysis::{Observed, Options, live};
use api::analysis::Report;
use api::{InstanceStatus, NodeState, NodeStatus, ServiceStatus, SlotStatus, Status};
use model::hardware::{Gateway, Hardware, Medium};
use model::{Cluster, Profile};
use std::collections::{BTreeMap, BTreeSet};

const AT: &str = "2026-01-01T12:00:00.000Z";

fn cluster() -> Cluster {
    let text = "name = \"shop\"\n[service.db]\ncommand = [\"db\"]\nstandby = 1\n";
    let parsed = spec::parse(text, "shop.toml");
    parsed.unwrap_or_else(|errors| panic!("{errors}")).cluster
}

fn instance(id: &str, node: &str, role: &str) -> InstanceStatus {
    InstanceStatus {
        id: id.into(),
        node: node.into(),
        role: role.into(),
        health: "healthy".into(),
        state: "running".into(),
        ready: true,
        since: AT.into(),
        because: String::new(),
        pid: None,
        address: None,
        restarts: 0,
        last_failure: None,
    }
}

/// The active on `a`, its standby on `b`, nothing on `c`.
fn status() -> Status {
    let node = |name: &str| NodeStatus {
        name: name.into(),
        zone: name.into(),
        state: NodeState::Online,
        since: AT.into(),
        because: String::new(),
    };
    Status {
        version: 1,
        cluster: "shop".into(),
        at: AT.into(),
        revision: 1,
        services: vec![ServiceStatus {
            name: "db".into(),
            state: "redundant".into(),
            since: AT.into(),
            because: String::new(),
            active: 1,
            standby: 1,
            need: 1,
            exclusive: false,
            distance_to_outage: 2,
            outage: None,
            protection: String::new(),
            listen: None,
            floating: None,
            slots: vec![SlotStatus {
                slot: 0,
                state: "serving".into(),
                instance: Some("db-1".into()),
                node: Some("a".into()),
                epoch: 1,
                since: AT.into(),
                because: String::new(),
                parked: None,
            }],
            instances: vec![instance("db-1", "a", "active"), instance("db-2", "b", "standby")],
            rolling: false,
            rollout: None,
            waits_for: None,
            unplaced: None,
            failover_order: vec!["db-2".into()],
            traffic: None,
        }],
        nodes: ["a", "b", "c"].map(node).into(),
        problems: Vec::new(),
        paused: None,
        pause: None,
        distances_at: None,
    }
}

fn disk(name: &str, id: Option<&str>) -> Medium {
    Medium {
        disks: BTreeMap::from([(name.to_owned(), id.map(str::to_owned))]),
        server: None,
    }
}

fn server(name: &str) -> Medium {
    Medium {
        disks: BTreeMap::new(),
        server: Some(name.into()),
    }
}

/// With what lies below `a` and `b`.
fn report(a: Hardware, b: Hardware) -> Report {
    report_of(a, b, Some(Profile::Lan.timing()), &["a", "b", "c"])
}

fn report_of(a: Hardware, b: Hardware, timing: Option<model::Timing>, voters: &[&str]) -> Report {
    let (status, cluster) = (status(), cluster());
    let seen = Observed {
        status: &status,
        cluster: &cluster,
        timing: timing.as_ref(),
        voters: voters.iter().map(ToString::to_string).collect(),
        witnesses: BTreeSet::new(),
        machines: BTreeMap::from(["a", "b", "c"].map(|name| (name.to_owned(), name.to_owned()))),
        hardware: BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)]),
        history: None,
    };
    live(&seen, &Options::default())
}

#[test]
fn what_was_seen_often_enough_counts_before_what_was_given() {
    let mut cluster = cluster();
    let given = |days: u64| model::Rate {
        mttf: Some(model::Millis(days * 86_400_000)),
        mttr: Some(model::Millis(10_000)),
    };
    for service in cluster.services.values_mut() {
        service.reliability.rate = given(365);
    }
    let status = status();
    let report = |failures: u32| {
        let incidents = Incidents {
            failures,
            repaired: failures,
            down_hours: f64::from(failures) * 0.1,
        };
        let history = History {
            hours: 100.0,
            processes: BTreeMap::from([("db".to_owned(), incidents)]),
            ..History::default()
        };
        let seen = Observed {
            status: &status,
            cluster: &cluster,
            timing: None,
            voters: BTreeSet::new(),
            witnesses: BTreeSet::new(),
            machines: BTreeMap::new(),
            hardware: BTreeMap::new(),
            history: Some(&history),
        };
        live(&seen, &Options::default())
    };
    let (few, many) = (report(4), report(20));
    assert_eq!(few.measured, Vec::<String>::new());
    // Twenty failures in the two hundred hours of two instances.
    let line = "process of db: mttf 9.7h, mttr 6.0min: measured, 20 failures in 8.3d";
    assert_eq!(many.measured, [line]);
    let down = |report: &Report| report.services[0].availability.unavailability;
    assert!(down(&many) > 2.0 * down(&few), "{} {}", down(&many), down(&few));
}

/// Single points of failure that agents saw, and the codes of findings.
fn told(report: &Report) -> (Vec<(&str, bool)>, BTreeSet<&str>) {
    let spofs = report.spofs.iter().map(|spof| (spof.thing.as_str(), spof.observed));
    (
        spofs.collect(),
        report.findings.iter().map(|finding| finding.code.as_str()).collect(),
    )
}

fn kept_on(medium: &Medium) -> Hardware {
    Hardware {
        data: medium.clone(),
        ..Hardware::default()
    }
}

#[test]
fn a_disk_under_two_machines_takes_down_what_is_on_both() {
    let lun = disk("sdb", Some("naa.600a0b80"));
    let report = report(kept_on(&lun), kept_on(&lun));
    let (spofs, findings) = told(&report);
    // With the two nodes go two of three voters as well.
    assert_eq!(spofs, [("disk naa.600a0b80", true)]);
    assert!(findings.contains("shared-disk"), "{findings:?}");
    assert_eq!(report.services[0].distance, Some(1));
    assert!(
        report.spofs[0].text.contains("nobody declared it"),
        "{}",
        report.spofs[0].text
    );
    assert_eq!(report.observed[0].below, ["node a", "node b"]);
}

#[test]
fn disks_of_their_own_and_disks_without_a_name_are_not_shared() {
    for (a, b) in [(Some("naa.1"), Some("naa.2")), (None, None), (Some("naa.1"), None)] {
        let report = report(kept_on(&disk("sda", a)), kept_on(&disk("sda", b)));
        assert_eq!(told(&report).0, [], "{a:?} {b:?}");
        assert_eq!(report.observed, []);
        assert_eq!(report.services[0].distance, Some(2));
    }
}

#[test]
fn instances_on_one_file_server_fail_together_and_their_nodes_do_not() {
    let own = |id: &str, name: &str| Hardware {
        data: disk("sda", None),
        instances: BTreeMap::from([(id.to_owned(), server(name))]),
        ..Hardware::default()
    };
    let shared = report(own("db-1", "nas1"), own("db-2", "nas1"));
    assert_eq!(told(&shared).0, [("file server nas1", true)]);
    assert_eq!(shared.observed[0].below, ["process db-1", "process db-2"]);
    assert!(told(&shared).1.contains("shared-file-server"));
    assert_eq!(told(&report(own("db-1", "nas1"), own("db-2", "nas2"))).0, []);
    // Of an instance that is elsewhere by now nothing is said.
    assert_eq!(told(&report(own("db-1", "nas1"), own("db-7", "nas1"))).0, []);
}

#[test]
fn one_machine_names_its_file_server_and_not_its_disk() {
    let on = |medium: Medium| report_of(kept_on(&medium), kept_on(&medium), None, &[]);
    let (spofs, has) = (on(server("nas1")), |report: &Report, thing: &str| {
        report.spofs.iter().any(|spof| spof.thing == thing)
    });
    assert!(
        has(&spofs, "file server nas1") && has(&spofs, "this machine"),
        "{:?}",
        told(&spofs).0
    );
    let spofs = on(disk("sda", Some("naa.1")));
    assert!(
        !has(&spofs, "disk naa.1") && has(&spofs, "this machine"),
        "{:?}",
        told(&spofs).0
    );
}

#[test]
fn hosts_and_enclosures_of_virtual_and_physical_machines_are_causes_too() {
    let on = |host: Option<&str>, chassis: Option<&str>| Hardware {
        host: host.map(str::to_owned),
        chassis: chassis.map(str::to_owned),
        ..Hardware::default()
    };
    let hosts = report(on(Some("hv7"), None), on(Some("hv7"), None));
    assert_eq!(told(&hosts).0, [("host hv7", true)]);
    let blades = report(on(None, Some("Dell Inc. CN7")), on(None, Some("Dell Inc. CN7")));
    assert_eq!(told(&blades).0, [("enclosure Dell Inc. CN7", true)]);
    assert!(told(&blades).1.contains("shared-enclosure"));
}

#[test]
fn copies_routers_and_the_stores_disk_are_worth_a_word_and_no_cause() {
    let of = |id: &str, card: &str| Hardware {
        machine_id: Some(id.into()),
        gateway: Some(Gateway {
            address: "10.0.0.1".into(),
            card: card.into(),
        }),
        data: disk("nvme0n1", None),
        store: Some(disk("nvme0n1", None)),
        ..Hardware::default()
    };
    let copies = report(of("3d12", "02:fc"), of("3d12", "02:fc"));
    let (spofs, findings) = told(&copies);
    assert_eq!(spofs, []);
    for code in ["cloned-machine-id", "shared-gateway", "store-beside-data"] {
        assert!(findings.contains(code), "{code} in {findings:?}");
    }
    let text = copies
        .findings
        .iter()
        .find(|finding| finding.code == "cloned-machine-id")
        .unwrap();
    assert!(!text.text.contains("3d12"), "an id of a machine is a secret of its own");
    // Routers of two networks may have one address.
    let apart = report(of("3d12", "02:fc"), of("4e23", "02:fd"));
    let findings = told(&apart).1;
    assert!(
        !findings.contains("cloned-machine-id") && !findings.contains("shared-gateway"),
        "{findings:?}"
    );
}
