//! Certificates and authorities are replaced under load: not one handshake may fail.

use crate::world::{Cluster, Server, call, call_with, copy, minutes, name, now, show};
use identity::renewal::Reloader;
use identity::rotation::{Next, Phase, Progress, TrustRecord};
use identity::{Expect, Folder, Keys, NodeRole, Purpose, RevocationList, Sealed, Tls, Why};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_renewed_under_continuous_connections_without_a_failed_handshake() {
    let cluster = Cluster::new();
    let (server_tls, client_tls) = (cluster.node("a", NodeRole::Member), cluster.node("b", NodeRole::Worker));
    let first = server_tls.own().expect("own").issue;
    let server = Server::start(server_tls.server_config().expect("config")).await;
    let load = Load::start(&client_tls, &server);
    for _ in 0..50 {
        load.until_more(4).await;
        for (tls, node, role) in [
            (&server_tls, "a", NodeRole::Member),
            (&client_tls, "b", NodeRole::Worker),
        ] {
            let keys = Keys::generate().expect("keys");
            show(tls, &keys, &cluster.enrol(&keys, node, role, (minutes(60), now())));
        }
    }
    let (_, peer) = call(
        client_tls.client_config(Expect::AnyNode).expect("config"),
        server.address,
    )
    .await
    .expect("let in");
    assert_ne!(peer.issue, first, "the new certificate is shown");
    assert_eq!(peer.issue, server_tls.own().expect("own").issue);
    let calls = load.stop().await;
    println!("{calls} handshakes during 100 renewals, none failed");
    assert!(calls >= 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_authority_is_replaced_under_continuous_connections_without_a_failed_handshake() {
    let mut cluster = Cluster::new();
    let roles = [("a", NodeRole::Member), ("b", NodeRole::Worker)];
    let nodes: Vec<Tls> = roles.iter().map(|(node, role)| cluster.node(node, *role)).collect();
    let server = Server::start(nodes[0].server_config().expect("config")).await;
    let before_new = cluster.node("late", NodeRole::Worker);
    let load = Load::start(&nodes[1], &server);

    let new = cluster.authority.successor(now()).expect("successor");
    let mut progress: BTreeMap<_, _> = roles
        .iter()
        .map(|(node, role)| {
            let report = Progress {
                role: *role,
                trusts: 1,
                store_trusts: role.votes().then_some(1),
                keys_of: Some(1),
                issued_by: 1,
            };
            (name(node), report)
        })
        .collect();
    let mut record = cluster.trust.begin(&new).expect("begin");
    let mut steps = 0;
    // Each step goes to one node after the other, as the store's watch would bring it, with handshakes in between.
    loop {
        let authority = if record.sealed_by() == 1 {
            &cluster.authority
        } else {
            &new
        };
        let sealed: Sealed = authority.seal(Purpose::Trust, "trust", &record).expect("seal");
        for ((tls, (node, role)), report) in nodes.iter().zip(roles).zip(progress.values_mut()) {
            let opened: TrustRecord = sealed.open(&tls.trusted(), Purpose::Trust, "trust").expect("believed");
            tls.replace_trust(opened).expect("newer");
            load.until_more(10).await;
            report.trusts = record.version;
            report.store_trusts = role.votes().then_some(record.version);
            report.keys_of = role.has_authority().then_some(2);
            if record.issues() == 2 && report.issued_by == 1 {
                let keys = Keys::generate().expect("keys");
                let request = keys.request(None, &name(node), None, &[]).expect("request");
                let authorities = [copy(&new)];
                let mut registrar = cluster.registrar(&authorities, minutes(60));
                registrar.trust = &record;
                let own = tls.own().expect("own");
                show(tls, &keys, &registrar.renew(&own, &request, now()).expect("renewed"));
                report.issued_by = 2;
                load.until_more(10).await;
            }
        }
        steps += 1;
        match record.next(&progress) {
            Next::Write(next) => record = next,
            Next::Nothing => break,
            Next::Wait(waiting) => panic!("waits for {waiting:?}"),
        }
    }
    assert_eq!(steps, 3);
    assert!(matches!(record.phase, Phase::Steady { .. }));
    let calls = load.stop().await;
    println!("{calls} handshakes while the authority was replaced, none failed");

    // Whoever was away is not believed any more.
    let mut server = Server::start(nodes[0].server_config().expect("config")).await;
    let told = call(
        before_new.client_config(Expect::AnyNode).expect("config"),
        server.address,
    )
    .await
    .expect_err("old");
    assert!(matches!(told.why, Why::NotSigned { .. }), "{told}");
    assert!(matches!(server.why().await.why, Why::ByThem(_)));
    cluster.trust = record;
    let stale = nodes[0]
        .replace_trust(TrustRecord::first(&cluster.authority))
        .expect_err("older");
    assert!(stale.to_string().contains("this node knew version 4"), "{stale}");
}

#[tokio::test]
async fn another_process_takes_renewed_files_over_and_keeps_the_old_ones_if_they_are_damaged() {
    let cluster = Cluster::new();
    let temporary = tempfile::tempdir().expect("folder");
    let folder = Folder::create(temporary.path().join("pki")).expect("folder");
    let keys = Keys::generate().expect("keys");
    let life = (minutes(60), now());
    cluster
        .enrol(&keys, "a", NodeRole::Member, life)
        .save(&folder, &keys)
        .expect("saved");
    let tls = Tls::load(&folder).expect("loaded");
    let mut reloader = Reloader::new(folder.clone(), tls.clone()).expect("reloader");
    let issue = || tls.own().expect("own").issue;
    let first = issue();
    assert!(!reloader.poll().expect("poll"), "nothing changed");

    let renewed = Keys::renewed(&folder).expect("keys");
    assert_eq!(
        renewed.store_key().reveal(),
        keys.store_key().reveal(),
        "etcd's key stays"
    );
    let bundle = cluster.enrol(&renewed, "a", NodeRole::Member, life);
    bundle.save(&folder, &renewed).expect("saved");
    assert!(reloader.poll().expect("poll"));
    assert_eq!(issue(), bundle.certificates.issue);
    assert_ne!(issue(), first);
    assert!(bundle.begins().is_some_and(|begins| begins < now()));

    std::fs::write(folder.file("node.pem"), "half a fi").expect("damage");
    let error = reloader.poll().expect_err("damaged");
    assert!(error.to_string().contains("`node.pem` is damaged"), "{error}");
    assert_eq!(issue(), bundle.certificates.issue, "the old one stays in use");

    // A key of somebody else with this certificate.
    let other = Keys::generate().expect("keys");
    folder
        .write_secret("node.pem", &other.node_pem(&bundle.certificates))
        .expect("write");
    assert!(reloader.poll().is_err());
    bundle.save(&folder, &renewed).expect("repaired");
    reloader.poll().expect("poll");

    // An older list that a member with a slow watch sends along does not undo a revocation.
    let mut list = cluster.revoked.clone();
    list.revoke_issue(first, &name("a"), bundle.certificates.not_after, "renewed", now());
    identity::save_revoked(&folder, &list).expect("saved");
    assert!(reloader.poll().expect("poll"));
    bundle.save(&folder, &renewed).expect("saved with the old list");
    let kept = folder.read_public("revoked.json").expect("read");
    assert_eq!(serde_json::from_str::<RevocationList>(&kept).expect("json"), list);
}

/// Clients that call without a pause and count; the first refusal ends the test.
struct Load {
    calls: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(tls: &Tls, server: &Server) -> Self {
        let (calls, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let connector = TlsConnector::from(Arc::new(tls.client_config(Expect::Node(name("a"))).expect("config")));
        let address = server.address;
        let tasks = (0..4)
            .map(|_| {
                let (calls, stop, connector) = (calls.clone(), stop.clone(), connector.clone());
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let (greeting, _) = call_with(&connector, address).await.expect("no handshake fails");
                        assert_eq!(greeting, "worker b");
                        calls.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        Self { calls, stop, tasks }
    }

    /// Waits until there were so many more calls.
    async fn until_more(&self, more: u64) {
        let goal = self.calls.load(Ordering::Relaxed) + more;
        let reached = async {
            while self.calls.load(Ordering::Relaxed) < goal {
                assert!(!self.tasks.iter().any(JoinHandle::is_finished), "a client failed");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), reached)
            .await
            .expect("calls go on");
    }

    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("no handshake failed");
        }
        self.calls.load(Ordering::Relaxed)
    }
}
