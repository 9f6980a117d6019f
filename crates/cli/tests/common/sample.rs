//! Answers as an agent gives them.

use serde_json::{Value, json};

pub fn status() -> Value {
    json!({
        "version": 1, "cluster": "shop", "at": "2026-01-01T12:03:12Z", "revision": 3, "paused": null,
        "services": [
            {
                "name": "db", "state": "redundant", "since": "2026-01-01T12:00:00Z", "because": "all there and fit",
                "active": 1, "standby": 1, "need": 1, "exclusive": true, "distance_to_outage": 2,
                "protection": "process death: an event, milliseconds", "listen": "127.0.0.1:6380",
                "slots": [{"slot": 0, "state": "serving", "instance": "db-1", "node": "a", "epoch": 3,
                           "since": "2026-01-01T12:00:00Z", "because": "first in the failover order"}],
                "instances": [instance("db-1", "a", "active"), instance("db-2", "b", "standby")],
                "failover_order": ["db-2"],
                "traffic": {"open": 1, "requests": 10, "retried": 0, "held": 0, "failed": 0, "errors": 0}
            },
            {
                "name": "web", "state": "redundant", "since": "2026-01-01T12:00:00Z", "because": "all there and fit",
                "active": 1, "standby": 0, "need": 1, "exclusive": false, "distance_to_outage": 1,
                "protection": "process death: an event, milliseconds", "listen": null,
                "slots": [{"slot": 0, "state": "serving", "instance": "web-1", "node": "a", "epoch": 1,
                           "since": "2026-01-01T12:00:00Z", "because": "first in the failover order"}],
                "instances": [instance("web-1", "a", "active")],
                "failover_order": [], "traffic": null
            }
        ],
        "nodes": [
            {"name": "a", "zone": "", "state": "online", "since": "2026-01-01T11:00:00Z", "because": "its agent runs"},
            {"name": "b", "zone": "", "state": "online", "since": "2026-01-01T11:00:00Z", "because": "its agent runs"}
        ],
        "problems": [], "a_field_of_tomorrow": 7
    })
}

fn instance(id: &str, node: &str, role: &str) -> Value {
    json!({"id": id, "node": node, "role": role, "health": "healthy", "state": "running", "ready": true,
           "since": "2026-01-01T12:00:00Z", "because": "its checks pass", "pid": 4012, "address": "127.0.0.1:40001",
           "restarts": 0, "last_failure": null})
}

pub fn event(seq: u64, service: &str, failover: bool) -> Value {
    json!({
        "seq": seq, "at": "2026-01-01T12:00:05.123Z", "severity": "warning",
        "kind": if failover { "failover" } else { "instance-died" },
        "service": service, "instance": format!("{service}-1"), "node": "a",
        "text": format!("event {seq} of {service}"), "because": "it was so",
        "failover": if failover { failover_value(service) } else { Value::Null }
    })
}

fn failover_value(service: &str) -> Value {
    json!({
        "service": service, "slot": 0, "from": format!("{service}-1"), "to": format!("{service}-2"), "epoch": 4,
        "planned": false, "total_us": 8_000,
        "steps": [{"step": "detected", "at_us": 0}, {"step": "claimed", "at_us": 6_000}, {"step": "first_answer", "at_us": 8_000}]
    })
}

pub fn page(events: &[Value]) -> String {
    json!({"version": 1, "events": events, "first_seq": 1}).to_string()
}

pub fn done(text: &str) -> String {
    json!({"version": 1, "done": true, "text": text, "hint": null, "failover": null}).to_string()
}

pub fn done_with_failover(text: &str) -> String {
    json!({"version": 1, "done": true, "text": text, "hint": null, "failover": failover_value("db")}).to_string()
}

pub fn refusal(text: &str, hint: Option<&str>) -> String {
    json!({"version": 1, "done": false, "text": text, "hint": hint, "failover": null}).to_string()
}

pub fn plan(against: u64, changes: bool) -> String {
    let change = json!({"service": "web", "kind": "update", "details": ["active: 1 -> 2"], "starts": 1, "stops": 0,
                        "risk": "none that clients notice"});
    json!({"version": 1, "against": against, "changes": if changes { vec![change] } else { vec![] }}).to_string()
}

pub fn history() -> String {
    let entry = |revision: u64, how: &str| {
        json!({"revision": revision, "at": "2026-01-01T12:00:00Z", "by": "ann", "how": how,
               "changes": [format!("change {revision}")], "text": format!("# file {revision}\n"),
               "worked": (revision < 3).then_some("2026-01-01T12:01:00Z"), "never_worked": revision >= 3, "back": revision == 2})
    };
    json!([entry(1, "up"), entry(2, "apply"), entry(3, "apply")]).to_string()
}

pub const FILE: &str = r#"
name = "shop"

[service.web]
command = ["sleep", "1000"]
active = 1
"#;
