//! A cluster grows, loses a machine, and shrinks.

use crate::shop::judge;
use crate::{HEAL, Land, wait_for};
use hosts::Fault;
use std::time::{Duration, Instant};

/// D + stagger + commit of the timing `lan`, as `cluster status` tells it, and the promotion on a busy machine.
const TAKEN_WITHIN: Duration = Duration::from_millis(3_100 + 3_000);

#[test]
fn three_machines_survive_the_loss_of_one_and_it_can_be_taken_out() {
    let land = Land::of(&["a", "b", "c"]);
    land.open_shop("b");
    let (first, node) = land.active("a", "db").unwrap();

    // An agent that is killed moves nothing.
    let before = land.agent(&node);
    land.host(&node).shell(&format!("kill -9 {before}")).unwrap();
    wait_for("another agent", HEAL, || {
        let status = land.status(&node)?;
        (land.agent(&node) != before && !status.services.is_empty()).then_some(())
    });
    land.until_redundant(&node);
    assert_eq!(land.active(&node, "db").unwrap(), (first.clone(), node.clone()));

    // A machine that is gone from one moment to the next.
    let other = ["a", "b", "c"].into_iter().find(|name| *name != node).unwrap();
    let clients = land.clients(other);
    wait_for("clients", HEAL, || (clients.good_in_a_row() > 20).then_some(()));
    let lost = Instant::now();
    land.rig.begin(&Fault::power_loss(&*node)).unwrap();
    let (second, elsewhere) = wait_for("another active", HEAL, || {
        let (instance, at) = land.active(other, "db")?;
        (at != node).then_some((instance, at))
    });
    eprintln!(
        "{second} on {elsewhere} was active {} ms after {node} was lost",
        lost.elapsed().as_millis()
    );
    wait_for("clients", HEAL, || (clients.good_in_a_row() > 20).then_some(()));
    let (failed, gap) = judge(&clients.stop().unwrap());
    eprintln!("clients: {failed} requests failed, the longest silence was {gap} ms");
    assert!(
        gap < TAKEN_WITHIN.as_millis() as u64,
        "nobody was answered for {gap} ms"
    );
    assert!(second != first);

    // What needs all nodes waits for it, says so, and can be given up; and begun again with other keys.
    land.ok(other, &["cluster", "rotate-authority", "--yes"]);
    wait_for("whom it waits for", HEAL, || {
        let says = land.report(other).says.join("\n");
        says.contains(&format!("waits: {node} does not trust the new authority yet"))
            .then_some(())
    });
    land.ok(other, &["cluster", "rotate-authority", "--abort"]);
    assert_eq!(land.report(other).authority, "1");

    // It is taken out for good; what is left is a cluster of two.
    land.ok(other, &["cluster", "remove", &node, "--yes"]);
    let report = land.report(other);
    assert_eq!(report.members.len(), 2, "{report:?}");
    assert_eq!(report.votes, (2, 2), "{report:?}");
    assert!(
        report.says.iter().any(|line| line.contains("two members vote")),
        "{report:?}"
    );
    let unknown = land.refused(other, &["cluster", "remove", &node, "--yes"]);
    assert!(unknown.contains("there is no node"), "{unknown}");
    land.ok(other, &["cluster", "rotate-authority", "--yes"]);
    wait_for("the new authority", HEAL + HEAL, || {
        (land.report(other).authority == "2").then_some(())
    });
    land.assert_never_two_actives();
}

#[test]
fn two_machines_and_a_witness_with_a_worker_beside() {
    let land = Land::begun(&["a", "b", "w", "k"], &[]);
    land.join("b", "a", "member");
    land.join("w", "a", "witness");
    land.join("k", "a", "worker");
    let report = land.report("k");
    let role = |name: &str| {
        let member = report.members.iter().find(|member| member.node == name).unwrap();
        (member.role.as_str(), member.store.is_some())
    };
    assert_eq!(role("a"), ("member", true));
    assert_eq!(role("b"), ("member", true));
    assert_eq!(role("w"), ("witness", true));
    assert_eq!(role("k"), ("worker", false));
    assert_eq!(report.votes, (3, 2));
    land.open_shop("k");
    let status = land.status("w").unwrap();
    let on_witness = status.services.iter().flat_map(|service| &service.instances);
    assert!(
        on_witness.clone().all(|instance| instance.node != "w"),
        "a witness runs nothing"
    );
    // Only members have the authority's keys.
    let keys = |host: &str| {
        land.host(host)
            .shell("ls /var/lib/understudy/shop/pki")
            .unwrap()
            .contains("authority-")
    };
    assert!(keys("a") && keys("b") && !keys("w") && !keys("k"));
    let refused = land.refused("k", &["cluster", "token"]);
    assert!(refused.contains("authority"), "{refused}");

    // With one of three voters gone the store goes on; with two it stands still, and every node says so.
    land.rig.begin(&Fault::power_loss("b")).unwrap();
    wait_for("the store without b", HEAL, || {
        land.report("a").store_answers.then_some(())
    });
    land.rig.begin(&Fault::power_loss("w")).unwrap();
    for node in ["a", "k"] {
        let report = wait_for("plain words", HEAL, || {
            let report = land.report(node);
            (!report.store_answers).then_some(report)
        });
        let says = report.says.join("\n");
        assert!(
            says.contains("only 1 of 3 members of the store answer, 2 are needed"),
            "{node}: {says}"
        );
        assert!(says.contains("cluster recover"), "{node}: {says}");
    }
    let refused = land.refused("a", &["cluster", "token"]);
    assert!(refused.contains("etcd") || refused.contains("store"), "{refused}");
    // Also an agent that comes up meanwhile.
    land.host("k").shell(&format!("kill -9 {}", land.agent("k"))).unwrap();
    wait_for("an agent that waits", HEAL, || {
        let said = land.run("k", &["status"]).stderr;
        said.contains("waiting for the store: ").then_some(())
    });
    let output = land.run("k", &["down", "--yes"]);
    assert!(output.ended.is_success(), "{output:?}");
    land.rig.heal_all().unwrap();
    for node in ["b", "w", "k"] {
        wait_for("it to come back", HEAL, || {
            land.run(node, &["cluster", "start"]).ended.is_success().then_some(())
        });
    }
    land.until_redundant("k");
    land.assert_never_two_actives();
}
