//! Nodes that are emptied, go down in order, and come back.

use crate::shop::judge;
use crate::{HEAL, Land, wait_for};
use hosts::Fault;

#[test]
fn a_node_goes_down_without_a_gap_and_comes_back() {
    let land = Land::of(&["a", "b", "c"]);
    land.open_shop("a");
    let (_, node) = land.active("a", "db").unwrap();
    let others: Vec<&str> = ["a", "b", "c"].into_iter().filter(|name| *name != node).collect();
    let clients = land.clients(others[0]);
    wait_for("clients", HEAL, || (clients.good_in_a_row() > 20).then_some(()));

    // Needed by the others it is not stopped whole without a word.
    let output = land.run(&node, &["down", "--yes"]);
    assert!(output.ended.is_success(), "{output:?}");
    assert!(output.stderr.contains("goes on voting"), "{output:?}");
    let (_, elsewhere) = wait_for("another active", HEAL, || {
        land.active(others[0], "db").filter(|(_, at)| *at != node)
    });
    let report = land.report(others[0]);
    let left = report.members.iter().find(|member| member.node == node).unwrap();
    assert_eq!(left.session, Some(false), "its session is closed, not left to run out");
    assert!(report.store_answers && report.votes.0 == 3, "{report:?}");
    wait_for("clients", HEAL, || (clients.good_in_a_row() > 20).then_some(()));
    let (failed, gap) = judge(&clients.stop().unwrap());
    eprintln!("{node} went down: {failed} requests failed, the longest silence was {gap} ms");
    assert_eq!(failed, 0);

    // Back, it takes no slot away, and may have instances again.
    land.ok(&node, &["cluster", "start"]);
    wait_for("it to be online", HEAL, || {
        let status = land.status(&node)?;
        status
            .nodes
            .iter()
            .find(|one| one.name == node && one.state == api::NodeState::Online)
            .map(|_| ())
    });
    land.until_redundant(&node);
    assert_eq!(land.active(&node, "db").unwrap().1, elsewhere);

    // Emptied by a wish, it stays empty over a restart of its agent.
    land.ok(others[0], &["drain", &elsewhere]);
    wait_for("it to be empty", HEAL, || {
        land.active(others[0], "db").filter(|(_, at)| *at != elsewhere)
    });
    let refused = land.refused(
        if elsewhere == "a" { "b" } else { "a" },
        &["cluster", "remove", &land.active(others[0], "db").unwrap().1, "--yes"],
    );
    assert!(
        refused.contains("holds slot/db/0") || refused.contains("is this node"),
        "{refused}"
    );
    land.ok(others[0], &["undrain", &elsewhere]);

    // Taken out while it runs, it says so itself, and does not begin again as if it were one of them.
    land.until_redundant(others[0]);
    land.ok(others[0], &["drain", &node, "--wait"]);
    land.ok(others[0], &["cluster", "remove", &node, "--yes"]);
    // At once, and not when the last of what it has open is ended.
    assert_removed(&land.report(&node));
    let commands = land.refused(&node, &["drain", others[0]]);
    assert!(commands.contains("was removed from the cluster at"), "{commands}");
    let commands = land.refused(&node, &["cluster", "token"]);
    assert!(!commands.contains("recover"), "{commands}");
    wait_for("its own word", HEAL, || {
        let problem = land
            .status(&node)?
            .problems
            .into_iter()
            .find(|one| one.code == "removed")?;
        assert!(problem.text.contains("was removed from the cluster at"), "{problem:?}");
        problem.hint.contains("`understudy down --etcd`").then_some(())
    });
    assert_removed(&land.report(&node));
    // One after the other, as who reads on does it.
    land.run(&node, &["down", "--yes"]);
    land.ok(&node, &["down", "--yes", "--etcd"]);
    assert!(land.host(&node).shell("! pgrep -x etcd").is_ok());
    let refused = land.refused(&node, &["cluster", "start"]);
    assert!(
        refused.contains("was removed from") && refused.contains("token"),
        "{refused}"
    );
    land.assert_never_two_actives();
}

#[test]
fn who_was_removed_while_it_was_off_is_told_so_when_it_is_on_again() {
    let land = Land::of(&["a", "b", "c"]);
    let loss = Fault::power_loss("c");
    land.rig.begin(&loss).unwrap();
    land.ok("a", &["cluster", "remove", "c", "--force", "--yes"]);
    land.rig.heal(&loss).unwrap();
    let started = land.run("c", &["cluster", "start"]);
    assert!(!started.ended.is_success(), "{started:?}");
    assert_removed(&land.report("c"));
    wait_for("its own word", HEAL, || {
        let said = land.run("c", &["status"]).stderr;
        (said.contains("was removed from the cluster at") && said.contains("down --etcd`")).then_some(())
    });
    // As it says.
    land.ok("c", &["down", "--yes", "--etcd"]);
    land.host("c").shell("mv /var/lib/understudy/shop /root/").unwrap();
    land.join("c", "a", "member");
    assert_eq!(land.report("c").votes, (3, 2));
    assert!(!land.report("c").taken_out);
}

/// It counts nobody, and is not led to go on alone.
fn assert_removed(report: &membership::Report) {
    let says = report.says.join("\n");
    assert!(report.taken_out && report.members.is_empty(), "{report:?}");
    assert!(
        says.contains("was removed from the cluster at") && says.contains("`understudy down --etcd`"),
        "{says}"
    );
    assert!(!says.contains("recover"), "{says}");
}

#[test]
fn two_members_that_need_each_other_are_not_separated_by_mistake() {
    let land = Land::of(&["a", "b"]);
    let refused = land.refused("a", &["down", "--etcd", "--yes"]);
    assert!(refused.contains("nothing is decided any more"), "{refused}");
    assert!(land.report("b").store_answers);
    let itself = land.refused("a", &["cluster", "remove", "a", "--yes"]);
    assert!(itself.contains("cannot take itself out"), "{itself}");
    land.ok("a", &["down", "--yes"]);
    // Its member goes on, so the other one still decides.
    assert!(land.report("b").store_answers);
    land.ok("b", &["cluster", "remove", "a", "--yes"]);
    assert_eq!(land.report("b").votes, (1, 1));
    let last = land.refused("b", &["cluster", "remove", "b", "--yes"]);
    assert!(last.contains("cannot take itself out"), "{last}");
}
