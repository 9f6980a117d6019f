//! As in a cluster of many nodes: agents are told few renewals, and a host that is lost is succeeded all the same.

use crate::shop::judge;
use crate::{HEAL, Land, wait_for};
use hosts::Fault;

const FOLDER: &str = "/var/lib/understudy/shop";
const HOSTS: [&str; 3] = ["a", "b", "c"];
/// The bound of the profile `lan` is 3.2 s; the rest is the machine's.
const TAKEN_WITHIN_MS: u64 = 10_000;
const FEW: &str = "renewals are heard of those alone";

#[test]
fn who_is_told_few_renewals_succeeds_a_lost_host() {
    let land = Land::of(&HOSTS);
    for host in HOSTS {
        let agent = land.agent(host);
        let few = format!(r#"sed -i '0,/{{/s//{{ "whole_up_to": 0,/' {FOLDER}/node.json && kill -9 {agent}"#);
        land.host(host).shell(&few).unwrap();
        wait_for("another agent", HEAL, || {
            land.status(host)?;
            (land.agent(host) != agent).then_some(())
        });
    }
    land.open_shop("a");
    let log = |host: &str| land.host(host).shell(&format!("cat {FOLDER}/run/agent.log")).unwrap();
    wait_for("agents that are told few", HEAL, || {
        (HOSTS.iter().filter(|host| log(host).contains(FEW)).count() >= 2).then_some(())
    });

    let (instance, node) = land.active("a", "db").unwrap();
    let other = HOSTS.into_iter().find(|name| *name != node).unwrap();
    let clients = land.clients(other);
    wait_for("clients", HEAL, || (clients.good_in_a_row() > 20).then_some(()));
    land.rig.begin(&Fault::power_loss(&*node)).unwrap();
    let next = wait_for("another active", HEAL, || {
        let (next, at) = land.active(other, "db")?;
        (at != node).then_some(next)
    });
    assert_ne!(next, instance);
    wait_for("clients", HEAL, || (clients.good_in_a_row() > 20).then_some(()));
    let (failed, gap) = judge(&clients.stop().unwrap());
    eprintln!("{failed} requests failed, the longest silence was {gap} ms");
    assert!(gap < TAKEN_WITHIN_MS, "nobody was answered for {gap} ms");
    // Somebody is the controller, and is told of everything again: what was lost is replaced, as far as there are nodes.
    wait_for("a controller", HEAL, || {
        let all = HOSTS.iter().filter(|host| **host != node);
        all.into_iter()
            .any(|host| log(host).contains("every renewal is heard"))
            .then_some(())
    });
    land.assert_never_two_actives();
}
