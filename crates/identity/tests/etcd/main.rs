//! Debian's etcd with our certificates: clients, peers, refusals, and everything replaced while it runs.

mod world;

use identity::{Expect, Issued, Kind, NodeRole, Why};
use model::WallTime;
use rustls::ClientConfig;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use world::{Cluster, Error, minutes, name, now, put, shown};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_form_a_store_and_let_in_only_its_clients() {
    let cluster = Cluster::new(1);
    let members = cluster.start(NodeRole::Member).await;
    let worker = cluster.worker("w");
    for member in &members {
        put(&worker.store(), member.client)
            .await
            .expect("each member answers, so they agree");
    }
    // etcd's own client reads the files as they are.
    members[0]
        .etcdctl(&worker.folder, &["put", "key", "value"])
        .expect("etcdctl");

    let address = members[0].client;
    let nobody = cluster.stranger().client_config(Expect::Store).expect("config");
    refused(&nobody, address, "without a certificate").await;
    refused(
        &shows(&worker.store(), &Cluster::new(9).worker("w").store()),
        address,
        "of another cluster",
    )
    .await;
    let node = worker.tls.client_config(Expect::AnyNode).expect("config");
    refused(
        &shows(&worker.store(), &node),
        address,
        "an agent's own, which is of the other authority",
    )
    .await;

    // A client of the store is no peer of it, and etcd's peers are.
    let peer = members[1].peer_client(&worker.store());
    assert_eq!(
        shown(&peer, members[0].peer).await.expect("a peer").who.kind,
        Kind::StorePeer(name("m0"))
    );
    world::get(&peer, members[0].peer, "/members")
        .await
        .expect("a peer may ask for the members");
    let answer = world::get(&shows(&peer, &worker.store()), members[0].peer, "/members").await;
    answer.expect_err("a client at the peers' port");
    put(&worker.store(), address).await.expect("still well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewed_files_are_taken_without_a_restart_and_without_a_failed_connection() {
    let cluster = Cluster::new(2);
    let members = cluster.start(NodeRole::Witness).await;
    let worker = cluster.worker("w");
    let (stop, store) = (Arc::new(AtomicBool::new(false)), worker.store());
    let (stopped, addresses) = (stop.clone(), [members[0].client, members[1].client, members[2].client]);
    let writer = tokio::spawn(async move {
        let mut writes = 0;
        while !stopped.load(Ordering::Relaxed) {
            put(&store, addresses[writes % 3]).await.expect("no connection fails");
            writes += 1;
        }
        writes
    });
    for round in 0..10 {
        for member in &members {
            let issue = member.enrol(&cluster, NodeRole::Witness, (minutes(60), now()));
            let shows = shown(&worker.store(), member.client).await.expect("let in");
            assert_eq!(
                shows.issue, issue,
                "round {round}: clients see the new certificate at once"
            );
            let peer = members[0].peer_client(&worker.store());
            let shows = shown(&peer, member.peer).await.expect("let in");
            assert_eq!(shows.issue, issue, "round {round}: and peers");
        }
    }
    stop.store(true, Ordering::Relaxed);
    let writes = writer.await.expect("no write failed");
    println!("{writes} writes, each on a connection of its own, during 30 renewals; none failed");
    assert!(writes > 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_certificates_had_expired_is_well_as_soon_as_there_are_new_ones() {
    let cluster = Cluster::new(3);
    let members = cluster.start(NodeRole::Member).await;
    let worker = cluster.worker("w");
    put(&worker.store(), members[2].client).await.expect("well");
    let hour_ago = WallTime(now().0 - 3_600_000);
    members[2].enrol(&cluster, NodeRole::Member, (minutes(10), hour_ago));
    let error = put(&worker.store(), members[2].client).await.expect_err("expired");
    assert!(
        matches!(&error, Error::Refused(refused) if matches!(refused.why, Why::Expired { .. })),
        "{error:?}"
    );
    members[2].enrol(&cluster, NodeRole::Member, (minutes(60), now()));
    put(&worker.store(), members[2].client)
        .await
        .expect("well again, the same process");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_refuses_a_revoked_client_and_a_revoked_peer_without_a_restart() {
    let mut cluster = Cluster::new(4);
    let members = cluster.start(NodeRole::Member).await;
    let (removed, kept) = (cluster.worker("w"), cluster.worker("x"));
    put(&removed.store(), members[0].client).await.expect("let in");
    let peer = members[2].peer_client(&kept.store());
    world::get(&peer, members[0].peer, "/members").await.expect("let in");

    let own = removed.tls.own().expect("own");
    cluster
        .revoked
        .revoke_issue(own.issue, &name("w"), own.not_after, "stolen", now());
    let mut issued = Issued::default();
    let third = shown(&kept.store(), members[2].client).await.expect("shown");
    issued.add(third.issue, third.not_after, now());
    cluster.revoked.revoke_node(&name("m2"), &issued, "removed", now());
    cluster.revoked.for_store(&cluster.authority, now()).expect("list");
    for member in &members[..2] {
        identity::save_revoked(&member.folder, &cluster.revoked).expect("saved");
    }
    refused(&removed.store(), members[0].client, "revoked").await;
    let answer = world::get(&peer, members[0].peer, "/members").await;
    answer.expect_err("a revoked peer");
    put(&kept.store(), members[0].client)
        .await
        .expect("others are not concerned");
    kept.tls.replace_revoked(cluster.revoked.clone()).expect("newer");
    let error = put(&kept.store(), members[2].client)
        .await
        .expect_err("our side refuses it too");
    assert!(
        matches!(&error, Error::Refused(refused) if refused.why == Why::Revoked),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_authority_is_replaced_with_two_rounds_of_restarts_and_nobody_is_refused_meanwhile() {
    let mut cluster = Cluster::new(5);
    let mut members = cluster.start(NodeRole::Member).await;
    let worker = cluster.worker("w");
    let late = cluster.worker("late");
    let (stop, store) = (Arc::new(AtomicBool::new(false)), worker.store());
    let (stopped, addresses) = (stop.clone(), [members[0].client, members[1].client, members[2].client]);
    // As the agent does: whoever answers first.
    let writer = tokio::spawn(async move {
        let (mut writes, mut gap) = (0, Duration::ZERO);
        let mut last = Instant::now();
        while !stopped.load(Ordering::Relaxed) {
            for address in addresses {
                let attempt = tokio::time::timeout(Duration::from_millis(300), put(&store, address)).await;
                match attempt.unwrap_or_else(|_| Err(Error::Broken("late".into()))) {
                    Ok(()) => {
                        writes += 1;
                        gap = gap.max(last.elapsed());
                        last = Instant::now();
                    }
                    Err(Error::Refused(refused)) => panic!("{refused}"),
                    // The one that is being restarted.
                    Err(Error::Broken(_)) => {}
                }
            }
        }
        (writes, gap)
    });

    let old = cluster.replace_authority();
    let both = cluster.trust.begin(&cluster.authority).expect("begin");
    let nobody = std::collections::BTreeMap::new();
    let identity::rotation::Next::Write(issue) = both.next(&nobody) else {
        panic!("step")
    };
    let identity::rotation::Next::Write(last) = issue.next(&nobody) else {
        panic!("step")
    };

    cluster.trust = both;
    worker.tls.replace_trust(cluster.trust.clone()).expect("newer");
    for member in &mut members {
        identity::save_trust(&member.folder, &cluster.trust).expect("saved");
        member.restart().await;
        world::well(&worker.store(), member.client).await;
    }
    cluster.trust = issue;
    worker.tls.replace_trust(cluster.trust.clone()).expect("newer");
    worker.enrol(&cluster, NodeRole::Worker, (minutes(60), now()));
    for member in &members {
        member.enrol(&cluster, NodeRole::Member, (minutes(60), now()));
        put(&worker.store(), member.client)
            .await
            .expect("new on both sides, no restart");
    }
    put(&late.store(), members[0].client)
        .await
        .expect_err("it does not know the new authority");
    cluster.trust = last;
    worker.tls.replace_trust(cluster.trust.clone()).expect("newer");
    for member in &mut members {
        identity::save_trust(&member.folder, &cluster.trust).expect("saved");
        member.restart().await;
        world::well(&worker.store(), member.client).await;
    }
    stop.store(true, Ordering::Relaxed);
    let (writes, gap) = writer.await.expect("nobody was refused");
    println!("{writes} writes while the authority was replaced; the longest gap between two was {gap:?}");
    // The leader hands over when it stops; at worst there is an election or two, of 500 to 1000 ms each. In about 130 runs
    // it was once 35 s, for a reason not found; the tail of etcd's logs is printed if it comes again.
    assert!(gap < Duration::from_secs(5), "{gap:?}");

    refused(
        &shows(&worker.store(), &late.store()),
        members[0].client,
        "of the old authority",
    )
    .await;
    drop(old);
}

/// Refused by etcd, in whichever way it says so.
async fn refused(config: &ClientConfig, address: std::net::SocketAddr, who: &str) {
    let answer = put(config, address).await;
    assert!(answer.is_err(), "let in: {who}");
}

/// Believes what `believes` does and shows what `shows` does.
fn shows(believes: &ClientConfig, shows: &ClientConfig) -> ClientConfig {
    let mut config = believes.clone();
    config.client_auth_cert_resolver = shows.client_auth_cert_resolver.clone();
    config
}
