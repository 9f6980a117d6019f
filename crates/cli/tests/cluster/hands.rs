//! What an operator does by hand, with etcd: a slot that nobody shall hold, instances that go back where they belong, and a slot taken by force.

use crate::{HEAL, Land, wait_for};
use hosts::Fault;
use std::time::{Duration, Instant};

/// A long lease, as over a wide network: 30 s.
const LEASE: Duration = Duration::from_secs(30);

impl Land {
    fn slot(&self, host: &str) -> Option<api::SlotStatus> {
        let db = self.status(host)?.services.into_iter().find(|one| one.name == "db")?;
        db.slots.into_iter().next()
    }

    fn until_parked(&self, host: &str) -> api::SlotStatus {
        wait_for("a parked slot", HEAL, || {
            self.slot(host).filter(|slot| slot.state == "parked")
        })
    }

    fn count_on(&self, host: &str, service: &str, node: &str) -> Option<usize> {
        let service = self
            .status(host)?
            .services
            .into_iter()
            .find(|one| one.name == service)?;
        Some(service.instances.iter().filter(|one| one.node == node).count())
    }
}

#[test]
fn a_slot_is_parked_a_service_is_rebalanced_and_a_dead_holder_is_taken_from_by_force() {
    let land = Land::new(&["a", "b", "c"]);
    let at = land.address("a");
    land.ok("a", &["cluster", "init", "shop", "--host", &at, "--profile", "wan"]);
    land.join("b", "a", "member");
    land.join("c", "a", "member");
    land.open_shop("a");
    let (holder, node) = land.active("a", "db").unwrap();
    let others: Vec<&str> = ["a", "b", "c"].into_iter().filter(|name| *name != node).collect();
    let (asked, third) = (others[0], others[1]);

    // Parked from one node, it is so on all; and an agent that comes up anew on the holder's node knows it.
    let answer = land.ok(asked, &["park", "db", "--because", "the disk is swapped", "--yes"]);
    assert!(answer.contains(&format!("{holder} gives it up")), "{answer}");
    let parked = land.until_parked(third);
    assert_eq!(parked.parked.as_ref().unwrap().why, "the disk is swapped");
    let host = land.host(&node);
    host.shell(&format!("kill -9 {}", land.agent(&node))).unwrap();
    assert_eq!(land.until_parked(&node).epoch, parked.epoch);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(land.until_parked(asked).epoch, parked.epoch, "somebody took it");
    let events = land.run(third, &["events"]).stdout;
    assert!(events.contains("slot db/0 is parked"), "{events}");
    land.ok(third, &["unpark", "db"]);
    land.until_redundant(asked);
    assert!(land.slot(asked).unwrap().epoch > parked.epoch);

    // What was moved off a node stays away from it, until it is asked back.
    let clients = land.clients(asked);
    wait_for("clients", HEAL, || (clients.good_in_a_row() > 20).then_some(()));
    land.ok(asked, &["drain", third]);
    wait_for("it to be empty", HEAL, || {
        (land.count_on(asked, "web", third)? == 0).then_some(())
    });
    land.until_redundant(asked);
    land.ok(asked, &["undrain", third]);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(
        land.count_on(asked, "web", third),
        Some(0),
        "nothing moves back by itself"
    );
    land.ok(asked, &["rebalance", "web"]);
    wait_for("one of three there", HEAL, || {
        (land.count_on(asked, "web", third)? == 1).then_some(())
    });
    wait_for("it to be told", HEAL, || {
        let events = land.run(asked, &["events", "-n", "200"]).stdout;
        let events = events
            + &land.run(third, &["events", "-n", "200"]).stdout
            + &land.run(&node, &["events", "-n", "200"]).stdout;
        events
            .contains("every instance of web is where it would be put today")
            .then_some(())
    });
    land.until_redundant(asked);
    let (failed, gap) = crate::shop::judge(&clients.stop().unwrap());
    eprintln!("drained, and rebalanced: {failed} requests failed, the longest silence was {gap} ms");
    assert_eq!(failed, 0);

    // A holder that lives is not taken from, whatever anybody says.
    let (_, node) = land.active("a", "db").unwrap();
    let others: Vec<&str> = ["a", "b", "c"].into_iter().filter(|name| *name != node).collect();
    let (asked, third) = (others[0], others[1]);
    let off = format!("host {node} is off");
    let force = |words: &str| land.run(asked, &["force", "db/0", "--node-is-off", &node, "--statement", words]);
    let refused = force(&off).stderr;
    assert!(refused.contains("is alive"), "{refused}");
    let itself = land.refused(&node, &["force", "db", "--node-is-off", &node, "--statement", &off]);
    assert!(itself.contains("is the one that is asked"), "{itself}");
    let wrong = land.refused(asked, &["force", "db", "--node-is-off", third, "--statement", &off]);
    assert!(wrong.contains("holds the slot, not node"), "{wrong}");

    // Its power is lost. The others would wait for its lease of half a minute.
    let before = land.slot(asked).unwrap();
    land.rig.begin(&Fault::power_loss(&*node)).unwrap();
    let lost = Instant::now();
    wait_for("it to be silent", HEAL, || {
        force("yes").stderr.contains("the statement must read").then_some(())
    });
    let unstated = land.refused(asked, &["force", "db", "--node-is-off", &node]);
    assert!(unstated.contains("nobody is here to state"), "{unstated}");
    assert!(
        unstated.contains("two may act at once"),
        "it says first what it does: {unstated}"
    );
    assert_eq!(land.slot(asked).unwrap().epoch, before.epoch);
    let forced = force(&off);
    assert!(forced.ended.is_success(), "{forced:?}");
    let epoch = wait_for("another active", HEAL, || {
        let slot = land.slot(third)?;
        (slot.state == "serving" && slot.node.as_deref() != Some(&node)).then_some(slot.epoch)
    });
    eprintln!(
        "taken by force {} ms after the loss, under a lease of {LEASE:?}",
        lost.elapsed().as_millis()
    );
    assert!(epoch > before.epoch);
    assert!(lost.elapsed() < LEASE, "it was not by force");
    let deeds = land.ok(third, &["history", "--deeds"]);
    assert!(
        deeds.contains("park") && deeds.contains("by force; stated: host"),
        "{deeds}"
    );
    assert!(
        land.run(third, &["events", "-n", "200"])
            .stdout
            .contains("by force; stated: host")
    );
    land.assert_never_two_actives();
}
