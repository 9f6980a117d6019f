//! A cluster for the tests of this module.

use api::{InstanceStatus, NodeState, NodeStatus, ServiceStatus, Status};
use model::Cluster;

pub(super) fn cluster() -> Cluster {
    let service = |needs: &[&str], objective: serde_json::Value| {
        serde_json::json!({
            "command": ["x"], "active": 1, "standby": 1, "need": 1, "exclusive": false, "standby_mode": "warm", "listen": "127.0.0.1:1",
            "protocol": "http", "addressing": "port", "check": null, "standby_check": null, "needs": needs, "spread": "prefer",
            "on_promote": null, "on_demote": null, "on_follow": null, "env": {}, "dir": null, "user": null,
            "limits": { "open_files": null, "processes": null, "memory_bytes": null, "core_bytes": null },
            "start_timeout": 1000, "stop": { "signal": "SIGTERM", "timeout": 1000 },
            "restart": { "backoff": 1, "backoff_max": 1, "replace_after": 1, "give_up_after": 1, "retry_after": 1 },
            "logs": { "max_bytes": 1, "keep": 1 }, "drain_timeout": 1, "hold_timeout": 1, "hold_max": 1, "objective": objective,
        })
    };
    let objective = serde_json::json!({
        "availability": 999_000, "latency": null, "latency_share": 990_000, "distance": 2, "failover": 2000,
    });
    let cluster = serde_json::json!({
        "name": "shop",
        "services": { "db": service(&[], objective), "web": service(&["db"], serde_json::Value::Null) },
    });
    serde_json::from_value(cluster).expect("a cluster")
}

pub(super) fn status(services: Vec<ServiceStatus>) -> Status {
    let node = |name: &str| NodeStatus {
        name: name.into(),
        zone: name.into(),
        state: NodeState::Online,
        since: String::new(),
        because: "its agent runs".into(),
    };
    Status {
        version: api::VERSION,
        cluster: "shop".into(),
        at: String::new(),
        revision: 1,
        services,
        nodes: vec![node("a"), node("b")],
        problems: Vec::new(),
        paused: None,
        pause: None,
        distances_at: None,
    }
}

pub(super) fn service(name: &str, state: &str, distance: u32) -> ServiceStatus {
    ServiceStatus {
        name: name.into(),
        state: state.into(),
        since: String::new(),
        because: "of what happened".into(),
        active: 1,
        standby: 1,
        need: 1,
        exclusive: false,
        distance_to_outage: distance,
        outage: None,
        protection: String::new(),
        listen: None,
        floating: None,
        slots: Vec::new(),
        instances: Vec::new(),
        rolling: false,
        rollout: None,
        waits_for: None,
        unplaced: None,
        failover_order: Vec::new(),
        traffic: None,
    }
}

pub(super) fn instance(id: &str, role: &str, state: &str) -> InstanceStatus {
    InstanceStatus {
        id: id.into(),
        node: "a".into(),
        role: role.into(),
        health: "down".into(),
        state: state.into(),
        ready: false,
        since: String::new(),
        because: String::new(),
        pid: None,
        address: None,
        restarts: 0,
        last_failure: None,
    }
}
