//! Sample values for the tests of the renderers.

use super::View;
use api::{
    Event, Failover, FailoverStep, InstanceStatus, NodeState, NodeStatus, Problem, ServiceStatus, Severity, SlotStatus,
    Status, Step, Traffic,
};
use jiff::tz::TimeZone;

/// Eighty columns, no colour, UTC.
pub(crate) fn plain() -> View {
    View {
        color: false,
        width: 80,
        zone: TimeZone::UTC,
    }
}

/// Two services on two nodes; web has just lost its standby.
pub(crate) fn shop() -> Status {
    Status {
        version: 1,
        cluster: "shop".into(),
        at: "2026-01-01T12:03:12.500Z".into(),
        revision: 3,
        services: vec![
            ServiceStatus {
                name: "db".into(),
                state: "redundant".into(),
                since: "2026-01-01T12:00:00Z".into(),
                because: "all actives and standbys are there and fit".into(),
                active: 1,
                standby: 1,
                need: 1,
                exclusive: true,
                distance_to_outage: 2,
                outage: Some(api::Outage {
                    by: vec!["node a".into(), "node b".into()],
                    instances: 2,
                }),
                protection: "process death: an event, milliseconds".into(),
                listen: Some("127.0.0.1:6380".into()),
                floating: None,
                slots: vec![slot(0, "serving", Some(("db-1", "a")), 3)],
                instances: vec![instance("db-1", "a", "active"), instance("db-2", "b", "standby")],
                rolling: false,
                rollout: None,
                waits_for: None,
                unplaced: None,
                failover_order: vec!["db-2".into()],
                traffic: Some(Traffic {
                    open: 4,
                    requests: 1_204,
                    retried: 2,
                    held: 1,
                    failed: 0,
                    errors: 0,
                }),
            },
            ServiceStatus {
                name: "web".into(),
                state: "degraded".into(),
                since: "2026-01-01T12:03:00Z".into(),
                because:
                    "web-3 failed 2 checks in a row, and no other standby of web is fit to take over from an active"
                        .into(),
                active: 2,
                standby: 1,
                need: 2,
                exclusive: false,
                distance_to_outage: 1,
                outage: Some(api::Outage {
                    by: vec!["zone dc1/rack1".into()],
                    instances: 2,
                }),
                protection: "process death: an event, milliseconds".into(),
                listen: Some("127.0.0.1:8080".into()),
                floating: None,
                slots: vec![slot(0, "serving", Some(("web-1", "a")), 1), slot(1, "vacant", None, 1)],
                instances: vec![
                    instance("web-1", "a", "active"),
                    InstanceStatus {
                        health: "unhealthy".into(),
                        ready: false,
                        restarts: 2,
                        because: "failed 2 checks in a row".into(),
                        last_failure: Some("GET /healthz: status 503".into()),
                        ..instance("web-3", "b", "standby")
                    },
                ],
                rolling: false,
                rollout: None,
                waits_for: None,
                unplaced: None,
                failover_order: vec![],
                traffic: Some(Traffic {
                    open: 0,
                    requests: 10,
                    retried: 0,
                    held: 0,
                    failed: 3,
                    errors: 1,
                }),
            },
        ],
        nodes: vec![
            node("a", NodeState::Online, "its agent runs"),
            node("b", NodeState::Drained, "drained by ann"),
        ],
        problems: vec![Problem {
            code: "service-degraded".into(),
            severity: Severity::Warning,
            about: "web".into(),
            text: "web has 0 of 1 standbys that could take over".into(),
            hint: "understudy explain web-3".into(),
            since: "2026-01-01T12:03:00Z".into(),
        }],
        paused: None,
        pause: None,
        distances_at: None,
    }
}

/// A healthy instance.
pub(crate) fn instance(id: &str, node: &str, role: &str) -> InstanceStatus {
    InstanceStatus {
        id: id.into(),
        node: node.into(),
        role: role.into(),
        health: "healthy".into(),
        state: "running".into(),
        ready: true,
        since: "2026-01-01T12:00:00Z".into(),
        because: String::new(),
        pid: Some(4012),
        address: Some("127.0.0.1:40001".into()),
        restarts: 0,
        last_failure: None,
    }
}

fn slot(slot: u32, state: &str, holder: Option<(&str, &str)>, epoch: u64) -> SlotStatus {
    SlotStatus {
        parked: None,
        slot,
        state: state.into(),
        instance: holder.map(|holder| holder.0.into()),
        node: holder.map(|holder| holder.1.into()),
        epoch,
        since: "2026-01-01T12:00:00Z".into(),
        because: match holder {
            Some(_) => "first in the failover order".into(),
            None => "web-2 died: killed by SIGKILL".into(),
        },
    }
}

fn node(name: &str, state: NodeState, because: &str) -> NodeStatus {
    NodeStatus {
        name: name.into(),
        zone: String::new(),
        state,
        since: "2026-01-01T11:00:00Z".into(),
        because: because.into(),
    }
}

/// A failover in six steps.
pub(crate) fn failover() -> Failover {
    let steps = [
        (Step::Detected, 0),
        (Step::ConfirmedDead, 412),
        (Step::Claimed, 3_900),
        (Step::Promoted, 7_150),
        (Step::Routed, 7_480),
        (Step::FirstAnswer, 8_412),
    ];
    Failover {
        service: "db".into(),
        slot: 0,
        from: Some("db-1".into()),
        to: "db-2".into(),
        epoch: 4,
        planned: false,
        total_us: 8_412,
        steps: steps.map(|(step, at_us)| FailoverStep { step, at_us }).into(),
    }
}

/// An event with a failover, after one without.
pub(crate) fn events() -> Vec<Event> {
    let event = Event {
        seq: 41,
        at: "2026-01-01T12:00:05.123456Z".into(),
        severity: Severity::Warning,
        kind: "instance-died".into(),
        service: Some("db".into()),
        instance: Some("db-1".into()),
        node: Some("a".into()),
        text: "db-1 died: killed by SIGKILL".into(),
        because: "its process ended".into(),
        failover: None,
    };
    vec![
        event.clone(),
        Event {
            seq: 42,
            at: "2026-01-01T12:00:05.131868Z".into(),
            kind: "failover".into(),
            instance: Some("db-2".into()),
            text: "promoted db-2 to active of db/0 at epoch 4".into(),
            because: "db-1 died, db-2 is first in the failover order".into(),
            failover: Some(failover()),
            ..event
        },
    ]
}
