//! Locks through agents and the client, in real time.

use super::{Agent, named};
use appstate::Limits;
use client::{Client, Error, LockOptions, Patience};
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::{Fault, Memory, Store};

const TTL: Duration = Duration::from_millis(400);

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_gets_it_when_it_is_given_back_and_the_token_rises() {
    let agent = Agent::alone();
    let client = agent.client("db").await;
    let first = client.acquire("leader", &LockOptions::new("db-1", TTL)).await.unwrap();
    let held = client.acquire("leader", &LockOptions::new("db-2", TTL)).await;
    assert!(matches!(held, Err(Error::Held { .. })), "{held:?}");
    let waiter = {
        let client = client.clone();
        let wish = LockOptions::new("db-2", TTL).waiting(Duration::from_secs(20));
        tokio::spawn(async move { client.acquire("leader", &wish).await })
    };
    // Longer than its time to live: it is renewed in the background.
    tokio::time::sleep(TTL * 3).await;
    assert!(first.still_mine() && !waiter.is_finished());
    let token = first.token();
    client.put_if("a", "1", &[first.held()]).await.unwrap();
    let held = first.held();
    assert!(first.release().await.unwrap());
    let second = waiter.await.unwrap().unwrap();
    assert!(second.token() > token);
    assert!(second.still_mine());
    let late = client.put_if("a", "2", &[held]).await;
    assert!(matches!(late, Err(Error::Lost { .. })), "{late:?}");
    client.put_if("a", "3", &[second.held()]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_cut_off_stops_before_the_next_one_begins() {
    let store: Arc<dyn Store> = Arc::new(Memory::default());
    let mut cut = Agent::start(Arc::clone(&store), Limits::default());
    let other = Agent::start(store, Limits::default());
    let token = cut.state.issue(&named("db"), "db-1").await.unwrap();
    let holder = Client::new([cut.url().as_str()], token.expose()).unwrap();
    let lock = holder.acquire("leader", &LockOptions::new("db-1", TTL)).await.unwrap();
    let held = lock.held();
    let waiter = Client::new([other.url().as_str()], token.expose()).unwrap();
    let wish = LockOptions::new("db-2", TTL).waiting(Duration::from_secs(20));
    let cut_at = Instant::now();
    cut.kill();
    let lost = tokio::spawn(async move {
        lock.lost().await;
        assert!(!lock.still_mine());
        Instant::now()
    });
    let next = waiter.acquire("leader", &wish).await.unwrap();
    let (lost, acquired) = (lost.await.unwrap(), Instant::now());
    assert!(
        lost < acquired,
        "the old holder stopped {:?} after the new one began",
        lost - acquired
    );
    assert!(acquired - cut_at < TTL * 4, "{:?}", acquired - cut_at);
    let late = waiter.put_if("a", "late", &[held]).await;
    assert!(matches!(late, Err(Error::Lost { .. })), "{late:?}");
    waiter.put_if("a", "new", &[next.held()]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_kept_while_one_agent_after_the_other_is_killed() {
    let store: Arc<dyn Store> = Arc::new(Memory::default());
    let mut agents = [
        Agent::start(Arc::clone(&store), Limits::default()),
        Agent::start(Arc::clone(&store), Limits::default()),
    ];
    let token = agents[0].state.issue(&named("db"), "db-1").await.unwrap();
    let urls = [agents[0].url(), agents[1].url()];
    let client = Client::new(urls.iter().map(String::as_str), token.expose()).unwrap();
    let ttl = Duration::from_secs(2);
    let lock = client.acquire("leader", &LockOptions::new("db-1", ttl)).await.unwrap();
    for n in 0..6 {
        agents[n % 2].kill();
        tokio::time::sleep(ttl / 4).await;
        agents[n % 2].restart(Arc::clone(&store));
        client.put_if("n", n.to_string(), &[lock.held()]).await.unwrap();
    }
    assert!(lock.still_mine());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_whose_answer_was_lost_finds_itself() {
    let store = Memory::default();
    let agent = Agent::start(Arc::new(store.clone()), Limits::default());
    let client = agent.client("db").await;
    // The read passes; the acquisition is carried out, and however often it is sent, nobody learns of it.
    store.inject(Fault::Pass);
    for _ in 0..4 {
        store.inject(Fault::UnknownDone);
    }
    let lock = client
        .acquire("leader", &LockOptions::new("db-1", Duration::from_secs(5)))
        .await
        .unwrap();
    assert_eq!(client.lock("leader").await.unwrap().unwrap().token, lock.token());
    assert!(lock.release().await.unwrap());
    assert_eq!(client.lock("leader").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_was_lost_is_told_as_unknown_and_not_sent_again() {
    let store = Memory::default();
    let agent = Agent::start(Arc::new(store.clone()), Limits::default());
    let client = agent.client("db").await;
    store.inject(Fault::Pass);
    for _ in 0..4 {
        store.inject(Fault::UnknownDone);
    }
    let error = client.put("a", "1").await.unwrap_err();
    assert!(error.is_unknown(), "{error:?}");
    assert_eq!(client.get("a").await.unwrap().unwrap().version, 1);
    // One lost answer is found again by the agent itself, also when it was not carried out.
    for fault in [Fault::UnknownDone, Fault::UnknownNotDone] {
        store.inject(Fault::Pass);
        store.inject(fault);
        let revision = client.put("b", "1").await.unwrap();
        assert_eq!(client.get("b").await.unwrap().unwrap().revision, revision);
    }
    assert_eq!(client.get("b").await.unwrap().unwrap().version, 2);
    let nobody = Client::new(["unix:/nonexistent/state.sock"], "db:x:y").unwrap();
    let nobody = nobody.with_patience(Patience {
        each: Duration::from_millis(50),
        total: Duration::from_millis(100),
    });
    let error = nobody.put("a", "1").await.unwrap_err();
    assert!(matches!(error, Error::NotReached { .. }), "{error:?}");
}
