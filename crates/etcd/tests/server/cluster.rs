//! Members come, go, die and fill up.

use crate::rig::{PATIENCE, World, cluster, get, measured, pid, put, signal, store, tell, until};
use etcd::server::cluster::{Choice, Cluster, Error, Health, Level, Memory, Policy, Progress, Refusal, Step};
use etcd::server::restore::force_new_cluster;
use etcd::server::{Cause, Server, State};
use model::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use store::{Op, Store, Txn};

#[tokio::test]
async fn three_grow_from_one_the_leader_moves_and_a_dead_one_is_replaced() {
    let world = World::new();
    let a = world.first().await;
    put(&a, "k", "v").await;
    let mut cluster = cluster(&a);
    assert_eq!(health(&mut cluster).await.findings[0].what, "there is one member only");

    let mut told = Vec::new();
    let begun = Instant::now();
    let mut note = |progress: Progress| told.push(progress);
    let b = cluster.join(world.config("b", 1), PATIENCE, &mut note).await.unwrap();
    measured("join of the second, with its promotion", begun.elapsed());
    assert_eq!(told[0], Progress::Added);
    assert!(matches!(told[1], Progress::Started { .. }));
    assert!(matches!(told.last(), Some(Progress::Promoted { .. })), "{told:?}");

    // etcd believes in a connection after 5 s only: the join waits for that by itself, and says so.
    let begun = Instant::now();
    let mut config = world.config("c", 2);
    config.witness = true;
    told.clear();
    let mut note = |progress: Progress| told.push(progress);
    let c = cluster.join(config, PATIENCE, &mut note).await.unwrap();
    measured("join of the third, at once", begun.elapsed());
    assert!(matches!(told[0], Progress::Waiting { .. }), "{told:?}");
    assert_eq!(get(&c, "k").await.as_deref(), Some("v"));
    let health = health(&mut cluster).await;
    assert_eq!(health.level, Level::Well, "{health}");
    assert!(
        health
            .headline
            .starts_with("3 of 3 members are well, 2 are needed: 1 more may fail; "),
        "{health}"
    );

    leader_moves(&mut cluster).await;

    let refused = cluster
        .join(world.config("b", 7), PATIENCE, &mut tell)
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::NameTaken { .. }), "{refused}");

    // A follower hangs: that is seen, and it does not hold up the look at the others.
    let hung = hung_follower(&mut cluster, &[&b, &c]).await;
    until("it is well again", async || {
        cluster.look().await.unwrap().find(&hung).unwrap().healthy()
    })
    .await;

    // The node of `c` is lost.
    let dead = pid(&c);
    drop(c);
    signal(dead, "KILL");
    until("it is seen to be dead", async || {
        cluster.look().await.unwrap().find("c").unwrap().status.is_err()
    })
    .await;
    let refused = cluster.remove("b", None, &mut tell).await.unwrap_err();
    assert!(
        matches!(refused, Error::Refused(Refusal::LosesQuorum { .. })),
        "{refused}"
    );
    let refused = cluster.remove("b", Some("c"), &mut tell).await.unwrap_err();
    assert!(matches!(refused, Error::NotConfirmed { .. }), "{refused}");
    let refused = cluster
        .replace("b", None, world.config("c", 3), PATIENCE, &mut tell)
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::Refused(Refusal::Lives { .. })), "{refused}");

    let begun = Instant::now();
    let c = cluster
        .replace("c", None, world.config("c", 3), PATIENCE, &mut tell)
        .await
        .unwrap();
    measured("a dead member replaced", begun.elapsed());
    assert_eq!(get(&c, "k").await.as_deref(), Some("v"));
    let view = cluster.look().await.unwrap();
    assert_eq!(
        (view.names(), view.healthy_voters()),
        (vec!["a".into(), "b".into(), "c".into()], 3)
    );

    removed(cluster, &a, b).await;
}

async fn hung_follower(cluster: &mut Cluster, servers: &[&Server]) -> String {
    let view = cluster.look().await.unwrap();
    let leader = view.leader().unwrap().name();
    let follower = servers.iter().find(|server| server.config().name != leader).unwrap();
    let name = follower.config().name.clone();
    signal(pid(follower), "STOP");
    let begun = Instant::now();
    let health = health(cluster).await;
    measured("look at a cluster with a member that hangs", begun.elapsed());
    signal(pid(follower), "CONT");
    assert!(health.headline.starts_with("2 of 3 members are well"), "{health}");
    assert!(begun.elapsed() < Duration::from_secs(2));
    name
}

async fn leader_moves(cluster: &mut Cluster) {
    let mut times = Vec::new();
    for _ in 0..3 {
        let view = cluster.look().await.unwrap();
        let leader = view.leader().unwrap().name().to_owned();
        let begun = Instant::now();
        let choice = cluster.prefer_leader_away_from(&[leader.clone()].into()).await.unwrap();
        times.push(begun.elapsed());
        let Choice::Move { name, .. } = choice else {
            panic!("{choice}")
        };
        let view = cluster.look().await.unwrap();
        assert_eq!(view.leader().unwrap().name(), name);
        assert_ne!(name, leader);
        let stays = cluster.prefer_leader_away_from(&[leader].into()).await.unwrap();
        assert_eq!(stays, Choice::Stay);
    }
    let all = ["a", "b", "c"].map(str::to_owned).into();
    assert!(matches!(
        cluster.prefer_leader_away_from(&all).await.unwrap(),
        Choice::Nowhere { .. }
    ));
    measured("leader moved, with the look before", times.iter().sum::<Duration>() / 3);
}

/// A member that was removed ends, is not started again, and is told why.
async fn removed(mut cluster: Cluster, a: &Server, b: Server) {
    let leader = cluster.look().await.unwrap().leader().unwrap().name().to_owned();
    let begun = Instant::now();
    cluster.remove("b", None, &mut tell).await.unwrap();
    measured(&format!("removed, while {leader} led"), begun.elapsed());
    put(a, "k", "without b").await;
    let mut state = b.watch();
    let failed = state.wait_for(|state| matches!(state, State::Failed { .. }));
    let failed = tokio::time::timeout(PATIENCE, failed).await.unwrap().unwrap().clone();
    assert!(
        matches!(&failed, State::Failed { because } if because.cause == Cause::Removed),
        "{failed:?}"
    );
}

/// What the leader was sending it waits in a full buffer, and etcd applies nothing before it has given that up: some seconds, in which a
/// removal at once stopped the whole store.
#[tokio::test]
async fn a_silent_member_is_taken_out_without_a_stop_of_the_store() {
    let world = World::new();
    let (a, b, mut cluster) = world.two().await;
    let c = cluster.join(world.config("c", 2), PATIENCE, &mut tell).await.unwrap();
    let lead = cluster.prefer_leader_away_from(&["b".into(), "c".into()].into()).await;
    lead.unwrap();
    // etcd takes nobody out before it has believed in the others for 5 s.
    tokio::time::sleep(Duration::from_secs(6)).await;
    signal(pid(&c), "STOP");

    // Large values, as the buffers of a connection within one machine are large.
    let enough = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn({
        let (store, enough) = (store(&a), Arc::clone(&enough));
        async move {
            let (mut longest, mut last) = (Duration::ZERO, Instant::now());
            while !enough.load(Relaxed) {
                let value = "x".repeat(1_000_000);
                if store.txn(Txn::new().then(Op::put("k", value.as_str()))).await.is_ok() {
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            longest.max(last.elapsed())
        }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    cluster.remove("c", None, &mut tell).await.unwrap();
    measured("a silent member removed", begun.elapsed());
    tokio::time::sleep(Duration::from_secs(1)).await;
    enough.store(true, Relaxed);
    let longest = writing.await.unwrap();
    measured("the longest time without a write", longest);
    assert!(longest < Duration::from_secs(4), "the store stood still");
    signal(pid(&c), "KILL");
    drop((b, c));
}

#[tokio::test]
async fn an_interrupted_join_is_taken_up_and_a_failed_one_leaves_no_learner() {
    let world = World::new();
    let a = world.first().await;
    let mut cluster = cluster(&a);
    let config = world.config("b", 1);
    // Added, and then the agent ended.
    cluster.client().admin().add(&[config.peer_url()], true).await.unwrap();
    let learner = health(&mut cluster).await;
    assert!(
        learner
            .findings
            .iter()
            .any(|finding| finding.what.contains("never started")),
        "{learner}"
    );

    // No other one can come meanwhile, so that one waits, and gives up.
    let other = world.config("c", 2);
    let waited = Duration::from_millis(400);
    let error = cluster.join(other, waited, &mut tell).await.unwrap_err();
    assert!(
        matches!(&error, Error::NotJoined { last, .. } if last.contains("learners") || last.contains("healthy")),
        "{error}"
    );

    let b = cluster.join(config, PATIENCE, &mut tell).await.unwrap();
    assert_eq!(cluster.look().await.unwrap().healthy_voters(), 2);

    // Data of another cluster are not let in, and not touched.
    let strange = etcd::server::cluster::bootstrap(world.config("s", 8)).await.unwrap();
    let config = strange.config().clone();
    strange.stop(Duration::from_secs(10)).await.unwrap();
    let refused = cluster.join(config.clone(), PATIENCE, &mut tell).await.unwrap_err();
    assert!(
        matches!(&refused, Error::HasData { dir } if *dir == config.data_dir),
        "{refused}"
    );
    assert_eq!(cluster.look().await.unwrap().names(), ["a", "b"]);
    assert!(matches!(b.state(), State::Running { .. }));

    // One whose port is taken is taken out again, once the cluster takes new members at all.
    let blocked = world.config("d", 3);
    let listener = std::net::TcpListener::bind((blocked.address, blocked.client_port)).unwrap();
    let error = cluster.join(blocked.clone(), PATIENCE, &mut tell).await.unwrap_err();
    assert!(
        matches!(&error, Error::Died { because, .. } if because.cause == Cause::PortTaken),
        "{error}"
    );
    assert_eq!(cluster.look().await.unwrap().names(), ["a", "b"]);

    // The rest of a copy that broke off is no obstacle, either.
    drop(listener);
    let hurried = cluster.join(blocked.clone(), Duration::ZERO, &mut tell).await.map(drop);
    assert!(matches!(hurried, Err(Error::NotJoined { .. })), "{hurried:?}");
    assert_eq!(cluster.look().await.unwrap().names(), ["a", "b"]);
    cluster.join(blocked, PATIENCE, &mut tell).await.unwrap();
    assert_eq!(cluster.look().await.unwrap().names(), ["a", "b", "d"]);
}

#[tokio::test]
async fn a_full_database_is_told_in_time_and_makes_room_by_itself() {
    let world = World::new();
    let mut config = world.config("a", 0);
    config.quota_bytes = 16 << 20;
    let a = etcd::server::cluster::bootstrap(config).await.unwrap();
    let mut cluster = cluster(&a);
    let policy = Policy {
        quota_bytes: 16 << 20,
        ..Policy::default()
    };
    let store = store(&a);
    let value = vec![7_u8; 512 << 10];
    let mut warned = None;
    let mut error = None;
    for n in 0..80 {
        if let Err(refused) = store.txn(Txn::new().then(Op::put("k", value.clone()))).await {
            error = Some(refused);
            break;
        }
        let health = health_by(&mut cluster, &policy).await;
        if warned.is_none()
            && health
                .findings
                .iter()
                .any(|finding| finding.what.contains("% of its quota"))
        {
            warned = Some(n);
        }
    }
    let error = error.expect("it is full at last").to_string();
    assert!(warned.is_some(), "told before it was full: {error}");
    let full = health_by(&mut cluster, &policy).await;
    assert_eq!(full.level, Level::Down);
    assert!(full.to_string().contains("the database is full"), "{full}");

    let begun = Instant::now();
    let (mut memory, mut steps) = (Memory::default(), Vec::new());
    loop {
        let step = cluster.maintain(&policy, &mut memory, Timestamp(1)).await.unwrap();
        if step == Step::Rest {
            break;
        }
        steps.push(step);
        assert!(steps.len() < 20, "{steps:?}");
        // What was compacted is counted as free a moment later.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    measured("room made in a full database", begun.elapsed());
    assert!(matches!(steps[0], Step::Compact { physical: true, .. }), "{steps:?}");
    assert!(
        steps.iter().any(|step| matches!(step, Step::Defragment { .. })),
        "{steps:?}"
    );
    assert!(matches!(steps.last(), Some(Step::Disarm { .. })), "{steps:?}");
    put(&a, "k", "small").await;
    let well = health_by(&mut cluster, &policy).await;
    assert!(
        !well.to_string().contains("quota:") && well.level == Level::Care,
        "{well}"
    );
}

#[tokio::test]
async fn the_one_that_is_left_becomes_a_cluster_of_its_own_and_its_old_data_are_kept() {
    let world = World::new();
    let (a, b, mut cluster) = world.two().await;
    put(&a, "k", "v").await;
    let lost = pid(&b);
    drop(b);
    signal(lost, "KILL");
    until("the majority is lost", async || {
        health(&mut cluster).await.findings[0]
            .what
            .contains("the majority is lost")
    })
    .await;
    let config = a.config().clone();
    let running = force_new_cluster(config.clone()).await.map(drop).unwrap_err();
    assert!(running.to_string().starts_with("etcd still runs: "), "{running}");
    let refused = cluster.remove("b", Some("b"), &mut tell).await.unwrap_err();
    assert!(matches!(refused, Error::Refused(Refusal::NoQuorum { .. })), "{refused}");

    a.stop(Duration::from_secs(10)).await.unwrap();
    let begun = Instant::now();
    let (a, kept) = force_new_cluster(config).await.unwrap();
    measured("a new cluster of the one that was left", begun.elapsed());
    assert!(kept.join("member/snap/db").exists(), "{}", kept.display());
    assert_eq!(get(&a, "k").await.as_deref(), Some("v"));
    put(&a, "k", "w").await;
    assert_eq!(cluster.look().await.unwrap().names(), ["a"]);
    let line = &crate::rig::etcds(world.folder.path())[0].1;
    assert!(!line.contains("force-new-cluster"), "it runs without the flag: {line}");
    cluster.join(world.config("b", 6), PATIENCE, &mut tell).await.unwrap();
    assert_eq!(cluster.look().await.unwrap().healthy_voters(), 2);
}

async fn health(cluster: &mut Cluster) -> Health {
    health_by(cluster, &Policy::default()).await
}

async fn health_by(cluster: &mut Cluster, policy: &Policy) -> Health {
    cluster.health(policy).await.unwrap()
}
