//! Three pretend nodes, and one that is taken away; and many instances at once.

use super::{HEAL, PROGRAM, assert_no_failures, kill};
use bench::load::{self, Plan};
use bench::rig::{self, Rig};
use std::path::Path;
use std::process::Command;

#[test]
fn a_drain_that_is_waited_for_answers_when_the_node_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    let (web, db) = (rig::free_address().unwrap(), rig::free_address().unwrap());
    let file = folder.path().join("shop.toml");
    std::fs::write(&file, super::shop_file(web, db, &folder.path().join("witness"))).unwrap();
    let run = |words: &[&str]| {
        let mut understudy = Command::new(PROGRAM);
        understudy.arg("--state-dir").arg(folder.path()).args(words);
        understudy.output().unwrap()
    };
    assert!(
        run(&["up", file.to_str().unwrap(), "--detach", "--nodes", "3"])
            .status
            .success()
    );
    let _down = Down(folder.path());
    let on = |node: &str| {
        let status: api::Status = serde_json::from_slice(&run(&["status", "--json"]).stdout).unwrap();
        let instances = status.services.into_iter().flat_map(|service| service.instances);
        instances.filter(|instance| instance.node == node).count()
    };
    let status: api::Status = serde_json::from_slice(&run(&["status", "--json"]).stdout).unwrap();
    let node = status.services[0].instances[0].node.clone();
    assert!(on(&node) > 0);
    let drained = run(&["drain", &node, "--wait=1m"]);
    assert!(drained.status.success(), "{}", super::text(&drained.stderr));
    assert_eq!(on(&node), 0, "{}", super::text(&drained.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_drilled_away_costs_no_request_and_its_instances_come_up_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let (web, db) = (rig::free_address().unwrap(), rig::free_address().unwrap());
    let file = folder.path().join("shop.toml");
    std::fs::write(&file, super::shop_file(web, db, &folder.path().join("witness"))).unwrap();
    let run = |words: &[&str]| {
        let output = Command::new(PROGRAM)
            .arg("--state-dir")
            .arg(folder.path())
            .args(words)
            .output()
            .unwrap();
        assert!(output.status.success(), "{words:?}: {}", super::text(&output.stderr));
        output.stdout
    };
    run(&["up", file.to_str().unwrap(), "--detach", "--nodes", "3"]);
    let _down = Down(folder.path());
    let status: api::Status = serde_json::from_slice(&run(&["status", "--json"])).unwrap();
    let of_db = rig::service(&status, "db").unwrap();
    let nodes: std::collections::BTreeSet<&str> = of_db.instances.iter().map(|i| i.node.as_str()).collect();
    assert_eq!(nodes.len(), 2, "active and standby share a node: {of_db:?}");
    let active_on = of_db.slots[0].node.clone().unwrap();

    let report: api::analysis::Report = serde_json::from_slice(&run(&["analyze", "--json"])).unwrap();
    let spof = report.spofs.iter().find(|spof| spof.thing == "this machine").unwrap();
    assert_eq!((report.of.as_str(), spof.takes.len()), ("running", 2), "{report:?}");
    assert!(
        report.services.iter().all(|service| service.distance == Some(1)),
        "{report:?}"
    );
    // Whatever one asks says the same, and by what.
    let by_machine = |status: &api::Status| {
        let outage = |service: &api::ServiceStatus| service.outage.as_ref().map(|outage| outage.by.clone());
        let one = |service: &api::ServiceStatus| service.distance_to_outage == 1;
        let of = status.services.iter();
        status.distances_at.is_some()
            && of.clone().all(one)
            && of
                .clone()
                .all(|service| outage(service) == Some(vec!["this machine".into()]))
    };
    let begun = std::time::Instant::now();
    while !by_machine(&serde_json::from_slice(&run(&["status", "--json"])).unwrap()) {
        assert!(begun.elapsed() < HEAL, "{}", super::text(&run(&["status"])));
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let shown = super::text(&run(&["status"]));
    assert!(
        shown.contains("outage by this machine; of its instances alone 2 failures"),
        "{shown}"
    );

    let load = load::start(Plan::get(web, "/", 200.0)).unwrap();
    run(&["drill", "node", &active_on, "--yes"]);
    let begun = std::time::Instant::now();
    loop {
        let status: api::Status = serde_json::from_slice(&run(&["status", "--json"])).unwrap();
        let instances = status.services.iter().flat_map(|service| &service.instances);
        let away = instances.clone().all(|instance| instance.node != active_on);
        if away && status.services.iter().all(|service| service.state == "redundant") {
            assert!(
                status
                    .nodes
                    .iter()
                    .any(|node| node.name == active_on && node.state == api::NodeState::Offline)
            );
            break;
        }
        assert!(begun.elapsed() < HEAL, "not healed: {status:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_no_failures(&load.finish().await);
    let overlaps = sample::witness::overlaps(&folder.path().join("witness")).unwrap();
    assert!(overlaps.is_empty(), "{overlaps:?}");
}

/// Ends a cluster that was started by hand.
struct Down<'a>(&'a Path);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        let _ = Command::new(PROGRAM)
            .arg("--state-dir")
            .arg(self.0)
            .args(["down", "--yes"])
            .output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_instances_ten_are_killed_and_the_others_are_not_touched() {
    let file = "name = \"many\"\n[service.sleeper]\ncommand = [\"{understudy}\", \"sample\", \"sleeper\"]\nactive = 100\nstandby = 0\n";
    let rig = Rig::up(Path::new(PROGRAM), "many", file).unwrap();
    let before = rig::pids(&rig.status().unwrap());
    assert_eq!(before.len(), 100);
    let killed: Vec<u32> = before.values().copied().step_by(10).collect();
    killed.iter().for_each(|pid| kill(*pid));
    rig.wait_for("replacements", HEAL, |status| {
        rig::redundant_without(status, "sleeper", &killed)
    })
    .unwrap();
    let after = rig::pids(&rig.status().unwrap());
    let untouched = before.iter().filter(|(id, pid)| after.get(*id) == Some(*pid)).count();
    assert_eq!(untouched, 90);
}
