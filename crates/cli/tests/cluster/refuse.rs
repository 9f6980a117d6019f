//! What an operator types by mistake: refused with the reason and the way out, and nothing is lost.

use crate::Land;
use std::time::Duration;

#[test]
fn mistakes_of_init_are_refused_before_anything_is_made() {
    let land = Land::new(&["a"]);
    let ours = land.address("a");
    let init = |host: &str, more: &[&str]| {
        let mut words = vec!["cluster", "init", "shop", "--host", host];
        words.extend(more);
        land.refused("a", &words)
    };
    let cases: &[(&str, &[&str], &str, &str)] = &[
        (
            "10.1.2.3",
            &[],
            "does not have the address 10.1.2.3",
            "ip -brief address",
        ),
        ("0.0.0.0", &[], "no address of one machine", "ip -brief address"),
        (&ours, &["--port", "65535"], "from 1 to 65533", "--port"),
        (
            &ours,
            &["--etcd", "http://10.1.2.3:2379"],
            "in the open",
            "--etcd-in-the-open",
        ),
        (&ours, &["--etcd", "10.1.2.3:2379"], "is no endpoint", "--etcd"),
        (&ours, &["--certificate-lifetime", "5s"], "so short", "a minute"),
    ];
    for (host, more, why, way_out) in cases {
        let said = init(host, more);
        assert!(said.contains(why) && said.contains(way_out), "{host} {more:?}: {said}");
    }
    // A port of etcd's is taken.
    let listen = "import socket,time; s=socket.socket(); s.bind(('0.0.0.0',7462)); s.listen(); time.sleep(600)";
    let pid = land
        .host("a")
        .start_daemon(hosts::Command::new(["python3", "-c", listen]), "taken")
        .unwrap();
    crate::wait_for("the port", crate::HEAL, || {
        land.host("a").shell("ss -ltn | grep -q :7462").is_ok().then_some(())
    });
    let said = init(&ours, &[]);
    assert!(said.contains(":7462 is taken") && said.contains("ss -ltnp"), "{said}");
    land.host("a").shell(&format!("kill {pid}")).unwrap();
    // etcd is not there.
    let nowhere = hosts::Command::new([
        crate::PROGRAM,
        "--state-dir",
        "/var/lib/understudy",
        "cluster",
        "init",
        "shop",
        "--host",
        &ours,
    ])
    .env("PATH", "/nowhere");
    land.host("a").shell("mv /usr/bin/etcd /usr/bin/etcd.away").unwrap();
    let output = land.host("a").run(nowhere).unwrap();
    land.host("a").shell("mv /usr/bin/etcd.away /usr/bin/etcd").unwrap();
    assert!(output.stderr.contains("apt-get install"), "{output:?}");
    land.host("a")
        .shell("test ! -e /var/lib/understudy/shop/node.json")
        .unwrap();

    // After all of that it works.
    land.ok("a", &["cluster", "init", "shop", "--host", &ours, "--profile", "lan"]);
    let twice = init(&ours, &[]);
    assert!(twice.contains("is node `a` of cluster `shop` already"), "{twice}");
    assert!(land.report("a").store_answers);
}

#[test]
fn mistakes_of_join_use_up_no_token() {
    let land = Land::begun(&["a", "b", "c", "z"], &[]);
    let other = Land::begun(&["o"], &[]);
    let ours = land.address("b");
    let token = land.token("a", "member");
    let join = |token: &str, more: &[&str]| {
        let mut words = vec!["cluster", "join", token];
        words.extend(more);
        land.refused("b", &words)
    };
    let here = ["--host", ours.as_str()];
    let mut damaged = token.clone();
    // Within the secret.
    let at = token.match_indices('.').nth(2).unwrap().0 + 7;
    let changed = if damaged.as_bytes()[at] == b'A' { "B" } else { "A" };
    damaged.replace_range(at..=at, changed);
    for (wrong, why) in [
        ("nonsense", "this is no join token"),
        (&token[..token.len() / 2], "cut off"),
        (&damaged, "damaged"),
        (&token.replace("US1.", "US9."), "later version"),
    ] {
        let said = join(wrong, &here);
        assert!(
            said.contains(why) || why == "damaged" && said.contains("checksum"),
            "{wrong}: {said}"
        );
        assert!(said.contains("cluster token"), "{wrong}: {said}");
    }
    // Another cluster's is for another place: nobody answers there.
    let elsewhere = other.token("o", "member");
    let said = join(&elsewhere, &here);
    assert!(said.contains("could be asked") || said.contains("refuses"), "{said}");
    for (more, why) in [
        (vec!["--host", "10.1.2.3"], "does not have the address"),
        (vec!["--host", "0.0.0.0"], "no address of one machine"),
        (vec!["--host", &ours, "--node", "a"], "there is a node `a` already"),
        (
            vec!["--host", &ours, "--node", "not a name"],
            "cannot be the name of a node",
        ),
    ] {
        let said = join(&token, &more);
        assert!(said.contains(why), "{more:?}: {said}");
    }
    // Made for another node, and one that is too old.
    let named = land.ok("a", &["cluster", "token", "--node", "c"]);
    let said = join(named.trim(), &here);
    assert!(said.contains("was made for node `c`"), "{said}");
    let short = land.ok("a", &["cluster", "token", "--expires", "1s"]);
    std::thread::sleep(Duration::from_millis(1_500));
    let said = join(short.trim(), &here);
    assert!(said.contains("expired"), "{said}");
    // A machine without etcd cannot be a member.
    land.host("b").shell("mv /usr/bin/etcd /usr/bin/etcd.away").unwrap();
    let said = join(&token, &here);
    land.host("b").shell("mv /usr/bin/etcd.away /usr/bin/etcd").unwrap();
    assert!(said.contains("apt-get install"), "{said}");

    // After all of that the token is still good; then it is used up, and the machine is a node.
    land.ok("b", &["cluster", "join", &token, "--host", &ours]);
    let used = land.refused("c", &["cluster", "join", &token, "--host", &land.address("c")]);
    assert!(used.contains("was used") && used.contains("by node `b`"), "{used}");
    let fresh = land.token("a", "member");
    let said = join(&fresh, &here);
    assert!(said.contains("is node `b` of cluster `shop` already"), "{said}");
    land.ok("c", &["cluster", "join", &fresh, "--host", &land.address("c")]);
    assert_eq!(land.report("c").votes, (3, 2));

    // With the majority gone nobody is let in, and it is said why.
    let late = land.token("a", "member");
    for lost in ["b", "c"] {
        land.rig.begin(&hosts::Fault::power_loss(lost)).unwrap();
    }
    let said = land.refused("z", &["cluster", "join", &late, "--host", &land.address("z")]);
    assert!(said.contains("cluster status") || said.contains("majority"), "{said}");
}

#[test]
fn an_etcd_of_others_is_used_by_one_cluster_for_each_prefix() {
    let land = Land::new(&["a", "b"]);
    let (a, b) = (land.address("a"), land.address("b"));
    for (host, address) in [("a", &a), ("b", &b)] {
        let at = format!("http://{address}:2379");
        // Without a token of their own two etcds that begin alike have one id.
        let urls = ["--listen-client-urls", &at, "--advertise-client-urls", &at];
        let words = ["etcd", "--data-dir", "/var/lib/theirs", "--initial-cluster-token", host];
        let words = words.into_iter().chain(urls);
        land.host(host)
            .start_daemon(hosts::Command::new(words), "etcd")
            .unwrap();
    }
    let (one, other) = (format!("http://{a}:2379"), format!("http://{b}:2379"));
    let init = |host: &'static str, address: &str, etcd: &[&str], more: &[&str]| {
        let mut words = vec![
            "cluster",
            "init",
            "shop",
            "--host",
            address,
            "--profile",
            "lan",
            "--etcd-in-the-open",
        ];
        etcd.iter().for_each(|url| words.extend(["--etcd", url]));
        words.extend(more);
        land.run(host, &words)
    };
    // Two that know nothing of each other.
    let said = init("a", &a, &[&one, &other], &[]).stderr;
    assert!(said.contains("belongs to the etcd cluster"), "{said}");
    // Nobody there.
    let said = init("a", &a, &[&format!("http://{a}:2999")], &[]).stderr;
    assert!(
        said.contains("does not answer within 10 s") && said.contains("endpoint health"),
        "{said}"
    );

    let made = init("a", &a, &[&one], &[]);
    assert!(made.ended.is_success(), "{made:?}");
    let said = init("b", &b, &[&one], &[]).stderr;
    assert!(
        said.contains("holds the cluster") && said.contains("--prefix"),
        "{said}"
    );
    land.join("b", "a", "member");
    let report = land.report("b");
    assert_eq!(report.members.len(), 2, "{report:?}");
    assert!(
        report.members.iter().all(|member| member.session == Some(true)),
        "{report:?}"
    );
}
