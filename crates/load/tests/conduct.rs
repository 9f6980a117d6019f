//! A whole test, against a server of its own and an agent that is made up.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use api::{Status, WindowPage};
use load::generator::{Request, Spacing};
use load::test::{Plan, Refusal, STEP_MIN, Surroundings, run};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A server that works on one request at a time, for so long each.
fn one_at_a_time(each: Duration, status: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let turn = Arc::new(Mutex::new(()));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let turn = Arc::clone(&turn);
            std::thread::spawn(move || {
                while let Ok(1..) = stream.read(&mut [0; 4_096]) {
                    let mine = turn.lock().unwrap();
                    std::thread::sleep(each);
                    drop(mine);
                    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok");
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// An agent that says that all is well, until it says something else.
struct Agent {
    status: serde_json::Value,
    began: Instant,
    /// What changes when.
    then: Option<(Duration, fn(&mut serde_json::Value))>,
}

impl Agent {
    fn new(listen: SocketAddr) -> Self {
        let instance = serde_json::json!({
            "id": "web-1", "node": "a", "role": "active", "health": "healthy", "state": "running", "ready": false,
            "since": "", "because": "", "pid": 1, "address": null, "restarts": 0, "last_failure": null,
        });
        let slot = serde_json::json!({
            "slot": 0, "state": "serving", "instance": "web-1", "node": "a", "epoch": 1, "since": "", "because": "",
        });
        let service = serde_json::json!({
            "name": "web", "state": "redundant", "since": "", "because": "all is well", "active": 1, "standby": 0, "need": 1,
            "exclusive": false, "distance_to_outage": 1, "protection": "", "listen": listen.to_string(), "slots": [slot],
            "instances": [instance], "failover_order": [], "traffic": null,
        });
        let status = serde_json::json!({
            "version": 1, "cluster": "test", "at": "", "revision": 1, "services": [service], "nodes": [], "problems": [], "paused": null,
        });
        Self {
            status,
            began: Instant::now(),
            then: None,
        }
    }
}

impl Surroundings for Agent {
    async fn status(&mut self) -> Result<Status, String> {
        if let Some((after, change)) = self.then
            && self.began.elapsed() > after
        {
            change(&mut self.status);
        }
        serde_json::from_value(self.status.clone()).map_err(|error| error.to_string())
    }

    async fn windows(&mut self, _: u64) -> Result<WindowPage, String> {
        Ok(WindowPage {
            version: 1,
            now: self.began.elapsed().as_secs(),
            windows: Vec::new(),
        })
    }
}

fn plan(rate: Option<f64>) -> Plan {
    Plan {
        service: "web".into(),
        request: Request::Get { path: "/".into() },
        objective: "p95 < 300ms".parse().unwrap(),
        rate,
        from: Some(20.0),
        rate_max: 1_000.0,
        step: STEP_MIN,
        settle: Duration::from_secs(1),
        spacing: Spacing::Even,
        seed: 1,
    }
}

#[tokio::test]
async fn the_largest_load_is_near_what_the_server_can_do() {
    // 20 ms each, and whatever a busy machine adds: at most 50 a second.
    let address = one_at_a_time(Duration::from_millis(20), "200 OK");
    let outcome = run(&plan(None), &mut Agent::new(address), |_| {}).await.unwrap();
    assert_eq!(outcome.ended.how, "found", "{outcome:?}");
    let largest = outcome.largest.unwrap();
    assert!((30.0..=56.0).contains(&largest.load), "{largest:?}");
    assert!(largest.unmet > Some(largest.load), "{largest:?}");
    // The agent had nothing to say, and that is said.
    assert!(
        outcome.distrust.iter().any(|why| why.contains("no figures")),
        "{:?}",
        outcome.distrust
    );
}

#[tokio::test]
async fn harm_ends_it_at_once() {
    let mut agent = Agent::new(one_at_a_time(Duration::from_millis(1), "200 OK"));
    agent.then = Some((Duration::from_secs(4), |status| {
        status["services"][0]["instances"][0]["health"] = "unhealthy".into();
    }));
    let begun = Instant::now();
    let outcome = run(
        &Plan {
            step: Duration::from_secs(60),
            ..plan(None)
        },
        &mut agent,
        |_| {},
    )
    .await
    .unwrap();
    assert_eq!(outcome.ended.how, "aborted");
    assert!(
        outcome.ended.text.contains("web-1 is unhealthy: its checks fail"),
        "{:?}",
        outcome.ended
    );
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn an_agent_that_goes_silent_ends_it_too() {
    let mut agent = Agent::new(one_at_a_time(Duration::from_millis(1), "200 OK"));
    agent.then = Some((Duration::from_secs(2), |status| *status = "gone".into()));
    let outcome = run(
        &Plan {
            step: Duration::from_secs(60),
            ..plan(None)
        },
        &mut agent,
        |_| {},
    )
    .await
    .unwrap();
    assert!(outcome.ended.text.contains("not known any more"), "{:?}", outcome.ended);
}

#[tokio::test]
async fn against_nothing_nothing_is_sent() {
    let well = one_at_a_time(Duration::from_millis(1), "200 OK");
    type Spoil = fn(&mut serde_json::Value);
    let spoils: [(Spoil, &str); 5] = [
        (
            |status| status["services"][0]["name"] = "other".into(),
            "there is no service `web`",
        ),
        (
            |status| status["services"][0]["listen"] = serde_json::Value::Null,
            "no `listen`",
        ),
        (
            |status| status["services"][0]["state"] = "down".into(),
            "`web` is down: all is well; there is nothing to test",
        ),
        (
            |status| status["services"][0]["instances"][0]["health"] = "unhealthy".into(),
            "web-1 is unhealthy",
        ),
        (|status| status["paused"] = "2026-01-01T00:00:00Z".into(), "paused"),
    ];
    for (spoil, says) in spoils {
        let mut agent = Agent::new(well);
        spoil(&mut agent.status);
        let refusal = run(&plan(None), &mut agent, |_| {}).await.unwrap_err();
        assert!(refusal.to_string().contains(says), "{refusal}");
    }
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refusal = run(&plan(None), &mut Agent::new(closed), |_| {}).await.unwrap_err();
    assert!(matches!(refusal, Refusal::NoAnswer { .. }), "{refusal}");
    let errors = one_at_a_time(Duration::from_millis(1), "404 Not Found");
    let refusal = run(&plan(None), &mut Agent::new(errors), |_| {}).await.unwrap_err();
    assert!(
        refusal.to_string().contains("404") && refusal.hint().is_some(),
        "{refusal}"
    );
    let refusal = run(
        &Plan {
            step: Duration::from_secs(1),
            ..plan(None)
        },
        &mut Agent::new(well),
        |_| {},
    )
    .await
    .unwrap_err();
    assert!(matches!(refusal, Refusal::Step(_)), "{refusal}");
}
