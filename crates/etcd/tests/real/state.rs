//! State for applications over etcd: histories recorded while members and agents are killed, judged by the search of Wing, Gong and Lowe; locks and watches
//! through another agent than the one that wrote.

use crate::rig::{Cluster, PATIENCE, Recipe};
use appstate::testing::{Plan, Recorded, Verdict, check, record, revisions_agree};
use appstate::{AppState, Limits};
use client::{Client, Error, LockOptions, Patience};
use etcd::Etcd;
use model::ServiceName;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The search gets harder with more.
const CLIENTS: usize = 6;
const CALLS: usize = 40;
/// Of the lock.
const TTL: Duration = Duration::from_secs(3);
const SEEDS: std::ops::Range<u64> = 0..5;

/// What stands for the agent of a node: connections of its own, and a runtime that can end in the middle of everything.
struct Agent {
    socket: PathBuf,
    runtime: Option<Runtime>,
    _folder: TempDir,
}

impl Agent {
    fn start(state: &AppState) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut agent = Self {
            socket: folder.path().join("state.sock"),
            runtime: None,
            _folder: folder,
        };
        agent.restart(state);
        agent
    }

    fn restart(&mut self, state: &AppState) {
        self.end();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let inside = runtime.enter();
        appstate::serve(&self.socket, state.clone()).expect("a socket");
        drop(inside);
        self.runtime = Some(runtime);
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    fn url(&self) -> String {
        format!("unix:{}", self.socket.display())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end();
    }
}

fn service() -> ServiceName {
    ServiceName::new("db").expect("a lawful name")
}

fn store(cluster: &Cluster, prefix: &str) -> Arc<dyn Store> {
    Arc::new(Etcd::new(cluster.options().prefix(prefix)).expect("good options"))
}

/// Clients at two agents, while members of the store are killed in turn, the leader among them, and the agents too.
async fn play(cluster: &mut Cluster, seed: u64) -> Recorded {
    let prefix = format!("state/{seed}/");
    let first = cluster.store(&prefix).await;
    let admin = first.client().clone();
    let states = [
        AppState::new(Arc::new(first), Limits::default()),
        AppState::new(store(cluster, &prefix), Limits::default()),
    ];
    let token = states[0].issue(&service(), "db-1").await.expect("a token");
    let mut agents = [Agent::start(&states[0]), Agent::start(&states[1])];
    let urls = [agents[0].url(), agents[1].url()];
    let clients = (0..CLIENTS).map(|n| {
        let urls = [urls[n % 2].as_str(), urls[(n + 1) % 2].as_str()];
        let client = Client::new(urls, token.expose()).expect("good addresses");
        client.with_patience(Patience {
            each: Duration::from_millis(600),
            total: Duration::from_millis(1_500),
        })
    });
    let plan = Plan {
        calls: CALLS,
        seed,
        pause: Duration::from_millis(20),
    };
    let recording = tokio::spawn(record(clients.collect(), plan));
    let mut random = fastrand::Rng::with_seed(seed);
    let mut turn = 0;
    while !recording.is_finished() {
        tokio::time::sleep(Duration::from_millis(random.u64(100..300))).await;
        let victim = match turn % 2 {
            0 => cluster.leader(&admin).await,
            _ => random.usize(..cluster.members.len()),
        };
        match random.bool() {
            true => {
                cluster.kill(victim);
                tokio::time::sleep(Duration::from_millis(random.u64(100..400))).await;
                cluster.start(victim);
            }
            false => {
                cluster.stop(victim);
                tokio::time::sleep(Duration::from_millis(random.u64(100..700))).await;
                cluster.resume(victim);
            }
        }
        agents[turn % 2].restart(&states[turn % 2]);
        turn += 1;
    }
    assert!(turn >= 2, "the run was over before anything was broken");
    recording.await.expect("the clients end")
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_of_applications_are_linearizable_while_members_are_killed() {
    let mut cluster = Recipe::members(3).start();
    let (mut judged, mut calls, mut unknown) = (0, 0, 0);
    for seed in SEEDS {
        let recorded = play(&mut cluster, seed).await;
        revisions_agree(&recorded).unwrap_or_else(|problem| panic!("seed {seed}: {problem}"));
        match check(&recorded.history) {
            Verdict::Linearizable => judged += 1,
            // Many unknown outcomes on a slow machine: such a history says nothing.
            Verdict::TooHard => {}
            verdict @ Verdict::Broken => {
                let mut history = recorded.history.clone();
                history.sort_by_key(|operation| operation.called);
                let lines: Vec<String> = history.iter().map(|operation| format!("{operation:?}")).collect();
                panic!("seed {seed}: {verdict:?}\n{}", lines.join("\n"));
            }
        }
        calls += recorded.history.len();
        unknown += recorded.history.iter().filter(|call| call.reply.is_none()).count();
    }
    eprintln!(
        "{judged} of {} histories judged, {unknown} of {calls} outcomes unknown",
        SEEDS.end
    );
    assert!(judged >= 2, "only {judged} histories could be judged");
    assert!(calls > CLIENTS * CALLS, "only {calls} calls went through");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_agent_wrote_another_shows_and_a_lock_has_one_holder_over_all() {
    let mut cluster = Recipe::members(3).start();
    let states = [
        AppState::new(Arc::new(cluster.store("state/").await), Limits::default()),
        AppState::new(store(&cluster, "state/"), Limits::default()),
    ];
    let token = states[0].issue(&service(), "db-1").await.expect("a token");
    let agents = [Agent::start(&states[0]), Agent::start(&states[1])];
    let at = |n: usize| Client::new([agents[n].url().as_str()], token.expose()).expect("good addresses");
    let (one, other) = (at(0), at(1));

    let written = one.put("primary", "db-1").await.expect("written");
    let mut watch = other.watch("primary", Some(written)).await.expect("a watch");
    let read = other.get("primary").await.expect("an answer").expect("it is there");
    assert_eq!((&read.value[..], read.revision), (&b"db-1"[..], written));
    let newer = other
        .cas("primary", "db-2", written)
        .await
        .expect("nobody wrote in between");
    let lost = one.cas("primary", "db-3", written).await;
    assert!(
        matches!(lost, Err(Error::Mismatch { .. })),
        "the other one was first: {lost:?}"
    );
    loop {
        let changes = tokio::time::timeout(PATIENCE, watch.next())
            .await
            .expect("told in time");
        if changes.expect("told").revision >= newer {
            break;
        }
    }

    let wish = |owner: &str| LockOptions::new(owner, TTL);
    let first = one.acquire("leader", &wish("db-1")).await.expect("it is free");
    let held = other.acquire("leader", &wish("db-2")).await;
    assert!(matches!(held, Err(Error::Held { .. })), "{held:?}");
    // Longer than its time to live, and with a member less: it is renewed in the background.
    cluster.kill(2);
    tokio::time::sleep(TTL * 2).await;
    assert!(first.still_mine());
    let (token, stale) = (first.token(), first.held());
    one.put_if("a", "1", &[first.held()]).await.expect("it is held");
    assert!(first.release().await.expect("released"));
    let second = other.acquire("leader", &wish("db-2")).await.expect("it is free again");
    assert!(second.token() > token, "fencing tokens rise");
    let late = one.put_if("a", "2", &[stale]).await;
    assert!(matches!(late, Err(Error::Lost { .. })), "{late:?}");
}
