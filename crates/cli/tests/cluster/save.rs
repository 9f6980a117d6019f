//! Backups, and the ways back.

use crate::{HEAL, Land, PROGRAM, wait_for};
use hosts::Fault;

#[test]
fn a_backup_is_put_back_and_a_damaged_one_harms_nothing() {
    let land = Land::begun(&["a"], &[]);
    land.host("a").shell("mkdir -p /root/saved").unwrap();
    let written = land.ok("a", &["cluster", "backup", "/root/saved/one"]);
    assert!(written.contains("wrote /root/saved/one"), "{written}");
    let twice = land.refused("a", &["cluster", "backup", "/root/saved/one"]);
    assert!(
        twice.contains("exists already") && twice.contains("not overwritten"),
        "{twice}"
    );

    let running = land.refused("a", &["cluster", "restore", "/root/saved/one", "--yes"]);
    assert!(
        running.contains("`understudy --state-dir /var/lib/understudy down`"),
        "{running}"
    );
    let unsaid = land.refused("a", &["cluster", "recover"]);
    assert!(unsaid.contains("--others-are off"), "{unsaid}");
    land.ok("a", &["down", "--yes"]);
    let unsaid = land.refused("a", &["cluster", "recover", "--others-are", "on"]);
    assert!(unsaid.contains("--others-are off"), "{unsaid}");

    // One bit, one cut, one without its description: etcd is not even stopped.
    let pid = || land.host("a").shell("pgrep -x etcd").unwrap();
    let before = pid();
    let spoil = [
        (
            "flip",
            "cp one flip; cp one.json flip.json; printf x | dd of=flip bs=1 seek=5000 conv=notrunc",
        ),
        ("cut", "head -c 4000 one > cut; cp one.json cut.json"),
        ("bare", "cp one bare"),
        ("none", "true"),
    ];
    for (name, how) in spoil {
        land.host("a").shell(&format!("cd /root/saved && {how}")).unwrap();
        let refused = land.refused("a", &["cluster", "restore", &format!("/root/saved/{name}"), "--yes"]);
        assert!(
            refused.contains("no backup of a cluster, or a damaged one"),
            "{name}: {refused}"
        );
    }
    assert_eq!(pid(), before, "nothing was stopped");

    let back = land.ok("a", &["cluster", "restore", "/root/saved/one", "--yes"]);
    assert!(back.contains("the backup is in force"), "{back}");
    let report = land.report("a");
    assert!(report.store_answers && report.members.len() == 1, "{report:?}");

    // The backup knows nothing of the generation that began with it: put back once more, no epoch is given twice.
    let generation = || {
        let node = land.host("a").shell("cat /var/lib/understudy/shop/node.json").unwrap();
        serde_json::from_str::<serde_json::Value>(&node).unwrap()["generation"].clone()
    };
    let first = generation();
    land.ok("a", &["down", "--yes"]);
    land.ok("a", &["cluster", "restore", "/root/saved/one", "--yes"]);
    assert_eq!((first, generation()), (1.into(), 2.into()));
}

#[test]
fn the_member_that_is_left_goes_on_alone() {
    let land = Land::of(&["a", "b"]);
    // Whoever says that the other is off, and it is not.
    land.ok("a", &["cluster", "backup", "/root/saved"]);
    land.ok("a", &["down", "--yes"]);
    for way_back in [
        &["cluster", "recover", "--others-are", "off"][..],
        &["cluster", "restore", "/root/saved", "--yes"],
    ] {
        let refused = land.refused("a", way_back);
        assert!(
            refused.contains("runs still") && refused.contains("Nothing was changed"),
            "{refused}"
        );
    }
    land.ok("a", &["cluster", "start"]);
    assert_eq!(land.report("a").votes, (2, 2));
    let loss = Fault::power_loss("b");
    land.rig.begin(&loss).unwrap();
    wait_for("plain words", HEAL, || {
        let report = land.report("a");
        (!report.store_answers && report.says.iter().any(|line| line.contains("cluster recover"))).then_some(())
    });
    land.ok("a", &["down", "--yes"]);
    let alone = land.ok("a", &["cluster", "recover", "--others-are", "off"]);
    assert!(alone.contains("votes alone"), "{alone}");
    let report = land.report("a");
    assert!(report.store_answers && report.votes == (1, 1), "{report:?}");
    assert_eq!(report.members.len(), 1, "{report:?}");

    // Who was stated to be off is switched on again, with all that it had: it is none of this cluster.
    land.rig.heal(&loss).unwrap();
    let started = land.run("b", &["cluster", "start"]);
    assert!(!started.ended.is_success(), "{started:?}");
    let names = |status: api::Status| status.nodes.into_iter().map(|node| node.name).collect::<Vec<_>>();
    for _ in 0..20 {
        assert_eq!(names(land.status("a").unwrap()), ["a"], "{started:?}");
        std::thread::sleep(std::time::Duration::from_millis(250));
    }
    let says = land.report("b").says;
    assert!(says[0].contains("was left behind at"), "{says:?}");
    let token = land.ok("a", &["cluster", "token"]);
    let host = land.host("b").address().to_string();
    let join = ["cluster", "join", token.trim(), "--host", &*host];
    let again = land.refused("b", &join);
    assert!(again.contains("mv /var/lib/understudy/shop "), "{again}");
    // As the hint says.
    let down = land.run("b", &["down", "--yes", "--etcd"]);
    land.host("b").shell("mv /var/lib/understudy/shop /root/").unwrap();
    let joined = land.run("b", &join);
    assert!(joined.ended.is_success(), "{down:?} {joined:?}");
    wait_for("both", HEAL, || (names(land.status("a")?) == ["a", "b"]).then_some(()));
}

/// The others were cut off and not off, whatever was stated: they go on with the store of before.
#[test]
fn both_sides_of_a_false_statement_tell_of_each_other_until_one_has_joined_anew() {
    let land = Land::of(&["a", "b", "c"]);
    let cut = Fault::partition([vec!["a"], vec!["b", "c"]]);
    land.rig.begin(&cut).unwrap();
    wait_for("plain words", HEAL, || (!land.report("a").store_answers).then_some(()));
    land.ok("a", &["down", "--yes"]);
    // Whoever keeps programs alive there does not know what goes on.
    let recovered = land.host("a").shell(&format!(
        "{PROGRAM} --state-dir /var/lib/understudy cluster recover --others-are off & RECOVERS=$!
         sleep 0.5
         while kill -0 $RECOVERS; do {PROGRAM} --state-dir /var/lib/understudy cluster start; sleep 0.1; done
         wait $RECOVERS"
    ));
    recovered.unwrap();
    let problem = |host: &str, code: &str, about: &str| {
        let problems = land.status(host)?.problems;
        problems.into_iter().find(|one| one.code == code && one.about == about)
    };
    assert!(
        problem("a", "two-clusters", "b").is_none(),
        "nothing is heard of it yet"
    );
    land.rig.heal(&cut).unwrap();

    for other in ["b", "c"] {
        let beside = wait_for("the new side to tell of it", HEAL, || {
            problem("a", "two-clusters", other)
        });
        assert!(beside.text.contains("that store decides"), "{beside:?}");
        assert!(beside.hint.contains(&format!("--force` on {other}")), "{beside:?}");
        let left = wait_for("its own word", HEAL, || problem(other, "left-behind", other));
        assert!(
            left.text.contains("node a went on without it, as generation 1"),
            "{left:?}"
        );
        assert!(left.hint.contains("understudy down --etcd --force"), "{left:?}");
        let report = land.report(other);
        assert!(
            report.store_answers && report.says[0].contains("was left behind"),
            "{report:?}"
        );
    }
    let report = land.report("a");
    assert!(report.says[0].contains("two clusters go on"), "{report:?}");
    let alerts = wait_for("the alert", HEAL, || {
        let alerts = land.run("a", &["alerts", "--json"]).stdout;
        alerts.contains("two-clusters").then_some(alerts)
    });
    assert!(alerts.contains("understudy down --etcd --force"), "{alerts}");
    // Nobody was ended for it.
    assert!(land.report("b").store_answers && land.status("c").is_some());

    // As the hints say.
    for other in ["b", "c"] {
        land.ok(other, &["down", "--yes", "--etcd", "--force"]);
        land.host(other).shell("mv /var/lib/understudy/shop /root/").unwrap();
        land.join(other, "a", "member");
    }
    wait_for("nothing to be left to tell", HEAL, || {
        let problems = land.status("a")?.problems;
        (!problems.iter().any(|one| one.code == "two-clusters")).then_some(())
    });
    wait_for("those who joined to be left behind no more", HEAL, || {
        let node = land.host("a").shell("cat /var/lib/understudy/shop/node.json").unwrap();
        (!node.contains("left_behind")).then_some(())
    });
    let report = land.report("b");
    assert!(
        report.votes == (3, 2) && !report.says.iter().any(|line| line.contains("left behind")),
        "{report:?}"
    );
}

/// The node of the active is lost for good, and two of three members with it: whoever is left has not followed since it came up.
#[test]
fn what_only_a_lost_active_had_is_given_up_at_an_operators_word() {
    let land = Land::of(&["a", "b", "c"]);
    land.open_shop("a");
    let (last, lost) = land.active("a", "db").unwrap();
    let names = ["a", "b", "c"];
    let mut others = names.into_iter().filter(|name| *name != lost);
    let (left, also_lost) = (others.next().unwrap(), others.next().unwrap());
    for name in [&*lost, also_lost] {
        land.rig.begin(&Fault::power_loss(name)).unwrap();
    }
    wait_for("plain words", HEAL, || (!land.report(left).store_answers).then_some(()));
    land.ok(left, &["down", "--yes"]);
    land.ok(left, &["cluster", "recover", "--others-are", "off"]);

    let db = |status: &api::Status| status.services.iter().find(|one| one.name == "db").cloned();
    let held_back = |status: &api::Status| {
        let problem = status.problems.iter().find(|problem| problem.code == "service-down")?;
        (problem.about == "db" && problem.hint.contains("--give-to")).then(|| problem.hint.clone())
    };
    let hint = wait_for("it waits for the data", HEAL, || held_back(&land.status(left)?));
    assert!(hint.contains(&last), "{hint}");
    let heir = wait_for("a standby that runs", HEAL, || {
        let db = db(&land.status(left)?)?;
        let runs = db
            .instances
            .iter()
            .find(|one| one.node == left && one.state == "running");
        runs.map(|one| one.id.clone())
    });
    let force = |node: &str, heir: &str, words: &str| {
        let words = [
            "force",
            "db/0",
            "--node-is-off",
            node,
            "--give-to",
            heir,
            "--statement",
            words,
        ];
        land.refused(left, &words)
    };
    let stated = format!("host {lost} is off and its data are lost");
    let other_words = force(&lost, &heir, &format!("host {lost} is off"));
    assert!(other_words.contains(&stated), "{other_words}");
    let another = force(also_lost, &heir, &stated);
    assert!(another.contains(&format!("{last} on node {lost}")), "{another}");
    let nobody = force(&lost, "db-999", &stated);
    assert!(nobody.contains(&heir), "{nobody}");

    let words = [
        "force",
        "db/0",
        "--node-is-off",
        &*lost,
        "--give-to",
        &*heir,
        "--statement",
        &*stated,
    ];
    let said = land.ok(left, &words);
    assert!(said.contains(&heir) && said.contains("given up"), "{said}");
    wait_for("it serves", HEAL, || {
        let slot = db(&land.status(left)?)?.slots.first()?.clone();
        (slot.state == "serving" && slot.instance.as_ref() == Some(&heir)).then_some(())
    });
    let deeds = land.ok(left, &["history", "--deeds"]);
    assert!(deeds.contains(&stated), "{deeds}");
}
