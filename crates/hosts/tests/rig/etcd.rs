//! What it is all for: a real cluster loses the host of its leader, and goes on.

use crate::{rig, wait_until};
use hosts::{Command, Fault, Host, Rig};

fn start(rig: &Rig, host: &Host) {
    let members: Vec<String> = rig
        .hosts()
        .map(|host| format!("{}=http://{}:2380", host.name(), host.address()))
        .collect();
    let (peer, client) = (format!("http://{}:2380", host.address()), "http://127.0.0.1:2379");
    let words = [
        "etcd",
        "--name",
        host.name(),
        "--data-dir",
        "/var/lib/etcd-test",
        "--heartbeat-interval",
        "50",
        "--election-timeout",
        "500",
    ];
    let urls = [
        ("--listen-peer-urls", peer.as_str()),
        ("--initial-advertise-peer-urls", &peer),
        ("--listen-client-urls", client),
        ("--advertise-client-urls", client),
        ("--initial-cluster", &members.join(",")),
    ];
    let words = words
        .into_iter()
        .chain(urls.into_iter().flat_map(|(name, value)| [name, value]));
    let started = host.start_daemon(Command::new(words), "etcd");
    started.expect("etcd starts; hint: apt-get install --no-install-recommends etcd-server etcd-client");
}

fn etcdctl(host: &Host, words: &str) -> Option<String> {
    let line = format!("ETCDCTL_API=3 etcdctl --command-timeout=2s {words}");
    host.shell(&line).ok()
}

fn leads(host: &Host) -> bool {
    let status = etcdctl(host, "endpoint status").unwrap_or_default();
    // Endpoint, id, version, size, whether it leads, …
    status.split(", ").nth(4) == Some("true")
}

#[test]
fn an_etcd_cluster_outlives_the_host_of_its_leader_and_takes_it_back() {
    let rig = rig(&["a", "b", "c"]);
    rig.hosts().for_each(|host| start(&rig, host));
    let mut leader = None;
    wait_until("a leader", || {
        leader = rig.hosts().find(|host| leads(host));
        leader.is_some()
    });
    let leader = leader.unwrap();
    let other = rig.hosts().find(|host| host.name() != leader.name()).unwrap();
    wait_until("a first write", || etcdctl(other, "put before 1").is_some());

    let loss = Fault::power_loss(leader.name());
    rig.begin(&loss).unwrap();
    wait_until("a write without the leader", || {
        etcdctl(other, "put during 2").is_some()
    });

    rig.heal(&loss).unwrap();
    start(&rig, leader);
    wait_until("it to have what it missed", || {
        let value = |key: &str| etcdctl(leader, &format!("get --consistency=s --print-value-only {key}"));
        value("before").as_deref() == Some("1\n") && value("during").as_deref() == Some("2\n")
    });
}
