//! Certificates are renewed, the authority replaced, nodes revoked, while clients are served.

use crate::shop::judge;
use crate::{HEAL, Land, wait_for};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// The shortest there is: renewed after 38 to 40 s.
const LIFE: Duration = Duration::from_secs(60);

#[test]
fn certificates_end_and_nobody_notices() {
    let land = Land::begun(&["a", "b", "k"], &["--certificate-lifetime", "1m"]);
    let begun = Instant::now();
    land.join("b", "a", "member");
    land.join("k", "a", "worker");
    land.open_shop("a");
    let (holder, _) = land.active("a", "db").unwrap();
    let clients = land.clients("k");
    let first: Vec<String> = ["a", "b", "k"].iter().map(|host| serial(&land, host)).collect();

    // The authority is replaced meanwhile.
    let refused = land.refused("k", &["cluster", "rotate-authority", "--yes"]);
    assert!(refused.contains("authority"), "{refused}");
    land.ok("b", &["cluster", "rotate-authority", "--yes"]);
    let twice = land.refused("a", &["cluster", "rotate-authority", "--yes"]);
    assert!(twice.contains("being replaced already"), "{twice}");
    wait_for("the new authority", HEAL * 2, || {
        (land.report("k").authority == "2").then_some(())
    });
    let late = land.refused("a", &["cluster", "rotate-authority", "--abort"]);
    assert!(late.contains("none is under way"), "{late}");
    let old = || land.host("a").shell("ls /var/lib/understudy/shop/pki").unwrap();
    wait_for("the old keys to be removed", HEAL, || {
        (!old().contains("authority-1.pem")).then_some(())
    });
    eprintln!("the authority was replaced {} s after init", begun.elapsed().as_secs());

    // All that was issued first has ended by then.
    let left = (LIFE + Duration::from_secs(8)).saturating_sub(begun.elapsed());
    std::thread::sleep(left);
    for (host, first) in ["a", "b", "k"].iter().zip(first) {
        assert_ne!(serial(&land, host), first, "the certificates of {host} were renewed");
    }
    let report = land.report("k");
    assert!(report.ending.is_empty(), "{report:?}");
    assert!(
        report.members.iter().all(|member| member.session == Some(true)),
        "{report:?}"
    );
    assert_eq!(land.active("k", "db").unwrap().0, holder, "nothing has moved");
    let (failed, gap) = judge(&clients.stop().unwrap());
    eprintln!("renewal and a new authority under traffic: {failed} requests failed, the longest silence was {gap} ms");
    assert_eq!(failed, 0);

    // A node that was taken out is shown the door, also by what it has open.
    let (address, pki) = (land.address("a"), "/var/lib/understudy/shop/pki");
    let spy = format!(
        "ETCDCTL_API=3 exec etcdctl --endpoints https://{address}:7461 --cacert {pki}/store-ca.crt --cert {pki}/store-client.crt \
         --key {pki}/store.key watch --prefix slot/"
    );
    let before = open_to_store(&land, "a", "k");
    land.host("k").start_daemon(hosts::Command::shell(spy), "spy").unwrap();
    let open = wait_for("somebody on k to look into the store", HEAL, || {
        let open: BTreeSet<String> = &open_to_store(&land, "a", "k") - &before;
        (!open.is_empty()).then_some(open)
    });
    land.ok("a", &["cluster", "remove", "k", "--force", "--yes"]);
    wait_for("it to know", HEAL, || {
        let status = land.status("k")?;
        status
            .problems
            .iter()
            .any(|problem| problem.code == "removed")
            .then_some(())
    });
    wait_for("what k has open to the store to end", HEAL, || {
        open_to_store(&land, "a", "k").is_disjoint(&open).then_some(())
    });
    land.assert_never_two_actives();
}

/// Connections of one host to the store on another.
fn open_to_store(land: &Land, to: &str, from: &str) -> BTreeSet<String> {
    let from = land.address(from);
    let line = format!("ss -Htn state established sport = :7461 dst {from}");
    let shown = land.host(to).shell(&line).unwrap();
    let peer = |line: &str| line.split_whitespace().last().map(str::to_owned);
    shown.lines().filter_map(peer).collect()
}

fn serial(land: &Land, host: &str) -> String {
    land.host(host)
        .shell("sed -n '/BEGIN CERT/,/END CERT/p' /var/lib/understudy/shop/pki/store-client.crt")
        .unwrap()
}
