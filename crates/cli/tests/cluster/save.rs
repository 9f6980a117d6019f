//! Backups, and the ways back.

use crate::{HEAL, Land, wait_for};
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
    assert!(running.contains("`understudy down`"), "{running}");
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
}

#[test]
fn the_member_that_is_left_goes_on_alone() {
    let land = Land::of(&["a", "b"]);
    land.rig.begin(&Fault::power_loss("b")).unwrap();
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
}
