//! Stores that are not the one we know, are full, or do not know us.

use crate::relay::Relay;
use crate::rig::{Cluster, Recipe, until};
use etcd::client::{AlarmKind, Permission};
use etcd::{Etcd, Known, Options, Password};
use model::Revision;
use std::time::Duration;
use store::{Error, Op, ServerError, Store, Txn};

#[tokio::test]
async fn a_store_that_was_wiped_is_refused_before_anything_is_written_to_it() {
    let mut cluster = Recipe::members(1).start();
    let store = cluster.store("p/").await;
    for n in 0..10 {
        store.txn(put("a", n)).await.expect("it runs");
    }
    let known = store.client().known().expect("it answered");
    cluster.kill(0);
    cluster.wipe(0);
    cluster.start(0);

    // The cluster that etcd makes of the same flags has the same id: only its revision tells.
    until("it is noticed", async || match store.txn(put("a", 99)).await {
        Err(Error::Server(ServerError::WentBack { known: seen, found, .. })) => {
            assert!(seen == known.revision && found < seen, "{found} is not before {seen}");
            true
        }
        Err(Error::Unavailable { .. } | Error::Unknown { .. }) => false,
        other => panic!("a wiped store was used: {other:?}"),
    })
    .await;
    // It stays so, also for reads and watches, however many revisions the new store makes.
    let stranger = Etcd::new(cluster.options()).expect("good options");
    for n in 0..20 {
        stranger.txn(put("other", n)).await.expect("it runs");
    }
    assert!(matches!(
        store.get("a").await,
        Err(Error::Server(ServerError::WentBack { .. }))
    ));
    assert!(matches!(
        store.watch("", Revision(0)).await,
        Err(Error::Server(ServerError::WentBack { .. }))
    ));
    assert_eq!(
        stranger.get("p/a").await.expect("it runs"),
        None,
        "nothing was written to it"
    );

    // Neither does a process believe it that was told what the earlier one knew.
    let mut options = cluster.options();
    options.known = Some(Known {
        revision: Revision(known.revision.0 + 100),
        ..known
    });
    let next = Etcd::new(options).expect("good options");
    assert!(matches!(
        next.txn(put("a", 1)).await,
        Err(Error::Server(ServerError::WentBack { .. }))
    ));
}

#[tokio::test]
async fn a_watch_is_told_that_the_store_was_wiped() {
    let mut cluster = Recipe::members(1).start();
    let store = cluster.store("p/").await;
    let last = store.txn(put("a", 1)).await.expect("it runs").revision;
    store.txn(put("a", 2)).await.expect("it runs");
    let mut watch = store.watch("", last).await.expect("it is kept");
    watch.next().await.expect("it is told");
    watch.next().await.expect("it is told");
    cluster.kill(0);
    cluster.wipe(0);
    cluster.start(0);
    let told = tokio::time::timeout(crate::rig::PATIENCE, watch.next())
        .await
        .expect("it is told");
    assert!(
        matches!(told, Err(Error::Server(ServerError::WentBack { .. }))),
        "{told:?}"
    );
}

#[tokio::test]
async fn endpoints_of_two_clusters_are_refused_by_name() {
    let ours = Recipe::members(1).start();
    let mut other = Recipe::members(1);
    other.token = "another".into();
    let other = other.start();
    let (store, stranger) = (ours.store("").await, other.store("").await);
    let ids = [&store, &stranger].map(|store| store.client().known().expect("it answered").cluster);

    let mixed = Options::new([ours.endpoint(0), other.endpoint(0)]);
    let Err(refused) = Etcd::connect(mixed.clone()).await else {
        panic!("two clusters were taken for one");
    };
    let text = refused.to_string();
    assert!(ids.iter().all(|id| text.contains(&format!("{id:016x}"))), "{text}");
    assert!(
        refused.hint().is_some_and(|hint| hint.contains("endpoints")),
        "{refused:?}"
    );

    // Where it is known which is ours, the other one is named, and the store goes on without it.
    let known = store.client().known();
    let careful = Etcd::new(Options { known, ..mixed }).expect("good options");
    careful.txn(put("a", 1)).await.expect("ours runs");
    until("the other is named", async || {
        let problem = careful.client().endpoints()[1].problem.clone();
        problem.is_some_and(|problem| problem.contains(&other.endpoint(0)) && problem.contains("belongs to"))
    })
    .await;
    assert_eq!(stranger.get("a").await.expect("it runs"), None);
}

#[tokio::test]
async fn a_member_of_another_cluster_in_place_of_ours_is_refused() {
    let mut cluster = Recipe::members(1).start();
    let store = cluster.store("").await;
    store.txn(put("a", 1)).await.expect("it runs");
    cluster.kill(0);
    cluster.wipe(0);
    cluster.set_token("another");
    cluster.start(0);
    until("it is noticed", async || match store.txn(put("a", 2)).await {
        Err(Error::Server(ServerError::OtherCluster { endpoint, .. })) => endpoint == cluster.endpoint(0),
        Err(Error::Unavailable { .. } | Error::Unknown { .. }) => false,
        other => panic!("another cluster was used: {other:?}"),
    })
    .await;
}

#[tokio::test]
async fn a_version_that_is_not_known_is_refused_by_name() {
    let cluster = Recipe::members(1).start();
    let store = cluster.store("").await;
    let status = store
        .client()
        .admin()
        .status(&cluster.endpoint(0))
        .await
        .expect("it runs");
    let real = status.version;
    for (port, unknown) in [(4000, format!("4{}", &real[1..])), (4001, format!("3.3{}", &real[3..]))] {
        let relay = Relay::rewriting(port, cluster.members[0].client, &real, &unknown).await;
        let refused = Etcd::connect(Options::new([relay.endpoint()])).await.map(drop);
        let Err(etcd::Error::Server(ServerError::Version { endpoint, version })) = &refused else {
            panic!("{unknown}: {refused:?}")
        };
        assert_eq!((endpoint, version), (&relay.endpoint(), &unknown));
        let lazy = Etcd::new(Options::new([relay.endpoint()])).expect("good options");
        assert!(matches!(
            lazy.txn(put("a", 1)).await,
            Err(Error::Server(ServerError::Version { .. }))
        ));
    }
    assert_eq!(store.get("a").await.expect("it runs"), None, "nothing was written");
}

/// etcd ends when its log cannot be written; what it was about to write may be written or not.
#[tokio::test]
async fn a_full_disk_is_an_unknown_outcome_and_then_no_store() {
    let recipe = Recipe::members(1).on_disk_of_mib(160);
    let cluster = recipe.start();
    let store = cluster.store("").await;
    let one_round = etcd::Class {
        attempt: Duration::from_secs(5),
        total: Duration::ZERO,
        hedge: false,
    };
    let store = store.with_deadlines(one_round, one_round);
    let mut written = 0;
    let failed = loop {
        let txn = Txn::new().then(Op::put(format!("big/{written}"), vec![7; 1 << 20]));
        match store.txn(txn).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(written > 10, "{written}");
    assert!(matches!(failed, Error::Unknown { .. }), "{failed:?}");
    let after = store.txn(put("a", 1)).await;
    assert!(matches!(after, Err(Error::Unavailable { .. })), "{after:?}");
}

#[tokio::test]
async fn a_full_store_says_so_and_works_again_after_compaction() {
    let cluster = Recipe::members(1).flags(&["--quota-backend-bytes", "4194304"]).start();
    let store = cluster.store("").await;
    let fill = || Txn::new().then(Op::put("big", vec![7; 500_000]));
    let full = loop {
        match store.txn(fill()).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Error::Server(ServerError::NoSpace { .. })), "{full:?}");
    assert!(full.hint().is_some_and(|hint| hint.contains("compact")));
    assert!(store.get("big").await.expect("reads go on").is_some());

    let admin = store.client().admin();
    let alarms = admin.alarms().await.expect("it answers");
    assert_eq!(
        alarms.iter().map(|alarm| alarm.kind).collect::<Vec<_>>(),
        [AlarmKind::NoSpace]
    );
    let before = admin.status(&cluster.endpoint(0)).await.expect("it answers");
    assert!(
        before.errors.iter().any(|error| error.contains("NOSPACE")),
        "{before:?}"
    );
    let now = store.revision().await.expect("reads go on");
    admin.compact(now, true).await.expect("it compacts");
    admin.defragment(&cluster.endpoint(0)).await.expect("it defragments");
    let after = admin.status(&cluster.endpoint(0)).await.expect("it answers");
    assert!(
        after.db_bytes < before.db_bytes / 2,
        "{} of {}",
        after.db_bytes,
        before.db_bytes
    );
    admin.disarm(alarms[0]).await.expect("it is disarmed");
    store.txn(fill()).await.expect("there is room");
}

#[tokio::test]
async fn user_and_password_are_asked_for_and_used() {
    let mut cluster = Recipe::members(1).start();
    let root = Etcd::new(cluster.options().login("root", "r00t-secret")).expect("good options");
    until("etcd answers", async || root.revision().await.is_ok()).await;
    let admin = root.client().admin();
    let secret = |text: &str| Password::from(text);
    admin
        .add_user("root", &secret("r00t-secret"))
        .await
        .expect("it is added");
    admin.grant("root", "root").await.expect("it is granted");
    admin.add_user("agent", &secret("s3cret")).await.expect("it is added");
    admin.add_role("understudy").await.expect("it is added");
    admin
        .permit("understudy", Permission::ReadWrite, "p/")
        .await
        .expect("it is permitted");
    admin.grant("agent", "understudy").await.expect("it is granted");

    let nobody = cluster.store("p/").await;
    let agent = Etcd::new(cluster.options().prefix("p/").login("agent", "s3cret")).expect("good options");
    agent.txn(put("early", 1)).await.expect("nobody is asked yet");
    admin.enable_login().await.expect("it is enabled");

    // Who began before it was enabled logs in now, without having to be told.
    let at = agent.txn(put("a", 1)).await.expect("it may write").revision;
    let mut watch = agent.watch("", at).await.expect("it may watch");
    watch.next().await.expect("it is told");
    assert_eq!(agent.list("").await.expect("it may list").0.len(), 2);

    let without = nobody.txn(put("a", 2)).await;
    assert!(
        matches!(without, Err(Error::Server(ServerError::Login { user: None, .. }))),
        "{without:?}"
    );
    let wrong = Etcd::new(cluster.options().login("agent", "wrong")).expect("good options");
    let Err(refused) = wrong.txn(put("a", 2)).await else {
        panic!("a wrong password was taken")
    };
    assert!(
        matches!(&refused, Error::Server(ServerError::Login { user: Some(user), .. }) if user == "agent"),
        "{refused:?}"
    );
    assert!(!format!("{refused:?} {refused}").contains("wrong\""), "{refused:?}");
    let elsewhere = Etcd::new(cluster.options().prefix("q/").login("agent", "s3cret")).expect("good options");
    for denied in [
        elsewhere.txn(put("a", 1)).await.map(drop),
        elsewhere.get("a").await.map(drop),
    ] {
        assert!(
            matches!(denied, Err(Error::Server(ServerError::Denied { .. }))),
            "{denied:?}"
        );
    }

    // A restart forgets the tokens.
    cluster.kill(0);
    cluster.start(0);
    until("it is back", async || agent.txn(put("a", 3)).await.is_ok()).await;
    agent.get("a").await.expect("it may read");
    let last = agent.revision().await.expect("it may read");
    agent.txn(put("a", 4)).await.expect("it may write");
    until("the watch has come along", async || {
        watch.next().await.expect("the watch goes on").revision > last
    })
    .await;
    // And so does another password for the old one's.
    let admin = root.client().admin();
    admin.set_password("agent", &secret("n3w")).await.expect("it is set");
    let old = agent.txn(put("a", 5)).await;
    assert!(matches!(old, Err(Error::Server(ServerError::Login { .. }))), "{old:?}");
    admin.remove_user("agent").await.expect("it is removed");
    admin.disable_login().await.expect("it is disabled");
    until("nobody is asked any more", async || {
        nobody.txn(put("a", 6)).await.is_ok()
    })
    .await;
}

/// A login takes longer than any request: etcd hashes the password.
#[tokio::test]
async fn a_short_deadline_is_no_obstacle_to_logging_in() {
    let cluster = Recipe::members(1).start();
    let options = cluster
        .options()
        .deadlines(Duration::from_millis(40), Duration::from_secs(20));
    let root = Etcd::new(cluster.options().login("root", "x")).expect("good options");
    until("etcd answers", async || root.revision().await.is_ok()).await;
    let admin = root.client().admin();
    admin.add_user("root", &Password::from("x")).await.expect("it is added");
    admin.grant("root", "root").await.expect("it is granted");
    admin.enable_login().await.expect("it is enabled");
    let hasty = Etcd::new(options.login("root", "x")).expect("good options");
    let together = (0..10).map(|_| hasty.revision());
    for revision in futures_util::future::join_all(together).await {
        revision.expect("it has logged in meanwhile");
    }
}

#[tokio::test]
async fn a_token_that_expires_is_replaced() {
    let cluster = Recipe::members(1).flags(&["--auth-token-ttl", "1"]).start();
    let root = Etcd::new(cluster.options().login("root", "x")).expect("good options");
    until("etcd answers", async || root.revision().await.is_ok()).await;
    let admin = root.client().admin();
    admin.add_user("root", &Password::from("x")).await.expect("it is added");
    admin.grant("root", "root").await.expect("it is granted");
    admin.enable_login().await.expect("it is enabled");
    root.txn(put("a", 1)).await.expect("it logs in");
    let watch_from = root.revision().await.expect("it may read");
    // The time of a token runs from its last use.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    root.txn(put("a", 2)).await.expect("it logs in again");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let mut watch = root.watch("", watch_from).await.expect("it logs in again");
    for _ in 0..2 {
        watch.next().await.expect("it is told");
    }
}

#[tokio::test]
async fn members_are_added_promoted_moved_and_removed() {
    let cluster = Recipe::members(1).start();
    let store = cluster.store("").await;
    store.txn(put("a", 1)).await.expect("it runs");
    let admin = store.client().admin();
    let mut newcomer = Newcomer::new();
    let id = admin.add(&[newcomer.peer.clone()], true).await.expect("it is added");
    let again = admin.add(&[newcomer.peer.clone()], true).await;
    assert!(
        matches!(
            again,
            Err(etcd::Error::Member(
                etcd::MemberError::Exists | etcd::MemberError::TooManyLearners
            ))
        ),
        "{again:?}"
    );
    let early = admin.promote(id).await;
    assert!(
        matches!(early, Err(etcd::Error::Member(etcd::MemberError::NotReady))),
        "{early:?}"
    );
    let absent = admin.remove(42).await;
    assert!(
        matches!(absent, Err(etcd::Error::Member(etcd::MemberError::NotFound))),
        "{absent:?}"
    );

    newcomer.start(&cluster);
    until("it has caught up", async || admin.promote(id).await.is_ok()).await;
    let members = admin.members(false).await.expect("it answers");
    assert_eq!(members.len(), 2);
    assert!(
        members.iter().all(|member| !member.learner && !member.name.is_empty()),
        "{members:?}"
    );

    let both = Etcd::new(Options::new([cluster.endpoint(0), newcomer.client.clone()])).expect("good options");
    until("both answer", async || {
        both.client().admin().status(&newcomer.client).await.is_ok()
    })
    .await;
    until("it leads", async || {
        both.client().admin().move_leader(id).await.is_ok()
            && both
                .client()
                .admin()
                .status(&newcomer.client)
                .await
                .is_ok_and(|status| status.leader == Some(id))
    })
    .await;
    both.txn(put("a", 2)).await.expect("both run");
    let mut copy = Vec::new();
    let bytes = both
        .client()
        .admin()
        .snapshot(&newcomer.client, &mut copy)
        .await
        .expect("it is copied");
    assert_eq!(bytes, copy.len() as u64);
    is_a_snapshot(&copy);
    // etcd waits until the members have been connected for five seconds.
    until("it is removed", async || match both.client().admin().remove(id).await {
        Err(etcd::Error::Member(etcd::MemberError::Unhealthy { .. })) => false,
        other => other.is_ok(),
    })
    .await;
    until("one is left", async || store.txn(put("a", 3)).await.is_ok()).await;
}

/// A member that joins later.
struct Newcomer {
    client: String,
    peer: String,
    child: Option<std::process::Child>,
    folder: tempfile::TempDir,
}

impl Newcomer {
    fn new() -> Self {
        let url = |port| format!("http://{}", crate::rig::address(port));
        Self {
            client: url(5000),
            peer: url(5001),
            child: None,
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    fn start(&mut self, cluster: &Cluster) {
        let initial = format!("m0=http://{},new={}", cluster.members[0].peer, self.peer);
        let child = std::process::Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "etcd",
                "--name",
                "new",
                "--initial-cluster-state",
                "existing",
            ])
            .arg("--data-dir")
            .arg(self.folder.path().join("data"))
            .args([
                "--listen-client-urls",
                &self.client,
                "--advertise-client-urls",
                &self.client,
            ])
            .args([
                "--listen-peer-urls",
                &self.peer,
                "--initial-advertise-peer-urls",
                &self.peer,
            ])
            .args(["--initial-cluster", &initial, "--initial-cluster-token", "tests"])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .stderr(std::process::Stdio::null())
            .spawn();
        self.child = Some(child.expect("setpriv or etcd is missing: apt-get install util-linux etcd-server"));
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether etcd's own tool takes it for one.
fn is_a_snapshot(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("copy");
    std::fs::write(&file, bytes).expect("it is written");
    let checked = std::process::Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["snapshot", "restore"])
        .arg(&file)
        .arg("--data-dir")
        .arg(folder.path().join("data"))
        .output()
        .expect("etcdctl is missing: apt-get install etcd-client");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

fn put(key: &str, n: u64) -> Txn {
    Txn::new().then(Op::put(key, n.to_string()))
}
