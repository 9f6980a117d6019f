//! What is refused: foreign tokens, odd keys, too much.

use super::{Agent, named};
use appstate::Limits;
use client::{Client, Condition, Error, LockOptions, Operation, Transaction};
use std::sync::Arc;
use std::time::Duration;
use store::Memory;

fn code(error: &Error) -> &str {
    match error {
        Error::Refused { code, .. } => code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_service_has_a_namespace_of_its_own() {
    let agent = Agent::alone();
    let (db, web) = (agent.client("db").await, agent.client("web").await);
    db.put("name", "db's").await.unwrap();
    assert_eq!(web.get("name").await.unwrap(), None);
    web.put("name", "web's").await.unwrap();
    assert_eq!(db.get("name").await.unwrap().unwrap().value, "db's");
    assert_eq!(db.list("", None, 100).await.unwrap().values.len(), 1);
    // A service whose name begins like another's is another.
    let db2 = agent.client("db2").await;
    db2.put("name", "db2's").await.unwrap();
    assert_eq!(db.list("", None, 100).await.unwrap().values.len(), 1);
    let lock = db
        .acquire("leader", &LockOptions::new("db-1", Duration::from_secs(5)))
        .await
        .unwrap();
    web.acquire("leader", &LockOptions::new("web-1", Duration::from_secs(5)))
        .await
        .unwrap();
    let foreign = web.put_if("name", "x", &[lock.held()]).await;
    assert!(matches!(foreign, Err(Error::Lost { .. })), "{foreign:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_latest_token_of_a_holder_is_taken() {
    let agent = Agent::alone();
    let db = named("db");
    let with = |token: &str| Client::new([agent.url().as_str()], token).unwrap();
    let first = agent.state.issue(&db, "db-1").await.unwrap();
    let other = agent.state.issue(&db, "db-2").await.unwrap();
    assert_eq!(with(first.expose()).get("a").await.unwrap(), None);
    let second = agent.state.issue(&db, "db-1").await.unwrap();
    let secret = second.expose().rsplit_once(':').unwrap().1.to_owned();
    let refused = [
        first.expose().to_owned(),
        "db".into(),
        "db:db-1:".into(),
        "::".into(),
        format!("web:db-1:{secret}"),
        format!("db:db-2:{secret}"),
        format!("db:../db-1:{secret}"),
        format!("DB:db-1:{secret}"),
        format!("{}0", second.expose()),
    ];
    for token in refused {
        let error = with(&token).get("a").await.unwrap_err();
        assert_eq!(code(&error), "token_invalid", "{token}");
    }
    assert_eq!(with(second.expose()).get("a").await.unwrap(), None);
    agent.state.revoke(&db, "db-1").await.unwrap();
    assert_eq!(
        code(&with(second.expose()).get("a").await.unwrap_err()),
        "token_invalid"
    );
    assert_eq!(with(other.expose()).get("a").await.unwrap(), None);
    assert!(!format!("{second:?}").contains(&secret));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quota_cannot_be_exceeded_by_writing_at_once_through_two_agents() {
    let store = Arc::new(Memory::default());
    let limits = Limits {
        keys_max: 40,
        bytes_max: 2_000,
        ..Limits::default()
    };
    let agents = [
        Agent::start(store.clone(), limits.clone()),
        Agent::start(store.clone(), limits.clone()),
    ];
    let token = agents[0].state.issue(&named("db"), "db-1").await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..8 {
        let client = Client::new([agents[n % 2].url().as_str()], token.expose()).unwrap();
        writers.spawn(async move {
            let mut refused = 0;
            for key in 0..12 {
                // Some keys of all, some of one; sizes that fill bytes and keys alike.
                let name = if key % 3 == 0 {
                    format!("all-{key}")
                } else {
                    format!("of-{n}-{key}")
                };
                match client.put(&name, vec![b'x'; 20 + n * 5]).await {
                    Ok(_) => {}
                    Err(error) => {
                        assert_eq!(code(&error), "quota_exceeded");
                        refused += 1;
                    }
                }
                if key % 4 == 3 {
                    client.delete(&format!("all-{}", key - 3)).await.unwrap();
                }
            }
            refused
        });
    }
    let refused: usize = writers.join_all().await.into_iter().sum();
    assert!(refused > 0, "the quota was never reached");
    let client = Client::new([agents[0].url().as_str()], token.expose()).unwrap();
    let listed = client.list("", None, 1_000).await.unwrap();
    let bytes: usize = listed
        .values
        .iter()
        .map(|value| value.key.len() + value.value.len())
        .sum();
    let counted = agents[1].state.amounts(&named("db")).await.unwrap();
    assert_eq!(
        (counted.keys, counted.bytes),
        (listed.values.len() as u64, bytes as u64)
    );
    assert!(counted.keys <= 40 && counted.bytes <= 2_000, "{counted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_quota_lets_through_what_makes_it_less() {
    let limits = Limits {
        keys_max: 2,
        locks_max: 1,
        ..Limits::default()
    };
    let agent = Agent::start(Arc::new(Memory::default()), limits);
    let client = agent.client("db").await;
    client.put("a", "1").await.unwrap();
    client.put("b", "1").await.unwrap();
    assert_eq!(code(&client.put("c", "1").await.unwrap_err()), "quota_exceeded");
    client.put("a", "2").await.unwrap();
    let moved = Transaction {
        then: vec![
            Operation::Delete { key: "a".into() },
            Operation::Put {
                key: "c".into(),
                value: "1".into(),
            },
        ],
        ..Transaction::default()
    };
    assert!(client.transact(&moved).await.unwrap().succeeded);
    let ttl = Duration::from_secs(5);
    let lock = client.acquire("one", &LockOptions::new("x", ttl)).await.unwrap();
    let second = client.acquire("two", &LockOptions::new("x", ttl)).await.unwrap_err();
    assert_eq!(code(&second), "quota_exceeded");
    assert!(lock.release().await.unwrap());
    client.acquire("two", &LockOptions::new("x", ttl)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_requests_are_refused_and_change_nothing() {
    let agent = Agent::alone();
    let client = agent.client("db").await;
    for key in ["a b", "ä", "a/../b", "a//b", "/a", "a?b", "a%b", &"k".repeat(257)] {
        let error = client.put(key, "x").await.unwrap_err();
        assert!(
            ["invalid_key", "invalid_request"].contains(&code(&error)),
            "{key}: {error}"
        );
    }
    let large = client.put("a", vec![0; 300 << 10]).await.unwrap_err();
    assert_eq!(code(&large), "value_too_large");
    let twice = Transaction {
        then: vec![
            Operation::Delete { key: "a".into() },
            Operation::Put {
                key: "a".into(),
                value: "1".into(),
            },
        ],
        ..Transaction::default()
    };
    assert_eq!(code(&client.transact(&twice).await.unwrap_err()), "invalid_request");
    let many = Transaction {
        then: (0..33).map(|n| Operation::Get { key: format!("k{n}") }).collect(),
        ..Transaction::default()
    };
    assert_eq!(code(&client.transact(&many).await.unwrap_err()), "invalid_request");
    let elsewhere = client.put_if("a", "x", &[Condition::Absent { key: "b".into() }]).await;
    assert!(matches!(elsewhere, Err(Error::NotConfigured { .. })));
    for ttl in [Duration::from_millis(100), Duration::from_secs(4_000)] {
        let error = client.acquire("l", &LockOptions::new("x", ttl)).await.unwrap_err();
        assert_eq!(code(&error), "invalid_request");
    }
    assert!(client.list("", None, 10).await.unwrap().values.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_a_list_hold_everything_once() {
    let agent = Agent::alone();
    let client = agent.client("db").await;
    for n in 0..25 {
        client.put(&format!("a+b/{n:02}"), vec![n, 255]).await.unwrap();
    }
    client.put("a", "outside").await.unwrap();
    let mut found = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = client.list("a+b/", after.as_deref(), 10).await.unwrap();
        assert!(page.values.len() <= 10);
        found.extend(page.values);
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let expected: Vec<Vec<u8>> = (0..25).map(|n| vec![n, 255]).collect();
    let values: Vec<Vec<u8>> = found.iter().map(|value| value.value.to_vec()).collect();
    assert_eq!(values, expected);
}
