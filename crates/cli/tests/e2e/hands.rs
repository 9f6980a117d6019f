//! What an operator does by hand: a slot that nobody shall hold, and a slot taken by force.

use crate::{HEAL, Shop};
use std::process::Output;
use std::time::Duration;

impl Shop {
    fn run(&self, words: &[&str]) -> Output {
        self.rig.run(words).unwrap()
    }

    /// Its answer; it must succeed.
    fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it says against it; it must fail.
    fn refused(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(!output.status.success(), "{words:?} succeeded: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn slot(&self) -> api::SlotStatus {
        let status = self.rig.status().unwrap();
        let db = status
            .services
            .into_iter()
            .find(|service| service.name == "db")
            .unwrap();
        db.slots.into_iter().next().unwrap()
    }

    fn until_parked(&self) {
        let parked = |status: &api::Status| {
            let db = status.services.iter().find(|service| service.name == "db");
            db.is_some_and(|db| db.slots.iter().all(|slot| slot.state == "parked"))
        };
        self.rig.wait_for("a parked slot", HEAL, parked).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_slot_is_held_by_nobody_over_deaths_of_agent_and_standby_until_it_is_unparked() {
    let shop = Shop::up();
    let before = shop.slot();
    let node = shop.rig.status().unwrap().nodes[0].name.clone();
    for (verb, about, says) in [
        ("unpark", &["db"] as &[&str], "nothing to do: slot db/0 is not parked"),
        ("resume", &[], "nothing to do: automatic actions are not paused"),
        ("undrain", &[node.as_str()], "is not drained"),
    ] {
        let said = shop.ok(&[&[verb][..], about].concat());
        assert!(said.contains(says), "{said}");
    }
    assert!(
        shop.refused(&["park", "web", "--yes"])
            .contains("web has 2 slots: say which")
    );
    assert!(
        shop.refused(&["park", "db"]).contains("--yes"),
        "nobody is asked without a terminal"
    );

    let asked = shop.run(&["park", "db", "--because", "the disk is swapped", "--yes"]);
    let (said, answer) = (
        String::from_utf8_lossy(&asked.stderr),
        String::from_utf8_lossy(&asked.stdout),
    );
    assert!(asked.status.success(), "{asked:?}");
    assert!(
        said.contains("Park slot db/0") && said.contains("db becomes down"),
        "{said}"
    );
    assert!(answer.contains("slot db/0 is parked"), "{answer}");
    shop.until_parked();
    assert!(shop.refused(&["park", "db", "--yes"]).contains("is parked already"));
    let told = |shop: &Shop| {
        let slot = shop.slot();
        let parked = slot.parked.clone().unwrap();
        assert_eq!(
            (slot.state.as_str(), slot.instance.as_deref()),
            ("parked", None),
            "{slot:?}"
        );
        assert_eq!(parked.why, "the disk is swapped");
        assert!(!parked.by.is_empty());
        slot
    };
    let first = told(&shop);
    assert!(shop.ok(&["status"]).contains("parked it: the disk is swapped"));
    let switch = shop.refused(&["switchover", "db"]);
    let switch = switch.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        switch.contains("the slot is parked") && switch.contains(" unpark db/0`"),
        "{switch}"
    );
    // Right after its start an agent has measured nothing, and says so.
    let alerts = || {
        let told = shop.run(&["alerts"]).stdout;
        let told = String::from_utf8_lossy(&told).into_owned();
        told.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let begun = std::time::Instant::now();
    while !alerts().contains("service-down") && begun.elapsed() < HEAL {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let said = alerts();
    assert!(
        said.contains("manager: Nothing, for it is parked: db/0.")
            && said.contains("do: `understudy")
            && said.contains(" unpark db/0`"),
        "{said}"
    );

    // The agent dies: the next one knows it, before it decides anything.
    crate::kill(shop.rig.own().unwrap().agent);
    shop.until_parked();
    assert_eq!(told(&shop).epoch, first.epoch);
    // Who stands by dies, and stands by again.
    let status = shop.rig.status().unwrap();
    let pids = bench::rig::pids(&status);
    let standby = pids
        .iter()
        .find(|(id, _)| id.starts_with("db-"))
        .map(|(_, pid)| *pid)
        .unwrap();
    crate::kill(standby);
    let again = |status: &api::Status| {
        let now = bench::rig::pids(status);
        !now.values().any(|pid| *pid == standby) && now.len() >= pids.len()
    };
    shop.rig.wait_for("the standby again", HEAL, again).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(told(&shop).epoch, first.epoch, "nobody took it meanwhile");

    let answer = shop.ok(&["unpark", "db/0"]);
    assert!(answer.contains("may be held again"), "{answer}");
    shop.until_redundant_without("db", &[]);
    let after = shop.slot();
    assert!(after.epoch > before.epoch && after.parked.is_none(), "{after:?}");
    // Who moved it is kept, too, when it has moved.
    shop.ok(&["switchover", "db"]);
    let begun = std::time::Instant::now();
    let deeds = loop {
        let deeds = shop.ok(&["history", "--deeds"]);
        if deeds.contains("switchover") {
            break deeds;
        }
        assert!(begun.elapsed() < HEAL, "{deeds}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(deeds.contains("parked slot db/0: the disk is swapped"), "{deeds}");
    assert!(deeds.contains("unpark"), "{deeds}");
    assert!(!deeds.contains("somebody"), "{deeds}");
    let overlaps = sample::witness::overlaps(&shop.witness).unwrap();
    assert!(overlaps.is_empty(), "{overlaps:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_one_machine_nothing_is_taken_by_force() {
    let shop = Shop::up();
    let node = shop.slot().node.unwrap();
    let statement = format!("host {node} is off");
    let refused = shop.refused(&["force", "db", "--node-is-off", &node, "--statement", &statement]);
    assert!(
        refused.contains("on one machine nothing is taken by force"),
        "{refused}"
    );
    assert!(
        shop.refused(&["force", "db", "--node-is-off", "nowhere"])
            .contains("there is no node `nowhere`")
    );
    assert_eq!(shop.ok(&["history", "--deeds"]), "nothing was done by hand yet\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn up_does_not_wait_for_a_slot_that_is_parked_and_leaves_the_cluster_alone() {
    let shop = Shop::up();
    shop.ok(&["park", "db", "--because", "the disk is swapped", "--yes"]);
    shop.until_parked();
    let file = shop.rig.folder().join("again.toml");
    std::fs::write(&file, crate::shop_file(shop.web, shop.db, &shop.witness)).unwrap();
    let begun = std::time::Instant::now();
    // Not detached: there is nothing to stay for either.
    let said = shop.refused(&["up", file.to_str().unwrap(), "--yes"]);
    assert!(begun.elapsed() < HEAL, "it waited: {said}");
    assert!(
        said.contains("slot db/0 is parked by")
            && said.contains("(the disk is swapped)")
            && said.contains(" unpark db/0"),
        "{said}"
    );
    shop.ok(&["unpark", "db"]);
    shop.until_redundant_without("db", &[]);
    let events = shop.ok(&["events", "--json"]);
    assert!(
        !events.contains("nothing of db-1 runs any more"),
        "it ran on as a standby: {events}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_is_told_with_who_and_why_wherever_a_failover_is_promised() {
    let shop = Shop::up();
    let answer = shop.ok(&["pause", "--because", "the switch is replaced"]);
    assert!(answer.contains("automatic actions are paused"), "{answer}");
    let refused = shop.refused(&["pause"]);
    assert!(
        refused.contains("paused already") && refused.contains("the switch is replaced"),
        "{refused}"
    );
    // The next agent knows as much.
    crate::kill(shop.rig.own().unwrap().agent);
    let paused = |status: &api::Status| {
        status
            .pause
            .as_ref()
            .is_some_and(|pause| pause.why == "the switch is replaced")
    };
    shop.rig.wait_for("the pause", HEAL, paused).unwrap();
    for words in [
        &["status"] as &[&str],
        &["status", "db"],
        &["explain", "db"],
        &["explain", "db-1"],
    ] {
        let said = shop.ok(words).replace('\n', " ");
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains("the switch is replaced"), "{words:?}: {said}");
    }
    let file = shop.rig.folder().join("again.toml");
    std::fs::write(&file, crate::shop_file(shop.web, shop.db, &shop.witness)).unwrap();
    let up = shop.ok(&["up", file.to_str().unwrap(), "--detach", "--yes"]);
    assert!(
        up.contains("PAUSED") && up.contains("the switch is replaced") && !up.contains("take over"),
        "{up}"
    );
    let status = shop.rig.status().unwrap();
    let db = status.services.iter().find(|service| service.name == "db").unwrap();
    assert!(db.protection.starts_with("NOTHING FOLLOWS"), "{}", db.protection);

    // What would be promised otherwise is not.
    let more = format!(
        "{}\n[service.nap]\ncommand = [\"sleep\", \"1000\"]\n",
        crate::shop_file(shop.web, shop.db, &shop.witness)
    );
    std::fs::write(&file, more).unwrap();
    shop.ok(&["park", "db", "--yes"]);
    for words in [
        &["plan", file.to_str().unwrap()] as &[&str],
        &["rebalance", "web"],
        &["unpark", "db"],
    ] {
        let said = shop.ok(words).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            (said.contains("before `understudy") && said.contains(" resume`")),
            "{words:?}: {said}"
        );
    }
    let drill = shop.refused(&["drill", "instance", "db-1", "--yes"]);
    let drill = drill.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(drill.contains("nobody would take over"), "{drill}");

    shop.ok(&["resume"]);
    let status = shop.rig.status().unwrap();
    assert_eq!((status.paused, status.pause), (None, None));
    let deeds = shop.ok(&["history", "--deeds"]);
    assert!(
        deeds.contains("paused all automatic actions: the switch is replaced"),
        "{deeds}"
    );
    assert!(deeds.contains("let automatic actions go on"), "{deeds}");
}
