//! Linearizability: what clients were told under faults, judged by the search of Wing, Gong and Lowe.

use super::{Agent, named};
use appstate::Limits;
use appstate::testing::{Faults, Faulty, KEYS, Plan, Recorded, Verdict, check, record, revisions_agree};
use client::{Client, Patience};
use std::sync::Arc;
use std::time::Duration;
use store::{Embedded, Memory, Options, Store};

/// The search gets harder with more.
const CLIENTS: usize = 8;
const CALLS: usize = 40;

/// Eight clients, two agents that are killed in turn, and `store` with `faults` below them.
async fn play(store: Arc<dyn Store>, faults: Faults, seed: u64) -> Recorded {
    // Tokens are issued beforehand: this is not about them.
    let issuer = appstate::AppState::new(Arc::clone(&store), Limits::default());
    let token = issuer.issue(&named("db"), "db-1").await.unwrap();
    let faulty: Arc<dyn Store> = Arc::new(Faulty::new(store, faults, seed));
    let mut agents = [
        Agent::start(Arc::clone(&faulty), Limits::default()),
        Agent::start(Arc::clone(&faulty), Limits::default()),
    ];
    let urls = [agents[0].url(), agents[1].url()];
    let clients = (0..CLIENTS).map(|n| {
        let urls = [urls[n % 2].as_str(), urls[(n + 1) % 2].as_str()];
        Client::new(urls, token.expose()).unwrap().with_patience(Patience {
            each: Duration::from_millis(150),
            total: Duration::from_millis(600),
        })
    });
    let plan = Plan {
        calls: CALLS,
        seed,
        pause: Duration::from_millis(4),
    };
    let recording = tokio::spawn(record(clients.collect(), plan));
    let mut random = fastrand::Rng::with_seed(seed);
    let mut turn = 0;
    while !recording.is_finished() {
        tokio::time::sleep(Duration::from_millis(random.u64(60..200))).await;
        agents[turn % 2].restart(Arc::clone(&faulty));
        turn += 1;
    }
    recording.await.unwrap()
}

/// Whether the search came to an end. On a machine that is slow, more outcomes are unknown, and a search that has to try all of
/// them gives up: such a history says nothing.
fn judge(recorded: &Recorded) -> Result<bool, String> {
    revisions_agree(recorded)?;
    match check(&recorded.history) {
        Verdict::Linearizable => Ok(true),
        Verdict::TooHard => Ok(false),
        verdict => Err(format!("{verdict:?}")),
    }
}

/// Says with which history it failed; else whether it was judged.
fn assert_linearizable(recorded: &Recorded, seed: u64) -> bool {
    let judged = judge(recorded);
    if let Err(problem) = &judged {
        let mut history = recorded.history.clone();
        history.sort_by_key(|operation| operation.called);
        let lines: Vec<String> = history.iter().map(|operation| format!("{operation:?}")).collect();
        panic!("seed {seed}: {problem}\n{}", lines.join("\n"));
    }
    judged.unwrap_or(false)
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_are_linearizable_whatever_an_honest_store_does() {
    let (mut unknown, mut calls, mut judged) = (0, 0, 0);
    for seed in 0..20 {
        let recorded = play(Arc::new(Memory::default()), Faults::ALLOWED, seed).await;
        judged += usize::from(assert_linearizable(&recorded, seed));
        calls += recorded.history.len();
        unknown += recorded
            .history
            .iter()
            .filter(|operation| operation.reply.is_none())
            .count();
    }
    assert!(judged >= 10, "only {judged} of 20 histories could be judged");
    // The runs were hard enough to mean something, and not so hard that nothing went through.
    assert!(unknown >= 20, "only {unknown} outcomes of {calls} were unknown");
    assert!(calls > 20 * CLIENTS * CALLS / 2, "only {calls} calls went through");
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_are_linearizable_on_the_store_of_one_machine() {
    let mut judged = 0;
    for seed in 100..106 {
        let folder = tempfile::tempdir().unwrap();
        let store = Embedded::open(&folder.path().join("store.redb"), &Options::default()).unwrap();
        let recorded = play(Arc::new(store), Faults::ALLOWED, seed).await;
        judged += usize::from(assert_linearizable(&recorded, seed));
    }
    assert!(judged >= 3, "only {judged} of 6 histories could be judged");
}

/// A store that breaks its word is noticed, each way of it, within a few runs.
#[tokio::test(flavor = "multi_thread")]
async fn broken_stores_are_caught() {
    let broken = [
        (
            "reads that are stale although they went the way of a write",
            Faults {
                stale_transactions: 10,
                ..Faults::default()
            },
        ),
        (
            "writes that are lost",
            Faults {
                lost_writes: 5,
                ..Faults::default()
            },
        ),
    ];
    for (what, faults) in broken {
        let mut caught = false;
        for seed in 0..10 {
            let recorded = play(Arc::new(Memory::default()), faults, seed).await;
            let verdict = check(&recorded.history);
            if verdict == Verdict::Broken {
                caught = true;
                break;
            }
        }
        assert!(caught, "{what}: not noticed");
    }
    // The keys that the search knows are those that the clients use.
    assert_eq!(KEYS, 3);
}
