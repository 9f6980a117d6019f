//! What belongs to another cluster, another time or another version: refused with the reason and the way out, and nothing is lost.

use crate::{HEAL, Land, PROGRAM, wait_for};
use hosts::{Command, Fault};

/// Where Debian's `libfaketime` lies.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

#[test]
fn a_clock_that_is_an_hour_off_lets_nobody_join_and_uses_up_no_token() {
    assert!(
        std::path::Path::new(FAKETIME).exists(),
        "apt-get install --no-install-recommends faketime"
    );
    let land = Land::begun(&["a", "b"], &[]);
    let token = land.token("a", "member");
    for (offset, direction) in [("+1h", "ahead of"), ("-1h", "behind")] {
        let address = land.address("b");
        let words = [
            PROGRAM,
            "--state-dir",
            "/var/lib/understudy",
            "cluster",
            "join",
            &token,
            "--host",
            &address,
        ];
        let command = Command::new(words)
            .env("LD_PRELOAD", FAKETIME)
            .env("FAKETIME", offset)
            .env("DONT_FAKE_MONOTONIC", "1");
        let output = land.host("b").run(command).unwrap();
        let said = output.stderr;
        assert!(!output.ended.is_success(), "{said}");
        assert!(
            said.contains("the clock of this machine") && said.contains(direction),
            "{offset}: {said}"
        );
        assert!(said.contains("set the clocks right"), "{offset}: {said}");
        land.host("b")
            .shell("test ! -e /var/lib/understudy/shop/node.json")
            .unwrap();
    }
    // Set right, it joins with the same token.
    land.ok("b", &["cluster", "join", &token, "--host", &land.address("b")]);
    assert_eq!(land.report("a").votes, (2, 2));
}

#[test]
fn an_etcd_of_an_unknown_version_is_refused_and_harms_nothing() {
    let land = Land::begun(&["a", "b"], &[]);
    let ours = land.address("b");
    let token = land.token("a", "member");
    let now = land.host("b").shell("etcd --version").unwrap();
    let version = now.lines().next().unwrap().rsplit(' ').next().unwrap().to_owned();
    assert!(version.starts_with("3."), "{now}");
    let dots = version.replace('.', "\\.");
    let why = "or later of version 3 is needed";
    for first in ["9", "2"] {
        // The same program, and by its own account of another version.
        let other = format!("{first}{}", &version[1..]);
        let spoil = format!(
            "cp /usr/bin/etcd /usr/bin/etcd.away && LC_ALL=C sed 's/{dots}/{other}/g' /usr/bin/etcd.away > /usr/bin/etcd"
        );
        land.host("b").shell(&spoil).unwrap();
        let said = land.refused("b", &["cluster", "join", &token, "--host", &ours]);
        assert!(
            said.contains(why) && said.contains(&other) && said.contains("apt-get install"),
            "{said}"
        );
        let said = land.refused("b", &["cluster", "init", "other", "--host", &ours]);
        assert!(said.contains(why), "{said}");
        land.host("b").shell("mv /usr/bin/etcd.away /usr/bin/etcd").unwrap();
    }
    // Those that somebody else runs: an old one that answers, and one that knows nothing of our requests.
    for (number, other, why) in [
        (0, format!("3.3{}", &version[3..]), "; 3.4 and later of 3.x are known"),
        (1, format!("9{}", &version[1..]), "3.4 and later"),
    ] {
        let program = format!("/root/etcd-{number}");
        let spoil = format!("LC_ALL=C sed 's/{dots}/{other}/g' /usr/bin/etcd > {program}; chmod +x {program}");
        land.host("b").shell(&spoil).unwrap();
        let at = format!("http://{ours}:2379");
        let urls = ["--listen-client-urls", &at, "--advertise-client-urls", &at];
        let folder = format!("/var/lib/theirs-{number}");
        let words = [program.as_str(), "--data-dir", &folder].into_iter().chain(urls);
        let pid = land.host("b").start_daemon(Command::new(words), "theirs").unwrap();
        wait_for("it to listen", HEAL, || {
            land.host("b").shell("ss -ltn | grep -q :2379").is_ok().then_some(())
        });
        let words = [
            "cluster",
            "init",
            "other",
            "--host",
            &ours,
            "--etcd-in-the-open",
            "--etcd",
            &at,
        ];
        let said = land.refused("b", &words);
        assert!(said.contains(why), "{said}");
        land.host("b")
            .shell(&format!("kill {pid}; test ! -e /var/lib/understudy/other/node.json"))
            .unwrap();
        wait_for("it to end", HEAL, || {
            land.host("b").shell("! ss -ltn | grep -q :2379").is_ok().then_some(())
        });
    }
    land.ok("b", &["cluster", "join", &token, "--host", &ours]);
    assert_eq!(land.report("a").votes, (2, 2));
}

#[test]
fn certificates_of_another_cluster_are_refused_by_all_and_the_own_ones_put_it_right() {
    let land = Land::of(&["a", "b", "c"]);
    land.open_shop("a");
    let theirs = Land::begun(&["o"], &[]);
    let active = land.active("a", "db").unwrap();
    let node = ["b", "c"].into_iter().find(|name| *name != active.1).unwrap();
    let folder = theirs.host("o").files().join("var/lib/understudy/shop/pki");
    let into = land.rig.shared().join("pki");
    copy(&folder, &into);
    land.ok(node, &["down", "--yes"]);
    let place = "/var/lib/understudy/shop";
    let take = format!(
        "mv {place}/pki {place}/pki.ours && cp -a {} {place}/pki",
        into.display()
    );
    land.host(node).shell(&take).unwrap();
    let said = land.refused(node, &["cluster", "start"]);
    assert!(
        said.contains("the certificates in") && said.contains("are those of the cluster"),
        "{said}"
    );
    assert!(said.contains("hint: "), "{said}");
    assert_eq!(land.active("a", "db").unwrap(), active);
    let back = format!("rm -r {place}/pki && mv {place}/pki.ours {place}/pki");
    land.host(node).shell(&back).unwrap();
    land.ok(node, &["cluster", "start"]);
    land.until_redundant(node);
    assert_eq!(land.active("a", "db").unwrap(), active);
    land.assert_never_two_actives();
}

fn copy(from: &std::path::Path, into: &std::path::Path) {
    let output = std::process::Command::new("cp")
        .arg("-a")
        .args([from, into])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_node_from_a_copy_of_its_disk_takes_nothing_back() {
    let land = Land::of(&["a", "b", "c"]);
    land.open_shop("a");
    let (_, at) = land.active("a", "db").unwrap();
    let node = ["b", "c"].into_iter().find(|name| *name != at).unwrap();
    // As a virtual machine is copied: all of its disk at one moment, while it runs.
    let save = "kill -STOP $(pgrep -x etcd); sync; cp -a /var/lib/understudy /root/copy; kill -CONT $(pgrep -x etcd)";
    land.host(node).shell(save).unwrap();
    // Since then much was decided with its vote.
    land.until_redundant("a");
    for _ in 0..3 {
        wait_for("a switchover", HEAL, || {
            land.run("a", &["switchover", "db"]).ended.is_success().then_some(())
        });
        land.until_redundant("a");
    }
    let loss = Fault::power_loss(node);
    land.rig.begin(&loss).unwrap();
    wait_for("the others", HEAL, || {
        land.active("a", "db").filter(|(_, at)| at != node)
    });
    land.rig.heal(&loss).unwrap();
    let back = "rm -rf /var/lib/understudy && mv /root/copy /var/lib/understudy";
    land.host(node).shell(back).unwrap();
    let started = land.run(node, &["cluster", "start"]);
    eprintln!("start from the copy: {started:?}");
    // It catches up; and if it had promised the others more than it has now, it is made anew from them, by itself.
    wait_for("its member of the store to be well again", HEAL * 2, || {
        (land.report("a").votes.0 == 3).then_some(())
    });
    let (_, now) = land.active("a", "db").unwrap();
    assert_ne!(now, node);
    land.assert_never_two_actives();
}

#[test]
fn a_member_whose_data_are_gone_or_spoilt_is_made_anew_from_the_others() {
    let land = Land::of(&["a", "b", "c"]);
    land.open_shop("a");
    let (_, at) = land.active("a", "db").unwrap();
    let node = ["b", "c"].into_iter().find(|name| *name != at).unwrap();
    let etcd = "/var/lib/understudy/shop/etcd";
    let spoil = [
        // Under a running etcd: at its next start they are not there.
        format!("rm -r {etcd} && kill -KILL $(pgrep -x etcd)"),
        format!(
            "kill -STOP $(pgrep -x etcd); dd if=/dev/urandom of=$(ls {etcd}/member/wal/*.wal | tail -1) bs=4k seek=1 count=64 conv=notrunc status=none; kill -KILL $(pgrep -x etcd)"
        ),
    ];
    for (round, spoil) in spoil.iter().enumerate() {
        let active = land.active("a", "db").unwrap();
        // Once the agent is there to see it, once it finds it so at its start.
        land.host(node).shell(spoil).unwrap();
        if round == 1 {
            land.host(node)
                .shell(&format!("kill -KILL {}", land.agent(node)))
                .unwrap();
        }
        wait_for("its member of the store to be seen as away", HEAL, || {
            (land.report("a").votes.0 == 2).then_some(())
        });
        wait_for("its member of the store to be made anew", HEAL * 2, || {
            (land.report("a").votes.0 == 3).then_some(())
        });
        land.until_redundant(node);
        assert_eq!(land.active("a", "db").unwrap(), active);
    }
    land.assert_never_two_actives();
}

#[test]
fn a_copied_machine_does_not_come_up_beside_the_one_that_runs() {
    let land = Land::begun(&["a", "k", "z"], &[]);
    land.join("k", "a", "worker");
    let folder = land.host("k").files().join("var/lib/understudy");
    let shared = land.rig.shared().join("copy");
    copy(&folder, &shared);
    land.host("z")
        .shell(&format!(
            "rm -rf /var/lib/understudy && cp -a {} /var/lib/understudy",
            shared.display()
        ))
        .unwrap();
    let said = land.refused("z", &["cluster", "start"]);
    assert!(said.contains(&land.address("k")), "{said}");
    assert!(said.contains("hint: "), "{said}");
    // Even if it takes the address along.
    let report = land.report("a");
    let sessions = report
        .members
        .iter()
        .filter(|member| member.session == Some(true))
        .count();
    assert_eq!(sessions, 2, "{report:?}");
}
