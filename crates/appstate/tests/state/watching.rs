//! Watches: in order, none lost, whatever happens to the agents.

use super::{Agent, named};
use appstate::Limits;
use client::{Change, Client, Error};
use std::sync::Arc;
use std::time::Duration;
use store::{Memory, Store};

const LONG: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn no_change_is_lost_or_told_twice_while_agents_are_killed() {
    let store: Arc<dyn Store> = Arc::new(Memory::default());
    let mut agents = [
        Agent::start(Arc::clone(&store), Limits::default()),
        Agent::start(Arc::clone(&store), Limits::default()),
    ];
    let token = agents[0].state.issue(&named("db"), "db-1").await.unwrap();
    let urls = [agents[0].url(), agents[1].url()];
    let client = Client::new(urls.iter().map(String::as_str), token.expose()).unwrap();
    let mut watch = client.watch("n/", None).await.unwrap();
    let reader = tokio::spawn(async move {
        let mut told = Vec::new();
        while told.last().is_none_or(|last: &(u64, String)| last.1 != "299") {
            let changes = tokio::time::timeout(LONG, watch.next())
                .await
                .expect("a change is told")
                .unwrap();
            for change in changes.changes {
                match change {
                    Change::Put(value) => told.push((value.revision, String::from_utf8(value.value.to_vec()).unwrap())),
                    Change::Deleted { key } => panic!("{key} was not deleted"),
                }
            }
        }
        told
    });
    let mut written = Vec::new();
    for n in 0..300 {
        if n % 50 == 25 {
            agents[n / 50 % 2].restart(Arc::clone(&store));
        }
        let revision = client.put(&format!("n/{}", n % 7), n.to_string()).await.unwrap();
        client.put("other", "x").await.unwrap();
        written.push((revision, n.to_string()));
    }
    assert_eq!(reader.await.unwrap(), written);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_too_late_is_told_where_history_begins() {
    let store = Arc::new(Memory::with_history(50));
    let agent = Agent::start(store, Limits::default());
    let client = agent.client("db").await;
    let first = client.put("a", "0").await.unwrap();
    for n in 0..200 {
        client.put("a", n.to_string()).await.unwrap();
    }
    let late = client.watch("", Some(first)).await.unwrap_err();
    let Error::Compacted { oldest } = late else {
        panic!("{late:?}")
    };
    assert!(oldest > first);
    let page = client.list("", None, 10).await.unwrap();
    let mut watch = client.watch("", Some(page.revision + 1)).await.unwrap();
    let next = client.put("a", "new").await.unwrap();
    assert_eq!(watch.next().await.unwrap().revision, next);
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_are_bounded_and_end_with_their_token() {
    let limits = Limits {
        watches_max: 2,
        heartbeat: Duration::from_millis(50),
        ..Limits::default()
    };
    let agent = Agent::start(Arc::new(Memory::default()), limits);
    let client = agent.client("db").await;
    let mut first = client.watch("", None).await.unwrap();
    let second = client.watch("", None).await.unwrap();
    let third = client.watch("", None).await.unwrap_err();
    assert!(
        matches!(&third, Error::Refused { code, .. } if code == "busy"),
        "{third:?}"
    );
    // Another service has its own.
    agent.client("web").await.watch("", None).await.unwrap();
    drop(second);
    let begun = std::time::Instant::now();
    while let Err(error) = client.watch("", None).await {
        assert!(begun.elapsed() < LONG, "{error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    agent.state.revoke(&named("db"), "test").await.unwrap();
    let ended = tokio::time::timeout(LONG, first.next())
        .await
        .expect("the watch ends")
        .unwrap_err();
    assert!(
        matches!(&ended, Error::Refused { code, .. } if code == "token_invalid"),
        "{ended:?}"
    );
}
